"""Video -> probe, chunk plan, frames with presentation timestamps.

A frame is identified by its timestamp: `pts_ns` counts from the first frame the decoder puts out, in presentation
order, whatever the container's clock starts at. Where timestamps rise through the file (`Video.seekable`) a chunk is
read from a keyframe before it; where they do not (raw streams, B-frames in AVI, clocks that jump back) it is decoded
from the start, with timestamps repaired and counted. Either way every reader gets the same picture at the same time,
so chunk borders neither lose nor double frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from flows.config import DetectSettings, PlanSettings
from flows.errors import VideoError
from flows.media import Decoder, content_hash, find_videos, open_video
from flows.probe import Monotonic, counts_decode_time, in_ns, probe
from flows.schema import NS, Chunk, Frame, ImageArray, Video

__all__ = [
    "FrameReader", "Keyframes", "UnchangedFrameReader", "find_videos", "keyframe_interval", "plan_chunks", "probe",
    "read_frames",
]  # fmt: skip

_BACK_S = (0, 1, 4, 16, 64, 256)
"""How far before its start a chunk's keyframe is looked for, in seconds, before decoding from the file's start."""

_SHORT_REMAINDER = 0.25
"""A last piece shorter than this share of a chunk is not worth an actor's start-up; its predecessor takes it."""


