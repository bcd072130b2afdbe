"""Ways and points on a map: GeoJSON (RFC 7946) and GeoParquet 1.1.

A file has one kind of coordinates: longitude and latitude where every source in it is placed on earth, else metres of
the ground plane where every source is calibrated, else pixels. Observations without a position there (beyond the
horizon, before the first calibration) are left out of lines and counted in `n_unplaced`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from flows import outlines
from flows.export.selection import Selection, class_of
from flows.export.table import COLUMNS
from flows.georeference import Calibration, Floats, to_lonlat
from flows.schema import TIMESTAMP, State
from flows.store.tables import TRACK_OBSERVATIONS

logger = logging.getLogger(__name__)

_WAY = ("source_id", "class_name", "state", "x_px", "y_px", "x_m", "y_m")
_FACTS = ("track_id", "source_id", "class_name", "ts", "frame", "state", "confidence")
_INFERRED = pa.array([State.BRIDGED.value, State.INTERPOLATED.value])
_TRACKS_A_GROUP = 512
"""Lines held until they are written as a row group of GeoParquet."""

_UNITS = {
    "lonlat": "longitude and latitude, WGS 84",
    "m": "metres of the source's ground plane",
    "px": "pixels, y down",
}
_DECIMALS = {"lonlat": 8, "m": 3, "px": 3}
"""A millimetre, and a thousandth of a pixel."""

_GEOMETRY = pa.field("geometry", pa.binary())
_TRACKS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("track_id", "source_id", "class_name")),
        *(pa.field(name, TIMESTAMP) for name in ("t0", "t1")),
        *(pa.field(name, pa.int64()) for name in ("n_observations", "n_unplaced")),
        pa.field("inferred_share", pa.float64()),
        pa.field("times", pa.list_(TIMESTAMP)),
        _GEOMETRY,
    ]
)


@dataclass(frozen=True)
class Plane:
    """What a file's coordinates are: `unit` is `lonlat`, `m` or `px`."""

    unit: str
    calibrations: dict[str, Calibration]

    @classmethod
    def of(cls, selection: Selection) -> Plane:
        """The best that holds for every source in a selection."""
        sources = sorted({video["source_id"] for video in selection.videos()})
        texts = {source: selection.store.calibration(source) for source in sources}
        known = {source: Calibration.from_json(text) for source, text in texts.items() if text}
        if not sources or len(known) < len(sources):
            return cls("px", {})
        on_earth = all(calibration.origin_lonlat for calibration in known.values())
        return cls("lonlat" if on_earth else "m", known)

    @property
    def said(self) -> str:
        """The unit in words."""
        return _UNITS[self.unit]

    def points(self, source_id: str, rows: pa.Table | pa.RecordBatch) -> Floats:
        """Coordinates (N, 2) of observations of one source, NaN where there is none."""
        unit = "px" if self.unit == "px" else "m"
        columns = [pc.cast(rows[f"{axis}_{unit}"], pa.float64()).to_numpy(zero_copy_only=False) for axis in "xy"]
        points: Floats = np.stack(columns, axis=1)
        if self.unit == "lonlat":
            points = to_lonlat(self.calibrations[source_id], points)
        points[~np.isfinite(points).all(axis=1)] = np.nan
        return np.round(points, _DECIMALS[self.unit])


@dataclass(frozen=True)
class Way:
    """One track: the positions it had, (N, 2), the times of them, and what it was."""

    points: Floats
    rows: pa.Table
    """The observations with a position, columns ts and state among them."""
    facts: dict[str, Any]


def ways(selection: Selection, plane: Plane) -> Iterator[Way]:
    """Track by track, in order of id."""
    for rows in selection.trajectories(_WAY):
        source_id = rows["source_id"][0].as_py()
        points = plane.points(source_id, rows)
        placed = np.isfinite(points[:, 0])
        facts = {
            "track_id": rows["track_id"][0].as_py(),
            "source_id": source_id,
            "class_name": class_of(rows),
            "t0": rows["ts"][0].as_py(),
            "t1": rows["ts"][-1].as_py(),
            "n_observations": rows.num_rows,
            "n_unplaced": int((~placed).sum()),
            "inferred_share": round(pc.mean(pc.is_in(rows["state"], _INFERRED)).as_py(), 3),
        }
        yield Way(points[placed], rows.filter(pa.array(placed)), facts)


def write_geojson(selection: Selection, path: Path) -> int:
    """A line a track; `seconds` gives each point's time from `t0`, `coordinates` says what they are."""
    plane = Plane.of(selection)
    features = (_line_feature(way, plane) for way in ways(selection, plane))
    return write_features(features, path)


def write_geojson_points(selection: Selection, path: Path) -> int:
    """A point an observation, by video and time."""
    plane = Plane.of(selection)
    return write_features(_point_features(selection, plane), path)


