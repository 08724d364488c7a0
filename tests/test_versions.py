"""Older servers and older clients: Elasticsearch 8.19 with the client of 9.x, and the client of 8.19 with both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import servers
from query_corpus import indexed
from test_golden import QUERIES, assert_same, run_and_record

from knnex import F, Query, connect
from knnex.engines import Access, open_engine

VERSION = "8.19.21"
CLIENT = ["elasticsearch==8.19.3", "elastic-transport>=8.15,<9"]

# What a user does, from the first connection to the last hit, as JSON on standard output.
SCRIPT = """
import json, sys
import elasticsearch
from knnex import F, Query, connect

url, name, model = sys.argv[1:]
spec = {
    "index": name,
    "fields": {"title": {"type": "text"}, "year": {"type": "integer"}},
    "embeddings": {"meaning": {"source": "{title}", "encoder": model, "quantization": "int8", "chunk": {"unit": "sentence"}}},
}
films = [{"id": str(year), "title": f"a robot that longs {year}", "year": year} for year in range(1980, 2000)]
with connect(elasticsearch.Elasticsearch(url)) as cluster:
    index = cluster.create(spec)
    report = index.ingest(films, inline=True)
    query = Query("robot").semantic("meaning").lexical("title").where(F.year.between(1985, 1989)).limit(20)
    hits = index.search(query)
    out = {
        "client": elasticsearch.__versionstr__,
        "server": ".".join(map(str, cluster.engine.dialect.version)),
        "complete": report.complete,
        "years": sorted(hit["year"] for hit in hits),
        "passages": all(hit.passages for hit in hits),
    }
    cluster.drop(name)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def older_url() -> Iterator[str]:
    with servers.embedded("elasticsearch", VERSION) as url:
        yield url


@pytest.fixture(scope="module")
def older_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client of 8.19, which goes before the installed one."""
    target = tmp_path_factory.mktemp("client")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *CLIENT]
    subprocess.run(install, check=True, capture_output=True, timeout=200)
    return target


def run(url: str, model: Path, *path: Path) -> dict[str, object]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", SCRIPT, url, "knnex-test-versions", str(model)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    out: dict[str, object] = json.loads(done.stdout)
    return out


def expected(client: str, server: str) -> dict[str, object]:
    return {"client": client, "server": server, "complete": True, "years": list(range(1985, 1990)), "passages": True}


def test_the_installed_client_and_an_older_server(older_url: str, tiny: Path) -> None:
    import elasticsearch

    assert elasticsearch.__version__ >= (9, 0)
    assert run(older_url, tiny) == expected(elasticsearch.__versionstr__, VERSION)


def test_an_older_client_and_an_older_server(older_url: str, older_client: Path, tiny: Path) -> None:
    assert run(older_url, tiny, older_client) == expected("8.19.3", VERSION)


def test_an_older_client_and_the_newest_server(elasticsearch_url: str, older_client: Path, tiny: Path) -> None:
    out = run(elasticsearch_url, tiny, older_client)
    assert out == expected("8.19.3", str(out["server"]))
    assert str(out["server"]) >= "9"


def test_every_golden_body_of_it_is_sent_to_an_older_server(older_url: str) -> None:
    """`elasticsearch-8.json`, and what is the same there as on 9."""
    with closing(open_engine(older_url, Access())) as older, indexed(older) as corpus:
        for case, query in QUERIES.items():
            hits, sent = run_and_record(older, corpus.stored, query)
            assert bool(hits) == (case != "filters_that_cannot_match")
            assert_same(case, older.dialect, sent)


def test_an_older_server_by_url(older_url: str, tiny: Path) -> None:
    with connect(older_url) as cluster:
        spec = {
            "index": "knnex-test-url",
            "fields": {"title": {"type": "text"}},
            "embeddings": {"v": {"source": "{title}", "encoder": str(tiny)}},
        }
        index = cluster.create(spec)
        try:
            assert index.ingest([{"id": 1, "title": "a cat"}, {"id": 2, "title": "a dog"}], inline=True).complete
            assert index.search(Query("cat").semantic("v").where(F.title.exists()).limit(1)).ids == ("1",)
        finally:
            cluster.drop("knnex-test-url")
