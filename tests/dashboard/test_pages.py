from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard.data import forget
from flows.store import open_store
from tests.dashboard.filled import ERROR, fill

MAIN = str(Path(dashboard.__file__).parent / "main.py")
PAGES = ("overview", "tracks", "zones", "quality")


@pytest.fixture(scope="module")
def filled_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled store, only read here."""
    folder = str(tmp_path_factory.mktemp("store"))
    with open_store(folder) as store:
        fill(store)
    return folder


@pytest.fixture(autouse=True)
def _fresh_caches():
    forget()


def _open(monkeypatch: pytest.MonkeyPatch, store_url: str, page: str = "overview", **query: Any) -> AppTest:
    monkeypatch.setenv(dashboard.STORE_VARIABLE, store_url)
    app = AppTest.from_file(MAIN, default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "overview":
        app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    return app


def _metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_every_page_shows_either_store(monkeypatch, store_url):
    with open_store(store_url) as store:
        fill(store)
        store.reject("lost.mp4", "gate", "lost.mp4: not a video")
    for page in PAGES:
        app = _open(monkeypatch, store_url, page)
        assert not app.error
        assert app.metric or app.dataframe
    assert "lost.mp4: not a video" in app.dataframe[-1].value["error"].tolist()
    app.slider(key="time").set_range(*[app.slider(key="time").value[0]] * 2).run()
    assert not app.exception


def test_overview_counts_what_was_processed(monkeypatch, filled_folder):
    metrics = _metrics(_open(monkeypatch, filled_folder))
    assert metrics == {
        "Video processed": "40 s",
        "Objects tracked": "8",
        "Chunks done": "2 of 4",
        "Chunks failed": "2",
    }


def test_the_url_is_the_filter(monkeypatch, filled_folder):
    app = _open(monkeypatch, filled_folder, source="gate", **{"class": "vehicle"})
    assert _metrics(app)["Objects tracked"] == "1"
    assert app.selectbox(key="source").value == "gate"
    app.multiselect(key="class").set_value(["person", "vehicle"]).run()
    assert _metrics(app)["Objects tracked"] == "4"
    app.switch_page("views/quality.py").run()
    assert app.selectbox(key="source").value == "gate"


def test_the_time_range_filters(monkeypatch, filled_folder):
    app = _open(monkeypatch, filled_folder, source="gate")
    low, high = app.slider(key="time").value
    app.slider(key="time").set_range(high.replace(second=19), high).run()
    assert _metrics(app)["Objects tracked"] == "1"
    assert low < high


def test_nothing_selected_says_so(monkeypatch, filled_folder):
    app = _open(monkeypatch, filled_folder, "tracks", source="gate")
    low, _ = app.slider(key="time").value
    app.multiselect(key="class").set_value(["vehicle"]).run()
    app.slider(key="time").set_range(low, low).run()
    assert "widen the time range" in app.info[0].value


def test_one_track_in_detail(monkeypatch, filled_folder):
    with open_store(filled_folder) as store:
        tracks = store.query("select track_id from tracks where source_id = 'gate' and class_name = 'vehicle'")
    track_id = tracks["track_id"][0].as_py()
    app = _open(monkeypatch, filled_folder, "tracks", track=track_id)
    metrics = _metrics(app)
    assert metrics["Class"] == "vehicle"
    assert metrics["Duration"] == "16.00 s"
    assert metrics["Inferred"] == "9 %"
    assert f"Track {track_id}" in [heading.value for heading in app.subheader]


def test_zones_count_visits_and_crossings(monkeypatch, filled_folder):
    app = _open(monkeypatch, filled_folder, "zones")
    metrics = _metrics(app)
    assert metrics["Visits"] == "2"
    assert metrics["Crossings"] == "2"
    app.selectbox(key="source").set_value("yard").run()
    assert "No zones or lines" in app.info[0].value


def test_quality_shows_why_a_chunk_failed(monkeypatch, filled_folder):
    app = _open(monkeypatch, filled_folder, "quality")
    ledger = app.dataframe[-1].value
    assert ledger["state"].tolist() == ["failed", "failed", "done", "done"]
    assert ledger["error"].iloc[0] == ERROR
    assert "--retry-failed" in app.warning[0].value


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_store_says_what_to_do(monkeypatch, tmp_path, page):
    with open_store(str(tmp_path / "store")):
        pass
    app = _open(monkeypatch, str(tmp_path / "store"), page)
    assert app.title[0].value == "Nothing here yet"
    assert "sightflow run" in app.code[0].value


def test_a_missing_folder_is_explained_and_not_made(monkeypatch, tmp_path):
    app = _open(monkeypatch, str(tmp_path / "nowhere"))
    assert app.title[0].value == "The store cannot be read"
    assert "nowhere" in app.error[0].value
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_other_things_is_explained(monkeypatch, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear")
    app = _open(monkeypatch, str(tmp_path))
    assert "holds no Sightflow store" in app.error[0].value


def test_another_version_is_explained(monkeypatch, tmp_path):
    (tmp_path / "schema_version").write_text("99\n")
    app = _open(monkeypatch, str(tmp_path))
    assert app.title[0].value == "This store was written by another version"
    assert "99" in app.error[0].value


def test_an_unreachable_database_is_explained_without_its_password(monkeypatch):
    app = _open(monkeypatch, "postgresql://me:secret@127.0.0.1:1/none")
    assert app.title[0].value == "The store cannot be read"
    assert "secret" not in app.error[0].value
