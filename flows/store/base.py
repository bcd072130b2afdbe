"""What a store is: the ledger of chunks, the tables the flow writes, and SQL over both.

Two implementations keep the same promises under the same table and column names: `parquet.ParquetStore` (a folder)
and `postgis.PostgisStore` (a server). Both offer these tables and views to `query`:

| name | rows |
|---|---|
| `sources` | source_id, time_zone |
| `videos` | one per video: the fields of `schema.Video` and video_id |
| `runs` | run_id, started_at, command, settings (JSON) |
| `chunks` | the ledger, `schema.LEDGER` |
| `tracklets` | `schema.TRACKLETS` |
| `track_links` | `schema.TRACK_LINKS`, every version |
| `observations` | `schema.OBSERVATIONS` of chunks that are done |
| `samples` | `samples.SAMPLES` of chunks that are done: a row per tracklet and second |
| `tracks` | per track of its source's newest link version: track_id, source_id, class_name, t0, t1, duration_s, |
|  | n_tracklets, n_observations, n_detected, n_bridged |
| `track_observations` | observations joined with the newest links: the columns of `observations` and track_id |
| `track_samples` | samples joined with the newest links: the columns of `samples` and track_id |
| `zones` | source_id, name, kind (`zone` or `line`), unit (`px` or `m`), points (JSON [[x, y], ...]) |
| `zone_versions` | source_id, version, written_at, zones (JSON list of them): every set of zones a source had |
| `calibrations` | source_id, calibration (JSON, see `georeference`): the newest of each source |
| `calibration_versions` | source_id, valid_from, calibration: each holds from its time to the next |
| `events` | `schema.EVENTS` |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from flows.errors import StoreError
from flows.schema import EPOCH, Chunk, ChunkResult, Video

SCHEMA_VERSION = 4


@dataclass(frozen=True)
class Filter:
    """Which observations to read: t0 <= ts < t1; what is None or empty does not filter."""

    source_id: str | None = None
    video_id: str | None = None
    t0: datetime | None = None
    t1: datetime | None = None
    class_names: tuple[str, ...] = ()
    track_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Zone:
    """A polygon (`zone`) or a polyline (`line`) of a source, in pixels or ground metres."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]
    unit: str = "px"

    def __post_init__(self) -> None:
        least = {"zone": 3, "line": 2}.get(self.kind)
        if least is None or self.unit not in ("px", "m"):
            raise ValueError(f"zone {self.name!r}: kind is zone or line and unit px or m, got {self.kind}, {self.unit}")
        if len(self.points) < least:
            raise ValueError(f"{self.kind} {self.name!r} needs at least {least} points, got {len(self.points)}")


@dataclass(frozen=True)
class ZoneVersion:
    """The zones and lines a source was given at one time."""

    version: int
    written_at: datetime
    zones: tuple[Zone, ...]


