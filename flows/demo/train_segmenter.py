"""Training of the nano segmenter: SAM 2's own modules, unrolled over short clips.

The model stays in evaluation mode with gradients on, because `SAM2Base` drops what training needs (object scores)
in training mode and has no layer here that behaves differently.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

from flows.demo.clips import Clip, ClipMaker, ClipSpec

logger = logging.getLogger(__name__)

CONFIG_PATH = Path(__file__).with_name("nano_segmenter.yaml")
WEIGHTS_PATH = Path(__file__).with_name("weights") / "nano_segmenter.safetensors"
# What SAM 2's frame loaders normalise with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Truth is compared at half the resolution of the frames: a quarter of the cost, and twice as fine as the logits.
TRUTH_STRIDE = 2
NO_OBJECT_LOGIT = -1024.0
# Pointer times are normalised by at most 15 frames, so any longer stream is the same to the model.
STREAM_FRAMES = 10_000


@dataclass(frozen=True)
class Phase:
    """A stretch of training with clips of one kind.

    Attributes:
        steps: Optimiser steps.
        size_px: Side of the frames.
        frames: Frames a clip.
        clips: Clips a step.
        objects: Objects a clip.
        real_share: Share of clips from real footage.
        own_score_share: Share of steps in which the model's own object score, not the truth, decides what is
            remembered, as at inference.
    """

    steps: int
    size_px: int
    frames: int
    clips: int
    objects: int
    real_share: float
    own_score_share: float = 0.0


CURRICULUM = (
    Phase(600, 128, 1, 16, 4, 0.3),
    Phase(300, 128, 2, 10, 4, 0.3),
    Phase(300, 128, 4, 6, 4, 0.4),
    Phase(1000, 256, 4, 4, 3, 0.6),
    Phase(2500, 256, 7, 3, 3, 0.6, 0.3),
    Phase(1500, 256, 12, 2, 3, 0.6, 0.5),
    Phase(400, 512, 4, 2, 3, 0.7, 0.5),
)


def build_nano(image_size: int = 256, weights: Path | None = None) -> Any:
    """Build the nano segmenter as `SAM2VideoPredictor` for training and evaluation.

    Args:
        image_size: Side of the square the frames are scaled to, a multiple of 32.
        weights: A safetensors file, or None for random weights.
    """
    config = OmegaConf.load(CONFIG_PATH)
    config.model.image_size = image_size
    model = instantiate(config.model, _recursive_=True)
    if weights is not None:
        model.load_state_dict({k: v.float() for k, v in load_file(str(weights)).items()}, strict=True)
    return model.eval()


def save_weights(state: dict[str, torch.Tensor], path: Path = WEIGHTS_PATH) -> None:
    """Store weights in half precision, which moves no mask by more than a pixel (see the model card)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {k: v.detach().half().contiguous().cpu() for k, v in state.items()}
    save_file(halves, str(path), metadata={"format": "pt", "model": "sightflow nano segmenter"})


@dataclass(frozen=True)
class Batch:
    """Clips of a step as tensors; N = clips x objects, clip-major.

    Attributes:
        images: (B, T, 3, S, S) float32, normalised.
        truth: (N, T, S/2, S/2) float32 coverage of each pixel by the object.
        visible: (N, T) float32, 1 where the object is seen.
        valid: (N, T) float32, 1 where the truth is known.
        prompts_xyxy: (N, T, 4) float32 jittered boxes.
    """

    images: torch.Tensor
    truth: torch.Tensor
    visible: torch.Tensor
    valid: torch.Tensor
    prompts_xyxy: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__annotations__))


def collate(clips: list[Clip], rng: np.random.Generator) -> Batch:
    """Make a batch of clips of the same size, with prompts jittered like a detector's boxes."""
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3)
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    images = (frames.float() / 255 - mean) / std
    masks = torch.from_numpy(np.concatenate([clip.masks for clip in clips])).float()
    boxes = np.concatenate([clip.boxes_xyxy for clip in clips])
    return Batch(
        images=images,
        truth=F.avg_pool2d(masks, TRUTH_STRIDE),
        visible=torch.from_numpy(np.concatenate([clip.visible for clip in clips])).float(),
        valid=torch.from_numpy(np.concatenate([clip.valid for clip in clips])).float(),
        prompts_xyxy=torch.from_numpy(jitter_boxes(rng, boxes)),
    )


def jitter_boxes(rng: np.random.Generator, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift every side of (..., 4) boxes by about 5 % of the box's width or height, and half a pixel."""
    sides = np.concatenate([boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]] * 2, axis=-1)
    noise = np.clip(rng.normal(0, 1, boxes_xyxy.shape), -2, 2)
    return np.asarray(boxes_xyxy + noise * (0.05 * sides + 0.5), dtype=np.float32)


