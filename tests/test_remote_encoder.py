"""Encoding elsewhere: a real `knnex serve`, asked by processes that have no model, and all that can go wrong between."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import proxy
import pytest
import urllib3
from served import TOKEN, Server, serving
from tiny import TEXTS, tiny_model

from knnex import connect, load_spec
from knnex.encoders import TextEncoder, chunk, load_encoder, load_matching, query_vectors, resolve
from knnex.encoders.queries import query_cache
from knnex.encoders.registry import _loaded
from knnex.encoders.remote import MOST_TEXTS, RemoteEncoder, _pool
from knnex.errors import BadVector, EncoderError, KnnexError, ModelMismatch, ModelUnavailable, SettingsError
from knnex.mappings import Chunking, Embedding, Stored

NAME = "acme/words"
Change = Callable[[dict[str, Any]], dict[str, Any] | bytes | tuple[int, bytes]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encode")


@pytest.fixture(scope="module")
def model(home: Path) -> Path:
    return tiny_model(home)


def environment(home: Path, model: Path, **more: str) -> dict[str, str]:
    """Of a server that encodes: its log is a file, since it needs no more of one."""
    return {
        "KNNEX_LOG_URL": f"sqlite:///{home / 'log.sqlite'}",
        "KNNEX_MODELS": json.dumps({NAME: str(model)}),
        "KNNEX_SERVED_MODELS": json.dumps([NAME, "acme/lost"]),
    } | more


@pytest.fixture(scope="module")
def server(home: Path, model: Path) -> Iterator[Server]:
    with serving(home, **environment(home, model)) as started:
        yield started


@pytest.fixture(scope="module")
def local(model: Path) -> TextEncoder:
    return TextEncoder(str(model), query_prompt="query : ")


@pytest.fixture
def remote(fresh_settings: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Settings of this test alone, and nothing loaded, known or connected before."""
    fresh_settings.setattr("knnex.encoders.registry._loaded", {})
    for known in (query_cache, _pool):
        known.cache_clear()
    yield fresh_settings
    for known in (query_cache, _pool):
        known.cache_clear()


def embedding(**declared: Any) -> Embedding:
    return Embedding(**{"source": "{title}", "encoder": NAME} | declared)


# ---- it gives what a model here gives ----


def test_it_is_the_same_encoder_elsewhere(server: Server, local: TextEncoder, remote: pytest.MonkeyPatch) -> None:
    remote.setenv("KNNEX_ENCODER_URL", server.url + "/")
    there = load_encoder(embedding(query_prompt="query : "))
    assert isinstance(there, RemoteEncoder)
    assert load_encoder(embedding(query_prompt="query : ")) is there
    assert [there.revision, there.identity, there.dims, there.max_tokens] == [
        local.revision, local.identity, local.dims, local.max_tokens,
    ]  # fmt: skip
    texts = [*TEXTS, "cat \ud800 dog", "ünbelievable 👍 cats"]
    for ours, theirs in (
        (local.encode_queries, there.encode_queries),
        (local.encode_documents, there.encode_documents),
    ):
        assert theirs(texts).dtype == np.float32
        assert np.abs(ours(texts) - theirs(texts)).max() < 1e-6
        assert theirs([]).shape == (0, 32)
    assert np.abs(there.encode_queries(TEXTS) - there.encode_documents(TEXTS)).max() > 1e-3
    for text in texts:
        assert there.offsets(text) == local.offsets(text)
        assert there.count_tokens(text) == local.count_tokens(text)
    assert repr(there).startswith(f"RemoteEncoder('{server.url}', 'acme/words', revision=")


def test_more_texts_than_a_request_holds(server: Server, local: TextEncoder, remote: pytest.MonkeyPatch) -> None:
    there = RemoteEncoder(server.url, NAME)
    texts = [f"cat {'s' * (number % 9)} dog {number}" for number in range(2 * MOST_TEXTS + 3)]
    assert np.abs(there.encode_documents(texts) - local.encode_documents(texts)).max() < 1e-5
    remote.setattr("knnex.encoders.remote._MOST_CHARACTERS", 30)
    assert np.abs(there.encode_documents(texts[:9]) - local.encode_documents(texts[:9])).max() < 1e-5


