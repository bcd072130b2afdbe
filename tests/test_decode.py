from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.config import PlanSettings
from flows.decode import FrameReader, plan_chunks, probe, read_frames
from flows.errors import VideoError
from flows.schema import NS, Frame, Video
from tests.videos import picture, retime, write_video

SHARED = Path(__file__).parents[2] / "shared"
CLIPS = sorted((SHARED / "data").glob("[cm]*/**/*.mp4"))

OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0:bframes=3:b-adapt=0"}
FORMATS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "open_gop.mp4": {"options": OPEN_GOP, "b_frames": 3},
    "open_gop.mkv": {"options": OPEN_GOP, "b_frames": 3},
    "open_gop.ts": {"options": OPEN_GOP, "b_frames": 3},
    "intra_refresh.ts": {"options": {"x264-params": "intra-refresh=1"}, "b_frames": 0},
    "fragmented.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "pyramid.mkv": {"options": {"x264-params": "b-pyramid=normal:bframes=5:b-adapt=0"}, "b_frames": 5, "gop": 12},
    "one_keyframe.mp4": {"gop": 1000},
    "no_cues.mkv": {"muxer": {"live": "1"}},
    "offset.mkv": {"start": 50},
    "offset.mp4": {"start": 50},
    "flash.flv": {},
    "b_frames.avi": {},
    "raw.h264": {},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "motion_jpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "b_frames": 0},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}, "b_frames": 0},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1:frame-threads=1"}},
}


def _fingerprint(frame: Frame) -> tuple[int, int, str]:
    return frame.number, frame.pts_ns, hashlib.sha256(frame.image_rgb.tobytes()).hexdigest()


def _read(video: Video, *interval: int, **options: Any) -> list[tuple[int, int, str]]:
    return [_fingerprint(frame) for frame in read_frames(video, *interval, **options)]


def _read_chunks(video: Video, chunk_seconds: float) -> list[tuple[int, int, str]]:
    plan = PlanSettings(chunk_seconds=chunk_seconds, overlap_seconds=0.04)
    return [found for chunk in plan_chunks(video, plan, "") for found in _read(video, chunk.start_ns, chunk.end_ns)]


@pytest.mark.parametrize("name", FORMATS)
def test_chunks_neither_lose_nor_double_nor_change_a_frame(tmp_path: Path, name: str) -> None:
    video = probe(str(write_video(tmp_path / name, **FORMATS[name])))
    whole = _read(video)
    assert [number for number, _, _ in whole] == list(range(30))
    assert [pts_ns for _, pts_ns, _ in whole] == [round(i * NS / 25) for i in range(30)]
    assert len({digest for _, _, digest in whole}) == 30
    assert video.fps == pytest.approx(25)
    assert video.duration_s == pytest.approx(1.2)
    for chunk_seconds in (0.2, 0.33, 0.7):
        assert _read_chunks(video, chunk_seconds) == whole
    # Every single frame, alone, after a seek.
    assert [found for _, pts_ns, _ in whole for found in _read(video, pts_ns, pts_ns + 1)] == whole


@st.composite
def _recipes(draw: st.DrawFn) -> dict[str, Any]:
    codec = draw(st.sampled_from(["libx264", "mpeg4", "mjpeg"]))
    container = draw(st.sampled_from(["mp4", "mkv", "ts", "avi"] if codec != "mjpeg" else ["mp4", "mkv", "avi"]))
    steady = container == "avi" or draw(st.booleans())
    gaps = draw(st.lists(st.integers(2, 400), min_size=1, max_size=40))
    return {
        "codec": codec,
        "container_ending": container,
        "pixels": "yuvj420p" if codec == "mjpeg" else "yuv420p",
        "gop": draw(st.integers(1, 30)),
        "b_frames": 0 if codec == "mjpeg" else draw(st.integers(0, 4)),
        "fps": draw(st.sampled_from([7, 25, Fraction(30000, 1001)])),
        "frames": len(gaps) + 1,
        "times_ms": None if steady else np.cumsum([0, *gaps]).tolist(),
        "options": OPEN_GOP if codec == "libx264" and draw(st.booleans()) else {},
        "chunk_seconds": draw(st.floats(0.1, 3)),
    }


@given(recipe=_recipes())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_of_any_video_add_up_to_it(tmp_path: Path, recipe: dict[str, Any]) -> None:
    path = tmp_path / f"any.{recipe.pop('container_ending')}"
    chunk_seconds = recipe.pop("chunk_seconds")
    video = probe(str(write_video(path, **recipe)))
    whole = _read(video)
    assert len(whole) == recipe["frames"]
    assert all(before[1] < after[1] for before, after in pairwise(whole))
    assert whole[-1][1] < video.duration_s * NS
    if recipe["times_ms"]:
        assert np.allclose([pts_ns / 1e6 for _, pts_ns, _ in whole], recipe["times_ms"], atol=1.1)
    else:
        assert [number for number, _, _ in whole] == list(range(recipe["frames"]))
    assert _read_chunks(video, chunk_seconds) == whole


