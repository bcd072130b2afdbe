"""Files a command writes for people and other programs: whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.errors import UsageError


@contextmanager
def written_whole(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it is renamed when all went well and removed when not.

    Folders that are missing are made. With `folder` the name is that of a folder, which is made; it replaces nothing
    but an empty one.

    Raises:
        UsageError: the file system refuses, or what is there may not be replaced.
    """
    if folder:
        path = path.absolute()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path}: expected a new or empty folder")
    elif path.is_dir():  # first, because "." and "/" have no name to put a temporary one beside
        raise UsageError(f"{path}: expected a file name, got a folder")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"{path}: cannot be written: {reason}; check the disk's space and permissions") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary) if folder else temporary.unlink(missing_ok=True)
