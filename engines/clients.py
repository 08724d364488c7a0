"""Sending requests through the official clients, sync and async, as the user made them or as `connect` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import EngineError, KnnexError
from .gate import refused, unreachable
from .straight import straight
from .wire import Request, Response

Send = Callable[[Request], Response]
AsyncSend = Callable[[Request], Awaitable[Response]]


def package_of(client: object) -> str:
    """`elasticsearch` or `opensearchpy`: the package a client comes from, also through a subclass of it."""
    modules = {base.__module__.split(".")[0] for base in type(client).__mro__}
    for package in ("elasticsearch", "opensearchpy"):
        if package in modules:
            return package
    raise EngineError(
        f"{type(client).__name__} is no client of Elasticsearch or OpenSearch",
        hint="hand in a URL, or an (Async)Elasticsearch or (Async)OpenSearch of their packages",
    )


def is_async(client: object) -> bool:
    """Whether a client's methods must be awaited."""
    return any(base.__name__ in ("AsyncElasticsearch", "AsyncOpenSearch") for base in type(client).__mro__)


def sender(client: Any, media_type: str) -> Send:
    """`send` over a sync client; `media_type` has a `{}` for json or x-ndjson."""
    call, ask = _call(client, media_type), straight(client, package_of(client), media_type)

    def send(request: Request) -> Response:
        try:
            found = ask(request)
            return _response(call(request)) if found is None else _allowed(found, request)
        except KnnexError:
            raise
        except Exception as error:
            return _failed(error, request, client)

    return send


def async_sender(client: Any, media_type: str) -> AsyncSend:
    """`send` over an async client."""
    call = _call(client, media_type)

    async def send(request: Request) -> Response:
        try:
            return _response(await call(request))
        except KnnexError:
            raise
        except Exception as error:
            return _failed(error, request, client)

    return send


def _call(client: Any, media_type: str) -> Callable[[Request], Any]:
    # Looked up for each request: what somebody puts around it later is not passed by.
    asked = client if package_of(client) == "elasticsearch" else client.transport

    def call(request: Request) -> Any:
        headers = {"accept": media_type.format("json")}
        payload = request.payload()
        if payload is not None:
            headers["content-type"] = media_type.format(request.content_type)
        return asked.perform_request(
            request.method, request.path, params=dict(request.params), headers=headers, body=payload
        )

    return call


def _response(answer: Any) -> Response:
    # The client of Elasticsearch wraps the body, that of OpenSearch returns it and raises for every other status.
    meta = getattr(answer, "meta", None)
    return Response(meta.status if meta else 200, answer.body if meta else answer)


def _allowed(answer: Response, request: Request) -> Response:
    if answer.status >= 400 and answer.status not in request.allow:
        raise refused(answer.status, answer.body, f"{request.method} {request.path}")
    return answer


def _failed(error: Exception, request: Request, client: Any) -> Response:
    """The answer where `request` allows its status, else our error for it."""
    if type(error).__name__ == "UnsupportedProductError":
        raise EngineError(
            f"{address_of(client)} is not Elasticsearch, and its client refuses it",
            hint="use a client of opensearch-py for OpenSearch, or hand in the URL",
        ) from None
    status, body = _status_and_body(error)
    if status is None:
        if not _is_transport_error(error):
            raise error
        raise unreachable(address_of(client), error) from None
    if status in request.allow:
        return Response(status, body)
    raise refused(status, body, f"{request.method} {request.path}") from None


def _status_and_body(error: Exception) -> tuple[int | None, Any]:
    meta = getattr(error, "meta", None)
    if meta is not None and hasattr(error, "body"):
        return int(meta.status), error.body
    status = getattr(error, "status_code", None)
    return (status, getattr(error, "info", None)) if isinstance(status, int) else (None, None)


def _is_transport_error(error: Exception) -> bool:
    names = {base.__name__ for base in type(error).__mro__}
    return "TransportError" in names or isinstance(error, OSError)


def address_of(client: Any) -> str:
    """The client's address for messages, without credentials."""
    if package_of(client) == "elasticsearch":
        nodes = [node.base_url for node in client.transport.node_pool.all()]
    else:
        nodes = [connection.host for connection in client.transport.connection_pool.connections]
    return ", ".join(nodes) or "the engine"
