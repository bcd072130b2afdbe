"""Ray clusters of several local nodes for tests, and a fault that no library can be asked for."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

# Ray's smallest, a few times: chunks travel as kilobytes.
OBJECT_STORE_BYTES = 100 << 20

POISON = """
import os, signal, sys

if any("default_worker" in argument for argument in sys.orig_argv):
    sys.addaudithook(
        lambda event, arguments: event == "open"
        and "poison.mp4" in str(arguments[0])
        and os.kill(os.getpid(), signal.SIGKILL)
    )
"""
"""A `sitecustomize` with which a Ray worker that opens poison.mp4 dies, as of a decoder that takes all memory."""


@contextmanager
def running_nodes(n: int, environment: dict[str, str], *head: str) -> Iterator[tuple[str, list[int]]]:
    """Nodes of one core each, on ports and in folders of their own; yields the address and the nodes' process ids."""
    with tempfile.TemporaryDirectory(prefix="sfr-", dir="/tmp") as folder, ExitStack() as running:
        log = running.enter_context(Path(folder, "nodes.log").open("wb"))
        port = free_port()
        address = f"127.0.0.1:{port}"

        nodes: list[int] = []

        def start(*options: str) -> None:
            common = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block"]
            common += ["--disable-usage-stats", f"--object-store-memory={OBJECT_STORE_BYTES}"]
            # Ray gives a node half a minute to start; a machine that is busy with other tests may need another go.
            for _ in range(3):
                node = subprocess.Popen(
                    [*common, f"--dashboard-agent-listen-port={free_port()}", *options],
                    env={**os.environ, **environment, "RAY_TMPDIR": folder},
                    stdout=log,
                    stderr=log,
                )
                running.callback(node.wait)
                running.callback(kill_tree, node.pid)
                if _has_started(node, Path(log.name), len(nodes) + 1):
                    return nodes.append(node.pid)
            raise AssertionError(Path(log.name).read_text())

        head = head or ("--include-dashboard=false",)
        start("--head", f"--port={port}", f"--ray-client-server-port={free_port()}", *head)
        for _ in range(n - 1):
            start(f"--address={address}")
        yield address, nodes


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all it started: what a machine that loses its power does to it."""
    try:
        process = psutil.Process(pid)
        family = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _has_started(node: "subprocess.Popen[bytes]", log: Path, n: int, deadline_s: float = 240) -> bool:
    """Whether this is the n-th node of the log that runs; False where it gave up."""
    until = time.monotonic() + deadline_s
    while log.read_text().count("Ray runtime started") < n:
        if node.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
