import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.calibrate import fit_homography
from flows.config import StitchSettings
from flows.demo.camera import Camera
from flows.events import recompute_events
from flows.events.ways import ways
from flows.georeference import Calibration
from flows.locate import SIZES_M
from flows.schema import OBSERVATIONS, TRACKLETS, ChunkResult
from flows.stitch import stitch_source
from flows.store import Zone, open_store
from tests.stores import make_chunk, make_observation, make_tracklet
from tests.walks import box_of, make_observations, walk

HZ = 10


def _ways(paths, class_name="car", **columns):
    n = sum(map(len, paths.values()))
    return np.degrees(ways(make_observations(paths, class_name=[class_name] * n, **columns)))


def _stay(path, seconds, away=(0, 0)):
    """For so long at the end of a path, or so far away from there."""
    t, x, y = path[-1]
    return [*path, *((t + i / HZ, x + away[0], y + away[1]) for i in range(1, seconds * HZ))]


def test_who_drives_heads_where_he_goes():
    assert _ways({"a": walk((0, 0), (30, 30), speed=8)}) == pytest.approx(np.full(54, 45.0), abs=0.1)


def test_forwards_and_backwards_are_one():
    """West is at 180 as well as at -180 degrees, and at 0."""
    rng = np.random.default_rng(0)
    there = [(t, x, y + rng.normal(0, 0.1)) for t, x, y in walk((0, 0), (-40, 0), (0, 0), speed=5)]
    angles = _ways({"a": there})
    assert np.abs((angles + 90) % 180 - 90).max() < 6
    assert np.abs(np.diff(angles)).max() < 6


def test_a_turn_takes_as_long_as_the_distance():
    path = walk((0, 0), (30, 0), (30, 30), speed=5)
    angles = _ways({"a": path})
    corner = len(path) // 2
    assert angles[: corner - 15] == pytest.approx(0, abs=1)
    assert angles[corner + 15 :] == pytest.approx(90, abs=1)
    assert np.diff(angles).min() > -1e-6
    assert np.diff(angles).max() < 15


def _off(angles, degrees):
    """How far angles lie from one, forwards and backwards being one."""
    return np.abs((angles - degrees + 90) % 180 - 90)


@pytest.mark.parametrize("east_m", range(18, 26))
@pytest.mark.parametrize("away_s", [0, 3600], ids=["seen", "out of sight"])
def test_who_stands_keeps_the_way_however_he_goes_on(east_m, away_s):
    drive = _stay(walk((0, 0), (east_m, 0), speed=5), 60)
    rng = np.random.default_rng(0)
    drive = [
        (t, x + dx, y + dy) for (t, x, y), (dx, dy) in zip(drive, rng.normal(0, 0.2, (len(drive), 2)), strict=True)
    ]
    t, x, _ = drive[-1]
    t += away_s
    angles = _ways({"a": drive + [(t + a, x, b) for a, _, b in walk((0, 0), (0, 20), speed=5)[1:]]})
    assert _off(angles[: len(drive) - 10], 0).max() < 8
    assert _off(angles[len(drive) + 15 :], 90).max() < 8


