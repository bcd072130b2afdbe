"""A store in PostgreSQL with PostGIS: many writers on many machines, spatial columns, indexes.

Everything lies in the schema `sightflow` of the database (`tables.sql`). A chunk is one transaction: its ledger row is
locked, its earlier rows are deleted, the new ones loaded by binary COPY, the row marked done. Readers see the state
before or after.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Connection

from flows.schema import EPOCH, EVENTS, LEDGER, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, ChunkState, Video
from flows.store import pgarrow, pgclaims, pgplaces, pgschema
from flows.store.base import Filter, Store, Zone, ZoneVersion
from flows.store.pgconnect import Server
from flows.store.pgwrite import (
    assignments,
    delete_chunk,
    fill_version_2,
    insert,
    load_chunk,
    locked_row,
    relocate,
    write_row,
)
from flows.store.sql import bound, observations_sql, to_psycopg
from flows.store.tables import (
    STATS,
    VIDEOS,
    begun_row,
    days_of,
    ended_row,
    planned_row,
    rejected_id,
    rejected_row,
    video_row,
    zones_of,
)

_LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"
_MARK_NEWEST = """
    update links k set newest = not k.newest
    from (select max(version) as version from link_versions where source_id = %(source_id)s) n
    where k.source_id = %(source_id)s and k.newest <> (k.version = n.version)
"""


_ANALYZE = """
    analyze links, tracklets (source_id, tracklet_id, class_name, n_observations, t0, t1),
        samples (source_id, tracklet_id, class_name, ts)
"""
_STATS = """
    select t.name as table, t.rows, cast(coalesce(sum(pg_total_relation_size(p.relid)), 0) as bigint) as bytes,
        count(p.relid) as parts,
        min(to_date(substring(p.relid::regclass::text from 'observations_([0-9]{8})$'), 'YYYYMMDD')) as first_day,
        max(to_date(substring(p.relid::regclass::text from 'observations_([0-9]{8})$'), 'YYYYMMDD')) as last_day
    from (
        select 'observations' as name, count(*) as rows from observations
        union all select 'samples', count(*) from samples
        union all select 'tracklets', count(*) from tracklets
        union all select 'links', count(*) from links
        union all select 'events', count(*) from events
        union all select 'chunks', count(*) from chunks
    ) t left join lateral (
        select inhrelid as relid from pg_inherits where inhparent = t.name::regclass
        union all select t.name::regclass where t.name <> 'observations'
    ) p on true group by t.name, t.rows order by t.name
