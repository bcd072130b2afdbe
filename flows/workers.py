"""What workers do with a row of the dataflow: detect, track, commit. Rows are dictionaries; Ray is not needed.

Ray drops what a worker raises, so what stops all work, not one chunk's, travels with the row as its trouble. Libraries
of models are imported by the workers that need them: commits and a driver with nothing to do start in a second.

| row | from |
|---|---|
| chunk: pickled `Chunk` | the plan |
| chunk, detected: pickled `Detected` or None, at: time it was made, trouble | `Detect` |
| chunk, result: pickled `ChunkResult` or None, trouble | `Track` |
| chunk_id, error, trouble, samples: pickled list of `metrics.Sample` | `Commit` |
"""

from __future__ import annotations

import importlib
import logging
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from flows.config import Settings
from flows.errors import RefusedChunkError, SightflowError, StoreError
from flows.journal import Journal, about
from flows.locate import commit_located
from flows.metrics import Sample, samples
from flows.schema import ChunkResult
from flows.store import Store, open_store

_log = logging.getLogger(__name__)
Row = dict[str, Any]


class Worker(ABC):
    """An actor that holds one step, or says with every row why it could not be made.

    The step is made with the first row: Ray would start an actor again and again that dies while it is made.
    """

    def __init__(self, settings: Settings, threads: int, run_id: str, journal: Journal) -> None:
        self._settings = settings
        self._threads = threads
        self._run_id = run_id
        self._journal = journal
        self._step: Callable[[Any], Any] | None = None
        self._trouble: str | None = None

    @abstractmethod
    def _make(self) -> Callable[[Any], Any]:
        """Load the step."""

    def _ready(self) -> Callable[[Any], Any] | None:
        """The step, None where it cannot be made."""
        if self._step is None and self._trouble is None:
            self._journal.open()
            try:
                self._step = self._make()
            except Exception as error:  # noqa: BLE001 (whatever hinders a model from loading is told, not dropped)
                self._trouble = str(error) if isinstance(error, SightflowError) else f"{type(error).__name__}: {error}"
        return self._step


class Detect(Worker):
    """Claims a chunk and detects on its keyframes."""

    def _make(self) -> Callable[[Any], Any]:
        from flows.process import DetectChunk

        self._store = open_store(self._settings.store.url)
        return DetectChunk(self._settings, threads=self._threads)

    def __call__(self, row: Row) -> Row:
        """See the module."""
        chunk, step = pickle.loads(row["chunk"]), self._ready()
        detected, trouble = None, self._trouble
        if step is not None:
            with about(chunk, self._run_id):
                try:
                    if self._store.begin(chunk, self._settings.store.max_attempts, self._run_id):
                        _log.info("begun")
                        detected = step(chunk)
                except StoreError as error:
                    trouble = str(error)
        return {"chunk": row["chunk"], "detected": pickle.dumps(detected), "at": time.time(), "trouble": trouble}


class Track(Worker):
    """Tracks a chunk whose keyframes are detected.

    The first one takes its time, and importing what a tracker is made of takes seconds: a thread does that meanwhile.
    The step itself is made by the thread that runs it, for torch's number of threads is each thread's own.
    """

    def __init__(self, settings: Settings, threads: int, run_id: str, journal: Journal) -> None:
        super().__init__(settings, threads, run_id, journal)
        threading.Thread(target=_import, args=("flows.track",), daemon=True, name="import").start()

    def _make(self) -> Callable[[Any], Any]:
        from flows.process import TrackChunk

        return TrackChunk(self._settings, threads=self._threads)

    def __call__(self, row: Row) -> Row:
        """See the module."""
        # Clocks of two machines may differ by more than a chunk waited.
        wait_s = max(time.time() - row["at"], 0.0)
        detected, result = pickle.loads(row["detected"]), None
        if detected is not None and (step := self._ready()) is not None:
            with about(detected.chunk, self._run_id):
                result = step(detected).with_timing(wait=wait_s)
        return {"chunk": row["chunk"], "result": pickle.dumps(result), "trouble": row["trouble"] or self._trouble}


def _import(module: str) -> None:
    # What hinders it will hinder whoever needs the module, and is told there.
    with suppress(Exception):
        importlib.import_module(module)


class Commit:
    """Locates and stores a chunk's result; what comes out names the chunk, its error, or trouble that is not its own.

    A chunk that was begun and has no result, because of trouble, is handed back.
    """

    def __init__(self, settings: Settings, run_id: str, journal: Journal) -> None:
        self._settings = settings
        self._run_id = run_id
        self._journal = journal

    def __call__(self, row: Row) -> Row:
        """See the module."""
        chunk, result = pickle.loads(row["chunk"]), pickle.loads(row["result"])
        self._journal.open()
        numbers: list[Sample] = []
        error, trouble = None, row["trouble"]
        try:
            with about(chunk, self._run_id), closing(open_store(self._settings.store.url)) as store:
                if result is not None:
                    result = _stored(store, result, self._settings)
                    error, numbers = result.error, list(samples(result))
                elif trouble is not None:
                    store.hand_back(self._run_id, [chunk.chunk_id])
        except StoreError as lost:
            trouble = trouble or f"chunk {chunk.chunk_id} could not be stored: {lost}"
        return {"chunk_id": chunk.chunk_id, "error": error, "trouble": trouble, "samples": pickle.dumps(numbers)}


def _stored(store: Store, result: ChunkResult, settings: Settings) -> ChunkResult:
    """The result as it was committed: with places, or failed where the store refused it."""
    started = time.monotonic()
    try:
        result = commit_located(store, result, settings.georeference)
    except RefusedChunkError as error:
        kind = type(error).__name__
        result = ChunkResult.failed(result.chunk, str(error), timings_s=result.timings_s, error_kind=kind)
        store.commit(result)
    result = result.with_timing(commit=time.monotonic() - started)
    said = {"rows": result.observations.num_rows, "counters": result.counters, "timings_s": result.timings_s}
    if result.error is None:
        _log.info("done", extra={"fields": said})
    else:
        _log.warning("failed: %s", result.error, extra={"fields": {**said, "kind": result.error_kind}})
    return result
