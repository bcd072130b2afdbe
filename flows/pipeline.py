"""The wiring: Ray Data over chunks. The only module of the flow that imports Ray.

A row is a reference to a chunk; frames never travel. Every chunk gives exactly one row, and Ray retries nothing:
what dies with its worker stays open in the ledger and is taken up in the next pass, until its attempts are used up.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions
from ray.util.metrics import Counter, Histogram

from flows.config import Settings
from flows.errors import UsageError, WorkerError
from flows.events import recompute_events
from flows.journal import Journal
from flows.lease import Lease
from flows.metrics import FAILURES, KILLED, Metric, Sample
from flows.plan import RunSummary, in_batches
from flows.pools import Machines, Pool, size_pools
from flows.schema import Chunk, ChunkState
from flows.stitch import stitch_source
from flows.store import Store
from flows.workers import Commit, Detect, Row, Track

_log = logging.getLogger(__name__)

# Chunks of one pass: enough that loading models and the last chunk's end weigh nothing, few enough for Ray and memory.
_PASS_CHUNKS = 512
# A pass takes what was planned within this time of its first chunk, so that work begins while an archive is looked at.
_PLAN_SECONDS = 5.0
# How far detection may be ahead of tracking, in chunks for each that is tracked: what it has begun is no other run's.
_DETECTED_AHEAD = 2.0
_POLL_SECONDS = 1.0
# When none of so many chunks is ended by any worker, it is not the chunks.
_HOPELESS = 32
_ENDED = (ChunkState.DONE, ChunkState.FAILED)
# Ray Data gives up after this long without a finished chunk; an hour-long chunk on a laptop takes its time.
_NO_PROGRESS_SECONDS = 24 * 3600
# A worker may die while it starts (its node went away); one that always does stops the run.
_INIT_DEATHS = 3
# A store may be away for a moment; when this many chunks in a row could not be handled, the rest would be work for
# nothing.
_TROUBLES_IN_A_ROW = 3
# A commit takes about a second, a chunk minutes.
_TRACKERS_A_COMMITTER = 8
# A result is worth its chunk's minutes: its commit is tried again when its actor dies.
_COMMIT_RETRIES = 3
_OBJECT_STORE_BYTES = 256 << 20
# To the head of a cluster; within one it takes milliseconds.
_CONNECT_SECONDS = 10.0


def run(todo: Iterable[Chunk], summary: RunSummary, settings: Settings, store: Store) -> RunSummary:
    """Process open chunks as they are planned, stitch their sources and recompute their events.

    Other runs may work on the same store: each chunk is done by one of them, and this returns when all are done.

    Args:
        todo, summary: From `plan_run`.
        settings, store: As there.

    Raises:
        WorkerError: No worker lives long enough to begin a chunk, none can be made, or results cannot be stored.
        UsageError: A store or pools that this cluster cannot have.
    """
    settings = _addressed(settings)
    with Lease(settings.store.url, summary.run_id, settings.run.lease_seconds):
        _stop_on_sigterm()
        try:
            for chunks in in_batches(todo, _PASS_CHUNKS, _PLAN_SECONDS):
                start_ray()
                _process(chunks, summary, settings, store)
                for source_id in sorted({chunk.video.source_id for chunk in chunks}):
                    _finish(store, source_id, settings)
        except KeyboardInterrupt:
            # Workers end before what they began is handed back: they would begin more.
            ray.shutdown()
            raise
    # A run that was killed may have left its last chunks unstitched, so this does not depend on `todo`.
    for source_id in sorted(summary.sources):
        _finish(store, source_id, settings)
    return summary


def _finish(store: Store, source_id: str, settings: Settings) -> None:
    """Stitch a source and recompute its events, unless that was done since its last chunk."""
    # Taken before: a chunk that is committed meanwhile makes the next run do it again.
    asked = [step.model_dump_json() for step in (settings.stitch, settings.events, settings.georeference)]
    stamp = " ".join([store.stamp(source_id), *asked])
    if store.finished(source_id) != stamp:
        stitch_source(store, source_id, settings.stitch)
        recompute_events(store, source_id, settings.events, settings.georeference)
        store.finish(source_id, stamp)


def _process(chunks: Sequence[Chunk], summary: RunSummary, settings: Settings, store: Store) -> None:
    """Pass over chunks until none is open: a pass leaves open what died with its worker or is another run's.

    Raises:
        WorkerError: See `run`.
    """
    ours = {chunk.chunk_id: chunk for chunk in chunks}
    while ours:
        summary.in_hand = list(ours)
        died: Exception | None = None
        told: set[str] = set()
        attempts = _attempts(store, ours)
        try:
            told = _note(_one_pass(list(ours.values()), settings, summary.run_id))
        except ray.exceptions.RayError as error:
            died = error
        waited = _wait_for_others(store, summary.run_id, summary.in_hand)
        ended = [row for row in store.ledger(summary.in_hand).to_pylist() if row["state"] in _ENDED]
        if not ended and not waited and (len(ours) >= _HOPELESS or attempts == _attempts(store, ours)):
            why = died or "most likely they run out of memory: use smaller models or fewer workers"
            raise WorkerError(f"workers die before any of {len(ours)} chunks is ended: {why}") from died
        for row in ended:
            del ours[row["chunk_id"]]
            summary.end(row)
            if row["state"] == ChunkState.FAILED and row["chunk_id"] not in told:
                # Nobody who worked on it lived to say so.
                _log.warning("chunk %s failed: %s", row["chunk_id"], row["error"])
                _measure([Sample(FAILURES, 1, {"kind": KILLED})])
        summary.in_hand = list(ours)
        if ours:
            _log.warning("%d chunks died with their worker and are taken up again", len(ours))


def _wait_for_others(store: Store, run_id: str, chunk_ids: Sequence[str]) -> bool:
    """Wait until no other run that is alive has any of these chunks in hand; says whether one had."""
    waited = False
    while held := store.held(run_id, chunk_ids):
        waited = True
        _log.info("waiting for %d chunks that another run has begun", len(held))
        time.sleep(_POLL_SECONDS)
    return waited


def _attempts(store: Store, chunks: Iterable[str]) -> dict[str, int]:
    ledger = store.ledger(list(chunks))
    return dict(zip(ledger["chunk_id"].to_pylist(), ledger["attempts"].to_pylist(), strict=True))


def _note(outcomes: Iterable[Row]) -> set[str]:
    """Measure and log what was committed; stop over trouble that is not one chunk's: its chunks stay open.

    Returns:
        Ids of the chunks that failed.
    """
    failed: set[str] = set()
    trouble, in_a_row = None, 0
    for outcome in outcomes:
        _measure(pickle.loads(outcome["samples"]))
        if outcome["error"] is not None:
            failed.add(outcome["chunk_id"])
            _log.warning("chunk %s failed: %s", outcome["chunk_id"], outcome["error"])
        in_a_row = in_a_row + 1 if outcome["trouble"] is not None else 0
        trouble = outcome["trouble"] or trouble
        if in_a_row == _TROUBLES_IN_A_ROW:
            break
    if trouble is not None:
        raise WorkerError(trouble)
    return failed


def _one_pass(chunks: Sequence[Chunk], settings: Settings, run_id: str) -> Iterator[Row]:
    """One pass of the dataflow over open chunks; yields the outcome of each (see `workers.Commit`)."""
    detect, track = size_pools(_machines(), settings.run, len(chunks))
    journal = Journal.from_environment()
    dataset = (
        # 1 row per chunk, one row per block: Ray may run them anywhere, in any order.
        ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks))
        # Detect, 1:1 - keyframes to boxes, kilobytes.
        .map(Detect, fn_constructor_args=(settings, detect.threads, run_id, journal), **_on(detect))
        # Track, 1:1 - decodes the chunk itself; observations and tracklets as Arrow.
        .map(Track, fn_constructor_args=(settings, track.threads, run_id, journal), **_on(track))
        # Georeference and commit, 1:1 - one transaction per chunk, exactly once.
        .map(Commit, fn_constructor_args=(settings, run_id, journal), **_committers(track))
    )
    # Not `iter_rows`: it hands each row on when the next is there, and lets Ray weigh the commits that wait against the
    # one row fetched ahead, which held them back until all was detected.
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


@functools.cache
def _gauge(metric: Metric) -> Any:
    """The metric as Ray exports it. The driver's alone: what dies with a worker would be missing from its sums."""
    if metric.bounds:
        return Histogram(metric.name, metric.meaning, boundaries=list(metric.bounds), tag_keys=metric.tags)
    return Counter(metric.name, metric.meaning, tag_keys=metric.tags)


