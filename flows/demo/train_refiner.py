"""Training of the nano segmenter's refiner: close-ups of what the trained segmenter makes of boxes that are off."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from flows.demo.clips import Clip, ClipMaker, ClipSpec
from flows.demo.nano import build_nano, load_weights, save_weights, set_image_size
from flows.demo.train_segmenter import rate_share, update_average
from flows.demo.unroll import normalise
from flows.memory import box_logits, box_points
from flows.models import REFINER
from flows.refine import SIDE, CloseUp, MaskRefiner

logger = logging.getLogger(__name__)

# Clips are made this large; the segmenter sees them at either of its sizes.
SPEC = ClipSpec(size_px=512, frames=3, objects=8, real_share=0.4, scene_share=0.5)
SIZES_PX = (256, 512)
# Frames of the video between those of a clip.
_EVERY = (1, 2, 4, 7)
# Of boxes, as shares of their sides: a detector's errors, those of flow between detections, and of flow that goes with
# what covers an object; the last two with how many boxes have them.
_JITTER = 0.05
_SHIFTS = ((0.12, 0.5), (0.3, 0.2))
_STRETCH = 0.08
# How many objects are shown how they looked; the others learn from one frame alone.
_KNOWN = 0.8
_BOX_WEIGHT = 0.2
BATCH = 64
# Close-ups to draw batches from, and how many must be there first: making one takes longer than a step with it.
_POOL, _LEAST = 16_384, 512
_CLIPS_A_STEP = 2
_WARM_UP_STEPS = 100


@dataclass(frozen=True)
class CloseUps:
    """Objects close up when they were prompted and on another frame.

    Attributes:
        pictures: (N, 2, SIDE, SIDE, 3) uint8 RGB.
        logits: (N, 2, SIDE, SIDE) float16, coarse.
        truth: (N, 2, SIDE, SIDE) uint8 coverage, 255 where the object is.
        off: (N, 2, 4) float32, how far the whole object's sides lie right of and below the box's, shares of the region.
    """

    pictures: NDArray[np.uint8]
    logits: NDArray[np.float16]
    truth: NDArray[np.uint8]
    off: NDArray[np.float32]

    @classmethod
    def of(cls, rng: np.random.Generator, clip: Clip, segmenter: torch.nn.Module, size_px: int) -> CloseUps:
        """What a segmenter makes of a clip's objects at a size, from boxes that are off; the first frame prompts."""
        known = clip.valid & (clip.whole_xyxy[..., 2] > clip.whole_xyxy[..., 0])
        views = []
        for t, frame in enumerate(clip.frames):
            boxes = off_boxes(rng, clip.boxes_xyxy[:, 0]) if t == 0 else drifted_boxes(rng, clip.whole_xyxy[:, t])
            boxes = np.where(known[:, t, None], boxes, np.array([0, 0, 8, 8], dtype=np.float32))
            regions = [CloseUp.around(box) for box in boxes]
            coarse = _segmented(segmenter, frame, boxes, size_px)
            views.append(
                (
                    np.stack([r.picture(frame) for r in regions]),
                    np.stack([r.logits(one, *frame.shape[:2]) for r, one in zip(regions, coarse, strict=True)]),
                    np.stack([r.picture(m.astype("u1") * 255) for r, m in zip(regions, clip.masks[:, t], strict=True)]),
                    (clip.whole_xyxy[:, t] - boxes) / np.stack([r.size_px for r in regions]),
                )
            )
        pairs = [(k, t) for k in range(len(known)) for t in range(1, known.shape[1]) if known[k, 0] and known[k, t]]
        if not pairs:
            return cls.room_for(0)
        types = ("u1", "f2", "u1", "f4")
        parts = zip(*([np.stack([views[0][i][k], views[t][i][k]]) for i in range(4)] for k, t in pairs), strict=True)
        return cls(*(np.stack(part).astype(kind) for part, kind in zip(parts, types, strict=True)))

    @classmethod
    def room_for(cls, count: int) -> CloseUps:
        """Blank ones, to be written over."""
        shape = (count, 2, SIDE, SIDE)
        off = np.zeros((count, 2, 4), "f4")
        return cls(np.zeros((*shape, 3), "u1"), np.zeros(shape, "f2"), np.zeros(shape, "u1"), off)

    def put(self, rows: NDArray[np.intp], others: CloseUps) -> None:
        """Write others over rows of these."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(others, field.name)

    def batch(self, rng: np.random.Generator, rows: NDArray[np.intp]) -> tuple[torch.Tensor, ...]:
        """Pictures, logits, truth and offsets of rows as the refiner takes them, half of them in a mirror."""
        flip = rng.random(len(rows)) < 0.5
        pictures, logits, truth, off = (np.array(getattr(self, field.name)[rows]) for field in fields(self))
        for part in (pictures, logits, truth):
            part[flip] = part[flip][:, :, :, ::-1]
        off[flip] = off[flip][..., [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], dtype=np.float32)
        pictures, logits, truth, off = map(torch.from_numpy, (pictures, logits, truth, off))
        return pictures, logits.float(), truth.float() / 255, off


def off_boxes(rng: np.random.Generator, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (N, 4) as a detector has them: every side off by 5 % and half a pixel."""
    sides = np.tile(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 2)
    off = np.clip(rng.normal(0, 1, sides.shape), -2, 2) * (_JITTER * sides + 0.5)
    return np.asarray(boxes_xyxy + off, dtype=np.float32)


