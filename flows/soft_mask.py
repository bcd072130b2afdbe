"""Logits -> masks: measured as they are, made at full size only when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from flows.mask import Mask
from flows.schema import BoolArray, FloatArray

# Pieces smaller than this share of a mask's largest piece are specks, not an object cut in two by a pole.
_SPECK = 0.2
# Area and centroid are summed over probes at most this far apart: closer than the outline bends between samples.
_PROBE_PX = 4


@dataclass(frozen=True)
class _Probes:
    """Places spread evenly between samples along one side, and the pixels each stands for."""

    at_px: FloatArray
    weights: FloatArray

    @classmethod
    def between(cls, samples_px: FloatArray) -> _Probes:
        steps = np.diff(samples_px)
        count = max(2, int(np.ceil(steps.max() / _PROBE_PX)))
        within = ((np.arange(count) + 0.5) / count).astype(np.float32)
        return cls((samples_px[:-1, None] + steps[:, None] * within).ravel(), np.repeat(steps / count, count))


@dataclass(frozen=True)
class SoftMask:
    """A mask as the logits SAM 2 made, which are bilinear between their samples and positive inside.

    Box, centroid and area are those of the mask at full size to about a pixel, at a fraction of its price; whatever
    needs pixels (`full_size`, `to_bytes`) makes them once.

    `logits` (h, w) float32 are values at the rows `ys_px` and columns `xs_px`, in coordinates of pixel centres of the
    frame, strictly rising; the first and last of each bound the mask. At least one value is positive.
    """

    logits: FloatArray
    ys_px: FloatArray
    xs_px: FloatArray

    @cached_property
    def box_xyxy(self) -> FloatArray:
        """Extent of the mask, (4,) float32 pixels."""
        x1, x2 = _extent(self.logits, self.ys_px, self.xs_px)
        y1, y2 = _extent(self.logits.T, self.xs_px, self.ys_px)
        return np.array([x1, y1, x2, y2], dtype=np.float32)

    @property
    def area_px(self) -> int:
        """Number of pixels inside."""
        inside, rows, columns = self._probed
        return max(round(float(rows.weights @ inside @ columns.weights)), 1)

    @property
    def sureness(self) -> float:
        """Mean of the logits inside."""
        return float(self.logits[self.logits > 0].mean())

    @property
    def centroid_xy(self) -> FloatArray:
        """Centre of mass, (2,) float32 pixels from the upper left corner of the frame."""
        inside, rows, columns = self._probed
        x = rows.weights @ inside @ (columns.weights * columns.at_px)
        y = (rows.weights * rows.at_px) @ inside @ columns.weights
        # Pixel centres lie half a pixel off the corner that boxes are measured from.
        area = max(float(rows.weights @ inside @ columns.weights), 1e-6)
        return np.array([x / area + 0.5, y / area + 0.5], dtype=np.float32)

    @cached_property
    def _probed(self) -> tuple[FloatArray, _Probes, _Probes]:
        """Whether each probe lies inside (1) or not (0)."""
        rows, columns = _Probes.between(self.ys_px), _Probes.between(self.xs_px)
        return (self._at(rows.at_px, columns.at_px) > 0).astype(np.float32), rows, columns

    def _at(self, ys_px: FloatArray, xs_px: FloatArray) -> FloatArray:
        """Logits at other rows and columns within the bounds."""
        rows, columns = _interpolation(self.ys_px, ys_px), _interpolation(self.xs_px, xs_px)
        return np.asarray(rows @ self.logits @ columns.T, dtype=np.float32)

    def within(self, box_xyxy: FloatArray) -> SoftMask | None:
        """The part inside a box, (4,) pixels; None where nothing is."""
        x1, y1, x2, y2 = (round(float(v)) - 0.5 for v in box_xyxy)
        if y1 <= self.ys_px[0] and x1 <= self.xs_px[0] and y2 >= self.ys_px[-1] and x2 >= self.xs_px[-1]:
            return self
        ys, xs = _cut(self.ys_px, y1, y2), _cut(self.xs_px, x1, x2)
        if ys.size < 2 or xs.size < 2:
            return None
        return _trimmed(self._at(ys, xs), ys, xs)

    @cached_property
    def full_size(self) -> Mask:
        """The mask at the size of the frame, as a crop."""
        x1, y1, x2, y2 = (int(v) for v in self.box_xyxy)
        inside = self._at(np.arange(y1, y2, dtype=np.float32), np.arange(x1, x2, dtype=np.float32)) > 0
        if not inside.any():  # thinner than a pixel, between the centres of two
            inside[inside.shape[0] // 2, inside.shape[1] // 2] = True
        return Mask(x1, y1, inside)

    def full(self, height_px: int, width_px: int) -> BoolArray:
        """The mask at the size of the frame, (height, width) bool."""
        return self.full_size.full(height_px, width_px)

    def to_bytes(self) -> bytes:
        """Stored form, see `Mask.to_bytes`."""
        return self.full_size.to_bytes()


def soft_mask(logits: FloatArray, height_px: int, width_px: int) -> SoftMask | None:
    """The mask in the logits (h, w) of a whole frame, without specks; None where no logit is positive."""
    inside = logits > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if rows.size == 0:
        return None
    ys, y = _samples(rows, logits.shape[0], height_px)
    xs, x = _samples(columns, logits.shape[1], width_px)
    cropped = logits[y[:, None], x]
    return _trimmed(_specks_turned(cropped, cropped > 0), ys, xs)


def sampled_mask(
    logits: FloatArray, ys_px: FloatArray, xs_px: FloatArray, height_px: int, width_px: int
) -> SoftMask | None:
    """The mask in logits (h, w) at rows and columns of a frame, which may lie beyond it; as `soft_mask` otherwise."""
    inside = logits > 0
    if not inside.any():
        return None
    mask = _trimmed(_specks_turned(logits, inside), ys_px, xs_px)
    mask = mask and mask.within(np.array([0, 0, width_px, height_px], dtype=np.float32))
    # What begins behind the centres of the last pixels has none of them.
    return mask if mask and (mask.box_xyxy[:2] < (width_px, height_px)).all() else None


def _samples(positive: npt.NDArray[np.intp], count: int, length_px: int) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Places and indices of the samples along a side of the frame from one before the positive ones to one after.

    Places have half-pixel centres, as SAM 2 upsamples. Beyond the outermost of all samples, up to the frame's edge,
    values stay what they are.
    """
    index = np.arange(positive[0] - 1, positive[-1] + 2)
    places = np.clip((index + 0.5) * (length_px / count) - 0.5, -0.5, length_px - 0.5)
    return places.astype(np.float32), np.clip(index, 0, count - 1)


