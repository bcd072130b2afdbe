"""Predicted boxes + detections -> pairs: one assignment, optimal over all objects of a keyframe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from flows.kalman import Float64Array
from flows.schema import FloatArray

FORBIDDEN = 1e6
"""Cost of a pair that must not be."""
# A detector confuses car and truck on one object; a different class needs this much overlap to be the same object.
_OTHER_CLASS_IOU = 0.5
# ... and loses against a detection of the right class that overlaps by this much less.
_OTHER_CLASS_PENALTY = 0.3


@dataclass(frozen=True)
class Candidate:
    """One live object as the assignment sees it.

    `boxes_xyxy` (K, 4): where it may be (its mask's box, its Kalman prediction); the best of them counts.
    `distance2` (D,): squared Mahalanobis distance of every detection from its prediction.
    """

    class_name: str
    boxes_xyxy: FloatArray
    distance2: Float64Array


def iou_matrix(a_xyxy: FloatArray, b_xyxy: FloatArray) -> Float64Array:
    """Intersection over union of every box in a (N, 4) with every box in b (M, 4), shape (N, M)."""
    shared, area_a, area_b = _intersections(a_xyxy, b_xyxy)
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)


def coverage(inner_xyxy: FloatArray, outer_xyxy: FloatArray) -> Float64Array:
    """Share of each box in inner (N, 4) that lies inside each box in outer (M, 4), shape (N, M)."""
    shared, area, _ = _intersections(inner_xyxy, outer_xyxy)
    return shared / np.maximum(area[:, None], 1e-9)


def _intersections(a_xyxy: FloatArray, b_xyxy: FloatArray) -> tuple[Float64Array, Float64Array, Float64Array]:
    a, b = np.asarray(a_xyxy, dtype=np.float64).reshape(-1, 4), np.asarray(b_xyxy, dtype=np.float64).reshape(-1, 4)
    corner0 = np.maximum(a[:, None, :2], b[None, :, :2])
    corner1 = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(corner1 - corner0, 0, None).prod(axis=2)
    return shared, (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)


def associate(
    candidates: Sequence[Candidate],
    boxes_xyxy: FloatArray,
    class_names: Sequence[str],
    *,
    min_iou: float,
    gate: float,
) -> list[tuple[int, int]]:
    """Pairs (candidate, detection), first by overlap, then, for what is left, by motion inside the gate.

    Args:
        candidates: N live objects.
        boxes_xyxy: D detections, (D, 4).
        class_names: Their classes.
        min_iou: Least overlap of the first pass.
        gate: Largest squared Mahalanobis distance of the second pass.
    """
    if not candidates or len(boxes_xyxy) == 0:
        return []
    same = np.array([[c.class_name == name for name in class_names] for c in candidates])
    overlap = np.stack([iou_matrix(c.boxes_xyxy, boxes_xyxy).max(axis=0) for c in candidates])
    least = np.where(same, min_iou, max(min_iou, _OTHER_CLASS_IOU))
    cost = np.where(overlap >= least, 1 - overlap + np.where(same, 0, _OTHER_CLASS_PENALTY), FORBIDDEN)
    pairs = assign(cost)
    free_rows = sorted(set(range(len(candidates))) - {i for i, _ in pairs})
    free_columns = sorted(set(range(len(boxes_xyxy))) - {j for _, j in pairs})
    if not free_rows or not free_columns:
        return pairs
    distance = np.stack([c.distance2 for c in candidates])
    reach = np.where(same & (distance <= gate), distance, FORBIDDEN)[np.ix_(free_rows, free_columns)]
    return pairs + [(free_rows[i], free_columns[j]) for i, j in assign(reach)]


def assign(cost: Float64Array) -> list[tuple[int, int]]:
    """Cheapest one-to-one assignment (Kuhn 1955); pairs that cost `FORBIDDEN` are left out."""
    if cost.size == 0:
        return []
    rows, columns = linear_sum_assignment(cost)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cost[i, j] < FORBIDDEN]
