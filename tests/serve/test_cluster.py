"""The endpoint on clusters that others started: jobs through Ray's job API, and workers that come when asked for."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from serve.client import Client
from serve.problems import NotReadyError
from serve.runners import RayRunner, State
from tests.clusters import free_port, running_nodes
from tests.serve.resting import resting_endpoint
from tests.serve.small import flow_config
from tests.serve.test_jobs import _make_client, _once
from tests.videos import write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of the dashboard of a cluster of one node, on which `python` is this one."""
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with running_nodes(1, {"PATH": path}, "--include-dashboard=true", f"--dashboard-port={port}"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("code", "state", "said"),
    [
        ("import os; assert os.environ['SIGHTFLOW_X'] == 'a b'", State.SUCCEEDED, ""),
        ("raise SystemExit('no such thing')", State.FAILED, "no such thing"),
    ],
)
def test_how_a_job_of_a_cluster_ended(dashboard, code, state, said):
    runner = RayRunner(dashboard, state)
    # What is not ours stays here: the cluster has its own.
    runner.start(["-c", code], {"SIGHTFLOW_X": "a b", "PATH": "/nowhere"})
    _once(lambda: runner.state()[0] is not State.RUNNING)
    ended, told = RayRunner(dashboard, state).state()
    assert ended is state
    assert said in told


def test_a_job_of_a_cluster_is_stopped_and_one_nobody_knows_has_failed(dashboard):
    runner = RayRunner(dashboard, "long")
    runner.start(["-c", "import time; time.sleep(600)"], {})
    assert runner.state() == (State.RUNNING, "")
    runner.stop()
    _once(lambda: runner.state()[0] is State.CANCELLED)
    runner.stop()
    lost = RayRunner(dashboard, "lost")
    lost.stop()
    assert lost.state()[0] is State.FAILED
    with pytest.raises(NotReadyError, match="does not answer"):
        RayRunner(f"http://127.0.0.1:{free_port()}", "none")


def test_a_video_is_processed_as_a_job_of_a_cluster(dashboard, tmp_path):
    client = _make_client(tmp_path, config=flow_config(tmp_path), job_address=dashboard)
    write_video(tmp_path / "archive" / "gate.mp4", frames=20, size=(160, 120))
    answer = client.post("/v1/jobs", json={"paths": [str(tmp_path / "archive")], "source": "gate"})
    assert answer.status_code == 202
    place = answer.headers["location"]
    _once(lambda: client.get(place).json()["state"] != "running")
    job = client.get(place).json()
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert (job["progress"]["chunks"]["done"], job["progress"]["frames"]) == (1, 20)


def test_no_job_is_left_behind_where_no_cluster_answers(tmp_path):
    client = _make_client(tmp_path, job_address=f"http://127.0.0.1:{free_port()}")
    write_video(tmp_path / "archive" / "gate.mp4")
    answer = client.post("/v1/jobs", json={"paths": [str(tmp_path / "archive")]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert not (tmp_path / "sightflow-jobs").exists()


def test_workers_come_when_a_clip_does_and_go_again(tmp_path):
    args = {"store": str(tmp_path / "store"), "config": str(flow_config(tmp_path)), "torch_threads": 1}
    clip = write_video(tmp_path / "clip.mp4", frames=20, size=(160, 120))
    with resting_endpoint(tmp_path, args) as (url, has_workers):
        assert not has_workers()
        assert list(Client(url, timeout_s=240).clip(clip, store=False))[-1] == {"event": "done"}
        _once(lambda: not has_workers())
        # None runs, and none has to: the next clip starts one.
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
