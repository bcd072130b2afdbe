import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.errors import ReportError
from flows.reports import REPORTS, run_report
from flows.schema import OBSERVATIONS, TIMESTAMP, TRACKLETS, ChunkResult, State, make_id
from flows.store import Store, Zone, open_store
from tests.stores import (
    START,
    make_chunk,
    make_event,
    make_events,
    make_links,
    make_observation,
    make_result,
    make_tracklet,
)

CLASSES = ("person", "digger", "Über-Kran", "a'b")


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


def _fill(store: Store, seed: int) -> list[dict[str, Any]]:
    """Three chunks each of two sources, some failed and planned ones, events; returns the observations."""
    rng = random.Random(seed)
    everything: list[dict[str, Any]] = []
    for source in ("gate", "yard"):
        events, links = [], {}
        for index in range(3):
            chunk = make_chunk(index * 20, source_id=source)
            rows, tracklets = [], []
            for number in range(8):
                name = make_id(source, index, number)
                start, step = rng.uniform(0, 30), rng.choice([0.04, 1 / 3, 0.5])
                own = [
                    make_observation(
                        chunk,
                        start + k * step,
                        tracklet_id=name,
                        class_name=rng.choice(CLASSES[: number + 1]) if number < 3 else CLASSES[number % 4],
                        state=rng.choice(list(State)).value,
                        **_place(rng, k, calibrated=source == "gate"),
                    )
                    for k in range(rng.randint(1, 40))
                ]
                rows += own
                tracklets.append(make_tracklet(chunk, own))
                links[name] = make_id(source, "track", number if number < 2 else name)
                events.append(_event(rng, source, links[name]))
            store.commit(
                ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist(tracklets, TRACKLETS))
            )
            everything += rows
        store.write_links(source, 1, make_links(source, links))
        waits = [_visit("ab"[n % 2], 70 * n, 70 * n + 99.5, source_id=source, kind="wait") for n in range(13)]
        store.write_events(source, make_events(*events, *waits))
        store.write_zones(source, [Zone(name, "zone", ((0, 0), (9, 0), (9, 9))) for name in "ab"])
        store.plan([make_chunk(1, source_id=source)])
        store.commit(ChunkResult.failed(make_chunk(2, source_id=source), "no frames"))
        store.commit(ChunkResult.failed(make_chunk(3, source_id=source), "no frames"))
    return everything


def _place(rng: random.Random, step: int, calibrated: bool) -> dict[str, float]:
    x, y = 3.0 * step + rng.uniform(-2, 2), rng.uniform(-200, 200)
    box = {"x1_px": x - 10, "y1_px": y - 40, "x2_px": x + 10, "y2_px": y, "x_px": x, "y_px": y}
    return box | ({"x_m": x / 30, "y_m": y / 30} if calibrated and rng.random() < 0.9 else {})


def _event(rng: random.Random, source: str, track: str) -> dict[str, Any]:
    place = {"source_id": source, "track_id": track, "class_name": rng.choice(CLASSES)}
    time = {"ts": START + timedelta(seconds=rng.uniform(0, 8000)), "inferred": rng.random() < 0.3}
    if rng.random() < 0.5:
        return make_event(**place, **time, zone=rng.choice(["a", "b"]), duration_s=rng.uniform(0, 100) ** 2 / 7)
    direction = rng.choice(["forward", "backward"])
    return make_event(**place, **time, kind="crossing", zone="line", duration_s=None, direction=direction)


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"source": "gate"},
    {"class": "Über-Kran"},
    {"source": "yard", "class": "a'b", "t0": START + timedelta(seconds=10), "t1": START + timedelta(minutes=25)},
    {"t0": "2026-03-02T00:10:00+00:00"},
    {"t1": "2026-03-02T01:10:00+01:00", "bin_seconds": 900},
    {"bin_seconds": 7},
    {"cell": 1.5, "unit": "m", "min_motion": 0.5, "zone": "a"},
    {"cell": 0.3, "min_motion": 0, "min_seconds": 2.5, "limit": 3},
    {"source": "gate", "zone": "b", "t0": START + timedelta(minutes=3), "bin_seconds": 60},
]