def test_passages_are_cut_by_its_tokens(server: Server, local: TextEncoder, remote: pytest.MonkeyPatch) -> None:
    text, chunking = "The cat sat on the mat. A dog, too. " * 9, Chunking(max_tokens=12, overlap=3)
    assert chunk(text, chunking, RemoteEncoder(server.url, NAME)) == chunk(text, chunking, local)


def test_fingerprints_are_alike_and_a_search_works(
    server: Server, model: Path, engine_url: str, index_name: str, remote: pytest.MonkeyPatch
) -> None:
    """Made and filled by a process with the model, asked by one without, and the other way round."""
    spec = {
        "index": index_name,
        "fields": {"title": {"type": "text"}},
        "embeddings": {"v": {"source": "{title}", "encoder": NAME, "query_prompt": "query : "}},
    }
    remote.setenv("KNNEX_MODELS", json.dumps({NAME: str(model)}))
    here = resolve(load_spec(spec))
    with connect(engine_url) as cluster:
        index = cluster.create(spec)
        index.ingest([{"id": word, "title": word} for word in ("cat", "dog")], inline=True)
        best = index.search("cat")
        done = without_torch(SEARCH.format(index=index_name), KNNEX_URL=engine_url, KNNEX_ENCODER_URL=server.url)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["fingerprint"] == here["v"].fingerprint == index.stored.resolved["v"].fingerprint
        assert told["ids"] == [*best.ids, "robot"] or set(told["ids"]) == {"cat", "dog", "robot"}
        assert told["ids"][0] == "cat"
        assert index.search("robot").ids[0] == "robot", "written by the process without a model"


SEARCH = """
import json, knnex
with knnex.connect() as cluster:
    index = cluster.index("{index}")
    index.upsert({{"id": "robot", "title": "robot"}}, inline=True)
    print(json.dumps({{
        "ids": index.search("cat").ids, "fingerprint": knnex.encoders.resolve(index.spec)["v"].fingerprint,
    }}))
"""


