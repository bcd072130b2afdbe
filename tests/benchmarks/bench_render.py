"""Annotated video against decoding and encoding alone: `python -m tests.benchmarks.bench_render [FRAMES]`.

1280x720, H.264, twelve objects with masks, two zones, a line, trails, counters and the clock. The baseline decodes the
same frames to RGB and encodes them with the same writer, in the same way in threads. Both are run in turn and the best
of each counts; processor time is given as well, because it holds on a machine that does other things.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from flows.ahead import ahead
from flows.decode import probe, read_frames
from flows.mp4 import Mp4Writer
from flows.render import RenderOptions, render_video
from flows.schema import Video
from flows.store import Zone
from flows.store.base import Store
from tests.benchmarks.record import record
from tests.tracked import make_store, sighting

WIDTH_PX, HEIGHT_PX, FPS, OBJECTS = 1280, 720, 25, 12
START = datetime(2026, 5, 1, 8, 30, tzinfo=UTC)


def make_video(path: Path, n_frames: int) -> Video:
    """A street of smooth texture, the camera swaying as masts do, and a little noise."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(60, 200, (90, 160, 3), dtype=np.uint8), (WIDTH_PX + 64, HEIGHT_PX + 64))
    noise = [rng.integers(0, 8, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8) for _ in range(4)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for index in range(n_frames):
            dx, dy = round(32 + 3 * np.sin(index / 9)), round(32 + 3 * np.cos(index / 7))
            picture = ground[dy : dy + HEIGHT_PX, dx : dx + WIDTH_PX] + noise[index % 4]
            for number in range(OBJECTS):
                x1, y1, x2, y2 = (round(v) for v in _box(number, index))
                cv2.rectangle(picture, (x1, y1), (x2, y2), (40 + 15 * number, 60, 200 - 12 * number), -1)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return probe(str(path), "street", START)


def _box(number: int, index: int) -> tuple[float, float, float, float]:
    x = (90 * number + 4 * index) % (WIDTH_PX - 80)
    y = 60 + 45 * number % 440 + 6 * np.sin(index / 10 + number)
    return x, y, x + 60, y + 150


def make_tracks(folder: Path, video: Video, n_frames: int) -> Store:
    """Every object on every frame, a fifth of the time hidden."""
    rows = [
        sighting(
            video, f"object {number}", index, _box(number, index),
            **({"state": "bridged", "mask": None, "confidence": None} if (index // 25 + number) % 5 == 0 else {}),
        )
        for index in range(n_frames)
        for number in range(OBJECTS)
    ]  # fmt: skip
    store = make_store(folder, video, rows)
    corners = ((20, 400), (620, 400), (620, 700), (20, 700))
    store.write_zones(
        "street",
        [
            Zone("yard", "zone", corners),
            Zone("lane", "zone", tuple((x + 630, y) for x, y in corners)),
            Zone("gate", "line", ((640, 0), (640, 720))),
        ],
    )
    return store


def plain(video: Video, out: Path) -> None:
    """Decode to RGB and encode, nothing drawn."""
    with Mp4Writer.to(out, video, RenderOptions().crf) as writer:
        for frame in ahead(read_frames(video), 4):
            writer.write(frame)


def timed(work: Callable[[], Any], n_frames: int) -> dict[str, float]:
    """Frames per second, and milliseconds of processor time a frame."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"frames_per_s": round(n_frames / wall_s, 1), "cpu_ms_per_frame": round(1000 * cpu_s / n_frames, 2)}


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """The fastest, and the least processor time."""
    return {
        "frames_per_s": max(run["frames_per_s"] for run in runs),
        "cpu_ms_per_frame": min(run["cpu_ms_per_frame"] for run in runs),
    }


def main(n_frames: int = 300, rounds: int = 3) -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = make_video(folder / "street.mp4", n_frames)
        store = make_tracks(folder / "store", video, n_frames)
        out = folder / "out.mp4"
        works = {
            "plain": lambda: plain(video, out),
            "render": lambda: render_video(store, video.video_id, out),
            "render_blurred": lambda: render_video(store, video.video_id, out, options=RenderOptions(blur=("person",))),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                runs[name].append(timed(work, n_frames))
    figures: dict[str, Any] = {name: best(of_one) for name, of_one in runs.items()}
    for name in ("render", "render_blurred"):
        for unit in ("frames_per_s", "cpu_ms_per_frame"):
            figures[f"{name}_to_plain_{unit}"] = round(figures[name][unit] / figures["plain"][unit], 2)
    record("render", f"{WIDTH_PX}x{HEIGHT_PX}, {OBJECTS} objects, {n_frames} frames", figures)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:2]))
