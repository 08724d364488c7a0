"""What a producer is told: how far it is, and in the end what went in and what did not."""

from __future__ import annotations

from dataclasses import dataclass, field

from .events import Origin, Refused

#: So many are named in a report; beyond it they are only counted.
MOST_NAMED = 10_000


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` documents are settled; `total` is known once the input is read, or where it has a length."""

    done: int
    total: int | None
    encoded: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Report:
    """What became of the documents; every one that did not go in as it is, is named with its reason.

    `read` counts all documents of the input; `skipped` are those of them that an earlier run has sent, which are
    checked as the others are, and `unchanged` those that were not sent, as the index held them as they are. `in_index`
    counts the accepted ones that the index was seen to hold, in this version or a newer one. `encoded` and `cached`
    count texts; through the log they are those of the index in that time, whoever sent them. `seconds` is the whole
    time, the checking included.
    """

    read: int = 0
    accepted: int = 0
    skipped: int = 0
    unchanged: int = 0
    in_index: int = 0
    refused: tuple[Refused, ...] = ()
    buried: tuple[Refused, ...] = ()
    without_vector: tuple[Refused, ...] = ()
    missing: tuple[str, ...] = ()
    refused_count: int = 0
    buried_count: int = 0
    without_vector_count: int = 0
    missing_count: int = 0
    encoded: int = 0
    cached: int = 0
    seconds: float = 0.0
    checked: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything that was read is in the index, as the index was asked."""
        return self.checked and self.in_index == self.read


@dataclass
class Names:
    """Documents named with a reason: all are counted, the first 10,000 kept."""

    count: int = 0
    kept: list[Refused] = field(default_factory=list)

    def add(self, origin: Origin | None, id_: str, reason: str) -> None:
        """One more."""
        self.count += 1
        if len(self.kept) < MOST_NAMED:
            self.kept.append(Refused(origin, id_, reason))
