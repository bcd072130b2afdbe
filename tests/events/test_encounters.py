"""Proximity and cycles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.locate import DEPTHS_M
from flows.store import Zone
from tests.walks import events_of, make_observations, seconds, walk

A = Zone("load", "zone", ((0, 0), (4, 0), (4, 4), (0, 4)))
B = Zone("dump", "zone", ((20, 0), (24, 0), (24, 4), (20, 4)))


def _classes(paths, **classes):
    return make_observations(paths, class_name=[classes[track] for track, points in paths.items() for _ in points])


def test_a_person_near_a_machine_is_an_encounter():
    paths = {"p": walk((-10, 2), (10, 2)), "f": [(t, 0, 0) for t in np.arange(0, 20.1, 0.1)]}
    paths["q"] = walk((-10, 0), (10, 0))  # another person, and people are no danger to each other
    (row, other) = events_of(_classes(paths, p="person", f="forklift", q="person"), [], "proximity").to_pylist()
    assert {row["track_id"], other["track_id"]} == {"p", "q"}
    row = row if row["track_id"] == "p" else other
    assert row["other"] == "f"
    # A forklift is a disc of 2.5 m.
    assert row["distance_m"] == pytest.approx(2 - 1.25, abs=0.02)
    assert row["duration_s"] == pytest.approx(2 * np.sqrt(4.25**2 - 2**2), abs=0.5)


def test_observations_need_not_be_simultaneous():
    paths = {"p": walk((-10, 3), (10, 3), hz=3), "f": [(t + 0.17, 0, 0) for t in np.arange(0, 20.1, 0.7)]}
    (row,) = events_of(_classes(paths, p="person", f="car"), [], "proximity").to_pylist()
    assert row["distance_m"] == pytest.approx(3 - DEPTHS_M["car"] / 2, abs=0.05)


def test_whom_a_machine_reaches_is_at_no_distance():
    paths = {"p": walk((-10, 1), (10, 1)), "f": [(t, 0, 0) for t in np.arange(0, 20.1, 0.1)]}
    (row,) = events_of(_classes(paths, p="person", f="truck"), [], "proximity").to_pylist()
    assert row["distance_m"] == 0


def test_where_a_track_is_not_known_there_is_no_encounter():
    gone = [(0.0, -20.0, 0.0), (60.0, 20.0, 0.0)]  # a minute unseen, and the straight way leads past the machine
    paths = {"p": gone, "f": [(t, 0, 0) for t in np.arange(0, 60, 0.5)]}
    assert events_of(_classes(paths, p="person", f="truck"), [], "proximity").num_rows == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_encounters_agree_with_all_distances(seed):
    """Against the plain definition on the same grid, every person with every machine."""
    random = np.random.default_rng(seed)
    times = np.arange(0, 10.01, 0.25)
    paths = {
        f"{kind}{i}": list(zip(times, *np.cumsum(random.normal(0, 1.5, (2, len(times))), axis=1), strict=True))
        for kind, n in (("p", 3), ("m", 2))
        for i in range(n)
    }
    kinds = {name: "person" if name[0] == "p" else "car" for name in paths}
    found = events_of(_classes(paths, **kinds), [], "proximity", near_m=2.0, debounce_seconds=0).to_pylist()
    expected = {}
    for p in (name for name in paths if name[0] == "p"):
        for m in (name for name in paths if name[0] == "m"):
            apart = np.hypot(*(np.array(paths[p])[:, 1:] - np.array(paths[m])[:, 1:]).T)
            distance = np.maximum(apart - DEPTHS_M["car"] / 2, 0)
            runs = int(np.sum(np.diff((distance <= 2).astype(int), prepend=0) == 1))
            if runs:
                expected[p, m] = (runs, pytest.approx(distance.min(), abs=1e-6))
    grouped = {}
    for row in found:
        runs, least = grouped.get((row["track_id"], row["other"]), (0, np.inf))
        grouped[row["track_id"], row["other"]] = (runs + 1, min(least, row["distance_m"]))
    assert grouped == expected


def test_a_machine_that_shuttles_makes_cycles():
    shuttle = walk((2, 2), (22, 2), (2, 2), (22, 2), (2, 2), speed=2)
    events = events_of(make_observations({"t": shuttle}), [A, B], "cycle")
    assert list(zip(events["zone"].to_pylist(), events["other"].to_pylist(), strict=True)) == [
        ("load", "dump"),
        ("dump", "load"),
        ("load", "dump"),
    ]
    home = [i for i, zone in enumerate(events["zone"].to_pylist()) if zone == "load"]
    assert [seconds(events)[i] for i in home] == pytest.approx([0, 19], abs=0.1)
    assert [events["duration_s"].to_pylist()[i] for i in home] == pytest.approx([19, 20], abs=0.1)


def test_coming_back_without_having_been_elsewhere_is_no_cycle():
    wander = walk((2, 2), (10, 2), (2, 2), (10, 2), (2, 2))
    assert events_of(make_observations({"t": wander}), [A, B], "cycle").num_rows == 0
    # Nor is that another one is in A when the first is gone.
    there, another = walk((2, 2), (22, 2)), [(30 + t, x, y) for t, x, y in walk((2, 2), (3, 2))]
    assert events_of(make_observations({"t": there, "u": another}), [A, B], "cycle").num_rows == 0
