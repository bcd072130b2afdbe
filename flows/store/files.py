"""Durable files: written whole or not at all, locked between processes, read again only when they changed."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from flows.errors import StoreError

T = TypeVar("T")

FIXES = {
    errno.ENOSPC: "the disk is full: free some space and run again, finished chunks are kept",
    errno.EDQUOT: "the disk quota is used up: free some space and run again, finished chunks are kept",
    errno.EACCES: "permission denied: make the folder writable for this user, or choose another with --store",
    errno.EPERM: "not permitted: make the folder writable for this user, or choose another with --store",
    errno.EROFS: "the file system is read-only: choose another folder with --store",
    errno.ENAMETOOLONG: "the source id is too long for a folder name: use a shorter one (--source)",
    errno.ENOTDIR: "a part of the path is a file: choose a folder with --store",
    errno.EMFILE: "too many open files: raise the limit with ulimit -n",
}
"""What a person can do about what the file system says."""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into StoreError with the folder and the likely fix."""
    try:
        yield
    except OSError as error:
        fix = FIXES.get(error.errno or 0, f"{error.strerror or error}")
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"store {folder}: {fix}{where}") from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that readers, and a machine that loses power, find the old content or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name starts with a dot so that every glob for finished files passes over it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_table_durably(path: Path, table: pa.Table) -> None:
    """Write a Parquet file as `write_durably` does.

    The metadata of the table's schema (GeoParquet's) becomes the file's.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_durably(path, sink.getvalue())


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read one Parquet file in its schema; `pq.read_table` would take columns from the folders' names instead.

    Columns that came later and may be null are so where an older version wrote the file.
    """
    with pq.ParquetFile(path) as file:
        table = file.read(schema.names)
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def source_folder(source_id: str) -> str:
    """The hive partition of a source, safe as a folder's name on every file system."""
    # An underscore quoted by hand: "__HIVE_DEFAULT_PARTITION__" would be read as null.
    return f"source_id={quote(source_id, safe='').replace('__', '_%5F')}"


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock shared by all processes; the kernel frees it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class FileCache(Generic[T]):
    """Parsed content of a folder's files, parsed again only where a file was replaced."""

    def __init__(self, parse: Callable[[Path], T]) -> None:
        self._parse = parse
        # By plain text: a folder may hold ten thousand files, and making that many paths takes longer than asking.
        self._known: dict[str, tuple[tuple[int, int, int], T]] = {}

    def get(self, path: Path | str) -> T | None:
        """Content of one file, None where there is none."""
        name = str(path)
        try:
            status = os.stat(name)
            # A replaced file has another inode, even within the clock's resolution.
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known.get(name)
            if known is None or known[0] != signature:
                known = self._known[name] = (signature, self._parse(Path(name)))
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        return known[1]

    def all(self, folder: Path, suffix: str) -> dict[str, T]:
        """Content of the files whose names end like this, by name, in order; temporary ones are passed over."""
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(suffix) and name[0] != ".")
        except FileNotFoundError:
            return {}
        found = ((name, self.get(f"{folder}/{name}")) for name in names)
        return {name: content for name, content in found if content is not None}
