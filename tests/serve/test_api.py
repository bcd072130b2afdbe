import json
import os
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from flows.errors import UsageError
from serve import fetch
from serve.api import make_api
from serve.clip import Clip, Event
from serve.problems import BusyError, NotReadyError
from serve.settings import ServeSettings

HERE = "http://127.0.0.1"
# How an mp4 begins, and no more.
VIDEO = b"\0\0\0\x18ftypisom"


def _make_settings(folder: Path, **overrides: Any) -> ServeSettings:
    uploads = folder / "uploads"
    uploads.mkdir(exist_ok=True)
    return ServeSettings(**{"store": str(folder / "store"), "uploads": uploads} | overrides)


def _make_client(settings: ServeSettings, *events: Event) -> tuple[TestClient, list[Clip]]:
    """A client of the interface, and the clips that reached the worker behind it, which says these events."""
    clips: list[Clip] = []

    async def said(clip: Clip) -> AsyncGenerator[Event, None]:
        clips.append(clip)
        try:
            for event in events:
                yield event
        finally:
            clip.discard()

    return TestClient(make_api(said, settings), base_url=HERE), clips


def _problem(response: Any, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    return document["detail"]


def _left(settings: ServeSettings) -> list[Path]:
    return list(settings.uploads.iterdir())


def test_an_upload_becomes_a_stream_of_lines(tmp_path):
    settings = _make_settings(tmp_path)
    client, clips = _make_client(settings, {"event": "accepted"}, {"event": "done"})
    answer = client.post("/v1/clips?source=gate&store=false", files={"file": ("a/b.mp4", VIDEO)})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["event"] for line in answer.text.splitlines()] == ["accepted", "done"]
    (clip,) = clips
    assert (clip.name, clip.source_id, clip.store) == ("b.mp4", "gate", False)
    assert not _left(settings)


def test_clips_without_a_source_are_told_apart_by_content(tmp_path):
    client, clips = _make_client(_make_settings(tmp_path), {"event": "done"})
    for content in (b"one", b"two", b"one"):
        client.post("/v1/clips", files={"file": ("clip.mp4", VIDEO + content)})
    first, second, third = (clip.source_id for clip in clips)
    assert first == third != second


def test_an_error_before_the_first_event_is_a_problem(tmp_path):
    error = {"event": "error", "status": 422, "title": "No", "detail": "b.mp4: not a video"}
    client, _ = _make_client(_make_settings(tmp_path), error)
    assert _problem(client.post("/v1/clips", files={"file": ("b.mp4", VIDEO)}), 422) == "b.mp4: not a video"


def test_a_full_queue_is_503_with_retry_after(tmp_path):
    settings = _make_settings(tmp_path)

    async def busy(clip: Clip) -> AsyncGenerator[Event, None]:
        raise BusyError
        yield {}

    answer = TestClient(make_api(busy, settings), base_url=HERE).post("/v1/clips", files={"file": ("b.mp4", VIDEO)})
    _problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert not _left(settings)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_is_refused_while_it_arrives(tmp_path, chunked):
    settings = _make_settings(tmp_path, max_clip_mb=0.1)
    client, clips = _make_client(settings, {"event": "done"})
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + VIDEO + b"0" * 400_000
    taken = 0

    def pieces() -> Iterator[bytes]:
        nonlocal taken
        for start in range(0, len(body), 10_000):
            taken += 10_000
            yield body[start : start + 10_000]

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/clips", content=pieces() if chunked else body, headers=headers)
    assert "at most 0.1 MB" in _problem(answer, 413)
    assert not clips
    assert not _left(settings)


