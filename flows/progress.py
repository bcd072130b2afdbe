"""A run's progress, drawn from the ledger: chunks, frames a second, time left; silent without a terminal."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from flows.plan import RunSummary
from flows.schema import ChunkState
from flows.store import Store

_POLL_SECONDS = 1.0


class LedgerProgress:
    """Shows how far a run is, while the `with` block lasts.

    Args:
        store: Its ledger is polled for what workers have in hand, so any process may be doing the work.
        summary: Of the run; it grows.
        console: Where to draw; nothing is drawn where it is no terminal.
    """

    def __init__(self, store: Store, summary: RunSummary, console: Console) -> None:
        self._store = store
        self._summary = summary
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
        self._drawn = console.is_terminal

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
        task = self._bar.add_task("planning", total=None, rate="")
        started = time.monotonic()
        run = self._summary
        while True:
            before, frames = run.skipped + run.done + run.failed, run.frames
            ledger = self._store.ledger(run.in_hand)
            ended = sum(state in (ChunkState.DONE, ChunkState.FAILED) for state in ledger["state"].to_pylist())
            frames += sum(ledger["frames"].to_pylist())
            rate = frames / max(time.monotonic() - started, 1e-9)
            self._bar.update(
                task,
                description="processing" if run.is_planned else "planning and processing",
                total=run.planned or None,
                completed=before + ended,
                rate=f"{rate:.1f} frames/s" if frames else "starting ...",
            )
            if self._stop.wait(_POLL_SECONDS):
                return
