"""The dashboard's pages, run without a browser (Streamlit's AppTest)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import dashboard
from flows.store import open_store

MAIN = str(Path(dashboard.__file__).parent / "main.py")
PAGES = ("overview", "traffic", "occupancy", "utilisation", "map", "review", "zones", "quality")


def open_page(monkeypatch: pytest.MonkeyPatch, store_url: str, page: str = "overview", **query: Any) -> AppTest:
    """A page as somebody sees it who follows a link with this query."""
    monkeypatch.setenv(dashboard.STORE_VARIABLE, store_url)
    app = AppTest.from_file(MAIN, default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    if page != "overview":
        app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    return app


def vehicle(url: str) -> str:
    """The vehicle's track in the filled store."""
    with open_store(url) as store:
        found = store.query("select track_id from tracks where source_id = 'gate' and class_name = 'vehicle'")
    return str(found["track_id"][0].as_py())


def metrics_of(app: AppTest) -> dict[str, str]:
    """The page's figures by their titles."""
    return {metric.label: metric.value for metric in app.metric}
