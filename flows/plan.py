"""Videos -> chunks in the ledger, one video at a time: no more is probed, or held in memory, than work is near."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from flows.config import Settings
from flows.decode import plan_chunks, probe
from flows.errors import SightflowError, VideoError
from flows.media import find_videos, is_url, tell_once
from flows.models import model_hash, resolve
from flows.probe import default_source
from flows.schema import Chunk, ChunkState, Video, as_text
from flows.store import Store

_Item = TypeVar("_Item")
_log = logging.getLogger(__name__)

# A file that was written to this short a time ago may still be being copied, and half a video is another video.
SETTLE_S = 2.0
# Errors that a summary tells one by one; the ledger has them all.
_TOLD = 20


@dataclass
class RunSummary:
    """What a run did so far: chunks planned, done before, done now, failed; rejected inputs. Counts, not lists."""

    run_id: str
    sources: set[str] = field(default_factory=set)
    planned: int = 0
    skipped: int = 0
    done: int = 0
    failed: int = 0
    rejected: int = 0
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    """The first few: `failed` with a chunk's id or `rejected` with a video's address, and what was wrong."""
    frames: int = 0
    """Of the chunks that ended in this run."""
    in_hand: Sequence[str] = ()
    """The chunks that workers have now."""
    is_planned: bool = False
    """Whether nothing more will be planned."""

    def end(self, row: dict[str, Any]) -> None:
        """Count a chunk by its ledger row, where it is done or failed."""
        self.frames += row["frames"]
        if row["state"] == ChunkState.DONE:
            self.done += 1
        elif row["state"] == ChunkState.FAILED:
            self.failed += 1
            self.tell("failed", row["chunk_id"], row["error"])

    def tell(self, end: str, name: str, error: str) -> None:
        """Keep an error, if there is room for one more."""
        if len(self.errors) < _TOLD:
            self.errors.append((end, name, error))


def plan_run(
    uris: Iterable[str],
    settings: Settings,
    store: Store,
    *,
    source_id: str | None = None,
    start_time: datetime | None = None,
    command: str = "",
    retry_failed: bool = False,
    settle_s: float = SETTLE_S,
) -> tuple[RunSummary, Iterator[Chunk]]:
    """Record a run, and the chunks that are open: each video is probed and entered in the ledger as it is come to.

    A video that cannot be read is recorded as rejected, and the others go on.

    Args:
        uris: Paths and addresses, see `find_videos`; may be endless, see `watch_videos`.
        settings, store: Of the run.
        source_id: Of all videos; default: each file's name.
        start_time: Of the first frame.
        command: What was called, for the record.
        retry_failed: Make chunks that failed open again.
        settle_s: A file changed within so many seconds is looked at again before it is believed to be whole.

    Returns:
        The summary, which grows as the iterator is consumed, and the iterator of open chunks.

    Raises:
        UnknownClassError, ModelError: At once, not when the first video is come to.
    """
    if settings.detect.classes:
        # A misspelt class must stop the run before it starts, not fail every chunk.
        from flows.detect import Detector

        Detector(settings.detect, "cpu")

    def probed() -> Iterator[Video]:
        for uri in uris:
            name = as_text(uri)
            try:
                _check_name(uri, name)
                _check_settled(uri, settle_s)
                yield probe(uri, source_id, start_time)
            except SightflowError as error:
                summary.rejected += 1
                summary.tell("rejected", name, str(error))
                _log.warning("rejected: %s", error)  # who watches sees no summary
                store.reject(name, source_id or default_source(name), str(error))

    summary, chunks = plan_videos(probed(), settings, store, command=command, retry_failed=retry_failed)
    return summary, chunks


def plan_videos(
    videos: Iterable[Video], settings: Settings, store: Store, *, command: str = "", retry_failed: bool = False
) -> tuple[RunSummary, Iterator[Chunk]]:
    """The same for videos that somebody has probed."""
    key = ":".join(
        [
            settings.result_hash(),
            model_hash(resolve(settings.detect.detector, "detector")),
            model_hash(resolve(settings.segment.segmenter, "segmenter")),
        ]
    )
    summary = RunSummary(str(uuid.uuid4()))
    # The store's own address for itself carries no password.
    shown = settings.model_copy(update={"store": settings.store.model_copy(update={"url": store.url})})
    store.add_run(summary.run_id, command, shown.model_dump_json())

    def plan() -> Iterator[Chunk]:
        for video in videos:
            store.add_video(video)
            # World times are stored, so the same video with another start time is other work.
            chunks = plan_chunks(video, settings.plan, f"{key}:{video.start_time.isoformat()}")
            yield from _entered(chunks, summary, store, retry_failed)
        summary.is_planned = True

    return summary, plan()


def _entered(chunks: Sequence[Chunk], summary: RunSummary, store: Store, retry_failed: bool) -> Iterator[Chunk]:
    """Enter a video's chunks in the ledger and yield those that are open."""
    ids = [chunk.chunk_id for chunk in chunks]
    store.plan(chunks)
    if retry_failed:
        store.reset_failed(ids)
    summary.sources.add(chunks[0].video.source_id)
    summary.planned += len(chunks)
    rows = {row["chunk_id"]: row for row in store.ledger(ids).to_pylist()}
    states = [rows[chunk_id]["state"] for chunk_id in ids]
    if ChunkState.DONE in states:
        # Results of other settings may be newer; what was asked for last is what reports show.
        store.show(chunks[0].video.video_id, chunks[0].settings_hash)
    for chunk, state in zip(chunks, states, strict=True):
        if state == ChunkState.DONE:
            summary.skipped += 1
        elif state == ChunkState.FAILED:
            summary.failed += 1
            summary.tell("failed", chunk.chunk_id, rows[chunk.chunk_id]["error"])
        else:
            yield chunk


