"""What speaks for a detection being a live object: place, motion, optical flow from both sides, looks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flows.appearance import LIKE, describe, difference
from flows.associate import Candidate, coverage, iou, iou_matrix
from flows.camera_motion import STILL, Affine, compose, inverse, warp_box
from flows.carried import at_edge, shows_part
from flows.optical import Flow
from flows.schema import BoolArray, Float64Array, FloatArray, Frame, ImageArray
from flows.target import Target

# A box covered by another's to more than this share shows, in part, the other object.
_CLEAR_COVERAGE = 0.3
# Boxes that end this near to the frame's edge, as a share of its side, are cut by it.
_CUT = 0.01
# Deviation of a box's edges after an interval of optical flow, as a share of its size, beside what both ends differ by.
_FLOW_SIGMA = 0.1

# What looks are taken to differ by where they are not known: between what those of one object do and those of two.
_UNKNOWN_DIFFERENCE = 0.1


@dataclass(frozen=True)
class Evidence:
    """Of every detection (D) on a keyframe for every object (N).

    `overlap` (N, D): IoU with where the object should be. `looks` (D, L): descriptions. `clear` (D,): whether a
    detection shows its object alone, `whole` (D,) all of it.
    """

    overlap: Float64Array
    looks: FloatArray
    clear: BoolArray
    whole: BoolArray


class Flown(NamedTuple):
    """Where flow says an object was: `box_xyxy` (4,) pixels, and the deviation of its edges as a share of its size."""

    number: int
    pts_ns: int
    box_xyxy: FloatArray
    sigma: float


class Cues:
    """Weighs the detections of one keyframe after another; keeps the frames since the last one for optical flow."""

    def __init__(self) -> None:
        self._flow = Flow()
        self._frames: list[tuple[int, int]] = []
        self._before: dict[int, FloatArray] = {}
        self._origins: dict[int, FloatArray] = {}
        self._view = STILL
        self._forth: dict[int, FloatArray] = {}
        self._back = np.empty((0, 0, 4), dtype=np.float32)

    def push(self, frame: Frame) -> None:
        """Take the next frame."""
        self._flow.push(frame.image_rgb)
        self._frames.append((frame.number, frame.pts_ns))

    def evidence(
        self,
        image_rgb: ImageArray,
        boxes_xyxy: FloatArray,
        targets: Sequence[Target],
        masks_trusted: bool,
        view: Affine | None = None,
    ) -> Evidence:
        """Weigh the detections (D, 4) on the newest frame for these objects.

        `view` is how the chunk's first frame is seen on it, None where nobody follows the camera.
        """
        self._follow_camera(targets, view)
        self._forth, self._back = {}, self._flow.carry_back(boxes_xyxy)
        overlap = iou_matrix(np.array([t.box_xyxy for t in targets]), boxes_xyxy)
        if masks_trusted:
            for row, target in zip(overlap, targets, strict=True):
                if target.segment is not None:
                    np.maximum(row, iou_matrix(target.segment.box_xyxy[None], boxes_xyxy)[0], out=row)
        flown = [i for i, t in enumerate(targets) if t.target_id in self._before]
        if flown:
            before = np.stack([self._before[targets[i].target_id] for i in flown])
            forth = self._flow.carry(before)
            self._forth = {targets[i].target_id: forth[:, row] for row, i in enumerate(flown)}
            overlap[flown] = np.maximum(overlap[flown], _meeting(forth, self._back, image_rgb.shape[1::-1]))
        whole = ~shows_part(boxes_xyxy, image_rgb.shape[1::-1])
        return Evidence(overlap, describe(image_rgb, boxes_xyxy), _clear(boxes_xyxy), whole)

    def between(self, target_id: int, row: int) -> Iterator[Flown]:
        """Where an object was between the last keyframe and its detection (row) on this one, by flow from both."""
        forth, back = self._forth.get(target_id), self._back[:, row]
        if forth is None:
            return
        for at, share in enumerate(np.linspace(0, 1, len(self._frames))[1:-1], start=1):
            box_xyxy = (1 - share) * forth[at] + share * back[at]
            if np.isfinite(box_xyxy).all():
                apart = float(np.sqrt(np.mean((forth[at] - back[at]) ** 2)) / (box_xyxy[2:] - box_xyxy[:2]).max())
                yield Flown(*self._frames[at], box_xyxy, self._carried(_FLOW_SIGMA + apart / 2))

    def arrival(self, row: int, looks: FloatArray, frames: Iterable[Frame]) -> Iterator[Flown]:
        """Where what is first detected on this keyframe was before it, newest first, while it looks the same.

        Args:
            row: Its detection.
            looks: What it looks like there.
            frames: Those since the last keyframe on which that can be compared.
        """
        return self._alike(self._back[:, row], looks, list(frames)[::-1])

    def departure(self, target_id: int, looks: FloatArray, frames: Iterable[Frame]) -> Iterator[Flown]:
        """Where an object was after the last keyframe, in order of time, if it was seen there and not on this one."""
        forth = self._forth.get(target_id)
        return iter(()) if forth is None else self._alike(forth, looks, frames)

    def _alike(self, boxes_xyxy: FloatArray, looks: FloatArray, frames: Iterable[Frame]) -> Iterator[Flown]:
        at = {pts_ns: i for i, (_, pts_ns) in enumerate(self._frames[1:-1], start=1)}
        for frame in frames:
            if frame.pts_ns not in at:
                continue
            box_xyxy = boxes_xyxy[at[frame.pts_ns]]
            centre, size = (box_xyxy[:2] + box_xyxy[2:]) / 2, frame.image_rgb.shape[1::-1]
            # What was lost is NaN, and inside nothing.
            inside = np.all((centre > 0) & (centre < size))
            if not inside or difference(looks[None], describe(frame.image_rgb, box_xyxy[None]))[0, 0] > LIKE:
                return
            yield Flown(frame.number, frame.pts_ns, box_xyxy, self._carried(_FLOW_SIGMA))

    def _carried(self, sigma: float) -> float:
        """As a deviation of each of many in a row: their errors are one error, carried on from frame to frame."""
        return sigma * float(np.sqrt(len(self._frames) - 1))

    def travelled(self, target: Target) -> float:
        """How far an unconfirmed object is from where a keyframe first showed it, in its sizes, the camera's way apart.

        Where that way could not be told, from where the next keyframe showed it.
        """
        here = self._still(target)
        twice_gone = here[:2] + here[2:] - self._origins.get(target.target_id, here[:2] + here[2:])
        return float(np.hypot(*twice_gone)) / 2 / max(float((here[2:] - here[:2]).max()), 1.0)

    def _follow_camera(self, targets: Sequence[Target], view: Affine | None) -> None:
        if view is not None:
            self._view = view
        elif any(not t.confirmed for t in targets):
            pan = self._flow.pan()
            if pan is None:
                self._origins = {}  # what moved since is not known
            else:
                self._view = compose(self._view, np.column_stack([np.eye(2), pan]))

    def _still(self, target: Target) -> FloatArray:
        """Where it would be if the camera had not moved, (4,) pixels."""
        return warp_box(target.box_xyxy, inverse(self._view))

    def seen(self, targets: Collection[Target]) -> None:
        """The keyframe is through: what was seen on it can be carried to the next by flow."""
        places = {t.target_id: self._still(t) for t in targets if not t.confirmed}
        self._origins = {i: self._origins.get(i, box[:2] + box[2:]) for i, box in places.items()}
        self._before = {t.target_id: t.box_xyxy for t in targets if t.unmatched == 0}
        self._flow.forget()
        del self._frames[:-1]


def _meeting(forth_xyxy: FloatArray, back_xyxy: FloatArray, size_px: tuple[int, int]) -> Float64Array:
    """How well objects carried forth (T, N, 4) and detections carried back (T, D, 4) meet: (N, D), mean IoU.

    From one side alone, what is covered on the way is carried off by what covers it.
    """
    before, after = forth_xyxy[[0, -1], :, None], back_xyxy[[0, -1], None]
    forth = iou(_in_view(before[0], before[1], after[1], size_px), after[1])
    back = iou(before[0], _in_view(after[1], after[0], before[0], size_px))
    # Boxes that were lost on the way are NaN and meet nothing.
    return (np.nan_to_num(forth) + np.nan_to_num(back)) / 2


def _in_view(
    box_xyxy: FloatArray, carried_xyxy: FloatArray, seen_xyxy: FloatArray, size_px: tuple[int, int]
) -> FloatArray:
    """What the frame, of this width and height, shows of a carried box, as it fits best what is seen there.

    All (..., 4). Where the frame's edge cut the box, more of the object may have come into view since: that side is
    anywhere from the edge to where flow carried it.
    """
    limits = np.array([0, 0, *size_px], dtype=np.float32)
    cut = at_edge(box_xyxy, np.array(size_px), _CUT, np.inf)
    low, high = np.minimum(carried_xyxy, limits), np.maximum(carried_xyxy, limits)
    side = np.where(cut, np.clip(seen_xyxy, low, high), carried_xyxy)
    return np.clip(side, 0, np.tile(size_px, 2)).astype(np.float32)


def candidate(
    target: Target, overlap: Float64Array, boxes_xyxy: FloatArray, looks: FloatArray, sigma: float
) -> Candidate:
    """An object as the assignment sees it, given its overlap with D detections (D,), their boxes and looks."""
    distance2 = np.array([target.kalman.distance2(box, sigma) for box in boxes_xyxy])
    own, others = (np.maximum((b[:, 2:] - b[:, :2]).max(axis=1), 1) for b in (target.box_xyxy[None], boxes_xyxy))
    size_ratio = np.maximum(own / others, others / own).astype(np.float64)
    unlike = difference(target.looks.latest[None], looks)[0]
    if not target.looks.known:
        unlike = np.full_like(unlike, _UNKNOWN_DIFFERENCE)
    spread = target.kalman.spread_px / float(own[0])
    return Candidate(target.class_name, overlap, distance2, unlike, size_ratio, spread)


def _clear(boxes_xyxy: FloatArray) -> BoolArray:
    shared = coverage(boxes_xyxy, boxes_xyxy)
    np.fill_diagonal(shared, 0)
    return np.asarray(shared.max(axis=1, initial=0) <= _CLEAR_COVERAGE)
