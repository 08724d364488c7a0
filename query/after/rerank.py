"""The best hits scored again, by a model that reads query and text together, or by a function of the user's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...encoders.reranker import load_reranker
from ...engines import Flow, Work
from ...errors import EncoderError
from ...mappings import Stored
from ..check import words_of
from ..hits import Hit, value_at
from ..names import Names
from ..parts import Lexical, Rerank, Scorer, Semantic
from ..query import Query
from .boosts import significant

if TYPE_CHECKING:
    from ..plan import Plan

# Texts that a function is given at once where a deadline is to be seen between calls; without one it gets all.
_BATCH = 32
_TYPES_OF_OBJECTS = frozenset({"object", "nested"})


def reading(query: Query, stored: Stored) -> tuple[str, ...]:
    """The fields of `_source` whose text is read: those named, else what the first embedding is made of."""
    given = query.reranked.fields if query.reranked is not None else ()
    names = Names.of(stored.spec)
    return tuple(dict.fromkeys(_in_source(one, names) for one in given or _default(query, stored)))


def _default(query: Query, stored: Stored) -> tuple[str, ...]:
    texts = {name: one for name, one in stored.spec.embeddings.items() if one.kind == "text"}
    embedding = first_embedding(query, stored)
    if texts:
        return texts.get(embedding or "", next(iter(texts.values()))).source_fields
    return tuple(one.partition("^")[0] for part in query.parts if isinstance(part, Lexical) for one in part.fields)


def first_embedding(query: Query, stored: Stored) -> str | None:
    """That of the query's first part that has one, else of the spec."""
    asked = [part.embedding for part in query.parts if isinstance(part, Semantic)]
    return next(iter([*asked, *stored.spec.embeddings]), None)


def _in_source(name: str, names: Names) -> str:
    """A multi-field stands in `_source` under the field it belongs to."""
    while (above := name.rpartition(".")[0]) and names.has(above) and names.field(above).type not in _TYPES_OF_OBJECTS:
        name = above
    return name


def rerank(plan: Plan, given: Rerank, hits: Sequence[Hit], missing: list[str]) -> Flow[list[Hit]]:
    """The hits with the best `top` in a new order; what there was no time for is added to `missing`.

    Those without a text, or not scored in time, follow in their old order. Loading a model is not counted as time.
    Raises EncoderError, and what the function raises.
    """
    fields = reading(plan.query, plan.stored)
    texts = {hit.id: _text(hit, fields, prefer_passage=not given.fields) for hit in hits[: given.top]}
    asked = [key for key, text in texts.items() if text]
    scorer, size = yield from _scorer(given, len(asked))
    question = given.text or words_of(plan.query) or ""
    scores: dict[str, float] = {}
    started = time.monotonic()
    for batch in _batches(asked, size):
        if given.deadline is not None and time.monotonic() - started >= given.deadline:
            break
        done = yield Work(partial(_scored, scorer, question, [texts[key] for key in batch], given))
        scores.update(zip(batch, done.body, strict=True))
    late = len(asked) - len(scores)
    if late:
        missing.append(f"rerank: {late} of {len(asked)} hits were not scored within {given.deadline:g} s")
    return _ordered(hits, scores)


def _ordered(hits: Sequence[Hit], scores: dict[str, float]) -> list[Hit]:
    """By score, the best first; equal ones, and those without, as they were."""
    scored = [replace(hit, parts={**hit.parts, "rerank": scores[hit.id]}) for hit in hits if hit.id in scores]
    scored.sort(key=lambda hit: -significant(hit.parts["rerank"]))
    return [*scored, *(hit for hit in hits if hit.id not in scores)]


def _scorer(given: Rerank, count: int) -> Flow[tuple[Scorer, int]]:
    """The function, and how many texts it is given at once."""
    if isinstance(given.by, str):
        model = (yield Work(partial(load_reranker, given.by))).body
        return model.score, model.batch
    return given.by, _BATCH if given.deadline is not None else max(1, count)


def _batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _scored(scorer: Scorer, question: str, texts: Sequence[str], given: Rerank) -> list[float]:
    """Raises EncoderError for what are no scores."""
    scores: Any = scorer(question, texts)
    try:
        made = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _wrong(given, f"gave {type(scores).__name__}, no list of numbers") from error
    if made.shape != (len(texts),):
        raise _wrong(given, f"gave scores of shape {made.shape} for {len(texts)} texts")
    if not np.isfinite(made).all():
        raise _wrong(given, f"gave {made[~np.isfinite(made)][0]} for a text")
    return [float(one) for one in made]


def _wrong(given: Rerank, what: str) -> EncoderError:
    by = given.by if isinstance(given.by, str) else getattr(given.by, "__qualname__", type(given.by).__name__)
    return EncoderError(f"rerank by {by} {what}", hint="it must give one finite number for each text, in their order")


def _text(hit: Hit, fields: Sequence[str], *, prefer_passage: bool) -> str:
    if prefer_passage and hit.passages:
        return hit.passages[0].text.strip()
    found = (_plain(value_at(hit.source, name)) for name in fields)
    return "\n".join(one for one in found if one)


def _plain(value: Any) -> str:
    """A field as encoders read it: strings of a list are joined by commas."""
    readers: dict[type, Callable[[Any], str]] = {
        str: str.strip,
        bool: lambda one: "true" if one else "false",
        int: str,
        float: str,
        list: lambda many: ", ".join(one for one in map(_plain, many) if one),
    }
    reader = readers.get(type(value))
    return reader(value) if reader else ""
