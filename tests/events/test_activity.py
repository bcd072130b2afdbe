from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.config import EventSettings
from flows.events import compute_events
from flows.events.work import CHANGES, MASK_COLUMNS, mask_change, mask_changes
from flows.mask import Mask
from flows.schema import TIMESTAMP
from tests.walks import SQUARE, START_US, events_of, make_observations, seconds, walk


def _stand(x: float, y: float, start_s: float, until_s: float, hz: float = 10) -> list[tuple[float, float, float]]:
    return [(t, x, y) for t in np.arange(start_s, until_s - 1e-9, 1 / hz)]


def _walk_wait_walk() -> list[tuple[float, float, float]]:
    """Five seconds to the yard's middle, ten of standing there, five on."""
    there = walk((-5, 5), (5, 5), speed=2)
    back = [(15 + t, x, y) for t, x, y in walk((5, 5), (15, 5), speed=2)]
    return [*there[:-1], *_stand(5, 5, 5, 15), *back]


def test_presence_tells_a_tracks_speeds_and_way():
    (row,) = events_of(make_observations({"a": walk((0, 0), (30, 0), speed=1.5)}), [], "presence").to_pylist()
    assert row["duration_s"] == pytest.approx(20)
    assert row["distance_m"] == pytest.approx(30, abs=0.01)
    assert [row[f"speed_{n}_m_s"] for n in ("mean", "p85", "max")] == pytest.approx([1.5] * 3, abs=0.001)


def test_speeds_of_a_visit_are_those_inside():
    slow_inside = [*walk((-8, 5), (0, 5), speed=4), *((2.1 + t, x, y) for t, x, y in walk((0.1, 5), (10, 5)))]
    rows = events_of(make_observations({"a": slow_inside}), [SQUARE], "visit", "presence").to_pylist()
    visit, presence = sorted(rows, key=lambda row: row["kind"], reverse=True)
    assert visit["speed_p85_m_s"] == pytest.approx(1, abs=0.05)
    assert presence["speed_max_m_s"] == pytest.approx(4, abs=0.01)


def test_without_metres_there_are_no_speeds():
    observations = make_observations({"a": walk((0, 0), (9, 0))}, x_m=pa.nulls(91), y_m=pa.nulls(91))
    (row,) = events_of(observations, [], "presence").to_pylist()
    assert row["speed_p85_m_s"] is None
    assert row["distance_m"] is None


@given(hz=st.sampled_from([2, 5, 12.5, 25]), speed=st.floats(0.5, 20))
@settings(deadline=None, max_examples=25)
def test_the_speed_is_the_same_at_every_rate(hz, speed):
    (row,) = events_of(make_observations({"a": walk((0, 0), (100, 0), speed=speed, hz=hz)}), [], "presence").to_pylist()
    assert row["speed_p85_m_s"] == pytest.approx(speed, rel=1e-3)


def test_a_stop_and_the_wait_in_the_zone():
    events = events_of(make_observations({"a": _walk_wait_walk()}), [SQUARE], "stop", "wait")
    assert sorted(zip(events["kind"].to_pylist(), events["zone"].to_pylist(), strict=True)) == [
        ("stop", ""),
        ("wait", "yard"),
    ]
    assert seconds(events) == pytest.approx([5, 5], abs=0.3)
    assert events["duration_s"].to_pylist() == pytest.approx([10, 10], abs=0.6)


def test_active_and_idle_cover_the_track():
    events = events_of(make_observations({"a": _walk_wait_walk()}), [], "active", "idle")
    assert events["kind"].to_pylist() == ["active", "idle", "active"]
    assert sum(events["duration_s"].to_pylist()) == pytest.approx(20)
    assert events["duration_s"].to_pylist()[1] == pytest.approx(10, abs=0.6)


def test_a_short_pause_is_no_idleness():
    paused = [*walk((0, 0), (5, 0)), *((5.6 + t, x, y) for t, x, y in walk((5, 0), (10, 0)))]
    assert events_of(make_observations({"a": paused}), [], "idle").num_rows == 0
    # Long enough to be seen as standing, too short to be idle.
    longer = [*walk((0, 0), (5, 0)), *_stand(5, 0, 5.1, 6.2), *((6.2 + t, x, y) for t, x, y in walk((5, 0), (10, 0)))]
    assert events_of(make_observations({"a": longer}), [], "idle").num_rows == 0
    assert events_of(make_observations({"a": longer}), [], "idle", idle_seconds=0.2).num_rows == 1


def test_a_track_that_begins_to_stand_does_not_end_anothers_walk():
    paths = {
        "a": [*_stand(0, 0, 0, 5), *((5 + t, x, y) for t, x, y in walk((0, 0), (2, 0)))],
        "b": _stand(9, 9, 5.5, 10),
    }
    stops = events_of(make_observations(paths), [], "stop").to_pylist()
    assert [stop["track_id"] for stop in stops] == ["a", "b"]
    assert stops[0]["duration_s"] == pytest.approx(5, abs=0.5)


def _work(changes: list[tuple[float, float]], until_s: float = 30) -> list[tuple[str, float, float]]:
    """Kind, begin and duration of what a machine that stands does, by (second, change of its mask)."""
    path = _stand(5, 5, 0, until_s)
    observations = make_observations({"d": path}, class_name=["excavator"] * len(path))
    times = pa.array([START_US + round(t * 1e6) for t, _ in changes], pa.int64()).cast(TIMESTAMP)
    table = pa.table([["d"] * len(changes), times, [c for _, c in changes]], schema=CHANGES)
    events = compute_events(observations, [], EventSettings(), table).to_pylist()
    begun = START_US / 1e6
    return [
        (e["kind"], e["ts"].timestamp() - begun, e["duration_s"]) for e in events if e["kind"] in ("active", "idle")
    ]


