"""Synthetic flights with known truth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.flight import BOUND_95, FILM_DIAGONAL_MM, PoseNoise, flight_positions
from flows.schema import NS
from flows.telemetry import Telemetry

SIZE_PX = (3840, 2160)
ORIGIN = (7.1, 46.5)
METRES_PER_DEGREE = np.array([76_745.0, 111_164.0])  # of longitude and latitude there (WGS 84)
EXACT = PoseNoise(1e-9, 1e-9, 1e-9, 1e-9, 0.0)


def _make_poses(n: int = 1, east_north_m: np.ndarray | None = None, **overrides: float) -> Telemetry:
    at = np.zeros((n, 2)) if east_north_m is None else east_north_m
    values = {"height_m": 60.0, "yaw_deg": 30.0, "pitch_deg": -90.0, "roll_deg": 0.0, "focal_35mm": 24.0} | overrides
    lon, lat = (np.array(ORIGIN) + at / METRES_PER_DEGREE).T
    return Telemetry(np.arange(n) * NS // 30, lon, lat, *(np.full(n, v) for v in values.values()), step_m=0.0)


def _pixels(poses: Telemetry, ground_m: np.ndarray, camera_m: np.ndarray) -> np.ndarray:
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


@settings(deadline=None, max_examples=60)
@given(
    yaw=st.floats(-180, 180),
    pitch=st.floats(-90, -35),
    roll=st.floats(-5, 5),
    height=st.floats(10, 120),
    aside=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
)
def test_a_point_under_a_known_pose_is_found(yaw, pitch, roll, height, aside):
    poses = _make_poses(1, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, height_m=height)
    ahead = height / np.tan(np.radians(-pitch)) * np.array([np.sin(np.radians(yaw)), np.cos(np.radians(yaw))])
    ground_m = (ahead + height * np.array(aside))[None]
    found_m, _ = flight_positions(poses, _pixels(poses, ground_m, np.zeros((1, 2))), 1.0, SIZE_PX, ORIGIN, EXACT)
    assert found_m == pytest.approx(ground_m, abs=1e-3)


def _coverage(noise: PoseNoise, n: int, **pose: float) -> tuple[float, float, float]:
    """Share of positions inside their own 95 % bound, and the median error and bound, over noisy telemetry."""
    random = np.random.default_rng(5)
    camera_m = np.stack([np.linspace(0, 200, n), 30 * np.sin(np.linspace(0, 6, n))], axis=1)
    true = _make_poses(n, camera_m, **pose)
    ahead_m = (
        60
        / np.tan(np.radians(-true.pitch_deg))[:, None]
        * np.stack([np.sin(np.radians(true.yaw_deg)), np.cos(np.radians(true.yaw_deg))], axis=1)
    )
    ground_m = camera_m + ahead_m + random.uniform(-25, 25, (n, 2))
    sigma_px = 4.0
    points_px = _pixels(true, ground_m, camera_m) + random.normal(0, sigma_px, (n, 2))
    said = replace(
        _make_poses(n, camera_m + random.normal(0, noise.position_m, (n, 2)), **pose),
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


@pytest.mark.parametrize("pitch_deg", [-90.0, -60.0, -45.0])
@pytest.mark.parametrize("noise", [PoseNoise(), PoseNoise(position_m=0.05)], ids=["gps", "rtk"])
def test_positions_lie_inside_their_own_bound(pitch_deg, noise):
    inside, error_m, bound_m = _coverage(noise, 3000, pitch_deg=pitch_deg)
    assert inside >= 0.93
    # A bound that is far too wide would hold as well, and say nothing.
    assert bound_m < 3.5 * error_m


def test_a_heading_that_may_be_any_widens_the_bound_with_distance_from_the_middle():
    poses = _make_poses(2, yaw_deg=np.nan)
    points_px = np.array([[1920, 1080], [3000, 1080.0]])
    _, sigma_m = flight_positions(poses, points_px, 1.0, SIZE_PX, ORIGIN, PoseNoise())
    assert sigma_m[0] < 3
    assert sigma_m[1] > 15


def test_the_sky_is_nowhere():
    found_m, sigma_m = flight_positions(
        _make_poses(1, pitch_deg=-10), np.array([[1920, 0.0]]), 1.0, SIZE_PX, ORIGIN, PoseNoise()
    )
    assert np.isnan(found_m).all()
    assert np.isnan(sigma_m).all()
