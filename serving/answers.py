"""Answers that are not the wanted one: JSON with what is wrong and the way out, and no secrets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import (
    EncoderError,
    EngineError,
    IndexMissing,
    KnnexError,
    LogUnavailable,
    ModelUnavailable,
    SpecMismatch,
)
from ..telemetry import hide

log = logging.getLogger(__name__)

# Seconds after which a producer may try again what engine or log could not do just now.
COME_BACK = 5
CLOSE = {"Connection": "close"}


class Declined(HTTPException):
    """A request that is not served, why, and what to do about it."""

    def __init__(
        self, status: int, error: str, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, error, dict(headers) if headers else None)
        self.hint = hint


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def declined(failure: HTTPException) -> Response:
    """The answer to a request that is not served."""
    hint = getattr(failure, "hint", None)
    if failure.status_code == 404 and hint is None:
        hint = "events are posted to /indexes/INDEX/events"
    body = {"error": hide(str(failure.detail)), "hint": hint and hide(hint)}
    return answer(body, failure.status_code, failure.headers)


def failed(failure: KnnexError) -> Response:
    """The answer where an index is missing, or engine, log or model cannot do their part."""
    status, headers = 500, {}
    if isinstance(failure, (IndexMissing, SpecMismatch)):
        status = 404
    elif isinstance(failure, (LogUnavailable, EngineError, ModelUnavailable)):
        status, headers = 503, {"Retry-After": str(COME_BACK)}
    elif isinstance(failure, EncoderError):  # of these texts
        status = 422
    if status >= 500:
        log.warning("%s", failure, extra={"action": "request_failed", "status": status})
    return answer({"error": hide(str(failure)), "hint": failure.hint and hide(failure.hint)}, status, headers)


async def on_declined(_: Request, failure: Exception) -> Response:
    """Starlette's handler of HTTPException."""
    return declined(failure) if isinstance(failure, HTTPException) else await on_bug(_, failure)


async def on_failed(_: Request, failure: Exception) -> Response:
    """Starlette's handler of KnnexError."""
    return failed(failure) if isinstance(failure, KnnexError) else await on_bug(_, failure)


async def on_bug(_: Request, __: Exception) -> Response:
    """Starlette's handler of all else, which it logs afterwards."""
    return answer({"error": "something went wrong in this server", "hint": "its log says what"}, 500)


HANDLERS: dict[Any, Any] = {HTTPException: on_declined, KnnexError: on_failed, Exception: on_bug}
