import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from flows.errors import SchemaVersionError, StoreError
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult
from flows.store import Filter, open_store, pgconnect
from flows.store.base import SCHEMA_VERSION
from flows.store.pgcopy import _shapes
from tests.stores import START, make_chunk, make_links, make_observation, make_result, make_tracklet


def _rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        connection.execute("set search_path to sightflow, public")
        return connection.execute(sql).fetchall()


def _execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql)


def _refusal(url: str) -> str:
    with pytest.raises(StoreError) as caught:
        open_store(url).prepare()
    return str(caught.value)


def test_points_and_paths_are_geometries(postgis_database: str) -> None:
    chunk = make_chunk()
    places = [{"x_m": 1.5, "y_m": -2.25}, {"x_m": 3.0, "y_m": None}, {}, {"x_m": 1e6, "y_m": 0.0}]
    rows = [make_observation(chunk, second, **place) for second, place in enumerate(places)]
    observations = pa.Table.from_pylist(rows, OBSERVATIONS)
    with open_store(postgis_database) as store:
        tracklets = pa.Table.from_pylist([make_tracklet(chunk, rows)], TRACKLETS)
        store.commit(ChunkResult(chunk, observations, tracklets))
        store.write_links("gate", 1, make_links("gate", {rows[0]["tracklet_id"]: "T"}))
        assert store.query("select geom from observations where geom is null")["geom"].type == pa.binary()
    points = _rows(postgis_database, "select st_x(geom), st_y(geom), st_srid(geom) from observations order by ts")
    assert points == [(1.5, -2.25, 0), (None, None, None), (None, None, None), (1e6, 0.0, 0)]
    (path,) = _rows(postgis_database, "select track_id, st_astext(geom) from trajectories")
    seconds = int(START.timestamp())
    assert path == ("T", f"LINESTRING M (1.5 -2.25 {seconds},1000000 0 {seconds + 3})")


def test_observations_lie_in_a_partition_per_day(postgis_database: str) -> None:
    with open_store(postgis_database) as store:
        store.commit(make_result(make_chunk()))
    counts = "select tableoid::regclass::text, count(*) from observations group by 1 order by 1"
    assert _rows(postgis_database, counts) == [("observations_20260301", 60), ("observations_20260302", 30)]
    indexes = "select indexdef from pg_indexes where tablename = 'observations_20260301'"
    assert sorted(row[0].split(" USING ")[1] for row in _rows(postgis_database, indexes)) == [
        "brin (ts)",
        "btree (source_id, ts)",
    ]


def test_writers_meet_at_new_days(postgis_database: str) -> None:
    open_store(postgis_database).prepare()
    start = threading.Barrier(6)

    def write(index: int) -> None:
        with open_store(postgis_database) as store:
            start.wait(30)
            for day in range(4):
                chunk = make_chunk(0, content_hash=f"{index} {day}", start_time=START + timedelta(days=day))
                store.commit(make_result(chunk))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    days = "select count(*), count(distinct (ts at time zone 'UTC')::date) from observations"
    assert _rows(postgis_database, days) == [(6 * 4 * 90, 5)]


def test_processes_prepare_at_the_same_time(postgis_database: str) -> None:
    start = threading.Barrier(6)

    def prepare(_: int) -> None:
        start.wait(30)
        with open_store(postgis_database):
            pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(prepare, range(6)))
    assert _rows(postgis_database, "select version from schema_version") == [(n + 1,) for n in range(SCHEMA_VERSION)]


@pytest.mark.parametrize(("version", "fix"), [(SCHEMA_VERSION + 1, "upgrade this one"), (0, "sightflow db upgrade")])
def test_another_schema_version_is_refused(postgis_database: str, version: int, fix: str) -> None:
    open_store(postgis_database).prepare()
    _execute(postgis_database, f"update sightflow.schema_version set version = {version}")
    with pytest.raises(SchemaVersionError, match=f"has schema version '{version}', expected {SCHEMA_VERSION}.*{fix}"):
        open_store(postgis_database).prepare()


def test_an_unreachable_server_is_named_and_the_password_is_not() -> None:
    url = "postgresql://alice:s3cret@127.0.0.1:1/video?sslmode=disable"
    message = _refusal(url)
    assert "postgresql://alice@127.0.0.1:1/video" in message
    assert "no server listens there" in message
    assert "s3cret" not in message + repr(open_store(url)) + open_store(url).url
    assert "unknown host" in _refusal("postgresql://alice:s3cret@no-such-host.invalid/video")


