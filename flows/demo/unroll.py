"""Unrolling the nano segmenter over batches of clips, with gradients and many objects at once, and its loss.

The model stays in evaluation mode with gradients on, because `SAM2Base` drops what training needs (object scores)
in training mode and has no layer here that behaves differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from flows.demo.clips import Clip
from flows.demo.nano import set_image_size
from flows.memory import box_logits, box_points

# What SAM 2's frame loaders normalise with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Truth is compared at half the resolution of the frames: a quarter of the cost, and twice as fine as the logits.
TRUTH_STRIDE = 2
# More than about 2 makes masks fat, which small objects pay for.
POSITIVE_WEIGHT = 2.0
# Of boxes, as shares of their sides (see `carried_boxes`).
_JITTER, _DRIFT, _LARGEST_DRIFT = 0.05, 0.03, 0.15
# What SAM 2 writes where an object is hidden (`NO_OBJ_SCORE` in `sam2_base.py`).
NO_OBJECT_LOGIT = -1024.0
# Pointer times are normalised by at most 15 frames, so any longer stream is the same to the model.
STREAM_FRAMES = 10_000


@dataclass(frozen=True)
class Batch:
    """Clips of a step as tensors; N = clips x objects, clip-major.

    Attributes:
        images: (B, T, 3, S, S) float32, normalised.
        truth: (N, T, S/2, S/2) float32 coverage of each pixel by the object.
        visible: (N, T) float32, 1 where the object is seen.
        valid: (N, T) float32, 1 where the truth is known.
        hints_xyxy: (N, T, 4) float32 boxes, as off as a detector's or as those that flow has carried.
    """

    images: torch.Tensor
    truth: torch.Tensor
    visible: torch.Tensor
    valid: torch.Tensor
    hints_xyxy: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__annotations__))


def collate(clips: list[Clip], rng: np.random.Generator) -> Batch:
    """Make a batch of clips of the same size, with the box that every frame starts from."""
    images = normalise(np.stack([clip.frames for clip in clips]))
    masks = torch.from_numpy(np.concatenate([clip.masks for clip in clips])).float()
    visible = np.concatenate([clip.visible for clip in clips])
    hints = carried_boxes(rng, np.concatenate([clip.boxes_xyxy for clip in clips]), visible)
    return Batch(
        images=images,
        truth=F.avg_pool2d(masks, TRUTH_STRIDE),
        visible=torch.from_numpy(visible).float(),
        valid=torch.from_numpy(np.concatenate([clip.valid for clip in clips])).float(),
        hints_xyxy=torch.from_numpy(hints),
    )


def normalise(frames: NDArray[np.uint8]) -> torch.Tensor:
    """(..., H, W, 3) uint8 RGB to (..., 3, H, W) float32 as SAM 2's frame loaders make it."""
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (torch.from_numpy(frames).movedim(-1, -3).float() / 255 - mean) / std


def carried_boxes(
    rng: np.random.Generator, boxes_xyxy: NDArray[np.float32], visible: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Boxes (N, T, 4) of objects as a tracker would have them: off by some, and further off with every frame.

    Every side of every box is off by about 5 % of the box's size and half a pixel, as a detector's is; a drift of 3 %
    a frame is carried on, held to 15 %. Where an object is hidden its box stays where it was last seen.
    """
    held = boxes_xyxy.copy()
    for t in range(1, held.shape[1]):
        held[:, t] = np.where(visible[:, t, None], held[:, t], held[:, t - 1])
    sides = np.tile(held[..., 2:] - held[..., :2], 2)
    steps = rng.normal(0, _DRIFT, held.shape)
    steps[:, 0] = 0
    drift = np.clip(np.cumsum(steps, axis=1), -_LARGEST_DRIFT, _LARGEST_DRIFT)
    noise = np.clip(rng.normal(0, 1, held.shape), -2, 2)
    return np.asarray(held + drift * sides + noise * (_JITTER * sides + 0.5), dtype=np.float32)


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

    def __call__(self, batch: Batch, own_scores: bool, prompt_age_frames: int = 0) -> Unrolled:
        """Unroll over a batch.

        Args:
            batch: The clips.
            own_scores: Whether the model's own score decides if an object is hidden.
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
            if t == 4 and prompt_age_frames:
                memory["cond_frame_outputs"] = {-prompt_age_frames: memory["cond_frame_outputs"][0]}
            out = self._step(t, here, batch.hints_xyxy[:, t], memory)
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

    def _step(self, t: int, here: Any, hints_xyxy: torch.Tensor, memory: Any) -> dict[str, Any]:
        features, positions, sizes = here
        hint = box_logits(hints_xyxy, self._model.image_size)
        out, heads, _, _ = self._model._track_step(
            t, t == 0, features, positions, sizes, box_points(hints_xyxy), None, memory, STREAM_FRAMES, False, hint
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


def losses(said: Unrolled, batch: Batch) -> dict[str, torch.Tensor]:
    """The parts of the loss: `bce`, `dice` (where visible) and `score` (where the truth is known)."""
    logits = F.interpolate(said.logits.float(), size=batch.truth.shape[-2:], mode="bilinear", align_corners=False)
    truth = batch.truth
    area = truth.sum((2, 3))
    pixels = truth.shape[-1] * truth.shape[-2]
    where = batch.visible * batch.valid
    count = where.sum().clamp(min=1)
    raw = F.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=torch.tensor(POSITIVE_WEIGHT, device=truth.device), reduction="none"
    ).sum((2, 3))
    # Normalised by the object's size, not the frame's, so that small objects weigh as much as large ones.
    bce = raw / (POSITIVE_WEIGHT * area + 0.05 * pixels)
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
