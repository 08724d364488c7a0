"""Making an index what its spec says: in place, by a new version, and from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feeding import wrong
from filling import films, held, made, own_log
from test_cli import Shell
from test_reindex import FAST, SHARDS, filled, now

from knnex.engines import Engine
from knnex.errors import LogUnavailable, ReindexStopped
from knnex.ingest import RedisLog
from knnex.ingest.reindex.applying import Applied, apply, planned
from knnex.mappings import Spec, dump_yaml, load


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 14)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def spec(engine: Engine, index_name: str, tiny: Path) -> Spec:
    """The spec of an index that holds 30 documents and a tombstone."""
    declared = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, declared), 30)
    return declared


def changed(spec: Spec, **changes: Any) -> Spec:
    return Spec.model_validate(spec.model_dump() | changes)


def with_another(spec: Spec) -> Spec:
    """One embedding more, of the title alone."""
    title = spec.embeddings["plot_vector"].model_dump() | {"source": "{title}"}
    return changed(spec, embeddings={**spec.model_dump()["embeddings"], "title_vector": title})


def done_with(engine: Engine, log: RedisLog | None, spec: Spec, **options: Any) -> Applied:
    return apply(engine, log, spec, options=FAST, **options)


def found(engine: Engine, index: str, query: dict[str, Any]) -> int:
    from feeding import Stranger

    return Stranger(engine, index).count(query)


@pytest.mark.feature("A spec that is changed is applied, in place where the engine can")
def test_a_field_more_is_added_in_place_and_found_in_documents_that_hold_it(
    engine: Engine, spec: Spec, log: RedisLog
) -> None:
    assert not planned(engine, spec)
    wider = changed(spec, fields={**spec.model_dump()["fields"], "id": {"type": "keyword"}})
    assert found(engine, spec.index, {"term": {"id": "7"}}) == 0
    done = done_with(engine, log, wider)
    assert (done.index, done.moved, done.rewritten) == (f"{spec.index}-000001", None, 31)
    assert found(engine, spec.index, {"term": {"id": "7"}}) == 1
    assert not planned(engine, wider)
    assert wrong(engine, now(engine, spec.index)) == {}


@pytest.mark.feature("A spec that is changed is applied, in place where the engine can")
def test_an_embedding_more_is_filled_in_in_place_and_goes_on_after_a_stop(
    engine: Engine, spec: Spec, log: RedisLog
) -> None:
    more = with_another(spec)

    def stop(step: Any) -> None:
        if step.name == "fill":
            raise ReindexStopped("stopped")

    with pytest.raises(LogUnavailable, match="needs the event log"):
        done_with(engine, None, more)
    with pytest.raises(ReindexStopped, match="stopped"):
        done_with(engine, log, more, tell=stop)
    assert not planned(engine, more)  # what is left to do is no difference any more
    done = done_with(engine, log, more)
    assert (done.index, done.filled and done.filled.behind) == (f"{spec.index}-000001", 0)
    target = now(engine, spec.index)
    assert [wrong(engine, target, name) for name in more.embeddings] == [{}, {}]
    assert done_with(engine, log, more).filled is None


def test_what_cannot_be_changed_in_place_comes_by_a_new_version(engine: Engine, spec: Spec, log: RedisLog) -> None:
    more = changed(with_another(spec), settings={**SHARDS, "number_of_shards": 1})
    done = done_with(engine, log, more)
    assert done.moved is not None
    assert (done.moved.target, done.moved.copied.reused) == (f"{spec.index}-000002", 30)
    target = now(engine, spec.index)
    assert [wrong(engine, target, name) for name in more.embeddings] == [{}, {}]
    assert len(held(engine, spec.index)) == 30


def test_the_command_line_applies_lists_returns_and_gives_up(
    engine: Engine, engine_url: str, redis_url: str, spec: Spec, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
    file = tmp_path / "films.yaml"
    file.write_text(dump_yaml(spec))
    assert "nothing had to be done" in shell("apply", str(file), "--yes").stdout
    file.write_text(dump_yaml(changed(spec, settings={**SHARDS, "number_of_shards": 1})))
    assert "Aborted" in shell("apply", str(file)).stderr
    assert shell.json("apply", str(file), "--dry-run")["new_version"]["target"] == f"{spec.index}-000002"
    done = shell("apply", str(file), "--yes")
    assert f"{spec.index} is {spec.index}-000002 now; {spec.index}-000001 is kept." in done.stdout
    assert "swapping" in done.stderr
    assert "30 vectors taken over" in done.stdout
    rows = shell.json("versions", spec.index)
    assert [(row["state"], row["documents"]) for row in rows] == [("kept", 31), ("live", 31)]
    assert f"{spec.index}-000001" in shell("versions", spec.index).stdout
    assert "Nothing is being built" in shell("abort", spec.index).stdout
    assert shell.json("rollback", spec.index, "--yes")["target"] == f"{spec.index}-000001"
    assert "is live" in shell("versions", spec.index, "--drop", f"{spec.index}-000001", "--yes").stderr
    assert "Deleted" in shell("versions", spec.index, "--drop", f"{spec.index}-000002", "--yes").stdout
    assert "no former version" in shell("rollback", spec.index, "--yes").stderr


def test_the_command_line_asks_the_gate_before_the_swap(
    engine: Engine, engine_url: str, redis_url: str, spec: Spec, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
    file, judgments = tmp_path / "films.yaml", tmp_path / "judgments.tsv"
    file.write_text(dump_yaml(changed(spec, settings={**SHARDS, "number_of_shards": 1})))
    judgments.write_text("query_id\tquery\tdoc_id\tgrade\n" + "\n".join(f"q{n}\tcat {n}\t{n}\t1" for n in range(5)))
    refused = shell("apply", str(file), "--yes", "--gate", str(judgments), "--min-ndcg-delta", "0.5")
    assert refused.returncode == 1
    assert f"{spec.index}-000002 is not good enough" in refused.stderr
    assert engine.run(load(spec.index)).index == f"{spec.index}-000001"
    passed = shell("apply", str(file), "--yes", "--gate", str(judgments), "--min-ndcg-delta", "-0.1")
    assert "the gate lets it pass" in passed.stderr
    assert engine.run(load(spec.index)).index == f"{spec.index}-000002"
