"""Run lengths of masks without their pixels: from the crops that are stored to the whole frames COCO wants.

Many masks at once, because each has but a few dozen runs. Runs go down the columns, from the left, and begin with one
of pixels outside. Compressed, each is written as its difference from the one two before (from the fourth on), in 5 bits
a letter from "0" on, the lowest first; the sixth bit says that more follow, and the fifth of the last is the sign.
Source: https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c, `rleToString` and `rleFrString`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_HEAD_BYTES = 16
_FIRST_LETTER = ord("0")


def framed(stored: Sequence[bytes], height_px: int, width_px: int) -> list[tuple[bytes, int]]:
    """Compressed run lengths on a whole frame, and the area there, of masks; what lies outside is cut off.

    Args:
        stored: As `Mask.to_bytes` gives them, in run lengths.
        height_px: Of the frame.
        width_px: Of the frame.
    """
    if not stored:
        return []
    n_pixels = height_px * width_px
    heads = np.frombuffer(b"".join(one[:_HEAD_BYTES] for one in stored), dtype="<i4").reshape(-1, 4).astype(np.int64)
    runs, n_runs = decompressed([one[_HEAD_BYTES:] for one in stored])
    mask, place = _counted(n_runs)
    ends = _summed(runs, n_runs)[place % 2 == 1]
    starts, mask = ends - runs[place % 2 == 1], mask[place % 2 == 1]
    # A run that goes on in the next column of the crop does so further down in the frame.
    height = heads[mask, 3]
    first, last = starts // height, (ends - 1) // height
    of, place = _counted(np.maximum(last - first + 1, 0))
    mask, column, height = mask[of], first[of] + place, height[of]
    x, y = heads[mask, 0], heads[mask, 1]
    top = np.maximum(np.maximum(starts[of] - column * height, 0) + y, 0)
    bottom = np.minimum(np.minimum(ends[of] - column * height, height) + y, height_px)
    column += x
    seen = (top < bottom) & (column >= 0) & (column < width_px)
    mask, starts, ends = mask[seen], (column * height_px + top)[seen], (column * height_px + bottom)[seen]
    area = np.bincount(mask, weights=ends - starts, minlength=len(stored)).astype(np.int64)
    # Columns filled from top to bottom are one run.
    apart = (starts[1:] > ends[:-1]) | (mask[1:] > mask[:-1])
    begins, stops = np.append(True, apart)[: len(mask)], np.append(apart, True)[: len(mask)]
    n_seen = np.bincount(mask[begins], minlength=len(stored))
    return list(zip(_written(starts[begins], ends[stops], n_seen, n_pixels), area.tolist(), strict=True))


def _written(starts: Ints, ends: Ints, n_inside: Ints, n_pixels: int) -> list[bytes]:
    """Masks of so many runs inside each, one mask after the other, in compressed form."""
    mask, place = _counted(2 * n_inside + 1)
    bounds = np.full(len(mask), n_pixels)
    final = place == 2 * n_inside[mask]
    bounds[~final] = np.stack([starts, ends], axis=1).ravel()
    runs = np.where(place == 0, bounds, bounds - np.roll(bounds, 1))
    # A mask that ends inside has no run after that.
    kept = ~(final & (runs == 0) & (place > 0))
    return compressed(runs[kept], np.bincount(mask[kept], minlength=len(n_inside)))


def decompressed(counts: Sequence[bytes]) -> tuple[Ints, Ints]:
    """Run lengths of masks from their compressed form, one mask after the other, and how many each has."""
    letters = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - _FIRST_LETTER
    ends = letters & 0x20 == 0
    _, place = _counted(np.diff(np.flatnonzero(ends), prepend=-1))
    starts = np.flatnonzero(place == 0)
    steps = np.add.reduceat((letters & 0x1F) << 5 * place, starts) if len(starts) else letters
    steps -= np.where(letters[ends] & 0x10, np.int64(1) << 5 * (place[ends] + 1), 0)
    owner = np.repeat(np.arange(len(counts)), [len(one) for one in counts])[ends]
    n_runs = np.bincount(owner, minlength=len(counts))
    _, place = _counted(n_runs)
    runs = steps.copy()
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        runs[chain] = _summed(steps[chain], np.bincount(owner[chain], minlength=len(counts)))
    return runs, n_runs


def compressed(runs: Ints, n_runs: Ints) -> list[bytes]:
    """The compressed form of masks, given their run lengths one mask after the other, and how many each has."""
    mask, place = _counted(n_runs)
    steps = np.where(place > 2, runs - np.roll(runs, 2), runs)
    # Letters that a signed number of this size takes.
    wide = np.where(steps < 0, ~steps, steps)
    n_letters: Ints = 1 + np.sum([wide >> bits > 0 for bits in range(4, 62, 5)], axis=0)
    of, place = _counted(n_letters)
    letters = (steps[of] >> 5 * place) & 0x1F
    letters += np.where(place + 1 < n_letters[of], 0x20, 0) + _FIRST_LETTER
    text = letters.astype(np.uint8).tobytes()
    ends = np.cumsum(np.bincount(mask, weights=n_letters, minlength=len(n_runs)).astype(np.int64)).tolist()
    return [text[start:end] for start, end in pairwise([0, *ends])]


def _counted(sizes: Ints) -> tuple[Ints, Ints]:
    """For each of so many members of groups, the group it is in and its place there."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _summed(values: Ints, sizes: Ints) -> Ints:
    """Running sums within groups of these sizes."""
    sums = np.cumsum(values)
    before = np.append(0, sums)[np.cumsum(sizes) - sizes]
    return sums - np.repeat(before, sizes)
