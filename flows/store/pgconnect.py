"""Connections to PostgreSQL: opened, lost, opened again; and what went wrong, said so that it can be fixed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.errors import RefusedChunkError, StoreError

T = TypeVar("T")

BACKOFF_S = (0.2, 1.0, 3.0, 6.0)
"""Waits before the further attempts after a lost connection; a server restart takes seconds."""

CONNECT_TIMEOUT_S = 10

_LOST = "the connection was lost again and again: see the server's log; finished chunks are kept"
_TLS = "the TLS setting does not fit the server: check sslmode and sslrootcert in the URL"
_CONNECT_FIXES = {
    "pg_hba.conf": "the server does not admit this user from here: add a line to its pg_hba.conf, or change sslmode",
    "certificate": _TLS,
    "SSL": _TLS,
    "password authentication failed": "wrong password: set it in the URL, in PGPASSWORD or in ~/.pgpass",
    "no password supplied": "the server wants a password: set it in the URL, in PGPASSWORD or in ~/.pgpass",
    "does not exist": "create it first (createdb, createuser), or correct the URL",
    "Connection refused": "no server listens there: start it, or correct host and port",
    "No such file or directory": "no server listens there: start it, or correct host and port",
    "could not translate host name": "unknown host: correct the URL",
    "failed to resolve host": "unknown host: correct the URL",
    "timeout expired": "no answer: check host, port and firewall",
    "too many clients": "too many connections: raise max_connections on the server or use fewer workers",
    "closed the connection": _LOST,
    "connection is lost": _LOST,
}
"""Part of libpq's message -> what to do; a refused connection carries no error code."""

_STATE_FIXES = {
    "42501": "permission denied: let the owner of the database grant it, or connect as another user",
    "53100": "the server's disk is full: free some space and run again, finished chunks are kept",
    "57P01": _LOST,
    "25006": "the statement wants to write, but a query is one SELECT and a standby is read-only",
    "42P01": "a table is not there; `sightflow run` with this store makes the tables",
    "3F000": "the tables are not there; `sightflow run` with this store makes them",
    "22021": "text the server cannot hold (a NUL character?)",
}
"""SQLSTATE -> what to do."""


_VARIABLES = {"user": "PGUSER", "host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}


class Server:
    """One PostgreSQL database and this process's connection to it. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """Read the address; nothing is connected.

        Raises:
            StoreError: No address libpq understands. The message does not repeat it, there may be a password in it.
        """
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise StoreError(
                "the store's address does not parse: expected postgresql://user@host:5432/database?sslmode=require, "
                "special characters of a password percent-encoded (better: leave it to PGPASSWORD or ~/.pgpass)"
            ) from None
        self._password = str(parts.get("password") or "")
        defaults = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "sightflow", "client_encoding": "UTF8"}
        self._conninfo = make_conninfo(**{**defaults, **parts})
        self.url = self._name(parts)
        self._mutex = threading.RLock()
        self._connection: psycopg.Connection | None = None

    @staticmethod
    def _name(parts: dict[str, object]) -> str:
        # What the address leaves out libpq takes from the environment.
        from_environment = {name: os.environ.get(variable) for name, variable in _VARIABLES.items()}
        parts = {**from_environment, **parts}
        user = f"{parts['user']}@" if parts.get("user") else ""
        host = str(parts.get("host") or "")
        # A socket's folder does not fit before the slash of a URL.
        query = f"?host={host}" if host.startswith("/") else ""
        port = f":{parts['port']}" if parts.get("port") else ""
        return f"postgresql://{user}{'' if query else host}{port}/{parts.get('dbname') or ''}{query}"

    def connect(self) -> psycopg.Connection:
        """A new connection, in autocommit, in UTC, looking for names in `sightflow` and where PostGIS is.

        Raises:
            StoreError: No connection, with the reason and the fix.
        """
        try:
            # Statements prepared by name would break behind a connection pooler.
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
            connection.execute("select set_config('TimeZone', 'UTC', false)")
            set_search_path(connection)
        except psycopg.Error as error:
            raise self.explained(error) from error
        return connection

    def run(self, work: Callable[[psycopg.Connection], T], retry: bool = True) -> T:
        """Do `work`, again with back-off where the connection is lost: it must be safe to repeat.

        Raises:
            StoreError: What the server refused, or that it stayed away.
        """
        for delay in BACKOFF_S if retry else ():
            try:
                with self._mutex:
                    return work(self._open())
            except (psycopg.Error, _NotConnectedError) as error:
                if not self._is_passing(error):
                    raise self.explained(error) from error
            time.sleep(delay)
        try:
            with self._mutex:
                return work(self._open())
        except (psycopg.Error, _NotConnectedError) as error:
            raise self.explained(error) from error

    def close(self) -> None:
        """Close this process's connection; the next use opens another."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def explained(self, error: Exception) -> StoreError:
        """The error with the server's address and the likely fix, without the password."""
        if isinstance(error, _NotConnectedError):
            return error.cause
        state = getattr(error, "sqlstate", None)
        message = " ".join(str(error).split())
        if self._password:
            message = message.replace(self._password, "***")
        if state is None:
            fix = next((fix for part, fix in _CONNECT_FIXES.items() if part in message), "")
        else:
            fix = _STATE_FIXES.get(state, "")
        # Data the server will not have, or a connection that was lost over this work and not before it.
        kind = RefusedChunkError if fix == _LOST or (state or "").startswith("22") else StoreError
        return kind(f"store {self.url}: " + "; ".join(filter(None, (fix, f"the server said: {message}"))))

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self.connect()
            except StoreError as error:
                raise _NotConnectedError(error) from error
        return self._connection

    def _is_passing(self, error: Exception) -> bool:
        if isinstance(error, _NotConnectedError):
            # A server this process has reached may come back; an address that never worked is likely wrong.
            return self._connection is not None
        lost = self._connection is None or self._connection.closed
        return lost or isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


def set_search_path(connection: psycopg.Connection) -> None:
    """Let names be found in `sightflow` first, then where PostGIS was installed, then in `public`."""
    connection.execute(
        "select set_config('search_path', concat_ws(', ', 'sightflow', (select quote_ident(nspname)"
        " from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'postgis'),"
        " 'public'), false)"
    )


class _NotConnectedError(Exception):
    """No connection could be opened; another attempt may find the server back."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause = cause
