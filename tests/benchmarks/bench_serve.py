"""The endpoint on a real Ray Serve: latency, wall time beside the same steps without it, a crowd, a worker's death.

python -m pytest tests/benchmarks/bench_serve.py -s
"""

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.serve as ray_serve
from fastapi.testclient import TestClient

from flows.config import Settings
from flows.demo.scene import Scene
from flows.demo.writer import VIDEO_NAME, write_scene
from flows.events import recompute_events
from flows.locate import locate_stored
from flows.plan import plan_run
from flows.probe import probe
from flows.process import DetectChunk, TrackChunk
from flows.stitch import stitch_source
from flows.store import open_store
from serve.api import make_api
from serve.app import build
from serve.client import Client, CutOffError, EndpointError
from serve.settings import ServeSettings
from tests.benchmarks.record import record
from tests.serve.local import free_port
from tests.serve.resting import resting_endpoint
from tests.tracked import make_store, sighting
from tests.videos import write_video

CLIENTS = int(os.environ.get("SIGHTFLOW_BENCH_CLIENTS", 50))
REPEATS = 3


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint, its settings of the flow, and a clip."""

    client: Client
    settings: Settings
    clip: Path


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("serve")
    write_scene(Scene.random(7, width=320, height=180, fps=10.0, duration_s=4.0, n_objects=4), folder)
    config = folder / "flow.yaml"
    config.write_text("detect: {detect_every: 5}")
    port = free_port()
    # Ray makes its workers nice, so that whatever else runs would be measured: the baseline is not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (as Ray spells it)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    args = {"store": str(folder / "store"), "config": str(config), "uploads": str(folder / "up"), "torch_threads": 1}
    (folder / "up").mkdir()
    ray_serve.run(build(args), name="sightflow")
    made = Endpoint(Client(f"http://127.0.0.1:{port}", timeout_s=300), Settings.load(config), folder / VIDEO_NAME)
    list(made.client.clip(made.clip, store=False))
    yield made
    ray_serve.shutdown()
    ray.shutdown()


def bench_first_event_and_wall(endpoint, tmp_path):
    """Turn about with the steps alone, models loaded in both."""
    steps = DetectChunk(endpoint.settings, threads=1), TrackChunk(endpoint.settings, threads=1)
    first_s, served_s, alone_s = [], [], []
    for repeat in range(1 + REPEATS):
        started = time.perf_counter()
        stream = endpoint.client.clip(endpoint.clip, store=False)
        next(stream)
        first_s.append(time.perf_counter() - started)
        list(stream)
        served_s.append(time.perf_counter() - started)
        alone_s.append(_alone(steps, endpoint, tmp_path / str(repeat)))
    # The first of each loads what is loaded at first use.
    first_s, served_s, alone_s = first_s[1:], served_s[1:], alone_s[1:]
    record(
        "serve",
        "one clip",
        {
            "first_event_ms": round(1000 * statistics.median(first_s)),
            "first_event_ms_least": round(1000 * min(first_s)),
            "clip_s": round(statistics.median(served_s), 3),
            "baseline_steps_s": round(statistics.median(alone_s), 3),
            "ratio": round(statistics.median(served_s) / statistics.median(alone_s), 3),
            "ratio_of_least": round(min(served_s) / min(alone_s), 3),
        },
    )


def _alone(steps, endpoint, folder: Path) -> float:
    """Seconds of what `sightflow run` does to a video once models are loaded."""
    detect, track = steps
    settings = endpoint.settings
    started = time.perf_counter()
    with open_store(str(folder)) as store:
        summary, todo = plan_run([str(endpoint.clip)], settings, store, source_id="alone", settle_s=0)
        for chunk in todo:
            store.begin(chunk, 3)
            result = track(detect(chunk))
            located = locate_stored(store, "alone", result.observations, settings.georeference, chunk.video)
            store.commit(replace(result, observations=located))
        for source_id in summary.sources:
            stitch_source(store, source_id, settings.stitch)
            recompute_events(store, source_id, settings.events, settings.georeference)
    return time.perf_counter() - started


def bench_a_cut_deep_in_an_hour(tmp_path):
    """The seconds around a track near the end of an hour, beside one near its beginning."""
    file = write_video(
        tmp_path / "hour.mp4", frames=36_000, fps=10, gop=100, size=(320, 180), options={"preset": "ultrafast"}
    )
    video = probe(str(file), start_time=datetime(2026, 5, 1, tzinfo=UTC))
    all_day = [sighting(video, "parked", i, (200, 90, 280, 170)) for i in range(0, 36_000, 2)]
    passing = [
        sighting(video, str(at), at + i, (20 + 4 * i, 30, 50 + 4 * i, 100)) for at in (600, 35_000) for i in range(40)
    ]
    store = make_store(tmp_path / "store", video, all_day + passing)
    early, late = store.query("select track_id from tracks where duration_s < 60 order by t0")["track_id"].to_pylist()

    async def nothing(clip: object) -> Any:
        yield {"event": "done"}

    api = make_api(nothing, ServeSettings(store=str(tmp_path / "store"), uploads=tmp_path))
    client = TestClient(api, base_url="http://127.0.0.1")
    seconds = {early: [], late: []}
    for _ in range(REPEATS):
        for track_id, taken in seconds.items():
            started = time.perf_counter()
            answer = client.get(f"/v1/videos/{video.video_id}/clip", params={"track": track_id})
            taken.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
    at_once, deep = (statistics.median(seconds[track_id]) for track_id in (early, late))
    record(
        "serve",
        "a cut deep in an hour",
        {"cut_s": round(deep, 2), "baseline_early_s": round(at_once, 2), "ratio": round(deep / at_once, 3)},
    )


def bench_the_first_clip_of_workers_that_rest(tmp_path):
    """`min_replicas: 0`: what loading costs the first clip, beside the same clip warm."""
    write_scene(Scene.random(7, width=320, height=180, fps=10.0, duration_s=4.0, n_objects=4), tmp_path)
    (tmp_path / "flow.yaml").write_text("detect: {detect_every: 5}")
    args = {"store": str(tmp_path / "store"), "config": str(tmp_path / "flow.yaml"), "torch_threads": 1}
    first_s, all_s = [], []
    with resting_endpoint(tmp_path, args) as (url, _):
        for _ in range(2):
            started = time.perf_counter()
            stream = Client(url, timeout_s=240).clip(tmp_path / VIDEO_NAME, store=False)
            next(stream)
            first_s.append(time.perf_counter() - started)
            list(stream)
            all_s.append(time.perf_counter() - started)
    record(
        "serve",
        "the first clip of workers that rest",
        {
            "first_event_s": round(first_s[0], 2),
            "clip_s": round(all_s[0], 2),
            "baseline_warm_s": round(all_s[1], 2),
            "ratio": round(all_s[0] / all_s[1], 2),
        },
    )


def _workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "ClipWorker" in " ".join(p.cmdline() or [p.name()])]


def _rss_mb() -> float:
    return sum(p.memory_info().rss for p in _workers()) / 1e6


def bench_a_crowd(endpoint):
    """Every client at once, twice: the second crowd finds the memory that the first has left."""

    def ask(_: int) -> str:
        try:
            events = list(endpoint.client.clip(endpoint.clip, store=False))
        except EndpointError as error:
            return "busy" if error.status == 503 and error.retry_after_s else f"status {error.status}"
        except CutOffError:
            return "lost"
        return events[-1]["event"]

    outcomes, memory_mb = [], [_rss_mb()]
    for _ in range(2):
        with ThreadPoolExecutor(CLIENTS) as pool:
            outcomes.append(Counter(pool.map(ask, range(CLIENTS))))
        memory_mb.append(_rss_mb())
    assert all(set(outcome) <= {"done", "busy"} for outcome in outcomes), outcomes
    record(
        "serve",
        f"{CLIENTS} clients at once",
        {
            "outcomes": [dict(outcome) for outcome in outcomes],
            "baseline_worker_mb": round(memory_mb[0]),
            "worker_mb_after": [round(mb) for mb in memory_mb[1:]],
            "ratio": round(memory_mb[-1] / memory_mb[0], 3),
        },
    )


def bench_a_worker_that_dies(endpoint):
    """Killed in the middle of a clip; then the same clip again, as soon as it is taken."""
    stream = endpoint.client.clip(endpoint.clip, store=False)
    next(stream)
    for process in _workers():
        process.send_signal(signal.SIGKILL)
    died = time.perf_counter()
    with pytest.raises(CutOffError):
        list(stream)
    told_s = time.perf_counter() - died
    while True:
        try:
            next(again := endpoint.client.clip(endpoint.clip, store=False))
            break
        except (EndpointError, CutOffError, OSError):
            time.sleep(0.2)
    taken_s = time.perf_counter() - died
    assert list(again)[-1] == {"event": "done"}
    record("serve", "a worker dies", {"client_told_s": round(told_s, 2), "next_accepted_s": round(taken_s, 2)})
