"""The value types and the Arrow schema at every boundary of the flow.

Boxes are `[x1, y1, x2, y2]` in pixels of the full, upright frame. Times inside a video are presentation timestamps
in integer nanoseconds from the video's first frame (`pts_ns`); times in the world are UTC. Ids are uuid5 of what
they name, so the same work has the same id in every run.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]

NAMESPACE = uuid.UUID("6f1f6c1e-7d0b-5a39-9d57-3f0c5a1f10f0")
"""Namespace of every uuid5 the project makes."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Start time of a video whose real one is neither given nor written in the file."""

NS = 1_000_000_000


_HASHED_NAMESPACE = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def as_text(path: str) -> str:
    """A path as text that can be stored and printed: bytes of its name that are not UTF-8 are written `\\xe9`."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def make_id(*parts: object) -> str:
    """The id of the thing named by `parts`: a uuid5 (RFC 9562) over their text.

    Written out, because events have ids by the hundred thousand and `uuid.uuid5` takes four times as long.
    """
    named = _HASHED_NAMESPACE.copy()
    named.update("\x1f".join(map(str, parts)).encode())
    h = named.hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"


class State(StrEnum):
    """How an observation is known."""

    DETECTED = "detected"
    """The detector saw it on this frame and the object was matched to it."""
    PROPAGATED = "propagated"
    """SAM 2 carried its mask onto this frame."""
    BRIDGED = "bridged"
    """It is hidden; the Kalman filter says where it should be."""
    INTERPOLATED = "interpolated"
    """The frame was not segmented, or the mask was not trusted; the box comes from both sides."""


class ChunkState(StrEnum):
    """State of a chunk in the ledger."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Video:
    """What a probe learned about one video.

    Width and height are those of the upright frame, after `rotation_deg` is applied. `fps` is nominal: frames are
    identified by timestamp. `duration_s` is measured from packets where the header is missing or implausible.
    """

    uri: str
    content_hash: str
    source_id: str
    width_px: int
    height_px: int
    fps: float
    duration_s: float
    codec: str
    container: str
    rotation_deg: int = 0
    start_time: datetime = EPOCH
    seekable: bool = True
    """Whether timestamps rise through the file; where not, every chunk is decoded from the file's start."""

    def __post_init__(self) -> None:
        if self.width_px <= 0 or self.height_px <= 0:
            raise ValueError(f"{self.uri}: frame size {self.width_px}x{self.height_px} is not positive")
        if not self.fps > 0 or not self.duration_s > 0:
            raise ValueError(f"{self.uri}: fps {self.fps} and duration {self.duration_s} s must be positive")
        if self.start_time.tzinfo is None:
            raise ValueError(f"{self.uri}: start_time needs a time zone")

    @property
    def video_id(self) -> str:
        """Id of this content seen by this source: a renamed file keeps it."""
        return make_id("video", self.source_id, self.content_hash)

    def time_at(self, pts_ns: int) -> datetime:
        """World time of a presentation timestamp, to the microsecond."""
        return self.start_time + timedelta(microseconds=pts_ns // 1000)


@dataclass(frozen=True)
class Chunk:
    """A piece of one video: it owns frames with start_ns <= pts_ns < end_ns and sees half the overlap beyond both."""

    video: Video
    index: int
    start_ns: int
    end_ns: int
    overlap_ns: int
    settings_hash: str

    def __post_init__(self) -> None:
        if not 0 <= self.start_ns < self.end_ns or self.overlap_ns < 0:
            raise ValueError(
                f"chunk {self.index}: [{self.start_ns}, {self.end_ns}) + {self.overlap_ns} ns is no interval"
            )

    @property
    def chunk_id(self) -> str:
        """Id of this work: same content, interval and settings, same id."""
        return make_id("chunk", self.video.video_id, self.start_ns, self.end_ns, self.overlap_ns, self.settings_hash)

    @property
    def seen_from_ns(self) -> int:
        """Start of what is decoded: what a chunk sees before its own frames lets its objects be known by then."""
        return max(0, self.start_ns - self.overlap_ns // 2)

    @property
    def seen_until_ns(self) -> int:
        """End of what is decoded: the chunk's own frames and those it shares with its successor."""
        return self.end_ns + self.overlap_ns - self.overlap_ns // 2

    def shared_before(self, pts_ns: int) -> bool:
        """Whether the chunk before sees this time, too."""
        return self.start_ns > 0 and pts_ns < 2 * self.start_ns - self.seen_from_ns

    def shared_after(self, pts_ns: int) -> bool:
        """Whether the chunk behind sees this time, too."""
        return self.end_ns < round(self.video.duration_s * NS) and pts_ns >= 2 * self.end_ns - self.seen_until_ns


@dataclass(frozen=True)
class Frame:
    """One decoded frame: upright RGB, shape (height, width, 3), uint8."""

    number: int
    """Nominal frame number in the video, round(pts_s * fps), for tools that count frames. 0-based."""
    pts_ns: int
    image_rgb: ImageArray


@dataclass(frozen=True)
class ChunkResult:
    """All one chunk produced: exactly one per chunk, an error instead of an exception.

    `observations` and `tracklets` follow the schemas below and are empty where `error` is set.
    """

    chunk: Chunk
    observations: pa.Table
    tracklets: pa.Table
    counters: dict[str, int] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    error_kind: str | None = None
    """Name of the error's class."""

    def __post_init__(self) -> None:
        _require(self.observations, OBSERVATIONS, "observations")
        _require(self.tracklets, TRACKLETS, "tracklets")

    @classmethod
    def failed(cls, chunk: Chunk, error: str, **fields: Any) -> ChunkResult:
        """The result of a chunk that could not be processed."""
        return cls(chunk, OBSERVATIONS.empty_table(), TRACKLETS.empty_table(), error=error, **fields)

    def with_timing(self, **seconds: float) -> ChunkResult:
        """The same with further timings."""
        return replace(self, timings_s={**self.timings_s, **seconds})


def _require(table: pa.Table, schema: pa.Schema, name: str) -> None:
    if not table.schema.equals(schema):
        raise ValueError(f"{name} do not follow their schema: expected\n{schema}\ngot\n{table.schema}")


TIMESTAMP = pa.timestamp("us", tz="UTC")

DETECTIONS = pa.schema(
    [
        pa.field("pts_ns", pa.int64(), nullable=False),
        pa.field("class_name", pa.list_(pa.string()), nullable=False),
        pa.field("confidence", pa.list_(pa.float32()), nullable=False),
        pa.field("xyxy_px", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Detect -> track: one row per keyframe, its detections as lists (boxes flat: x1, y1, x2, y2, x1, ...)."""

OBSERVATIONS = pa.schema(
    [
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("tracklet_id", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("pts_ns", pa.int64(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        *(pa.field(f"{c}_px", pa.float32(), nullable=False) for c in ("x1", "y1", "x2", "y2")),
        # The ground point: bottom centre of the box as estimated from masks and detections together; of what a fixed
        # camera that is calibrated sees, the middle of the ground it covers (`locate.SIZES_M`).
        pa.field("x_px", pa.float32(), nullable=False),
        pa.field("y_px", pa.float32(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("object_score", pa.float32()),
        pa.field("area_px", pa.float32()),
        # Ground position in the source's local metric frame and its standard deviation; null where uncalibrated.
        pa.field("x_m", pa.float64()),
        pa.field("y_m", pa.float64()),
        pa.field("sigma_m", pa.float32()),
        pa.field("mask", pa.binary()),
    ]
)
"""Track -> store: one row per object and frame the chunk owns."""

ENDS_NS = NS
"""How much of its boxes a tracklet keeps at each end, for stitching."""

TRACKLETS = pa.schema(
    [
        pa.field("tracklet_id", pa.string(), nullable=False),
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("class_share", pa.float32(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("t0", TIMESTAMP, nullable=False),
        pa.field("t1", TIMESTAMP, nullable=False),
        pa.field("pts0_ns", pa.int64(), nullable=False),
        pa.field("pts1_ns", pa.int64(), nullable=False),
        pa.field("n_observations", pa.int32(), nullable=False),
        pa.field("n_detected", pa.int32(), nullable=False),
        pa.field("n_bridged", pa.int32(), nullable=False),
        # Boxes the stitcher compares: those on the frames shared with the chunk before (head) and after (tail), and
        # always the first and the last second. Flat x1, y1, x2, y2 per timestamp.
        pa.field("head_pts_ns", pa.list_(pa.int64()), nullable=False),
        pa.field("head_xyxy_px", pa.list_(pa.float32()), nullable=False),
        pa.field("tail_pts_ns", pa.list_(pa.int64()), nullable=False),
        pa.field("tail_xyxy_px", pa.list_(pa.float32()), nullable=False),
        # What it looked like at first and at last, `appearance.Looks.to_list`; other lengths are not compared.
        pa.field("appearance", pa.list_(pa.float32()), nullable=False),
        # Whether its chunk saw enough of it to report it; null, as older versions wrote, means so.
        pa.field("confirmed", pa.bool_()),
    ]
)
"""Track -> stitch: one row per object of a chunk, immutable once committed.

`t0`/`t1` bound what the tracklet's own chunk stores; its ends may reach beyond, into the frames shared with neighbours.
What is not `confirmed` was cut by a border, and is reported as part of a track that is confirmed on its other side.
"""

TRACK_LINKS = pa.schema(
    [
        pa.field("tracklet_id", pa.string(), nullable=False),
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Stitch -> store: which track a tracklet belongs to, how sure and why (`start`, `overlap`, `motion`, ...)."""

LEDGER = pa.schema(
    [
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("start_ns", pa.int64(), nullable=False),
        pa.field("end_ns", pa.int64(), nullable=False),
        pa.field("overlap_ns", pa.int64(), nullable=False),
        pa.field("settings_hash", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("counters", pa.string(), nullable=False),
        pa.field("timings", pa.string(), nullable=False),
        pa.field("updated_at", TIMESTAMP, nullable=False),
        # Of counters and timings, what is summed over whole archives; null in rows of older versions.
        pa.field("damaged_packets", pa.int64()),
        pa.field("worker_s", pa.float64()),
    ]
)
"""The ledger: one row per planned chunk. `counters` and `timings` (seconds by step) are JSON objects."""

EVENTS = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("track_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("zone", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("duration_s", pa.float64()),
        pa.field("direction", pa.string()),
        pa.field("inferred", pa.bool_(), nullable=False),
        # The other track of a `proximity`, the other zone of a `cycle`.
        pa.field("other", pa.string()),
        # Over the event, of displacements within a window; null where no ground position is known.
        pa.field("speed_mean_m_s", pa.float64()),
        pa.field("speed_p85_m_s", pa.float64()),
        pa.field("speed_max_m_s", pa.float64()),
        # The least of a `proximity`, the way of a `presence`.
        pa.field("distance_m", pa.float64()),
    ]
)
"""Events -> store: their kinds are told in `events`. `zone` is empty where an event belongs to none.

`inferred` says that the observation which made the event, or most of those that did, was bridged or interpolated.
"""