def without_torch(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The code in a process in which no model can be loaded."""
    lacking = "import sys\nfor name in ('torch', 'transformers', 'sentence_transformers', 'tokenizers'):\n"
    env = {name: value for name, value in os.environ.items() if not name.startswith("KNNEX_")} | settings
    return subprocess.run(
        [sys.executable, "-c", f"{lacking}    sys.modules[name] = None\nimport knnex.encoders, knnex.mappings\n{code}"],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_without_a_model_the_way_out_is_named(model: Path, remote: pytest.MonkeyPatch) -> None:
    code = f"knnex.encoders.load_encoder(knnex.mappings.Embedding(source='{{t}}', encoder={str(model)!r}))"
    done = without_torch(code)
    assert done.returncode == 1
    assert "needs the package torch" in done.stderr
    assert "set KNNEX_ENCODER_URL" in done.stderr


def test_many_threads_share_requests(server: Server, local: TextEncoder, remote: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def count(answer: dict[str, Any]) -> dict[str, Any]:
        asked.append(len(base64.b64decode(answer["vectors"])) // (4 * 32))
        return answer

    with between(server.url, count) as url:
        there = RemoteEncoder(url, NAME, query_prompt="query : ")
        texts = [f"cat {number}" for number in range(200)]
        with ThreadPoolExecutor(32) as pool:
            found = np.concatenate(list(pool.map(lambda text: there.encode_queries([text]), texts)))
    assert np.abs(found - local.encode_queries(texts)).max() < 1e-5
    assert sum(asked) == 200
    assert len(asked) < 150


# ---- what can go wrong ----


@contextmanager
def between(upstream: str, change: Change) -> Iterator[str]:
    """The URL of a way to the server on which its answers are changed."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {"content-type": self.headers["content-type"]}
            told = urllib3.request("POST", upstream + self.path, body=body, headers=headers, timeout=60)
            made = change(told.json())
            status, data = made if isinstance(made, tuple) else (told.status, made)
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        _pool.cache_clear()  # closes the connections, for whose end the handlers wait
        server.shutdown()
        server.server_close()


def packed(vectors: Any) -> str:
    return base64.b64encode(np.asarray(vectors, dtype="<f4").tobytes()).decode()


def only_for_texts(**changes: Any) -> Change:
    """Change answers that have vectors: not the first, by which an encoder learns what it is."""
    return lambda answer: answer | changes if answer["vectors"] else answer


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (only_for_texts(vectors=packed([[1, 2, 3]])), BadVector, "gave 3 numbers of 32 dims for 1 texts of 32 dims"),
        (only_for_texts(dims=3, vectors=packed([[1, 2, 3]])), BadVector, "gave 3 numbers of 3 dims"),
        (only_for_texts(vectors=packed(np.ones((2, 32)))), BadVector, "gave 64 numbers of 32 dims for 1 texts"),
        (only_for_texts(vectors=packed([[np.nan] * 32])), BadVector, "the vector of row 0 (of 1) is not finite"),
        (only_for_texts(vectors=packed([[np.inf] * 32])), BadVector, "the vector of row 0 (of 1) is not finite"),
        (only_for_texts(vectors=packed([[0] * 32])), BadVector, "the vector of row 0 (of 1) has length 0"),
        (only_for_texts(vectors="AAA="), ModelUnavailable, "its vectors cannot be read: buffer size"),
        (only_for_texts(vectors="ä?"), ModelUnavailable, "its vectors cannot be read: "),
        (only_for_texts(identity="0" * 32), ModelMismatch, "was exchanged: its identity was {identity} and is " + "0" * 32),
        (only_for_texts(dims="32"), ModelUnavailable, "its answer is not one: Input should be a valid integer"),
        (lambda _: {"hello": "world"}, ModelUnavailable, "its answer is not one: Field required"),
        (lambda _: b"<html>", ModelUnavailable, "its answer is not one: Invalid JSON"),
        (lambda _: (404, b"nothing here"), ModelUnavailable, "it answered 404"),
        (lambda _: (302, b""), ModelUnavailable, "it answered 302"),
        (lambda _: (502, b"<html>bad gateway"), ModelUnavailable, "it answered 502"),
        (lambda _: (503, b'{"error": "full", "hint": "come back"}'), ModelUnavailable, "does not encode with 'acme/words': full"),
        (lambda _: (500, b'{"error": "something went wrong", "hint": null}'), EncoderError, "something went wrong"),
    ],
)  # fmt: skip
def test_wrong_answers(
    server: Server, local: TextEncoder, remote: pytest.MonkeyPatch, change: Change, kind: type[KnnexError], said: str
) -> None:
    with between(server.url, change) as url, pytest.raises(EncoderError) as caught:
        RemoteEncoder(url, NAME).encode_queries(["cat"])
    assert type(caught.value) is kind
    assert url in str(caught.value)
    assert said.replace("{identity}", local.identity) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("offsets", [[], [[[1]]], [[[1, 2, 3]]]])
def test_wrong_tokens(server: Server, remote: pytest.MonkeyPatch, offsets: Any) -> None:
    change: Change = lambda answer: answer | {"offsets": offsets}  # noqa: E731
    with between(server.url, change) as url, pytest.raises(ModelUnavailable, match="it told no tokens"):
        RemoteEncoder(url, NAME).offsets("cat")


def test_a_server_that_is_away(remote: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnavailable, match="no answer from http://127.0.0.1:9/encode: .*refused") as caught:
        RemoteEncoder("http://127.0.0.1:9", NAME)
    assert "KNNEX_ENCODER_URL" in str(caught.value.hint)
    with pytest.raises(ModelUnavailable, match="no answer from http://no.such.host.invalid:80/encode: "):
        RemoteEncoder("http://no.such.host.invalid:80", NAME)


