"""The HTTP surface: clips in, events out; jobs, tracks and reports. Errors are problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from flows import __version__
from flows.store import open_store
from serve import archive, jobs, streams
from serve.arrival import sweep
from serve.keys import KeyCheck
from serve.problems import Problem, documented, handle_problems
from serve.settings import ServeSettings
from serve.streams import Events


class Health(BaseModel):
    """That all is well; otherwise there is a problem document."""

    status: str = "ok"


async def _well() -> None:
    """Workers that are not asked for their health."""


def make_api(events: Events, settings: ServeSettings, ready: Callable[[], Awaitable[None]] = _well) -> FastAPI:
    """The application.

    Args:
        events: Processes a clip, see `clips.ClipProcessor.events`; raises `problems.BusyError` before its first event
            where there is no room.
        settings: Limits and the store.
        ready: Raises where no worker is well.
    """
    api = FastAPI(
        title="Sightflow",
        version=__version__,
        description=__doc__,
        redoc_url=None,
        responses=documented(401, 403, 422, 500, 503),
    )
    sweep(settings.uploads)
    handle_problems(api)
    _tell_of_problems(api)
    api.add_middleware(KeyCheck, settings=settings)
    if settings.cors_origins:
        # Added last, it is asked first: a browser's preflight carries no key.
        api.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, allow_headers=["Authorization"])

    @api.get("/healthz")
    def health() -> Health:
        """Whether the endpoint is there."""
        return Health()

    @api.get("/readyz")
    async def readiness() -> Health:
        """Whether models and store are well."""
        await ready()
        return await _read(settings.store)

    # For the document alone: `KeyCheck` asks for keys before any route is looked for.
    key = Depends(HTTPBearer(auto_error=False, description="A key from `python -m serve.keys`."))
    for router in (streams.routes(events, settings), jobs.routes(settings), archive.routes(settings)):
        api.include_router(router, dependencies=[key])
    return api


async def _read(url: str) -> Health:
    def look() -> Health:
        with open_store(url) as store:
            store.query("select count(*) as n from sources")
        return Health()

    return await run_in_threadpool(look)


def _tell_of_problems(api: FastAPI) -> None:
    """Put the schema that `documented` refers to into the OpenAPI document, which FastAPI would not know of."""
    made = api.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return document

    api.openapi = openapi  # type: ignore[method-assign]
