"""The wiring: Ray Data over chunks. The only module of the flow that imports Ray.

A row is a reference to a chunk; frames never travel. Every chunk gives exactly one row, and Ray retries nothing:
what dies with its worker stays open in the ledger and is taken up in the next pass, until its attempts are used up.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any

import ray
import ray.data
import ray.exceptions

from flows.config import Settings
from flows.decode import plan_chunks, probe
from flows.errors import RefusedChunkError, SightflowError, StoreError, WorkerError
from flows.events import recompute_events
from flows.locate import locate_stored
from flows.models import model_hash, resolve
from flows.schema import Chunk, ChunkResult, ChunkState
from flows.stitch import stitch_source
from flows.store import Store, open_store

_log = logging.getLogger(__name__)
Row = dict[str, Any]

# A worker holds torch, a detector and a segmenter: about 2 GB before the first frame.
_WORKER_BYTES = 3 << 30
# Ray Data gives up after this long without a finished chunk; an hour-long chunk on a laptop takes its time.
_NO_PROGRESS_SECONDS = 24 * 3600
# A worker may die while it starts (its node went away); one that always does stops the run.
_INIT_DEATHS = 3
# A store may be away for a moment; when this many chunks in a row could not be handled, the rest would be work for
# nothing.
_TROUBLES_IN_A_ROW = 3
_OBJECT_STORE_BYTES = 256 << 20


@dataclass
class RunSummary:
    """What a run did: chunks planned, done before, done now, failed; rejected inputs with their errors."""

    run_id: str
    chunk_ids: list[str] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)
    skipped: int = 0
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workers:
    """Sizes of the actor pools and what each actor asks of Ray."""

    detect: int
    track: int
    detect_resources: dict[str, float]
    track_resources: dict[str, float]
    threads: int


def plan_run(
    uris: Sequence[str],
    settings: Settings,
    store: Store,
    *,
    source_id: str | None = None,
    start_time: datetime | None = None,
    command: str = "",
    retry_failed: bool = False,
) -> tuple[RunSummary, list[Chunk]]:
    """Probe videos, enter their chunks in the ledger, and say which are open.

    A video that cannot be read is recorded as rejected, and the others go on.
    """
    summary = RunSummary(str(uuid.uuid4()))
    if settings.detect.classes:
        # A misspelt class must stop the run before it starts, not fail every chunk.
        from flows.detect import Detector

        Detector(settings.detect, "cpu")
    # The store's own address for itself carries no password.
    shown = settings.model_copy(update={"store": settings.store.model_copy(update={"url": store.url})})
    store.add_run(summary.run_id, command, shown.model_dump_json())
    key = ":".join(
        [
            settings.result_hash(),
            model_hash(resolve(settings.detect.detector, "detector")),
            model_hash(resolve(settings.segment.segmenter, "segmenter")),
        ]
    )
    chunks: dict[str, Chunk] = {}
    for uri in uris:
        try:
            video = probe(uri, source_id, start_time)
        except SightflowError as error:
            summary.rejected[uri] = str(error)
            store.reject(uri, source_id or PurePath(uri).stem, str(error))
            continue
        store.add_video(video)
        summary.sources.add(video.source_id)
        # World times are stored, so the same video with another start time is other work.
        planned = plan_chunks(video, settings.plan, f"{key}:{video.start_time.isoformat()}")
        store.plan(planned)
        chunks.update({chunk.chunk_id: chunk for chunk in planned})
    summary.chunk_ids = list(chunks)
    if retry_failed:
        store.reset_failed(summary.chunk_ids)
    states = _column(store, list(chunks.values()), "state")
    finished = (ChunkState.DONE, ChunkState.FAILED)
    summary.skipped = sum(state == ChunkState.DONE for state in states.values())
    return summary, [chunk for chunk_id, chunk in chunks.items() if states[chunk_id] not in finished]


def run(
    todo: Sequence[Chunk],
    summary: RunSummary,
    settings: Settings,
    store: Store,
) -> RunSummary:
    """Process open chunks, stitch their sources and recompute their events.

    Args:
        todo, summary: From `plan_run`.
        settings, store: As there.
    """
    if todo:
        start_ray()
        _process(list(todo), settings, store)
    # A run that was killed may have left its last chunks unstitched, so this does not depend on `todo`.
    for source_id in sorted(summary.sources):
        stitch_source(store, source_id, settings.stitch)
        recompute_events(store, source_id, settings.events, settings.georeference)
    for row in store.ledger(summary.chunk_ids).to_pylist():
        if row["state"] == ChunkState.FAILED:
            summary.failed[row["chunk_id"]] = row["error"]
    summary.done = len(summary.chunk_ids) - len(summary.failed) - summary.skipped
    return summary


def _process(open_chunks: list[Chunk], settings: Settings, store: Store) -> None:
    """Pass over open chunks until none is open: a pass leaves open what died with its worker.

    Raises:
        WorkerError: No worker lives long enough to begin a chunk, none can be made, or results cannot be stored.
    """
    while open_chunks:
        attempts = _column(store, open_chunks, "attempts")
        died: Exception | None = None
        try:
            _note(_one_pass(open_chunks, settings))
        except ray.exceptions.RayError as error:
            died = error
        states = _column(store, open_chunks, "state")
        open_chunks = [c for c in open_chunks if states[c.chunk_id] in (ChunkState.PLANNED, ChunkState.RUNNING)]
        if died is not None and attempts == _column(store, open_chunks, "attempts"):
            raise WorkerError(f"workers die while they start, before any chunk is begun: {died}") from died
        if open_chunks:
            _log.warning("%d chunks died with their worker and are taken up again", len(open_chunks))


def _note(outcomes: Iterable[Row]) -> None:
    """Log failed chunks, and stop over trouble that is not one chunk's: its chunks stay open for the next run."""
    trouble, in_a_row = None, 0
    for outcome in outcomes:
        if outcome["error"] is not None:
            _log.warning("chunk %s failed: %s", outcome["chunk_id"], outcome["error"])
        in_a_row = in_a_row + 1 if outcome["trouble"] is not None else 0
        trouble = outcome["trouble"] or trouble
        if in_a_row == _TROUBLES_IN_A_ROW:
            break
    if trouble is not None:
        raise WorkerError(trouble)


