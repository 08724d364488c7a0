"""Ranking by words: every type and option, the same documents in the same order on both engines."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_corpus import WORDS, Corpus, encode, indexed

from knnex.engines import Engine, Request
from knnex.engines.elasticsearch import Elasticsearch
from knnex.engines.opensearch import OpenSearch
from knnex.errors import QueryError
from knnex.mappings import Stored, create, drop, find, load_spec
from knnex.query import F, Query, plan, search
from knnex.query.compile import compiler_for
from knnex.query.nodes import Match
from knnex.query.words import before_last, scored_by_words

Document = Mapping[str, Any]
SEEDED = settings(
    derandomize=True, max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def corpus(engine: Engine) -> Iterator[Corpus]:
    with indexed(engine) as made:
        yield made


def tokens(document: Document, field: str) -> list[str]:
    return re.findall(r"\w+", document[field].lower())


def asked(corpus: Corpus, engine: Engine, text: str, *fields: str, **options: Any) -> set[str]:
    found = corpus.search(engine, Query(text).lexical(*(fields or ("title", "plot")), **options).limit(100))
    return set(found.ids)


def has(text: str, *fields: str, least: int = 1) -> Callable[[Document], bool]:
    """At least so many of the words stand in one of the fields."""
    words = text.split()
    return lambda one: any(
        sum(word in tokens(one, name) for word in words) >= least for name in fields or ("title", "plot")
    )


TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True)


@SEEDED
@given(words=TEXTS, kind=st.sampled_from(["best_fields", "most_fields"]), least=st.integers(1, 4))
def test_words_are_found_in_one_of_the_fields(
    engine: Engine, corpus: Corpus, words: list[str], kind: str, least: int
) -> None:
    text, least = " ".join(words), min(least, len(words))
    assert asked(corpus, engine, text, type=kind) == corpus.matching(has(text))
    assert asked(corpus, engine, text, type=kind, operator="and") == corpus.matching(has(text, least=len(words)))
    assert asked(corpus, engine, text, type=kind, minimum=least) == corpus.matching(has(text, least=least))
    assert asked(corpus, engine, text, type=kind, minimum="-1") == corpus.matching(
        has(text, least=max(1, len(words) - 1))
    )


@SEEDED
@given(words=TEXTS)
def test_fields_are_taken_for_one(engine: Engine, corpus: Corpus, words: list[str]) -> None:
    def everywhere(one: Document) -> bool:
        return all(word in tokens(one, "title") + tokens(one, "plot") for word in words)

    text = " ".join(words)
    assert asked(corpus, engine, text, type="cross_fields", operator="and") == corpus.matching(everywhere)
    assert asked(corpus, engine, text, type="cross_fields", minimum="100%") == corpus.matching(everywhere)
    assert asked(corpus, engine, text, type="cross_fields") == corpus.matching(has(text))


@SEEDED
@given(number=st.integers(0, 59), start=st.integers(0, 2), length=st.integers(1, 3), cut=st.integers(2, 5))
def test_phrases_and_their_beginnings(
    engine: Engine, corpus: Corpus, number: int, start: int, length: int, cut: int
) -> None:
    words = tokens(corpus.documents[f"d{number:03d}"], "plot")[start : start + length]

    def phrase(one: Document, last: Callable[[str, str], bool]) -> bool:
        plot = tokens(one, "plot")
        places = range(len(plot) - len(words) + 1)
        return any(
            plot[at : at + len(words) - 1] == words[:-1] and last(plot[at + len(words) - 1], words[-1]) for at in places
        )

    text, begun = " ".join(words), " ".join([*words[:-1], words[-1][:cut]])
    assert asked(corpus, engine, text, "plot", type="phrase") == corpus.matching(lambda one: phrase(one, str.__eq__))
    by_prefix = corpus.matching(lambda one: phrase(one, lambda word, _: word.startswith(words[-1][:cut])))
    if not words[-1].startswith("number"):  # of which there are more than a beginning may stand for
        assert asked(corpus, engine, begun, "plot", type="phrase_prefix") == by_prefix
    every = asked(corpus, engine, begun, "plot", type="bool_prefix", operator="and")
    assert every == corpus.matching(
        lambda one: (
            all(word in tokens(one, "plot") for word in words[:-1])
            and any(word.startswith(words[-1][:cut]) for word in tokens(one, "plot"))
        )
    )


def test_slop_lets_words_stand_apart(engine: Engine, corpus: Corpus) -> None:
    document = next(one for one in corpus.documents.values() if len(set(tokens(one, "plot"))) == 5)
    first, _, third, *_ = tokens(document, "plot")
    exactly = asked(corpus, engine, f"{first} {third}", "plot", type="phrase")
    apart = asked(corpus, engine, f"{first} {third}", "plot", type="phrase", slop=1)
    assert exactly < apart
    assert apart == asked(corpus, engine, f'"{first} {third}"~1', "plot", type="query_string")


@pytest.mark.parametrize(
    "options", [{"fuzziness": 1}, {"fuzziness": "1"}, {"fuzziness": "auto"}, {"fuzziness": "auto:2,9"}]
)
@pytest.mark.parametrize("kind", ["best_fields", "most_fields"])
def test_misspelt_words_are_found(engine: Engine, corpus: Corpus, options: dict[str, Any], kind: str) -> None:
    assert asked(corpus, engine, "robit", type=kind) == set()
    assert asked(corpus, engine, "robit", type=kind, **options) == corpus.matching(has("robot"))
    assert asked(corpus, engine, "robit detectiv", type=kind, operator="and", **options) == corpus.matching(
        has("robot detective", least=2)
    )
    assert asked(corpus, engine, "rabit", type=kind, fuzziness=2) == corpus.matching(has("robot"))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("robot moon", has("robot moon")),
        ("+robot +moon", has("robot moon", "plot", least=2)),
        ("robot +-moon", lambda one: has("robot", "plot")(one) and not has("moon", "plot")(one)),
        ("robot | moon", has("robot moon", "plot")),
        ("(robot | moon) +train", lambda one: has("robot moon", "plot")(one) and has("train", "plot")(one)),
        ("robit~1", has("robot", "plot")),
        ("rob* +trai*", has("robot train", "plot", least=2)),
        ("robot\\*", has("robot", "plot")),
        ("*", lambda one: True),
        ("+ - | ~", lambda one: False),
        ('"', lambda one: False),
        ('"robot', has("robot", "plot")),
        ("robot)", has("robot", "plot")),
        ("(((robot", has("robot", "plot")),
        ("plot:robot AND NOT moon", has("moon", "plot")),
        ("/rob.*/", lambda one: False),
        ("(" * 9_000 + "robot", lambda one: has("robot", "plot")(one)),
        ("(" * 9_000 + "robot" + ")" * 9_000, lambda one: has("robot", "plot")(one)),
        ("-" * 19_000, lambda one: False),
        ("\\", lambda one: False),
    ],
)
def test_a_text_with_signs_is_read_and_never_wrong(
    engine: Engine, corpus: Corpus, text: str, means: Callable[[Document], bool]
) -> None:
    fields = ("title", "plot") if text == "robot moon" else ("plot",)
    assert asked(corpus, engine, text, *fields, type="query_string") == corpus.matching(means)


SIGNS = st.text(alphabet='ab +-|*~"()\\:/^[]{}!?<>&#', max_size=200).filter(lambda text: bool(text.strip()))


@SEEDED
@given(text=SIGNS, operator=st.sampled_from(["or", "and"]))
def test_no_text_is_a_syntax_error(engine: Engine, corpus: Corpus, text: str, operator: str) -> None:
    found = asked(corpus, engine, text, type="query_string", operator=operator)
    assert found <= set(corpus.documents)


KINDS: dict[str, Query] = {
    "best_fields": Query("robot moon train").lexical("title^2", "plot"),
    "most_fields": Query("robot moon train").lexical("title^2", "plot", type="most_fields"),
    "cross_fields": Query("robot moon train").lexical("title^2", "plot", type="cross_fields"),
    "and": Query("robot moon").lexical("title", "plot", operator="and"),
    "minimum": Query("robot moon train").lexical("plot", minimum="2<75%"),
    "phrase": Query("the robot and").lexical("title", "plot", type="phrase"),
    "slop": Query("robot the").lexical("title", "plot", type="phrase", slop=4),
    "phrase_prefix": Query("robot and the ro").lexical("title^3", "plot", type="phrase_prefix"),
    "bool_prefix": Query("robot moon tra").lexical("title^3", "plot", type="bool_prefix"),
    "bool_prefix_one_field": Query("robot moon tra").lexical("plot", type="bool_prefix"),
    "bool_prefix_one_word": Query("tra").lexical("title^3", "plot", type="bool_prefix"),
    "bool_prefix_and": Query("robot tra").lexical("title^3", "plot", type="bool_prefix", operator="and"),
    "fuzzy": Query("robit moon").lexical("title^2", "plot", fuzziness="auto"),
    "query_string": Query('"the robot" | moon + train~1').lexical("title^2", "plot", type="query_string"),
    **{
        f"signs {text} {operator}": Query(text).lexical("title^2", "plot", type="query_string", operator=operator)
        for text, operator in (
            ("robot tra* -moon", "or"),
            ("tra*", "or"),
            ("*", "or"),
            ('+robot -"the moon" tra*', "and"),
            ('rob* | -"the moon"~2 | --train | ocea~1 | "robot', "or"),
            ("wi-robot-moon -- -+moon - train tra\\*", "or"),
            ("(robot | moon) train", "and"),
        )
    },
}
# What the others were answered, by the same corpus: id to score.
_ANSWERED: dict[str, dict[str, float]] = {}


@pytest.mark.parametrize("kind", KINDS)
def test_both_engines_give_the_same_scores(engine: Engine, corpus: Corpus, kind: str) -> None:
    found = corpus.search(engine, KINDS[kind].limit(100))
    scale = compiler_for(engine.dialect).word_scale
    scores = {hit.id: hit.score * scale for hit in found}
    assert scores
    assert scores == pytest.approx(_ANSWERED.setdefault(kind, scores), rel=1e-4)


PIECES = (
    "robot",
    "moon ",
    "tra*",
    "-moon",
    '"the ',
    'ro*" ',
    "~1",
    "\\*",
    "-",
    "--",
    "|",
    "+",
    " ",
    "* ",
    "ocea",
    "-win*",
    '"',
)


def test_texts_with_signs_at_random_have_the_same_scores(engine: Engine, corpus: Corpus) -> None:
    chosen = random.Random(5)
    told = 0
    for _ in range(300):
        text = "".join(chosen.choices(PIECES, k=chosen.randint(1, 9)))
        operator = chosen.choice(("or", "and"))
        if text.strip() and scored_by_words(text, operator) is not None:
            query = Query(text).lexical("title^2", "plot", type="query_string", operator=operator).limit(100)
            found = corpus.search(engine, query)
            scores = {hit.id: hit.score * compiler_for(engine.dialect).word_scale for hit in found}
            assert scores == pytest.approx(_ANSWERED.setdefault(f"{operator} {text}", scores), rel=1e-4), text
            told += bool(scores)
    assert told > 30


@pytest.mark.parametrize(
    ("text", "operator", "rest"),
    [
        ("robot moon", "or", None),
        ("robot tra*", "or", "robot"),
        ('-a "b c"~2 d~1 e\\* -"f g" --h', "and", '"b c"~2 d~1 e\\* h'),
        ("a | b*", "or", "a"),
        ("+a + b*", "and", "a"),
        ("+a b*", "or", "a"),
        ("-", "or", None),
        (" * ", "and", ""),
        ("-a b*", "or", ""),
        ("* -a", "or", ""),
        ("a~1* ** b", "or", "a~1* b"),
        # Groups: whether a word counts depends on the others.
        ("a +b*", "or", None),
        ("a | b*", "and", None),
        ("a (b c*)", "or", None),
    ],
)
def test_what_bm25_scores_of_a_text_with_signs(text: str, operator: str, rest: str | None) -> None:
    assert scored_by_words(text, operator) == rest


def test_in_groups_what_scores_1_counts_in_the_engines_own_scale(engine: Engine, corpus: Corpus) -> None:
    """The difference that is left: from OpenSearch 3.0 on a beginning in parentheses counts 2.2 times as much."""
    scale = compiler_for(engine.dialect).word_scale

    def scores(text: str) -> dict[str, float]:
        found = corpus.search(engine, Query(text).lexical("plot", type="query_string").limit(100))
        return {hit.id: hit.score * scale for hit in found}

    flat, grouped = scores("robot tra*"), scores("robot (tra*)")
    begun = {key for key, one in corpus.documents.items() if "train" in tokens(one, "plot")}
    assert begun
    assert grouped == pytest.approx({key: one + (scale - 1) * (key in begun) for key, one in flat.items()}, rel=1e-4)


def test_words_that_are_typed_are_marked(engine: Engine, corpus: Corpus) -> None:
    found = corpus.search(engine, Query("robot tra").lexical("plot", type="bool_prefix").highlight("plot").limit(100))
    marked = {word for hit in found for word in re.findall("<em>(.*?)</em>", hit.highlights["plot"][0])}
    assert marked == {"robot", "train"}
    found = corpus.search(engine, Query("robit -moon").lexical("plot", fuzziness=1).highlight("plot").limit(100))
    assert all("<em>robot</em>" in hit.highlights["plot"][0] for hit in found if "robot" in hit["plot"])


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        (Query("a" * 3 + " b" * 489).lexical("title", "plot"), True),
        (Query("x1 " * 190).lexical("title", fuzziness=2), True),
        (Query(" ".join(f"robot{n}" for n in range(190))).lexical("plot", fuzziness=2), True),
        (Query(" ".join(f"robo{n % 10}~2" for n in range(60))).lexical("plot", type="query_string"), True),
        (Query(" ".join(f"w{n}" for n in range(2_000))).lexical("title", "plot", type="phrase"), True),
        (Query(" ".join(f"w{n}" for n in range(400)) + " n").lexical("title", "plot", type="phrase_prefix"), True),
        (Query(" ".join(f"w{n}" for n in range(220)) + " n").lexical("title", "plot", type="bool_prefix"), True),
        (Query("a " * 501).lexical("title", "plot"), False),
        (Query("a " * 251).lexical("title", "plot", type="bool_prefix"), False),
        (Query("a " * 501).lexical("title", "plot", type="query_string"), False),
        (Query("a " * 501).lexical("title", "plot", type="phrase_prefix"), False),
        (Query("a " * 300).lexical("title", fuzziness="auto"), False),
    ],
)
def test_as_many_words_as_engines_take(engine: Engine, corpus: Corpus, query: Query, taken: bool) -> None:
    if taken:
        corpus.search(engine, query)
        corpus.search(engine, query.where(*(F.genre != f"g{n}" for n in range(2))))
    else:
        with pytest.raises(QueryError, match="clauses engines take"):
            corpus.plan(engine, query)


def test_words_and_filters_share_the_clauses(engine: Engine, corpus: Corpus) -> None:
    filtered = Query("robot").where(
        F.genre.isin(["noir"]) | F.year.isin([1]), *(F.genre != f"g{n}" for n in range(240))
    )
    assert corpus.search(engine, filtered.lexical("plot", text=" ".join(WORDS * 40))).ids
    assert corpus.search(engine, filtered.lexical("plot", text=" ".join(WORDS * 10), fuzziness=2)).ids
    with pytest.raises(QueryError, match="beside a filter"):
        corpus.plan(engine, filtered.lexical("plot", text=" ".join(WORDS * 60)))


@pytest.mark.never(
    "elasticsearch", reason="the embedded distribution has no field for words as they are typed", embedded=True
)
def test_a_field_for_words_as_they_are_typed(engine: Engine) -> None:
    """Pairs and triples of words are searched too, with which a document counts more."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    typed = load_spec({"index": name, "fields": {"say": {"type": "search_as_you_type"}, "t": {"type": "text"}}})
    texts = {"a": "the quick brown fox", "b": "brown quick the fox", "c": "a slow brown bear"}
    try:
        stored, _ = engine.run(create(typed, engine.dialect, {}))
        for key, text in texts.items():
            body = {"say": text, "t": text, "_knnex": {"version": 1, "deleted": False}}
            engine.send(Request("PUT", f"/{name}/_doc/{key}", {"refresh": "true"}, body=body))
        query = Query("quick bro").lexical("say^2", type="bool_prefix")
        made = plan(query, stored, engine.dialect, encode)
        assert isinstance(made.legs[0].tree, Match)
        assert made.legs[0].tree.fields == (("say", 2.0), ("say._2gram", 2.0), ("say._3gram", 2.0))
        assert engine.run(search(made)).ids == ("a", "b", "c")
        exact = Query("quick brown").lexical("say._2gram", type="best_fields")
        assert engine.run(search(plan(exact, stored, engine.dialect, encode))).ids == ("a",)
    finally:
        if engine.run(find(name)):
            engine.run(drop(name))


