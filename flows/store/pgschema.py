"""The schema `sightflow` of a database: made, upgraded, checked, opened to readers, and a partition for each day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from importlib.resources import files

from psycopg import Connection, errors, sql

from flows.errors import StoreError
from flows.store.base import SCHEMA_VERSION
from flows.store.pgconnect import set_search_path
from flows.store.tables import check_upgrade, check_version

_VIEWS = ("views.sql", "trajectories.sql")
_LOCK = "select pg_advisory_xact_lock(hashtextextended(%s, 0))"


def prepare(connection: Connection) -> None:
    """Make the schema where there is none, in one transaction, and check its version.

    Raises:
        SchemaVersionError: Tables of another version.
        StoreError: No PostGIS, or an encoding that cannot hold every name.
    """
    if not _is_there(connection):
        with connection.transaction():
            # One process makes it, the others wait and find it made.
            connection.execute(_LOCK, ("sightflow schema",))
            if not _is_there(connection):
                _make(connection)
        set_search_path(connection)
    check(connection)


def check(connection: Connection) -> None:
    """Check the version of the tables; nothing is made.

    Raises:
        SchemaVersionError: Tables of another version.
        StoreError: There are none.
    """
    check_version(str(version(connection)), _where(connection))


def version(connection: Connection) -> int:
    """The version of the tables.

    Raises:
        StoreError: There are none.
    """
    if not _is_there(connection):
        raise StoreError(f"{_where(connection)} holds no store yet: `sightflow db init` makes one")
    (found,) = connection.execute("select max(version) from sightflow.schema_version").fetchone() or (None,)
    return int(found or 0)


def upgrade(connection: Connection, fill: Callable[[Connection], None]) -> list[int]:
    """Lead the tables to this version, in one transaction: all steps or none.

    Args:
        connection: As the owner of the tables.
        fill: What version 2 computes from what version 1 stored.

    Returns:
        The versions gone through, in order; none where the tables are of this version already.

    Raises:
        SchemaVersionError: No way leads from what is there.
    """
    with connection.transaction():
        connection.execute(_LOCK, ("sightflow schema",))
        found = version(connection)
        check_upgrade(str(found), _where(connection))
        steps = list(range(found + 1, SCHEMA_VERSION + 1))
        if steps:
            connection.execute("drop view if exists outlines, trajectories, track_samples, track_observations, tracks")
        for step in steps:
            _step(connection, step)
            if step == 2:
                fill(connection)
        if steps:
            _run(connection, *_VIEWS)
    return steps


def grant_reader(connection: Connection, role: str) -> bool:
    """Let a role read the store and nothing else, now and after upgrades; make it where it is not there.

    Returns:
        Whether the role was made: without a password, so that none passes through here.
    """
    who = sql.Identifier(role)
    grants = (
        "grant connect on database {database} to {who}",
        "grant usage on schema sightflow to {who}",
        "grant select on all tables in schema sightflow to {who}",
        "alter default privileges in schema sightflow grant select on tables to {who}",
        # A second line of defence: the role cannot write by mistake where others granted it more.
        "alter role {who} in database {database} set default_transaction_read_only = on",
    )
    with connection.transaction():
        known = connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone() is not None
        if not known:
            connection.execute(sql.SQL("create role {who} login").format(who=who))
        for grant in grants:
            connection.execute(sql.SQL(grant).format(who=who, database=sql.Identifier(connection.info.dbname)))
    return not known


def make_partitions(connection: Connection, days: Sequence[str]) -> None:
    """Make the partitions of `observations` for these days (ISO dates) where they are missing.

    A table made apart and then attached locks out neither readers nor writers, as CREATE TABLE PARTITION OF would.
    """
    names = [f"observations_{day.replace('-', '')}" for day in days]
    # Not to_regclass: it answers from a cache that may be older than the lock.
    missing = (
        "select day, name from unnest(%s::text[], %s::text[]) as wanted (day, name)"
        " where name not in (select tablename from pg_tables where schemaname = 'sightflow')"
    )
    if not connection.execute(missing, (list(days), names)).fetchall():
        return
    with connection.transaction():
        connection.execute(_LOCK, ("sightflow partitions",))
        for day, name in connection.execute(missing, (list(days), names)).fetchall():
            end = (
                "infinity" if day == date.max.isoformat() else f"{date.fromisoformat(day) + timedelta(days=1)} 00:00+00"
            )
            connection.execute(f"create table {name} (like observations including defaults)")
            connection.execute(
                f"alter table observations attach partition {name} for values from ('{day} 00:00+00') to ('{end}')"
            )


def drop_partitions(connection: Connection, before: date) -> list[date]:
    """Drop the partitions of days before a date and write down that what they held was pruned; returns the days."""
    with connection.transaction():
        connection.execute(_LOCK, ("sightflow partitions",))
        names = (
            "select tablename from pg_tables where schemaname = 'sightflow' and tablename ~ '^observations_[0-9]{8}$'"
        )
        days = sorted(date.fromisoformat(name[-8:]) for (name,) in connection.execute(names).fetchall())
        gone = [day for day in days if day < before]
        if gone:
            # One statement takes the lock on the parent once, whatever the number of days.
            connection.execute("drop table " + ", ".join(f"observations_{day:%Y%m%d}" for day in gone))
            connection.execute("delete from pruned where until < %s", (before,))
            connection.execute(
                "insert into pruned select %(until)s where not exists (select from pruned)", {"until": before}
            )
    return gone


def _where(connection: Connection) -> str:
    return f"{connection.info.dbname} on {connection.info.host}"


def _is_there(connection: Connection) -> bool:
    there = "select from pg_tables where (schemaname, tablename) = ('sightflow', 'schema_version')"
    return connection.execute(there).fetchone() is not None


def _run(connection: Connection, *scripts: str) -> None:
    for script in scripts:
        connection.execute(files("flows.store").joinpath(script).read_text(encoding="utf-8"))


def _step(connection: Connection, version: int) -> None:
    _run(connection, f"upgrade_{version}.sql")
    connection.execute("insert into schema_version (version) values (%s)", (version,))


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
    _run(connection, "tables.sql")
    connection.execute("insert into schema_version values (1)")
    for step in range(2, SCHEMA_VERSION + 1):
        _step(connection, step)
    _run(connection, *_VIEWS)


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
