"""What people see: every page in a real browser, on both stores, light, dark and on a phone."""

import importlib.resources
import json
import re
from pathlib import Path

import psycopg
import pytest

from flows.store import open_store
from tests.dashboard.browser import SIZES, browser, required, served, visited
from tests.dashboard.filled import fill

TITLES = (
    "Overview",
    "Traffic",
    "Occupancy & dwell",
    "Utilisation",
    "Map & plan",
    "Review",
    "Zones",
    "Quality",
)
SERIOUS = ("serious", "critical")
# Streamlit's own parts, which we can only use or leave.
NOT_OURS = ("[data-testid=stDataFrame]", "[data-testid=stSlider]", "canvas", "[data-testid=stSidebar]", "header")


@pytest.fixture(autouse=True)
def _browser_is_there():
    required()


def _filled(store_url):
    with open_store(store_url) as store:
        fill(store)


@pytest.mark.slow
def test_every_page_is_drawn_and_asks_nobody_else(store_url):
    _filled(store_url)
    with served(store_url) as address, browser() as opened, visited(opened, f"{address}/?source=gate") as seen:
        for title in TITLES:
            seen.open(title)
            for look, width in (("light", "desktop"), ("dark", "desktop"), ("dark", "phone"), ("light", "phone")):
                seen.page.emulate_media(color_scheme=look)
                seen.page.set_viewport_size(dict(zip(("width", "height"), SIZES[width], strict=True)))
                seen.settle()
                assert not seen.page.locator("[data-testid=stException]").count(), (title, look, width)
                assert not seen.page.locator("[data-testid=stAlertContentError]").count(), (title, look, width)
                assert seen.fits(), (title, look, width)
            seen.page.set_viewport_size(dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
        assert seen.errors == []
        assert seen.requests == []


def _serious(seen):
    """What axe finds serious on the page, by rule."""
    seen.page.add_script_tag(path=str(Path(str(importlib.resources.files("axe_playwright_python"))) / "axe.min.js"))
    context = json.dumps({"exclude": [[part] for part in NOT_OURS]})
    found = seen.page.evaluate(f"axe.run({context}).then(result => result.violations)")
    return {v["id"]: [n["html"] for n in v["nodes"]] for v in found if v["impact"] in SERIOUS}


@pytest.mark.slow
def test_no_page_shuts_out_readers(tmp_path):
    url = str(tmp_path / "store")
    _filled(url)
    with served(url) as address, browser() as opened, visited(opened, f"{address}/?source=gate") as seen:
        for title in TITLES:
            seen.open(title)
            assert not _serious(seen), title


@pytest.mark.slow
def test_pages_that_write_are_drawn_and_shut_nobody_out(tmp_path):
    url = str(tmp_path / "store")
    _filled(url)
    with open_store(url) as store:
        track_id = store.query("select track_id from tracks where source_id = 'gate'")["track_id"][0].as_py()
    with (
        served(url, edit=True) as address,
        browser() as opened,
        visited(opened, f"{address}/review?source=gate&track={track_id}") as seen,
    ):
        assert seen.page.get_by_role("button", name="Mark as wrong").is_visible()
        assert not _serious(seen)
        seen.open("Zones")
        for tab, button in (("Zones and lines", "Save and compute"), ("Calibration", "Save and compute")):
            seen.page.get_by_role("tab", name=tab).click()
            seen.settle()
            assert seen.page.get_by_role("button", name=button).is_visible(), tab
            for size in SIZES.values():
                seen.page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
                seen.settle()
                assert seen.fits(), (tab, size)
            assert not _serious(seen), tab
        assert seen.page.get_by_text("Error at the points").is_visible()
        assert seen.errors == []
        assert seen.requests == []


SECRETS = """[auth]
redirect_uri = "http://localhost/oauth2callback"
cookie_secret = "of the test"
client_id = "dashboard"
client_secret = "of the test"
server_metadata_url = "http://localhost/.well-known/openid-configuration"
"""


@pytest.mark.slow
def test_where_a_login_is_configured_nothing_is_shown_before_it(tmp_path, monkeypatch):
    url = str(tmp_path / "store")
    _filled(url)
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit/secrets.toml").write_text(SECRETS)
    # Streamlit looks for its secrets where it is started.
    monkeypatch.chdir(tmp_path)
    with served(url) as address, browser() as opened, visited(opened, f"{address}/review?source=gate") as seen:
        assert seen.page.locator("h1").inner_text() == "Sightflow"
        assert seen.page.get_by_role("button", name="Log in").is_visible()
        assert "gate" not in seen.page.locator("body").inner_text()
        assert not seen.page.locator("[data-testid=stDataFrame]").count()
        assert not _serious(seen)


UNREADABLE = {
    "away": ("The store cannot be read", "sightflow dashboard"),
    "without a store": ("The store cannot be read", "sightflow run"),
    "empty": ("Nothing here yet", "sightflow run"),
    "newer": ("This store was written by another version", "sightflow db upgrade"),
}


def _unreadable(url, state):
    """Bring a store into a state in which there is nothing to show; returns its address then."""
    is_folder = "://" not in url
    if state == "away":
        return f"{url}-elsewhere" if is_folder else "postgresql://me:s3cret@127.0.0.1:1/none"
    if state == "without a store":
        Path(url).mkdir(exist_ok=True) if is_folder else None
        return url
    with open_store(url):
        pass
    if state == "newer" and is_folder:
        (Path(url) / "schema_version").write_text("99\n")
    elif state == "newer":
        with psycopg.connect(url) as connection:
            connection.execute("update sightflow.schema_version set version = 99")
    return url


@pytest.mark.slow
@pytest.mark.parametrize("state", UNREADABLE)
def test_a_store_with_nothing_to_show_is_explained(store_url, state):
    title, command = UNREADABLE[state]
    url = _unreadable(store_url, state)
    with served(url) as address, browser() as opened, visited(opened, f"{address}/traffic") as seen:
        assert seen.page.locator("h1").inner_text() == title
        assert command in seen.page.locator("[data-testid=stCode]").inner_text()
        said = seen.page.locator("[data-testid=stAlert]").inner_text()
        assert "s3cret" not in said
        # As a word: the name of a test database may hold these digits, too.
        assert bool(re.search(r"\b99\b", said)) == (state == "newer")
        assert not seen.page.locator("[data-testid=stException]").count()
        assert seen.fits()
        assert not _serious(seen)
        assert seen.errors == []
    if state == "away" and "://" not in url:
        assert not Path(url).exists()