@pytest.mark.parametrize("url", ["postgresql://alice:s3cret@host:port/db?x=1", "postgresql://a:s3cret%@h/db"])
def test_an_address_that_does_not_parse_is_not_repeated(url: str) -> None:
    message = _refusal(url)
    assert "does not parse" in message or "port" in message
    assert "s3cret" not in message


def test_wrong_passwords_and_missing_rights(postgis_password_url: str, postgis_database: str) -> None:
    assert "wants a password" in _refusal(postgis_password_url)
    message = _refusal(f"{postgis_password_url}&password=wr0ng")
    assert "wrong password" in message
    assert "wr0ng" not in message
    assert "permission denied" in _refusal(f"{postgis_password_url}&password=s3cret")
    open_store(postgis_database).prepare()
    assert "permission denied" in _refusal(f"{postgis_password_url}&password=s3cret")


def test_a_missing_database_is_named(postgis_url: str) -> None:
    message = _refusal(postgis_url.replace("/postgres?", "/no_such_database?"))
    assert "no_such_database" in message
    assert "createdb" in message


def test_a_database_without_postgis_gets_it_or_says_who_can(postgis_database: str, postgis_password_url: str) -> None:
    _execute(postgis_database, "drop extension postgis")
    ((name,),) = _rows(postgis_database, "select current_database()")
    _execute(postgis_database, f"grant create on database {name} to public")
    assert "let a superuser run `create extension postgis`" in _refusal(f"{postgis_password_url}&password=s3cret")
    open_store(postgis_database).prepare()
    assert _rows(postgis_database, "select count(*) from pg_extension where extname = 'postgis'") == [(1,)]


def test_an_encoding_that_cannot_hold_every_name_is_refused(postgis_url: str) -> None:
    name = "sightflow_test_latin1"
    _execute(postgis_url, f"create database {name} encoding 'LATIN1' locale 'C' template template0")
    try:
        message = _refusal(postgis_url.replace("/postgres?", f"/{name}?"))
        assert "encoding LATIN1" in message
        assert "createdb --encoding=UTF8" in message
    finally:
        _execute(postgis_url, f"drop database {name} with (force)")


def test_a_lost_connection_is_opened_again(postgis_database: str) -> None:
    with open_store(postgis_database) as store, open_store(postgis_database) as other:
        store.commit(make_result(make_chunk(0)))
        # Ends every connection to this database but the one that asks.
        other.query(
            "select count(pg_terminate_backend(pid)) as n from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        store.commit(make_result(make_chunk(1)))
        assert store.query("select count(*) as n from observations")["n"].to_pylist() == [180]


def test_a_server_that_stays_away_is_an_error(
    postgis_database: str, postgis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgconnect, "BACKOFF_S", (0.01, 0.01))
    ((name,),) = _rows(postgis_database, "select current_database()")
    with open_store(postgis_database) as store:
        _execute(postgis_url, f"drop database {name} with (force)")
        with pytest.raises(StoreError, match="does not exist"):
            store.commit(make_result(make_chunk()))
    _execute(postgis_url, f"create database {name}")


def test_what_the_server_cannot_hold_is_an_error(postgis_database: str) -> None:
    with open_store(postgis_database) as store:
        with pytest.raises(StoreError, match="NUL"):
            store.commit(make_result(make_chunk(), class_name="a\0b"))
        assert store.query("select count(*) as n from observations")["n"].to_pylist() == [0]
        store.commit(make_result(make_chunk()))


def test_a_reader_that_stops_early_holds_nothing(postgis_database: str) -> None:
    with open_store(postgis_database) as store:
        result = make_result(make_chunk())
        store.commit(result)
        store.write_links("gate", 1, make_links("gate", {result.tracklets["tracklet_id"][0].as_py(): "T"}))
        batches = store.observations(Filter())
        assert next(batches).num_rows == 90
        batches.close()  # type: ignore[attr-defined]
        _execute(postgis_database, "drop schema sightflow cascade")


def test_rows_are_grouped_by_shape_however_many_there_are() -> None:
    rng = np.random.default_rng(3)
    lengths = [rng.integers(-1, 2**40, 50) for _ in range(4)] + [rng.integers(0, 2, 50)]
    for column in lengths:
        column[25:] = column[:25]
    order, starts = _shapes(lengths, 50)
    assert sorted(order.tolist()) == list(range(50))
    groups = [order[start:stop].tolist() for start, stop in zip(starts, [*starts[1:], 50], strict=True)]
    assert sorted(groups) == [[row, row + 25] for row in range(25)]