def _measure(numbers: Iterable[Sample]) -> None:
    for sample in numbers:
        instrument = _gauge(sample.metric)
        if sample.metric.bounds:
            instrument.observe(sample.value, tags=sample.tags)
        elif sample.value > 0:
            instrument.inc(sample.value, tags=sample.tags)


def start_ray() -> None:
    """Join the cluster this process was submitted to, or start a quiet local one.

    Raises:
        WorkerError: There is no such cluster, or none can be started.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token" if _is_job() else "disabled")
    # Its C++ side would tell whoever starts a run that actors with large arguments may fail to restart.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local: dict[str, Any] = {}
    if _is_job():
        _check_cluster(os.environ["RAY_ADDRESS"])
    else:
        # Without an address it would join any Ray that somebody has started on this machine.
        local = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    # Restarts and retries of actors can only be set through arguments that Ray 2.64 will rename.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
    # A pass may hold fewer chunks by the time a pool of its size is made, when others have done some.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    try:
        with _without_stderr():  # where it says that its level was set
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises bare exceptions where it does not come up in time
        raise WorkerError(f"Ray does not start: {error}") from error
    _stop_on_sigterm()
    # A dead worker is ours to report, in a line instead of Ray's pages.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS
    context.downstream_capacity_backpressure_ratio = _DETECTED_AHEAD
    _heed_kilobytes()


def _heed_kilobytes() -> None:
    """Let Ray hold detection back from its first bytes on; it would wait until half of the object store is full.

    No public option does so. Of 24 chunks and two trackers Ray by itself detects 17 ahead, and with this 7; a smaller
    share of the object store (`override_object_store_memory_limit_fraction`) reaches that by leaving trackers idle.

    Raises:
        WorkerError: A Ray that has this no more, and would claim all chunks of a pass at once.
    """
    module = "ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy"
    try:
        policy = importlib.import_module(module).DownstreamCapacityBackpressurePolicy
        # Multiplied, not set: where Ray no longer has it, that is an error.
        policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD *= 0.0
    except (ImportError, AttributeError) as error:
        raise WorkerError(
            f"Ray {ray.__version__} cannot hold detection back: {error}; install the version in constraints.txt"
        ) from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what libraries write past Python from the terminal; what is raised is raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _stop_on_sigterm() -> None:
    """Let whoever stops a run (systemd, kill, `ray job stop`) get what Ctrl-C gets; Ray's handler prints and aborts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _is_job() -> bool:
    """Whether this process belongs to a cluster that was there before it."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def _check_cluster(address: str) -> None:
    """Look whether somebody listens at a cluster's address: Ray itself tries for a quarter of an hour.

    Raises:
        WorkerError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "://" in address:
        return  # Ray knows what `auto` and its client's addresses are
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkerError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}): start it, or unset "
            "RAY_ADDRESS to work on this machine alone"
        ) from None


