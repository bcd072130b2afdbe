"""A video's files in stretches of time, so that its rows can be sorted a few files at a time.

A sort needs room for all that it sorts. The chunks of a video follow each other and each file holds the time of one, so
sorted stretch by stretch they are sorted as a whole, in the memory of a stretch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.errors import StoreError

ROWS_PER_STRETCH = 131_072
"""So many rows are worth a sort of their own: with masks they take some 30 MB."""

_ALWAYS = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


def stretches(paths: Sequence[str]) -> Iterator[list[str]]:
    """Groups of a video's observation files, in order of time; no row of one lies before a row of the group ahead.

    The files' own statistics bound their times, and those that overlap (a video done with chunks of two sizes) stay
    together.

    Raises:
        StoreError: A file is no Parquet file.
    """
    group: list[str] = []
    n_rows, until_ns = 0, _ALWAYS[0]
    for first_ns, last_ns, n, path in sorted(_times(paths)):
        if n_rows >= ROWS_PER_STRETCH and first_ns > until_ns:
            yield group
            group, n_rows = [], 0
        until_ns = max(until_ns, last_ns)
        group.append(path)
        n_rows += n
    if group:
        yield group


def _times(paths: Iterable[str]) -> Iterator[tuple[int, int, int, str]]:
    """First and last pts_ns, number of rows and name of each file that has any."""
    for path in paths:
        try:
            footer = pq.read_metadata(path)
        except pa.ArrowInvalid as error:
            raise StoreError(f"{path}: {error}; `sightflow db check` says which chunks to run again") from error
        if not footer.num_rows:
            continue
        column = footer.schema.names.index("pts_ns")
        found = [footer.row_group(i).column(column).statistics for i in range(footer.num_row_groups)]
        if all(statistics is not None and statistics.has_min_max for statistics in found):
            first_ns, last_ns = min(one.min for one in found), max(one.max for one in found)
        else:
            first_ns, last_ns = _ALWAYS
        yield first_ns, last_ns, footer.num_rows, path
