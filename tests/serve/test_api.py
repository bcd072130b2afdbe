import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from flows.store import open_store
from serve.api import make_api
from serve.clips import Clip, ClipProcessor, Event
from serve.problems import BusyError
from serve.settings import ServeSettings
from tests.dashboard.filled import fill
from tests.serve.small import flow_config
from tests.videos import write_audio, write_video

HERE = "http://127.0.0.1"


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
            clip.path.unlink()

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
    answer = client.post("/v1/clips?source=gate&store=false", files={"file": ("a/b.mp4", b"12345")})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [json.loads(line)["event"] for line in answer.text.splitlines()] == ["accepted", "done"]
    (clip,) = clips
    assert (clip.name, clip.source_id, clip.store) == ("b.mp4", "gate", False)
    assert not _left(settings)


def test_clips_without_a_source_are_told_apart_by_content(tmp_path):
    client, clips = _make_client(_make_settings(tmp_path), {"event": "done"})
    for content in (b"one", b"two", b"one"):
        client.post("/v1/clips", files={"file": ("clip.mp4", content)})
    first, second, third = (clip.source_id for clip in clips)
    assert first == third != second


def test_an_error_before_the_first_event_is_a_problem(tmp_path):
    error = {"event": "error", "status": 422, "title": "No", "detail": "b.mp4: not a video"}
    client, _ = _make_client(_make_settings(tmp_path), error)
    assert _problem(client.post("/v1/clips", files={"file": ("b.mp4", b"1")}), 422) == "b.mp4: not a video"


def test_a_full_queue_is_503_with_retry_after(tmp_path):
    settings = _make_settings(tmp_path)

    async def busy(clip: Clip) -> AsyncGenerator[Event, None]:
        raise BusyError
        yield {}

    answer = TestClient(make_api(busy, settings), base_url=HERE).post("/v1/clips", files={"file": ("b.mp4", b"1")})
    _problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0
    assert not _left(settings)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_is_refused_while_it_arrives(tmp_path, chunked):
    settings = _make_settings(tmp_path, max_clip_mb=0.1)
    client, clips = _make_client(settings, {"event": "done"})
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + b"0" * 400_000
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


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b"video", "headers": {"Content-Type": "video/mp4"}}, 415, "got video/mp4"),
        ({"data": {"file": "text"}, "files": {"other": b""}}, 422, "multipart field `file`"),
        ({"content": b"--", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"json": ["url"]}, 422, "expected a JSON object"),
        ({"json": {"url": "file:///etc/passwd"}}, 422, "expected an http:// or https:// address"),
        ({"json": {"url": "http://"}}, 422, "with a host"),
        ({"json": {"url": "http://127.0.0.1:9/clip.mp4"}}, 422, "private network"),
        ({"json": {"url": "http://[::1]/clip.mp4"}}, 422, "private network"),
        ({"json": {"url": "http://169.254.169.254/latest"}}, 422, "private network"),
    ],
)
def test_unusable_requests_say_what_was_expected(tmp_path, request_, status, message):
    client, clips = _make_client(_make_settings(tmp_path), {"event": "done"})
    assert message in _problem(client.post("/v1/clips", **request_), status)
    assert not clips


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/")
            self.end_headers()
            return
        self.send_response(200 if self.path.startswith("/clip") else 404)
        self.end_headers()
        self.wfile.write(b"0" * 200_000)

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
    assert "redirects to" in _problem(client.post("/v1/clips", json={"url": f"{file_server}/moved"}), 422)
    assert "answers 404" in _problem(client.post("/v1/clips", json={"url": f"{file_server}/nothing"}), 422)
    small, _ = _make_client(_make_settings(tmp_path, allow_private_urls=True, max_clip_mb=0.1), {"event": "done"})
    _problem(small.post("/v1/clips", json={"url": f"{file_server}/clip"}), 413)
    assert not _left(settings)


def test_reports_and_tracks_come_from_the_store(tmp_path):
    settings = _make_settings(tmp_path)
    with open_store(settings.store) as store:
        fill(store)
    client, _ = _make_client(settings)
    assert client.get("/healthz").json() == {"status": "ok"}
    rows = client.get("/v1/reports/counts", params={"source": "gate"}).json()["rows"]
    assert {row["class_name"]: row["tracks"] for row in rows} == {"person": 3, "vehicle": 1}
    page = client.get("/v1/tracks", params={"class": "person", "limit": 4}).json()
    assert (len(page["tracks"]), page["total"], page["next_offset"]) == (4, 6, 4)
    assert datetime.fromisoformat(page["tracks"][0]["t0"]) == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert client.get("/v1/tracks", params={"class": "person", "offset": 4}).json()["next_offset"] is None
    assert "there are counts" in _problem(client.get("/v1/reports/none"), 404)
    assert "no source" in _problem(client.get("/v1/reports/counts", params={"source": "roof"}), 422)
    assert "limit" in _problem(client.get("/v1/tracks", params={"limit": 0}), 422)


def test_a_broken_store_is_a_problem_document(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "schema_version").write_text("99\n")
    client, _ = _make_client(_make_settings(tmp_path))
    assert "99" in _problem(client.get("/healthz"), 503)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> ClipProcessor:
    """Real, small models."""
    folder = tmp_path_factory.mktemp("serve")
    return ClipProcessor(_make_settings(folder, config=flow_config(folder), max_clip_seconds=3, torch_threads=1))


def _processed(processor: ClipProcessor, path: Path, **overrides: Any) -> list[Event]:
    given = {"path": path, "name": "sent.mp4", "source_id": path.stem, "store": False} | overrides
    events: list[Event] = []
    processor.process(Clip(**given), events.append, threading.Event())
    assert not path.exists()
    return events


def test_a_clip_ends_with_done(processor, tmp_path):
    events = _processed(processor, write_video(tmp_path / "clip.mp4", frames=12, size=(160, 120)))
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["accepted", "progress"]
    assert kinds[-2:] == ["summary", "done"]
    assert events[0]["name"] == "sent.mp4"
    assert events[-2]["chunks"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"Dear Sir"), "sent.mp4"),
        (lambda path: path.write_bytes(b""), "sent.mp4"),
        (write_audio, "sent.mp4"),
        (lambda path: write_video(path, frames=100, fps=25), "at most 3 s"),
    ],
)
def test_a_clip_that_cannot_be_processed_says_so_first(processor, tmp_path, make, message):
    path = tmp_path / "clip.mp4"
    make(path)
    (event,) = _processed(processor, path)
    assert (event["event"], event["status"]) == ("error", 422)
    assert message in event["detail"]
    assert str(tmp_path) not in event["detail"]


def test_a_client_that_leaves_stops_the_work(processor, tmp_path):
    clip = Clip(write_video(tmp_path / "clip.mp4", frames=60, size=(160, 120)), "sent.mp4", "leaver", store=False)

    async def leave() -> list[str]:
        seen = []
        stream = processor.events(clip)
        async for event in stream:
            seen.append(event["event"])
            if event["event"] == "progress":
                break
        await stream.aclose()
        return seen

    assert asyncio.run(leave()) == ["accepted", "progress"]
    assert not clip.path.exists()
