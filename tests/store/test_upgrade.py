"""A store of an older schema, led to this one, is what a new one would be."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.errors import SchemaVersionError, StoreError
from flows.schema import LEDGER, OBSERVATIONS, ChunkResult
from flows.store import Store, Zone, open_store, pgarrow, pgcopy
from flows.store.base import SCHEMA_VERSION
from flows.store.pgwrite import fill_version_2
from flows.store.samples import SAMPLES
from flows.store.tables import ZONES, ended_row, planned_row, zone_rows
from tests.stores import (
    make_chunk,
    make_event,
    make_events,
    make_links,
    make_observation,
    make_result,
    make_tracklet,
)

ZONE = Zone("gate", "line", ((0.5, 0.0), (4.0, 3.0)))
# The columns that events had before version 3.
OLD_EVENT = (
    *("event_id", "source_id", "track_id", "class_name", "kind", "zone"),
    *("ts", "duration_s", "direction", "inferred"),
)
# What its views said does not matter: they are made anew.
VIEWS = ("tracks", "track_observations", "trajectories")

CATALOG = (
    "select table_name, column_name, data_type, is_nullable, column_default, collation_name, ordinal_position"
    " from information_schema.columns where table_schema = 'sightflow' order by 1, 7",
    "select tablename, regexp_replace(indexdef, '.* USING ', '') from pg_indexes where schemaname = 'sightflow'"
    " order by 1, 2",
    "select viewname, definition from pg_views where schemaname = 'sightflow' order by 1",
    "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute a"
    " join pg_class c on c.oid = a.attrelid where c.relnamespace = 'sightflow'::regnamespace and a.attnum > 0"
    " and not a.attisdropped order by 1, 2",
)


def _result(index: int) -> ChunkResult:
    chunk = make_chunk(index)
    rows = [make_observation(chunk, second / 2, x_m=second / 3, y_m=1.5) for second in range(150)]
    rows += [make_observation(chunk, 3, tracklet_id="unplaced")]
    tracklets = [make_tracklet(chunk, rows[:150]), make_tracklet(chunk, rows[150:])]
    observations = pa.Table.from_pylist(rows, OBSERVATIONS)
    return ChunkResult(chunk, observations, pa.Table.from_pylist(tracklets, make_result(chunk).tracklets.schema))


def _script(name: str) -> str:
    return files("flows.store").joinpath(name).read_text()


def _write_old(url: str, results: list[ChunkResult], version: int) -> None:
    """A database as version 1, 2 or 3 left it."""
    with psycopg.connect(url) as connection:
        connection.execute("create schema sightflow")
        connection.execute("set search_path to sightflow, public")
        connection.execute("set timezone to 'UTC'")
        connection.execute(_script("tables.sql"))
        connection.execute("insert into schema_version values (1)")
        if version >= 2:
            connection.execute(_script("upgrade_2.sql"))
            connection.execute("insert into schema_version values (2)")
        for view in VIEWS:
            connection.execute(f"create view {view} as select tracklet_id from links")
        for day in ("2026-03-01", "2026-03-02"):
            connection.execute(
                f"create table observations_{day.replace('-', '')} partition of observations"
                f" for values from ('{day} 00:00+00') to (timestamptz '{day} 00:00+00' + interval '1 day')"
            )
        for result in results:
            row = ended_row(planned_row(result.chunk), result)
            ledger = pa.Table.from_pylist([row], LEDGER).drop_columns(["damaged_packets", "worker_s"])
            pgarrow.copy(connection, "chunks", ledger)
            pgcopy.load(connection.cursor(), "observations", result.observations, 0)
            times = result.observations["ts"].to_pylist()
            connection.execute(
                "insert into chunk_extents values (%s, %s, %s)", (row["chunk_id"], min(times), max(times))
            )
            pgarrow.copy(connection, "tracklets", result.tracklets.drop_columns(["confirmed"]))
        if version >= 2:
            fill_version_2(connection)
        pgarrow.copy(connection, "zones", pa.Table.from_pylist([_zone_row()], ZONES))
        connection.execute("insert into calibrations values ('gate', '{}')")
        pgarrow.copy(connection, "events", make_events(make_event()).select(list(OLD_EVENT)))
        if version == 3:
            connection.execute(_script("upgrade_3.sql"))
            connection.execute("insert into schema_version values (3)")


def _zone_row() -> dict[str, Any]:
    return {**zone_rows([ZONE])[0], "source_id": "gate", "points": json.dumps(ZONE.points)}


def _fill_new(store: Store, results: list[ChunkResult]) -> None:
    for result in results:
        store.commit(result)
    store.write_zones("gate", [ZONE])
    store.write_calibration("gate", "{}")
    store.write_events("gate", make_events(make_event()))


def _places(store: Store) -> list[Any]:
    return [
        [(version.version, version.zones) for version in store.zone_versions("gate")],
        store.calibrations("gate"),
        *(store.query(f"select * from {table}").to_pylist() for table in ("zones", "calibrations", "events")),
    ]


def _asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("set search_path to sightflow, public")
        return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def new_database(postgis_module_database: str) -> str:
    with open_store(postgis_module_database) as store:
        _fill_new(store, [_result(0), _result(1)])
    return postgis_module_database


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_upgraded_database_is_what_a_new_one_is(postgis_database: str, new_database: str, version: int) -> None:
    results = [_result(0), _result(1)]
    _write_old(postgis_database, results, version)
    with pytest.raises(SchemaVersionError, match="an older Sightflow wrote it: run `sightflow db upgrade`"):
        open_store(postgis_database).prepare()
    assert open_store(postgis_database).upgrade() == list(range(version + 1, SCHEMA_VERSION + 1))
    assert open_store(postgis_database).upgrade() == []
    for sql in (
        *CATALOG,
        f"select {', '.join(SAMPLES.names)} from samples order by chunk_id, tracklet_id, ts",
        "select tracklet_id, geom from tracklets order by chunk_id, tracklet_id",
        "select version from schema_version order by 1",
    ):
        upgraded, new = _asked(postgis_database, sql), _asked(new_database, sql)
        assert upgraded == new
        assert new
    with open_store(postgis_database) as store:
        store.commit(results[0])
        assert store.query("select count(*) as n from observations")["n"].to_pylist() == [302]
        assert _places(store) == _places(open_store(new_database))
        store.write_zones("gate", [])
        assert [len(version.zones) for version in store.zone_versions("gate")] == [1, 0]


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(postgis_database: str) -> None:
    _write_old(postgis_database, [_result(0)], 1)
    # A view of somebody's own on ours stands in the way.
    _asked_nothing = "create view sightflow.mine as select * from sightflow.tracks"
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute(_asked_nothing)
    before = [_asked(postgis_database, sql) for sql in CATALOG]
    with pytest.raises(StoreError, match="view mine depends on view tracks"):
        open_store(postgis_database).upgrade()
    assert [_asked(postgis_database, sql) for sql in CATALOG] == before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_upgraded_folder_is_what_a_new_one_is(tmp_path: Path, version: int) -> None:
    results = [_result(0), _result(1)]
    for name in ("new", "old"):
        with open_store(str(tmp_path / name)) as store:
            _fill_new(store, results)
            store.write_links("gate", 1, make_links("gate", {"unplaced": "T"}))
    new = open_store(str(tmp_path / "new"))
    _make_old(tmp_path / "old", version)
    with pytest.raises(SchemaVersionError, match="sightflow db upgrade"):
        open_store(str(tmp_path / "old")).check()
    old = open_store(str(tmp_path / "old"))
    sql = "select * from samples order by chunk_id, tracklet_id, ts"
    assert old.query(sql).equals(new.query(sql)) == (version >= 2)
    assert old.upgrade() == list(range(version + 1, SCHEMA_VERSION + 1))
    assert old.upgrade() == []
    old.check()
    assert old.query(sql).equals(new.query(sql))
    assert new.query(sql).num_rows > 0
    assert _places(old) == _places(new)
    assert old.tracklets("gate")["confirmed"].null_count == 4
    tracks = "select * from tracks order by track_id"
    assert old.query(tracks).equals(new.query(tracks))
    assert new.query(tracks).num_rows > 0


def _make_old(folder: Path, version: int) -> None:
    """Make a folder what version 1, 2 or 3 left."""
    (folder / "schema_version").write_text(f"{version}\n")
    for path in (folder / "tracklets").rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["confirmed"]), path)
    if version == 3:
        return
    for kind, row in (("zones", {"zones": zone_rows([ZONE])}), ("calibrations", {"calibration": "{}"})):
        (path,) = (folder / kind).glob("*.json")
        path.write_text(json.dumps({"source_id": "gate", **row}))
    (path,) = (folder / "events").glob("*.parquet")
    pq.write_table(pq.read_table(path, partitioning=None).select(list(OLD_EVENT)), path)
    if version == 2:
        return
    for path in (folder / "ledger").glob("*.json"):
        row = json.loads(path.read_text())
        row["files"] = [name for name in row["files"] if not name.startswith("samples/")]
        path.write_text(json.dumps(row))
    for path in (folder / "samples").rglob("*.parquet"):
        path.unlink()


def test_what_is_no_store_is_neither_checked_nor_upgraded(tmp_path: Path, postgis_database: str) -> None:
    for url in (str(tmp_path), postgis_database):
        for ask in (open_store(url).check, open_store(url).upgrade):
            with pytest.raises(StoreError, match="holds no store yet: `sightflow db init` makes one"):
                ask()
    assert not (tmp_path / "schema_version").exists()


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_no_way_leads_from_other_versions(tmp_path: Path, postgis_database: str, version: int) -> None:
    for url in (str(tmp_path), postgis_database):
        open_store(url).prepare()
    (tmp_path / "schema_version").write_text(f"{version}\n")
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute("update sightflow.schema_version set version = %s", (version,))
    for url in (str(tmp_path), postgis_database):
        with pytest.raises(SchemaVersionError, match=f"version '{version}'"):
            open_store(url).upgrade()