def test_both_stores_give_identical_reports(tmp_path: Path, postgis_database: str) -> None:
    with open_store(str(tmp_path)) as files, open_store(postgis_database) as server:
        for store in (files, server):
            _fill(store, seed=11)
        for name, report in REPORTS.items():
            for parameters in PARAMETERS:
                taken = {key: value for key, value in parameters.items() if key in report.parameters}
                one, other = (run_report(store, name, **taken) for store in (files, server))
                assert one.schema == other.schema, name
                # As text, so that equal means equal to the last bit.
                assert repr(one.to_pylist()) == repr(other.to_pylist()), (name, taken)
            assert run_report(files, name).num_rows > 0


def test_an_empty_store_has_empty_reports(store: Store) -> None:
    for name in REPORTS:
        assert run_report(store, name).num_rows == 0


def test_counts(store: Store) -> None:
    rows = _fill(store, seed=5)
    # Tracklets 0 and 1 of every chunk of a source are one track each, the other six are their own.
    table = run_report(store, "counts")
    assert table.schema.types == [pa.string(), pa.int64(), pa.int64(), pa.float64(), TIMESTAMP, TIMESTAMP]
    assert sum(table["tracks"].to_pylist()) == 2 * (2 + 3 * 6)
    assert sum(table["observations"].to_pylist()) == len(rows)
    assert table["tracks"].to_pylist() == sorted(table["tracks"].to_pylist(), reverse=True)
    assert min(table["first_seen"].to_pylist()) == min(row["ts"] for row in rows)
    later = run_report(store, "counts", t0=START + timedelta(minutes=30))
    # Only the last chunk reaches past half an hour, and the two tracks that span all chunks.
    assert sum(later["tracks"].to_pylist()) == 2 * (2 + 6)


def test_counts_by_hour_bins_every_track_once(store: Store) -> None:
    _fill(store, seed=5)
    for seconds in (60, 3600):
        table = run_report(store, "counts_by_hour", bin_seconds=seconds)
        assert sum(table["tracks"].to_pylist()) == 40
        assert all(start.timestamp() % seconds == 0 for start in table["bin_start"].to_pylist())
    (start, *_) = run_report(store, "counts_by_hour", t1=START + timedelta(minutes=5))["bin_start"].to_pylist()
    assert start == datetime(2026, 3, 1, 23, tzinfo=UTC)


def test_tracks_lists_what_was_in_view(store: Store) -> None:
    _fill(store, seed=5)
    t0, t1 = START + timedelta(seconds=5), START + timedelta(seconds=20)
    everything = run_report(store, "tracks").to_pylist()
    shown = run_report(store, "tracks", source="gate", t0=t0, t1=t1).to_pylist()
    assert shown == [row for row in everything if row["source_id"] == "gate" and row["t1"] >= t0 and row["t0"] < t1]
    assert 0 < len(shown) < len(everything)


def test_zones_and_lines(store: Store) -> None:
    _fill(store, seed=5)
    store.write_events(
        "gate",
        make_events(
            make_event(duration_s=1.25),
            make_event(duration_s=2.5, track_id="b"),
            make_event(duration_s=0.0004, track_id="b", ts=START + timedelta(hours=1)),
            make_event(kind="crossing", zone="line", direction="forward", duration_s=None),
            make_event(kind="crossing", zone="line", direction="forward", duration_s=None, track_id="b", inferred=True),
            make_event(kind="crossing", zone="line", direction="backward", duration_s=None, class_name="digger"),
        ),
    )
    visits = {"source_id": "gate", "zone": "yard", "class_name": "person"}
    assert run_report(store, "zones", source="gate").to_pylist() == [
        {**visits, "visits": 3, "tracks": 2, "total_s": 3.75, "mean_s": 1.25, "median_s": 1.25, "longest_s": 2.5}
    ]
    assert run_report(store, "zones", source="gate", t0=START + timedelta(minutes=1))["visits"].to_pylist() == [1]
    # The window begins with t0 and ends before t1.
    for edges, n_visits in (({"t0": START}, 3), ({"t1": START}, 0), ({"t0": START + timedelta(hours=1)}, 1)):
        assert sum(run_report(store, "zones", source="gate", **edges)["visits"].to_pylist()) == n_visits
    line = {"source_id": "gate", "line": "line"}
    assert run_report(store, "lines", source="gate").to_pylist() == [
        {**line, "class_name": "digger", "direction": "backward", "crossings": 1, "tracks": 1, "inferred": 0},
        {**line, "class_name": "person", "direction": "forward", "crossings": 2, "tracks": 2, "inferred": 1},
    ]