def _one_pass(chunks: Sequence[Chunk], settings: Settings) -> Iterator[Row]:
    """One pass of the dataflow over open chunks; yields the outcome of each (see `_commit`)."""
    workers = _workers(settings, len(chunks))
    # A dead actor is replaced by the pool; what it worked on is the next pass's.
    actor = {"max_restarts": 0, "max_task_retries": 0}
    dataset = (
        # 1 row per chunk, one row per block: Ray may run them anywhere, in any order.
        ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks))
        # Detect, 1:1 - keyframes to boxes, kilobytes.
        .map(
            _Detect,
            fn_constructor_args=(settings, workers.threads),
            compute=_pool(workers.detect),
            **workers.detect_resources,
            **actor,
        )
        # Track, 1:1 - decodes the chunk itself; observations and tracklets as Arrow.
        .map(
            _Track,
            fn_constructor_args=(settings, workers.threads),
            compute=_pool(workers.track),
            **workers.track_resources,
            **actor,
        )
        # Georeference and commit, 1:1 - one transaction per chunk, exactly once.
        .map(_commit, fn_args=(settings,), num_cpus=0.1, max_retries=3)
    )
    yield from dataset.iter_rows()


# The actors import the models' libraries, and they alone: commits and a driver with nothing to do start in a second.
# Ray drops what a worker raises, so what stops all work, not one chunk's, travels with the row as its trouble.


