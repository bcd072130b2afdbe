"""Probing and decoding in a process of its own: what a file does to the decoder, it does to that process alone.

The process is kept warm between files and replaced when it dies, hangs or is left in the middle of one. It knows no
secrets, has a bounded share of memory, and says nothing but JSON and pixels: nothing it sends is unpickled here.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

import numpy as np

from flows.decode import FrameReader, probe
from flows.errors import SightflowError, VideoError
from flows.media import open_video
from flows.schema import NS, Frame, Video

Only = Callable[[int, int], bool]

# Sixteen reference frames and as many threads' of 4096 x 4096 pixels take 1.5 GB; what asks for more is no clip.
_MEMORY_BYTES = 4 << 30
_MAX_THREADS = 8
# Between two frames that are wanted, or until a file is probed: a keyframe every few seconds of 4K is done in five.
_PATIENCE_S = 30.0


class Limits(NamedTuple):
    """What a clip may be."""

    max_seconds: float
    max_frames: int
    max_side_px: int


class DecoderProcess:
    """The parent's side. One file at a time; asking for the next gives up the one before.

    Args:
        limits: What a clip may be.
        patience_s: How long the process may be silent before it is given up.
    """

    def __init__(self, limits: Limits, patience_s: float = _PATIENCE_S) -> None:
        self._limits, self._patience_s = limits, patience_s
        self._start()

    def probe(self, path: str, source_id: str, start_time: datetime | None = None) -> Video:
        """As `flows.probe.probe`, within the limits.

        Raises:
            VideoError: What cannot be read, exceeds a limit, or kills the decoder.
        """
        ((head, _),) = self._ask(_probed, path, source_id, start_time)
        return Video(**head["video"] | {"start_time": datetime.fromisoformat(head["video"]["start_time"])})

    def reader(
        self, video: Video, start_ns: int = 0, end_ns: int | None = None, *, only: Only | None = None, threads: int = 0
    ) -> RemoteReader:
        """As `flows.decode.FrameReader`, within the limits."""
        return RemoteReader(lambda: self._ask(_frames, video, start_ns, end_ns, only, threads))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serve.decoder", str(theirs.fileno()), json.dumps(self._limits)],
                pass_fds=[theirs.fileno()],
                # The store's password and whatever else the environment holds stay here.
                env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath},
            )
        self._asked = False

    def _ask(self, answer: Callable[..., Any], *arguments: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        if self._asked:
            self._replace()
        self._asked = True
        connection = self._connection
        try:
            connection.send((answer, arguments))
            while connection.poll(self._patience_s):
                head = json.loads(connection.recv_bytes())
                if "error" in head:
                    self._asked = False
                    raise VideoError(head["error"])
                pixels = None
                if "shape" in head:
                    pixels = np.empty(head["shape"], np.uint8)
                    connection.recv_bytes_into(memoryview(pixels).cast("B"))
                last = "more" not in head
                self._asked = not last
                yield head, pixels
                if last:
                    return
        except (EOFError, OSError):
            self._replace()
            raise VideoError("the decoder broke down over this file: re-encode it, for instance to H.264") from None
        self._replace()
        raise VideoError(f"the decoder came to nothing in {self._patience_s:g} s over this file: re-encode it")

    def _replace(self) -> None:
        self.close()
        self._start()


class RemoteReader:
    """The frames another process decodes; `counters` as `FrameReader`'s, once they are through."""

    def __init__(self, ask: Callable[[], Iterator[tuple[dict[str, Any], Any]]]) -> None:
        self._ask = ask
        self.counters: dict[str, int] = {}

    def __iter__(self) -> Iterator[Frame]:
        """Frame by frame; raises what reading it raised there."""
        for head, pixels in self._ask():
            if pixels is None:
                self.counters = head["counters"]
            else:
                yield Frame(head["number"], head["pts_ns"], pixels)


# -- the process's side


def _probed(send: Callable[..., None], limits: Limits, path: str, source_id: str, start_time: datetime | None) -> None:
    # Before the first frame is decoded, which a huge one would take gigabytes for.
    with open_video(path) as (_, stream):
        _check_sides(path, limits, stream.codec_context.width, stream.codec_context.height)
    video = probe(path, source_id, start_time)
    _check_sides(path, limits, video.width_px, video.height_px)
    if video.duration_s > limits.max_seconds:
        raise VideoError(f"{path} is {video.duration_s:.1f} s long; {_allowed_length(limits)}")
    send({"video": asdict(video) | {"start_time": video.start_time.isoformat()}})


def _check_sides(path: str, limits: Limits, *sides_px: int) -> None:
    if max(sides_px) > limits.max_side_px:
        raise VideoError(
            f"{path} has frames of {' x '.join(map(str, sides_px))} pixels; "
            f"expected at most {limits.max_side_px} a side"
        )


def _allowed_length(limits: Limits) -> str:
    return (
        f"expected at most {limits.max_seconds:g} s and {limits.max_frames} frames: use a job or `sightflow run` for "
        "longer videos"
    )


def _frames(
    send: Callable[..., None],
    limits: Limits,
    video: Video,
    start_ns: int,
    end_ns: int | None,
    only: Only | None,
    threads: int,
) -> None:
    seen = 0

    def counted(number: int, pts_ns: int) -> bool:
        nonlocal seen
        seen += 1
        # What was probed comes from the file's index, which may say less than the file holds.
        if seen > limits.max_frames or pts_ns > limits.max_seconds * NS:
            raise VideoError(f"{video.uri} is too long; {_allowed_length(limits)}")
        return only is None or only(number, pts_ns)

    threads = threads or min(os.cpu_count() or 1, _MAX_THREADS)
    reader = FrameReader(video, start_ns, end_ns, only=counted, threads=threads)
    for frame in reader:
        head = {"number": frame.number, "pts_ns": frame.pts_ns, "shape": frame.image_rgb.shape, "more": True}
        send(head, frame.image_rgb)
    send({"counters": reader.counters})


def main() -> None:
    """Answer requests until the other side is gone."""
    connection, limits = Connection(int(sys.argv[1])), Limits(*json.loads(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def send(head: dict[str, Any], pixels: Any = None) -> None:
        connection.send_bytes(json.dumps(head).encode())
        if pixels is not None:
            connection.send_bytes(memoryview(pixels).cast("B"))

    while True:
        try:
            answer, arguments = connection.recv()
            answer(send, limits, *arguments)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except SightflowError as error:
            send({"error": str(error)})
        except MemoryError:
            send({"error": "its frames need more memory than a clip may take"})


if __name__ == "__main__":
    # What is asked for is pickled by name, and this module's name is not `__main__` on the other side.
    from serve.decoder import main as answer_requests

    answer_requests()
