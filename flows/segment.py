"""Frames and box prompts -> masks: SAM 2 as a stream.

`VideoSegmenter` takes one frame at a time and holds memory for live objects only, whatever the length of the video.
It computes what `SAM2VideoPredictor` computes (same weights, same memories read), but all objects in one batch, and
it frees what no later frame can read. How SAM 2 reads its memory: Ravi et al. 2024, "SAM 2: Segment Anything in
Images and Videos", and `sam2/modeling/sam2_base.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_utils import get_1d_sine_pe
from sam2.sam2_video_predictor import SAM2VideoPredictor

from flows.config import SegmentSettings
from flows.errors import OutOfMemoryError
from flows.models import build_segmenter, resolve
from flows.schema import BoolArray, FloatArray, ImageArray, Mask

_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
# SAM 2 normalises pointer ages by min(frames, 16) - 1; in a stream the number of frames is unknown and large.
_ENDLESS = 1 << 30
# A mask over (nearly) the whole frame is what SAM 2 returns for an object it has lost, never an object.
_WHOLE_FRAME = 0.9
# Pieces smaller than this share of a mask's largest piece are specks, not an object cut in two by a pole.
_SPECK = 0.2


@dataclass(frozen=True)
class Segment:
    """One object on one frame.

    `mask` is None where the object is not visible: object score not positive, empty, all-true or not finite.
    `box_xyxy` is the mask's extent, (4,) float32 pixels; `object_score` a logit; `pointer` SAM 2's object pointer,
    (C,) float32, its appearance.
    """

    object_score: float
    mask: Mask | None
    pointer: FloatArray

    @property
    def box_xyxy(self) -> FloatArray:
        """Extent of the mask; only visible objects have one."""
        assert self.mask is not None
        height, width = self.mask.crop.shape
        x, y = self.mask.x_px, self.mask.y_px
        return np.array([x, y, x + width, y + height], dtype=np.float32)


@dataclass
class _Entry:
    """What one frame left in an object's memory: spatial features (1, C, h, w) and pointer (1, C)."""

    features: torch.Tensor | None
    pointer: torch.Tensor


