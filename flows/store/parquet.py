"""A store in a folder: Parquet and JSON files, no server, readable while it is written.

    schema_version
    ledger/<chunk_id>.json                    one per chunk; names the chunk's files once it is done
    observations/source_id=.../day=.../<chunk_id>-<token>.parquet
    tracklets/source_id=.../<chunk_id>-<token>.parquet
    links/source_id=.../version=<n>.parquet
    events/source_id=....parquet
    videos/ runs/ zones/ calibrations/        small JSON files
    locks/                                    one per source and purpose, always empty

Every file is written under a temporary name, flushed and renamed. A chunk's rows are those its ledger file lists, so
one rename makes all of them visible, over however many days they spread. DuckDB reads them from memory-only databases
made per query: a `.duckdb` file could not be shared between a writer and a reader.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import StoreError
from flows.schema import EVENTS, LEDGER, OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, ChunkState, Video
from flows.store import duck
from flows.store.base import SCHEMA_VERSION, Filter, Store, Zone
from flows.store.files import (
    FileCache,
    explained,
    file_lock,
    read_table,
    source_folder,
    write_durably,
    write_table_durably,
)
from flows.store.tables import (
    CALIBRATIONS,
    NEVER_ENDED,
    RUNS,
    SOURCES,
    VIDEOS,
    ZONES,
    check_version,
    days_of,
    ended_row,
    planned_row,
    rejected_row,
    video_row,
)

T = TypeVar("T")


def _read_json(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(path.read_bytes())
    for name in ("updated_at", "started_at", "start_time"):
        if name in row:
            row[name] = datetime.fromisoformat(row[name])
    return row


def _write_json(path: Path, row: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(row, ensure_ascii=False, default=datetime.isoformat).encode())


class ParquetStore(Store):
    """The embedded store. Safe for many processes on one machine, or on a shared folder whose locks work."""

    def __init__(self, url: str) -> None:
        if "://" in url:
            scheme = url.split("://", 1)[0]
            raise StoreError(f"a store is a folder or postgresql://..., got an address that starts with {scheme}://")
        self.url = url
        self._folder = Path(url).expanduser()
        self._json = FileCache(_read_json)
        self._links = FileCache(lambda path: read_table(path, TRACK_LINKS))
        self._events = FileCache(lambda path: read_table(path, EVENTS))

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

    def close(self) -> None:
        """See `Store.close`; nothing stays open."""

    # -- the ledger

    def add_run(self, run_id: str, command: str, settings_json: str) -> None:
        """See `Store.add_run`."""
        row = {"run_id": run_id, "started_at": datetime.now(UTC), "command": command, "settings": settings_json}
        with explained(self._folder):
            _write_json(self._folder / "runs" / f"{run_id}.json", row)

    def add_video(self, video: Video) -> None:
        """See `Store.add_video`."""
        with explained(self._folder):
            _write_json(self._folder / "videos" / f"{video.video_id}.json", video_row(video))

    def plan(self, chunks: Sequence[Chunk]) -> None:
        """See `Store.plan`."""
        for chunk in chunks:
            with self._writing(chunk.video.source_id):
                if self._row(chunk.chunk_id) is None:
                    self._write_row(planned_row(chunk))

    def reject(self, uri: str, source_id: str, error: str) -> None:
        """See `Store.reject`."""
        with self._writing(source_id):
            self._write_row(rejected_row(uri, source_id, error))

    def begin(self, chunk: Chunk, max_attempts: int) -> bool:
        """See `Store.begin`."""
        with self._writing(chunk.video.source_id):
            row = self._row(chunk.chunk_id) or planned_row(chunk)
            if row["state"] in (ChunkState.DONE, ChunkState.FAILED):
                return False
            may_start = row["attempts"] < max_attempts
            if may_start:
                changes = {"state": ChunkState.RUNNING.value, "attempts": row["attempts"] + 1}
            else:
                changes = {"state": ChunkState.FAILED.value, "error": NEVER_ENDED.format(attempts=row["attempts"])}
            self._write_row({**row, **changes})
        return may_start

    def commit(self, result: ChunkResult) -> None:
        """See `Store.commit`. A failure does not take back what another attempt finished."""
        chunk = result.chunk
        with self._writing(chunk.video.source_id):
            before = self._row(chunk.chunk_id) or planned_row(chunk)
            if result.error is not None and before["state"] == ChunkState.DONE:
                return
            parts = _parts(result) if result.error is None else {}
            try:
                for path, table in parts.items():
                    write_table_durably(self._folder / path, table)
            except BaseException:
                self._remove(parts)
                raise
            self._write_row({**ended_row(before, result), "files": list(parts)})
            self._remove(self._left_behind(before, parts))

    def reset_failed(self, chunk_ids: Sequence[str]) -> int:
        """See `Store.reset_failed`."""
        count = 0
        for chunk_id in chunk_ids:
            row = self._row(chunk_id)
            if row is None or row["state"] != ChunkState.FAILED:
                continue
            with self._writing(row["source_id"]):
                row = self._row(chunk_id)
                if row is not None and row["state"] == ChunkState.FAILED:
                    self._remove(self._left_behind(row, ()))
                    self._write_row({**row, "state": ChunkState.PLANNED.value, "attempts": 0, "error": None})
                    count += 1
        return count

    def ledger(self, chunk_ids: Sequence[str] | None = None) -> pa.Table:
        """See `Store.ledger`."""
        with explained(self._folder):
            if chunk_ids is None:
                return _ledger_table(self._rows())
            return _ledger_table(row for row in map(self._row, chunk_ids) if row is not None)

    # -- identity

    @contextmanager
    def locked(self, source_id: str) -> Iterator[None]:
        """See `Store.locked`."""
        with explained(self._folder), file_lock(self._folder / "locks" / f"{source_folder(source_id)}.stitch"):
            yield

    def tracklets(self, source_id: str) -> pa.Table:
        """See `Store.tracklets`."""

        def read() -> pa.Table:
            files = _files(self._rows(), "tracklets", source_id)
            tables = [read_table(self._folder / path, TRACKLETS) for path in files]
            return pa.concat_tables([TRACKLETS.empty_table(), *tables])

        table = self._consistently(read)
        return table.sort_by([(name, "ascending") for name in ("video_id", "pts0_ns", "tracklet_id")])

    def links(self, source_id: str, version: int | None = None) -> pa.Table:
        """See `Store.links`."""
        with explained(self._folder):
            versions = self._link_versions(source_id)
        if version is None:
            version = max(versions, default=0)
        return versions.get(version, TRACK_LINKS.empty_table()).sort_by("tracklet_id")

    def write_links(self, source_id: str, version: int, links: pa.Table) -> None:
        """See `Store.write_links`."""
        with explained(self._folder):
            path = self._folder / "links" / source_folder(source_id) / f"version={version}.parquet"
            write_table_durably(path, links.cast(TRACK_LINKS))

    # -- places

    def write_zones(self, source_id: str, zones: Sequence[Zone]) -> None:
        """See `Store.write_zones`."""
        rows = [{"name": z.name, "kind": z.kind, "unit": z.unit, "points": z.points} for z in zones]
        with explained(self._folder):
            path = self._folder / "zones" / f"{source_folder(source_id)}.json"
            _write_json(path, {"source_id": source_id, "zones": rows})

    def zones(self, source_id: str) -> list[Zone]:
        """See `Store.zones`."""
        with explained(self._folder):
            found = self._json.get(self._folder / "zones" / f"{source_folder(source_id)}.json")
        return [
            Zone(row["name"], row["kind"], tuple((x, y) for x, y in row["points"]), row["unit"])
            for row in (found or {"zones": []})["zones"]
        ]

    def write_calibration(self, source_id: str, calibration_json: str) -> None:
        """See `Store.write_calibration`."""
        with explained(self._folder):
            path = self._folder / "calibrations" / f"{source_folder(source_id)}.json"
            _write_json(path, {"source_id": source_id, "calibration": calibration_json})

    def calibration(self, source_id: str) -> str | None:
        """See `Store.calibration`."""
        with explained(self._folder):
            found = self._json.get(self._folder / "calibrations" / f"{source_folder(source_id)}.json")
        return found["calibration"] if found else None

    def write_events(self, source_id: str, events: pa.Table) -> None:
        """See `Store.write_events`."""
        with explained(self._folder):
            write_table_durably(self._folder / "events" / f"{source_folder(source_id)}.parquet", events.cast(EVENTS))

    # -- reading

    def observations(self, where: Filter, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """See `Store.observations`. Sorted video by video, which bounds the memory a reader needs."""
        rows = [row for row in self._rows() if where.source_id in (None, row["source_id"])]
        for video_id in sorted({row["video_id"] for row in rows if where.video_id in (None, row["video_id"])}):

            def read(video_id: str = video_id) -> Iterator[pa.RecordBatch]:
                tables = self._tables([row for row in self._rows() if row["video_id"] == video_id])
                return duck.stream(tables, where, columns)

            yield from self._consistently(read)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """See `Store.query`."""
        return self._consistently(lambda: duck.query(self._tables(self._rows()), sql, parameters))

    # -- files

    @contextmanager
    def _writing(self, source_id: str) -> Iterator[None]:
        """Hold what keeps two processes from writing the ledger rows of one source at once."""
        with explained(self._folder), file_lock(self._folder / "locks" / f"{source_folder(source_id)}.write"):
            yield

    def _row(self, chunk_id: str) -> dict[str, Any] | None:
        return self._json.get(self._folder / "ledger" / f"{chunk_id}.json")

    def _rows(self) -> list[dict[str, Any]]:
        return list(self._json.all(self._folder / "ledger", "*.json").values())

    def _write_row(self, row: Mapping[str, Any]) -> None:
        path = self._folder / "ledger" / f"{row['chunk_id']}.json"
        _write_json(path, {**row, "updated_at": datetime.now(UTC)})

    def _left_behind(self, before: Mapping[str, Any], kept: Iterable[str]) -> set[str]:
        """Files of a chunk that no ledger row lists: those of an earlier commit, and of processes that were killed."""
        found = set(before.get("files", ()))
        if before["attempts"] > 1:
            source = source_folder(before["source_id"])
            for pattern in (f"observations/{source}/*/", f"tracklets/{source}/"):
                # Temporary files are hidden, hence the second pattern.
                for prefix in ("", "."):
                    paths = self._folder.glob(f"{pattern}{prefix}{before['chunk_id']}-*")
                    found.update(str(path.relative_to(self._folder)) for path in paths)
        return found - set(kept)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            (self._folder / path).unlink(missing_ok=True)

    def _link_versions(self, source_id: str) -> dict[int, pa.Table]:
        found = self._links.all(self._folder / "links" / source_folder(source_id), "version=*.parquet")
        return {int(path.stem.removeprefix("version=")): links for path, links in found.items()}

    def _consistently(self, read: Callable[[], T]) -> T:
        """Read what the ledger lists, again from the start where a file was replaced by a newer commit meanwhile."""
        with explained(self._folder):
            for _ in range(20):
                try:
                    return read()
                except FileNotFoundError:
                    time.sleep(0.01)
            return read()

    def _tables(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.Table | duck.Files]:
        """Every table of the store as these ledger rows have it."""
        folder = self._folder
        videos = list(self._json.all(folder / "videos", "*.json").values())
        zones = self._json.all(folder / "zones", "*.json").values()
        sources = [{"source_id": name, "time_zone": "UTC"} for name in sorted({v["source_id"] for v in videos})]
        all_links: list[pa.Table] = []
        newest_links: list[pa.Table] = []
        for path in sorted((folder / "links").glob("source_id=*")):
            versions = self._link_versions(unquote(path.name.removeprefix("source_id=")))
            all_links.extend(versions.values())
            newest_links.extend(versions[version] for version in [max(versions, default=None)] if version is not None)
        return {
            "sources": pa.Table.from_pylist(sources, SOURCES),
            "videos": pa.Table.from_pylist(videos, VIDEOS),
            "runs": pa.Table.from_pylist(list(self._json.all(folder / "runs", "*.json").values()), RUNS),
            "chunks": _ledger_table(rows),
            "tracklets": duck.Files(TRACKLETS, [folder / path for path in _files(rows, "tracklets")]),
            "observations": duck.Files(OBSERVATIONS, [folder / path for path in _files(rows, "observations")]),
            "track_links": pa.concat_tables([TRACK_LINKS.empty_table(), *all_links]),
            "newest_links": pa.concat_tables([TRACK_LINKS.empty_table(), *newest_links]),
            "zones": pa.Table.from_pylist(
                [
                    {**z, "source_id": s["source_id"], "points": json.dumps(z["points"])}
                    for s in zones
                    for z in s["zones"]
                ],
                ZONES,
            ),
            "calibrations": pa.Table.from_pylist(
                list(self._json.all(folder / "calibrations", "*.json").values()), CALIBRATIONS
            ),
            "events": pa.concat_tables(
                [EVENTS.empty_table(), *self._events.all(folder / "events", "*.parquet").values()]
            ),
        }


def _parts(result: ChunkResult) -> dict[str, pa.Table]:
    """The files of a chunk: path in the store -> rows."""
    # A new name each time: readers of an earlier commit's files are not disturbed.
    name = f"{result.chunk.chunk_id}-{secrets.token_hex(4)}.parquet"
    source = source_folder(result.chunk.video.source_id)
    days = days_of(result.observations)
    parts = {
        f"observations/{source}/day={day.as_py().isoformat()}/{name}": result.observations.filter(pc.equal(days, day))
        for day in pc.unique(days)
    }
    if result.tracklets.num_rows:
        parts[f"tracklets/{source}/{name}"] = result.tracklets
    return parts


def _files(rows: Iterable[Mapping[str, Any]], table: str, source_id: str | None = None) -> list[str]:
    return [
        path
        for row in rows
        if source_id in (None, row["source_id"])
        for path in row.get("files", ())
        if path.startswith(f"{table}/")
    ]


def _ledger_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    order = sorted(rows, key=lambda row: (row["source_id"], row["video_id"], row["start_ns"], row["chunk_id"]))
    return pa.Table.from_pylist(order, LEDGER)
