"""Frames + boxes -> displacements: sparse optical flow, as Median Flow reads it.

A grid of points in every box is followed to the next frame (Lucas and Kanade 1981, pyramidal as in Bouguet 2001) and
back again; points that do not come back to where they started are left out. The median of the rest is the box's
displacement, the median of how their distances from each other grew its growth (Kalal, Mikolajczyk, Matas,
"Forward-Backward Error: Automatic Detection of Tracking Failures", 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.spatial.distance import pdist

from flows.schema import BoolArray, Float64Array, FloatArray, ImageArray

# Points a box: enough for a median, few enough that thirty objects cost what the pyramids cost.
_COLUMNS, _ROWS = 5, 8
# The grid's margin on every side, as a share of the box: boxes' edges show more background than object.
_MARGIN = 0.2
# Larger frames are shrunk to this long side: displacements of objects are measured in shares of their size anyway.
_LONG_SIDE_PX = 1280
# A point that comes back further than this from where it started, in pixels, has been lost.
_LOST_PX = 1.0
# Share of a box's points that must come back.
_LEAST_KEPT = 0.25
# From one frame to the next nothing grows or shrinks by more; where flow says so, something passes through the box.
_GROWTH = (0.975, 1.025)
_LUCAS_KANADE: dict[str, Any] = {
    "winSize": (15, 15),
    "maxLevel": 3,  # follows displacements up to about 60 px
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
}
# A pixel of the coarsest level, and how far from a point it is looked at: half a window and the displacement there.
_COARSEST = 8
_REACH_PX = 128
# How far the picture moved as a whole is measured on frames of this long side: to a fifth of a pixel of theirs.
_SMALL_PX = 320
# The margin of the points that tell, as a share of the picture.
_EDGE = 0.05
# Share of the points that come back that must agree on it: a truck may fill half of the picture.
_LEAST_AGREEING = 0.75


class Flow:
    """The frames since the last keyframe, over which boxes are carried forwards and backwards."""

    def __init__(self) -> None:
        self._frames: list[Grey] = []

    def push(self, image_rgb: ImageArray) -> None:
        """Take the next frame, (height, width, 3) uint8."""
        self._frames.append(Grey.of(image_rgb))

    def pan(self) -> Float64Array | None:
        """How far most of the picture moved since the oldest frame, (2,) pixels; None where that cannot be told."""
        steps = [_panned(before, after) for before, after in pairwise(self._frames)]
        return sum((s for s in steps if s is not None), np.zeros(2)) if all(s is not None for s in steps) else None

    def forget(self) -> None:
        """Forget all frames but the newest."""
        del self._frames[:-1]

    def carry(self, boxes_xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) on the oldest frame, carried to every frame, (T, N, 4) pixels; NaN from where they are lost."""
        return _carry(boxes_xyxy, self._frames)

    def carry_back(self, boxes_xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) on the newest frame, carried back to every frame, (T, N, 4) pixels, oldest first."""
        return _carry(boxes_xyxy, self._frames[::-1])[::-1]


class Grey(NamedTuple):
    """A frame as flow sees it: (h, w) uint8, and h as a share of the frame's height."""

    pixels: ImageArray
    scale: float

    @classmethod
    def of(cls, image_rgb: ImageArray) -> Grey:
        """Of a frame, (height, width, 3) uint8."""
        scale = min(1.0, _LONG_SIDE_PX / max(image_rgb.shape[:2]))
        # Grey first: shrinking is what takes the time, and has a third to do then.
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return cls(grey, scale)


def moved(before: Grey, after: Grey, boxes_xyxy: FloatArray, frames: int = 1) -> FloatArray:
    """Boxes (N, 4) on one frame where they are on another, (N, 4) pixels; NaN where too few points hold.

    `frames` says how many frames of video lie between.
    """
    there = np.full((len(boxes_xyxy), 4), np.nan, dtype=np.float32)
    alive = np.flatnonzero(np.isfinite(boxes_xyxy).all(axis=1))
    if alive.size == 0:
        return there
    points = _grid(np.asarray(boxes_xyxy, dtype=np.float32)[alive] * before.scale)
    first, second, corner = _around(before.pixels, after.pixels, points)
    points -= corner
    ahead, held = _followed(first, second, points)
    for row, start, end, keep in zip(alive, points, ahead, held, strict=True):
        if keep.mean() >= _LEAST_KEPT:
            shift = np.median(end[keep] - start[keep], axis=0) / before.scale
            x1, y1, x2, y2 = boxes_xyxy[row]
            centre, half = np.array([x1 + x2, y1 + y2]) / 2 + shift, np.array([x2 - x1, y2 - y1]) / 2
            half *= _growth(start[keep], end[keep], frames)
            there[row] = np.concatenate([centre - half, centre + half])
    return there


