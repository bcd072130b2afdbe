import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.associate import Candidate, associate, coverage, iou_matrix


def _make_candidate(boxes, x=0.0, class_name="person", distance2=None, difference=None, ratio=1.0, spread=1.0):
    overlap = iou_matrix(np.array([[x, 0, x + 10, 20]]), np.array(boxes))[0]
    n = len(overlap)
    distance2, difference = np.array(distance2 or [99.0] * n), np.array(difference or [0.0] * n)
    return Candidate(class_name, overlap, distance2, difference, np.full(n, ratio), spread)


def _associate(candidates, names, **overrides):
    names = ["person"] * names if isinstance(names, int) else names
    return sorted(associate(candidates, names, **({"min_iou": 0.3, "gate": 10, "led_gate": 22} | overrides)))


def test_overlap_pairs_optimally_not_greedily():
    """The best single pair (1, 0) would leave object 0 without any; together (0, 0) and (1, 1) are better."""
    boxes = [[3, 0, 13, 20], [7, 0, 17, 20]]
    assert _associate([_make_candidate(boxes, 0), _make_candidate(boxes, 4)], 2) == [(0, 0), (1, 1)]


def test_motion_finds_what_does_not_overlap_inside_the_gate_only():
    boxes = [[0, 0, 10, 20], [30, 0, 40, 20], [500, 0, 510, 20]]
    candidates = [_make_candidate(boxes, 0, distance2=(0, 99, 999)), _make_candidate(boxes, 20, distance2=(50, 4, 900))]
    assert _associate(candidates, 3) == [(0, 0), (1, 1)]


def test_looks_decide_between_close_candidates():
    boxes = [[2, 0, 12, 20], [3, 0, 13, 20]]
    candidates = [_make_candidate(boxes, 2, difference=(0.3, 0.0)), _make_candidate(boxes, 3, difference=(0.0, 0.3))]
    assert _associate(candidates, 2) == [(0, 1), (1, 0)]


def test_what_looks_different_is_not_taken_for_motion_alone():
    near = {"distance2": (1.0,)}
    assert _associate([_make_candidate([[30, 0, 40, 20]], difference=(0.05,), **near)], 1) == [(0, 0)]
    assert _associate([_make_candidate([[30, 0, 40, 20]], difference=(0.3,), **near)], 1) == []


def test_the_wider_the_place_the_less_motion_alone_says():
    """What is lost for long may be anywhere by now, and somebody alike is there as well."""
    far = {"distance2": (9.0,), "difference": (0.12,)}
    assert _associate([_make_candidate([[30, 0, 40, 20]], spread=0.5, **far)], 1) == [(0, 0)]
    assert _associate([_make_candidate([[30, 0, 40, 20]], spread=3.0, **far)], 1) == []
    assert _associate([_make_candidate([[0, 0, 10, 20]], spread=3.0, **far)], 1) == [(0, 0)]


def test_what_looks_too_different_is_not_taken_where_that_is_asked_for():
    unlike = [_make_candidate([[0, 0, 10, 20]], difference=(0.5,))]
    assert _associate(unlike, 1) == [(0, 0)]
    assert _associate(unlike, 1, max_difference=0.4) == []


def test_what_is_half_as_large_is_not_taken_for_motion_alone():
    near = {"distance2": (1.0,), "ratio": 2.0}
    assert _associate([_make_candidate([[30, 0, 40, 20]], **near)], 1) == []
    assert _associate([_make_candidate([[0, 0, 10, 20]], **near)], 1) == [(0, 0)]


def test_another_class_needs_more_overlap_and_yields_to_its_own():
    assert _associate([_make_candidate([[0, 0, 10, 20]], class_name="car")], ["truck"]) == [(0, 0)]
    assert _associate([_make_candidate([[5, 0, 15, 20]], class_name="car")], ["truck"]) == []
    boxes = [[0, 0, 10, 20], [1, 0, 11, 20]]
    assert _associate([_make_candidate(boxes, class_name="car", distance2=(9, 9))], ["truck", "car"]) == [(0, 1)]


def test_nothing_to_pair():
    assert _associate([], 1) == []
    assert _associate([_make_candidate(np.zeros((0, 4)))], 0) == []


def test_coverage_counts_the_inner_box_only():
    inner, outer = np.array([[2, 2, 4, 4]]), np.array([[0, 0, 10, 10], [3, 0, 10, 10]])
    assert coverage(inner, outer).tolist() == [[1.0, 0.5]]


coordinates = st.lists(st.floats(0, 1000, width=32), min_size=4, max_size=4)


@given(coordinates, coordinates)
def test_iou_is_symmetric_and_at_most_one(a, b):
    boxes = [np.array([[min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]]) for c in (a, b)]
    forward, backward = iou_matrix(*boxes)[0, 0], iou_matrix(*boxes[::-1])[0, 0]
    assert forward == pytest.approx(backward)
    assert 0 <= forward <= 1 + 1e-9
