"""An exact engine in memory: what a query finds, in which order and with which scores, by the definitions alone.

It reads the same `Query` that engines are asked, and shares no code with what answers it: exact kNN by each metric, chunks
by their best, BM25 as Lucene has it, examples (Rocchio), every fusion, and the steps after retrieval. What a filter means
is said beside it in Python (`query_cases`). Where float32 may order two documents either way, and what follows depends
on it, there is no one right answer: `Unclear`.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from query_corpus import STUDIOS, Corpus, unit

from knnex.query import Hit, Hits, Query
from knnex.query.parts import Lexical, Semantic

Document = Mapping[str, Any]
Condition = Callable[[Document], bool]
Scores = dict[str, float]
#: (id, score), best first, what ties by id.
Ranking = list[tuple[str, float]]
Row = np.ndarray[Any, Any]

# Scores nearer than this are the same to float32; where they are added up as they are, they are rounded to four decimals.
_NEAR, _ROUNDED = 4e-6, 2e-3
_K1, _B = 1.2, 0.75


class Unclear(Exception):
    """Two documents are so near that float32 decides."""


def anything(_: Document) -> bool:
    return True


@dataclass(frozen=True, repr=False)
class Asked:
    """A query, and what its filters, and those of its `post_filter`, mean."""

    query: Query
    holds: Condition = anything
    after: Condition = anything
    #: Its lookup joins, and what the other document must fulfil.
    lookups: Sequence[tuple[str, Condition]] = ()

    def __repr__(self) -> str:
        told = (one for one in fields(self.query) if getattr(self.query, one.name) != getattr(Query(), one.name))
        return f"Query({', '.join(f'{one.name}={getattr(self.query, one.name)!r}' for one in told)})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Hypothesis prints every field otherwise."""
        printer.text(repr(self))


@dataclass(frozen=True)
class Answer:
    """All hits before the page is cut. Unless `chosen` the score alone orders them."""

    ranking: Ranking
    chosen: bool
    total: int | None
    near: float = 1e-5
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def wrong(self, hits: Hits, query: Query, scale: float) -> str:
        """What is wrong with a page of an engine, whose scores are `scale` times smaller; what ties may be swapped."""
        page = self.ranking[query.start : query.start + query.size]
        if len(set(hits.ids)) != len(hits) or len(hits) != len(page):
            return f"{len(hits)} hits, {hits.ids}, where {page} were expected"
        scores, found = dict(self.ranking), [hit.score * scale for hit in hits]
        if not set(hits.ids) <= scores.keys():
            return f"{set(hits.ids) - scores.keys()} found in vain"
        for expected in ([scores[key] for key in hits.ids], [score for _, score in page]):
            if not np.allclose(found, expected, rtol=1e-5, atol=self.near):
                return f"{list(zip(hits.ids, found, strict=True))} where {page} were expected"
        if self.chosen and list(hits.ids) != [key for key, _ in page]:
            return f"the order {hits.ids} where {page} were expected"
        groups = {hit.id: [one.id for one in hit.group] for hit in hits if hit.group}
        if groups != {key: self.groups[key] for key, _ in page if self.groups.get(key)}:
            return f"the groups {groups} where {self.groups} were expected"
        if self.total not in (None, hits.total):
            return f"a total of {hits.total} where {self.total} were expected"
        return ""


