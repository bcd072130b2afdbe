"""The loop inside a chunk, with an oracle for masks: what an object's life does must not depend on how good SAM is.

The oracle stands where `VideoSegmenter` does and answers from a drawn truth: every object's box at every time, None
where it is hidden. The same loop with the real segmenter runs in `test_process.py`.
"""

from collections import Counter

import cv2
import numpy as np
import pytest
import supervision as sv

from flows.associate import iou_matrix
from flows.config import Settings
from flows.mask import Mask
from flows.outcome import Segment
from flows.schema import NS, Chunk, Frame, State, Video
from flows.track import ChunkTracker

HEIGHT_PX, WIDTH_PX, FPS = 240, 320, 10
EVERY = 5


def _box(x, y=100.0, w=20.0, h=50.0):
    return np.array([x, y, x + w, y + h], dtype=np.float32)


class _Oracle:
    """Follows the object that a prompt lies on most, exactly; `blind` lists frames on which it loses everything."""

    starts_from_boxes = False

    def __init__(self, paths, blind=()):
        self.paths, self.blind = paths, set(blind)
        self.counters, self.told = {}, []
        self._index, self._first, self._follows = -1, 0, {}

    def push(self, image, frames):
        self._index += 1
        self.told.append(frames)
        return {i: self._segment(path, self._index) for i, path in self._follows.items()}

    def prompt(self, boxes):
        for i, box in boxes.items():
            shown = {name: path[self._index] for name, path in self.paths.items() if path[self._index] is not None}
            overlap = {name: iou_matrix(box[None], other[None])[0, 0] for name, other in shown.items()}
            self._follows[i] = max(overlap, key=overlap.get) if overlap and max(overlap.values()) > 0 else None
        return {i: self._segment(self._follows[i], self._index) for i in boxes}

    def drop(self, ids):
        for i in ids:
            self._follows.pop(i, None)

    def forget_frames(self):
        self._first = self._index

    def carry_back(self, ids):
        for index in range(self._index - 1, self._first - 1, -1):
            if not ids:
                return
            yield {i: self._segment(self._follows[i], index) for i in sorted(ids)}

    def _segment(self, name, index):
        box = self.paths[name][index] if name is not None and index not in self.blind else None
        if box is None:
            return Segment(-5.0, None, np.zeros(4, np.float32))
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        return Segment(9.0, Mask(x1, y1, np.ones((y2 - y1, x2 - x1), bool)), np.ones(4, np.float32))


def _chunk(frames, **overrides):
    video = Video("film.mp4", "hash", "yard", WIDTH_PX, HEIGHT_PX, FPS, frames / FPS, "h264", "mp4")
    return Chunk(
        **{"video": video, "index": 0, "start_ns": 0, "end_ns": frames * NS, "overlap_ns": 0} | overrides,
        settings_hash="x",
    )


def _detections(entries):
    boxes = [box for box, *_ in entries]
    return sv.Detections(
        xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        confidence=np.array([confidence for _, confidence, *_ in entries], dtype=np.float32),
        class_id=np.zeros(len(entries), dtype=int),
        data={"class_name": np.array([(e[2] if len(e) > 2 else "person") for e in entries], dtype=object)},
    )


