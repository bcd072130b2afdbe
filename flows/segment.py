"""Frames and box prompts -> masks: SAM 2 as a stream.

`VideoSegmenter` takes one frame at a time and holds memory for live objects only, whatever the length of the video.
It computes what `SAM2VideoPredictor` computes (same weights, same memories read), but all objects in one batch, and
it frees what no later frame can read. How SAM 2 reads its memory: Ravi et al. 2024, "SAM 2: Segment Anything in
Images and Videos", and `sam2/modeling/sam2_base.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from flows.batches import Batches
from flows.config import SegmentSettings
from flows.masks import mask_from_logits
from flows.memory import Entry, Memory, Reads, StreamingPredictor
from flows.models import build_segmenter, resolve
from flows.schema import FloatArray, ImageArray, Mask

_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
# SAM 2 normalises pointer ages by min(frames, 16) - 1; in a stream the number of frames is unknown and large.
_ENDLESS = 1 << 30
# A mask over (nearly) the whole frame is what SAM 2 returns for an object it has lost, never an object.
_WHOLE_FRAME = 0.9


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

    def within(self, box_xyxy: FloatArray) -> Segment:
        """The same with the part of its mask inside a box, (4,) pixels: the rest has leaked onto something else."""
        return self if self.mask is None else replace(self, mask=self.mask.within(box_xyxy))


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
        self._batches = Batches(
            settings.batch,
            f"the segmenter does not fit the memory of {self._device} even for one object; "
            "use a smaller model or --segmenter-size, or give the actor more of the GPU",
        )
        half = settings.precision == "bf16" or (
            settings.precision == "auto" and self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=half)
        self._memories: dict[int, Memory] = {}
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
        memories = {object_id: self._memories.get(object_id, Memory()) for object_id in boxes_xyxy}
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
        memories = {i: Memory(conditioning=dict(self._memories[i].conditioning)) for i in object_ids}
        for index, features in list(self._encoded)[-2::-1]:
            memories = {i: memory for i, memory in memories.items() if i in object_ids}
            if not memories:
                return
            self.counters["back_frames"] += 1
            yield self._propagate(index, features, memories, reverse=True)

    def _encode(self, image_rgb: ImageArray) -> dict[str, Any]:
        """Image features of one frame."""
        return self._model.forward_image(self.prepare(image_rgb)[None].to(self._device))

    def prepare(self, image_rgb: ImageArray) -> torch.Tensor:
        """What SAM 2 sees of a frame: (3, size, size) float32, normalised as it was trained."""
        size = self._model.image_size
        # Area averaging when shrinking: what a small object looks like must not depend on which pixels were hit.
        resized = cv2.resize(image_rgb, (size, size), interpolation=cv2.INTER_AREA)
        return (torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - _MEAN) / _STD

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
        self, index: int, encoded: dict[str, Any], memories: Mapping[int, Memory], *, reverse: bool
    ) -> dict[int, Segment]:
        reads = {
            object_id: self._model.reads(memory, index, self._max_conditioning, reverse=reverse)
            for object_id, memory in memories.items()
        }
        found: dict[int, Segment] = {}
        ordered = sorted(reads, key=lambda object_id: (reads[object_id].signature, object_id))
        for _, group in groupby(ordered, key=lambda object_id: reads[object_id].signature):
            ids = list(group)

            def step(part: Sequence[int]) -> dict[str, Any]:
                return self._step(index, encoded, len(part), [reads[i] for i in part], reverse=reverse)

            for part, out in self._batches.run(ids, step):
                found.update(self._remember(part, out, [memories[i].recent for i in part], index))
        return {object_id: found[object_id] for object_id in memories}

    def _prompt(
        self, boxes_xyxy: Mapping[int, FloatArray], memories: Mapping[int, Memory], *, fresh: bool
    ) -> dict[int, Segment]:
        found: dict[int, Segment] = {}
        index, encoded = self._encoded[-1]
        scale = self._model.image_size / np.array([self._width_px, self._height_px] * 2, dtype=np.float32)

        def step(part: Sequence[int]) -> dict[str, Any]:
            corners = np.stack([np.asarray(boxes_xyxy[i], dtype=np.float32) * scale for i in part])
            points = {
                "point_coords": torch.from_numpy(corners.reshape(-1, 2, 2)).to(self._device),
                "point_labels": torch.tensor([[2, 3]] * len(part), dtype=torch.int32, device=self._device),
            }
            reads = [] if fresh else [self._model.reads(memories[i], index, self._max_conditioning) for i in part]
            return self._step(index, encoded, len(part), reads, points=points)

        ids = list(boxes_xyxy)
        # Corrections read memory, so only objects of one signature share a batch; fresh prompts read none.
        signature = {
            i: () if fresh else self._model.reads(memories[i], index, self._max_conditioning).signature for i in ids
        }
        for _, group in groupby(sorted(ids, key=lambda i: (signature[i], i)), key=lambda i: signature[i]):
            for part, out in self._batches.run(list(group), step):
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
        reads: list[Reads],
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

    def _remember(
        self, ids: Sequence[int], out: dict[str, Any], into: list[dict[int, Entry]], index: int
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
            into[row][index] = Entry(features[row : row + 1].clone(), pointers[row : row + 1].clone())
            mask = self._mask(logits[row]) if scores[row] > 0 else None
            found[object_id] = Segment(float(scores[row]), mask, appearance[row])
        return found

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
        """The mask of an object, None where the logits are no object's."""
        mask = mask_from_logits(logits, self._height_px, self._width_px) if np.isfinite(logits).all() else None
        whole = mask is not None and mask.area_px > _WHOLE_FRAME * self._height_px * self._width_px
        if whole or not np.isfinite(logits).all():
            self.counters["rejected_masks"] += 1
            return None
        return mask


def load_segmenter(settings: SegmentSettings, device: str) -> StreamingPredictor:
    """Load the segmenter that settings name.

    Raises:
        ModelError: Unknown name, missing or damaged weights.
    """
    resolved = resolve(settings.segmenter, "segmenter")
    return build_segmenter(resolved, settings.image_size, device, target="flows.memory.StreamingPredictor")
