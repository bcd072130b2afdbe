"""One clip through the flow's own steps, telling what happens as it happens.

Events are JSON objects: `accepted`, `progress`, one `track` per finished track, `summary`, and last `done`, or
`error` with an HTTP status, a title and what was wrong.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from flows.config import Settings
from flows.errors import SightflowError, VideoError
from flows.events import recompute_events
from flows.locate import commit_located
from flows.plan import plan_videos
from flows.process import DetectChunk, TrackChunk
from flows.schema import NS, Chunk, ChunkResult, ChunkState, Frame, Video
from flows.stitch import stitch_source
from flows.store import Store, open_store
from serve.clip import Clip, Event
from serve.decoder import DecoderProcess, Limits
from serve.problems import kind_of
from serve.settings import ServeSettings

_log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5


class _CancelledError(BaseException):
    """The client has gone. Not an Exception: steps turn those into results and go on."""


class ClipProcessor:
    """Warm models that take one clip at a time.

    Raises:
        ModelError, ConfigError: When made, if models or settings cannot be loaded.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = Settings.load(settings.config, {"store": {"url": settings.store}})
        limits = Limits(settings.max_clip_seconds, settings.max_clip_frames, settings.max_clip_side_px)
        self._decoder = DecoderProcess(limits)
        threads, read = settings.torch_threads, self._decoder.reader
        self._detect = DetectChunk(self._settings, threads=threads, read=read)
        self._track = TrackChunk(self._settings, threads=threads, read=read)
        self._detect.warm_up()
        self._working = threading.Lock()

    def check(self) -> None:
        """Raise where the model does not work or the store cannot be read; a processor at work is taken to be well."""
        if self._working.acquire(blocking=False):
            try:
                self._detect.warm_up()
            finally:
                self._working.release()
        with open_store(self._settings.store.url) as store:
            store.query("select count(*) as n from sources")

    def close(self) -> None:
        """End the decoder."""
        self._decoder.close()

    async def events(self, clip: Clip) -> AsyncGenerator[Event, None]:
        """Process a clip in a thread; closing the iterator stops the work at the next frame."""
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Event | None] = asyncio.Queue()
        cancelled = threading.Event()

        def emit(event: Event | None) -> None:
            loop.call_soon_threadsafe(made.put_nowait, event)

        def work() -> None:
            try:
                self.process(clip, emit, cancelled)
            finally:
                emit(None)

        worker = loop.run_in_executor(None, work)
        try:
            while (event := await made.get()) is not None:
                yield event
        finally:
            cancelled.set()
            await asyncio.shield(worker)

    def process(self, clip: Clip, emit: Callable[[Event], None], cancelled: threading.Event) -> None:
        """Process a clip; the last event is `done` or `error`, unless it was cancelled. Never raises."""
        try:
            url = self._settings.store.url if clip.store else str(clip.own_store)
            with self._working, open_store(url) as store:
                self._process(clip, store, emit, cancelled)
            emit({"event": "done"})
        except _CancelledError:
            _log.info("client of %s has gone", clip.name)
        except SightflowError as error:
            # The path is ours and means nothing to the sender.
            emit(error_event(error, str(error).replace(str(clip.path), clip.name)))
        except Exception as error:  # noqa: BLE001 - the client is told that it was us, the log says what
            _log.exception("clip %s", clip.name)
            emit(error_event(error, "an unexpected error; the server's log has the details"))
        finally:
            clip.discard()

    def _process(self, clip: Clip, store: Store, emit: Callable[[Event], None], cancelled: threading.Event) -> None:
        started = time.monotonic()
        detect, track = self._steps(clip)
        video = self._decoder.probe(str(clip.path), clip.source_id, clip.start_time)
        summary, plan = plan_videos([video], detect.settings, store, command="serve", retry_failed=True)
        todo = list(plan)
        # Under the name its sender knows: the file is gone when the clip is through.
        store.add_video(replace(video, uri=clip.name))
        emit({"event": "accepted", "chunks": summary.planned, **_described(video, clip)})
        told = _Tracks(store, video.video_id, emit)
        for number, chunk in enumerate(todo, start=1):
            progress = _Progress(emit, cancelled, chunk, number, len(todo))
            if store.begin(chunk, self._settings.store.max_attempts):
                self._run_chunk(chunk, store, detect, track, progress)
            if number < len(todo):
                stitch_source(store, clip.source_id, self._settings.stitch)
                # What ended longer ago than a gap may last is joined to nothing any more.
                told.tell(chunk.end_ns - round(self._settings.stitch.max_gap_seconds * NS))
        ended = store.ledger([chunk.chunk_id for chunk in todo]).to_pylist()
        failed = [row for row in ended if row["state"] == ChunkState.FAILED]
        if failed:
            raise VideoError(failed[0]["error"])
        stitch_source(store, clip.source_id, self._settings.stitch)
        recompute_events(store, clip.source_id, self._settings.events, self._settings.georeference)
        told.tell()
        emit(
            {
                "event": "summary",
                "tracks": told.counts(),
                "chunks": summary.planned,
                "chunks_done_before": summary.skipped,
                "wall_s": round(time.monotonic() - started, 3),
                "stored": clip.store,
            }
        )

    def _steps(self, clip: Clip) -> tuple[DetectChunk, TrackChunk]:
        """The warm steps, under what the sender asks for."""
        asked = {"classes": clip.classes or None, "detect_every": clip.detect_every}
        asked = {name: value for name, value in asked.items() if value is not None}
        if not asked:
            return self._detect, self._track
        detect = self._settings.detect.model_copy(update=asked)
        settings = self._settings.model_copy(update={"detect": detect})
        return self._detect.adapted(settings), self._track.adapted(settings)

    def _run_chunk(self, chunk: Chunk, store: Store, detect: DetectChunk, track: TrackChunk, report: _Progress) -> None:
        try:
            report("detect", 0.0)
            result = track(detect(chunk), report.on_frame)
        except _CancelledError:
            store.commit(ChunkResult.failed(chunk, "the client left before the clip was through"))
            raise
        commit_located(store, result, self._settings.georeference)


