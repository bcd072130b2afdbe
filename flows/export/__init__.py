"""Stored tracks -> files other tools read.

All of them stream: memory is bounded by a batch of observations, or by the longest track where a format goes track by
track, and never by the archive. A file appears under its name only when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.errors import UsageError
from flows.export import cvat, geo, mfjson, mot, table, yolo
from flows.export.coco import write_coco
from flows.export.selection import Selection
from flows.known import check_filter
from flows.output import written_whole
from flows.store.base import Filter, Store


@dataclass(frozen=True)
class Format:
    """A file format: how it is written, and one line about it for `--help`."""

    description: str
    write: Callable[[Selection, Path], int]
    folder: bool = False
    """Whether it is a folder rather than a file."""


FORMATS: dict[str, Format] = {
    "mot": Format("MOT Challenge tracker results, one video a file", mot.write_results),
    "mot-gt": Format("MOT Challenge ground truth, with class and visibility", mot.write_truth),
    "mot-det": Format("MOT Challenge detections", mot.write_detections),
    "coco": Format("COCO JSON: frames, boxes, masks, track ids", write_coco),
    "csv": Format("one line an observation, all columns but the mask", table.write_csv),
    "geojson": Format("one trajectory a track", geo.write_geojson),
    "geojson-points": Format("one point an observation", geo.write_geojson_points),
    "geojson-outlines": Format("one outline an observation, in pixels", geo.write_geojson_outlines),
    "geoparquet": Format("one trajectory a track, with the time of each point", geo.write_geoparquet),
    "geoparquet-points": Format("one point an observation, all columns but the mask", geo.write_geoparquet_points),
    "mf-json": Format("OGC Moving Features, a moving point a track", mfjson.write_mfjson),
    "cvat": Format("CVAT for video 1.1, to be corrected by people, one video a file", cvat.write_cvat),
    "cvat-polygons": Format("the same with the outlines of masks", cvat.write_cvat_polygons),
    "yolo": Format("YOLO dataset of keyframes, a folder", yolo.write_yolo, folder=True),
}
"""Export formats by name."""


def export(
    store: Store, format_name: str, out_path: Path, where: Filter, tell: Callable[[int], None] = lambda n_rows: None
) -> int:
    """Write what the filter selects.

    Args:
        store: where the tracks are.
        format_name: one of `FORMATS`.
        out_path: the file, replaced where there is one; for `yolo` a folder, which must be new or empty.
        where: which observations.
        tell: hears how many more observations were read.

    Returns:
        Rows written: observations, or tracks where the format has a feature a track.

    Raises:
        UsageError: unknown format, a source, class or track that the store does not have, more than one video where the
            format holds one, or a file that cannot be written.
    """
    chosen = FORMATS.get(format_name)
    if chosen is None:
        raise UsageError(f"unknown export format {format_name!r}; known are {', '.join(sorted(FORMATS))}")
    check_filter(store, where)
    with written_whole(Path(out_path), folder=chosen.folder) as temporary:
        return chosen.write(Selection(store, where, tell), temporary)
