"""The streaming engine against the package's own predictor: same weights, same frames, same prompts."""

import subprocess
import sys
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.ahead import ahead
from flows.carried import CarriedBox
from flows.config import SegmentSettings
from flows.errors import OutOfMemoryError
from flows.lighter import compile_steps
from flows.memory import StreamingPredictor, box_logits
from flows.models import PREDICTOR
from flows.onednn import use_onednn
from flows.schema import Frame
from flows.segment import VideoSegmenter
from tests.plain import OURS, Plain, make_frames, make_model, make_plain

HEIGHT_PX, WIDTH_PX = 90, 160


def _box(rng):
    return rng.uniform((5, 5, 60, 50), (50, 40, 150, 85)).astype(np.float32)


def _segmenter(model, **overrides):
    return VideoSegmenter(model, SegmentSettings(**overrides), HEIGHT_PX, WIDTH_PX)


def _schedule(seed, frames):
    """Random (kind, id, box) by frame: objects that join, are corrected or shown afresh, and leave."""
    rng = np.random.default_rng(seed)
    live, joined, schedule = [], 0, {}
    for index in range(frames):
        events = schedule.setdefault(index, [])
        if index == 0 or (len(live) < 5 and rng.random() < 0.15):
            events.append(("prompt", joined, _box(rng)))
            live.append(joined)
            joined += 1
        for kind in ("correct", "prompt"):
            if rng.random() < 0.15:
                events.append((kind, int(rng.choice(live)), _box(rng)))
        if len(live) > 2 and rng.random() < 0.1:
            events.append(("drop", live.pop(int(rng.integers(len(live)))), None))
    return schedule


def _differences(ours, plain, object_ids, index):
    """Largest difference of logits and pointers, and smallest mask IoU, over objects on a frame."""
    worst, least = 0.0, 1.0
    for i in object_ids:
        (out,) = plain.outputs(index, [i]).values()
        memory = ours._memories[i]
        entry = memory.conditioning.get(index) or memory.recent[index]
        pairs = ((memory.logits, out["pred_masks"]), (entry.pointer, out["obj_ptr"]))
        worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
        a, b = memory.logits > 0, out["pred_masks"] > 0
        if (a | b).any():
            least = min(least, float((a & b).sum() / (a | b).sum()))
    return worst, least


def _run(schedule, frames, segmenters, plain):
    """Run engine and plain predictor side by side; yields (difference, IoU) per frame and engine."""
    live = []
    for index, frame in enumerate(frames):
        for engine in (*segmenters,):
            engine.push(frame)
        plain.step(index)
        yield [_differences(ours, plain, live, index) for ours in segmenters]
        for kind, i, box in schedule[index]:
            for engine in segmenters:
                getattr(engine, kind)([i] if kind == "drop" else {i: box})
            if kind == "drop":
                plain.drop([i])
                live.remove(i)
                continue
            getattr(plain, kind)(index, {i: box})
            live = live if i in live else [*live, i]
        yield [_differences(ours, plain, live, index) for ours in segmenters]


@pytest.mark.parametrize(("seed", "max_cond_frames"), [(1, 4), (2, 2), (3, 4)])
def test_the_engine_is_plain_sam2(seed, max_cond_frames):
    """60 frames; objects join, are corrected, shown afresh and leave. One at a time: bit-equal. Batched: to 1e-4.

    SAM 2 keeps memory in bf16. A sum in another order now and then falls to the other side of a rounding there, which
    moves the logits of the frames that read it by more.
    """
    frames = make_frames(60, seed)
    exact = _segmenter(make_model(OURS, seed=seed), batch=1, max_cond_frames=max_cond_frames)
    fast = make_model(OURS, seed=seed)
    use_onednn(fast)
    batched = _segmenter(fast, max_cond_frames=max_cond_frames)
    plain = make_plain(128, seed, [exact.frames.pixels(frame) for frame in frames], HEIGHT_PX, WIDTH_PX)
    plain.model.max_cond_frames_in_attn = max_cond_frames
    visible, differences = 0, []
    for (exact_difference, _), (difference, iou) in _run(_schedule(seed, 60), frames, (exact, batched), plain):
        assert exact_difference == 0
        assert iou >= 0.999
        differences.append(difference)
        visible += sum(bool(m.logits.max() > 0 > m.logits.min()) for m in exact._memories.values())
    assert max(differences) < 1e-3
    assert np.quantile(differences, 0.9) < 1e-4
    assert visible > 50  # masks were compared, not their absence


