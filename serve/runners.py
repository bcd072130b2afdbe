"""Where a job runs: on a Ray cluster with a dashboard, or as a process of this machine."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from serve.problems import NotReadyError

_log = logging.getLogger(__name__)

_SAID_BYTES = 2000


class State(StrEnum):
    """State of a job."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Runner(Protocol):
    """One job."""

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Start Python with these arguments."""

    def state(self) -> tuple[State, str]:
        """Where it is, and the end of what it said."""

    def stop(self) -> None:
        """End it as Ctrl-C would."""


def runner(address: str | None, job_id: str, folder: Path) -> Runner:
    """The runner of a job; `address` is that of a Ray dashboard, None for a process of this machine."""
    return LocalRunner(job_id, folder) if address is None else RayRunner(address, job_id)


class LocalRunner:
    """A process in a session of its own, which outlives the replica that started it."""

    def __init__(self, job_id: str, folder: Path) -> None:
        self._log, self._pid, self._exit = (folder / f"{job_id}.{what}" for what in ("log", "pid", "exit"))

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """See `Runner.start`."""
        # The shell stays to write down how it ended: the replica that started it may be gone by then.
        script = '"$@"; echo $? > "$0"'
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", script, str(self._exit), sys.executable, *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self._pid.write_text(str(process.pid))

    def state(self) -> tuple[State, str]:
        """See `Runner.state`."""
        alive = self._alive()  # before the exit code is looked for, which is written while it lives
        with suppress(FileNotFoundError, ValueError):
            done = int(self._exit.read_text()) == 0
            return (State.SUCCEEDED if done else State.FAILED), self._said()
        return (State.RUNNING, "") if alive else (State.FAILED, self._said() or "it was killed")

    def stop(self) -> None:
        """See `Runner.stop`. The shell's whole session gets the signal: what `flows` starts, Ray's processes too."""
        with suppress(ProcessLookupError):
            os.killpg(int(self._pid.read_text()), signal.SIGTERM)

    def _alive(self) -> bool:
        pid = int(self._pid.read_text())
        # A child that has ended stays a zombie until it is waited for, by the replica that started it.
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _said(self) -> str:
        return self._log.read_bytes()[-_SAID_BYTES:].decode(errors="replace").strip()


class RayRunner:
    """A job of a Ray cluster."""

    def __init__(self, address: str, job_id: str) -> None:
        from ray.job_submission import JobSubmissionClient

        try:
            self._client, self._job_id = JobSubmissionClient(address), job_id
        except (ConnectionError, RuntimeError) as error:
            _log.warning("%s: %s", address, error)
            raise NotReadyError("the Ray dashboard that runs jobs does not answer") from None

    def start(self, arguments: list[str], environment: dict[str, str]) -> None:
        """See `Runner.start`. Of the environment only what is ours goes along: the cluster has its own."""
        ours = {k: v for k, v in environment.items() if k.startswith(("SIGHTFLOW_", "PG"))}
        self._client.submit_job(
            entrypoint=shlex.join(["python", *arguments]), submission_id=self._job_id, runtime_env={"env_vars": ours}
        )

    def state(self) -> tuple[State, str]:
        """See `Runner.state`."""
        from ray.job_submission import JobStatus

        try:
            status = self._client.get_job_status(self._job_id)
        except RuntimeError:  # heads that start anew know nothing of what ran before
            return State.FAILED, "the Ray cluster does not know this job; submit it again, and it does the rest"
        states = {
            JobStatus.SUCCEEDED: State.SUCCEEDED,
            JobStatus.FAILED: State.FAILED,
            JobStatus.STOPPED: State.CANCELLED,
        }
        state = states.get(status, State.RUNNING)
        return state, self._client.get_job_logs(self._job_id)[-_SAID_BYTES:] if state is State.FAILED else ""

    def stop(self) -> None:
        """See `Runner.stop`."""
        with suppress(RuntimeError):  # it has just ended
            self._client.stop_job(self._job_id)