class StepDataset(Dataset[Batch]):
    """The batch of every training step, a function of seed and step alone."""

    def __init__(self, maker: ClipMaker, curriculum: tuple[Phase, ...], seed: int) -> None:
        self._maker, self._curriculum, self._seed = maker, curriculum, seed

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(1)  # the cores belong to training
        phase = phase_at(self._curriculum, step)
        rng = np.random.default_rng((self._seed, step))
        spec = ClipSpec(phase.size_px, phase.frames, phase.objects, phase.real_share)
        return collate([self._maker.make(rng, spec) for _ in range(phase.clips)], rng)


def phase_at(curriculum: tuple[Phase, ...], step: int) -> Phase:
    """The phase a step lies in; the last one goes on for ever."""
    for phase in curriculum:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return curriculum[-1]


@dataclass(frozen=True)
class Unrolled:
    """What the model said over a clip.

    Attributes:
        logits: (N, T, S/4, S/4) mask logits, before hidden objects are blanked.
        scores: (N, T) object score logits.
    """

    logits: torch.Tensor
    scores: torch.Tensor


class Unroller:
    """Runs the model over clips as the video predictor would, with gradients and many objects at once.

    Args:
        model: What `build_nano` made. Its `image_size` follows the batches.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        # The blanking of hidden objects is done here, by the truth or by the model's own score.
        model.pred_obj_scores = False

    def __call__(
        self, batch: Batch, own_scores: bool, correct_at: int | None = None, prompt_age_frames: int = 0
    ) -> Unrolled:
        """Unroll over a batch.

        Args:
            batch: The clips.
            own_scores: Whether the model's own score decides if an object is hidden.
            correct_at: A frame where visible objects are prompted a second time, or None.
            prompt_age_frames: How much older than it is the prompt appears from the fourth frame on, so that the
                prompt's pointer keeps its meaning over long streams.
        """
        model = self._model
        clips, frames = batch.images.shape[:2]
        set_image_size(model, batch.images.shape[-1])
        features, positions, sizes = self._encode(batch.images)
        objects = len(batch.truth) // clips
        memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
        logits, scores = [], []
        for t in range(frames):
            rows = (torch.arange(clips, device=batch.images.device) * frames + t).repeat_interleave(objects)
            here = ([f[:, rows] for f in features], [p[:, rows] for p in positions], sizes)
            prompt = _box_prompt(batch.prompts_xyxy[:, t])
            if t == 4 and prompt_age_frames:
                memory["cond_frame_outputs"] = {-prompt_age_frames: memory["cond_frame_outputs"][0]}
            out = self._step(t, here, prompt if t == 0 else None, memory, None)
            if t == correct_at and t > 0:
                out = self._step(t, here, _only(prompt, batch.visible[:, t]), memory, out)
            logits.append(out["pred_masks"][:, 0])
            scores.append(out["object_score_logits"][:, 0])
            if t + 1 < frames:
                present = out["object_score_logits"] > 0 if own_scores else batch.visible[:, t, None] > 0
                key = "cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"
                memory[key][t] = self._remember(here, out, present)
        return Unrolled(torch.stack(logits, 1), torch.stack(scores, 1))

    def _encode(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], list[Any]]:
        out = self._model.forward_image(images.flatten(0, 1))
        _, features, positions, sizes = self._model._prepare_backbone_features(out)
        return features, positions, sizes

    def _step(
        self, t: int, here: Any, prompt: dict[str, torch.Tensor] | None, memory: Any, before: Any
    ) -> dict[str, Any]:
        features, positions, sizes = here
        hint = None if before is None else before["pred_masks"].detach().clamp(-32, 32)
        out, heads, _, _ = self._model._track_step(
            t, t == 0, features, positions, sizes, prompt, None, memory, STREAM_FRAMES, False, hint
        )
        _, _, _, low, high, pointer, score = heads
        out.update(pred_masks=low, high=high, obj_ptr=pointer, object_score_logits=score)
        return dict(out)

    def _remember(self, here: Any, out: dict[str, Any], present: torch.Tensor) -> dict[str, Any]:
        """What `track_step` stores of a frame, with `present` (N, 1) in the place of the model's own decision."""
        model = self._model
        features, _, sizes = here
        shown = present.float()
        # Without gradient: through the masks it is long, noisy and costs a third of the backward pass.
        masks = torch.where(present[..., None, None], out["high"].detach(), NO_OBJECT_LOGIT)
        spatial, positions = model._encode_new_memory(
            features, sizes, masks, shown - 0.5, out["point_inputs"] is not None
        )
        pointer = shown * out["obj_ptr"] + (1 - shown) * model.no_obj_ptr
        return {"maskmem_features": spatial, "maskmem_pos_enc": positions, "obj_ptr": pointer}


