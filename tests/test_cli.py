"""The command line as a person uses it: real processes, real servers, wrong input too."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from filling import one_engine

from knnex import cli
from knnex.client import connect
from knnex.settings import settings

SPEC = """
index: {index}
fields:
  title: {{type: text}}
  plot:  {{type: text}}
  year:  {{type: integer}}
  genre: {{type: keyword}}
embeddings:
  meaning: {{source: "{{title}}. {{plot}}", encoder: sentence-transformers/all-MiniLM-L6-v2}}
"""
FILMS = [
    {
        "id": "1",
        "title": "Bicentennial Man",
        "plot": "An android tries to become a man.",
        "year": 1999,
        "genre": "drama",
    },
    {"id": "2", "title": "Heat", "plot": "A detective and a thief hunt each other.", "year": 1995, "genre": "crime"},
    {
        "id": "3",
        "title": "A.I.",
        "plot": "A boy made of circuits wants his mother's love.",
        "year": 2001,
        "genre": "drama",
    },
]


@dataclass(frozen=True)
class Done:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


class Shell:
    """The command line in this process, with an environment of its own: a model is then loaded once."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self.env = home, {"KNNEX_HOME": str(home / "home"), **environment}

    def __call__(self, *words: str, give: str = "") -> Done:
        out, err = io.StringIO(), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(give.encode()))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.env.items():
                patch.setenv(name, value)
            patch.chdir(self.home)
            patch.setattr(sys, "argv", ["knnex", *words])
            patch.setattr(sys, "stdin", given)
            settings.cache_clear()
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                settings.cache_clear()
        return Done(code, out.getvalue(), err.getvalue())

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, engine_url: str, redis_url: str) -> Shell:
    return Shell(tmp_path_factory.mktemp("shell"), KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)


