"""Looking at pages of documents: what each tells of itself, its other copies, and what the model makes of its text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..encoders import Cache, Vectors
from ..encoders.image import unreadable
from ..encoders.pictures import Pictures
from ..errors import InputError
from .audit_checks import Fault, Kind, faults_of, older_copies, passages_of, text_in
from .audit_read import Looked, Reader
from .prepare import Target, _matrix

# How far a stored vector may be from the one made again, as a share of its length: engines that keep 16 bits of a
# number, models that compute in 16, and batches of other lengths all stay well below; another text does not.
_CLOSE = 0.02


class Remade:
    """A cache that knows nothing and keeps what is made: for vectors that must not come from it."""

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return 0

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Nothing."""
        self.misses += len(keys)
        return {}

    def put_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep them in the cache that there is."""
        if self._cache is not None:
            self._cache.put_many(vectors)

    def close(self) -> None:
        """Leave the cache to its owner."""


def remade(target: Target) -> Target:
    """The target, encoding every text anew."""
    return replace(target, cache=Remade(target.cache))


class Looker:
    """Finds the faults of pages; with a `target`, vectors of documents that `chosen` says yes to are made again.

    With `pictures` every reference is read by them.
    """

    def __init__(
        self,
        reader: Reader,
        target: Target | None = None,
        chosen: Callable[[Looked], bool] = lambda _: False,
        pictures: Pictures | None = None,
    ) -> None:
        self.reader, self.stored, self.chosen, self.pictures = reader, reader.stored, chosen, pictures
        self.target = target and remade(target)
        self.compared = self.read = 0

    def faults(self, page: Sequence[Looked]) -> list[Fault]:
        """What is wrong with a page of documents. Raises EncoderError, EngineError."""
        found = [fault for looked in page for fault in faults_of(self.stored, looked)]
        if self.pictures:
            found = list(self._unreadable(self.pictures, page, found))
        if self.target:
            wrong = {fault.key for fault in found}
            some = [one for one in page if not one.deleted and one.key not in wrong and self.chosen(one)]
            self.compared += len(some)
            found += self._foreign(self.target, some)
        return found + list(self._duplicates(page))

    def _unreadable(self, pictures: Pictures, page: Sequence[Looked], found: Sequence[Fault]) -> Iterator[Fault]:
        """The faults, and pictures that cannot be read; where a vector is missing that is why."""
        told = {(fault.key, fault.embedding): fault for fault in found}
        for name, embedding in self.stored.spec.embeddings.items():
            if embedding.kind != "image":
                continue
            some = [one for one in page if not one.deleted and _kind(told.get((one.key, name))) in ("", "missing")]
            held = [(one, text) for one in some if (text := text_in(embedding, one.change.document)[0])]
            read = chain.from_iterable(pictures.windows([text for _, text in held]))
            for (one, text), picture in zip(held, read, strict=True):
                self.read += 1
                if isinstance(picture, InputError):
                    kind = _kind(told.get((one.key, name))) or "unreadable"
                    reason = unreadable(text, picture)
                    told[one.key, name] = Fault(kind, one.change.id, name, reason, one.change.routing)
        yield from told.values()

    def _foreign(self, target: Target, some: Sequence[Looked]) -> Iterator[Fault]:
        for name, embedding in self.stored.spec.embeddings.items():
            held = [(one, passages) for one in some if (passages := passages_of(self.stored, one, name))]
            texts = [text for _, passages in held for text in passages.texts]
            if not texts:
                continue
            matrix, _, unread = _matrix(target, name, texts)
            made, start = matrix.astype(np.float64), 0
            for one, passages in held:
                rows, start = made[start : start + len(passages.texts)], start + len(passages.texts)
                if reason := unread.get(passages.texts[0]):
                    yield Fault("unreadable", one.change.id, name, reason, one.change.routing)
                    continue
                apart = _apart(passages.vectors, rows, directed=embedding.similarity in ("cosine", "dot_product"))
                if apart > _CLOSE:
                    detail = f"it is {apart:.3g} away from the model's, as a share of its length"
                    yield Fault("foreign", one.change.id, name, detail, one.change.routing)

    def _duplicates(self, page: Sequence[Looked]) -> Iterator[Fault]:
        """Only a document with a routing can have a copy elsewhere; of a pair one speaks for both.

        Where others write, two documents of one id under two routings are two documents.
        """
        routed = {one.change.id for one in page if one.change.routing is not None}
        if self.reader.laid.shards == 1 or self.stored.attached or not routed:
            return
        copies = self.reader.copies(sorted(routed))
        for one in page:
            others = copies.get(one.change.id, ()) if one.change.routing is not None else ()
            if len(others) > 1 and one.change.routing == min(c.change.routing for c in others if c.change.routing):
                yield from older_copies(others)


def _kind(fault: Fault | None) -> Kind | Literal[""]:
    return fault.kind if fault else ""


def _apart(held: NDArray[np.float64], made: NDArray[np.float64], *, directed: bool) -> float:
    """The greatest distance of two rows as a share of the second one's length, or that of their directions."""
    norms = np.linalg.norm(made, axis=1)
    if directed:
        held = held / np.linalg.norm(held, axis=1, keepdims=True)
        made, norms = made / norms[:, None], np.ones(len(made))
    return float(np.max(np.linalg.norm(held - made, axis=1) / norms))
