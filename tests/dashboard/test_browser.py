"""What people see: every page in a real browser, on both stores, light, dark and on a phone."""

import importlib.resources
import json
from pathlib import Path

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


@pytest.mark.slow
def test_no_page_shuts_out_readers(tmp_path):
    axe = Path(str(importlib.resources.files("axe_playwright_python"))) / "axe.min.js"
    _filled(str(tmp_path / "store"))
    context = json.dumps({"exclude": [[part] for part in NOT_OURS]})
    with (
        served(str(tmp_path / "store")) as address,
        browser() as opened,
        visited(opened, f"{address}/?source=gate") as seen,
    ):
        seen.page.add_script_tag(path=str(axe))
        for title in TITLES:
            seen.open(title)
            found = seen.page.evaluate(f"axe.run({context}).then(result => result.violations)")
            serious = {v["id"]: [n["html"] for n in v["nodes"]] for v in found if v["impact"] in SERIOUS}
            assert not serious, title


@pytest.mark.slow
def test_a_store_that_is_not_there_is_explained(tmp_path):
    with served(str(tmp_path / "nowhere")) as address, browser() as opened, visited(opened, address) as seen:
        assert seen.page.locator("h1").inner_text() == "The store cannot be read"
        assert "nowhere" in seen.page.locator("[data-testid=stAlert]").inner_text()
    assert not Path(tmp_path / "nowhere").exists()
