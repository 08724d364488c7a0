"""The audit of an index: every document's vectors beside its text, in one pass of constant memory, or of a sample.

Nothing is asked of the event log and, unless vectors are to be compared or repaired, of no model either.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from ..encoders.pictures import Pictures
from ..engines import Engine
from ..errors import InputError, ModelUnavailable
from ..mappings import ALIVE, Stored
from ..mappings.look import count
from ..settings import settings
from .audit_checks import Fault, Kind
from .audit_look import Looker
from .audit_read import Looked, Reader, layout
from .audit_repair import Mended, Mender
from .patience import Patience
from .prepare import Target
from .target import make_target

#: An engine gives no more hits than these to one search, and the sample comes in one.
MAX_SAMPLE = 10_000
# Documents looked at, and repaired, at once.
_PAGE, _REPAIR = 500, 256


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """How far an audit is: documents and tombstones seen, of about so many, and the faults found by now."""

    done: int
    total: int
    faults: int


@dataclass(frozen=True)
class AuditReport:
    """What an audit saw. `faults` counts by kind what was found; `examples` names the first of them.

    After a repair `repaired` counts the documents that are well again, and `left` says what is still wrong, and why.
    """

    index: str
    documents: int
    deleted: int
    # By embedding: documents with a vector, and those that have no text for one.
    vectors: Mapping[str, int]
    without_text: Mapping[str, int]
    faults: Mapping[Kind, int]
    examples: tuple[Fault, ...]
    sample: int | None = None
    # Documents of which the vectors were made again and compared.
    compared: int = 0
    # Pictures that were read again, where that was asked for.
    pictures: int | None = None
    repaired: int | None = None
    left: tuple[Fault, ...] = ()
    left_count: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return not (self.faults if self.repaired is None else self.left_count)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {"clean": self.clean, **asdict(self)}


def audit(
    engine: Engine,
    stored: Stored,
    *,
    alias: str | None = None,
    sample: int | None = None,
    encode: int = 0,
    pictures: bool = False,
    repair: bool = False,
    keep: int = 1_000,
    open_target: Callable[[], Target] | None = None,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
    tell: Callable[[AuditProgress], None] | None = None,
) -> AuditReport:
    """Look at every document of an index version, or at a random `sample` of at most 10,000.

    `alias` is what it is searched by: that of its spec, unless another is given; a version's own name means that
    version alone, wherever the alias points. `encode` is of how many documents the vectors are made again and compared;
    `pictures` has every picture read again, without a model; `keep` how many faults are named. `repair` gives documents
    their vectors again, each only if it is still the one that was read. What is written meanwhile is not looked at.

    Raises InputError for a sample out of range and for pictures that are not read here, ModelUnavailable, ModelMismatch
    where vectors are to be compared or repaired, UnsupportedByEngine for a full pass over an index without sequence
    numbers, EngineError.
    """
    if sample is not None and not 1 <= sample <= MAX_SAMPLE:
        raise InputError(f"a sample of {sample:,} documents", hint=f"take 1 to {MAX_SAMPLE:,}, or all of them")
    started, name, patience = time.monotonic(), alias or stored.spec.index, patience or Patience()
    target = (open_target or (lambda: make_target(name, stored)))() if encode or repair else None
    reader = Reader(engine, stored, engine.run(layout(stored)), patience, sleep)
    heads = reader.heads()
    total = reader.ask(lambda: count(stored.index))
    share = encode / max(1, sample or total)
    reading = _pictures(stored) if pictures else None
    looker = Looker(reader, target if encode else None, lambda _: random.random() < share, reading)  # noqa: S311
    mender = Mender(looker, target, patience, sleep) if target and repair else None
    found = _Found(keep)
    whole = list(_whole(reader, name))
    found.note(whole)
    pages = reader.everything(heads) if sample is None else _sampled(reader, sample)
    _walk(looker, pages, found, mender, lambda: tell and tell(found.progress(sample or total)))
    mended = mender.done if mender else Mended()
    return AuditReport(
        index=stored.index,
        documents=found.documents,
        deleted=found.deleted,
        vectors=dict(found.vectors),
        without_text={name: found.without_text(name) for name in stored.spec.embeddings},
        faults=dict(found.faults),
        examples=tuple(found.examples),
        sample=sample,
        compared=looker.compared,
        pictures=looker.read if pictures else None,
        repaired=mended.repaired if mender else None,
        left=(*whole, *mended.left) if mender else (),
        left_count=len(whole) + mended.left_count if mender else 0,
        seconds=time.monotonic() - started,
    )


def _pictures(stored: Stored) -> Pictures:
    """What reads the pictures of an index. Raises InputError, ModelUnavailable where they are not read here."""
    if not any(embedding.kind == "image" for embedding in stored.spec.embeddings.values()):
        raise InputError(f"index {stored.spec.index!r} has no pictures", hint="an embedding of them has kind: image")
    if settings().encoder_url:
        raise InputError(
            "pictures are read where KNNEX_ENCODER_URL points to, and not here",
            hint="--encode N has those of about N documents read there",
        )
    if find_spec("PIL") is None:
        raise ModelUnavailable("reading pictures needs the package pillow", hint='pip install "knnex[image]"')
    return Pictures.by_settings()


@dataclass
class _Found:
    """What was found up to now; `keep` faults are named."""

    keep: int
    documents: int = 0
    deleted: int = 0
    vectors: Counter[str] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    faults: Counter[Kind] = field(default_factory=Counter)
    examples: list[Fault] = field(default_factory=list)

    def count(self, page: Sequence[Looked]) -> None:
        """Count documents, and those with vectors."""
        for one in page:
            self.deleted += one.deleted
            if not one.deleted:
                self.documents += 1
                self.vectors.update(one.change.vectors)

    def note(self, faults: Sequence[Fault]) -> None:
        """Keep what was found."""
        self.faults.update(fault.kind for fault in faults)
        self.gone.update(fault.embedding for fault in faults if fault.kind in ("missing", "lost"))
        self.examples += faults[: max(0, self.keep - len(self.examples))]

    def without_text(self, name: str) -> int:
        """Documents that have no vector of an embedding, and nothing that one could be made of."""
        return self.documents - self.vectors[name] - self.gone[name]

    def progress(self, total: int) -> AuditProgress:
        """How far it is."""
        return AuditProgress(self.documents + self.deleted, total, self.faults.total())


def _walk(
    looker: Looker,
    pages: Iterator[list[Looked]],
    found: _Found,
    mender: Mender | None,
    show: Callable[[], object],
) -> None:
    broken: list[Fault] = []
    for page in pages:
        faults = looker.faults(page)
        found.count(page)
        found.note(faults)
        if mender:
            broken += faults
            if len(broken) >= _REPAIR:
                mender.mend(broken)
                broken = []
        show()
    if mender and broken:
        mender.mend(broken)


def _sampled(reader: Reader, count: int) -> Iterator[list[Looked]]:
    ids = reader.random(count)
    for start in range(0, len(ids), _PAGE):
        yield reader.named(ids[start : start + _PAGE])


def _whole(reader: Reader, alias: str) -> Iterator[Fault]:
    """What is wrong with the index as such."""
    stored = reader.stored
    for name, resolved in stored.resolved.items():
        dims = reader.laid.dims.get(name, 0)
        if dims != resolved.dims:
            detail = f"it has {dims} dims, not {resolved.dims}" if dims else "there is no vector field of that name"
            yield Fault("mapping", embedding=name, detail=detail)
    alive = shown = 0
    for _ in range(0 if stored.attached or alias == stored.index else 3):  # somebody may write between the two
        alive, shown = reader.ask(lambda: count(stored.index, ALIVE)), reader.ask(lambda: count(alias))
        if alive == shown:
            return
    if alive != shown:
        yield Fault("count", detail=f"a search of {alias} sees {shown:,} documents; {alive:,} are not deleted")
