"""The whole flow on a real local Ray, by the command a person types: run, resume, crash and account."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch
from safetensors.torch import save_file

from flows.config import Settings
from flows.demo.scene import Scene
from flows.demo.writer import VIDEO_NAME, write_scene
from flows.errors import WorkerError
from flows.pipeline import _heed_kilobytes, run
from flows.plan import RunSummary, plan_run
from flows.schema import ChunkState, Video
from flows.stitch import stitch_source
from flows.store import open_store
from tests.tracked import make_store, sighting
from tests.videos import write_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """Twelve seconds of a synthetic scene, small enough for tests."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(Scene.random(7, width=320, height=180, fps=10.0, duration_s=12.0, n_objects=4), folder)
    return folder / VIDEO_NAME


# What a killed run began is free again this soon.
LEASE = {"SIGHTFLOW_RUN__LEASE_SECONDS": "5"}


def _command(video: Path, store_url: str, *more: str) -> list[str]:
    flags = ["--store", store_url, "--source", "yard", "--chunk-seconds", "4", "--detect-every", "5"]
    return [sys.executable, "-m", "flows", "run", str(video), *flags, *more]


def _run(video: Path, store_url: str, *more: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **LEASE}
    return subprocess.run(
        _command(video, store_url, *more), env=environment, capture_output=True, text=True, check=False
    )


def _ledger(store_url: str) -> list[dict]:
    with open_store(store_url) as store:
        return store.ledger().to_pylist()


def _rows(store_url: str) -> dict[str, int]:
    """Observations stored, and those that would be there twice."""
    sql = "select count(*) as n, count(*) - count(distinct tracklet_id || '@' || frame) as twice from observations"
    with open_store(store_url) as store:
        return store.query(sql).to_pylist()[0]


