"""Masks corrected close up: where the samples lie, and what becomes of the mask."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flows.config import SegmentSettings
from flows.demo.clips import ClipMaker, ClipSpec
from flows.demo.evaluate_nano import load, mask_j
from flows.demo.masklets import render_scene
from flows.demo.nano import WEIGHTS_PATH, build_nano
from flows.demo.train_refiner import CloseUps, RefinerTrainer, drifted_boxes, off_boxes
from flows.refine import FLOW_DOUBT, MARGIN, SIDE, CloseUp, Look, MaskRefiner, Seen
from flows.segment import VideoSegmenter
from flows.soft_mask import SoftMask, sampled_mask, soft_mask

HEIGHT_PX, WIDTH_PX = 120, 200


def _ramps():
    """A picture whose values are its rows and columns, (height, width, 3)."""
    y, x = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("box", [(40, 30, 60, 70), (20, 10, 190, 110), (50.3, 60.7, 52.1, 63.9)])
def test_samples_lie_where_they_say(box):
    region = CloseUp.around(np.array(box, np.float32))

    picture = region.picture(_ramps())

    # Beyond the frame its outermost cells are carried on, which are half a step wide.
    x, y = picture[..., 0].mean(axis=0), picture[..., 1].mean(axis=1)
    np.testing.assert_allclose(x, np.clip(region.xs_px, 0, WIDTH_PX - 1), atol=max(0.6, np.diff(region.xs_px)[0] / 2))
    np.testing.assert_allclose(y, np.clip(region.ys_px, 0, HEIGHT_PX - 1), atol=max(0.6, np.diff(region.ys_px)[0] / 2))


def test_logits_are_those_of_the_same_places():
    # Logits of a coarse grid that are its columns, in pixels of the frame.
    rows, columns = 16, 20
    places = (np.arange(columns, dtype=np.float32) + 0.5) * WIDTH_PX / columns - 0.5
    region = CloseUp.around(np.array((60, 30, 130, 80), np.float32))

    close = region.logits(np.tile(places, (rows, 1)), HEIGHT_PX, WIDTH_PX)

    np.testing.assert_allclose(close, np.tile(region.xs_px, (SIDE, 1)), atol=0.3)  # remap's places are 1/32 of a cell


@pytest.mark.parametrize("box", [(-30, -20, 25, 30), (180, 100, 230, 140)])
def test_masks_end_where_the_frame_does(box):
    region = CloseUp.around(np.array(box, np.float32))
    inside = np.full((SIDE, SIDE), 3.0, np.float32)

    mask = sampled_mask(inside, region.ys_px, region.xs_px, HEIGHT_PX, WIDTH_PX)

    expected = np.clip((region.x1, region.y1, region.x2, region.y2), 0, (WIDTH_PX, HEIGHT_PX) * 2)
    np.testing.assert_allclose(mask.box_xyxy, expected, atol=1)
    assert mask.full(HEIGHT_PX, WIDTH_PX).sum() == pytest.approx(np.prod(expected[2:] - expected[:2]), rel=0.1)


def test_what_lies_beyond_the_frame_has_no_mask():
    region = CloseUp.around(np.array((300, 10, 340, 60), np.float32))

    assert not region.picture(_ramps()).any()
    assert sampled_mask(np.ones((SIDE, SIDE), np.float32), region.ys_px, region.xs_px, HEIGHT_PX, WIDTH_PX) is None


def test_what_begins_behind_the_last_pixels_centres_has_no_mask():
    region = CloseUp.around(np.array((180, 40, 240, 100), np.float32))
    logits = np.full((SIDE, SIDE), -5, np.float32)
    logits[20:40, np.searchsorted(region.xs_px, WIDTH_PX - 0.5) :] = 5

    assert sampled_mask(logits, region.ys_px, region.xs_px, HEIGHT_PX, WIDTH_PX) is None


@pytest.mark.parametrize("box", [(-5e6, -5e6, 5e6, 5e6), (0, 0, 1e9, 10), (60, 70, 40, 30)])
def test_boxes_of_any_size_are_seen_in_as_many_samples(box):
    picture = CloseUp.around(np.array(box, np.float32)).picture(_ramps())

    assert picture.shape == (SIDE, SIDE, 3)


def test_an_edge_of_the_frame_is_carried_on():
    picture = CloseUp(-32, 20, 32, 84).picture(_ramps())[..., 0]

    assert (picture[:, :32] == 0).all()
    np.testing.assert_array_equal(picture[0, 32:], np.arange(32))


def _say(monkeypatch, mask, box=None):
    """Have every refiner say this; returns the looks that it is shown, one a call."""
    shown = []

    def close_up(self, image, boxes, logits, looks, most):
        shown.extend(looks)
        look = Look((torch.full((1, 1, 1, 1), len(shown)),))
        return [Seen(mask, boxes[0] if box is None else box, look)]

    monkeypatch.setattr(MaskRefiner, "close_up", close_up)
    return shown


def test_a_refined_mask_over_the_whole_frame_is_no_objects(monkeypatch):
    model = load(WEIGHTS_PATH, 128)
    clip = render_scene(1, duration_s=0.1)
    height, width = clip.frame(0).shape[:2]
    ys, xs = np.array([-0.5, height - 0.5]), np.array([-0.5, width - 0.5])
    _say(monkeypatch, SoftMask(np.full((2, 2), 9, np.float32), ys, xs))
    segmenter = VideoSegmenter(model, SegmentSettings(), height, width)
    segmenter.push(clip.frame(0))

    segment = segmenter.prompt({0: clip.boxes[0, 2:].astype(np.float32)})[0]

    assert segment.mask is None
    assert segmenter.counters["rejected_masks"] == 1


def test_what_leaks_out_of_the_box_is_not_the_objects(monkeypatch):
    clip = render_scene(1, duration_s=0.1)
    height, width = clip.frame(0).shape[:2]
    shown = np.array([60, 40, 100, 120], dtype=np.float32)
    ys, xs = np.array([30.0, 140.0]), np.array([50.0, 100.0])
    _say(monkeypatch, SoftMask(np.full((2, 2), 9, np.float32), ys, xs))
    segmenter = VideoSegmenter(load(WEIGHTS_PATH, 128), SegmentSettings(), height, width)
    segmenter.push(clip.frame(0))

    prompted = segmenter.prompt({0: shown})[0].mask
    later = segmenter.push(clip.frame(0))[0].mask

    assert prompted is not None
    assert later is not None
    np.testing.assert_allclose(prompted.box_xyxy, [58, 36, 101, 124], atol=1)
    assert (later.box_xyxy - prompted.box_xyxy)[[0, 1, 3]] == pytest.approx([-0.8, -1.6, 1.6], abs=1)


def test_a_refiner_that_corrects_nothing_leaves_masks_as_they_are():
    torch.manual_seed(0)
    refiner = MaskRefiner().eval()
    torch.nn.init.zeros_(refiner.head.weight)
    torch.nn.init.zeros_(refiner.head.bias)
    y, x = np.mgrid[:30, :50].astype(np.float32)
    logits = 6 - np.hypot(x - 20, y - 15)

    with torch.inference_mode():
        box = np.array((56, 36, 108, 88), np.float32)
        (refined,) = refiner.close_up(_ramps(), [box], logits[None], [None], [np.ones(4)])

    before = soft_mask(logits, HEIGHT_PX, WIDTH_PX)
    assert mask_j(refined.mask.full(HEIGHT_PX, WIDTH_PX), before.full(HEIGHT_PX, WIDTH_PX)) > 0.95


def _follow(model, frames, rows):
    height, width = frames[0].shape[:2]
    segmenter = VideoSegmenter(model, SegmentSettings(), height, width)
    found = []
    for t, frame in enumerate(frames):
        segments = segmenter.push(frame)
        if t == 0:
            segments = segmenter.prompt(dict(enumerate(rows[:, 2:].astype(np.float32))))
        found.append([segments[k].mask for k in range(len(rows))])
    return found


def test_masks_of_unseen_scenes_are_better_refined():
    model = load(WEIGHTS_PATH, 256)
    better = []
    for seed in range(6):
        clip = render_scene(seed, duration_s=0.2)
        frames = [clip.frame(t) for t in range(len(clip.jpegs))]
        rows = clip.boxes[clip.boxes[:, 0] == 0]
        refiner, j = model.refiner, []
        for model.refiner in (None, refiner):
            masks = _follow(model, frames, rows)[-1]
            labels = clip.labels(len(frames) - 1)
            full = [np.zeros(labels.shape, bool) if m is None else m.full(*labels.shape) for m in masks]
            j.append(np.mean([mask_j(m, labels == row[1]) for m, row in zip(full, rows, strict=True)]))
        better.append(j[1] - j[0])

    assert np.median(better) > 0.03
    assert np.mean(better) > 0.05


def _standing(texture_seed=0):
    """A frame to look at again and again, the nano segmenter for it, and a box there."""
    texture = np.random.default_rng(texture_seed).integers(0, 255, (9, 16, 3), dtype=np.uint8)
    frame = cv2.resize(texture, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    segmenter = VideoSegmenter(load(WEIGHTS_PATH, 64), SegmentSettings(max_back_frames=3), HEIGHT_PX, WIDTH_PX)
    segmenter._model.pred_obj_scores = False  # what there is to see is no object
    return segmenter, frame, np.array([60, 30, 100, 70], np.float32)


def _sure():
    return SoftMask(np.full((4, 4), 9, np.float32), np.linspace(30, 70, 4), np.linspace(60, 100, 4))


def test_boxes_that_flow_carries_go_where_the_refiner_sees_the_object(monkeypatch):
    segmenter, frame, box = _standing()
    there = np.array([70, 35, 110, 75], np.float32)
    _say(monkeypatch, _sure(), there)

    segmenter.push(frame)
    segmenter.prompt({0: box})
    prompted = segmenter._memories[0].box.xyxy
    segmenter.push(frame)

    np.testing.assert_array_equal(prompted, box)
    np.testing.assert_allclose(segmenter._memories[0].box.xyxy, there, atol=1)


def test_objects_are_known_by_how_they_looked_when_last_shown(monkeypatch):
    segmenter, frame, box = _standing()
    shown = _say(monkeypatch, _sure())

    segmenter.push(frame)
    segmenter.prompt({0: box})  # 1
    segmenter.push(frame)
    segmenter.push(frame)  # 3
    segmenter.correct({0: box})
    segmenter.push(frame)  # 5
    for _ in segmenter.carry_back({0}):
        pass

    assert shown[0] is None
    assert [int(look.levels[0]) for look in shown[1:]] == [1, 1, 1, 4, 4, 4, 4]


def test_what_is_not_found_where_it_is_shown_is_known_as_before(monkeypatch):
    segmenter, frame, box = _standing()
    _say(monkeypatch, _sure())
    segmenter.push(frame)
    segmenter.prompt({0: box})
    look = segmenter._memories[0].look
    _say(monkeypatch, None)

    segment = segmenter.prompt({0: box})[0]

    assert segment.mask is None
    assert segmenter._memories[0].look is look


def test_objects_given_the_looks_of_others_are_followed_less_well():
    model = load(WEIGHTS_PATH, 256)
    j = {"own": [], "others": []}
    for seed in (2, 3):
        clip = render_scene(seed, duration_s=0.8)
        frames, labels = [clip.frame(t) for t in range(len(clip.jpegs))], clip.labels(len(clip.jpegs) - 1)
        rows = clip.boxes[clip.boxes[:, 0] == 0]
        for whose, found in j.items():
            segmenter = VideoSegmenter(model, SegmentSettings(), *labels.shape)
            segmenter.push(frames[0])
            segmenter.prompt(dict(enumerate(rows[:, 2:].astype(np.float32))))
            if whose == "others":
                memories = list(segmenter._memories.values())
                looks = [memory.look for memory in memories]
                for memory, look in zip(memories, looks[1:] + looks[:1], strict=True):
                    memory.look = look
            for frame in frames[1:]:
                segments = segmenter.push(frame)
            for k, row in enumerate(rows):
                mask = segments[k].mask.full(*labels.shape) if segments[k].mask else np.zeros(labels.shape, bool)
                found.append(mask_j(mask, labels == row[1]))

    assert np.mean(j["own"]) > np.mean(j["others"]) + 0.02


@pytest.mark.parametrize(("doubt", "trust"), [(-20.0, [0.15, 0.5, 0.15, 1]), (FLOW_DOUBT + 1.5, 0.047), (20.0, 0.0)])
def test_boxes_are_moved_as_far_as_the_refiner_is_sure_and_no_further_than_they_may(doubt, trust):
    refiner = MaskRefiner().eval()
    with torch.no_grad():
        refiner.sides.bias.copy_(torch.tensor([0.1, 0.2, -0.1, -0.2] + [doubt] * 4))
    box = np.array([40, 20, 80, 100], np.float32)

    most = np.array([0.15, 0.5, 0.15, 1])
    (said,) = refiner.close_up(_ramps(), [box], np.zeros((1, 30, 50), np.float32), [None], [most])

    moved = np.array(trust) * np.array([0.1, 0.2, -0.1, -0.2]) * CloseUp.around(box).size_px
    np.testing.assert_allclose(said.box_xyxy - box, moved, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("sureness", [0.5, 4.0])
def test_how_sure_the_refiner_is_joins_the_score_and_leaves_memory_alone(monkeypatch, sureness):
    model = load(WEIGHTS_PATH, 128)
    clip = render_scene(1, duration_s=0.1)
    row = clip.boxes[clip.boxes[:, 0] == 0][0]
    x1, y1, x2, y2 = (float(v) for v in row[2:])
    logits, ys, xs = np.full((4, 4), sureness, np.float32), np.linspace(y1, y2, 4), np.linspace(x1, x2, 4)
    found = {}
    for refined in (False, True):
        _say(monkeypatch, SoftMask(logits, ys, xs))
        kept, model.refiner = model.refiner, model.refiner if refined else None
        segmenter = VideoSegmenter(model, SegmentSettings(), *clip.frame(0).shape[:2])
        segmenter.push(clip.frame(0))
        segment = segmenter.prompt({0: row[2:].astype(np.float32)})[0]
        (entry,) = segmenter._memories[0].conditioning.values()
        found[refined] = segment, float(entry.sight.score)
        model.refiner = kept

    (plain, before), (refined, after) = found[False], found[True]
    assert refined.object_score == pytest.approx(plain.object_score + 2 * (sureness - 2), abs=1e-4)
    assert (refined.mask is None) == (refined.object_score <= 0)
    assert after == before == pytest.approx(plain.object_score)


@pytest.mark.parametrize(("drawn", "spread", "most"), [(off_boxes, 0.06, 0.15), (drifted_boxes, 0.18, 0.95)])
def test_boxes_that_train_are_off_as_a_trackers_are(drawn, spread, most):
    boxes = np.tile(np.array([20, 20, 60, 100], np.float32), (500, 1))

    off = (drawn(np.random.default_rng(0), boxes) - boxes) / np.array([40, 80, 40, 80])

    assert off.std() == pytest.approx(spread, rel=0.25)
    assert np.abs(off).max() < most


def test_pairs_are_of_one_object_and_say_where_the_whole_of_it_is():
    maker, rng = ClipMaker(), np.random.default_rng(0)
    segmenter = build_nano(64, WEIGHTS_PATH)
    clip = maker.make(rng, ClipSpec(size_px=128, frames=3, objects=4, every=3))
    known = clip.valid & (clip.whole_xyxy[..., 2] > 0)

    pairs = CloseUps.of(rng, clip, segmenter, 64)

    assert len(pairs.truth) == (known[:, :1] & known[:, 1:]).sum()
    rows = [(k, t) for k in range(4) for t in (1, 2) if known[k, 0] and known[k, t]]
    for (k, t), truth, off in zip(rows, pairs.truth[:, 1], pairs.off[:, 1], strict=True):
        # The box lies inside the region by its margin, and what is visible lies in the whole object's box.
        margin = MARGIN / (1 + 2 * MARGIN)
        x1, y1, x2, y2 = np.array([margin, margin, 1 - margin, 1 - margin]) + off
        rows_there, columns_there = np.flatnonzero((truth > 127).any(1)), np.flatnonzero((truth > 127).any(0))
        if clip.visible[k, t] and len(rows_there):
            assert rows_there[0] / SIDE >= y1 - 0.06
            assert (rows_there[-1] + 1) / SIDE <= max(y2, 0) + 0.06
            assert columns_there[0] / SIDE >= x1 - 0.06
            assert (columns_there[-1] + 1) / SIDE <= max(x2, 0) + 0.06


def test_a_mirror_turns_offsets_too():
    pool = CloseUps.room_for(64)
    pool.truth[:, :, :, : SIDE // 2] = 255
    pool.off[:] = [0.1, 0.2, 0.3, 0.4]

    _, _, truth, off = pool.batch(np.random.default_rng(0), np.arange(64))

    mirrored = truth[:, 1, 0, 0] == 0
    assert 0 < mirrored.sum() < 64
    np.testing.assert_allclose(off[mirrored], np.broadcast_to([-0.3, 0.2, -0.1, 0.4], off[mirrored].shape), rtol=1e-6)
    np.testing.assert_allclose(off[~mirrored], np.broadcast_to([0.1, 0.2, 0.3, 0.4], off[~mirrored].shape), rtol=1e-6)


def test_training_lowers_the_loss_and_writes_a_segmenter_that_refines(tmp_path: Path):
    trainer = RefinerTrainer(tmp_path, ClipMaker(), WEIGHTS_PATH, minutes=0, workers=0, learning_rate=1e-3)
    stream = iter(trainer._stream())
    pairs = next(stream)
    pool = CloseUps.room_for(len(pairs.truth))
    pool.put(np.arange(len(pairs.truth)), pairs)
    batch = pool.batch(np.random.default_rng(0), np.arange(len(pairs.truth)))

    losses = [trainer.train_step(batch)["loss"] for _ in range(15)]
    trainer.run()

    assert losses[-1] < losses[0]
    assert load(trainer.weights_path, 256).refiner is not None
