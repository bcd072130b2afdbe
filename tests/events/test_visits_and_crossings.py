import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.events import compute_events, recompute_events
from flows.schema import EVENTS
from flows.store import Zone, open_store
from tests.dashboard.filled import fill
from tests.walks import SQUARE, events_of, make_observations, seconds, walk

LINE = Zone("gate", "line", ((0, 5), (20, 5)))
LANE = Zone("lane", "zone", ((10, 20), (20, 20), (20, 30), (10, 30)))


def _sides(n: int, *sides_px: float) -> dict[str, np.ndarray]:
    return {name: np.full(n, px) for name, px in zip(("x1_px", "y1_px", "x2_px", "y2_px"), sides_px, strict=True)}


def test_a_visit_begins_and_ends_on_the_edge():
    events = events_of(make_observations({"a": walk((-5.03, 5), (15, 5), hz=3)}), [SQUARE])
    assert events.schema.equals(EVENTS)
    assert events["kind"].to_pylist() == ["visit"]
    assert seconds(events) == pytest.approx([5.03], abs=1e-6)
    assert events["duration_s"].to_pylist() == pytest.approx([10.0], abs=1e-6)
    assert events["direction"].to_pylist() == [None]


def test_a_visit_is_cut_where_the_track_is():
    events = events_of(make_observations({"a": walk((5, 5), (8, 5))}), [SQUARE])
    assert seconds(events) == [0.0]
    assert events["duration_s"].to_pylist() == pytest.approx([3.0])


def test_swaying_on_the_edge_is_one_visit_and_cutting_a_corner_none():
    swaying = [(i / 10, 0.05 if i % 3 else -0.05, 5.0) for i in range(100)]
    corner = walk((8.5, -1), (11, 1.5), speed=2, hz=20)
    assert events_of(make_observations({"cuts": corner}), [SQUARE], debounce_seconds=0).num_rows == 1
    events = events_of(make_observations({"sways": swaying, "cuts": corner}), [SQUARE])
    assert events["track_id"].to_pylist() == ["sways"]
    assert events["duration_s"].to_pylist() == pytest.approx([9.8], abs=0.1)


def test_who_drives_through_in_a_moment_was_there():
    """Half a second is for jitter on the edge: seen clear of it, by its own uncertainty, it was inside."""
    through = walk((5, -5), (5, 15), speed=40, hz=25)
    along = walk((-5, 0.1), (15, 0.1), speed=40, hz=25)
    events = events_of(make_observations({"through": through, "along": along}), [SQUARE])
    assert events["track_id"].to_pylist() == ["through"]
    assert events["duration_s"].to_pylist() == pytest.approx([0.25])
    assert events_of(make_observations({"through": through}), [SQUARE], clear_sigmas=1000).num_rows == 0
    assert events_of(make_observations({"through": through}), [SQUARE], min_visit_seconds=0.5).num_rows == 0


@pytest.mark.parametrize(
    ("speed", "sizes_px", "visits"),
    [
        (40, {"video": (100, 100)}, 1),
        (40, {"video": (100, 30)}, 0),
        (40, {}, 1),
        (5, {"video": (100, 30)}, 1),
    ],
)
def test_who_is_cut_by_the_edge_of_the_picture_is_nowhere_for_a_moment(speed, sizes_px, visits):
    """Its box ends at 30 px: in a picture of that height it may go on below, and nobody knows where it stands."""
    passes = walk((15, 15), (15, 35), speed=speed, hz=25)
    observations = make_observations({"a": passes}, **_sides(len(passes), 10, 10, 20, 30))
    events = compute_events(observations, [LANE], sizes_px=sizes_px)
    assert events["kind"].to_pylist().count("visit") == visits


def test_what_the_picture_cuts_above_stands_where_it_is_seen_to():
    passes = walk((15, 15), (15, 35), speed=40, hz=25)
    observations = make_observations({"truck": passes}, **_sides(len(passes), 10, 0, 20, 30))
    events = compute_events(observations, [LANE], sizes_px={"video": (100, 100)})
    assert events["kind"].to_pylist().count("visit") == 1


