"""COCO detection JSON with masks and track ids: run lengths or polygons, as they are stored.

Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np

from flows import outlines
from flows.export.selection import BOX, Selection, xywh
from flows.mask import Mask
from flows.run_lengths import framed

_MASKS_AT_ONCE = 128
"""More would leave the processor's cache."""


def write_coco(selection: Selection, path: Path) -> int:
    """An image a frame with observations, an annotation an observation.

    `segmentation` is run lengths at the size of the frame, or polygons where outlines are stored, and left out where no
    mask is. `track_id` counts from 1 over the file; `state` and `score` are ours.
    """
    videos = {row["video_id"]: row for row in selection.videos()}
    columns = ("video_id", "pts_ns", "frame", "ts", "track_id", "class_name", "state", *BOX, "confidence", "area_px")
    rows = _rows(selection, (*columns, "mask"), videos)
    categories: dict[str, int] = {}
    tracks: dict[str, int] = {}
    n_images = n_rows = 0
    # Images and annotations are two lists of one document: the images wait in a file of their own.
    with path.open("w", encoding="utf-8") as file, tempfile.TemporaryFile("w+", encoding="utf-8") as images:
        file.write('{"info": {"description": "Sightflow tracks"}, "annotations": [')
        for (video_id, pts_ns), group in groupby(rows, key=lambda row: (row["video_id"], row["pts_ns"])):
            n_images += 1
            for position, row in enumerate(group):
                if position == 0:
                    _append(images, _coco_image(n_images, pts_ns, row, videos[video_id]), n_images)
                n_rows += 1
                annotation = _coco_annotation(row, videos[video_id])
                annotation |= {"id": n_rows, "image_id": n_images}
                annotation["category_id"] = categories.setdefault(row["class_name"], len(categories) + 1)
                annotation["track_id"] = tracks.setdefault(row["track_id"], len(tracks) + 1)
                _append(file, annotation, n_rows)
        file.write('\n], "images": [')
        images.seek(0)
        file.writelines(images)
        named = [{"id": number, "name": name, "supercategory": "object"} for name, number in categories.items()]
        file.write(f'\n], "categories": {json.dumps(named)}}}\n')
    return n_rows


def _rows(
    selection: Selection, columns: Sequence[str], videos: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Observations by video and time, with what COCO says of the mask in place of it."""
    for batch in selection.batches(columns):
        for start in range(0, batch.num_rows, _MASKS_AT_ONCE):
            for video_id, rows in groupby(batch.slice(start, _MASKS_AT_ONCE).to_pylist(), itemgetter("video_id")):
                yield from _with_segmentations(list(rows), videos[video_id])


def _with_segmentations(rows: list[dict[str, Any]], video: dict[str, Any]) -> list[dict[str, Any]]:
    height_px, width_px = video["height_px"], video["width_px"]
    stored = [row.pop("mask") for row in rows]
    runs = [i for i, mask in enumerate(stored) if mask is not None and not outlines.is_polygon(mask)]
    for i, (counts, area) in zip(runs, framed([stored[i] for i in runs], height_px, width_px), strict=True):
        size = [height_px, width_px]
        rows[i] |= {"segmentation": {"size": size, "counts": counts.decode("ascii")}, "area_px": area}
    frame_xyxy = np.array([0, 0, width_px, height_px], dtype=np.float32)
    for row, mask in zip(rows, stored, strict=True):
        if mask is not None and outlines.is_polygon(mask):
            inside = Mask.from_bytes(mask).within(frame_xyxy)
            row["segmentation"] = [ring.ravel().tolist() for ring in outlines.from_bytes(mask)]
            row["area_px"] = inside.area_px if inside else 0
    return rows


def _append(file: IO[str], item: dict[str, Any], number: int) -> None:
    file.write(("\n" if number == 1 else ",\n") + json.dumps(item))


def _coco_image(number: int, pts_ns: int, row: dict[str, Any], video: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": f"{PurePath(video['uri']).stem}/{row['frame']:08d}.jpg",
        "width": video["width_px"],
        "height": video["height_px"],
        "date_captured": row["ts"].isoformat(),
        "video_id": row["video_id"],
        "pts_ns": pts_ns,
    }


def _coco_annotation(row: dict[str, Any], video: dict[str, Any]) -> dict[str, Any]:
    box = xywh(row)
    annotation: dict[str, Any] = {
        "bbox": [round(value, 2) for value in box],
        "area": box[2] * box[3] if row["area_px"] is None else row["area_px"],
        "iscrowd": 0,
        "state": row["state"],
        "score": row["confidence"],
    }
    return annotation | ({"segmentation": row["segmentation"]} if "segmentation" in row else {})
