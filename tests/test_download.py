"""Fetching a file, against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flows.download import fetch, file_sha256
from flows.errors import ModelError

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server offers and how it behaves; `ranges` is what it was asked for, None for a whole file."""

    content: bytes = CONTENT
    honours_range: bool = True
    drop_after: list[int] = field(default_factory=list)
    status: int = 200
    ranges: list[int | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            site.ranges.append(int(asked[1]) if asked else None)
            if site.status != 200:
                self.send_error(site.status)
                return
            start = int(asked[1]) if asked and site.honours_range else 0
            if start and start >= len(site.content):
                self.send_error(416)
                return
            body = site.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.drop_after.pop(0)] if site.drop_after else body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/file.pt"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_whole_file_arrives_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.pt"
    with serve(Site()) as site:
        fetch(site.url, path, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.pt", "file.pt.lock"]


def test_a_part_left_behind_is_continued(tmp_path: Path) -> None:
    (tmp_path / "file.pt.part").write_bytes(CONTENT[:1_234_567])
    with serve(Site()) as site:
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert site.ranges == [1_234_567]
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(tmp_path: Path) -> None:
    (tmp_path / "file.pt.part").write_bytes(CONTENT[:1_234_567])
    with serve(Site(honours_range=False)) as site:
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(tmp_path: Path) -> None:
    (tmp_path / "file.pt.part").write_bytes(CONTENT)
    with serve(Site()) as site:
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert site.ranges == []


def test_dropped_connections_are_resumed(tmp_path: Path) -> None:
    with serve(Site(drop_after=[2_000_000, 1_000_000])) as site:
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert site.ranges == [None, 2_000_000, 3_000_000]
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_a_connection_that_brings_nothing_is_given_up_and_keeps_the_part(tmp_path: Path) -> None:
    with serve(Site(drop_after=[1_000_000, 0, 0, 0])) as site, pytest.raises(ModelError, match="connection ended"):
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert (tmp_path / "file.pt.part").stat().st_size == 1_000_000
    assert not (tmp_path / "file.pt").exists()


def test_a_server_without_ranges_that_drops_every_connection_is_given_up(tmp_path: Path) -> None:
    site = Site(honours_range=False, drop_after=[1_000_000, 900_000, 2_000_000] + [1_000_000] * 9)
    with serve(site), pytest.raises(ModelError, match="connection ended"):
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert len(site.ranges) == 6


def test_a_part_of_another_file_is_fetched_again_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "file.pt.part").write_bytes(b"x" * 1000)
    with serve(Site()) as site:
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert site.ranges == [1000, None]
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(status=404), "HTTP 404"),
        (Site(status=503), "HTTP 503"),
        (Site(content=CONTENT[:-1] + b"?"), "wrong checksum: expected SHA-256 " + SHA256),
        (Site(content=CONTENT + b"?"), "got more"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(tmp_path: Path, site: Site, message: str) -> None:
    with serve(site), pytest.raises(ModelError, match=message):
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)
    assert not (tmp_path / "file.pt").exists()


def test_a_file_that_ends_too_early_is_told_apart_from_a_bad_line(tmp_path: Path) -> None:
    with serve(Site(content=CONTENT[:1000])) as site, pytest.raises(ModelError, match="shorter than"):
        fetch(site.url, tmp_path / "file.pt", len(CONTENT), SHA256)


def test_offline_says_so(tmp_path: Path) -> None:
    with serve(Site()) as site:
        url = site.url
    with pytest.raises(ModelError, match=r"cannot fetch .*refused"):
        fetch(url, tmp_path / "file.pt", len(CONTENT), SHA256)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot write .*file"):
        fetch("http://127.0.0.1:9/x.pt", tmp_path / "file" / "x.pt", len(CONTENT), SHA256)


def test_a_file_too_large_for_the_disk_is_not_begun(tmp_path: Path) -> None:
    with serve(Site()) as site, pytest.raises(ModelError, match="disk is full"):
        fetch(site.url, tmp_path / "file.pt", 1 << 60, SHA256)
    assert site.ranges == []


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from flows.download import fetch; "
    with serve(Site()) as site:
        code += f"fetch({site.url!r}, Path({str(tmp_path / 'file.pt')!r}), {len(CONTENT)}, {SHA256!r})"
        processes = [
            subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1], stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert errors == [b"", b"", b""]  # quiet without a terminal
    assert site.ranges == [None]
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_sha256_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert file_sha256(path) == hashlib.sha256(b"other").hexdigest()