@dataclass
class _Memory:
    """One object's memory: prompted (conditioning) frames and recent ones, by frame index."""

    conditioning: dict[int, _Entry] = field(default_factory=dict)
    recent: dict[int, _Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reads:
    """What one object reads on one frame: (temporal position, entry) and (age in frames, entry)."""

    spatial: list[tuple[int, _Entry]]
    pointers: list[tuple[int, _Entry]]

    @property
    def signature(self) -> tuple[tuple[int, ...], int]:
        """Objects of equal signature can share a batch: same temporal positions, same number of pointers."""
        return tuple(position for position, _ in self.spatial), len(self.pointers)


class StreamingPredictor(SAM2VideoPredictor):
    """SAM 2 whose memory attention takes a batch of objects prompted at different times.

    The only step that is its own is the assembly of memory: the package builds it for objects of one age, here each
    object brings the `_Reads` of its own past. Everything else is inherited.
    """

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

    def _assemble_memory(self, batch: Sequence[_Reads], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Memory tokens (L, B, mem_dim), their positions (same shape) and how many of them are pointers."""
        tokens, positions = [], []
        for slot, (position, _) in enumerate(batch[0].spatial):
            features = torch.cat([reads.spatial[slot][1].features for reads in batch])
            tokens.append(features.flatten(2).permute(2, 0, 1).to(dtype))
            spatial = self.memory_position(features)
            temporal = self.maskmem_tpos_enc[self.num_maskmem - position - 1]
            positions.append((spatial.flatten(2).permute(2, 0, 1) + temporal).expand(-1, len(batch), -1))
        if not self.use_obj_ptrs_in_encoder or not batch[0].pointers:
            return torch.cat(tokens), torch.cat(positions), 0
        pointers = torch.stack([torch.cat([entry.pointer for _, entry in r.pointers]) for r in batch], dim=1)
        age = torch.tensor([[a for a, _ in r.pointers] for r in batch], device=pointers.device).T
        # Ages differ within the batch, so each object's pointers get their own temporal encoding.
        if self.add_tpos_enc_to_obj_ptrs:
            width = self.hidden_dim if self.proj_tpos_enc_in_obj_ptrs else self.mem_dim
            encoded = get_1d_sine_pe(age.flatten() / (self.max_obj_ptrs_in_encoder - 1), dim=width)
            position = self.obj_ptr_tpos_proj(encoded.to(pointers.dtype)).view(*age.shape, self.mem_dim)
        else:
            position = pointers.new_zeros(*age.shape, self.mem_dim)
        split = self.hidden_dim // self.mem_dim
        if split > 1:
            n, b, _ = pointers.shape
            pointers = pointers.reshape(n, b, split, self.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
            position = position.repeat_interleave(split, dim=0)
        tokens.append(pointers.to(dtype))
        positions.append(position)
        return torch.cat(tokens), torch.cat(positions), pointers.shape[0]

    def memory_position(self, features: torch.Tensor) -> torch.Tensor:
        """Spatial positional encoding of a memory, (1, mem_dim, h, w); it does not depend on the content."""
        return self.memory_encoder.position_encoding(features[:1].float())


class VideoSegmenter:
    """SAM 2 over a stream of frames of one size.

    Push frames in order; prompt objects on the newest one; drop them when they are done. Everything is kept per live
    object, plus the encoded frames since the last `forget_before`, over which new objects are carried backwards.

    Args:
        model: A `StreamingPredictor` in eval mode.
        settings: `max_cond_frames` and `batch` are used here.
        height_px, width_px: Size of the frames and of all boxes and masks.
    """

    def __init__(self, model: StreamingPredictor, settings: SegmentSettings, height_px: int, width_px: int) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._height_px, self._width_px = height_px, width_px
        self._max_conditioning = settings.max_cond_frames
        self._batch = settings.batch
        half = settings.precision == "bf16" or (
            settings.precision == "auto" and self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=half)
        self._memories: dict[int, _Memory] = {}
        self._encoded: deque[tuple[int, dict[str, Any]]] = deque()
        self._index = -1
        self.counters = {"segmented_frames": 0, "prompts": 0, "rejected_masks": 0, "back_frames": 0}

    @property
    def object_ids(self) -> list[int]:
        """Ids of live objects, in order of their first prompt."""
        return list(self._memories)

    @torch.inference_mode()
    def push(self, image_rgb: ImageArray) -> dict[int, Segment]:
        """Take the next frame, (height, width, 3) uint8, and carry every live object onto it."""
        self._index += 1
        with self._autocast:
            self._encoded.append((self._index, self._encode(image_rgb)))
        self.counters["segmented_frames"] += 1
        found = self._propagate(self._index, self._encoded[-1][1], self._memories, reverse=False)
        self._free()
        return found

    @torch.inference_mode()
    def prompt(self, boxes_xyxy: Mapping[int, FloatArray]) -> dict[int, Segment]:
        """Start objects from boxes on the newest frame, or show known ones afresh.

        The mask comes from box and image alone; the frame joins the prompted frames the object remembers. To make a
        known object forget what it was, drop it first.

        Args:
            boxes_xyxy: Object id -> (4,) pixels of the full frame.
        """
        memories = {object_id: self._memories.get(object_id, _Memory()) for object_id in boxes_xyxy}
        found = self._prompt(boxes_xyxy, memories, fresh=True)
        self._memories.update(memories)
        return found

    @torch.inference_mode()
    def correct(self, boxes_xyxy: Mapping[int, FloatArray]) -> dict[int, Segment]:
        """Correct live objects by boxes on the newest frame, given what they remember.

        SAM 2 keeps a correction as an ordinary frame, so it ages out of memory, unlike a prompt.
        """
        return self._prompt(boxes_xyxy, self._memories, fresh=False)

    def drop(self, object_ids: Iterable[int]) -> None:
        """Forget objects."""
        for object_id in object_ids:
            self._memories.pop(object_id, None)

    def forget_frames(self) -> None:
        """Forget all frames but the newest: nothing will be carried back beyond it."""
        while len(self._encoded) > 1:
            self._encoded.popleft()

    @torch.inference_mode()
    def carry_back(self, object_ids: set[int]) -> Iterator[dict[int, Segment]]:
        """Carry objects prompted on the newest frame backwards, one remembered frame at a time, newest first.

        The caller takes ids out of `object_ids` between steps to stop them; with none left it ends. The objects'
        forward memory is untouched.
        """
        memories = {i: _Memory(conditioning=dict(self._memories[i].conditioning)) for i in object_ids}
        for index, features in list(self._encoded)[-2::-1]:
            memories = {i: memory for i, memory in memories.items() if i in object_ids}
            if not memories:
                return
            self.counters["back_frames"] += 1
            yield self._propagate(index, features, memories, reverse=True)

    def _encode(self, image_rgb: ImageArray) -> dict[str, Any]:
        """Image features of one frame, normalised as SAM 2 was trained."""
        size = self._model.image_size
        # Area averaging when shrinking: what a small object looks like must not depend on which pixels were hit.
        resized = cv2.resize(image_rgb, (size, size), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(resized).to(self._device).permute(2, 0, 1).float() / 255
        image = (image - _MEAN.to(self._device)) / _STD.to(self._device)
        return self._model.forward_image(image[None])

    def _features(self, encoded: dict[str, Any], batch: int) -> dict[str, Any]:
        expanded = {
            "backbone_fpn": [level.expand(batch, -1, -1, -1) for level in encoded["backbone_fpn"]],
            "vision_pos_enc": [level.expand(batch, -1, -1, -1) for level in encoded["vision_pos_enc"]],
        }
        _, features, positions, sizes = self._model._prepare_backbone_features(expanded)
        return {
            "current_vision_feats": features,
            "current_vision_pos_embeds": positions,
            "feat_sizes": sizes,
        }

    def _propagate(
        self, index: int, encoded: dict[str, Any], memories: Mapping[int, _Memory], *, reverse: bool
    ) -> dict[int, Segment]:
        reads = {object_id: self._reads(memory, index, reverse) for object_id, memory in memories.items()}
        found: dict[int, Segment] = {}
        ordered = sorted(reads, key=lambda object_id: (reads[object_id].signature, object_id))
        for _, group in groupby(ordered, key=lambda object_id: reads[object_id].signature):
            ids = list(group)

            def step(part: list[int]) -> dict[str, Any]:
                return self._step(index, encoded, len(part), [reads[i] for i in part], reverse=reverse)

            for part, out in self._in_batches(ids, step):
                found.update(self._remember(part, out, [memories[i].recent for i in part], index))
        return {object_id: found[object_id] for object_id in memories}

    def _prompt(
        self, boxes_xyxy: Mapping[int, FloatArray], memories: Mapping[int, _Memory], *, fresh: bool
    ) -> dict[int, Segment]:
        found: dict[int, Segment] = {}
        index, encoded = self._encoded[-1]
        scale = self._model.image_size / np.array([self._width_px, self._height_px] * 2, dtype=np.float32)

        def step(part: list[int]) -> dict[str, Any]:
            corners = np.stack([np.asarray(boxes_xyxy[i], dtype=np.float32) * scale for i in part])
            points = {
                "point_coords": torch.from_numpy(corners.reshape(-1, 2, 2)).to(self._device),
                "point_labels": torch.tensor([[2, 3]] * len(part), dtype=torch.int32, device=self._device),
            }
            reads = [] if fresh else [self._reads(memories[i], index, False) for i in part]
            return self._step(index, encoded, len(part), reads, points=points)

        ids = list(boxes_xyxy)
        # Corrections read memory, so only objects of one signature share a batch; fresh prompts read none.
        signature = {i: () if fresh else self._reads(memories[i], index, False).signature for i in ids}
        for _, group in groupby(sorted(ids, key=lambda i: (signature[i], i)), key=lambda i: signature[i]):
            for part, out in self._in_batches(list(group), step):
                into = [memories[i].conditioning if fresh else memories[i].recent for i in part]
                found.update(self._remember(part, out, into, index))
        if fresh:
            for object_id in ids:
                memories[object_id].recent.pop(index, None)
        self.counters["prompts"] += len(ids)
        return {object_id: found[object_id] for object_id in ids}

    def _step(
        self,
        index: int,
        encoded: dict[str, Any],
        batch: int,
        reads: list[_Reads],
        *,
        points: dict[str, torch.Tensor] | None = None,
        reverse: bool = False,
    ) -> dict[str, Any]:
        with self._autocast:
            return self._model.track_step(
                frame_idx=index,
                is_init_cond_frame=not reads,
                **self._features(encoded, batch),
                point_inputs=points,
                mask_inputs=None,
                output_dict=reads,
                num_frames=_ENDLESS,
                track_in_reverse=reverse,
                run_mem_encoder=True,
            )

    def _in_batches(self, ids: list[int], step: Any) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Run a step over ids in batches, halving the batch when the device runs out of memory."""
        start = 0
        while start < len(ids):
            part = ids[start : start + self._batch]
            try:
                out = step(part)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if len(part) == 1:
                    raise OutOfMemoryError(
                        f"the segmenter does not fit the memory of {self._device} even for one object; "
                        "use a smaller model or --segmenter-size, or give the actor more of the GPU"
                    ) from error
                self._batch = len(part) // 2
                continue
            yield part, out
            start += len(part)

    def _remember(
        self, ids: list[int], out: dict[str, Any], into: list[dict[int, _Entry]], index: int
    ) -> dict[int, Segment]:
        # The package keeps spatial memory in bf16 whatever the arithmetic, and so must equal results.
        features = out["maskmem_features"].to(torch.bfloat16)
        pointers = out["obj_ptr"]
        logits = out["pred_masks"][:, 0].float().cpu().numpy()
        scores = out["object_score_logits"][:, 0].float().cpu().numpy()
        appearance = pointers.float().cpu().numpy()
        found = {}
        for row, object_id in enumerate(ids):
            # Clones: a slice would keep the whole batch alive as long as one object remembers it.
            into[row][index] = _Entry(features[row : row + 1].clone(), pointers[row : row + 1].clone())
            mask = self._mask(logits[row]) if scores[row] > 0 else None
            found[object_id] = Segment(float(scores[row]), mask, appearance[row])
        return found

    def _reads(self, memory: _Memory, index: int, reverse: bool) -> _Reads:
        """The memories SAM 2 reads on frame `index` (`sam2_base.py`, `_prepare_memory_conditioned_features`)."""
        model = self._model
        sign = -1 if reverse else 1
        nearest = sorted(memory.conditioning, key=lambda t: abs(index - t))
        selected = sorted(nearest[: self._max_conditioning])
        others = {t: memory.conditioning[t] for t in nearest[self._max_conditioning :]}
        spatial = [(0, memory.conditioning[t]) for t in selected]
        for position in range(1, model.num_maskmem):
            t = index - sign * (model.num_maskmem - position)
            entry = memory.recent.get(t) or others.get(t)
            if entry is not None and entry.features is not None:
                spatial.append((position, entry))
        ages = [(sign * (index - t), memory.conditioning[t]) for t in selected]
        if model.only_obj_ptrs_in_the_past_for_eval:
            ages = [(age, entry) for age, entry in ages if age >= 0]
        if not model.use_signed_tpos_enc_to_obj_ptrs:
            ages = [(abs(age), entry) for age, entry in ages]
        for age in range(1, model.max_obj_ptrs_in_encoder):
            entry = memory.recent.get(index - sign * age) or others.get(index - sign * age)
            if entry is not None:
                ages.append((age, entry))
        return _Reads(spatial, ages if model.use_obj_ptrs_in_encoder else [])

    def _free(self) -> None:
        """Free what no frame after the newest can read."""
        oldest_spatial = self._index - (self._model.num_maskmem - 2)
        oldest_pointer = self._index - (self._model.max_obj_ptrs_in_encoder - 2)
        for memory in self._memories.values():
            for t in [t for t in memory.recent if t < oldest_spatial]:
                memory.recent[t].features = None
            for t in [t for t in memory.recent if t < oldest_pointer]:
                del memory.recent[t]
            kept = sorted(memory.conditioning)[-(self._max_conditioning + 1) :]
            for t in [t for t in memory.conditioning if t not in kept and t < oldest_pointer]:
                del memory.conditioning[t]

    def _mask(self, logits: npt.NDArray[np.float32]) -> Mask | None:
        """The mask at full size from low-resolution logits (h, w), as a crop; None where it is no object's mask."""
        if not np.isfinite(logits).all():
            self.counters["rejected_masks"] += 1
            return None
        rows, columns = np.flatnonzero((logits > 0).any(axis=1)), np.flatnonzero((logits > 0).any(axis=0))
        if rows.size == 0:
            return None
        mask = _upsampled(logits, rows, columns, self._height_px, self._width_px)
        if mask is not None and mask.area_px > _WHOLE_FRAME * self._height_px * self._width_px:
            self.counters["rejected_masks"] += 1
            return None
        return mask


def _upsampled(
    logits: npt.NDArray[np.float32],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    height_px: int,
    width_px: int,
) -> Mask | None:
    """Bilinear upsampling (half-pixel centres, as SAM 2 does) of the part of the logits that can be positive."""
    height, width = logits.shape
    scale_y, scale_x = height / height_px, width / width_px
    # A full-size pixel is positive only within one low-resolution cell of a positive one.
    y0, y1 = max(int((rows[0] - 1) / scale_y), 0), min(int(np.ceil((rows[-1] + 2) / scale_y)), height_px)
    x0, x1 = max(int((columns[0] - 1) / scale_x), 0), min(int(np.ceil((columns[-1] + 2) / scale_x)), width_px)
    to_source = np.array(
        [[scale_x, 0, (x0 + 0.5) * scale_x - 0.5], [0, scale_y, (y0 + 0.5) * scale_y - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(logits, to_source, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = _without_specks(fine > 0)
    ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if ys.size == 0:
        return None
    crop = inside[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    return Mask(int(x0 + xs[0]), int(y0 + ys[0]), np.ascontiguousarray(crop))


def _without_specks(inside: BoolArray) -> BoolArray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    if count <= 2:
        return inside
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= _SPECK * areas.max())
    return np.isin(labels, kept)


def load_segmenter(settings: SegmentSettings, device: str) -> StreamingPredictor:
    """Load the segmenter that settings name.

    Raises:
        ModelError: Unknown name, missing or damaged weights.
    """
    resolved = resolve(settings.segmenter, "segmenter")
    return build_segmenter(resolved, settings.image_size, device, target="flows.segment.StreamingPredictor")
