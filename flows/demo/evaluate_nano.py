"""Figures of the nano segmenter: on unseen scenes, on held-back clips, and on MOT sequences with true boxes.

`python -m flows.demo.evaluate_nano scenes|clips|mot` prints one JSON object. Objects are prompted by their true box
when they appear and never again; what is measured is the engine alone, without detector or Kalman filter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from flows.config import SegmentSettings
from flows.demo.clips import MIN_PROMPT_AREA_PX, MIN_VISIBLE_AREA_PX
from flows.demo.masklets import MaskletClip
from flows.demo.nano import WEIGHTS_PATH
from flows.memory import StreamingPredictor
from flows.models import build_segmenter, resolve
from flows.segment import VideoSegmenter

FRAMES = 31
# Ages of a track, in frames, at which figures are given.
AGES = (0, 1, 10, 30)
# A box that another true box covers this much is occluded: its mask cannot be judged by its box.
MAX_OVERLAP = 0.2
app = typer.Typer(help="Measure the nano segmenter.", no_args_is_help=True)

Weights = Annotated[Path, typer.Option(help="Weights to measure.")]
Size = Annotated[int, typer.Option(help="Side of the model's input in pixels.")]


@dataclass(frozen=True)
class Tracked:
    """What the segmenter made of one object.

    Attributes:
        masks: (T, H, W) bool in pixels of the video.
        scores: (T,) object score logits.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]


def load(weights: Path, size_px: int) -> StreamingPredictor:
    """The nano segmenter as the engine runs it."""
    resolved = replace(resolve("nano", "segmenter"), path=weights)
    model: Any = build_segmenter(resolved, size_px, target="flows.memory.StreamingPredictor")
    return cast(StreamingPredictor, model)


def track(
    model: StreamingPredictor, frames: Sequence[NDArray[np.uint8]], boxes_xyxy: NDArray[np.floating[Any]]
) -> list[Tracked]:
    """Prompt boxes on the first frame and follow them to the last, through the engine.

    Args:
        model: What `load` made.
        frames: (H, W, 3) RGB frames.
        boxes_xyxy: (K, 4) boxes in pixels of the frames.
    """
    height, width = frames[0].shape[:2]
    segmenter = VideoSegmenter(model, SegmentSettings(), height, width)
    masks = np.zeros((len(boxes_xyxy), len(frames), height, width), dtype=bool)
    scores = np.zeros(masks.shape[:2], dtype=np.float32)
    for t, frame in enumerate(frames):
        segments = segmenter.push(frame)
        if t == 0:
            segments = segmenter.prompt(dict(enumerate(boxes_xyxy.astype(np.float32))))
        for k, segment in segments.items():
            scores[k, t] = segment.object_score
            if segment.mask is not None:
                masks[k, t] = segment.mask.full(height, width)
    return [Tracked(*one) for one in zip(masks, scores, strict=True)]


