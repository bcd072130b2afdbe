"""Arrow tables from and to a PostgreSQL connection.

Rows come as the bytes the server sends and become columns with numpy. For lists of numbers, of which every tracklet has
five, that takes a fourth of the time of making Python objects first, and stitching reads all tracklets of a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import Connection, Cursor
from psycopg.types.string import ByteaBinaryLoader

from flows.errors import StoreError
from flows.schema import TIMESTAMP

ROWS_PER_BATCH = 50_000

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts microseconds."""
_POSTGRES_EPOCH_DAYS = 10_957

_FIXED = {
    16: ("?", pa.bool_()),
    20: (">i8", pa.int64()),
    21: (">i2", pa.int64()),
    23: (">i4", pa.int64()),
    26: (">u4", pa.int64()),  # oid
    700: (">f4", pa.float64()),
    701: (">f8", pa.float64()),
    1082: (">i4", pa.date32()),
    **dict.fromkeys((1114, 1184), (">i8", TIMESTAMP)),  # timestamp, timestamptz
}
"""Object id of a type of fixed length (fixed, too: see pg_type.dat) -> how it is sent, what both stores return."""

_VARYING = {
    17: pa.binary(),
    **dict.fromkeys((19, 25, 1042, 1043), pa.string()),  # name, text, char(n), varchar
}
_LISTS = {1005: 21, 1007: 23, 1016: 20, 1021: 700, 1022: 701}
"""Object id of an array type -> that of its elements, of fixed length."""
_AS_OBJECTS = {
    1700: pa.float64(),  # numeric
    **dict.fromkeys((1009, 1015), pa.list_(pa.binary())),  # text[], varchar[]
}
_NUMERIC = 1700
_FIRST_EXTENSION_OID = 16384
"""Types an extension brings have ids from here on; PostGIS geometry comes as EWKB."""


def fetch(connection: Connection, sql: str, parameters: Mapping[str, Any] | Sequence[object]) -> pa.Table:
    """Run a SELECT and return all of its rows, in the types both stores share.

    Raises:
        StoreError: A statement without rows, or a type the stores do not share.
    """
    # Binary results keep every bit of a real number.
    with connection.cursor(binary=True) as cursor:
        _leave_bytes(cursor)
        cursor.execute(sql, parameters)
        if cursor.description is None:
            raise StoreError(f"a query is one SELECT, got: {sql.strip()[:200]}")
        return _table(cursor, cursor.fetchall())


def stream(
    connection: Connection, sql: str, parameters: Mapping[str, Any], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Run a SELECT whose columns have `schema`, batch by batch from a cursor on the server."""
    with connection.transaction(), connection.cursor("sightflow", binary=True) as cursor:
        _leave_bytes(cursor)
        # The whole answer will be read: a plan that starts fast and ends late, as cursors get, is the wrong one.
        connection.execute("set local cursor_tuple_fraction = 1")
        connection.execute("set local work_mem = '64MB'")
        cursor.execute(sql, parameters)
        while rows := cursor.fetchmany(ROWS_PER_BATCH):
            yield from _table(cursor, rows).cast(schema).to_batches()


def copy(connection: Connection, table: str, rows: pa.Table) -> None:
    """Append rows to a table that has their columns; for tables far smaller than `observations`."""
    names = ", ".join(rows.schema.names)
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({names}) from stdin") as sink:
        for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            sink.write_row(row)


def _leave_bytes(cursor: Cursor) -> None:
    for oid in (*_FIXED, *_VARYING, *_LISTS):
        cursor.adapters.register_loader(oid, ByteaBinaryLoader)


def _table(cursor: Cursor, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    described = cursor.description or ()
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(described)
    arrays = [
        _array(column.type_code, column.name, column.type_display, values)
        for column, values in zip(described, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=[column.name for column in described])


def _array(oid: int, name: str, type_name: str, values: Sequence[Any]) -> pa.Array:
    if oid in _FIXED:
        return _fixed(*_FIXED[oid], values)
    if oid in _VARYING:
        return pa.array(values, pa.binary()).cast(_VARYING[oid])
    if oid in _LISTS:
        return _lists(*_FIXED[_LISTS[oid]], values)
    if oid == _NUMERIC:
        values = [None if value is None else float(value) for value in values]
    kind = pa.binary() if oid >= _FIRST_EXTENSION_OID else _AS_OBJECTS.get(oid)
    if kind is None:
        raise StoreError(f"column {name} has type {type_name}, which the stores do not share: cast it in the statement")
    array = pa.array(values, kind)
    return array.cast(pa.list_(pa.string())) if pa.types.is_list(kind) else array


def _fixed(sent: str, kind: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    mask = None
    if None in values:
        mask = np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
        zero = bytes(np.dtype(sent).itemsize)
        values = [zero if value is None else value for value in values]
    numbers = np.frombuffer(b"".join(values), dtype=sent)  # type: ignore[arg-type]
    if kind == TIMESTAMP:
        return pa.array(numbers.astype(np.int64) + POSTGRES_EPOCH_US, mask=mask).cast(kind)
    if kind == pa.date32():
        return pa.array(numbers.astype(np.int32) + np.int32(_POSTGRES_EPOCH_DAYS), mask=mask).cast(kind)
    native = np.bool_ if sent == "?" else np.float64 if sent[1] == "f" else np.int64
    return pa.array(numbers.astype(native), type=kind, mask=mask)


_LIST_HEAD_BYTES = 20
"""Number of dimensions, flags, type, length, lower bound; an empty list has no dimensions and ends after the type."""


def _lists(sent: str, kind: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    """Arrays of one dimension as lists: each element is its length, -1 where null, and its value."""
    pieces = [b"" if value is None else value[_LIST_HEAD_BYTES:] for value in values]
    element = np.dtype([("length", ">i4"), ("value", sent)])
    sizes = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
    if any(value is not None and value[7] for value in values):  # the flag that says some element is null
        return pa.array([None if v is None else _elements(v, sent) for v in values], pa.list_(kind))
    numbers = np.frombuffer(b"".join(pieces), dtype=element)["value"]
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes // element.itemsize)]), pa.int32())
    native = np.float64 if sent[1] == "f" else np.int64
    mask = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.array(numbers.astype(native), kind), mask=mask)


def _elements(value: bytes, sent: str) -> list[float | int | None]:
    size, at, found = np.dtype(sent).itemsize, _LIST_HEAD_BYTES, []
    while at < len(value):
        is_null = int.from_bytes(value[at : at + 4], signed=True) < 0
        at += 4
        found.append(None if is_null else np.frombuffer(value, sent, 1, at)[0].item())
        at += 0 if is_null else size
    return found
