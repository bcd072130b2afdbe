"""A run's progress, drawn from the ledger: chunks, frames a second, time left; silent without a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.schema import ChunkState
from flows.store import Store

_POLL_SECONDS = 1.0


class LedgerProgress:
    """Shows how far the given chunks are, while the `with` block lasts.

    Args:
        store: Its ledger is polled, so any process may be doing the work.
        chunk_ids: What is waited for.
        console: Where to draw; nothing is drawn where it is no terminal.
    """

    def __init__(self, store: Store, chunk_ids: Sequence[str], console: Console) -> None:
        self._store = store
        self._chunk_ids = list(chunk_ids)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True, name="progress")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("chunks"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._drawn = console.is_terminal and bool(self._chunk_ids)

    def __enter__(self) -> Self:
        if self._drawn:
            self._bar.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._stop.set()
            self._thread.join()
            self._bar.stop()

    def _poll(self) -> None:
        task = self._bar.add_task("processing", total=len(self._chunk_ids), rate="starting ...")
        started = time.monotonic()
        already: int | None = None
        while True:
            ledger = self._store.ledger(self._chunk_ids)
            ended = sum(state in (ChunkState.DONE, ChunkState.FAILED) for state in ledger["state"].to_pylist())
            frames = sum(ledger["frames"].to_pylist())
            already = frames if already is None else already
            rate = (frames - already) / max(time.monotonic() - started, 1e-9)
            shown = f"{rate:.1f} frames/s" if frames > already else "starting ..."
            self._bar.update(task, completed=ended, rate=shown)
            if self._stop.wait(_POLL_SECONDS):
                return
