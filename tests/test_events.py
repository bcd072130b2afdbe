import json
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.demo.scene import Scene
from flows.demo.writer import line_crossings, zone_visits
from flows.errors import CalibrationError, ConfigError
from flows.events import compute_events, read_zones, recompute_events
from flows.schema import EVENTS, OBSERVATIONS, TIMESTAMP
from flows.store import Zone, open_store
from tests.dashboard.filled import fill

START_US = round(datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp() * 1e6)
SQUARE = Zone("yard", "zone", ((0, 0), (10, 0), (10, 10), (0, 10)))
LINE = Zone("gate", "line", ((0, 5), (20, 5)))


def _make_observations(paths: dict[str, list[tuple[float, float, float]]], **columns: Any) -> pa.Table:
    """Observations of tracks given as (second, x, y), the same in pixels and metres."""
    rows = [(track, *point) for track, points in paths.items() for point in points]
    n = len(rows)
    x, y = np.array([row[2] for row in rows], dtype=float), np.array([row[3] for row in rows], dtype=float)
    given = {
        "source_id": ["cam"] * n,
        "track_id": [row[0] for row in rows],
        "class_name": ["person"] * n,
        "ts": pa.array([START_US + round(row[1] * 1e6) for row in rows], pa.int64()).cast(TIMESTAMP),
        "state": ["propagated"] * n,
        "x_px": x,
        "y_px": y,
        "y1_px": y - 10,
        "y2_px": y,
        "x_m": x,
        "y_m": y,
        "sigma_m": np.full(n, 0.1),
        **columns,
    }
    types = {field.name: field.type for field in OBSERVATIONS} | {"track_id": pa.string()}
    return pa.table({name: pa.array(values).cast(types[name]) for name, values in given.items()})


def _walk(*corners: tuple[float, float], speed: float = 1.0, hz: float = 10.0) -> list[tuple[float, float, float]]:
    """A path along the corners at constant speed, sampled from second 0."""
    xy = np.array(corners, dtype=float)
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    s = np.arange(0, way[-1] + 1e-9, speed / hz)
    return [(a / speed, np.interp(a, way, xy[:, 0]), np.interp(a, way, xy[:, 1])) for a in s]


def _seconds(events: pa.Table) -> list[float]:
    return [(t - START_US) / 1e6 for t in events["ts"].cast(pa.int64()).to_pylist()]


def test_a_visit_begins_and_ends_on_the_edge():
    events = compute_events(_make_observations({"a": _walk((-5.03, 5), (15, 5), hz=3)}), [SQUARE])
    assert events.schema.equals(EVENTS)
    assert events["kind"].to_pylist() == ["visit"]
    assert _seconds(events) == pytest.approx([5.03], abs=1e-6)
    assert events["duration_s"].to_pylist() == pytest.approx([10.0], abs=1e-6)
    assert events["direction"].to_pylist() == [None]


def test_a_visit_is_cut_where_the_track_is():
    events = compute_events(_make_observations({"a": _walk((5, 5), (8, 5))}), [SQUARE])
    assert _seconds(events) == [0.0]
    assert events["duration_s"].to_pylist() == pytest.approx([3.0])


def test_swaying_on_the_edge_is_one_visit_and_cutting_a_corner_none():
    swaying = [(i / 10, 0.05 if i % 3 else -0.05, 5.0) for i in range(100)]
    corner = _walk((9.9, -5), (10.1, 5), speed=50, hz=10)
    events = compute_events(_make_observations({"sways": swaying, "cuts": corner}), [SQUARE])
    assert events["track_id"].to_pylist() == ["sways"]
    assert events["duration_s"].to_pylist() == pytest.approx([9.8], abs=0.1)


def test_coming_back_later_is_a_second_visit():
    observations = _make_observations({"a": _walk((-2, 5), (2, 5), (-2, 5), (2, 5))})
    events = compute_events(observations, [SQUARE])
    assert _seconds(events) == pytest.approx([2, 10])
    assert events["duration_s"].to_pylist() == pytest.approx([4, 2])
    assert compute_events(observations, [SQUARE], debounce_s=5).num_rows == 1


