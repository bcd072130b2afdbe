"""Stored tracks + their video -> annotated video: the first tool to see whether a result is right.

The timing of the source is kept, variable frame rate included; a frame without observations is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.ahead import ahead as made_ahead
from flows.annotated import AHEAD, DEFAULTS, RenderOptions, annotated
from flows.decode import probe, read_frames
from flows.errors import UsageError, VideoError
from flows.known import check_tracks, same_video
from flows.mp4 import Mp4Writer
from flows.privacy import Blur
from flows.schema import NS, Frame, Video
from flows.store.base import Store

__all__ = [
    "RenderOptions",
    "expected_frames",
    "picked_frames",
    "render_frames",
    "render_video",
    "stored_video",
    "track_span",
    "videos_beside",
]

_WIDEST_PX = 3840
"""Of pictures side by side: wider ones many players refuse."""


def render_video(
    store: Store,
    video_id: str,
    out_path: Path,
    *,
    t0: datetime | None = None,
    t1: datetime | None = None,
    beside: Sequence[str] = (),
    options: RenderOptions = DEFAULTS,
    tell: Callable[[int], None] = lambda n_frames: None,
) -> int:
    """Write an annotated H.264 mp4; it appears under its name only when it is complete.

    Args:
        store: where the tracks are.
        video_id: one of its `videos`; its file must still lie where it was.
        out_path: ends in .mp4; an existing file is replaced.
        t0: first world time wanted, default the video's beginning.
        t1: end of the world time wanted, default the video's end.
        beside: sources that know the same video, whose tracks are shown on pictures beside.
        options: what to draw.
        tell: hears how many more frames were written.

    Returns:
        Number of frames written.

    Raises:
        UsageError: unknown video or source, an interval without frames, or an output that cannot be written there.
        VideoError: the video's file is gone, has changed or cannot be read.
    """
    out_path = Path(out_path)
    video = stored_video(store, video_id)
    if out_path.suffix.lower() != ".mp4":
        raise UsageError(f"{out_path}: expected a name that ends in .mp4")
    if out_path.resolve() == Path(video.uri).resolve():
        raise UsageError(f"{out_path}: that is the video itself; choose another name")
    videos = [video, *videos_beside(store, video, beside)]
    written = replace(video, width_px=len(videos) * video.width_px)
    widest_px = options.max_width_px or (_WIDEST_PX if beside else None)
    n_frames = 0
    with Mp4Writer.to(out_path, written, options.crf, sound=options.sound, max_width_px=widest_px) as writer:
        for frame in made_ahead(annotated(store, videos, t0, t1, options), AHEAD):
            writer.write(frame)
            n_frames += 1
            tell(1)
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
    beside: Sequence[str] = (),
    options: RenderOptions = DEFAULTS,
) -> Iterator[Frame]:
    """The annotated frames, for looking at some of them; arguments and errors as `render_video`'s."""
    video = stored_video(store, video_id)
    yield from annotated(store, [video, *videos_beside(store, video, beside)], t0, t1, options)


def videos_beside(store: Store, video: Video, sources: Sequence[str]) -> list[Video]:
    """The same video as other sources know it, such as one that was imported.

    Raises:
        UsageError: a source does not have this video; the message names those that do.
    """
    rows = [same_video(store, video.video_id, source, f"--beside {source}:") for source in sources]
    return [replace(video, source_id=row["source_id"], start_time=row["start_time"]) for row in rows]


def expected_frames(store: Store, video_id: str, t0: datetime | None, t1: datetime | None) -> int:
    """About how many frames lie in a world time of a video: what a progress bar needs."""
    rows = store.query("select start_time, duration_s, fps from videos where video_id = $id", {"id": video_id})
    for row in rows.to_pylist():
        starts_s = (t0 - row["start_time"]).total_seconds() if t0 else 0
        ends_s = (t1 - row["start_time"]).total_seconds() if t1 else row["duration_s"]
        return max(0, round((min(ends_s, row["duration_s"]) - max(starts_s, 0)) * row["fps"]))
    return 0


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