def _tightened(monkeypatch, **bounds):
    horizon = StreamingPredictor.horizon

    def tight(self, max_conditioning):
        loose = horizon(self, max_conditioning)
        return replace(loose, **{name: getattr(loose, name) + change for name, change in bounds.items()})

    monkeypatch.setattr(StreamingPredictor, "horizon", tight)


@pytest.mark.parametrize("bound", ["spatial", "pointer", "conditioning"])
def test_freeing_one_step_earlier_would_show(bound, monkeypatch):
    _tightened(monkeypatch, **{bound: -1})
    frames = make_frames(40)
    ours = _segmenter(make_model(OURS, seed=2), batch=1, max_cond_frames=2)
    plain = make_plain(128, 2, [ours.frames.pixels(frame) for frame in frames], HEIGHT_PX, WIDTH_PX)
    plain.model.max_cond_frames_in_attn = 2
    box = np.array([30, 20, 100, 70], dtype=np.float32)
    schedule = {index: [("prompt", 0, box)] if index in (0, 1, 2, 3) else [] for index in range(40)}
    different = seen = 0
    try:
        for ((difference, _),) in _run(schedule, frames, (ours,), plain):
            different += difference > 0
            seen += any(bool(memory.logits.max() > 0) for memory in ours._memories.values())
    except AssertionError:  # a spatial memory that was freed is read
        different += 1
    assert seen > 0  # nothing that is read shows in a mask of what is hidden
    assert different > 0


@cache
def _small_pair():
    return make_model(OURS, 64, seed=2), make_model(PREDICTOR, 64, seed=2)


@given(st.integers(0, 1_000_000), st.integers(2, 5), st.sampled_from([1, 2, 64]))
@settings(max_examples=6, deadline=None)
def test_any_schedule_of_prompts_gives_what_plain_gives(seed, max_cond_frames, batch):
    model, plain_model = _small_pair()
    frames = make_frames(20, seed)
    ours = _segmenter(model, batch=batch, max_cond_frames=max_cond_frames)
    plain_model.max_cond_frames_in_attn = max_cond_frames
    plain = Plain(plain_model, [ours.frames.pixels(frame) for frame in frames], HEIGHT_PX, WIDTH_PX)
    differences = [difference for ((difference, _),) in _run(_schedule(seed, 20), frames, (ours,), plain)]
    assert max(differences) <= (0 if batch == 1 else 1e-3)
    # Memory is kept in bf16, so that a sum in another order now and then falls to the other side of a rounding.
    assert np.median(differences) < 1e-4


def test_backwards_the_engine_is_plain_sam2():
    frames = make_frames(20)
    model, plain_model = make_model(OURS, seed=1), make_model(PREDICTOR, seed=1)
    ours = _segmenter(model, batch=1)
    boxes = {i: _box(np.random.default_rng(i)) for i in range(2)}
    for frame in frames:
        ours.push(frame)
    ours.prompt(boxes)
    plain = Plain(plain_model, [ours.frames.pixels(frame) for frame in frames], HEIGHT_PX, WIDTH_PX)
    plain.prompt(19, boxes)
    carried = list(ours.carry_back({0, 1}))
    assert len(carried) == 19
    for index, segments in zip(range(18, 0, -1), carried, strict=False):  # plain SAM 2 never goes back to frame 0
        expected = plain.step(index, reverse=True)
        for i, segment in segments.items():
            assert segment.object_score == float(expected[i]["object_score_logits"])
            np.testing.assert_array_equal(segment.pointer, expected[i]["obj_ptr"][0])


def test_frames_are_carried_back_as_far_as_the_settings_say():
    ours = _segmenter(make_model(OURS), max_back_frames=3)
    for frame in make_frames(8):
        ours.push(frame)
    ours.prompt({0: np.array([20, 20, 80, 70], np.float32)})
    assert len(list(ours.carry_back({0}))) == 3
    ours.forget_frames()
    assert list(ours.carry_back({0})) == []


