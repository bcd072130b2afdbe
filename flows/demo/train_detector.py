"""Train the nano detector, a small YOLO11, on rendered scenes with ultralytics' own trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flows.demo.masklets import FIRST_TRAINING_SEED
from flows.demo.scene import CLASS_NAMES, ObjectTruth, Scene

log = logging.getLogger(__name__)

ARCHITECTURE = Path(__file__).with_name("nano_detector.yaml")
VALIDATION_SCENES = 8
FRAMES_PER_SCENE = 8
# Crops of a picture at about the scale it is looked at later, its own: large objects fit in, and nothing is padded.
CROP_PX, TRAIN_SIZE_PX = 400, 416
IMAGE_SIZE_PX = 640
# What is hidden more than this gets no label, unless the part that shows is large: half a truck is a truck.
MIN_VISIBILITY, MIN_LARGE_VISIBILITY, LARGE_SIDE_PX, MIN_SIDE_PX = 0.3, 0.1, 16.0, 5.0


RECIPE: dict[str, Any] = {
    "task": "detect", "mode": "train", "device": "cpu", "workers": 0, "cache": "ram", "amp": False, "plots": False,
    "val": False, "imgsz": TRAIN_SIZE_PX, "batch": 16, "nbs": 16, "epochs": 100, "optimizer": "AdamW",
    "lrf": 0.02, "cos_lr": True, "weight_decay": 0.0005, "warmup_epochs": 0.5, "close_mosaic": 2, "mosaic": 0.5,
    "scale": 0.3, "translate": 0.1, "hsv_h": 0.03,
}  # fmt: skip


def train_detector(
    out: Path,
    resume: bool = False,
    seed: int = 0,
    minutes: float = 60.0,
    init: Path | None = None,
    scenes: int = 600,
    learning_rate: float = 0.003,
) -> Path:
    """Render the training pictures that are missing, and train.

    Args:
        out: folder for the pictures, the checkpoints and the log.
        resume: go on from ``out/run/weights/last.pt``.
        seed: seed of the weights and of the order of the pictures.
        minutes: time to train for; the learning rate falls to its end within it.
        init: weights to start from, instead of none.
        scenes: how many scenes to render.
        learning_rate: where it starts to fall from.

    Returns:
        The trained checkpoint.

    Raises:
        FileNotFoundError: there is nothing to resume from.
    """
    last = out / "run" / "weights" / "last.pt"
    if resume and not last.exists():
        raise FileNotFoundError(f"nothing to resume: {last} does not exist")
    data = render_pictures(out / "pictures", scenes)
    settings = RECIPE | {
        "model": str(init or ARCHITECTURE), "data": str(data), "time": minutes / 60, "lr0": learning_rate, "seed": seed,
        "project": str(out.resolve()), "name": "run", "exist_ok": True, "resume": str(last) if resume else False,
    }  # fmt: skip
    _trainer_class()(overrides=settings).train()
    log.info("trained detector is %s", last)
    return last


def _trainer_class() -> Any:
    os.environ.setdefault("YOLO_OFFLINE", "true")  # ultralytics looks for updates and fonts on the network
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer

    class ChannelsLastTrainer(DetectionTrainer):
        """Keeps the channels of a pixel together: a quarter less time for a step on a CPU."""

        def get_model(self, *arguments: Any, **options: Any) -> Any:
            return super().get_model(*arguments, **options).to(memory_format=torch.channels_last)

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            ready: dict[str, Any] = super().preprocess_batch(batch)
            ready["img"] = ready["img"].contiguous(memory_format=torch.channels_last)
            return ready

    return ChannelsLastTrainer


def export_weights(checkpoint: Path, destination: Path) -> None:
    """Write a checkpoint as a small file of half-precision weights that holds no path of this machine.

    Args:
        checkpoint: a checkpoint of ultralytics' trainer.
        destination: the ``.pt`` file to write; ``ultralytics.YOLO`` loads it.
    """
    import torch

    saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    model = (saved.get("ema") or saved["model"]).half().eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.names = dict(enumerate(CLASS_NAMES))
    model.yaml = {key: value for key, value in model.yaml.items() if key != "yaml_file"}
    arguments = {"task": "detect", "imgsz": IMAGE_SIZE_PX}
    model.args, model.pt_path = arguments, None
    torch.save(
        {
            "model": model, "ema": None, "optimizer": None, "epoch": -1, "train_args": arguments,
            "license": "AGPL-3.0", "version": saved.get("version", ""), "date": "",
        },
        destination,
    )  # fmt: skip
    log.info("wrote %s, %.1f MB", destination, destination.stat().st_size / 1e6)


def render_pictures(folder: Path, scenes: int) -> Path:
    """Render crops and labels in YOLO's layout, scene by scene; what is there already is kept.

    Args:
        folder: where to put them.
        scenes: how many scenes, of which the first few are for validation.

    Returns:
        The description of the data that ultralytics reads.
    """
    first = FIRST_TRAINING_SEED
    splits = {"val": range(first, first + VALIDATION_SCENES), "train": range(first + VALIDATION_SCENES, first + scenes)}
    for split, seeds in splits.items():
        _render_split(folder, split, seeds)
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASS_NAMES))
    description = folder / "data.yaml"
    description.write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return description


def _render_split(folder: Path, split: str, seeds: Iterable[int]) -> None:
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        last = labels / f"{seed}_{FRAMES_PER_SCENE - 1}_1.txt"
        if last.exists():
            continue
        # One frame a second: the poses differ, and a scene costs far more to set up than to draw.
        crowd = int(np.random.default_rng([seed, 9]).integers(6, 28))
        scene = Scene.random(seed, fps=1.0, duration_s=float(FRAMES_PER_SCENE), n_objects=crowd)
        for index in range(FRAMES_PER_SCENE):
            image, _ = scene.render(index)
            truths = scene.truth(index)
            for part, left_px in enumerate((0, scene.width_px - CROP_PX)):
                name = f"{seed}_{index}_{part}"
                crop = image[:, left_px : left_px + CROP_PX]
                quality = 60 + (seed * 7 + index) % 36  # compressed video is never clean
                cv2.imwrite(str(images / f"{name}.jpg"), crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
                (labels / f"{name}.txt").write_text(_label(truths, left_px, crop.shape))
    log.info("pictures for %s are in %s", split, images)


def _label(truths: list[ObjectTruth], left_px: int, shape: tuple[int, ...]) -> str:
    """YOLO label lines (class, centre x and y, width, height as fractions) of the visible boxes in a crop."""
    height_px, width_px = shape[:2]
    lines = []
    for item in truths:
        x0, x1 = np.clip(item.box_xyxy[[0, 2]] - left_px, 0, width_px)
        y0, y1 = item.box_xyxy[[1, 3]]
        whole_px = max(float(item.box_xyxy[2] - item.box_xyxy[0]), 1.0)
        shown = item.visibility * float(x1 - x0) / whole_px
        side_px = min(x1 - x0, y1 - y0)
        enough = MIN_LARGE_VISIBILITY if side_px >= LARGE_SIDE_PX else MIN_VISIBILITY
        if shown < enough or side_px < MIN_SIDE_PX:
            continue
        centre = ((x0 + x1) / 2 / width_px, (y0 + y1) / 2 / height_px)
        size = ((x1 - x0) / width_px, (y1 - y0) / height_px)
        lines.append(f"{item.class_index} {centre[0]:.6f} {centre[1]:.6f} {size[0]:.6f} {size[1]:.6f}\n")
    return "".join(lines)
