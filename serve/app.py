"""The application on Ray Serve: `serve run serve/config.yaml`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

# Never `from ray import serve`: that name is this package.
import ray.serve as ray_serve
from fastapi import FastAPI
from pydantic import ValidationError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from flows.errors import ConfigError
from serve.api import make_api
from serve.clip import Clip, Event
from serve.problems import BusyError, NotReadyError
from serve.settings import ServeSettings


@ray_serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class ClipWorker:
    """Warm models; one clip at a time."""

    def __init__(self, settings: ServeSettings) -> None:
        # Here alone: the HTTP side has no use for a gigabyte of torch.
        from serve.clips import ClipProcessor

        self._processor = ClipProcessor(settings)

    async def events(self, clip: Clip) -> AsyncGenerator[Event, None]:
        """See `ClipProcessor.events`."""
        async for event in self._processor.events(clip):
            yield event

    async def check_health(self) -> None:
        """Ray Serve replaces a replica whose model or store fails here."""
        await asyncio.to_thread(self._processor.check)


@ray_serve.deployment
@ray_serve.ingress()
class Api:
    """The HTTP surface in front of the workers."""

    def __init__(self, workers: DeploymentHandle, settings: ServeSettings) -> None:
        self._workers = workers.options(stream=True)
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_api(self._events, self._settings, self._ready)

    async def _ready(self) -> None:
        """Raise where no worker is well, which Ray Serve knows from their `check_health`, and none may rest."""
        status = await asyncio.to_thread(ray_serve.status)
        workers = [
            deployment
            for application in status.applications.values()
            for name, deployment in application.deployments.items()
            if name == ClipWorker.name
        ]
        runs = any(worker.replica_states.get("RUNNING") for worker in workers)
        # `min_replicas: 0` lets all of them go while nobody asks: the next clip starts one.
        rests = any(worker.status == "HEALTHY" and not sum(worker.replica_states.values()) for worker in workers)
        if not runs and not rests:
            raise NotReadyError("no worker is well yet; its log says what it waits for")

    async def _events(self, clip: Clip) -> AsyncGenerator[Event, None]:
        stream = self._workers.events.remote(clip)
        try:
            async for event in stream:
                yield event
        except BackPressureError:
            raise BusyError from None
        except (GeneratorExit, asyncio.CancelledError):
            # The client has gone: the worker stops at the next frame.
            stream.cancel()
            raise


def build(args: dict[str, Any]) -> ray_serve.Application:
    """The application of `config.yaml`.

    Args:
        args: fields of `ServeSettings`.

    Raises:
        ConfigError: unknown or unfitting args.
    """
    try:
        settings = ServeSettings(**args)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']} (got {item['input']!r})" for item in error.errors()]
        raise ConfigError("invalid args of the application:\n  " + "\n  ".join(lines)) from None
    return Api.bind(ClipWorker.bind(settings), settings)