@dataclass(frozen=True)
class Oracle:
    """The exact engine, over a corpus of one shard."""

    corpus: Corpus

    def answer(self, asked: Asked) -> Answer:
        """Raises Unclear."""
        query = asked.query
        examples = {one for one in (*query.liked, *query.disliked) if isinstance(one, str)}
        among = self.corpus.matching(asked.holds) - examples
        for join, condition in asked.lookups:
            field_of, keys = self._other_side(join, condition)
            among = {key for key in among if self.corpus.documents[key].get(field_of) in keys}
        after = self.corpus.matching(asked.after)
        if not query.parts:
            return Answer([(key, 1.0) for key in sorted(among & after)], False, len(among & after))
        alone = len(query.parts) == 1
        legs = [self._leg(query, part, among, alone) for part in query.parts]
        ranking = ordered(legs[0]) if alone else fused(query, legs)
        by_words = isinstance(query.parts[0], Lexical) or not alone
        total = len(ranking) if not query.post and by_words else None
        ranking = [(key, score) for key, score in ranking if key in after]
        return self._finished(query, ranking, total, by_id=not alone)

    def _other_side(self, join: str, condition: Condition) -> tuple[str, set[str]]:
        """The foreign key of a lookup join, and the keys of those that fulfil the condition."""
        if join == "studios":
            return "studio", {code for code, country in STUDIOS.items() if condition({"country": country})}
        found = self.corpus.matching(condition)
        return (
            ("before", found) if join == "sequel" else ("studio", {self.corpus.documents[k]["studio"] for k in found})
        )

    # One part

    def _leg(self, query: Query, part: Any, among: set[str], alone: bool) -> Scores:
        window = max(query.window or max(50, 3 * (query.start + query.size)), query.start + query.size)
        if isinstance(part, Lexical):
            scores = self.words(part.text or query.text or "", part.fields, among)
            return scores if alone else best(scores, window)
        assert isinstance(part, Semantic)
        scores = dict(self.corpus.nearest(self._probe(query, part), among, part.embedding))
        if part.min_similarity is not None:
            bound = part.min_similarity
            least = 1 / (1 + bound**2) if part.embedding == "w" else (1 + bound) / 2
            if any(abs(score - least) < _NEAR for score in scores.values()):
                raise Unclear
            scores = {key: score for key, score in scores.items() if score > least}
        return best(scores, part.k or len(scores)) if alone else best(scores, min(part.k or window, window))

    def _probe(self, query: Query, part: Semantic) -> Row:
        """Between the text's vector and the mean of what is liked, away from what is disliked."""
        text = query.text if part.text is None else part.text
        given = unit(text) if part.vector is None and text is not None else part.vector
        liked = [self._row(part.embedding, str(one)) for one in query.liked]
        disliked = [self._row(part.embedding, str(one)) for one in query.disliked]
        directed = part.embedding != "w"

        def mean(rows: Sequence[Row]) -> Row:
            return long_one(np.mean([long_one(row) for row in rows], axis=0)) if directed else np.mean(rows, axis=0)

        towards = [] if given is None else [np.asarray(given, dtype=float)]
        made = mean([*towards, *([mean(liked)] if liked else [])])
        if disliked:
            away = mean(disliked)
            made = made - query.dislike * away if directed else made + query.dislike * (made - away)
        return long_one(made) if directed else made

    def _row(self, embedding: str, key: str) -> Row:
        return np.mean(self.corpus.chunks[key], axis=0) if embedding == "c" else np.asarray(self.corpus.plain[key])

    def words(self, text: str, names: Sequence[str], among: set[str]) -> Scores:
        """BM25 (k1 1.2, b 0.75, times 2.2 as Elasticsearch has it) of the best field."""
        found: Scores = {}
        for name, _, boost in (one.partition("^") for one in names):
            for key, score in self._field(text, name).items():
                if key in among:
                    found[key] = max(found.get(key, 0.0), score * float(boost or 1))
        return found

    def _field(self, text: str, name: str) -> Scores:
        counts = {key: Counter(tokens(one[name])) for key, one in self.corpus.documents.items()}
        usual = statistics.fmean(count.total() for count in counts.values())
        found: Scores = {}
        for word in tokens(text):
            having = [key for key, count in counts.items() if word in count]
            weight = math.log(1 + (len(counts) - len(having) + 0.5) / (len(having) + 0.5))
            for key in having:
                often, length = counts[key][word], counts[key].total()
                share = often / (often + _K1 * (1 - _B + _B * length / usual))
                found[key] = found.get(key, 0.0) + weight * share * (_K1 + 1)
        return found

    # After retrieval

    def _finished(self, query: Query, ranking: Ranking, total: int | None, *, by_id: bool) -> Answer:
        if query.boosts:
            ranking, by_id = self._boosted(query, ranking), True
        documents = self.corpus.documents
        ranking = [
            (key, score)
            for key, score in ranking
            if all(keep(Hit(key, score, source=documents[key])) for keep in query.kept)
        ]
        groups: dict[str, list[str]] = {}
        chosen = bool(query.collapsed or query.reranked or query.diversified)
        rounded = len(query.parts) > 1 and query.normaliser == "none" and by_weight(query)
        if chosen:
            settle(ranking, by_id=by_id, near=_ROUNDED if rounded else _NEAR)
        if query.collapsed:
            ranking, groups = self._collapsed(query, ranking)
        told: Scores | None = None
        if query.reranked:
            top, rest = ranking[: query.reranked.top], ranking[query.reranked.top :]
            told = dict(zip((key for key, _ in top), self._read(query, top), strict=True))
            ranking = [*sorted(top, key=lambda pair: -told[pair[0]]), *rest]
        if query.diversified:
            ranking = self._diverse(query, ranking, told)
        return Answer(ranking, chosen, total, _ROUNDED if rounded else 1e-5, groups)

    def _boosted(self, query: Query, ranking: Ranking) -> Ranking:
        """By popularity: score * (1 + weight * value / (value + half))."""
        for boost in query.boosts:
            values = {key: self.corpus.documents[key].get(boost.field) for key, _ in ranking}
            half = boost.half or statistics.median([one for one in values.values() if one] or [1])
            ranking = [
                (key, score * (1 + boost.weight * values[key] / (values[key] + half)) if values[key] else score)
                for key, score in ranking
            ]
        return ordered(dict(ranking))

    def _collapsed(self, query: Query, ranking: Ranking) -> tuple[Ranking, dict[str, list[str]]]:
        assert query.collapsed
        groups: dict[Any, Ranking] = {}
        for key, score in ranking:
            value = self.corpus.documents[key].get(query.collapsed.field, ("without", key))
            groups.setdefault(value, []).append((key, score))
        inner = query.collapsed.inner
        return (
            [group[0] for group in groups.values()],
            {group[0][0]: [key for key, _ in group[1 : 1 + inner]] for group in groups.values()},
        )

    def _read(self, query: Query, top: Ranking) -> Sequence[float]:
        assert query.reranked
        assert callable(query.reranked.by)
        texts = [self.corpus.documents[key][query.reranked.fields[0]] for key, _ in top]
        return query.reranked.by(query.text or "", texts) if top else []

    def _diverse(self, query: Query, ranking: Ranking, told: Scores | None) -> Ranking:
        """Greedily the most of balance * relevance - (1 - balance) * likeness to the most like one chosen."""
        assert query.diversified
        balance, name = query.diversified.balance, query.diversified.embedding or "v"
        top, rest = ranking[: query.diversified.top], ranking[query.diversified.top :]
        if len(top) < 2 or balance == 1:
            return ranking
        # Where it was reranked that counts, and what was not scored is the least relevant.
        scores = dict(top) if told is None else {key: told[key] for key, _ in top if key in told}
        low, high = min(scores.values()), max(scores.values())
        spread = high - low if high - low > 1e-6 * abs(high) else 0.0
        relevance = dict.fromkeys(dict(top), 0.0)
        relevance |= {key: (score - low) / spread if spread else 1.0 for key, score in scores.items()}
        order: list[str] = []
        left = [key for key, _ in top]
        while left:
            gains = {
                key: balance * relevance[key]
                - (1 - balance) * max((self.likeness(name, key, one) for one in order), default=0.0)
                for key in left
            }
            most = max(gains.values())
            if any(1e-12 < most - gain < _NEAR for gain in gains.values()):
                raise Unclear
            order.append(next(key for key in left if gains[key] >= most - 1e-12))
            left.remove(order[-1])
        held = dict(top)
        return [*((key, held[key]) for key in order), *rest]

    def likeness(self, embedding: str, one: str, other: str) -> float:
        """How like two documents are: the cosine where it is positive, under l2 1 / (1 + distance²)."""
        if not {one, other} <= self.corpus.plain.keys():
            return 0.0
        a, b = (np.asarray(self._row(embedding, key), dtype=float) for key in (one, other))
        if embedding == "w":
            return float(1 / (1 + ((a - b) ** 2).sum()))
        return max(0.0, float(long_one(a) @ long_one(b)))