def mask_j(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Region similarity J of two masks: their IoU."""
    union = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / union if union else 1.0


def largest_component_box(mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """(4,) box xyxy of the largest connected piece, or None for an empty mask."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    x, y, w, h = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), :4]
    return np.array([x, y, x + w, y + h], dtype=float)


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """IoU of two xyxy boxes."""
    overlap = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap
    return float(overlap / union)


def score_auc(scores: Sequence[float], visible: Sequence[bool]) -> float | None:
    """Chance that a visible object scores higher than a hidden one; None without one of either."""
    order = np.argsort(np.argsort(scores)) + 1
    positive = np.asarray(visible, dtype=bool)
    n, m = int(positive.sum()), int((~positive).sum())
    return float((order[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else None


def measure_masks(
    model: StreamingPredictor, clips: Sequence[MaskletClip], size_px: int, starts: Sequence[int]
) -> dict[str, Any]:
    """J and object score over clips with known masks, objects prompted at each of `starts`."""
    by_age: dict[int, list[float]] = {}
    scores: list[float] = []
    visible: list[bool] = []
    for clip in clips:
        for start in starts:
            if start + FRAMES > len(clip.jpegs):
                continue
            frames = [clip.frame(start + t) for t in range(FRAMES)]
            labels = np.stack([clip.labels(start + t) for t in range(FRAMES)])
            there = {int(n): a for n, a in zip(*np.unique(labels[0], return_counts=True), strict=True) if n}
            # What is smaller than the smallest object of the training clips is not asked for.
            smallest = MIN_PROMPT_AREA_PX * labels[0].size / size_px**2
            rows = clip.boxes[clip.boxes[:, 0] == start]
            rows = rows[[there.get(int(row[1]), 0) >= smallest for row in rows]]
            if not len(rows):
                continue
            for row, result in zip(rows, track(model, frames, rows[:, 2:]), strict=True):
                for age in range(FRAMES):
                    truth = labels[age] == row[1]
                    seen = bool(truth.sum() >= MIN_VISIBLE_AREA_PX * labels[0].size / size_px**2)
                    if seen:
                        by_age.setdefault(age, []).append(mask_j(result.masks[age], truth))
                    if seen or (clip.exact and not truth.any()):
                        scores.append(float(result.scores[age]))
                        visible.append(seen)
    return {
        "objects": len(by_age.get(0, [])),
        "mean_j": round(float(np.mean([j for values in by_age.values() for j in values])), 3),
        **{f"j_after_{age}": round(float(np.mean(by_age[age])), 3) for age in AGES if age in by_age},
        "score_auc": score_auc(scores, visible),
        "hidden_share": round(1 - float(np.mean(visible)), 3),
    }


def measure_mot(model: StreamingPredictor, sequence: Path, max_people: int) -> dict[str, Any]:
    """Box IoU of masks with the truth, every person prompted by its true box on its first unoccluded frame."""
    rows = np.loadtxt(sequence / "gt.txt", delimiter=",")[:, :6]
    rows[:, 4:6] += rows[:, 2:4]
    video = cv2.VideoCapture(str(next(sequence.glob("*.mp4"))))
    frames = []
    while (got := video.read())[0]:
        frames.append(np.ascontiguousarray(got[1][..., ::-1]))
    by_age: dict[int, list[float]] = {}
    people = 0
    for person in np.unique(rows[:, 1]):
        mine = rows[rows[:, 1] == person]
        clear = [row for row in mine if not _occluded(row, rows)]
        if not clear or people >= max_people:
            continue
        people += 1
        first = int(clear[0][0])
        clip = frames[first - 1 : first - 1 + FRAMES]
        result = track(model, clip, clear[0][None, 2:6])[0]
        for row in clear:
            age = int(row[0]) - first
            if age < len(clip):
                found = largest_component_box(result.masks[age])
                by_age.setdefault(age, []).append(box_iou(found, row[2:6]) if found is not None else 0.0)
    return {
        "people": people,
        "mean_iou": round(float(np.mean([v for values in by_age.values() for v in values])), 3),
        **{f"iou_after_{age}": round(float(np.mean(by_age[age])), 3) for age in AGES if age in by_age},
    }


def _occluded(row: NDArray[np.float64], rows: NDArray[np.float64]) -> bool:
    """Whether another true box of the frame, standing nearer to the camera, covers much of this one."""
    others = rows[(rows[:, 0] == row[0]) & (rows[:, 1] != row[1]) & (rows[:, 5] > row[5])]
    low, high = np.maximum(others[:, 2:4], row[2:4]), np.minimum(others[:, 4:6], row[4:6])
    covered = np.prod(np.clip(high - low, 0, None), axis=1) / np.prod(row[4:6] - row[2:4])
    return bool((covered > MAX_OVERLAP).any())


def _report(name: str, size_px: int, figures: dict[str, Any]) -> None:
    typer.echo(json.dumps({"on": name, "size_px": size_px, **figures}))


@app.command()
def scenes(
    cache: Annotated[Path, typer.Option(help="Folder to render the scenes into.")],
    weights: Weights = WEIGHTS_PATH,
    size_px: Size = 256,
    seeds: Annotated[int, typer.Option(help="How many unseen scenes, from seed 0.")] = 20,
) -> None:
    """Mean J, J after 30 frames and the object score's AUC on scenes that no training has seen."""
    from flows.demo.masklets import render_scene

    cache.mkdir(parents=True, exist_ok=True)
    clips = []
    for seed in range(seeds):
        path = cache / f"scene_{seed:06d}.npz"
        if not path.exists():
            render_scene(seed, duration_s=4.0).save(path)
        clips.append(MaskletClip.load(path))
    _report("scenes", size_px, measure_masks(load(weights, size_px), clips, size_px, starts=(0,)))


@app.command()
def clips(
    masklets: Annotated[list[Path], typer.Option(help="Masklet files of clips held back from training.")],
    weights: Weights = WEIGHTS_PATH,
    size_px: Size = 256,
) -> None:
    """J against the teacher's masks on real clips."""
    model = load(weights, size_px)
    held_back = [MaskletClip.load(path) for path in masklets]
    figures = measure_masks(model, held_back, size_px, starts=range(0, 300, 40))
    _report(",".join(clip.name for clip in held_back), size_px, figures)


@app.command()
def mot(
    sequence: Annotated[list[Path], typer.Option(help="Folders with gt.txt and one .mp4.")],
    weights: Weights = WEIGHTS_PATH,
    size_px: Size = 256,
    max_people: Annotated[int, typer.Option(help="Measure only so many people of each.")] = 1000,
) -> None:
    """Box IoU with the truth on MOT sequences."""
    model = load(weights, size_px)
    for folder in sequence:
        _report(folder.name, size_px, measure_mot(model, folder, max_people))


if __name__ == "__main__":
    app()