"""


class PostgisStore(Store):
    """The server store. Safe for many processes on many machines."""

    def __init__(self, url: str) -> None:
        """See `flows.store.open_store`; the password, if the URL has one, is left out of `self.url`."""
        self._server = Server(url)
        self.url = self._server.url

    def prepare(self) -> None:
        """See `Store.prepare`. Makes the extension, where this user may, and the tables, where there are none."""
        self._server.run(pgschema.prepare, retry=False)

    def check(self) -> None:
        """See `Store.check`."""
        self._server.run(pgschema.check, retry=False)

    def upgrade(self) -> list[int]:
        """See `Store.upgrade`."""

        def work(connection: Connection) -> list[int]:
            return pgschema.upgrade(connection, fill_version_2)

        return self._server.run(work, retry=False)

    def close(self) -> None:
        """See `Store.close`."""
        self._server.close()

    # -- the ledger

    def add_run(self, run_id: str, command: str, settings_json: str) -> None:
        """See `Store.add_run`."""
        sql = "insert into runs values (%s, %s, %s, %s) on conflict (run_id) do nothing"
        self._execute(sql, (run_id, datetime.now(UTC), command, settings_json))

    def add_video(self, video: Video) -> None:
        """See `Store.add_video`."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                connection.execute("insert into sources values (%s) on conflict do nothing", (video.source_id,))
                sql = (
                    insert("videos", VIDEOS.names)
                    + f" on conflict (video_id) do update set {assignments(VIDEOS.names)}"
                )
                connection.execute(sql, video_row(video))
                rejected = rejected_id(video.uri, video.source_id)
                connection.execute("delete from chunks where chunk_id = %s", (rejected,))

        self._server.run(work)

    def plan(self, chunks: Sequence[Chunk]) -> None:
        """See `Store.plan`."""
        rows = [planned_row(chunk) for chunk in chunks]

        def work(connection: Connection) -> None:
            # In one order everywhere, so that two planners of the same chunks do not lock each other out.
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(
                    insert("chunks", LEDGER.names) + " on conflict do nothing",
                    sorted(rows, key=lambda row: row["chunk_id"]),
                )

        self._server.run(work)

    def reject(self, uri: str, source_id: str, error: str) -> None:
        """See `Store.reject`."""
        row = rejected_row(uri, source_id, error)

        def work(connection: Connection) -> None:
            replace = f" on conflict (chunk_id) do update set {assignments(row)}"
            connection.execute(insert("chunks", row) + replace, row)

        self._server.run(work)

    def begin(self, chunk: Chunk, max_attempts: int, run_id: str = "") -> bool:
        """See `Store.begin`."""

        def work(connection: Connection) -> bool:
            with connection.transaction():
                before = locked_row(connection, chunk)
                held = bool(pgclaims.held(connection, run_id, [chunk.chunk_id]))
                may_start, row = begun_row(before, max_attempts, held)
                write_row(connection, row)
                if may_start:
                    pgclaims.claim(connection, run_id, chunk.chunk_id)
                return may_start

        return self._server.run(work)

    def hold(self, run_id: str, seconds: float) -> None:
        """See `Store.hold`. By the server's clock."""
        self._server.run(lambda connection: pgclaims.hold(connection, run_id, seconds))

    def held(self, run_id: str, chunk_ids: Sequence[str]) -> set[str]:
        """See `Store.held`."""
        return self._server.run(lambda connection: pgclaims.held(connection, run_id, chunk_ids))

    def hand_back(self, run_id: str, chunk_ids: Sequence[str] | None = None) -> int:
        """See `Store.hand_back`."""
        return self._server.run(lambda connection: pgclaims.hand_back(connection, run_id, chunk_ids))

    def commit(self, result: ChunkResult) -> None:
        """See `Store.commit`. A failure does not take back what another attempt finished."""
        chunk = result.chunk
        days = [day.as_py().isoformat() for day in pc.unique(days_of(result.observations))]

        def work(connection: Connection) -> None:
            pgschema.make_partitions(connection, days)
            with connection.transaction():
                row = locked_row(connection, chunk)
                if result.error is not None and row["state"] == ChunkState.DONE:
                    return
                delete_chunk(connection, chunk)
                if result.error is None:
                    load_chunk(connection, result)
                write_row(connection, ended_row(row, result))

        self._server.run(work)

    def reset_failed(self, chunk_ids: Sequence[str]) -> int:
        """See `Store.reset_failed`."""
        sql = (
            "update chunks set state = %s, attempts = 0, error = null, updated_at = now()"
            " where state = %s and chunk_id = any(%s)"
        )
        return self._execute(sql, (ChunkState.PLANNED.value, ChunkState.FAILED.value, list(chunk_ids)))

    def ledger(self, chunk_ids: Sequence[str] | None = None) -> pa.Table:
        """See `Store.ledger`."""
        condition = "true" if chunk_ids is None else "chunk_id = any(%s)"
        parameters = () if chunk_ids is None else (list(chunk_ids),)
        return self._read("chunks", LEDGER, condition, parameters, "source_id, video_id, start_ns, chunk_id")

    def show(self, video_id: str, settings_hash: str) -> None:
        """See `Store.show`."""
        self._execute(pgclaims.SHOW, {"video_id": video_id, "settings_hash": settings_hash, "done": ChunkState.DONE})

    def stamp(self, source_id: str) -> str:
        """See `Store.stamp`."""
        sql = "select count(*), max(updated_at) from chunks where source_id = %s and state = %s"

        def work(connection: Connection) -> str:
            (count, newest) = connection.execute(sql, (source_id, ChunkState.DONE)).fetchone() or (0, None)
            return f"{count} {newest.isoformat() if newest else ''}"

        return self._server.run(work)

    def finished(self, source_id: str) -> str | None:
        """See `Store.finished`."""
        sql = "select stamp from finished where source_id = $source_id"
        found: list[str] = self.query(sql, {"source_id": source_id})["stamp"].to_pylist()
        return found[0] if found else None

    def finish(self, source_id: str, stamp: str) -> None:
        """See `Store.finish`."""
        sql = "insert into finished values (%s, %s) on conflict (source_id) do update set stamp = excluded.stamp"
        self._execute(sql, (source_id, stamp))

    # -- identity

    @contextmanager
    def locked(self, source_id: str) -> Iterator[None]:
        """See `Store.locked`. The server frees it when this process dies."""
        # A connection of its own: the lock belongs to it and outlives transactions on the other.
        connection = self._server.connect()
        try:
            try:
                connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (f"stitch {source_id}",))
            except psycopg.Error as error:
                raise self._server.explained(error) from error
            yield
        finally:
            connection.close()

    def tracklets(self, source_id: str) -> pa.Table:
        """See `Store.tracklets`."""
        return self._read("tracklets", TRACKLETS, "source_id = %s", (source_id,), "video_id, pts0_ns, tracklet_id")

    def links(self, source_id: str, version: int | None = None) -> pa.Table:
        """See `Store.links`."""
        if version is None:
            return self._read("newest_links", TRACK_LINKS, "source_id = %s", (source_id,), "tracklet_id")
        return self._read(
            "track_links", TRACK_LINKS, "source_id = %s and version = %s", (source_id, version), "tracklet_id"
        )

    def write_links(self, source_id: str, version: int, links: pa.Table) -> None:
        """See `Store.write_links`."""

        key = (source_id, version)

        def work(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(_LOCK, (f"links {source_id}",))
                connection.execute("delete from links where (source_id, version) = (%s, %s)", key)
                connection.execute("insert into link_versions values (%s, %s) on conflict do nothing", key)
                pgarrow.copy(connection, "links", links.cast(TRACK_LINKS))
                connection.execute(_MARK_NEWEST, {"source_id": source_id})
            # What reports join with, so that their plans know how much there is; wide columns would take seconds.
            connection.execute(_ANALYZE)

        self._server.run(work)

    # -- places

    def write_time_zone(self, source_id: str, time_zone: str) -> None:
        """See `Store.write_time_zone`."""
        sql = "insert into sources values (%s, %s) on conflict (source_id) do update set time_zone = excluded.time_zone"
        self._execute(sql, (source_id, time_zone))

    def write_zones(self, source_id: str, zones: Sequence[Zone]) -> None:
        """See `Store.write_zones`. Those in metres are geometries, too."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                pgplaces.write_zones(connection, source_id, zones)

        self._server.run(work)

    def zone_versions(self, source_id: str) -> list[ZoneVersion]:
        """See `Store.zone_versions`."""
        sql = "select version, written_at, zones from zone_versions where source_id = $source_id order by version"
        rows = self.query(sql, {"source_id": source_id}).to_pylist()
        return [ZoneVersion(r["version"], r["written_at"], tuple(zones_of(json.loads(r["zones"])))) for r in rows]

    def write_calibration(self, source_id: str, calibration_json: str, valid_from: datetime = EPOCH) -> None:
        """See `Store.write_calibration`. Its frame gets a number in PostGIS where it has a place on earth."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                pgplaces.write_calibration(connection, source_id, calibration_json, valid_from)

        self._server.run(work)

    def calibrations(self, source_id: str) -> list[tuple[datetime, str]]:
        """See `Store.calibrations`."""
        sql = "select valid_from, calibration from calibration_versions where source_id = $source_id order by 1"
        rows = self.query(sql, {"source_id": source_id}).to_pylist()
        return [(row["valid_from"], row["calibration"]) for row in rows]

    def relocate(self, source_id: str, locate: Callable[[pa.Table], pa.Table]) -> None:
        """See `Store.relocate`."""
        self._server.run(lambda connection: relocate(connection, source_id, locate))

    def write_events(self, source_id: str, events: pa.Table) -> None:
        """See `Store.write_events`."""

        def work(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(_LOCK, (f"events {source_id}",))
                # What was made of pruned observations cannot be made again, so it stays.
                connection.execute(
                    "delete from events where source_id = %s"
                    " and ts >= coalesce((select until from pruned), '-infinity')",
                    (source_id,),
                )
                pgarrow.copy(connection, "events", events.cast(EVENTS))

        self._server.run(work)

    # -- keeping house

    def prune(self, before: date) -> list[date]:
        """See `Store.prune`. Partitions are dropped whole."""
        return self._server.run(lambda connection: pgschema.drop_partitions(connection, before))

    def stats(self) -> pa.Table:
        """See `Store.stats`. Counts every row: seconds for hundreds of millions."""
        return self.query(_STATS).cast(STATS)

    def grant_reader(self, role: str) -> bool:
        """See `Store.grant_reader`. A role that is made has no password, so that none passes through here."""
        return self._server.run(lambda connection: pgschema.grant_reader(connection, role))

    # -- reading

    def observations(
        self, where: Filter, columns: Sequence[str] | None = None, *, ordered: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """See `Store.observations`. Streams from a cursor on the server."""
        sql, values, schema = observations_sql(where, columns, ordered)
        connection = self._server.connect()
        try:
            yield from pgarrow.stream(connection, to_psycopg(sql), values, schema)
        except psycopg.Error as error:
            raise self._server.explained(error) from error
        finally:
            connection.close()

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """See `Store.query`."""
        values = bound(sql, parameters)
        statement = to_psycopg(sql)

        def work(connection: Connection) -> pa.Table:
            with connection.transaction():
                connection.execute("set transaction read only")
                return pgarrow.fetch(connection, statement, values)

        return self._server.run(work)

    # -- shared by the methods above

    def _execute(self, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> int:
        return self._server.run(lambda connection: connection.execute(sql, parameters).rowcount)

    def _read(
        self, table: str, schema: pa.Schema, condition: str, parameters: Sequence[object], order: str
    ) -> pa.Table:
        sql = f"select {', '.join(schema.names)} from {table} where {condition} order by {order}"
        return self._server.run(lambda connection: pgarrow.fetch(connection, sql, parameters)).cast(schema)
