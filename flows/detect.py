"""Frames -> detections on keyframes: ultralytics YOLO in any format it loads."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import supervision as sv

from flows.batches import Batches
from flows.config import DetectSettings
from flows.errors import ModelError, UnknownClassError
from flows.models import resolve
from flows.schema import DETECTIONS, Frame, ImageArray
from flows.threads import torch_threads

# ultralytics gives up suppressing doubles after two seconds and leaves the rest of a batch without detections, which a
# machine that stalls for a moment would lose. This long an image is no limit.
_PATIENCE_S = 86_400.0


class Detector:
    """A YOLO model.

    Calling it with images, each (height, width, 3) uint8 RGB, gives one `supervision.Detections` an image: `xyxy`
    (N, 4) float32 pixels of the image, `confidence` (N,), and class names in `data["class_name"]`.

    Args:
        settings: Which model, which classes, from which confidence on.
        device: `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        ModelError: The model is unknown, missing, or no detector.
        UnknownClassError: A class name that the model does not know.
    """

    def __init__(self, settings: DetectSettings, device: str) -> None:
        from ultralytics import YOLO
        from ultralytics.utils import LOGGER, nms

        LOGGER.setLevel(logging.WARNING)  # it greets with every model it loads
        if not isinstance(nms.non_max_suppression, partial):
            nms.non_max_suppression = partial(nms.non_max_suppression, max_time_img=_PATIENCE_S)
        self._settings = settings
        self._device = device
        path = resolve(settings.detector, "detector").path
        try:
            # An export folder does not say its task; ultralytics would guess it, with a warning.
            self._model = YOLO(path, task="detect", verbose=False)
            names = self._model.names
        except Exception as error:
            raise ModelError(f"{path}: not a detector ultralytics can load: {error}") from error
        self.class_names: dict[int, str] = dict(names)
        self._class_ids = _class_ids(self.class_names, settings.classes)
        # An exported model runs at the size and batch it was exported with.
        exported = Path(path).is_dir() or Path(path).suffix not in (".pt", ".yaml")
        self._batches = Batches(
            1 if exported else settings.batch,
            f"the detector does not fit the memory of {device} even for one frame; "
            "use a smaller model or give the actor more of the GPU",
        )
        self._image_size = settings.image_size or _trained_size(self._model)

    def adapted(self, settings: DetectSettings) -> Detector:
        """The same model with other classes and confidences.

        Raises:
            UnknownClassError: A class name that the model does not know.
        """
        other = copy(self)
        other._settings, other._class_ids = settings, _class_ids(self.class_names, settings.classes)
        return other

    def __call__(self, images_rgb: list[ImageArray]) -> list[sv.Detections]:
        return [found for _, part in self._batches.run(images_rgb, self._infer) for found in part]

    def _infer(self, images_rgb: Sequence[ImageArray]) -> list[sv.Detections]:
        # At its first prediction ultralytics lets torch take all cores but one, whatever this process was given.
        with torch_threads():
            results = self._model.predict(
                # ultralytics takes arrays as OpenCV does: BGR.
                [np.ascontiguousarray(image[..., ::-1]) for image in images_rgb],
                conf=self._settings.min_conf,
                iou=self._settings.nms_iou,
                classes=self._class_ids,
                device=self._device,
                verbose=False,
                **({"imgsz": self._image_size} if self._image_size else {}),
            )
        return [sv.Detections.from_ultralytics(result) for result in results]


def _class_ids(known: dict[int, str], wanted: tuple[str, ...]) -> list[int] | None:
    ids = {name: class_id for class_id, name in known.items()}
    for name in wanted:
        if name not in ids:
            close = difflib.get_close_matches(name, ids, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UnknownClassError(
                f"class {name!r} is unknown to the detector; {hint}it knows: {', '.join(sorted(ids))}"
            )
    return [ids[name] for name in wanted] or None


def _trained_size(model: object) -> int | None:
    """Input size (long side) a checkpoint was trained with; ultralytics would fall back to 640."""
    size = getattr(model, "overrides", {}).get("imgsz")
    return max(size) if isinstance(size, (list, tuple)) else size


def detect_frames(frames: Iterable[Frame], detector: Detector, batch: int) -> pa.Table:
    """Detections of every frame given, one row a frame (schema DETECTIONS)."""
    remaining = iter(frames)
    rows: list[dict[str, Any]] = []
    while part := list(islice(remaining, batch)):
        found = detector([frame.image_rgb for frame in part])
        rows.extend(_to_row(frame.pts_ns, detections) for frame, detections in zip(part, found, strict=True))
    return pa.Table.from_pylist(rows, schema=DETECTIONS)


def _to_row(pts_ns: int, detections: sv.Detections) -> dict[str, Any]:
    return {
        "pts_ns": pts_ns,
        "class_name": [str(name) for name in detections.data.get("class_name", ())],
        "confidence": [] if detections.confidence is None else detections.confidence.tolist(),
        "xyxy_px": detections.xyxy.ravel().tolist(),
    }


def from_table(table: pa.Table) -> dict[int, sv.Detections]:
    """Detections by keyframe (`pts_ns`) of a table of schema DETECTIONS."""
    return {
        row["pts_ns"]: sv.Detections(
            xyxy=np.array(row["xyxy_px"], dtype=np.float32).reshape(-1, 4),
            confidence=np.array(row["confidence"], dtype=np.float32),
            class_id=np.zeros(len(row["confidence"]), dtype=int),
            data={"class_name": np.array(row["class_name"], dtype=object)},
        )
        for row in table.to_pylist()
    }
