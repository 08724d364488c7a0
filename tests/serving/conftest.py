"""A server for requests of all kinds, one that is guarded, and an index for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from filling import own_log
from served import DATABASE, FIELDS, TOKEN, Server, serving

from knnex.engines import Access, Engine, open_engine
from knnex.ingest import RedisLog
from knnex.mappings import create, drop, load_spec


@pytest.fixture(scope="module")
def log(redis_url: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, DATABASE)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def one_engine(elasticsearch_url: str) -> Iterator[Engine]:
    """Where it does not matter which: what is asked of the engine here is a spec."""
    opened = open_engine(elasticsearch_url, Access())
    yield opened
    opened.close()


@pytest.fixture
def index(one_engine: Engine, log: RedisLog) -> Iterator[str]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    one_engine.run(create(load_spec({"index": name, "fields": FIELDS}), one_engine.dialect, {}))
    yield name
    one_engine.run(drop(name))
    log.forget(name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(home: Path, elasticsearch_url: str, log: RedisLog) -> Iterator[Server]:
    with serving(home, KNNEX_URL=elasticsearch_url, KNNEX_REDIS_URL=log.url) as started:
        yield started


@pytest.fixture(scope="module")
def guarded(home: Path, elasticsearch_url: str, log: RedisLog) -> Iterator[Server]:
    given = {"KNNEX_URL": elasticsearch_url, "KNNEX_REDIS_URL": log.url, "KNNEX_TOKEN": TOKEN}
    with serving(home, "--host", "0.0.0.0", **given) as started:
        yield started
