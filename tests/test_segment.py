"""The streaming engine against the package's own predictor: same weights, same frames, same prompts."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from flows.config import SegmentSettings
from flows.memory import StreamingPredictor
from flows.models import build_segmenter, resolve
from flows.segment import Segment, VideoSegmenter

SIZE_PX = 128
OURS, PLAIN = "flows.memory.StreamingPredictor", "sam2.sam2_video_predictor.SAM2VideoPredictor"


def _model(target: str, seed: int = 0) -> StreamingPredictor:
    model = build_segmenter(resolve("nano", "segmenter"), SIZE_PX, "cpu", target=target)
    # Random weights: equality must not hang on what the shipped ones happen to say.
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)
    return model


def _frames(count: int, seed: int = 0, height_px: int = 90, width_px: int = 160) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (height_px, width_px, 3), dtype=np.uint8)
    return [np.roll(base, shift, axis=1) for shift in range(count)]


class _Plain:
    """`SAM2VideoPredictor` over the same frames, fed one frame at a time so that objects can join and be corrected."""

    def __init__(self, model, frames, encode):
        images = [encode(frame) for frame in frames]
        self._model = model
        height, width = frames[0].shape[:2]
        self._state = {
            "images": images,
            "num_frames": 1 << 30,
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
            "video_height": height,
            "video_width": width,
            "device": torch.device("cpu"),
            "storage_device": torch.device("cpu"),
            "point_inputs_per_obj": {},
            "mask_inputs_per_obj": {},
            "cached_features": {},
            "constants": {},
            "obj_id_to_idx": OrderedDict(),
            "obj_idx_to_id": OrderedDict(),
            "obj_ids": [],
            "output_dict_per_obj": {},
            "temp_output_dict_per_obj": {},
            "frames_tracked_per_obj": {},
        }

    def step(self, index):
        """Low-resolution logits and object scores of every object on a frame, by id."""
        if not self._state["obj_ids"]:
            return {}
        for _ in self._model.propagate_in_video(self._state, start_frame_idx=index, max_frame_num_to_track=0):
            pass
        return self._outputs(index)

    def prompt(self, index, boxes):
        for object_id, box in boxes.items():
            self._model.add_new_points_or_box(self._state, index, object_id, box=box)
        self._model.propagate_in_video_preflight(self._state)
        return self._outputs(index)

    def _outputs(self, index):
        found = {}
        for object_id, idx in self._state["obj_id_to_idx"].items():
            outputs = self._state["output_dict_per_obj"][idx]
            out = outputs["cond_frame_outputs"].get(index) or outputs["non_cond_frame_outputs"].get(index)
            if out is not None:
                found[object_id] = float(out["object_score_logits"]), out["obj_ptr"][0].numpy()
        return found


def _assert_equal(ours: dict[int, Segment], plain: dict[int, tuple[float, np.ndarray]]) -> None:
    assert ours.keys() == plain.keys()
    for object_id, segment in ours.items():
        score, pointer = plain[object_id]
        assert segment.object_score == pytest.approx(score, abs=1e-4)
        np.testing.assert_allclose(segment.pointer, pointer, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_batched_equals_plain_over_staggered_objects(seed):
    """30 frames; objects join at 0, 3, 7 and 20. Scores and pointers depend on all that was remembered."""
    frames = _frames(30, seed)
    ours_model, plain_model = (
        _model(target, seed)
        for target in ("flows.memory.StreamingPredictor", "sam2.sam2_video_predictor.SAM2VideoPredictor")
    )
    segmenter = VideoSegmenter(ours_model, SegmentSettings(max_cond_frames=4), 90, 160)
    plain = _Plain(plain_model, frames, segmenter.prepare)
    boxes = np.random.default_rng(seed).uniform((5, 5, 60, 50), (50, 40, 150, 85), (6, 4)).astype(np.float32)
    joins = {0: [0, 1], 3: [2], 7: [3, 4], 20: [5]}
    for index, frame in enumerate(frames):
        _assert_equal(segmenter.push(frame), plain.step(index))
        new = {i: boxes[i] for i in joins.get(index, [])}
        if new:
            ours = segmenter.prompt(new)
            expected = plain.prompt(index, new)
            _assert_equal(ours, {i: expected[i] for i in new})


def test_drop_and_memory_stay_bounded():
    model = _model(OURS)
    segmenter = VideoSegmenter(model, SegmentSettings(), 90, 160)
    frames = _frames(60)
    for index, frame in enumerate(frames):
        segmenter.push(frame)
        if index % 5 == 0:
            segmenter.prompt({0: np.array([20, 20, 80, 70], dtype=np.float32)})
        segmenter.forget_frames()
    memory = segmenter._memories[0]
    assert len(memory.recent) <= model.max_obj_ptrs_in_encoder
    assert sum(entry.features is not None for entry in memory.recent.values()) <= model.num_maskmem
    assert len(memory.conditioning) <= 5 + model.max_obj_ptrs_in_encoder // 5 + 1
    segmenter.drop([0])
    assert segmenter.push(frames[0]) == {}


def test_batches_are_halved_when_memory_runs_out(monkeypatch):
    model = _model(OURS)
    whole = VideoSegmenter(model, SegmentSettings(), 90, 160)
    small = VideoSegmenter(model, SegmentSettings(), 90, 160)
    step = VideoSegmenter._step

    def scarce(self, index, encoded, batch, reads, **kwargs):
        if self is small and batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, index, encoded, batch, reads, **kwargs)

    monkeypatch.setattr(VideoSegmenter, "_step", scarce)
    boxes = {i: np.array([10 + 9 * i, 20, 60 + 9 * i, 70], dtype=np.float32) for i in range(5)}
    for frame in _frames(3):
        found = whole.push(frame), small.push(frame)
        if not whole.object_ids:
            found = whole.prompt(boxes), small.prompt(boxes)
        for object_id, segment in found[0].items():
            np.testing.assert_allclose(segment.pointer, found[1][object_id].pointer, atol=1e-4)


def test_carry_back_leaves_forward_memory_alone_and_stops_where_told():
    model = _model(OURS)
    segmenter = VideoSegmenter(model, SegmentSettings(), 90, 160)
    for frame in _frames(6):
        segmenter.push(frame)
    segmenter.prompt({0: np.array([20, 20, 80, 70], np.float32), 1: np.array([60, 10, 120, 60], np.float32)})
    before = {i: (set(m.conditioning), set(m.recent)) for i, m in segmenter._memories.items()}
    wanted = {0, 1}
    seen = []
    for segments in segmenter.carry_back(wanted):
        seen.append(set(segments))
        if len(seen) == 2:
            wanted.discard(1)
    assert seen == [{0, 1}, {0, 1}, {0}, {0}, {0}]
    assert {i: (set(m.conditioning), set(m.recent)) for i, m in segmenter._memories.items()} == before


def test_nan_and_whole_frame_masks_are_not_passed_on():
    segmenter = VideoSegmenter(_model(OURS), SegmentSettings(), 90, 160)
    assert segmenter._mask(np.full((32, 32), np.nan, dtype=np.float32)) is None
    assert segmenter._mask(np.full((32, 32), 9, dtype=np.float32)) is None
    assert segmenter.counters["rejected_masks"] == 2
    logits = np.full((32, 32), -9, dtype=np.float32)
    assert segmenter._mask(logits) is None
    assert segmenter.counters["rejected_masks"] == 2
