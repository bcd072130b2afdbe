import cv2
import numpy as np
import pytest

from flows.optical import Flow, Grey, moved, shifted

BOX = np.array([[60, 40, 100, 120]], dtype=np.float32)


def _pictures(steps, size=(240, 320)):
    """A textured patch on a still textured background, moved by (4, 2) px a frame."""
    rng = np.random.default_rng(3)
    background, patch = (cv2.GaussianBlur(rng.uniform(0, 255, (*s, 3)), (0, 0), 2) for s in (size, (80, 40)))
    background, patch = ((p - p.min()) / np.ptp(p) * 255 for p in (background, patch))
    pictures = []
    for i in range(steps):
        picture = background.copy()
        picture[40 + 2 * i : 120 + 2 * i, 60 + 4 * i : 100 + 4 * i] = patch
        pictures.append(picture.astype(np.uint8))
    return pictures


def _flow(steps, scale=1):
    flow = Flow()
    for picture in _pictures(steps):
        flow.push(cv2.resize(picture, None, fx=scale, fy=scale))
    return flow


def test_a_box_is_carried_with_what_it_holds():
    carried = _flow(5).carry(BOX)
    assert carried.shape == (5, 1, 4)
    assert carried[-1][0] == pytest.approx(BOX[0] + [16, 8, 16, 8], abs=1)


def test_carrying_back_undoes_carrying():
    flow = _flow(5)
    assert flow.carry_back(flow.carry(BOX)[-1])[0][0] == pytest.approx(BOX[0], abs=1)


def test_large_frames_are_measured_in_their_own_pixels():
    assert _flow(4, scale=6).carry(BOX * 6)[-1][0] == pytest.approx(6 * (BOX[0] + [12, 6, 12, 6]), abs=8)


def test_what_cannot_be_followed_is_lost_alone():
    outside = np.array([[900, 900, 940, 980]], dtype=np.float32)
    carried = _flow(3).carry(np.concatenate([outside, BOX]))[-1]
    assert np.isnan(carried[0]).all()
    assert np.isfinite(carried[1]).all()


def test_forgotten_frames_are_not_crossed():
    flow = _flow(5)
    flow.forget()
    assert flow.carry(BOX).tolist() == [BOX.tolist()]


def test_a_box_grows_with_what_it_holds():
    rng = np.random.default_rng(5)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (240, 320, 3)), (0, 0), 2)
    picture = ((picture - picture.min()) / np.ptp(picture) * 255).astype(np.uint8)
    flow = Flow()
    for step in range(5):
        zoom = cv2.getRotationMatrix2D((80, 80), 0, 1.03**step)
        flow.push(cv2.warpAffine(picture, zoom, (320, 240), borderMode=cv2.BORDER_REFLECT))
    half = np.array([20, 40]) * 1.03**4
    assert flow.carry(BOX)[-1][0] == pytest.approx([*(80 - half), *(80 + half)], abs=1)


def test_frames_that_were_left_out_leave_room_to_grow():
    rng = np.random.default_rng(5)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (240, 320, 3)), (0, 0), 2)
    picture = ((picture - picture.min()) / np.ptp(picture) * 255).astype(np.uint8)
    zoom = cv2.getRotationMatrix2D((80, 80), 0, 1.07)
    before, after = Grey.of(picture), Grey.of(cv2.warpAffine(picture, zoom, (320, 240), borderMode=cv2.BORDER_REFLECT))
    for frames, growth in ((1, 1.025), (3, 1.07)):
        grown = moved(before, after, BOX, frames)[0]
        assert (grown[2:] - grown[:2]) / (BOX[0, 2:] - BOX[0, :2]) == pytest.approx(growth, abs=0.01)


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080)])
def test_the_picture_moves_where_most_of_it_does(size):
    rng = np.random.default_rng(6)
    texture = rng.integers(0, 255, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
    picture = cv2.resize(texture, size, interpolation=cv2.INTER_CUBIC)
    panned = np.roll(picture, (4, -12), axis=(0, 1))
    panned[: size[1] // 3] = 0  # something dark comes in
    assert shifted(Grey.of(picture), Grey.of(panned)) == pytest.approx([-12, 4], abs=1)
    nothing = Grey.of(np.zeros_like(picture))
    assert (shifted(Grey.of(picture), nothing) == 0).all()
    assert (shifted(nothing, nothing) == 0).all()