class _Progress:
    """Says now and then how far a chunk is, and stops it when the client has gone."""

    def __init__(
        self, emit: Callable[[Event], None], cancelled: threading.Event, chunk: Chunk, number: int, of: int
    ) -> None:
        self._emit, self._cancelled, self._chunk = emit, cancelled, chunk
        self._where = {"chunk": number, "chunks": of}
        self._said = float("-inf")

    def __call__(self, stage: str, done: float) -> None:
        if self._cancelled.is_set():
            raise _CancelledError
        if time.monotonic() - self._said >= PROGRESS_EVERY_S:
            self._said = time.monotonic()
            self._emit({"event": "progress", "stage": stage, "done": round(done, 3), **self._where})

    def on_frame(self, frame: Frame) -> None:
        """Before every frame that is tracked."""
        # The last chunk's overlap lies beyond the video's end.
        end_ns = min(self._chunk.seen_until_ns, round(self._chunk.video.duration_s * NS))
        length_ns = max(end_ns - self._chunk.seen_from_ns, 1)
        self("track", min((frame.pts_ns - self._chunk.seen_from_ns) / length_ns, 1.0))


def error_event(error: Exception, detail: str) -> Event:
    """The last event of a clip that could not be processed."""
    status, title = kind_of(error)
    return {"event": "error", "status": status, "title": title, "detail": detail}


def _described(video: Video, clip: Clip) -> Event:
    fields = {name: getattr(video, name) for name in ("duration_s", "width_px", "height_px", "fps", "codec")}
    return {"video_id": video.video_id, "source_id": clip.source_id, "name": clip.name, **fields}


class _Tracks:
    """Tells each track of a video once."""

    def __init__(self, store: Store, video_id: str, emit: Callable[[Event], None]) -> None:
        self._store, self._video_id, self._emit = store, video_id, emit
        self._told: dict[str, str] = {}

    def tell(self, until_ns: int | None = None) -> None:
        """Those that have ended before a time of the video, or all."""
        for track in _tracks(self._store, self._video_id):
            ended = until_ns is None or track["end_s"] * NS < until_ns
            if ended and track["track_id"] not in self._told:
                self._told[track["track_id"]] = track["class_name"]
                self._emit({"event": "track", **track})

    def counts(self) -> dict[str, int]:
        """Tracks by class."""
        return dict(sorted(Counter(self._told.values()).items()))


def _tracks(store: Store, video_id: str) -> list[Event]:
    """The tracks of one video, by begin; times in seconds of the video."""
    rows = store.query(
        "select o.track_id, t.class_name, min(o.pts_ns) as begin_ns, max(o.pts_ns) as end_ns, "
        "count(*) as n_observations, "
        "count(case when o.state in ('bridged', 'interpolated') then 1 end) as n_inferred "
        "from track_observations o join tracks t on t.track_id = o.track_id and t.source_id = o.source_id "
        "where o.video_id = $video_id group by o.track_id, t.class_name order by begin_ns, o.track_id",
        {"video_id": video_id},
    ).to_pylist()
    return [
        {
            "track_id": row["track_id"],
            "class_name": row["class_name"],
            "begin_s": row["begin_ns"] / NS,
            "end_s": row["end_ns"] / NS,
            "n_observations": row["n_observations"],
            "inferred_share": round(row["n_inferred"] / row["n_observations"], 3),
        }
        for row in rows
    ]
