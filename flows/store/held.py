"""What is small in a folder store, held in memory for a process that asks often: opening 2,000 files takes a second."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

import pyarrow as pa

from flows.store.duck import Files, read_files

MAX_BYTES = 512 * 2**20
"""Of one table on disk; in memory samples are 2.4 times as much, tracklets without their lists a hundredth."""


class Held:
    """One table of Parquet files, source by source; a source whose files changed is read again.

    Files never change under their name, so their names say whether they did.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Sequence[str], int, pa.Table]] = {}

    def table(self, files: Files) -> pa.Table | Files:
        """The files' rows, without lists; the files themselves where they are too large to be held.

        Raises:
            duckdb.Error: A file cannot be read.
        """
        known, self._parts = self._parts, {}
        parts = dict[str, tuple[Sequence[str], int, pa.Table]]()
        room = MAX_BYTES
        for folder, of_folder in groupby(sorted(files.paths), os.path.dirname):
            paths = list(of_folder)
            part = known.get(folder)
            if part is None or part[0] != paths:
                size = sum(os.path.getsize(path) for path in paths)
                if size > room:
                    return files
                part = paths, size, read_files(Files(_without_lists(files.schema), paths))
            parts[folder] = part
            room -= part[1]
        self._parts = parts
        return pa.concat_tables([_without_lists(files.schema).empty_table(), *(part[2] for part in parts.values())])


def _without_lists(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if not pa.types.is_list(field.type)])
