"""Stored masks -> how much an object's shape changes, for machines that stand and work.

A mask is compared with the same object's mask one speed window earlier; what counts is the area that changed, after a
thin seam along the edges is taken off: a segmenter's edges tremble, an arm moves by more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from flows.mask import Mask
from flows.schema import TIMESTAMP, BoolArray

CHANGES = pa.schema(
    [
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("change", pa.float64(), nullable=False),
    ]
)
"""Share of the mask's area that changed within the window about `ts`."""

MASK_COLUMNS = ("track_id", "ts", "mask")
STEPS = 4
"""Masks compared per window: enough for a pause of one window to be seen, few enough for hours of video."""
_SEAM = 0.02
"""Width of the seam that is taken off, as a share of the object's size (root of its area), and at least 2 pixels."""


def mask_changes(batches: Iterable[pa.RecordBatch], window_us: int) -> pa.Table:
    """The changes of masks.

    Args:
        batches: of `track_observations` with `MASK_COLUMNS`, by time within each track.
        window_us: over how long changes are taken.

    Returns:
        Schema `CHANGES`.
    """
    step_us = max(window_us // STEPS, 1)
    recent: dict[str, deque[tuple[int, Mask]]] = {}
    rows: list[tuple[str, int, float]] = []
    for batch in batches:
        for track_id, t_us, mask in _thinned(batch, step_us):
            earlier = recent.setdefault(track_id, deque(maxlen=STEPS))
            if earlier and t_us // step_us == earlier[-1][0] // step_us:
                continue  # the batch before ended within this step
            while earlier and not 0 < t_us - earlier[0][0] <= 2 * window_us:
                earlier.popleft()  # it was hidden for a while, or another video of the source begins
            now = Mask.from_bytes(mask)
            if len(earlier) == STEPS:
                then_us, then = earlier[0]
                rows.append((track_id, (then_us + t_us) // 2, mask_change(then, now)))
            earlier.append((t_us, now))
    names, times, changes = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([names, pa.array(times, pa.int64()).cast(TIMESTAMP), changes], schema=CHANGES)


def mask_change(before: Mask, now: Mask) -> float:
    """Area that changed between two masks, without the seam, as a share of the mean of their areas."""
    x0, y0 = min(before.x_px, now.x_px), min(before.y_px, now.y_px)
    x1 = max(before.x_px + before.crop.shape[1], now.x_px + now.crop.shape[1])
    y1 = max(before.y_px + before.crop.shape[0], now.y_px + now.crop.shape[0])
    changed = np.zeros((y1 - y0, x1 - x0), dtype=np.bool_)
    for mask in (before, now):
        top, left = mask.y_px - y0, mask.x_px - x0
        changed[top : top + mask.crop.shape[0], left : left + mask.crop.shape[1]] ^= mask.crop
    area = max((before.area_px + now.area_px) / 2, 1.0)
    return float(_opened(changed, max(2, round(_SEAM * area**0.5))).sum() / area)


def _opened(flags: BoolArray, width_px: int) -> BoolArray:
    """What of the flags lies in squares of this width that are all flags (morphological opening)."""
    if min(flags.shape) < width_px:
        return np.zeros_like(flags)
    total = np.zeros((flags.shape[0] + 1, flags.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.cumsum(flags, axis=0), axis=1, out=total[1:, 1:])
    w = width_px
    full = total[w:, w:] - total[:-w, w:] - total[w:, :-w] + total[:-w, :-w] == w * w
    opened = np.zeros_like(flags)
    for dy in range(w):
        for dx in range(w):
            opened[dy : dy + full.shape[0], dx : dx + full.shape[1]] |= full
    return opened


def _thinned(batch: pa.RecordBatch, step_us: int) -> Iterator[tuple[str, int, bytes]]:
    """The first row with a mask of every track and step."""
    batch = batch.filter(batch["mask"].is_valid())
    if not batch.num_rows:
        return
    t_us = batch["ts"].cast(pa.int64()).to_numpy()
    track = batch["track_id"].dictionary_encode().indices.to_numpy()
    _, first = np.unique(np.stack([track, t_us // step_us]), axis=1, return_index=True)
    chosen = batch.take(pa.array(np.sort(first)))
    yield from zip(
        chosen["track_id"].to_pylist(),
        chosen["ts"].cast(pa.int64()).to_pylist(),
        chosen["mask"].to_pylist(),
        strict=True,
    )
