"""One SQL dialect for two stores: `$name` parameters, one SELECT, and the same Arrow types whatever engine ran it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from flows.errors import StoreError
from flows.schema import TIMESTAMP
from flows.store.base import Filter
from flows.store.tables import TRACK_OBSERVATIONS

_TOKENS = re.compile(
    r"""(?P<skip>
        '(?:[^']|'')*'            # text
      | "(?:[^"]|"")*"            # quoted name
      | --[^\n]*                  # comment to the end of the line
      | /\*.*?\*/                 # comment
      | (?P<tag>\$[A-Za-z_]?\w*\$).*?(?P=tag)  # dollar-quoted text
    )
    | \$(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


def bound(sql: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters a statement names, checked: none missing, none to spare.

    Raises:
        StoreError: Parameters that do not fit the statement.
    """
    named = {match["name"] for match in _TOKENS.finditer(sql) if match["name"]}
    given = dict(parameters or {})
    if named != set(given):
        wants, got = (", ".join(sorted(names)) or "none" for names in (named, given))
        raise StoreError(f"the statement has the parameters {wants}; got {got}")
    return given


def to_psycopg(sql: str) -> str:
    """The statement with `$name` as `%(name)s`, and every other `%` doubled as psycopg wants it."""
    out, end = [], 0
    for match in _TOKENS.finditer(sql):
        out.append(sql[end : match.start()].replace("%", "%%"))
        out.append(f"%({match['name']})s" if match["name"] else match[0].replace("%", "%%"))
        end = match.end()
    out.append(sql[end:].replace("%", "%%"))
    return "".join(out)


def common_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type both stores return for a column an engine gives as `kind`.

    Raises:
        StoreError: A type the two engines do not share.
    """
    if types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0):
        # DuckDB sums integers to 128 bits.
        return pa.int64()
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        return pa.string()
    if types.is_timestamp(kind):
        return TIMESTAMP
    if types.is_boolean(kind) or types.is_date(kind) or types.is_binary(kind):
        return kind
    if types.is_list(kind):
        return pa.list_(common_type(name, kind.value_type))
    raise StoreError(f"column {name} has type {kind}, which the stores do not share: cast it in the statement")


def normalised(table: pa.Table) -> pa.Table:
    """The same rows in the types both stores return, every column nullable."""
    schema = pa.schema([pa.field(field.name, common_type(field.name, field.type)) for field in table.schema])
    return table.cast(schema)


def observations_sql(
    where: Filter, columns: Sequence[str] | None, ordered: bool
) -> tuple[str, dict[str, Any], pa.Schema]:
    """The statement behind `Store.observations`, its parameters, and the schema of what comes back.

    Raises:
        StoreError: A column `track_observations` does not have.
    """
    names = list(columns) if columns is not None else TRACK_OBSERVATIONS.names
    unknown = sorted(set(names) - set(TRACK_OBSERVATIONS.names))
    if unknown or not names:
        known = ", ".join(TRACK_OBSERVATIONS.names)
        raise StoreError(f"observations have no column {', '.join(unknown) or '(none asked for)'}; there are {known}")
    clauses = {
        "source_id": "source_id = $source_id",
        "video_id": "video_id = $video_id",
        "t0": "ts >= $t0",
        "t1": "ts < $t1",
        "class_names": "class_name = any($class_names)",
        "track_ids": "track_id = any($track_ids)",
    }
    given = {name: getattr(where, name) for name in clauses if getattr(where, name) not in (None, ())}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    condition = " and ".join(clauses[name] for name in given) or "true"
    sql = f"select {', '.join(names)} from track_observations where {condition}"
    sql += " order by video_id, pts_ns, track_id" if ordered else ""
    return sql, values, pa.schema([TRACK_OBSERVATIONS.field(name) for name in names])
