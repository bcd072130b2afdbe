"""Frames and box prompts -> masks: SAM 2 as a stream.

`VideoSegmenter` takes one frame at a time and holds memory for live objects only, whatever the length of the video.
It computes what `SAM2VideoPredictor` computes (same weights, same memories read), but all objects in one batch, and
it frees what no later frame can read. How SAM 2 reads its memory: Ravi et al. 2024, "SAM 2: Segment Anything in
Images and Videos", and `sam2/modeling/sam2_base.py`. What is equal to what, and what it costs: `docs/engine.md`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from flows.batches import Batches
from flows.carried import CarriedBox
from flows.config import SegmentSettings
from flows.lighter import compile_steps
from flows.memory import Entry, Features, Memory, Reads, Sight, StreamingPredictor, box_logits, box_points
from flows.models import build_segmenter, resolve
from flows.onednn import use_onednn
from flows.optical import Grey, moved, shifted
from flows.outcome import Outcome, Segment
from flows.prepare import Preparer
from flows.schema import FloatArray, ImageArray

# SAM 2 normalises pointer ages by min(frames, 16) - 1; in a stream the number of frames is unknown and large.
_ENDLESS = 1 << 30
# SAM 2's width; the nano segmenter's is 64.
_WIDE = 256
# What a CPU's cache holds: ten objects in threes take a sixth less time than at once.
_WIDE_BATCH = 3
# A frame of a narrow model is too little work to share, up to here: cores that split its every product mostly wait for
# each other. One that encodes ahead beside one that carries five objects gives half as many frames again.
_ALONE_SIZE_PX = 256
# SAM 2 holds the logits a correction starts from to this range, "to avoid rare numerical issues".
_LOGIT_RANGE = 32.0


@dataclass(frozen=True)
class _Seen:
    """An encoded frame, as flow sees it where the weights start from boxes, and itself where they refine masks.

    `size_px` are its width and height, `frames` is how many frames of video before it the one before was.
    """

    index: int
    features: Features
    size_px: tuple[int, int]
    grey: Grey | None
    image_rgb: ImageArray | None
    frames: int


class VideoSegmenter:
    """SAM 2 over a stream of frames of one size.

    Push frames in order; prompt objects on the newest one; drop them when they are done. Everything is kept per live
    object, plus the encoded frames since the last `forget_frames`, over which new objects are carried backwards, and
    where the weights bring a refiner the very arrays that were pushed, which must not be written to until then.

    Args:
        model: A `StreamingPredictor` in eval mode.
        settings: `max_cond_frames`, `max_back_frames`, `batch` and `precision` are used here.
        height_px, width_px: Size of the frames and of all boxes and masks.

    Attributes:
        frames: Prepares frames; run `frames.ahead` in a thread, and `push` finds the work done.
        threads: How many torch should use in a thread that runs the segmenter; None: as many as it takes.
    """

    def __init__(self, model: StreamingPredictor, settings: SegmentSettings, height_px: int, width_px: int) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._height_px, self._width_px = height_px, width_px
        self._max_conditioning = settings.max_cond_frames
        self._horizon = model.horizon(settings.max_cond_frames)
        wide_on_cpu = self._device.type == "cpu" and model.hidden_dim >= _WIDE
        self._batches = Batches(
            min(settings.batch, _WIDE_BATCH) if wide_on_cpu else settings.batch,
            f"the segmenter does not fit the memory of {self._device} even for one object; "
            "use a smaller model or --segmenter-size, or give the actor more of the GPU",
            filled=settings.compile,
        )
        half = settings.precision == "bf16" or (
            settings.precision == "auto" and self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        # Made anew each time: one remembers what it replaced, and frames may be encoded by another thread.
        self._autocast = partial(torch.autocast, self._device.type, torch.bfloat16, enabled=half)
        alone = self._device.type == "cpu" and model.hidden_dim < _WIDE and model.image_size <= _ALONE_SIZE_PX
        self.threads = 1 if alone else None
        # Not where frames are left out, and not where steps are compiled: torch compiles in one thread at a time.
        encode_ahead = alone and settings.segment_every == 1 and not settings.compile
        self.frames = Preparer(model, self._batches, self._autocast, encode_ahead=encode_ahead)
        self._memories: dict[int, Memory] = {}
        self._encoded: deque[_Seen] = deque(maxlen=1 + settings.max_back_frames)
        self._index = -1
        self.counters = {"segmented_frames": 0, "prompts": 0, "rejected_masks": 0, "back_frames": 0}
        self._outcome = Outcome(model.refiner, height_px, width_px, self.counters)

    @property
    def object_ids(self) -> list[int]:
        """Ids of live objects, in order of their first prompt."""
        return list(self._memories)

    @property
    def starts_from_boxes(self) -> bool:
        """Whether the weights start every frame from a box that flow carries along (box hints)."""
        return self._model.box_hints

    @torch.inference_mode()
    def push(self, image_rgb: ImageArray, frames: int = 1) -> dict[int, Segment]:
        """Take the next frame, and carry every live object onto it.

        Args:
            image_rgb: (height, width, 3) uint8.
            frames: How many frames of video ago the one before was.
        """
        self._index += 1
        for memory in self._memories.values():
            memory.free(self._horizon, self._index)
        features, grey = self.frames.take(image_rgb)
        kept = image_rgb if self._model.refiner else None
        seen = _Seen(self._index, features, (self._width_px, self._height_px), grey, kept, frames)
        if self._encoded:
            _carry_boxes(self._encoded[-1], seen, frames, self._memories)
        self._encoded.append(seen)
        self.counters["segmented_frames"] += 1
        return self._propagate(seen, self._memories)

    @torch.inference_mode()
    def prompt(self, boxes_xyxy: Mapping[int, FloatArray]) -> dict[int, Segment]:
        """Start objects from boxes on the newest frame, or show known ones afresh.

        The mask comes from box and image alone; the frame joins the prompted frames the object remembers. To make a
        known object forget what it was, drop it first.

        Args:
            boxes_xyxy: Object id -> (4,) pixels of the full frame.
        """
        memories = {i: self._memories.get(i) or Memory(CarriedBox(box)) for i, box in boxes_xyxy.items()}
        for i, memory in memories.items():
            memory.box.show(boxes_xyxy[i])
        found = self._step_all(self._encoded[-1], memories, dict.fromkeys(memories), boxes_xyxy=boxes_xyxy)
        self._memories.update(memories)
        self.counters["prompts"] += len(memories)
        return found

    @torch.inference_mode()
    def correct(self, boxes_xyxy: Mapping[int, FloatArray]) -> dict[int, Segment]:
        """Correct live objects by boxes on the newest frame, given what they remember and their mask there.

        SAM 2 keeps a correction as an ordinary frame, so it ages out of memory, unlike a prompt. On the very frame of
        its prompt an object remembers nothing else that counts, and the prompt is replaced.
        """
        memories = {i: self._memories[i] for i in boxes_xyxy}
        reads = {i: None if self._index in m.conditioning else self._reads(m, self._index) for i, m in memories.items()}
        for i, memory in memories.items():
            memory.box.show(boxes_xyxy[i])
        found = self._step_all(self._encoded[-1], memories, reads, boxes_xyxy=boxes_xyxy, from_mask=True)
        self.counters["prompts"] += len(memories)
        return found

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
        shown = {i: self._memories[i] for i in object_ids}
        memories = {
            i: Memory(CarriedBox(m.box.xyxy, refined=m.box.refined), dict(m.conditioning), look=m.look)
            for i, m in shown.items()
        }
        for after, seen in pairwise(list(self._encoded)[::-1]):
            memories = {i: memory for i, memory in memories.items() if i in object_ids}
            if not memories:
                return
            for memory in memories.values():
                memory.free(self._horizon, seen.index, reverse=True)
            _carry_boxes(after, seen, after.frames, memories)
            self.counters["back_frames"] += 1
            yield self._propagate(seen, memories, reverse=True)

    def _reads(self, memory: Memory, index: int, *, reverse: bool = False) -> Reads:
        return self._model.reads(memory, index, self._max_conditioning, reverse=reverse)

    def _propagate(self, seen: _Seen, memories: Mapping[int, Memory], *, reverse: bool = False) -> dict[int, Segment]:
        reads = {i: self._reads(memory, seen.index, reverse=reverse) for i, memory in memories.items()}
        boxes_xyxy = {i: m.box.xyxy for i, m in memories.items()} if self.starts_from_boxes else None
        return self._step_all(seen, memories, reads, boxes_xyxy=boxes_xyxy, reverse=reverse)

    def _step_all(
        self,
        seen: _Seen,
        memories: Mapping[int, Memory],
        reads: Mapping[int, Reads | None],
        *,
        boxes_xyxy: Mapping[int, FloatArray] | None = None,
        from_mask: bool = False,
        reverse: bool = False,
    ) -> dict[int, Segment]:
        """One step of SAM 2 for each object, those that can share a batch together, and remember what came out.

        Args:
            seen: The frame.
            memories: Of the objects, by id.
            reads: What each reads of its memory; None for a prompt from the image alone, which is remembered as one.
            boxes_xyxy: Boxes to show the decoder, where there are any.
            from_mask: Whether the boxes correct the object's mask on this frame.
            reverse: Whether time runs backwards.
        """
        self._encode(entry for r in reads.values() if r for _, entry in r.spatial)
        signatures = {i: r.signature if r else () for i, r in reads.items()}

        def step(part: Sequence[int]) -> dict[str, Any]:
            read = [r for i in part if (r := reads[i]) is not None]
            boxes = self._scaled([boxes_xyxy[i] for i in part]) if boxes_xyxy else None
            shown = [memories[i].logits for i in part] if from_mask else []
            with self._autocast():
                return self._model.track_step(
                    frame_idx=seen.index,
                    is_init_cond_frame=not read,
                    **seen.features.repeated(len(part)),
                    point_inputs=None if boxes is None else box_points(boxes),
                    mask_inputs=None,
                    output_dict=read,
                    num_frames=_ENDLESS,
                    track_in_reverse=reverse,
                    run_mem_encoder=False,
                    prev_sam_mask_logits=self._starting(boxes, shown),
                )

        found: dict[int, Segment] = {}
        ordered = sorted(memories, key=lambda i: (signatures[i], i))
        for _, group in groupby(ordered, key=lambda i: signatures[i]):
            for part, out in self._batches.run(list(group), step):
                prompted = reads[part[0]] is None
                shown = prompted or from_mask
                segments = self._remember([memories[i] for i in part], out, seen, prompted=prompted, shown=shown)
                found.update(zip(part, segments, strict=True))
        return {object_id: found[object_id] for object_id in memories}

    def _encode(self, entries: Iterable[Entry]) -> None:
        """Make spatial memory of what is about to be read for the first time, frame by frame and in batches."""
        groups: dict[tuple[int, bool], list[tuple[Sight, Entry]]] = {}
        for entry in entries:
            if entry.features is None:
                assert entry.sight is not None, "what can still be read was freed"
                groups.setdefault((id(entry.sight.frame), entry.sight.from_points), []).append((entry.sight, entry))

        def step(part: Sequence[tuple[Sight, Entry]]) -> torch.Tensor:
            with self._autocast():
                return self._model.remember([sight for sight, _ in part])

        for group in groups.values():
            for part, features in self._batches.run(group, step):
                for row, (_, entry) in enumerate(part):
                    # A clone: a slice would keep the whole batch alive as long as one object remembers it.
                    entry.features, entry.sight = features[row : row + 1].clone(), None

    def _starting(self, boxes_xyxy: torch.Tensor | None, shown: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """The mask logits a step starts from: the filled boxes for weights that want them, else what is corrected."""
        if boxes_xyxy is not None and self.starts_from_boxes:
            return box_logits(boxes_xyxy, self._model.image_size)
        logits = [one for one in shown if one is not None]
        return torch.cat(logits).clamp(-_LOGIT_RANGE, _LOGIT_RANGE) if logits else None

    def _scaled(self, boxes_xyxy: Sequence[FloatArray]) -> torch.Tensor:
        """Boxes in pixels of the model's input, (N, 4) on its device."""
        size_px = torch.tensor([self._width_px, self._height_px] * 2)
        boxes = torch.from_numpy(np.stack(boxes_xyxy).astype(np.float32))
        return (boxes / size_px * self._model.image_size).to(self._device)

    def _remember(
        self, memories: Sequence[Memory], out: dict[str, Any], seen: _Seen, *, prompted: bool, shown: bool
    ) -> list[Segment]:
        """Keep what a step left of these objects, and read what it says."""
        from_points = out["point_inputs"] is not None
        for row, memory in enumerate(memories):
            # Clones: a slice would keep the whole batch alive as long as one object remembers it.
            one = slice(row, row + 1)
            memory.logits = out["pred_masks"][one].clone()
            memory.recent.pop(seen.index, None)
            into = memory.conditioning if prompted else memory.recent
            sight = Sight(seen.features, memory.logits, out["object_score_logits"][one].clone(), from_points)
            into[seen.index] = Entry(out["obj_ptr"][one].clone(), sight)
        return self._outcome.segments(memories, out, seen.image_rgb, shown=shown)


def _carry_boxes(before: _Seen, after: _Seen, frames: int, memories: Mapping[int, Memory]) -> None:
    """Move the boxes that objects start from along with the picture."""
    if before.grey is None or after.grey is None or not memories:
        return
    boxes = [memory.box for memory in memories.values()]
    flown = moved(before.grey, after.grey, np.stack([box.xyxy for box in boxes]), frames)
    shift_px = shifted(before.grey, after.grey)
    for box, there in zip(boxes, flown, strict=True):
        box.carry(there, after.size_px, shift_px, frames)


def load_segmenter(settings: SegmentSettings, device: str) -> StreamingPredictor:
    """Load the segmenter that settings name.

    Raises:
        ModelError: Unknown name, missing or damaged weights.
    """
    resolved = resolve(settings.segmenter, "segmenter")
    model: Any = build_segmenter(resolved, settings.image_size, device, target="flows.memory.StreamingPredictor")
    if settings.compile:
        compile_steps(model)
    elif device == "cpu" and settings.batch > 1 and settings.precision != "bf16":
        use_onednn(model)
    return model
