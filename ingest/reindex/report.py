"""How a new version is to be built, how far that is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ...mappings import Stored
from ..patience import Patience
from .compare import Compared
from .control import TTL
from .copying import Copied


@dataclass(frozen=True)
class Step:
    """How far a step is: `done` of `total` documents, where it has any."""

    name: str
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Options:
    """How to go about it. Times are in seconds."""

    #: Documents copied at once.
    page: int = 500
    #: Who encodes what must be: this process, the workers, or, with "auto", these where any is running.
    encode: Literal["auto", "here", "workers"] = "auto"
    #: Documents that workers are given at a time.
    ahead: int = 4000
    #: Whether writes are refused while the alias is swapped; None: where others than knnex write to the index.
    block: bool | None = None
    #: How long they may be refused at a time; where more is left to do by then, they go on, and it is tried again.
    stall: float = 2.0
    #: How long the log may make no headway while all that was accepted before is waited for.
    headway: float = 120.0
    #: After how long without a sign of life another coordinator counts as gone.
    ttl: float = TTL
    beats: bool = True
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Report:
    """What was done: the version that was searched before and the one that is now, what was copied and compared.

    `stalls` are the seconds for which writes were refused, one for each time; `seconds` those of each step.
    """

    alias: str
    source: str
    target: str
    copied: Copied = field(default_factory=Copied)
    compared: Compared = field(default_factory=Compared)
    rounds: int = 0
    stalls: tuple[float, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, done: Copied | Compared) -> Report:
        if isinstance(done, Copied):
            return replace(self, copied=(self.copied + done).brief())
        return replace(self, compared=self.compared + done)


Tell = Callable[[Step], object]
Gate = Callable[[Stored, Stored], object]
