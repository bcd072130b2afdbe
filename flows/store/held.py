"""What is small in a folder store, held in memory for a process that asks often: opening 2,000 files takes a second."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from flows.store.duck import Files, read_files

MAX_BYTES = 512 * 2**20
"""Of one table on disk; in memory samples are 2.4 times as much, tracklets without their lists a hundredth."""
TOGETHER_BYTES = 64 * 2**20


class Held:
    """One table of Parquet files, source by source; a source whose files changed is read again.

    Files never change under their name, so their names say whether they did.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Sequence[str], int, pa.Table]] = {}
        # Who asks while files are read waits for them instead of reading them, too.
        self._lock = threading.Lock()

    def table(self, files: Files) -> pa.Table | Files:
        """The files' rows, without lists; the files themselves where they are too large to be held.

        Raises:
            duckdb.Error: A file cannot be read.
        """
        with self._lock:
            parts, changed, room = dict[str, tuple[Sequence[str], int, pa.Table]](), dict[str, list[str]](), MAX_BYTES
            for folder, of_folder in groupby(sorted(files.paths), os.path.dirname):
                paths = list(of_folder)
                part = self._parts.get(folder)
                if part is None or part[0] != paths:
                    changed[folder] = paths
                    part = paths, sum(os.path.getsize(path) for path in paths), pa.table({})
                parts[folder] = part
                room -= part[1]
                if room < 0:
                    self._parts = {}
                    return files
            for together in _in_parts({folder: parts[folder][1] for folder in changed}):
                rows = _read(files.schema, [path for folder in together for path in changed[folder]])
                for folder in together:
                    of_source = rows.filter(pc.equal(rows["source_id"], _source(folder)))
                    parts[folder] = (*parts[folder][:2], of_source)
            self._parts = parts
            tables = [part[2] for part in parts.values()]
        return pa.concat_tables([_without_lists(files.schema).empty_table(), *tables])


def _in_parts(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Folders that are read by one statement: one for each takes twice as long, one for all twice the memory."""
    together, size = list[str](), 0
    for folder, of_folder in sizes.items():
        if together and size + of_folder > TOGETHER_BYTES:
            yield together
            together, size = [], 0
        together.append(folder)
        size += of_folder
    if together:
        yield together


def _read(schema: pa.Schema, paths: Sequence[str]) -> pa.Table:
    # In one piece: a filter over thousands takes longer than reading them.
    return read_files(Files(_without_lists(schema), paths)).combine_chunks()


def _source(folder: str) -> str:
    return unquote(os.path.basename(folder).removeprefix("source_id="))


def _without_lists(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if not pa.types.is_list(field.type)])
