"""What both stores promise, on both."""

import multiprocessing
import multiprocessing.synchronize
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from flows.errors import StoreError
from flows.schema import (
    EPOCH,
    EVENTS,
    LEDGER,
    OBSERVATIONS,
    TIMESTAMP,
    TRACK_LINKS,
    TRACKLETS,
    ChunkResult,
    ChunkState,
)
from flows.store import Filter, Store, Zone, open_store
from flows.store.samples import SAMPLES
from flows.store.tables import (
    CALIBRATION_VERSIONS,
    CALIBRATIONS,
    RUNS,
    SOURCES,
    TRACK_OBSERVATIONS,
    VIDEOS,
    ZONE_VERSIONS,
    ZONES,
)
from tests.stores import (
    START,
    make_chunk,
    make_event,
    make_events,
    make_links,
    make_observation,
    make_result,
    make_tracklet,
    make_video,
)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


def _states(store: Store) -> dict[str, str]:
    ledger = store.ledger().to_pylist()
    return {row["chunk_id"]: row["state"] for row in ledger}


def _committed(store: Store) -> ChunkResult:
    """A chunk over midnight, stored, with its tracklet linked to track T."""
    result = make_result(make_chunk())
    store.add_video(result.chunk.video)
    store.commit(result)
    store.write_links("gate", 1, make_links("gate", {result.tracklets["tracklet_id"][0].as_py(): "T"}))
    return result


def test_an_empty_store_answers_every_table_with_its_columns(store: Store) -> None:
    expected = {
        "sources": SOURCES,
        "videos": VIDEOS,
        "runs": RUNS,
        "chunks": LEDGER,
        "tracklets": TRACKLETS,
        "track_links": TRACK_LINKS,
        "observations": OBSERVATIONS,
        "samples": SAMPLES,
        "track_observations": TRACK_OBSERVATIONS,
        "zones": ZONES,
        "zone_versions": ZONE_VERSIONS,
        "calibrations": CALIBRATIONS,
        "calibration_versions": CALIBRATION_VERSIONS,
        "events": EVENTS,
    }
    for name, schema in expected.items():
        table = store.query(f"select * from {name}")
        assert table.num_rows == 0
        # PostGIS adds its geometries and their frames.
        assert [column for column in table.schema.names if column not in ("geom", "srid")] == schema.names, name
    tracks = store.query("select track_id, class_name, t0, duration_s, n_tracklets, n_bridged from tracks")
    assert tracks.schema.types == [pa.string(), pa.string(), TIMESTAMP, pa.float64(), pa.int64(), pa.int64()]
    assert store.ledger().schema == LEDGER
    assert store.tracklets("gate").schema == TRACKLETS
    assert store.links("gate").schema == TRACK_LINKS
    assert list(store.observations(Filter())) == []
    assert store.zones("gate") == []
    assert store.calibration("gate") is None


def test_preparing_again_keeps_what_is_there(store: Store, store_url: str) -> None:
    _committed(store)
    with open_store(store_url) as again:
        assert again.query("select count(*) as n from observations")["n"].to_pylist() == [90]