def test_quality_shares_add_up(store: Store) -> None:
    rows = _fill(store, seed=5)
    table = run_report(store, "quality").to_pylist()
    assert {(row["class_name"], row["state"]): row["observations"] for row in table} == Counter(
        (row["class_name"], row["state"]) for row in rows
    )
    for name in {row["class_name"] for row in table}:
        assert sum(row["share"] for row in table if row["class_name"] == name) == pytest.approx(1)


def _visit(zone: str, begin_s: float, end_s: float, track: str = "track", **overrides: Any) -> dict[str, Any]:
    ts = START + timedelta(seconds=begin_s)
    return make_event(zone=zone, ts=ts, duration_s=end_s - begin_s, track_id=track, **overrides)


def test_occupancy_is_a_mean_and_a_most(store: Store) -> None:
    store.plan([make_chunk()])
    visits = [
        _visit("yard", 0, 90),
        _visit("yard", 30, 75, "b"),
        _visit("yard", 75, 80, "c"),  # as the one before leaves: never three at once
        _visit("gate", 200, 230, "b"),
    ]
    store.write_events("gate", make_events(*visits))
    rows = run_report(store, "occupancy", bin_seconds=60).to_pylist()
    assert [
        (r["zone"], (r["bin_start"] - START).total_seconds(), r["mean_objects"], r["most_objects"]) for r in rows
    ] == [
        ("yard", 0, (60 + 30) / 60, 2),
        ("yard", 60, (30 + 15 + 5) / 60, 2),
        ("gate", 180, 30 / 60, 1),
    ]
    window = {"t0": START + timedelta(seconds=70), "t1": START + timedelta(seconds=78)}
    (row,) = run_report(store, "occupancy", bin_seconds=60, **window).to_pylist()
    assert (row["mean_objects"], row["most_objects"]) == ((8 + 5 + 3) / 60, 2)


def test_a_queue_counts_who_waits(store: Store) -> None:
    waits = [_visit("yard", 0, 60, "a", kind="wait"), _visit("yard", 30, 60, "b", kind="wait")]
    store.write_events("gate", make_events(*waits, _visit("yard", 0, 60, "c")))
    (row,) = run_report(store, "queue", bin_seconds=60).to_pylist()
    assert (row["zone"], row["mean_objects"], row["most_objects"]) == ("yard", 1.5, 2)


def test_occupancy_agrees_with_counting_every_millisecond(store: Store) -> None:
    rng = random.Random(3)
    spans = [(begin := rng.randrange(0, 4000), begin + rng.randrange(1, 900)) for _ in range(25)]
    store.write_events(
        "gate", make_events(*(_visit("yard", a / 1000, b / 1000, str(i)) for i, (a, b) in enumerate(spans)))
    )
    inside = [sum(a <= t < b for a, b in spans) for t in range(5000)]
    for row in run_report(store, "occupancy", bin_seconds=1).to_pylist():
        second = round((row["bin_start"] - START).total_seconds())
        within = inside[second * 1000 : second * 1000 + 1000]
        assert (row["mean_objects"], row["most_objects"]) == (sum(within) / 1000, max(within))


