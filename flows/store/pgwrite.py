"""What one transaction of a PostGIS store writes: ledger rows, and everything a chunk produced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        for table in ("observations", "samples"):
            connection.execute(
                f"delete from {table} where source_id = %s and ts between %s and %s and chunk_id = %s",
                (chunk.video.source_id, t0, t1, chunk.chunk_id),
            )
    connection.execute("delete from tracklets where chunk_id = %s", (chunk.chunk_id,))


def load_chunk(connection: Connection, result: ChunkResult) -> None:
    """Write what a chunk produced; its earlier rows are gone."""
    # In order of time, as the index and the block ranges want them, and as they will be read.
    observations = result.observations.sort_by("ts")
    srid = srid_of(connection, result.chunk.video.source_id)
    if observations.num_rows:
        with connection.cursor() as cursor:
            pgcopy.load(cursor, "observations", observations, srid)
        bounds = pc.min_max(observations["ts"]).as_py()
        connection.execute(
            "insert into chunk_extents values (%s, %s, %s)", (result.chunk.chunk_id, bounds["min"], bounds["max"])
        )
        pgarrow.copy(connection, "samples", sample(observations))
    ways = paths(observations, result.tracklets["tracklet_id"], srid)
    lines = pa.array([way.hex() if way else None for way in ways], pa.string())
    pgarrow.copy(connection, "tracklets", result.tracklets.append_column("geom", lines))


def fill_version_2(connection: Connection) -> None:
    """Compute the samples and ways of all chunks that version 1 stored."""
    extents = connection.execute(
        "select c.source_id, c.chunk_id, e.t0, e.t1 from chunk_extents e join chunks c on c.chunk_id = e.chunk_id"
    ).fetchall()
    for source_id, chunk_id, t0, t1 in extents:
        sql = (
            f"select {', '.join(OBSERVATIONS.names)} from observations"
            " where source_id = %s and ts between %s and %s and chunk_id = %s"
        )
        observations = pgarrow.fetch(connection, sql, (source_id, t0, t1, chunk_id)).cast(OBSERVATIONS)
        pgarrow.copy(connection, "samples", sample(observations))
        ids = pc.unique(observations["tracklet_id"])
        ways = zip(ids.to_pylist(), paths(observations, ids, LOCAL_SRID), strict=True)
        with connection.cursor() as cursor:
            cursor.executemany(
                "update tracklets set geom = %s where chunk_id = %s and tracklet_id = %s",
                [(way.hex(), chunk_id, tracklet_id) for tracklet_id, way in ways if way],
            )