def test_a_server_that_is_silent(remote: pytest.MonkeyPatch) -> None:
    remote.setenv("KNNEX_TIMEOUT", "0.2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ModelUnavailable, match=f"no answer from {url}/encode: Read timed out") as caught:
            RemoteEncoder(url, NAME)
    assert "KNNEX_TIMEOUT" in str(caught.value.hint)


def test_a_connection_that_was_closed_meanwhile(server: Server, remote: pytest.MonkeyPatch) -> None:
    with proxy.cable(server.url) as (wire, url):
        there = RemoteEncoder(url, NAME)
        fault = wire.lose(b"/ENCODE", close=True)
        assert there.encode_queries(["cat"]).shape == (1, 32)
        assert fault.happened.is_set()
        assert wire.cut()
        assert there.encode_queries(["dog"]).shape == (1, 32)


@pytest.mark.parametrize(
    "url", ["", "localhost:8088", "ftp://host", "http://", "http://user:canary@host", "http://[", "http://host:99999"]
)
def test_what_is_no_address(remote: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(SettingsError, match="KNNEX_ENCODER_URL is no address") as caught:
        RemoteEncoder(url, NAME)
    assert "canary" not in str(caught.value)


def test_models_to_serve_are_named_in_json(remote: pytest.MonkeyPatch) -> None:
    remote.setenv("KNNEX_SERVED_MODELS", NAME)
    with pytest.raises(SettingsError, match="KNNEX_SERVED_MODELS is no JSON") as caught:
        load_encoder(embedding())
    assert caught.value.hint == 'write ["MODEL"], or unset it'


def test_tls_is_checked(server: Server, local: TextEncoder, tmp_path: Path, remote: pytest.MonkeyPatch) -> None:
    tls, pem = proxy.private(tmp_path)
    with proxy.gate(server.url, tls=tls) as url:
        with pytest.raises(ModelUnavailable, match=f"no answer from {url}/encode: .*certificate verify failed"):
            RemoteEncoder(url, NAME)
        remote.setenv("KNNEX_CA_CERTS", pem)
        renew()
        assert RemoteEncoder(url, NAME).identity == local.identity
        remote.setenv("KNNEX_CA_CERTS", str(tmp_path / "none.pem"))
        renew()
        with pytest.raises(SettingsError, match="KNNEX_CA_CERTS: .*none.pem cannot be read"):
            RemoteEncoder(url, NAME)


def renew() -> None:
    """Have the settings read again, and connections made by them."""
    from knnex.settings import settings

    for known in (settings, _pool):
        known.cache_clear()


def test_the_token_is_asked_for(home: Path, model: Path, local: TextEncoder, remote: pytest.MonkeyPatch) -> None:
    with serving(home, **environment(home, model, KNNEX_TOKEN=TOKEN)) as guarded:
        with pytest.raises(ModelUnavailable, match="this server asks for a token") as caught:
            RemoteEncoder(guarded.url, NAME)
        assert "set KNNEX_TOKEN here" in str(caught.value.hint)
        remote.setenv("KNNEX_TOKEN", "wrong")
        renew()
        with pytest.raises(ModelUnavailable, match="this is not the token of this server"):
            RemoteEncoder(guarded.url, NAME)
        remote.setenv("KNNEX_TOKEN", TOKEN)
        renew()
        assert RemoteEncoder(guarded.url, NAME).identity == local.identity
        assert TOKEN not in guarded.text


def test_models_that_are_not_served_are_not_loaded(server: Server, model: Path, remote: pytest.MonkeyPatch) -> None:
    for name in (str(model), "sentence-transformers/all-MiniLM-L6-v2", "../words", ""):
        with pytest.raises(ModelUnavailable, match=r"this server does not encode with") as caught:
            RemoteEncoder(server.url, name)
        assert "KNNEX_SERVED_MODELS" in str(caught.value.hint)
    with pytest.raises(ModelUnavailable, match="'acme/lost' cannot be fetched|'acme/lost'"):
        RemoteEncoder(server.url, "acme/lost")


def test_a_text_that_is_too_large(server: Server, remote: pytest.MonkeyPatch) -> None:
    there = RemoteEncoder(server.url, NAME)
    with pytest.raises(EncoderError, match="the body has more than 32,000,000 bytes") as caught:
        there.encode_documents(["cat", "cat " * 9_000_000])
    assert type(caught.value) is EncoderError


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "Invalid JSON"),
        (b"[]", 400, "the body: Input should be an object"),
        ({"encoder": NAME, "side": "query"}, 400, "texts: Field required"),
        ({"encoder": NAME, "side": "query", "texts": "cat"}, 400, "texts: Input should be a valid array"),
        ({"encoder": NAME, "side": "query", "texts": [5]}, 400, "texts.0: Input should be a valid string"),
        ({"encoder": NAME, "side": "answer", "texts": []}, 400, "side: Input should be 'query'"),
        ({"encoder": NAME, "side": "query", "texts": [], "more": 1}, 400, "more: Extra inputs"),
        ({"encoder": NAME, "side": "query", "texts": ["a"] * 257}, 413, "more than 256 texts"),
        ({"encoder": NAME, "side": "query", "texts": [], "document_prompt": "the " * 99}, 422, "fills the 48 tokens"),
    ],
)
def test_requests_that_are_refused(server: Server, body: Any, status: int, said: str) -> None:
    told = server("POST", "/encode", body)
    assert told.status == status
    assert said in told.body["error"]
    assert "Traceback" not in server.text


