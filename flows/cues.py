"""What speaks for a detection being a live object: place, motion, optical flow from both sides, looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flows.appearance import describe, difference
from flows.associate import Candidate, coverage, iou_matrix
from flows.optical import Flow
from flows.schema import BoolArray, Float64Array, FloatArray, ImageArray
from flows.target import Target

# A box covered by another's to more than this share shows, in part, the other object.
_CLEAR_COVERAGE = 0.3


@dataclass(frozen=True)
class Evidence:
    """Of every detection (D) on a keyframe for every object (N).

    `overlap` (N, D): IoU with where the object should be. `looks` (D, L): descriptions. `clear` (D,): whether a
    detection shows its object alone.
    """

    overlap: Float64Array
    looks: FloatArray
    clear: BoolArray


class Cues:
    """Weighs the detections of one keyframe after another; keeps the frames since the last one for optical flow."""

    def __init__(self) -> None:
        self._flow = Flow()
        self._before: dict[int, FloatArray] = {}

    def push(self, image_rgb: ImageArray) -> None:
        """Take the next frame, (height, width, 3) uint8."""
        self._flow.push(image_rgb)

    def evidence(
        self, image_rgb: ImageArray, boxes_xyxy: FloatArray, targets: Sequence[Target], masks_trusted: bool
    ) -> Evidence:
        """Weigh the detections (D, 4) on the newest frame for these objects."""
        overlap = iou_matrix(np.array([t.box_xyxy for t in targets]), boxes_xyxy)
        if masks_trusted:
            for row, target in zip(overlap, targets, strict=True):
                if target.segment is not None:
                    np.maximum(row, iou_matrix(target.segment.box_xyxy[None], boxes_xyxy)[0], out=row)
        flown = [i for i, t in enumerate(targets) if t.target_id in self._before]
        if flown:
            before = np.stack([self._before[targets[i].target_id] for i in flown])
            overlap[flown] = np.maximum(overlap[flown], self._meeting(before, boxes_xyxy))
        return Evidence(overlap, describe(image_rgb, boxes_xyxy), _clear(boxes_xyxy))

    def seen(self, targets: Iterable[Target]) -> None:
        """The keyframe is through: what was seen on it can be carried to the next by flow."""
        self._before = {t.target_id: t.box_xyxy for t in targets if t.unmatched == 0}
        self._flow.forget()

    def _meeting(self, before_xyxy: FloatArray, boxes_xyxy: FloatArray) -> Float64Array:
        """How well objects seen on the last keyframe and detections meet, carried forth and back: (N, D), mean IoU.

        From one side alone, what is covered on the way is carried off by what covers it.
        """
        forth = iou_matrix(self._flow.carry(before_xyxy)[-1], boxes_xyxy)
        back = iou_matrix(before_xyxy, self._flow.carry_back(boxes_xyxy)[0])
        # Boxes that were lost on the way are NaN and meet nothing.
        return (np.nan_to_num(forth) + np.nan_to_num(back)) / 2


def candidate(
    target: Target, overlap: Float64Array, boxes_xyxy: FloatArray, looks: FloatArray, sigma: float
) -> Candidate:
    """An object as the assignment sees it, given its overlap with D detections (D,), their boxes and looks."""
    distance2 = np.array([target.kalman.distance2(box, sigma) for box in boxes_xyxy])
    return Candidate(target.class_name, overlap, distance2, difference(target.looks.latest[None], looks)[0])


def _clear(boxes_xyxy: FloatArray) -> BoolArray:
    shared = coverage(boxes_xyxy, boxes_xyxy)
    np.fill_diagonal(shared, 0)
    return np.asarray(shared.max(axis=1, initial=0) <= _CLEAR_COVERAGE)
