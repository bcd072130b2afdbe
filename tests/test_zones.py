import json

import numpy as np
import pytest

from flows.errors import ConfigError
from flows.georeference import from_lonlat
from flows.store import Zone, open_store
from flows.zones import read_zones
from tests.walks import SQUARE

GATE = ((0, 5), (20, 5))
ZONES_YAML = """
zones:
  - {name: yard, kind: zone, points: [[0, 0], [10, 0], [10, 10], [0, 10]]}
  - {name: gate, kind: line, unit: m, points: [[0, 5], [20, 5]]}
"""


def test_zones_are_read_from_yaml_and_geojson(tmp_path):
    expected = [SQUARE, Zone("gate", "line", GATE, "m")]
    yaml_file, geojson = tmp_path / "zones.yaml", tmp_path / "zones.geojson"
    yaml_file.write_text(ZONES_YAML)
    features = [
        {
            "type": "Feature",
            "properties": {"name": "yard"},
            "geometry": {"type": "Polygon", "coordinates": [[*SQUARE.points, SQUARE.points[0]]]},
        },
        {
            "type": "Feature",
            "properties": {"name": "gate", "unit": "m"},
            "geometry": {"type": "LineString", "coordinates": GATE},
        },
    ]
    geojson.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert read_zones(yaml_file) == expected
    assert read_zones(geojson) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not a readable YAML"),
        ("- 1", "expected a list under `zones:`"),
        ("zones: [3]", "zone 1: expected a mapping"),
        ("zones: [{name: a, kind: zone}]", "zone 1: points is missing"),
        ("zones: [{name: a, kind: zone, points: [[0, 0]]}]", "at least 3 points"),
        ("zones: [{name: a, kind: zone, pts: []}]", "unknown field pts"),
        ("zones: [{name: a, kind: ring, points: [[0, 0], [1, 1]]}]", "kind is zone or line"),
        ("zones: [{name: a, kind: line, points: [[0, 0], [1, x]]}]", r"points must be \[\[x, y\], ...\]"),
        ("zones: [{name: a, kind: zone, points: [[0, 0], [1, 1], [1, 0], [0, 1]]}]", "edge crosses itself"),
        ("features: [{type: Feature, geometry: {type: Point, coordinates: [0, 0]}}]", "got 'Point'"),
        (ZONES_YAML.replace("gate", "yard"), "yard is used more than once"),
        ("zones: [{name: , kind: line, points: [[0, 0], [9, 9]]}]", "a name must be printable text .* got None"),
        ("zones: [{name: no, kind: line, points: [[0, 0], [9, 9]]}]", "a name must be printable text .* got False"),
        ("zones: [{name: ' ', kind: line, points: [[0, 0], [9, 9]]}]", "a name must be printable text"),
        ('zones: [{name: "a\\0", kind: line, points: [[0, 0], [9, 9]]}]', "a name must be printable text"),
        ("zones: [{name: a, kind: line, points: [[5, 5], [5, 5]]}]", "smaller than 1 px"),
        ("zones: [{name: a, kind: line, unit: m, points: [[7.1, 46.5], [7.101, 46.5]]}]", "unit: lonlat"),
        ("zones: [{name: a, kind: zone, points: [[0, 0], [9, 9], [5, 5]]}]", "its points lie on one line"),
        ("zones: [{name: a, kind: line, points: [[0, 0], [1e300, 1]]}]", "points must be"),
        (f"zones: [{{name: a, kind: line, points: [[0, 0], [1{'0' * 400}, 1]]}}]", "points must be"),
        (f"zones: {'[' * 3000}", "not a readable YAML"),
        ("features: [{type: Feature, geometry: [1]}]", "expected objects as geometry and properties"),
        ("features: [{type: Feature, properties: name}]", "expected objects as geometry and properties"),
    ],
)
def test_a_bad_zones_file_names_the_place(tmp_path, text, message):
    path = tmp_path / "zones.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_zones(path)


def test_longitude_and_latitude_become_metres_of_the_source(tmp_path):
    path = tmp_path / "zones.geojson"
    ring = [[7.1, 46.5], [7.101, 46.5], [7.101, 46.501], [7.1, 46.5]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {"name": "yard", "unit": "lonlat"}, "geometry": geometry}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    (zone,) = read_zones(path, (7.1, 46.5))
    assert zone.unit == "m"
    assert zone.points[0] == pytest.approx((0, 0), abs=1e-6)
    assert zone.points[2] == pytest.approx((76.7, 111.2), abs=0.1)
    assert from_lonlat((7.1, 46.5), np.array(ring[:3])) == pytest.approx(np.array(zone.points))
    with pytest.raises(ConfigError, match=r"calibrate it from points with the columns lon and lat"):
        read_zones(path)
    with pytest.raises(ConfigError, match=r"zone 1: a place .* km from the origin"):
        read_zones(path, (46.5, 7.1))


def test_every_set_of_zones_is_kept(store_url):
    gate = Zone("gate", "line", GATE, "m")
    with open_store(store_url) as store:
        assert store.zone_versions("cam") == []
        for zones in ([SQUARE], [], [SQUARE, gate]):
            store.write_zones("cam", zones)
        found = store.zone_versions("cam")
        assert [version.version for version in found] == [1, 2, 3]
        assert [list(version.zones) for version in found] == [[SQUARE], [], [SQUARE, gate]]
        assert found[0].written_at <= found[2].written_at
        assert store.zones("cam") == [SQUARE, gate]
        assert store.zone_versions("other") == []
        rows = store.query("select version from zone_versions where source_id = 'cam' order by 1")
        assert rows["version"].to_pylist() == [1, 2, 3]
