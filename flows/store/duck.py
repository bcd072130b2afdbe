"""SQL over files and Arrow tables, in a DuckDB database in memory; what a statement names is there for it alone."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from flows.errors import StoreError
from flows.store.base import Filter
from flows.store.sql import bound, normalised, observations_sql

ROWS_PER_BATCH = 65_536

_STREAM_MEMORY = "256MB"
"""What sorting a stream may hold; the rest waits on disk."""
_STREAM_THREADS = min(4, len(os.sched_getaffinity(0)))
"""Each has buffers of its own, and what reads a stream is slower than two."""


@dataclass(frozen=True)
class Files:
    """A table that lies in Parquet files of one schema, hive-partitioned by source_id; there may be none."""

    schema: pa.Schema
    paths: Sequence[str]


Tables = Mapping[str, Callable[[], pa.Table | Files]]
"""What a statement may name, by name; only what it does name is made."""


def query(tables: Tables, sql: str, parameters: Mapping[str, Any] | None) -> pa.Table:
    """Run one SELECT over the tables and the views of `views.sql`.

    Raises:
        StoreError: Not one SELECT, parameters that do not fit, or a statement DuckDB refuses.
    """
    values = bound(sql, parameters)
    with _errors_of_the_store():
        statements = duckdb.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise StoreError(f"a query is one SELECT, got: {sql.strip()[:200]}")
        # Making a database takes ten times as long as a small question; cursors see nothing of each other's views.
        with _shared().cursor() as connection:
            _name(connection, tables, sql)
            return normalised(connection.sql(sql, params=values).to_arrow_table())


def stream(tables: Tables, where: Filter, columns: Sequence[str] | None, ordered: bool) -> Iterator[pa.RecordBatch]:
    """Rows of `track_observations`, see `Store.observations`."""
    sql, values, schema = observations_sql(where, columns, ordered)
    with _errors_of_the_store(), _database() as connection:
        connection.execute(f"set memory_limit = '{_STREAM_MEMORY}'")
        connection.execute(f"set threads = {_STREAM_THREADS}")
        _name(connection, tables, sql)
        for batch in connection.sql(sql, params=values).to_arrow_reader(ROWS_PER_BATCH):
            yield batch.cast(schema)


def read_files(table: Files) -> pa.Table:
    """All rows of a table of files.

    Raises:
        duckdb.Error: A file cannot be read.
    """
    with _shared().cursor() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(_view_of_files("whole", table))
        return connection.sql("select * from whole").to_arrow_table().cast(table.schema)


def _database() -> duckdb.DuckDBPyConnection:
    # Two databases must not spill into one folder, and none into the working directory.
    spill = Path(tempfile.gettempdir()) / f"sightflow-duckdb-{secrets.token_hex(8)}"
    return duckdb.connect(
        config={
            "temp_directory": str(spill),
            # An unknown function would otherwise be looked for on the network.
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # What is read often is held as `held` says; this would hold all that is read, up to most of the memory.
            "enable_external_file_cache": "false",
        }
    )


@cache
def _shared() -> duckdb.DuckDBPyConnection:
    """This process's database, of which each question has a cursor."""
    return _database()


# Threads, which a database has, do not live on in a forked process.
os.register_at_fork(before=_shared.cache_clear)


def _name(connection: duckdb.DuckDBPyConnection, tables: Tables, sql: str) -> None:
    """Give a connection the tables and views that a statement names."""
    connection.execute("set TimeZone = 'UTC'")
    views = _views()
    named = _named(sql, views)
    for name in named & tables.keys():
        table = tables[name]()
        if isinstance(table, pa.Table):
            connection.register(name, table)
        elif table.paths:
            connection.execute(_view_of_files(name, table))
        else:
            connection.register(name, table.schema.empty_table())
    for name, statement in views.items():
        if name in named:
            connection.execute(statement)


@cache
def _views() -> dict[str, str]:
    """The statements of `views.sql` by the name of the view each makes, in their order."""
    text = files("flows.store").joinpath("views.sql").read_text(encoding="utf-8")
    statements = (f"create temp view {rest}" for rest in text.split("create view ")[1:])
    return {statement.split()[3]: statement for statement in statements}


def _named(sql: str, views: dict[str, str]) -> set[str]:
    """Every word of a statement and of the views it names: tables are among them, and more never hurts."""
    # DuckDB takes names in any case.
    words = set(re.findall(r"\w+", sql.lower()))
    for name in reversed(views):
        if name in words:
            words.update(re.findall(r"\w+", views[name]))
    return words


def _view_of_files(name: str, table: Files) -> str:
    paths = ", ".join("'" + _literal(path) + "'" for path in table.paths)
    options = "hive_partitioning = true, hive_types = {'source_id': varchar}"
    return f"create temp view {name} as select {', '.join(table.schema.names)} from read_parquet([{paths}], {options})"


def _literal(path: str) -> str:
    # A name may hold what DuckDB takes for a pattern.
    return re.sub(r"([*?\[])", r"[\1]", path).replace("'", "''")


@contextmanager
def _errors_of_the_store() -> Iterator[None]:
    """What DuckDB raises inside, as what callers of a store know; a signal stays one."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        # What a signal's handler raises is lost in DuckDB: while it computes it comes back as a RuntimeError, while it
        # reads a table of ours as an error that names it.
        if (
            isinstance(error, duckdb.InterruptException)
            or str(error) == "Query interrupted"
            or "failed: KeyboardInterrupt" in str(error)
        ):
            raise KeyboardInterrupt from error
        if not isinstance(error, duckdb.Error):
            raise
        raise StoreError(f"the query failed: {error}") from error
