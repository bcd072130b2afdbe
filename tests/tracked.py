"""Stores with hand-made tracks, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows.mask import Mask
from flows.schema import (
    NS,
    OBSERVATIONS,
    TRACK_LINKS,
    TRACKLETS,
    Chunk,
    ChunkResult,
    State,
    Video,
    make_id,
)  # fmt: skip
from flows.store.base import Store
from flows.store.parquet import ParquetStore


def make_mask(box_xyxy: Iterable[float]) -> Mask:
    """The ellipse inside a box."""
    x1, y1, x2, y2 = (round(value) for value in box_xyxy)
    y, x = np.mgrid[0 : max(y2 - y1, 1), 0 : max(x2 - x1, 1)]
    height, width = y.shape
    inside = ((x + 0.5) / width - 0.5) ** 2 + ((y + 0.5) / height - 0.5) ** 2 <= 0.25
    return Mask(x1, y1, inside)


def sighting(video: Video, track: str, number: int, box_xyxy: Iterable[float], **overrides: Any) -> dict[str, Any]:
    """One observation of a track (a name of the test's own) on frame `number`."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    pts_ns = overrides.pop("pts_ns", round(number * NS / video.fps))
    row = {
        "source_id": video.source_id, "video_id": video.video_id, "tracklet_id": make_id("tracklet", track),
        "ts": video.time_at(pts_ns), "pts_ns": pts_ns, "frame": number, "class_name": "person",
        "state": State.DETECTED.value, "x1_px": x1, "y1_px": y1, "x2_px": x2, "y2_px": y2,
        "x_px": (x1 + x2) / 2, "y_px": y2, "confidence": 0.9, "mask": make_mask((x1, y1, x2, y2)).to_bytes(),
    }  # fmt: skip
    return row | overrides


def make_store(folder: Path, video: Video, rows: list[dict[str, Any]], store: Store | None = None) -> Store:
    """A prepared store (a Parquet folder, if not given) holding these observations of one video, one chunk."""
    store = store or ParquetStore(str(folder))
    store.prepare()
    store.add_video(video)
    chunk = Chunk(video, 0, 0, round(video.duration_s * NS) + NS, 0, "test")
    rows = sorted((row | {"chunk_id": chunk.chunk_id} for row in rows), key=lambda row: row["pts_ns"])
    by_tracklet: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_tracklet.setdefault(row["tracklet_id"], []).append(row)
    tracklets = [
        {
            "tracklet_id": tracklet_id, "chunk_id": chunk.chunk_id, "video_id": video.video_id,
            "source_id": video.source_id, "class_name": seen[0]["class_name"], "class_share": 1.0, "confidence": 0.9,
            "t0": seen[0]["ts"], "t1": seen[-1]["ts"], "pts0_ns": seen[0]["pts_ns"], "pts1_ns": seen[-1]["pts_ns"],
            "n_observations": len(seen), "n_detected": len(seen), "n_bridged": 0, "head_pts_ns": [],
            "head_xyxy_px": [], "tail_pts_ns": [], "tail_xyxy_px": [], "appearance": [],
        }
        for tracklet_id, seen in by_tracklet.items()
    ]  # fmt: skip
    links = [
        {
            "tracklet_id": tracklet_id, "track_id": make_id("track", tracklet_id), "source_id": video.source_id,
            "version": 1, "score": None, "reason": "start",
        }
        for tracklet_id in by_tracklet
    ]  # fmt: skip
    store.plan([chunk])
    assert store.begin(chunk, max_attempts=1)
    store.commit(
        ChunkResult(
            chunk,
            pa.Table.from_pylist(rows, schema=OBSERVATIONS),
            pa.Table.from_pylist(
                [{name: row.get(name) for name in TRACKLETS.names} for row in tracklets], schema=TRACKLETS
            ),
        )
    )
    store.write_links(video.source_id, 1, pa.Table.from_pylist(links, schema=TRACK_LINKS))
    return store