def drifted_boxes(rng: np.random.Generator, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (N, 4) as flow has carried them: off, and many of them shifted, by little or by much, and stretched."""
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    draw, edge, carried = rng.random(len(sizes)), 0.0, np.zeros_like(boxes_xyxy)
    for share, chance in _SHIFTS:
        shift = np.clip(rng.normal(0, share, sizes.shape), -2 * share, 2 * share)
        stretch = np.clip(rng.normal(0, _STRETCH, sizes.shape), -2 * _STRETCH, 2 * _STRETCH)
        there = (draw >= edge) & (draw < edge + chance)
        carried += np.concatenate([shift - stretch, shift + stretch], axis=1) * there[:, None] * np.tile(sizes, 2)
        edge += chance
    return np.asarray(off_boxes(rng, boxes_xyxy) + carried, dtype=np.float32)


@torch.inference_mode()
def _segmented(
    segmenter: torch.nn.Module, frame: NDArray[np.uint8], boxes_xyxy: NDArray[np.float32], size_px: int
) -> NDArray[np.float32]:
    """Mask logits (N, size / 4, size / 4) of boxes (N, 4) that prompt a frame."""
    set_image_size(segmenter, size_px)
    seen = cv2.resize(frame, (size_px, size_px), interpolation=cv2.INTER_AREA)
    boxes = torch.from_numpy(boxes_xyxy) * (size_px / frame.shape[0])
    encoded = segmenter.forward_image(normalise(seen)[None])
    _, features, positions, sizes = segmenter._prepare_backbone_features(encoded)
    features, positions = ([x.expand(-1, len(boxes), -1) for x in xs] for xs in (features, positions))
    out = segmenter.track_step(
        0,
        True,
        features,
        positions,
        sizes,
        box_points(boxes),
        None,
        {},
        1,
        run_mem_encoder=False,
        prev_sam_mask_logits=box_logits(boxes, size_px),
    )
    return np.asarray(out["pred_masks"][:, 0].float().numpy())


class _Stream(IterableDataset[CloseUps]):
    """Close-ups of clips, without end."""

    def __init__(self, maker: ClipMaker, weights: Path, seed: int) -> None:
        self._maker, self._weights, self._seed = maker, weights, seed

    def __iter__(self) -> Iterator[CloseUps]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        rng = np.random.default_rng(self._seed)
        segmenter = build_nano(SIZES_PX[0], self._weights)
        segmenter.pred_obj_scores = False  # or masks of objects it takes for hidden would be blank
        while True:
            clip = self._maker.make(rng, replace(SPEC, every=int(rng.choice(_EVERY))))
            yield CloseUps.of(rng, clip, segmenter, int(rng.choice(SIZES_PX)))


@dataclass
class RefinerTrainer:
    """State of a refiner's training and its loop; the learning rate falls to its end with the time.

    Attributes:
        out_dir: Log and weights go here.
        init_weights: The segmenter whose masks are corrected, and the refiner to go on with if it brings one.
        minutes: Time to train for.
        workers: Processes that make close-ups.
    """

    out_dir: Path
    maker: ClipMaker
    init_weights: Path
    minutes: float
    seed: int = 0
    learning_rate: float = 2e-3
    workers: int = 1
    device: str = "cpu"
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model = MaskRefiner()
        self._segmenter = build_nano(SIZES_PX[0], self.init_weights).state_dict()
        weights = load_weights(self.init_weights)
        if refiner := {k.removeprefix(REFINER): v for k, v in weights.items() if k.startswith(REFINER)}:
            self.model.load_state_dict(refiner)
        self.model.to(self.device)
        self.average = {k: v.detach().clone() for k, v in self._state().items()}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=0.02)
        self.step = 0
        self.out_dir.mkdir(parents=True, exist_ok=True)

    @property
    def weights_path(self) -> Path:
        """The segmenter with the refiner."""
        return self.out_dir / "nano_segmenter.safetensors"

    def run(self) -> None:
        """Train until the time is over."""
        started = last_log = time.monotonic()
        rng = np.random.default_rng((self.seed, 1))
        pool, drawn, figures = CloseUps.room_for(_POOL), 0, []
        stream = iter(self._stream())
        while (spent := (time.monotonic() - started) / 60) < self.minutes:
            for _ in range(_CLIPS_A_STEP if drawn >= _LEAST else -(-_LEAST // (SPEC.objects * (SPEC.frames - 1)))):
                new = next(stream)
                rows = np.arange(drawn, drawn + len(new.truth))
                pool.put(rows % _POOL, new)
                drawn += len(rows)
            batch = pool.batch(rng, rng.integers(0, min(drawn, _POOL), BATCH))
            figures.append(self.train_step(batch, spent / self.minutes))
            if self.step % self.log_every == 0:
                now = time.monotonic()
                self._log(figures, drawn, (now - last_log) / self.log_every)
                figures, last_log = [], now
            if self.step % self.save_every == 0:
                self.save()
        self.save()

    def train_step(self, batch: tuple[torch.Tensor, ...], share: float = 0.0) -> dict[str, float]:
        """One optimiser step, a share of the time gone; returns the figures to log."""
        pictures, coarse, truth, off = (part.to(self.device) for part in batch)
        rate = self.learning_rate * rate_share(self.step, _WARM_UP_STEPS, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        model = self.model.train()
        prompted = model(pictures[:, 0], coarse[:, 0])
        known = (torch.rand(len(coarse)) < _KNOWN).float().to(self.device)
        later = model(pictures[:, 1], coarse[:, 1], prompted.look, known)
        loss = sum(_mask_loss(said.logits, truth[:, t]) for t, said in enumerate((prompted, later))) / 2
        box = ((later.off - off[:, 1]).abs() / later.doubt.exp() + later.doubt).mean()
        loss = loss + _BOX_WEIGHT * box
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        update_average(self.average, self._state(), self.step)
        return {
            "loss": loss.item(),
            "box": box.item(),
            "off_before": off[:, 1].abs().mean().item(),
            "off": (later.off - off[:, 1]).abs().mean().item(),
            "iou_prompted": _iou(prompted.logits, truth[:, 0]),
            "iou_coarse": _iou(coarse[:, 1], truth[:, 1]),
            "iou": _iou(later.logits[known > 0], truth[known > 0, 1]),
            "iou_unknown": _iou(later.logits[known == 0], truth[known == 0, 1]),
        }

    def save(self) -> None:
        """Write the segmenter with the average of the refiner's weights."""
        refiner = {REFINER + key: value for key, value in self.average.items()}
        save_weights(self._segmenter | refiner, self.weights_path)

    def _state(self) -> dict[str, torch.Tensor]:
        """Weights, and statistics of normalisation, without the count of batches that nothing reads."""
        return {k: v.detach() for k, v in self.model.state_dict().items() if v.is_floating_point()}

    def _stream(self) -> DataLoader[CloseUps]:
        prefetch = 4 if self.workers else None
        stream = _Stream(self.maker, self.init_weights, self.seed)
        return DataLoader(stream, batch_size=None, num_workers=self.workers, prefetch_factor=prefetch)

    def _log(self, figures: list[dict[str, float]], drawn: int, seconds_a_step: float) -> None:
        means = {key: round(float(np.mean([f[key] for f in figures])), 4) for key in figures[0]}
        record = {"step": self.step, "close_ups": drawn, "s_a_step": round(seconds_a_step, 3), **means}
        logger.info("%s", record)
        with (self.out_dir / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")


def _mask_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and dice."""
    chance = logits.sigmoid()
    overlap, both = (chance * truth).sum((1, 2)), chance.sum((1, 2)) + truth.sum((1, 2))
    return F.binary_cross_entropy_with_logits(logits, truth) + (1 - (2 * overlap + 1) / (both + 1)).mean()


def _iou(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean IoU of masks with the truth."""
    found, there = logits > 0, truth > 0.5
    return float(((found & there).sum((1, 2)) / (found | there).sum((1, 2)).clamp(min=1)).mean())
