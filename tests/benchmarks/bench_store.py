"""Figures of the stores, as JSON: loading, killed writers, reports over eight million observations, thinning.

Run by `make bench`. Filling the stores takes minutes: name two that
an earlier run filled in SIGHTFLOW_BENCH_STORES (folder and URL, a comma between), or fewer rows in
SIGHTFLOW_BENCH_ROWS.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.events import COLUMNS, recompute_events
from flows.reports import REPORTS, run_report
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult, State
from flows.store import Filter, Store, open_store, pgarrow, pgcopy
from flows.store.sql import observations_sql, to_psycopg
from flows.target import _thinned as thinned
from tests.archive import ZONES, fill, link_all, make_archive_chunk
from tests.benchmarks.record import record
from tests.crash import assert_whole, kill_writers, processes
from tests.stores import make_chunk, make_result

ROWS = int(os.environ.get("SIGHTFLOW_BENCH_ROWS", 8_000_000))
N_SOURCES, N_CHUNKS = 20, 96
LOAD_ROWS = min(ROWS, 1_000_000)
SOURCE = "camera-03"
ONE_DAY = {"source": SOURCE, "t0": "2026-03-01", "t1": "2026-03-02"}
FROM_TRACKS = ("counts", "counts_by_hour", "tracks")


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Wall times, ascending."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)


# -- loading


def _by_rows(connection: psycopg.Connection, table: str, rows: pa.Table) -> None:
    """What one would write without thinking about it: psycopg's binary COPY, a row at a time."""
    names = [*OBSERVATIONS.names, "geom"]
    types = {row[0]: row[1] for row in connection.execute(
        "select attname, format_type(atttypid, null) from pg_attribute where attrelid = %s::regclass", (table,)
    )}  # fmt: skip
    kinds = ["bytea" if name == "geom" else types[name] for name in names]
    from shapely import points, to_wkb

    columns = [column.to_pylist() for column in rows.columns]
    columns.append(list(to_wkb(points(rows["x_m"].to_numpy(), rows["y_m"].to_numpy()))))
    with connection.cursor() as cursor, cursor.copy(
        f"copy {table} ({', '.join(names)}) from stdin (format binary)"
    ) as copy:  # fmt: skip
        copy.set_types(kinds)
        for row in zip(*columns, strict=True):
            copy.write_row(row)


def _by_columns(connection: psycopg.Connection, table: str, rows: pa.Table) -> None:
    with connection.cursor() as cursor:
        pgcopy.load(cursor, table, rows, 0)