def test_other_requests(server: Server) -> None:
    ask = {"encoder": NAME, "side": "query", "texts": ["cat"]}
    assert server("GET", "/encode").status == 405
    assert server("POST", "/encode", ask, content_type="text/plain").status == 415
    assert server("POST", "/encode", ask, content_type="application/x-ndjson").status == 415
    assert server("POST", "/encode", ask, host="evil.example").status == 403
    told = server("POST", "/encode", ask)
    assert (told.status, told.body["dims"], len(base64.b64decode(told.body["vectors"]))) == (200, 32, 128)


# ---- another model ----


def kept(encoder: str, fingerprint: str | None = None, dims: int = 32) -> Stored:
    declared = {"source": "{title}", "encoder": encoder}
    spec = load_spec({"index": "words", "fields": {"title": {"type": "text"}}, "embeddings": {"v": declared}})
    made = resolve(spec)["v"]
    return Stored("words-000001", spec, {"v": type(made)(dims, fingerprint or made.fingerprint)})


def test_a_mismatch_names_both_and_the_server(server: Server, remote: pytest.MonkeyPatch) -> None:
    remote.setenv("KNNEX_ENCODER_URL", server.url)
    ours = kept(NAME).resolved["v"].fingerprint
    with pytest.raises(ModelMismatch) as caught:
        query_vectors(kept(NAME, "0" * 32), "v", ["cat"])
    assert str(caught.value) == (f"words.v was filled under fingerprint {'0' * 32}; {NAME} at {server.url} has {ours}")
    assert "give that server the model" in str(caught.value.hint)


def test_a_model_that_is_exchanged_is_noticed(
    home: Path, model: Path, tmp_path: Path, remote: pytest.MonkeyPatch
) -> None:
    other = tiny_model(tmp_path, seed=1)
    with serving(home, **environment(home, model)) as before:
        remote.setenv("KNNEX_ENCODER_URL", before.url)
        old = kept(NAME)
        known = query_vectors(old, "v", ["cat"])
    with serving(home, "--port", str(before.port), **environment(home, other)):
        assert np.array_equal(query_vectors(old, "v", ["cat"]), known), "the vector of the index's own model"
        with pytest.raises(ModelMismatch, match="was filled under fingerprint") as caught:
            query_vectors(old, "v", ["dog"])
        assert old.resolved["v"].fingerprint in str(caught.value)
        # An index filled by the new model works at once; of the old one's vectors none is taken for it.
        new = kept(NAME)
        assert new.resolved["v"].fingerprint in str(caught.value)
        assert np.abs(query_vectors(new, "v", ["cat"]) - known).max() > 1e-3
        with pytest.raises(ModelMismatch):
            load_matching(old, "v")


def test_an_index_filled_anew_meets_its_new_model(
    home: Path, model: Path, tmp_path: Path, remote: pytest.MonkeyPatch
) -> None:
    """This process knows the former model still; what it knows is asked for again before anybody is refused."""
    other = tiny_model(tmp_path, seed=1)
    with serving(home, **environment(home, model)) as before:
        remote.setenv("KNNEX_ENCODER_URL", before.url)
        former = kept(NAME)
    there = TextEncoder(str(other))
    with serving(home, "--port", str(before.port), **environment(home, other)):
        held = dict(_loaded)
        remote.setattr("knnex.encoders.registry._loaded", {})
        new = kept(NAME)
        remote.setattr("knnex.encoders.registry._loaded", held)
        assert new.resolved["v"].fingerprint != former.resolved["v"].fingerprint
        assert np.abs(query_vectors(new, "v", TEXTS) - there.encode_queries(TEXTS)).max() < 1e-5
