"""The whole run: what Ray costs, what a second worker brings, what a plain script takes, and a plan without end.

Every ratio is of two things measured in turn in the same run. A rate is that between the first chunk's commit and the
last one's, from the ledger: starting Ray and loading models is not part of it.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from flows import plan
from flows.config import Settings
from flows.demo.scene import Scene
from flows.demo.writer import VIDEO_NAME, write_scene
from flows.plan import in_batches, plan_run
from flows.probe import probe
from flows.reports import run_report
from flows.schema import Video
from flows.store import Store, open_store
from tests.benchmarks.record import record

ROUNDS = 3
CHUNKS = 12


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute with up to eight objects."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(Scene.random(3, width=480, height=272, fps=10.0, duration_s=36.0, n_objects=8), folder)
    return folder / VIDEO_NAME


def _chunks_a_second(store_url: str) -> float:
    with open_store(store_url) as store:
        ledger = store.ledger().to_pylist()
    assert {row["state"] for row in ledger} == {"done"}, ledger
    ended = sorted(row["updated_at"] for row in ledger)
    return (len(ended) - 1) / (ended[-1] - ended[0]).total_seconds()


def _run(scene: Path, store_url: str, cores: set[int], workers: int | None) -> float:
    """Chunks a second of `sightflow run` on these cores, with so many one-thread workers or as it comes."""
    settings = {"TRACK_WORKERS": workers, "DETECT_WORKERS": 1, "TORCH_THREADS": 1} if workers else {}
    environment = {f"SIGHTFLOW_RUN__{name}": str(value) for name, value in settings.items()}
    _flows(["run", str(scene), "--store", store_url, "--chunk-seconds", "3"], environment, cores)
    return _chunks_a_second(store_url)


def _flows(arguments: list[str], environment: dict[str, str], cores: set[int]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _in_one_process(scene: Path, store_url: str, cores: set[int]) -> float:
    """Chunks a second of the same steps called one after another, torch on all of these cores."""
    code = """
import sys
from flows.config import Settings
from flows.plan import plan_run
from flows.process import DetectChunk, TrackChunk
from flows.store import open_store
settings = Settings.load(flags={"plan": {"chunk_seconds": 3}, "store": {"url": sys.argv[2]}})
threads = int(sys.argv[3])
detect, track = DetectChunk(settings, threads=threads), TrackChunk(settings, threads=threads)
with open_store(sys.argv[2]) as store:
    for chunk in plan_run([sys.argv[1]], settings, store)[1]:
        store.begin(chunk, 1)
        store.commit(track(detect(chunk)))
