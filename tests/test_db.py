"""`sightflow db`, on both stores."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.db import day_before
from flows.errors import SightflowError, StoreError, UsageError
from flows.reports import run_report
from flows.store import Filter, open_store
from tests.stores import START, make_chunk, make_event, make_events, make_links, make_result, make_video


def _db(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["db", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.output


def _fill(url: str) -> None:
    """A chunk over midnight, linked, with an event on each of its days."""
    result = make_result(make_chunk())
    with open_store(url) as store:
        store.commit(result)
        store.write_links("gate", 1, make_links("gate", {result.tracklets["tracklet_id"][0].as_py(): "T"}))
        store.write_events("gate", make_events(make_event(), make_event(ts=START + timedelta(seconds=80))))


def test_init_makes_a_store_and_check_finds_it_whole(store_url: str) -> None:
    assert "ready" in _db("init", "--store", store_url)
    assert "ready" in _db("init", "--store", store_url)
    _fill(store_url)
    assert "every chunk as the ledger says" in _db("check", "--store", store_url)
    assert "up to date" in _db("upgrade", "--store", store_url)


def test_check_finds_what_is_missing(postgis_database: str, tmp_path: Path) -> None:
    for url in (str(tmp_path / "store"), postgis_database):
        _fill(url)
    next((tmp_path / "store/samples").rglob("*.parquet")).unlink()
    for path in (tmp_path / "store/ledger").glob("*.json"):
        row = json.loads(path.read_text())
        path.write_text(json.dumps({**row, "files": [name for name in row["files"] if "samples" not in name]}))
    with psycopg.connect(postgis_database) as connection:
        connection.execute("delete from sightflow.samples where ts > '2026-03-02'")
    for url in (str(tmp_path / "store"), postgis_database):
        with pytest.raises(StoreError, match="1 chunks are not as the ledger says"):
            _db("check", "--store", url)


def test_a_source_has_a_time_zone_that_new_videos_leave_alone(store_url: str) -> None:
    with open_store(store_url) as store:
        store.add_video(make_video())
        store.add_video(make_video(source_id="yard"))
    _db("time-zone", "gate", "America/Lima", "--store", store_url)
    _db("time-zone", "gate", "Europe/Berlin", "--store", store_url)
    with open_store(store_url) as store:
        store.add_video(make_video(content_hash="another"))
        zones = store.query("select source_id, time_zone from sources order by 1").to_pylist()
    assert [tuple(zone.values()) for zone in zones] == [("gate", "Europe/Berlin"), ("yard", "UTC")]
    with pytest.raises(UsageError, match="no time zone"):
        _db("time-zone", "gate", "Europe/Bärlin", "--store", store_url)
    with pytest.raises(UsageError, match="it has gate, yard"):
        _db("time-zone", "gaet", "Europe/Berlin", "--store", store_url)


def test_stats_say_how_much_there_is(store_url: str) -> None:
    _fill(store_url)
    rows = [json.loads(line) for line in _db("stats", "--format", "json", "--store", store_url).splitlines()]
    found = {row["table"]: row for row in rows}
    counted = {name: row["rows"] for name, row in found.items()}
    assert counted == {"observations": 90, "samples": 90, "tracklets": 1, "links": 1, "events": 2, "chunks": 1}
    observations = found["observations"]
    days = (observations["first_day"], observations["last_day"], observations["parts"])
    assert days == ("2026-03-01", "2026-03-02", 2)
    assert all(row["bytes"] > 0 for row in rows)
    assert found["events"]["first_day"] is None


def test_prune_removes_whole_days_and_keeps_what_was_made_of_them(store_url: str) -> None:
    _fill(store_url)
    with open_store(store_url) as store:
        before = {name: run_report(store, name) for name in ("counts", "heatmap", "activity", "quality", "zones")}
        assert "0 days" in _db("prune", "--older-than", "2026-03-01", "--store", store_url)
        said = _db("prune", "--older-than", "2026-03-02", "--store", store_url)
        assert "1 days before 2026-03-02 removed (2026-03-01 to 2026-03-01)" in said
        days = {ts.date() for batch in store.observations(Filter()) for ts in batch["ts"].to_pylist()}
        assert days == {date(2026, 3, 2)}
        for name, table in before.items():
            assert run_report(store, name).equals(table), name
        (kept,) = [row for row in store.stats().to_pylist() if row["table"] == "observations"]
        assert (kept["rows"], kept["first_day"]) == (30, date(2026, 3, 2))
        # Events are computed anew from what is left; those of the day that is gone cannot be.
        store.write_events("gate", make_events(make_event(ts=START + timedelta(seconds=70))))
        times = store.query("select ts from events order by ts")["ts"].to_pylist()
        assert times == [START, START + timedelta(seconds=70)]
        _db("check", "--store", store_url)
        # The chunk is done: nothing takes it up again. Committed again all the same, it is whole.
        assert not store.begin(make_chunk(), 3)
        store.commit(make_result(make_chunk()))
        assert store.query("select count(*) as n from observations")["n"].to_pylist() == [90]


def test_pruned_files_go_once_no_reader_can_want_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "store")
    _fill(url)
    _db("prune", "--older-than", "2026-03-02", "--store", url)
    assert len(list((tmp_path / "store/observations").rglob("*.parquet"))) == 2
    monkeypatch.setattr("flows.store.ledger.SUPERSEDED_S", 0.0)
    _db("prune", "--older-than", "2026-03-02", "--store", url)
    assert len(list((tmp_path / "store/observations").rglob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("age", "day"),
    [
        ("0d", date(2026, 3, 31)),
        ("30d", date(2026, 3, 1)),
        ("2w", date(2026, 3, 17)),
        ("1m", date(2026, 3, 1)),
        ("1y", date(2025, 3, 31)),
        ("2026-02-28", date(2026, 2, 28)),
    ],
)
def test_ages_and_days(age: str, day: date) -> None:
    assert day_before(age, date(2026, 3, 31)) == day


@pytest.mark.parametrize("age", ["", "30", "-3d", "d", "30 d", "99999y", "yesterday", "2026-04-01", "2026-02-30"])
def test_what_is_neither_an_age_nor_a_day_is_refused(age: str) -> None:
    with pytest.raises(UsageError, match="--older-than"):
        day_before(age, date(2026, 3, 31))


def test_reading_commands_make_no_store(tmp_path: Path) -> None:
    for command in (("check",), ("upgrade",), ("stats",), ("prune", "--older-than", "1d")):
        with pytest.raises(SightflowError, match="no store there yet"):
            _db(*command, "--store", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_reader_is_made_and_told_about(postgis_database: str) -> None:
    role = f"reader_{datetime.now(UTC):%H%M%S%f}"
    try:
        assert f"\\password {role}" in _db("init", "--reader", role, "--store", postgis_database)
        assert "password" not in _db("init", "--reader", role, "--store", postgis_database)
    finally:
        with psycopg.connect(postgis_database, autocommit=True) as connection:
            connection.execute(f"drop owned by {role}")
            connection.execute(f"drop role {role}")


def test_a_password_on_the_command_line_is_warned_of_and_not_repeated(postgis_database: str) -> None:
    url = postgis_database.replace("//postgres@", "//postgres:s3cret@")
    done = CliRunner().invoke(app, ["db", "init", "--store", url])
    assert "others on this machine can read the password" in done.stderr
    assert "s3cret" not in done.output