def _check_name(uri: str, name: str) -> None:
    if name != uri:
        raise VideoError(f"{name}: its name is not UTF-8, and no store can hold it; rename the file or its folder")


def _check_settled(uri: str, settle_s: float) -> None:
    """Wait until a local file that was just written to has been left alone for a moment.

    Raises:
        VideoError: It grows.
    """
    before = None if is_url(uri) else _state(uri)
    if before is None:
        return  # what is not there is told by the probe
    wait_s = before[0] + settle_s - time.time()
    if 0 < wait_s <= settle_s:
        time.sleep(wait_s)
        if _state(uri) not in (before, None):
            raise VideoError(f"{uri}: it is still being written to; run again when it is complete")


def watch_videos(paths: Sequence[str], every_s: float) -> Iterator[str]:
    """Videos under paths as they come, for ever: each when it has been left alone so long, and again if it changes.

    Objects of a store (`s3://`, ...) appear whole, and are known by name. A path where nothing is yet is waited for,
    beside the others.
    """
    known: dict[str, tuple[float, int]] = {}
    while True:
        found: set[str] = set()
        for path in paths:
            try:
                found.update(find_videos([path]))
            except VideoError as error:
                tell_once(f"waiting: {error}")
        for uri in sorted(found):
            state = (0.0, 0) if is_url(uri) else _state(uri)
            if state is not None and known.get(uri) != state and state[0] <= time.time() - every_s:
                known[uri] = state
                yield uri
        time.sleep(every_s)


def _state(path: str) -> tuple[float, int] | None:
    """When a file was changed last, and its size; None where it cannot be seen."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime, status.st_size


@dataclass(frozen=True)
class _End:
    """Nothing more comes: all is made, or an error ended it."""

    error: Exception | None = None


def in_batches(items: Iterable[_Item], most: int, seconds: float) -> Iterator[list[_Item]]:
    """Items in lists of at least one and at most so many, each what came within so many seconds of its first.

    A thread makes them, up to `most` ahead; what it raises is raised here.
    """
    made: queue.Queue[_Item | _End] = queue.Queue(maxsize=most)
    over = threading.Event()
    threading.Thread(target=_make, args=(items, made, over), daemon=True, name="plan").start()
    try:
        while batch := _batch(made, most, seconds):
            yield batch
    finally:
        over.set()


def _make(items: Iterable[_Item], made: queue.Queue[_Item | _End], over: threading.Event) -> None:
    def put(item: _Item | _End) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                made.put(item, timeout=0.5)
                return

    try:
        for item in items:
            put(item)
            if over.is_set():
                return
        put(_End())
    except Exception as error:  # noqa: BLE001 (raised where the items are wanted)
        put(_End(error))


def _batch(made: queue.Queue[_Item | _End], most: int, seconds: float) -> list[_Item]:
    batch: list[_Item] = []
    until = float("inf")
    while len(batch) < most:
        try:
            item = made.get(timeout=max(until - time.monotonic(), 0) if batch else None)
        except queue.Empty:
            break
        if isinstance(item, _End):
            made.put(item)  # the next call finds it, too
            if item.error is not None and not batch:
                raise item.error
            break
        if not batch:
            until = time.monotonic() + seconds
        batch.append(item)
    return batch