def test_plan_leaves_known_chunks_as_they_are(store: Store) -> None:
    chunks = [make_chunk(index) for index in range(3)]
    store.plan(chunks)
    store.commit(make_result(chunks[1]))
    store.plan(chunks)
    ledger = store.ledger()
    assert ledger.schema == LEDGER
    assert ledger["index"].to_pylist() == [0, 1, 2]
    assert ledger["state"].to_pylist() == ["planned", "done", "planned"]
    assert store.ledger([chunks[1].chunk_id, "unknown"])["rows"].to_pylist() == [90]
    row = ledger.to_pylist()[1]
    assert (row["start_ns"], row["end_ns"], row["settings_hash"]) == (60_000_000_000, 120_000_000_000, "settings")
    assert (row["frames"], row["counters"], row["timings"]) == (90, '{"frames": 90}', '{"track": 1.5}')
    assert abs(row["updated_at"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_begin_counts_attempts_and_fails_what_never_ends(store: Store) -> None:
    chunk = make_chunk()
    store.plan([chunk])
    assert [store.begin(chunk, 2) for _ in range(4)] == [True, True, False, False]
    (row,) = store.ledger().to_pylist()
    assert (row["state"], row["attempts"]) == (ChunkState.FAILED, 2)
    assert "began 2 times and never ended" in row["error"]
    assert store.reset_failed([chunk.chunk_id, "unknown"]) == 1
    assert store.reset_failed([chunk.chunk_id]) == 0
    assert store.begin(chunk, 2)
    (row,) = store.ledger().to_pylist()
    assert (row["state"], row["attempts"], row["error"]) == (ChunkState.RUNNING, 1, None)


def test_begin_declines_what_is_done_and_takes_what_nobody_planned(store: Store) -> None:
    chunk = make_chunk()
    assert store.begin(chunk, 3)
    store.commit(make_result(chunk))
    assert not store.begin(chunk, 3)
    assert _states(store) == {chunk.chunk_id: ChunkState.DONE}


def test_a_commit_stores_every_column(store: Store) -> None:
    chunk = make_chunk()
    full = {"confidence": 0.9, "object_score": -3.5, "area_px": 12.0, "x_m": 1e-300, "y_m": 7.1, "sigma_m": 0.1}
    rows = [
        make_observation(chunk, 0, **full, mask=b"\x00\xff,\t"),
        make_observation(chunk, 1, x_m=1.0, state="bridged"),
        make_observation(chunk, 2, class_name="grüner Kran, 4"),
    ]
    tracklets = [make_tracklet(chunk, rows), make_tracklet(chunk, rows, tracklet_id="other", head_pts_ns=[])]
    result = ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist(tracklets, TRACKLETS))
    store.commit(result)
    store.write_links("gate", 1, make_links("gate", {rows[0]["tracklet_id"]: "T"}))
    (batch,) = store.observations(Filter())
    stored = pa.Table.from_batches([batch])
    assert stored.select(OBSERVATIONS.names).equals(result.observations)
    assert store.tracklets("gate").sort_by("tracklet_id").equals(result.tracklets.sort_by("tracklet_id"))


def test_a_commit_again_replaces_and_others_stay(store: Store) -> None:
    first, second = make_chunk(0), make_chunk(1)
    store.commit(make_result(first, n_rows=90, mark="old"))
    store.commit(make_result(second, n_rows=50, mark="other"))
    store.commit(make_result(first, n_rows=70, mark="new"))
    marks = store.query("select mask, count(*) as n from observations group by mask order by n").to_pylist()
    assert marks == [{"mask": b"other", "n": 50}, {"mask": b"new", "n": 70}]
    assert store.tracklets("gate")["n_observations"].to_pylist() == [70, 50]
    assert store.query("select count(*) as n from tracklets")["n"].to_pylist() == [2]
    assert store.ledger([first.chunk_id])["rows"].to_pylist() == [70]


def test_an_empty_chunk_is_done(store: Store) -> None:
    chunk = make_chunk()
    store.commit(make_result(chunk))
    store.commit(make_result(chunk, n_rows=0))
    assert store.query("select count(*) as n from observations")["n"].to_pylist() == [0]
    assert _states(store) == {chunk.chunk_id: ChunkState.DONE}
    assert store.tracklets("gate").num_rows == 0


def test_a_failure_is_recorded_and_takes_nothing_back(store: Store) -> None:
    bad, good = make_chunk(0), make_chunk(1)
    store.plan([bad, good])
    store.commit(ChunkResult.failed(bad, "moov atom not found"))
    store.commit(make_result(good))
    store.commit(ChunkResult.failed(good, "a slower attempt died"))
    assert store.ledger([bad.chunk_id]).select(["state", "error", "rows"]).to_pylist() == [
        {"state": "failed", "error": "moov atom not found", "rows": 0}
    ]
    assert store.ledger([good.chunk_id]).select(["state", "error", "rows"]).to_pylist() == [
        {"state": "done", "error": None, "rows": 90}
    ]
    store.commit(make_result(bad))
    assert set(_states(store).values()) == {ChunkState.DONE}
    assert store.query("select count(*) as n from observations")["n"].to_pylist() == [180]


def test_the_newest_links_make_the_tracks(store: Store) -> None:
    results = [make_result(make_chunk(index), 50, name) for index, name in enumerate(("person", "person", "digger"))]
    for result in results:
        store.commit(result)
    a, b, c = (result.tracklets["tracklet_id"][0].as_py() for result in results)
    store.write_links("gate", 1, make_links("gate", {a: "A", b: "B", c: "C"}))
    store.write_links("gate", 2, make_links("gate", {a: "A", b: "A"}, version=2))
    store.write_links("gate", 2, make_links("gate", {a: "A", b: "A", c: "A"}, version=2))
    (track,) = store.query("select * from tracks").to_pylist()
    assert track == {
        "track_id": "A",
        "source_id": "gate",
        "class_name": "person",
        "t0": START,
        "t1": START + timedelta(seconds=169),
        "duration_s": 169.0,
        "n_tracklets": 3,
        "n_observations": 150,
        "n_detected": 0,
        "n_bridged": 0,
    }
    assert store.query("select distinct track_id from track_observations")["track_id"].to_pylist() == ["A"]
    assert store.links("gate").equals(store.links("gate", 2))
    assert store.links("gate", 1)["track_id"].to_pylist() != ["A", "A", "A"]
    assert store.links("gate", 3).num_rows == 0
    assert store.query("select count(*) as n from track_links")["n"].to_pylist() == [6]
    # An empty newest version is one: nothing is linked.
    store.write_links("gate", 3, TRACK_LINKS.empty_table())
    assert store.query("select count(*) as n from tracks")["n"].to_pylist() == [0]
    assert store.links("gate").num_rows == 0


def test_tracklets_without_rows_do_not_stretch_a_track(store: Store) -> None:
    chunk = make_chunk()
    rows = [make_observation(chunk, second) for second in range(5)]
    tracklets = [
        make_tracklet(chunk, rows),
        make_tracklet(chunk, rows, tracklet_id="ghost", n_observations=0, t1=START + timedelta(days=1)),
    ]
    store.commit(
        ChunkResult(chunk, pa.Table.from_pylist(rows, OBSERVATIONS), pa.Table.from_pylist(tracklets, TRACKLETS))
    )
    store.write_links("gate", 1, make_links("gate", {"ghost": "T", rows[0]["tracklet_id"]: "T"}))
    assert store.query("select duration_s, n_tracklets from tracks").to_pylist() == [
        {"duration_s": 4.0, "n_tracklets": 1}
    ]


def test_observations_are_filtered_and_in_order(store: Store) -> None:
    for name, source in (("one", "gate"), ("two", "gate"), ("three", "yard")):
        for index, class_name in ((1, "digger"), (0, "person")):
            result = make_result(make_chunk(index, content_hash=name, source_id=source), 60, class_name)
            store.commit(result)
    for source in ("gate", "yard"):
        ids = store.tracklets(source)["tracklet_id"].to_pylist()
        store.write_links(source, 1, make_links(source, {i: f"track {i}" for i in ids}))

    def read(where: Filter, columns: tuple[str, ...] | None = None) -> pa.Table:
        return pa.Table.from_batches(store.observations(where, columns), None if columns else TRACK_OBSERVATIONS)

    everything = read(Filter())
    assert everything.num_rows == 360
    keys = list(zip(*(everything[n].to_pylist() for n in ("video_id", "pts_ns", "track_id")), strict=True))
    assert keys == sorted(keys)
    assert read(Filter(source_id="yard")).num_rows == 120
    assert read(Filter(source_id="gate", class_names=("digger", "crane"))).num_rows == 120
    video_id = make_video(content_hash="two").video_id
    assert set(read(Filter(video_id=video_id))["video_id"].to_pylist()) == {video_id}
    track = everything["track_id"][0].as_py()
    assert read(Filter(track_ids=(track,))).num_rows == 60
    window = read(Filter(source_id="yard", t0=START, t1=START + timedelta(seconds=60)), ("ts", "x_px"))
    assert window.schema.names == ["ts", "x_px"]
    assert window["ts"].to_pylist() == [START + timedelta(seconds=second) for second in range(60)]
    assert list(store.observations(Filter(source_id="nowhere"))) == []
    with pytest.raises(StoreError, match="no column speed; there are source_id"):
        list(store.observations(Filter(), ["speed"]))


def test_every_version_of_zones_and_calibrations_stays(store: Store) -> None:
    sets = [[Zone("gate", "line", ((1, 2), (3, 4)))], [], [Zone("yard", "zone", ((0, 0), (4, 0), (4, 3)), "m")]]
    for zones in sets:
        store.write_zones("gate", zones)
    store.write_zones("yard", sets[0])
    versions = store.zone_versions("gate")
    assert [(v.version, list(v.zones)) for v in versions] == list(enumerate(sets, start=1))
    assert all(a.written_at < b.written_at for a, b in pairwise(versions))
    assert store.query("select name from zones where source_id = 'gate'")["name"].to_pylist() == ["yard"]
    later = START + timedelta(days=1)
    for valid_from, calibration in ((later, '{"b": 2}'), (EPOCH, '{"a": 1}'), (later, '{"b": 3}')):
        store.write_calibration("gate", calibration, valid_from)
    assert store.calibrations("gate") == [(EPOCH, '{"a": 1}'), (later, '{"b": 3}')]
    assert store.calibration("gate") == '{"b": 3}'
    assert store.query("select calibration from calibrations")["calibration"].to_pylist() == ['{"b": 3}']
    counted = store.query("select source_id, count(*) as n from zone_versions group by source_id order by source_id")
    assert counted["n"].to_pylist() == [3, 1]


def test_places_and_events_are_replaced_per_source(store: Store) -> None:
    zones = [
        Zone("yard ünder 1%", "zone", ((0.5, 0.0), (4.0, 0.0), (4.0, 3.0)), "m"),
        Zone("gate", "line", ((1, 2), (3, 4))),
    ]
    store.write_zones("gate", [Zone("old", "line", ((0, 0), (1, 1)))])
    store.write_zones("gate", zones)
    store.write_zones("yard", [])
    assert sorted(store.zones("gate"), key=lambda z: z.name) == sorted(zones, key=lambda z: z.name)
    points = store.query("select points from zones where name = 'gate'")["points"].to_pylist()
    assert points == ["[[1, 2], [3, 4]]"]
    store.write_calibration("gate", '{"old": 1}')
    store.write_calibration("gate", '{"new": 2}')
    assert (store.calibration("gate"), store.calibration("yard")) == ('{"new": 2}', None)
    assert store.calibrations("gate") == [(EPOCH, '{"new": 2}')]
    store.write_events("gate", make_events(make_event(zone="old")))
    store.write_events("yard", make_events(make_event(source_id="yard")))
    events = make_events(make_event(), make_event(kind="crossing", duration_s=None, direction="forward", inferred=True))
    store.write_events("gate", events)
    stored = store.query("select * from events where source_id = $s", {"s": "gate"}).cast(EVENTS)
    assert stored.sort_by("event_id").equals(events.sort_by("event_id"))
    assert store.query("select count(*) as n from events")["n"].to_pylist() == [3]


def test_a_video_that_was_mended_is_rejected_no_more(store: Store) -> None:
    video = make_video()
    store.reject(video.uri, video.source_id, "truncated")
    store.reject("another.mp4", video.source_id, "truncated")
    store.add_video(video)
    assert store.ledger()["error"].to_pylist() == ["truncated"]


def test_videos_and_runs_are_recorded(store: Store) -> None:
    store.add_run("run-1", "sightflow run x", '{"a": "50% of $x"}')
    store.add_video(make_video(uri="old name.mp4"))
    store.add_video(make_video())
    store.add_video(make_video(source_id="yard"))
    assert store.query("select source_id, time_zone from sources order by 1").to_pylist() == [
        {"source_id": "gate", "time_zone": "UTC"},
        {"source_id": "yard", "time_zone": "UTC"},
    ]
    (video,) = store.query("select * from videos where source_id = 'gate'").to_pylist()
    assert (video["uri"], video["start_time"], video["fps"]) == ("gate.mp4", START, 25.0)
    (run,) = store.query("select * from runs").to_pylist()
    assert (run["run_id"], run["settings"]) == ("run-1", '{"a": "50% of $x"}')


def test_query_binds_parameters_and_returns_the_same_types(store: Store) -> None:
    _committed(store)
    sql = """
        select $text::text || ' 100% $no' as text, -- $not %(this)s
            cast($number as bigint) as big, cast(1 as integer) as small, cast(0.5 as real) as real,
            cast(1 as numeric(9, 2)) / 3 as ratio, cast($time as timestamptz) as time, 1 = $number as truth,
            cast(null as text) as nothing, avg(frame) as mean, count(*) as n, min(x1_px) as "x %s $q"
        from observations where source_id = $source and class_name = any($classes)
    """
    values = {"text": "it's", "number": 7, "time": START, "source": "gate", "classes": ["person"]}
    table = store.query(sql, values)
    kinds = [pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.float64(), TIMESTAMP, pa.bool_(), pa.string()]
    assert table.schema.types == [*kinds, pa.float64(), pa.int64(), pa.float64()]
    (row,) = table.to_pylist()
    assert row["text"] == "it's 100% $no"
    assert (row["big"], row["time"], row["truth"], row["nothing"]) == (7, START, False, None)
    assert (row["n"], row["mean"], row["x %s $q"]) == (90, 1112.5, 10.0)


def test_queries_reckon_in_utc(store: Store) -> None:
    sql = "select cast(cast($time as timestamptz) as date) as day, cast('2026-03-01 12:00' as timestamptz) as noon"
    assert store.query(sql, {"time": START}).to_pylist() == [
        {"day": START.date(), "noon": START.replace(hour=12, minute=0)}
    ]


@pytest.mark.parametrize(
    ("sql", "parameters", "message"),
    [
        ("select 1 as x where 1 = $a", {}, "has the parameters a; got none"),
        ("select 1 as x", {"b": 1}, "has the parameters none; got b"),
        ("select * from nonsense", {}, "nonsense"),
        ("selct", {}, "selct"),
        ("select 1; select 2", {}, "one SELECT|multiple commands"),
        ("drop view tracks", {}, "one SELECT"),
        ("create table t (x integer)", {}, "one SELECT"),
        ("select interval '1 day' as i", {}, "column i has type interval|column i has type month_day_nano"),
    ],
)
def test_query_refuses(store: Store, sql: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.query(sql, parameters)
    assert store.query("select count(*) as n from tracks")["n"].to_pylist() == [0]


def _hold_lock(url: str, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    store = open_store(url)
    with store.locked("gate"):
        held.set()
        release.wait(30)


def _take_lock(url: str, taken: multiprocessing.synchronize.Event) -> None:
    with open_store(url).locked("gate"):
        taken.set()


def test_a_sources_lock_excludes_other_processes(store: Store, store_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    held, release, taken = spawn.Event(), spawn.Event(), spawn.Event()
    holder = spawn.Process(target=_hold_lock, args=(store_url, held, release))
    taker = spawn.Process(target=_take_lock, args=(store_url, taken))
    holder.start()
    assert held.wait(30)
    with store.locked("another source"):
        taker.start()
        assert not taken.wait(2)
        # A process that is killed gives its lock back.
        holder.kill()
        assert taken.wait(30)
    for process in (holder, taker):
        process.join()


@pytest.mark.parametrize("source_id", ["../x", "a/b=ü%2F", "__HIVE_DEFAULT_PARTITION__", "001", "it's", " ", ""])
def test_any_source_id_is_kept(store: Store, source_id: str) -> None:
    result = make_result(make_chunk(source_id=source_id))
    store.commit(result)
    store.write_links(source_id, 1, make_links(source_id, {result.tracklets["tracklet_id"][0].as_py(): "T"}))
    found = store.query("select source_id, n_observations from tracks where source_id = $s", {"s": source_id})
    assert found.to_pylist() == [{"source_id": source_id, "n_observations": 90}]
    counted = store.query("select source_id, count(*) as n from observations group by 1").to_pylist()
    assert counted == [{"source_id": source_id, "n": 90}]
    with store.locked(source_id):
        pass


def test_two_stores_of_one_address_see_each_other(store: Store, store_url: str, tmp_path: Path) -> None:
    other = open_store(store_url)
    _committed(other)
    assert store.query("select track_id from tracks")["track_id"].to_pylist() == ["T"]
    other.close()
    assert other.query("select track_id from tracks")["track_id"].to_pylist() == ["T"]
