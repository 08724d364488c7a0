"""What is done with a ranking before it is returned, as people write it: the second half of `Query`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from ..errors import QueryError
from .given import as_filter, named, plain
from .nodes import Filter
from .parts import Aggregations, Boost, Collapse, Diversify, Keep, Rerank, Scorer, Sort

_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Finishing:
    """What happens to hits after they were found and fused; every method returns a new query."""

    post: tuple[Filter, ...] = ()
    aggregations: Aggregations = field(default_factory=dict, hash=False)
    collapsed: Collapse | None = None
    boosts: tuple[Boost, ...] = ()
    kept: tuple[Keep, ...] = ()
    reranked: Rerank | None = None
    diversified: Diversify | None = None
    sorted_by: tuple[Sort, ...] = ()
    deadline: float | None = None
    partial: bool = False

    def _with(self, **changed: Any) -> Self:
        """A copy with this changed; `dataclasses.replace` goes through every field, and takes five times as long."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **changed)
        return made

    def post_filter(self, *filters: Filter | Mapping[str, Any] | Any) -> Self:
        """Leave out hits that do not fulfil every filter, *after* the search and beside the aggregations: for facets.

        Fewer hits than asked for may be left. For a strict filter use `where`.
        """
        return self._with(post=(*self.post, *map(as_filter, filters)))

    def aggregate(self, **aggregations: Mapping[str, Any] | Any) -> Self:
        """Aggregations in the engine's DSL (dict, `elasticsearch.dsl`), answered as `hits.aggregations`.

        They count what is ranked: all that match where words or filters alone decide, the candidates (k, the window)
        where vectors rank or several parts are fused. `post_filter` does not touch them.
        """
        given = {name: copy.deepcopy(plain(one)) for name, one in aggregations.items()}
        return self._with(aggregations={**self.aggregations, **given})

    def collapse(self, name: str, *, inner: int = 0) -> Self:
        """One hit for each value of a field, the best one; `inner` more of the same value as `hit.group`."""
        return self._with(collapsed=Collapse(named((name,), "collapse")[0], inner))

    def popularity(self, name: str, *, weight: float = 1.0, half: float | None = None) -> Self:
        """Raise what a number speaks for, after fusion: `score * (1 + weight * value / (value + half))`.

        `half` is the value that counts half (default: the median of those above 0 of the candidates). Documents without
        it keep their score.
        """
        return self._with(boosts=(*self.boosts, Boost("popularity", named((name,), "popularity")[0], weight, half)))

    def freshness(self, name: str, *, half_life: timedelta | float, weight: float = 1.0) -> Self:
        """Raise what is new, after fusion: `score * (1 + weight * 0.5 ** (age / half_life))`, half_life in days."""
        days = half_life / _DAY if isinstance(half_life, timedelta) else half_life
        return self._with(boosts=(*self.boosts, Boost("freshness", named((name,), "freshness")[0], weight, days)))

    def keep(self, condition: Keep) -> Self:
        """Leave out the hits for which a function of yours is false; it is asked before the page is cut."""
        if not callable(condition):
            raise QueryError(f"{condition!r:.80} is no function", hint="give one of a hit: lambda hit: hit['year'] > 1")
        return self._with(kept=(*self.kept, condition))

    def rerank(
        self,
        by: str | Scorer,
        *fields: str,
        text: str | None = None,
        top: int = 50,
        deadline: float | None = None,
    ) -> Self:
        """Score the best `top` again by a cross-encoder (its name or folder), or by a function of (text, texts).

        It reads `fields` (default: the best passage, else what the first embedding is made of). After `deadline`
        seconds those not yet scored follow in their old order, and `hits.missing` says so.
        """
        return self._with(reranked=Rerank(by, named(fields, "rerank"), text, top, deadline))

    def diversify(self, balance: float = 0.5, *, embedding: str | None = None, top: int = 50) -> Self:
        """Prefer what is unlike the hits before it: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

        `balance` 1 is relevance alone, 0 is difference alone; vectors of `embedding` (default the first) are compared.
        """
        return self._with(diversified=Diversify(embedding, balance, top))

    def sort(self, *fields: str) -> Self:
        """Order by fields instead of by score: `sort("-year", "title.raw")`; a minus is descending."""
        made = tuple(Sort(one.removeprefix("-"), one.startswith("-")) for one in named(fields, "sort"))
        return self._with(sorted_by=made)

    def within(self, seconds: timedelta | float, *, partial: bool = False) -> Self:
        """Raise EngineError where it takes longer; `partial` returns what there is, `hits.missing` says what not."""
        seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        return self._with(deadline=seconds, partial=partial or self.partial)

    def allow_partial(self) -> Self:
        """Take the hits of the shards that answered where others failed; `hits.missing` says what is missing."""
        return self._with(partial=True)
