"""Arrow tables from and to a PostgreSQL connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from psycopg import Connection, Cursor

from flows.errors import StoreError
from flows.schema import TIMESTAMP

ROWS_PER_BATCH = 20_000

_TYPES = {
    16: pa.bool_(),
    17: pa.binary(),
    **dict.fromkeys((20, 21, 23, 26), pa.int64()),  # int8, int2, int4, oid
    **dict.fromkeys((19, 25, 1042, 1043), pa.string()),  # name, text, char(n), varchar
    **dict.fromkeys((700, 701, 1700), pa.float64()),  # real, double precision, numeric
    1082: pa.date32(),
    **dict.fromkeys((1114, 1184), TIMESTAMP),  # timestamp, timestamptz
    **dict.fromkeys((1005, 1007, 1016), pa.list_(pa.int64())),
    **dict.fromkeys((1021, 1022), pa.list_(pa.float64())),
    **dict.fromkeys((1009, 1015), pa.list_(pa.string())),
}
"""Object id of a type (they are fixed, see pg_type.dat) -> what both stores return for it."""

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
        cursor.execute(sql, parameters)
        if cursor.description is None:
            raise StoreError(f"a query is one SELECT, got: {sql.strip()[:200]}")
        schema = _schema(cursor)
        numeric = [index for index, column in enumerate(cursor.description) if column.type_code == _NUMERIC]
        columns = _columns(cursor.fetchall(), len(schema))
    for index in numeric:
        columns[index] = tuple(None if value is None else float(value) for value in columns[index])
    return _table(columns, schema)


def stream(
    connection: Connection, sql: str, parameters: Mapping[str, Any], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Run a SELECT whose columns have `schema`, batch by batch from a cursor on the server."""
    with connection.transaction(), connection.cursor("sightflow", binary=True) as cursor:
        cursor.execute(sql, parameters)
        while rows := cursor.fetchmany(ROWS_PER_BATCH):
            yield from _table(_columns(rows, len(schema)), schema).to_batches()


def copy(connection: Connection, table: str, rows: pa.Table) -> None:
    """Append rows to a table that has their columns; for tables far smaller than `observations`."""
    names = ", ".join(rows.schema.names)
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({names}) from stdin") as sink:
        for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            sink.write_row(row)


def _schema(cursor: Cursor) -> pa.Schema:
    fields = []
    for column in cursor.description or ():
        kind = pa.binary() if column.type_code >= _FIRST_EXTENSION_OID else _TYPES.get(column.type_code)
        if kind is None:
            raise StoreError(
                f"column {column.name} has type {column.type_display}, which the stores do not share: "
                "cast it in the statement"
            )
        fields.append(pa.field(column.name, kind))
    return pa.schema(fields)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _table(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