def set_image_size(model: Any, image_size: int) -> None:
    """Change the resolution of a built model in place: nothing learned depends on it."""
    if model.image_size == image_size:
        return
    cells = image_size // model.backbone_stride
    encoder = model.sam_prompt_encoder
    model.image_size, model.sam_image_embedding_size = image_size, cells
    encoder.input_image_size, encoder.image_embedding_size = (image_size, image_size), (cells, cells)
    encoder.mask_input_size = (4 * cells, 4 * cells)


def _box_prompt(boxes_xyxy: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, 4) boxes as SAM 2's two labelled corner points."""
    labels = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes_xyxy.device)
    return {"point_coords": boxes_xyxy.reshape(-1, 2, 2), "point_labels": labels.repeat(len(boxes_xyxy), 1)}


def _only(prompt: dict[str, torch.Tensor], visible: torch.Tensor) -> dict[str, torch.Tensor]:
    """The prompt where the object is visible, padding points elsewhere."""
    labels = torch.where(visible[:, None] > 0, prompt["point_labels"], -1)
    return {"point_coords": prompt["point_coords"], "point_labels": labels}


def losses(said: Unrolled, batch: Batch) -> dict[str, torch.Tensor]:
    """The parts of the loss: `bce`, `dice` (where visible) and `score` (where the truth is known)."""
    logits = F.interpolate(said.logits.float(), size=batch.truth.shape[-2:], mode="bilinear", align_corners=False)
    truth = batch.truth
    area = truth.sum((2, 3))
    pixels = truth.shape[-1] * truth.shape[-2]
    where = batch.visible * batch.valid
    count = where.sum().clamp(min=1)
    raw = F.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=torch.tensor(5.0, device=truth.device), reduction="none"
    ).sum((2, 3))
    # Normalised by the object's size, not the frame's, so that small objects weigh as much as large ones.
    bce = raw / (5 * area + 0.1 * pixels)
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((2, 3)) + 1) / (chance.sum((2, 3)) + area + 1)
    score = F.binary_cross_entropy_with_logits(said.scores.float(), batch.visible, reduction="none")
    return {
        "bce": (bce * where).sum() / count,
        "dice": (dice * where).sum() / count,
        "score": (score * batch.valid).sum() / batch.valid.sum().clamp(min=1),
    }