def _addressed(settings: Settings) -> Settings:
    """The settings with a store that other processes find where this one does.

    Raises:
        UsageError: A folder that would go with the job.
    """
    url = settings.store.url
    if "://" in url:
        return settings
    folder = Path(url).expanduser()
    if _is_job() and not folder.is_absolute():
        raise UsageError(
            f"store {url}: a folder inside a job's working directory goes when the job ends; give an absolute path on "
            "a file system that all machines share, or postgresql://"
        )
    store = settings.store.model_copy(update={"url": str(folder.absolute())})
    return settings.model_copy(update={"store": store})


def _machines() -> Machines:
    """What the cluster has, and what its autoscaler may start."""
    # Ray tells of the nodes it has by a public function, of those it may start by this one only.
    config = ray._private.state.state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return Machines.of(
        [node["Resources"] for node in ray.nodes() if node["Alive"]],
        [(dict(group.resources), max(group.max_count, 0)) for group in groups],
    )


def _committers(track: Pool) -> dict[str, Any]:
    """How Ray Data runs commits: few actors, since as tasks nearly each would be a new process importing everything."""
    compute = ray.data.ActorPoolStrategy(size=-(-track.size // _TRACKERS_A_COMMITTER))
    # Committing twice is committing once.
    return {"compute": compute, "num_cpus": 0.1, "max_restarts": -1, "max_task_retries": _COMMIT_RETRIES}


def _on(pool: Pool) -> dict[str, Any]:
    """How Ray Data runs a pool's step."""
    # Chunks take minutes, so none may wait in one actor's queue while another actor is idle.
    compute = ray.data.ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=1)
    asked = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus, "label_selector": dict(pool.labels) or None}
    # A dead actor is started again, or its pool would wait for ever; what it worked on is the next pass's.
    restarts = {"max_restarts": -1, "max_task_retries": 0}
    return {"compute": compute, **restarts, **{key: value for key, value in asked.items() if value is not None}}