def _track(paths, found=None, *, frames=40, blind=(), redetect=None, chunk=None, images=None, **track):
    """Run the loop; `found` maps keyframe -> detections, default: every visible object at confidence 0.9."""
    settings = Settings.load(flags={"track": {"smooth": False} | track, "detect": {"detect_every": EVERY}})
    found = found or {
        k: [(path[k], 0.9) for path in paths.values() if path[k] is not None] for k in range(0, frames, EVERY)
    }
    tracker = ChunkTracker(chunk or _chunk(frames), _Oracle(paths, blind), settings, EVERY, redetect)
    images = images or [np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)] * frames
    made = (Frame(i, i * NS // FPS, image) for i, image in enumerate(images))
    result = tracker.run(made, {k * NS // FPS: _detections(entries) for k, entries in found.items()})
    lives = {}
    for row in result.observations.to_pylist():
        lives.setdefault(row["tracklet_id"], []).append(row)
    return result, sorted(
        (sorted(rows, key=lambda r: r["frame"]) for rows in lives.values()), key=lambda r: r[0]["frame"]
    )


def _stored(row):
    return np.array([row[f"{c}_px"] for c in ("x1", "y1", "x2", "y2")])


def _walk(start=0, end=40, *, frames=40, x0=20.0, speed=4.0, hidden=(), y=100.0):
    return [_box(x0 + speed * i, y) if start <= i < end and i not in hidden else None for i in range(frames)]


def test_an_object_is_followed_from_its_first_frame_to_its_last():
    _, lives = _track({"a": _walk()})
    (life,) = lives
    assert [row["frame"] for row in life] == list(range(40))
    assert Counter(row["state"] for row in life) == {State.DETECTED: 8, State.PROPAGATED: 32}
    truth = np.stack(_walk())
    boxes = np.stack([_stored(row) for row in life])
    assert np.abs(boxes - truth).max() <= 1
    assert life[3]["y_px"] == pytest.approx(truth[3, 3], abs=1)


def test_masks_led_by_boxes_start_afresh_from_every_detection(monkeypatch):
    result, _ = _track({"a": _walk()})
    assert result.counters["corrected"] == 0
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    result, (life,) = _track({"a": _walk()})
    assert result.counters["corrected"] == 7
    # A mask alone, after the last detection, says nothing.
    assert [row["frame"] for row in life] == list(range(36))


def test_masks_led_by_boxes_that_arrive_where_it_is_detected_say_where_it_was(monkeypatch):
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    path = _walk(frames=20, end=20)
    for there in (12, 13):
        path[there] = path[there] - np.float32([0, 12, 0, 12])
    # Of what the detector counts to an object and a mask does not, here 4 px on every side, half is added between.
    wide = {k: [(path[k] + np.float32([-4, -4, 4, 4]), 0.9)] for k in range(0, 20, EVERY)}

    _, (life,) = _track({"a": path}, wide, frames=20)

    assert [row["state"] for row in life[10:16]] == [State.DETECTED, *[State.PROPAGATED] * 4, State.DETECTED]
    # Boxes are drawn half of the way to masks at last, so 2 px are left on keyframes.
    off = np.stack([_stored(row) - box for row, box in zip(life, path, strict=False)])
    np.testing.assert_allclose(off[10], [-2, -2, 2, 2], atol=0.1)
    np.testing.assert_allclose(off[11:15], np.broadcast_to([-1, -1, 1, 1], (4, 4)), atol=0.1)


def test_masks_led_by_boxes_may_go_where_motion_does_not_expect_the_object(monkeypatch):
    """A car that enters has no motion yet, and is more than twice as wide at the next look."""
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    path = [np.array([0, 100, 40 + 12 * i, 150], np.float32) for i in range(10)]

    _, (life,) = _track({"a": path}, frames=10)

    assert [row["state"] for row in life] == [State.DETECTED, *[State.PROPAGATED] * 4, State.DETECTED]
    assert all(row["mask"] is not None for row in life)


def test_masks_led_by_boxes_speak_for_the_detections_they_lie_on(monkeypatch):
    """Two that stood start to run, the one to where motion expects the other."""
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    paths = {
        "a": _walk(frames=10, end=10, x0=100, speed=0),
        "b": _walk(frames=10, end=10, x0=122, speed=0),
    }
    for there in range(1, 6):
        for path in paths.values():
            path[there] = path[0] + np.float32([22, 0, 22, 0]) * there / 5
    paths = {name: [*path[:6], *[path[5]] * 4] for name, path in paths.items()}

    _, lives = _track(paths, frames=10)

    assert [round(life[-1]["x1_px"]) for life in sorted(lives, key=lambda life: life[0]["x1_px"])] == [122, 144]


def test_masks_led_by_boxes_that_arrive_elsewhere_say_nothing(monkeypatch):
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    path = _walk(frames=20, end=20, speed=0)
    found = {k: [(path[k] + np.float32([0, 20, 0, 20]) * (k == 15), 0.9)] for k in range(0, 20, EVERY)}

    _, (life,) = _track({"a": path}, found, frames=20)

    assert [row["state"] for row in life[10:16]] == [State.DETECTED, *[State.INTERPOLATED] * 4, State.DETECTED]


def test_masks_led_by_boxes_that_went_astray_on_the_way_say_nothing(monkeypatch):
    """The last mask that was where motion expects it lies on the next detection, for the object stands."""
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    path = _walk(frames=20, end=20, speed=0)
    astray = [box if t < 13 or t > 15 else box + np.float32([80, 0, 80, 0]) for t, box in enumerate(path)]
    found = {k: [(path[k], 0.9)] for k in range(0, 20, EVERY)}

    _, (life,) = _track({"a": astray}, found, frames=20)

    assert [row["state"] for row in life[11:15]] == [State.INTERPOLATED] * 4


def test_masks_led_by_boxes_are_carried_back_to_where_flow_saw_the_object_enter(monkeypatch):
    monkeypatch.setattr(_Oracle, "starts_from_boxes", True)
    path = _walk(start=7, frames=20)
    rng = np.random.default_rng(0)
    patch = cv2.resize(rng.integers(0, 255, (10, 5, 3), dtype=np.uint8), (20, 50), interpolation=cv2.INTER_CUBIC)
    images = [np.full((HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8) for _ in path]
    for image, box in zip(images, path, strict=True):
        if box is not None:
            x, y = round(float(box[0])), round(float(box[1]))
            image[y : y + 50, x : x + 20] = patch

    _, (life,) = _track({"a": path}, frames=20, images=images)

    assert [row["frame"] for row in life] == list(range(7, 16))
    assert life[0]["state"] == State.INTERPOLATED
    assert all(row["mask"] is not None for row in life)


def test_what_enters_between_keyframes_is_reported_from_where_it_entered():
    _, ((first, *_),) = _track({"a": _walk(start=7)})
    assert first["frame"] == 7
    assert first["state"] == State.PROPAGATED


def test_a_tentative_object_is_reported_from_its_first_frame_once_confirmed_and_else_never():
    paths = {"a": _walk(), "ghost": _walk(y=10, speed=0)}
    found = {k: [(paths["a"][k], 0.7 if k == 20 else 0.5)] for k in range(0, 40, EVERY)}
    found[10] = [*found[10], (paths["ghost"][10], 0.7)]
    result, (life,) = _track(paths, found)
    assert life[0]["frame"] == 0
    assert result.counters["born"] == 2


def test_what_was_never_detected_surely_is_not_reported():
    path = _walk(speed=1)
    _, lives = _track({"a": path}, {k: [(path[k], 0.6)] for k in range(0, 40, EVERY)})
    assert lives == []


def test_one_confident_detection_is_enough():
    paths = {"a": _walk(start=18, end=24)}
    _, (life,) = _track(paths, {**{k: [] for k in range(0, 40, EVERY)}, 20: [(paths["a"][20], 0.9)]})
    assert (life[0]["frame"], life[-1]["frame"]) == (18, 23)


def test_hidden_objects_are_bridged_under_the_same_id():
    _, (life,) = _track({"a": _walk(hidden=range(12, 24))})
    states = {row["frame"]: row["state"] for row in life}
    assert [states[i] for i in range(12, 24)] == [State.BRIDGED] * 12
    truth = _walk()
    for row in life[12:24]:
        assert (
            iou_matrix(np.array([[row[f"{c}_px"] for c in ("x1", "y1", "x2", "y2")]]), truth[row["frame"]][None]) > 0.5
        )


def test_a_bridge_ends_and_so_does_the_tracklet_at_its_last_true_sighting():
    _, lives = _track({"a": _walk(hidden=range(12, 33))}, max_bridge_seconds=1.5)
    assert [(life[0]["frame"], life[-1]["frame"]) for life in lives] == [(0, 11), (33, 39)]


def test_what_leaves_the_frame_ends():
    _, (life,) = _track({"a": _walk(end=20, x0=230.0)})
    assert life[-1]["frame"] == 19
    # What is reported is what the frame shows.
    assert max(row["x2_px"] for row in life) == WIDTH_PX
    assert all(row["x_px"] == (row["x1_px"] + row["x2_px"]) / 2 for row in life)


def test_what_has_half_left_unseen_is_the_same_object_at_the_next_look():
    path = [_box(28 + 14 * i, w=60.0) for i in range(21)] + [None] * 19
    found = {k: [] if path[k] is None else [(path[k].clip(0, WIDTH_PX), 0.9)] for k in range(0, 40, EVERY)}
    _, lives = _track({"a": path}, found, blind=(16, 17, 18, 19))
    assert [(life[0]["frame"], life[-1]["frame"]) for life in lives] == [(0, 20)]


def test_a_part_of_what_is_detected_is_no_other_object_though_there_is_no_mask_of_it():
    path = _walk()
    found = {k: [(path[k], 0.9)] for k in range(0, 40, EVERY)}
    found[10] = [*found[10], (path[10] - np.array([0, 0, 0, 25]), 0.9)]
    result, _ = _track({"a": path}, found, blind=(10,))
    assert result.counters["born"] == 1


@pytest.mark.parametrize(("confidence", "tracks"), [(0.7, 1), (0.9, 2)])
def test_what_is_detected_unsurely_in_two_parts_is_one_object(confidence, tracks):
    """Neither part lies inside the other, but both have the pixels between them."""
    path = [_box(60.0 + i, w=160.0) for i in range(40)]
    halves = {
        k: [(path[k] - [0, 0, 50, 0], confidence), (path[k] + [50, 0, 0, 0], confidence)] for k in range(0, 40, EVERY)
    }

    result, lives = _track({"truck": path}, halves)

    assert len(lives) == tracks
    assert (result.counters["duplicates"] > 0) == (tracks == 1)


def test_two_whose_boxes_share_as_much_are_two():
    paths = {"a": [_box(100.0, w=60.0)] * 40, "b": [_box(140.0, w=60.0)] * 40}

    _, lives = _track(paths, {k: [(_box(100.0, w=60.0), 0.9), (_box(120.0, w=80.0), 0.7)] for k in range(0, 40, EVERY)})

    assert len(lives) == 2


def test_two_whose_masks_share_pixels_but_not_their_boxes_are_two():
    """A mask may leak onto a neighbour."""
    paths = {"a": [_box(100.0, w=100.0)] * 40}

    _, lives = _track(paths, {k: [(_box(100.0, w=60.0), 0.9), (_box(150.0, w=50.0), 0.7)] for k in range(0, 40, EVERY)})

    assert len(lives) == 2


def test_a_mask_that_jumps_is_drift_and_is_looked_at_at_once():
    path = _walk()
    wrong = {k: _box(250, 10) for k in (12, 13)}
    paths = {"a": [wrong.get(i, box) for i, box in enumerate(path)]}
    found = {k: [(path[k], 0.9)] for k in range(0, 40, EVERY)}
    looked = []

    def redetect(frame):
        looked.append(frame.number)
        return _detections([(path[frame.number], 0.9)])

    result, (life,) = _track(paths, found, redetect=redetect)
    assert looked[0] == 12
    assert result.counters["drifted"] >= 1
    row = life[12]
    assert row["state"] == State.DETECTED
    assert row["x1_px"] == pytest.approx(path[12][0], abs=1)


def test_a_mask_without_any_detection_for_it_is_a_ghost():
    """The object was never more than one detection and a mask that stays: it ends at the detection."""
    paths = {"a": _walk(speed=0)}
    _, (life,) = _track(paths, {**{k: [] for k in range(0, 40, EVERY)}, 5: [(paths["a"][5], 0.9)]})
    assert life[-1]["frame"] == 5


def test_a_detectors_lapse_is_forgiven_by_the_clock_and_not_by_the_frame():
    """Six keyframes are missed in 0.6 s of a fast detector: no ghost, and its mask in between is kept."""
    path = _walk(speed=1)
    for seconds, lives_expected in ((2.0, 1), (0.5, 2)):
        found = {k: [(path[k], 0.9)] if not 10 <= k < 16 else [] for k in range(40)}
        _, lives = _track({"a": path}, found, max_missed_seconds=seconds)
        assert len(lives) == lives_expected, seconds


def _ground(width_px=WIDTH_PX, height_px=HEIGHT_PX):
    """A picture with something to be seen everywhere."""
    coarse = np.random.default_rng(0).integers(0, 255, (height_px // 8, width_px // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_LINEAR)


def test_an_unsure_detection_that_moves_is_real():
    """A pole stays where it is; one sure detection among unsure ones is none of them."""
    still = [_ground()] * 40
    for speed, reported in ((4, 1), (1, 0), (0, 0)):
        path = _walk(speed=speed)
        _, lives = _track({"a": path}, {k: [(path[k], 0.6)] for k in range(0, 40, EVERY)}, images=still)
        assert len(lives) == reported, speed
    path = _walk()
    found = {k: [(path[k], 0.6 if k == 0 else 0.3)] for k in range(0, 40, EVERY)}
    assert _track({"a": path}, found, images=still)[1] == []


@pytest.mark.parametrize("led", [False, True])
@pytest.mark.parametrize("names", [("car", "truck"), ("truck", "car")])
def test_the_same_once_more_as_of_another_class_moves_with_it(monkeypatch, names, led):
    """Also where it stops at once, so that one of both has been moved there and the other not yet."""
    monkeypatch.setattr(_Oracle, "starts_from_boxes", led)
    path = _walk(end=20, speed=6)
    path = path[:20] + [path[19]] * 20
    for sure in (0.9, 0.6):
        confidence = {"car": sure, "truck": 0.58}
        found = {k: [(path[k], confidence[name], name) for name in names] for k in range(0, 40, EVERY)}
        _, lives = _track({"a": path}, found, images=[_ground()] * 40)
        assert {row["class_name"] for life in lives for row in life} == {"car"}, sure


@pytest.mark.parametrize(("pan", "reported"), [(0, 1), (4, 0), (12, 0)])
def test_what_moves_with_the_picture_stays_where_it_is(pan, reported):
    """A camera that pans takes poles along."""
    ground, path = _ground(1000), _walk(x0=20, speed=pan or 4, end=20)
    images = [np.ascontiguousarray(ground[:, 600 - pan * i :][:, :WIDTH_PX]) for i in range(40)]
    found = {k: [(path[k], 0.6)] if k < 20 else [] for k in range(0, 40, EVERY)}
    _, lives = _track({"a": path}, found, images=images)
    assert len(lives) == reported


@pytest.mark.parametrize("compensate", [False, True])
def test_what_turns_with_the_picture_stays_where_it_is(compensate):
    """A drone that turns takes poles along; how far is known where the camera is followed, and else not."""
    ground, degrees = _ground(2 * WIDTH_PX, 2 * HEIGHT_PX), 2.0
    images, path = [], []
    for i in range(20):
        turn = cv2.getRotationMatrix2D((WIDTH_PX, HEIGHT_PX), degrees * i, 1)
        turn[:, 2] -= WIDTH_PX / 2, HEIGHT_PX / 2
        images.append(cv2.warpAffine(ground, turn, (WIDTH_PX, HEIGHT_PX)))
        x, y = turn @ [WIDTH_PX + 100, HEIGHT_PX, 1]
        path.append(_box(x - 10, y - 25))
    found = {k: [(path[k], 0.6)] for k in range(0, 20, EVERY)}
    _, lives = _track({"a": path}, found, frames=20, images=images, compensate_camera=compensate)
    assert lives == []


def test_a_weak_detection_of_something_else_on_its_place_is_not_it():
    """A sure one is: it changed its clothes, or the light did."""
    path, images = _walk(speed=0), []
    for i in range(40):
        image = np.full((HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
        x1, y1, x2, y2 = path[i].astype(int)
        image[y1:y2, x1:x2] = (180, 30, 30) if i < 10 else (30, 30, 180)
        images.append(image)
    for confidence, last in ((0.3, 5), (0.9, 35)):
        found = {k: [(path[k], 0.9 if k < 10 else confidence)] for k in range(0, 40, EVERY)}
        _, (life,) = _track({"a": path}, found, images=images)
        assert max(row["frame"] for row in life if row["state"] == State.DETECTED) == last, confidence


def test_two_masks_on_one_object_become_one():
    """Two detections of one object start two while there is no mask of it; later there is one detection."""
    path = _walk(speed=0)
    found = {k: [(path[k], 0.9)] for k in range(0, 40, EVERY)}
    found[0] = [(path[0], 0.9), (path[0] + np.array([3, 0, 3, 0], np.float32), 0.86)]
    result, lives = _track({"a": path}, found, blind=[0])
    assert [len(life) for life in lives] == [40]
    assert result.counters["duplicates"] == 1


@pytest.mark.parametrize("first", ["car", "truck"])
def test_what_is_detected_as_of_two_classes_at_once_is_one_object(first):
    """The surer class starts it, and from then on the other one's detection is its double, however sure."""
    path = _walk()
    sure, unsure = {"car": ("car", "truck"), "truck": ("truck", "car")}[first]
    found = {k: [(path[k], 0.9, "car"), (path[k] + 1, 0.9, "truck")] for k in range(0, 40, EVERY)}
    found[0] = [(path[0] + 1, 0.87, unsure), (path[0], 0.95, sure)]
    result, (life,) = _track({"a": path}, found)
    assert {row["class_name"] for row in life} == {first}
    assert result.counters["born"] == 1


@pytest.mark.parametrize(
    ("shift", "classes"), [(20.0, ("car", "truck")), (8.0, ("car", "truck")), (2.0, ("person", "motorcycle"))]
)
def test_two_of_two_classes_are_two(shift, classes):
    """They share half of their places or three quarters; who rides shares all."""
    paths = {"a": [_box(100.0, w=60.0)] * 40, "b": [_box(100.0 + shift, w=60.0)] * 40}
    found = {
        k: [(paths[name][k], 0.9, of) for name, of in zip("ab", classes, strict=True)] for k in range(0, 40, EVERY)
    }
    result, _ = _track(paths, found)
    assert result.counters["born"] == 2


def test_class_is_decided_by_vote():
    path = _walk()
    found = {k: [(path[k], 0.9, "truck" if k == 10 else "car")] for k in range(0, 40, EVERY)}
    _, (life,) = _track({"a": path}, found)
    assert {row["class_name"] for row in life} == {"car"}


def test_a_bare_gap_in_masks_is_carried_by_detections():
    """SAM sees nothing at all: keyframes are detected, the rest bridged, and the identity holds."""
    _, (life,) = _track({"a": _walk()}, blind=range(40))
    assert Counter(row["state"] for row in life) == {State.DETECTED: 8, State.BRIDGED: 28}


def test_only_own_frames_are_stored_and_the_tail_reaches_into_shared_ones():
    chunk = _chunk(40, end_ns=2 * NS, overlap_ns=NS)
    result, (life,) = _track({"a": _walk()}, chunk=chunk, frames=30)
    assert life[-1]["pts_ns"] < 2 * NS
    (tracklet,) = result.tracklets.to_pylist()
    assert max(tracklet["tail_pts_ns"]) == 29 * NS // FPS
    assert min(tracklet["tail_pts_ns"]) <= NS
    assert tracklet["n_observations"] == len(life) == 20


def test_what_a_border_cuts_waits_to_be_confirmed_on_its_other_side():
    """Never surer than 0.5, so nobody reports it; but a neighbour that sees it, too, may have been surer."""
    for start, end, kept in ((16, 24, []), (0, 22, [False]), (12, 40, [False])):
        paths = {"a": _walk(start=start, end=end, speed=1)}
        found = {k: [(paths["a"][k], 0.5)] for k in range(0, 40, EVERY) if paths["a"][k] is not None}
        chunk = _chunk(100, start_ns=NS, end_ns=3 * NS, overlap_ns=NS)
        result, lives = _track(paths, found, chunk=chunk)
        assert result.tracklets["confirmed"].to_pylist() == kept
        assert len(lives) == len(kept)
    whole, _ = _track(paths, found)
    assert whole.tracklets.num_rows == 0


def test_behind_a_border_weak_detections_start_what_the_chunk_before_may_know():
    paths = {"a": _walk()}
    weak = {k: [(paths["a"][k], 0.2)] for k in range(0, 40, EVERY)}
    behind = _chunk(40, start_ns=NS, overlap_ns=NS)
    assert _track(paths, weak, chunk=behind)[0].tracklets["confirmed"].to_pylist() == [False]
    assert _track(paths, weak)[0].counters["born"] == 0
    # A weak detection inside a sure one is a part of it.
    inset = np.array([4, 8, -4, -8])
    parts = {k: [(paths["a"][k], 0.9), (paths["a"][k] + inset, 0.2)] for k in weak}
    assert _track(paths, parts, chunk=behind)[0].counters["born"] == 1
    # Inside a sure one of another class it is somebody before it, or on it.
    before = {k: [(paths["a"][k], 0.9, "forklift"), (paths["a"][k] + inset, 0.2)] for k in weak}
    assert _track(paths, before, chunk=behind)[0].counters["born"] == 2


def test_the_same_input_gives_the_same_output():
    paths = {"a": _walk(), "b": _walk(x0=280, speed=-5), "c": _walk(start=13, y=10)}
    first, second = (_track(paths)[0] for _ in range(2))
    assert first.observations.equals(second.observations)
    assert first.tracklets.equals(second.tracklets)


def test_two_that_cross_keep_their_ids():
    paths = {"a": _walk(speed=5), "b": _walk(x0=220, speed=-5)}
    _, lives = _track(paths)
    assert len(lives) == 2
    assert sorted(life[-1]["x1_px"] - life[0]["x1_px"] > 0 for life in lives) == [False, True]


def test_thinning_keeps_first_last_and_changes():
    settings = Settings.load(flags={"store": {"observe_hz": 1}})
    paths = {"a": _walk(hidden=range(12, 17))}
    tracker = ChunkTracker(_chunk(40), _Oracle(paths), settings, EVERY)
    image = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    found = {
        k * NS // FPS: _detections([(paths["a"][k], 0.9)] if paths["a"][k] is not None else []) for k in range(0, 40, 5)
    }
    rows = tracker.run((Frame(i, i * NS // FPS, image) for i in range(40)), found).observations.to_pylist()
    frames = {row["frame"] for row in rows}
    assert {0, 39, 12, 17} <= frames
    assert len(frames) < 30


@pytest.mark.parametrize("compensate", [True, False])
def test_what_is_hidden_while_the_camera_pans_is_carried_along(compensate):
    """The camera stands, then pans over a parked object that is hidden just then."""
    ground = np.random.default_rng(0).integers(0, 255, (HEIGHT_PX // 4, WIDTH_PX // 2), np.uint8)
    ground = cv2.cvtColor(cv2.resize(ground, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    pan_px = [5 * min(max(i - 20, 0), 8) for i in range(40)]
    true = [_box(150.0 - pan) for pan in pan_px]
    hidden = range(20, 28)
    paths = {"a": [None if i in hidden else box for i, box in enumerate(true)]}
    images = [ground[:, pan : pan + WIDTH_PX] for pan in pan_px]
    result, (rows,) = _track(paths, images=images, compensate_camera=compensate)
    bridged = [row for row in rows if row["state"] == State.BRIDGED]
    assert len(bridged) == len(hidden)
    error_px = max(np.abs(_stored(row) - true[row["frame"]]).max() for row in bridged)
    assert (error_px < 2) == compensate
    assert result.counters.get("camera_lost", 0) == 0


def test_the_segmenter_is_told_how_many_frames_it_did_not_see():
    settings = {"detect": {"detect_every": 5}, "segment": {"segment_every": 4}}
    segmenter = _Oracle({"a": _walk()}, ())
    tracker = ChunkTracker(_chunk(10), segmenter, Settings.load(flags=settings), 5)
    image = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.uint8)

    tracker.run([Frame(i, i * NS // FPS, image) for i in range(10)], {i * NS // FPS: _detections([]) for i in (0, 5)})

    assert segmenter.told == [1, 4, 1, 3]