def _each(step_s: float, until_s: float, change: Callable[[float], float]) -> list[tuple[float, float]]:
    return [(t, change(t)) for t in np.arange(0, until_s, step_s).tolist()]


def test_a_machine_whose_mask_never_changes_is_idle():
    assert [kind for kind, *_ in _work(_each(0.5, 30, lambda t: 0.0))] == ["idle"]


def test_tremble_that_is_weak_beside_its_work_is_none():
    """A mask that changes by 4 % is work of a machine whose arm never moves more, not of one that works at 50 %."""
    assert [kind for kind, *_ in _work(_each(0.5, 30, lambda t: 0.5 if t < 15 else 0.04))] == ["active", "idle"]
    assert [kind for kind, *_ in _work(_each(0.5, 30, lambda t: 0.04))] == ["active"]


def test_a_window_still_sees_the_work_before_it():
    """Changes are those of two seconds about a moment, so work seems to last up to a second longer than it does."""
    seen = _work(_each(0.1, 30, lambda t: float(np.clip((16 - t) / 2, 0, 1)) / 2))
    assert [kind for kind, *_ in seen] == ["active", "idle"]
    assert seen[0][2] == pytest.approx(15, abs=0.3)


def test_short_work_is_none():
    """Jerks of 0.7 s, seen in windows that reach 0.85 s further on both sides."""
    jerks = _each(0.1, 30, lambda t: 0.5 if 2 < t % 7 < 4.4 else 0.0)
    assert [kind for kind, *_ in _work(jerks)] == ["idle"]


def test_where_no_masks_are_known_a_machine_that_stands_does_not_work():
    seen = _work([(t, 0.5) for t in [*np.arange(0, 8, 0.5), *np.arange(22, 30, 0.5)]])
    assert [kind for kind, *_ in seen] == ["active", "idle", "active"]
    assert seen[1][2] == pytest.approx(14, abs=4.5)


def _digger(area_px: int, arm: float) -> Mask:
    """A body with an arm that reaches out to a share of its height."""
    side = round(area_px**0.5)
    crop = np.zeros((2 * side, 2 * side), dtype=np.bool_)
    crop[side:, :side] = True
    top = round(arm * side)
    crop[top : top + max(side // 5, 2), side:] = True
    return Mask(100, 100, crop)


def test_a_digger_that_stands_works_while_its_arm_moves():
    times = np.arange(0, 30, 0.2)
    arm = np.where(times < 15, 0.5 + 0.4 * np.sin(times), 0.5)
    masks = pa.array([_digger(900, a).to_bytes() for a in arm], pa.binary())
    n = len(times)
    observations = make_observations({"d": [(t, 5, 5) for t in times]}, class_name=["excavator"] * n)
    changes = mask_changes(observations.append_column("mask", masks).select(MASK_COLUMNS).to_batches(), 2_000_000)
    assert changes.schema.equals(CHANGES)
    events = compute_events(observations, [], EventSettings(), changes)
    work = [(e["kind"], e["duration_s"]) for e in events.to_pylist() if e["kind"] in ("active", "idle")]
    assert [kind for kind, _ in work] == ["active", "idle"]
    assert work[0][1] == pytest.approx(15, abs=1)
    # Without masks, what stands is idle.
    assert events_of(observations, [], "active").num_rows == 0


@given(dx=st.integers(-3, 3), dy=st.integers(-3, 3), grow=st.integers(0, 1))
def test_a_seam_is_no_change(dx, dy, grow):
    """A mask that trembles by a pixel changes nothing; one that moves by more does."""
    before = Mask(50, 50, np.ones((40, 40), dtype=np.bool_))
    now = Mask(50 + dx, 50 + dy, np.ones((40 + grow, 40), dtype=np.bool_))
    change = mask_change(before, now)
    if max(abs(dx), abs(dy) + grow) <= 1:
        assert change == 0
    if min(abs(dx), abs(dy)) > 1:
        assert change > 0


@pytest.mark.parametrize("starts", [(100.0, 0.0), (0.0, 100.0)], ids=["earlier", "later"])
def test_masks_of_another_video_are_not_compared(starts):
    """A source's videos need not come in order of time; nor is what was hidden for long compared with itself."""
    rows = [(start + t, _digger(900, 0.5 if start else 0.1)) for start in starts for t in np.arange(0, 4, 0.5)]
    batch = pa.record_batch(
        [
            ["d"] * len(rows),
            pa.array([START_US + round(t * 1e6) for t, _ in rows], pa.int64()).cast(TIMESTAMP),
            pa.array([mask.to_bytes() for _, mask in rows], pa.binary()),
        ],
        names=list(MASK_COLUMNS),
    )
    changes = mask_changes([batch], 2_000_000)
    assert changes.num_rows > 0
    assert set(changes["change"].to_pylist()) == {0.0}


def test_most_of_what_is_inferred_marks_a_span():
    path = _stand(5, 5, 0, 10)
    for share, marked in ((0.4, False), (0.6, True)):
        states = ["bridged" if i < share * len(path) else "detected" for i in range(len(path))]
        events = events_of(make_observations({"a": path}, state=states), [], "presence", "stop")
        assert set(events["inferred"].to_pylist()) == {marked}
