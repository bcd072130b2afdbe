"""Fetch one file over HTTP: resumable, checked by size and SHA-256, safe with several processes at once.

The file is written to `<file>.part` under a lock, verified, and only then renamed, so that what stands under its own
name is whole. Certificates are checked and proxies honoured as `urllib` does it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from flows.errors import ModelError
from flows.store.files import file_lock

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 30.0
# A dropped connection is resumed at once; only attempts in a row that bring nothing new count.
FRUITLESS_ATTEMPTS = 3


def fetch(url: str, path: Path, size_bytes: int, sha256: str) -> None:
    """Bring `url` to `path`, resuming what an earlier attempt left.

    Args:
        url: Where to fetch from (`http`, `https` or `file`).
        path: Where the file shall stand; its folder is created.
        size_bytes: Size the file must have.
        sha256: Digest the file must have, in lower-case hex.

    Raises:
        ModelError: The server cannot be reached or refuses, the disk is full, or what came is not the file.
    """
    try:
        # One process downloads, the others wait and then find the file.
        with file_lock(path.with_name(path.name + ".lock")):
            if not path.exists():
                _fetch_locked(url, path, size_bytes, sha256)
    except OSError as error:
        hint = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise ModelError(f"cannot write {path}: {error}{hint}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, lower-case hex; remembered until its size or time of change differs."""
    stat = path.stat()
    return _file_sha256(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _file_sha256(path: Path, mtime_ns: int, size_bytes: int) -> str:
    del mtime_ns, size_bytes  # part of the cache's key only
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_locked(url: str, path: Path, size_bytes: int, sha256: str) -> None:
    part = path.with_name(path.name + ".part")
    resumed = _size(part) > 0
    _complete(url, part, size_bytes)
    got = file_sha256(part)
    if got != sha256 and resumed:
        # What lay here may have been the beginning of another file: once more, from nothing.
        part.unlink()
        _complete(url, part, size_bytes)
        got = file_sha256(part)
    if got != sha256:
        part.unlink()
        raise ModelError(
            f"{url}: wrong checksum: expected SHA-256 {sha256}, got {got}; the file was not kept. "
            "The server (or a proxy in between) offers something else under this name"
        )
    part.rename(path)


def _complete(url: str, part: Path, size_bytes: int) -> None:
    """Append to `part` until it has its size, resuming dropped connections."""
    if _size(part) > size_bytes:
        part.unlink()
    free = shutil.disk_usage(part.parent).free
    missing = size_bytes - _size(part)
    if missing > free:
        raise ModelError(
            f"{part.parent}: {missing / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free (disk is full)"
        )
    fruitless, most = 0, _size(part)
    with _progress() as progress:
        task = progress.add_task(part.stem, total=size_bytes, completed=most)
        while _size(part) < size_bytes:
            problem = _append(url, part, size_bytes, lambda done: progress.update(task, completed=done))
            # Against the most there ever was, or a server without ranges that drops connections would go on for ever.
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless == FRUITLESS_ATTEMPTS:
                raise ModelError(f"cannot fetch {url}: {problem}")
            time.sleep(0.2 * fruitless)


def _append(url: str, part: Path, size_bytes: int, advanced: Callable[[int], Any]) -> str:
    """One request; returns what ended it early.

    Raises:
        ModelError: The server's answer will not change by asking again.
    """
    had = _size(part)
    request = urllib.request.Request(
        url, headers={"User-Agent": "sightflow"} | ({"Range": f"bytes={had}-"} if had else {})
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            # Anything but 206 is the whole file from its start, whatever range was asked for.
            mode = "ab" if response.status == http.client.PARTIAL_CONTENT else "wb"
            with part.open(mode) as file:
                while block := response.read(BLOCK_BYTES):
                    file.write(block)
                    advanced(file.tell())
                    if file.tell() > size_bytes:
                        raise ModelError(f"{url}: expected {size_bytes} bytes, got more; this is not the file")
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ModelError(f"{url}: shorter than the {size_bytes} bytes expected; this is not the file") from error
        if error.code >= http.client.INTERNAL_SERVER_ERROR or error.code == http.client.TOO_MANY_REQUESTS:
            return f"HTTP {error.code} {error.reason}"
        raise ModelError(f"cannot fetch {url}: HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        return str(error.reason)
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return str(error) or type(error).__name__
    return "the connection ended before the file did"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)
