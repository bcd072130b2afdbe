from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from flows.contact_sheet import write_contact_sheet
from flows.counters import Counters
from flows.decode import probe, read_frames
from flows.errors import UsageError, VideoError
from flows.privacy import hide_classes
from flows.render import RenderOptions, expected_frames, render_frames, render_video, track_span
from flows.schema import Video
from flows.store.base import Store, Zone
from tests.stores import make_event, make_events
from tests.tracked import make_store, sighting
from tests.videos import picture, write_video

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)
PLAIN = RenderOptions(clock=False, trail_s=0)


def _make(folder: Path, **overrides: Any) -> tuple[Video, Store]:
    """A video of 30 frames with one object, seen on frames 5 to 19."""
    start_time = overrides.pop("start_time", START)
    video = probe(str(write_video(folder / "v.mp4", **({"size": (160, 120)} | overrides))), start_time=start_time)
    pts = {frame.number: frame.pts_ns for frame in read_frames(video)}
    rows = [
        sighting(video, "walker", i, (20 + 4 * i, 30, 50 + 4 * i, 100), pts_ns=pts[i]) for i in range(5, 20) if i in pts
    ]
    return video, make_store(folder / "store", video, rows)


def test_every_frame_comes_and_those_with_tracks_are_drawn_on(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    drawn = list(render_frames(store, video.video_id, options=PLAIN))
    plain = list(read_frames(video))
    assert [frame.pts_ns for frame in drawn] == [frame.pts_ns for frame in plain]
    for number, (after, before) in enumerate(zip(drawn, plain, strict=True)):
        assert (after.image_rgb != before.image_rgb).any() == (5 <= number < 20), number


def test_the_file_has_the_frames_and_the_timing_of_its_source(tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 1000, 1040, 3000, 3033]
    video, store = _make(tmp_path, times_ms=times_ms)
    out = tmp_path / "new folder" / "out.mp4"
    assert render_video(store, video.video_id, out) == len(times_ms)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        found = [round(frame.time * 1000) for frame in container.decode(stream)]
    assert found == times_ms
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("size", [(161, 121), (160, 121), (161, 120)])
def test_odd_sizes_are_padded_by_a_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    video, store = _make(tmp_path, size=size, pixels="yuv444p")
    render_video(store, video.video_id, tmp_path / "out.mp4", options=PLAIN)
    written = probe(str(tmp_path / "out.mp4"))
    assert (written.width_px, written.height_px) == (size[0] + size[0] % 2, size[1] + size[1] % 2)


@pytest.mark.parametrize(("widest_px", "size"), [(80, (80, 60)), (101, (102, 76)), (4000, (160, 120))])
def test_wide_videos_are_written_smaller_where_asked(tmp_path: Path, widest_px: int, size: tuple[int, int]) -> None:
    video, store = _make(tmp_path)
    render_video(store, video.video_id, tmp_path / "out.mp4", options=RenderOptions(max_width_px=widest_px))
    written = probe(str(tmp_path / "out.mp4"))
    assert (written.width_px, written.height_px) == size


def test_colours_survive_encoding(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    render_video(store, video.video_id, tmp_path / "out.mp4", options=RenderOptions(crf=5))
    pairs = zip(render_frames(store, video.video_id), read_frames(probe(str(tmp_path / "out.mp4"))), strict=True)
    for drawn, written in pairs:
        # Blocks of 4 x 4, since 4:2:0 halves the resolution of colour.
        blocks = [frame.image_rgb.reshape(30, 4, 40, 4, 3).mean(axis=(1, 3)) for frame in (drawn, written)]
        assert np.abs(blocks[0] - blocks[1]).mean() < 4


def test_an_interval_of_world_time(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    interval = {"t0": START + timedelta(seconds=0.4), "t1": START + timedelta(seconds=0.8)}
    frames = list(render_frames(store, video.video_id, **interval))
    assert [frame.number for frame in frames] == list(range(10, 20))
    # The trail of the first frame is the one it has in the whole video.
    whole = {frame.number: frame for frame in render_frames(store, video.video_id)}
    assert (frames[0].image_rgb == whole[10].image_rgb).all()


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ({"t0": START + timedelta(hours=1)}, "no frames between .* the video runs from 2026-05-01 08:30:00"),
        ({"t1": START - timedelta(hours=1)}, "no frames between"),
        ({"t0": START, "t1": START}, "no frames between"),
        ({"t0": datetime(2026, 5, 1, 8, 30)}, "needs a time zone"),
    ],
)
def test_an_interval_without_frames_is_an_error_and_leaves_nothing(
    tmp_path: Path, interval: dict[str, datetime], message: str
) -> None:
    video, store = _make(tmp_path)
    out = tmp_path / "out" / "out.mp4"
    with pytest.raises(UsageError, match=message):
        render_video(store, video.video_id, out, **interval)
    assert list(out.parent.iterdir()) == []


def test_an_existing_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with pytest.raises(UsageError):
        render_video(store, video.video_id, out, t0=START + timedelta(hours=1))
    assert out.read_bytes() == b"old"
    render_video(store, video.video_id, out)
    assert out.stat().st_size > 1000


def test_clock_and_zones_are_shown(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    frame = next(render_frames(store, video.video_id, options=PLAIN))
    with_clock = next(render_frames(store, video.video_id, options=RenderOptions()))
    assert (frame.image_rgb[:10, :80] != with_clock.image_rgb[:10, :80]).any()
    store.write_zones(video.source_id, [Zone("yard", "zone", ((10, 60), (150, 60), (150, 110)))])
    with_zone = next(render_frames(store, video.video_id, options=PLAIN))
    assert (frame.image_rgb[100, 148:152] != with_zone.image_rgb[100, 148:152]).any()


def test_a_video_of_unknown_start_shows_its_own_time(tmp_path: Path) -> None:
    video, store = _make(tmp_path, start_time=None)
    assert len(list(render_frames(store, video.video_id))) == 30


def test_an_unknown_video_names_the_known(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    with pytest.raises(UsageError, match=rf"(?s)no video nonsense in .*{video.video_id}"):
        render_video(store, "nonsense", tmp_path / "out.mp4")


def test_a_video_that_is_gone_or_another_is_an_error(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    path = Path(video.uri)
    path.rename(tmp_path / "moved.mp4")
    with pytest.raises(VideoError, match=r"cannot draw on video .*v\.mp4: no such file.* put the file back"):
        render_video(store, video.video_id, tmp_path / "out.mp4")
    write_video(path, frames=7)
    with pytest.raises(VideoError, match=r"no longer the one its tracks come from"):
        render_video(store, video.video_id, tmp_path / "out.mp4")


def test_outputs_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    with pytest.raises(UsageError, match=r"ends in \.mp4"):
        render_video(store, video.video_id, tmp_path / "out.avi")
    with pytest.raises(UsageError, match="that is the video itself"):
        render_video(store, video.video_id, Path(video.uri))
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(UsageError, match="cannot be written"):
        render_video(store, video.video_id, blocked / "out.mp4")
    assert probe(video.uri).content_hash == video.content_hash


def _with_sound(folder: Path, codec: str, container: str) -> Path:
    """Two seconds of pictures, and of a tone that begins after one second."""
    path = folder / f"sound.{container}"
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 160, 120, "yuv420p"
        sound = file.add_stream(codec, rate=8000 if codec == "pcm_s16le" else 16000)
        sound.layout = "mono"
        for index in range(50):
            file.mux(pictures.encode(av.VideoFrame.from_ndarray(picture(index, 160, 120))))
        file.mux(pictures.encode())
        rate = sound.rate
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate) * (np.arange(2 * rate) >= rate)
        for first in range(0, 2 * rate, rate // 10):
            piece = (tone[None, first : first + rate // 10] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return path


def _loud_from_s(path: Path) -> tuple[str, float, float]:
    """Codec of a file's sound, when it becomes loud, and when it ends."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        loud, end = [], 0.0
        for frame in file.decode(stream):
            samples = np.abs(frame.to_ndarray()).max(axis=0) / (1 if "flt" in frame.format.name else 32767)
            loud += [frame.time + int(i) / frame.sample_rate for i in np.flatnonzero(samples > 0.2)[:1]]
            end = frame.time + frame.samples / frame.sample_rate
        return stream.codec_context.name, loud[0], end


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("pcm_s16le", "mkv")])
def test_sound_is_kept_and_in_time(tmp_path: Path, codec: str, container: str) -> None:
    video = probe(str(_with_sound(tmp_path, codec, container)), start_time=START)
    store = make_store(tmp_path / "store", video, [sighting(video, "walker", 5, (20, 30, 50, 100))])
    out = tmp_path / "out.mp4"
    assert render_video(store, video.video_id, out) == 50
    name, loud_s, end_s = _loud_from_s(out)
    assert name == "aac"
    assert loud_s == pytest.approx(1, abs=0.1)  # a block of AAC is 128 ms at 8 kHz
    assert end_s == pytest.approx(2, abs=0.3)
    assert render_video(
        store, video.video_id, out, t0=START + timedelta(seconds=0.6), t1=START + timedelta(seconds=1.4)
    )
    _, loud_s, end_s = _loud_from_s(out)
    assert loud_s == pytest.approx(0.4, abs=0.1)
    assert end_s == pytest.approx(0.8, abs=0.3)
    render_video(store, video.video_id, out, options=RenderOptions(sound=False))
    with av.open(str(out)) as file:
        assert not file.streams.audio


def test_the_seconds_around_a_track_and_an_event(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    (track,) = store.query("select track_id from tracks")["track_id"].to_pylist()
    found, t0, t1 = track_span(store, 0.2, track_id=track)
    assert found == video.video_id
    assert [frame.number for frame in render_frames(store, found, t0=t0, t1=t1)] == list(range(0, 25))
    event = make_event(source_id=video.source_id, ts=START + timedelta(seconds=0.4), duration_s=0.2)
    store.write_events(video.source_id, make_events(event))
    found, t0, t1 = track_span(store, 0.04, event_id=event["event_id"])
    assert (found, t0) == (video.video_id, START + timedelta(seconds=0.36))
    assert [frame.number for frame in render_frames(store, found, t0=t0, t1=t1)] == list(range(9, 17))
    with pytest.raises(UsageError, match=rf"(?s)no track nobody in .*it has:\n  {track}  person"):
        track_span(store, 1, track_id="nobody")
    with pytest.raises(UsageError, match=rf"no track {track} in video elsewhere; it is in video {video.video_id}"):
        track_span(store, 1, track_id=track, video_id="elsewhere")
    with pytest.raises(UsageError, match=rf"(?s)no event nothing in .*there are.*{event['event_id']}  visit yard"):
        track_span(store, 1, event_id="nothing")


def test_counters_count_visits_and_crossings_up_to_the_moment(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    at = [START + timedelta(seconds=s) for s in (-0.5, 0.2, 0.4, 0.6, -5)]
    store.write_events(
        video.source_id,
        make_events(
            make_event(source_id=video.source_id, ts=at[0], duration_s=0.8),
            make_event(source_id=video.source_id, ts=at[1], duration_s=1.0, track_id="b"),
            make_event(source_id=video.source_id, ts=at[4], duration_s=1.0, track_id="c"),
            make_event(source_id=video.source_id, ts=at[2], kind="crossing", zone="gate", direction="forward"),
            make_event(source_id=video.source_id, ts=at[3], kind="crossing", zone="gate", direction="backward"),
            make_event(source_id=video.source_id, ts=at[4], kind="crossing", zone="gate", direction="forward"),
        ),
    )
    counters = Counters(store, video)
    assert counters.at(0) == {"yard": "1 inside", "gate": "0 there, 0 back"}
    assert counters.at(250_000_000) == {"yard": "2 inside", "gate": "0 there, 0 back"}
    assert counters.at(700_000_000) == {"yard": "1 inside", "gate": "1 there, 1 back"}
    assert counters.at(1_300_000_000)["yard"] == "0 inside"


def test_a_contact_sheet_shows_the_track(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    (track,) = store.query("select track_id from tracks")["track_id"].to_pylist()
    out = tmp_path / "sheet.png"
    assert write_contact_sheet(store, track, out, n_crops=6) == 6
    shown = cv2.imread(str(out))
    assert shown.shape == (480, 960, 3)
    # Every crop has its time, in the zone of the source.
    times = [shown[240 * y : 240 * y + 18, 240 * x : 240 * x + 200] for x, y in ((0, 0), (1, 0), (1, 1))]
    assert all((time[1, :100] == 20).all() for time in times)
    assert (times[0] != times[1]).any()
    store.write_time_zone(video.source_id, "Asia/Tokyo")
    write_contact_sheet(store, track, tmp_path / "tokyo.png", n_crops=6)
    assert (cv2.imread(str(tmp_path / "tokyo.png"))[:18, :200] != times[0]).any()
    hide_classes(store, ["person"], "test")
    assert write_contact_sheet(store, track, tmp_path / "hidden.png", n_crops=6) == 6
    # In the middle of the first crop: of the noise of the picture only flat cells are left.
    middles = [cv2.imread(str(path))[100:140, 100:140].reshape(-1, 3) for path in (out, tmp_path / "hidden.png")]
    colours = [len(np.unique(middle, axis=0)) for middle in middles]
    assert colours[1] < 0.5 * colours[0]
    with pytest.raises(UsageError, match="no track nobody"):
        write_contact_sheet(store, "nobody", out)


def test_another_source_is_shown_beside(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    pts = [frame.pts_ns for frame in read_frames(video)]
    theirs = replace(video, source_id="theirs", start_time=START + timedelta(hours=1))
    rows = [sighting(theirs, "other", i, (90, 20, 120, 60), pts_ns=pts[i], class_name="car") for i in range(30)]
    make_store(tmp_path, theirs, rows, store)
    both = list(render_frames(store, video.video_id, beside=["theirs"], options=PLAIN))
    options = replace(PLAIN, clock=False)
    alone = [list(render_frames(store, v.video_id, options=options)) for v in (video, theirs)]
    assert [frame.image_rgb.shape for frame in both] == 30 * [(120, 320, 3)]
    for place, one in enumerate(alone):
        part = [frame.image_rgb[:, 160 * place : 160 * (place + 1)] for frame in both]
        # But for the name of the source in the upper left corner.
        assert all((a[40:] == b.image_rgb[40:]).all() for a, b in zip(part, one, strict=True))
        assert (part[0][:10, :40] != one[0].image_rgb[:10, :40]).any()
    out = tmp_path / "out.mp4"
    heard: list[int] = []
    assert render_video(store, video.video_id, out, beside=["theirs"], tell=heard.append) == 30 == sum(heard)
    assert (probe(str(out)).width_px, probe(str(out)).height_px) == (320, 120)
    assert expected_frames(store, video.video_id, None, None) == 30
    assert expected_frames(store, video.video_id, START + timedelta(seconds=1), START + timedelta(hours=1)) == 5
    with pytest.raises(
        UsageError, match=r"--beside thiers: no source of this name has the same video; others do: theirs"
    ):
        render_video(store, video.video_id, out, beside=["thiers"])


def test_what_one_source_found_is_hidden_on_the_picture_of_another(tmp_path: Path) -> None:
    video, store = _make(tmp_path)
    theirs = replace(video, source_id="theirs")
    make_store(tmp_path, theirs, [sighting(theirs, "other", 0, (0, 0, 9, 9), class_name="car")], store)
    hide_classes(store, ["person"], "test")
    frame = list(render_frames(store, theirs.video_id, beside=[video.source_id], options=PLAIN))[10]
    inside = frame.image_rgb[50:90, 65:85].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) < 20
