from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pycocotools.coco import COCO

from flows.annotations import read_mot
from flows.errors import UsageError
from flows.export import FORMATS, export
from flows.schema import NS, Video
from flows.store.base import Filter, Store
from flows.store.parquet import ParquetStore
from flows.store.postgis import PostgisStore
from tests.tracked import make_mask, make_store, sighting

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)


def _make_video(**overrides: Any) -> Video:
    fields = {
        "uri": "/videos/gate.mp4", "content_hash": "0", "source_id": "gate", "width_px": 320, "height_px": 240,
        "fps": 10.0, "duration_s": 5.0, "codec": "h264", "container": "mp4", "start_time": START,
    }  # fmt: skip
    return Video(**(fields | overrides))


def _make(folder: Path, video: Video | None = None, rows: list[dict[str, Any]] | None = None) -> Store:
    """Two people: one on frames 2 to 9 that is hidden on the last two, one on frames 0 to 4."""
    video = video or _make_video()
    rows = rows or [
        *[sighting(video, "b", i, (10 + i, 20, 60 + i, 120)) for i in range(2, 8)],
        *[
            sighting(video, "b", i, (10 + i, 20, 60 + i, 120), state="bridged", mask=None, confidence=None)
            for i in range(8, 10)
        ],
        *[sighting(video, "a", i, (200.5, 50.25, 240.5, 130), class_name="forklift", confidence=0.5) for i in range(5)],
    ]
    return make_store(folder, video, rows)


def test_mot_is_read_by_a_mot_reader(tmp_path: Path) -> None:
    from trackers.io.mot import load_mot_file

    out = tmp_path / "out.txt"
    assert export(_make(tmp_path / "store"), "mot", out, Filter()) == 13
    frames = load_mot_file(out)
    assert sorted(frames) == list(range(1, 11))
    # "a" appears first.
    assert [sorted(frames[i].ids.tolist()) for i in (1, 3, 6)] == [[1], [1, 2], [2]]
    first = frames[1]
    assert first.boxes[0].tolist() == pytest.approx([200.5, 50.25, 40, 79.75])
    assert first.confidences[0] == pytest.approx(0.5)
    assert out.read_text().splitlines()[0] == "1,1,200.50,50.25,40.00,79.75,0.5000,-1,-1,-1"
    assert len(read_mot(out)) == 13