def total_loss(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum that is minimised."""
    return parts["bce"] + parts["dice"] + 0.2 * parts["score"]


def mask_iou(said: Unrolled, batch: Batch) -> torch.Tensor:
    """(N, T) IoU of predicted masks with the truth; NaN where the object is hidden or the truth unknown."""
    logits = F.interpolate(said.logits.float(), size=batch.truth.shape[-2:], mode="bilinear", align_corners=False)
    predicted, truth = logits > 0, batch.truth > 0.5
    union = (predicted | truth).sum((2, 3)).clamp(min=1)
    iou = (predicted & truth).sum((2, 3)) / union
    return torch.where(batch.visible * batch.valid > 0, iou, torch.nan)


@dataclass
class Trainer:
    """State of a training run and its loop.

    Attributes:
        out_dir: Checkpoint, `log.jsonl` and pictures go here.
        curriculum: Phases, run one after the other.
        seed: Of data and initial weights.
        learning_rate: Peak, after warm-up; falls to 2 % by a cosine over all phases.
        workers: Processes that make clips.
        device: Where to train.
    """

    out_dir: Path
    maker: ClipMaker
    curriculum: tuple[Phase, ...] = CURRICULUM
    seed: int = 0
    learning_rate: float = 1e-3
    workers: int = 1
    device: str = "cpu"
    init_weights: Path | None = None
    warm_up_steps: int = 100
    log_every: int = 20
    save_every: int = 100
    picture_every: int = 200

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model = build_nano(self.curriculum[0].size_px, self.init_weights).to(self.device)
        self.unroll = Unroller(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=0.02)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        self.out_dir.mkdir(parents=True, exist_ok=True)

    @property
    def total_steps(self) -> int:
        """Steps of the whole curriculum."""
        return sum(phase.steps for phase in self.curriculum)

    @property
    def _checkpoint_path(self) -> Path:
        return self.out_dir / "checkpoint.pt"

    def resume(self) -> bool:
        """Load the last checkpoint, if there is one."""
        if not self._checkpoint_path.exists():
            return False
        state = torch.load(self._checkpoint_path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        return True

    def save(self) -> None:
        """Write checkpoint and averaged weights; a crash while writing leaves the old ones."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        partial = self._checkpoint_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint_path)
        save_weights(self.average, self.out_dir / "nano_segmenter.safetensors")

    def run(self, max_seconds: float = float("inf")) -> None:
        """Train to the end of the curriculum, or until the time is over."""
        started = last_log = time.monotonic()
        sums: dict[str, list[float]] = {}
        for batch in self._batches():
            figures = self.train_step(batch.to(torch.device(self.device)))
            for key, value in figures.items():
                sums.setdefault(key, []).append(value)
            if self.step % self.log_every == 0:
                now = time.monotonic()
                self._log(sums, (now - last_log) / self.log_every)
                sums, last_log = {}, now
            if self.step % self.picture_every == 0:
                self._picture(batch)
            if self.step % self.save_every == 0:
                self.save()
            if time.monotonic() - started > max_seconds:
                break
        self.save()

    def _batches(self) -> Iterator[Batch]:
        steps = range(self.step, self.total_steps)
        dataset = StepDataset(self.maker, self.curriculum, self.seed)
        loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            pin_memory=self.device.startswith("cuda"),
        )
        return iter(loader)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the figures to log."""
        rng = np.random.default_rng((self.seed, self.step, 1))
        phase, frames = phase_at(self.curriculum, self.step), batch.images.shape[1]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._schedule()
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device.startswith("cuda")):
            said = self.unroll(
                batch,
                own_scores=bool(rng.random() < phase.own_score_share),
                correct_at=int(rng.integers(2, frames)) if frames > 3 and rng.random() < 0.15 else None,
                prompt_age_frames=int(rng.integers(0, 60)) if rng.random() < 0.5 else 0,
            )
        parts = losses(said, batch)
        loss = total_loss(parts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return self._figures(parts, said, batch)

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / self.warm_up_steps)
        progress = min(1.0, self.step / max(self.total_steps, 1))
        return float(warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress))))

    def _update_average(self) -> None:
        """Exponential average of the weights: what is evaluated and shipped."""
        decay = min(0.998, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)

    @staticmethod
    def _figures(parts: dict[str, torch.Tensor], said: Unrolled, batch: Batch) -> dict[str, float]:
        with torch.no_grad():
            iou = mask_iou(said, batch)
            figures = {key: float(value) for key, value in parts.items()}
            figures["iou_first"] = float(iou[:, 0].nanmean())
            if iou.shape[1] > 1:
                figures["iou_second"] = float(iou[:, 1].nanmean())
                figures["iou_last"] = float(iou[:, -1].nanmean())
        return figures

    def _log(self, sums: dict[str, list[float]], seconds_a_step: float) -> None:
        means = {key: round(float(np.nanmean(values)), 4) for key, values in sums.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        record = {"step": self.step, "lr": rate, "s_a_step": round(seconds_a_step, 3), **means}
        logger.info("%s", record)
        with (self.out_dir / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")

    def _picture(self, batch: Batch) -> None:
        with torch.no_grad():
            said = self.unroll(batch, own_scores=True)
        cv2.imwrite(str(self.out_dir / f"step_{self.step:06d}.png"), contact_sheet(batch, said)[..., ::-1])


def contact_sheet(batch: Batch, said: Unrolled, rows: int = 6, columns: int = 6) -> NDArray[np.uint8]:
    """A picture of clips, one object a row: frames with the truth outlined in green, the prediction in red."""
    clips, frames = batch.images.shape[:2]
    objects = len(batch.truth) // clips
    size = batch.images.shape[-1]
    times = np.unique(np.linspace(0, frames - 1, columns).astype(int))
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    lines = []
    for n in np.linspace(0, len(batch.truth) - 1, min(rows, len(batch.truth))).astype(int):
        line = []
        for t in times:
            image = batch.images[n // objects, t].cpu() * std + mean
            rgb = np.ascontiguousarray((image.permute(1, 2, 0).numpy() * 255).clip(0, 255).astype(np.uint8))
            shown = said.scores[n, t] > 0
            for mask, colour in (
                (batch.truth[n, t] > 0.5, (0, 255, 0)),
                ((said.logits[n, t].float() > 0) & shown, (255, 0, 0)),
            ):
                full = cv2.resize(mask.cpu().numpy().astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
                outlines = cv2.findContours(full, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
                cv2.drawContours(rgb, outlines, -1, colour, 1)
            line.append(rgb)
        lines.append(np.hstack(line))
    return np.vstack(lines)
