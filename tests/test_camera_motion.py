import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.camera_motion import STILL, CameraMotion, compose, inverse, warp_box
from flows.demo.scene import Scene
from flows.kalman import BoxKalman, gate_threshold
from flows.schema import NS

NOTHING = np.empty((0, 4), dtype=np.float32)


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A large picture of a scene without objects, for a camera to fly over."""
    return Scene.random(7, width=1280, height=960, n_objects=1).render(0)[0]


def _seen(
    ground: np.ndarray, x: float, y: float, turn_deg: float = 0.0, zoom: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A view of 640x360 centred on (x, y), and the affine from the ground to it."""
    affine = cv2.getRotationMatrix2D((x, y), turn_deg, zoom)
    affine[:, 2] += [320 - x, 180 - y]
    return cv2.warpAffine(ground, affine, (640, 360)), affine


@settings(deadline=None, max_examples=20)
@given(dx=st.floats(-40, 40), dy=st.floats(-30, 30), turn=st.floats(-4, 4), zoom=st.floats(0.95, 1.05))
def test_the_motion_is_found(ground, dx, dy, turn, zoom):
    before, from_ground = _seen(ground, 640, 480)
    after, to_ground = _seen(ground, 640 + dx, 480 + dy, turn, zoom)
    camera = CameraMotion()
    assert np.array_equal(camera.push(before, NOTHING), STILL)
    found = camera.push(after, NOTHING)
    true = compose(inverse(from_ground), to_ground)
    corners = np.array([[0, 0], [640, 0], [640, 360], [0, 360.0]])
    off_px = np.linalg.norm(corners @ (found - true)[:, :2].T + (found - true)[:, 2], axis=1)
    assert off_px.max() < 1.0
    assert camera.lost == 0


def test_a_standing_camera_stands_and_objects_do_not_move_it(ground):
    view, _ = _seen(ground, 640, 480)
    truck = np.random.default_rng(0).integers(0, 255, (200, 260, 3), dtype=np.uint8)
    camera = CameraMotion()
    for i in range(5):
        frame = view.copy()
        frame[100:300, 60 + 20 * i : 320 + 20 * i] = truck
        box = np.array([[60 + 20 * (i - 1), 100, 320 + 20 * (i - 1), 300]], dtype=np.float32)
        assert np.array_equal(camera.push(frame, box), STILL)


def test_where_nothing_can_be_followed_it_says_so():
    camera = CameraMotion()
    grey = np.full((360, 640, 3), 128, dtype=np.uint8)
    camera.push(grey, NOTHING)
    assert np.array_equal(camera.push(grey, NOTHING), STILL)
    assert camera.lost == 1


@given(dx=st.floats(-50, 50), dy=st.floats(-50, 50), turn=st.floats(-10, 10), zoom=st.floats(0.8, 1.25))
def test_there_and_back_is_nowhere(dx, dy, turn, zoom):
    affine = cv2.getRotationMatrix2D((320, 180), turn, zoom)
    affine[:, 2] += [dx, dy]
    assert compose(affine, inverse(affine)) == pytest.approx(STILL, abs=1e-9)
    box = np.array([100, 50, 140, 150], dtype=np.float32)
    assert warp_box(warp_box(box, affine), inverse(affine)) == pytest.approx(box, abs=1e-2)


@pytest.mark.parametrize("compensated", [True, False])
def test_a_panning_camera_breaks_no_gate(ground, compensated):
    """A parked object under a camera that swings to and fro; without compensation it leaves its gate."""
    camera = CameraMotion()
    gate, outside = gate_threshold(0.999), 0
    kalman: BoxKalman | None = None
    for i in range(60):
        view, from_ground = _seen(ground, 640 + 120 * np.sin(i / 5), 480 + 50 * np.cos(i / 4))
        true = warp_box(np.array([620, 460, 650, 500], dtype=np.float32), from_ground)
        motion = camera.push(view, NOTHING if kalman is None else kalman.box_xyxy[None])
        if kalman is None:
            kalman = BoxKalman(true, 0, 0.05)
            continue
        if compensated:
            kalman.warp(motion)
        kalman.predict(i * NS // 10)
        outside += kalman.distance2(true, 0.05) > gate
        kalman.update(true, 0.05)
    assert (outside == 0) == compensated


def test_the_covariance_stays_one_under_the_camera():
    kalman = BoxKalman(np.array([100, 50, 130, 130], dtype=np.float32), 0, 0.05)
    kalman.predict(NS)
    before = kalman.covariance
    affine = np.array([[0.0, -2.0, 10.0], [2.0, 0.0, 5.0]])  # a quarter turn, twice as large
    kalman.warp(affine)
    assert kalman.covariance == pytest.approx(kalman.covariance.T)
    assert np.linalg.eigvalsh(kalman.covariance).min() > 0
    assert kalman.covariance[0, 0] == pytest.approx(4 * before[1, 1])
    assert kalman.mean[:4] == pytest.approx([-2 * 90 + 10, 2 * 115 + 5, 60, 160])
