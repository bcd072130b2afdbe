"""`/v1/jobs`: videos longer than a clip, by the command line, as a Ray job or as a process of this machine.

A job is `python -m flows run ...` and no more: it can be killed and begun again like any run, and its progress is in
the ledger. What belongs to the job itself lies in a folder, so that any replica can answer for it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from flows.catalog import MODELS
from flows.console import utc
from flows.errors import UsageError
from flows.media import find_videos, is_url
from flows.output import written_whole
from flows.schema import ChunkState
from flows.store import open_store
from serve.problems import ForbiddenError, NotFoundError, documented
from serve.runners import State, runner
from serve.settings import ServeSettings
from serve.streams import NAME

_ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
_Address = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,2000}$")]


class JobRequest(BaseModel):
    """What to run; options as in `sightflow run`."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"paths": ["s3://archive/2026-05/"], "source": "gate-3"}]},
    )

    paths: list[_Address] = Field(min_length=1, max_length=1000)
    """Files, folders, globs or addresses, inside the archives that the settings name."""
    source: str | None = Field(None, pattern=NAME)
    """Camera the videos come from; default: each file's name."""
    start_time: datetime | None = None
    """World time of the first frame, UTC where it names no zone; of one video."""
    detector: str | None = None
    """Name of a YOLO model."""
    segmenter: str | None = None
    """Name of a SAM 2 model."""
    classes: str | None = Field(None, pattern=NAME)
    """Classes to track, with commas between; default: all."""
    detect_every: int | None = Field(None, ge=1, le=10_000)
    """Run the detector on every n-th frame."""
    retry_failed: bool = False
    """Try chunks again that failed before."""

    def arguments(self) -> list[str]:
        """Of the command line; `--name=value`, so that no value is taken for an option."""
        options = self.model_dump(exclude_none=True, exclude={"paths", "retry_failed", "start_time"})
        if self.start_time is not None:
            time = utc(self.start_time)
            assert time is not None
            options["start_time"] = time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return ["run", *flags, *(["--retry-failed"] if self.retry_failed else []), "--", *self.paths]


class Progress(BaseModel):
    """How far the job's videos are, from the ledger."""

    videos: int
    chunks: dict[ChunkState, int]
    frames: int


class Job(BaseModel):
    """A job."""

    id: str = Field(examples=["5d1c2e7a9f0b4c3d8e6f7a8b9c0d1e2f"])
    state: State
    created: datetime
    paths: list[str]
    progress: Progress
    error: str | None = Field(None, description="The end of what a failed job said.")


def routes(settings: ServeSettings) -> APIRouter:
    """The routes of jobs."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    jobs = _Jobs(settings)

    @router.post("", status_code=202, responses={202: {"headers": _LOCATION}, **documented(400)})
    def submit(request: JobRequest, response: Response) -> Job:
        """Process videos of the archives; what is done already is skipped."""
        job = jobs.submit(request)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @router.get("/{job_id}", responses=documented(404))
    def look(job_id: str) -> Job:
        """State, progress and error of a job."""
        return jobs.look(job_id)

    @router.delete("/{job_id}", responses=documented(404))
    def cancel(job_id: str) -> Job:
        """Stop a job. What is finished is stored, and the same request does the rest."""
        return jobs.cancel(job_id)

    return router


_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where to ask for it."}}


class _Jobs:
    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._folder = settings.uploads / "sightflow-jobs"

    def submit(self, request: JobRequest) -> Job:
        for path in request.paths:
            check_allowed(path, self._settings.archives)
        _check_models(request)
        uris = find_videos(request.paths)
        for uri in uris:  # a link or a listing may lead elsewhere
            check_allowed(uri, self._settings.archives)
        if request.source and request.start_time and len(uris) > 1:
            raise UsageError(f"start_time is the first frame of one video, got {len(uris)}: give each its own job")
        job_id = uuid.uuid4().hex
        place = self._runner(job_id)
        record = {"created": datetime.now(UTC).isoformat(), "paths": request.paths, "uris": uris, "cancelled": False}
        self._write(job_id, record)
        arguments = ["-m", "flows", *request.arguments()]
        if self._settings.config is not None:
            arguments[3:3] = ["--config", str(self._settings.config)]
        place.start(arguments, command_environment(self._settings.store))
        return self.look(job_id)

    def look(self, job_id: str) -> Job:
        record = self._read(job_id)
        state, said = self._runner(job_id).state()
        if record["cancelled"] and state is not State.SUCCEEDED:
            state = State.CANCELLED
        return Job(
            id=job_id,
            state=state,
            created=record["created"],
            paths=record["paths"],
            progress=self._progress(record["uris"]),
            error=said if state is State.FAILED else None,
        )

    def cancel(self, job_id: str) -> Job:
        if self.look(job_id).state not in _ENDED:
            self._write(job_id, self._read(job_id) | {"cancelled": True})
            self._runner(job_id).stop()
        return self.look(job_id)

    def _progress(self, uris: Sequence[str]) -> Progress:
        wanted = set(uris)
        with open_store(self._settings.store) as store:
            videos = store.query("select video_id, uri from videos").to_pylist()
            rows = store.query("select video_id, state, frames from chunks").to_pylist()
        ids = {row["video_id"] for row in videos if row["uri"] in wanted}
        ours = [row for row in rows if row["video_id"] in ids]
        states = Counter(row["state"] for row in ours)
        chunks = {state: states[state.value] for state in ChunkState}
        return Progress(videos=len(uris), chunks=chunks, frames=sum(row["frames"] for row in ours))

    def _runner(self, job_id: str) -> Any:
        return runner(self._settings.job_address, job_id, self._folder)

    def _read(self, job_id: str) -> dict[str, Any]:
        # An id is looked for among files, so nothing else may pass for one.
        if len(job_id) == 32 and set(job_id) <= set("0123456789abcdef"):
            with suppress(FileNotFoundError):
                record: dict[str, Any] = json.loads((self._folder / f"{job_id}.json").read_text())
                return record
        raise NotFoundError(f"no job {job_id!r}")

    def _write(self, job_id: str, record: dict[str, Any]) -> None:
        with written_whole(self._folder / f"{job_id}.json") as temporary:
            temporary.write_text(json.dumps(record))


def check_allowed(path: str, archives: Sequence[str]) -> None:
    """Raise ForbiddenError for what lies outside the archives, however it is written."""
    for archive in archives:
        if is_url(archive) != is_url(path):
            continue
        if not is_url(path):
            inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(archive))
        else:
            inside = path.startswith(archive.rstrip("/") + "/") and ".." not in path.split("/")
        if inside:
            return
    allowed = ", ".join(archives) or "none yet: set `archives`"
    raise ForbiddenError(f"{path} is in no archive that jobs may read ({allowed})")


def _check_models(request: JobRequest) -> None:
    """Names alone: a path would be loaded, and a weights file can hold code."""
    for kind, name in (("detector", request.detector), ("segmenter", request.segmenter)):
        known = [spec.name for spec in MODELS if spec.kind == kind]
        if name is not None and name not in known:
            raise UsageError(f"{kind} is one of {', '.join(known)}; got {name!r}")


def command_environment(store_url: str) -> dict[str, str]:
    """The environment of a `flows` command on this store; not that of Ray's worker, which is another's.

    A folder goes by its whole path: a job of a cluster begins elsewhere.
    """
    store_url = store_url if is_url(store_url) else os.path.abspath(store_url)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == "RAY_TMPDIR"}
    return kept | {"SIGHTFLOW_STORE__URL": store_url}