def test_each_is_cut_or_not_by_its_own_box():
    passes = walk((15, 15), (15, 35), speed=40, hz=25)
    whole, cut = _sides(len(passes), 10, 10, 20, 30), _sides(len(passes), 0, 10, 20, 30)
    sides = {name: np.concatenate([cut[name], whole[name], cut[name]]) for name in whole}
    observations = make_observations({"b": passes, "c": passes, "a": passes}, **sides)
    order = np.random.default_rng(0).permutation(observations.num_rows)
    events = compute_events(observations.take(pa.array(order)), [LANE], sizes_px={"video": (100, 100)})
    assert [e["track_id"] for e in events.to_pylist() if e["kind"] == "visit"] == ["c"]


def test_a_piece_of_a_track_that_neither_comes_nor_goes_is_no_visit():
    """As identity switches leave them; one that comes or goes was there."""
    inside = [(0.0, 5.0, 5.0), (0.04, 5.5, 5.0)]
    comes = [(0.0, -1.0, 5.0), (0.04, 5.0, 5.0)]
    goes = [(0.0, 5.0, 5.0), (0.04, 11.0, 5.0)]
    assert events_of(make_observations({"inside": inside, "alone": inside[:1]}), [SQUARE]).num_rows == 0
    events = events_of(make_observations({"comes": comes, "goes": goes}), [SQUARE])
    assert sorted(events["track_id"].to_pylist()) == ["comes", "goes"]


def test_coming_back_later_is_a_second_visit():
    observations = make_observations({"a": walk((-2, 5), (2, 5), (-2, 5), (2, 5))})
    events = events_of(observations, [SQUARE])
    assert seconds(events) == pytest.approx([2, 10])
    assert events["duration_s"].to_pylist() == pytest.approx([4, 2])
    assert events_of(observations, [SQUARE], debounce_seconds=5).num_rows == 1


@pytest.mark.parametrize(("unit", "down", "up"), [("px", "forward", "backward"), ("m", "backward", "forward")])
def test_forward_is_from_left_to_right_of_the_drawing(unit, down, up):
    """y runs down in the picture and up on the plan: what looks the same is called the same."""
    paths = {"increasing": walk((10, 0), (10, 10)), "decreasing": walk((12, 10), (12, 0))}
    events = events_of(make_observations(paths), [Zone("gate", "line", LINE.points, unit)])
    by_track = dict(zip(events["track_id"].to_pylist(), events["direction"].to_pylist(), strict=True))
    assert by_track == {"increasing": down, "decreasing": up}


def test_the_crossing_time_is_that_of_the_line():
    events = events_of(make_observations({"a": walk((10, 0.13), (10, 10), hz=2)}), [LINE])
    assert events["kind"].to_pylist() == ["crossing"]
    assert seconds(events) == pytest.approx([4.87], abs=1e-6)
    assert events["duration_s"].to_pylist() == [None]


def test_swaying_on_a_line_is_no_crossing_and_going_over_is_one():
    sway = [(i / 10, 10.0, 5 + (1 if i % 2 else -1)) for i in range(50)]
    over = [*walk((10, 0), (10, 4)), *((4 + i / 10, 10.0, 5 + (1 if i % 2 else -1)) for i in range(1, 50))]
    over += [(9 + t, x, y) for t, x, y in walk((10, 6), (10, 12))]
    events = events_of(make_observations({"sways": sway, "goes": over}), [LINE])
    assert events["track_id"].to_pylist() == ["goes"]


def test_once_per_direction_and_not_around_the_end():
    weaving = walk((10, 0), (10, 10), (11, 10), (11, 0), (12, 0), (12, 10), (13, 10), (13, 0))
    around = walk((15, 0), (25, 0), (25, 10), (15, 10))
    events = events_of(make_observations({"weaves": weaving, "rounds": around}), [LINE])
    assert events["track_id"].to_pylist() == ["weaves", "weaves"]
    assert events["direction"].to_pylist() == ["forward", "backward"]
    assert seconds(events) == pytest.approx([5, 16])


def test_a_corner_of_a_polyline_counts_once():
    bent = Zone("gate", "line", ((0, 10), (10, 5), (20, 10)))
    events = events_of(make_observations({"a": [(0, 10, 0), (1, 10, 5), (2, 10, 10)]}), [bent])
    assert events.num_rows == 1
    assert seconds(events) == pytest.approx([1])