"""
    subprocess.run(
        [sys.executable, "-c", code, str(scene), store_url, str(len(cores))],
        env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        check=True,
    )
    return _chunks_a_second(store_url)


def bench_ray_beside_one_process(scene: Path, tmp_path: Path) -> None:
    """On one core each, so that neither gains by working on two chunks at once; and both as they come, on all cores."""
    core, cores = {max(os.sched_getaffinity(0))}, os.sched_getaffinity(0)
    on_one, on_all, rates = [], [], []
    for number in range(ROUNDS):
        plain = _in_one_process(scene, str(tmp_path / f"plain-{number}"), core)
        ray = _run(scene, str(tmp_path / f"ray-{number}"), core, 1)
        on_one.append(plain / ray - 1)
        rates.append(ray)
        plain = _in_one_process(scene, str(tmp_path / f"plain-all-{number}"), cores)
        on_all.append(plain / _run(scene, str(tmp_path / f"ray-all-{number}"), cores, None) - 1)
    figures = {"chunks": CHUNKS, "overhead": round(statistics.median(on_one), 3), "goal": 0.1}
    each = [round(value, 3) for value in on_one]
    defaults = {"overhead_on_all_cores_by_default": round(statistics.median(on_all), 3)}
    figures |= {"each": each, **defaults, "chunks_per_s_on_one_core": round(max(rates), 3)}
    record("pipeline", "ray beside one process", figures)


def bench_two_workers_beside_one(scene: Path, tmp_path: Path) -> None:
    """One thread each. Detection has a worker of its own, so one tracker fills more than one core."""
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    if len(cores) < 2:
        pytest.skip("one core")
    gains, from_one_core = [], []
    for number in range(ROUNDS):
        core = _run(scene, str(tmp_path / f"core-{number}"), {max(cores)}, 1)
        one = _run(scene, str(tmp_path / f"one-{number}"), cores, 1)
        two = _run(scene, str(tmp_path / f"two-{number}"), cores, 2)
        gains.append(two / one)
        from_one_core.append(two / core)
    figures = {"speedup": round(statistics.median(gains), 2), "goal": 1.7, "each": [round(value, 2) for value in gains]}
    scaled = {"speedup_from_one_core": round(statistics.median(from_one_core), 2)}
    record("pipeline", "two workers beside one", {**figures, **scaled})


def bench_end_to_end_beside_a_plain_script(scene: Path, tmp_path: Path, postgis_database: str) -> None:
    """From the command to the last row in PostGIS, everything included; the same weights, threads and cores."""
    cores = os.sched_getaffinity(0)
    ratios, plain_s, ours_s, told = [], [], [], {}
    for _ in range(2):
        started = time.monotonic()
        told = _plain_script(scene, postgis_database, cores)
        plain_s.append(time.monotonic() - started)
        with psycopg.connect(postgis_database) as server:
            server.execute("drop schema if exists sightflow cascade")
        started = time.monotonic()
        arguments = ["run", str(scene), "--store", postgis_database, "--detect-every", "30", "--chunk-seconds", "18"]
        _flows(arguments, {}, cores)
        ours_s.append(time.monotonic() - started)
        ratios.append(plain_s[-1] / ours_s[-1])
    figures = {"speedup": round(statistics.median(ratios), 2), "goal": 2.0, "plain_objects": told["objects"]}
    seconds = {"plain_s": round(min(plain_s), 1), "ours_s": round(min(ours_s), 1)}
    record("pipeline", "end to end beside a plain script", {**figures, **seconds})


def bench_a_clip_the_plain_script_cannot_hold(tmp_path: Path) -> None:
    """Both may grow by the same amount of memory once their models are loaded."""
    folder = tmp_path / "long"
    write_scene(Scene.random(5, width=320, height=180, fps=10.0, duration_s=150.0, n_objects=5), folder)
    budget_mb = 700
    outcomes = {}
    for who in ("plain", "ours"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.script", who, str(folder / VIDEO_NAME), "", str(budget_mb)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        last = (done.stderr.strip().splitlines() or [""])[-1]
        outcomes[who] = "completes" if done.returncode == 0 else last[:120]
    record("pipeline", "a long clip", {"budget_mb": budget_mb, **outcomes})


def _plain_script(scene: Path, url: str, cores: set[int]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.script", "plain", str(scene), url],
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def bench_a_plan_of_a_million_chunks(scene: Path, postgis_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan and the ledger are real; the videos are one, probed under ten thousand names."""
    video = probe(str(scene))
    videos, chunks_each = 10_000, 100
    hour = replace(video, duration_s=chunks_each * 36.0)

    def pretend(uri: str, *_: object) -> Video:
        return replace(hour, uri=uri, source_id=f"camera-{int(uri) % 100}", content_hash=f"{int(uri):032}")

    monkeypatch.setattr(plan, "probe", pretend)
    settings = Settings.load(flags={"plan": {"chunk_seconds": 36.0}, "store": {"url": postgis_database}})
    process = psutil.Process()
    memory_mb: dict[int, float] = {}
    with open_store(postgis_database) as store:
        started = time.monotonic()
        summary, todo = plan_run(map(str, range(videos)), settings, store, settle_s=0)
        first_s, planned = 0.0, 0
        for batch in in_batches(todo, 512, 5.0):
            first_s = first_s or time.monotonic() - started
            planned += len(batch)
            if planned // 100_000 > len(memory_mb):
                memory_mb[planned] = round(process.memory_info().rss / 2**20, 1)
        assert summary.planned == planned == videos * chunks_each
        planned_s = time.monotonic() - started
        queries = dict(_timed_queries(store, [chunk.chunk_id for chunk in batch]))
    held = list(memory_mb.values())
    record(
        "pipeline",
        "a plan of 1,000,000 chunks",
        {
            "first_batch_s": round(first_s, 2),
            "chunks_planned_per_s": round(planned / planned_s),
            "driver_growth_from_100k_to_1m_mb": round(held[-1] - held[0], 1),
            "driver_mb_every_100k": held,
            "ledger_queries_s": queries,
            "slowest_query_s": max(queries.values()),
            "goal": 1.0,
        },
    )


def _timed_queries(store: Store, chunk_ids: list[str]) -> Iterator[tuple[str, float]]:
    asked = {
        "status of one source": lambda: run_report(store, "ledger", source="camera-7"),
        "status of all": lambda: run_report(store, "ledger"),
        "a pass of 512 chunks": lambda: store.ledger(chunk_ids),
        "who holds them": lambda: store.held("nobody", chunk_ids),
        "news of a source": lambda: store.stamp("camera-7"),
    }
    for name, ask in asked.items():
        seconds = []
        for _ in range(3):
            started = time.monotonic()
            ask()
            seconds.append(time.monotonic() - started)
        yield name, round(statistics.median(seconds), 3)
