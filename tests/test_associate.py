import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.associate import Candidate, associate, coverage, iou_matrix


def _make_candidate(x=0.0, y=0.0, class_name="person", distance2=(99.0,)):
    return Candidate(class_name, np.array([[x, y, x + 10, y + 20]], dtype=np.float32), np.array(distance2))


def _associate(candidates, boxes, names=None, **overrides):
    names = names or ["person"] * len(boxes)
    return sorted(
        associate(candidates, np.array(boxes, dtype=np.float32), names, **({"min_iou": 0.3, "gate": 10} | overrides))
    )


def test_overlap_pairs_optimally_not_greedily():
    """The best single pair (1, 0) would leave object 0 without any; together (0, 0) and (1, 1) are better."""
    candidates = [_make_candidate(0, distance2=(99, 99)), _make_candidate(4, distance2=(99, 99))]
    assert _associate(candidates, [[3, 0, 13, 20], [7, 0, 17, 20]]) == [(0, 0), (1, 1)]


def test_motion_finds_what_does_not_overlap_inside_the_gate_only():
    boxes = [[0, 0, 10, 20], [30, 0, 40, 20], [500, 0, 510, 20]]
    candidates = [_make_candidate(0, distance2=(0, 99, 999)), _make_candidate(20, distance2=(50, 4, 900))]
    assert _associate(candidates, boxes) == [(0, 0), (1, 1)]


def test_another_class_needs_more_overlap_and_yields_to_its_own():
    assert _associate([_make_candidate(class_name="car")], [[0, 0, 10, 20]], ["truck"]) == [(0, 0)]
    assert _associate([_make_candidate(class_name="car")], [[5, 0, 15, 20]], ["truck"]) == []
    boxes = [[0, 0, 10, 20], [1, 0, 11, 20]]
    assert _associate([_make_candidate(class_name="car", distance2=(9, 9))], boxes, ["truck", "car"]) == [(0, 1)]


def test_nothing_to_pair():
    assert _associate([], [[0, 0, 1, 1]]) == []
    assert _associate([_make_candidate()], np.zeros((0, 4))) == []


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
