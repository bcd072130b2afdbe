"""Predicted boxes + detections -> pairs: one assignment, optimal over all objects of a keyframe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from flows.appearance import DISTANCE2_PER_DIFFERENCE, LIKE
from flows.schema import Float64Array, FloatArray

FORBIDDEN = 1e6
"""Cost of a pair that must not be."""
# A detector confuses car and truck on one object; a different class needs this much overlap to be the same object.
_OTHER_CLASS_IOU = 0.5
# ... and loses against a detection of the right class that overlaps by this much less.
_OTHER_CLASS_PENALTY = 0.3
# What a detection at the gate's edge costs against one at its centre, in units of overlap: overlap decides between
# close candidates, motion where nothing overlaps.
_MOTION_WEIGHT = 0.5
# Looks of one person differ by 0.05 and those of two by 0.2 (medians, PETS09): this makes that worth 0.6 of overlap.
APPEARANCE_WEIGHT = 4.0
# Where boxes do not overlap, what is so many times as large or as small is another object: motion that nothing was seen
# of leads far, and to people who look alike.
# Of 20 right matches of that kind (scenes, PETS09, TUD-Campus) 19 differ by less than 1.5.
_SIZE_RATIO = 1.7


@dataclass(frozen=True)
class Candidate:
    """One live object as the assignment sees it.

    `overlap` (D,): IoU of each detection with where the object should be. `distance2` (D,): squared Mahalanobis
    distance of each from its prediction. `difference` (D,): of each one's looks from the object's, 0 to 1. `size_ratio`
    (D,): of the larger to the smaller of the two, by their longer sides. `spread`: standard deviation of where it
    should be, in sizes of the object.
    """

    class_name: str
    overlap: Float64Array
    distance2: Float64Array
    difference: FloatArray
    size_ratio: Float64Array
    spread: float


def iou_matrix(a_xyxy: FloatArray, b_xyxy: FloatArray) -> Float64Array:
    """Intersection over union of every box in a (N, 4) with every box in b (M, 4), shape (N, M)."""
    return iou(*_every_pair(a_xyxy, b_xyxy))


def iou(a_xyxy: npt.NDArray[np.floating], b_xyxy: npt.NDArray[np.floating]) -> Float64Array:
    """Intersection over union of boxes in a (..., 4) with those beside them in b (..., 4)."""
    shared = _shared(a_xyxy, b_xyxy)
    return shared / np.maximum(_area(a_xyxy) + _area(b_xyxy) - shared, 1e-9)


def within(a_xyxy: npt.NDArray[np.floating], b_xyxy: npt.NDArray[np.floating]) -> Float64Array:
    """Intersection over the smaller of boxes in a (..., 4) and those beside them in b (..., 4)."""
    return _shared(a_xyxy, b_xyxy) / np.maximum(np.minimum(_area(a_xyxy), _area(b_xyxy)), 1e-9)


def coverage(inner_xyxy: FloatArray, outer_xyxy: FloatArray) -> Float64Array:
    """Share of each box in inner (N, 4) that lies inside each box in outer (M, 4), shape (N, M)."""
    inner, outer = _every_pair(inner_xyxy, outer_xyxy)
    return _shared(inner, outer) / np.maximum(_area(inner), 1e-9)


def _every_pair(a_xyxy: FloatArray, b_xyxy: FloatArray) -> tuple[Float64Array, Float64Array]:
    a, b = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a_xyxy, b_xyxy))
    return a[:, None], b[None]


def _shared(a_xyxy: npt.NDArray[np.floating], b_xyxy: npt.NDArray[np.floating]) -> Float64Array:
    corner0 = np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    corner1 = np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    return np.asarray(np.clip(corner1 - corner0, 0, None).prod(axis=-1), dtype=np.float64)


def _area(boxes_xyxy: npt.NDArray[np.floating]) -> Float64Array:
    return np.asarray((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(axis=-1), dtype=np.float64)


def associate(
    candidates: Sequence[Candidate],
    class_names: Sequence[str],
    *,
    min_iou: float,
    gate: float,
    led_gate: float,
    max_difference: float = 1.0,
) -> list[tuple[int, int]]:
    """Pairs (candidate, detection) that cost least together.

    A pair is possible where the boxes overlap, or where the detection lies inside the gate of the object's motion, is
    about as large and looks like it, and all of that together speaks for it: the wider the place where the object may
    be by now, the less it says that something alike is there. A pair costs what is missing of the overlap, its distance
    from the prediction, and its different looks.

    Args:
        candidates: N live objects.
        class_names: Classes of D detections.
        min_iou: Overlap that makes a pair possible, wherever motion expects the object.
        gate: Largest squared Mahalanobis distance that makes a pair possible where boxes do not overlap.
        led_gate: Largest sum of that distance, the distance of looks and the log of the place's size for the same.
        max_difference: Of looks, of the pairs that are possible at all.
    """
    if not candidates or len(class_names) == 0:
        return []
    same = np.array([[c.class_name == name for name in class_names] for c in candidates])
    overlap, distance2, difference, size_ratio = (
        np.stack([getattr(c, name) for c in candidates])
        for name in ("overlap", "distance2", "difference", "size_ratio")
    )
    overlaps = overlap >= np.where(same, min_iou, max(min_iou, _OTHER_CLASS_IOU))
    # Log determinant of that place, over that of one as wide as the object. So all of 37 right pairs whose boxes are
    # apart (scenes, PETS09) are inside the gate of 0.999; the worst wrong one, seconds later and sizes away, is not.
    place = 4 * np.log([[c.spread] for c in candidates])
    led = same & (distance2 <= gate) & (difference <= LIKE) & (size_ratio <= _SIZE_RATIO)
    led &= distance2 + DISTANCE2_PER_DIFFERENCE * difference + place <= led_gate
    cost = 1 - overlap + _MOTION_WEIGHT * np.minimum(distance2 / gate, 1) + np.where(same, 0, _OTHER_CLASS_PENALTY)
    possible = (overlaps | led) & (difference <= max_difference)
    return assign(np.where(possible, cost + APPEARANCE_WEIGHT * difference, FORBIDDEN))


def assign(cost: Float64Array) -> list[tuple[int, int]]:
    """Cheapest one-to-one assignment (Kuhn 1955); pairs that cost `FORBIDDEN` are left out."""
    if cost.size == 0:
        return []
    rows, columns = linear_sum_assignment(cost)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cost[i, j] < FORBIDDEN]
