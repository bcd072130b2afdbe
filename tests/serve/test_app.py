import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import ray
import ray.serve as ray_serve
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

import serve
from flows.errors import ConfigError
from serve.app import build
from serve.settings import ServeSettings
from tests.serve.local import free_port
from tests.serve.small import flow_config
from tests.videos import write_video

CONFIG = yaml.safe_load((Path(serve.__file__).parent / "config.yaml").read_text())


def _unknown_keys(given: Any, known: BaseModel, where: str = "") -> list[str]:
    """Keys of a configuration that its schema does not have; Ray ignores them."""
    unknown = []
    for key, value in given.items():
        field = getattr(known, key, None)
        if key not in type(known).model_fields:
            unknown.append(where + key)
        elif isinstance(field, BaseModel):
            unknown += _unknown_keys(value, field, f"{where}{key}.")
        elif isinstance(field, list) and field and isinstance(field[0], BaseModel):
            for item, part in zip(value, field, strict=True):
                unknown += _unknown_keys(item, part, f"{where}{key}.")
    return unknown


def test_the_configuration_has_only_keys_ray_knows():
    assert _unknown_keys(CONFIG, ServeDeploySchema.model_validate(CONFIG)) == []
    misspelt = {**CONFIG, "http_option": {}}
    assert _unknown_keys(misspelt, ServeDeploySchema.model_validate(misspelt)) == ["http_option"]


def test_the_configuration_names_our_deployments_and_settings():
    (application,) = CONFIG["applications"]
    assert application["import_path"] == "serve.app:build"
    assert {deployment["name"] for deployment in application["deployments"]} == {"Api", "ClipWorker"}
    assert ServeSettings(**application["args"]).max_clip_bytes == 200_000_000


def test_the_http_side_does_without_the_models():
    code = "import sys, serve.app; print([m for m in ('torch', 'ultralytics', 'sam2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_wrong_args_are_named():
    with pytest.raises(ConfigError, match=r"max_clip_mb: .*greater than 0.*got -1"):
        build({"max_clip_mb": -1})
    with pytest.raises(ConfigError, match="max_clip"):
        build({"max_clip": 3})


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Ray Serve."""
    folder = tmp_path_factory.mktemp("serve")
    args = {"store": str(folder / "store"), "config": str(flow_config(folder)), "torch_threads": 1}
    port = free_port()
    # Another test's Ray does as well; whoever started it ends it.
    started = not ray.is_initialized()
    if started:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False
        )
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    ray_serve.run(build(args), name="sightflow")
    yield f"http://127.0.0.1:{port}"
    ray_serve.shutdown()
    if started:
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_clips_over_ray_serve(endpoint, tmp_path):
    content = write_video(tmp_path / "clip.mp4", frames=50).read_bytes()

    def send(name: str) -> httpx.Response:
        return httpx.post(f"{endpoint}/v1/clips", files={"file": (name, content)}, timeout=120)

    events = [json.loads(line) for line in send("first.mp4").text.splitlines()]
    assert events[0]["event"] == "accepted"
    assert [event["event"] for event in events[-2:]] == ["summary", "done"]
    for path in ("/healthz", "/readyz"):
        assert httpx.get(endpoint + path, timeout=30).json() == {"status": "ok"}
    chunks = httpx.get(f"{endpoint}/v1/reports/ledger", timeout=30).json()["rows"]
    assert [row["state"] for row in chunks] == ["done"]
    broken = httpx.post(f"{endpoint}/v1/clips", files={"file": ("letter.mp4", b"Dear Sir")}, timeout=30)
    assert broken.status_code == 415
    assert broken.headers["content-type"] == "application/problem+json"
    # More at once than may wait: every one gets a whole stream or is told to come back.
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(send, [f"{i}.mp4" for i in range(6)]))
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
        else:
            assert json.loads(answer.text.splitlines()[-1]) == {"event": "done"}