@pytest.mark.parametrize(("unit", "down", "up"), [("px", "forward", "backward"), ("m", "backward", "forward")])
def test_forward_is_from_left_to_right_of_the_drawing(unit, down, up):
    """y runs down in the picture and up on the plan: what looks the same is called the same."""
    paths = {"increasing": _walk((10, 0), (10, 10)), "decreasing": _walk((12, 10), (12, 0))}
    events = compute_events(_make_observations(paths), [Zone("gate", "line", LINE.points, unit)])
    by_track = dict(zip(events["track_id"].to_pylist(), events["direction"].to_pylist(), strict=True))
    assert by_track == {"increasing": down, "decreasing": up}


def test_the_crossing_time_is_that_of_the_line():
    events = compute_events(_make_observations({"a": _walk((10, 0.13), (10, 10), hz=2)}), [LINE])
    assert events["kind"].to_pylist() == ["crossing"]
    assert _seconds(events) == pytest.approx([4.87], abs=1e-6)
    assert events["duration_s"].to_pylist() == [None]


def test_swaying_on_a_line_is_no_crossing_and_going_over_is_one():
    sway = [(i / 10, 10.0, 5 + (1 if i % 2 else -1)) for i in range(50)]
    over = [*_walk((10, 0), (10, 4)), *((4 + i / 10, 10.0, 5 + (1 if i % 2 else -1)) for i in range(1, 50))]
    over += [(9 + t, x, y) for t, x, y in _walk((10, 6), (10, 12))]
    events = compute_events(_make_observations({"sways": sway, "goes": over}), [LINE])
    assert events["track_id"].to_pylist() == ["goes"]


def test_once_per_direction_and_not_around_the_end():
    weaving = _walk((10, 0), (10, 10), (11, 10), (11, 0), (12, 0), (12, 10), (13, 10), (13, 0))
    around = _walk((15, 0), (25, 0), (25, 10), (15, 10))
    events = compute_events(_make_observations({"weaves": weaving, "rounds": around}), [LINE])
    assert events["track_id"].to_pylist() == ["weaves", "weaves"]
    assert events["direction"].to_pylist() == ["forward", "backward"]
    assert _seconds(events) == pytest.approx([5, 16])


def test_a_corner_of_a_polyline_counts_once():
    bent = Zone("gate", "line", ((0, 10), (10, 5), (20, 10)))
    events = compute_events(_make_observations({"a": [(0, 10, 0), (1, 10, 5), (2, 10, 10)]}), [bent])
    assert events.num_rows == 1
    assert _seconds(events) == pytest.approx([1])


def test_events_made_by_what_was_not_seen_are_marked():
    path = _walk((9, 0.5), (9, 9.5))
    states = ["bridged" if 4 < t < 5 else "detected" for t, _, _ in path]
    seen = compute_events(_make_observations({"a": path}), [LINE, SQUARE])
    hidden = compute_events(_make_observations({"a": path}, state=states), [LINE, SQUARE])
    assert set(seen["inferred"].to_pylist()) == {False}
    assert dict(zip(hidden["kind"].to_pylist(), hidden["inferred"].to_pylist(), strict=True)) == {
        "crossing": True,
        "visit": False,
    }


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4)), min_size=2, max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_visits_agree_with_a_walk_through_the_samples(steps, order):
    """Against the plain definition, one observation after the other; the order of rows changes nothing."""
    xy = np.array([5.0, 5.0]) + np.cumsum(np.array(steps), axis=0)
    path = [(float(i), *point) for i, point in enumerate(xy.tolist())]
    observations = _make_observations({"a": path, "b": [(t, x + 1e4, y) for t, x, y in path]})
    rows = list(range(observations.num_rows))
    order.shuffle(rows)
    events = compute_events(observations.take(rows), [SQUARE], debounce_s=0)
    inside = [0 < x < 10 and 0 < y < 10 for _, x, y in path]
    stays = sum(now and not before for before, now in zip([False, *inside], inside, strict=False))
    assert events.num_rows == stays
    assert sorted(events["event_id"].to_pylist()) == sorted(
        compute_events(observations, [SQUARE], debounce_s=0)["event_id"].to_pylist()
    )


def test_no_observations_or_zones_no_events():
    assert compute_events(_make_observations({"a": _walk((0, 0), (1, 1))}), []).num_rows == 0
    assert compute_events(_make_observations({}), [SQUARE, LINE, Zone("m", "line", LINE.points, "m")]).num_rows == 0


