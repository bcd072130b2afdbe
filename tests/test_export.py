from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import geopandas
import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
import xmlschema
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from flows import outlines
from flows.annotations import read_mot
from flows.decode import probe, read_frames
from flows.errors import UsageError
from flows.export import FORMATS, export
from flows.export.cvat import _keyframes
from flows.export.selection import tracklet_rows
from flows.georeference import Calibration
from flows.mask import Mask
from flows.schema import NS, Video
from flows.store.base import Filter, Store
from flows.store.parquet import ParquetStore
from flows.store.postgis import PostgisStore
from tests.tracked import make_mask, make_store, sighting
from tests.videos import write_video

START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)

_DATETIMES = {"type": "array", "items": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}}
MF_JSON = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "crs": {"type": "object", "required": ["type", "properties"]},
        "trs": {"type": "object", "required": ["type", "properties"]},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "temporalGeometry", "properties"],
                "properties": {
                    "type": {"const": "Feature"},
                    "temporalGeometry": {
                        "type": "object",
                        "required": ["type", "datetimes", "coordinates"],
                        "properties": {
                            "type": {"const": "MovingPoint"},
                            "datetimes": _DATETIMES | {"minItems": 1, "uniqueItems": True},
                            "coordinates": {"type": "array", "items": {"items": {"type": "number"}, "minItems": 2}},
                            "interpolation": {"enum": ["Discrete", "Step", "Linear", "Quadratic", "Cubic"]},
                        },
                    },
                    "temporalProperties": {
                        "type": "array",
                        "items": {
                            "required": ["datetimes"],
                            "properties": {"datetimes": _DATETIMES},
                            "additionalProperties": {
                                "type": "object",
                                "required": ["type", "values"],
                                "properties": {"type": {"enum": ["Measure", "Text", "Image"]}},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What OGC 19-045r3 demands of a collection of moving points, sections 7.2 and 7.3."""


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
        UsageError, match=r"(?s)one video a file; choose one of 2 with --video:.*/videos/gate\.mp4.*/videos/yard\.mp4"
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


def test_geojson_is_in_metres_where_the_source_is_calibrated(tmp_path: Path) -> None:
    video = _make_video()
    rows = [
        *[sighting(video, "a", i, (0, 0, 9, 9), x_m=0.5 * i, y_m=7.0) for i in range(3)],
        *[sighting(video, "b", i, (0, 0, 9, 9), **({} if i else {"x_m": 1.0, "y_m": 1.0})) for i in range(3)],
        sighting(video, "c", 1, (0, 0, 9, 9)),
    ]
    store = _make(tmp_path / "store", video, rows)
    store.write_calibration("gate", _calibration(None))
    out = tmp_path / "out.geojson"
    assert export(store, "geojson", out, Filter()) == 3
    features = json.loads(out.read_text())["features"]
    found = {feature["properties"]["n_unplaced"]: feature["geometry"] for feature in features}
    assert found == {
        0: {"type": "LineString", "coordinates": [[0.0, 7.0], [0.5, 7.0], [1.0, 7.0]]},
        2: {"type": "Point", "coordinates": [1.0, 1.0]},
        1: None,
    }
    assert {feature["properties"]["coordinates"] for feature in features} == {"metres of the source's ground plane"}


def _calibration(origin_lonlat: tuple[float, float] | None) -> str:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    return Calibration(np.eye(3), points, points, np.ones(4, bool), 0.1, origin_lonlat).to_json()


def _make_placed(folder: Path, origin_lonlat: tuple[float, float] | None = (11.58, 48.14)) -> Store:
    """One walks a metre a frame to the east for five frames, one stands for a frame a metre north."""
    video = _make_video()
    rows = [
        *[sighting(video, "a", i, (0, 0, 9, 9), x_m=float(i), y_m=0.0) for i in range(5)],
        sighting(video, "b", 2, (0, 0, 9, 9), x_m=0.0, y_m=1.0, state="bridged", class_name="car"),
    ]
    store = _make(folder, video, rows)
    store.write_calibration("gate", _calibration(origin_lonlat))
    return store


def _metres_from(origin_lonlat: tuple[float, float], lonlat: Iterable[float]) -> float:
    return float(pyproj.Geod(ellps="WGS84").inv(*origin_lonlat, *lonlat)[2])


def test_geojson_is_in_longitude_and_latitude_where_the_source_is_placed_on_earth(tmp_path: Path) -> None:
    out = tmp_path / "out.geojson"
    export(_make_placed(tmp_path / "store"), "geojson", out, Filter(class_names=("person",)))
    (walker,) = json.loads(out.read_text())["features"]
    assert walker["properties"]["coordinates"] == "longitude and latitude, WGS 84"
    far = [_metres_from((11.58, 48.14), point) for point in walker["geometry"]["coordinates"]]
    assert far == pytest.approx(range(5), abs=0.002)


def test_geojson_points_are_read_by_shapely(tmp_path: Path) -> None:
    out = tmp_path / "out.geojson"
    assert export(_make(tmp_path / "store"), "geojson-points", out, Filter(class_names=("person",))) == 8
    assert [point.x for point in shapely.from_geojson(out.read_text()).geoms] == [37 + i for i in range(8)]


def test_geoparquet_is_read_by_geopandas(tmp_path: Path) -> None:
    store = _make_placed(tmp_path / "store")
    assert export(store, "geoparquet", tmp_path / "ways.parquet", Filter()) == 2
    ways = geopandas.read_parquet(tmp_path / "ways.parquet").set_index("class_name")
    assert ways.crs.to_string() == "OGC:CRS84"
    line = ways.geometry["person"]
    assert _metres_from((11.58, 48.14), line.coords[-1]) == pytest.approx(4, abs=0.002)
    since_start = np.array(ways["times"]["person"]) - np.datetime64(START.replace(tzinfo=None))
    assert (since_start == np.arange(5) * np.timedelta64(100, "ms")).all()
    assert ways["inferred_share"].to_dict() == {"person": 0, "car": 1}
    assert ways.geometry["car"].geom_type == "Point"
    assert export(store, "geoparquet-points", tmp_path / "points.parquet", Filter()) == 6
    points = geopandas.read_parquet(tmp_path / "points.parquet")
    assert set(points.geometry.geom_type) == {"Point"}
    assert points["track_id"].nunique() == 2


def test_geoparquet_has_no_reference_system_where_nobody_knows_it(tmp_path: Path) -> None:
    export(_make_placed(tmp_path / "store", None), "geoparquet", tmp_path / "out.parquet", Filter())
    table = pq.read_table(tmp_path / "out.parquet")
    meta = json.loads(table.schema.metadata[b"geo"])
    assert meta["columns"]["geometry"]["crs"] is None
    lines = shapely.from_wkb(table["geometry"].to_pylist())
    assert sorted(line.length for line in lines) == [0, 4]


def test_mf_json_follows_the_standard(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert export(_make_placed(tmp_path / "store"), "mf-json", out, Filter()) == 2
    document = json.loads(out.read_text())
    jsonschema.validate(document, MF_JSON)
    walker = next(f for f in document["features"] if f["properties"]["class_name"] == "person")
    assert walker["temporalGeometry"]["datetimes"][:2] == ["2026-05-01T08:30:00.000000Z", "2026-05-01T08:30:00.100000Z"]


# Its own use of pandas.
@pytest.mark.filterwarnings("ignore")
def test_mf_json_is_read_by_movingpandas(tmp_path: Path) -> None:
    import movingpandas

    out = tmp_path / "out.json"
    export(_make_placed(tmp_path / "store"), "mf-json", out, Filter(class_names=("person",)))
    found = movingpandas.read_mf_json(str(out), traj_id_property="track_id")
    (walker,) = found.trajectories
    assert walker.get_length() == pytest.approx(4, abs=0.01)
    assert walker.get_duration().total_seconds() == pytest.approx(0.4)


def test_cvat_follows_its_schema_and_interpolates_to_what_is_stored(tmp_path: Path) -> None:
    out = tmp_path / "out.xml"
    assert export(_make(tmp_path / "store"), "cvat", out, Filter()) == 13
    root = ElementTree.parse(out).getroot()
    tracks = {track.get("label"): track for track in root.findall("track")}
    assert [label.text for label in root.findall("meta/task/labels/label/name")] == ["forklift", "person"]
    boxes = [box.attrib for box in tracks["person"].findall("box")]
    assert [int(box["frame"]) for box in boxes] == list(range(2, 11))
    # A line from its beginning to its end misses none; that it is hidden begins on a keyframe of its own.
    assert [int(box["frame"]) for box in boxes if box["keyframe"] == "1"] == [2, 8, 9, 10]
    assert [int(box["frame"]) for box in boxes if box["occluded"] == "1"] == [8, 9]
    assert [int(box["frame"]) for box in boxes if box["outside"] == "1"] == [10]
    assert float(boxes[0]["xtl"]) == 12
    xmlschema.XMLSchema(str(Path(__file__).with_name("cvat_video.xsd"))).validate(str(out))


@given(
    st.lists(st.tuples(*[st.floats(0, 20) for _ in range(4)]), min_size=1, max_size=30),
    st.sets(st.integers(0, 29), max_size=10),
)
def test_cvat_keyframes_give_back_every_box(boxes: list[tuple[float, ...]], missing: set[int]) -> None:
    frames = np.array([i for i in range(len(boxes)) if i not in missing])
    assume(len(frames))
    boxes_px = np.array(boxes)[frames]
    keys = _keyframes(frames, boxes_px)
    assert keys[0]
    assert keys[-1]
    for edge in boxes_px.T:
        assert np.abs(np.interp(frames, frames[keys], edge[keys]) - edge).max() <= 1 + 1e-9


def test_polygons_are_read_by_pycocotools_geopandas_and_the_schema_of_cvat(tmp_path: Path) -> None:
    video = _make_video()
    mask = make_mask((12, 20, 62, 120))
    rows = [
        sighting(video, "a", 2, (12, 20, 62, 120), mask=mask.to_bytes("polygon")),
        sighting(video, "a", 3, (12, 20, 62, 120), mask=mask.to_bytes()),
        sighting(video, "a", 4, (12, 20, 62, 120), mask=None, state="bridged"),
    ]
    store = _make(tmp_path / "store", video, rows)
    outline = shapely.Polygon(outlines.rings_of(mask)[0])
    assert outline.bounds == (12, 20, 62, 120)

    assert export(store, "coco", tmp_path / "out.json", Filter()) == 3
    coco = COCO(str(tmp_path / "out.json"))
    first, second, third = coco.loadAnns(coco.getAnnIds())
    assert (coco.annToMask(first) == Mask.from_bytes(rows[0]["mask"]).full(240, 320)).all()
    assert first["segmentation"] == [outlines.rings_of(mask)[0].ravel().tolist()]
    assert "counts" in second["segmentation"]
    assert "segmentation" not in third

    assert export(store, "geojson-outlines", tmp_path / "out.geojson", Filter()) == 3
    shapes = geopandas.read_file(tmp_path / "out.geojson").sort_values("frame").geometry
    assert [shape and shape.area for shape in shapes] == [outline.area, outline.area, None]

    assert export(store, "cvat-polygons", tmp_path / "out.xml", Filter()) == 3
    xmlschema.XMLSchema(str(Path(__file__).with_name("cvat_video.xsd"))).validate(str(tmp_path / "out.xml"))
    polygons = [polygon.attrib for polygon in ElementTree.parse(tmp_path / "out.xml").iter("polygon")]
    assert [(int(p["frame"]), p["outside"], p["occluded"]) for p in polygons] == [
        (2, "0", "0"), (3, "0", "0"), (4, "0", "1"), (5, "1", "0")
    ]  # fmt: skip
    drawn = [shapely.Polygon([tuple(map(float, at.split(","))) for at in p["points"].split(";")]) for p in polygons]
    assert [shape.equals(outline) for shape in drawn] == [True, True, False, False]
    assert drawn[2].equals(shapely.box(12, 20, 62, 120))


def test_cvat_polygons_of_a_mask_in_pieces_are_a_group(tmp_path: Path) -> None:
    video = _make_video()

    def cut(*columns: int) -> bytes:
        """A square of 40 at (100, 50), some columns of it hidden by poles."""
        inside = np.ones((40, 40), dtype=np.bool_)
        for column in columns:
            inside[:, column : column + 4] = False
        return Mask(100, 50, inside).to_bytes()

    masks = [cut(), cut(10), cut(10, 30), cut(), cut(8), None]
    rows = [sighting(video, "a", i, (100, 50, 140, 90), mask=mask) for i, mask in enumerate(masks)]
    rows += [sighting(video, "b", i, (0, 0, 9, 9)) for i in range(2)]
    export(_make(tmp_path / "store", video, rows), "cvat-polygons", tmp_path / "out.xml", Filter())
    xmlschema.XMLSchema(str(Path(__file__).with_name("cvat_video.xsd"))).validate(str(tmp_path / "out.xml"))
    tracks = {int(track.get("id")): track for track in ElementTree.parse(tmp_path / "out.xml").iter("track")}
    assert {number: track.get("group_id") for number, track in tracks.items()} == {0: "1", 1: None, 2: "1", 3: "1"}
    shown: dict[int, list[shapely.Polygon]] = {}
    for number in (0, 2, 3):
        polygons = [polygon.attrib for polygon in tracks[number]]
        frames = [int(p["frame"]) for p in polygons]
        assert frames == sorted(set(frames))
        for p in polygons:
            if p["outside"] == "0":
                corners = [tuple(map(float, at.split(","))) for at in p["points"].split(";")]
                shown.setdefault(int(p["frame"]), []).append(shapely.Polygon(corners))
        outside = [int(p["frame"]) for p in polygons if p["outside"] == "1"]
        assert outside == {0: [6], 2: [3, 5], 3: [3]}[number]
    # All of what is stored, and the largest piece in the first track.
    for frame, mask in enumerate(masks[:5]):
        assert sum(piece.area for piece in shown[frame]) == Mask.from_bytes(mask).area_px
        assert shown[frame][0].area == max(piece.area for piece in shown[frame])
    assert shown[5][0].equals(shapely.box(100, 50, 140, 90))


def test_cvat_draws_nothing_across_a_gap(tmp_path: Path) -> None:
    video = _make_video()
    rows = [sighting(video, "a", i, (10, 10, 50, 50)) for i in (0, 1, 2, 20, 21, 49)]
    export(_make(tmp_path / "store", video, rows), "cvat", tmp_path / "out.xml", Filter())
    boxes = [box.attrib for box in ElementTree.parse(tmp_path / "out.xml").iter("box")]
    assert [int(box["frame"]) for box in boxes if box["outside"] == "1"] == [3, 22]


def test_yolo_is_read_by_ultralytics(tmp_path: Path) -> None:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    video = probe(str(write_video(tmp_path / "v.mp4", size=(320, 240))), "gate", START)
    pts = [frame.pts_ns for frame in read_frames(video)]
    seen = {0: "detected", 5: "propagated", 10: "detected", 15: "bridged", 29: "detected"}
    rows = [
        *[sighting(video, "a", i, (10, 20, 74, 116), pts_ns=pts[i], state=state) for i, state in seen.items()],
        sighting(video, "b", 10, (-16, 0, 16, 24), pts_ns=pts[10], class_name="car", state="propagated"),
        sighting(video, "b", 29, (0, 0, 16, 24), pts_ns=pts[29], class_name="car", state="bridged"),
    ]
    out = tmp_path / "dataset"
    store = make_store(tmp_path / "store", video, rows)
    assert export(store, "yolo", out, Filter()) == 4
    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert data["names"] == {0: "person", 1: "car"}
    train = YOLODataset(img_path=data["train"], data=data, augment=False)
    assert [len(labels["cls"]) for labels in train.labels] == [1, 2]
    assert train.labels[0]["bboxes"][0] == pytest.approx([42 / 320, 68 / 240, 64 / 320, 96 / 240], abs=1e-5)
    # What lies outside the picture is cut off.
    assert train.labels[1]["bboxes"][1] == pytest.approx([8 / 320, 12 / 240, 16 / 320, 24 / 240], abs=1e-5)
    assert [len(labels["cls"]) for labels in YOLODataset(img_path=data["val"], data=data, augment=False).labels] == [1]
    assert cv2.imread(str(next((out / "images/train").iterdir()))).shape == (240, 320, 3)
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        export(store, "yolo", out, Filter())


def test_a_filter_of_time_and_track(tmp_path: Path) -> None:
    store = _make(tmp_path / "store")
    where = Filter(t0=START + timedelta(seconds=0.3), t1=START + timedelta(seconds=0.5))
    for name, expected in {"mot": 4, "csv": 4, "coco": 4, "geojson-points": 4, "cvat": 4, "geojson": 2}.items():
        assert export(store, name, tmp_path / "out", where) == expected, name
    (track,) = set(store.query("select track_id from tracks where class_name = 'forklift'")["track_id"].to_pylist())
    assert export(store, "mf-json", tmp_path / "out", Filter(track_ids=(track,))) == 1


def test_mot_truth_has_classes_and_visibility(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from trackers.io.mot import load_mot_file

    out = tmp_path / "gt.txt"
    assert export(_make(tmp_path / "store"), "mot-gt", out, Filter()) == 13
    assert out.read_text().splitlines()[0] == "1,1,200.50,50.25,40.00,79.75,1,14,1"
    assert out.read_text().splitlines()[-1] == "10,2,19.00,20.00,50.00,100.00,1,1,0"
    assert "14 forklift" in caplog.text
    assert set(load_mot_file(out)[1].classes.tolist()) == {14}


def test_mot_detections_have_no_ids(tmp_path: Path) -> None:
    out = tmp_path / "det.txt"
    assert export(_make(tmp_path / "store"), "mot-det", out, Filter()) == 11
    assert {line.split(",")[1] for line in out.read_text().splitlines()} == {"-1"}


def test_who_listens_hears_of_every_observation(tmp_path: Path) -> None:
    store, heard = _make(tmp_path / "store"), []
    export(store, "geojson", tmp_path / "out", Filter(), heard.append)
    assert sum(heard) == 13 == tracklet_rows(store, Filter())
    (track,) = set(store.query("select track_id from tracks where class_name = 'person'")["track_id"].to_pylist())
    end = START + timedelta(seconds=1)
    where = Filter("gate", _make_video().video_id, START, end, ("person",), (track,))
    assert tracklet_rows(store, where) == 8


def test_geojson_of_many_tracks(tmp_path: Path) -> None:
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
    video = probe(str(write_video(tmp_path / "v.mp4")))
    store = make_store(tmp_path / "store", video, [sighting(video, "a", 0, (0, 0, 9, 9))])
    out = tmp_path / "out"
    assert export(store, name, out, Filter(t0=START + timedelta(days=9))) == 0
    if name in ("geojson", "geojson-points", "geojson-outlines", "mf-json", "coco"):
        assert json.loads(out.read_text())
    elif name.startswith("geoparquet"):
        assert pq.read_table(out).num_rows == 0
    elif name.startswith("cvat"):
        assert ElementTree.parse(out).getroot().findall("track") == []
    elif name == "yolo":
        assert (out / "data.yaml").exists()
    else:
        assert len(out.read_text().splitlines()) == (1 if name == "csv" else 0)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Filter("gaet"), "no video of source 'gaet' in the store; it has gate$"),
        (Filter(class_names=("person", "giraffe")), "--class giraffe: the store has no such class, only forklift, per"),
        (Filter(track_ids=("nobody",)), r"no track nobody in .*store; it has:\n  \S+  forklift\n  \S+  person$"),
        (Filter("gate", track_ids=("nobody",)), "no track nobody in source gate; it has"),
        (Filter(video_id="nothing"), "no video nothing in"),
        (Filter(t0=START, t1=START), "--t1 2026-.* is not after --t0 2026"),
    ],
)
def test_a_filter_of_what_is_not_there_names_what_is(tmp_path: Path, where: Filter, message: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=f"(?s){message}"):
        export(_make(tmp_path / "store"), "csv", out, where)
    assert not out.exists()


def test_a_video_of_another_source_is_refused(tmp_path: Path) -> None:
    store = _make(tmp_path / "store")
    other = _make_video(source_id="yard", content_hash="1")
    make_store(tmp_path, other, [sighting(other, "c", 0, (0, 0, 5, 5))], store)
    with pytest.raises(UsageError, match="the video is of source yard, not of gate"):
        export(store, "csv", tmp_path / "out", Filter("gate", other.video_id))


def test_an_unknown_format_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown export format 'kml'; known are coco, csv, cvat, cvat-polygons"):
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
    for name in FORMATS.keys() - {"yolo"}:  # whose video is not there
        written = []
        for store in (folder, server):
            export(store, name, tmp_path / "out", Filter())
            written.append((tmp_path / "out").read_bytes())
        assert written[0] == written[1], name
    server.close()
