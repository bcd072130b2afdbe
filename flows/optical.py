"""Frames + boxes -> displacements: sparse optical flow, as Median Flow reads it.

A grid of points in every box is followed to the next frame (Lucas and Kanade 1981, pyramidal as in Bouguet 2001) and
back again; points that do not come back to where they started are left out, and the median of the rest is the box's
displacement (Kalal, Mikolajczyk, Matas, "Forward-Backward Error: Automatic Detection of Tracking Failures", 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from flows.schema import FloatArray, ImageArray

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
_LUCAS_KANADE: dict[str, Any] = {
    "winSize": (15, 15),
    "maxLevel": 3,  # follows displacements up to about 60 px
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
}


class Flow:
    """The frames since the last keyframe, over which boxes are carried forwards and backwards."""

    def __init__(self) -> None:
        self._frames: list[ImageArray] = []
        self._scale = 1.0

    def push(self, image_rgb: ImageArray) -> None:
        """Take the next frame, (height, width, 3) uint8."""
        self._scale = min(1.0, _LONG_SIDE_PX / max(image_rgb.shape[:2]))
        if self._scale < 1:
            image_rgb = cv2.resize(image_rgb, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA)
        self._frames.append(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY))

    def forget(self) -> None:
        """Forget all frames but the newest."""
        del self._frames[:-1]

    def carry(self, boxes_xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) on the oldest frame, carried to every frame, (T, N, 4) pixels; NaN from where they are lost."""
        return self._carry(boxes_xyxy, self._frames)

    def carry_back(self, boxes_xyxy: FloatArray) -> FloatArray:
        """Boxes (N, 4) on the newest frame, carried back to every frame, (T, N, 4) pixels, oldest first."""
        return self._carry(boxes_xyxy, self._frames[::-1])[::-1]

    def _carry(self, boxes_xyxy: FloatArray, frames: Sequence[ImageArray]) -> FloatArray:
        carried = [np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)]
        for before, after in pairwise(frames):
            carried.append(
                carried[-1] + np.tile(_displacements(before, after, carried[-1] * self._scale), 2) / self._scale
            )
        return np.stack(carried)


def _displacements(before: ImageArray, after: ImageArray, boxes_xyxy: FloatArray) -> FloatArray:
    """How far each box (N, 4) moved between two grey frames, (N, 2) px; NaN where too few points hold."""
    moved = np.full((len(boxes_xyxy), 2), np.nan, dtype=np.float32)
    alive = np.flatnonzero(np.isfinite(boxes_xyxy).all(axis=1))
    if alive.size == 0:
        return moved
    points = _grid(boxes_xyxy[alive]).reshape(-1, 1, 2)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, **_LUCAS_KANADE)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **_LUCAS_KANADE)
    held = (np.linalg.norm(back - points, axis=2) <= _LOST_PX) & (found > 0) & (found_back > 0)
    steps, held = (there - points).reshape(len(alive), -1, 2), held.reshape(len(alive), -1)
    for row, step, keep in zip(alive, steps, held, strict=True):
        if keep.mean() >= _LEAST_KEPT:
            moved[row] = np.median(step[keep], axis=0)
    return moved


def _grid(boxes_xyxy: FloatArray) -> FloatArray:
    """Points inside each box (N, 4), (N, P, 2) pixels."""
    shares = np.stack(
        np.meshgrid(np.linspace(_MARGIN, 1 - _MARGIN, _COLUMNS), np.linspace(_MARGIN, 1 - _MARGIN, _ROWS)), axis=-1
    ).reshape(1, -1, 2)
    corner, size = boxes_xyxy[:, None, :2], (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])[:, None]
    return np.asarray(corner + shares * size, dtype=np.float32)