def test_od_counts_first_and_last_zones(store: Store) -> None:
    visits = [
        *(_visit("west", t, t + 5, f"a{t}") for t in (0, 10)),
        *(_visit("middle", t + 6, t + 8, f"a{t}") for t in (0, 10)),
        *(_visit("east", t + 9, t + 12, f"a{t}") for t in (0, 10)),
        _visit("east", 0, 5, "back"),
        _visit("west", 10, 12, "back", class_name="person"),
        _visit("west", 0, 5, "stays"),
    ]
    store.write_events("gate", make_events(*visits))
    rows = run_report(store, "od").to_pylist()
    assert [(row["origin"], row["destination"], row["tracks"]) for row in rows] == [
        ("east", "west", 1),
        ("west", "east", 2),
    ]


def test_lines_by_hour_adds_up_to_lines(store: Store) -> None:
    _fill(store, seed=5)
    for bin_seconds in (60, 3600):
        rows = run_report(store, "lines_by_hour", bin_seconds=bin_seconds).to_pylist()
        assert sum(row["crossings"] for row in rows) == sum(run_report(store, "lines")["crossings"].to_pylist())
        assert all(row["bin_start"].timestamp() % bin_seconds == 0 for row in rows)


def _walk(store: Store) -> None:
    """For ten seconds one object walks 2 m and 20 px a second; another, hidden half of the time, stands still."""
    chunk = make_chunk()
    walks, stands = [], []
    for index in range(101):
        t = index / 10
        box = {"x1_px": 20 * t, "x2_px": 20 * t + 40, "y1_px": 0.0, "y2_px": 40.0, "x_px": 20 * t, "y_px": 40.0}
        walks.append(make_observation(chunk, t, tracklet_id="w", x_m=2 * t, y_m=0.5, **box))
        state = State.BRIDGED if index < 50 else State.DETECTED
        stands.append(make_observation(chunk, t, tracklet_id="s", x_m=100.0, y_m=0.5, state=state.value))
    observations = pa.Table.from_pylist([*walks, *stands], OBSERVATIONS)
    tracklets = pa.Table.from_pylist([make_tracklet(chunk, rows) for rows in (walks, stands)], TRACKLETS)
    store.commit(ChunkResult(chunk, observations, tracklets))
    store.write_links("gate", 1, make_links("gate", {"w": "walker", "s": "stander"}))


def test_activity(store: Store) -> None:
    _walk(store)
    by_track = {row["track_id"]: row for row in run_report(store, "activity_by_track").to_pylist()}
    for track, active_s in (("walker", 10), ("stander", 0)):
        row = by_track[track]
        assert [row[name] * 3600 for name in ("present_h", "active_h", "idle_h")] == pytest.approx(
            [10, active_s, 10 - active_s]
        )
        assert row["active_share"] == active_s / 10
    (row,) = run_report(store, "activity").to_pylist()
    assert (row["tracks"], row["active_share"]) == (2, 0.5)
    (row,) = run_report(store, "activity", min_motion=0.6).to_pylist()
    assert row["active_share"] == 0


def test_speed_is_of_what_was_seen(store: Store) -> None:
    _walk(store)
    (row,) = run_report(store, "speed").to_pylist()
    # Ten seconds and the last instant of the walker, five and its last instant of the other.
    assert row["seconds"] == 11 + 6
    assert (row["p85_m_s"], row["max_m_s"]) == pytest.approx((2, 2))
    assert row["mean_m_s"] == pytest.approx(2 * 11 / 17, abs=1e-3)


def test_heatmap_adds_up_to_the_time_present(store: Store) -> None:
    _walk(store)
    for unit, cell, columns in (("m", 5.0, 4 + 1), ("px", 50.0, 4)):
        rows = run_report(store, "heatmap", unit=unit, cell=cell).to_pylist()
        assert sum(row["seconds"] for row in rows) == pytest.approx(20)
        assert all(row["x"] % cell == 0 and row["y"] % cell == 0 for row in rows)
        assert len(rows) >= columns
    (row,) = [row for row in run_report(store, "heatmap", unit="m", cell=5).to_pylist() if row["x"] == 100]
    assert (row["seconds"], row["tracks"], row["y"]) == (10, 1, 0)


