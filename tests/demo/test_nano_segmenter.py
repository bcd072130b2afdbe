"""The nano segmenter: its config, its weights, and the training that makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from sam2.sam2_video_predictor import SAM2VideoPredictor

from flows.demo.clips import ClipMaker, ClipSpec
from flows.demo.evaluate_nano import box_iou, largest_component_box, load, mask_j, score_auc, track
from flows.demo.masklets import MaskletClip, make_scene_clips, render_scene
from flows.demo.nano import CONFIG_PATH, WEIGHTS_PATH, build_nano, set_image_size
from flows.demo.train_segmenter import Phase, Trainer, phase_at
from flows.demo.unroll import Batch, Unrolled, Unroller, carried_boxes, collate, normalise
from flows.memory import box_logits
from flows.models import REFINER

TINY = (Phase(steps=4, size_px=64, frames=2, clips=1, objects=2, real_share=0.0, scene_share=0.0),)


def _make_trainer(out_dir: Path, **overrides: object) -> Trainer:
    settings: dict[str, object] = {"curriculum": TINY, "workers": 0, "warm_up_steps": 1, "learning_rate": 2e-3}
    return Trainer(out_dir=out_dir, maker=ClipMaker(), **(settings | overrides))  # type: ignore[arg-type]


@pytest.mark.parametrize("image_size", [256, 512])
def test_config_builds_the_packages_own_predictor_with_the_shipped_weights(image_size: int) -> None:
    config = OmegaConf.load(CONFIG_PATH)
    config.model.image_size = image_size
    model = instantiate(config.model, _recursive_=True)

    weights = {key: value for key, value in load_file(WEIGHTS_PATH).items() if not key.startswith(REFINER)}
    model.load_state_dict(weights, strict=True)

    assert isinstance(model, SAM2VideoPredictor)
    assert model.sam_image_embedding_size == image_size // 16
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())


def test_weights_are_small() -> None:
    assert WEIGHTS_PATH.stat().st_size <= 10 * 2**20


def _make_batch(frames: int, size_px: int, boxes_xyxy: list[list[float]]) -> Batch:
    """Noise, with boxes that move to the right; no truth."""
    pictures = np.random.default_rng(0).integers(0, 255, (1, frames, size_px, size_px, 3), dtype=np.uint8)
    hints = torch.tensor(boxes_xyxy)[:, None] + torch.arange(frames)[:, None] * torch.tensor([2.0, 0, 2, 0])
    seen = torch.ones(hints.shape[:2])
    return Batch(normalise(pictures), torch.zeros(*seen.shape, size_px // 2, size_px // 2), seen, seen, hints)


def test_unrolling_remembers_what_the_package_remembers() -> None:
    torch.manual_seed(0)
    model = build_nano(64)
    batch = _make_batch(4, 64, [[8.0, 8, 30, 40], [20, 10, 54, 60]])

    with torch.inference_mode():
        ours = Unroller(model)(batch, own_scores=True)
        model.pred_obj_scores = True
        theirs = _track_with_package(model, batch.images[0], batch.hints_xyxy)

    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)
    shown = ours.scores > 0
    torch.testing.assert_close(ours.logits[shown], theirs.logits[shown], rtol=1e-4, atol=1e-3)


def _track_with_package(model: SAM2VideoPredictor, images: torch.Tensor, hints_xyxy: torch.Tensor) -> Unrolled:
    memory: dict[str, dict[int, object]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    logits, scores = [], []
    count = len(hints_xyxy)
    labels = torch.tensor([[2, 3]], dtype=torch.int32).repeat(count, 1)
    for t, image in enumerate(images):
        encoded = model.forward_image(image[None])
        _, features, positions, sizes = model._prepare_backbone_features(encoded)
        features, positions = ([x.expand(-1, count, -1) for x in xs] for xs in (features, positions))
        points = {"point_coords": hints_xyxy[:, t].reshape(-1, 2, 2), "point_labels": labels}
        start = box_logits(hints_xyxy[:, t], 64)
        out = model.track_step(
            t, t == 0, features, positions, sizes, points, None, memory, 10_000, prev_sam_mask_logits=start
        )
        memory["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = out
        logits.append(out["pred_masks"][:, 0])
        scores.append(out["object_score_logits"][:, 0])
    return Unrolled(torch.stack(logits, 1), torch.stack(scores, 1))


def test_changing_the_resolution_of_a_model_is_the_same_as_building_it_so() -> None:
    batch = _make_batch(2, 128, [[8.0, 8, 60, 80]])
    built, changed = build_nano(128, WEIGHTS_PATH), build_nano(64, WEIGHTS_PATH)
    set_image_size(changed, 128)

    with torch.inference_mode():
        expected, got = (Unroller(model)(batch, own_scores=True) for model in (built, changed))

    torch.testing.assert_close(got.logits, expected.logits)


def test_masks_lie_on_the_objects_of_unseen_scenes() -> None:
    model = load(WEIGHTS_PATH, 256)
    found = []
    for seed in range(6):
        clip = render_scene(seed, duration_s=0.3)
        rows = clip.boxes[clip.boxes[:, 0] == 0]
        areas = (rows[:, 4] - rows[:, 2]) * (rows[:, 5] - rows[:, 3])
        row = rows[int(np.argmax(areas))]
        frames = [clip.frame(t) for t in range(3)]
        result = track(model, frames, row[None, 2:])[0]
        found += [mask_j(result.masks[t], clip.labels(t) == row[1]) for t in range(3)]

    # The shipped weights reach 0.59: the floor is for a broken model, not for one that is a little worse.
    assert np.mean(found) > 0.5


def test_boxes_to_start_from_are_off_by_some_and_wait_where_an_object_hides() -> None:
    boxes = np.zeros((50, 8, 4), dtype=np.float32)
    boxes[:] = (20, 20, 60, 100)
    visible = np.ones((50, 8), dtype=bool)
    visible[:, 3:6] = False
    truth = boxes.copy()
    boxes[~visible] = 0

    off = (carried_boxes(np.random.default_rng(0), boxes, visible) - truth) / np.array([40, 80, 40, 80])

    assert 0.03 < off[:, 0].std() < 0.08 < off[:, -1].std() < 0.15
    assert np.abs(off).max() < 0.3


def test_training_lowers_the_loss_on_a_fixed_batch(tmp_path: Path) -> None:
    trainer = _make_trainer(tmp_path)
    rng = np.random.default_rng(5)
    batch = collate([trainer.maker.make(rng, ClipSpec(64, 2, 2))], rng)

    figures = [trainer.train_step(batch) for _ in range(12)]

    assert figures[-1]["bce"] + figures[-1]["dice"] < 0.9 * (figures[0]["bce"] + figures[0]["dice"])


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = _make_trainer(tmp_path / "whole")
    whole.run()
    broken = _make_trainer(tmp_path / "broken")
    broken.run(max_seconds=0)
    assert broken.step == 1

    resumed = _make_trainer(tmp_path / "broken", seed=0)
    assert resumed.resume()
    resumed.run()

    assert resumed.step == whole.step == 4
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value)
    assert (tmp_path / "whole" / "nano_segmenter.safetensors").exists()


def test_phases_follow_each_other_and_the_last_goes_on() -> None:
    curriculum = (Phase(2, 64, 1, 1, 1, 0, 0), Phase(3, 128, 1, 1, 1, 0, 0))

    assert [phase_at(curriculum, step).size_px for step in (0, 1, 2, 4, 9)] == [64, 64, 128, 128, 128]


def test_clips_are_a_function_of_the_seed_and_know_what_is_hidden(tmp_path: Path) -> None:
    make_scene_clips([100], tmp_path, duration_s=1.0)
    maker = ClipMaker([tmp_path / "scene_000100.npz"])
    spec = ClipSpec(64, 3, 2, scene_share=1.0)

    first, again = (maker.make(np.random.default_rng(9), spec) for _ in range(2))

    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert first.frames.shape == (3, 64, 64, 3)
    assert first.visible[:, 0].all()
    assert first.valid.all()


def test_scenes_for_evaluation_are_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for evaluation"):
        make_scene_clips([5], tmp_path)


def test_masklet_files_read_back(tmp_path: Path) -> None:
    clip = render_scene(2, duration_s=0.2)
    clip.save(tmp_path / "scene.npz")

    again = MaskletClip.load(tmp_path / "scene.npz")

    np.testing.assert_array_equal(again.labels(1), clip.labels(1))
    np.testing.assert_array_equal(again.frame(1), clip.frame(1))
    np.testing.assert_array_equal(again.boxes, clip.boxes)
    assert again.exact


def test_measures() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:6, 3:9] = True
    mask[15, 15] = True

    box_xyxy = largest_component_box(mask)

    assert box_xyxy is not None
    assert box_xyxy.tolist() == [3, 2, 9, 6]
    assert largest_component_box(np.zeros((4, 4), bool)) is None
    assert box_iou(box_xyxy, np.array([3.0, 2, 9, 10])) == pytest.approx(0.5)
    assert mask_j(mask, mask) == 1.0
    assert score_auc([3.0, 1, 2, -1], [True, False, True, False]) == 1.0
    assert score_auc([1.0], [True]) is None
