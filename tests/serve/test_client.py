"""The client against the real application, on a real socket."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from flows.store import open_store
from serve.api import make_api
from serve.client import Client, CutOffError, EndpointError
from serve.clip import Clip, Event
from serve.keys import new_key
from serve.problems import BusyError
from serve.settings import ServeSettings
from tests.dashboard.filled import fill
from tests.serve.local import listening

VIDEO = b"\0\0\0\x18ftypisom" + bytes(1_000_000)
WELL = ({"event": "accepted"}, {"event": "track", "track_id": "1"}, {"event": "done"})


def _make_api(folder: Path, *events: Event, **settings: Any) -> tuple[Any, list[Clip]]:
    clips: list[Clip] = []

    async def said(clip: Clip) -> AsyncGenerator[Event, None]:
        clips.append(clip)
        for event in events:
            yield event

    return make_api(said, ServeSettings(store=str(folder / "store"), uploads=folder, **settings)), clips


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / 'a "b" é.mp4'
    path.write_bytes(VIDEO)
    return path


def test_a_clip_and_its_events(tmp_path, video):
    api, clips = _make_api(tmp_path, *WELL)
    with listening(api) as url:
        events = list(Client(url).clip(video, source="gate", store=False, classes="person"))
    assert tuple(events) == WELL
    assert (clips[0].source_id, clips[0].store, clips[0].classes) == ("gate", False, ("person",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [video.name]


@pytest.mark.parametrize(
    ("events", "settings", "error", "said"),
    [
        (WELL[:2], {}, CutOffError, "without `done`"),
        ((WELL[0], {"event": "error", "status": 422, "title": "No", "detail": "bad"}), {}, EndpointError, "bad"),
        (WELL, {"max_clip_mb": 0.1}, EndpointError, "at most 0.1 MB"),
        (WELL, {"keys": (new_key()[1],)}, EndpointError, "401"),
    ],
)
def test_what_goes_wrong_is_raised(tmp_path, video, events, settings, error, said):
    api, _ = _make_api(tmp_path, *events, **settings)
    with listening(api) as url, pytest.raises(error, match=said):
        list(Client(url).clip(video))
    assert sorted(path.name for path in tmp_path.iterdir()) == [video.name]


def test_a_busy_endpoint_says_when_to_come_back(tmp_path, video):
    async def busy(clip: Clip) -> AsyncGenerator[Event, None]:
        raise BusyError
        yield {}

    api = make_api(busy, ServeSettings(store=str(tmp_path / "store"), uploads=tmp_path))
    with listening(api) as url, pytest.raises(EndpointError) as caught:
        list(Client(url).clip(video))
    assert caught.value.status == 503
    assert caught.value.retry_after_s > 0


def test_a_client_that_leaves_ends_the_stream(tmp_path, video):
    ended: list[float] = []

    async def endless(clip: Clip) -> AsyncGenerator[Event, None]:
        try:
            while True:
                yield {"event": "progress", "done": 0.1}
                await asyncio.sleep(0.05)
        finally:
            ended.append(time.monotonic())

    api = make_api(endless, ServeSettings(store=str(tmp_path / "store"), uploads=tmp_path))
    with listening(api) as url:
        stream = Client(url).clip(video)
        next(stream)
        stream.close()
        until = time.monotonic() + 20
        while not ended and time.monotonic() < until:
            time.sleep(0.05)
    assert ended
    assert sorted(path.name for path in tmp_path.iterdir()) == [video.name]


def test_tracks_and_reports(tmp_path):
    with open_store(str(tmp_path / "store")) as store:
        fill(store)
    key, hashed = new_key()
    api, _ = _make_api(tmp_path, keys=(hashed,))
    with listening(api) as url:
        client = Client(url, key)
        assert len({track["track_id"] for track in client.tracks(limit=3)}) == 8
        assert {row["class_name"] for row in client.report("counts", source="gate")} == {"person", "vehicle"}
        with pytest.raises(EndpointError, match="no job"):
            client.job("x")
        with pytest.raises(EndpointError, match="no archive"):
            client.submit("/etc")
