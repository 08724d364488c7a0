"""Why an index is left alone, and whether that passes by itself."""

from __future__ import annotations

from collections import deque

_BY_HAND = "paused by hand"
_STORM = "too many documents are refused"
#: Of so many events in a row, more than this share refused: it is the mapping or the producer that is wrong.
STORM_OF, STORM_SHARE = 200, 0.2
#: The name under which the log remembers that somebody wants the refused documents buried nevertheless.
BURY_ANYWAY = "bury_anyway"


def by_hand(who: str = "") -> str:
    """The reason of a pause that somebody asked for."""
    return _BY_HAND + (f" by {who}" if who else "")


def stays(reason: str | None) -> bool:
    """Whether only a person lifts such a pause (`knnex resume`), and no worker."""
    return bool(reason and reason.startswith((_BY_HAND, _STORM)))


class Storm:
    """Watches for documents that are refused in numbers: burying 100,000 of them would help nobody."""

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=STORM_OF)

    def rises(self, refused: int, events: int) -> bool:
        """Note a batch of so many events, some of them refused; whether these are now too many of the last 200."""
        self._last.extend([False] * max(0, events - refused) + [True] * refused)
        return len(self._last) == STORM_OF and sum(self._last) > STORM_SHARE * STORM_OF

    def reason(self, such_as: str) -> str:
        """What to tell people."""
        return (
            f"{_STORM}: {sum(self._last)} of the last {STORM_OF}, such as {such_as} "
            "(mend the mapping or the producer, then `knnex resume INDEX`; with --bury they are buried)"
        )