def fused(query: Query, legs: Sequence[Scores]) -> Ranking:
    """By reciprocal ranks, or the weighted sum of scores on scales of their own."""
    weights = [1.0 if part.weight is None else float(part.weight) for part in query.parts]
    scores: Scores = {}
    if not by_weight(query):
        for leg, weight in zip(legs, weights, strict=True):
            for rank, (key, _) in enumerate(settle(ordered(leg), by_id=True), 1):
                scores[key] = scores.get(key, 0.0) + weight / (60 + rank)
        return settle(ordered(scores), by_id=True, near=2e-8)
    total = sum(weights) if query.normaliser == "min_max" else 1.0
    for leg, weight in zip(legs, weights, strict=True):
        for key, score in normalised(leg, query.normaliser).items():
            scores[key] = scores.get(key, 0.0) + weight / total * score
    return ordered(scores)


def by_weight(query: Query) -> bool:
    """Whether scores are added up, and not the reciprocals of ranks."""
    given = any(part.weight is not None for part in query.parts)
    return (query.fusion or ("weighted" if given else "rrf")) == "weighted"


def normalised(leg: Scores, how: str) -> Scores:
    if not leg or how == "none":
        return leg
    low, high = min(leg.values()), max(leg.values())
    if how == "l2":
        length = math.hypot(*leg.values())
        return {key: score / length for key, score in leg.items()}
    if high - low <= 1e-6 * high:
        return dict.fromkeys(leg, 1.0)
    scale = high - low if how == "min_max" else statistics.pstdev(leg.values())
    return {key: (score - low) / scale for key, score in leg.items()}


def ordered(scores: Scores) -> Ranking:
    return sorted(scores.items(), key=lambda pair: (-round(pair[1], 12), pair[0]))


def settle(ranking: Ranking, *, by_id: bool, near: float = _NEAR) -> Ranking:
    """The ranking, whose order is certain: what ties is ordered by id, or must not tie. Raises Unclear."""
    for (_, one), (_, other) in pairwise(ranking):
        gap = (one - other) / max(1.0, abs(one))
        if gap < near and not (by_id and gap < 1e-11):
            raise Unclear
    return ranking


def best(scores: Scores, count: int) -> Scores:
    """The best of them. Raises Unclear where the last of them ties with the first that is left out."""
    ranking = ordered(scores)
    settle(ranking[count - 1 : count + 1], by_id=False)
    return dict(ranking[:count])


def long_one(row: Row) -> Row:
    """At length 1."""
    return np.asarray(row, dtype=float) / np.linalg.norm(row)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
