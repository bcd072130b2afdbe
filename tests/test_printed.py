from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.errors import ReportError
from flows.printed import write_page
from flows.store import open_store
from tests.dashboard.filled import fill


class _Read(HTMLParser):
    """Headings, and every address a page names."""

    def __init__(self):
        super().__init__()
        self.text, self.addresses, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "td"):
            self.text.append(data)


def _page(path):
    read = _Read()
    read.feed(path.read_text(encoding="utf-8"))
    return read


def test_a_page_has_every_report_with_rows_and_needs_nothing_else(store_url, tmp_path):
    with open_store(store_url) as store:
        fill(store)
        assert write_page(store, tmp_path / "out.html", source="gate") == 8
    page = _page(tmp_path / "out.html")
    assert "Tracks per class" in page.text
    assert "kerb" in page.text
    assert page.addresses == []


def test_an_unknown_source_is_an_error_and_writes_nothing(tmp_path):
    with open_store(str(tmp_path / "store")) as store:
        fill(store)
        with pytest.raises(ReportError, match="the store has gate, yard"):
            write_page(store, tmp_path / "out.html", source="gates")
    assert not (tmp_path / "out.html").exists()


def test_names_are_text_and_no_markup(tmp_path):
    with open_store(str(tmp_path / "store")) as store:
        store.reject("<script>alert(1)</script>.mp4", "gate", "<script>alert(1)</script>")
        write_page(store, tmp_path / "out.html")
    assert "<script" not in (tmp_path / "out.html").read_text()


def test_the_command_writes_it(tmp_path):
    with open_store(str(tmp_path / "store")) as store:
        fill(store)
    flags = ["report", "--store", str(tmp_path / "store"), "--html", str(tmp_path / "out.html"), "--class", "vehicle"]
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    assert "vehicle" in _page(tmp_path / "out.html").text
    assert "person" not in _page(tmp_path / "out.html").text
