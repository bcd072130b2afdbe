import json

import numpy as np
import pandas as pd
import psycopg
import pytest

import dashboard
from dashboard import measures
from dashboard.data import forget
from dashboard.drawing import zones_of
from dashboard.filters import Selection
from flows.schema import Chunk
from flows.store import open_store
from tests.dashboard.filled import ERROR, fill, make_source_video
from tests.dashboard.pages import PAGES, metrics_of, open_page, vehicle


@pytest.fixture(autouse=True)
def _fresh_caches():
    forget()


def test_every_page_shows_either_store(monkeypatch, store_url):
    with open_store(store_url) as store:
        fill(store)
        store.reject("lost.mp4", "gate", "lost.mp4: not a video")
    for page in PAGES:
        app = open_page(monkeypatch, store_url, page, source="gate")
        assert not app.error
        assert app.metric or app.dataframe or app.caption
        # An hour in which nothing was seen.
        app.slider(key="time").set_range(*[app.slider(key="time").value[1]] * 2).run()
        assert not app.exception
        assert not app.error
    app = open_page(monkeypatch, store_url, "quality")
    assert "lost.mp4: not a video" in app.dataframe[-1].value["error"].tolist()


def test_overview_counts_what_was_processed(monkeypatch, filled_folder):
    metrics = metrics_of(open_page(monkeypatch, filled_folder))
    assert metrics == {
        "Video processed": "40 s",
        "Objects tracked": "8",
        "Chunks done": "2 of 4",
        "Chunks failed": "2",
    }


def test_overview_compares_with_the_period_before(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, source="gate")
    low, high = app.slider(key="time").value
    middle = low + (high - low) / 2
    app.slider(key="time").set_range(middle.replace(microsecond=0), high).run()
    (tracked,) = (metric for metric in app.metric if metric.label == "Objects tracked")
    assert (tracked.value, tracked.delta) == ("4", "+0 %")


def test_a_running_job_shows_how_far_it_is(monkeypatch, tmp_path):
    with open_store(str(tmp_path / "store")) as store:
        fill(store)
        chunk = Chunk(make_source_video("gate"), 2, 40 * 10**9, 60 * 10**9, 0, "settings")
        store.plan([chunk])
        store.begin(chunk, 3)
    app = open_page(monkeypatch, str(tmp_path / "store"), source="gate")
    assert "2 of 3 chunks have ended, 1 are running" in app.get("progress")[0].proto.text


def test_the_url_is_the_filter(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, source="gate", **{"class": "vehicle"})
    assert metrics_of(app)["Objects tracked"] == "1"
    assert app.selectbox(key="source").value == "gate"
    app.multiselect(key="class").set_value(["person", "vehicle"]).run()
    assert metrics_of(app)["Objects tracked"] == "4"
    app.switch_page("views/quality.py").run()
    assert app.selectbox(key="source").value == "gate"


def test_a_zone_filters_tracks_and_events(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, source="gate", zone="kerb")
    assert metrics_of(app)["Objects tracked"] == "2"
    app.switch_page("views/occupancy.py").run()
    assert "Visits" not in metrics_of(app)
    app.multiselect(key="zone").set_value(["entrance"]).run()
    assert metrics_of(app)["Visits"] == "2"


def test_the_time_range_filters(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, source="gate")
    low, high = app.slider(key="time").value
    app.slider(key="time").set_range(high.replace(second=19), high).run()
    assert metrics_of(app)["Objects tracked"] == "1"
    assert low < high


def test_times_are_those_of_the_site(monkeypatch, store_url):
    with open_store(store_url) as store:
        fill(store)
        store.write_time_zone("gate", "Asia/Tokyo")
    app = open_page(monkeypatch, store_url, source="gate")
    assert app.selectbox(key="tz").value == "Asia/Tokyo"
    assert app.slider(key="time").value[0].hour == 17
    app.selectbox(key="source").set_value("yard").run()
    assert app.selectbox(key="tz").value == "UTC"


def test_times_are_those_of_the_chosen_zone(monkeypatch, filled_folder):
    monkeypatch.setattr("dashboard.clock.of_viewer", lambda: "Asia/Tokyo")
    app = open_page(monkeypatch, filled_folder, source="gate")
    utc, _ = app.slider(key="time").value
    app.selectbox(key="tz").set_value("Asia/Tokyo").run()
    assert not app.exception
    local, high = app.slider(key="time").value
    assert (local - utc).total_seconds() == 9 * 3600
    app.slider(key="time").set_range(high.replace(second=19), high).run()
    assert metrics_of(app)["Objects tracked"] == "1"


