"""Stored tracks + their video -> annotated video: the first tool to see whether a result is right.

Streams on both sides: one frame and its observations in memory at a time. The timing of the source is kept, variable
frame rate included; a frame without observations is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import av
import numpy as np
import pyarrow as pa
from av.video.reformatter import Colorspace, VideoReformatter

from flows.decode import probe, read_frames
from flows.errors import UsageError, VideoError
from flows.georeference import Calibration, to_pixels
from flows.output import written_whole
from flows.overlay import Outline, Overlay, Sighting
from flows.schema import EPOCH, NS, Frame, ImageArray, Mask, State, Video
from flows.store.base import Filter, Store, Zone
from flows.tracks import short_ids

_COLUMNS = ("pts_ns", "track_id", "class_name", "state", "x1_px", "y1_px", "x2_px", "y2_px", "x_px", "y_px")

_CLOCK_HZ = 90_000
"""Ticks a second of the written file: MPEG's clock, in which 24, 25, 30 and 50 frames a second are whole numbers."""

_BT709 = 1


@dataclass(frozen=True)
class RenderOptions:
    """What to draw, and how well to encode it."""

    masks: bool = True
    zones: bool = True
    clock: bool = True
    trail_s: float = 2.0
    crf: int = 22
    """x264's constant rate factor: 18 is visually lossless, 28 small."""


def render_video(
    store: Store,
    video_id: str,
    out_path: Path,
    *,
    t0: datetime | None = None,
    t1: datetime | None = None,
    options: RenderOptions = RenderOptions(),
) -> int:
    """Write an annotated H.264 mp4; it appears under its name only when it is complete.

    Args:
        store: where the tracks are.
        video_id: one of its `videos`; its file must still lie where it was.
        out_path: ends in .mp4; an existing file is replaced.
        t0: first world time wanted, default the video's beginning.
        t1: end of the world time wanted, default the video's end.
        options: what to draw.

    Returns:
        Number of frames written.

    Raises:
        UsageError: unknown video, an interval without frames, or an output that cannot be written there.
        VideoError: the video's file is gone, has changed or cannot be read.
    """
    out_path = Path(out_path)
    video = _stored_video(store, video_id)
    if out_path.suffix.lower() != ".mp4":
        raise UsageError(f"{out_path}: expected a name that ends in .mp4")
    if out_path.resolve() == Path(video.uri).resolve():
        raise UsageError(f"{out_path}: that is the video itself; choose another name")
    n_frames = 0
    with _Mp4Writer.to(out_path, video, options.crf) as writer:
        for frame in _annotated(store, video, t0, t1, options):
            writer.write(frame)
            n_frames += 1
        if not n_frames:
            end = video.time_at(round(video.duration_s * NS))
            raise UsageError(f"no frames between {t0} and {t1}: the video runs from {video.start_time} to {end}")
    return n_frames


def render_frames(
    store: Store,
    video_id: str,
    *,
    t0: datetime | None = None,
    t1: datetime | None = None,
    options: RenderOptions = RenderOptions(),
) -> Iterator[Frame]:
    """The annotated frames, for looking at some of them; arguments and errors as `render_video`'s."""
    yield from _annotated(store, _stored_video(store, video_id), t0, t1, options)


def picked_frames(store: Store, video_id: str, wanted: Callable[[int, int], bool]) -> Iterator[Frame]:
    """Frames as they are, of those that `wanted` chooses by (number, pts_ns), and always the video's last."""
    yield from read_frames(_stored_video(store, video_id), only=wanted)


def _stored_video(store: Store, video_id: str) -> Video:
    found = store.query(
        "select uri, source_id, start_time from videos where video_id = $video_id", {"video_id": video_id}
    ).to_pylist()
    if not found:
        known = store.query("select video_id, uri from videos order by uri limit 10").to_pylist()
        names = "".join(f"\n  {row['video_id']}  {row['uri']}" for row in known) or " none"
        raise UsageError(f"no video {video_id} in {store.url}; it holds:{names}")
    row = found[0]
    try:
        video = probe(row["uri"], row["source_id"], row["start_time"])
    except VideoError as error:
        raise VideoError(f"cannot draw on video {video_id}: {error}; put the file back where it was") from None
    if video.video_id != video_id:
        raise VideoError(f"{row['uri']}: the file is no longer the one its tracks come from; put that one back")
    return video


def _annotated(
    store: Store, video: Video, t0: datetime | None, t1: datetime | None, options: RenderOptions
) -> Iterator[Frame]:
    outlines = _outlines(store, video.source_id) if options.zones else []
    overlay = Overlay(video.width_px, video.height_px, outlines, options.trail_s)
    start_ns = max(0, _pts_ns(video, t0)) if t0 else 0
    end_ns = _pts_ns(video, t1) if t1 else None
    if end_ns is not None and end_ns <= start_ns:
        return
    numbers = short_ids(store, video.video_id)
    # Trails of the first frame begin before it.
    since = video.time_at(start_ns) - timedelta(seconds=options.trail_s) if start_ns else None
    where = Filter(video_id=video.video_id, t0=since, t1=t1)
    columns = [*_COLUMNS, "confidence", *(["mask"] if options.masks else [])]
    clock = _Clock(store, video) if options.clock else None
    stored = _by_time(store.observations(where, columns), numbers)
    ahead = next(stored, None)
    for frame in read_frames(video, start_ns, end_ns):
        sightings: list[Sighting] = []
        while ahead is not None and ahead[0] <= frame.pts_ns:
            if ahead[0] == frame.pts_ns:
                sightings = ahead[1]
            else:
                overlay.follow(ahead[1], ahead[0])
            ahead = next(stored, None)
        image_rgb = np.require(frame.image_rgb, requirements=["C", "W"])
        overlay.draw(image_rgb, sightings, frame.pts_ns, clock.text(frame.pts_ns) if clock else None)
        yield Frame(frame.number, frame.pts_ns, image_rgb)


