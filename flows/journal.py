"""Logs that machines read: one JSON object a line, each with the ids of the run, chunk and video it is about.

`SIGHTFLOW_LOG` is the level, `SIGHTFLOW_LOG_FORMAT` is `text` or `json`. Workers on other machines write to their own
standard error, which Ray keeps in its log folder, and are told both by the driver.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from flows.errors import UsageError
from flows.schema import Chunk

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)


@dataclass(frozen=True)
class Journal:
    """How a process writes its log."""

    level: str = "WARNING"
    form: str = "text"

    @classmethod
    def from_environment(cls) -> Self:
        """What the environment asks for.

        Raises:
            UsageError: A level or format there is not.
        """
        level = (os.environ.get("SIGHTFLOW_LOG") or "WARNING").upper()
        form = os.environ.get("SIGHTFLOW_LOG_FORMAT") or "text"
        for name, value, known in (
            ("SIGHTFLOW_LOG", level, logging.getLevelNamesMapping()),
            ("SIGHTFLOW_LOG_FORMAT", form, ("text", "json")),
        ):
            if value not in known:
                raise UsageError(f"{name} is one of {', '.join(known)}, got {os.environ[name]!r}")
        return cls(level, form)

    def open(self) -> None:
        """Write this process's log so, to standard error."""
        handler = logging.StreamHandler()
        handler.addFilter(_add_ids)
        handler.setFormatter(JsonLines() if self.form == "json" else _Text("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=self.level, handlers=[handler], force=True)


@contextmanager
def about(chunk: Chunk, run_id: str) -> Iterator[None]:
    """Let what is logged inside carry the ids of a chunk, its video and its run."""
    ids = {
        "run_id": run_id,
        "chunk_id": chunk.chunk_id,
        "video_id": chunk.video.video_id,
        "source_id": chunk.video.source_id,
    }
    token = _about.set(ids)
    try:
        yield
    finally:
        _about.reset(token)


def _add_ids(record: logging.LogRecord) -> bool:
    # Here, not in the formatter: the thread that logs knows what it is about.
    record.ids = _about.get()
    return True


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The usual line, and the chunk it is about."""
        chunk_id = record.__dict__["ids"].get("chunk_id")
        return super().format(record) + (f" [chunk {chunk_id}]" if chunk_id else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, host, process, ids, what `extra` gave as `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "host": platform.node(),
            "process": record.process,
            **record.__dict__.get("ids", {}),
            **record.__dict__.get("fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
