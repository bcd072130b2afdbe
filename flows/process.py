"""One chunk through its steps: the two classes that workers load once and call for every chunk.

Neither raises for bad input: what goes wrong is the chunk's result, so that one poisoned video cannot stop a run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import supervision as sv
import torch

from flows.ahead import ahead
from flows.config import Settings
from flows.decode import Keyframes, UnchangedFrameReader, keyframe_interval
from flows.detect import Detector, detect_frames, from_table
from flows.errors import SightflowError
from flows.schema import DETECTIONS, Chunk, ChunkResult, Frame
from flows.threads import torch_threads

_log = logging.getLogger(__name__)

# Frames that decoding is ahead of preparing, and preparing of the tracker, each in a thread of its own: enough to hide
# a slow packet, few enough that 4K frames (25 MB) stay cheap.
_AHEAD = 2

Read = Callable[..., Any]
"""Takes what `FrameReader` takes; gives an iterable of frames that has its `counters`."""


@dataclass(frozen=True)
class Detected:
    """What detection hands on to tracking: a chunk and its keyframes' detections (schema DETECTIONS), or an error."""

    chunk: Chunk
    detections: pa.Table
    timings_s: dict[str, float]
    error: str | None = None
    error_kind: str | None = None


class DetectChunk:
    """Runs the detector on a chunk's keyframes.

    Args:
        settings: Of the run.
        device: Default: the GPU this process was given, else the CPU.
        threads: Of this process; default: what torch takes.
        read: Reads a chunk's frames, as `FrameReader` does.

    Attributes:
        settings: As given.

    Raises:
        ModelError, UnknownClassError: When made, if the detector cannot be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        threads: int | None = None,
        read: Read = UnchangedFrameReader,
    ) -> None:
        device = prepare_device(device, threads)
        self._read = read
        self.settings = settings
        self._threads = threads or 0
        self._detector = Detector(settings.detect, device)

    def __call__(self, chunk: Chunk) -> Detected:
        """Decode what is needed of a chunk and detect; an error becomes part of the result."""
        started = time.monotonic()

        def detect() -> Detected:
            every = keyframe_interval(self.settings.detect, chunk.video.fps)
            frames = self._read(
                chunk.video, chunk.seen_from_ns, chunk.seen_until_ns, only=Keyframes(every), threads=self._threads
            )
            table = detect_frames(frames, self._detector, self.settings.detect.batch)
            return Detected(chunk, table, {"detect": time.monotonic() - started})

        return _guarded(detect, lambda error, kind: Detected(chunk, DETECTIONS.empty_table(), {}, error, kind))

    def warm_up(self) -> None:
        """Run the detector on an empty picture: what it loads at its first use is loaded, or shown broken."""
        self._detector([np.zeros((64, 64, 3), np.uint8)])

    def adapted(self, settings: Settings) -> DetectChunk:
        """The same model under other settings: classes and keyframes.

        Raises:
            UnknownClassError: A class that the model does not know.
        """
        other = copy(self)
        other.settings, other._detector = settings, self._detector.adapted(settings.detect)
        return other


class TrackChunk:
    """Tracks a chunk, given its keyframes' detections.

    It holds a detector of its own, loaded when the first object drifts, to look at frames that are no keyframes.

    Args:
        settings, device, threads, read: As `DetectChunk`'s.

    Raises:
        ModelError: When made, if the segmenter cannot be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        device: str | None = None,
        threads: int | None = None,
        read: Read = UnchangedFrameReader,
    ) -> None:
        # Here, for who only detects loads neither SAM 2 nor the filter.
        from flows.segment import load_segmenter

        self._read = read
        self._device = prepare_device(device, threads)
        self._settings = settings
        self._threads = threads or 0
        self._segmenter = load_segmenter(settings.segment, self._device)
        self._detector: Detector | None = None

    def __call__(self, detected: Detected, on_frame: Callable[[Frame], None] | None = None) -> ChunkResult:
        """Decode and track a chunk; an error becomes the result.

        Args:
            detected: From `DetectChunk`.
            on_frame: Called with every frame before it is tracked, for progress and cancellation.
        """
        chunk = detected.chunk
        if detected.error is not None:
            return ChunkResult.failed(
                chunk, detected.error, timings_s=detected.timings_s, error_kind=detected.error_kind
            )
        started = time.monotonic()
        result = _guarded(
            lambda: self._track(detected, on_frame),
            lambda error, kind: ChunkResult.failed(chunk, error, error_kind=kind),
        )
        return result.with_timing(**detected.timings_s, track=time.monotonic() - started)

    def adapted(self, settings: Settings) -> TrackChunk:
        """The same segmenter under other settings of detection and tracking."""
        other = copy(self)
        other._settings = settings
        other._detector = self._detector and self._detector.adapted(settings.detect)
        return other

    def _track(self, detected: Detected, on_frame: Callable[[Frame], None] | None) -> ChunkResult:
        from flows.segment import VideoSegmenter
        from flows.track import ChunkTracker

        chunk = detected.chunk
        segmenter = VideoSegmenter(self._segmenter, self._settings.segment, chunk.video.height_px, chunk.video.width_px)
        every = keyframe_interval(self._settings.detect, chunk.video.fps)
        tracker = ChunkTracker(chunk, segmenter, self._settings, every, self._redetect)
        reader = self._read(chunk.video, chunk.seen_from_ns, chunk.seen_until_ns, threads=self._threads)
        decoded = _Timed(reader)
        frames = _Timed(ahead(segmenter.frames.ahead(ahead(decoded, _AHEAD)), _AHEAD))
        started = time.monotonic()
        with torch_threads(segmenter.threads):
            result = tracker.run(_reporting(frames, on_frame), from_table(detected.detections))
        segmented_s = time.monotonic() - started - frames.seconds
        counted = {
            **result.counters,
            **reader.counters,
            "frames": result.counters["frames"],
            "detections": pc.sum(pc.list_value_length(detected.detections["confidence"])).as_py() or 0,
        }
        return replace(result, counters=counted).with_timing(decode=decoded.seconds, segment=segmented_s)

    def _redetect(self, frame: Frame) -> sv.Detections:
        if self._detector is None:
            self._detector = Detector(self._settings.detect, self._device)
        return self._detector([frame.image_rgb])[0]


def prepare_device(device: str | None, threads: int | None) -> str:
    """Limit this process to its share of cores and say where models run: the GPU it was given, else the CPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # its pool would fight torch's over the same cores
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


def _guarded(work: Callable[[], _Result], failed: Callable[[str, str], _Result]) -> _Result:
    """What `work` gives, or what `failed` makes of the message and kind of its error."""
    try:
        return work()
    except SightflowError as error:
        return failed(str(error), type(error).__name__)
    except Exception as error:  # the ledger is where a run's errors are seen, whatever they are
        _log.exception("chunk failed")
        return failed(f"{type(error).__name__}: {error}", type(error).__name__)


class _Timed(Generic[_Item]):
    """The same items, and the seconds it took to get them."""

    def __init__(self, items: Iterable[_Item]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[_Item]:
        items = iter(self._items)
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - started
            yield item


def _reporting(frames: Iterable[Frame], on_frame: Callable[[Frame], None] | None) -> Iterator[Frame]:
    for frame in frames:
        if on_frame is not None:
            on_frame(frame)
        yield frame
