"""Video -> what it is: size, codec, start, and timing measured rather than believed.

Headers lie: durations are missing, zero or those of another cut, frame rates are 0, 1000 or 90000. What can be
counted is counted: from the container's index where it is complete, else by reading all packets (no decoding); of a
remote file only its tail is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import PurePath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import av
import numpy as np

from flows.errors import UsageError, VideoError
from flows.media import Decoder, content_hash, is_url, open_video
from flows.schema import EPOCH, NS, Video

_Item = TypeVar("_Item")

_OLDEST_RECORDING = datetime(1990, 1, 1, tzinfo=UTC)
"""Creation times before this are unset clocks: containers count from 1904 or 1970, cameras often from 1980."""

_MAX_FPS = 1000
"""High-speed cameras stay below it; above it timestamps count something else than seconds."""

_MAX_DURATION_S = 31 * 86400
"""No recorder keeps a month in one file; one stray timestamp would plan a million empty chunks."""

_FALLBACK_FPS = 25.0
"""Rate of a stream that neither says nor shows one: a raw stream without timing, a single frame."""

_MAX_REORDER = 32
"""Frames a packet may precede its presentation by; H.264 and H.265 allow 16, fields count double."""


def probe(uri: str, source_id: str | None = None, start_time: datetime | None = None) -> Video:
    """Learn what a video is, from its packets and first frame where its header cannot be true.

    Args:
        uri: path or URL of the file.
        source_id: camera or flight it comes from; default: the file's name without extension.
        start_time: world time of the first frame; default: the file's creation time where it is plausible, else
            `EPOCH`.

    Raises:
        VideoError: missing, not a video, without frames, cut off before its index, or not decodable.
        UsageError: `start_time` has no time zone.
    """
    if start_time is not None and start_time.tzinfo is None:
        raise UsageError(f"start time {start_time.isoformat()} needs a time zone, as in 2026-05-01T08:00:00+02:00")
    digest = content_hash(uri)
    with open_video(uri) as (container, stream):
        decoder = Decoder(container, stream)
        first = next(decoder.frames(), None)
        codec, container_name = stream.codec_context.name, container.format.name
        if first is None:
            raise VideoError(
                f"{uri}: expected at least one frame, but nothing in its {codec} stream can be decoded "
                f"({decoder.corrupt_packets} damaged packets); copy or record it again"
            )
        created = _creation_time(container.metadata.get("creation_time") or stream.metadata.get("creation_time"))
    timing = _measure(uri, first.pts)
    _check_timing(uri, timing)
    rotation_deg = round(first.rotation / 90) * 90 % 360
    upright = (first.height, first.width) if rotation_deg in (90, 270) else (first.width, first.height)
    return Video(
        uri=uri,
        content_hash=digest,
        source_id=source_id or default_source(uri),
        width_px=upright[0],
        height_px=upright[1],
        fps=timing.fps,
        duration_s=timing.duration_s,
        codec=codec,
        container=container_name,
        rotation_deg=rotation_deg,
        start_time=start_time or created or EPOCH,
        seekable=timing.seekable,
    )


def _check_timing(uri: str, timing: _Timing) -> None:
    if timing.fps > _MAX_FPS:
        raise VideoError(
            f"{uri}: its timestamps say {timing.fps:.0f} frames per second; expected at most {_MAX_FPS}; "
            "remux it with the camera's frame rate"
        )
    if timing.duration_s > _MAX_DURATION_S:
        raise VideoError(
            f"{uri}: its timestamps span {timing.duration_s / 86400:.0f} days; expected at most a month in one file; "
            "remux it with new timestamps"
        )


def default_source(uri: str) -> str:
    """The source of a video when nobody names it: its file's name without extension."""
    path = unquote(urlsplit(uri).path) if is_url(uri) else uri
    return PurePath(path).stem or uri


def _creation_time(tag: str | None) -> datetime | None:
    try:
        created = datetime.fromisoformat(tag or "")
    except ValueError:
        return None
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    return created if _OLDEST_RECORDING <= created <= datetime.now(UTC) + timedelta(days=1) else None


# -- timestamps


def in_ns(ticks: int, time_base: Fraction) -> int:
    """Ticks of a container's clock in nanoseconds, rounded to the nearest."""
    numerator, denominator = ticks * time_base.numerator * NS, time_base.denominator
    return (2 * numerator + denominator) // (2 * denominator)


