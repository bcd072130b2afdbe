"""Samples: a second of each object, whatever the frame rate."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.schema import OBSERVATIONS
from flows.store.samples import SAMPLES, sample
from tests.stores import make_chunk, make_observation

CHUNK = make_chunk()


def _walk(seconds: float, hz: float, **overrides: Any) -> list[dict[str, Any]]:
    """An object of 20 by 20 pixels that walks 10 px, or 2 m, a second."""
    rows = []
    for index in range(round(seconds * hz) + 1):
        t = index / hz
        box = {"x1_px": 10 * t, "x2_px": 10 * t + 20, "y1_px": 0.0, "y2_px": 20.0}
        rows.append(make_observation(CHUNK, t, **box, x_px=10 * t, x_m=2 * t, y_m=1.0, **overrides))
    return rows


def _sampled(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    table = sample(pa.Table.from_pylist(list(rows), OBSERVATIONS))
    assert table.schema == SAMPLES
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_there_is_one_sample_a_second() -> None:
    rows = _sampled(*_walk(2.4, hz=25))
    assert [row["duration_s"] for row in rows] == pytest.approx([1, 1, 0.4])
    assert [row["n_observations"] for row in rows] == [25, 25, 11]
    assert [row["x_px"] for row in rows] == pytest.approx([4.8, 14.8, 22.0])
    assert [row["speed_m_s"] for row in rows] == pytest.approx([2, 2, 2])
    assert [row["motion_per_s"] for row in rows] == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize("hz", [1, 2, 5, 25, 60])
def test_the_frame_rate_does_not_matter(hz: float) -> None:
    rows = _sampled(*_walk(5, hz))
    assert sum(row["duration_s"] for row in rows) == pytest.approx(5)
    assert [row["speed_m_s"] for row in rows] == pytest.approx([2.0] * len(rows))


def test_what_is_seen_rarely_stands_until_it_is_seen_again() -> None:
    assert [row["duration_s"] for row in _sampled(*_walk(12, hz=0.25))] == [4, 4, 4, 0]


def test_too_short_a_step_has_no_speed() -> None:
    (row,) = _sampled(*_walk(0.3, hz=10))
    assert (row["speed_m_s"], row["motion_per_s"]) == (None, None)
    edge = _sampled(make_observation(CHUNK, 0.98, x_m=0, y_m=0), make_observation(CHUNK, 1.0, x_m=3, y_m=0))
    assert [row["speed_m_s"] for row in edge] == [None, None]


def test_states_are_counted_and_objects_kept_apart() -> None:
    rows = _sampled(
        *_walk(0.4, hz=10, state="bridged"),
        *_walk(0.2, hz=10, state="interpolated", tracklet_id="b"),
        *_walk(1.1, hz=10, state="detected", tracklet_id="c"),
    )
    assert [(row["n_observations"], row["n_bridged"], row["n_interpolated"], row["n_detected"]) for row in rows] == [
        (5, 5, 0, 0),
        (3, 0, 3, 0),
        (10, 0, 0, 10),
        (2, 0, 0, 2),
    ]


def test_without_calibration_there_is_motion_and_no_speed() -> None:
    rows = [{**row, "x_m": None, "y_m": None} for row in _walk(2, hz=10)]
    for row in _sampled(*rows):
        assert (row["x_m"], row["y_m"], row["speed_m_s"]) == (None, None, None)
        assert row["motion_per_s"] == pytest.approx(0.5)


def test_a_position_missing_now_and_then_is_left_out_of_the_mean() -> None:
    rows = _walk(0.8, hz=5)
    rows[1] |= {"x_m": None, "y_m": None}
    (row,) = _sampled(*rows)
    assert row["x_m"] == pytest.approx((0 + 0.8 + 1.2 + 1.6) / 4)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 50), st.sampled_from(["bridged", "detected", "propagated"])),
        min_size=1,
        max_size=60,
    )
)
@settings(deadline=None)
def test_nothing_is_lost(seen: list[tuple[str, float, str]]) -> None:
    rows = [make_observation(CHUNK, t, tracklet_id=name, state=state) for name, t, state in seen]
    sampled = _sampled(*rows)
    for name in "abc":
        own = [row for row in rows if row["tracklet_id"] == name]
        of_it = [row for row in sampled if row["tracklet_id"] == name]
        assert sum(row["n_observations"] for row in of_it) == len(own)
        assert sum(row["n_bridged"] for row in of_it) == sum(row["state"] == "bridged" for row in own)
        times = [row["ts"] for row in own]
        if times:
            span = (max(times) - min(times)).total_seconds()
            assert sum(row["duration_s"] for row in of_it) == pytest.approx(span, abs=1e-5)
