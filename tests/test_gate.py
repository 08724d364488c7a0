"""The gate before a swap: judgments are read, rankings measured, two versions compared, and the worse one stopped."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from filling import films
from tiny import tiny_model

from knnex.encoders import resolve
from knnex.engines import Engine, Request, path_of
from knnex.errors import InputError, QueryError
from knnex.evaluation import Gate, Judgments, compare, ndcg, read_judgments, recall, reciprocal_rank
from knnex.evaluation.compare import Comparison, Figures, interval
from knnex.evaluation.ranking import judged
from knnex.ingest import Event, Item, apply_events, make_target, write
from knnex.mappings import Spec, Stored, create, drop

RANKED = ["a", "b", "c", "d"]
GRADES = {"b": 3.0, "d": 1.0, "e": 2.0, "a": 0.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # (3 / log2(3) + 1 / log2(5)) / (3 / 1 + 2 / log2(3) + 1 / log2(4))
        (ndcg(RANKED, GRADES, 10), (3 / 1.5849625 + 1 / 2.32192809) / (3 + 2 / 1.5849625 + 0.5)),
        (ndcg(RANKED, GRADES, 2), (3 / 1.5849625) / (3 + 2 / 1.5849625)),
        (ndcg(["b", "e", "d"], GRADES, 3), 1.0),
        (ndcg(["x"], GRADES, 3), 0.0),
        (ndcg(RANKED, {"a": 0.0}, 3), 0.0),
        (ndcg(["a", "b"], {"a": -1.0, "b": 1.0}, 2), 1 / 1.5849625),
        (recall(RANKED, GRADES, 10), 2 / 3),
        (recall(RANKED, GRADES, 2), 1 / 3),
        (recall([], GRADES, 2), 0.0),
        (recall(RANKED, {}, 2), 0.0),
        (reciprocal_rank(RANKED, GRADES, 10), 0.5),
        (reciprocal_rank(RANKED, GRADES, 1), 0.0),
        (judged(RANKED, GRADES, 3), 2 / 3),
        (judged([], GRADES, 3), 0.0),
    ],
)
def test_measures_are_what_they_are_by_hand(value: float, expected: float) -> None:
    assert value == pytest.approx(expected)


def test_ndcg_is_that_of_another_library() -> None:
    from sklearn.metrics import ndcg_score

    random = np.random.default_rng(3)
    for _ in range(20):
        grades = {str(number): float(random.integers(0, 4)) for number in range(12)}
        ranked = [str(number) for number in random.permutation(12)]
        theirs = ndcg_score([[grades[one] for one in ranked]], [list(range(12, 0, -1))], k=5)
        assert ndcg(ranked, grades, 5) == pytest.approx(theirs)


TABLE = "query_id\tquery\tdoc_id\tgrade\nq1\ta lonely robot\t1\t1\nq1\ta lonely robot\t2\t0\nq2\tnobody\t1\t0\n"


def test_tables_and_qrels_are_read_packed_or_not(tmp_path: Path) -> None:
    expected = Judgments({"q1": "a lonely robot"}, {"q1": {"1": 1.0, "2": 0.0}})
    (tmp_path / "plain.tsv").write_text(TABLE)
    (tmp_path / "packed.tsv.gz").write_bytes(gzip.compress(TABLE.encode()))
    (tmp_path / "judged.csv").write_text('grade,doc_id,query\n1,1,"robot, lonely"\n\n0.5,2,"robot, lonely"\n')
    (tmp_path / "qrels").write_text("q1 0 1 1\n\nq1 0 2 0\nq2 0 1 0\n")
    (tmp_path / "queries").write_text("q1\ta lonely robot\nq2\tnobody\nq3\tunasked\n")
    assert read_judgments(tmp_path / "plain.tsv") == expected
    assert read_judgments(tmp_path / "packed.tsv.gz") == expected
    assert read_judgments(tmp_path / "qrels", tmp_path / "queries") == expected
    text = "robot, lonely"
    assert read_judgments(tmp_path / "judged.csv") == Judgments({text: text}, {text: {"1": 1.0, "2": 0.5}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("query_id\tquery\tdoc_id\tgrade\n", "no document has a grade above 0"),
        ("query_id\tquery\tdoc_id\tgrade\nq1\trobot\t1\n", ":2: it has 3 columns; the header has 4"),
        ("query_id\tquery\tdoc_id\tgrade\nq1\trobot\t1\tgood\n", ":2: grade 'good' is no number"),
        ("query_id\tquery\tdoc_id\tgrade\nq1\trobot\t1\tnan\n", ":2: grade 'nan' is no number"),
        ("query_id\tquery\tdoc_id\tgrade\nq1\trobot\t\t1\n", ":2: there is no doc_id"),
        ("query_id\tquery\tdoc_id\tgrade\nq1\trobot\t1\t1\nq1\tcat\t2\t1\n", ":3: query 'q1' is 'cat' here"),
        ("query_id\tdoc_id\tgrade\nq1\t1\t1\n", ":2: query 'q1' has no text"),
        ("title\tyear\nrobot\t1980\n", ":1: this is no header and no judgment"),
        ("q1 0 1 1\nq1 0 1\n", "query 'q1' has no text"),
        (b"query\tdoc_id\tgrade\n\xff\xfe\t1\t1\n", "is not UTF-8"),
        (gzip.compress(TABLE.encode(), mtime=0)[:40], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = tmp_path / "judgments.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as told:
        read_judgments(path)
    assert reason in str(told.value)
    assert str(path) in str(told.value)


def test_a_file_that_is_not_there_and_a_table_without_a_query_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_judgments(tmp_path / "absent.tsv")
    (tmp_path / "qrels").write_text("q1 0 1 1\nq1 0 1\n")
    (tmp_path / "queries").write_text("q1\trobot\n")
    with pytest.raises(InputError, match=":2: it has 3 columns, not 4"):
        read_judgments(tmp_path / "qrels", tmp_path / "queries")
    (tmp_path / "queries").write_text("robot\n")
    with pytest.raises(InputError, match="queries:1: this is no"):
        read_judgments(tmp_path / "qrels", tmp_path / "queries")


def test_fewer_queries_are_taken_evenly_and_the_same_each_time() -> None:
    names = [str(number) for number in range(10)]
    given = Judgments({one: one for one in names}, {one: {"d": 1.0} for one in names})
    assert list(given.limited(5).queries) == ["0", "2", "4", "6", "8"]
    assert given.limited(10) is given
    assert len(given.limited(3)) == 3


def compared(old: float, new: float, **more: Any) -> Comparison:
    figures = [Figures("films-1", 0.9, ndcg=old, mrr=0.5), Figures("films-2", more.get("recall", 0.9), new, 0.5, 0.4)]
    delta = {"ndcg": new - old, "recall": figures[1].recall - 0.9, "mrr": 0.0}
    return Comparison("judgments", *figures, queries=100, k=10, depth=100, delta=delta, interval=(-0.02, 0.01))


@pytest.mark.parametrize(
    ("gate", "found", "passed", "reason"),
    [
        (Gate(), compared(0.5, 0.495), True, "nDCG@10 0.5000 -> 0.4950 (-0.0050, 95 % interval -0.0200 to +0.0100"),
        (Gate(), compared(0.5, 0.49), True, "(-0.0100"),
        (Gate(), compared(0.5, 0.48), False, "at least -0.01 was asked for"),
        (Gate(min_ndcg_delta=0.01), compared(0.5, 0.505), False, "at least 0.01 was asked for"),
        (Gate(min_recall_delta=-0.01), compared(0.5, 0.5, recall=0.8), False, "recall@100 0.9000 -> 0.8000 (-0.1000)"),
        (Gate(min_judged=0.5), compared(0.5, 0.6), False, "40% of the best 10 are judged"),
        (Gate(min_recall=0.99), compared(0.5, 0.6), True, "nDCG@10"),
    ],
)
def test_the_gate_says_yes_or_no_and_why(gate: Gate, found: Comparison, passed: bool, reason: str) -> None:
    verdict = gate.judge(found)
    assert verdict.passed is passed
    assert reason in str(verdict)


def test_the_interval_holds_the_mean_and_is_narrow_where_all_agree() -> None:
    low, high = interval(np.full(50, 0.25))
    assert (low, high) == (0.25, 0.25)
    values = np.random.default_rng(1).normal(0.1, 1.0, 400)
    low, high = interval(values)
    assert low < values.mean() < high
    assert 0.1 < high - low < 0.3


# On engines.

WORDS = ("cat", "dog", "robot", "mat", "log", "human")
COUNT = 120


def plots(count: int = COUNT) -> dict[str, str]:
    """Texts that the tiny models tell apart."""
    return {str(n): " ".join(WORDS[int(digit) % 6] for digit in str(7_654_321 * (n + 1))) for n in range(count)}


@pytest.fixture
def versions(engine: Engine) -> Iterator[Any]:
    """Makes version indexes, each of a spec of its own, with the same documents; none is behind the other's alias."""
    made: list[str] = []

    def make(texts: dict[str, str], model: str, **changes: Any) -> Stored:
        spec: Spec = films(f"knnex-test-{uuid4().hex[:12]}", model, embedding={"source": "{plot}", **changes})
        stored, _ = engine.run(create(spec, engine.dialect, resolve(spec)))
        made.append(spec.index)
        events = [Event(spec.index, id_, "upsert", {"plot": text}, 1) for id_, text in texts.items()]
        gone = [Event(spec.index, "gone", "delete", {}, 1)]
        apply_events(engine, make_target(spec.index, stored), [*events, *gone])
        engine.run(refreshed(stored))
        return stored

    yield make
    for name in made:
        engine.run(drop(name))


