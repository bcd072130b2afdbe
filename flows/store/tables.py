"""The tables beside those of `schema`, and the columns both stores show for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import RefusedChunkError, SchemaVersionError
from flows.schema import OBSERVATIONS, TIMESTAMP, Chunk, ChunkResult, ChunkState, Video, make_id
from flows.store.base import SCHEMA_VERSION, Zone

SOURCES = pa.schema([pa.field("source_id", pa.string()), pa.field("time_zone", pa.string())])

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string()),
        pa.field("source_id", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("content_hash", pa.string()),
        pa.field("width_px", pa.int64()),
        pa.field("height_px", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64()),
        pa.field("codec", pa.string()),
        pa.field("container", pa.string()),
        pa.field("rotation_deg", pa.int64()),
        pa.field("start_time", TIMESTAMP),
    ]
)

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("started_at", TIMESTAMP),
        pa.field("command", pa.string()),
        pa.field("settings", pa.string()),
    ]
)

ZONES = pa.schema([pa.field(name, pa.string()) for name in ("source_id", "name", "kind", "unit", "points")])

ZONE_VERSIONS = pa.schema(
    [
        pa.field("source_id", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("written_at", TIMESTAMP),
        pa.field("zones", pa.string()),
    ]
)

CALIBRATIONS = pa.schema([pa.field("source_id", pa.string()), pa.field("calibration", pa.string())])

STATS = pa.schema(
    [
        pa.field("table", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("bytes", pa.int64()),
        # Files, or partitions of the table.
        pa.field("parts", pa.int64()),
        pa.field("first_day", pa.date32()),
        pa.field("last_day", pa.date32()),
    ]
)
"""What `Store.stats` says: days where the table is kept by day. Indexes are part of `bytes`."""
CALIBRATION_VERSIONS = pa.schema(
    [pa.field("source_id", pa.string()), pa.field("valid_from", TIMESTAMP), pa.field("calibration", pa.string())]
)

TRACK_OBSERVATIONS = OBSERVATIONS.append(pa.field("track_id", pa.string(), nullable=False))

NEVER_ENDED = (
    "began {attempts} times and never ended: its process was killed each time. Likely out of memory; "
    "use a smaller model, a smaller image size or a machine with more memory, then run again with --retry-failed"
)


def video_row(video: Video) -> dict[str, Any]:
    """The row of a video in VIDEOS."""
    return {"video_id": video.video_id, **{field.name: getattr(video, field.name) for field in fields(video)}}


def planned_row(chunk: Chunk) -> dict[str, Any]:
    """The ledger row of a chunk nobody has begun."""
    return {
        "chunk_id": chunk.chunk_id,
        "video_id": chunk.video.video_id,
        "source_id": chunk.video.source_id,
        "index": chunk.index,
        "start_ns": chunk.start_ns,
        "end_ns": chunk.end_ns,
        "overlap_ns": chunk.overlap_ns,
        "settings_hash": chunk.settings_hash,
        "state": ChunkState.PLANNED.value,
        "attempts": 0,
        "error": None,
        "rows": 0,
        "frames": 0,
        "counters": "{}",
        "timings": "{}",
        "updated_at": datetime.now(UTC),
        "damaged_packets": 0,
        "worker_s": 0.0,
    }


def rejected_id(uri: str, source_id: str) -> str:
    """Id in the ledger of a video that could not be read."""
    return make_id("rejected", source_id, uri)


def rejected_row(uri: str, source_id: str, error: str) -> dict[str, Any]:
    """The ledger row of a video that could not be read."""
    return {
        "chunk_id": rejected_id(uri, source_id),
        "video_id": rejected_id(uri, source_id),
        "source_id": source_id,
        **dict.fromkeys(("index", "start_ns", "end_ns", "overlap_ns", "attempts", "rows", "frames"), 0),
        "settings_hash": "",
        "state": ChunkState.FAILED.value,
        "error": error,
        "counters": "{}",
        "timings": "{}",
        "updated_at": datetime.now(UTC),
        "damaged_packets": 0,
        "worker_s": 0.0,
    }


def begun_row(before: Mapping[str, Any], max_attempts: int, held: bool = False) -> tuple[bool, dict[str, Any]]:
    """Whether a chunk may start, and its ledger row after asking; `held` by another run it may not."""
    row = {**before, "updated_at": datetime.now(UTC)}
    if held or row["state"] in (ChunkState.DONE, ChunkState.FAILED):
        return False, dict(before)
    if row["attempts"] >= max_attempts:
        error = NEVER_ENDED.format(attempts=row["attempts"])
        return False, {**row, "state": ChunkState.FAILED.value, "error": error}
    return True, {**row, "state": ChunkState.RUNNING.value, "attempts": row["attempts"] + 1}


def reset_row(before: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger row of a failed chunk that shall be tried again."""
    changes = {"state": ChunkState.PLANNED.value, "attempts": 0, "error": None, "updated_at": datetime.now(UTC)}
    return {**before, **changes}


