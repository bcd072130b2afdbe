"""What one transaction of a PostGIS store writes: ledger rows, and everything a chunk produced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Connection
from psycopg.rows import dict_row

from flows.schema import OBSERVATIONS, Chunk, ChunkResult
from flows.store import pgarrow, pgcopy
from flows.store.geometry import LOCAL_SRID, paths
from flows.store.pgplaces import srid_of
from flows.store.samples import sample
from flows.store.tables import planned_row


def locked_row(connection: Connection, chunk: Chunk) -> dict[str, Any]:
    """The chunk's ledger row, held until the transaction ends; a planned one where it was not there."""
    row = planned_row(chunk)
    connection.execute(insert("chunks", row) + " on conflict do nothing", row)
    sql = "select * from chunks where chunk_id = %s for update"
    (found,) = connection.cursor(row_factory=dict_row).execute(sql, (chunk.chunk_id,))
    return found


def write_row(connection: Connection, row: Mapping[str, Any]) -> None:
    """Replace a ledger row."""
    connection.execute(f"update chunks set {assignments(row)} where chunk_id = %(chunk_id)s", row)


def insert(table: str, names: Iterable[str]) -> str:
    """INSERT of one row given as a mapping of these names."""
    names = list(names)
    return f"insert into {table} ({', '.join(names)}) values ({', '.join(f'%({name})s' for name in names)})"


def assignments(names: Iterable[str]) -> str:
    """The SET list of an UPDATE with a mapping of these names."""
    return ", ".join(f"{name} = %({name})s" for name in names)


def delete_chunk(connection: Connection, chunk: Chunk) -> None:
    """Delete whatever the chunk wrote before."""
    sql = "delete from chunk_extents where chunk_id = %s returning t0, t1"
    for t0, t1 in connection.execute(sql, (chunk.chunk_id,)).fetchall():
        _delete_rows(connection, (chunk.video.source_id, t0, t1, chunk.chunk_id))
    connection.execute("delete from tracklets where chunk_id = %s", (chunk.chunk_id,))


def _delete_rows(connection: Connection, extent: tuple[Any, ...]) -> None:
    for table in ("observations", "samples"):
        connection.execute(f"delete from {table} {_OF_EXTENT}", extent)


def load_chunk(connection: Connection, result: ChunkResult) -> None:
    """Write what a chunk produced; its earlier rows are gone."""
    # In order of time, as the index and the block ranges want them, and as they will be read.
    observations = result.observations.sort_by("ts")
    srid = srid_of(connection, result.chunk.video.source_id)
    if observations.num_rows:
        _load_rows(connection, observations, srid)
        bounds = pc.min_max(observations["ts"]).as_py()
        connection.execute(
            "insert into chunk_extents values (%s, %s, %s)", (result.chunk.chunk_id, bounds["min"], bounds["max"])
        )
    ways = paths(observations, result.tracklets["tracklet_id"], srid)
    lines = pa.array([way.hex() if way else None for way in ways], pa.string())
    pgarrow.copy(connection, "tracklets", result.tracklets.append_column("geom", lines))


def _load_rows(connection: Connection, observations: pa.Table, srid: int) -> None:
    with connection.cursor() as cursor:
        pgcopy.load(cursor, "observations", observations, srid)
    pgarrow.copy(connection, "samples", sample(observations))


def relocate(connection: Connection, source_id: str, locate: Callable[[pa.Table], pa.Table]) -> None:
    """See `Store.relocate`; one transaction for each chunk."""
    srid = srid_of(connection, source_id)
    for extent in _extents(connection):
        if extent[0] != source_id:
            continue
        with connection.transaction():
            connection.execute("select 1 from chunks where chunk_id = %s for update", (extent[-1],))
            observations = _stored(connection, extent)
            sampled = connection.execute(f"select sum(n_observations) from samples {_OF_EXTENT}", extent).fetchone()
            if observations.num_rows and sampled == (observations.num_rows,):
                located = locate(observations).sort_by("ts")
                _delete_rows(connection, extent)
                _load_rows(connection, located, srid)
                _write_ways(connection, extent[-1], located, srid)


def fill_version_2(connection: Connection) -> None:
    """Compute the samples and ways of all chunks that version 1 stored."""
    for extent in _extents(connection):
        observations = _stored(connection, extent)
        pgarrow.copy(connection, "samples", sample(observations))
        _write_ways(connection, extent[-1], observations, LOCAL_SRID)


_OF_EXTENT = "where source_id = %s and ts between %s and %s and chunk_id = %s"


def _extents(connection: Connection) -> list[tuple[Any, ...]]:
    """Source, first and last time, and id of every chunk with observations."""
    return connection.execute(
        "select c.source_id, e.t0, e.t1, c.chunk_id from chunk_extents e join chunks c on c.chunk_id = e.chunk_id"
    ).fetchall()


def _stored(connection: Connection, extent: tuple[Any, ...]) -> pa.Table:
    sql = f"select {', '.join(OBSERVATIONS.names)} from observations {_OF_EXTENT}"
    return pgarrow.fetch(connection, sql, extent).cast(OBSERVATIONS)


def _write_ways(connection: Connection, chunk_id: str, observations: pa.Table, srid: int) -> None:
    """Replace the ways of a chunk's tracklets."""
    ids = pc.unique(observations["tracklet_id"])
    ways = zip(ids.to_pylist(), paths(observations, ids, srid), strict=True)
    with connection.cursor() as cursor:
        cursor.executemany(
            "update tracklets set geom = %s where chunk_id = %s and tracklet_id = %s",
            [(way and way.hex(), chunk_id, tracklet_id) for tracklet_id, way in ways],
        )