def test_events_made_by_what_was_not_seen_are_marked():
    path = walk((9, 0.5), (9, 9.5))
    states = ["bridged" if 4 < t < 5 else "detected" for t, _, _ in path]
    seen = events_of(make_observations({"a": path}), [LINE, SQUARE])
    hidden = events_of(make_observations({"a": path}, state=states), [LINE, SQUARE])
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
    observations = make_observations({"a": path, "b": [(t, x + 1e4, y) for t, x, y in path]})
    rows = list(range(observations.num_rows))
    order.shuffle(rows)
    events = events_of(observations.take(rows), [SQUARE], debounce_seconds=0)
    inside = [0 < x < 10 and 0 < y < 10 for _, x, y in path]
    stays = sum(now and not before for before, now in zip([False, *inside], inside, strict=False))
    assert events.num_rows == stays
    assert sorted(events["event_id"].to_pylist()) == sorted(
        events_of(observations, [SQUARE], debounce_seconds=0)["event_id"].to_pylist()
    )


def test_no_observations_or_zones_noevents_of():
    assert events_of(make_observations({"a": walk((0, 0), (1, 1))}), []).num_rows == 0
    assert events_of(make_observations({}), [SQUARE, LINE, Zone("m", "line", LINE.points, "m")]).num_rows == 0


def test_metres_without_calibration_say_so(caplog):
    observations = make_observations({"a": [(0, 1, 1)]}, x_m=pa.nulls(1), y_m=pa.nulls(1), sigma_m=pa.nulls(1))
    zones = [Zone("in metres", "zone", SQUARE.points, "m"), SQUARE]
    found = events_of(observations, zones, "visit", debounce_seconds=0)
    # The zones that can be counted are.
    assert found["zone"].to_pylist() == ["yard"]
    assert "'in metres' is in metres, but no observation has a ground position" in caplog.text


def test_recomputing_changes_nothing_and_stores_agree(store_url, tmp_path):
    yard = Zone("入口 'q\" ☃", "zone", ((-10.0, 5), (10, 5), (10, 60), (-10, 60)), "m")
    found = []
    for url in (store_url, str(tmp_path / "reference")):
        with open_store(url) as store:
            fill(store)
            store.write_zones("gate", [yard, LINE])
            first = recompute_events(store, "gate")
            stored = store.query("select * from events where source_id = 'gate' order by ts, event_id")
            assert recompute_events(store, "gate").equals(first)
            assert store.query("select * from events where source_id = 'gate' order by ts, event_id").equals(stored)
            assert "visit" in stored["kind"].to_pylist()
            # To nine digits: sums over tracks follow the order of rows, which is the store's.
            found.append([{k: _rounded(v) for k, v in row.items()} for row in stored.select(EVENTS.names).to_pylist()])
    assert found[0] == found[1]


def _rounded(value):
    return round(value, 9) if isinstance(value, float) else value


def test_tracks_of_one_observation_are_events_too():
    found = events_of(make_observations({"a": [(0, 5, 5)], "b": [(0, 50, 5)]}), [SQUARE, LINE], "presence", "active")
    assert found["kind"].to_pylist().count("presence") == 2
    assert set(found["duration_s"].to_pylist()) == {0.0}
    assert found["speed_max_m_s"].null_count == found.num_rows


def test_events_are_recomputed_from_what_is_stored(store_url):
    with open_store(store_url) as store:
        fill(store)
        yard_m = Zone("yard", "zone", ((-10.0, 5), (10, 5), (10, 60), (-10, 60)), "m")
        gate = Zone("gate", "line", ((300, 100), (300, 360)))
        store.write_zones("gate", [yard_m, gate])
        # The observations were committed before there was a calibration.
        events = recompute_events(store, "gate")
        assert sorted(set(events["zone"].to_pylist())) == ["", "gate", "yard"]
        assert (
            store.query("select event_id from events where source_id = 'gate' order by ts, event_id")[
                "event_id"
            ].to_pylist()
            == events["event_id"].to_pylist()
        )
        store.write_zones("gate", [])
        assert set(recompute_events(store, "gate")["zone"].to_pylist()) == {""}
