"""Frames -> how the camera moved from one to the next: sparse optical flow on what stands still.

Corners outside the objects' boxes are followed by pyramidal Lucas-Kanade flow (Bouguet 2001), there and back, and a
similarity (shift, turn, zoom) is fitted to them by RANSAC, as BoT-SORT does (Aharon et al. 2022). Affines are
(2, 3), in pixels of the full frame; they take a point of the frame before to its place now.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from flows.schema import FloatArray, ImageArray

Affine = npt.NDArray[np.float64]

_LONG_SIDE_PX = 640
"""Frames are shrunk to this: a shift is found to a tenth of a pixel, and flow costs 5 ms instead of 80 at 4K."""
_CORNERS: dict[str, Any] = {"maxCorners": 300, "qualityLevel": 0.01, "minDistance": 8}
_FLOW: dict[str, Any] = {"winSize": (21, 21), "maxLevel": 3}  # follows shifts up to about 80 of the shrunk pixels
_LOST_PX = 1.0
"""A corner that comes back further than this from where it started has been lost."""
_AGREE_PX = 1.5
_LEAST_CORNERS, _LEAST_SHARE = 12, 0.4
"""Fewer corners that agree, or a smaller share of those that were followed, may as well be objects or noise."""
_STILL_PX = 0.5
"""A camera that moves its picture's corners by less stands still: below this it is noise that would add up."""

STILL: Affine = np.hstack([np.eye(2), np.zeros((2, 1))])


class CameraMotion:
    """Follows the camera from frame to frame."""

    def __init__(self) -> None:
        self._before: ImageArray | None = None
        self.lost = 0
        """Frames on which the motion could not be told and the camera was taken to stand still."""

    def push(self, image_rgb: ImageArray, boxes_xyxy: FloatArray) -> Affine:
        """The motion from the frame before to this one.

        Args:
            image_rgb: the frame, (height, width, 3).
            boxes_xyxy: (N, 4) where objects were on the frame before; what lies in them does not count.
        """
        height, width = image_rgb.shape[:2]
        scale = min(1.0, _LONG_SIDE_PX / max(height, width))
        grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        now = np.asarray(grey, dtype=np.uint8)
        before, self._before = self._before, now
        if before is None or before.shape != now.shape:
            return STILL
        found = _similarity(before, now, np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4) * scale)
        if found is None:
            self.lost += 1
            return STILL
        found[:, 2] /= scale
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
        moved = np.abs(corners @ found[:, :2].T + found[:, 2] - corners).max()
        return found if moved >= _STILL_PX else STILL


def compose(first: Affine, then: Affine) -> Affine:
    """One affine after another."""
    return np.hstack([then[:, :2] @ first[:, :2], then[:, :2] @ first[:, 2:] + then[:, 2:]])


def inverse(affine: Affine) -> Affine:
    """The way back."""
    linear = np.linalg.inv(affine[:, :2])
    return np.hstack([linear, -linear @ affine[:, 2:]])


def warp_box(box_xyxy: FloatArray, affine: Affine) -> FloatArray:
    """A box under a similarity: its centre moves, its size is zoomed, its sides stay level; (4,) pixels."""
    centre = affine[:, :2] @ (box_xyxy[:2] + box_xyxy[2:]) / 2 + affine[:, 2]
    half = zoom(affine) * (box_xyxy[2:] - box_xyxy[:2]) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def zoom(affine: Affine) -> float:
    """How much larger things become."""
    return float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))


def _similarity(before: ImageArray, now: ImageArray, boxes_xyxy: FloatArray) -> Affine | None:
    """The similarity from one grey frame to the next; None where too few corners agree."""
    background = np.full(before.shape, 255, dtype=np.uint8)
    for x1, y1, x2, y2 in np.round(boxes_xyxy).astype(int).tolist():
        background[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 0
    corners = cv2.goodFeaturesToTrack(before, mask=background, **_CORNERS)
    if corners is None or len(corners) < _LEAST_CORNERS:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, None, **_FLOW)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **_FLOW)
    held = ((np.linalg.norm(back - corners, axis=2) <= _LOST_PX) & (found > 0) & (found_back > 0)).ravel()
    if held.sum() < _LEAST_CORNERS:
        return None
    affine, agree = cv2.estimateAffinePartial2D(
        corners[held], there[held], method=cv2.RANSAC, ransacReprojThreshold=_AGREE_PX
    )
    if affine is None or agree.sum() < max(_LEAST_CORNERS, _LEAST_SHARE * held.sum()):
        return None
    return np.asarray(affine, dtype=np.float64)