def test_nothing_selected_says_so(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, "review", source="gate")
    low, _ = app.slider(key="time").value
    app.multiselect(key="class").set_value(["vehicle"]).run()
    app.slider(key="time").set_range(low, low).run()
    assert "widen the time range" in app.info[0].value


def test_traffic_counts_by_line_and_knows_speeds(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, "traffic", source="gate")
    metrics = metrics_of(app)
    assert metrics["Crossings"] == "2"
    assert (metrics["Forward"], metrics["Backward"]) == ("1", "1")
    lines = app.dataframe[0].value
    assert lines[["forward", "backward"]].sum().tolist() == [1, 1]
    assert app.dataframe[1].value["p85"].gt(0).all()


def test_occupancy_knows_dwell(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, "occupancy", source="gate")
    assert metrics_of(app)["Visits"] == "2"
    dwell = app.dataframe[0].value
    assert dwell["place"].tolist() == ["entrance"]
    assert dwell["visits"].tolist() == [2]
    app.selectbox(key="source").set_value("yard").run()
    assert "No zones are known" in app.info[0].value


def test_nobody_is_counted_as_nobody(monkeypatch, filled_folder):
    monkeypatch.setenv(dashboard.STORE_VARIABLE, filled_folder)
    counted = measures.occupancy(Selection("gate"), 1)
    steps = counted["at"].diff().dropna().dt.total_seconds()
    assert (steps == 1).all()
    assert counted["mean"].eq(0).any()
    assert counted["mean"].gt(0).any()


@pytest.mark.parametrize("style", [None, "https://maps.example/style.json"])
def test_a_basemap_is_drawn_only_where_it_is_configured(monkeypatch, tmp_path, style):
    url = str(tmp_path / "store")
    with open_store(url) as store:
        fill(store)
        placed = json.loads(str(store.calibration("gate"))) | {"origin_lonlat": [13.4, 52.5]}
        store.write_calibration("gate", json.dumps(placed))
    if style is not None:
        monkeypatch.setenv(dashboard.BASEMAP_VARIABLE, style)
    app = open_page(monkeypatch, url, "map", source="gate")
    app.session_state["unit"] = "lonlat"
    app.run()
    (chart,) = app.get("deck_gl_json_chart")
    deck = json.loads(chart.proto.json)
    assert "MapView" in json.dumps(deck["views"])
    if style is None:
        assert "mapProvider" not in deck
    else:
        assert (deck["mapProvider"], deck["mapStyle"]) == ("carto", style)


def test_utilisation_adds_up(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, "utilisation", source="gate", **{"class": "vehicle"})
    metrics = metrics_of(app)
    assert metrics["Machines"] == "1"
    assert metrics["Present"] == "16 s"
    machine = app.dataframe[0].value.iloc[0]
    assert machine["present"] == pytest.approx(16)
    assert machine["present"] == pytest.approx(machine["active"] + machine["idle"])


def test_one_track_in_detail(monkeypatch, filled_folder):
    track_id = vehicle(filled_folder)
    app = open_page(monkeypatch, filled_folder, "review", track=track_id)
    metrics = metrics_of(app)
    assert metrics["Class"] == "vehicle"
    assert metrics["Duration"] == "16.00 s"
    assert metrics["Inferred"] == "9 %"
    assert f"Track {track_id}" in [heading.value for heading in app.subheader]
    assert "No clip: cannot draw" in app.warning[0].value
    assert not [button for button in app.button if button.key == "mark_wrong"]


def test_a_wrong_track_leaves_and_comes_back(monkeypatch, store_url):
    with open_store(store_url) as store:
        fill(store)
    monkeypatch.setenv(dashboard.EDIT_VARIABLE, "1")
    app = open_page(monkeypatch, store_url, "review", source="gate", track=vehicle(store_url))
    app.button(key="mark_wrong").click().run()
    assert not app.exception
    assert "3 tracks" in [caption.value for caption in app.caption]
    app.button(key="restore").click().run()
    assert "4 tracks" in [caption.value for caption in app.caption]


def test_a_drawn_line_is_saved_and_counted(monkeypatch, tmp_path):
    url = str(tmp_path / "store")
    with open_store(url) as store:
        fill(store)
    monkeypatch.setenv(dashboard.EDIT_VARIABLE, "1")
    app = open_page(monkeypatch, url, "zones", source="gate")
    points = app.session_state["points-gate"]
    drawn = pd.DataFrame({"name": "exit", "kind": "line", "unit": "px", "x": [500.0, 500.0], "y": [100.0, 360.0]})
    app.session_state["points-gate"] = pd.concat([points, drawn], ignore_index=True)
    app.run()
    app.button(key="save_zones").click().run()
    assert not app.exception
    with open_store(url) as store:
        assert [zone.name for zone in store.zones("gate")] == ["entrance", "kerb", "exit"]
    effect = next(table.value for table in app.dataframe if "n_now" in table.value).set_index("kind")
    assert effect.loc["crossing", "n_now"] > effect.loc["crossing", "n_before"]


