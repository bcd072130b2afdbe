"""What SAM 2 remembers of an object, and its predictor taught to read many such memories in one batch.

Nothing but the assembly of memory differs from the package; which frames are read on which frame follows
`sam2/modeling/sam2_base.py`, `_prepare_memory_conditioned_features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_utils import get_1d_sine_pe, select_closest_cond_frames
from sam2.sam2_video_predictor import SAM2VideoPredictor

from flows.carried import CarriedBox
from flows.lighter import lighten
from flows.refine import Look, MaskRefiner

# How SAM 2 names the two corners of a box among its points.
_CORNERS = [2, 3]


def box_logits(boxes_xyxy: torch.Tensor, size_px: int) -> torch.Tensor:
    """Boxes as mask logits, SAM 2's dense prompt: +10 inside, -10 outside, in between where an edge cuts a cell.

    Args:
        boxes_xyxy: (N, 4) in pixels of the model's input.
        size_px: Its side; a cell of SAM 2's low-resolution masks is four pixels wide.

    Returns:
        (N, 1, size / 4, size / 4) float32.
    """
    cells = torch.arange(size_px // 4, device=boxes_xyxy.device, dtype=torch.float32)
    low, high = boxes_xyxy[:, :2, None] / 4, boxes_xyxy[:, 2:, None] / 4
    covered = (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(0, 1)  # (N, 2, cells)
    return 20.0 * (covered[:, 1, :, None] * covered[:, 0, None, :])[:, None] - 10.0


def box_points(boxes_xyxy: torch.Tensor) -> dict[str, torch.Tensor]:
    """Boxes (N, 4), in pixels of the model's input, as SAM 2's decoder takes them: two labelled corners each."""
    labels = torch.tensor([_CORNERS] * len(boxes_xyxy), dtype=torch.int32, device=boxes_xyxy.device)
    return {"point_coords": boxes_xyxy.reshape(-1, 2, 2), "point_labels": labels}


@dataclass(frozen=True)
class Features:
    """One encoded frame: feature maps (1, C, h, w), the finest first, and the positions of the coarsest."""

    levels: tuple[torch.Tensor, ...]
    position: torch.Tensor

    def repeated(self, count: int) -> dict[str, Any]:
        """What `track_step` takes of the frame, for that many objects; nothing is copied."""
        flat = [x.expand(count, -1, -1, -1).flatten(2).permute(2, 0, 1) for x in (*self.levels, self.position)]
        return {
            "current_vision_feats": flat[:-1],
            # Only the coarsest level's are ever read; those of the others are four times its size, and more.
            "current_vision_pos_embeds": flat[-1:],
            "feat_sizes": [(x.shape[-2], x.shape[-1]) for x in self.levels],
        }


@dataclass(frozen=True)
class Sight:
    """An object as a frame showed it, for the memory encoder: mask logits (1, 1, h, w) and object score (1, 1)."""

    frame: Features
    logits: torch.Tensor
    score: torch.Tensor
    from_points: bool


@dataclass
class Entry:
    """What one frame left in an object's memory: a pointer (1, C) and, until it is too old, spatial features.

    Features, (1, C, h, w), are made of the sight when they are first read. By then it may have been corrected, or the
    object dropped.
    """

    pointer: torch.Tensor
    sight: Sight | None
    features: torch.Tensor | None = None

    def forget(self) -> None:
        """Keep the pointer alone."""
        self.sight = self.features = None


@dataclass
class Memory:
    """One object's memory: prompted (conditioning) frames and recent ones, by frame index.

    `box` is its box as last shown, and carried on by flow where the weights start from boxes; `logits` are those of its
    newest frame, (1, 1, h, w): what a correction starts from. `look` is what a refiner knows it by.
    """

    box: CarriedBox
    conditioning: dict[int, Entry] = field(default_factory=dict)
    recent: dict[int, Entry] = field(default_factory=dict)
    logits: torch.Tensor | None = None
    look: Look | None = None

    def free(self, horizon: Horizon, index: int, *, reverse: bool = False) -> None:
        """Free what neither frame `index` nor any beyond it, in the direction of tracking, can read."""
        sign = -1 if reverse else 1
        for t in [t for t in self.recent if sign * (index - t) > horizon.spatial]:
            self.recent[t].forget()
        for t in [t for t in self.recent if sign * (index - t) > horizon.pointer]:
            del self.recent[t]
        nearest = sorted(self.conditioning, key=lambda t: abs(index - t))
        for t in nearest[horizon.conditioning :]:
            if sign * (index - t) > horizon.pointer:
                del self.conditioning[t]


@dataclass(frozen=True)
class Horizon:
    """How far back a frame reads. Each bound is exact: one less, and results change.

    `spatial` and `pointer` are ages in frames, of recent frames and of those prompted ones that are not among the
    nearest `conditioning`, for they are read like recent ones.
    """

    spatial: int
    pointer: int
    conditioning: int


@dataclass(frozen=True)
class Reads:
    """What one object reads on one frame: (temporal position, entry) and (age in frames, entry)."""

    spatial: list[tuple[int, Entry]]
    pointers: list[tuple[int, Entry]]

    @property
    def signature(self) -> tuple[tuple[int, ...], int]:
        """Objects of equal signature can share a batch: same temporal positions, same number of pointers."""
        return tuple(position for position, _ in self.spatial), len(self.pointers)


class StreamingPredictor(SAM2VideoPredictor):
    """SAM 2 whose memory attention takes a batch of objects of one frame, prompted at different times.

    The only step that is its own is the assembly of memory: the package builds it for objects of one age, here each
    object brings the `Reads` of its own past. Everything else is inherited.
    """

    box_hints = False
    """Whether the weights expect a box to start from on every frame (see `models.build_segmenter`)."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.refiner: MaskRefiner | None = None  # of weights that bring one (see `models.build_segmenter`)
        lighten(self)

    def encode(self, image: torch.Tensor) -> Features:
        """Encode a prepared frame, (3, size, size)."""
        encoded = self.forward_image(image[None])
        return Features(tuple(encoded["backbone_fpn"][-self.num_feature_levels :]), encoded["vision_pos_enc"][-1])

    def remember(self, sights: Sequence[Sight]) -> torch.Tensor:
        """Spatial memory, (N, C, h, w), of objects on one frame, prompted alike."""
        frame = sights[0].frame.repeated(len(sights))
        logits = torch.cat([sight.logits for sight in sights]).float()
        features, _ = self._encode_new_memory(
            frame["current_vision_feats"],
            frame["feat_sizes"],
            F.interpolate(logits, size=(self.image_size, self.image_size), mode="bilinear", align_corners=False),
            torch.cat([sight.score for sight in sights]),
            is_mask_from_pts=sights[0].from_points,
        )
        # The package keeps it in bf16 whatever the arithmetic, and so must equal results.
        return features.to(torch.bfloat16)

    def horizon(self, max_conditioning: int) -> Horizon:
        """What of an object's past can still be read.

        One prompted frame more than is read: the package reads them in another order where none is left out, and
        sums in another order differ in their last bit.
        """
        return Horizon(self.num_maskmem - 1, self.max_obj_ptrs_in_encoder - 1, max_conditioning + 1)

    def _prepare_memory_conditioned_features(
        self,
        frame_idx: int,
        is_init_cond_frame: bool,
        current_vision_feats: list[torch.Tensor],
        current_vision_pos_embeds: list[torch.Tensor],
        feat_sizes: list[tuple[int, int]],
        output_dict: Any,
        num_frames: int,
        track_in_reverse: bool = False,
    ) -> torch.Tensor:
        if is_init_cond_frame or isinstance(output_dict, dict):
            return super()._prepare_memory_conditioned_features(
                frame_idx,
                is_init_cond_frame,
                current_vision_feats,
                current_vision_pos_embeds,
                feat_sizes,
                output_dict,
                num_frames,
                track_in_reverse,
            )
        memory, position, pointer_tokens = self._assemble_memory(output_dict, current_vision_feats[-1].dtype)
        fused = self.memory_attention(
            curr=current_vision_feats,
            curr_pos=current_vision_pos_embeds,
            memory=memory,
            memory_pos=position,
            num_obj_ptr_tokens=pointer_tokens,
        )
        height, width = feat_sizes[-1]
        return fused.permute(1, 2, 0).reshape(-1, self.hidden_dim, height, width)

    def _assemble_memory(self, batch: Sequence[Reads], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Memory tokens (L, B, mem_dim), their positions (same shape) and how many of them are pointers.

        They lie object by object, though the package's order is token by token: attention wants objects first, and
        would have to copy them.
        """
        tokens, positions = [], []
        for slot, (position, _) in enumerate(batch[0].spatial):
            features = torch.cat([reads.spatial[slot][1].features for reads in batch])
            tokens.append(features.flatten(2).transpose(1, 2).to(dtype))
            spatial = self.memory_encoder.position_encoding(features[:1])
            temporal = self.maskmem_tpos_enc[self.num_maskmem - position - 1]
            positions.append((spatial.flatten(2).transpose(1, 2) + temporal).expand(len(batch), -1, -1))
        pointer_tokens = 0
        if self.use_obj_ptrs_in_encoder and batch[0].pointers:
            pointers, position = self._pointers(batch)
            pointer_tokens = pointers.shape[1]
            tokens.append(pointers.to(dtype))
            positions.append(position)
        return torch.cat(tokens, 1).transpose(0, 1), torch.cat(positions, 1).transpose(0, 1), pointer_tokens

    def _pointers(self, batch: Sequence[Reads]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of object pointers (B, L, mem_dim) and their positions (same shape)."""
        pointers = torch.stack([torch.cat([entry.pointer for _, entry in r.pointers]) for r in batch])
        age = torch.tensor([[a for a, _ in r.pointers] for r in batch], device=pointers.device)
        # Ages differ within the batch, so each object's pointers get their own temporal encoding.
        if self.add_tpos_enc_to_obj_ptrs:
            width = self.hidden_dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
            encoded = get_1d_sine_pe(age.flatten() / (self.max_obj_ptrs_in_encoder - 1), dim=width)
            position = self.obj_ptr_tpos_proj(encoded.to(pointers.dtype)).view(*age.shape, self.mem_dim)
        else:
            position = pointers.new_zeros(*age.shape, self.mem_dim)
        # One pointer is as wide as several tokens of memory.
        split = self.hidden_dim // self.mem_dim
        return pointers.unflatten(2, (split, self.mem_dim)).flatten(1, 2), position.repeat_interleave(split, dim=1)

    def reads(self, memory: Memory, index: int, max_conditioning: int, *, reverse: bool = False) -> Reads:
        """The memories SAM 2 reads on frame `index` (`sam2_base.py`, `_prepare_memory_conditioned_features`)."""
        sign = -1 if reverse else 1
        selected, others = select_closest_cond_frames(index, memory.conditioning, max_conditioning)
        spatial = [(0, entry) for entry in selected.values()]
        for position in range(1, self.num_maskmem):
            t = index - sign * (self.num_maskmem - position)
            entry = memory.recent.get(t) or others.get(t)
            if entry is not None:
                spatial.append((position, entry))
        ages = [(sign * (index - t), entry) for t, entry in selected.items()]
        if self.only_obj_ptrs_in_the_past_for_eval:
            ages = [(age, entry) for age, entry in ages if age >= 0]
        if not self.use_signed_tpos_enc_to_obj_ptrs:
            ages = [(abs(age), entry) for age, entry in ages]
        for age in range(1, self.max_obj_ptrs_in_encoder):
            entry = memory.recent.get(index - sign * age) or others.get(index - sign * age)
            if entry is not None:
                ages.append((age, entry))
        return Reads(spatial, ages if self.use_obj_ptrs_in_encoder else [])
