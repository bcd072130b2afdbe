"""Jobs: what may run, and what becomes of it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from flows.errors import SightflowError
from flows.schema import ChunkState
from serve.api import make_api
from serve.jobs import check_allowed
from serve.problems import ForbiddenError
from serve.runners import LocalRunner, State
from serve.settings import ServeSettings
from tests.serve.small import flow_config
from tests.videos import write_video

ENVIRONMENT = dict(os.environ)


def _make_client(folder: Path, **settings: Any) -> TestClient:
    async def nothing(clip: object) -> Any:
        yield {"event": "done"}

    archive = folder / "archive"
    archive.mkdir(exist_ok=True)
    given = {"store": str(folder / "store"), "uploads": folder, "archives": (str(archive),)} | settings
    return TestClient(make_api(nothing, ServeSettings(**given)), base_url="http://127.0.0.1")


def _once(done: Callable[[], bool], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("path", "archives", "allowed"),
    [
        ("/archive/gate", ("/archive",), True),
        ("/archive", ("/archive",), True),
        ("/archive/../etc/passwd", ("/archive",), False),
        ("/archived", ("/archive",), False),
        ("archive", ("/archive",), False),
        ("s3://ours/2026/", ("/archive", "s3://ours"), True),
        ("s3://ours/../theirs/", ("s3://ours/",), False),
        ("s3://ours.evil/2026", ("s3://ours",), False),
        ("http://169.254.169.254/", ("https://ours/",), False),
        ("file:///etc/passwd", ("/",), False),
        ("/archive", (), False),
    ],
)
def test_jobs_read_the_archives_and_nothing_else(path, archives, allowed):
    if allowed:
        check_allowed(path, archives)
    else:
        with pytest.raises(ForbiddenError):
            check_allowed(path, archives)


def test_links_do_not_lead_out_of_an_archive(tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"")
    (tmp_path / "archive" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(SightflowError, match="no archive"):
        check_allowed(str(tmp_path / "archive" / "link.mp4"), (str(tmp_path / "archive"),))


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"paths": ["/etc"]}, 403, "in no archive"),
        ({"paths": []}, 422, "paths"),
        ({"detector": "/tmp/evil.pt"}, 422, "detector is one of"),
        ({"segmenter": "sam2.1-tinny"}, 422, "segmenter is one of"),
        ({"colour": "red"}, 422, "colour"),
        ({"source": "a", "start_time": "2026-05-01T08:00:00Z"}, 422, "got 2"),
    ],
)
def test_jobs_that_cannot_be_meant(tmp_path, change, status, said):
    client = _make_client(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "archive" / name).write_bytes(b"")
    answer = client.post("/v1/jobs", json={"paths": [str(tmp_path / "archive")]} | change)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert not (tmp_path / "sightflow-jobs").exists()


@pytest.mark.parametrize("job", ["none", "0" * 32, "..%2F..%2Fetc%2Fpasswd"])
def test_a_job_nobody_knows(tmp_path, job):
    client = _make_client(tmp_path)
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert client.delete(f"/v1/jobs/{job}").status_code == 404


@pytest.mark.parametrize(
    ("code", "state", "said"),
    [("print('well')", State.SUCCEEDED, "well"), ("raise SystemExit('no')", State.FAILED, "no")],
)
def test_how_a_process_ended(tmp_path, code, state, said):
    runner = LocalRunner("a", tmp_path)
    runner.start(["-c", code], ENVIRONMENT)
    _once(lambda: runner.state()[0] is not State.RUNNING)
    # Another replica reads the same.
    assert LocalRunner("a", tmp_path).state() == (state, said)


def test_a_process_that_is_stopped_or_killed(tmp_path):
    runner = LocalRunner("a", tmp_path)
    runner.start(["-c", "import time; time.sleep(600)"], ENVIRONMENT)
    assert runner.state() == (State.RUNNING, "")
    runner.stop()
    _once(lambda: runner.state()[0] is not State.RUNNING)
    assert runner.state() == (State.FAILED, "it was killed")
    runner.stop()


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_from_beginning_to_end(tmp_path):
    client = _make_client(tmp_path, config=flow_config(tmp_path))
    write_video(tmp_path / "archive" / "gate.mp4", frames=20, size=(160, 120))
    answer = client.post("/v1/jobs", json={"paths": [str(tmp_path / "archive")], "source": "gate"})
    assert answer.status_code == 202
    place = answer.headers["location"]
    assert client.get(place).json()["progress"]["videos"] == 1
    _once(lambda: client.get(place).json()["state"] != "running")
    job = client.get(place).json()
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert job["progress"] == {"videos": 1, "chunks": {s: int(s == "done") for s in ChunkState}, "frames": 20}
    assert client.delete(place).json() == job


def test_a_job_that_fails_says_why_and_one_that_is_cancelled_that(tmp_path):
    client = _make_client(tmp_path, config=tmp_path / "none.yaml")
    write_video(tmp_path / "archive" / "gate.mp4")
    jobs = [client.post("/v1/jobs", json={"paths": [str(tmp_path / "archive")]}).json() for _ in range(2)]
    cancelled = client.delete(f"/v1/jobs/{jobs[0]['id']}").json()
    assert cancelled["state"] == "cancelled"
    _once(lambda: client.get(f"/v1/jobs/{jobs[1]['id']}").json()["state"] != "running")
    failed = client.get(f"/v1/jobs/{jobs[1]['id']}").json()
    assert failed["state"] == "failed"
    assert "none.yaml" in failed["error"]