def shifted(before: Grey, after: Grey) -> Float64Array:
    """How far most of the picture moved from one frame to another, (2,) pixels; zeros where that cannot be told."""
    shift = _panned(before, after)
    return np.zeros(2) if shift is None else shift


def _panned(before: Grey, after: Grey) -> Float64Array | None:
    """The same; None where nothing comes back, or not most of it agrees."""
    scale = min(1.0, _SMALL_PX / max(before.pixels.shape))
    first, second = (
        cv2.resize(frame.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in (before, after)
    )
    points = _grid(np.array([[0, 0, *first.shape[::-1]]], dtype=np.float32), _EDGE)
    ahead, held = _followed(first, second, points)
    steps = (ahead - points)[held].astype(np.float64)
    if len(steps) == 0:
        return None
    shift = np.median(steps, axis=0)
    agree = np.hypot(*(steps - shift).T) <= _LOST_PX
    return shift / (scale * before.scale) if agree.mean() > _LEAST_AGREEING else None


def _followed(before: ImageArray, after: ImageArray, points: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Where points (N, P, 2) are on another picture, and which come back from there to where they were, (N, P)."""
    flat = points.reshape(-1, 1, 2)
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(before, after, flat, None, **_LUCAS_KANADE)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, ahead, None, **_LUCAS_KANADE)
    held = (np.linalg.norm(back - flat, axis=2) <= _LOST_PX) & (found > 0) & (found_back > 0)
    return np.asarray(ahead.reshape(points.shape), dtype=np.float32), held.reshape(points.shape[:2])


def _around(before: ImageArray, after: ImageArray, points: FloatArray) -> tuple[ImageArray, ImageArray, FloatArray]:
    """The part of two frames that points (N, P, 2) can be followed in, and its upper left corner, (2,) pixels."""
    size_px = np.array(before.shape[::-1])
    # Steps of the coarsest level of the pyramids: those of a part are parts of those of the frames.
    low = np.clip((points.min(axis=(0, 1)) - _REACH_PX) // _COARSEST * _COARSEST, 0, size_px - 1).astype(int)
    high = np.clip(points.max(axis=(0, 1)) + _REACH_PX, low + 1, size_px).astype(int)
    part = slice(low[1], high[1]), slice(low[0], high[0])
    return before[part], after[part], low.astype(np.float32)


def _growth(start: FloatArray, end: FloatArray, frames: int) -> float:
    """How much further from each other points (P, 2) are at the end than at the start."""
    before, after = pdist(start), pdist(end)
    # Neighbours say little: half a pixel of error is much of their distance.
    far = before > 0.5 * before.max(initial=0)
    least, most = _GROWTH[0] ** frames, _GROWTH[1] ** frames
    return float(np.clip(np.median(after[far] / before[far]), least, most)) if far.any() else 1.0


def _carry(boxes_xyxy: FloatArray, frames: Sequence[Grey]) -> FloatArray:
    carried = [np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)]
    for before, after in pairwise(frames):
        carried.append(moved(before, after, carried[-1]))
    return np.stack(carried)


def _grid(boxes_xyxy: FloatArray, margin: float = _MARGIN) -> FloatArray:
    """Points inside each box (N, 4), (N, P, 2) pixels."""
    across, down = (np.linspace(margin, 1 - margin, count) for count in (_COLUMNS, _ROWS))
    shares = np.stack(np.meshgrid(across, down), axis=-1).reshape(1, -1, 2)
    corner, size = boxes_xyxy[:, None, :2], (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])[:, None]
    return np.asarray(corner + shares * size, dtype=np.float32)
