"""Which node a client would ask next, and how; None where it does more with a request than to send it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

# Statuses that Elasticsearch's client does not hold against a node, beside 2xx.
_TAKEN = frozenset({400, 401, 402, 403, 404, 409})
# What is looked at of a client of Elasticsearch and of its transport; a release without one of them is left alone.
_OF_CLIENT = (
    "_verified_elasticsearch",
    "_otel",
    "_headers",
    "_client_meta",
    "_request_timeout",
    "_retry_on_status",
    "_retry_on_timeout",
)
_OF_TRANSPORT = (
    "node_pool",
    "meta_header",
    "retry_on_status",
    "retry_on_timeout",
    "_sniff_before_requests",
    "_sniff_on_node_failure",
    "_transport_client_meta",
)
_MOST_NODES = 64
_NO_METRICS = ("MetricsNone", "NoneType")


@dataclass(frozen=True, slots=True)
class Hop:
    """A node that the client has chosen, and how it would be asked there."""

    pool: Any
    prefix: str
    #: By lower-case names.
    headers: Mapping[str, str]
    #: Seconds; None waits for ever.
    timeout: float | None
    #: Statuses from 400 on that the client takes as they are: it neither tries again nor holds them against the node.
    final: Collection[int]
    #: What is done after an answer.
    alive: Callable[[], object]
    #: What is done where no answer came in time; None where the client would try again then.
    late: Callable[[], object] | None


Choose = Callable[[], "Hop | None"]


def elasticsearch(client: Any) -> Choose | None:
    """The choice of an Elasticsearch client; None for one that is not as its package made it."""
    from elastic_transport import Transport, Urllib3HttpNode
    from elastic_transport.client_utils import DEFAULT
    from elasticsearch import Elasticsearch
    from urllib3 import HTTPConnectionPool

    transport = client.transport
    if type(client) is not Elasticsearch or type(transport) is not Transport or not _has_all(client, transport):
        return None
    if getattr(client, "_is_serverless", False):  # it has another header for its API's version
        return None
    base = next(one for one in Elasticsearch.__mro__ if "perform_request" in vars(one))
    methods = [(one, "perform_request") for one in (base, Transport, Urllib3HttpNode)]
    listened = _Listeners(
        ("elastic_transport.transport",), (client, transport), (*methods, (HTTPConnectionPool, "urlopen"))
    )
    # The client's own are not changed after it is made; other options are another client's.
    own = {name.lower(): value for name, value in client._headers.items()}
    headers = _Headers(own | _meta(client, transport, DEFAULT))
    retried = transport.retry_on_status if client._retry_on_status is DEFAULT else client._retry_on_status
    final = _TAKEN.difference(retried)
    again = transport.retry_on_timeout if client._retry_on_timeout is DEFAULT else client._retry_on_timeout

    def choose() -> Hop | None:
        # The client makes sure of the server's product by its first answer.
        if not client._verified_elasticsearch or transport._sniff_before_requests:
            return None
        if listened() or (client._otel.enabled and _is_traced()):
            return None
        node = transport.node_pool.get()
        if type(node) is not Urllib3HttpNode or node._http_compress:
            return None
        return Hop(
            pool=node.pool,
            prefix=node.path_prefix,
            headers=headers.of(node),
            timeout=node.config.request_timeout if client._request_timeout is DEFAULT else client._request_timeout,
            final=final,
            alive=partial(transport.node_pool.mark_live, node),
            late=None if again or transport._sniff_on_node_failure else partial(transport.node_pool.mark_dead, node),
        )

    return choose


def opensearch(client: Any) -> Choose | None:
    """The choice of an OpenSearch client; None for one whose transport is the user's own."""
    from opensearchpy import Transport, Urllib3HttpConnection
    from urllib3 import HTTPConnectionPool

    transport = client.transport
    if type(transport) is not Transport:
        return None
    methods = [(one, "perform_request") for one in (Transport, Urllib3HttpConnection)]
    listened = _Listeners(("opensearch", "opensearch.trace"), (transport,), (*methods, (HTTPConnectionPool, "urlopen")))
    final = frozenset(range(400, 500)).difference(transport.retry_on_status)

    def choose() -> Hop | None:
        if listened():
            return None
        connection = transport.get_connection()
        if type(connection) is not Urllib3HttpConnection or connection.pool is None or connection.http_compress:
            return None
        # A signature is made for each request, and metrics count each of them.
        if callable(connection.http_auth) or type(getattr(connection, "metrics", None)).__name__ not in _NO_METRICS:
            return None
        return Hop(
            pool=connection.pool,
            prefix=connection.url_prefix,
            headers=connection.headers,
            timeout=connection.timeout,
            final=final,
            alive=partial(transport.connection_pool.mark_live, connection),
            late=None if transport.retry_on_timeout else _nothing,
        )

    return choose


CHOOSERS: dict[str, Callable[[Any], Choose | None]] = {"elasticsearch": elasticsearch, "opensearchpy": opensearch}


def _has_all(client: Any, transport: Any) -> bool:
    return all(hasattr(client, one) for one in _OF_CLIENT) and all(hasattr(transport, one) for one in _OF_TRANSPORT)


def _nothing() -> None:
    """A client that does not try again holds nothing against the node."""


def _meta(client: Any, transport: Any, default: Any) -> dict[str, str]:
    """The header by which Elasticsearch's client tells its versions."""
    if not transport.meta_header:
        return {}
    own = () if client._client_meta is default else client._client_meta
    pairs = (*transport._transport_client_meta, *own)
    return {"x-elastic-client-meta": ",".join(f"{key}={value}" for key, value in pairs)}


class _Listeners:
    """Whoever follows a client's requests: its loggers, and tools that put something around methods (APM agents)."""

    def __init__(
        self, loggers: Sequence[str], instances: Sequence[object], methods: Sequence[tuple[type, str]]
    ) -> None:
        self.loggers = tuple(map(logging.getLogger, loggers))
        self.instances = instances
        self.methods = tuple((owner, name, vars(owner).get(name)) for owner, name in methods)
        self.always = not all(_is_own(owner, method) for owner, _, method in self.methods)

    def __call__(self) -> bool:
        """Whether there is one."""
        if self.always:
            return True
        for logger in self.loggers:
            if logger.isEnabledFor(logging.INFO):
                return True
        for one in self.instances:
            if "perform_request" in vars(one):
                return True
        return any(vars(owner).get(name) is not method for owner, name, method in self.methods)


def _is_own(owner: type, method: object) -> bool:
    return type(method) is FunctionType and method.__module__ == owner.__module__ and not hasattr(method, "__wrapped__")


def _is_traced() -> bool:
    """Whether somebody collects the spans of OpenTelemetry, which Elasticsearch's client makes by itself."""
    # Without it nothing collects; asking for a provider looks at the environment each time.
    if "opentelemetry.sdk" not in sys.modules:
        return False
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class _Headers:
    """The headers of each node, put together once."""

    def __init__(self, extra: Mapping[str, str]) -> None:
        self.extra = extra
        self.known: dict[int, tuple[Any, Mapping[str, str]]] = {}

    def of(self, node: Any) -> Mapping[str, str]:
        """By lower-case names."""
        known = self.known.get(id(node))
        if known is None or known[0] is not node:
            if len(self.known) >= _MOST_NODES:  # sniffing makes new ones
                self.known.clear()
            known = node, {**{name.lower(): value for name, value in node.headers.items()}, **self.extra}
            self.known[id(node)] = known
        return known[1]
