"""Calls of several threads made into one: what is asked while an encoder is busy goes into its next call together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ModelMismatch, ModelUnavailable
from .base import Vectors

#: Texts of one call; a single asker with more than that has a call of its own.
MOST = 64
# These are the model's fault and not a text's: asked again for each asker alone, it would fail as often.
_SHARED = (ModelUnavailable, ModelMismatch)


@dataclass(eq=False, slots=True)
class _Ask:
    texts: Sequence[str]
    vectors: Vectors | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.vectors is not None or self.error is not None

    def result(self) -> Vectors:
        if self.vectors is None:
            raise self.error or RuntimeError("nobody encoded this")
        return self.vectors


class Together:
    """Calls `encode` (texts to `(n, dims) float32`) for one thread at a time; it may be called from any number of them.

    Nobody waits for company: an idle encoder is called at once. Whoever comes meanwhile waits for that call to end,
    and one of those who wait then encodes what all of them asked, each distinct text once. Where such a call fails for
    the sake of a text, everyone's texts are encoded alone, so that only whose they are gets the error.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Vectors]) -> None:
        self._encode = encode
        self._waiting: deque[_Ask] = deque()
        self._busy = False
        self._changed = threading.Condition()

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """The vectors, `(n, dims) float32`. Raises what `encode` raises for these texts."""
        mine = _Ask(texts)
        with self._changed:
            self._waiting.append(mine)
        while batch := self._turn(mine):
            try:
                self._answer(batch)
            finally:
                with self._changed:
                    self._busy = False
                    # This thread was interrupted: another one encodes what it had taken for others.
                    self._waiting.extendleft(one for one in reversed(batch) if not one.done and one is not mine)
                    self._changed.notify_all()
        return mine.result()

    def _turn(self, mine: _Ask) -> list[_Ask]:
        """What this thread has to encode, once nobody else does; nothing when its own question is answered."""
        with self._changed:
            while self._busy and not mine.done:
                self._changed.wait()
            if mine.done:
                return []
            self._busy = True
            taken = [self._waiting.popleft()]
            room = MOST - len(taken[0].texts)
            while self._waiting and (room := room - len(self._waiting[0].texts)) >= 0:
                taken.append(self._waiting.popleft())
            return taken

    def _answer(self, batch: Sequence[_Ask]) -> None:
        distinct = list(dict.fromkeys(text for one in batch for text in one.texts))
        try:
            rows = dict(zip(distinct, self._encode(distinct), strict=True))
            for one in batch:
                one.vectors = np.stack([rows[text] for text in one.texts])
        except Exception as error:  # whatever a model raises, it is raised where the texts came from
            if len(batch) > 1 and not isinstance(error, _SHARED):
                for one in batch:
                    self._answer([one])
                return
            for one in batch:
                one.error = error
