"""Boxes and masks with identities, as evaluation compares them: read from MOT files or from a store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import UsageError
from flows.mask import Mask
from flows.schema import BoolArray, Float64Array, FloatArray
from flows.store.base import Filter, Store
from flows.tracks import short_ids

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]

Masks = Mapping[int, Mapping[int, Mask]]
"""Masks by frame, then by identity."""


@dataclass(frozen=True)
class Annotations:
    """Boxes with identities, of ground truth or of a result: one row per object and frame.

    `frame` (n,) counts from 1, as MOT files do; `track_id` (n,) are whole numbers; `box_xyxy` (n, 4) float32
    is in pixels; `scored` (n,) is False where ground truth asks for nothing, all True by default. Rows are kept
    sorted by frame and id.
    """

    frame: IntArray
    track_id: IntArray
    box_xyxy: FloatArray
    scored: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        n = len(self.frame)
        if not len(self.scored):
            object.__setattr__(self, "scored", np.ones(n, dtype=bool))
        shapes = [a.shape for a in (self.frame, self.track_id, self.box_xyxy, self.scored)]
        if shapes != [(n,), (n,), (n, 4), (n,)]:
            got = ", ".join(map(str, shapes))
            raise ValueError(f"expected frame (n,), track_id (n,), box_xyxy (n, 4), scored (n,), got {got}")
        if not np.isfinite(self.box_xyxy).all():
            raise ValueError("box_xyxy holds values that are not finite")
        order = np.lexsort((self.track_id, self.frame))
        for name in ("frame", "track_id", "box_xyxy", "scored"):
            object.__setattr__(self, name, getattr(self, name)[order])
        twice = (np.diff(self.frame) == 0) & (np.diff(self.track_id) == 0)
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            raise ValueError(f"id {self.track_id[row]} stands twice in frame {self.frame[row]}")

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, rows: BoolArray) -> Annotations:
        """Some of the rows, (n,)."""
        return Annotations(self.frame[rows], self.track_id[rows], self.box_xyxy[rows], self.scored[rows])


def read_mot(
    path: Path, *, ground_truth: bool = False, unscored: bool = False, classes: Iterable[int] = ()
) -> Annotations:
    """Read a MOT challenge file: `frame, id, x, y, w, h, conf, ...`, boxes in pixels, frames from 1.

    Args:
        path: Text file, one comma-separated row per box.
        ground_truth: Leave out rows whose 7th column is 0, which mark what is not to be scored, as MOT15 does.
        unscored: Keep them, marked, so that finding such an object is no false alarm (`evaluate`).
        classes: Keep only these values of the 8th column (MOT16 and later); empty keeps all.

    Raises:
        UsageError: The file is missing or is no such file.
    """
    table = mot_table(path)
    if classes and table.shape[1] < 8:
        raise UsageError(f"{path}: expected at least 8 columns, got {table.shape[1]}")
    if ground_truth and not unscored:
        table = table[table[:, 6] != 0]
    if classes:
        table = table[np.isin(table[:, 7], list(classes))]
    box_xyxy = np.hstack([table[:, 2:4], table[:, 2:4] + table[:, 4:6]]).astype(np.float32)
    scored = (table[:, 6] != 0) | (not unscored)
    try:
        return Annotations(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), box_xyxy, scored)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def mot_table(path: Path) -> Float64Array:
    """The numbers of a MOT file, (n, at least 7).

    Raises:
        UsageError: The file is missing or is no such file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
        rows = [[float(cell) for cell in line.split(",")] for line in lines]
        table = np.array(rows, dtype=np.float64) if rows else np.zeros((0, 10))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected MOT rows `frame,id,x,y,w,h,conf,...`: {error}") from error
    if table.shape[1] < 7:
        raise UsageError(f"{path}: expected at least 7 columns, got {table.shape[1]}")
    return table


def from_store(store: Store, video_id: str, class_names: Sequence[str] = ()) -> Annotations:
    """Tracks of one video from a store, in MOT's frame numbers (from 1) and with the numbers of `tracks.short_ids`.

    Raises:
        UsageError: The store holds no tracks of this video.
    """
    rows = _read(store, video_id, class_names, ["x1_px", "y1_px", "x2_px", "y2_px"])
    frame, track_id = np.array(list(rows), dtype=np.int64).T
    return Annotations(frame, track_id, np.array(list(rows.values()), dtype=np.float32))


def masks_from_store(store: Store, video_id: str, class_names: Sequence[str] = ()) -> dict[int, dict[int, Mask]]:
    """Masks of one video, under the same frames and ids as `from_store` gives them; empty where none are stored.

    Raises:
        UsageError: The store holds no tracks of this video.
    """
    masks: dict[int, dict[int, Mask]] = {}
    for (frame, track_id), (data,) in _read(store, video_id, class_names, ["mask"]).items():
        if data is not None:
            masks.setdefault(frame, {})[track_id] = Mask.from_bytes(data)
    return masks


def _read(
    store: Store, video_id: str, class_names: Sequence[str], columns: list[str]
) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Values of these columns by (frame from 1, short id)."""
    numbers = short_ids(store, video_id)
    rows: dict[tuple[int, int], tuple[Any, ...]] = {}
    n_rows = 0
    where = Filter(video_id=video_id, class_names=tuple(class_names))
    names = ["frame", "track_id", *columns]
    for batch in store.observations(where, names):
        n_rows += batch.num_rows
        for frame, track_id, *values in zip(*(batch[name].to_pylist() for name in names), strict=True):
            # Where frames of a video with variable frame rate share a nominal number, the last of them stands for it.
            rows[frame + 1, numbers[track_id]] = tuple(values)
    if not rows:
        classes = f" and {', '.join(class_names)}" if class_names else ""
        raise UsageError(f"{store.url}: no tracks of video {video_id}{classes}")
    if n_rows > len(rows):
        logger.warning("video %s: %d observations share a frame number with a later one", video_id, n_rows - len(rows))
    return rows
