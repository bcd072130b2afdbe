"""Short numbers for tracks: ids are uuids, people and file formats want 1, 2, 3."""

from __future__ import annotations

from flows.store.base import Store


def short_ids(store: Store, video_id: str) -> dict[str, int]:
    """Numbers from 1 for the tracks of a video, in order of appearance; the same in every picture and export."""
    found = store.query(
        "select track_id, min(pts_ns) as first_ns from track_observations where video_id = $video_id"
        " group by track_id order by first_ns, track_id",
        {"video_id": video_id},
    )
    return {track_id: number for number, track_id in enumerate(found["track_id"].to_pylist(), start=1)}
