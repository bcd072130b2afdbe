"""Clips through real models, decoded in a process of their own."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.probe import probe
from flows.schema import NS, ChunkState
from flows.store import open_store
from serve.clip import Clip, Event
from serve.clips import ClipProcessor, _Tracks
from serve.settings import ServeSettings
from tests.serve.small import flow_config
from tests.tracked import make_store, sighting
from tests.videos import write_audio, write_video


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClipProcessor]:
    """Real, small models."""
    folder = tmp_path_factory.mktemp("serve")
    made = ClipProcessor(
        ServeSettings(
            store=str(folder / "store"),
            config=flow_config(folder),
            max_clip_seconds=3,
            max_clip_frames=60,
            max_clip_side_px=640,
            torch_threads=1,
        )
    )
    yield made
    made.close()


def _processed(processor: ClipProcessor, path: Path, **overrides: Any) -> list[Event]:
    given = {"path": path, "name": "sent.mp4", "source_id": path.stem, "store": False} | overrides
    events: list[Event] = []
    processor.process(Clip(**given), events.append, threading.Event())
    assert not list(path.parent.iterdir())
    return events


def test_a_clip_ends_with_done_and_leaves_nothing(processor, tmp_path):
    events = _processed(processor, write_video(tmp_path / "clip.mp4", frames=12, size=(160, 120)))
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["accepted", "progress"]
    assert kinds[-2:] == ["summary", "done"]
    assert events[0]["name"] == "sent.mp4"
    assert events[-2]["chunks"] == 1
    assert events[-2]["stored"] is False


def test_a_processor_knows_whether_it_is_well(processor):
    processor.check()


def _huge(path: Path) -> Path:
    return write_video(path, frames=2, size=(1280, 64))


def _dense(path: Path) -> Path:
    """More frames than are allowed, in less time than is."""
    return write_video(path, frames=80, fps=100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"Dear Sir"), "sent.mp4"),
        (lambda path: path.write_bytes(b""), "sent.mp4"),
        (write_audio, "sent.mp4"),
        (lambda path: write_video(path, frames=100, fps=25), "at most 3 s"),
        (_huge, "at most 640 a side"),
    ],
)
def test_a_clip_that_cannot_be_processed_says_so_first(processor, tmp_path, make, message):
    path = tmp_path / "clip.mp4"
    make(path)
    (event,) = _processed(processor, path)
    assert (event["event"], event["status"]) == ("error", 422)
    assert message in event["detail"]
    assert str(tmp_path) not in event["detail"]


def test_frames_are_counted_while_they_come(processor, tmp_path):
    events = _processed(processor, _dense(tmp_path / "clip.mp4"))
    assert events[-1]["status"] == 422
    assert "at most 3 s and 60 frames" in events[-1]["detail"]


def test_the_decoder_may_die(processor, tmp_path):
    """Killed in the middle of a clip, it fails that clip and no other."""
    clip = Clip(write_video(tmp_path / "clip.mp4", frames=60, size=(160, 120)), "sent.mp4", "victim", store=False)
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if event["event"] == "accepted":
            os.kill(processor._decoder._process.pid, signal.SIGKILL)

    processor.process(clip, emit, threading.Event())
    assert (events[-1]["event"], events[-1]["status"]) == ("error", 422)
    assert "broke down" in events[-1]["detail"]
    after = _processed(processor, write_video(tmp_path / "clip.mp4", frames=12, size=(160, 120)))
    assert after[-1] == {"event": "done"}


def test_classes_and_keyframes_are_the_senders_choice(processor, tmp_path):
    events = _processed(
        processor, write_video(tmp_path / "a.mp4", frames=12), classes=("person",), detect_every=3, source_id="a"
    )
    assert events[-1] == {"event": "done"}
    (error,) = _processed(processor, write_video(tmp_path / "b.mp4", frames=12), classes=("persn",))
    assert error["status"] == 422
    assert "did you mean 'person'" in error["detail"]


def test_tracks_are_told_once_those_that_ended_long_ago_first(tmp_path):
    video = probe(str(write_video(tmp_path / "v.mp4", frames=100, size=(160, 120))))
    rows = [sighting(video, name, i, (20, 30, 50, 100)) for name, end in (("a", 20), ("b", 90)) for i in range(end)]
    told: list[Event] = []
    tracks = _Tracks(make_store(tmp_path / "store", video, rows), video.video_id, told.append)
    tracks.tell(2 * NS)
    assert [event["end_s"] for event in told] == [19 / 25]
    tracks.tell()
    assert [event["end_s"] for event in told] == [19 / 25, 89 / 25]
    assert tracks.counts() == {"person": 2}


def test_a_clip_of_several_chunks(tmp_path):
    config = flow_config(tmp_path)
    config.write_text(config.read_text() + "\nplan: {chunk_seconds: 1, overlap_seconds: 0.2}")
    made = ClipProcessor(ServeSettings(store=str(tmp_path / "store"), config=config, torch_threads=1))
    (tmp_path / "up").mkdir()
    events = _processed(made, write_video(tmp_path / "up" / "clip.mp4", frames=50, size=(64, 48)))
    made.close()
    assert (events[0]["chunks"], events[-1]) == (2, {"event": "done"})
    assert {event["chunk"] for event in events if event["event"] == "progress"} == {1, 2}


def test_what_is_sent_twice_is_worked_on_once(processor, tmp_path):
    def send() -> Event:
        path = write_video(tmp_path / "clip.mp4", frames=12)
        return _processed(processor, path, store=True, source_id="twice")[-2]

    assert (send()["chunks_done_before"], send()["chunks_done_before"]) == (0, 1)
    with open_store(processor._settings.store.url) as store:
        assert set(store.ledger()["state"].to_pylist()) == {ChunkState.DONE}


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
    assert not list(tmp_path.iterdir())
