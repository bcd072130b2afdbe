"""Pictures in which objects of chosen classes cannot be recognised: pixelated before anything is drawn or encoded.

What is not known is hidden, not shown. A mask decides where it is stored and reaches over the object's box; else the
box with a margin, so for hidden (`bridged`) objects; on a frame between two observations, or within half a second of
the first and the last, the box around both neighbours and as far as the object may have got. Where a tracklet should
have observations and has none (they were pruned, marked wrong or not stitched yet), or where the newest settings have
no chunk done, the whole frame is pixelated. What was never tracked cannot be hidden.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np

from flows.finished import current_chunks
from flows.mask import Mask
from flows.schema import NS, ImageArray, Video
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
_PACE_PER_S = 1.0
"""How far an object may get from where it was seen, in its sizes a second: who walks makes about one."""

_EDGE_NS = NS // 2
"""How long before its first and after its last observation an object is taken to be where that was."""
_GAP_NS = 10 * NS
"""An object not seen for longer than this has left in between; it is not taken to be on the way."""

_RUN_PREFIX = "privacy-"
"""The setting is the newest run so named: it needs no table, and who hid what since when stays on record."""

_Region = tuple[tuple[int, int, int, int], bytes | None]
"""A box, and the stored mask that narrows it once it is widened."""

_COLUMNS = ("pts_ns", "track_id", "tracklet_id", "class_name", "x1_px", "y1_px", "x2_px", "y2_px", "mask")


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
        chunks = _processed(store, video)
        self._processed = _Intervals.of(chunks)
        spans, classes = _spans(store, [row["name"] for row in chunks], names)
        self._spans = _Intervals.of(spans)
        # Nothing older tells where an object is.
        since = video.time_at(max(0, start_ns - _GAP_NS)) - timedelta(microseconds=1) if start_ns else None
        where = Filter(video_id=video.video_id, class_names=classes, t0=since)
        self._rows = (
            row
            for batch in store.observations(where, list(_COLUMNS))
            for row in batch.to_pylist()
            if row["class_name"] in names or row["tracklet_id"] in self._spans.known
        )
        self._next = next(self._rows, None)
        self._objects: dict[str, deque[_Known]] = {}

    def apply(self, image_rgb: ImageArray, pts_ns: int) -> None:
        """Pixelate what is to be hidden on the frame at `pts_ns`, in place."""
        if not self._active:
            return
        self._follow(pts_ns)
        hidden = {name: list(self._regions(known, pts_ns)) for name, known in self._objects.items()}
        lost = any(not hidden.get(tracklet_id) for tracklet_id in self._spans.at(pts_ns))
        if lost or not self._processed.at(pts_ns):
            height, width = image_rgb.shape[:2]
            pixelate(image_rgb, (0, 0, width, height))
            return
        # A tracklet's region is its track's as well, except between two tracklets.
        for box, mask in dict.fromkeys(region for regions in hidden.values() for region in regions):
            pixelate(image_rgb, box, None if mask is None else _grown(mask))

    def _follow(self, pts_ns: int) -> None:
        """Read on until every object's next place is known, and forget what is past."""
        while self._next is not None and self._next["pts_ns"] <= pts_ns + _GAP_NS:
            row = self._next
            box = (row["x1_px"], row["y1_px"], row["x2_px"], row["y2_px"])
            one = _Known(row["pts_ns"], box, row["mask"])
            # By track for what lies between two of its tracklets; by tracklet, lest of two at once one hides the other.
            for name in (row["track_id"], row["tracklet_id"]):
                self._objects.setdefault(name, deque()).append(one)
            self._next = next(self._rows, None)
        for name, known in list(self._objects.items()):
            while len(known) > 1 and known[1].pts_ns <= pts_ns:
                known.popleft()
            if known[-1].pts_ns < pts_ns - _GAP_NS:
                del self._objects[name]

    def _regions(self, known: deque[_Known], pts_ns: int) -> Iterator[_Region]:
        """What to hide of an object."""
        first = known[0]
        if first.pts_ns == pts_ns:
            if first.mask is None:
                yield self._widened([first.box_xyxy], 0.0), None
                return
            x1, y1, x2, y2 = (round(float(v)) for v in _grown(first.mask).box_xyxy)
            yield (x1, y1, x2, y2), first.mask
            left, top, right, bottom = first.box_xyxy
            if left < x1 or top < y1 or right > x2 or bottom > y2:
                yield self._widened([first.box_xyxy], 0.0), None
            return
        after = known[1] if len(known) > 1 else None
        seen = [one for one in (first, after) if one and abs(one.pts_ns - pts_ns) <= _EDGE_NS]
        if first.pts_ns < pts_ns and after is not None and after.pts_ns - first.pts_ns <= _GAP_NS:
            seen = [first, after]
        if seen:
            away_s = min(abs(one.pts_ns - pts_ns) for one in seen) / NS
            yield self._widened([one.box_xyxy for one in seen], away_s), None

    def _widened(self, boxes: Sequence[Sequence[float]], away_s: float) -> tuple[int, int, int, int]:
        """The box around boxes, a margin, and as far as the object gets in this time."""
        corners = np.array(boxes)
        low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        pace = _PACE_PER_S * away_s * (corners[:, 2:] - corners[:, :2]).max()
        room = np.maximum(_BOX_MARGIN * (high - low), _MIN_CELL_PX / 2) + pace
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
        # Five times as quick as an index of booleans.
        region[:] = cv2.copyTo(mosaic, inside.astype(np.uint8), region.copy())


