"""The HTTP surface: clips in, events out; reports and tracks from the store. Errors are RFC 9457 problem documents."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from flows import __version__
from flows.errors import UsageError
from flows.reports import REPORTS, run_report
from flows.store import open_store
from serve.clips import Clip, Event
from serve.fetch import fetch_url, save_upload, too_large
from serve.keys import KeyCheck
from serve.problems import handle_problems, problem
from serve.settings import ServeSettings

NDJSON = "application/x-ndjson"


def make_api(events: Callable[[Clip], AsyncGenerator[Event, None]], settings: ServeSettings) -> FastAPI:
    """The application.

    Args:
        events: Processes a clip, see `clips.ClipProcessor.events`; raises `problems.BusyError` before its first event
            where there is no room.
        settings: Limits and the store.
    """
    api = FastAPI(title="Sightflow", version=__version__, description=__doc__, redoc_url=None)
    handle_problems(api)
    api.add_middleware(KeyCheck, settings=settings)
    if settings.cors_origins:
        # Added last, it is asked first: a browser's preflight carries no key.
        api.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, allow_headers=["Authorization"])

    @api.get("/healthz")
    def health() -> dict[str, str]:
        """Whether the store can be read."""
        with open_store(settings.store) as store:
            store.query("select count(*) as n from sources")
        return {"status": "ok"}

    @api.post("/v1/clips", response_class=StreamingResponse)
    async def clips(request: Request, source: str | None = None, store: bool = True) -> Response:
        """Process a clip: multipart with the file as `file`, or JSON `{"url": "https://…"}`.

        The answer is a stream of JSON lines: `accepted`, `progress`, `track`, `summary`, and last `done` or `error`.
        A stream without either of these two was cut off.
        """
        clip = await _taken_in(request, settings, source, store)
        stream = events(clip)
        try:
            first = await anext(stream)
        except BaseException:
            clip.path.unlink(missing_ok=True)
            raise
        if first["event"] == "error":
            await stream.aclose()
            return problem(first["status"], first["title"], first["detail"])
        return StreamingResponse(_lines(first, stream), media_type=NDJSON)

    @api.get("/v1/reports/{name}")
    def report(
        name: str,
        source: str | None = None,
        class_name: str | None = Query(None, alias="class"),
        t0: str | None = None,
        t1: str | None = None,
        bin_seconds: int | None = None,
    ) -> dict[str, Any]:
        """A named report over the store."""
        if name not in REPORTS:
            raise HTTPException(404, f"no report {name!r}; there are {', '.join(REPORTS)}")
        given = {"source": source, "class": class_name, "t0": t0, "t1": t1, "bin_seconds": bin_seconds}
        with open_store(settings.store) as store:
            found = run_report(store, name, **{key: value for key, value in given.items() if value is not None})
        return {"report": name, "title": REPORTS[name].title, "rows": jsonable_encoder(found.to_pylist())}

    @api.get("/v1/tracks")
    def tracks(
        source: str | None = None,
        class_name: str | None = Query(None, alias="class"),
        t0: str | None = None,
        t1: str | None = None,
        limit: int = Query(100, ge=1, le=10_000),
        offset: int = Query(0, ge=0),
    ) -> dict[str, Any]:
        """Tracks in view between two times, by begin, a page at a time."""
        given = {"source": source, "class": class_name, "t0": t0, "t1": t1}
        with open_store(settings.store) as store:
            found = run_report(store, "tracks", **{key: value for key, value in given.items() if value is not None})
        last = offset + limit
        return {
            "tracks": jsonable_encoder(found.slice(offset, limit).to_pylist()),
            "total": found.num_rows,
            "next_offset": last if last < found.num_rows else None,
        }

    return api


async def _lines(first: Event, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream):
        yield _line(first)
        async for event in stream:
            yield _line(event)


def _line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"


async def _taken_in(request: Request, settings: ServeSettings, source: str | None, store: bool) -> Clip:
    """The clip a request carries, on disk."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    limited = Request(request.scope, _counted(request, settings))
    if kind == "multipart/form-data":
        async with limited.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise UsageError("expected the clip in the multipart field `file`")
            name = file.filename or "clip"
            return await run_in_threadpool(save_upload, file.file, name, settings, source, store)
    if kind == "application/json":
        try:
            url = json.loads(await limited.body())["url"]
        except (ValueError, KeyError, TypeError):
            raise UsageError('expected a JSON object {"url": "https://…"}') from None
        return await run_in_threadpool(fetch_url, str(url), settings, source, store)
    raise HTTPException(415, f"expected multipart/form-data or application/json, got {kind or 'no content type'}")


def _counted(request: Request, settings: ServeSettings) -> Callable[[], Any]:
    """The request's body, refused as soon as it is too large: a form is on disk before a handler sees it."""
    # A form's boundaries and field names come on top of the clip.
    left = settings.max_clip_bytes + (64 << 10)
    if int(request.headers.get("content-length", 0)) > left:
        raise too_large(settings)

    async def receive() -> MutableMapping[str, Any]:
        nonlocal left
        message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise too_large(settings)
        return message

    return receive
