"""From a URL to an engine: ask what answers, then make the client for it."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import SettingsError
from .clients import sender
from .dialect import Dialect
from .engine import AsyncEngine, Engine, identify
from .wire import drive

_HOST = re.compile(r"[\w.:~-]+")
# Connections kept open to a server.
_CONNECTIONS = 10


@dataclass(frozen=True)
class Access:
    """How to reach a server: credentials, TLS and patience (seconds). Raises SettingsError for what cannot be used."""

    api_key: str | None = None
    basic_auth: tuple[str, str] | None = None
    ca_certs: str | None = None
    verify_certs: bool = True
    timeout: float = 30.0

    def __post_init__(self) -> None:
        user, password = self.basic_auth or (None, None)
        for name, value in (("api_key", self.api_key), ("username", user), ("password", password)):
            if value is not None and not isinstance(value, str):
                raise SettingsError(f"{name} is of type {type(value).__name__}, no text", hint="give it as a string")
        if self.api_key and self.basic_auth:
            raise SettingsError("there is an API key and a user name too", hint="give one of them")
        if not isinstance(self.verify_certs, bool):
            raise SettingsError(f"verify_certs is {self.verify_certs!r}", hint="give True or False")
        if self.ca_certs and not Path(self.ca_certs).is_file():
            raise SettingsError(f"ca_certs: there is no file {self.ca_certs}", hint="give the path of a PEM file")
        number = isinstance(self.timeout, (int, float)) and not isinstance(self.timeout, bool)
        if not number or not 0 < self.timeout < math.inf:
            raise SettingsError(f"timeout is {self.timeout!r}", hint="give seconds, a number above 0")

    def __repr__(self) -> str:
        secret = "api_key" if self.api_key else "basic_auth" if self.basic_auth else "no credentials"
        return f"Access({secret}, ca_certs={self.ca_certs!r}, verify_certs={self.verify_certs}, timeout={self.timeout})"

    def _basic(self) -> str:
        """User and password as HTTP has them: in UTF-8, which neither client does by itself."""
        return b64encode(":".join(self.basic_auth or ()).encode()).decode()

    def opensearch(self) -> dict[str, Any]:
        """The options as opensearch-py takes them."""
        options: dict[str, Any] = {"timeout": self.timeout, "verify_certs": self.verify_certs, "ssl_show_warn": False}
        # Without it each thread but one would connect anew for each request; elasticsearch-py keeps as many.
        options["pool_maxsize"] = _CONNECTIONS
        if not self.verify_certs:
            options["ssl_assert_hostname"] = False
        if self.ca_certs:
            options["ca_certs"] = self.ca_certs
        if self.basic_auth:
            options["headers"] = {"authorization": f"Basic {self._basic()}"}
        if self.api_key:
            options["headers"] = {"authorization": f"ApiKey {self.api_key}"}
        return options

    def elasticsearch(self, https: bool) -> dict[str, Any]:
        """The options as elasticsearch-py takes them."""
        options: dict[str, Any] = {"request_timeout": self.timeout}
        if https:
            options |= {"verify_certs": self.verify_certs, "ssl_show_warn": False}
            if self.ca_certs:
                options["ca_certs"] = self.ca_certs
        if self.basic_auth:
            options["basic_auth"] = self._basic()
        if self.api_key:
            options["api_key"] = self.api_key
        return options


def check_url(url: str) -> str:
    """The URL, with a port. Raises SettingsError for one that is none; a password in it is not told."""
    shown = re.sub(r"//[^/]*@", "//***@", url)
    try:
        parts = urlsplit(url)
        port = parts.port or 9200
    except ValueError as error:
        raise SettingsError(f"{shown!r} is no URL: {error}", hint="write http://HOST:9200") from None
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.hostname or ""):
        raise SettingsError(f"{shown!r} is no URL of an engine", hint="write http://HOST:9200 or https://HOST:9200")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    user = f"{parts.username}:{parts.password or ''}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}:{port}{parts.path.rstrip('/')}"


def open_engine(url: str, access: Access) -> Engine:
    """An engine by its URL. Raises SettingsError, EngineUnreachable, AccessDenied, EngineError."""
    url, access = _signed(check_url(url), access)
    dialect = _dialect(url, access)
    return Engine(_client(dialect.product, url, access), dialect)


def open_async_engine(url: str, access: Access) -> AsyncEngine:
    """The same with an async client; what the server is, is asked at once and blocks for that."""
    url, access = _signed(check_url(url), access)
    dialect = _dialect(url, access)
    return AsyncEngine(_async_client(dialect.product, url, access), dialect)


def _dialect(url: str, access: Access) -> Dialect:
    from opensearchpy import OpenSearch  # speaks to both, and asks no product of its server

    probe = OpenSearch(url, max_retries=0, **access.opensearch())
    try:
        return drive(identify(), sender(probe, "application/{}"))
    finally:
        probe.close()


def _signed(url: str, access: Access) -> tuple[str, Access]:
    """User and password of the URL as those of `access`, where it has none: clients read them as Latin-1."""
    parts = urlsplit(url)
    if not parts.username:
        return url, access
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if access.api_key or access.basic_auth:
        return bare, access
    return bare, replace(access, basic_auth=(unquote(parts.username), unquote(parts.password or "")))


def _client(product: str, url: str, access: Access) -> Any:
    from elasticsearch import Elasticsearch
    from opensearchpy import OpenSearch

    if product == "opensearch":
        return OpenSearch(url, **access.opensearch())
    return Elasticsearch(url, **access.elasticsearch(url.startswith("https")))


def _async_client(product: str, url: str, access: Access) -> Any:
    try:
        from elasticsearch import AsyncElasticsearch
        from opensearchpy import AsyncOpenSearch
    except ImportError as error:
        raise SettingsError(f"async needs aiohttp: {error}", hint="pip install 'knnex[async]'") from None
    if product == "opensearch":
        return AsyncOpenSearch(url, **access.opensearch())
    return AsyncElasticsearch(url, **access.elasticsearch(url.startswith("https")))
