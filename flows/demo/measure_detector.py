"""Measure a detector against the truth of scenes it has never seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flows.config import DetectSettings
from flows.demo.camera import Floats
from flows.demo.scene import ObjectTruth, Scene
from flows.demo.train_detector import IMAGE_SIZE_PX

MIN_IOU = 0.5
MIN_VISIBILITY, MIN_HEIGHT_PX = 0.5, 12.0  # what a detector is asked to find; the rest neither helps nor hurts
KEYFRAME_STRIDE = 20


@dataclass
class Score:
    """Counts of one class, or of all."""

    found: int = 0
    missed: int = 0
    false: int = 0
    confidences: list[float] = field(default_factory=list)  # of what was found

    @property
    def recall(self) -> float:
        """Found over all that should be found."""
        return self.found / max(self.found + self.missed, 1)

    @property
    def precision(self) -> float:
        """Found over all that was reported; reports of tiny or hidden objects do not count."""
        return self.found / max(self.found + self.false, 1)


def measure(
    model: object, seeds: Iterable[int], confidence: float = 0.4, image_size_px: int = IMAGE_SIZE_PX
) -> dict[int, Score]:
    """Compare detections with the truth on keyframes of the scenes of some seeds.

    Args:
        model: an ``ultralytics.YOLO`` detector of the scenes' classes.
        seeds: seeds of the scenes.
        confidence: detections below are left out.
        image_size_px: what the long side is scaled to before detection.

    Returns:
        A score for each class index, and one of all of them under -1.
    """
    scores = {index: Score() for index in range(-1, 5)}
    for seed in seeds:
        scene = Scene.random(seed)
        for index in range(0, scene.frame_count, KEYFRAME_STRIDE):
            image, _ = scene.render(index)
            boxes = model(  # type: ignore[operator]
                np.ascontiguousarray(image[..., ::-1]),
                conf=confidence,
                iou=DetectSettings().nms_iou,
                imgsz=image_size_px,
                device="cpu",
                verbose=False,
            )[0].boxes
            detected = np.column_stack([boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy()])
            _count(detected, scene.truth(index), (scene.width_px, scene.height_px), scores)
    return scores


def _count(
    detected: npt.NDArray[np.floating], truths: list[ObjectTruth], size_px: tuple[int, int], scores: dict[int, Score]
) -> None:
    """Match detections, most confident first, to the visible or the whole box of an object of their class."""
    limits = np.array([*size_px, *size_px], float)
    shown = [item for item in truths if item.visibility > 0]
    taken: set[int] = set()
    for row in sorted(detected.tolist(), key=lambda row: -row[4]):
        box_xyxy, class_index = np.array(row[:4]), int(row[5])
        overlaps = [
            (max(_iou(box_xyxy, item.box_xyxy), _iou(box_xyxy, np.clip(item.amodal_xyxy, 0, limits))), item)
            for item in shown
            if item.class_index == class_index and item.id not in taken
        ]
        overlap, item = max(overlaps, key=lambda pair: pair[0], default=(0.0, None))
        for key in (-1, class_index):
            if item is None or overlap < MIN_IOU:
                scores[key].false += 1
            elif _is_asked(item):
                scores[key].found += 1
                scores[key].confidences.append(row[4])
        if item is not None and overlap >= MIN_IOU:
            taken.add(item.id)
    for item in shown:
        if item.id not in taken and _is_asked(item):
            scores[-1].missed += 1
            scores[item.class_index].missed += 1


def _is_asked(item: ObjectTruth) -> bool:
    return item.visibility >= MIN_VISIBILITY and bool(item.box_xyxy[3] - item.box_xyxy[1] >= MIN_HEIGHT_PX)


def _iou(a_xyxy: Floats, b_xyxy: Floats) -> float:
    overlap = np.minimum(a_xyxy[2:], b_xyxy[2:]) - np.maximum(a_xyxy[:2], b_xyxy[:2])
    if (overlap <= 0).any():
        return 0.0
    shared = float(np.prod(overlap))
    return shared / float(np.prod(a_xyxy[2:] - a_xyxy[:2]) + np.prod(b_xyxy[2:] - b_xyxy[:2]) - shared)
