"""What is installed, and how to fix what is not: the checks behind `sightflow doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import installation
from flows.catalog import MODELS, cache_folder
from flows.config import DetectSettings
from flows.errors import SightflowError
from flows.installation import INSTALL, Check, needs
from flows.models import build_segmenter, resolve
from flows.store.tables import check_version

if TYPE_CHECKING:
    from psycopg import Connection

LOW_DISK_BYTES = 2e9
LOW_MEMORY_BYTES = 4e9
# sun_path of a Unix socket holds 108 bytes on Linux and 104 elsewhere, one of them the final zero.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103


def run_checks(store_url: str) -> list[Check]:
    """Check everything a run needs, against the store at `store_url`; nothing is created or fetched."""
    steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("Python", installation.python),
        ("packages", installation.packages),
        ("torch", installation.torch_fits),
        ("GPU", installation.gpu),
        ("SAM 2", installation.sam2_imports),
        ("bundled models", _bundled_models),
        ("official models", _official_models),
        ("video codecs", installation.codecs),
        ("disk", lambda: _disk(store_url)),
        ("memory", _memory),
        ("store", lambda: _store(store_url)),
        ("Ray", _ray),
    ]
    return [check for name, step in steps for check in _guarded(name, step)]


def _guarded(name: str, step: Callable[[], Iterator[Check]]) -> list[Check]:
    """A check that fails in a way it did not foresee is a line of the report, too, not the end of it."""
    done: list[Check] = []
    try:
        done.extend(step())
    except SightflowError as error:
        done.append(Check(name, False, str(error), "as said there"))
    except Exception as error:  # noqa: BLE001
        done.append(
            Check(name, False, f"{type(error).__name__}: {error}", "install sightflow again in a fresh environment")
        )
    return done


def _bundled_models() -> Iterator[Check]:
    for spec in MODELS:
        # nano-512 is the nano segmenter's file at another size.
        if spec.url is not None or spec.name != "nano":
            continue
        name = f"bundled {spec.kind}"
        try:
            model = resolve(spec.name, spec.kind)
        except SightflowError as error:
            yield Check(name, False, str(error), "pip install --force-reinstall --no-deps sightflow")
            continue
        modules = ("sam2", "hydra", "safetensors") if spec.kind == "segmenter" else ("ultralytics", "supervision")
        if missing := list(needs(name, "torch", *modules)):
            yield from missing
            continue
        if spec.kind == "segmenter":
            build_segmenter(model)
        else:
            from flows.detect import Detector

            Detector(DetectSettings(detector=spec.name), "cpu")
        yield Check(name, True, f"{model.path.name}, {model.path.stat().st_size / 1e6:.1f} MB, loads")


def _official_models() -> Iterator[Check]:
    cached = [spec for spec in MODELS if spec.url is not None and spec.path.is_file()]
    for spec in cached:
        try:
            resolve(spec.name, spec.kind)
        except SightflowError as error:
            yield Check(f"model {spec.name}", False, str(error), f"rm {spec.path} && sightflow models pull {spec.name}")
        else:
            yield Check(f"model {spec.name}", True, "cached, checksum right")
    if not cached:
        yield Check("official models", True, f"none in {cache_folder()}; fetched on first use")


# -- the machine


def _disk(store_url: str) -> Iterator[Check]:
    places = {"model cache": cache_folder()}
    if not _is_server(store_url):
        places["store"] = Path(store_url).expanduser()
    for what, folder in places.items():
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        name, detail = f"disk: {what}", f"{folder}: {free / 1e9:.0f} GB free"
        if not os.access(there, os.W_OK):
            yield Check(name, False, f"{folder}: {there} is not writable", "choose another folder, or change its owner")
        elif free < LOW_DISK_BYTES:
            yield Check(name, None, detail, "free some space, or choose a folder on another disk")
        else:
            yield Check(name, True, detail)


def _existing(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    return next(path for path in [folder, *folder.resolve().parents] if path.exists())


def _memory() -> Iterator[Check]:
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's share
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, float(text))
    enough = total >= LOW_MEMORY_BYTES
    fix = "close other programs, use small models (nano, yolo11n) and set run.track_workers to 1"
    yield Check("memory", True if enough else None, f"{total / 1e9:.0f} GB", "" if enough else fix)


# -- store and cluster


def _is_server(store_url: str) -> bool:
    return store_url.startswith(("postgresql://", "postgres://"))


def _store(store_url: str) -> Iterator[Check]:
    if _is_server(store_url):
        from flows.store.pgconnect import Server

        server = Server(store_url)
        try:
            yield from server.run(_database, retry=False)
        finally:
            server.close()
        return
    folder = Path(store_url).expanduser()
    version_file = folder / "schema_version"
    if version_file.is_file():
        check_version(version_file.read_text().strip(), str(folder))
        yield Check("store", True, f"{folder}: a store of this version")
    elif folder.is_dir() and any(folder.iterdir()):
        yield Check(
            "store", False, f"{folder} is not empty and holds no store", "choose a new or empty folder with --store"
        )
    elif folder.exists() and not folder.is_dir():
        yield Check("store", False, f"{folder} is a file", "choose a folder with --store")
    else:
        yield Check("store", True, f"{folder}: made by the first run")


def _database(connection: Connection) -> list[Check]:
    def value(sql: str) -> Any:
        row = connection.execute(sql).fetchone()
        return row[0] if row else None

    where = f"{connection.info.dbname} on {connection.info.host}"
    checks = [Check("database", True, f"{where}: PostgreSQL {value('show server_version')}")]
    installed = value("select extversion from pg_extension where extname = 'postgis'")
    offered = value("select default_version from pg_available_extensions where name = 'postgis'")
    if installed or offered:
        checks.append(Check("PostGIS", True, installed or f"{offered} is offered; made by the first run"))
    else:
        fix = "install PostGIS on the database server (Debian: postgresql-NN-postgis-3)"
        checks.append(Check("PostGIS", False, f"{where} does not have it", fix))
    if value("select to_regclass('sightflow.schema_version') is not null"):
        version = str(value("select max(version) from sightflow.schema_version"))
        check_version(version, where)
        checks.append(Check("store", True, f"{where}: tables of schema version {version}"))
    else:
        checks.append(Check("store", True, f"{where}: no tables yet; made by the first run"))
    return checks


def _ray() -> Iterator[Check]:
    if missing := list(needs("Ray", "ray")):
        yield from missing
        return
    # Imported by another process: only the wiring imports Ray, and a broken one cannot take this report with it.
    command = [sys.executable, "-c", "import ray.data; print(ray.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Check("Ray", False, f"cannot be imported: {reason}", INSTALL.format("video"))
        return
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    longest = f"{temporary}/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
    fix = "set RAY_TMPDIR to a short, writable folder, such as /tmp"
    if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
        yield Check("Ray", False, f"its temporary folder {temporary} is too long for Unix sockets", fix)
    elif not os.access(_existing(Path(temporary)), os.W_OK | os.X_OK):
        yield Check("Ray", False, f"its temporary folder {temporary} is not writable", fix)
    else:
        yield Check("Ray", True, f"{done.stdout.strip()}, temporary folder {temporary}")