def write_features(features: Iterator[dict[str, Any]], path: Path, head: str = '"type": "FeatureCollection"') -> int:
    """A feature collection, one feature a line."""
    n_features = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{{head}, "features": [')
        for feature in features:
            file.write(("\n" if n_features == 0 else ",\n") + json.dumps(feature))
            n_features += 1
        file.write("\n]}\n")
    return n_features


def _line_feature(way: Way, plane: Plane) -> dict[str, Any]:
    coordinates = way.points.tolist()
    geometry: dict[str, Any] | None = {"type": "LineString", "coordinates": coordinates}
    if len(coordinates) < 2:  # a line needs two points
        geometry = {"type": "Point", "coordinates": coordinates[0]} if coordinates else None
    seconds = (way.rows["ts"].cast(pa.int64()).to_numpy() - round(way.facts["t0"].timestamp() * 1e6)) / 1e6
    return {
        "type": "Feature",
        "id": way.facts["track_id"],
        "geometry": geometry,
        "properties": {
            **way.facts,
            "t0": way.facts["t0"].isoformat(),
            "t1": way.facts["t1"].isoformat(),
            "coordinates": plane.said,
            "seconds": np.round(seconds, 3).tolist(),
        },
    }


def _point_features(selection: Selection, plane: Plane) -> Iterator[dict[str, Any]]:
    for batch in selection.batches([*_FACTS, *(name for name in _WAY if name not in _FACTS)]):
        for rows, points in _by_source(batch, plane):
            for row, (x, y) in zip(rows.select(list(_FACTS)).to_pylist(), points.tolist(), strict=True):
                geometry = {"type": "Point", "coordinates": [x, y]} if x == x else None
                row["ts"] = row["ts"].isoformat()
                yield {"type": "Feature", "geometry": geometry, "properties": row | {"coordinates": plane.said}}


def write_geojson_outlines(selection: Selection, path: Path) -> int:
    """An outline an observation, in pixels: what stands up has no outline on the ground."""
    return write_features(_outline_features(selection), path)


def _outline_features(selection: Selection) -> Iterator[dict[str, Any]]:
    for row in selection.rows([*_FACTS, "video_id", "mask"]):
        mask = row.pop("mask")
        geometry = None
        if mask is not None:
            rings = [ring.tolist() for ring in outlines.from_bytes(mask)]
            geometry = {"type": "MultiPolygon", "coordinates": [[[*ring, ring[0]]] for ring in rings]}
        row["ts"] = row["ts"].isoformat()
        yield {"type": "Feature", "geometry": geometry, "properties": row | {"coordinates": _UNITS["px"]}}


def _by_source(batch: pa.RecordBatch, plane: Plane) -> Iterator[tuple[pa.RecordBatch, Floats]]:
    """Runs of one source, with their points."""
    runs = pc.run_end_encode(batch["source_id"])
    start = 0
    for source_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        rows = batch.slice(start, end - start)
        yield rows, plane.points(source_id, rows)
        start = end


def write_geoparquet(selection: Selection, path: Path) -> int:
    """A row a track: its line, and in `times` the time of each point."""
    plane = Plane.of(selection)
    schema = _TRACKS.with_metadata(_geo(plane))
    pending: list[dict[str, Any]] = []
    n_tracks = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for way in ways(selection, plane):
            pending.append({**way.facts, "times": way.rows["ts"].combine_chunks(), "geometry": _wkb(way.points)})
            n_tracks += 1
            if len(pending) == _TRACKS_A_GROUP:
                writer.write_table(_tracks_table(pending, schema))
                pending = []
        writer.write_table(_tracks_table(pending, schema))
    return n_tracks


def _tracks_table(pending: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = {field.name: pa.array([way[field.name] for way in pending], field.type) for field in schema
               if field.name != "times"}  # fmt: skip
    lengths = [len(way["times"]) for way in pending]
    flat = pa.concat_arrays([way["times"] for way in pending]) if pending else pa.array([], TIMESTAMP)
    columns["times"] = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), flat)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _wkb(points: Floats) -> bytes | None:
    """A line, or a point where there is but one."""
    if len(points) == 0:
        return None
    return bytes(shapely.to_wkb(shapely.linestrings(points) if len(points) > 1 else shapely.points(points[0])))


def write_geoparquet_points(selection: Selection, path: Path) -> int:
    """A row an observation: all columns but the mask, and its point."""
    plane = Plane.of(selection)
    fields = [TRACK_OBSERVATIONS.field(name).with_nullable(True) for name in COLUMNS]
    schema = pa.schema([*fields, _GEOMETRY], metadata=_geo(plane))
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in selection.batches(COLUMNS):
            points = np.concatenate([points for _, points in _by_source(batch, plane)])
            wkb = shapely.to_wkb(shapely.points(points))
            wkb[np.isnan(points[:, 0])] = None
            writer.write_table(pa.table([*batch.select(list(COLUMNS)).columns, pa.array(wkb, pa.binary())], schema))
            n_rows += batch.num_rows
    return n_rows


def _geo(plane: Plane) -> dict[str, str]:
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": []}
    if plane.unit != "lonlat":
        # Left out it would mean longitude and latitude; null says that nobody knows.
        column["crs"] = None
    return {"geo": json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})}
