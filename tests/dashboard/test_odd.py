"""What nobody would do, and somebody does: links that mean nothing, names that are odd, stores with next to nothing."""

from pathlib import Path

import pytest

from dashboard.data import forget
from flows.events import recompute_events
from flows.schema import OBSERVATIONS, TRACKLETS, Chunk, ChunkResult, Video
from flows.store import Zone, open_store
from tests.dashboard.filled import make_source_video
from tests.dashboard.pages import PAGES, metrics_of, open_page, vehicle
from tests.tracked import make_store, sighting


@pytest.fixture(autouse=True)
def _fresh_caches():
    forget()


@pytest.mark.parametrize("at", ["nan", "1e999", "9" * 400, "-5", "1.2.3", "²", "soon"])
def test_a_time_that_is_none_shows_the_track_from_its_begin(monkeypatch, filled_folder, at):
    app = open_page(monkeypatch, filled_folder, "review", track=vehicle(filled_folder), at=at)
    assert metrics_of(app)["Class"] == "vehicle"


ODD_NAME = "Hof/Süd 'A' \"2\" 100% <b>$x</b> [1]*"


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of a source with an odd name: one object, seen once and standing, at the beginning of all time."""
    url = str(tmp_path_factory.mktemp("odd"))
    video = Video("x.mp4", "hash-x", ODD_NAME, 640, 360, 10, 0.1, "h264", "mp4")
    with make_store(Path(url), video, [sighting(video, "once", 0, (100, 100, 140, 200), x_m=1.0, y_m=2.0)]) as store:
        whole = ((0.0, 0.0), (640.0, 0.0), (640.0, 360.0), (0.0, 360.0))
        store.write_zones(ODD_NAME, [Zone(ODD_NAME, "zone", whole), Zone("a'b", "line", ((1.0, 1.0), (9.0, 9.0)))])
        recompute_events(store, ODD_NAME)
    return url


@pytest.mark.parametrize("page", PAGES)
def test_one_frame_of_a_source_with_an_odd_name_is_shown(monkeypatch, odd_folder, page):
    app = open_page(monkeypatch, odd_folder, page, source=ODD_NAME)
    assert not app.error
    assert app.selectbox(key="source").value == ODD_NAME


@pytest.mark.parametrize("page", PAGES)
def test_a_source_in_which_nothing_was_found_is_shown(monkeypatch, tmp_path, page):
    url = str(tmp_path / "store")
    video = make_source_video("gate")
    chunk = Chunk(video, 0, 0, 40 * 10**9, 0, "settings")
    with open_store(url) as store:
        store.add_video(video)
        store.plan([chunk])
        store.commit(ChunkResult(chunk, OBSERVATIONS.empty_table(), TRACKLETS.empty_table()))
    app = open_page(monkeypatch, url, page, source="gate")
    assert not app.error


@pytest.mark.parametrize(
    "query",
    [
        {"source": "nowhere' or 1=1 --"},
        {"class": ["person", "ghost"], "zone": ["entrance", "nowhere"]},
        {"time": ["2026-03-01T09:00:00", "2026-03-01T08:00:00"]},
        {"time": ["0001-01-01T00:00:00", "9999-12-31T23:59:59"]},
        {"time": "soon", "tz": "Mars/Base"},
    ],
    ids=str,
)
def test_a_link_that_means_nothing_shows_the_page(monkeypatch, filled_folder, query):
    app = open_page(monkeypatch, filled_folder, **query)
    assert not app.error
    assert app.title[0].value == "Overview"