@pytest.fixture(scope="module")
def films(shell: Shell, engine_url: str) -> Iterator[str]:
    """An index of three films, made and filled by the command line."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    (shell.home / "films.yaml").write_text(SPEC.format(index=name))
    (shell.home / "films.ndjson").write_text("".join(json.dumps(film) + "\n" for film in FILMS))
    made = shell("create", "films.yaml")
    assert (made.returncode, f"Index {name} is ready" in made.stdout) == (0, True), made.stderr
    done = shell("ingest", name, "films.ndjson", "--inline")
    assert (done.returncode, "3 of 3 documents are in the index" in done.stdout) == (0, True), done.stdout + done.stderr
    yield name
    with connect(engine_url) as cluster:
        cluster.drop(name)


@pytest.mark.feature("The command line")
def test_search_filters_and_prints(shell: Shell, films: str) -> None:
    found = shell.json("search", films, "a robot that longs to be human", "--limit", "2")
    assert [hit["id"] for hit in found][:1] == ["1"]
    found = shell.json("search", films, "a robot", "--where", "year>=2000", "--where", "genre==drama")
    assert [hit["id"] for hit in found] == ["3"]
    told = shell("search", films, "a robot", "--lexical", "title^2", "--lexical", "plot")
    assert told.returncode == 0
    assert "Bicentennial Man" in told.stdout
    assert "android" in told.stdout


def test_console_prints_a_request(shell: Shell, films: str) -> None:
    told = shell("search", films, "a robot", "--console")
    assert told.stdout.startswith(f"POST /{films}/_search\n")


def test_doctor_names_what_is_wrong(shell: Shell, films: str) -> None:
    told = shell("doctor", films)
    assert told.returncode == 1, "no worker runs"
    assert "no worker runs" in told.stdout
    assert "3 of 3 documents have one" in told.stdout
    findings = json.loads(shell("doctor", films, "--json").stdout)
    assert {finding["part"] for finding in findings} >= {"engine", "log", "workers", films}


def test_drop_asks_first(shell: Shell, films: str) -> None:
    name = f"{films}-again"
    (shell.home / "again.yaml").write_text(SPEC.format(index=name))
    assert shell("create", "again.yaml").returncode == 0
    assert shell("drop", name, give="n\n").returncode == 1
    assert shell("drop", name, "--yes").returncode == 0
    assert f"there is no index '{name}'" in shell("search", name, "robot").stderr


def test_standard_input_and_bad_lines(shell: Shell, films: str) -> None:
    lines = [
        json.dumps({"id": "4", "title": "Alien", "plot": "A crew is hunted."}),
        "{not json",
        json.dumps({"title": "no id"}),
    ]
    done = shell("ingest", films, "-", "--inline", give="\n".join(lines) + "\n")
    assert done.returncode == 1
    assert "1 of 3 documents are in the index" in done.stdout
    assert "2 refused" in done.stdout
    assert "standard input line 2" in done.stdout
    assert "standard input line 3" in done.stdout


WRONG = {
    "unknown field": (("search", "{films}", "x", "--where", "yaer>1990"), "yaer", "year"),
    "no condition": (("search", "{films}", "x", "--where", "year"), "'year' is no condition", "FIELD=VALUE"),
    "wrong type": (("search", "{films}", "x", "--where", "year=soon"), "year is integer, and 'soon' is none", "hint"),
    "no such index": (("search", "nowhere", "x"), "there is no index 'nowhere'", "knnex create"),
    "no such file": (("ingest", "{films}", "none.ndjson"), "none.ndjson", "hint"),
    "no such kind of file": (("ingest", "{films}", "films.yaml"), "films.yaml", "NDJSON|ndjson"),
    "no spec": (("create", "none.yaml"), "cannot read the spec none.yaml", "hint"),
    "refused connection": (
        ("search", "x", "y", "--url", "http://127.0.0.1:9"),
        "no answer from http://127.0.0.1:9",
        "knnex up",
    ),
    "wrong URL": (("search", "x", "y", "--url", "nonsense"), "'nonsense' is no URL", "http://HOST:9200"),
    "a pattern": (("drop", "knnex-test-*", "--yes"), "'knnex-test-*' is no name of an index", "name one index"),
    "the document's id": (("search", "{films}", "x", "--where", "id=*"), "id is the document's id", "keyword"),
    "empty question": (("search", "{films}", " "), "empty", "hint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_told_with_the_way_out(shell: Shell, films: str, case: str) -> None:
    words, message, hint = WRONG[case]
    told = shell(*(word.format(films=films) for word in words))
    assert told.returncode == 1, told.stdout
    assert "Traceback" not in told.stderr
    flat = " ".join(told.stderr.split())
    assert message in flat
    assert re.search(hint, flat)


def test_a_model_that_cannot_be_loaded(shell: Shell) -> None:
    (shell.home / "spec.yaml").write_text(
        SPEC.format(index="knnex-test-none").replace("sentence-transformers/all-MiniLM-L6-v2", "./no-model")
    )
    told = shell("create", "spec.yaml")
    assert told.returncode == 1
    assert "no-model" in told.stderr
    assert "no such directory" in told.stderr


@one_engine
def test_no_worker_is_told(shell: Shell, films: str) -> None:
    again = shell("ingest", films, "films.ndjson")
    assert (again.returncode, "3 of them were not sent" in again.stdout) == (0, True)
    told = shell("ingest", films, "films.ndjson", "--unchanged")
    assert told.returncode == 1
    assert "no worker" in told.stderr
    assert "knnex worker" in told.stderr


def test_a_redis_that_is_not_there(films: str, shell: Shell) -> None:
    told = Shell(shell.home, **shell.env | {"KNNEX_REDIS_URL": "redis://127.0.0.1:9/0"})(
        "ingest", films, "films.ndjson"
    )
    assert (told.returncode, "127.0.0.1:9" in told.stderr) == (1, True), told.stderr


def test_status_where_nothing_runs(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    told = subprocess.run([sys.executable, "-m", "knnex", "version"], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "0.1.0"
    assert "Nothing is running" in shell("status").stdout
    assert "Nothing was running" in shell("down").stdout
    assert shell("version").stdout.strip() == "0.1.0"
    assert json.loads(shell("schema").stdout)["title"] == "A knnex spec"


def test_a_setting_that_cannot_be_read(tmp_path: Path) -> None:
    told = Shell(tmp_path, KNNEX_BATCH="many")("status")
    assert told.returncode == 1
    assert "KNNEX_BATCH" in told.stderr


def test_models_that_are_no_json(tmp_path: Path) -> None:
    told = Shell(tmp_path, KNNEX_MODELS="mini")("status")
    assert (told.returncode, "KNNEX_MODELS is no JSON" in told.stderr) == (1, True), told.stderr


def run(shell: Shell, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own, where what it writes is bytes."""
    environment = {**os.environ, **shell.env, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "knnex", *words], check=False, capture_output="stdout" not in options, cwd=shell.home,
        env=environment, timeout=120, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def notes(shell: Shell, engine_url: str) -> Iterator[str]:
    """An index without embeddings, with what a terminal may stumble over."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    long = {"id": "x" * 200, "title": "long \u20ac \x1b[31mred"}
    with connect(engine_url) as cluster:
        index = cluster.create({"index": name, "fields": {"title": {"type": "text"}}})
        assert index.ingest([long], inline=True).complete
        yield name
        cluster.drop(name)


def test_output_is_whole_in_a_pipe_and_orders_a_terminal_nothing(shell: Shell, notes: str) -> None:
    told = run(shell, "search", notes, "long", "--lexical", "title", env={"COLUMNS": "40", "PYTHONUTF8": "1"})
    assert told.returncode == 0, told.stderr
    assert b"x" * 200 in told.stdout
    assert b"\x1b" not in told.stdout


def test_a_terminal_that_knows_ascii_alone(shell: Shell, notes: str) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    told = run(shell, "search", notes, "long", "--lexical", "title", env=ascii_only)
    assert (told.returncode, b" 1  ########" in told.stdout) == (0, True), told.stderr
    told = run(shell, "search", notes, "long", "--lexical", "title", "--json", env=ascii_only)
    assert json.loads(told.stdout)[0]["source"]["title"].startswith("long \u20ac")


def test_an_index_without_embeddings_says_how_to_search_it(shell: Shell, notes: str) -> None:
    told = shell("search", notes, "long")
    assert (told.returncode, "--lexical FIELD" in told.stderr) == (1, True), told.stderr


def test_a_full_disk_is_told(shell: Shell) -> None:
    with Path("/dev/full").open("w") as full:
        told = run(shell, "schema", stdout=full, stderr=subprocess.PIPE)
    assert (told.returncode, b"No space left" in told.stderr) == (1, True), told.stderr
    assert b"Traceback" not in told.stderr