@pytest.mark.parametrize(
    ("pixels", "codec", "size"),
    [
        ("yuv420p10le", "libx265", (64, 48)),
        ("yuvj420p", "mjpeg", (64, 48)),
        ("gray", "libx264", (64, 48)),
        ("yuv444p", "libx264", (63, 47)),
        ("yuv420p", "ffv1", (31, 17)),
    ],
)
def test_every_pixel_format_comes_out_as_rgb(tmp_path: Path, pixels: str, codec: str, size: tuple[int, int]) -> None:
    options = {"x265-params": "log-level=none:pools=1"} if codec == "libx265" else {}
    path = write_video(tmp_path / "v.mkv", codec=codec, pixels=pixels, size=size, frames=3, b_frames=0, options=options)
    video = probe(str(path))
    assert (video.width_px, video.height_px) == size
    for index, frame in enumerate(read_frames(video)):
        assert frame.image_rgb.shape == (size[1], size[0], 3)
        assert frame.image_rgb.dtype == np.uint8
        block = np.s_[1 : size[1] // 4 - 1, 1 : size[0] // 4 - 1]
        assert np.abs(frame.image_rgb[block].astype(int) - picture(index, *size)[block]).mean() < 16


@pytest.mark.parametrize("rotation_deg", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, rotation_deg: int) -> None:
    video = probe(str(write_video(tmp_path / "v.mp4", rotation_deg=rotation_deg, frames=2)))
    assert video.rotation_deg == rotation_deg
    assert (video.width_px, video.height_px) == ((64, 48) if rotation_deg == 180 else (48, 64))
    frame = next(iter(read_frames(video)))
    upright = np.rot90(picture(0, 64, 48), rotation_deg // 90)
    assert frame.image_rgb.shape == upright.shape
    black = np.argwhere(upright.sum(axis=2) == 0)  # the block in the corner
    assert frame.image_rgb[tuple(np.median(black, axis=0).astype(int))].max() < 40


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 1000, 1040, 5000, 5040, 5081, 5120]
    video = probe(str(write_video(tmp_path / "v.mp4", times_ms=times_ms)))
    frames = list(read_frames(video))
    assert [round(frame.pts_ns / 1e6) for frame in frames] == times_ms
    assert video.fps == pytest.approx(25, rel=0.02)  # pauses left out
    assert video.duration_s == pytest.approx(5.16, abs=0.001)
    assert [round(frame.pts_ns / 1e6) for frame in read_frames(video, NS, 5050 * 1_000_000)] == [1000, 1040, 5000, 5040]


def test_only_chosen_frames_and_the_last_are_converted(tmp_path: Path) -> None:
    video = probe(str(write_video(tmp_path / "v.mp4")))
    reader = FrameReader(video, 0, NS, only=lambda number, _: number % 10 == 0)
    assert [frame.number for frame in reader] == [0, 10, 20, 24]
    assert reader.counters == {"frames": 25, "corrupt_packets": 0, "repaired_timestamps": 0}


def test_a_clock_that_jumps_back_is_continued(tmp_path: Path) -> None:
    part = write_video(tmp_path / "part.ts", frames=20)
    path = tmp_path / "v.ts"
    path.write_bytes(part.read_bytes() * 2)
    video = probe(str(path))
    assert not video.seekable
    reader = FrameReader(video)
    stamps = [frame.pts_ns for frame in reader]
    assert len(stamps) == 40
    assert all(before < after for before, after in pairwise(stamps))
    assert stamps[-1] == pytest.approx(39 * NS / 25, rel=0.1)
    assert reader.counters["repaired_timestamps"] >= 19
    assert _read_chunks(video, 0.3) == _read(video)


def test_doubled_timestamps_are_separated(tmp_path: Path) -> None:
    times_ms = [0, 40, 40, 80, 120, 160, 160, 200]
    source = write_video(tmp_path / "source.mkv", codec="mjpeg", pixels="yuvj420p", b_frames=0, frames=len(times_ms))
    video = probe(str(retime(source, tmp_path / "v.mkv", times_ms)))
    reader = FrameReader(video)
    stamps_ms = [frame.pts_ns / 1e6 for frame in reader]
    assert stamps_ms[:2] == [0, 40]
    assert 40 < stamps_ms[2] < 80
    assert all(before < after for before, after in pairwise(stamps_ms))
    assert reader.counters["repaired_timestamps"] == 2
    assert _read_chunks(video, 0.1) == _read(video)


def test_a_new_resolution_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{i}.h264", size=size, frames=10) for i, size in enumerate([(64, 48), (96, 80)])]
    path = tmp_path / "v.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_frames(probe(str(path))))
    assert [frame.image_rgb.shape for frame in frames] == [(48, 64, 3)] * 20


@pytest.mark.parametrize("ending", ["ts", "mkv", "mp4", "avi"])
def test_corrupt_packets_are_skipped_and_counted(tmp_path: Path, ending: str) -> None:
    path = write_video(tmp_path / f"v.{ending}", codec="mpeg4", b_frames=0, frames=60, size=(160, 120))
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(3)
    middle = slice(len(data) // 3, len(data) // 2)
    data[middle] = rng.integers(0, 256, middle.stop - middle.start, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    reader = FrameReader(probe(str(path)))
    stamps = [frame.pts_ns for frame in reader]
    assert 20 <= len(stamps) <= 60
    assert all(before < after for before, after in pairwise(stamps))
    assert reader.counters["corrupt_packets"] > 0


@pytest.mark.parametrize("ending", ["ts", "mkv", "avi", "mp4"])
def test_a_truncated_file_is_read_to_where_it_ends(tmp_path: Path, ending: str) -> None:
    muxer = {"movflags": "faststart"} if ending == "mp4" else {}
    path = write_video(tmp_path / f"v.{ending}", frames=100, size=(160, 120), muxer=muxer)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video = probe(str(path))
    whole = _read(video)
    assert 40 <= len(whole) <= 70
    assert video.duration_s == pytest.approx(len(whole) / 25, abs=0.2)
    assert _read_chunks(video, 0.5) == whole


def test_a_video_that_has_gone_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=3)
    video = probe(str(path))
    path.unlink()
    with pytest.raises(VideoError, match=r"v\.mp4: no such file"):
        list(read_frames(video))


def _make_video(**overrides: Any) -> Video:
    fields = {"uri": "v", "content_hash": "0", "source_id": "s", "width_px": 8, "height_px": 8, "fps": 25.0}
    return Video(**(fields | {"duration_s": 60.0, "codec": "h264", "container": "mp4"} | overrides))


@given(
    duration_s=st.floats(0.01, 1e5),
    chunk_seconds=st.floats(5, 1000),
    overlap=st.floats(0, 0.5),
)
@settings(deadline=None)
def test_chunks_tile_the_video(duration_s: float, chunk_seconds: float, overlap: float) -> None:
    plan = PlanSettings(chunk_seconds=chunk_seconds, overlap_seconds=chunk_seconds * overlap)
    video = _make_video(duration_s=duration_s)
    chunks = plan_chunks(video, plan, "hash")
    assert chunks[0].start_ns == 0
    assert all(before.end_ns == after.start_ns for before, after in pairwise(chunks))
    assert chunks[-1].end_ns == round(duration_s * NS) + NS // 25
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].seen_from_ns == 0
    shared = [(before.seen_until_ns - after.seen_from_ns, before.overlap_ns) for before, after in pairwise(chunks)]
    assert all(seen == overlap for seen, overlap in shared)
    if len(chunks) > 1:
        last_ns = round(duration_s * NS) - chunks[-1].start_ns
        assert last_ns >= 0.25 * chunk_seconds * NS - 1
        assert last_ns >= 2 * plan.overlap_seconds * NS - 2
        # No chunk but the last may see so far that reading would not stop.
        assert all(chunk.seen_until_ns < duration_s * NS for chunk in chunks[:-1])


def test_planning_again_gives_the_same_chunks() -> None:
    first, again = (plan_chunks(_make_video(uri=uri), PlanSettings(chunk_seconds=20), "hash") for uri in ("v", "w"))
    assert [chunk.chunk_id for chunk in first] == [chunk.chunk_id for chunk in again]
    other = plan_chunks(_make_video(), PlanSettings(chunk_seconds=20), "other")
    assert {chunk.chunk_id for chunk in first}.isdisjoint(chunk.chunk_id for chunk in other)


@pytest.mark.skipif(not CLIPS, reason="no real clips beside the checkout (../shared/data)")
@pytest.mark.parametrize("path", CLIPS[:3], ids=lambda path: path.stem)
def test_real_clips_read_the_same_from_a_seek(path: Path) -> None:
    video = probe(str(path))
    assert video.seekable
    kept = {frame.pts_ns: _fingerprint(frame) for frame in read_frames(video, 0, 6 * NS, only=lambda n, _: n % 40 == 0)}
    for pts_ns, expected in kept.items():
        assert _read(video, pts_ns, pts_ns + 1) == [expected]
