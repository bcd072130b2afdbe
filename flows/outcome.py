"""What a step of SAM 2 says of objects -> segments: masks in the frame's pixels, corrected close up, or none."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flows.mask import Mask
from flows.memory import Memory
from flows.refine import MaskRefiner
from flows.schema import FloatArray, ImageArray
from flows.soft_mask import SoftMask, soft_mask

# A mask over (nearly) the whole frame is what SAM 2 returns for an object it has lost, never an object.
_WHOLE_FRAME = 0.9
# A refiner that sees an object is surer of its pixels than one that sees what hides it, by mean logits of 4 and of 1 on
# unseen scenes. The score takes this in.
_SURE_WEIGHT, _UNSURE = 2.0, 2.0


@dataclass(frozen=True)
class Segment:
    """One object on one frame.

    `mask` is None where the object is not visible: object score not positive, empty, all-true or not finite.
    `object_score` is a logit; `pointer` SAM 2's object pointer, (C,) float32, its appearance.
    """

    object_score: float
    mask: Mask | SoftMask | None
    pointer: FloatArray

    @property
    def box_xyxy(self) -> FloatArray:
        """Extent of the mask, (4,) float32 pixels; only visible objects have one."""
        assert self.mask is not None
        return self.mask.box_xyxy

    def within(self, box_xyxy: FloatArray) -> Segment:
        """The same with the part of its mask inside a box, (4,) pixels: the rest has leaked onto something else."""
        return self if self.mask is None else replace(self, mask=self.mask.within(box_xyxy))


class Outcome:
    """Reads what steps say on frames of one size.

    Args:
        refiner: Of the weights, None where they bring none.
        height_px, width_px: Size of the frames.
        counters: Where `rejected_masks` are counted.
    """

    def __init__(
        self, refiner: MaskRefiner | None, height_px: int, width_px: int, counters: MutableMapping[str, int]
    ) -> None:
        self._refiner = refiner
        self._height_px, self._width_px = height_px, width_px
        self._counters = counters

    def segments(
        self, memories: Sequence[Memory], out: dict[str, Any], image_rgb: ImageArray | None, *, shown: bool
    ) -> list[Segment]:
        """The segments of these objects; a refiner also moves the boxes they carry, and learns how they look.

        Args:
            memories: Of N objects.
            out: What `track_step` returned for them, and for more where a batch was filled up.
            image_rgb: The frame, which a refiner looks at.
            shown: Whether a box was just shown of each.
        """
        scores = out["object_score_logits"][:, 0].float().cpu().numpy().copy()  # memory keeps what SAM 2 said
        logits, pointers = out["pred_masks"][:, 0].float().cpu().numpy(), out["obj_ptr"].float().cpu().numpy()
        masks: list[SoftMask | None] = [
            self._mask(one) if score > 0 else None for one, score in zip(logits[: len(memories)], scores, strict=False)
        ]
        if image_rgb is not None and self._refiner is not None:
            self._refine(self._refiner, image_rgb, memories, logits, masks, scores, shown=shown)
        return [Segment(float(scores[row]), mask, pointers[row]) for row, mask in enumerate(masks)]

    def _refine(
        self,
        refiner: MaskRefiner,
        image_rgb: ImageArray,
        memories: Sequence[Memory],
        logits: FloatArray,
        masks: list[SoftMask | None],
        scores: FloatArray,
        *,
        shown: bool,
    ) -> None:
        """Look at the objects that have masks close up: correct those, their boxes unless just shown, and scores.

        A score takes in how sure the refiner is.
        """
        rows = [row for row, mask in enumerate(masks) if mask]
        if not rows:
            return
        there = [memories[row] for row in rows]
        boxes = [memory.box for memory in there]
        found = refiner.close_up(
            image_rgb, [b.xyxy for b in boxes], logits[rows], [m.look for m in there], [b.most for b in boxes]
        )
        for row, memory, one in zip(rows, there, found, strict=True):
            mask = self._accepted(one.mask)
            mask = mask and mask.within(memory.box.reach(one.box_xyxy))
            scores[row] += _SURE_WEIGHT * ((mask.sureness if mask else 0.0) - _UNSURE)
            masks[row] = mask if scores[row] > 0 else None
            if masks[row] is None:
                continue  # what was not found says neither what the object looks like nor where it is
            memory.box.refined = True
            if shown:
                memory.look = one.look.clone()  # a slice would keep the whole batch alive
            else:
                memory.box.xyxy = one.box_xyxy

    def _mask(self, logits: FloatArray) -> SoftMask | None:
        """The mask of an object, None where the logits are no object's."""
        if not np.isfinite(logits).all():
            self._counters["rejected_masks"] += 1
            return None
        return self._accepted(soft_mask(logits, self._height_px, self._width_px))

    def _accepted(self, mask: SoftMask | None) -> SoftMask | None:
        """The mask, if it can be an object's."""
        if mask and mask.area_px > _WHOLE_FRAME * self._height_px * self._width_px:
            self._counters["rejected_masks"] += 1
            return None
        return mask
