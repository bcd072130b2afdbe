"""Pictures in which objects of chosen classes cannot be recognised: pixelated before anything is drawn or encoded.

What is not known is hidden, not shown. A mask decides where it is stored and lies where the object is; else its box
with a margin, so for hidden (`bridged`) objects; on a frame between two observations, or within half a second of the
first and the last, the box around both neighbours. Where a track should have observations and has none (they were
pruned), or where no chunk was processed, the whole frame is pixelated. What was never tracked cannot be hidden.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cv2
import numpy as np

from flows.errors import UsageError
from flows.schema import NS, ImageArray, Mask, Video
from flows.store.base import Filter, Store

_CELLS = 8
"""Mosaic cells along the longer side of what is hidden: of a person a cell is the head."""
_MIN_CELL_PX = 8
_LEVELS = 32
"""Steps of a cell's colour: many frames of one object do not add up to a sharper one."""

_MARGIN = 0.1
"""Share of its size by which a mask or box is widened: masks miss hair and edges."""
_BOX_MARGIN = 0.2
"""The same where only a box is known."""
_TRUSTED_IOU = 0.5
"""A mask whose extent overlaps the object's box less than this lies elsewhere; then both are hidden."""

_EDGE_NS = NS // 2
"""How long before its first and after its last observation an object is taken to be where that was."""
_GAP_NS = 10 * NS
"""An object not seen for longer than this has left in between; it is not taken to be on the way."""

_RUN_PREFIX = "privacy-"
"""The setting is the newest run so named: it needs no table, and who hid what since when stays on record."""

_COLUMNS = ("pts_ns", "track_id", "x1_px", "y1_px", "x2_px", "y2_px", "mask")


def hidden_classes(store: Store) -> tuple[str, ...]:
    """The classes every picture made from this store hides."""
    rows = store.query(
        f"select settings from runs where run_id like '{_RUN_PREFIX}%' order by started_at desc, run_id limit 1"
    ).to_pylist()
    return tuple(json.loads(rows[0]["settings"])["blur"]) if rows else ()


def hide_classes(store: Store, class_names: Sequence[str], command: str) -> None:
    """Set the classes every picture made from this store hides; none ends it."""
    settings = json.dumps({"blur": sorted(set(class_names))})
    store.add_run(f"{_RUN_PREFIX}{uuid.uuid4()}", command, settings)


def check_classes(store: Store, class_names: Iterable[str]) -> None:
    """Refuse a class nothing in the store has: a misspelt name would hide nothing.

    Raises:
        UsageError: naming the classes there are.
    """
    known = store.query("select distinct class_name from tracklets order by 1")["class_name"].to_pylist()
    for name in class_names:
        if name not in known:
            raise UsageError(f"--blur {name}: the store has no such class, only {', '.join(known) or 'none yet'}")


@dataclass(frozen=True)
class _Known:
    """Where an object was at one time."""

    pts_ns: int
    box_xyxy: tuple[float, float, float, float]
    mask: bytes | None


class Blur:
    """Hides objects of chosen classes on the frames of one video, asked for in order of time."""

    def __init__(self, store: Store, video: Video, class_names: Iterable[str] = (), start_ns: int = 0) -> None:
        """Prepare; the store's own setting always counts besides `class_names`. Frames begin at `start_ns`."""
        names = tuple(sorted({*class_names, *hidden_classes(store)}))
        self._active = bool(names)
        if not names:
            return
        self._size = video.width_px, video.height_px
        self._processed = _processed(store, video)
        self._spans = _spans(store, video.video_id, names)
        # Nothing older tells where an object is.
        since = video.time_at(max(0, start_ns - _GAP_NS)) - timedelta(microseconds=1) if start_ns else None
        where = Filter(video_id=video.video_id, class_names=names, t0=since)
        self._rows = (row for batch in store.observations(where, list(_COLUMNS)) for row in batch.to_pylist())
        self._next = next(self._rows, None)
        self._tracks: dict[str, deque[_Known]] = {}

    def apply(self, image_rgb: ImageArray, pts_ns: int) -> None:
        """Pixelate what is to be hidden on the frame at `pts_ns`, in place."""
        if not self._active:
            return
        self._follow(pts_ns)
        hidden = {track_id: list(self._regions(known, pts_ns)) for track_id, known in self._tracks.items()}
        lost = any(not hidden.get(track_id) for track_id in self._spans.at(pts_ns))
        if lost or not self._processed.at(pts_ns):
            height, width = image_rgb.shape[:2]
            pixelate(image_rgb, (0, 0, width, height))
            return
        for regions in hidden.values():
            for box, mask in regions:
                pixelate(image_rgb, box, mask)

    def _follow(self, pts_ns: int) -> None:
        """Read on until every object's next place is known, and forget what is past."""
        while self._next is not None and self._next["pts_ns"] <= pts_ns + _GAP_NS:
            row = self._next
            box = (row["x1_px"], row["y1_px"], row["x2_px"], row["y2_px"])
            self._tracks.setdefault(row["track_id"], deque()).append(_Known(row["pts_ns"], box, row["mask"]))
            self._next = next(self._rows, None)
        for track_id, known in list(self._tracks.items()):
            while len(known) > 1 and known[1].pts_ns <= pts_ns:
                known.popleft()
            if known[-1].pts_ns < pts_ns - _GAP_NS:
                del self._tracks[track_id]

    def _regions(self, known: deque[_Known], pts_ns: int) -> Iterator[tuple[tuple[int, int, int, int], Mask | None]]:
        """Boxes to hide, each with the mask that narrows it, if one can be trusted."""
        first = known[0]
        if first.pts_ns == pts_ns:
            mask = None if first.mask is None else Mask.from_bytes(first.mask)
            if mask is None or not _lies_in(mask, first.box_xyxy):
                yield self._widened([first.box_xyxy], _BOX_MARGIN), None
            if mask is not None:
                grown = _grown(mask)
                x1, y1, x2, y2 = (round(float(v)) for v in grown.box_xyxy)
                yield (x1, y1, x2, y2), grown
            return
        after = known[1] if len(known) > 1 else None
        boxes = [one.box_xyxy for one in (first, after) if one and abs(one.pts_ns - pts_ns) <= _EDGE_NS]
        if first.pts_ns < pts_ns and after is not None and after.pts_ns - first.pts_ns <= _GAP_NS:
            boxes = [first.box_xyxy, after.box_xyxy]
        if boxes:
            yield self._widened(boxes, _BOX_MARGIN), None

    def _widened(self, boxes: Sequence[Sequence[float]], margin: float) -> tuple[int, int, int, int]:
        """The box around boxes and a margin."""
        corners = np.array(boxes)
        low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        room = np.maximum(margin * (high - low), _MIN_CELL_PX / 2)
        x1, y1 = np.floor(low - room).astype(int).tolist()
        x2, y2 = np.ceil(high + room).astype(int).tolist()
        return x1, y1, x2, y2


