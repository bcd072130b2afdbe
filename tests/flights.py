"""Synthetic drone flights: where things are, what their pixels are, and what telemetry says."""

from dataclasses import replace

import numpy as np

from flows.flight import BOUND_95, FILM_DIAGONAL_MM, PoseNoise, flight_positions
from flows.schema import NS
from flows.telemetry import Telemetry

SIZE_PX = (3840, 2160)
ORIGIN = (7.1, 46.5)
METRES_PER_DEGREE = np.array([76_745.0, 111_164.0])  # of longitude and latitude there (WGS 84)


def make_poses(n: int = 1, east_north_m: np.ndarray | None = None, **overrides: float) -> Telemetry:
    at = np.zeros((n, 2)) if east_north_m is None else east_north_m
    values = {"height_m": 60.0, "yaw_deg": 30.0, "pitch_deg": -90.0, "roll_deg": 0.0, "focal_35mm": 24.0} | overrides
    lon, lat = (np.array(ORIGIN) + at / METRES_PER_DEGREE).T
    return Telemetry(np.arange(n) * NS // 30, lon, lat, *(np.full(n, v) for v in values.values()), step_m=0.0)


def pixels_of(poses: Telemetry, ground_m: np.ndarray, camera_m: np.ndarray) -> np.ndarray:
    """A camera written another way: rotation matrices about the world's axes, as photogrammetry has them."""
    points = []
    for i in range(len(ground_m)):
        yaw, pitch, roll = (np.radians(a[i]) for a in (poses.yaw_deg, poses.pitch_deg, poses.roll_deg))
        about_z = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
        seen = (about_z @ about_x @ about_y).T @ (np.append(ground_m[i], 0.0) - [*camera_m[i], poses.height_m[i]])
        focal_px = poses.focal_35mm[i] / FILM_DIAGONAL_MM * np.hypot(*SIZE_PX)
        points.append([seen[0] / seen[1] * focal_px, -seen[2] / seen[1] * focal_px] + np.array(SIZE_PX) / 2)
    return np.array(points)


def coverage(noise: PoseNoise, n: int, **pose: float) -> tuple[float, float, float]:
    """Share of positions inside their own 95 % bound, and the median error and bound, over noisy telemetry."""
    random = np.random.default_rng(5)
    camera_m = np.stack([np.linspace(0, 200, n), 30 * np.sin(np.linspace(0, 6, n))], axis=1)
    true = make_poses(n, camera_m, **pose)
    ahead_m = (
        60
        / np.tan(np.radians(-true.pitch_deg))[:, None]
        * np.stack([np.sin(np.radians(true.yaw_deg)), np.cos(np.radians(true.yaw_deg))], axis=1)
    )
    ground_m = camera_m + ahead_m + random.uniform(-25, 25, (n, 2))
    sigma_px = 4.0
    points_px = pixels_of(true, ground_m, camera_m) + random.normal(0, sigma_px, (n, 2))
    said = replace(
        make_poses(n, camera_m + random.normal(0, noise.position_m, (n, 2)), **pose),
        height_m=true.height_m + random.normal(0, noise.height_m, n),
        yaw_deg=true.yaw_deg + random.normal(0, noise.heading_deg, n),
        pitch_deg=true.pitch_deg + random.normal(0, noise.angle_deg, n),
        roll_deg=true.roll_deg + random.normal(0, noise.angle_deg, n),
        focal_35mm=true.focal_35mm * (1 + random.normal(0, noise.focal_share, n)),
    )
    found_m, sigma_m = flight_positions(said, points_px, sigma_px, SIZE_PX, ORIGIN, noise)
    error_m = np.linalg.norm(found_m - ground_m, axis=1)
    return (
        float(np.mean(error_m <= BOUND_95 * sigma_m)),
        float(np.median(error_m)),
        float(np.median(BOUND_95 * sigma_m)),
    )
