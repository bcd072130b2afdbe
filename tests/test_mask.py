"""Masks as crops, and what a mask's extent says of its object's box."""

import numpy as np
import pytest

from flows.mask import Mask, drawn_to_mask

BOX = (100, 100, 200, 300)


@pytest.mark.parametrize(
    ("mask", "share", "expected"),
    [
        (BOX, 1, BOX),
        ((110, 104, 210, 304), 1, (110, 104, 210, 304)),  # moved
        ((110, 104, 210, 304), 0.5, (105, 102, 205, 302)),
        ((110, 120, 190, 280), 1, (110, 120, 190, 280)),  # shrunk
        ((90, 80, 210, 320), 1, (90, 80, 210, 320)),  # grown
        ((130, 100, 200, 300), 1, BOX),  # one side covered
        ((110, 100, 230, 300), 1, (110, 100, 210, 300)),  # moved, and leaked onto something to its right
        ((110, 100, 150, 300), 1, BOX),  # half of it covered
        ((160, 100, 260, 300), 1, BOX),  # another object's
    ],
)
def test_a_box_follows_its_mask_where_opposite_sides_agree(mask, share, expected):
    drawn = drawn_to_mask(np.array(BOX, np.float32), np.array(mask, np.float32), share)

    np.testing.assert_allclose(drawn, expected, atol=1e-3)


def test_the_part_of_a_mask_inside_a_box():
    mask = Mask(10, 20, np.ones((8, 6), bool))

    part = mask.within(np.array([12, 22, 14, 100], np.float32))

    assert (part.x_px, part.y_px, part.crop.shape) == (12, 22, (6, 2))
    assert mask.within(np.array([50, 50, 60, 60], np.float32)) is None
