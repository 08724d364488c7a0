"""How good versions are: found by a gate or measured afterwards, kept in the cluster, told by `knnex versions`."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import films, made
from rich.console import Console
from test_cli import Shell
from test_reindex import FAST, SHARDS, filled

from knnex import cli_versions, client, screens, screens_plan
from knnex.engines import Engine, Request, path_of
from knnex.errors import AlreadyRunning, InputError, QueryError, ReindexStopped
from knnex.evaluation import Gate, Judgments, Verdict, read_judgments
from knnex.ingest.reindex import Judged, Quality, Version, abort, drop_version, read_control, reindex, versions
from knnex.ingest.reindex.control import CONTROL, Lock
from knnex.mappings import Spec, drop, dump_yaml

COUNT = 30


@pytest.fixture
def spec(engine: Engine, index_name: str, tiny: Path) -> Spec:
    """The spec of an index that holds 30 documents and a tombstone."""
    declared = films(index_name, str(tiny), settings=SHARDS)
    filled(engine, made(engine, declared), COUNT)
    engine.run(refreshed(index_name))
    return declared


def refreshed(index: str) -> Any:
    yield Request("POST", path_of(index, "_refresh"))


@pytest.fixture
def judgments(tmp_path: Path) -> Path:
    rows = "\n".join(f"q{n}\tcat {n}\t{n}\t1" for n in range(5))
    path = tmp_path / "judgments.tsv"
    path.write_text(f"query_id\tquery\tdoc_id\tgrade\n{rows}")
    return path


@pytest.fixture
def cluster(engine: Engine, engine_url: str, redis_url: str) -> Iterator[client.Cluster]:
    with client.connect(engine_url, log_url=redis_url) as opened:
        yield opened


def next_one(spec: Spec) -> Spec:
    return Spec.model_validate(spec.model_dump() | {"settings": {**SHARDS, "number_of_shards": 1}})


def told(engine: Engine, spec: Spec) -> list[Version]:
    return engine.run(versions(spec.index))


def test_what_a_gate_found_is_kept_of_both_versions_also_where_it_refused(
    engine: Engine, spec: Spec, judgments: Path
) -> None:
    assert [one.quality for one in told(engine, spec)] == [None]
    given, heard = read_judgments(judgments), list[Verdict]()
    never = Gate(min_ndcg_delta=0.5).asking(engine, given, tell=heard.append)
    before = int(time.time() * 1000)
    with pytest.raises(ReindexStopped, match=r"000002 is not good enough to take the place of .*000001: nDCG@10") as no:
        reindex(engine, None, next_one(spec), gate=never, options=FAST)
    assert f"knnex abort {spec.index}" in str(no.value.hint)
    (verdict,), (old, new) = heard, told(engine, spec)
    assert (old.state, new.state) == ("live", "building")
    for version, figures in ((old, verdict.comparison.old), (new, verdict.comparison.new)):
        assert version.quality
        assert version.quality.figures == {
            "nDCG@10": figures.ndcg, "recall@100": figures.recall, "MRR": figures.mrr, "judged": figures.judged
        }  # fmt: skip
        assert (version.quality.by, version.quality.queries) == ("judgments.tsv", 5)
        assert before <= version.quality.at <= time.time() * 1000
        assert str(version.quality) == f"nDCG@10 {figures.ndcg:.4f}"

    # The next run asks again, and its figures take the place of these.
    moved = reindex(engine, None, next_one(spec), gate=Gate(min_ndcg_delta=-1).asking(engine), options=FAST)
    assert moved.target == new.name
    for version in told(engine, spec):
        assert version.quality
        assert (version.quality.figures, version.quality.by) == ({"recall@10": 1.0}, "exact search")
        assert version.quality.queries == COUNT
    drop_version(engine, spec.index, moved.source)
    assert [(one.name, bool(one.quality)) for one in told(engine, spec)] == [(moved.target, True)]


def test_an_index_that_is_made_anew_has_no_figures_of_the_one_before(
    engine: Engine, spec: Spec, cluster: client.Cluster
) -> None:
    with pytest.raises(ReindexStopped):
        reindex(engine, None, next_one(spec), gate=Gate(min_recall=1, min_ndcg_delta=0.5).asking(engine), options=FAST)
    first, second = told(engine, spec)
    abort(engine, spec.index)
    assert reindex(engine, None, next_one(spec), options=FAST).target == second.name
    kept, live = told(engine, spec)
    assert (kept.quality, live.quality) == (first.quality, None)
    engine.run(drop(spec.index))
    filled(engine, made(engine, spec), 3)
    assert [(one.name, one.quality) for one in told(engine, spec)] == [(first.name, None)]
    # What is gone is let go with the next figures.
    assert set(engine.run(read_control(spec.index)).quality) == {first.name, second.name}
    engine.run(refreshed(spec.index))
    cluster.measure(spec.index)
    (now,) = told(engine, spec)
    assert now.quality
    assert engine.run(read_control(spec.index)).quality == {now.name: now.quality}
    assert now.quality.created == now.created


def kept(cluster: client.Cluster, spec: Spec) -> list[tuple[str, object]]:
    return [(one.name, one.quality) for one in cluster.versions(spec.index)]


def test_versions_are_measured_afterwards(engine: Engine, spec: Spec, cluster: client.Cluster, judgments: Path) -> None:
    (alone,) = cluster.measure(spec.index)
    assert alone.quality
    assert (alone.quality.figures, alone.quality.by) == ({"recall@10": 1.0}, "exact search")
    reindex(engine, None, next_one(spec), options=FAST)
    assert [bool(one.quality) for one in cluster.versions(spec.index)] == [True, False]
    given = read_judgments(judgments)
    measured = cluster.measure(spec.index, given)
    assert kept(cluster, spec) == [(one.name, one.quality) for one in measured]
    figures = [one.quality.figures for one in measured if one.quality]
    assert [list(one) for one in figures] == [["nDCG@10", "recall@100", "MRR", "judged"]] * 2
    # The same model and the same documents, so that both answer alike.
    assert figures[0] == pytest.approx(figures[1])
    with Lock(engine, spec.index).held(), pytest.raises(AlreadyRunning):
        cluster.measure(spec.index, given)
    assert kept(cluster, spec) == [(one.name, one.quality) for one in measured]


def test_a_version_without_a_vector_cannot_be_measured_by_its_graph(
    engine: Engine, index_name: str, tiny: Path, cluster: client.Cluster
) -> None:
    made(engine, films(index_name, str(tiny)))
    with pytest.raises(QueryError, match=f"no document has a vector plot_vector in {index_name}-000001") as error:
        cluster.measure(index_name)
    assert "judgments" in str(error.value.hint)


def test_a_gate_of_your_own_may_say_what_it_found_or_nothing(engine: Engine, spec: Spec) -> None:
    asked = Judgments({"q": "cat"}, {"q": {"1": 1.0}})
    assert asked.name == "judgments"
    found = Quality({"clicks": 0.25}, "last week", 1_000, 7)

    def gate(old: Any, new: Any) -> Judged:
        return Judged({new.index: found}, "too few clicks" if old.index.endswith("1") else "")

    with pytest.raises(ReindexStopped, match="too few clicks"):
        reindex(engine, None, next_one(spec), gate=gate, options=FAST)
    old, new = told(engine, spec)
    assert (old.quality, str(new.quality)) == (None, "clicks 0.2500")
    reindex(engine, None, next_one(spec), gate=lambda old, new: None, options=FAST)
    assert str(told(engine, spec)[1].quality) == "clicks 0.2500"


def test_what_a_later_knnex_wrote_is_read(engine: Engine, spec: Spec, cluster: client.Cluster) -> None:
    (now,) = cluster.measure(spec.index)

    def write(script: str) -> Any:
        yield Request(
            "POST", path_of(CONTROL, "_update", spec.index), body={"doc": {"quality": {now.name: {script: 1}}}}
        )

    engine.run(write("later"))
    assert cluster.versions(spec.index) == [now]


def test_the_command_line_lists_measures_and_says_where_nobody_did(
    engine: Engine, engine_url: str, redis_url: str, spec: Spec, judgments: Path, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
    first, second = f"{spec.index}-000001", f"{spec.index}-000002"
    listed = shell("versions", spec.index).stdout
    assert listed.splitlines()[1].endswith("  -")
    assert f"-: nobody has measured it; `knnex versions {spec.index} --judge JUDGMENTS` does" in listed
    assert shell.json("versions", spec.index)[0]["quality"] is None

    (spec_file := tmp_path / "films.yaml").write_text(dump_yaml(next_one(spec)))
    refused = shell("apply", str(spec_file), "--yes", "--gate", str(judgments), "--min-ndcg-delta", "0.5")
    assert f"{second} is not good enough to take the place of {first}" in refused.stderr
    assert f"{second}: nDCG@10 " in refused.stderr
    rows = shell.json("versions", spec.index)
    assert [(row["name"], row["state"]) for row in rows] == [(first, "live"), (second, "building")]
    assert [(row["quality"]["by"], row["quality"]["queries"]) for row in rows] == [("judgments.tsv", 5)] * 2
    ndcg = rows[0]["quality"]["figures"]["nDCG@10"]
    listed = shell("versions", spec.index).stdout
    assert listed.splitlines()[1].endswith(f"nDCG@10 {ndcg:.4f}")
    assert "nDCG@10: held against judgments.tsv by 5 queries on 20" in listed
    assert "nobody has measured" not in listed

    shell("abort", spec.index)
    measured = shell("versions", spec.index, "--recall").stdout
    assert measured.splitlines()[1].endswith("recall@10 1.0000")
    assert f"recall@10: held against exact search by {COUNT} queries on 20" in measured
    again = shell.json("versions", spec.index, "--judge", str(judgments))
    assert [(row["name"], row["quality"]["figures"]["nDCG@10"]) for row in again] == [(first, pytest.approx(ndcg))]


def test_bad_judgments_are_told_and_the_figures_before_them_stay(
    engine: Engine, engine_url: str, redis_url: str, spec: Spec, cluster: client.Cluster, tmp_path: Path
) -> None:
    before = cluster.measure(spec.index)
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
    absent = shell("versions", spec.index, "--judge", "absent.tsv")
    assert absent.returncode == 1
    assert "absent.tsv cannot be read" in absent.stderr
    both = shell("versions", spec.index, "--judge", "absent.tsv", "--recall")
    assert both.returncode == 2
    assert "--judge or --recall" in both.stderr
    with pytest.raises(InputError):
        read_judgments(tmp_path / "absent.tsv")
    assert cluster.versions(spec.index) == before


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_of_the_table_is_cut_on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    paper = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(screens, "out", paper)
    monkeypatch.setattr(screens_plan, "out", paper)
    name = "knnex-test-of-a-long-name-000001"
    found = Quality({"nDCG@10": 0.5}, "judgments.tsv", 1_200, 1_700_000_000_000)
    cli_versions._print("films", [Version(name, "live", 9_750, 41_200_000, 1, None, found)])
    printed = paper.file.getvalue()  # type: ignore[attr-defined]
    assert name in printed
    assert "…" not in printed
    words = " ".join(printed.split())
    assert all(word in words for word in ("nDCG@10", "0.5000", "MB", "judgments.tsv by 1,200 queries on 2023-11-1"))
