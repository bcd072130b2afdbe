"""Boxes that flow carries: what they follow, and what they do not."""

import numpy as np
import pytest

from flows.carried import CarriedBox

SIZE = (640, 480)
NOWHERE = np.full(4, np.nan, dtype=np.float32)


def box(x: float, y: float = 100, width: float = 30, height: float = 60) -> np.ndarray:
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def walking(to: float = 112) -> CarriedBox:
    """A box that flow has carried from 100 by 4 px a frame."""
    carried = CarriedBox(box(100))
    for x in range(104, int(to) + 1, 4):
        carried.carry(box(x), SIZE)
    return carried


def test_follows_flow_and_goes_on_as_it_went_where_flow_is_lost():
    carried = walking()
    np.testing.assert_array_equal(carried.xyxy, box(112))
    carried.carry(NOWHERE, SIZE)
    np.testing.assert_allclose(carried.xyxy, box(116), atol=1e-4)


def test_waits_where_flow_is_lost_at_once():
    carried = CarriedBox(box(100))
    carried.carry(NOWHERE, SIZE)
    np.testing.assert_array_equal(carried.xyxy, box(100))


def test_does_not_follow_what_passes_in_front():
    carried = walking()
    for after in range(1, 6):  # a car the other way, 20 px a frame
        carried.carry(carried.xyxy - np.float32([20, 0, 20, 0]), SIZE)
        np.testing.assert_allclose(carried.xyxy, box(112 + 4 * after), atol=1e-3)
    assert carried.astray == 5
    carried.carry(carried.xyxy + np.float32([5, 0, 5, 0]), SIZE)
    np.testing.assert_allclose(carried.xyxy, box(137), atol=1e-3)
    assert carried.astray == 0


def test_follows_a_change_of_pace():
    carried = walking()
    carried.carry(box(112 + 4 + 5), SIZE)  # an eighth of its size more
    np.testing.assert_array_equal(carried.xyxy, box(121))


def test_believes_flow_that_does_not_give_way():
    carried, frames = walking(), 0
    while carried.astray or not frames:
        start, frames = carried.xyxy, frames + 1
        carried.carry(start - np.float32([20, 0, 20, 0]), SIZE)
        assert frames < 30
    assert frames == 16
    np.testing.assert_array_equal(carried.xyxy, start - np.float32([20, 0, 20, 0]))
    carried.carry(NOWHERE, SIZE)
    np.testing.assert_allclose(carried.xyxy, start - np.float32([40, 0, 40, 0]), atol=1e-3)


def test_a_jerk_of_the_picture_is_no_leap():
    jerk = np.array([-30, 12])
    for known in (True, False):
        carried = walking()
        carried.carry(box(112 + 4 - 30, 112), SIZE, jerk * known)
        assert carried.astray == (0 if known else 1)
    carried = walking()
    carried.carry(NOWHERE, SIZE, jerk)  # goes on as it went, in what is seen now
    np.testing.assert_allclose(carried.xyxy, box(86, 112), atol=1e-3)


@pytest.mark.parametrize(("flown", "then"), [(box(80), 192), (NOWHERE, 192), (None, 204)])
def test_an_object_shown_after_flow_was_not_followed_may_go_anywhere(flown, then):
    carried = walking()
    if flown is not None:
        carried.carry(flown, SIZE)
    carried.show(box(200))
    carried.carry(box(192), SIZE)
    np.testing.assert_allclose(carried.xyxy, box(then), atol=1e-3)


def test_a_small_box_near_the_edge_is_not_cut_by_it():
    carried = CarriedBox(box(1.5, width=10, height=20), refined=True)
    carried.carry(box(2.5, width=10, height=20), SIZE)
    np.testing.assert_array_equal(carried.xyxy, box(2.5, width=10, height=20))


@pytest.mark.parametrize(
    ("shown", "step", "side"),
    [
        ((0, 100, 30, 160), (8, 0), 0),
        ((100, 1, 130, 60), (0, 8), 1),
        ((610, 100, 639, 160), (-8, 0), 2),
        ((100, 420, 130, 480), (0, -8), 3),
    ],
)
def test_a_side_cut_by_the_frame_stays_there_until_the_object_is_in_view(shown, step, side):
    limit = (0, 0, *SIZE)[side]
    carried = CarriedBox(np.array(shown, dtype=np.float32))
    for _ in range(3):
        carried.refined = True
        carried.carry(carried.xyxy + np.tile(np.float32(step), 2), SIZE)
        assert carried.xyxy[side] == limit
        np.testing.assert_allclose(carried.most, [0.5 if s == side else 0.15 for s in range(4)])
    assert np.ptp(carried.xyxy[[side % 2, side % 2 + 2]]) > np.ptp(np.array(shown)[[side % 2, side % 2 + 2]])
    seen = carried.xyxy.copy()
    seen[side] += 20 * np.sign(sum(step))  # the refiner sees it end
    carried.xyxy = seen
    for _ in range(2):
        carried.refined = True
        carried.carry(carried.xyxy + np.tile(np.float32(step), 2), SIZE)
    np.testing.assert_allclose(carried.xyxy, seen + 2 * np.tile(np.float32(step), 2), atol=1e-3)
    np.testing.assert_allclose(carried.most, 0.15)


def test_a_side_that_comes_to_the_edge_later_is_not_held_there():
    carried = CarriedBox(box(6))
    for x in (3, 0, 3):
        carried.refined = True
        carried.carry(box(x), SIZE)
    np.testing.assert_array_equal(carried.xyxy, box(3))


def test_a_side_is_held_at_the_edge_only_as_long_as_a_refiner_sees_the_object():
    carried = CarriedBox(box(0))
    for seen, side in ((True, 0), (False, 4), (True, 8)):
        carried.refined = seen
        carried.carry(carried.xyxy + np.float32([4, 0, 4, 0]), SIZE)
        assert carried.xyxy[0] == side


def test_what_leaves_goes_beyond_the_edge():
    carried = CarriedBox(box(0), refined=True)
    carried.carry(box(-6), SIZE)
    np.testing.assert_array_equal(carried.xyxy, box(-6))


def test_frames_that_were_left_out_are_no_leap():
    carried = walking()
    carried.carry(box(128), SIZE, frames=4)
    np.testing.assert_array_equal(carried.xyxy, box(128))
    carried.carry(NOWHERE, SIZE, frames=2)
    np.testing.assert_allclose(carried.xyxy, box(136), atol=1e-3)


def test_masks_may_end_further_from_a_box_the_longer_ago_it_was_shown():
    carried = CarriedBox(box(100))
    shown = carried.reach(carried.xyxy)
    np.testing.assert_allclose(shown, [98.5, 97, 131.5, 163])
    carried.carry(box(104), SIZE)
    carried.carry(box(116), SIZE, frames=3)
    np.testing.assert_allclose(carried.reach(carried.xyxy), [116 - 3.9, 100 - 7.8, 146 + 3.9, 160 + 7.8], rtol=1e-6)
    carried.show(box(100))
    np.testing.assert_array_equal(carried.reach(carried.xyxy), shown)
