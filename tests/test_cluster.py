"""Archives over several machines: nodes and drivers that are killed, videos that kill, two drivers, a submitted job."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from flows.models import resolve
from flows.schema import ChunkState
from flows.store import open_store
from tests.clusters import POISON, free_port, kill_tree, running_nodes
from tests.test_pipeline import LEASE, scene  # noqa: F401 (a fixture)
from tests.videos import write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FLAGS = ["--chunk-seconds", "2", "--detect-every", "5"]


def _start(folder: Path, store: Path, environment: dict[str, str], *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "run", str(folder), "--store", str(store), *FLAGS, *more],
        env={**os.environ, **LEASE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ledger(store: Path) -> list[dict]:
    if not (store / "schema_version").exists():
        return []
    with open_store(str(store)) as opened:
        return opened.ledger().to_pylist()


def _until_done(store: Path, n: int, run: subprocess.Popen, deadline_s: float = 600) -> None:
    until = time.monotonic() + deadline_s
    while sum(row["state"] == ChunkState.DONE for row in _ledger(store)) < n:
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < until, f"no {n} chunks done within {deadline_s} s"
        time.sleep(0.2)


def _assert_exactly_once(store: Path) -> None:
    sql = "select count(*) as n, count(*) - count(distinct tracklet_id || '@' || frame) as twice from observations"
    with open_store(str(store)) as opened:
        (counted,) = opened.query(sql).to_pylist()
    assert counted["n"] > 0
    assert counted["twice"] == 0


def test_a_node_and_a_driver_are_killed_and_one_video_kills_its_workers(scene, tmp_path):  # noqa: F811
    videos, store = tmp_path / "videos", tmp_path / "store"
    videos.mkdir()
    (videos / "good.mp4").write_bytes(scene.read_bytes())
    write_video(videos / "poison.mp4", frames=10)
    (tmp_path / "sitecustomize.py").write_text(POISON)
    python_path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    with running_nodes(3, {"PYTHONPATH": python_path}) as (address, nodes):
        joined = {"RAY_ADDRESS": address}
        first = _start(videos, store, joined)
        _until_done(store, 1, first)
        kill_tree(nodes[1])
        _until_done(store, 2, first)
        first.kill()
        first.communicate()
        again = _start(videos, store, joined)
        out, err = again.communicate(timeout=900)
    assert again.returncode == 1, err
    ledger = _ledger(store)
    states = {(row["source_id"], row["state"]) for row in ledger}
    assert states == {("good", ChunkState.DONE), ("poison", ChunkState.FAILED)}, err
    assert all("never ended: its process was killed" in row["error"] for row in ledger if row["source_id"] == "poison")
    assert len(ledger) == 7
    assert "1 failed" in out
    _assert_exactly_once(store)


def test_two_drivers_share_the_work(scene, tmp_path):  # noqa: F811
    store = tmp_path / "store"
    with running_nodes(2, {}) as (address, _):
        pools = {"SIGHTFLOW_RUN__TRACK_WORKERS": "1", "SIGHTFLOW_RUN__DETECT_WORKERS": "1"}
        runs = [_start(scene, store, {"RAY_ADDRESS": address, **pools}) for _ in range(2)]
        said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert {(row["state"], row["attempts"]) for row in _ledger(store)} == {(ChunkState.DONE, 1)}
    _assert_exactly_once(store)


def test_a_ray_that_somebody_else_started_is_left_alone(scene, tmp_path):  # noqa: F811
    with running_nodes(1, {}) as (_, nodes):
        there = {"RAY_TMPDIR": psutil.Process(nodes[0]).environ()["RAY_TMPDIR"], "RAY_ADDRESS": ""}
        run = _start(scene, tmp_path / "store", there)
        _, err = run.communicate(timeout=900)
    assert run.returncode == 0, err
    _assert_exactly_once(tmp_path / "store")


def test_a_cluster_that_is_not_there_is_said(scene, tmp_path):  # noqa: F811
    address = f"127.0.0.1:{free_port()}"
    run = _start(scene, tmp_path / "store", {"RAY_ADDRESS": address})
    _, err = run.communicate(timeout=120)
    assert run.returncode == 1
    assert f"no Ray cluster answers at RAY_ADDRESS={address} (Connection refused)" in err


def test_prometheus_gets_what_the_dashboard_draws(scene, tmp_path):  # noqa: F811
    """From the endpoint of a node, while a run works; failures and damage are counted when there are some."""
    store, port = tmp_path / "store", free_port()
    queries = re.findall(r"ray_sightflow_\w+", (Path(__file__).parents[1] / "deploy" / "grafana.json").read_text())
    wanted = {name for name in queries if not re.search("failures|damaged", name)}
    scraped = ""
    head = ["--include-dashboard=false", f"--metrics-export-port={port}"]
    with running_nodes(1, {"RAY_metrics_report_interval_ms": "1000"}, *head) as (address, _):
        run = _start(scene, store, {"RAY_ADDRESS": address})
        while run.poll() is None and not all(f"{name}{{" in scraped for name in wanted):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                scraped = answer.read().decode()
            time.sleep(0.5)
        _, err = run.communicate(timeout=900)
    assert run.returncode == 0, err
    assert {name for name in wanted if f"{name}{{" not in scraped} == set()


def _job(address: str, *words: str) -> subprocess.CompletedProcess:
    """`ray job` with these words: the command of docs/cluster.md."""
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", words[0], "--address", address, *words[1:]],
        env={**os.environ, "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_a_job_that_is_stopped_hands_its_chunks_back(scene, tmp_path):  # noqa: F811
    store, dashboard = tmp_path / "store", free_port()
    address = f"http://127.0.0.1:{dashboard}"
    run = [sys.executable, "-m", "flows", "run", str(scene), "--store", str(store), *FLAGS]
    with running_nodes(1, {}, "--include-dashboard=true", f"--dashboard-port={dashboard}"):
        patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
        submitted = _job(
            address, "submit", "--no-wait", "--submission-id", "archive", "--runtime-env-json", patience, "--", *run
        )
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        until = time.monotonic() + 600
        while ChunkState.RUNNING not in (states := {row["state"] for row in _ledger(store)}):
            assert time.monotonic() < until, (states, _job(address, "logs", "archive").stdout)
            time.sleep(0.2)
        stopped = _job(address, "stop", "archive")
        said = _job(address, "logs", "archive").stdout
    assert "stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    assert "the same command does the rest" in said, said
    ledger = _ledger(store)
    assert {row["state"] for row in ledger} <= {ChunkState.PLANNED, ChunkState.DONE}
    assert {row["attempts"] for row in ledger if row["state"] == ChunkState.PLANNED} <= {0}


def test_a_submitted_job_has_the_weights_and_settings_that_git_ignores(scene, tmp_path):  # noqa: F811
    """The commands of docs/cluster.md, on a cluster of one node."""
    job, store = tmp_path / "job", tmp_path / "store"
    (job / "runs").mkdir(parents=True)
    (job / ".gitignore").write_text("runs/\n*.yaml\n")
    nano = resolve("nano", "segmenter")
    (job / "runs" / "mine.safetensors").write_bytes(nano.path.read_bytes())
    (job / "runs" / "mine.yaml").write_bytes(Path(nano.config).read_bytes())
    (job / "site.yaml").write_text(
        f"segment: {{segmenter: runs/mine.safetensors, image_size: {nano.image_size}}}\nplan: {{chunk_seconds: 6}}\n"
    )
    dashboard = free_port()
    head = ["--include-dashboard=true", f"--dashboard-port={dashboard}"]
    with running_nodes(1, {}, *head):
        run = [sys.executable, "-m", "flows", "run", str(scene), "--config", "site.yaml", "--store", str(store)]
        submitted = _job(f"http://127.0.0.1:{dashboard}", "submit", "--working-dir", str(job), "--", *run)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert re.search(r"2 chunks processed, 0 done before, 0 failed", submitted.stdout), submitted.stdout
    assert {row["state"] for row in _ledger(store)} == {ChunkState.DONE}
