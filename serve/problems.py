"""What goes wrong -> problem documents (RFC 9457), every one of them: also those of routing and validation."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from flows.errors import ModelError, ReportError, SightflowError, StoreError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 10


class BusyError(Exception):
    """Every worker is taken and the queue is full."""


class NotReadyError(SightflowError):
    """No worker is well."""


class TooLargeError(SightflowError):
    """A clip with more bytes than the endpoint takes."""


class NotVideoError(SightflowError):
    """What was sent is no video, whatever it is called."""


class NotFoundError(SightflowError):
    """Something the store or the endpoint does not have."""


class ForbiddenError(SightflowError):
    """Something the settings do not allow."""


class Problem(BaseModel):
    """A problem document, RFC 9457."""

    type: str = Field("about:blank", description="A URI of the kind of problem.")
    title: str = Field(examples=["The clip cannot be processed"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["gate.mp4 is 731.2 s long; expected at most 300 s"])


_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (TooLargeError, 413, "The clip is too large"),
    (NotVideoError, 415, "Not a video"),
    (NotFoundError, 404, "Not found"),
    (ForbiddenError, 403, "Not allowed"),
    (NotReadyError, 503, "Not ready"),
    (StoreError, 503, "The store cannot be used"),
    (ModelError, 500, "The models cannot be used"),
    (ReportError, 422, "Unusable parameters"),
    (SightflowError, 422, "Unusable request"),
)


def kind_of(error: Exception) -> tuple[int, str]:
    """HTTP status and title of an error."""
    found = (kind[1:] for kind in _KINDS if isinstance(error, kind[0]))
    return next(found, (500, "Something went wrong here"))


def problem(status: int, title: str, detail: str, **headers: str) -> JSONResponse:
    """A problem document as an answer."""
    content = Problem(type="about:blank", title=title, status=status, detail=detail).model_dump()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI is told of a route's problems."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def handle_problems(api: FastAPI) -> None:
    """Answer every error with its document."""

    @api.exception_handler(SightflowError)
    async def ours(request: Request, error: SightflowError) -> Response:
        del request
        return problem(*kind_of(error), str(error))

    @api.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        del request, error
        return problem(503, "Busy", "every worker is taken; try again later")

    @api.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        del request
        title = HTTPStatus(error.status_code).phrase
        return problem(error.status_code, title, str(error.detail), **(error.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        del request
        details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return problem(422, "Unusable parameters", details)

    @api.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        del request, error  # the server logs it, and the client is told no more than that
        return problem(500, "Something went wrong here", "an unexpected error; the server's log has the details")
