"""Arrow rows as PostgreSQL's binary COPY format, built column by column with numpy.

About seven times faster than handing psycopg one row at a time. The layout is that of "Binary Format" in PostgreSQL's
documentation of COPY: per row the number of fields, per field a big-endian length (-1 is null) and the value as the
type's receive function takes it.

Rows of one shape (the same nulls, the same lengths of text) have the same layout, so each shape of row is one numpy
structured array. There are few: ids have one length, and class and state take few values. One column, the last, may
be of any length per row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from flows.ahead import ahead
from flows.store.geometry import EWKB_POINT, ewkb_points
from flows.store.pgarrow import POSTGRES_EPOCH_US

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)

ROWS_PER_BLOCK = 20_000
"""A block is some 7 MB. Larger ones cost more to make, in memory that is new to the process and its caches; smaller
ones have few rows of each shape."""


def encode(rows: pa.Table, srid: int) -> Iterator[bytes | memoryview]:
    """Binary COPY data of rows whose last column is text or bytes of any length.

    A column `geom` stands before the last: the point (x_m, y_m), null where either is.

    Args:
        rows: Table with columns of type string, timestamp[us], int64, float32 or float64, `x_m` and `y_m`, and last
            one binary column.
        srid: Of the points.
    """
    yield HEADER
    for batch in rows.to_batches(max_chunksize=ROWS_PER_BLOCK):
        if batch.num_rows:
            yield from _blocks(batch, srid)
    yield TRAILER


def load(cursor: psycopg.Cursor[Any], table: str, rows: pa.Table, srid: int) -> None:
    """COPY rows, as `encode` takes them, into a table; the next block is made while the server takes one."""
    *names, last = rows.column_names
    listed = ", ".join([*names, "geom", last])
    with (
        cursor.copy(f"copy {table} ({listed}) from stdin (format binary)") as copy,
        closing(ahead(encode(rows, srid), depth=2)) as blocks,
    ):
        for block in blocks:
            copy.write(block)


def _blocks(batch: pa.RecordBatch, srid: int) -> Iterator[bytes | memoryview]:
    lengths = [_field_lengths(column) for column in batch.columns[:-1]]
    is_point = pc.and_(batch["x_m"].is_valid(), batch["y_m"].is_valid()).to_numpy(zero_copy_only=False)
    lengths.append(np.where(is_point, EWKB_POINT.itemsize, -1))
    order, starts = _shapes(lengths, batch.num_rows)
    for start, stop in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        chosen = order[start:stop]
        shape = [int(length[chosen[0]]) for length in lengths]
        rows = batch.take(pa.array(chosen)) if len(starts) > 1 else batch
        yield _joined(_records(rows, shape, srid), rows.column(batch.num_columns - 1))


def _field_lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    if types.is_string(column.type):
        lengths = pc.binary_length(column)
    else:
        size = column.type.bit_width // 8
        lengths = pc.if_else(column.is_valid(), pa.scalar(size, pa.int32()), pa.scalar(None, pa.int32()))
    return pc.fill_null(lengths, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _shapes(lengths: Sequence[npt.NDArray[np.int64]], n_rows: int) -> tuple[npt.NDArray[np.intp], list[int]]:
    """Rows sorted by shape (stable), and where each shape starts."""
    key = np.zeros(n_rows, dtype=np.int64)
    span = 1
    for length in lengths:
        low, high = int(length.min()), int(length.max())
        if low == high:
            continue
        if span * (high - low + 1) >= 2**62:
            values, key = np.unique(key, return_inverse=True)
            span = len(values)
        key = key * (high - low + 1) + (length - low)
        span *= high - low + 1
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1)).tolist()
    return order, starts


def _records(rows: pa.RecordBatch, shape: Sequence[int], srid: int) -> npt.NDArray[Any]:
    """One record per row: everything but the value of the last column, whose length stands at the end."""
    fixed = rows.columns[:-1]
    kinds: list[tuple[str, Any]] = [("n", ">i2")]
    for index, length in enumerate(shape):
        kinds.append((f"length_{index}", ">i4"))
        if length > 0:
            kind = EWKB_POINT if index == len(fixed) else _value_kind(fixed[index].type, length)
            kinds.append((f"value_{index}", kind))
    kinds.append(("length_last", ">i4"))
    records = np.empty(rows.num_rows, dtype=kinds)
    records["n"] = len(shape) + 1
    for index, length in enumerate(shape):
        records[f"length_{index}"] = length
        if length > 0:
            is_point = index == len(fixed)
            records[f"value_{index}"] = _points(rows, srid) if is_point else _values(fixed[index], length)
    lengths = pc.fill_null(pc.binary_length(rows.column(rows.num_columns - 1)), -1)
    records["length_last"] = lengths.to_numpy(zero_copy_only=False)
    return records


def _value_kind(kind: pa.DataType, length: int) -> str:
    if types.is_string(kind):
        return f"V{length}"
    return f">{'f' if types.is_floating(kind) else 'i'}{length}"


def _values(column: pa.Array, length: int) -> npt.NDArray[Any]:
    if types.is_string(column.type):
        _, offsets, data = column.buffers()
        start = int(np.frombuffer(offsets, dtype=np.int32)[column.offset])
        return np.frombuffer(data, dtype=f"V{length}", count=len(column), offset=start)
    if types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_numpy() - POSTGRES_EPOCH_US
    return column.to_numpy()


def _points(rows: pa.RecordBatch, srid: int) -> npt.NDArray[Any]:
    return ewkb_points(rows["x_m"].to_numpy(), rows["y_m"].to_numpy(), srid)


def _joined(records: npt.NDArray[Any], last: pa.Array) -> bytes | memoryview:
    if last.null_count == len(last):
        return records.view(np.uint8).data
    pieces: list[bytes] = [b""] * (2 * len(records))
    pieces[0::2] = records.view(f"V{records.itemsize}").tolist()
    pieces[1::2] = [value or b"" for value in last.to_pylist()]
    return b"".join(pieces)
