from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.errors import UsageError, VideoError
from flows.probe import Monotonic, probe
from flows.schema import EPOCH
from tests.videos import retime, write_video


def test_what_a_probe_says(tmp_path: Path) -> None:
    video = probe(str(write_video(tmp_path / "gate 3.mp4", frames=50, fps=Fraction(25, 2))))
    assert (video.width_px, video.height_px, video.rotation_deg) == (64, 48, 0)
    assert (video.codec, video.source_id, video.start_time) == ("h264", "gate 3", EPOCH)
    assert "mp4" in video.container
    assert (video.fps, video.duration_s) == (pytest.approx(12.5), pytest.approx(4))
    assert video.seekable


def test_the_id_follows_content_and_source_not_the_name(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    first = probe(str(path), source_id="gate")
    renamed = probe(str(path.rename(tmp_path / "b.mp4")), source_id="gate")
    assert first.video_id == renamed.video_id
    assert first.video_id != probe(renamed.uri, source_id="yard").video_id


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("2024-05-01T08:30:00.000000Z", datetime(2024, 5, 1, 8, 30, tzinfo=UTC)),
        ("1904-01-01T00:00:00Z", EPOCH),  # zero in QuickTime's count
        ("1970-01-01T00:00:00Z", EPOCH),
        ("2999-01-01T00:00:00Z", EPOCH),
    ],
)
def test_creation_time_is_taken_where_plausible(tmp_path: Path, tag: str, expected: datetime) -> None:
    path = write_video(tmp_path / "v.mkv", metadata={"creation_time": tag}, frames=3)
    assert probe(str(path)).start_time == expected
    given_time = datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=2)))
    assert probe(str(path), start_time=given_time).start_time == given_time


def test_a_nonsense_creation_time_is_passed_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", metadata={"creation_time": "yesterday, about noon"}, frames=3)
    assert probe(str(path)).start_time == EPOCH


def test_a_start_time_without_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a time zone"):
        probe(str(write_video(tmp_path / "v.mp4", frames=2)), start_time=datetime(2026, 1, 1))


def _patch_box(path: Path, box: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes `offset` after the name of every box of this name."""
    data = bytearray(path.read_bytes())
    place = data.find(box)
    assert place > 0
    while place > 0:
        data[place + offset : place + offset + len(value)] = value
        place = data.find(box, place + 1)
    path.write_bytes(data)


@pytest.mark.parametrize("duration", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_a_duration_header_that_lies_is_passed_over(tmp_path: Path, duration: int) -> None:
    path = write_video(tmp_path / "v.mp4", frames=50)
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20)):
        _patch_box(path, box, offset, duration.to_bytes(4, "big"))
    video = probe(str(path))
    assert video.duration_s == pytest.approx(2)
    assert video.fps == pytest.approx(25)


def test_a_frame_size_of_zero_in_the_header_is_repaired_from_the_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=10)
    _patch_box(path, b"avc1", 28, bytes(4))  # the sample entry's width and height
    _patch_box(path, b"tkhd", 80, bytes(8))
    video = probe(str(path))
    assert (video.width_px, video.height_px) == (64, 48)


@pytest.mark.parametrize("scale", [0, 1, 0x0FFFFFFF])
def test_an_absurd_time_scale_is_refused(tmp_path: Path, scale: int) -> None:
    path = write_video(tmp_path / "v.mp4", frames=10, muxer={"use_editlist": "0"})
    _patch_box(path, b"mdhd", 16, scale.to_bytes(4, "big"))
    if scale < 0x0FFFFFFF:
        assert probe(str(path)).fps > 0
    else:
        with pytest.raises(VideoError, match=r"52\d* frames per second; expected at most 1000"):
            probe(str(path))


def test_no_frame_that_decodes_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=3)
    data = bytearray(path.read_bytes())
    first, last = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"expected at least one frame, but nothing in its h264 stream"):
        probe(str(path))


def test_a_single_frame_has_a_duration(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv", "avi", "h264"):
        video = probe(str(write_video(tmp_path / f"v.{ending}", frames=1)))
        assert video.duration_s == pytest.approx(0.04), ending


def test_one_stray_timestamp_does_not_make_a_day_of_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mkv", codec="mjpeg", pixels="yuvj420p", b_frames=0, frames=20)
    stamps = [40 * index for index in range(20)]
    late = retime(source, tmp_path / "late.mkv", [*stamps[:-1], 26 * 3600 * 1000])
    assert probe(str(late)).duration_s == pytest.approx(26 * 3600, rel=0.01)  # a pause, for all anyone can tell
    assert probe(str(late)).fps == pytest.approx(25)
    absurd = retime(source, tmp_path / "absurd.mkv", [*stamps[:-1], 60 * 86400 * 1000])
    with pytest.raises(VideoError, match="its timestamps span 60 days; expected at most a month"):
        probe(str(absurd))


@given(st.lists(st.none() | st.integers(-(10**12), 10**12), min_size=1))
@settings(deadline=None)
def test_repaired_timestamps_rise_strictly(stamps: list[int | None]) -> None:
    repair = Monotonic(40_000_000)
    placed = list(repair(zip(stamps, range(len(stamps)), strict=True)))
    assert [index for _, index in placed] == list(range(len(stamps)))
    assert all(before < after for (before, _), (after, _) in pairwise(placed))
    kept = sum(stamp == given_stamp for (stamp, _), given_stamp in zip(placed, stamps, strict=True))
    assert kept >= len(stamps) - repair.repaired


@given(st.lists(st.integers(0, 10**15), min_size=1, unique=True))
def test_rising_timestamps_are_left_alone(stamps: list[int]) -> None:
    repair = Monotonic(40_000_000)
    assert [stamp for stamp, _ in repair((stamp, None) for stamp in sorted(stamps))] == sorted(stamps)
    assert repair.repaired == 0


@pytest.mark.parametrize(
    ("given_ms", "expected_ms"),
    [
        ([0, 40, None, 120], [0, 40, 80, 120]),
        ([None, 40, 80], [0, 40, 80]),
        ([0, 40, 9_000_000, 120, 160], [0, 40, 80, 120, 160]),  # one that jumps ahead
        ([0, 40, -5_000, 120, 160], [0, 40, 80, 120, 160]),  # one that jumps back
        ([1000, 1040, 0, 40, 80], [1000, 1040, 1080, 1120, 1160]),  # a clock set back
        ([0, 40, 40, 80], [0, 40, 60, 80]),
    ],
)
def test_how_timestamps_are_repaired(given_ms: list[int | None], expected_ms: list[int]) -> None:
    items = [(None if ms is None else ms * 1_000_000, None) for ms in given_ms]
    assert [stamp // 1_000_000 for stamp, _ in Monotonic(40_000_000)(items)] == expected_ms
