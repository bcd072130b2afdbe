"""Builders of chunks and results for tests of stores."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from flows.schema import EVENTS, NS, OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, State, Video, make_id

START = datetime(2026, 3, 1, 23, 59, 0, tzinfo=UTC)
CHUNK_S = 60


def make_video(**overrides: Any) -> Video:
    fields = {
        "uri": "gate.mp4",
        "content_hash": "abc",
        "source_id": "gate",
        "width_px": 640,
        "height_px": 480,
        "fps": 25.0,
        "duration_s": 600.0,
        "codec": "h264",
        "container": "mp4",
        "start_time": START,
    }
    return Video(**{**fields, **overrides})


def make_chunk(index: int = 0, **overrides: Any) -> Chunk:
    """A minute of video; chunk 0 ends at midnight, and `make_result` with more rows than 60 runs past it."""
    video = make_video(**overrides)
    return Chunk(video, index, index * CHUNK_S * NS, (index + 1) * CHUNK_S * NS, NS, "settings")


def make_observation(chunk: Chunk, second: float = 0.0, **overrides: Any) -> dict[str, Any]:
    pts_ns = chunk.start_ns + int(second * NS)
    return {
        "source_id": chunk.video.source_id,
        "video_id": chunk.video.video_id,
        "chunk_id": chunk.chunk_id,
        "tracklet_id": make_id("tracklet", chunk.chunk_id, 0),
        "ts": chunk.video.time_at(pts_ns),
        "pts_ns": pts_ns,
        "frame": int(second * 25),
        "class_name": "person",
        "state": State.PROPAGATED.value,
        **{"x1_px": 10.0, "y1_px": 20.0, "x2_px": 30.0, "y2_px": 60.0, "x_px": 20.0, "y_px": 60.0},
        **dict.fromkeys(("confidence", "object_score", "area_px", "x_m", "y_m", "sigma_m", "mask")),
        **overrides,
    }


def make_tracklet(chunk: Chunk, observations: list[dict[str, Any]], **overrides: Any) -> dict[str, Any]:
    times, pts = [o["ts"] for o in observations], [o["pts_ns"] for o in observations]
    fields = {
        "tracklet_id": observations[0]["tracklet_id"],
        "chunk_id": chunk.chunk_id,
        "video_id": chunk.video.video_id,
        "source_id": chunk.video.source_id,
        "class_name": observations[0]["class_name"],
        "class_share": 1.0,
        "confidence": 0.75,
        "t0": min(times),
        "t1": max(times),
        "pts0_ns": min(pts),
        "pts1_ns": max(pts),
        "n_observations": len(observations),
        "n_detected": sum(o["state"] == State.DETECTED for o in observations),
        "n_bridged": sum(o["state"] == State.BRIDGED for o in observations),
        "head_pts_ns": [min(pts)],
        "head_xyxy_px": [1.0, 2.0, 3.5, 4.25],
        "tail_pts_ns": [],
        "tail_xyxy_px": [],
        "appearance": [0.5, -0.1],
    }
    return {**fields, **overrides}


def make_result(chunk: Chunk, n_rows: int = 90, class_name: str = "person", mark: str | None = None) -> ChunkResult:
    """One object seen once a second; `mark` is written into every mask, to tell commits apart."""
    rows = [
        make_observation(chunk, second, class_name=class_name, mask=mark.encode() if mark else None)
        for second in range(n_rows)
    ]
    tracklets = [make_tracklet(chunk, rows)] if rows else []
    return ChunkResult(
        chunk,
        pa.Table.from_pylist(rows, OBSERVATIONS),
        pa.Table.from_pylist(tracklets, TRACKLETS),
        counters={"frames": n_rows},
        timings_s={"track": 1.5},
    )


def make_links(source_id: str, tracks: dict[str, str], version: int = 1) -> pa.Table:
    """Links of tracklet ids to track ids."""
    rows = [
        {
            "tracklet_id": tracklet,
            "track_id": track,
            "source_id": source_id,
            "version": version,
            "score": None if index else 0.5,
            "reason": "overlap" if index else "start",
        }
        for index, (tracklet, track) in enumerate(sorted(tracks.items()))
    ]
    return pa.Table.from_pylist(rows, TRACK_LINKS)


def make_event(**overrides: Any) -> dict[str, Any]:
    fields = {
        "source_id": "gate",
        "track_id": "track",
        "class_name": "person",
        "kind": "visit",
        "zone": "yard",
        "ts": START,
        "duration_s": 2.5,
        "direction": None,
        "inferred": False,
        **overrides,
    }
    return {"event_id": make_id(*fields.values()), **fields}


def make_events(*events: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(events), EVENTS)
