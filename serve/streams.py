"""`POST /v1/clips`: a clip in, its events out as they happen, or one document when all is done."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from flows.console import utc
from serve.clip import Clip, Event
from serve.fetch import take_in
from serve.problems import documented, problem
from serve.settings import ServeSettings

NDJSON = "application/x-ndjson"
Events = Callable[[Clip], AsyncGenerator[Event, None]]

# What a store may be asked for and a person can read.
NAME = r"^[^\x00-\x1f\x7f]{1,200}$"


class ClipOptions(BaseModel):
    """What a request may say of its clip; as in `sightflow run`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    source: str | None = Field(None, pattern=NAME, examples=["gate-3"])
    """Camera it comes from; default: one of its own."""
    store: bool = True
    """Whether to keep the results."""
    start_time: datetime | None = Field(None, examples=["2026-05-01T08:00:00Z"])
    """World time of the first frame, UTC where it names no zone; default: what the file says."""
    classes: str | None = Field(None, pattern=NAME, examples=["person,vehicle"])
    """Classes to track, with commas between; default: all."""
    detect_every: int | None = Field(None, ge=1, le=10_000)
    """Run the detector on every n-th frame; default: as the endpoint is set."""

    def clip(self, arrival: Any) -> Clip:
        """The clip that has arrived, under these options."""
        return Clip(
            arrival.path,
            arrival.name,
            # Clips that name no camera are cameras of their own: nothing joins what two strangers sent.
            self.source or f"clip-{arrival.content_name}",
            self.store,
            utc(self.start_time),
            tuple(name.strip() for name in self.classes.split(",")) if self.classes else (),
            self.detect_every,
        )


def routes(events: Events, settings: ServeSettings) -> APIRouter:
    """The route; arguments as `api.make_api`'s."""
    router = APIRouter(tags=["clips"])

    @router.post(
        "/v1/clips",
        response_class=StreamingResponse,
        responses={200: _ANSWER, **documented(400, 413, 415, 502)},
        openapi_extra={"requestBody": _BODY},
    )
    async def clips(request: Request, options: Annotated[ClipOptions, Query()]) -> Response:
        """Process a clip: multipart with the file as `file`, or JSON `{"url": "https://…"}`.

        The answer is a stream of JSON lines: `accepted`, `progress`, `track`, `summary`, and last `done` or `error`.
        A stream without either of these two was cut off. With `Accept: application/json` the answer is one document,
        once all is done.
        """
        clip = options.clip(await take_in(request, settings))
        stream = events(clip)
        try:
            first = await anext(stream)
            if first["event"] == "error":
                await stream.aclose()
                clip.discard()
                return problem(first["status"], first["title"], first["detail"])
        except BaseException:
            clip.discard()
            raise
        if "application/json" in request.headers.get("accept", ""):
            return await _document(request, _all(clip, first, stream))
        return StreamingResponse(_lines(_all(clip, first, stream)), media_type=NDJSON)

    return router


async def _all(clip: Clip, first: Event, stream: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    try:
        async with aclosing(stream):
            yield first
            async for event in stream:
                yield event
    finally:
        clip.discard()


async def _lines(stream: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(stream):
        async for event in stream:
            yield json.dumps(event).encode() + b"\n"


async def _document(request: Request, stream: AsyncGenerator[Event, None]) -> Response:
    found: dict[str, Any] = {"tracks": []}
    async with aclosing(stream):
        async for event in stream:
            said = {name: value for name, value in event.items() if name != "event"}
            match event["event"]:
                case "error":
                    return problem(said["status"], said["title"], said["detail"])
                case "done":
                    return JSONResponse(found)
                case "track":
                    found["tracks"].append(said)
                case "progress":
                    # Nothing is sent meanwhile, so nothing fails where the client has left.
                    if await request.is_disconnected():
                        return Response(status_code=499)
                case kind:
                    found[kind] = said
    return problem(502, "Cut off", "the worker died over this clip; send it again")


_TRACK = {
    "track_id": "6f1c1c0e-6a37-5b0e-9c05-0f4f9d0c7f43",
    "class_name": "person",
    "begin_s": 0.4,
    "end_s": 7.2,
    "n_observations": 171,
    "inferred_share": 0.041,
}
_ACCEPTED = {
    "chunks": 1,
    "video_id": "0b8a1b0c-43a5-5f6e-9a87-3a1f1f0f3c11",
    "source_id": "gate-3",
    "name": "gate.mp4",
    "duration_s": 8.0,
    "width_px": 1280,
    "height_px": 720,
    "fps": 25.0,
    "codec": "h264",
}
_SUMMARY = {"tracks": {"person": 1}, "chunks": 1, "chunks_done_before": 0, "wall_s": 9.1, "stored": True}
_LINES: list[Event] = [
    {"event": "accepted", **_ACCEPTED},
    {"event": "progress", "stage": "track", "done": 0.52, "chunk": 1, "chunks": 1},
    {"event": "track", **_TRACK},
    {"event": "summary", **_SUMMARY},
    {"event": "done"},
]
_ANSWER = {
    "description": "A stream of events, or one document of them.",
    "content": {
        NDJSON: {
            "schema": {"type": "string"},
            "example": "".join(json.dumps(line) + "\n" for line in _LINES),
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["accepted", "tracks", "summary"],
                "properties": {
                    "accepted": {"type": "object"},
                    "tracks": {"type": "array", "items": {"type": "object"}},
                    "summary": {"type": "object"},
                },
            },
            "example": {"accepted": _ACCEPTED, "tracks": [_TRACK], "summary": _SUMMARY},
        },
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "description": "The video file."}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["url"],
                "properties": {"url": {"type": "string", "format": "uri", "description": "Where the video file is."}},
            },
            "example": {"url": "https://example.org/gate.mp4"},
        },
    },
}