def test_a_calibration_from_points_is_saved_and_its_effect_shown(monkeypatch, tmp_path):
    url = str(tmp_path / "store")
    with open_store(url) as store:
        fill(store)
        before = json.loads(str(store.calibration("gate")))
    monkeypatch.setenv(dashboard.EDIT_VARIABLE, "1")
    app = open_page(monkeypatch, url, "zones", source="gate", edit="Calibration")
    assert metrics_of(app)["Points used"] == "4 of 4"
    points = app.session_state["points-of-gate"]
    # Twice as far apart: twice as fast.
    app.session_state["points-of-gate"] = points.assign(x_m=2 * points["x_m"], y_m=2 * points["y_m"])
    app.run()
    app.button(key="save_calibration").click().run()
    assert not app.exception
    effect = next(table.value for table in app.dataframe if "n_now" in table.value)
    assert set(effect["kind"]) >= {"visit", "crossing"}
    with open_store(url) as store:
        after = json.loads(str(store.calibration("gate")))
    assert np.allclose(after["points_m"], 2 * np.array(before["points_m"]))


def test_too_few_points_are_no_calibration(monkeypatch, tmp_path):
    url = str(tmp_path / "store")
    with open_store(url) as store:
        fill(store)
    monkeypatch.setenv(dashboard.EDIT_VARIABLE, "1")
    app = open_page(monkeypatch, url, "zones", source="yard", edit="Calibration")
    assert "4 are needed" in app.info[0].value
    assert not [button for button in app.button if button.key == "save_calibration"]


def test_what_is_no_zone_is_not_saved():
    bow = pd.DataFrame({"name": "bow", "kind": "zone", "unit": "px", "x": [0.0, 9, 9, 0], "y": [0.0, 9, 0, 9]})
    with pytest.raises(ValueError, match="crosses itself"):
        zones_of(bow)
    with pytest.raises(ValueError, match="at least 3"):
        zones_of(bow.head(2))
    with pytest.raises(ValueError, match="one kind"):
        zones_of(bow.assign(kind=["zone", "line", "zone", "zone"]))


def test_quality_shows_why_a_chunk_failed(monkeypatch, filled_folder):
    app = open_page(monkeypatch, filled_folder, "quality")
    ledger = app.dataframe[-1].value
    assert ledger["state"].tolist() == ["failed", "failed", "done", "done"]
    assert ledger["error"].iloc[0] == ERROR
    assert "--retry-failed" in app.warning[0].value


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_says_what_to_do(monkeypatch, tmp_path, page):
    with open_store(str(tmp_path / "store")):
        pass
    app = open_page(monkeypatch, str(tmp_path / "store"), page)
    assert app.title[0].value == "Nothing here yet"
    assert "sightflow run" in app.code[0].value


def test_a_missing_folder_is_explained_and_not_made(monkeypatch, tmp_path):
    app = open_page(monkeypatch, str(tmp_path / "nowhere"))
    assert app.title[0].value == "The store cannot be read"
    assert "nowhere" in app.error[0].value
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_other_things_is_explained(monkeypatch, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear")
    app = open_page(monkeypatch, str(tmp_path))
    assert "holds no store yet" in app.error[0].value
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_stays_empty(monkeypatch, tmp_path):
    app = open_page(monkeypatch, str(tmp_path))
    assert "holds no store yet" in app.error[0].value
    assert not list(tmp_path.iterdir())


def test_a_database_without_tables_gets_none(monkeypatch, postgis_database):
    app = open_page(monkeypatch, postgis_database)
    assert "holds no store yet" in app.error[0].value
    with psycopg.connect(postgis_database) as connection:
        assert connection.execute("select to_regnamespace('sightflow')").fetchone() == (None,)


def test_another_version_is_explained(monkeypatch, tmp_path):
    (tmp_path / "schema_version").write_text("99\n")
    app = open_page(monkeypatch, str(tmp_path))
    assert app.title[0].value == "This store was written by another version"
    assert "99" in app.error[0].value


def test_an_unreachable_database_is_explained_without_its_password(monkeypatch):
    app = open_page(monkeypatch, "postgresql://me:secret@127.0.0.1:1/none")
    assert app.title[0].value == "The store cannot be read"
    assert "secret" not in app.error[0].value
