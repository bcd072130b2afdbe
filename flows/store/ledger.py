"""The ledger of a Parquet store: one JSON file per chunk, which says where the chunk's rows lie."""

from __future__ import annotations

import json
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.errors import StoreError
from flows.schema import OBSERVATIONS, TRACKLETS, Chunk, ChunkResult, ChunkState
from flows.store.files import (
    FileCache,
    explained,
    file_lock,
    read_table,
    source_folder,
    write_durably,
    write_table_durably,
)
from flows.store.geometry import paths, with_geometry, wkb_points
from flows.store.samples import SAMPLES, sample
from flows.store.tables import begun_row, days_of, ended_row, handed_back_row, planned_row, rejected_row, reset_row

SUPERSEDED_S = 600.0
"""How long files stay that a newer commit of their chunk replaced: readers that listed them may still open them."""


def read_json(path: Path) -> dict[str, Any]:
    """A row from a JSON file, its times as datetimes."""
    row: dict[str, Any] = json.loads(path.read_bytes(), object_hook=_with_times)
    return row


def _with_times(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("updated_at", "started_at", "start_time", "written_at", "valid_from"):
        if name in row:
            row[name] = datetime.fromisoformat(row[name])
    return row


def write_json(path: Path, row: Mapping[str, Any]) -> None:
    """Write durably what `read_json` reads."""
    write_durably(path, json.dumps(row, ensure_ascii=False, default=datetime.isoformat).encode())


class Ledger:
    """Ledger rows with two further fields: `files` of the chunk, and `superseded` ones with the time they became so.

    Renaming a row's file is the commit: it makes all of the chunk's files visible, or none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache = FileCache(read_json)

    def row(self, chunk_id: str) -> dict[str, Any] | None:
        """The row of a chunk, None where it was never planned."""
        return self._cache.get(self._path(chunk_id))

    def rows(self, chunk_ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Every row, or those of these chunks, by (source, video, start)."""
        if chunk_ids is None:
            rows = list(self._cache.all(self._folder / "ledger", ".json").values())
        else:
            rows = [row for row in map(self.row, set(chunk_ids)) if row is not None]
        return sorted(rows, key=lambda row: (row["source_id"], row["video_id"], row["start_ns"], row["chunk_id"]))

    def plan(self, chunk: Chunk) -> None:
        """Enter a chunk; of one already there, remove the files whose time is over."""
        with self._writing(chunk.video.source_id):
            row = self.row(chunk.chunk_id)
            if row is None:
                self._write(planned_row(chunk))
            elif row.get("superseded"):
                self._clean(row, row)

    def reject(self, uri: str, source_id: str, error: str) -> None:
        """See `Store.reject`."""
        with self._writing(source_id):
            self._write(rejected_row(uri, source_id, error))

    def forget(self, chunk_id: str) -> None:
        """Take a row out, where there is one."""
        self._path(chunk_id).unlink(missing_ok=True)

    def begin(self, chunk: Chunk, max_attempts: int, run_id: str) -> bool:
        """See `Store.begin`. A lock and a lease in files are worth what their folder is: it must be the driver's."""
        if run_id and self._lease(run_id) is None:
            raise StoreError(
                f"store {self._folder}: machine {platform.node()} does not see the run that was started, so this is "
                "another folder of the same name; put the store on a file system all machines share, or in postgresql://"
            )
        with self._writing(chunk.video.source_id):
            before = self.row(chunk.chunk_id) or planned_row(chunk)
            may_start, row = begun_row(before, max_attempts, self._is_held(before, run_id))
            self._write({**row, "run_id": run_id} if may_start else row)
        return may_start

    def hold(self, run_id: str, seconds: float) -> None:
        """See `Store.hold`."""
        if seconds > 0:
            write_json(self._lease_path(run_id), {"run_id": run_id, "until": time.time() + seconds})
        else:
            self._lease_path(run_id).unlink(missing_ok=True)

    def held(self, run_id: str, chunk_ids: Iterable[str]) -> set[str]:
        """See `Store.held`."""
        rows = (self.row(chunk_id) for chunk_id in chunk_ids)
        return {row["chunk_id"] for row in rows if row is not None and self._is_held(row, run_id)}

    def hand_back(self, run_id: str, chunk_ids: Iterable[str] | None) -> int:
        """See `Store.hand_back`."""
        ids = [row["chunk_id"] for row in self.rows()] if chunk_ids is None else chunk_ids
        return sum([self._change(chunk_id, _is_begun_by(run_id), handed_back_row) for chunk_id in ids])

    def touch(self, chunk_ids: Iterable[str]) -> None:
        """Make done chunks the newest of their video."""
        for chunk_id in chunk_ids:
            self._change(
                chunk_id,
                lambda row: row["state"] == ChunkState.DONE,
                lambda row: {**row, "updated_at": datetime.now(UTC)},
            )

    def _is_held(self, row: Mapping[str, Any], run_id: str) -> bool:
        """Whether another run has begun a chunk and is alive."""
        owner = row.get("run_id", "")
        if row["state"] != ChunkState.RUNNING or owner in ("", run_id):
            return False
        lease = self._lease(owner)
        return lease is not None and lease["until"] > time.time()

    def _lease(self, run_id: str) -> dict[str, Any] | None:
        return self._cache.get(self._lease_path(run_id))

    def _lease_path(self, run_id: str) -> Path:
        return self._folder / "leases" / f"{run_id}.json"

    def commit(self, result: ChunkResult, calibration: str | None) -> None:
        """See `Store.commit`.

        Args:
            result: Of the chunk.
            calibration: Of its source, as stored.
        """
        chunk = result.chunk
        with self._writing(chunk.video.source_id):
            before = self.row(chunk.chunk_id) or planned_row(chunk)
            if result.error is not None and before["state"] == ChunkState.DONE:
                return
            parts = {}
            if result.error is None:
                parts = _parts(
                    chunk.video.source_id, chunk.chunk_id, result.observations, result.tracklets, calibration
                )
            self._write_parts(parts)
            self._clean(before, {**ended_row(before, result), "files": list(parts)})

    def relocate(self, row: Mapping[str, Any], locate: Callable[[pa.Table], pa.Table], calibration: str | None) -> None:
        """See `Store.relocate`; of the chunk with this row."""
        listed = list(row.get("files", ()))
        observations, samples, tracklets = (
            pa.concat_tables(
                [schema.empty_table(), *(read_table(self._folder / p, schema) for p in files_of([row], t))]
            )
            for t, schema in (("observations", OBSERVATIONS), ("samples", SAMPLES), ("tracklets", TRACKLETS))
        )
        if not observations.num_rows or pc.sum(samples["n_observations"]).as_py() != observations.num_rows:
            return
        parts = _parts(row["source_id"], row["chunk_id"], locate(observations), tracklets, calibration)
        self._write_parts(parts)
        # Another process may have committed the chunk anew, or pruned it.
        self.replace_files(row["chunk_id"], lambda files: list(parts) if files == listed else files)
        self._remove(set(parts) - set((self.row(row["chunk_id"]) or {}).get("files", ())))

    def _write_parts(self, parts: Mapping[str, pa.Table]) -> None:
        """Write a chunk's files, all of them or none."""
        try:
            for path, table in parts.items():
                write_table_durably(self._folder / path, table)
        except BaseException:
            self._remove(parts)
            raise

    def reset(self, chunk_id: str) -> bool:
        """Make a failed chunk planned again; False where it is not there or did not fail."""
        return self._change(chunk_id, lambda row: row["state"] == ChunkState.FAILED, reset_row)

    def _change(
        self,
        chunk_id: str,
        fits: Callable[[Mapping[str, Any]], bool],
        change: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> bool:
        """Change a row where it is there and fits; says whether."""
        row = self.row(chunk_id)
        if row is None or not fits(row):
            return False
        with self._writing(row["source_id"]):
            row = self.row(chunk_id)
            if row is None or not fits(row):
                return False
            self._clean(row, change(row))
        return True

    def replace_files(self, chunk_id: str, change: Callable[[list[str]], list[str]]) -> None:
        """Let a chunk list other files; those it lists no more stay for a while, as after a commit."""
        row = self.row(chunk_id)
        if row is None:
            return
        with self._writing(row["source_id"]):
            row = self.row(chunk_id) or row
            files = change(list(row.get("files", ())))
            if files != row.get("files", []) or row.get("superseded"):
                self._clean(row, {**row, "files": files})

    def _clean(self, before: Mapping[str, Any], after: dict[str, Any]) -> None:
        """Write a row, and remove the chunk's files that it lists no more and no reader can still want."""
        now = time.time()
        replaced = set(before.get("files", ())) - set(after.get("files", ()))
        superseded = {**before.get("superseded", {}), **dict.fromkeys(replaced, now)}
        after["superseded"] = {path: since for path, since in superseded.items() if now - since < SUPERSEDED_S}
        self._write(after)
        strays = {*superseded, *self._left_by_killed(before)}
        self._remove(strays - set(after.get("files", ())) - set(after["superseded"]))

    def _left_by_killed(self, row: Mapping[str, Any]) -> Iterator[str]:
        """The chunk's files, temporary ones too, where a process may have died writing some."""
        if row["attempts"] <= 1:
            return
        source = source_folder(row["source_id"])
        for folder in (f"observations/{source}/*", f"samples/{source}", f"tracklets/{source}"):
            for start in ("", "."):
                for path in self._folder.glob(f"{folder}/{start}{row['chunk_id']}-*"):
                    yield str(path.relative_to(self._folder))

    @contextmanager
    def _writing(self, source_id: str) -> Iterator[None]:
        """Hold what keeps two processes from writing rows of one source at once.

        Raises:
            StoreError: There is no store, as on a machine that does not share the folder.
        """
        if not (self._folder / "schema_version").is_file():
            raise StoreError(
                f"{self._folder} holds no store on machine {platform.node()}; if it lies on another, put it on a file "
                "system all machines share, or in postgresql://"
            )
        with explained(self._folder), file_lock(self._folder / "locks" / f"{source_folder(source_id)}.write"):
            yield

    def _path(self, chunk_id: str) -> Path:
        return self._folder / "ledger" / f"{chunk_id}.json"

    def _write(self, row: Mapping[str, Any]) -> None:
        write_json(self._path(row["chunk_id"]), row)

    def _remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            (self._folder / path).unlink(missing_ok=True)


def _is_begun_by(run_id: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: row["state"] == ChunkState.RUNNING and row.get("run_id") == run_id


def files_of(rows: Iterable[Mapping[str, Any]], table: str) -> list[str]:
    """The files of `observations`, `samples` or `tracklets` that ledger rows list, relative to the store."""
    return [path for row in rows for path in row.get("files", ()) if path.startswith(f"{table}/")]


def _parts(
    source_id: str, chunk_id: str, observations: pa.Table, tracklets: pa.Table, calibration: str | None
) -> dict[str, pa.Table]:
    """The files of a chunk: path in the store -> rows."""
    # A new name each time: readers of an earlier commit's files are not disturbed.
    name = f"{chunk_id}-{secrets.token_hex(4)}.parquet"
    source = source_folder(source_id)
    # In order of time, so that a file's statistics let readers pass over what they do not want.
    rows = observations.sort_by("ts")
    days = days_of(rows)
    located = with_geometry(rows, wkb_points(rows), "Point", calibration)
    parts = {
        f"observations/{source}/day={day.as_py().isoformat()}/{name}": located.filter(pc.equal(days, day))
        for day in pc.unique(days)
    }
    if rows.num_rows:
        parts[f"samples/{source}/{name}"] = sample(rows)
    if tracklets.num_rows:
        ways = pa.array(paths(rows, tracklets["tracklet_id"], None), pa.binary())
        parts[f"tracklets/{source}/{name}"] = with_geometry(tracklets, ways, "LineString", calibration)
    return parts


def add_samples(folder: Path, ledger: Ledger, row: Mapping[str, Any]) -> None:
    """Write the samples of a chunk that version 1 of the store committed."""
    tables = [read_table(folder / path, OBSERVATIONS) for path in files_of([row], "observations")]
    if not tables or files_of([row], "samples"):
        return
    name = f"samples/{source_folder(row['source_id'])}/{row['chunk_id']}-{secrets.token_hex(4)}.parquet"
    write_table_durably(folder / name, sample(pa.concat_tables(tables)))
    ledger.replace_files(row["chunk_id"], lambda files: [*files, name])


def add_confirmed(folder: Path, row: Mapping[str, Any]) -> None:
    """Give the tracklets of a chunk that version 3 of the store committed the column that came with version 4."""
    for path in files_of([row], "tracklets"):
        with pq.ParquetFile(folder / path) as file:
            table = file.read()
        field = TRACKLETS.field("confirmed")
        if field.name not in table.column_names:
            write_table_durably(folder / path, table.append_column(field, pa.nulls(table.num_rows, field.type)))
