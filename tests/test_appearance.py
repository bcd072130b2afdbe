import numpy as np
import pytest

from flows.appearance import DESCRIPTION, Looks, describe, difference


def _dressed(upper, lower, shade=0):
    picture = np.full((100, 200, 3), 90, dtype=np.uint8)
    picture[10:50, 20:60], picture[50:90, 20:60] = upper, lower
    return np.clip(picture.astype(int) + shade, 0, 255).astype(np.uint8)


BOX = np.array([[20, 10, 60, 90]], dtype=np.float32)
RED, BLUE = (180, 30, 30), (30, 30, 180)


def test_the_same_clothes_look_the_same_and_swapped_ones_do_not():
    red_over_blue, shaded, swapped = (
        describe(picture, BOX) for picture in (_dressed(RED, BLUE), _dressed(RED, BLUE, shade=3), _dressed(BLUE, RED))
    )
    assert difference(red_over_blue, red_over_blue)[0, 0] == pytest.approx(0, abs=0.03)
    assert difference(red_over_blue, shaded)[0, 0] < 0.3 < difference(red_over_blue, swapped)[0, 0]


def test_boxes_beyond_the_frame_are_described_by_what_is_in_view_or_by_nothing():
    boxes = np.array([[-20, 10, 60, 130], [500, 500, 540, 580]], dtype=np.float32)
    described = describe(_dressed(RED, BLUE), boxes)
    assert described.shape == (2, DESCRIPTION)
    assert described[0].sum() > 0
    assert described[1].sum() == 0
    assert describe(_dressed(RED, BLUE), np.zeros((0, 4))).shape == (0, DESCRIPTION)


def test_looks_remember_the_first_and_follow_the_latest():
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    looks = Looks(red[0])
    for _ in range(20):
        looks.take(blue[0])
    stored = Looks.from_list(looks.to_list())
    assert stored is not None
    to_red, to_blue = difference(stored, red)[:, 0], difference(stored, blue)[:, 0]
    assert to_red[0] < to_red[1]
    assert to_blue[1] < 0.05 < to_blue[0]
    assert Looks.from_list([0.5] * 256) is None
    assert Looks.from_list([]) is None


def test_what_looks_otherwise_for_a_moment_is_not_learned():
    """Another object on its place at one keyframe, or half of itself, must not be what it is looked for by."""
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    looks = Looks(red[0])
    for seen in (blue, blue, red, blue, blue, red):
        looks.take(seen[0])
    assert difference(looks.latest[None], red)[0, 0] == pytest.approx(0, abs=1e-5)
    looks.take(blue[0])
    looks.take(blue[0])
    looks.take(blue[0])
    assert difference(looks.latest[None], red)[0, 0] > 0.05


def test_what_covers_an_object_at_first_is_not_what_it_looks_like():
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    looks = Looks(red[0], clear=False)
    assert looks.to_list() == []
    assert difference(looks.latest[None], red)[0, 0] == pytest.approx(0, abs=1e-5)
    looks.take(blue[0])
    stored = Looks.from_list(looks.to_list())
    assert stored is not None
    assert difference(stored, blue)[:, 0] == pytest.approx(0, abs=1e-5)


def test_what_is_never_seen_alone_looks_as_it_does_for_a_while():
    """A cyclist is never without a bicycle; who is covered by one after the other looks like none of them."""
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    passing, cyclist = Looks(red[0], clear=False), Looks(red[0], clear=False)
    for _ in range(3):
        for seen in (blue, blue, blue, blue, red, red, red, red):
            passing.take(seen[0], clear=False)
    assert not passing.known
    for _ in range(9):
        assert cyclist.to_list() == []
        cyclist.take(red[0], clear=False)
    assert cyclist.known
    cyclist.take(blue[0], clear=False)
    assert difference(cyclist.latest[None], red)[0, 0] == pytest.approx(0, abs=1e-5)


def test_what_shows_a_part_is_forgotten_as_soon_as_all_of_it_is_seen():
    """What comes in over the frame's edge looks otherwise once it is in."""
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    looks = Looks(red[0], whole=False)
    looks.take(red[0], whole=False)
    assert looks.known
    assert difference(looks.latest[None], red)[0, 0] == pytest.approx(0, abs=1e-5)
    looks.take(blue[0])
    for _ in range(5):
        looks.take(red[0], whole=False)
    stored = Looks.from_list(looks.to_list())
    assert stored is not None
    assert difference(stored, blue)[:, 0] == pytest.approx(0, abs=1e-5)


def test_a_part_of_what_was_covered_is_forgotten_as_well():
    red, blue = describe(_dressed(RED, RED), BOX), describe(_dressed(BLUE, BLUE), BOX)
    looks = Looks(red[0], clear=False)
    looks.take(red[0], whole=False)
    assert looks.known
    looks.take(blue[0])
    assert difference(looks.latest[None], blue)[0, 0] == pytest.approx(0, abs=1e-5)