def _worker(parent: int, stage: str, deadline_s: float = 120) -> psutil.Process:
    """A Ray actor of this run's stage, once it has worked for a moment."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        for process in psutil.Process(parent).children(recursive=True):
            try:
                if stage in " ".join(process.cmdline()) and process.cpu_times().user > 0:
                    return process
            except psutil.Error:
                continue
        time.sleep(0.2)
    raise AssertionError(f"no worker of {stage} within {deadline_s} s")


def test_a_run_is_recorded_without_the_stores_password(postgis_database):
    url = postgis_database.replace("postgres@", "postgres:s3cret@")
    assert url != postgis_database
    with open_store(url) as store:
        plan_run([], Settings.load(flags={"store": {"url": url}}), store)
        (run,) = store.query("select settings from runs").to_pylist()
    assert json.loads(run["settings"])["store"]["url"].startswith("postgresql://postgres@")
    assert "s3cret" not in run["settings"]


def test_run_then_nothing_left_to_do(scene, store_url):
    first = _run(scene, store_url)
    assert first.returncode == 0, first.stderr
    assert "3 chunks processed, 0 done before" in first.stdout
    ledger = _ledger(store_url)
    assert [row["state"] for row in ledger] == [ChunkState.DONE] * 3
    assert sum(row["frames"] for row in ledger) >= 120
    rows = _rows(store_url)
    assert rows["n"] > 0
    assert rows["twice"] == 0

    second = _run(scene, store_url)
    assert second.returncode == 0, second.stderr
    assert "Nothing to do: all 3 chunks were processed before" in second.stderr
    assert _rows(store_url) == rows
    # A setting that changes results is other work; one that does not is not.
    changed = _run(scene, store_url, "--detect-every", "7")
    assert "3 chunks processed" in changed.stdout


def test_detection_does_not_run_far_ahead_of_tracking(scene, tmp_path):
    """What is begun is no other run's. A setting of Ray's that is not public sees to it."""
    store_url, begun = tmp_path / "store", 0
    settings = {"PLAN__OVERLAP_SECONDS": "0.2", "RUN__TRACK_WORKERS": "1", "RUN__DETECT_WORKERS": "1"}
    run = subprocess.Popen(
        _command(scene, str(store_url), "--chunk-seconds", "0.5"),
        env={**os.environ, **{f"SIGHTFLOW_{name}": value for name, value in settings.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while run.poll() is None:
        begun = max(begun, _states(str(store_url)).count(ChunkState.RUNNING))
        time.sleep(0.1)
    assert run.returncode == 0
    assert _states(str(store_url)) == [ChunkState.DONE] * 24
    # One is tracked, two wait and one is detected; another may just be handed on. Unbounded, it is nearly all.
    assert 1 <= begun <= 5


def test_a_ray_that_cannot_hold_detection_back_is_refused(monkeypatch):
    policy = "ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy"
    monkeypatch.setitem(sys.modules, policy, ModuleType("policy"))
    with pytest.raises(WorkerError, match=r"cannot hold detection back: .*DownstreamCapacityBackpressurePolicy"):
        _heed_kilobytes()


def test_a_killed_worker_costs_one_attempt_and_nothing_else(scene, tmp_path):
    store_url = str(tmp_path / "store")
    run = subprocess.Popen(_command(scene, store_url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _worker(run.pid, "Map(Track)").send_signal(signal.SIGKILL)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert out.startswith("3 chunks processed"), "Ray wrote pages about the worker"
    ledger = _ledger(store_url)
    assert {row["state"] for row in ledger} == {ChunkState.DONE}
    assert _rows(store_url)["twice"] == 0


def test_a_killed_driver_is_resumed(scene, tmp_path):
    store_url = str(tmp_path / "store")
    run = subprocess.Popen(
        _command(scene, store_url),
        env={**os.environ, **LEASE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 240
    while time.monotonic() < until and not _done(store_url):
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = _done(store_url)
    assert before, "no chunk was done before the kill"
    again = _run(scene, store_url)
    assert again.returncode == 0, again.stderr
    processed, kept = map(int, re.search(r"(\d+) chunks processed, (\d+) done before", again.stdout).groups())
    # A worker outlives its driver for a moment and may still commit what it had in hand; that is not lost, either.
    assert kept >= len(before)
    assert processed + kept == 3
    assert len(_done(store_url)) == 3
    assert _rows(store_url)["twice"] == 0
    with open_store(store_url) as store:
        tracklets = store.tracklets("yard")
        sure = tracklets.filter(tracklets["confirmed"])["tracklet_id"].to_pylist()
        assert sure
        assert set(sure) <= set(store.links("yard")["tracklet_id"].to_pylist())


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_run_says_how_to_go_on(scene, tmp_path, end):
    # Tests that were started by `nohup` have SIGHUP ignored, and so would what they start.
    command = ["env", "--default-signal=HUP", *_command(scene, str(tmp_path / "store"))]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _worker(run.pid, "Map(Track)")
    run.send_signal(end)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130
    assert err == "Stopped. What is finished is stored; the same command does the rest.\n"
    # What was begun is handed back at once, as if it had not been.
    ledger = _ledger(str(tmp_path / "store"))
    assert {row["state"] for row in ledger} <= {ChunkState.PLANNED, ChunkState.DONE}
    assert {row["attempts"] for row in ledger if row["state"] == ChunkState.PLANNED} <= {0}


def test_a_run_that_is_stopped_while_it_loads_says_so_too(scene, tmp_path):
    store = tmp_path / "store"
    run = subprocess.Popen(_command(scene, str(store), "--classes", "person"), stderr=subprocess.PIPE, text=True)
    while not (store / "schema_version").exists():
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)  # it loads the detector to know its classes
    _, err = run.communicate(timeout=120)
    assert (run.returncode, err) == (
        130,
        "Stopped. What is finished is stored; the same command does the rest.\n",
    )


def test_watching_goes_on_with_what_comes(scene, tmp_path):
    videos, store_url = tmp_path / "videos", str(tmp_path / "store")
    videos.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-m", "flows", "run", str(videos), "--watch", "--store", store_url],
        env={**os.environ, "SIGHTFLOW_RUN__WATCH_SECONDS": "0.5"},
        stderr=subprocess.PIPE,
        text=True,
    )
    for n, name in enumerate(("a.mp4", "b.mp4"), start=1):
        write_video(videos / name, frames=20 + n)
        until = time.monotonic() + 240
        while len(_done(store_url)) < n:
            assert run.poll() is None, run.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    with open_store(store_url) as store:
        assert {row["source_id"] for row in store.ledger().to_pylist()} == {"a", "b"}
        assert store.finished("a") is not None


def test_a_run_brings_the_links_that_are_shown_up_to_date(tmp_path):
    """Also where `sightflow stitch` has written a newer version than the one runs begin with."""
    about = {
        "source_id": "yard", "width_px": 64, "height_px": 48, "fps": 10.0, "duration_s": 1.0, "codec": "h264",
        "container": "mp4", "rotation_deg": 0, "seekable": True,
    }  # fmt: skip
    for day in (1, 2):
        video = Video(
            uri=f"{day}.mp4", content_hash=f"{day:032}", start_time=datetime(2026, 5, day, tzinfo=UTC), **about
        )
        store = make_store(tmp_path / "store", video, [sighting(video, video.uri, 0, (5, 5, 20, 40))])
        if day == 1:
            stitch_source(store, "yard", Settings().stitch, version=2)
    settings = Settings.load(flags={"store": {"url": str(tmp_path / "store")}})
    run([], RunSummary("again", sources={"yard"}), settings, store)
    assert store.query("select count(*) as n from tracks")["n"].to_pylist() == [2]


def _rows_on_disk(store_url: str) -> list[dict]:
    """The ledger of a folder that a run may not have made yet."""
    return [json.loads(path.read_text()) for path in Path(store_url, "ledger").glob("*.json")]


def _states(store_url: str) -> list[str]:
    return [row["state"] for row in _rows_on_disk(store_url)]


def _done(store_url: str) -> set[str]:
    return {row["chunk_id"] for row in _rows_on_disk(store_url) if row["state"] == ChunkState.DONE}


def test_one_bad_video_among_good_ones_is_recorded_and_the_others_go_on(scene, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(scene.read_bytes()[:3000])
    (tmp_path / "good.mp4").write_bytes(scene.read_bytes())
    done = _run(tmp_path, str(tmp_path / "store"))
    assert done.returncode == 1
    assert "3 chunks processed" in done.stdout
    assert "1 videos rejected" in done.stdout
    failed = [row for row in _ledger(str(tmp_path / "store")) if row["state"] == ChunkState.FAILED]
    assert len(failed) == 1
    assert "broken.mp4" in failed[0]["error"]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system with room for the ledger and a chunk or two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_is_said_and_the_rest_is_done_once_there_is_room(scene, small_disk):
    store_url = str(small_disk / "store")
    full = _run(scene, store_url)
    assert full.returncode == 1
    assert "disk is full" in full.stderr
    assert "finished chunks are kept" in full.stderr
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    done = _run(scene, store_url)
    assert done.returncode == 0, done.stderr
    assert len(_done(store_url)) == 3
    assert _rows(store_url)["twice"] == 0


def test_a_model_that_does_not_load_stops_the_run_with_its_reason(scene, tmp_path):
    """Weights of another network: only loading them shows it, and workers load them."""
    weights = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, str(weights))
    stopped = _run(scene, str(tmp_path / "store"), "--segmenter", str(weights))
    assert stopped.returncode == 1
    assert "other.safetensors" in stopped.stderr
    assert {row["state"] for row in _ledger(str(tmp_path / "store"))} <= {ChunkState.PLANNED, ChunkState.RUNNING}