def handed_back_row(before: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger row of a chunk whose run gives it back: the attempt says nothing about the chunk."""
    attempts = max(before["attempts"] - 1, 0)
    return {**before, "state": ChunkState.PLANNED.value, "attempts": attempts, "updated_at": datetime.now(UTC)}


def ended_row(before: Mapping[str, Any], result: ChunkResult) -> dict[str, Any]:
    """The ledger row of a chunk once its result is committed."""
    return {
        **before,
        "state": (ChunkState.DONE if result.error is None else ChunkState.FAILED).value,
        "error": result.error,
        "rows": result.observations.num_rows,
        "frames": result.counters.get("frames", 0),
        "counters": json.dumps(result.counters, sort_keys=True),
        "timings": json.dumps(result.timings_s, sort_keys=True),
        "damaged_packets": result.counters.get("corrupt_packets", 0),
        "worker_s": result.timings_s.get("detect", 0.0) + result.timings_s.get("track", 0.0),
        "updated_at": datetime.now(UTC),
    }


def zone_rows(zones: Sequence[Zone]) -> list[dict[str, Any]]:
    """Zones and lines as they are written in JSON."""
    return [{"name": z.name, "kind": z.kind, "unit": z.unit, "points": z.points} for z in zones]


def zones_of(rows: Sequence[Mapping[str, Any]]) -> list[Zone]:
    """Read what `zone_rows` made."""
    return [Zone(row["name"], row["kind"], tuple((x, y) for x, y in row["points"]), row["unit"]) for row in rows]


def days_of(observations: pa.Table) -> pa.Array:
    """The UTC day of every observation, date32.

    Raises:
        RefusedChunkError: A time outside the years 1 to 9999, which neither store can file under a day.
    """
    days = observations["ts"].combine_chunks().cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    bounds = pc.min_max(days.cast(pa.int32())).as_py()
    first, last = (int(np.datetime64(day, "D").astype(int)) for day in ("0001-01-01", "9999-12-31"))
    if len(days) and not first <= bounds["min"] <= bounds["max"] <= last:
        raise RefusedChunkError(
            "observations must lie in the years 1 to 9999: check the video's start time (--start-time)"
        )
    return days


def check_version(found: str, where: str) -> None:
    """Raise SchemaVersionError where a store was not written in the schema this version reads."""
    if found == str(SCHEMA_VERSION):
        return
    if found.isdigit() and int(found) > SCHEMA_VERSION:
        fix = "a newer Sightflow wrote it: upgrade this one (pip install --upgrade sightflow)"
    else:
        fix = "an older Sightflow wrote it: run `sightflow db upgrade` with this store"
    raise SchemaVersionError(f"store {where} has schema version {found!r}, expected {SCHEMA_VERSION}; {fix}")


def check_upgrade(found: str, where: str) -> None:
    """Raise SchemaVersionError where no upgrade leads from what was found to the schema this version reads."""
    if not found.isdigit() or int(found) > SCHEMA_VERSION:
        check_version(found, where)
    if int(found) < 1:
        raise SchemaVersionError(f"store {where} has schema version {found!r}, from which no upgrade leads")