class Store(ABC):
    """Where results live. Every method is safe to call from several processes at once.

    Methods raise `StoreError` with the address (never a password) and the likely fix.
    """

    url: str
    """The address, without any password."""

    @abstractmethod
    def prepare(self) -> None:
        """Create what is missing; raise SchemaVersionError where another version's data lies."""

    @abstractmethod
    def check(self) -> None:
        """Raise SchemaVersionError where another version's data lies, StoreError where none does; make nothing."""

    @abstractmethod
    def upgrade(self) -> list[int]:
        """Lead a store of an older schema to this one; returns the versions gone through, in order.

        Raises:
            SchemaVersionError: No way leads from what is there.
            StoreError: There is no store.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back connections."""

    def hold_in_memory(self) -> None:  # noqa: B027 (a server does so by itself)
        """From now on keep in memory what `query` reads often and is small, for a process that asks many questions.

        Answers stay as new as they were. Tracklets have no lists then: no ends of boxes, no appearance.
        """

    # -- the ledger

    @abstractmethod
    def add_run(self, run_id: str, command: str, settings_json: str) -> None:
        """Record what was started and with which resolved settings."""

    @abstractmethod
    def add_video(self, video: Video) -> None:
        """Record a video and its source, or bring them up to date; a rejection of the same file is taken back."""

    @abstractmethod
    def plan(self, chunks: Sequence[Chunk]) -> None:
        """Enter chunks in the ledger as planned; those already there stay as they are."""

    @abstractmethod
    def reject(self, uri: str, source_id: str, error: str) -> None:
        """Enter a video that could not be read as one failed chunk without extent; entering it again replaces that."""

    @abstractmethod
    def begin(self, chunk: Chunk, max_attempts: int, run_id: str = "") -> bool:
        """Count an attempt at a planned chunk, claim it for a run, and say whether it may start.

        False where it is done, or failed, or in the hands of another run that is alive (see `hold`), or where
        `max_attempts` processes began it and none ended: then it is recorded as failed.
        """

    @abstractmethod
    def hold(self, run_id: str, seconds: float) -> None:
        """Say that a run is alive for so long from now on: what it began is its own till then. 0 ends that."""

    @abstractmethod
    def held(self, run_id: str, chunk_ids: Sequence[str]) -> set[str]:
        """Those of these chunks that another run than this has begun, not ended, and holds."""

    @abstractmethod
    def hand_back(self, run_id: str, chunk_ids: Sequence[str] | None = None) -> int:
        """Make chunks (default: all) that a run began and did not end planned again, as if it had never begun them.

        Returns:
            How many.
        """

    @abstractmethod
    def commit(self, result: ChunkResult) -> None:
        """Write everything a chunk produced and mark it done (or failed), all or nothing, exactly once.

        Committing a chunk again replaces what it wrote before; readers never see half a chunk.
        """

    @abstractmethod
    def reset_failed(self, chunk_ids: Sequence[str]) -> int:
        """Make failed chunks among these planned again, attempts at 0; returns how many."""

    @abstractmethod
    def ledger(self, chunk_ids: Sequence[str] | None = None) -> pa.Table:
        """Ledger rows (schema LEDGER) of these chunks, or all."""

    @abstractmethod
    def show(self, video_id: str, settings_hash: str) -> None:
        """Make what these settings found of a video the newest of its results: the newest are those that are shown."""

    @abstractmethod
    def stamp(self, source_id: str) -> str:
        """A text that changes whenever a source's chunks are done, done again or shown again."""

    @abstractmethod
    def finished(self, source_id: str) -> str | None:
        """What `finish` wrote last, None where it never did."""

    @abstractmethod
    def finish(self, source_id: str, stamp: str) -> None:
        """Write down up to which stamp a source's tracks and events are made."""

    # -- identity

    @abstractmethod
    def locked(self, source_id: str) -> AbstractContextManager[None]:
        """Hold the source's lock: one stitcher at a time."""

    @abstractmethod
    def tracklets(self, source_id: str) -> pa.Table:
        """All tracklets (schema TRACKLETS) of a source's done chunks, by (video, start)."""

    @abstractmethod
    def links(self, source_id: str, version: int | None = None) -> pa.Table:
        """Links (schema TRACK_LINKS) of one version, default the newest, by tracklet_id; empty where there is none."""

    @abstractmethod
    def write_links(self, source_id: str, version: int, links: pa.Table) -> None:
        """Replace one version of a source's links, at once."""

    # -- places

    @abstractmethod
    def write_time_zone(self, source_id: str, time_zone: str) -> None:
        """Say in which time zone (an IANA name) a source's times are shown; what is stored stays in UTC."""

    @abstractmethod
    def write_zones(self, source_id: str, zones: Sequence[Zone]) -> None:
        """Replace the zones and lines of a source; what it had before stays among its `zone_versions`."""

    def zones(self, source_id: str) -> list[Zone]:
        """Zones and lines of a source."""
        versions = self.zone_versions(source_id)
        return list(versions[-1].zones) if versions else []

    @abstractmethod
    def zone_versions(self, source_id: str) -> list[ZoneVersion]:
        """Every set of zones and lines the source was given, oldest first, from version 1 on."""

    @abstractmethod
    def write_calibration(self, source_id: str, calibration_json: str, valid_from: datetime = EPOCH) -> None:
        """Add a calibration that holds from a time on, or replace the one of that time."""

    def calibration(self, source_id: str) -> str | None:
        """The source's newest calibration as JSON, None where it has none."""
        versions = self.calibrations(source_id)
        return versions[-1][1] if versions else None

    @abstractmethod
    def calibrations(self, source_id: str) -> list[tuple[datetime, str]]:
        """The source's calibrations as JSON, each with the time from which it holds, in order of time."""

    @abstractmethod
    def relocate(self, source_id: str, locate: Callable[[pa.Table], pa.Table]) -> None:
        """Put a source's stored observations elsewhere on the ground; its samples and its tracklets' ways follow.

        Chunk by chunk, each at once. A chunk whose observations were pruned, wholly or in part, stays as it is.

        Args:
            source_id: Of the source.
            locate: Given the observations of a chunk (schema OBSERVATIONS), the same rows with other positions. It may
                not ask the store.
        """

    @abstractmethod
    def write_events(self, source_id: str, events: pa.Table) -> None:
        """Replace the events (schema EVENTS) of a source, at once, but for those from before what was pruned."""

    # -- keeping house

    @abstractmethod
    def prune(self, before: date) -> list[date]:
        """Remove the observations of all days (UTC) before a date; returns the days they were of.

        The ledger, tracklets, tracks, samples and events stay, so counts, dwell, movement and certainty can still be
        asked; pictures and exports of those days cannot. Events of what was pruned survive `write_events`.
        """

    def grant_reader(self, role: str) -> bool:
        """Let a role of the server read this store and nothing else; says whether it was made.

        Raises:
            StoreError: A store without roles.
        """
        raise StoreError(f"store {self.url}: a folder has no roles, its readers are who may read its files ({role}?)")

    @abstractmethod
    def stats(self) -> pa.Table:
        """What the store holds, schema `tables.STATS`: one row per table."""

    # -- reading

    @abstractmethod
    def observations(
        self, where: Filter, columns: Sequence[str] | None = None, *, ordered: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """Stream `track_observations` in batches of bounded size.

        Args:
            where: Which.
            columns: Of them; default: all.
            ordered: By (video, pts_ns, track_id). Sorting costs as much again as reading.
        """

    @abstractmethod
    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """Run one SELECT. Parameters are written `$name` on both stores and are bound, never formatted in.

        Timestamps come back as timestamp[us, UTC], whole numbers as int64, real numbers as float64, text as string.
        PostgreSQL sums bigint to numeric: cast such sums to bigint, and divide only what was cast to double precision.
        """

    def __enter__(self) -> Self:
        self.prepare()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
