"""`knnex plan` and `knnex check` as a person and a script use them: exit codes, words, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from typer.testing import CliRunner

from knnex import cli_plan
from knnex.client import Cluster
from knnex.engines import Engine, Request
from knnex.errors import KnnexError, SettingsError
from knnex.mappings import dump_yaml, load_spec

APP = typer.Typer()
cli_plan.register(APP)


class Person:
    """Somebody at a terminal with a spec in a file."""

    def __init__(self, engine: Engine, index: str, model: Path, folder: Path) -> None:
        self.engine, self.index, self.model, self.path = engine, index, model, folder / "spec.yaml"

    def write(self, **changes: Any) -> None:
        vector = {"source": "{title}", "encoder": str(self.model)} | changes.pop("v", {})
        fields = {"title": {"type": "text"}} | changes
        spec = {
            "index": self.index,
            "fields": fields,
            "embeddings": {"v": vector},
            "settings": {"number_of_replicas": 0},
        }
        self.path.write_text(dump_yaml(load_spec(spec)))

    def says(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(APP, [*words, *([] if "--documents" in words else [str(self.path)])])
        if isinstance(done.exception, KnnexError):
            raise done.exception
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout


@pytest.fixture
def person(
    engine: Engine, engine_url: str, index_name: str, tiny: Path, tmp_path: Path, fresh_settings: pytest.MonkeyPatch
) -> Person:
    fresh_settings.setenv("KNNEX_URL", engine_url)
    fresh_settings.setenv("KNNEX_CACHE_DIR", str(tmp_path / "cache"))
    one = Person(engine, index_name, tiny, tmp_path)
    one.write()
    return one


def made(person: Person, documents: int = 0) -> None:
    """The index of the spec, with documents; the cluster is the engine's own, and stays open."""
    index = Cluster(person.engine).create(person.path)
    rows = [{"id": str(number), "title": f"the cat sat on mat {number}"} for number in range(documents)]
    if rows:
        assert index.ingest(rows, inline=True).complete
    person.engine.send(Request("POST", f"/{person.index}/_refresh"))


def test_exit_codes_say_whether_there_is_something_to_do(person: Person) -> None:
    code, told = person.says("plan")
    assert (code, f"make index {person.index}-000001" in told) == (2, True)
    assert person.says("check")[0] == 1
    made(person)
    code, told = person.says("plan")
    assert (code, f"{person.index} is as its spec says" in told) == (0, True)
    assert person.says("check")[0] == 0
    person.write(lang={"type": "keyword"})
    code, told = person.says("plan")
    assert (code, "field lang: absent -> keyword" in told, "new fields may be added" in told) == (2, True, True)
    assert person.says("check")[0] == 1


def test_check_fails_on_drift(person: Person) -> None:
    made(person)
    person.engine.send(Request("PUT", f"/{person.index}-000001/_settings", body={"index.number_of_replicas": 1}))
    code, told = person.says("check")
    assert code == 1
    assert "drift: setting number_of_replicas is 1, not 0" in told


def test_the_estimate_is_told(person: Person) -> None:
    made(person, 30)
    person.write(v={"chunk": {"unit": "tokens", "max_tokens": 8, "overlap": 2}})
    code, told = person.says("plan", "--docs-per-second", "10")
    flat = " ".join(told.split())
    assert code == 2
    assert (
        f"{person.index}-000002 takes the place of {person.index}-000001, with all changes (vectors made anew: v)"
        in flat
    )
    assert "To encode for v: 30 documents" in flat
    assert "at 10.0 documents/s" in flat
    assert "v: " in flat
    assert "none *" in flat
    assert "are free on all nodes together" in flat
    assert "To encode" not in person.says("plan", "--no-estimate")[1]


def test_json_has_it_all(person: Person) -> None:
    made(person, 5)
    person.write(v={"similarity": "l2", "document_prompt": "passage: "}, lang={"type": "keyword"})
    code, told = person.says("plan", "--json", "--docs-per-second", "5")
    plan = json.loads(told)
    assert code == 2
    assert [row["op"] for row in plan["operations"]] == ["add field", "change embedding", "update meta"]
    assert plan["new_version"]["encode"] == ["v"]
    assert plan["live"]["documents"] == 5
    (encode,) = plan["estimate"]["encode"]
    assert (encode["documents"], encode["sampled"], encode["seconds"]) == (5, 5, 1.0)
    levels = plan["estimate"]["vectors"]["v"]["levels"]
    assert {"none", "int8"} <= {row["level"] for row in levels}
    assert all(row["disk"] >= row["memory"] for row in levels)
    (checked,) = json.loads(person.says("check", "--json")[1])
    assert checked["operations"] == plan["operations"]


def test_on_paper_no_server_is_asked(fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_URL", "http://127.0.0.1:9")
    words = ["plan", "--documents", "200000000", "--dims", "384"]
    done = CliRunner().invoke(APP, [*words, "--memory", "15"])
    assert done.exit_code == 0
    assert "200,000,000 vectors of 384 dims" in done.stdout
    assert "Into 15.0 GB of page cache fit: binary flat, binary disk." in done.stdout
    paper = json.loads(CliRunner().invoke(APP, [*words, "--engine", "opensearch", "--json"]).stdout)
    assert [row["level"] for row in paper["levels"]] == ["none", "int8", "binary"]
    assert [row["vectors"] for row in paper["levels"]] == [200_000_000] * 3


@pytest.mark.parametrize("words", [["plan"], ["plan", "spec.yaml", "--documents", "5"]])
def test_a_plan_is_of_a_spec_or_on_paper(words: list[str]) -> None:
    done = CliRunner().invoke(APP, words)
    assert isinstance(done.exception, SettingsError)
    assert "knnex plan --documents N --dims D" in str(done.exception.hint)


def test_an_error_is_no_plan(person: Person) -> None:
    name = f"{person.index}-{uuid4().hex[:4]}"
    person.engine.send(Request("PUT", f"/{name}", body={"aliases": {person.index: {}}}))
    try:
        with pytest.raises(KnnexError, match="is an alias of .* that knnex did not make"):
            person.says("plan")
    finally:
        person.engine.send(Request("DELETE", f"/{name}"))
