"""Frames -> what SAM 2 and optical flow see of them, before they are asked for where a thread does it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import torch

from flows.batches import Batches
from flows.memory import Features, StreamingPredictor
from flows.optical import Grey
from flows.schema import Frame, ImageArray

_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


@dataclass(frozen=True)
class _Prepared:
    """A frame as SAM 2 takes it, (3, size, size), encoded or still to be, and as flow sees it for box hints."""

    pixels: torch.Tensor
    grey: Grey | None
    features: Features | None = None


class Preparer:
    """Prepares the frames of one segmenter.

    Args:
        model: What the frames are for.
        batches: Runs the model.
        autocast: Makes the context it runs in.
        encode_ahead: Whether `ahead` encodes frames as well.
    """

    def __init__(
        self,
        model: StreamingPredictor,
        batches: Batches,
        autocast: Callable[[], torch.autocast],
        *,
        encode_ahead: bool,
    ) -> None:
        self._model, self._batches, self._autocast = model, batches, autocast
        self._device = next(model.parameters()).device
        self._encode_ahead = encode_ahead
        self._waiting: deque[tuple[weakref.ref[ImageArray], _Prepared]] = deque()

    def ahead(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames, each prepared before it is handed on: run by a thread, `take` finds the work done."""
        for frame in frames:
            prepared = self._prepare(frame.image_rgb)
            if self._encode_ahead:
                prepared = replace(prepared, features=self._encode(prepared.pixels))
            # A frame that is never taken must not be kept alive for it.
            self._waiting.append((weakref.ref(frame.image_rgb), prepared))
            yield frame

    def take(self, image_rgb: ImageArray) -> tuple[Features, Grey | None]:
        """A frame, (height, width, 3) uint8, encoded, and as flow sees it where the weights start from boxes."""
        prepared = self._take_prepared(image_rgb)
        return prepared.features or self._encode(prepared.pixels), prepared.grey

    def pixels(self, image_rgb: ImageArray) -> torch.Tensor:
        """What SAM 2 sees of a frame: (3, size, size) float32 on its device, normalised as it was trained."""
        # Area averaging when shrinking: what a small object looks like must not depend on which pixels were hit.
        size = self._model.image_size
        resized = cv2.resize(image_rgb, (size, size), interpolation=cv2.INTER_AREA)
        return ((torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - _MEAN) / _STD).to(self._device)

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor) -> Features:
        with self._autocast():
            ((_, features),) = self._batches.run([pixels], lambda images: self._model.encode(images[0]))
        return features

    def _prepare(self, image_rgb: ImageArray) -> _Prepared:
        return _Prepared(self.pixels(image_rgb), Grey.of(image_rgb) if self._model.box_hints else None)

    def _take_prepared(self, image_rgb: ImageArray) -> _Prepared:
        while self._waiting:
            image, prepared = self._waiting.popleft()
            if image() is image_rgb:
                return prepared
        return self._prepare(image_rgb)