def test_mot_numbers_do_not_depend_on_the_filter(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    export(_make(tmp_path / "store"), "mot", out, Filter(class_names=("person",)))
    assert {line.split(",")[1] for line in out.read_text().splitlines()} == {"2"}


def test_mot_has_one_box_where_frames_share_a_number(tmp_path: Path) -> None:
    video = _make_video()
    rows = [sighting(video, "a", 3, (i, 0, i + 10, 10), pts_ns=3 * NS // 10 + i) for i in range(3)]
    out = tmp_path / "out.txt"
    assert export(_make(tmp_path / "store", video, rows), "mot", out, Filter()) == 1
    assert out.read_text().startswith("4,1,2.00,")


def test_mot_of_several_videos_names_them(tmp_path: Path) -> None:
    store = _make(tmp_path / "store")
    second = _make_video(uri="/videos/yard.mp4", source_id="yard", content_hash="1")
    make_store(tmp_path / "store", second, [sighting(second, "c", 0, (0, 0, 5, 5))], store)
    out = tmp_path / "out.txt"
    with pytest.raises(
        UsageError, match=r"(?s)one video a file; choose one of 2:.*/videos/gate\.mp4.*/videos/yard\.mp4"
    ):
        export(store, "mot", out, Filter())
    assert not out.exists()
    assert export(store, "mot", out, Filter(source_id="yard")) == 1
    assert export(store, "mot", out, Filter(video_id=second.video_id)) == 1


def test_csv_is_read_by_a_csv_reader(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert export(_make(tmp_path / "store"), "csv", out, Filter()) == 13
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert "mask" not in rows[0]
    first = rows[0]
    assert (first["class_name"], first["state"], first["frame"]) == ("forklift", "detected", "0")
    assert float(first["x1_px"]) == 200.5
    assert datetime.fromisoformat(first["ts"]) == START
    assert {row["confidence"] for row in rows if row["state"] == "bridged"} == {""}
    assert len({row["track_id"] for row in rows}) == 2


def test_geojson_is_read_by_shapely(tmp_path: Path) -> None:
    out = tmp_path / "out.geojson"
    assert export(_make(tmp_path / "store"), "geojson", out, Filter()) == 2
    document = json.loads(out.read_text())
    shapes = shapely.from_geojson(out.read_text())
    assert len(shapes.geoms) == 2
    by_class = {feature["properties"]["class_name"]: feature for feature in document["features"]}
    walker = by_class["person"]
    assert shapely.geometry.shape(walker["geometry"]).length == pytest.approx(7)
    assert walker["geometry"]["coordinates"][0] == [37, 120]
    assert walker["properties"]["coordinates"] == "pixels, y down"
    assert walker["properties"]["seconds"] == pytest.approx([i / 10 for i in range(8)])
    assert walker["properties"]["t0"] == "2026-05-01T08:30:00.200000+00:00"
    assert walker["properties"]["inferred_share"] == 0.25


def test_geojson_is_in_metres_where_all_points_are(tmp_path: Path) -> None:
    video = _make_video()
    rows = [
        *[sighting(video, "a", i, (0, 0, 9, 9), x_m=0.5 * i, y_m=7.0) for i in range(3)],
        *[sighting(video, "b", i, (0, 0, 9, 9), **({} if i else {"x_m": 1.0, "y_m": 1.0})) for i in range(3)],
        sighting(video, "c", 1, (0, 0, 9, 9)),
    ]
    out = tmp_path / "out.geojson"
    assert export(_make(tmp_path / "store", video, rows), "geojson", out, Filter()) == 3
    features = json.loads(out.read_text())["features"]
    geometries = [feature["geometry"] for feature in features]
    assert {"type": "LineString", "coordinates": [[0.0, 7.0], [0.5, 7.0], [1.0, 7.0]]} in geometries
    assert {"type": "Point", "coordinates": [4.5, 9.0]} in geometries
    units = sorted(feature["properties"]["coordinates"] for feature in features)
    assert units == ["metres of the source's ground plane", "pixels, y down", "pixels, y down"]


def test_geojson_of_more_tracks_than_one_pass(tmp_path: Path) -> None:
    video = _make_video()
    rows = [sighting(video, f"t{i}", i % 40, (i, 0, i + 5, 5), mask=None) for i in range(600)]
    out = tmp_path / "out.geojson"
    assert export(_make(tmp_path / "store", video, rows), "geojson", out, Filter()) == 600
    assert len({feature["id"] for feature in json.loads(out.read_text())["features"]}) == 600


def test_coco_is_read_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert export(_make(tmp_path / "store"), "coco", out, Filter()) == 13
    coco = COCO(str(out))
    assert {category["name"] for category in coco.loadCats(coco.getCatIds())} == {"person", "forklift"}
    assert len(coco.getImgIds()) == 10
    assert len({image["file_name"] for image in coco.loadImgs(coco.getImgIds())}) == 10
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len({annotation["track_id"] for annotation in annotations}) == 2
    walker = next(a for a in annotations if a["bbox"][:2] == [12, 20])
    expected = make_mask((12, 20, 62, 120)).full(240, 320)
    assert (coco.annToMask(walker).astype(bool) == expected).all()
    assert walker["area"] == expected.sum()
    assert walker["bbox"] == [12, 20, 50, 100]
    hidden = [a for a in annotations if a["state"] == "bridged"]
    assert len(hidden) == 2
    assert not any("segmentation" in a for a in hidden)
    capsys.readouterr()  # pycocotools prints


@pytest.mark.parametrize("name", FORMATS)
def test_a_filter_that_matches_nothing_writes_a_valid_file(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert export(_make(tmp_path / "store"), name, out, Filter(class_names=("giraffe",))) == 0
    text = out.read_text()
    if name in ("geojson", "coco"):
        assert json.loads(text)
    else:
        assert len(text.splitlines()) == (1 if name == "csv" else 0)


def test_an_unknown_format_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown export format 'kml'; known are coco, csv, geojson, mot"):
        export(_make(tmp_path / "store"), "kml", tmp_path / "out.kml", Filter())


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    store = _make(tmp_path / "store")
    out = tmp_path / "out.txt"
    out.write_text("old")
    second = _make_video(content_hash="1", uri="/videos/b.mp4")
    make_store(tmp_path / "store", second, [sighting(second, "c", 0, (0, 0, 5, 5))], store)
    with pytest.raises(UsageError):
        export(store, "mot", out, Filter())
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "store"]
    with pytest.raises(UsageError, match="expected a file name, got a folder"):
        export(store, "csv", tmp_path / "store", Filter())


def test_boxes_survive_mot(tmp_path: Path) -> None:
    video = _make_video()
    corners = np.random.default_rng(0).uniform(-50, 400, (200, 2, 2))
    boxes_xyxy = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    rows = [sighting(video, "a", i, box, mask=None) for i, box in enumerate(boxes_xyxy)]
    export(_make(tmp_path / "store", video, rows), "mot", tmp_path / "out.txt", Filter())
    found = read_mot(tmp_path / "out.txt")
    assert found.frame.tolist() == list(range(1, 201))
    np.testing.assert_allclose(found.box_xyxy, boxes_xyxy, atol=0.011)


def test_both_stores_export_the_same(tmp_path: Path, postgis_database: str) -> None:
    folder, server = ParquetStore(str(tmp_path / "store")), PostgisStore(postgis_database)
    video = _make_video()
    rows = [sighting(video, "a", i, (10.5 + i, 20, 60 + i, 120), x_m=i / 3, y_m=2.0) for i in range(5)]
    for store in (folder, server):
        make_store(tmp_path, video, rows, store)
    for name in FORMATS:
        written = []
        for store in (folder, server):
            export(store, name, tmp_path / "out", Filter())
            written.append((tmp_path / "out").read_text())
        assert written[0] == written[1], name
    server.close()
