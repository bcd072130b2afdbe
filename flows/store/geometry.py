"""Ground positions as geometries: well-known binary for PostGIS and GeoParquet, and the frames they are in.

A calibrated source has a frame of its own, metres on its ground plane. Where the calibration knows its longitude and
latitude the frame is an azimuthal equidistant projection about that origin, which any GIS can put on a map.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.georeference import local_frame

POINT = np.dtype([("byte_order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""WKB of a point."""
EWKB_POINT = np.dtype([("byte_order", "u1"), ("type", "<u4"), ("srid", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""The same with the number of its frame; PostGIS takes it as it is."""

_WITH_SRID, _WITH_M = 0x20000000, 0x40000000
_POINT, _LINE = 1, 2
LOCAL_SRID = 0
"""Of frames in metres nobody has placed on earth."""


def ewkb_points(x_m: npt.NDArray[np.float64], y_m: npt.NDArray[np.float64], srid: int) -> npt.NDArray[Any]:
    """Points in a frame, (N,) of dtype EWKB_POINT."""
    points = np.empty(len(x_m), dtype=EWKB_POINT)
    points["byte_order"], points["type"], points["srid"] = 1, _POINT | _WITH_SRID, srid
    points["x"], points["y"] = x_m, y_m
    return points


def wkb_points(observations: pa.Table) -> pa.Array:
    """The ground positions of observations as WKB, null where there is none."""
    points = np.empty(observations.num_rows, dtype=POINT)
    points["byte_order"], points["type"] = 1, _POINT
    points["x"], points["y"] = (pc.fill_null(observations[name], 0.0).to_numpy() for name in ("x_m", "y_m"))
    located = pc.and_(observations["x_m"].is_valid(), observations["y_m"].is_valid()).combine_chunks()
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(POINT.itemsize), len(points), [None, pa.py_buffer(points)])
    return pc.if_else(located, values.cast(pa.binary()), pa.scalar(None, pa.binary()))


def paths(observations: pa.Table, tracklet_ids: pa.ChunkedArray, srid: int | None) -> list[bytes | None]:
    """The way of each tracklet over the ground; None where none of its observations has a finite position.

    Args:
        observations: Of the tracklets, schema OBSERVATIONS, in any order.
        tracklet_ids: (N,) ids.
        srid: Frame of an EWKB LineStringM, the time of each point as its M (seconds since 1970); None for a plain WKB
            LineString: GeoParquet has no M.

    Returns:
        N lines. One position alone is a line from itself to itself.
    """
    rows = observations.select(["tracklet_id", "ts", "x_m", "y_m"])
    rows = rows.filter(pc.and_(pc.is_finite(rows["x_m"]), pc.is_finite(rows["y_m"])))
    rows = rows.sort_by([("tracklet_id", "ascending"), ("ts", "ascending")])
    names = ("x_m", "y_m") if srid is None else ("x_m", "y_m", "ts")
    values = np.empty((rows.num_rows, len(names)))
    for index, name in enumerate(names):
        column = rows[name].cast(pa.int64()).to_numpy() / 1e6 if name == "ts" else rows[name].to_numpy()
        values[:, index] = column
    runs = pc.run_end_encode(rows["tracklet_id"].combine_chunks())
    ends = np.concatenate([[0], runs.run_ends.to_numpy()]).astype(np.int64)
    spans = {name: (ends[i], ends[i + 1]) for i, name in enumerate(runs.values.to_pylist())}
    return [_line(values[slice(*spans[name])], srid) if name in spans else None for name in tracklet_ids.to_pylist()]


def _line(points: npt.NDArray[np.float64], srid: int | None) -> bytes:
    if len(points) == 1:
        points = points.repeat(2, axis=0)
    if srid is None:
        head = struct.pack("<BII", 1, _LINE, len(points))
    else:
        head = struct.pack("<BIII", 1, _LINE | _WITH_SRID | _WITH_M, srid, len(points))
    return head + points.astype("<f8").tobytes()


def frame_of(calibration: str | None) -> str | None:
    """The frame of a stored calibration in the words of PROJ, None where nobody knows where on earth it lies."""
    origin = json.loads(calibration).get("origin_lonlat") if calibration else None
    return local_frame(origin) if origin else None


def with_geometry(table: pa.Table, geometry: pa.Array, kind: str, calibration: str | None) -> pa.Table:
    """The table with a column `geometry` and the metadata of GeoParquet 1.1; as it was where no row has a geometry.

    Args:
        table: Any.
        geometry: WKB, one for each row.
        kind: `Point` or `LineString`.
        calibration: Of the source, as stored; its origin makes the coordinate reference system.
    """
    if geometry.null_count == len(geometry):
        return table
    from pyproj import CRS

    frame = frame_of(calibration)
    column = {
        "encoding": "WKB",
        "geometry_types": [kind],
        # Left out it would mean longitude and latitude; null says that nobody knows.
        "crs": CRS(frame).to_json_dict() if frame else None,
    }
    meta = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return table.append_column("geometry", geometry).replace_schema_metadata({"geo": json.dumps(meta)})