def _columns(boxes):
    return {f"{name}_px": boxes[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}


@pytest.mark.parametrize("hz", [1, 10])
@pytest.mark.parametrize("seconds", [1, 10])
@pytest.mark.parametrize(
    "hidden", [(0, 0, 0, -30), (40, 0, 0, -30), (15, 0, -15, -30)], ids=["low", "low and left", "but the roof"]
)
def test_what_hides_a_parked_car_is_no_way(hidden, seconds, hz):
    """A box whose lower half is hidden stands metres further away."""
    path = [(i / hz, 5.0, 5.0) for i in range(60 * hz)]
    at = slice(20 * hz, (20 + seconds) * hz)
    path[at] = [(t, x, y + 8) for t, x, y in path[at]]
    boxes = np.tile([100.0, 100, 200, 160], (len(path), 1))
    boxes[at] += hidden
    assert np.isnan(_ways({"a": path}, **_columns(boxes))).all()


def test_what_hides_him_slowly_moves_one_side_and_no_car():
    path = _stay([(0.0, 5.0, 5.0)], 30)
    away = np.interp(np.arange(len(path)), [100, 150], [0, 8])
    boxes = np.tile([100.0, 100, 200, 160], (len(path), 1))
    boxes[:, 3] -= 4 * away
    path = [(t, x, y + further) for (t, x, y), further in zip(path, away, strict=True)]
    parked = make_observations({"a": path}, class_name=["car"] * len(path), **_columns(boxes))
    drive = walk((0, 0), (30, 0))
    table = pa.concat_tables([parked, make_observations({"b": drive}, class_name=["car"] * len(drive))])
    order = np.random.default_rng(0).permutation(table.num_rows)
    for found in (ways(table), ways(table.take(pa.array(order)))[np.argsort(order)]):
        assert np.isnan(found[: len(path)]).all()
        assert found[len(path) :] == pytest.approx(0)


def test_two_bad_boxes_a_second_apart_are_no_way():
    path = [(float(i), 5.0, 5.0) for i in range(60)]
    path[19:21] = [(19.0, 7.5, 5.0), (20.0, 10.0, 5.0)]
    assert np.isnan(_ways({"a": path})).all()


@pytest.mark.parametrize("before_s", [1, 8, 30])
def test_what_hides_him_for_a_moment_does_not_turn_who_stands(before_s):
    drive = _stay(walk((0, 0), (20, 0), speed=5), 60)
    at = slice(len(drive) - before_s * HZ - 15, len(drive) - before_s * HZ)
    drive[at] = [(t, x, y + 8) for t, x, y in drive[at]]
    t, x, _ = drive[-1]
    angles = _ways({"a": drive + [(t + a, x, b) for a, _, b in walk((0, 0), (0, 20), speed=5)[1:]]})
    assert _off(angles[: len(drive) - before_s * HZ - 25], 0).max() < 1
    assert _off(angles[len(drive) + 15 :], 90).max() < 1


@pytest.mark.parametrize("hz", [1, 2, 10])
def test_once_a_second_is_enough(hz):
    assert _ways({"a": walk((0, 0), (60, 0), speed=1, hz=hz)}) == pytest.approx(0)


def test_where_he_was_before_a_gap_is_no_way():
    there, t = [(i / HZ, 0.0, 0.0) for i in range(200)], 3600.0
    elsewhere = [(t + i / HZ, 30.0, 30.0) for i in range(200)]
    assert np.isnan(_ways({"a": there + elsewhere})).all()
    away = [(t + 20 + a, 30 + x, 30.0) for a, x, _ in walk((0, 0), (20, 0), speed=5)]
    assert _ways({"a": there + elsewhere + away}) == pytest.approx(0, abs=1)


def test_who_comes_straight_on_heads_for_the_camera():
    path = walk((0, 40), (0, 10), speed=5)
    depths = np.array([y for *_, y in path])
    columns = {
        "x1_px": 320 - 500 / depths,
        "x2_px": 320 + 500 / depths,
        "y1_px": 200 + 0 * depths,
        "y2_px": 200 + 2000 / depths,
    }
    assert _ways({"a": path}, **columns) == pytest.approx(np.full(len(path), -90.0), abs=0.1)


def test_what_goes_nowhere_has_no_way_and_tracks_are_kept_apart():
    still = _stay([(0.0, 5.0, 5.0)], 10)
    found = _ways({"a": still, "b": walk((0, 0), (9, 0))})
    assert np.isnan(found[: len(still)]).all()
    assert found[len(still) :] == pytest.approx(0)
    assert ways(make_observations({}, class_name=[])).shape == (0,)


@pytest.mark.parametrize("class_name", ["person", "bulldozer", "excavator"])
def test_what_turns_on_the_spot_faces_anywhere(class_name):
    assert np.isnan(_ways({"a": walk((0, 0), (9, 0))}, class_name)).all()


def test_rows_may_come_in_any_order_and_some_nowhere():
    """What lies beyond the horizon has no place, and no way."""
    far = [(t, x + 1000, y) for t, x, y in walk((0, 0), (20, 0))]
    paths = {"a": walk((0, 0), (20, 0)), "b": _stay([(0.0, 5.0, 5.0)], 20), "c": walk((0, 0), (0, 20)), "d": far}
    n = [len(path) for path in paths.values()]
    table = make_observations(paths, class_name=["car"] * n[0] + ["truck"] * (sum(n) - n[0]))
    index = table.schema.get_field_index("x_m")
    table = table.set_column(index, "x_m", pc.if_else(pc.greater(table["x_m"], 900), None, table["x_m"]))
    found = np.degrees(ways(table))
    a, b, c, d = np.split(found, np.cumsum(n)[:-1])
    assert a == pytest.approx(0)
    assert c == pytest.approx(90)
    assert np.isnan(np.concatenate([b, d])).all()
    order = np.random.default_rng(1).permutation(table.num_rows)
    assert np.degrees(ways(table.take(pa.array(order)))) == pytest.approx(found[order], nan_ok=True)


CAMERA = Camera(width_px=640, height_px=480, focal_px=500, height_m=6, tilt_rad=0.4)


def _of_a_truck(store, calibration):
    """The visits of a truck that drives by sideways on a lane as wide as itself."""
    lane = Zone("lane", "zone", ((-20, 19), (20, 19), (20, 21), (-20, 21)), "m")
    chunk = make_chunk()
    source = chunk.video.source_id
    store.add_video(chunk.video)
    store.plan([chunk])
    rows = []
    for i, at_m in enumerate(np.arange(-5, 5, 0.5)):
        x1, y1, x2, y2 = box_of(CAMERA, np.array([at_m, 20.0]), 0.0, (*SIZES_M["truck"], 2.5)).tolist()
        box = {"x1_px": x1, "y1_px": y1, "x2_px": x2, "y2_px": y2, "x_px": (x1 + x2) / 2, "y_px": y2}
        place = {"x_m": at_m, "y_m": 20.0, "sigma_m": 0.1}
        rows.append(make_observation(chunk, i / 10, class_name="truck", **box, **place))
    tracklets = pa.Table.from_pylist([make_tracklet(chunk, rows)], TRACKLETS)
    store.commit(ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), tracklets))
    stitch_source(store, source, StitchSettings())
    if calibration:
        store.write_calibration(source, calibration.to_json())
    store.write_zones(source, [lane])
    return [event for event in recompute_events(store, source).to_pylist() if event["kind"] == "visit"]


def test_recomputed_events_place_vehicles_by_the_way_they_head(store_url):
    """By its mean depth the truck would drive beyond the lane."""
    ground_m = np.array([[-8.0, 12], [8, 12], [8, 30], [-8, 30], [0, 20]])
    calibration = fit_homography(CAMERA.project(np.column_stack([ground_m, np.zeros(5)]))[0], ground_m)
    with open_store(store_url) as store:
        (visit,) = _of_a_truck(store, calibration)
    assert visit["duration_s"] == pytest.approx(1.9, abs=0.01)


@pytest.mark.parametrize("flies", [False, True])
def test_what_is_placed_otherwise_keeps_its_place(store_url, flies):
    nothing = np.empty((0, 2))
    telemetry = Calibration(np.eye(3), nothing, nothing, np.empty(0, dtype=bool), 1.0, (7.0, 46.0), flies=True)
    with open_store(store_url) as store:
        (visit,) = _of_a_truck(store, telemetry if flies else None)
    assert visit["duration_s"] == pytest.approx(1.9, abs=0.01)
