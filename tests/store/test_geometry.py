"""Geometries: in PostGIS with the frame of the source's calibration, in GeoParquet by its specification."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import CRS, Transformer

from flows.georeference import Calibration, to_lonlat
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult
from flows.store import Zone, open_store
from tests.stores import START, make_chunk, make_links, make_observation, make_tracklet

YARD = Zone("yard", "zone", ((0, 0), (9, 0), (9, 9)), "m")
ORIGIN = (8.55, 47.36)
PLACES = [(0.0, 0.0), (30.0, 40.0), (-12.5, 7.25)]


def _calibration(origin: tuple[float, float] | None) -> Calibration:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return Calibration(np.eye(3), points, points, np.ones(4, dtype=bool), 0.0, origin)


def _result(index: int = 0, places: list[tuple[float, float]] = PLACES) -> ChunkResult:
    chunk = make_chunk(index)
    rows = [make_observation(chunk, second, x_m=x, y_m=y) for second, (x, y) in enumerate(places)]
    rows += [make_observation(chunk, second, tracklet_id=f"unplaced {index}") for second in range(3)]
    rows += [make_observation(chunk, 1, tracklet_id=f"glimpsed {index}", x_m=5.0, y_m=6.0)]
    bounds = [0, len(places), len(places) + 3, len(places) + 4]
    tracklets = [make_tracklet(chunk, rows[a:b]) for a, b in pairwise(bounds)]
    return ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist(tracklets, TRACKLETS))


def _asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("set search_path to sightflow, public")
        connection.execute("set enable_seqscan to off")
        return connection.execute(sql).fetchall()


def test_a_placed_source_can_be_put_on_a_map(postgis_database: str) -> None:
    calibration = _calibration(ORIGIN)
    with open_store(postgis_database) as store:
        store.write_zones("gate", [YARD, Zone("px", "line", ((0, 0), (1, 1)))])
        store.write_calibration("gate", calibration.to_json())
        store.write_calibration("twin", calibration.to_json())
        store.write_calibration("other", _calibration((0.0, 0.0)).to_json())
        store.commit(_result())
    srids = dict(_asked(postgis_database, "select source_id, srid from calibrations"))
    assert srids["gate"] == srids["twin"] != srids["other"]
    assert all(900_000 < srid < 999_000 for srid in srids.values())
    points = _asked(
        postgis_database,
        "select x_m, y_m, st_x(g), st_y(g), st_srid(geom) from observations, st_transform(geom, 4326) g"
        " where geom is not null order by ts, tracklet_id",
    )
    assert {row[4] for row in points} == {srids["gate"]}
    expected = to_lonlat(calibration, np.array([row[:2] for row in points]))
    np.testing.assert_allclose([row[2:4] for row in points], expected, atol=1e-9)
    (line,) = _asked(postgis_database, "select st_srid(geom), st_astext(geom) from zones where geom is not null")
    assert line == (srids["gate"], "POLYGON((0 0,9 0,9 9,0 0))")


def test_ways_are_lines_with_times(postgis_database: str) -> None:
    result = _result()
    with open_store(postgis_database) as store:
        store.commit(result)
        ids = result.tracklets["tracklet_id"].to_pylist()
        store.write_links("gate", 1, make_links("gate", {name: f"track of {name}" for name in ids}))
    t = int(START.timestamp())
    way = f"LINESTRING M (0 0 {t},30 40 {t + 1},-12.5 7.25 {t + 2})"
    glimpse = f"LINESTRING M (5 6 {t + 1},5 6 {t + 1})"
    lines = _asked(postgis_database, "select tracklet_id, st_astext(geom) from tracklets")
    assert dict(lines) == dict(zip(ids, (way, None, glimpse), strict=True))
    assert {row[0] for row in _asked(postgis_database, "select st_astext(geom) from trajectories")} == {way, glimpse}


def test_a_source_calibrated_anew_keeps_ways_of_both_frames(postgis_database: str) -> None:
    with open_store(postgis_database) as store:
        results = [_result(0), _result(1)]
        store.commit(results[0])
        store.write_calibration("gate", _calibration(ORIGIN).to_json())
        store.commit(results[1])
        names = [result.tracklets["tracklet_id"][0].as_py() for result in results]
        store.write_links("gate", 1, make_links("gate", dict.fromkeys(names, "T")))
    srids = _asked(postgis_database, "select st_srid(geom) from trajectories where track_id = 'T' order by 1")
    assert [srid == 0 for (srid,) in srids] == [True, False]


@pytest.mark.parametrize("table", ["tracklets", "zones"])
def test_places_are_found_through_an_index(postgis_database: str, table: str) -> None:
    with open_store(postgis_database) as store:
        store.write_zones("gate", [YARD])
        store.commit(_result())
    sql = f"select count(*) from {table} where geom && st_makeenvelope(1, 1, 2, 2)"
    assert "Index Scan" in str(_asked(postgis_database, f"explain {sql}"))
    assert _asked(postgis_database, sql) == [(1,)]


def _geo(path: Path) -> dict[str, Any]:
    geo: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"geo"])
    return geo


def test_files_of_a_placed_source_are_geoparquet(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        store.write_calibration("gate", _calibration(ORIGIN).to_json())
        store.commit(_result())
    for table, kind, shapes in (
        ("observations", "Point", {"POINT (30 40)", "POINT (5 6)", None}),
        ("tracklets", "LineString", {"LINESTRING (0 0, 30 40, -12.5 7.25)", "LINESTRING (5 6, 5 6)", None}),
    ):
        (path,) = (tmp_path / table).rglob("*.parquet")
        geo = _geo(path)
        # What version 1.1.0 of the specification requires of a file.
        assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
        column = geo["columns"]["geometry"]
        assert (column["encoding"], column["geometry_types"]) == ("WKB", [kind])
        assert (
            pq.ParquetFile(path).schema.column(pq.read_schema(path).names.index("geometry")).physical_type
            == "BYTE_ARRAY"
        )
        read = shapely.from_wkb(np.array(pq.ParquetFile(path).read()["geometry"].to_pylist(), dtype=object))
        assert shapes <= {shape and shapely.to_wkt(shape, trim=True) for shape in read}
        to_map = Transformer.from_crs(CRS.from_json_dict(column["crs"]), "EPSG:4326", always_xy=True)
        expected = to_lonlat(_calibration(ORIGIN), np.array([[30.0, 40.0]]))[0]
        np.testing.assert_allclose(to_map.transform(30.0, 40.0), expected, atol=1e-9)


def test_a_frame_nobody_placed_is_said_to_be_unknown(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store:
        store.write_calibration("gate", _calibration(None).to_json())
        store.commit(_result())
    (path,) = (tmp_path / "observations").rglob("*.parquet")
    # Without the key readers would take the metres for degrees.
    assert _geo(path)["columns"]["geometry"]["crs"] is None


def test_files_without_positions_claim_no_geometry(tmp_path: Path) -> None:
    chunk = make_chunk()
    rows = [make_observation(chunk, second) for second in range(3)]
    with open_store(str(tmp_path)) as store:
        store.commit(
            ChunkResult(
                chunk,
                pa.Table.from_pylist(rows, OBSERVATIONS),
                pa.Table.from_pylist([make_tracklet(chunk, rows)], TRACKLETS),
            )
        )
    for table in ("observations", "tracklets"):
        (path,) = (tmp_path / table).rglob("*.parquet")
        schema = pq.read_schema(path)
        assert b"geo" not in (schema.metadata or {})
        assert "geometry" not in schema.names