def refreshed(stored: Stored) -> Any:
    yield Request("POST", path_of(stored.index, "_refresh"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another tiny model."""
    (tmp_path / "other").mkdir()
    return tiny_model(tmp_path / "other", seed=7)


@pytest.mark.feature("A change of model compared and stopped where it is worse")
def test_a_version_that_answers_worse_is_stopped_and_one_as_good_is_not(
    engine: Engine, versions: Any, tiny: Path
) -> None:
    texts = plots()
    old = versions(texts, str(tiny))
    same = versions(texts, str(tiny), hnsw={"m": 24, "ef_construction": 200})
    # The vectors of each other's texts: a model that understands nothing.
    shuffled = versions(dict(zip(texts, reversed(texts.values()), strict=True)), str(tiny))
    asked = [str(number) for number in range(0, COUNT, 5)]
    given = Judgments({one: texts[one] for one in asked}, {one: {one: 1.0} for one in asked})
    good = compare(engine, old, same, given)
    assert (good.old.index, good.new.index) == (old.index, same.index)
    assert good.old.ndcg == pytest.approx(good.new.ndcg, abs=0.05)
    assert good.old.ndcg is not None
    assert good.old.ndcg > 0.7
    assert good.overlap > 0.9
    assert Gate(min_ndcg_delta=-0.1).judge(good).passed
    bad = compare(engine, old, shuffled, given)
    verdict = Gate().judge(bad)
    assert not verdict.passed
    assert bad.delta["ndcg"] < -0.5
    assert bad.interval[1] < 0
    assert bad.worse > bad.better
    assert bad.losers[0][0] in texts.values()
    assert "nDCG@10" in str(verdict)


def test_each_version_is_asked_with_its_own_model_whatever_the_alias_says(
    engine: Engine, versions: Any, tiny: Path, other: Path
) -> None:
    texts = plots(60)
    old, new = versions(texts, str(tiny)), versions(texts, str(other))
    given = Judgments(texts, {one: {one: 1.0} for one in texts})
    found = compare(engine, old, new, given, most=20)
    assert found.queries == 20
    # A model of random weights finds a text by itself; the vectors of the other model would find anything.
    assert min(found.old.mrr or 0, found.new.mrr or 0) > 0.8
    told: list[str] = []
    again = compare(engine, new, old, given, most=20, tell=lambda what, done: told.append(what))
    assert again.delta["ndcg"] == pytest.approx(-found.delta["ndcg"])
    assert {one.split()[1].rstrip(",") for one in told} == {old.index, new.index}


@pytest.mark.parametrize(
    "changes", [{}, {"similarity": "l2"}, {"chunk": {"unit": "sentence", "max_tokens": 8, "overlap": 0}}]
)
def test_without_judgments_the_graph_is_compared_with_exact_search(
    engine: Engine, versions: Any, tiny: Path, changes: dict[str, Any]
) -> None:
    texts = plots()
    old, new = versions(texts, str(tiny), **changes), versions(texts, str(tiny), **changes)
    by_documents = compare(engine, old, new, k=5, most=20)
    assert (by_documents.by, by_documents.queries) == ("exact search", 20)
    # So few documents that the graph finds them all.
    assert by_documents.old.recall == by_documents.new.recall == 1.0
    assert by_documents.new.truth == "exact"
    by_texts = compare(engine, old, new, list(texts.values())[:20], k=5)
    assert by_texts.new.recall == 1.0
    assert Gate(min_recall=0.99).judge(by_texts).passed
    wide = compare(engine, old, new, k=5, most=10, max_exact=10)
    assert (wide.new.truth, wide.new.recall) == ("wide", 1.0)


def random_vectors(engine: Engine, stored: Stored, count: int) -> None:
    """Vectors that no model made: of those a poor graph loses some."""
    rows = np.random.default_rng(5).normal(size=(count, 32)).astype(np.float32)
    note = {"fingerprint": stored.resolved["plot_vector"].fingerprint, "input_hash": "0" * 32}
    items = [
        Item(str(number), 1, {"plot_vector": row, "_knnex": {"version": 1, "vectors": {"plot_vector": note}}})
        for number, row in enumerate(rows)
    ]
    assert {(one.status, one.reason) for one in write(engine, stored.spec.index, items)} == {("written", "")}
    engine.run(merged(stored))


def merged(stored: Stored) -> Any:
    yield from refreshed(stored)
    yield Request("POST", path_of(stored.index, "_forcemerge"), {"max_num_segments": "1"})
    yield from refreshed(stored)


def test_a_graph_that_loses_documents_is_stopped(engine: Engine, versions: Any, tiny: Path) -> None:
    old = versions({}, str(tiny), hnsw={"m": 16, "ef_construction": 100})
    new = versions({}, str(tiny), hnsw={"m": 2, "ef_construction": 2})
    for stored in (old, new):
        random_vectors(engine, stored, 4_000)
    found = compare(engine, old, new, most=40)
    assert (found.by, found.old.truth, found.new.truth) == ("exact search", "exact", "exact")
    assert found.old.recall > 0.9
    assert found.new.recall < 0.8
    verdict = Gate().judge(found)
    assert not verdict.passed
    assert f"recall@10 {found.old.recall:.4f} -> {found.new.recall:.4f}" in str(verdict)
    assert "recall@10" in str(Gate(min_ndcg_delta=-1, min_recall=0.9).judge(found))


# A line is a document; the query beside it says the same in other words.
PLOTS = {
    "A lighthouse keeper on a remote island slowly loses his mind.": "lonely man goes insane guarding a beacon at sea",
    "Two astronauts drift through space after debris destroys their shuttle.": "stranded in orbit after an accident",
    "A retired boxer trains a young fighter for the title bout.": "old champion coaches a newcomer in the ring",
    "A chef opens a restaurant in Paris against her father's wishes.": "woman cooks for a living in France",
    "Bank robbers take hostages and negotiate with the police for hours.": "heist gone wrong with captives",
    "A girl befriends a wounded wolf in the Siberian winter.": "child and wild animal become friends in the snow",
    "Scientists clone dinosaurs for an amusement park and lose control.": "extinct reptiles run loose among visitors",
    "A widow discovers letters that her husband wrote to another woman.": "late spouse had a secret affair",
    "Soldiers hold a bridge for three days without orders or food.": "troops defend a river crossing in the war",
    "A pianist who lost his hearing composes one last symphony.": "deaf musician writes music",
    "Teenagers get lost in a cave that floods when it rains.": "young people trapped underground by water",
    "A detective hunts a killer who leaves chess pieces at each scene.": "policeman chases a murderer with clues",
}


def test_a_real_model_passes_where_one_that_knows_nothing_is_stopped(
    engine: Engine, versions: Any, tiny: Path, minilm: str
) -> None:
    texts = {str(number): plot for number, plot in enumerate(PLOTS)}
    given = Judgments(
        {str(number): query for number, query in enumerate(PLOTS.values())}, {one: {one: 1.0} for one in texts}
    )
    knows, random = versions(texts, minilm), versions(texts, str(tiny))
    worse = compare(engine, knows, random, given)
    assert worse.old.ndcg is not None
    assert worse.old.ndcg > 0.95
    assert worse.delta["ndcg"] < -0.2
    assert not Gate().judge(worse).passed
    assert Gate().judge(compare(engine, random, knows, given)).passed


def test_versions_without_an_embedding_in_common_are_declined(engine: Engine, versions: Any, tiny: Path) -> None:
    old = versions(plots(3), str(tiny))
    with pytest.raises(QueryError, match="no embedding nothing"):
        compare(engine, old, old, embedding="nothing")
    empty = versions({}, str(tiny))
    with pytest.raises(QueryError, match="no document has a vector"):
        compare(engine, old, empty)
