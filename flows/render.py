"""Stored tracks + their video -> annotated video: the first tool to see whether a result is right.

Streams on both sides: one frame and its observations in memory at a time. The timing of the source is kept, variable
frame rate included; a frame without observations is shown as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa

from flows.ahead import ahead as made_ahead
from flows.counters import Counters
from flows.decode import probe, read_frames
from flows.errors import UsageError, VideoError
from flows.georeference import Calibration, to_pixels
from flows.known import check_classes, check_tracks
from flows.mp4 import Mp4Writer
from flows.overlay import Outline, Overlay, Sighting
from flows.privacy import Blur
from flows.schema import EPOCH, NS, Frame, Mask, State, Video
from flows.store.base import Filter, Store, Zone
from flows.tracks import short_ids

_COLUMNS = ("pts_ns", "track_id", "class_name", "state", "x1_px", "y1_px", "x2_px", "y2_px", "x_px", "y_px")

_AHEAD = 4
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
    video = stored_video(store, video_id)
    if out_path.suffix.lower() != ".mp4":
        raise UsageError(f"{out_path}: expected a name that ends in .mp4")
    if out_path.resolve() == Path(video.uri).resolve():
        raise UsageError(f"{out_path}: that is the video itself; choose another name")
    n_frames = 0
    with Mp4Writer.to(out_path, video, options.crf, sound=options.sound, max_width_px=options.max_width_px) as writer:
        for frame in made_ahead(_annotated(store, video, t0, t1, options), _AHEAD):
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
    yield from _annotated(store, stored_video(store, video_id), t0, t1, options)


def track_span(
    store: Store,
    around_s: float,
    *,
    track_id: str | None = None,
    event_id: str | None = None,
    video_id: str | None = None,
) -> tuple[str, datetime, datetime]:
    """The video of a track or an event, and the time from `around_s` before its beginning to as much after its end.

    A track that runs through several videos is shown in its first, or in the one given.

    Raises:
        UsageError: no such track or event.
    """
    if track_id is not None:
        check_tracks(store, [track_id])
        sql = (
            "select t.video_id, min(t.t0) as t0, max(t.t1) as t1 from tracklets t join track_links k"
            " on k.tracklet_id = t.tracklet_id and k.source_id = t.source_id where k.track_id = $id"
            " and k.version = (select max(version) from track_links where source_id = t.source_id)"
            " group by t.video_id order by t0"
        )
    else:
        sql = (
            "select v.video_id, e.ts as t0, e.ts + coalesce(e.duration_s, 0) * interval '1 second' as t1"
            " from events e join videos v on v.source_id = e.source_id where e.event_id = $id and e.ts >= v.start_time"
            " and extract(epoch from e.ts) < extract(epoch from v.start_time) + v.duration_s order by v.video_id"
        )
    found = store.query(sql, {"id": track_id or event_id}).to_pylist()
    row = next((row for row in found if video_id in (None, row["video_id"])), None)
    if row is None:
        what = f"track {track_id}" if track_id else f"event {event_id}"
        where = f"video {video_id}" if video_id else store.url
        raise UsageError(f"no {what} in {where}; {_some(store, found, track_id)}")
    around = timedelta(seconds=around_s)
    # An interval ends before its end, and the last frame belongs to the track.
    return row["video_id"], row["t0"] - around, row["t1"] + around + timedelta(microseconds=1)


def _some(store: Store, found: Sequence[dict[str, Any]], track_id: str | None) -> str:
    """Where a track or event is that is not where it was looked for, or which events there are."""
    if found:
        return f"it is in video {', '.join(row['video_id'] for row in found)}"
    if track_id is not None:
        return "nothing of it is stored"
    events = store.query("select event_id, kind, zone, ts from events order by ts, event_id limit 10").to_pylist()
    listed = "".join(f"\n  {e['event_id']}  {e['kind']} {e['zone']} {e['ts']:%Y-%m-%d %H:%M:%S}" for e in events)
    return f"there are, among others:{listed}" if events else "there are no events yet"


def picked_frames(store: Store, video_id: str, wanted: Callable[[int, int], bool]) -> Iterator[Frame]:
    """Frames without anything drawn, of those that `wanted` chooses by (number, pts_ns), and always the video's last.

    What the store hides is pixelated, as on every picture that leaves it.
    """
    video = stored_video(store, video_id)
    blur = Blur(store, video)
    for frame in read_frames(video, only=wanted):
        yield _hidden(frame, blur)


def _hidden(frame: Frame, blur: Blur) -> Frame:
    """The frame, writable, with what is to be hidden pixelated."""
    image_rgb = np.require(frame.image_rgb, requirements=["C", "W"])
    blur.apply(image_rgb, frame.pts_ns)
    return Frame(frame.number, frame.pts_ns, image_rgb)


def stored_video(store: Store, video_id: str) -> Video:
    """A video of the store, as its file is now.

    Raises:
        UsageError: unknown video.
        VideoError: the file is gone, has changed or cannot be read.
    """
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
    check_classes(store, options.blur, "--blur")
    blur = Blur(store, video, options.blur, start_ns)
    counters = Counters(store, video) if options.counters and outlines else None
    clock = _Clock(store, video) if options.clock else None
    # Trails of the first frame begin before it.
    since = video.time_at(start_ns) - timedelta(seconds=options.trail_s) if start_ns else None
    stored = _stored(store, Filter(video_id=video.video_id, t0=since, t1=t1), options)
    ahead = next(stored, None)
    for frame in made_ahead(read_frames(video, start_ns, end_ns), _AHEAD):
        sightings: list[Sighting] = []
        while ahead is not None and ahead[0] <= frame.pts_ns:
            if ahead[0] == frame.pts_ns:
                sightings = ahead[1]
            else:
                overlay.follow(ahead[1], ahead[0])
            ahead = next(stored, None)
        drawn = _hidden(frame, blur)
        said = clock.text(frame.pts_ns) if clock else None
        if said and options.counters:
            said = "   ".join([said, *_counted(sightings)])
        overlay.draw(drawn.image_rgb, sightings, frame.pts_ns, said, counters.at(frame.pts_ns) if counters else {})
        yield drawn


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
