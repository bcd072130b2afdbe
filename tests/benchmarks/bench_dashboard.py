"""Figures of the dashboard, as JSON: every page's first view and changes of its filter, on a filled store.

Measured is what the server does, from the question to the page's last element (Streamlit's AppTest); the browser's
drawing comes on top. The baseline is the same page on a store of a thousand observations: what Streamlit itself costs.
All sources are shown, as who opens the dashboard sees them, and then one, where pages draw a camera's picture. What
the server reads once when it is opened is the figure of the page `overview` called cold.
Run by `make bench`. Filling the stores takes minutes: name some that an earlier run filled in SIGHTFLOW_BENCH_STORES
(with commas between), or fewer rows in SIGHTFLOW_BENCH_ROWS.
"""

import os
import time
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard.data import forget, forget_answers
from flows.store import open_store
from tests import archive
from tests.benchmarks import hour
from tests.benchmarks.record import record
from tests.dashboard.browser import Seen, browser, required, served, visited
from tests.dashboard.filled import fill

ROWS = int(os.environ.get("SIGHTFLOW_BENCH_ROWS", 8_000_000))
N_SOURCES, N_CHUNKS = 20, 96
PAGES = ("overview", "traffic", "occupancy", "utilisation", "map", "review", "zones", "quality")
MAIN = str(Path(dashboard.__file__).parent / "main.py")
REPEATS = 3


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, str]:
    """Addresses of the filled stores by kind."""
    if named := os.environ.get("SIGHTFLOW_BENCH_STORES"):
        return {"PostGIS" if "://" in url else "Parquet": url for url in named.split(",")}
    server = request.getfixturevalue("postgis_module_database")
    urls = {"Parquet": str(tmp_path_factory.mktemp("archive")), "PostGIS": server}
    for url in urls.values():
        with open_store(url) as store:
            archive.fill(store, N_SOURCES, N_CHUNKS, ROWS // (N_SOURCES * N_CHUNKS))
    return urls


def _opened(url: str, source: str | None) -> AppTest:
    os.environ[dashboard.STORE_VARIABLE] = url
    app = AppTest.from_file(MAIN, default_timeout=600)
    if source is not None:
        app.query_params["source"] = source
    return app.run()


def _page_s(url: str, page: str, source: str | None, class_name: str) -> tuple[float, float, float]:
    """Seconds of a page's first view, of a change of the class and then of the time; the best of some.

    Answers are not yet known in any of these cases.
    """
    first, change, hours = [], [], []
    for _ in range(REPEATS):
        app = _opened(url, source)
        forget_answers()
        begin = time.perf_counter()
        app.switch_page(f"views/{page}.py").run()
        first.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        app.multiselect(key="class").set_value([class_name]).run()
        change.append(time.perf_counter() - begin)
        low, high = app.slider(key="time").value
        begin = time.perf_counter()
        app.slider(key="time").set_range(low + (high - low) / 3, low + (high - low) / 2).run()
        hours.append(time.perf_counter() - begin)
        assert not app.exception, app.exception
    return min(first), min(change), min(hours)


def bench_pages(stores: dict[str, str], tmp_path: Path) -> None:
    """First view and filter changes of every page."""
    small = str(tmp_path / "small")
    with open_store(small) as store:
        fill(store)
    for kind, url in stores.items():
        forget()
        begin = time.perf_counter()
        _opened(url, None)
        record("dashboard", f"overview, {kind}, cold", {"first_view_s": round(time.perf_counter() - begin, 3)})
    for page, shown in product(PAGES, ("all sources", "one source")):
        one = shown == "one source"
        base = _page_s(small, page, "gate" if one else None, "person")
        for kind, url in stores.items():
            shown_s = _page_s(url, page, "camera-03" if one else None, "person")
            named = tuple(zip(("first_view", "filter_change", "time_change"), shown_s, base, strict=True))
            figures = {
                **{f"{name}_s": round(value, 3) for name, value, _ in named},
                **{f"{name}_ratio_to_small_store": round(value / small_s, 2) for name, value, small_s in named},
            }
            record("dashboard", f"{page}, {kind}, {shown}", figures)


@pytest.mark.parametrize(("width_px", "height_px"), [(640, 360), (1920, 1080)])
def bench_clip(tmp_path: Path, width_px: int, height_px: int) -> None:
    """From the click on an event in an hour of video to its clip's first picture on screen, in a real browser.

    The baseline is the same of events in the first minutes, which are decoded and drawn as well.
    """
    required()
    path, url = tmp_path / "hour.mp4", str(tmp_path / "store")
    hour.make_video(path, width_px, height_px)
    with open_store(url) as store:
        hour.fill(store, path)
    with served(url) as address, browser() as opened, visited(opened, address) as seen:
        early_s, late_s = (
            min(_clip_s(seen, address, minute) for minute in range(first, first + REPEATS)) for first in (1, 56)
        )
        assert seen.errors == []
    figures = {"on_screen_s": round(late_s, 3), "ratio_to_first_minutes": round(late_s / early_s, 2)}
    record("dashboard", f"clip, {width_px} x {height_px}", figures)


def _clip_s(seen: Seen, address: str, minute: int) -> float:
    """Seconds from the click on the list's first event after a minute of the video."""
    times = "&time=".join(f"{archive.DAY + timedelta(minutes=at):%Y-%m-%dT%H:%M:%S}" for at in (minute, 59))
    seen.page.goto(f"{address}/review?source={hour.SOURCE}&list=Events&kind=crossing&time={times}")
    seen.settle()
    assert not seen.page.locator("video").count()
    table = seen.page.locator("[data-testid=stDataFrame]").first
    begin = time.perf_counter()
    # Where a row is chosen: the left edge of the first below the titles.
    table.click(position={"x": 18, "y": 52})
    seen.page.wait_for_function("document.querySelector('video')?.readyState >= 2", polling=50, timeout=60_000)
    return time.perf_counter() - begin
