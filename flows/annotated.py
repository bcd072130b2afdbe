"""Frames of a video -> the same with stored tracks drawn on them: of one source, or of several side by side.

Streams on both sides: a few frames and the observations around them in memory at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa

from flows.ahead import ahead as made_ahead
from flows.counters import Counters
from flows.decode import read_frames
from flows.errors import UsageError
from flows.georeference import Calibration, to_pixels
from flows.known import check_classes
from flows.mask import Mask
from flows.overlay import Outline, Overlay, Sighting
from flows.privacy import Blur
from flows.schema import EPOCH, NS, Frame, ImageArray, State, Video
from flows.store.base import Filter, Store, Zone
from flows.tracks import short_ids

_COLUMNS = ("pts_ns", "track_id", "class_name", "state", "x1_px", "y1_px", "x2_px", "y2_px", "x_px", "y_px")

AHEAD = 4
"""Frames decoded ahead of drawing, and drawn on ahead of encoding: enough for three threads to overlap."""


@dataclass(frozen=True)
class RenderOptions:
    """What to draw, and how well to encode it."""

    masks: bool = True
    zones: bool = True
    clock: bool = True
    counters: bool = True
    trail_s: float = 2.0
    sound: bool = True
    blur: tuple[str, ...] = ()
    """Classes whose objects are pixelated, besides those the store hides in any case."""
    crf: int = 22
    """x264's constant rate factor: 18 is visually lossless, 28 small."""
    max_width_px: int | None = None
    """Wider videos are written this wide, with everything drawn on them; None keeps the size."""


DEFAULTS = RenderOptions()


def annotated(
    store: Store, videos: Sequence[Video], t0: datetime | None, t1: datetime | None, options: RenderOptions
) -> Iterator[Frame]:
    """The frames of a world time with tracks on them.

    Args:
        store: where the tracks are.
        videos: one, or the same content as several sources know it: pictures side by side, each named.
        t0: first time wanted, default the video's beginning.
        t1: end of the time wanted, default the video's end.
        options: what to draw.
    """
    first = videos[0]
    start_ns = max(0, _pts_ns(first, t0)) if t0 else 0
    end_ns = _pts_ns(first, t1) if t1 else None
    if end_ns is not None and end_ns <= start_ns:
        return
    check_classes(store, options.blur, "--blur")
    # What one source found is hidden on the pictures of all: another may have missed it.
    blurs = [Blur(store, video, options.blur, start_ns) for video in videos]
    layers = [_Layer(store, video, start_ns, end_ns, options, named=len(videos) > 1) for video in videos]
    for frame in made_ahead(read_frames(first, start_ns, end_ns), AHEAD):
        image_rgb = np.require(frame.image_rgb, requirements=["C", "W"])
        for blur in blurs:
            blur.apply(image_rgb, frame.pts_ns)
        pictures = [image_rgb, *(image_rgb.copy() for _ in layers[1:])]
        for layer, picture in zip(layers, pictures, strict=True):
            layer.draw(picture, frame.pts_ns)
        yield Frame(frame.number, frame.pts_ns, pictures[0] if len(pictures) == 1 else np.hstack(pictures))


class _Layer:
    """The tracks of one source, drawn on frame after frame."""

    def __init__(
        self, store: Store, video: Video, start_ns: int, end_ns: int | None, options: RenderOptions, *, named: bool
    ) -> None:
        outlines = _outlines(store, video.source_id) if options.zones else []
        self._name = video.source_id if named else None
        self._overlay = Overlay(video.width_px, video.height_px, outlines, options.trail_s)
        self._counters = Counters(store, video) if options.counters and outlines else None
        self._counts = options.counters
        self._clock = Clock(store, video) if options.clock else None
        # Trails of the first frame begin before it.
        since = video.time_at(start_ns) - timedelta(seconds=options.trail_s) if start_ns else None
        until = video.time_at(end_ns) if end_ns is not None else None
        self._stored = _stored(store, Filter(video_id=video.video_id, t0=since, t1=until), options)
        self._ahead = next(self._stored, None)

    def draw(self, image_rgb: ImageArray, pts_ns: int) -> None:
        sightings: list[Sighting] = []
        while self._ahead is not None and self._ahead[0] <= pts_ns:
            if self._ahead[0] == pts_ns:
                sightings = self._ahead[1]
            else:
                self._overlay.follow(self._ahead[1], self._ahead[0])
            self._ahead = next(self._stored, None)
        said = [text for text in (self._name, self._clock and self._clock.text(pts_ns)) if text]
        if said and self._counts:
            said += _counted(sightings)
        counted = self._counters.at(pts_ns) if self._counters else {}
        self._overlay.draw(image_rgb, sightings, pts_ns, "   ".join(said) or None, counted)


def _counted(sightings: Iterable[Sighting]) -> list[str]:
    """How many of each class are in view."""
    counted = Counter(seen.class_name for seen in sightings)
    return [f"{n} {name}" for name, n in sorted(counted.items())]


def _pts_ns(video: Video, at: datetime) -> int:
    if at.tzinfo is None:
        raise UsageError(f"time {at.isoformat()} needs a time zone, as in 2026-05-01T08:00:00+02:00")
    return (at - video.start_time) // timedelta(microseconds=1) * 1000


def _stored(store: Store, where: Filter, options: RenderOptions) -> Iterator[tuple[int, list[Sighting]]]:
    columns = [*_COLUMNS, "confidence", *(["mask"] if options.masks else [])]
    return _by_time(store.observations(where, columns), short_ids(store, str(where.video_id)))


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


class Clock:
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
