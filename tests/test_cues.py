"""What optical flow says of an object between keyframes, before its first one and after its last."""

import cv2
import numpy as np
import pytest

from flows.appearance import Looks, describe
from flows.cues import Cues, candidate
from flows.schema import NS, Frame
from flows.target import Target

STEPS = 6
BOX = np.array([60, 40, 100, 120], dtype=np.float32)


# Of one brightness, so that flow, which sees none, cannot tell them apart.
RED, GREEN = (1, 0.2, 0.2), (0.2, 0.61, 0.2)


def _frames(hidden=(), green=()):
    """A red textured patch, moved by (4, 2) px a frame on a still one; on some frames it is not there, or green."""
    rng = np.random.default_rng(3)
    background, patch = (cv2.GaussianBlur(rng.uniform(0, 255, (*s, 3)), (0, 0), 2) for s in ((240, 320), (80, 40)))
    background, patch = ((p - p.min()) / np.ptp(p) * 255 for p in (background, patch))
    frames = []
    for i in range(STEPS):
        picture = background.copy()
        if i not in hidden:
            picture[40 + 2 * i : 120 + 2 * i, 60 + 4 * i : 100 + 4 * i] = patch * (GREEN if i in green else RED)
        frames.append(Frame(i, i * NS // 10, picture.astype(np.uint8)))
    return frames


def _at(i):
    return BOX + np.array([4, 2, 4, 2], dtype=np.float32) * i


def _cues(frames, first, last):
    """Cues after a keyframe at the first frame and one at the last, with these boxes on them."""
    cues, targets = Cues(), []
    for frame in frames:
        cues.push(frame)
        if frame is frames[0]:
            targets = [
                Target(7, frame, box, 0.9, "person", 0.06, Looks(describe(frame.image_rgb, box[None])[0]))
                for box in first
            ]
            cues.evidence(frame.image_rgb, np.array(first, np.float32).reshape(-1, 4), [], masks_trusted=False)
            cues.seen(targets)
    evidence = cues.evidence(
        frames[-1].image_rgb, np.array(last, np.float32).reshape(-1, 4), targets, masks_trusted=False
    )
    return cues, evidence, targets


def test_between_two_keyframes_flow_from_both_says_where_it_was():
    cues, evidence, _ = _cues(_frames(), [_at(0)], [_at(STEPS - 1)])
    assert evidence.overlap[0, 0] > 0.9
    flown = list(cues.between(7, 0))
    assert [f.number for f in flown] == [1, 2, 3, 4]
    for f in flown:
        assert f.box_xyxy == pytest.approx(_at(f.number), abs=1.5)
    assert list(cues.between(8, 0)) == []


def test_where_both_sides_disagree_the_deviation_grows():
    agreed = [f.sigma for f in _cues(_frames(), [_at(0)], [_at(STEPS - 1)])[0].between(7, 0)]
    apart = [f.sigma for f in _cues(_frames(), [_at(0)], [_at(STEPS - 1) + 30])[0].between(7, 0)]
    assert max(agreed) < min(apart)


@pytest.mark.parametrize(("hidden", "arrived"), [((0,), [4, 3, 2, 1]), ((0, 1, 2), [4, 3])])
def test_what_is_new_is_followed_back_to_where_it_came_into_sight(hidden, arrived):
    frames = _frames(hidden)
    cues, evidence, _ = _cues(frames, [], [_at(STEPS - 1)])
    flown = list(cues.arrival(0, evidence.looks[0], frames))
    assert [f.number for f in flown] == arrived
    assert flown[0].box_xyxy == pytest.approx(_at(4), abs=1.5)


def test_what_looks_different_is_another_object():
    frames = _frames(green=(0, 1, 2))
    cues, evidence, _ = _cues(frames, [], [_at(STEPS - 1)])
    assert [f.number for f in cues.arrival(0, evidence.looks[0], frames)] == [4, 3]


def test_what_is_missed_is_followed_to_where_it_went_out_of_sight():
    frames = _frames(hidden=(3, 4, 5))
    cues, _, (target,) = _cues(frames, [_at(0)], [])
    flown = list(cues.departure(7, target.looks.latest, frames))
    assert [f.number for f in flown] == [1, 2]
    assert list(cues.departure(8, target.looks.latest, frames)) == []


def _entering(i):
    """Where a board, 100 px wide, that comes in from the left is seen."""
    return np.array([max(8 * i - 60, 0), 40, 8 * i + 40, 120], dtype=np.float32)


def _boards(*, mirrored):
    rng = np.random.default_rng(4)
    background, board = (cv2.GaussianBlur(rng.uniform(0, 255, (*s, 3)), (0, 0), 2) for s in ((240, 320), (80, 100)))
    frames = []
    for i in range(STEPS):
        picture = background.copy()
        x1, _, x2, _ = _entering(i).astype(int)
        picture[40:120, x1:x2] = board[:, -(x2 - x1) :] * 0.6
        frames.append(Frame(i, i * NS // 10, (picture[:, ::-1] if mirrored else picture).astype(np.uint8).copy()))
    return frames


def _mirror(box):
    return np.array([320 - box[2], box[1], 320 - box[0], box[3]], dtype=np.float32)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("leaving", [False, True])
def test_what_the_edge_of_the_frame_cut_is_known_by_what_has_come_into_view(mirrored, leaving):
    ends = [_entering(0), _entering(STEPS - 1)]
    frames = _boards(mirrored=mirrored)
    if leaving:
        frames = [Frame(n, n * NS // 10, f.image_rgb) for n, f in enumerate(frames[::-1])]
        ends = ends[::-1]
    before, after = ([_mirror(box) if mirrored else box] for box in ends)
    _, evidence, _ = _cues(frames, before, after)
    assert evidence.overlap[0, 0] > 0.85


@pytest.mark.parametrize(("width", "ratio"), [(40, 1), (20, 1), (160, 2), (10, 2), (0, 80)])
def test_a_candidate_says_how_much_larger_or_smaller_detections_are(width, ratio):
    frame = _frames()[0]
    looks = describe(frame.image_rgb, BOX[None])
    target = Target(0, frame, BOX, 0.9, "person", 0.06, Looks(looks[0]))
    height = {10: 40, 0: 0}.get(width, 80)
    box = np.array([[60, 40, 60 + width, 40 + height]], dtype=np.float32)
    assert candidate(target, np.zeros(1), box, looks, 0.06).size_ratio == pytest.approx([ratio])
    assert candidate(target, np.zeros(0), box[:0], looks[:0], 0.06).size_ratio.shape == (0,)


def test_looks_that_are_not_known_speak_neither_way():
    frame = Frame(0, 0, np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    described = describe(frame.image_rgb, BOX[None])
    other = np.roll(described, 7, axis=1)
    found = {}
    for clear in (True, False):
        target = Target(0, frame, BOX, 0.9, "person", 0.06, Looks(described[0], clear=clear))
        found[clear] = candidate(target, np.zeros(2), np.stack([BOX, BOX]), np.concatenate([described, other]), 0.06)
    assert (
        found[True].difference[0] < found[False].difference[0] == found[False].difference[1] < found[True].difference[1]
    )


@pytest.mark.parametrize(
    ("box", "whole"),
    [
        ((60, 40, 100, 120), True),
        ((3, 40, 40, 120), False),
        ((-20, 40, 40, 120), False),
        ((60, 2, 100, 80), False),
        ((280, 40, 317, 120), False),
        ((60, 160, 100, 238), False),
        ((6, 40, 40, 120), True),
    ],
)
def test_what_the_frames_edge_may_cut_shows_a_part(box, whole):
    _, evidence, _ = _cues(_frames(), [], [np.array(box, dtype=np.float32)])
    assert evidence.whole.tolist() == [whole]
    assert evidence.clear.tolist() == [True]