def counts_decode_time(container: Any, stream: Any) -> bool:
    """Whether the container knows only when frames are decoded, though they are shown in another order (AVI)."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


class Monotonic:
    """Timestamps made unique and rising, one frame of delay.

    A missing or non-rising timestamp becomes the last one plus the nominal interval; a single one that jumps ahead
    (its successor is smaller, but still rises) counts as missing. `repaired` counts those that were replaced.
    """

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = max(interval_ns, 2)
        self.repaired = 0

    def __call__(self, items: Iterable[tuple[int | None, _Item]]) -> Iterator[tuple[int, _Item]]:
        """Yield every item under a timestamp, in ns; the first keeps its own, or gets 0 where it has none."""
        last: int | None = None
        held: tuple[int | None, _Item] | None = None
        for item in items:
            if held is not None:
                last = self._place(held[0], item[0], last)
                yield last, held[1]
            held = item
        if held is not None:
            yield self._place(held[0], None, last), held[1]

    def _place(self, stamp_ns: int | None, next_ns: int | None, last: int | None) -> int:
        rises = stamp_ns is not None and (last is None or stamp_ns > last)
        room_ns = next_ns if next_ns is not None and (last is None or next_ns > last + 1) else None
        if stamp_ns is not None and rises and (room_ns is None or stamp_ns <= room_ns):
            return stamp_ns
        self.repaired += 1
        if last is None:
            return 0 if room_ns is None else room_ns - self.interval_ns
        expected = last + self.interval_ns
        return expected if room_ns is None or expected < room_ns else (last + room_ns) // 2


# -- measured timing


@dataclass(frozen=True)
class _Timing:
    duration_s: float
    fps: float
    seekable: bool


def _measure(uri: str, first_pts: int | None) -> _Timing:
    with open_video(uri) as (container, stream):
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate and 1e-4 < rate <= _MAX_FPS]
        tick_s = float(stream.time_base)
        unordered = counts_decode_time(container, stream)
        dts = _indexed_dts(container, stream)
        last_pts = _tail_pts(container, stream) if dts is not None or is_url(uri) else None
    if last_pts is None or first_pts is None or unordered:
        return _scanned(uri, rates)
    if dts is None:
        interval_s = 1 / (rates[0] if rates else _FALLBACK_FPS)
        return _Timing(max((last_pts - first_pts) * tick_s, 0) + interval_s, 1 / interval_s, True)
    fps = _nominal_fps(dts * tick_s, tick_s, rates)
    duration_s = max(last_pts - first_pts, int(dts[-1] - dts[0])) * tick_s + 1 / fps
    return _Timing(duration_s, fps, bool(np.all(np.diff(dts) > 0)))


def _indexed_dts(container: Any, stream: Any) -> np.ndarray | None:
    """Decode times of the frames the file holds, in ticks, where its index lists all of them (mp4, AVI)."""
    entries = stream.index_entries
    if not stream.frames or stream.frames != len(entries):
        return None
    dts = [entry.timestamp for entry in entries if not entry.is_discard and entry.pos + entry.size <= container.size]
    return np.array(dts, dtype=np.int64) if dts else None


def _tail_pts(container: Any, stream: Any) -> int | None:
    """Presentation time of the last frame, by reading what follows the last keyframe."""
    ahead = int(7 * 86400 / stream.time_base)
    duration = stream.duration or 0
    start = stream.start_time or 0
    try:
        container.seek(start + (duration if 0 < duration < ahead else ahead), stream=stream)
        stamps = [packet.pts for packet in Decoder(container, stream).packets() if packet.size]
    except av.FFmpegError:
        return None
    return max((pts for pts in stamps if pts is not None), default=None)


def _scanned(uri: str, rates: list[float]) -> _Timing:
    """Timing from all packets of the file."""
    with open_video(uri) as (container, stream):
        time_base, tick_s = stream.time_base, float(stream.time_base)
        unordered = counts_decode_time(container, stream)
        packets = [(p.pts, p.dts, p.is_keyframe) for p in Decoder(container, stream).packets() if p.size]
    given = [pts for pts, _, _ in packets if pts is not None]
    rising = len(given) == len(packets) and not unordered and _rises(given)
    if rising:
        stamps_s = np.sort(np.array(given)) * tick_s
        fps = _nominal_fps(stamps_s, tick_s, rates)
        return _Timing(float(stamps_s[-1] - stamps_s[0]) + 1 / fps, fps, True)
    dts = [dts for _, dts, _ in packets]
    decode_s = np.array([t for t in dts if t is not None]) * tick_s
    fps = _nominal_fps(decode_s, tick_s, rates)
    in_order = ((None if t is None else in_ns(t, time_base), None) for t in dts)
    stamps_ns = [stamp for stamp, _ in Monotonic(round(NS / fps))(in_order)]
    return _Timing((stamps_ns[-1] - stamps_ns[0]) / NS + 1 / fps, fps, False)


def _rises(pts: list[int]) -> bool:
    """Whether presentation times in decode order are unique and go back no further than reordering explains."""
    stamps = np.array(pts)
    if len(np.unique(stamps)) < len(stamps):
        return False
    highest = np.maximum.accumulate(stamps)
    return bool(np.all(stamps[_MAX_REORDER:] > highest[:-_MAX_REORDER]))


def _nominal_fps(stamps_s: np.ndarray, tick_s: float, rates: list[float]) -> float:
    """The typical rate: frames over time, pauses left out; what the header says where that agrees with it."""
    gaps_s = np.sort(np.diff(stamps_s))
    gaps_s = gaps_s[gaps_s > 0]
    if not len(gaps_s):
        return rates[0] if rates else _FALLBACK_FPS
    usual_s = float(gaps_s[(len(gaps_s) - 1) // 2])
    typical = gaps_s[np.abs(gaps_s - usual_s) <= max(1.5 * tick_s, 0.05 * usual_s)]
    fps = 1 / float(typical.mean())
    # Rounded clocks (1 ms in Matroska) blur the rate: a quarter of a frame over the whole length is within the blur.
    agreeing = [rate for rate in rates if abs(rate / fps - 1) * len(typical) < 0.25]
    return min(agreeing, key=lambda rate: abs(rate - fps), default=fps)