def test_carry_back_leaves_forward_memory_alone_and_stops_where_told():
    ours = _segmenter(make_model(OURS))
    for frame in make_frames(6):
        ours.push(frame)
    ours.prompt({0: np.array([20, 20, 80, 70], np.float32), 1: np.array([60, 10, 120, 60], np.float32)})
    before = {i: (set(m.conditioning), set(m.recent)) for i, m in ours._memories.items()}
    wanted = {0, 1}
    seen = []
    for segments in ours.carry_back(wanted):
        seen.append(set(segments))
        if len(seen) == 2:
            wanted.discard(1)
    assert seen == [{0, 1}, {0, 1}, {0}, {0}, {0}]
    assert {i: (set(m.conditioning), set(m.recent)) for i, m in ours._memories.items()} == before


def test_drop_and_memory_stay_bounded():
    model = make_model(OURS)
    ours = _segmenter(model)
    frames = make_frames(60)
    for index, frame in enumerate(frames):
        ours.push(frame)
        if index % 5 == 0:
            ours.prompt({0: np.array([20, 20, 80, 70], dtype=np.float32)})
        ours.forget_frames()
    memory = ours._memories[0]
    assert len(memory.recent) <= model.max_obj_ptrs_in_encoder
    assert sum(entry.features is not None for entry in memory.recent.values()) <= model.num_maskmem
    assert len(memory.conditioning) <= 5 + model.max_obj_ptrs_in_encoder // 5 + 1
    ours.drop([0])
    assert ours.push(frames[0]) == {}


GROWTH = """
import numpy as np
import psutil
from flows.config import SegmentSettings
from flows.onednn import use_onednn
from flows.segment import VideoSegmenter
from tests.plain import OURS, make_frames, make_model

process = psutil.Process()
model = make_model(OURS, 64)
use_onednn(model)
segmenter = VideoSegmenter(model, SegmentSettings(), 90, 160)
frames = make_frames(8)
for index in range(300):
    segmenter.push(frames[index % 8])
    if index % 15 == 0:
        segmenter.prompt({i: np.array([20, 20, 80, 70], np.float32) for i in range(2)})
        segmenter.forget_frames()
    if index == 100:
        before = process.memory_info().rss
print((process.memory_info().rss - before) / 2**20)
"""


def test_memory_does_not_grow_with_the_video():
    """Plain SAM 2 would keep 200 frames of 64 px: 10 MB of images, and 2 objects' memories."""
    grown = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, cwd=".")
    assert float(grown.stdout) < 8


def test_batches_are_halved_when_memory_runs_out(monkeypatch):
    whole, small = (_segmenter(make_model(OURS)) for _ in range(2))
    step = small._model.track_step

    def scarce(**kwargs):
        if kwargs["current_vision_feats"][-1].shape[1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(**kwargs)

    monkeypatch.setattr(small._model, "track_step", scarce)
    boxes = {i: np.array([10 + 9 * i, 20, 60 + 9 * i, 70], dtype=np.float32) for i in range(5)}
    for frame in make_frames(3):
        found = whole.push(frame), small.push(frame)
        if not whole.object_ids:
            found = whole.prompt(boxes), small.prompt(boxes)
        for object_id, segment in found[0].items():
            np.testing.assert_allclose(segment.pointer, found[1][object_id].pointer, atol=1e-4)


def test_a_frame_that_does_not_fit_is_an_error_that_says_what_to_do(monkeypatch):
    ours = _segmenter(make_model(OURS))

    def scarce(image):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ours._model, "encode", scarce)
    with pytest.raises(OutOfMemoryError, match="smaller model"):
        ours.push(make_frames(1)[0])


@pytest.mark.parametrize("every", [1, 2])
def test_frames_prepared_ahead_give_the_same_masks(every):
    """Also where some of them are never pushed. The narrow model's are encoded, unless some are not to be."""
    model = make_model(OURS, seed=1)
    early, plain = _segmenter(model, segment_every=every), _segmenter(model)
    images = make_frames(8)
    frames = [Frame(number, number, image) for number, image in enumerate(images)]
    box = np.array([20, 20, 80, 70], np.float32)
    for frame in ahead(early.frames.ahead(frames), 2):
        assert all((p.features is not None) == (every == 1) for _, p in list(early.frames._waiting))
        if frame.number in (2, 3):
            continue
        found, expected = early.push(frame.image_rgb), plain.push(frame.image_rgb)
        if frame.number == 0:
            found, expected = early.prompt({0: box}), plain.prompt({0: box})
        np.testing.assert_array_equal(found[0].pointer, expected[0].pointer)
    assert len(early.frames._waiting) == 0


