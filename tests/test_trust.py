"""How far masks are believed follows from how they lie on the detections matched to them."""

import numpy as np
import pytest

from flows.mask import Mask
from flows.outcome import Segment
from flows.trust import MaskTrust

BOX = np.array([100, 100, 140, 200], dtype=np.float32)


def _segment(shift_px):
    return Segment(9.0, Mask(100 + shift_px, 100 + shift_px, np.ones((100, 40), bool)), np.ones(4, np.float32))


def test_a_few_keyframes_tell_good_masks_from_bad_ones():
    for shift_px, holds in ((2, True), (40, False)):
        trust = MaskTrust(every=5)
        assert trust.holds
        for _ in range(4):
            trust.agreement(_segment(shift_px), BOX)
        assert trust.holds == holds
        assert trust.carried_sigma == pytest.approx(trust.sigma * 5**0.5)


def test_one_lost_mask_among_many_good_ones_changes_little():
    trust = MaskTrust(every=5)
    for shift_px in (*[2] * 30, 40):
        trust.agreement(_segment(shift_px), BOX)
    assert trust.sigma < 0.06


def test_masks_that_go_where_boxes_lead_them_lead_nothing():
    trust = MaskTrust(every=5, led=True)
    for _ in range(30):
        trust.agreement(_segment(2), BOX)
    assert trust.sigma < 0.06
    assert not trust.holds


def test_agreement_is_overlap_and_none_without_a_mask():
    trust = MaskTrust(every=5)
    assert trust.agreement(_segment(0), BOX) == 1
    before = trust.sigma
    assert trust.agreement(None, BOX) == 0
    assert trust.sigma == before