def test_metres_without_calibration_say_so():
    observations = _make_observations({"a": [(0, 1, 1)]}, x_m=pa.nulls(1), y_m=pa.nulls(1), sigma_m=pa.nulls(1))
    with pytest.raises(CalibrationError, match=r"'yard' is in metres.*calibrate the source"):
        compute_events(observations, [Zone("yard", "zone", SQUARE.points, "m")])


ZONES_YAML = """
zones:
  - {name: yard, kind: zone, points: [[0, 0], [10, 0], [10, 10], [0, 10]]}
  - {name: gate, kind: line, unit: m, points: [[0, 5], [20, 5]]}
"""


def test_zones_are_read_from_yaml_and_geojson(tmp_path):
    expected = [SQUARE, Zone("gate", "line", LINE.points, "m")]
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
            "geometry": {"type": "LineString", "coordinates": LINE.points},
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
    ],
)
def test_a_bad_zones_file_names_the_place(tmp_path, text, message):
    path = tmp_path / "zones.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_zones(path)


def _make_scene_observations(scene: Scene) -> pa.Table:
    paths = {str(actor.id): actor.path.xy_m for actor in scene.actors}
    return _make_observations(
        {name: [(i / scene.fps, *xy) for i, xy in enumerate(xy_m.tolist())] for name, xy_m in paths.items()}
    )


def _scene_truth(scene: Scene) -> list[tuple[Any, ...]]:
    """(name, track, direction, second, duration) of every visit and every first crossing in a direction."""
    visits, crossings = [], {}
    for actor in scene.actors:
        for name, polygon_m in scene.stage.zones_m.items():
            for first, last in zone_visits(actor.path.xy_m, polygon_m):
                visits.append((name, str(actor.id), None, first / scene.fps, (last - first) / scene.fps))
        for name, line_m in scene.stage.lines_m.items():
            for frame, side in line_crossings(actor.path.xy_m, line_m):
                direction = {"right": "forward", "left": "backward"}[side]
                crossings.setdefault((name, str(actor.id), direction), (frame / scene.fps, None))
    return visits + [(*key, *value) for key, value in crossings.items()]


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 23), marks=pytest.mark.slow)], ids=["few", "many"])
def test_the_demo_scenes_events_are_found_from_true_positions(seeds):
    exact = 0
    for seed in seeds:
        scene = Scene.random(seed, width=96, height=54)
        shapes = [("zone", scene.stage.zones_m), ("line", scene.stage.lines_m)]
        zones = [
            Zone(name, kind, tuple(map(tuple, xy.tolist())), "m")
            for kind, group in shapes
            for name, xy in group.items()
        ]
        events = compute_events(_make_scene_observations(scene), zones, debounce_s=0, clear_sigmas=0)
        columns = (events[name].to_pylist() for name in ("zone", "track_id", "direction"))
        key = itemgetter(0, 1)
        found = sorted(
            zip(*columns, _seconds(events), events["duration_s"].to_pylist(), strict=True),
            key=lambda e: (*key(e), e[3]),
        )
        true = sorted(_scene_truth(scene), key=lambda e: (*key(e), e[3]))
        # The truth counts whole frames, the events the moments between them.
        exact += [e[:3] for e in found] == [e[:3] for e in true] and all(
            abs(e[3] - t[3]) <= 1 / scene.fps and abs((e[4] or 0) - (t[4] or 0)) <= 2 / scene.fps
            for e, t in zip(found, true, strict=True)
        )
    assert exact >= 0.95 * len(seeds)


def test_events_are_recomputed_from_what_is_stored(store_url):
    with open_store(store_url) as store:
        fill(store)
        yard_m = Zone("yard", "zone", ((-10.0, 5), (10, 5), (10, 60), (-10, 60)), "m")
        gate = Zone("gate", "line", ((300, 100), (300, 360)))
        store.write_zones("gate", [yard_m, gate])
        # The observations were committed before there was a calibration.
        events = recompute_events(store, "gate")
        assert sorted(set(events["zone"].to_pylist())) == ["gate", "yard"]
        assert (
            store.query("select event_id from events where source_id = 'gate' order by ts, event_id")[
                "event_id"
            ].to_pylist()
            == events["event_id"].to_pylist()
        )
        store.write_zones("gate", [])
        assert recompute_events(store, "gate").num_rows == 0
        assert store.query("select count(*) as n from events")["n"].to_pylist() == [0]