# Asked for by track, by tracklet and when it is drawn; 256 masks are those of a frame.
@lru_cache(maxsize=256)
def _grown(stored: bytes) -> Mask:
    """A stored mask, widened."""
    mask = Mask.from_bytes(stored)
    height, width = mask.crop.shape
    room = max(_MIN_CELL_PX // 2, round(_MARGIN * max(height, width)))
    wide = np.pad(mask.crop.astype(np.uint8), room)
    # A square: OpenCV takes it apart into rows and columns, and corners hidden too much do no harm.
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * room + 1, 2 * room + 1))
    return Mask(mask.x_px - room, mask.y_px - room, cv2.dilate(wide, square).astype(np.bool_))


@dataclass(frozen=True)
class _Intervals:
    """Named intervals of presentation time, both ends among them: `bounds` (N, 2)."""

    names: Sequence[str]
    bounds: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> _Intervals:
        bounds = np.array([(row["first_ns"], row["last_ns"]) for row in rows], dtype=np.int64).reshape(-1, 2)
        return cls([row["name"] for row in rows], bounds)

    @cached_property
    def known(self) -> frozenset[str]:
        """All names."""
        return frozenset(self.names)

    def at(self, pts_ns: int) -> set[str]:
        """Names of those that hold a time."""
        held = (self.bounds[:, 0] <= pts_ns) & (pts_ns <= self.bounds[:, 1])
        return {self.names[int(i)] for i in np.flatnonzero(held)}


def _processed(store: Store, video: Video) -> list[dict[str, Any]]:
    """What of a video was processed, as what is read of it; `name` is the chunk's id."""
    rows = [
        {"name": chunk["chunk_id"], "first_ns": chunk["start_ns"], "last_ns": chunk["end_ns"] - 1}
        for chunk in current_chunks(store, video.source_id, video.video_id)
    ]
    for row in rows:
        # Who reads to a video's duration reads to its last frame, which may lie beyond.
        if row["last_ns"] + 1 >= round(video.duration_s * NS):
            row["last_ns"] = np.iinfo(np.int64).max
    return rows


def _spans(
    store: Store, chunk_ids: Sequence[str], class_names: Sequence[str]
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """From when to when each tracklet to be hidden must have observations, and the classes of these tracklets.

    To be hidden is a tracklet of these classes, in a track or not yet, and one joined in a track with such a one.
    """
    rows = store.query(
        # A tracklet's ends reach into its neighbours' frames, where others' observations are stored.
        "select t.tracklet_id as name, k.track_id, t.class_name, greatest(t.pts0_ns, c.start_ns) as first_ns,"
        " least(t.pts1_ns, c.end_ns - 1) as last_ns from tracklets t join chunks c on c.chunk_id = t.chunk_id"
        " left join newest_links k on k.tracklet_id = t.tracklet_id and k.source_id = t.source_id"
        # What no track took up, being too weak, is nobody.
        " where t.chunk_id = any($chunk_ids) and t.n_observations > 0"
        " and (k.track_id is not null or coalesce(t.confirmed, true))",
        {"chunk_ids": list(chunk_ids)},
    ).to_pylist()
    tracks = {row["track_id"] for row in rows if row["class_name"] in class_names} - {None}
    hidden = [row for row in rows if row["class_name"] in class_names or row["track_id"] in tracks]
    return hidden, tuple(sorted({*class_names, *(row["class_name"] for row in hidden)}))
