"""A small store as a run leaves it: two cameras, people and a vehicle, a failed chunk, zones, events, a calibration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from flows.calibrate import fit_homography
from flows.events import recompute_events
from flows.schema import OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, Video, make_id
from flows.store import Store, Zone

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
FPS, FRAMES = 10, 200
ERROR = "yard.mp4: no frame could be decoded after 20 s: the file is truncated"

# Per track: class, first and last frame, and the path's two ends in pixels.
PATHS = (
    ("person", 0, 120, (30, 200), (600, 260)),
    ("person", 40, 199, (600, 330), (60, 150)),
    ("vehicle", 20, 180, (320, 120), (340, 350)),
    ("person", 90, 140, (500, 340), (520, 200)),
)


def fill(store: Store) -> None:
    """Write it."""
    for source_id in ("gate", "yard"):
        video = make_source_video(source_id)
        chunks = [Chunk(video, i, i * 20 * 10**9, (i + 1) * 20 * 10**9, 0, "settings") for i in range(2)]
        store.add_video(video)
        store.plan(chunks)
        for chunk in chunks:
            store.begin(chunk, 3)
        result = _result(chunks[0])
        store.commit(result)
        store.commit(ChunkResult.failed(chunks[1], ERROR))
        tracklets = result.tracklets["tracklet_id"].to_pylist()
        links = [
            {
                "tracklet_id": tracklet_id,
                "track_id": make_id("track", tracklet_id),
                "source_id": source_id,
                "version": 1,
                "score": None,
                "reason": "start",
            }
            for tracklet_id in tracklets
        ]
        store.write_links(source_id, 1, pa.Table.from_pylist(links, schema=TRACK_LINKS))
    store.write_zones(
        "gate",
        [
            Zone("entrance", "zone", ((20, 150), (200, 150), (200, 300), (20, 300))),
            Zone("kerb", "line", ((300, 100), (300, 360))),
        ],
    )
    corners_px = np.array([[0, 100], [640, 100], [640, 360], [0, 360.0]])
    corners_m = np.array([[-20, 40], [20, 40], [5, 8], [-5, 8.0]])
    store.write_calibration("gate", fit_homography(corners_px, corners_m).to_json())
    recompute_events(store, "gate")


def make_source_video(source_id: str) -> Video:
    """Forty seconds of a camera; no such file is there."""
    return Video(
        f"{source_id}.mp4", f"hash-{source_id}", source_id, 640, 360, FPS, 40.0, "h264", "mp4", start_time=START
    )


def _result(chunk: Chunk) -> ChunkResult:
    observations, tracklets = [], []
    for number, (class_name, first, last, begin, end) in enumerate(PATHS):
        tracklet_id = make_id("tracklet", chunk.chunk_id, number)
        ids = {
            "source_id": chunk.video.source_id,
            "video_id": chunk.video.video_id,
            "chunk_id": chunk.chunk_id,
            "tracklet_id": tracklet_id,
            "class_name": class_name,
        }
        frames = range(first, last + 1)
        seen = [_observation(chunk, ids, f, np.interp(f, [first, last], [0, 1]), begin, end) for f in frames]
        observations += seen
        times = [row["pts_ns"] for row in seen]
        tracklets.append(
            ids
            | {
                "class_share": 1.0,
                "confidence": 0.9,
                "t0": chunk.video.time_at(times[0]),
                "t1": chunk.video.time_at(times[-1]),
                "pts0_ns": times[0],
                "pts1_ns": times[-1],
                "n_observations": len(seen),
                "n_detected": sum(row["state"] == "detected" for row in seen),
                "n_bridged": sum(row["state"] == "bridged" for row in seen),
            }
            | {name: [] for name in ("head_pts_ns", "head_xyxy_px", "tail_pts_ns", "tail_xyxy_px", "appearance")}
        )
    return ChunkResult(
        chunk,
        pa.Table.from_pylist(observations, schema=OBSERVATIONS),
        pa.Table.from_pylist(tracklets, schema=TRACKLETS),
        counters={"frames": FRAMES},
    )


def _observation(
    chunk: Chunk, ids: dict[str, Any], frame: int, share: float, begin: tuple[int, int], end: tuple[int, int]
) -> dict[str, Any]:
    x, y = np.array(begin) + share * (np.array(end) - np.array(begin)) + [0, 6 * np.sin(frame / 8)]
    pts_ns = frame * 10**9 // FPS
    state = "detected" if frame % 15 == 0 else "bridged" if 60 <= frame < 75 else "propagated"
    return ids | {
        "ts": chunk.video.time_at(pts_ns),
        "pts_ns": pts_ns,
        "frame": frame,
        "state": state,
        "x1_px": x - 15,
        "y1_px": y - 60,
        "x2_px": x + 15,
        "y2_px": y,
        "x_px": x,
        "y_px": y,
        "confidence": 0.9 if state == "detected" else None,
        "object_score": None if state == "bridged" else 5.0,
    }