def _pts_ns(video: Video, at: datetime) -> int:
    if at.tzinfo is None:
        raise UsageError(f"time {at.isoformat()} needs a time zone, as in 2026-05-01T08:00:00+02:00")
    return (at - video.start_time) // timedelta(microseconds=1) * 1000


def _by_time(batches: Iterable[pa.RecordBatch], numbers: dict[str, int]) -> Iterator[tuple[int, list[Sighting]]]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for pts_ns, group in groupby(rows, key=lambda row: int(row["pts_ns"])):
        yield pts_ns, [_sighting(row, numbers) for row in group]


def _sighting(row: dict[str, Any], numbers: dict[str, int]) -> Sighting:
    mask = row.get("mask")
    return Sighting(
        # A run that goes on may have added tracks since they were numbered.
        short_id=numbers.setdefault(row["track_id"], len(numbers) + 1),
        class_name=row["class_name"],
        state=State(row["state"]),
        box_xyxy=(row["x1_px"], row["y1_px"], row["x2_px"], row["y2_px"]),
        point_px=(row["x_px"], row["y_px"]),
        confidence=row["confidence"],
        mask=None if mask is None else Mask.from_bytes(mask),
    )


def _outlines(store: Store, source_id: str) -> list[Outline]:
    zones = store.zones(source_id)
    text = store.calibration(source_id) if any(zone.unit == "m" for zone in zones) else None
    calibration = Calibration.from_json(text) if text else None
    if calibration is not None and calibration.flies:
        calibration = None  # no one view would be right for all frames
    found = []
    for zone in zones:
        points_px = _points_px(zone, calibration)
        if points_px is not None:
            found.append(Outline(zone.name, points_px, closed=zone.kind == "zone"))
    return found


def _points_px(zone: Zone, calibration: Calibration | None) -> np.ndarray | None:
    """Corners in pixels; None where they cannot be shown: uncalibrated, or partly behind the camera."""
    if zone.unit == "px":
        return np.array(zone.points)
    points_px = None if calibration is None else to_pixels(calibration, np.array(zone.points))
    return points_px if points_px is not None and np.isfinite(points_px).all() else None


class _Clock:
    """World time in the source's zone, or video time where the video's start is not known."""

    def __init__(self, store: Store, video: Video) -> None:
        self._video = video
        found = store.query(
            "select time_zone from sources where source_id = $source_id", {"source_id": video.source_id}
        ).to_pylist()
        try:
            self._zone = ZoneInfo((found and found[0]["time_zone"]) or "UTC")
        except (ZoneInfoNotFoundError, ValueError):
            self._zone = ZoneInfo("UTC")

    def text(self, pts_ns: int) -> str:
        if self._video.start_time != EPOCH:
            return self._video.time_at(pts_ns).astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S.%f")[:-4] + (
                self._video.time_at(pts_ns).astimezone(self._zone).strftime(" %Z")
            )
        minutes, seconds = divmod(pts_ns / NS, 60)
        return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}:{seconds:05.2f}"


class _Mp4Writer:
    """Frames -> H.264 mp4 under a temporary name."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self._first_ns: int | None = None
        self._reformatter = VideoReformatter()

    @classmethod
    @contextmanager
    def to(cls, path: Path, video: Video, crf: int) -> Iterator[_Mp4Writer]:
        """Open for frames of this video; the file is there when the block has ended well."""
        with (
            written_whole(path) as temporary,
            av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            stream = container.add_stream("libx264", options={"crf": str(crf), "preset": "veryfast"})
            # 4:2:0 stores colour for two by two pixels.
            stream.width, stream.height = (video.width_px + 1) // 2 * 2, (video.height_px + 1) // 2 * 2
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.time_base = Fraction(1, _CLOCK_HZ)
            context.framerate = Fraction(video.fps).limit_denominator(1001)
            # Players guess by size where nothing is said, and then differ in colour.
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            yield cls(container, stream)
            container.mux(stream.encode())

    def write(self, frame: Frame) -> None:
        """Encode one frame, timed from the first one written."""
        if self._first_ns is None:
            self._first_ns = frame.pts_ns
        picture = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(_even(frame.image_rgb)), format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        picture.pts = round((frame.pts_ns - self._first_ns) * _CLOCK_HZ / NS)
        picture.time_base = Fraction(1, _CLOCK_HZ)
        self._container.mux(self._stream.encode(picture))


def _even(image_rgb: ImageArray) -> ImageArray:
    height, width = image_rgb.shape[:2]
    if height % 2 or width % 2:
        return np.pad(image_rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return image_rgb
