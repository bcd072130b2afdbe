"""A client of the endpoint: the standard library, and nothing of the flow.

client = Client("http://127.0.0.1:8000")
for event in client.clip("gate.mp4", source="gate-3"):
    print(event)
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NotRequired, TypedDict
from urllib.parse import quote, urlencode, urlsplit

_PIECE_BYTES = 1 << 18
_ENDED = ("succeeded", "failed", "cancelled")


class Event(TypedDict):
    """One line of a clip's stream; what else is in it depends on `event`, see docs/endpoint.md."""

    event: Literal["accepted", "progress", "track", "summary", "done"]
    track_id: NotRequired[str]
    class_name: NotRequired[str]
    begin_s: NotRequired[float]
    end_s: NotRequired[float]
    n_observations: NotRequired[int]
    inferred_share: NotRequired[float]
    stage: NotRequired[str]
    done: NotRequired[float]
    tracks: NotRequired[dict[str, int]]
    wall_s: NotRequired[float]


class Job(TypedDict):
    """A job, as `/v1/jobs/{id}` tells of it."""

    id: str
    state: Literal["running", "succeeded", "failed", "cancelled"]
    created: str
    paths: list[str]
    progress: dict[str, Any]
    error: str | None


class EndpointError(Exception):
    """A problem document (RFC 9457) of the endpoint.

    Attributes:
        status: HTTP status.
        retry_after_s: When to come back, where the endpoint is busy.
    """

    def __init__(self, status: int, title: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status, self.title, self.detail, self.retry_after_s = status, title, detail, retry_after_s


class CutOffError(Exception):
    """A stream that ended without `done`: the worker died, and the clip has to be sent again."""


class Client:
    """Asks one endpoint.

    Args:
        url: Its address.
        key: API key; not needed on the endpoint's own machine where none are set.
        timeout_s: Of silence; events come at least every second while a clip is worked on.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", key: str | None = None, timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an http:// or https:// address, got {url!r}")
        self._parts, self._timeout_s = parts, timeout_s
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def clip(self, video: str | Path, **options: Any) -> Iterator[Event]:
        """Process a clip; closing the iterator stops the work.

        Args:
            video: A file, or an `https://` address for the endpoint to fetch.
            **options: `source`, `store`, `start_time`, `classes`, `detect_every`.

        Yields:
            The events up to `done`.

        Raises:
            EndpointError: It cannot be processed, or there is no room (503, with `retry_after_s`).
            CutOffError: The stream ended early.
        """
        path = "/v1/clips" + _query(options)
        if isinstance(video, str) and video.startswith(("http://", "https://")):
            body: Any = json.dumps({"url": video}).encode()
            headers = {"Content-Type": "application/json"}
        else:
            body, headers = _form(Path(video))
        with self._asked("POST", path, body, headers) as response:
            for line in response:
                if not line.endswith(b"\n"):
                    break
                event = json.loads(line)
                if event["event"] == "error":
                    raise EndpointError(event["status"], event["title"], event["detail"])
                yield event
                if event["event"] == "done":
                    return
        raise CutOffError(f"the stream of {video} ended without `done`; send it again")

    def submit(self, *paths: str, **options: Any) -> Job:
        """Start a job over videos of the endpoint's archives; options as in `POST /v1/jobs`."""
        return self._json("POST", "/v1/jobs", {"paths": paths, **options})

    def job(self, job_id: str) -> Job:
        """State and progress of a job."""
        return self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def cancel(self, job_id: str) -> Job:
        """Stop a job."""
        return self._json("DELETE", f"/v1/jobs/{quote(job_id, safe='')}")

    def wait(self, job_id: str, every_s: float = 2.0) -> Job:
        """The job once it has ended."""
        while (job := self.job(job_id))["state"] not in _ENDED:
            time.sleep(every_s)
        return job

    def tracks(self, **where: Any) -> Iterator[dict[str, Any]]:
        """All tracks that fit (`source`, `class`, `zone`, `t0`, `t1`, `min_seconds`), page after page."""
        offset: int | None = 0
        while offset is not None:
            page = self._json("GET", "/v1/tracks" + _query({**where, "offset": offset}))
            yield from page["tracks"]
            offset = page["next_offset"]

    def report(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a report."""
        rows: list[dict[str, Any]] = self._json("GET", f"/v1/reports/{quote(name, safe='')}" + _query(parameters))[
            "rows"
        ]
        return rows

    def _json(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        with self._asked(method, path, body, headers) as response:
            return json.loads(response.read())

    @contextmanager
    def _asked(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._timeout_s)
        try:
            # What is refused before all of it was sent has its answer already.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._parts.path.rstrip("/") + path, body, {**self._headers, **headers})
            response = connection.getresponse()
            if response.status >= 400:
                raise _error(response)
            yield response
        finally:
            connection.close()


def _query(values: dict[str, Any]) -> str:
    given = {k: str(v).lower() if isinstance(v, bool) else v for k, v in values.items() if v is not None}
    return f"?{urlencode(given)}" if given else ""


def _form(file: Path) -> tuple[Iterator[bytes], dict[str, str]]:
    """The file as a multipart form, read as it is sent."""
    boundary = secrets.token_hex(16)
    name = file.name.replace("\\", "").replace('"', "%22").replace("\r", "").replace("\n", "")
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    head = f"--{boundary}\r\n{disposition}\r\nContent-Type: {kind}\r\n\r\n".encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    opened = file.open("rb")
    length = len(head) + file.stat().st_size + len(tail)
    return _pieces(head, opened, tail), {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(length),
    }


def _pieces(head: bytes, opened: IO[bytes], tail: bytes) -> Iterator[bytes]:
    with opened:
        yield head
        while piece := opened.read(_PIECE_BYTES):
            yield piece
        yield tail


def _error(response: http.client.HTTPResponse) -> EndpointError:
    text = response.read().decode(errors="replace")
    retry = response.headers.get("Retry-After")
    try:
        problem = json.loads(text)
        said = problem["title"], problem["detail"]
    except (ValueError, KeyError, TypeError):
        said = response.reason, text[:500]
    return EndpointError(response.status, *said, float(retry) if retry and retry.isdigit() else None)