CUT_OFF = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + VIDEO


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b"video", "headers": {"Content-Type": "video/mp4"}}, 415, "got video/mp4"),
        ({"data": {"file": "text"}, "files": {"other": b""}}, 422, "multipart field `file`"),
        ({"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
        ({"content": b"hm", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 422, "multipart"),
        ({"content": CUT_OFF, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 422, "cut off"),
        ({"files": [("file", ("a.mp4", VIDEO)), ("file", ("b.mp4", VIDEO))]}, 422, "second field"),
        ({"files": {"file": ("letter.mp4", b"Dear Sir")}}, 415, "letter.mp4: expected a video file"),
        ({"files": {"file": ("list.mp4", b"#EXTM3U\n" + 500 * b"/etc/passwd\n")}}, 415, "#EXTM3U"),
        ({"files": {"file": ("list.mp4", b"ffconcat version 1.0\nfile /etc/passwd")}}, 415, "ffconcat"),
        ({"files": {"file": ("nothing.mp4", b"")}}, 415, "is empty"),
        ({"json": ["url"]}, 422, "expected a JSON object"),
        ({"json": {"url": "file:///etc/passwd"}}, 422, "expected an http:// or https:// address"),
        ({"json": {"url": "http://"}}, 422, "with a host"),
        ({"json": {"url": "http://127.0.0.1:9/clip.mp4"}}, 422, "private network"),
        ({"json": {"url": "http://[::1]/clip.mp4"}}, 422, "private network"),
        ({"json": {"url": "http://169.254.169.254/latest"}}, 422, "private network"),
    ],
)
def test_unusable_requests_say_what_was_expected(tmp_path, request_, status, message):
    settings = _make_settings(tmp_path)
    client, clips = _make_client(settings, {"event": "done"})
    assert message in _problem(client.post("/v1/clips", **request_), status)
    assert not clips
    assert not _left(settings)


class _Files(BaseHTTPRequestHandler):
    """Answers `/clip...` with a file, `/to/<address>` with the way there, `/round` with itself."""

    def do_GET(self) -> None:
        if self.path.startswith(("/to/", "/round")):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200 if self.path.startswith("/clip") else 404)
        if self.path == "/clip-cut-off":
            self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(VIDEO + b"0" * 200_000)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def file_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_clip_is_fetched_where_that_is_allowed(tmp_path, file_server):
    settings = _make_settings(tmp_path, allow_private_urls=True)
    client, clips = _make_client(settings, {"event": "done"})
    assert client.post("/v1/clips", json={"url": f"{file_server}/clip%20a.mp4?x=1"}).status_code == 200
    assert clips[0].name == "clip a.mp4"
    assert client.post("/v1/clips", json={"url": f"{file_server}/to//to//clip-b.mp4"}).status_code == 200
    assert "more than 5" in _problem(client.post("/v1/clips", json={"url": f"{file_server}/round"}), 422)
    assert "before its end" in _problem(client.post("/v1/clips", json={"url": f"{file_server}/clip-cut-off"}), 422)
    assert "answers 404" in _problem(client.post("/v1/clips", json={"url": f"{file_server}/nothing"}), 422)
    small, _ = _make_client(_make_settings(tmp_path, allow_private_urls=True, max_clip_mb=0.1), {"event": "done"})
    _problem(small.post("/v1/clips", json={"url": f"{file_server}/clip"}), 413)
    assert not _left(settings)


def test_redirects_and_names_that_lead_inside_are_refused(tmp_path, file_server, monkeypatch):
    """The first answer is public and the second is not, be it a redirect's or that of a name asked for twice."""
    answers = []

    def looked_up(host: str, port: int, *rest: Any, **named: Any) -> list[Any]:
        if host == "127.0.0.1":
            return look_up(host, port, *rest, **named)
        answers.append(host)
        # What is asked for first stands for a public server; it is this machine's, reached by its real address.
        return [(2, 1, 6, "", ("203.0.113.7" if host == "169.254.169.254" else "8.8.8.8", port))]

    def connected(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address[0] == "8.8.8.8"
        return real(("127.0.0.1", address[1]), timeout)

    real, look_up = socket.create_connection, socket.getaddrinfo
    monkeypatch.setattr(fetch.socket, "getaddrinfo", looked_up)
    monkeypatch.setattr(fetch.socket, "create_connection", connected)
    settings = _make_settings(tmp_path)
    port = file_server.rpartition(":")[2]
    clip = fetch.fetch_url(f"http://videos.example:{port}/clip.mp4", settings)
    clip.discard()
    assert answers == ["videos.example"]  # asked once, connected to what was checked
    with pytest.raises(UsageError, match="private network"):
        fetch.fetch_url(f"http://videos.example:{port}/to/http://169.254.169.254/", settings)
    assert not _left(settings)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::"),
        *("::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not fetch._is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet(address):
    assert fetch._is_public(address)


def test_one_document_instead_of_a_stream(tmp_path):
    said = ({"event": "accepted", "name": "b"}, {"event": "progress"}, {"event": "track", "track_id": "1"})
    ask = {"files": {"file": ("b.mp4", VIDEO)}, "headers": {"Accept": "application/json"}}
    client, _ = _make_client(_make_settings(tmp_path), *said, {"event": "summary", "chunks": 1}, {"event": "done"})
    document = client.post("/v1/clips", **ask).json()
    assert document == {"accepted": {"name": "b"}, "tracks": [{"track_id": "1"}], "summary": {"chunks": 1}}
    client, _ = _make_client(
        _make_settings(tmp_path), *said, {"event": "error", "status": 422, "title": "", "detail": "no"}
    )
    assert _problem(client.post("/v1/clips", **ask), 422) == "no"
    client, _ = _make_client(_make_settings(tmp_path), *said)
    assert "died" in _problem(client.post("/v1/clips", **ask), 502)


def test_options_reach_the_worker(tmp_path):
    client, clips = _make_client(_make_settings(tmp_path), {"event": "done"})
    options = {"classes": "person, vehicle", "detect_every": 7, "start_time": "2026-05-01T08:00:00"}
    client.post("/v1/clips", params=options, files={"file": ("b.mp4", VIDEO)})
    (clip,) = clips
    assert (clip.classes, clip.detect_every) == (("person", "vehicle"), 7)
    assert clip.start_time == datetime(2026, 5, 1, 8, tzinfo=UTC)
    assert "detect_every" in _problem(client.post("/v1/clips?detect_every=0"), 422)
    assert "sorce" in _problem(client.post("/v1/clips?sorce=gate"), 422)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/", 404), ("PUT", "/v1/clips", 405), ("POST", "/v1/tracks", 405)],
)
def test_what_is_not_there_is_a_problem_as_well(tmp_path, method, path, status):
    client, _ = _make_client(_make_settings(tmp_path))
    answer = client.request(method, path)
    _problem(answer, status)
    assert status != 405 or answer.headers["allow"]


def test_whatever_breaks_is_a_problem_that_tells_nothing(tmp_path):
    async def broken(clip: Clip) -> AsyncGenerator[Event, None]:
        raise RuntimeError("password=1234")
        yield {}

    settings = _make_settings(tmp_path)
    client = TestClient(make_api(broken, settings), base_url=HERE, raise_server_exceptions=False)
    assert "1234" not in _problem(client.post("/v1/clips", files={"file": ("b.mp4", VIDEO)}), 500)
    assert not _left(settings)


def test_what_a_killed_endpoint_left_goes_after_a_day(tmp_path):
    settings = _make_settings(tmp_path)
    names = ("sightflow-clip-old", "sightflow-clip-old.store", "sightflow-clip-new", "another-file")
    for name in names:
        path = settings.uploads / name
        path.mkdir() if name.endswith(".store") else path.touch()
        if name != "sightflow-clip-new":
            os.utime(path, (0, 0))
    _make_client(settings)
    assert {path.name for path in _left(settings)} == {"sightflow-clip-new", "another-file"}


def test_a_broken_store_is_a_problem_document(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "schema_version").write_text("99\n")
    client, _ = _make_client(_make_settings(tmp_path))
    assert "99" in _problem(client.get("/readyz"), 503)
    assert client.get("/healthz").json() == {"status": "ok"}


def test_no_worker_that_is_well_is_a_problem_document(tmp_path):
    async def none() -> None:
        raise NotReadyError("no worker")

    api = make_api(lambda clip: None, _make_settings(tmp_path), none)
    _problem(TestClient(api, base_url=HERE).get("/readyz"), 503)
