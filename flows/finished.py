"""The ledger -> which chunks of a source its tracks are made of, and which are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from flows.schema import NS, ChunkState
from flows.store import Store


def current_chunks(store: Store, source_id: str, video_id: str | None = None) -> list[dict[str, Any]]:
    """Done chunks of a source or of one of its videos, in order; of several settings only those of the newest.

    Both sets of tracklets describe the same objects, and linking both would count each twice.
    """
    done = [row for row in _ledger(store, source_id, video_id) if row["state"] == ChunkState.DONE]
    newest = {row["video_id"]: row["settings_hash"] for row in sorted(done, key=lambda row: row["updated_at"])}
    current = [row for row in done if row["settings_hash"] == newest[row["video_id"]]]
    return sorted(current, key=lambda row: (row["video_id"], row["start_ns"]))


def missing_chunks(store: Store, source_id: str) -> list[dict[str, Any]]:
    """Ledger rows of a source's chunks that are not done, now or by an earlier run: tracks end where they begin."""
    done = {(row["video_id"], row["start_ns"]) for row in current_chunks(store, source_id)}
    return [
        row
        for row in _ledger(store, source_id)
        if row["end_ns"] > row["start_ns"]  # a video that could not be read has no extent
        and row["state"] != ChunkState.DONE
        and (row["video_id"], row["start_ns"]) not in done
    ]


def borders(chunks: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of neighbouring chunks (earlier, later) of one video."""
    return [
        (a["chunk_id"], b["chunk_id"])
        for a, b in pairwise(chunks)
        if (a["video_id"], a["end_ns"]) == (b["video_id"], b["start_ns"])
    ]


def border_frames(store: Store, video: str) -> list[int]:
    """MOT's numbers (from 1) of the first frame of every finished chunk of a video, by its id, but the first."""
    known = store.query("select source_id, fps from videos where video_id = $video", {"video": video}).to_pylist()[0]
    starts = [chunk["start_ns"] for chunk in current_chunks(store, known["source_id"], video)]
    # A frame at the very time of a border, to the nanosecond, belongs to the chunk behind it.
    return [math.ceil((start - 1) * known["fps"] / NS) + 1 for start in starts if start > 0]


def _ledger(store: Store, source_id: str, video_id: str | None = None) -> list[dict[str, Any]]:
    """Ledger rows of a source or one of its videos; those of others may be a million."""
    one = "" if video_id is None else " and video_id = $video_id"
    sql = f"select * from chunks where source_id = $source_id{one} order by video_id, start_ns, chunk_id"
    parameters = {"source_id": source_id} if video_id is None else {"source_id": source_id, "video_id": video_id}
    rows: list[dict[str, Any]] = store.query(sql, parameters).to_pylist()
    return rows
