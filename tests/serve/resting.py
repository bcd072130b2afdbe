"""The endpoint as production starts it, with workers that go while nobody asks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import yaml

import serve
from tests.clusters import free_port, running_nodes


@contextmanager
def resting_endpoint(folder: Path, args: dict[str, Any]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """`serve run` on config.yaml with these args and `min_replicas: 0`; its address, and whether workers are there."""
    config = yaml.safe_load((Path(serve.__file__).parent / "config.yaml").read_text())
    (application,) = config["applications"]
    config["http_options"]["port"] = port = free_port()
    application["args"] |= args
    (worker,) = [d for d in application["deployments"] if d["name"] == "ClipWorker"]
    worker["autoscaling_config"] |= {
        "min_replicas": 0,
        "look_back_period_s": 2,
        "downscale_delay_s": 2,
        "downscale_to_zero_delay_s": 2,
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"
    with running_nodes(1, {}, "--include-dashboard=false", "--num-cpus=2") as (address, (node,)):
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", address, str(folder / "serve.yaml")]
        log = folder / "serve.log"
        with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as run:
            try:
                _until_ready(url, log)
                yield url, lambda: _has_workers(node)
            finally:
                run.terminate()


def _until_ready(url: str, log: Path, deadline_s: float = 240) -> None:
    until = time.monotonic() + deadline_s
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                return
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def _has_workers(node: int) -> bool:
    for process in psutil.Process(node).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ClipWorker" in " ".join(process.cmdline()):
                return True
    return False
