"""What a change costs: from a sample of the documents, the encoder's tokenizer and speed, the cache, and formulas."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..encoders import Cache, Encoder, cache_key, chunk
from ..encoders.base import encode_readable
from ..engines import Dialect
from ..errors import InputError
from ..mappings import Embedding, Resolved, Spec
from ..mappings.compile import vector_of
from ..mappings.estimate import Footprint, footprint, levels
from ..mappings.look import Live
from ..mappings.plan import ChangePlan
from .render import text_of

# Seconds that a model is measured for, and the texts it is given at once.
_SECONDS, _BATCH = 4.0, 16


@dataclass(frozen=True)
class Cost:
    """Texts of one embedding for `documents` documents; all but `sampled` is reckoned from the sample."""

    embedding: str
    documents: int
    sampled: int
    # Texts (chunks, or one a document) and their tokens, as far as the model reads them; a picture has none.
    texts: int
    tokens: int
    # Of these texts, those whose vectors the cache holds.
    cached: int
    # Documents a second, all of them to be encoded; None: not measured.
    rate: float | None = None

    @property
    def seconds(self) -> float | None:
        """What encoding takes, at that rate, for what the cache does not hold."""
        share = 1 - self.cached / self.texts if self.texts else 0.0
        return self.documents * share / self.rate if self.rate else None


def cost(
    name: str,
    embedding: Embedding,
    encoder: Encoder,
    documents: int,
    sample: Sequence[Mapping[str, object]],
    cache: Cache | None,
    *,
    rate: float | None = None,
    seconds: float = _SECONDS,
) -> Cost:
    """What `documents` documents like those of the sample take to encode.

    `rate` (documents a second) is taken as it is; without one the model is measured on the sample for `seconds`, none
    for 0. Raises what the encoder raises.
    """
    read = [texts for document in sample if (texts := _texts(embedding, encoder, document)) is not None]
    texts = [text for one in read for text in one]
    tokens = sum(min(encoder.count_tokens(text), encoder.max_tokens) for text in texts)
    keys = {cache_key(encoder, text) for text in texts}
    held = len(cache.get_many(list(keys))) if cache is not None and keys else 0
    share = documents / len(sample) if sample else 0.0
    if rate is None and texts and seconds:
        rate = measured(encoder, texts, seconds) * len(sample) / len(texts)
    return Cost(
        embedding=name,
        documents=documents,
        sampled=len(sample),
        texts=round(len(texts) * share),
        tokens=round(tokens * share),
        cached=round(len(texts) * share * held / len(keys)) if keys else 0,
        rate=rate,
    )


def _texts(embedding: Embedding, encoder: Encoder, document: Mapping[str, object]) -> list[str] | None:
    """What the encoder is given of a document; None where there is nothing, or nothing that can be read."""
    try:
        text = text_of(embedding.source, document)
    except InputError:
        return None
    if text is None:
        return None
    return [one.text for one in chunk(text, embedding.chunk, encoder)] if embedding.chunk else [text]


def measured(encoder: Encoder, texts: Sequence[str], seconds: float) -> float:
    """Texts a second that the encoder makes here of texts drawn evenly from all; the first batch only warms it up.

    Of pictures with the time to fetch and read them; 0 where none can be read here.
    """
    encode_readable(encoder, texts[:_BATCH])
    done, started = 0, time.perf_counter()
    for batch in _around(texts):
        done += len(batch) - len(encode_readable(encoder, batch)[1])
        if (took := time.perf_counter() - started) >= seconds:
            break
    return done / took


def _around(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Batches for ever, each of texts that lie far apart, so that the first ones are like all."""
    step = max(1, len(texts) // _BATCH)
    while True:
        for start in range(step):
            yield texts[start::step]


@dataclass(frozen=True)
class Forecast:
    """What a plan takes: texts to be encoded, and the vectors of the index afterwards."""

    costs: tuple[Cost, ...]
    # By embedding: as the spec has it, and in every way the engine can keep it; replicas among them.
    chosen: Mapping[str, Footprint]
    others: Mapping[str, tuple[Footprint, ...]]
    # Bytes that are written, replicas among them, and those that are free; None: not allowed to ask.
    disk: int
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.free is None or self.disk <= self.free


def forecast(
    plan: ChangePlan,
    spec: Spec,
    resolved: Mapping[str, Resolved],
    encoders: Mapping[str, Encoder],
    live: Live,
    dialect: Dialect,
    cache: Cache | None,
    *,
    rate: float | None = None,
    seconds: float = _SECONDS,
) -> Forecast:
    """What a plan takes. Raises what the encoders raise."""
    costs, chosen, others = [], {}, {}
    shards, copies = _number(live, "number_of_shards", 1), 1 + _number(live, "number_of_replicas", 0)
    for name, embedding in spec.embeddings.items():
        vectors = live.documents
        if name in plan.encode or embedding.chunk:
            one = cost(
                name, embedding, encoders[name], live.documents, live.sample, cache,
                rate=rate, seconds=seconds if name in plan.encode else 0,
            )  # fmt: skip
            vectors = one.texts
            costs += [one] if name in plan.encode else []
        field = vector_of(embedding, resolved[name].dims)
        chosen[name] = footprint(vectors, field, dialect, shards=shards).times(copies)
        others[name] = tuple(each.times(copies) for each in levels(vectors, field, dialect, shards=shards))
    return Forecast(
        costs=tuple(costs),
        chosen=chosen,
        others=others,
        disk=_written(plan, chosen, live, dialect, copies),
        free=live.free_bytes,
    )


def _written(plan: ChangePlan, chosen: Mapping[str, Footprint], live: Live, dialect: Dialect, copies: int) -> int:
    """Bytes to be written: of a new version all, in place the vectors that come."""
    if not plan.new_version:
        return sum(one.disk for name, one in chosen.items() if name in plan.encode)
    stored = live.stored
    # Chunked ones are reckoned as many as they will be: nobody has counted them.
    held = sum(
        footprint(
            chosen[name].vectors if name in chosen else live.documents,
            vector_of(embedding, stored.resolved[name].dims),
            dialect,
        ).disk
        for name, embedding in stored.spec.embeddings.items()
    )
    rest = max(0, live.store_bytes - held)
    return rest * copies + sum(one.disk for one in chosen.values())


def _number(live: Live, name: str, otherwise: int) -> int:
    return int(live.settings.get(name, otherwise))
