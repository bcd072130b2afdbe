"""A drone's pose + pixels -> positions on flat ground, with what their error is made of.

The camera is a pinhole above a plane at the height of take-off. Axes are east, north, up; the ray through a pixel is
the camera's forward axis plus so much of its right and its down axis (Foerstner and Wrobel, "Photogrammetric Computer
Vision", 2016, ch. 12). Errors of pose, focal length and pixel go through the numerical Jacobian of that map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.georeference import Floats, from_lonlat, middles
from flows.schema import BoolArray
from flows.telemetry import Telemetry

FILM_DIAGONAL_MM = 43.267
"""Of 36 x 24 mm film, which focal lengths "equivalent to 35 mm" refer to."""
BOUND_95 = 2.4477
"""A position lies within this many standard deviations of the truth 95 times in 100 (Rayleigh, two dimensions)."""
_UNKNOWN_HEADING_DEG = 103.9
"""Standard deviation of a heading that may be any."""
_LEAST_DOWN = 0.05
"""A ray flatter than this (3 degrees below the horizon) meets the ground too far away to be used."""


@dataclass(frozen=True)
class PoseNoise:
    """Standard deviations of what telemetry says."""

    position_m: float = 1.5
    height_m: float = 1.0
    angle_deg: float = 1.0
    heading_deg: float = 3.0
    focal_share: float = 0.02


def flight_positions(
    poses: Telemetry,
    points_px: Floats,
    sigma_px: float | Floats,
    size_px: tuple[int, int],
    origin_lonlat: tuple[float, float],
    noise: PoseNoise,
    depth_m: float | Floats = 0.0,
) -> tuple[Floats, Floats]:
    """Ground positions under pixels seen from these poses, and how sure they are.

    Args:
        poses: one for each pixel, angles and focal length known; a yaw that is NaN may be any.
        points_px: (N, 2) pixels of points on the ground.
        sigma_px: standard deviation of the pixels, one for all or (N,).
        size_px: width and height of the picture.
        origin_lonlat: of the metric frame.
        noise: of the poses.
        depth_m: of what the pixels are the near edges of, one for all or (N,); the positions are its middles.

    Returns:
        (N, 2) metres east and north of the origin, and (N,) standard deviation along the direction in which it is
        largest; NaN where the ray does not meet the ground below the horizon, where the pose is not known, and where
        the drone is not surely above the place of take-off. `BOUND_95` times that holds 95 %.
    """
    points_px = np.asarray(points_px, dtype=np.float64).reshape(-1, 2)
    east, north = from_lonlat(origin_lonlat, np.stack([poses.lon_deg, poses.lat_deg], axis=1)).T
    focal_px = poses.focal_35mm / FILM_DIAGONAL_MM * np.hypot(*size_px)
    heading_known = np.isfinite(poses.yaw_deg)
    angles = [np.radians(a) for a in (np.nan_to_num(poses.yaw_deg), poses.pitch_deg, poses.roll_deg)]
    offset_px = points_px - np.array(size_px) / 2
    given = [east, north, poses.height_m, *angles, focal_px, *offset_px.T]
    position_m = np.hypot(noise.position_m, poses.step_m / np.sqrt(12))
    heading_deg = np.where(heading_known, noise.heading_deg, _UNKNOWN_HEADING_DEG)
    sigmas = [
        *(position_m, position_m, noise.height_m),
        *(np.radians(s) for s in (heading_deg, noise.angle_deg, noise.angle_deg)),
        *(noise.focal_share * focal_px, sigma_px, sigma_px),
    ]
    xy_m = _meet_ground(given)
    covariance = np.zeros((len(points_px), 2, 2))
    moved = np.zeros_like(xy_m)
    for index, sigma in enumerate(sigmas):
        # A quarter of a deviation: within it the map is straight enough, and floating point is far away.
        step = 0.25 * np.broadcast_to(np.asarray(sigma, dtype=np.float64), (len(points_px),))
        ends = [_meet_ground([*given[:index], given[index] + s * step, *given[index + 1 :]]) for s in (-1, 1)]
        moved = (ends[1] - ends[0]) * 2  # per standard deviation
        covariance += moved[:, :, None] * moved[:, None, :]
    finite: BoolArray = np.isfinite(np.concatenate([covariance.reshape(-1, 4), xy_m], axis=1)).all(axis=1)
    sigma_m = np.full(len(points_px), np.nan)
    sigma_m[finite] = np.sqrt(np.linalg.eigvalsh(covariance[finite])[:, -1])
    # What was moved last is the pixel, downwards.
    return middles(np.where(finite[:, None], xy_m, np.nan), sigma_m, moved, depth_m)


def _meet_ground(given: list[Floats]) -> Floats:
    """Where rays meet the ground, (N, 2) metres; angles in radians, offsets in pixels from the picture's centre."""
    east, north, height, yaw, pitch, roll, focal, right_px, down_px = given
    zero = np.zeros_like(yaw)
    forward = np.stack([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    level = np.stack([np.cos(yaw), -np.sin(yaw), zero])
    below = np.cross(forward, level, axis=0)
    right = level * np.cos(roll) + below * np.sin(roll)
    down = below * np.cos(roll) - level * np.sin(roll)
    ray = forward + right * (right_px / focal) + down * (down_px / focal)
    steep = -ray[2] / np.linalg.norm(ray, axis=0)
    scale = np.where(height > 0, height, np.nan) / np.where(steep > _LEAST_DOWN, -ray[2], np.nan)
    return np.stack([east + scale * ray[0], north + scale * ray[1]], axis=1)
