"""Reading boxes and masks with identities."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.annotations import from_store, masks_from_store, read_mot
from flows.errors import UsageError
from flows.mask import Mask
from flows.schema import NS, OBSERVATIONS, TRACK_LINKS, TRACKLETS, Chunk, ChunkResult, Video
from flows.store import open_store


def test_a_mot_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("2,7,10,20,30,40,1,1,0.5\n1,7,11,20,30,40,1,1,1\n\n1,8,1,1,5,5,0,1,1\n1,9,1,1,5,5,1,3,1\n")
    truth = read_mot(path, ground_truth=True)
    assert truth.frame.tolist() == [1, 1, 2]
    assert truth.track_id.tolist() == [7, 9, 7]
    assert truth.box_xyxy[2].tolist() == [10, 20, 40, 60]
    assert read_mot(path).track_id.tolist() == [7, 8, 9, 7]
    assert read_mot(path).scored.all()
    assert read_mot(path, ground_truth=True, classes=[1]).track_id.tolist() == [7, 7]
    marked = read_mot(path, ground_truth=True, unscored=True)
    assert marked.track_id.tolist() == [7, 8, 9, 7]
    assert marked.scored.tolist() == [True, False, True, True]


def test_an_empty_result_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "result.txt").write_text("")
    assert len(read_mot(tmp_path / "result.txt")) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("1,2,3\n", "at least 7 columns, got 3"),
        ("1,2,3,4,5,6,7\n1,2\n", "expected MOT rows"),
        ("one,2,3,4,5,6,7\n", "expected MOT rows.*one"),
        ("1,2,3,4,5,6,1\n1,2,3,4,5,6,1\n", "id 2 stands twice in frame 1"),
    ],
)
def test_a_file_that_is_no_mot_file_is_told_so(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "gt.txt").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_mot(tmp_path / "gt.txt")


def _rows(video: Video, chunk: Chunk, frames: range, tracklet_id: str, mask: Mask | None) -> list[dict[str, object]]:
    return [
        {
            "source_id": "door", "video_id": video.video_id, "chunk_id": chunk.chunk_id, "tracklet_id": tracklet_id,
            "ts": video.time_at(frame * NS // 10), "pts_ns": frame * NS // 10, "frame": frame, "class_name": "person",
            "state": "detected", "x1_px": 10.0 + frame, "y1_px": 20.0, "x2_px": 30.0 + frame, "y2_px": 60.0,
            "x_px": 20.0 + frame, "y_px": 60.0, "mask": mask.to_bytes() if mask else None,
        }
        for frame in frames
    ]  # fmt: skip


def _tracklet(video: Video, chunk: Chunk, tracklet_id: str) -> dict[str, object]:
    t0 = datetime(2026, 1, 1, tzinfo=UTC)
    empty: list[float] = []
    return {
        "tracklet_id": tracklet_id, "chunk_id": chunk.chunk_id, "video_id": video.video_id, "source_id": "door",
        "class_name": "person", "class_share": 1.0, "confidence": 0.9, "t0": t0, "t1": t0, "pts0_ns": 0, "pts1_ns": NS,
        "n_observations": 3, "n_detected": 3, "n_bridged": 0, "head_pts_ns": empty, "head_xyxy_px": empty,
        "tail_pts_ns": empty, "tail_xyxy_px": empty, "appearance": empty,
    }  # fmt: skip


def test_tracks_come_out_of_a_store_in_mot_numbering(tmp_path: Path) -> None:
    video = Video(
        "a.mp4", "hash", "door", 640, 480, 10.0, 1.0, "h264", "mp4", start_time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    chunk = Chunk(video, 0, 0, NS, 0, "settings")
    mask = Mask(3, 4, np.eye(5, dtype=np.bool_))
    rows = _rows(video, chunk, range(3), "p", mask) + _rows(video, chunk, range(1, 3), "q", None)
    links = [
        {
            "tracklet_id": t,
            "track_id": f"track-{t}",
            "source_id": "door",
            "version": 1,
            "score": None,
            "reason": "start",
        }
        for t in ("p", "q")
    ]
    tracklets = [_tracklet(video, chunk, t) for t in ("p", "q")]
    with open_store(str(tmp_path / "data")) as store:
        store.add_video(video)
        store.plan([chunk])
        observations = pa.Table.from_pylist(rows, schema=OBSERVATIONS)
        store.commit(ChunkResult(chunk, observations, pa.Table.from_pylist(tracklets, schema=TRACKLETS)))
        store.write_links("door", 1, pa.Table.from_pylist(links, schema=TRACK_LINKS))
        tracks = from_store(store, video.video_id)
        masks = masks_from_store(store, video.video_id)
        assert len(from_store(store, video.video_id, ["person"])) == 5
        with pytest.raises(UsageError, match=r"no tracks of video .* and car"):
            from_store(store, video.video_id, ["car"])
        with pytest.raises(UsageError, match="no tracks of video nothing"):
            from_store(store, "nothing")
    assert tracks.frame.tolist() == [1, 2, 2, 3, 3]
    assert tracks.track_id.tolist() == [1, 1, 2, 1, 2]
    assert tracks.box_xyxy[0].tolist() == [10, 20, 30, 60]
    assert {frame: set(by_id) for frame, by_id in masks.items()} == {1: {1}, 2: {1}, 3: {1}}
    np.testing.assert_array_equal(masks[1][1].crop, mask.crop)


def test_frames_that_share_a_number_are_taken_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = Video(
        "a.mp4", "hash", "door", 640, 480, 10.0, 1.0, "h264", "mp4", start_time=datetime(2026, 1, 1, tzinfo=UTC)
    )
    chunk = Chunk(video, 0, 0, NS, 0, "settings")
    rows = _rows(video, chunk, range(3), "p", None)
    rows[2] |= {"frame": 1}
    link = {"tracklet_id": "p", "track_id": "p", "source_id": "door", "version": 1, "score": None, "reason": "start"}
    with open_store(str(tmp_path / "data")) as store:
        store.add_video(video)
        store.plan([chunk])
        tracklets = pa.Table.from_pylist([_tracklet(video, chunk, "p")], schema=TRACKLETS)
        store.commit(ChunkResult(chunk, pa.Table.from_pylist(rows, schema=OBSERVATIONS), tracklets))
        store.write_links("door", 1, pa.Table.from_pylist([link], schema=TRACK_LINKS))
        tracks = from_store(store, video.video_id)
    assert tracks.frame.tolist() == [1, 2]
    assert tracks.box_xyxy[1, 0] == 12  # the later of the two
    assert "1 observations share a frame number" in caplog.text
