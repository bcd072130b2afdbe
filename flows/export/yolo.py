"""A YOLO dataset: the pictures of keyframes, and the tracked boxes on them as labels.

Source: https://docs.ultralytics.com/datasets/detect/. Tracks label what the detector missed on a keyframe as well,
which is what makes them worth training on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from flows.export.selection import BOX, Selection
from flows.schema import NS, State

_VAL_SHARE = 0.2
"""The last part of each video, kept for validation: frames beside each other are nearly the same picture."""

_JPEG_QUALITY = 95  # what ultralytics itself writes


def write_yolo(selection: Selection, folder: Path) -> int:
    """A folder with `data.yaml`, `images/` and `labels/`, each with `train` and `val`.

    Keyframes are frames on which the detector saw one of the chosen objects. Hidden objects are no labels: a box on
    what cannot be seen teaches to see what is not there.
    """
    names: dict[str, int] = {}
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    n_rows = sum(_write_video(selection, video, folder, names) for video in selection.videos())
    val = "val" if any((folder / "images" / "val").iterdir()) else "train"
    # Without `path`, ultralytics takes the folder the file lies in.
    data = {"train": "images/train", "val": f"images/{val}", "names": {number: name for name, number in names.items()}}
    (folder / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return n_rows


def _write_video(selection: Selection, video: dict[str, Any], folder: Path, names: dict[str, int]) -> int:
    import cv2

    from flows.render import picked_frames

    labelled = _keyframes(selection.of_video(video["video_id"]))
    ahead = next(labelled, None)

    def wanted(number: int, pts_ns: int) -> bool:
        nonlocal ahead
        while ahead is not None and ahead[0] < pts_ns:
            ahead = next(labelled, None)
        return ahead is not None and ahead[0] == pts_ns

    stem = f"{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(video['uri']).stem)}-{video['video_id'][:8]}"
    val_from_ns = (1 - _VAL_SHARE) * video["duration_s"] * NS
    n_rows = 0
    for frame in picked_frames(selection.store, video["video_id"], wanted):
        if ahead is None or ahead[0] != frame.pts_ns:
            continue  # the last frame comes whether wanted or not
        rows = ahead[1]
        split = "val" if frame.pts_ns >= val_from_ns else "train"
        name = f"{stem}-{frame.number:08d}"
        picture = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        (folder / "images" / split / f"{name}.jpg").write_bytes(jpeg.tobytes())
        lines = [_line(row, video, names.setdefault(row["class_name"], len(names))) for row in rows]
        (folder / "labels" / split / f"{name}.txt").write_text("".join(lines), encoding="ascii")
        n_rows += len(rows)
    return n_rows


def _keyframes(selection: Selection) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    rows = selection.rows(("pts_ns", "class_name", "state", *BOX))
    for pts_ns, group in groupby(rows, key=lambda row: int(row["pts_ns"])):
        seen = [row for row in group if row["state"] != State.BRIDGED]
        if any(row["state"] == State.DETECTED for row in seen):
            yield pts_ns, seen


def _line(row: dict[str, Any], video: dict[str, Any], number: int) -> str:
    """Class, and centre and size of the part of the box inside the picture, as shares of it."""
    sizes = (video["width_px"], video["height_px"])
    low = [min(max(row[name] / size, 0.0), 1.0) for name, size in zip(BOX[:2], sizes, strict=True)]
    high = [min(max(row[name] / size, 0.0), 1.0) for name, size in zip(BOX[2:], sizes, strict=True)]
    centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    extent = [b - a for a, b in zip(low, high, strict=True)]
    return f"{number} " + " ".join(f"{value:.6f}" for value in (*centre, *extent)) + "\n"
