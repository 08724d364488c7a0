"""An engine: a client, what it speaks to, and how flows are run over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import EngineError
from .capabilities import Capabilities, ask
from .clients import address_of, async_sender, is_async, package_of, sender
from .dialect import Dialect
from .elasticsearch import Elasticsearch
from .opensearch import OpenSearch
from .wire import Flow, Request, Response, adrive, drive

T = TypeVar("T")

DIALECTS: dict[str, type[Dialect]] = {"elasticsearch": Elasticsearch, "opensearch": OpenSearch}
_PRODUCTS = {"elasticsearch": "elasticsearch", "opensearchpy": "opensearch"}


@dataclass
class Engine:
    """A server reached through a sync client."""

    client: Any
    dialect: Dialect
    _capabilities: Capabilities | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.send = sender(self.client, self.dialect.media_type)

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return address_of(self.client)

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do, asked once."""
        if self._capabilities is None:
            self._capabilities = self.run(ask(self.dialect))
        return self._capabilities

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        return drive(flow, self.send)

    def close(self) -> None:
        """Close the client's connections."""
        self.client.close()


@dataclass
class AsyncEngine:
    """A server reached through an async client."""

    client: Any
    dialect: Dialect

    def __post_init__(self) -> None:
        self.send = async_sender(self.client, self.dialect.media_type)

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return address_of(self.client)

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        return await adrive(flow, self.send)

    async def close(self) -> None:
        """Close the client's connections."""
        await self.client.close()


def wrap(client: Any) -> Engine:
    """The engine behind a sync client of the user's. Raises EngineError, EngineUnreachable, AccessDenied."""
    product = _PRODUCTS[package_of(client)]
    return Engine(client, drive(identify(product), sender(client, DIALECTS[product].media_type)))


async def wrap_async(client: Any) -> AsyncEngine:
    """The engine behind an async client of the user's."""
    product = _PRODUCTS[package_of(client)]
    return AsyncEngine(client, await adrive(identify(product), async_sender(client, DIALECTS[product].media_type)))


def identify(expected: str | None = None) -> Flow[Dialect]:
    """Ask a server what it is; `expected` is the product its client is for."""
    response = yield Request("GET", "/", allow=frozenset({405}))
    if response.status == 405:  # a distribution without the module that answers at the root
        response = yield Request("GET", "/_nodes/_local", {"filter_path": "nodes.*.version,nodes.*.build_flavor"})
        nodes = list(response.body.get("nodes", {}).values()) if isinstance(response.body, dict) else []
        version: dict[str, Any] = {"number": nodes[0]["version"]} if nodes else {}
    else:
        version = _version(response)
    if not version.get("number"):
        raise EngineError(
            "something answers there, but it is no Elasticsearch or OpenSearch",
            hint="check host and port; Elasticsearch listens on 9200 by default",
        )
    product = "opensearch" if version.get("distribution") == "opensearch" else "elasticsearch"
    if expected not in (None, product):
        raise EngineError(
            f"the server is {product}, its client is for {expected}", hint=f"use the client for {product}"
        )
    numbers = str(version["number"]).split("-")[0].split(".")
    root = response.body
    embedded = isinstance(root, dict) and root.get("name") == root.get("cluster_name") == "knnex"
    return DIALECTS[product](tuple(int(number) for number in numbers), embedded)


def _version(response: Response) -> dict[str, Any]:
    body = response.body
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, dict) else {}


__all__ = ["AsyncEngine", "Engine", "identify", "is_async", "wrap", "wrap_async"]