def test_what_a_dialect_writes_of_a_beginning() -> None:
    """A beginning scores 1 on each engine, BM25 not the same: the first is brought to the scale of the second."""
    node = Match((("plot", 1.0),), "robot moon tra", type="bool_prefix", operator="and")
    written = {"query": node.text, "type": "bool_prefix", "fields": ["plot"], "operator": "and"}
    assert compiler_for(Elasticsearch((9, 5, 0))).words(node) == {"multi_match": written}
    assert compiler_for(OpenSearch((2, 19, 0))).words(node) == {"multi_match": written}
    made = compiler_for(OpenSearch((3, 6, 0))).words(node)["bool"]
    assert made["must"] == [{"multi_match": written | {"boost": pytest.approx(1 / 2.2)}}]
    assert made["should"][0]["multi_match"]["query"] == "robot moon"


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("tra", ""),
        ("robot tra", "robot"),
        ("wi-fi", "wi-"),
        ("the man's", "the"),
        ("ロボット", "ロボッ"),
        ("a, b!", "a,"),
        ("!!", "!!"),
    ],
)
def test_the_last_word_is_left_out(text: str, rest: str) -> None:
    assert before_last(text) == rest


def test_a_wildcard_field_has_no_words() -> None:
    stored = Stored("x-000001", load_spec({"index": "x", "fields": {"k": {"type": "wildcard"}}}), {})
    for options in ({"fuzziness": 1}, {"type": "bool_prefix"}, {"type": "phrase"}):
        with pytest.raises(QueryError, match="of type wildcard"):
            plan(Query("a").lexical("k", **options), stored, Elasticsearch((9, 5, 0)), encode)