def pixelate(image_rgb: ImageArray, box_xyxy: tuple[int, int, int, int], mask: Mask | None = None) -> None:
    """Replace what lies in a box, or in a mask with this extent, by a few cells of one colour each, in place.

    A cell's colour is the mean of its pixels, in `_LEVELS` steps: nothing else of them is left.
    """
    height, width = image_rgb.shape[:2]
    left, top, right, bottom = box_xyxy
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x2 <= x1 or y2 <= y1:
        return
    region = image_rgb[y1:y2, x1:x2]
    cell = max(_MIN_CELL_PX, -(-max(x2 - x1, y2 - y1) // _CELLS))
    cells = max(1, (x2 - x1) // cell), max(1, (y2 - y1) // cell)
    few = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
    step = 256 // _LEVELS
    few = few // step * step + step // 2
    mosaic = cv2.resize(few, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
    if mask is None:
        region[:] = mosaic
    else:
        inside = mask.crop[y1 - top : y2 - top, x1 - left : x2 - left]
        region[inside] = mosaic[inside]


def _grown(mask: Mask) -> Mask:
    height, width = mask.crop.shape
    room = max(_MIN_CELL_PX // 2, round(_MARGIN * max(height, width)))
    wide = np.pad(mask.crop.astype(np.uint8), room)
    # A square: OpenCV takes it apart into rows and columns, and corners hidden too much do no harm.
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * room + 1, 2 * room + 1))
    return Mask(mask.x_px - room, mask.y_px - room, cv2.dilate(wide, square).astype(np.bool_))


def _lies_in(mask: Mask, box_xyxy: Sequence[float]) -> bool:
    a, b = mask.box_xyxy.astype(np.float64), np.array(box_xyxy)
    shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return bool(shared >= _TRUSTED_IOU * union)


@dataclass(frozen=True)
class _Intervals:
    """Named intervals of presentation time, both ends among them: `bounds` (N, 2)."""

    names: Sequence[str]
    bounds: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> _Intervals:
        bounds = np.array([(row["first_ns"], row["last_ns"]) for row in rows], dtype=np.int64).reshape(-1, 2)
        return cls([row["name"] for row in rows], bounds)

    def at(self, pts_ns: int) -> set[str]:
        """Names of those that hold a time."""
        held = (self.bounds[:, 0] <= pts_ns) & (pts_ns <= self.bounds[:, 1])
        return {self.names[int(i)] for i in np.flatnonzero(held)}


def _processed(store: Store, video: Video) -> _Intervals:
    """What of a video was processed."""
    rows = store.query(
        "select chunk_id as name, start_ns as first_ns, end_ns - 1 as last_ns from chunks"
        " where video_id = $video_id and state = 'done' order by start_ns",
        {"video_id": video.video_id},
    ).to_pylist()
    for row in rows:
        # Who reads to a video's duration reads to its last frame, which may lie beyond.
        if row["last_ns"] + 1 >= round(video.duration_s * NS):
            row["last_ns"] = np.iinfo(np.int64).max
    return _Intervals.of(rows)


def _spans(store: Store, video_id: str, class_names: Sequence[str]) -> _Intervals:
    """From when to when each track of these classes must have observations, tracklet by tracklet."""
    rows = store.query(
        "select k.track_id as name, t.pts0_ns as first_ns, t.pts1_ns as last_ns"
        " from tracklets t join track_links k on k.tracklet_id = t.tracklet_id and k.source_id = t.source_id"
        " where t.video_id = $video_id and t.class_name = any($class_names) and t.n_observations > 0"
        " and k.version = (select max(version) from track_links where source_id = t.source_id)",
        {"video_id": video_id, "class_names": list(class_names)},
    )
    return _Intervals.of(rows.to_pylist())