class _Worker(ABC):
    """An actor that holds one step, or says with every row why it could not be made."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._settings = settings
        self._threads = threads
        self._step: Callable[[Any], Any] | None = None
        self._trouble: str | None = None
        try:
            self._step = self._make()
        except Exception as error:  # noqa: BLE001 (whatever hinders a model from loading is told, not dropped)
            self._trouble = str(error) if isinstance(error, SightflowError) else f"{type(error).__name__}: {error}"

    @abstractmethod
    def _make(self) -> Callable[[Any], Any]:
        """Load the step."""


class _Detect(_Worker):
    def _make(self) -> Callable[[Any], Any]:
        from flows.process import DetectChunk

        self._store = open_store(self._settings.store.url)
        return DetectChunk(self._settings, threads=self._threads)

    def __call__(self, row: Row) -> Row:
        if self._step is None:
            return {"detected": None, "trouble": self._trouble}
        chunk = pickle.loads(row["chunk"])
        try:
            if not self._store.begin(chunk, self._settings.store.max_attempts):
                return {"detected": None, "trouble": None}
        except StoreError as error:
            return {"detected": None, "trouble": str(error)}
        return {"detected": pickle.dumps(self._step(chunk)), "trouble": None}


class _Track(_Worker):
    def _make(self) -> Callable[[Any], Any]:
        from flows.process import TrackChunk

        return TrackChunk(self._settings, threads=self._threads)

    def __call__(self, row: Row) -> Row:
        if row["detected"] is None or self._step is None:
            return {"result": None, "trouble": row["trouble"] or self._trouble}
        return {"result": pickle.dumps(self._step(pickle.loads(row["detected"]))), "trouble": None}


def _commit(row: Row, settings: Settings) -> Row:
    """Locate and store a chunk's result; what comes out names the chunk, its error, or trouble that is not its own."""
    if row["result"] is None:
        return {"chunk_id": "", "error": None, "trouble": row["trouble"]}
    result = pickle.loads(row["result"])
    chunk_id, trouble = result.chunk.chunk_id, None
    try:
        with closing(open_store(settings.store.url)) as store:
            video = result.chunk.video
            located = locate_stored(store, video.source_id, result.observations, settings.georeference, video)
            result = replace(result, observations=located)
            try:
                store.commit(result)
            except RefusedChunkError as error:
                result = ChunkResult.failed(result.chunk, str(error), timings_s=result.timings_s)
                store.commit(result)
    except StoreError as error:
        trouble = f"chunk {chunk_id} could not be stored: {error}"
    return {"chunk_id": chunk_id, "error": result.error, "trouble": trouble}


def start_ray() -> None:
    """Join the cluster this process was submitted to, or start a quiet local one."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled" if "RAY_ADDRESS" not in os.environ else "token")
    local: dict[str, Any] = {}
    if "RAY_ADDRESS" not in os.environ:
        local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    # Restarts and retries of actors can only be set through arguments that Ray 2.64 will rename.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints stacks and aborts; whoever stops a run (systemd, kill) gets what Ctrl-C gets.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A dead worker is ours to report, in a line instead of Ray's pages.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS


def _workers(settings: Settings, chunks: int) -> Workers:
    """Pool sizes from what the cluster has: one tracker per GPU (or core), a quarter as many detectors."""
    resources = ray.cluster_resources()
    cores, gpus = max(int(resources.get("CPU", 1)), 1), int(resources.get("GPU", 0))
    if gpus:
        track = settings.run.track_workers or min(chunks, max(1, int(gpus / max(settings.run.track_gpus, 0.01))))
        detect = settings.run.detect_workers or min(chunks, gpus)
        on_gpu = {"num_gpus": settings.run.detect_gpus}, {"num_gpus": settings.run.track_gpus}
        return Workers(detect, track, *on_gpu, settings.run.torch_threads or max(1, cores // (track + detect)))
    fits = max(1, int(resources.get("memory", 0) / _WORKER_BYTES))
    track = settings.run.track_workers or min(chunks, cores, fits)
    detect = settings.run.detect_workers or min(chunks, max(1, cores // 4))
    # Trackers get seven tenths of the cores, detectors two, and commits run in what is left.
    shares = {"num_cpus": _cpus(0.2 * cores / detect)}, {"num_cpus": _cpus(0.7 * cores / track)}
    return Workers(detect, track, *shares, settings.run.torch_threads or max(1, cores // track))


def _cpus(share: float) -> float:
    """A share Ray accepts: any below one core, whole cores above."""
    return share if share < 1 else float(int(share))


def _pool(size: int) -> Any:
    # Chunks take minutes, so none may wait in one actor's queue while another actor is idle.
    return ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1)


def _column(store: Store, chunks: Sequence[Chunk], name: str) -> dict[str, Any]:
    """One column of the ledger by chunk id."""
    ledger = store.ledger([chunk.chunk_id for chunk in chunks])
    return dict(zip(ledger["chunk_id"].to_pylist(), ledger[name].to_pylist(), strict=True))