def test_inferred_is_a_share_of_time(store: Store) -> None:
    _walk(store)
    (row,) = run_report(store, "inferred").to_pylist()
    assert (row["seconds"], row["inferred_s"], row["share"]) == (20, 5, 0.25)


def test_tracks_by_zone_length_and_number(store: Store) -> None:
    _fill(store, seed=5)
    everything = run_report(store, "tracks").to_pylist()
    visited = set(store.query("select track_id from events where zone = 'a'")["track_id"].to_pylist())
    shown = run_report(store, "tracks", zone="a", min_seconds=3).to_pylist()
    assert shown == [row for row in everything if row["track_id"] in visited and row["duration_s"] >= 3]
    assert 0 < len(shown) < len(everything)
    assert run_report(store, "tracks", limit=4).to_pylist() == everything[:4]


def test_ledger_groups_errors(store: Store) -> None:
    rows = _fill(store, seed=5)
    table = run_report(store, "ledger", source="gate").to_pylist()
    assert [(row["state"], row["error"], row["chunks"], row["video_s"]) for row in table] == [
        ("done", None, 3, 180.0),
        ("failed", "no frames", 2, 120.0),
        ("planned", None, 1, 60.0),
    ]
    assert table[0]["observations"] == sum(row["source_id"] == "gate" for row in rows)
    damaged = replace(
        make_result(make_chunk(90)), counters={"frames": 1, "corrupt_packets": 7}, timings_s={"detect": 2.0}
    )
    store.commit(damaged)
    after = run_report(store, "ledger", source="gate").to_pylist()
    assert after[0]["damaged_packets"] == table[0]["damaged_packets"] + 7
    assert after[0]["worker_s"] == pytest.approx(table[0]["worker_s"] + 2)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("heat", {}, "no report 'heat'; there are counts, counts_by_hour"),
        ("ledger", {"t0": START}, "report ledger has no parameter 't0'; it has source"),
        ("counts", {"source": "gaet"}, "no source 'gaet'; the store has gate, yard"),
        ("counts", {"source": ""}, "source must be a name, got ''"),
        ("counts", {"class": 3}, "class must be a name, got 3"),
        ("counts", {"t0": "yesterday"}, "t0 must be a time such as .*, got 'yesterday'"),
        ("counts", {"t0": "2026-03-02", "t1": "2026-03-02"}, "t0 must be before t1"),
        ("counts_by_hour", {"bin_seconds": 0}, "bin_seconds must be a whole number of seconds from 1 to .*, got 0"),
        ("counts_by_hour", {"bin_seconds": "1 hour"}, "bin_seconds must be a whole number"),
        ("tracks", {"zone": "yrad"}, "no zone 'yrad'; the store has none yet"),
        ("tracks", {"limit": 0}, "limit must be a whole number of rows from 1 to"),
        ("tracks", {"min_seconds": -1}, "min_seconds must be a number of seconds, at least 0, got -1"),
        ("heatmap", {"cell": "nan"}, "cell must be a number of pixels or metres, at least 0.01, got 'nan'"),
        ("heatmap", {"cell": 0}, "cell must be a number"),
        ("heatmap", {"unit": "feet"}, "unit must be px or m, got 'feet'"),
        ("activity", {"min_motion": "inf"}, "min_motion must be a number of box sizes a second"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, parameters: dict[str, Any], message: str) -> None:
    with open_store(str(tmp_path)) as store:
        store.plan([make_chunk(), make_chunk(source_id="yard")])
        with pytest.raises(ReportError, match=message):
            run_report(store, name, **parameters)


def test_names_cannot_reach_into_the_statement(store: Store) -> None:
    _fill(store, seed=5)
    assert run_report(store, "counts", **{"class": "x' or true --"}).num_rows == 0
    assert run_report(store, "counts", **{"class": "a'b"})["class_name"].to_pylist() == ["a'b"]
