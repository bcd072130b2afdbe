"""Masks corrected close up: where the samples lie, and what becomes of the mask."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flows.config import SegmentSettings
from flows.demo.clips import ClipMaker
from flows.demo.evaluate_nano import load, mask_j
from flows.demo.masklets import render_scene
from flows.demo.nano import WEIGHTS_PATH
from flows.demo.train_refiner import CloseUps, RefinerTrainer, off_boxes
from flows.mask import Mask
from flows.refine import SIDE, CloseUp, MaskRefiner
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


def test_a_refined_mask_over_the_whole_frame_is_no_objects(monkeypatch):
    model = load(WEIGHTS_PATH, 128)
    clip = render_scene(1, duration_s=0.1)
    height, width = clip.frame(0).shape[:2]
    ys, xs = np.array([-0.5, height - 0.5]), np.array([-0.5, width - 0.5])
    monkeypatch.setattr(MaskRefiner, "masks", lambda *_: [SoftMask(np.full((2, 2), 9, np.float32), ys, xs)])
    segmenter = VideoSegmenter(model, SegmentSettings(), height, width)
    segmenter.push(clip.frame(0))

    segment = segmenter.prompt({0: clip.boxes[0, 2:].astype(np.float32)})[0]

    assert segment.mask is None
    assert segmenter.counters["rejected_masks"] == 1


def test_a_refiner_that_corrects_nothing_leaves_masks_as_they_are():
    torch.manual_seed(0)
    refiner = MaskRefiner().eval()
    torch.nn.init.zeros_(refiner.head.weight)
    torch.nn.init.zeros_(refiner.head.bias)
    y, x = np.mgrid[:30, :50].astype(np.float32)
    logits = 6 - np.hypot(x - 20, y - 15)

    with torch.inference_mode():
        (refined,) = refiner.masks(_ramps(), [np.array((56, 36, 108, 88), np.float32)], logits[None])

    before = soft_mask(logits, HEIGHT_PX, WIDTH_PX)
    assert mask_j(refined.full(HEIGHT_PX, WIDTH_PX), before.full(HEIGHT_PX, WIDTH_PX)) > 0.95


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
    for seed in range(3):
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

    assert min(better) > 0
    assert np.mean(better) > 0.03


def test_boxes_that_flow_carries_are_drawn_to_refined_masks(monkeypatch):
    model = load(WEIGHTS_PATH, 64)
    texture = np.random.default_rng(0).integers(0, 255, (9, 16, 3), dtype=np.uint8)
    frame = cv2.resize(texture, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    box = np.array([60, 30, 100, 70], np.float32)
    there = Mask(70, 35, np.ones((40, 40), bool))
    monkeypatch.setattr(VideoSegmenter, "_masks", lambda *_: [there])

    segmenter = VideoSegmenter(model, SegmentSettings(), HEIGHT_PX, WIDTH_PX)
    segmenter.push(frame)
    segmenter.prompt({0: box})
    prompted = segmenter._memories[0].box_xyxy
    for _ in range(20):
        segmenter.push(frame)

    np.testing.assert_array_equal(prompted, box)
    np.testing.assert_allclose(segmenter._memories[0].box_xyxy, there.box_xyxy, atol=1)


@pytest.mark.parametrize("sureness", [0.5, 4.0])
def test_how_sure_the_refiner_is_joins_the_score_and_leaves_memory_alone(monkeypatch, sureness):
    model = load(WEIGHTS_PATH, 128)
    clip = render_scene(1, duration_s=0.1)
    row = clip.boxes[clip.boxes[:, 0] == 0][0]
    x1, y1, x2, y2 = (float(v) for v in row[2:])
    logits, ys, xs = np.full((4, 4), sureness, np.float32), np.linspace(y1, y2, 4), np.linspace(x1, x2, 4)
    found = {}
    for refined in (False, True):
        monkeypatch.setattr(MaskRefiner, "masks", lambda *_: [SoftMask(logits, ys, xs)])
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


def test_boxes_that_train_are_off_as_a_trackers_are():
    boxes = np.tile(np.array([20, 20, 60, 100], np.float32), (500, 1))

    off = (off_boxes(np.random.default_rng(0), boxes) - boxes) / np.array([40, 80, 40, 80])

    assert 0.05 < off.std() < 0.15
    assert np.abs(off).max() < 0.55


def test_training_lowers_the_loss_and_writes_a_segmenter_that_refines(tmp_path: Path):
    trainer = RefinerTrainer(tmp_path, ClipMaker(), WEIGHTS_PATH, minutes=0, workers=0, learning_rate=1e-3)
    stream = iter(trainer._stream())
    pool = CloseUps.room_for(16)
    for first in (0, 8):
        pool.put(np.arange(first, first + 8), next(stream))
    batch = pool.batch(np.random.default_rng(0), np.arange(16))

    losses = [trainer.train_step(batch)["loss"] for _ in range(15)]
    trainer.run()

    assert losses[-1] < losses[0]
    assert load(trainer.weights_path, 256).refiner is not None
