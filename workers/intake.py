"""Documents that come as messages: checked as those of every other way in, and appended to the log. Knows no Celery."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from ..engines import Engine
from ..errors import EngineBusy, EngineUnreachable, IndexMissing, InputError, KnnexError, LogUnavailable, SpecError
from ..ingest import LANES, Event, EventLog, Mark, Refused, accept
from ..ingest.events import Op
from ..mappings import Spec, load

log = logging.getLogger(__name__)

#: Errors that no waiting mends: the documents are refused with them.
HOPELESS = (IndexMissing, SpecError, InputError)
_PASSING = (LogUnavailable, EngineUnreachable, EngineBusy)
# Seconds for which a spec is believed without asking the cluster.
_SPEC_FOR = 5.0
# Seconds to wait for a log or an engine that does not answer, and between two attempts.
PATIENCE, _PAUSE = 10.0, 0.5
# A log takes so many at once.
_AT_ONCE = 10_000
_TOLD = 10


@dataclass(frozen=True)
class Taken:
    """What became of a message: `positions` are those of the accepted documents, in their order."""

    accepted: int = 0
    positions: tuple[str, ...] = ()
    refused: tuple[dict[str, str], ...] = ()
    # Of a message that is delivered again: how many were in the log already.
    before: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"positions": list(self.positions), "refused": list(self.refused)}


@dataclass
class Intake:
    """Takes documents for any index of an engine."""

    engine: Engine
    log: EventLog
    specs: dict[str, tuple[float, Spec]] = field(default_factory=dict)

    def take(
        self,
        index: str,
        documents: Sequence[Mapping[str, Any]],
        *,
        op: str = "upsert",
        lane: str = "live",
        message: str = "",
        again: bool = False,
        trace: str | None = None,
    ) -> Taken:
        """Append what can be accepted; whoever is refused is named with the reason.

        `message` names the message: one that is delivered `again`, because its worker died, appends nothing twice.
        Raises LogUnavailable, EngineUnreachable, EngineBusy, AccessDenied; then it may be sent again.
        """
        try:
            self._check(documents, op, lane)
            spec = self.spec(index)
        except HOPELESS as error:
            return self._refuse_all(index, documents, error)
        checked = [accept(spec, document, op=op) for document in documents]  # type: ignore[arg-type]
        refused = [(place, one) for place, one in enumerate(checked) if isinstance(one, Refused)]
        events = [replace(one, trace=trace) for one in checked if isinstance(one, Event)]
        source = f"message {message}" if message else ""
        done = min(len(events), self.log.marks(index).get(source, 0)) if again and source else 0
        positions = self._append(events, lane, source, done)
        self._tell(index, refused, len(events))
        told = tuple({"number": str(place), "id": one.id, "reason": one.reason} for place, one in refused)
        return Taken(len(events), tuple(positions), told, done)

    def _append(self, events: Sequence[Event], lane: Any, source: str, done: int) -> list[str]:
        """In one step with the mark that tells a second delivery what is in; it is forgotten when all are."""
        positions: list[str] = []
        for start in range(done, len(events), _AT_ONCE):
            some = events[start : start + _AT_ONCE]
            mark = Mark(source, start + len(some)) if source else None
            positions += self.log.append(some, lane=lane, mark=mark)
        if events and source:
            self.log.unmark(events[0].index, source)
        return positions

    def spec(self, index: str) -> Spec:
        """The spec as the cluster holds it, or held it when it last answered."""
        asked, known = self.specs.get(index, (0.0, None))
        if known and time.monotonic() < asked + _SPEC_FOR:
            return known
        try:
            found = self.engine.run(load(index)).spec
        except (EngineUnreachable, EngineBusy):
            if known is None:
                raise
            found = known
        self.specs[index] = time.monotonic(), found
        return found

    @staticmethod
    def _check(documents: object, op: str, lane: str) -> None:
        if not isinstance(documents, (list, tuple)):
            raise InputError(f"documents are a list, not {type(documents).__name__}")
        for name, value, known in (("op", op, get_args(Op)), ("lane", lane, LANES[:2])):
            if value not in known:
                raise InputError(f"there is no {name} {value!r:.40}; choose one of {', '.join(known)}")

    def _refuse_all(self, index: str, documents: Any, error: KnnexError) -> Taken:
        reason = f"{error}" + (f" ({error.hint})" if error.hint else "")
        many = len(documents) if isinstance(documents, (list, tuple)) else 1
        log.error("Refused %d documents for %.80r: %s", many, index, reason, extra={"action": "refused"})
        return Taken(refused=tuple({"number": str(place), "id": "", "reason": reason} for place in range(many)))

    @staticmethod
    def _tell(index: str, refused: Sequence[tuple[int, Refused]], accepted: int) -> None:
        more = {"action": "refused", "index": index}
        for place, one in refused[:_TOLD]:
            log.warning("Refused document %d for %s: %s", place, index, one, extra=more)
        if len(refused) > _TOLD:
            log.warning("Refused %d documents for %s", len(refused), index, extra=more)
        log.debug("Accepted %d documents for %s", accepted, index, extra={"action": "accepted", "index": index})


def patiently(take: Callable[[], Taken], stop: Callable[[float], bool], patience: float = PATIENCE) -> Taken | None:
    """Take, and wait a little where log or engine do not answer; None where they do not after that.

    `stop` waits for so many seconds, and says whether to give up.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return take()
        except (KnnexError, MemoryError) as error:
            level = logging.DEBUG if isinstance(error, _PASSING) else logging.ERROR
            log.log(level, "Documents wait: %s", error, extra={"action": "intake_waits"})
            if time.monotonic() > until or stop(_PAUSE):
                log.warning("Documents go back to the broker: %s", error, extra={"action": "handed_back"})
                return None