def _trimmed(logits: FloatArray, ys_px: FloatArray, xs_px: FloatArray) -> SoftMask | None:
    """The mask with no more than one sample on each side of the positive ones; None where there are none."""
    rows, columns = (np.flatnonzero((logits > 0).any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return None
    y, x = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    return SoftMask(np.ascontiguousarray(logits[y, x]), ys_px[y], xs_px[x])


def _extent(logits: FloatArray, ys_px: FloatArray, xs_px: FloatArray) -> tuple[int, int]:
    """First and last + 1 column of pixels inside."""
    rows = _interpolation(ys_px, np.arange(np.ceil(ys_px[0]), ys_px[-1] + 1e-3, dtype=np.float32))
    x1 = int(np.floor(_edge(logits, rows, xs_px))) + 1
    # Seen in a mirror, the last column is the first.
    return x1, max(int(np.ceil(-_edge(logits[:, ::-1], rows, -xs_px[::-1]))), x1 + 1)


def _edge(logits: FloatArray, rows: FloatArray, xs_px: FloatArray) -> float:
    """Where, going right, the first row of pixels becomes positive; `rows` interpolates logits on rows of pixels."""
    first = int(np.flatnonzero((logits > 0).any(axis=0))[0])
    for right in (first, first + 1):
        if right < len(xs_px) and ((on_pixels := rows @ logits[:, max(right - 1, 0) : right + 1])[:, -1] > 0).any():
            return _crossing(on_pixels, xs_px, right)
    return _crossing(logits[:, max(first - 1, 0) : first + 1], xs_px, first)  # too thin to meet a row of pixels


def _crossing(columns: FloatArray, xs_px: FloatArray, right: int) -> float:
    """Where the first row becomes positive on the way to column `right`; the columns are that one and its left."""
    if right == 0:
        return float(xs_px[0])
    outer, inner = columns[columns[:, -1] > 0].T
    share = np.clip(inner / (inner - outer), None, 1)  # positive on the left as well: it begins there at the latest
    return float(xs_px[right] - (xs_px[right] - xs_px[right - 1]) * np.where(outer > 0, 1, share).max())


def _cut(samples_px: FloatArray, low_px: float, high_px: float) -> FloatArray:
    low, high = max(low_px, samples_px[0]), min(high_px, samples_px[-1])
    if low >= high:
        return np.zeros(0, dtype=np.float32)
    kept = samples_px[(samples_px > low) & (samples_px < high)]
    return np.concatenate([[low], kept, [high]]).astype(np.float32)


def _interpolation(samples_px: FloatArray, at_px: FloatArray) -> FloatArray:
    """Weights (to, from) of linear interpolation from samples to places between them."""
    left = np.clip(np.searchsorted(samples_px, at_px, side="right") - 1, 0, len(samples_px) - 2)
    share = (at_px - samples_px[left]) / (samples_px[left + 1] - samples_px[left])
    weights = np.zeros((len(at_px), len(samples_px)), dtype=np.float32)
    row = np.arange(len(at_px))
    weights[row, left], weights[row, left + 1] = 1 - share, share
    return weights


def _specks_turned(logits: FloatArray, inside: BoolArray) -> FloatArray:
    """The logits with those of specks turned negative."""
    kept = _without_specks(inside)
    return logits if kept is inside else np.where(inside & ~kept, -logits, logits)


def _without_specks(inside: BoolArray) -> BoolArray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    if count <= 2:
        return inside
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= _SPECK * areas.max())
    return np.isin(labels, kept)
