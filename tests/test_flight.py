"""Synthetic flights with known truth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.flight import PoseNoise, flight_positions
from tests.flights import ORIGIN, SIZE_PX, coverage, make_poses, pixels_of

EXACT = PoseNoise(1e-9, 1e-9, 1e-9, 1e-9, 0.0)


@settings(deadline=None, max_examples=60)
@given(
    yaw=st.floats(-180, 180),
    pitch=st.floats(-90, -35),
    roll=st.floats(-5, 5),
    height=st.floats(10, 120),
    aside=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
)
def test_a_point_under_a_known_pose_is_found(yaw, pitch, roll, height, aside):
    poses = make_poses(1, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, height_m=height)
    ahead = height / np.tan(np.radians(-pitch)) * np.array([np.sin(np.radians(yaw)), np.cos(np.radians(yaw))])
    ground_m = (ahead + height * np.array(aside))[None]
    found_m, _ = flight_positions(poses, pixels_of(poses, ground_m, np.zeros((1, 2))), 1.0, SIZE_PX, ORIGIN, EXACT)
    assert found_m == pytest.approx(ground_m, abs=1e-3)


@pytest.mark.parametrize("pitch_deg", [-90.0, -60.0, -45.0])
@pytest.mark.parametrize("noise", [PoseNoise(), PoseNoise(position_m=0.05)], ids=["gps", "rtk"])
def test_positions_lie_inside_their_own_bound(pitch_deg, noise):
    inside, error_m, bound_m = coverage(noise, 3000, pitch_deg=pitch_deg)
    assert inside >= 0.93
    # A bound that is far too wide would hold as well, and say nothing.
    assert bound_m < 3.5 * error_m


def test_a_heading_that_may_be_any_widens_the_bound_with_distance_from_the_middle():
    poses = make_poses(2, yaw_deg=np.nan)
    points_px = np.array([[1920, 1080], [3000, 1080.0]])
    _, sigma_m = flight_positions(poses, points_px, 1.0, SIZE_PX, ORIGIN, PoseNoise())
    assert sigma_m[0] < 3
    assert sigma_m[1] > 15


def test_coarse_positions_are_less_sure():
    fine, coarse = (replace(make_poses(1), step_m=step_m) for step_m in (0.0, 11.1))
    at = np.array([[1920, 1080.0]]), 1.0, SIZE_PX, ORIGIN, PoseNoise()
    sigmas_m = [float(flight_positions(poses, *at)[1][0]) for poses in (fine, coarse)]
    assert sigmas_m[1] == pytest.approx(np.hypot(sigmas_m[0], 11.1 / np.sqrt(12)), rel=1e-3)


def test_below_the_place_of_take_off_nothing_is_seen():
    """Its rays would meet the ground behind the camera."""
    found_m, _ = flight_positions(
        make_poses(1, height_m=-3.0), np.array([[3000, 1080.0]]), 1.0, SIZE_PX, ORIGIN, PoseNoise()
    )
    assert np.isnan(found_m).all()


@pytest.mark.parametrize("pitch_deg", [-90, -40])
def test_depth_is_away_from_whoever_looks(pitch_deg):
    poses = make_poses(2, pitch_deg=pitch_deg, yaw_deg=30)
    points_px = np.tile(np.array(SIZE_PX) / 2, (2, 1))

    found_m, sigma_m = flight_positions(poses, points_px, 1.0, SIZE_PX, ORIGIN, EXACT, np.array([0.0, 6.0]))

    ahead = np.array([np.sin(np.radians(30)), np.cos(np.radians(30))])
    assert found_m[1] - found_m[0] == pytest.approx(3 * ahead, abs=0.01)
    assert sigma_m[1] > sigma_m[0]


def test_the_sky_is_nowhere():
    found_m, sigma_m = flight_positions(
        make_poses(1, pitch_deg=-10), np.array([[1920, 0.0]]), 1.0, SIZE_PX, ORIGIN, PoseNoise()
    )
    assert np.isnan(found_m).all()
    assert np.isnan(sigma_m).all()