def bench_load(postgis_database: str) -> None:
    chunks = [make_archive_chunk("camera-00", index, 20, LOAD_ROWS // 20) for index in range(20)]
    rows = pa.concat_tables([chunk.observations.sort_by("ts") for chunk in chunks])
    open_store(postgis_database).prepare()
    times: dict[str, list[float]] = {}
    with psycopg.connect(postgis_database, autocommit=True) as connection:
        connection.execute("set search_path to sightflow, public")
        for _ in range(3):
            for indexed in (False, True):
                for way in (_by_rows, _by_columns):
                    connection.execute("drop table if exists loaded")
                    connection.execute("create table loaded (like observations)")
                    if indexed:
                        connection.execute("create index on loaded using brin (ts)")
                        connection.execute("create index on loaded (source_id, ts)")
                    name = f"{'rows' if way is _by_rows else 'columns'}{', indexed' if indexed else ''}"
                    times.setdefault(name, []).extend(seconds(lambda: way(connection, "loaded", rows), 1))  # noqa: B023
                    (n,) = connection.execute("select count(*) from loaded where geom is not null").fetchone() or (0,)
                    assert n == rows.num_rows
    with open_store(postgis_database) as store:
        whole = seconds(lambda: [store.commit(chunk) for chunk in chunks], 1)
    best = {name: min(values) for name, values in times.items()}
    record(
        "store",
        "load",
        {
            "rows": rows.num_rows,
            "seconds": {**best, "whole commits, 20 chunks": whole[0]},
            "ratio_no_index": best["rows"] / best["columns"],
            "ratio_indexed_to_rows_without_index": best["rows"] / best["columns, indexed"],
            "ratio_indexed": best["rows, indexed"] / best["columns, indexed"],
        },
    )


# -- exactly once


@pytest.mark.parametrize("kind", ["parquet", "postgis"])
def bench_killed_writers(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    url = str(tmp_path / "store") if kind == "parquet" else request.getfixturevalue("postgis_database")
    with open_store(url) as store:
        killed = kill_writers(store, url, rounds=25, n_chunks=100)
    record("store", f"killed_{kind}", {"kills": 25, **vars(killed)})
    assert (killed.lost, killed.twice) == (0, 0)


def _write_chunks(url: str) -> None:
    with open_store(url) as store:
        for index in range(60):
            store.commit(make_result(make_chunk(index), n_rows=90, class_name="90"))


@pytest.mark.parametrize("kind", ["parquet", "postgis"])
def bench_a_reader_during_a_load(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    url = str(tmp_path / "store") if kind == "parquet" else request.getfixturevalue("postgis_database")
    with open_store(url) as store:
        writer = processes.Process(target=_write_chunks, args=(url,))
        writer.start()
        polls = 0
        while writer.is_alive():
            # Raises for an error, and for a chunk that is there in part.
            assert_whole(store)
            polls += 1
        writer.join()
        assert writer.exitcode == 0
        assert_whole(store)
        record(
            "store",
            f"reader_{kind}",
            {"polls": polls, "errors": 0, "half_chunks": 0, "chunks": store.ledger().num_rows},
        )


# -- reports


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    """Both stores with the archive in them."""
    if given := os.environ.get("SIGHTFLOW_BENCH_STORES"):
        urls = dict(zip(("parquet", "postgis"), given.split(","), strict=True))
        stores = {name: open_store(url) for name, url in urls.items()}
    else:
        folder = str(tmp_path_factory.mktemp("archive") / "store")
        stores = {"parquet": open_store(folder)}
        stores["postgis"] = open_store(request.getfixturevalue("postgis_module_database"))
        for name, store in stores.items():
            store.prepare()
            start = time.perf_counter()
            n = fill(store, N_SOURCES, N_CHUNKS, ROWS // N_SOURCES // N_CHUNKS)
            record("store", f"fill_{name}", {"observations": n, "seconds": time.perf_counter() - start})
    yield stores
    for store in stores.values():
        store.close()


def bench_reports(filled: dict[str, Store]) -> None:
    for kind, store in filled.items():
        figures: dict[str, Any] = {"rows": store.query("select count(*) as n from observations")["n"][0].as_py()}
        # What a report over observations takes at least: one pass over the source's.
        sql = "select count(*) as n, max(x_px) as x from track_observations where source_id = $source"
        baseline = statistics.median(seconds(lambda: store.query(sql, {"source": SOURCE}), 3))  # noqa: B023
        figures["one_pass_over_observations_s"] = baseline
        for name, report in REPORTS.items():
            given = {key: value for key, value in ONE_DAY.items() if key in report.parameters}
            run_report(store, name, **given)
            took = seconds(lambda: run_report(store, name, **given), 5)  # noqa: B023
            everything = seconds(lambda: run_report(store, name), 3)  # noqa: B023
            figures[name] = {
                "one_source_and_day_s": {"least": took[0], "median": took[2]},
                "all_sources_s": {"least": everything[0], "median": everything[1]},
                "ratio_to_one_pass": baseline / took[2],
            }
        figures["slowest_one_source_s"] = max(figures[name]["one_source_and_day_s"]["median"] for name in REPORTS)
        figures["slowest_all_sources_from_tracks_s"] = max(
            figures[name]["all_sources_s"]["median"] for name in FROM_TRACKS
        )
        record("store", f"reports_{kind}", figures)


def bench_both_stores_answer_alike(filled: dict[str, Store]) -> None:
    compared = 0
    for name, report in REPORTS.items():
        for given in ({}, ONE_DAY, {"class": "car", "bin_seconds": 900, "unit": "m", "cell": 2}):
            taken = {key: value for key, value in given.items() if key in report.parameters}
            one, other = (run_report(store, name, **taken) for store in filled.values())
            assert one.schema == other.schema, name
            assert repr(one.to_pylist()) == repr(other.to_pylist()), (name, taken)
            compared += one.num_rows
    record("store", "identical", {"reports": len(REPORTS), "rows_compared": compared, "different": 0})


def bench_reading_observations(filled: dict[str, Store]) -> None:
    where = Filter(source_id=SOURCE)
    figures: dict[str, Any] = {}
    for kind, store in filled.items():
        figures[f"{kind}_s"] = seconds(lambda: list(store.observations(where, COLUMNS, ordered=False)), 3)[0]  # noqa: B023
        figures[f"{kind}_ordered_s"] = seconds(lambda: list(store.observations(where, COLUMNS)), 3)[0]  # noqa: B023
        figures[f"{kind}_events_s"] = seconds(lambda: recompute_events(store, SOURCE), 1)[0]  # noqa: B023
    server: Any = filled["postgis"]
    sql, values, schema = observations_sql(where, COLUMNS, ordered=False)

    def by_objects(statement: str, values: dict[str, Any], schema: pa.Schema) -> None:
        with server._server.connect() as connection, connection.cursor(binary=True) as cursor:
            columns = zip(*cursor.execute(statement, values).fetchall(), strict=True)
            for column, field in zip(columns, schema, strict=True):
                pa.array(column, field.type)

    figures["postgis_by_python_objects_s"] = seconds(lambda: by_objects(to_psycopg(sql), values, schema), 3)[0]
    figures["ratio_to_python_objects"] = figures["postgis_by_python_objects_s"] / figures["postgis_s"]
    every_tracklet = f"select {', '.join(TRACKLETS.names)} from tracklets"
    took = seconds(lambda: server._server.run(lambda c: pgarrow.fetch(c, every_tracklet, ())), 3)[0]
    baseline = seconds(lambda: by_objects(every_tracklet, {}, TRACKLETS), 3)[0]
    figures |= {"postgis_tracklets_s": took, "tracklets_ratio_to_python_objects": baseline / took}
    record("store", "reading_observations", figures)


# -- thinning


@dataclass
class _Sighting:
    pts_ns: int
    state: State


def _thinned(observations: pa.Table, hz: float | None) -> pa.Table:
    """What `store.observe_hz` keeps, tracklet by tracklet."""
    codes = observations["tracklet_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    pts, states = observations["pts_ns"].to_pylist(), observations["state"].to_pylist()
    kept: list[int] = []
    for rows in np.split(np.arange(len(codes)), np.flatnonzero(np.diff(codes)) + 1):
        sightings: Any = [_Sighting(pts[row], State(states[row])) for row in rows]
        kept += [int(rows[index]) for index in thinned(sightings, range(len(rows)), hz)]
    return observations.take(pa.array(kept))


def _off_the_way(full: pa.Table, thin: pa.Table) -> tuple[float, float]:
    """How far full ways lie from thinned ones at the same time, metres: 95th percentile and most."""
    off = []
    for name in pc.unique(full["tracklet_id"]).to_pylist():
        a, b = (t.filter(pc.equal(t["tracklet_id"], name)) for t in (full, thin))
        t, s = a["pts_ns"].to_numpy(), b["pts_ns"].to_numpy()
        off.append(np.hypot(*(a[c].to_numpy() - np.interp(t, s, b[c].to_numpy()) for c in ("x_m", "y_m"))))
    distances = np.concatenate(off)
    return float(np.percentile(distances, 95)), float(distances.max())


def _figures(store: Store) -> dict[str, float]:
    def total(report: str, column: str, **given: Any) -> float:
        return float(sum(value or 0 for value in run_report(store, report, **given)[column].to_pylist()))

    speed = run_report(store, "speed")
    return {
        "tracks": total("counts", "tracks"),
        "track_seconds": total("counts", "total_s"),
        "visits": total("zones", "visits"),
        "dwell_s": total("zones", "total_s"),
        "occupancy": total("occupancy", "mean_objects"),
        "crossings": total("lines", "crossings"),
        "trips": total("od", "tracks"),
        "heatmap_s": total("heatmap", "seconds"),
        "heatmap_cells": float(run_report(store, "heatmap").num_rows),
        "mean_speed_m_s": float(np.average(speed["mean_m_s"].to_numpy(), weights=speed["seconds"].to_numpy())),
        "p85_speed_m_s": float(np.average(speed["p85_m_s"].to_numpy(), weights=speed["seconds"].to_numpy())),
        "present_h": total("activity", "present_h"),
        "active_h": total("activity", "active_h"),
        "bridged_share_of_rows": float(
            np.average([r["share"] for r in run_report(store, "quality").to_pylist() if r["state"] == "bridged"])
        ),
        "inferred_share": total("inferred", "inferred_s") / total("inferred", "seconds"),
    }


def bench_observe_hz(tmp_path: Path) -> None:
    chunks = [make_archive_chunk("gate", index, 24, 10_000) for index in range(24)]
    found: dict[str, dict[str, float]] = {}
    for hz in (None, 10, 5, 2, 1, 0.2):
        with open_store(str(tmp_path / str(hz))) as store:
            store.write_zones("gate", ZONES)
            size, off = 0, []
            for chunk in chunks:
                thin = _thinned(chunk.observations, hz)
                size += thin.num_rows
                off.append(_off_the_way(chunk.observations, thin))
                tracklets = chunk.tracklets.cast(TRACKLETS)
                store.add_video(chunk.chunk.video)
                store.commit(ChunkResult(chunk.chunk, thin, tracklets))
            link_all(store, "gate")
            recompute_events(store, "gate")
            ways = {"way_p95_m": statistics.median(o[0] for o in off), "way_most_m": max(o[1] for o in off)}
            found[str(hz)] = {"rows": size, **ways, **_figures(store)}
    record("store", "observe_hz", found)
