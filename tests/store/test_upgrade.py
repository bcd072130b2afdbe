"""A store of an older schema, led to this one, is what a new one would be."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from flows.errors import SchemaVersionError, StoreError
from flows.schema import LEDGER, OBSERVATIONS, ChunkResult
from flows.store import open_store, pgarrow, pgcopy
from flows.store.samples import SAMPLES
from flows.store.tables import ended_row, planned_row
from tests.stores import make_chunk, make_links, make_observation, make_result, make_tracklet

VERSION_1 = files("flows.store").joinpath("tables.sql").read_text()
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


def _write_version_1(url: str, results: list[ChunkResult]) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create schema sightflow")
        connection.execute("set search_path to sightflow, public")
        connection.execute("set timezone to 'UTC'")
        connection.execute(VERSION_1)
        connection.execute("insert into schema_version values (1)")
        for view in VIEWS:
            connection.execute(f"create view {view} as select tracklet_id from links")
        for day in ("2026-03-01", "2026-03-02"):
            connection.execute(
                f"create table observations_{day.replace('-', '')} partition of observations"
                f" for values from ('{day} 00:00+00') to (timestamptz '{day} 00:00+00' + interval '1 day')"
            )
        for result in results:
            row = ended_row(planned_row(result.chunk), result)
            pgarrow.copy(connection, "chunks", pa.Table.from_pylist([row], LEDGER))
            pgcopy.load(connection.cursor(), "observations", result.observations, 0)
            times = result.observations["ts"].to_pylist()
            connection.execute(
                "insert into chunk_extents values (%s, %s, %s)", (row["chunk_id"], min(times), max(times))
            )
            pgarrow.copy(connection, "tracklets", result.tracklets)


def _asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("set search_path to sightflow, public")
        return connection.execute(sql).fetchall()


def test_an_upgraded_database_is_what_a_new_one_is(postgis_database: str, postgis_module_database: str) -> None:
    results = [_result(0), _result(1)]
    _write_version_1(postgis_database, results)
    with pytest.raises(SchemaVersionError, match="an older Sightflow wrote it: run `sightflow db upgrade`"):
        open_store(postgis_database).prepare()
    assert open_store(postgis_database).upgrade() == [2]
    assert open_store(postgis_database).upgrade() == []
    with open_store(postgis_module_database) as store:
        for result in results:
            store.commit(result)
    for sql in (
        *CATALOG,
        f"select {', '.join(SAMPLES.names)} from samples order by chunk_id, tracklet_id, ts",
        "select tracklet_id, geom from tracklets order by chunk_id, tracklet_id",
        "select version from schema_version where version = 2",
    ):
        upgraded, new = _asked(postgis_database, sql), _asked(postgis_module_database, sql)
        assert upgraded == new
        assert new
    with open_store(postgis_database) as store:
        store.commit(results[0])
        assert store.query("select count(*) as n from observations")["n"].to_pylist() == [302]


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(postgis_database: str) -> None:
    _write_version_1(postgis_database, [_result(0)])
    # A view of somebody's own on ours stands in the way.
    _asked_nothing = "create view sightflow.mine as select * from sightflow.tracks"
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute(_asked_nothing)
    before = [_asked(postgis_database, sql) for sql in CATALOG]
    with pytest.raises(StoreError, match="view mine depends on view tracks"):
        open_store(postgis_database).upgrade()
    assert [_asked(postgis_database, sql) for sql in CATALOG] == before


def test_an_upgraded_folder_is_what_a_new_one_is(tmp_path: Path) -> None:
    results = [_result(0), _result(1)]
    with open_store(str(tmp_path / "new")) as new:
        for result in results:
            new.commit(result)
    with open_store(str(tmp_path / "old")) as store:
        for result in results:
            store.commit(result)
            store.write_links("gate", 1, make_links("gate", {"unplaced": "T"}))
    for path in (tmp_path / "old/ledger").glob("*.json"):
        row = json.loads(path.read_text())
        row["files"] = [name for name in row["files"] if not name.startswith("samples/")]
        path.write_text(json.dumps(row))
    for path in (tmp_path / "old/samples").rglob("*.parquet"):
        path.unlink()
    (tmp_path / "old/schema_version").write_text("1\n")
    with pytest.raises(SchemaVersionError, match="sightflow db upgrade"):
        open_store(str(tmp_path / "old")).check()
    old = open_store(str(tmp_path / "old"))
    assert old.query("select count(*) as n from samples")["n"].to_pylist() == [0]
    assert old.upgrade() == [2]
    assert old.upgrade() == []
    old.check()
    sql = "select * from samples order by chunk_id, tracklet_id, ts"
    assert old.query(sql).equals(new.query(sql))
    assert new.query(sql).num_rows > 0


def test_what_is_no_store_is_neither_checked_nor_upgraded(tmp_path: Path, postgis_database: str) -> None:
    for url in (str(tmp_path), postgis_database):
        for ask in (open_store(url).check, open_store(url).upgrade):
            with pytest.raises(StoreError, match="holds no store yet: `sightflow db init` makes one"):
                ask()
    assert not (tmp_path / "schema_version").exists()


@pytest.mark.parametrize("version", [0, 3])
def test_no_way_leads_from_other_versions(tmp_path: Path, postgis_database: str, version: int) -> None:
    for url in (str(tmp_path), postgis_database):
        open_store(url).prepare()
    (tmp_path / "schema_version").write_text(f"{version}\n")
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute("update sightflow.schema_version set version = %s", (version,))
    for url in (str(tmp_path), postgis_database):
        with pytest.raises(SchemaVersionError, match=f"version '{version}'"):
            open_store(url).upgrade()
