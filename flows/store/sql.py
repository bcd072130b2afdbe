"""One SQL dialect for two stores: `$name` parameters, one SELECT, and the same Arrow types whatever engine ran it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from flows.errors import StoreError
from flows.schema import TIMESTAMP

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
