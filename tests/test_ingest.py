"""Files of other programs as sources of a store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.annotations import from_store, masks_from_store, read_mot
from flows.decode import probe, read_frames
from flows.errors import UsageError
from flows.evaluate import evaluate
from flows.export import export
from flows.ingest import Given, frame_times, import_tracks, read_coco_boxes, read_mot_boxes
from flows.render import render_frames
from flows.schema import Video
from flows.store import open_store
from flows.store.base import Filter, Store
from tests.tracked import make_mask, make_store, sighting
from tests.videos import write_video

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)
SHARED = Path(__file__).parents[2] / "shared" / "data" / "mot15" / "TUD-Campus"


def _make_video(folder: Path, source: str = "theirs", **overrides: Any) -> Video:
    path = folder / "v.mp4"
    if not path.exists():
        write_video(path, **({"size": (160, 120)} | overrides))
    return probe(str(path), source, START)


def _ours(folder: Path) -> tuple[Video, Store]:
    video = _make_video(folder, "ours")
    pts = [frame.pts_ns for frame in read_frames(video)]
    rows = [
        *[sighting(video, "a", i, (10.25 + i, 20, 40 + i, 90), pts_ns=pts[i]) for i in range(20)],
        *[
            sighting(video, "b", i, (90, 10, 120, 60), pts_ns=pts[i], class_name="forklift", mask=None, state="bridged")
            for i in range(3, 8)
        ],
    ]
    return video, make_store(folder / "store", video, rows)


@pytest.mark.parametrize("name", ["mot", "mot-gt", "coco"])
def test_what_was_exported_comes_back(tmp_path: Path, name: str) -> None:
    ours, store = _ours(tmp_path)
    export(store, name, tmp_path / "out", Filter())
    given = (
        read_coco_boxes(tmp_path / "out")
        if name == "coco"
        else read_mot_boxes(tmp_path / "out", names={14: "forklift"})
    )
    theirs = _make_video(tmp_path)
    assert import_tracks(store, theirs, given) == 2
    before, after = from_store(store, ours.video_id), from_store(store, theirs.video_id)
    assert (after.frame == before.frame).all()
    assert (after.track_id == before.track_id).all()
    np.testing.assert_allclose(after.box_xyxy, before.box_xyxy, atol=0.011)
    scores = evaluate(before, after)
    assert (scores.idf1, scores.mota) == (100, 100)
    if name != "mot":  # which has no classes
        sql = "select class_name, n_observations, n_bridged from tracks where source_id = $s order by class_name"
        found = [tuple(row.values()) for row in store.query(sql, {"s": "theirs"}).to_pylist()]
        assert found == [("forklift", 5, 5), ("person", 20, 0)]
    if name == "coco":
        masks = masks_from_store(store, theirs.video_id)
        assert sorted(masks) == list(range(1, 21))
        expected = make_mask((10.25, 20, 40, 90)).full(120, 160)
        assert (masks[1][1].full(120, 160) == expected).all()


def test_imported_tracks_are_shown_on_the_frames_they_were_given_for(tmp_path: Path) -> None:
    video = _make_video(tmp_path, times_ms=[0, 40, 80, 1000, 1040, 3000])
    store = open_store(str(tmp_path / "store"))
    store.prepare()
    import_tracks(store, video, [Given(3, 1, (20, 30, 60, 100), "person")])
    changed = [
        bool((drawn.image_rgb[30:100, 20:60] != plain.image_rgb[30:100, 20:60]).any())
        for drawn, plain in zip(render_frames(store, video.video_id), read_frames(video), strict=True)
    ]
    assert changed == [False, False, False, True, False, False]
    assert frame_times(video).tolist() == [frame.pts_ns for frame in read_frames(video)]


def test_importing_again_replaces(tmp_path: Path) -> None:
    video = _make_video(tmp_path)
    with open_store(str(tmp_path / "store")) as store:
        import_tracks(store, video, [Given(i, 1, (0, 0, 9, 9), "person") for i in range(9)])
        assert import_tracks(store, video, [Given(i, n, (0, 0, 9, 9), "car") for i in range(3) for n in (4, 5)]) == 2
        found = store.query("select class_name, n_observations from tracks").to_pylist()
        assert found == 2 * [{"class_name": "car", "n_observations": 3}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([Given(30, 1, (0, 0, 9, 9), "person")], r"frame 30 \(counted from 0\) of 30 in .*--first-frame"),
        ([Given(-1, 1, (0, 0, 9, 9), "person")], r"frame -1"),
        ([Given(3, 1, (0, 0, 9, 9), "person")] * 2, r"id 1 stands twice on frame 3"),
    ],
)
def test_boxes_that_do_not_fit_the_video_are_refused(tmp_path: Path, given: list[Given], message: str) -> None:
    with open_store(str(tmp_path / "store")) as store, pytest.raises(UsageError, match=message):
        import_tracks(store, _make_video(tmp_path), given)


def test_a_source_that_was_run_is_not_overwritten(tmp_path: Path) -> None:
    video, store = _ours(tmp_path)
    with pytest.raises(UsageError, match="'ours' has tracks of this video from a run; import under another --source"):
        import_tracks(store, video, [])


def test_mot_detections_are_refused(tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("1,-1,0,0,9,9,0.5,-1,-1,-1\n")
    with pytest.raises(UsageError, match="without identities"):
        read_mot_boxes(tmp_path / "det.txt")


def _coco(**overrides: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "cam/img_000007.jpg", "width": 160, "height": 120}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 30, 40], "track_id": 9}],
        **overrides,
    }


def test_coco_of_others_is_read(tmp_path: Path) -> None:
    polygon = {"segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]], "instance_id": 2, "score": 0.5}
    counts = {"segmentation": {"size": [120, 160], "counts": [0, 120, 120 * 159]}, "track_id": 3}
    base = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 30, 40]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(_coco(annotations=[base | polygon, base | counts])))
    first, second = read_coco_boxes(path, first_frame=1)
    assert (first.frame, first.identity, first.class_name, first.confidence) == (6, 2, "car", 0.5)
    assert first.mask is not None
    assert first.mask.box_xyxy.tolist() == [10, 20, 40, 60]
    assert first.mask.area_px == 30 * 40
    assert second.mask is not None
    assert second.mask.box_xyxy.tolist() == [0, 0, 1, 120]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            _coco(annotations=[{"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}]),
            "annotation 5 has no id",
        ),
        ({"images": []}, "expected COCO annotations: KeyError"),
        (
            _coco(images=[{"id": i, "file_name": f"{i}/1.jpg", "video_id": i} for i in (1, 2)]),
            r"several videos \(1, 2\), none of them v",
        ),
    ],
)
def test_coco_that_cannot_be_meant_is_refused(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match=message):
        read_coco_boxes(path, stem="v")


@pytest.mark.skipif(not SHARED.exists(), reason="real clips with ground truth lie in shared/, which is absent")
def test_real_ground_truth_scores_perfectly_against_itself(tmp_path: Path) -> None:
    video = probe(str(SHARED / "TUD-Campus.mp4"), "truth", START)
    with open_store(str(tmp_path / "store")) as store:
        import_tracks(store, video, read_mot_boxes(SHARED / "gt.txt"))
        scores = evaluate(read_mot(SHARED / "gt.txt", ground_truth=True), from_store(store, video.video_id))
    assert (scores.hota, scores.idf1, scores.mota) == (100, 100, 100)
