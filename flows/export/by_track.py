"""Observations in any order -> track by track, in the memory of a part of them and on disk for the rest.

Tracks run through several chunks and videos, which a store reads one after the other. So rows are dealt into parts that
hold some of the tracks each, in the order of their ids, and each part is sorted for itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROWS_PER_PART = 100_000
"""About what a part holds, which is what is sorted in memory at once: with masks some 15 MB."""

_MAX_PARTS = 200
"""Files open at once, of the 1024 a process may have; beyond 20 million rows parts grow."""


def by_track(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, sizes: Mapping[str, int], n_rows: int
) -> Iterator[pa.Table]:
    """One track after the other, by id, each in order of time.

    Args:
        batches: Of this schema, in any order.
        schema: With the columns `track_id` and `ts`.
        sizes: The tracks to be expected and how long they are, by which they are dealt; others come with the last.
        n_rows: About how many rows there are.
    """
    n_parts = min(-(-n_rows // ROWS_PER_PART), _MAX_PARTS)
    if n_parts <= 1 or not sizes:
        yield from _tracks(pa.Table.from_batches(batches, schema))
        return
    with tempfile.TemporaryDirectory(prefix="sightflow-export-") as folder:
        paths = [Path(folder, f"{part}.arrow") for part in range(n_parts)]
        _deal(batches, schema, paths, sizes)
        for path in paths:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                part = reader.read_all()
            path.unlink()
            yield from _tracks(part)


def _deal(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, paths: Sequence[Path], sizes: Mapping[str, int]
) -> None:
    """Write each row to the part its track is in."""
    names = sorted(sizes)
    before = np.cumsum([0, *(sizes[name] for name in names)])
    # The last index is for those that are unknown.
    part_of = np.minimum(before * len(paths) // max(before[-1], 1), len(paths) - 1)
    known = pa.array(names)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as files:
        writers = [files.enter_context(pa.ipc.new_stream(str(path), schema, options=options)) for path in paths]
        for batch in batches:
            index = pc.fill_null(pc.index_in(batch["track_id"], known), len(names)).to_numpy()
            parts = part_of[index]
            order = np.argsort(parts, kind="stable")
            dealt = batch.take(pa.array(order))
            bounds = np.searchsorted(parts[order], np.arange(len(paths) + 1))
            for writer, start, end in zip(writers, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                if end > start:
                    writer.write_batch(dealt.slice(start, end - start))


def _tracks(rows: pa.Table) -> Iterator[pa.Table]:
    rows = rows.sort_by([("track_id", "ascending"), ("ts", "ascending")]).combine_chunks()
    start = 0
    for end in pc.run_end_encode(rows["track_id"]).combine_chunks().run_ends.to_pylist() if rows.num_rows else ():
        yield rows.slice(start, end - start)
        start = end
