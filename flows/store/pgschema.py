"""The schema `sightflow` of a database: made, checked, and extended by a partition for each day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from importlib.resources import files

from psycopg import Connection, errors

from flows.errors import StoreError
from flows.store.base import SCHEMA_VERSION
from flows.store.pgconnect import set_search_path
from flows.store.tables import check_version

_SCRIPTS = ("tables.sql", "views.sql", "trajectories.sql")


def prepare(connection: Connection) -> None:
    """Make the schema where there is none, in one transaction, and check its version.

    Raises:
        SchemaVersionError: Tables of another version.
        StoreError: No PostGIS, or an encoding that cannot hold every name.
    """
    if not _is_there(connection):
        with connection.transaction():
            # One process makes it, the others wait and find it made.
            connection.execute("select pg_advisory_xact_lock(hashtextextended('sightflow schema', 0))")
            if not _is_there(connection):
                _make(connection)
        set_search_path(connection)
    (version,) = connection.execute("select max(version) from sightflow.schema_version").fetchone() or (None,)
    check_version(str(version), f"{connection.info.dbname} on {connection.info.host}")


def make_partitions(connection: Connection, days: Sequence[str]) -> None:
    """Make the partitions of `observations` for these days (ISO dates) where they are missing.

    A table made apart and then attached locks out neither readers nor writers, as CREATE TABLE PARTITION OF would.
    """
    names = [f"observations_{day.replace('-', '')}" for day in days]
    # Not to_regclass: it answers from a cache that may be older than the lock.
    sql = (
        "select day, name from unnest(%s::text[], %s::text[]) as wanted (day, name)"
        " where name not in (select tablename from pg_tables where schemaname = 'sightflow')"
    )
    if not connection.execute(sql, (list(days), names)).fetchall():
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended('sightflow partitions', 0))")
        for day, name in connection.execute(sql, (list(days), names)).fetchall():
            end = (
                "infinity" if day == date.max.isoformat() else f"{date.fromisoformat(day) + timedelta(days=1)} 00:00+00"
            )
            connection.execute(f"create table {name} (like observations including defaults)")
            connection.execute(
                f"alter table observations attach partition {name} for values from ('{day} 00:00+00') to ('{end}')"
            )


def _is_there(connection: Connection) -> bool:
    sql = "select from pg_tables where (schemaname, tablename) = ('sightflow', 'schema_version')"
    return connection.execute(sql).fetchone() is not None


def _make(connection: Connection) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"database {connection.info.dbname} has the encoding {encoding}, which cannot hold every name: "
            "make one with createdb --encoding=UTF8 --template=template0"
        )
    _make_postgis(connection)
    connection.execute("create schema if not exists sightflow")
    set_search_path(connection)
    for script in _SCRIPTS:
        connection.execute(files("flows.store").joinpath(script).read_text(encoding="utf-8"))
    connection.execute("insert into schema_version values (%s)", (SCHEMA_VERSION,))


def _make_postgis(connection: Connection) -> None:
    if connection.execute("select from pg_extension where extname = 'postgis'").fetchone() is not None:
        return
    where = f"database {connection.info.dbname} on {connection.info.host} has no PostGIS"
    try:
        connection.execute("create extension postgis schema public")
    except errors.InsufficientPrivilege:
        fix = "let a superuser run `create extension postgis` there"
        raise StoreError(f"{where}, and this user may not add it: {fix}") from None
    except (errors.FeatureNotSupported, errors.UndefinedFile):
        raise StoreError(
            f"{where}, and the server does not have it installed: on Debian and Ubuntu "
            f"apt-get install postgresql-{connection.info.server_version // 10000}-postgis-3 "
            "(or use the image postgis/postgis)"
        ) from None
