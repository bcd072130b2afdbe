"""What goes wrong between a writer and its store: said so that it can be fixed, and nothing half written."""

import os
import pickle
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from flows.config import Settings, StoreSettings
from flows.errors import StoreError
from flows.journal import Journal
from flows.schema import ChunkResult, ChunkState
from flows.store import Store, open_store, pgconnect
from flows.workers import Commit
from tests.archive import make_archive_chunk
from tests.nobody import as_nobody
from tests.postgis import running_cluster
from tests.stores import make_chunk, make_result

N_ROWS = 40_000
"""Enough that a load lasts long enough to be shot at."""

ENDS_ITS_OWN_LOAD = """
    create function end_load() returns trigger language plpgsql as
        $$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;
    create trigger end_load before insert on sightflow.observations for each row execute function end_load()
"""

ENDS_LOADS = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and query like 'copy observations%' and state = 'active'
"""


def _result(index: int, n_rows: int = N_ROWS) -> ChunkResult:
    return make_archive_chunk("gate", index, 200, n_rows, seconds_per_object=4)


def _count(store: Store) -> int:
    n: int = store.query("select count(*) as n from observations")["n"][0].as_py()
    return n


def _fill(store: Store) -> None:
    for index in range(200):
        store.commit(_result(index, 5_000))


def _assert_whole(store: Store) -> None:
    """Some chunks are done, each with its rows, and there is nothing else."""
    n_chunks = store.ledger().num_rows
    assert n_chunks > 0
    assert _count(store) == n_chunks * 5_000
    assert store.ledger()["state"].to_pylist() == [ChunkState.DONE] * n_chunks


@contextmanager
def _shooting(url: str, shots: int) -> Iterator[list[int]]:
    """End connections in the middle of their load, up to `shots` times; yields the list of hits."""
    hits: list[int] = []
    stop = threading.Event()

    def shoot() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while len(hits) < shots and not stop.is_set():
                (hit,) = connection.execute(ENDS_LOADS).fetchone() or (0,)
                hits.extend([1] * hit)

    thread = threading.Thread(target=shoot)
    thread.start()
    try:
        yield hits
    finally:
        stop.set()
        thread.join()


def test_a_connection_lost_in_mid_load_is_made_good(postgis_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgconnect, "BACKOFF_S", (0.01,) * 6)
    with open_store(postgis_database) as store:
        store.commit(_result(0, 100))
        with _shooting(postgis_database, shots=2) as hits:
            for index in range(20):
                store.commit(_result(index))
                if len(hits) == 2:
                    break
        assert len(hits) == 2
        assert _count(store) == N_ROWS * (index + 1)
        assert set(store.ledger()["rows"].to_pylist()) == {N_ROWS}


def _commit(result: ChunkResult, settings: Settings) -> dict:
    row = {"chunk": pickle.dumps(result.chunk), "result": pickle.dumps(result), "trouble": None}
    return Commit(settings, "", Journal())(row)


def test_a_connection_that_is_always_lost_fails_the_chunk_alone(
    postgis_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgconnect, "BACKOFF_S", (0.01, 0.01))
    settings = Settings(store=StoreSettings(url=postgis_database))
    with open_store(postgis_database) as store:
        lost, other = make_result(make_chunk(0)), make_result(make_chunk(1))
        with psycopg.connect(postgis_database, autocommit=True) as server:
            server.execute(ENDS_ITS_OWN_LOAD)
            done = _commit(lost, settings)
            server.execute("drop trigger end_load on sightflow.observations")
        assert "again and again: see" in done["error"]
        assert _commit(other, settings)["error"] is None
        ledger = store.ledger().select(["state", "error", "rows"]).to_pylist()
        assert sorted(ledger, key=lambda row: row["rows"]) == [
            {"state": ChunkState.FAILED, "error": done["error"], "rows": 0},
            {"state": ChunkState.DONE, "error": None, "rows": 90},
        ]
        assert _count(store) == 90


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = Path(tempfile.mkdtemp(prefix="sf-small-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system can only be mounted by root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def test_a_full_disk_loses_no_finished_chunk(small_disk: Path) -> None:
    with open_store(str(small_disk / "store")) as store:
        with pytest.raises(StoreError, match="the disk is full: free some space and run again, finished chunks are"):
            _fill(store)
        _assert_whole(store)
        # Nothing of the chunk that did not fit is left to take up room.
        assert not [path for path in small_disk.rglob(".*") if path.is_file()]


def test_a_servers_full_disk_loses_no_finished_chunk(postgis_url: str, postgis_database: str, small_disk: Path) -> None:
    if os.environ.get("SIGHTFLOW_TEST_POSTGRES"):
        pytest.skip("the given server's disks are not ours to fill")
    shutil.chown(small_disk, "postgres")
    small_disk.parent.chmod(small_disk.parent.stat().st_mode | 0o055)
    space = f"small_{secrets.token_hex(4)}"
    with open_store(postgis_database) as store, psycopg.connect(postgis_url, autocommit=True) as server:
        server.execute(f"create tablespace {space} location '{small_disk}'")
        try:
            with psycopg.connect(postgis_database, autocommit=True) as connection:
                name = connection.info.dbname
                connection.execute(f"alter database {name} set default_tablespace = {space}")
            store.close()
            with pytest.raises(StoreError, match="the server's disk is full: free some space and run again"):
                _fill(store)
            _assert_whole(store)
        finally:
            store.close()
            server.execute(f"drop database {name} with (force)")
            server.execute(f"create database {name}")
            server.execute(f"drop tablespace {space}")


def test_a_folder_one_may_not_write_is_explained() -> None:
    with tempfile.TemporaryDirectory(prefix="sf-locked-") as name:
        folder = Path(name)
        with open_store(str(folder / "store")) as store:
            store.commit(make_result(make_chunk(0)))
            folder.chmod(0o555)
            for path in (folder / "store").rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
            (folder / "store").chmod(0o555)
            with as_nobody():
                for write in (
                    lambda: open_store(str(folder / "other")).prepare(),
                    lambda: store.commit(make_result(make_chunk(1))),
                ):
                    with pytest.raises(StoreError, match="permission denied: make the folder writable for this user"):
                        write()
                # Reading it is another matter.
                assert _count(store) == 90
            for path in (folder / "store").rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            (folder / "store").chmod(0o755)


def test_a_reader_reads_and_writes_nothing(postgis_database: str) -> None:
    role = f"reader_{secrets.token_hex(4)}"
    with open_store(postgis_database) as store:
        assert store.grant_reader(role)
        assert not store.grant_reader(role)
        store.commit(make_result(make_chunk(0)))
        try:
            with open_store(postgis_database.replace("//postgres@", f"//{role}@")) as reader:
                assert _count(reader) == 90
                assert reader.query("select count(*) as n from tracks")["n"].to_pylist() == [0]
                reader.check()
                for write in (
                    lambda: reader.commit(make_result(make_chunk(1))),
                    lambda: reader.write_calibration("gate", "{}"),
                    lambda: reader.add_run("run", "", "{}"),
                ):
                    with pytest.raises(StoreError, match=r"read-only|permission denied"):
                        write()
                with psycopg.connect(postgis_database.replace("//postgres@", f"//{role}@")) as connection:
                    # Its own setting aside, the server refuses, too.
                    connection.execute("set transaction read write")
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute("delete from sightflow.chunks")
        finally:
            with psycopg.connect(postgis_database, autocommit=True) as connection:
                connection.execute(f"drop owned by {role}")
                connection.execute(f"drop role {role}")


def test_a_role_that_may_not_make_readers_is_told_so(postgis_database: str, postgis_password_url: str) -> None:
    open_store(postgis_database).prepare()
    with pytest.raises(StoreError, match="permission denied: let the owner of the database grant it"):
        open_store(f"{postgis_password_url}&password=s3cret").grant_reader("dashboard")


def test_a_folder_has_no_readers(tmp_path: Path) -> None:
    with open_store(str(tmp_path)) as store, pytest.raises(StoreError, match="a folder has no roles"):
        store.grant_reader("dashboard")


def test_an_address_may_stand_in_the_environment(postgis_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(postgis_database) as connection:
        info = connection.info
        parts = {"PGHOST": info.host, "PGPORT": str(info.port), "PGUSER": info.user, "PGDATABASE": info.dbname}
    for name, value in parts.items():
        monkeypatch.setenv(name, value)
    with open_store("postgresql://") as store:
        store.commit(make_result(make_chunk(0)))
        assert _count(store) == 90
        assert parts["PGDATABASE"] in store.url
        assert parts["PGUSER"] in store.url
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    monkeypatch.setenv("PGDATABASE", "no_such_database")
    with pytest.raises(StoreError, match="no_such_database") as caught:
        open_store("postgresql://").prepare()
    assert "s3cret" not in str(caught.value)


def _certificate(folder: Path) -> dict[str, bytes]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = [folder / "server.key", folder / "server.crt"]
    made = [*command, "-keyout", str(files[0]), "-out", str(files[1]), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(made, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in files}


def test_tls_settings_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _certificate(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"listen_addresses": "localhost", "port": port, "ssl": "on"}
    url = f"postgresql://postgres@localhost:{port}/postgres?sslmode="
    with running_cluster(settings, "hostssl all all all trust\nhost all all all reject\n", files):
        for mode in ("require", f"verify-full&sslrootcert={tmp_path}/server.crt"):
            with open_store(url + mode) as store:
                sql = "select cast(ssl as text) as ssl from pg_stat_ssl where pid = pg_backend_pid()"
                assert store.query(sql)["ssl"].to_pylist() == ["true"]
        for mode in ("disable", f"verify-full&sslrootcert={tmp_path}/none.crt", "verify-full&sslrootcert=system"):
            with pytest.raises(StoreError, match=r"the TLS setting does not fit|does not admit this user"):
                open_store(url + mode).prepare()
        monkeypatch.setenv("PGSSLMODE", "disable")
        with pytest.raises(StoreError, match="does not admit this user from here"):
            open_store(url.removesuffix("?sslmode=")).prepare()
