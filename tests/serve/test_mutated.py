"""Damaged and hostile files: an answer each, nothing left behind, and the endpoint lives on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.api import make_api
from serve.clips import ClipProcessor
from serve.settings import ServeSettings
from tests.serve.small import flow_config
from tests.videos import write_audio, write_video

MUTATED = 200
KINDS = ("mp4", "mkv", "avi", "ts", "flv", "webm")


def _originals(folder: Path) -> dict[str, bytes]:
    made = {}
    for kind in KINDS:
        codec = {"webm": "libvpx"}.get(kind, "libx264")
        path = write_video(folder / f"v.{kind}", frames=6, size=(64, 48), codec=codec, b_frames=0)
        made[kind] = path.read_bytes()
    made["m4a"] = write_audio(folder / "a.m4a").read_bytes()
    return made


def _cut_off(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 5, 50))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _torn(content: bytes, chance: random.Random) -> bytes:
    """A piece is missing, twice there, or noise."""
    a, b = sorted(chance.randrange(len(content)) for _ in range(2))
    return chance.choice(
        (content[:a] + content[b:], content[:b] + content[a:], content[:a] + chance.randbytes(b - a) + content[b:])
    )


def _lying(content: bytes, chance: random.Random) -> bytes:
    """Sizes, durations and rates of its boxes become huge: whole 32-bit words of the head and of mp4's index."""
    changed = bytearray(content)
    start = max(content.find(b"moov"), 0)
    for _ in range(chance.choice((1, 3, 10))):
        place = start + chance.randrange(max(min(len(content) - start, 800) - 4, 1))
        changed[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"))
    return bytes(changed)


WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_cut_off, _flipped, _torn, _lying)


def _mutated(folder: Path) -> Iterator[tuple[str, bytes]]:
    originals = _originals(folder)
    for seed in range(MUTATED):
        chance = random.Random(seed)
        kind = chance.choice(list(originals))
        content = WAYS[seed % len(WAYS)](originals[kind], chance)
        # Renamed as well: what it is called says nothing.
        yield f"{seed}.{chance.choice(KINDS)}", content


@pytest.mark.slow
def test_mutated_files_are_answered_and_leave_nothing(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    settings = ServeSettings(
        store=str(tmp_path / "store"), config=flow_config(tmp_path), uploads=uploads, torch_threads=1,
        max_clip_seconds=2, max_clip_frames=40, max_clip_side_px=640,
    )  # fmt: skip
    processor = ClipProcessor(settings)
    client = TestClient(make_api(processor.events, settings), base_url="http://127.0.0.1")
    answers: dict[int, int] = {}
    for name, content in _mutated(tmp_path):
        answer = client.post(
            "/v1/clips?store=false", files={"file": (name, content)}, headers={"Accept": "application/json"}
        )
        answers[answer.status_code] = answers.get(answer.status_code, 0) + 1
        assert answer.status_code in (200, 415, 422), f"{name}: {answer.text}"
        assert not list(uploads.iterdir()), name
    processor.close()
    # All three happen, or the files are not what they are meant to be.
    assert answers.keys() == {200, 415, 422}