def test_boxes_to_start_from_are_each_objects_own():
    """Batched as one at a time, forwards and backwards, and unlike without."""
    model = make_model(OURS, seed=1)
    model.box_hints = True
    without = make_model(OURS, seed=1)
    batched, single, plain = _segmenter(model), _segmenter(model, batch=1), _segmenter(without)
    boxes = {i: _box(np.random.default_rng(i)) for i in range(3)}
    for index, frame in enumerate(make_frames(6)):
        found = [segmenter.push(frame) for segmenter in (batched, single, plain)]
        if index == 2:
            found = [segmenter.prompt(boxes) for segmenter in (batched, single, plain)]
        for i in found[0]:
            np.testing.assert_allclose(found[0][i].pointer, found[1][i].pointer, atol=1e-4)
            assert np.abs(found[0][i].pointer - found[2][i].pointer).max() > 1e-3
    back = [next(segmenter.carry_back({0, 1, 2})) for segmenter in (batched, single)]
    for i in boxes:
        np.testing.assert_allclose(back[0][i].pointer, back[1][i].pointer, atol=1e-4)


def _follow_what_passes(shakes):
    """A segmenter that follows by its box what goes 2 px a frame over a picture that shakes, and where that was."""
    model = make_model(OURS, seed=1)
    model.box_hints = True
    ours, boxes = _segmenter(model), []
    texture = np.random.default_rng(0).integers(0, 255, (2, 9, 16, 3), dtype=np.uint8)
    ground, patch = (cv2.resize(t, (160, 90), interpolation=cv2.INTER_CUBIC) for t in texture)
    for index, shake in enumerate(shakes):
        x = 60 + 2 * index
        picture = ground.copy()
        picture[30:70, x : x + 40] = patch[30:70, 60:100]
        boxes.append((x + shake, 30, x + 40 + shake, 70))
        ours.push(np.roll(picture, shake, axis=1))
        if index == 0:
            ours.prompt({0: np.array(boxes[0], np.float32)})
        np.testing.assert_allclose(ours._memories[0].box.xyxy, boxes[-1], atol=1.5)
    return ours, boxes


def test_a_box_to_start_from_goes_with_what_it_holds_and_on_where_that_is_lost():
    ours, _ = _follow_what_passes([0] * 5)
    ours.push(np.zeros((90, 160, 3), np.uint8))
    np.testing.assert_allclose(ours._memories[0].box.xyxy, (70, 30, 110, 70), atol=1)


def test_a_box_to_start_from_goes_with_a_camera_that_shakes_both_ways():
    ours, boxes = _follow_what_passes([0, 0, 0, 4, -4, 4, -4, 0, 4])
    carried = []
    ours.prompt({0: np.array(boxes[-1], np.float32)})
    original = CarriedBox.carry
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CarriedBox, "carry", lambda box, *how: (original(box, *how), carried.append(box.xyxy)))
        assert len(list(ours.carry_back({0}))) == len(boxes) - 1
    np.testing.assert_allclose(carried, boxes[-2::-1], atol=1.5)


def test_a_box_as_a_mask_is_cut_where_its_edges_cut_cells():
    logits = box_logits(torch.tensor([[4.0, 8.0, 14.0, 12.0]]), 32)[0, 0]
    expected = torch.full((8, 8), -10.0)
    expected[2, 1:3], expected[2, 3] = 10.0, 0.0
    torch.testing.assert_close(logits, expected)


def test_compiled_steps_give_the_same_for_any_number_of_objects_up_to_a_power_of_two():
    """Compiled, but by no compiler: what is traced is run as it is."""
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    plain, compiled = make_model(OURS, seed=1), make_model(OURS, seed=1)
    compile_steps(compiled, backend=count)
    ours, filled = _segmenter(plain), _segmenter(compiled, compile=True)
    boxes = {i: _box(np.random.default_rng(i)) for i in range(4)}
    seen = []
    for index, frame in enumerate(make_frames(6)):
        found = [segmenter.push(frame) for segmenter in (ours, filled)]
        if index == 0:
            found = [segmenter.prompt(boxes) for segmenter in (ours, filled)]
        if index == 4:
            for segmenter in (ours, filled):
                segmenter.drop([3])
        assert found[0].keys() == found[1].keys()
        for i in found[0]:
            np.testing.assert_allclose(found[0][i].pointer, found[1][i].pointer, atol=1e-3)
        seen.append(len(graphs))
    assert seen[0] > 0
    assert seen[5] == seen[4], "three objects were compiled for, beside four"
