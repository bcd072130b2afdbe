"""A real PostgreSQL with PostGIS for the tests: a given one, or a private cluster that lives as long as the run."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

BINARIES = Path("/usr/lib/postgresql")
PASSWORD_ROLE = "sightflow_test_password"


def _absent(reason: str) -> None:
    reason = f"{reason}; tests/install_postgis.sh installs it on Debian and Ubuntu"
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI promises a PostGIS: {reason}")
    pytest.skip(reason)


def _find_binaries() -> Path:
    versions = sorted((int(path.name), path) for path in BINARIES.glob("[0-9]*") if (path / "bin/initdb").exists())
    if not versions:
        _absent(f"no PostgreSQL server under {BINARIES}")
    for version, path in reversed(versions):
        if Path(f"/usr/share/postgresql/{version}/extension/postgis.control").exists():
            return path / "bin"
    return _absent("PostgreSQL is installed without PostGIS")


def _as_server(command: list[str], folder: Path) -> None:
    """Run a command as a user the server agrees to run as: it refuses root."""
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]
    with (folder / "log").open("ab") as log:
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} failed:\n{(folder / 'log').read_text()[-3000:]}")


@contextmanager
def running_cluster(
    settings: Mapping[str, object], rules: str = "", files: Mapping[str, bytes] | None = None
) -> Iterator[Path]:
    """A private cluster with these settings, rules of admission and files in its data folder; yields its socket's."""
    binaries = _find_binaries()
    # Short: the path of a unix socket holds about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="sf-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    settings = {"fsync": "off", "unix_socket_directories": folder, **settings}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    data = folder / "data"
    try:
        make = ["-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8"]
        _as_server([str(binaries / "initdb"), *make], folder)
        admission = data / "pg_hba.conf"
        admission.write_text(rules + admission.read_text())
        for name, content in (files or {}).items():
            (data / name).write_bytes(content)
            (data / name).chmod(0o600)
            shutil.chown(data / name, data.owner(), data.group())
        _as_server([str(binaries / "pg_ctl"), "-w", "-D", str(data), "-o", options, "start"], folder)
        yield folder
        _as_server([str(binaries / "pg_ctl"), "-w", "-D", str(data), "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgis_url() -> Iterator[str]:
    """URL of a database from which others may be made; `SIGHTFLOW_TEST_POSTGRES` names one that is there."""
    if given := os.environ.get("SIGHTFLOW_TEST_POSTGRES"):
        yield given
        return
    # One role has to give its password, for the tests of what happens when it is wrong.
    rules = f"local all {PASSWORD_ROLE} scram-sha-256\n"
    # Not UTC, so that a time zone left to the server is noticed.
    with running_cluster({"listen_addresses": "''", "timezone": "Asia/Kolkata"}, rules) as folder:
        yield f"postgresql://postgres@/postgres?host={folder}"


@pytest.fixture(scope="session")
def _postgis_template(postgis_url: str) -> Iterator[str]:
    name = f"sightflow_template_{secrets.token_hex(4)}"
    with psycopg.connect(postgis_url, autocommit=True) as server:
        server.execute(f"create database {name} encoding 'UTF8' template template0")
        try:
            with psycopg.connect(_url(postgis_url, dbname=name), autocommit=True) as database:
                database.execute("create extension postgis")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            _absent("the given PostgreSQL has no PostGIS")
        yield name
        server.execute(f"drop database {name} with (force)")


@pytest.fixture
def postgis_database(postgis_url: str, _postgis_template: str) -> Iterator[str]:
    """URL of a fresh database with the PostGIS extension and nothing else."""
    yield from _fresh_database(postgis_url, _postgis_template)


@pytest.fixture(scope="module")
def postgis_module_database(postgis_url: str, _postgis_template: str) -> Iterator[str]:
    """The same, one for all tests of a module: for those that make hundreds of small stores' worth of data."""
    yield from _fresh_database(postgis_url, _postgis_template)


@pytest.fixture
def postgis_password_url(postgis_database: str) -> Iterator[str]:
    """URL without a password for a role that needs one, "s3cret", and may do nothing in its database."""
    if os.environ.get("SIGHTFLOW_TEST_POSTGRES"):
        pytest.skip("whether the given server asks for passwords is not known")
    with psycopg.connect(postgis_database, autocommit=True) as server:
        server.execute(f"create role {PASSWORD_ROLE} login password 's3cret'")
        yield _url(postgis_database, user=PASSWORD_ROLE)
        server.execute(f"drop owned by {PASSWORD_ROLE}")
        server.execute(f"drop role {PASSWORD_ROLE}")


def _fresh_database(url: str, template: str) -> Iterator[str]:
    name = f"sightflow_test_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"create database {name} template {template}")
        yield _url(url, dbname=name)
        server.execute(f"drop database {name} with (force)")


def _url(url: str, **changes: str) -> str:
    """The URL with other parts; a password goes along as a parameter."""
    parts = {**conninfo_to_dict(url), **changes}
    user = f"{parts.pop('user')}@" if "user" in parts else ""
    return f"postgresql://{user}/{parts.pop('dbname')}?{urlencode(parts)}"
