"""Connecting: by URL and with every client people have, with credentials and TLS, and what is said when it fails."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import proxy
import pytest
import servers
import trustme

from knnex.client import AsyncCluster, Cluster, connect
from knnex.engines import Access, Engine, Request, open_engine, path_of
from knnex.errors import (
    AccessDenied,
    EngineError,
    EngineUnreachable,
    IndexMissing,
    KnnexError,
    SettingsError,
)
from knnex.settings import settings

SYNC = {"elasticsearch": ("elasticsearch", "Elasticsearch"), "opensearch": ("opensearchpy", "OpenSearch")}
ASYNC = {"elasticsearch": ("elasticsearch", "AsyncElasticsearch"), "opensearch": ("opensearchpy", "AsyncOpenSearch")}


def client(kind: tuple[str, str], url: str, **options: Any) -> Any:
    return getattr(import_module(kind[0]), kind[1])(url, **options)


@pytest.mark.feature("Connect by URL")
def test_a_url_finds_out_what_answers(engine: Engine, engine_name: str) -> None:
    assert engine.dialect.product == engine_name
    assert engine.dialect.version >= (3, 0)
    assert engine_name in str(engine.dialect).lower()


@pytest.mark.feature("Connect with a ready client, sync and async")
def test_a_ready_client_is_taken_as_it_is(engine_name: str, engine_url: str) -> None:
    ready = client(SYNC[engine_name], engine_url)
    with connect(ready) as cluster:
        assert isinstance(cluster, Cluster)
        assert cluster.engine.client is ready
        assert cluster.engine.dialect.product == engine_name


def test_a_ready_async_client(engine_name: str, engine_url: str) -> None:
    async def ask() -> tuple[str, type]:
        async with connect(client(ASYNC[engine_name], engine_url)) as cluster:
            opened = await cluster.engine()
            response = await opened.send(Request("GET", "/_cluster/health"))
            return response.body["status"], type(cluster)

    status, kind = asyncio.run(ask())
    assert status in {"green", "yellow"}
    assert kind is AsyncCluster


def test_an_async_cluster_by_url(engine_url: str) -> None:
    async def ask() -> bool:
        async with connect(engine_url, asynchronous=True) as cluster:
            with pytest.raises(IndexMissing, match="no index 'knnex-nowhere'"):
                await cluster.index("knnex-nowhere").plan("anything")
        return True

    assert asyncio.run(ask())


def test_the_wrong_kind_of_client_is_told(engine_name: str, engine_url: str) -> None:
    other = {"elasticsearch": "opensearch", "opensearch": "elasticsearch"}[engine_name]
    with pytest.raises(KnnexError, match=f"(?i){engine_name}|not Elasticsearch|406|Content-Type"):
        connect(client(SYNC[other], engine_url))


def test_what_is_no_client_is_told() -> None:
    with pytest.raises(EngineError, match="int is no client"):
        connect(7)  # type: ignore[call-overload]


def test_a_ready_client_takes_no_credentials(engine_name: str, engine_url: str) -> None:
    with pytest.raises(SettingsError, match="takes no api_key"):
        connect(client(SYNC[engine_name], engine_url), api_key="k")


ACCESS: dict[str, tuple[dict[str, Any], str]] = {
    "basic auth": ({"basic_auth": ("kim", "s3cret")}, proxy.basic("kim", "s3cret")),
    "API key": ({"api_key": "a2V5"}, "ApiKey a2V5"),
}


@pytest.mark.feature("API keys, basic auth, TLS and private CAs")
@pytest.mark.parametrize("kind", ACCESS)
def test_credentials_reach_the_engine(engine_url: str, kind: str) -> None:
    options, header = ACCESS[kind]
    with proxy.gate(engine_url, allow={header}) as url:
        opened = open_engine(url, Access(**options))
        assert opened.send(Request("GET", "/_cluster/health")).status == 200
        opened.close()
        with pytest.raises(AccessDenied, match="401") as caught:
            open_engine(url, Access())
        assert "KNNEX_API_KEY" in str(caught.value.hint)
        assert not re.search("s3cret|a2V5", repr(Access(**options)))


def test_credentials_may_have_any_character(engine_url: str) -> None:
    header = "Basic " + base64.b64encode("jürgen:pass wörd€".encode()).decode()
    with (
        proxy.gate(engine_url, allow={header}) as url,
        connect(url, username="jürgen", password="pass wörd€") as cluster,
    ):
        assert not cluster.exists("knnex-test-nowhere")
        connect(url.replace("//", "//j%C3%BCrgen:pass%20w%C3%B6rd%E2%82%AC@")).close()


def test_credentials_given_stand_for_those_of_the_settings(engine_url: str, fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_USERNAME", "kim")
    fresh_settings.setenv("KNNEX_PASSWORD", "s3cret")
    with proxy.gate(engine_url, allow={"ApiKey a2V5"}) as url:
        connect(url, api_key="a2V5").close()
        with pytest.raises(AccessDenied):
            connect(url, api_key=None)
    fresh_settings.setenv("KNNEX_API_KEY", "a2V5")
    settings.cache_clear()
    with pytest.raises(SettingsError, match="an API key and a user name too"):
        connect(engine_url)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"password": "p"}, "a password without a user name"),
        ({"api_key": 5}, "api_key is of type int"),
        ({"username": "u", "password": 5}, "password is of type int"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"verify_certs": "no"}, "verify_certs is 'no'"),
        ({"ca_certs": "/none.pem"}, "there is no file /none.pem"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        connect("http://127.0.0.1:9", **options)
    assert caught.value.hint


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def https(engine_url: str, authority: trustme.CA) -> Iterator[str]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with proxy.gate(engine_url, tls=tls) as url:
        yield url


def test_tls_with_a_private_ca(https: str, authority: trustme.CA, tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    opened = open_engine(https, Access(ca_certs=str(pem)))
    assert opened.send(Request("GET", "/_cluster/health")).status == 200
    opened.close()


def test_an_unknown_certificate_is_refused_with_the_setting_to_change(https: str) -> None:
    with pytest.raises(EngineUnreachable, match="(?i)certificate") as caught:
        open_engine(https, Access())
    assert "KNNEX_CA_CERTS" in str(caught.value.hint)


def test_verification_can_be_switched_off(https: str) -> None:
    opened = open_engine(https, Access(verify_certs=False))
    assert opened.send(Request("GET", "/_cluster/health")).status == 200
    opened.close()


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_refused_connection_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineUnreachable, match=f"127.0.0.1:{port}") as caught:
        open_engine(f"http://127.0.0.1:{port}", Access())
    assert "knnex up" in str(caught.value.hint)


def test_a_server_that_never_answers(deaf_port: int) -> None:
    with pytest.raises(EngineUnreachable, match="(?i)timed out") as caught:
        open_engine(f"http://127.0.0.1:{deaf_port}", Access(timeout=0.3))
    assert "KNNEX_TIMEOUT" in str(caught.value.hint)


@pytest.mark.parametrize(
    "url",
    ["localhost:9200", "ftp://here", "http://", "http://host:port", "http://[::1", "http://my host", "http://%zz"],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(SettingsError, match="is no URL"):
        connect(url)


def test_a_password_in_a_wrong_url_is_not_told() -> None:
    with pytest.raises(SettingsError, match=r"'htp://\*\*\*@host' is no URL"):
        connect("htp://kim:s3cret@host")


def test_something_else_answers_there() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"hello": "world"}')

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(EngineError, match="no Elasticsearch or OpenSearch"):
            open_engine(f"http://127.0.0.1:{server.server_address[1]}", Access())


PROVOKE: dict[str, tuple[Callable[[str], Request], type[KnnexError]]] = {
    "index missing": (lambda name: Request("GET", path_of(name, "_search")), IndexMissing),
}


@pytest.mark.parametrize("case", PROVOKE)
def test_the_engines_errors_have_our_names(engine: Engine, index_name: str, case: str) -> None:
    request, expected = PROVOKE[case]
    with pytest.raises(expected):
        engine.send(request(index_name))


def test_capabilities_are_asked_of_the_server(engine: Engine, engine_name: str) -> None:
    found = engine.capabilities
    # The embedded Elasticsearch is stripped of modules that the full one and the embedded OpenSearch have.
    stripped = engine_name == "elasticsearch" and servers.is_embedded(engine_name)
    assert (found.parent_join, found.scripts, found.reindex) == (not stripped,) * 3
    assert ("parent join", "no" if stripped else "yes") in found.rows()
    if servers.is_embedded(engine_name):
        # OpenSearch's plugin comes with it; Elasticsearch's retrievers need a licence.
        assert (found.native_rrf, found.native_linear) == (engine_name == "opensearch",) * 2
