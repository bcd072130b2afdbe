"""OGC Moving Features JSON: a moving point a track, with how each of its positions is known.

Source: OGC 19-045r3, MF-JSON Trajectory and Prism, https://docs.ogc.org/is/19-045r3/19-045r3.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.export.geo import Plane, Way, ways, write_features
from flows.export.selection import Selection

_CRS84 = '"crs": {"type": "Name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}'
_TRS = '"trs": {"type": "Name", "properties": {"name": "urn:ogc:data:time:iso8601"}}'


def write_mfjson(selection: Selection, path: Path) -> int:
    """A feature collection of moving points; tracks without any position are left out.

    Coordinates are those of `geo`; the coordinate reference system is named where they are longitude and latitude,
    and each feature says in `coordinates` what they are.
    """
    plane = Plane.of(selection)
    head = ", ".join(['"type": "FeatureCollection"', *([_CRS84] if plane.unit == "lonlat" else []), _TRS])
    return write_features(_features(selection, plane), path, head)


def _features(selection: Selection, plane: Plane) -> Iterator[dict[str, Any]]:
    for way in ways(selection, plane):
        if len(way.points):
            yield _feature(way, plane)


def _feature(way: Way, plane: Plane) -> dict[str, Any]:
    # Instants must differ; of two observations at once, from videos that overlap, the later read stands.
    t_us = way.rows["ts"].cast(pa.int64()).to_numpy()
    last = np.append(np.diff(t_us) > 0, True)
    kept = way.rows.filter(pa.array(last))
    times = pc.strftime(kept["ts"], format="%Y-%m-%dT%H:%M:%SZ").to_pylist()
    return {
        "type": "Feature",
        "id": way.facts["track_id"],
        "temporalGeometry": {
            "type": "MovingPoint",
            "datetimes": times,
            "coordinates": way.points[last].tolist(),
            "interpolation": "Linear",
        },
        "temporalProperties": [
            {
                "datetimes": times,
                "state": {"type": "Text", "values": kept["state"].to_pylist(), "interpolation": "Discrete"},
            }
        ],
        "properties": {
            **way.facts,
            "t0": way.facts["t0"].isoformat(),
            "t1": way.facts["t1"].isoformat(),
            "n_simultaneous": int((~last).sum()),
            "coordinates": plane.said,
        },
    }
