"""A store in a folder: Parquet and JSON files, no server, readable while it is written.

    schema_version
    ledger/<chunk_id>.json                    one per chunk; names the chunk's files once it is done
    observations/source_id=.../day=.../<chunk_id>-<token>.parquet
    samples/source_id=.../<chunk_id>-<token>.parquet
    tracklets/source_id=.../<chunk_id>-<token>.parquet
    links/source_id=.../version=<n>.parquet
    events/source_id=....parquet
    videos/ runs/ zones/ calibrations/        small JSON files; see `places` for the last two
    sources/                                  time zones of those that have one
    finished/ leases/                         how far sources are stitched; which runs are alive
    pruned_until                              observations before this day were pruned
    locks/                                    one per source and purpose, always empty

Every file is written under a temporary name, flushed and renamed. A chunk's rows are those its ledger file lists, so
one rename makes all of them visible, over however many days they spread. DuckDB reads them from a database in memory
only: a `.duckdb` file could not be shared between a writer and a reader. Where a source is calibrated, the
files of observations (points) and tracklets (lines) are GeoParquet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, time
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import StoreError
from flows.schema import (
    EPOCH,
    EVENTS,
    LEDGER,
    OBSERVATIONS,
    TIMESTAMP,
    TRACK_LINKS,
    TRACKLETS,
    Chunk,
    ChunkResult,
    ChunkState,
    Video,
)
from flows.store import duck, retention
from flows.store.base import SCHEMA_VERSION, Filter, Store, Zone, ZoneVersion
from flows.store.files import (
    FileCache,
    explained,
    file_lock,
    read_table,
    source_folder,
    write_durably,
    write_table_durably,
)
from flows.store.held import Held
from flows.store.ledger import Ledger, add_confirmed, add_samples, files_of, read_json, write_json
from flows.store.links import Links
from flows.store.places import Places
from flows.store.samples import SAMPLES
from flows.store.stretches import ROWS_PER_STRETCH, stretches
from flows.store.tables import RUNS, SOURCES, VIDEOS, check_upgrade, check_version, rejected_id, video_row


class ParquetStore(Store):
    """The embedded store. Safe for many processes on one machine, or on a shared folder whose locks work."""

    def __init__(self, url: str) -> None:
        if "://" in url:
            scheme = url.split("://", 1)[0]
            raise StoreError(f"a store is a folder or postgresql://..., got an address that starts with {scheme}://")
        self.url = url
        self._folder = Path(url).expanduser()
        self._ledger = Ledger(self._folder)
        self._places = Places(self._folder)
        self._json = FileCache(read_json)
        self._links = Links(self._folder)
        self._events = FileCache(lambda path: read_table(path, EVENTS))
        self._held: dict[str, Held] = {}

    def prepare(self) -> None:
        """See `Store.prepare`. A folder that holds other things is refused."""
        version_file = self._folder / "schema_version"
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                version = version_file.read_text().strip()
            except FileNotFoundError:
                # The version is the first file of a store, so two processes may both prepare a new one.
                if any(not path.name.startswith(".") for path in self._folder.iterdir()) and not version_file.exists():
                    raise StoreError(
                        f"{self._folder} is not empty and holds no Sightflow store (no file schema_version): "
                        "choose a new or empty folder with --store"
                    ) from None
                version = str(SCHEMA_VERSION)
                write_durably(version_file, f"{version}\n".encode())
        check_version(version, str(self._folder))

    def check(self) -> None:
        """See `Store.check`."""
        check_version(self._version(), str(self._folder))

    def upgrade(self) -> list[int]:
        """See `Store.upgrade`. May be killed and run again; each step's version is written last."""
        version_file = self._folder / "schema_version"
        with explained(self._folder), file_lock(self._folder / "locks" / "upgrade"):
            version = self._version()
            check_upgrade(version, str(self._folder))
            steps = list(range(int(version) + 1, SCHEMA_VERSION + 1))
            for step in steps:
                if step == 2:
                    for row in self._ledger.rows():
                        add_samples(self._folder, self._ledger, row)
                elif step == 3:
                    self._places.upgrade()
                elif step == 4:
                    for row in self._ledger.rows():
                        add_confirmed(self._folder, row)
                write_durably(version_file, f"{step}\n".encode())
        return steps

    def close(self) -> None:
        """See `Store.close`; nothing stays open."""

    def hold_in_memory(self) -> None:
        """See `Store.hold_in_memory`."""
        self._held = {"tracklets": Held(), "samples": Held()}

    # -- the ledger

    def add_run(self, run_id: str, command: str, settings_json: str) -> None:
        """See `Store.add_run`."""
        row = {"run_id": run_id, "started_at": datetime.now(UTC), "command": command, "settings": settings_json}
        with explained(self._folder):
            write_json(self._folder / "runs" / f"{run_id}.json", row)

    def add_video(self, video: Video) -> None:
        """See `Store.add_video`."""
        with explained(self._folder):
            write_json(self._folder / "videos" / f"{video.video_id}.json", video_row(video))
            self._ledger.forget(rejected_id(video.uri, video.source_id))

    def plan(self, chunks: Sequence[Chunk]) -> None:
        """See `Store.plan`."""
        for chunk in chunks:
            self._ledger.plan(chunk)

    def reject(self, uri: str, source_id: str, error: str) -> None:
        """See `Store.reject`."""
        self._ledger.reject(uri, source_id, error)

    def begin(self, chunk: Chunk, max_attempts: int, run_id: str = "") -> bool:
        """See `Store.begin`."""
        return self._ledger.begin(chunk, max_attempts, run_id)

    def hold(self, run_id: str, seconds: float) -> None:
        """See `Store.hold`. Machines that share the folder must agree on the time to within a few seconds."""
        with explained(self._folder):
            self._ledger.hold(run_id, seconds)

    def held(self, run_id: str, chunk_ids: Sequence[str]) -> set[str]:
        """See `Store.held`."""
        with explained(self._folder):
            return self._ledger.held(run_id, chunk_ids)

    def hand_back(self, run_id: str, chunk_ids: Sequence[str] | None = None) -> int:
        """See `Store.hand_back`."""
        with explained(self._folder):
            return self._ledger.hand_back(run_id, chunk_ids)

    def commit(self, result: ChunkResult) -> None:
        """See `Store.commit`. A failure does not take back what another attempt finished."""
        self._ledger.commit(result, self.calibration(result.chunk.video.source_id))

    def reset_failed(self, chunk_ids: Sequence[str]) -> int:
        """See `Store.reset_failed`."""
        with explained(self._folder):
            return sum([self._ledger.reset(chunk_id) for chunk_id in chunk_ids])

    def ledger(self, chunk_ids: Sequence[str] | None = None) -> pa.Table:
        """See `Store.ledger`."""
        with explained(self._folder):
            return pa.Table.from_pylist(self._ledger.rows(chunk_ids), LEDGER)

    def show(self, video_id: str, settings_hash: str) -> None:
        """See `Store.show`."""
        with explained(self._folder):
            rows = [
                row for row in self._ledger.rows() if row["video_id"] == video_id and row["state"] == ChunkState.DONE
            ]
            newest = max(rows, key=lambda row: row["updated_at"], default=None)
            if newest is not None and newest["settings_hash"] != settings_hash:
                self._ledger.touch(row["chunk_id"] for row in rows if row["settings_hash"] == settings_hash)

    def stamp(self, source_id: str) -> str:
        """See `Store.stamp`."""
        with explained(self._folder):
            rows = [
                row for row in self._ledger.rows() if row["source_id"] == source_id and row["state"] == ChunkState.DONE
            ]
        return f"{len(rows)} {max((row['updated_at'].isoformat() for row in rows), default='')}"

    def finished(self, source_id: str) -> str | None:
        """See `Store.finished`."""
        with explained(self._folder):
            found = self._json.get(self._folder / "finished" / f"{source_folder(source_id)}.json")
        return found["stamp"] if found else None

    def finish(self, source_id: str, stamp: str) -> None:
        """See `Store.finish`."""
        with explained(self._folder):
            path = self._folder / "finished" / f"{source_folder(source_id)}.json"
            write_json(path, {"source_id": source_id, "stamp": stamp})

    # -- identity

    @contextmanager
    def locked(self, source_id: str) -> Iterator[None]:
        """See `Store.locked`."""
        with ExitStack() as held:
            # What is done under the lock is not the lock's to explain.
            with explained(self._folder):
                held.enter_context(file_lock(self._folder / "locks" / f"{source_folder(source_id)}.stitch"))
            yield

    def tracklets(self, source_id: str) -> pa.Table:
        """See `Store.tracklets`."""
        with explained(self._folder):
            rows = [row for row in self._ledger.rows() if row["source_id"] == source_id]
            tables = [read_table(self._folder / path, TRACKLETS) for path in files_of(rows, "tracklets")]
        table = pa.concat_tables([TRACKLETS.empty_table(), *tables])
        return table.sort_by([(name, "ascending") for name in ("video_id", "pts0_ns", "tracklet_id")])

    def links(self, source_id: str, version: int | None = None) -> pa.Table:
        """See `Store.links`."""
        with explained(self._folder):
            versions = self._links.versions(source_id)
        if version is None:
            version = max(versions, default=0)
        return versions.get(version, TRACK_LINKS.empty_table()).sort_by("tracklet_id")

    def write_links(self, source_id: str, version: int, links: pa.Table) -> None:
        """See `Store.write_links`."""
        with explained(self._folder):
            self._links.write(source_id, version, links)

    # -- places

    def write_time_zone(self, source_id: str, time_zone: str) -> None:
        """See `Store.write_time_zone`."""
        with explained(self._folder):
            path = self._folder / "sources" / f"{source_folder(source_id)}.json"
            write_json(path, {"source_id": source_id, "time_zone": time_zone})

    def write_zones(self, source_id: str, zones: Sequence[Zone]) -> None:
        """See `Store.write_zones`."""
        with explained(self._folder):
            self._places.add_zones(source_id, zones)

    def zone_versions(self, source_id: str) -> list[ZoneVersion]:
        """See `Store.zone_versions`."""
        with explained(self._folder):
            return self._places.zone_versions(source_id)

    def write_calibration(self, source_id: str, calibration_json: str, valid_from: datetime = EPOCH) -> None:
        """See `Store.write_calibration`."""
        with explained(self._folder):
            self._places.add_calibration(source_id, calibration_json, valid_from)

    def calibrations(self, source_id: str) -> list[tuple[datetime, str]]:
        """See `Store.calibrations`."""
        with explained(self._folder):
            return self._places.calibrations(source_id)

    def relocate(self, source_id: str, locate: Callable[[pa.Table], pa.Table]) -> None:
        """See `Store.relocate`."""
        with explained(self._folder):
            for row in self._done("source_id", source_id):
                self._ledger.relocate(row, locate, self.calibration(source_id))

    def write_events(self, source_id: str, events: pa.Table) -> None:
        """See `Store.write_events`."""
        path = self._folder / "events" / f"{source_folder(source_id)}.parquet"
        events = events.cast(EVENTS)
        with explained(self._folder):
            until, old = retention.pruned_until(self._folder), self._events.get(path)
            if until is not None and old is not None:
                # What was made of pruned observations cannot be made again, so it stays.
                bound = datetime.combine(until, time.min, UTC)
                events = pa.concat_tables([old.filter(pc.less(old["ts"], pa.scalar(bound, TIMESTAMP))), events])
            write_table_durably(path, events)

    # -- keeping house

    def prune(self, before: date) -> list[date]:
        """See `Store.prune`. Files go once readers that listed them are done: see `retention.prune`."""
        with explained(self._folder):
            return retention.prune(self._folder, self._ledger, before)

    def stats(self) -> pa.Table:
        """See `Store.stats`. Rows come from the files' footers and the ledger."""
        with explained(self._folder):
            return retention.stats(self._folder, self._ledger.rows())

    def _done(self, column: str, value: str) -> list[dict[str, Any]]:
        """Ledger rows of done chunks where a column has a value."""
        return [row for row in self._ledger.rows() if row[column] == value and row["state"] == ChunkState.DONE]

    def _version(self) -> str:
        with explained(self._folder):
            version_file = self._folder / "schema_version"
            if not version_file.is_file():
                raise StoreError(f"{self._folder} holds no store yet: `sightflow db init` makes one")
            return version_file.read_text().strip()

    # -- reading

    def observations(
        self, where: Filter, columns: Sequence[str] | None = None, *, ordered: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """See `Store.observations`. Sorted video by video, which bounds the memory a reader needs."""
        with explained(self._folder):
            rows = self._ledger.rows()
            chosen = [
                row
                for row in rows
                if where.source_id in (None, row["source_id"]) and where.video_id in (None, row["video_id"])
            ]
            for _, of_video in groupby(sorted(chosen, key=_video), key=_video):
                yield from self._of_video(list(of_video), where, columns, ordered)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """See `Store.query`."""
        with explained(self._folder):
            return duck.query(self._tables(cache(self._ledger.rows)), sql, parameters)

    def _of_video(
        self, rows: Sequence[Mapping[str, Any]], where: Filter, columns: Sequence[str] | None, ordered: bool
    ) -> Iterator[pa.RecordBatch]:
        """The observations of one video, given its ledger rows."""
        tables = self._tables(lambda: rows)
        paths = [f"{self._folder}/{path}" for path in files_of(rows, "observations")]
        if not ordered or sum(row["rows"] for row in rows) <= ROWS_PER_STRETCH:
            yield from duck.stream(tables, where, columns, ordered)
            return
        # Once for all stretches: who stitches meanwhile changes no name midway.
        links = self._links.newest(rows[0]["source_id"])
        for group in stretches(paths):
            files = duck.Files(OBSERVATIONS, group)
            parts = {**tables, "newest_links": lambda: links, "observations": lambda: files}  # noqa: B023
            yield from duck.stream(parts, where, columns, ordered)

    # -- files

    def _tables(self, rows: Callable[[], Sequence[Mapping[str, Any]]]) -> duck.Tables:
        """Every table of the store as these ledger rows have it; they are asked for when a table needs them."""

        def listed(schema: pa.Schema, table: str) -> pa.Table | duck.Files:
            files = duck.Files(schema, [f"{self._folder}/{path}" for path in files_of(rows(), table)])
            return self._held[table].table(files) if table in self._held else files

        return {
            "sources": self._sources,
            "videos": lambda: pa.Table.from_pylist(self._read_json("videos"), VIDEOS),
            "runs": lambda: pa.Table.from_pylist(self._read_json("runs"), RUNS),
            "chunks": lambda: pa.Table.from_pylist(list(rows()), LEDGER),
            "tracklets": lambda: listed(TRACKLETS, "tracklets"),
            "samples": lambda: listed(SAMPLES, "samples"),
            "observations": lambda: listed(OBSERVATIONS, "observations"),
            "track_links": self._links.every,
            "newest_links": self._links.newest_of_all,
            **self._places.tables(),
            "events": lambda: pa.concat_tables(
                [EVENTS.empty_table(), *self._events.all(self._folder / "events", ".parquet").values()]
            ),
        }

    def _read_json(self, table: str) -> list[dict[str, Any]]:
        return list(self._json.all(self._folder / table, ".json").values())

    def _sources(self) -> pa.Table:
        names = sorted({video["source_id"] for video in self._read_json("videos")})
        zones = {row["source_id"]: row["time_zone"] for row in self._read_json("sources")}
        return pa.Table.from_pylist([{"source_id": n, "time_zone": zones.get(n, "UTC")} for n in names], SOURCES)


def _video(row: Mapping[str, Any]) -> str:
    video_id: str = row["video_id"]
    return video_id
