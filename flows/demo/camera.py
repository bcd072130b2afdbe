"""A fixed pinhole camera above a flat ground plane.

Ground coordinates are metres: x to the right, y away from the camera, z up, origin below the lens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NEAR_M = 0.5  # nothing closer to the lens is projected: the division would explode


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at ``height_m``, looking along +y and tilted down by ``tilt_rad``."""

    width_px: int
    height_px: int
    focal_px: float
    height_m: float
    tilt_rad: float

    @property
    def horizon_px(self) -> float:
        """Image row of the horizon; may lie above the image (negative)."""
        return self.height_px / 2 - self.focal_px * math.tan(self.tilt_rad)

    def project(self, points_m: Floats) -> tuple[Floats, Floats]:
        """Project points into the image.

        Args:
            points_m: (..., 3) points in metres.

        Returns:
            (..., 2) pixel coordinates and (...) depth along the optical axis in metres, at least ``NEAR_M``.
        """
        sin, cos = math.sin(self.tilt_rad), math.cos(self.tilt_rad)
        x, y, z = points_m[..., 0], points_m[..., 1], points_m[..., 2] - self.height_m
        depth_m = np.maximum(y * cos - z * sin, NEAR_M)
        scale = self.focal_px / depth_m
        uv_px = np.stack([x * scale + self.width_px / 2, (-y * sin - z * cos) * scale + self.height_px / 2], axis=-1)
        return uv_px, depth_m

    def image_from_ground(self) -> Floats:
        """3x3 homography from ground (x_m, y_m, 1) to image (u_px, v_px, 1), scaled to end in 1."""
        sin, cos = math.sin(self.tilt_rad), math.cos(self.tilt_rad)
        intrinsics = np.array(
            [[self.focal_px, 0, self.width_px / 2], [0, self.focal_px, self.height_px / 2], [0, 0, 1]]
        )
        axes = np.array([[1, 0, 0], [0, -sin, self.height_m * cos], [0, cos, self.height_m * sin]])
        matrix: Floats = intrinsics @ axes
        return matrix / matrix[2, 2]

    def to_ground(self, uv_px: Floats) -> Floats:
        """Ground points (..., 2) in metres under the pixels (..., 2), which must lie below the horizon."""
        ground_from_image: Floats = np.asarray(np.linalg.inv(self.image_from_ground()), np.float64)
        return transform(ground_from_image, uv_px)

    def metres_to_px(self, xy_m: Floats) -> Floats:
        """Pixels per metre at the ground points (..., 2)."""
        points_m = np.concatenate([xy_m, np.zeros_like(xy_m[..., :1])], axis=-1)
        return self.focal_px / self.project(points_m)[1]


def transform(matrix: Floats, points: Floats) -> Floats:
    """Apply a 3x3 homography to points (..., 2)."""
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    result: Floats = homogeneous[..., :2] / homogeneous[..., 2:]
    return result