def plan_chunks(video: Video, plan: PlanSettings, settings_hash: str) -> list[Chunk]:
    """Cut a video into contiguous chunks; every frame belongs to exactly one.

    The last chunk reaches a frame past the measured duration (a tenth of it where timestamps are repaired and the
    duration is an estimate), so that it owns whatever comes to the end of the file. A short remainder is merged into
    the chunk before it.
    """
    duration_ns, chunk_ns, overlap_ns = (
        round(seconds * NS) for seconds in (video.duration_s, plan.chunk_seconds, plan.overlap_seconds)
    )
    starts = list(range(0, max(duration_ns, 1), max(chunk_ns, 1)))
    remainder_ns = duration_ns - starts[-1]
    if len(starts) > 1 and remainder_ns < max(_SHORT_REMAINDER * chunk_ns, 2 * overlap_ns):
        starts.pop()
    beyond_ns = round(NS / video.fps) if video.seekable else max(round(NS / video.fps), duration_ns // 10)
    ends = [*starts[1:], duration_ns + beyond_ns]
    return [
        Chunk(video, index, start_ns, end_ns, overlap_ns, settings_hash)
        for index, (start_ns, end_ns) in enumerate(zip(starts, ends, strict=True))
    ]


def keyframe_interval(settings: DetectSettings, fps: float) -> int:
    """Frames from keyframe to keyframe."""
    if settings.detect_every is not None:
        return settings.detect_every
    assert settings.detect_every_seconds is not None, "settings have one of both"
    return max(1, round(settings.detect_every_seconds * fps))


class Keyframes:
    """Chooses keyframes: the first frame, and every one that enters a new interval of `every` frames.

    Intervals are counted from the video's beginning, so that neighbouring chunks agree on the frames they share.
    Called with each frame's number and time, in order.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._previous: int | None = None

    def __call__(self, number: int, pts_ns: int) -> bool:
        del pts_ns
        chosen = self._previous is None or number // self._every != self._previous // self._every
        self._previous = number
        return chosen


def read_frames(
    video: Video,
    start_ns: int = 0,
    end_ns: int | None = None,
    *,
    only: Callable[[int, int], bool] | None = None,
    threads: int = 0,
) -> Iterator[Frame]:
    """Frames of an interval; see `FrameReader`, which also counts."""
    return iter(FrameReader(video, start_ns, end_ns, only=only, threads=threads))


class FrameReader:
    """Frames with start_ns <= pts_ns < end_ns, in presentation order, upright RGB.

    Timestamps are unique and rise strictly; variable frame rate is kept. An interval that reaches the video's
    duration reaches to the end of the file. Frames of another size than the first are scaled to it.

    Attributes:
        counters: `frames` in the interval; `corrupt_packets` (skipped, or decoded with damage) and
            `repaired_timestamps`, both counted from where decoding began.
    """

    def __init__(
        self,
        video: Video,
        start_ns: int = 0,
        end_ns: int | None = None,
        *,
        only: Callable[[int, int], bool] | None = None,
        threads: int = 0,
    ) -> None:
        """Prepare to read; nothing is opened before iteration.

        Args:
            video: what `probe` returned.
            start_ns: first timestamp wanted.
            end_ns: end of the interval, None for the end of the file.
            only: says by (number, pts_ns) which frames are wanted, called once for each, in order; the others are
                decoded and counted, but never converted to RGB. The interval's last frame comes in any case.
            threads: of the decoder; 0 for as many as there are cores.
        """
        self._video = video
        self._start_ns = start_ns
        to_the_end = end_ns is None or end_ns >= round(video.duration_s * NS)
        self._end_ns = None if to_the_end else end_ns
        self._only = only
        self._threads = threads
        self._reformatter = VideoReformatter()
        self.counters = {"frames": 0, "corrupt_packets": 0, "repaired_timestamps": 0}

    def __iter__(self) -> Iterator[Frame]:
        """Decode.

        Raises:
            VideoError: the file is gone, or can no longer be read.
        """
        if self._video.seekable and self._start_ns > 0:
            with open_video(self._video.uri) as (container, stream):
                decoder = Decoder(container, stream, self._threads)
                timed = self._after_seek(decoder)
                if timed is not None:
                    yield from self._within(timed, decoder)
                    return
        with open_video(self._video.uri) as (container, stream):
            decoder = Decoder(container, stream, self._threads)
            yield from self._within(self._from_the_first(decoder), decoder)

    def _after_seek(self, decoder: Decoder) -> Iterator[tuple[int, Any]] | None:
        """Timed frames from a keyframe at or before the start, None where seeking does not find one."""
        first = next(decoder.frames(), None)
        if first is None or first.pts is None:
            return None
        origin, time_base = first.pts, decoder.stream.time_base
        start = origin + int(self._start_ns / (time_base * NS))
        for back_s in _BACK_S:
            goal = start - int(back_s / time_base)
            if goal <= origin:
                return None
            decoder.corrupt_packets = 0
            try:
                decoder.container.seek(goal, stream=decoder.stream)
            except (av.FFmpegError, OSError):
                return None
            stamped = ((in_ns(frame.pts - origin, time_base), frame) for frame in _from_keyframe(decoder))
            reached = next(stamped, None)
            if reached is not None and reached[0] <= self._start_ns:
                return self._monotonic(chain([reached], stamped))
        return None

    def _from_the_first(self, decoder: Decoder) -> Iterator[tuple[int, Any]]:
        """Timed frames from the start of the file."""
        time_base = decoder.stream.time_base
        by_decode_time = counts_decode_time(decoder.container, decoder.stream)

        def stamped() -> Iterator[tuple[int | None, Any]]:
            origin = None
            for frame in decoder.frames():
                ticks = frame.dts if by_decode_time else frame.pts
                origin = ticks if origin is None else origin
                yield None if ticks is None else in_ns(ticks - origin, time_base), frame

        first_ns = None
        for stamp_ns, frame in self._monotonic(stamped()):
            first_ns = stamp_ns if first_ns is None else first_ns
            yield stamp_ns - first_ns, frame

    def _monotonic(self, stamped: Iterator[tuple[int | None, Any]]) -> Iterator[tuple[int, Any]]:
        repair = Monotonic(round(NS / self._video.fps))
        for timed in repair(stamped):
            self.counters["repaired_timestamps"] = repair.repaired
            yield timed

    def _within(self, timed: Iterator[tuple[int, Any]], decoder: Decoder) -> Iterator[Frame]:
        """The frames of the interval, converted."""
        left_out: tuple[int, Any] | None = None
        for pts_ns, frame in timed:
            self.counters["corrupt_packets"] = decoder.corrupt_packets
            if self._end_ns is not None and pts_ns >= self._end_ns:
                break
            if pts_ns < self._start_ns:
                continue
            self.counters["frames"] += 1
            if self._only is None or self._only(self._number(pts_ns), pts_ns):
                left_out = None
                yield self._converted(pts_ns, frame)
            else:
                left_out = pts_ns, frame
        self.counters["corrupt_packets"] = decoder.corrupt_packets
        if left_out is not None:
            yield self._converted(*left_out)

    def _number(self, pts_ns: int) -> int:
        return round(pts_ns / NS * self._video.fps)

    def _converted(self, pts_ns: int, frame: Any) -> Frame:
        return Frame(self._number(pts_ns), pts_ns, self._upright_rgb(frame))

    def _upright_rgb(self, frame: Any) -> ImageArray:
        """The picture, turned as the first frame's display matrix says and at the video's size."""
        quarters = self._video.rotation_deg // 90
        width, height = self._video.width_px, self._video.height_px
        if quarters % 2:
            width, height = height, width
        image = self._reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(image, quarters))


class UnchangedFrameReader(FrameReader):
    """The same, of the content that was probed: else what another video shows would be stored as of this one."""

    def __iter__(self) -> Iterator[Frame]:
        """Decode.

        Raises:
            VideoError: also when all frames are read, if the file was replaced or has grown.
        """
        yield from super().__iter__()
        if content_hash(self._video.uri) != self._video.content_hash:
            raise VideoError(f"{self._video.uri}: its content has changed since the run looked at it: run again")


def _from_keyframe(decoder: Decoder) -> Iterator[Any]:
    """Frames from the next keyframe on, in presentation order.

    Frames shown before that keyframe but stored after it lean on pictures that were not decoded (an open group of
    pictures): they are left out, never shown broken.
    """
    key_pts: int | None = None

    def packets() -> Iterator[Any]:
        nonlocal key_pts
        for packet in decoder.packets():
            if key_pts is None and packet.is_keyframe:
                key_pts = packet.pts
            if key_pts is not None or not packet.size:
                yield packet

    for frame in decoder.frames(packets()):
        if key_pts is not None and frame.pts is not None and frame.pts >= key_pts:
            yield frame
