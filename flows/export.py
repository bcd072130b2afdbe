"""Stored tracks -> files other tools read: MOT, COCO, GeoJSON, CSV.

All of them stream: memory is bounded by a batch of observations (GeoJSON: of some hundred tracks), not by the
archive. A file appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from flows.errors import UsageError
from flows.output import written_whole
from flows.schema import OBSERVATIONS, Mask
from flows.store.base import Filter, Store
from flows.tracks import short_ids

logger = logging.getLogger(__name__)

_TRACKS_A_PASS = 256
"""Trajectories held in memory at once; each further this many read the store once more."""

_BOX = ("x1_px", "y1_px", "x2_px", "y2_px")


@dataclass(frozen=True)
class Format:
    """A file format: how it is written, and one line about it for `--help`."""

    description: str
    write: Callable[[Store, Filter, Path], int]


def export(store: Store, format_name: str, out_path: Path, where: Filter) -> int:
    """Write what the filter selects.

    Args:
        store: where the tracks are.
        format_name: one of `FORMATS`.
        out_path: the file; an existing one is replaced.
        where: which observations; `mot` holds one video.

    Returns:
        Rows written: observations, or for `geojson` tracks.

    Raises:
        UsageError: unknown format, more than one video where the format holds one, or a file that cannot be written.
    """
    chosen = FORMATS.get(format_name)
    if chosen is None:
        raise UsageError(f"unknown export format {format_name!r}; known are {', '.join(sorted(FORMATS))}")
    with written_whole(Path(out_path)) as temporary:
        return chosen.write(store, where, temporary)


def _rows(store: Store, where: Filter, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    for batch in store.observations(where, list(columns)):
        yield from batch.to_pylist()


# -- MOT Challenge


def _write_mot(store: Store, where: Filter, path: Path) -> int:
    """Tracker results of the MOT Challenge: `frame,id,x,y,w,h,conf,-1,-1,-1`, frames and ids from 1.

    Where frames of a video with variable frame rate share a nominal number, the last of them stands for it: readers
    take two boxes of one id on one frame for an error.
    """
    video_id = _only_video(store, where)
    numbers = short_ids(store, video_id)
    n_rows = n_doubled = 0
    rows = _rows(store, replace(where, video_id=video_id), ("frame", "track_id", *_BOX, "confidence"))
    with path.open("w", encoding="ascii", newline="\n") as file:
        for frame, group in groupby(rows, key=lambda row: int(row["frame"])):
            by_track: dict[int, dict[str, Any]] = {}
            for row in group:
                number = numbers.setdefault(row["track_id"], len(numbers) + 1)
                n_doubled += number in by_track
                by_track[number] = row
            for number, row in sorted(by_track.items()):
                x, y, width, height = _xywh(row)
                confidence = 1.0 if row["confidence"] is None else row["confidence"]
                file.write(f"{frame + 1},{number},{x:.2f},{y:.2f},{width:.2f},{height:.2f},{confidence:.4f},-1,-1,-1\n")
                n_rows += 1
    if n_doubled:
        logger.warning("video %s: %d observations share a nominal frame number; left out", video_id, n_doubled)
    return n_rows


def _only_video(store: Store, where: Filter) -> str:
    if where.video_id is not None:
        return where.video_id
    condition, parameters = (
        ("where source_id = $source_id", {"source_id": where.source_id}) if where.source_id else ("", {})
    )
    videos = store.query(f"select video_id, uri from videos {condition} order by uri", parameters).to_pylist()
    if len(videos) == 1:
        return str(videos[0]["video_id"])
    names = "".join(f"\n  {video['video_id']}  {video['uri']}" for video in videos[:20]) or " none"
    raise UsageError(f"mot holds one video a file; choose one of {len(videos)}:{names}")


def _xywh(row: dict[str, Any]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(row[name]) for name in _BOX)
    return x1, y1, x2 - x1, y2 - y1


# -- CSV


def _write_csv(store: Store, where: Filter, path: Path) -> int:
    """All columns of the observations but the mask, and track_id."""
    fields = [pa.field("track_id", pa.string()), *(field for field in OBSERVATIONS if field.name != "mask")]
    schema = pa.schema([field.with_nullable(True) for field in fields])
    n_rows = 0
    with pacsv.CSVWriter(str(path), schema) as writer:
        for batch in store.observations(where, schema.names):
            writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
            n_rows += batch.num_rows
    return n_rows


# -- GeoJSON


def _write_geojson(store: Store, where: Filter, path: Path) -> int:
    """One feature a track: the path of its ground point.

    Coordinates are metres of the source's ground plane where every point of the track has them, else pixels;
    `coordinates` says which. `seconds` gives each point's time from `t0`.
    """
    track_ids = list(dict.fromkeys(row["track_id"] for row in _rows(store, where, ("track_id",))))
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for first in range(0, len(track_ids), _TRACKS_A_PASS):
            some = track_ids[first : first + _TRACKS_A_PASS]
            for feature in _features(store, replace(where, track_ids=tuple(some))):
                file.write(separator + json.dumps(feature))
                separator = ",\n"
        file.write("\n]}\n")
    return len(track_ids)


def _features(store: Store, where: Filter) -> Iterator[dict[str, Any]]:
    columns = ("track_id", "source_id", "class_name", "ts", "state", "x_px", "y_px", "x_m", "y_m")
    by_track: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(store, where, columns):
        by_track.setdefault(row["track_id"], []).append(row)
    for track_id, rows in by_track.items():
        # Observations come video by video; a track may run through several.
        rows.sort(key=lambda row: row["ts"])
        unit = "m" if all(row["x_m"] is not None and row["y_m"] is not None for row in rows) else "px"
        points = [[round(row[f"x_{unit}"], 3), round(row[f"y_{unit}"], 3)] for row in rows]
        t0, t1 = rows[0]["ts"], rows[-1]["ts"]
        names = [row["class_name"] for row in rows]
        yield {
            "type": "Feature",
            "id": track_id,
            # A line needs two points.
            "geometry": {"type": "LineString", "coordinates": points}
            if len(points) > 1
            else {"type": "Point", "coordinates": points[0]},
            "properties": {
                "track_id": track_id,
                "source_id": rows[0]["source_id"],
                "class_name": max(set(names), key=names.count),
                "t0": t0.isoformat(),
                "t1": t1.isoformat(),
                "coordinates": {"px": "pixels, y down", "m": "metres of the source's ground plane"}[unit],
                "seconds": [round((row["ts"] - t0).total_seconds(), 3) for row in rows],
                "inferred_share": round(
                    sum(row["state"] in ("bridged", "interpolated") for row in rows) / len(rows), 3
                ),
            },
        }


# -- COCO


def _write_coco(store: Store, where: Filter, path: Path) -> int:
    """COCO detection JSON: an image a frame with observations, an annotation an observation.

    `segmentation` is run lengths at the size of the frame, left out where no mask is stored. `track_id` counts from 1
    over the file; `state` and `score` are ours.
    """
    videos = {row["video_id"]: row for row in store.query("select * from videos").to_pylist()}
    rows = _rows(store, where, ("video_id", "pts_ns", "frame", "ts", "track_id", "class_name", "state", *_BOX,
                                "confidence", "area_px", "mask"))  # fmt: skip
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
    box = _xywh(row)
    annotation: dict[str, Any] = {
        "bbox": [round(value, 2) for value in box],
        "area": box[2] * box[3] if row["area_px"] is None else row["area_px"],
        "iscrowd": 0,
        "state": row["state"],
        "score": row["confidence"],
    }
    if row["mask"] is not None:
        from pycocotools import mask as coco

        full = Mask.from_bytes(row["mask"]).full(video["height_px"], video["width_px"])
        encoded = coco.encode(np.asfortranarray(full, dtype=np.uint8))
        annotation["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
        annotation["area"] = int(full.sum())
    return annotation


FORMATS: dict[str, Format] = {
    "mot": Format("MOT Challenge tracker results, one video a file", _write_mot),
    "csv": Format("one line an observation, all columns but the mask", _write_csv),
    "geojson": Format("one trajectory a track, in pixels, or in metres where calibrated", _write_geojson),
    "coco": Format("COCO JSON: frames, boxes, masks as run lengths, track ids", _write_coco),
}
"""Export formats by name."""
