"""What a search returns: hits with their fields, passages, highlights and joined documents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, overload

from ..mappings import PROVENANCE, Spec

_ABSENT = object()


@dataclass(frozen=True)
class Passage:
    """A chunk of a document: its text, where it stands in the rendered source (characters), and its own score."""

    text: str
    start: int
    end: int
    score: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Hit:
    """A document found: `hit["title"]` is a field of it, dotted names reach into objects.

    `score` is the engine's where one part ranked, the fused one where several did; `parts` has each part's own.
    """

    id: str
    score: float
    source: Mapping[str, Any] = field(default_factory=dict)
    passages: tuple[Passage, ...] = ()
    highlights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The document a lookup join leads to, by the join's name; a list of them for a list of keys.
    joined: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    #: The index version it lies in.
    index: str = ""
    #: The children that `by_child(inner=)` found it by, best first.
    children: tuple[Hit, ...] = ()
    #: The parent that `by_parent(inner=)` found it by.
    parent: Hit | None = None
    #: Other hits with the same value of the field that hits are collapsed by, best first.
    group: tuple[Hit, ...] = ()

    def __getitem__(self, name: str) -> Any:
        value = value_at(self.source, name, _ABSENT)
        if value is _ABSENT:
            close = get_close_matches(name, list(self.source), n=1)
            raise KeyError(f"hit {self.id} has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or `default` where the document has none."""
        return value_at(self.source, name, default)

    def to_dict(self) -> dict[str, Any]:
        """The hit as plain data, for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        shown = next((value for value in self.source.values() if isinstance(value, str)), "")
        text = self.passages[0].text if self.passages else shown
        text = " ".join(text.split())
        return f"<Hit {self.id!r} {self.score:.4f} {text if len(text) <= 60 else text[:59] + '…'!s}>"


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """The hits, best first, and how many there are.

    `total` counts what matched: for a kNN search at most its k, for fused parts the documents any of them gave;
    `total_relation` is "gte" where there may be more. `took_ms` is the engine's time, milliseconds.
    """

    hits: tuple[Hit, ...]
    total: int
    total_relation: Literal["eq", "gte"] = "eq"
    took_ms: int = 0
    #: By name, as the engine answers them.
    aggregations: Mapping[str, Any] = field(default_factory=dict)
    #: What could not be searched or done in time, where the query allows it.
    missing: tuple[str, ...] = ()
    #: The engine's own profile of each search, where it was asked for.
    profiles: tuple[Mapping[str, Any], ...] = ()

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __repr__(self) -> str:
        more = "at least " if self.total_relation == "gte" else ""
        lines = "".join(f"\n  {hit!r}" for hit in self.hits)
        return f"<{len(self.hits)} Hits of {more}{self.total:,}, {self.took_ms} ms{lines}>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, best first."""
        return tuple(hit.id for hit in self.hits)


def value_at(source: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value at a dotted path; engines read the key "a.b" and the object {"a": {"b": ...}} alike."""
    if name in source:
        return source[name]
    head, _, rest = name.partition(".")
    inner = source.get(head)
    if isinstance(inner, Mapping) and rest:
        return value_at(inner, rest, default)
    if isinstance(inner, Sequence) and not isinstance(inner, str) and rest:
        found = [value_at(one, rest, _ABSENT) for one in inner if isinstance(one, Mapping)]
        return [one for one in found if one is not _ABSENT] or default
    return default


def without(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The source less the value at a dotted path; objects that are empty then are left out too."""
    if name in source:
        return {key: value for key, value in source.items() if key != name}
    head, _, rest = name.partition(".")
    inner = source.get(head)
    left: Any = inner
    if isinstance(inner, Mapping) and rest:
        left = without(inner, rest)
    elif isinstance(inner, list) and rest:
        left = [one for one in (without(one, rest) if isinstance(one, Mapping) else one for one in inner) if one != {}]
    return {**source, head: left} if left else {key: value for key, value in source.items() if key != head}


def parse_hit(raw: Mapping[str, Any], spec: Spec, part: str, hidden: Collection[str] = ()) -> Hit:
    """A hit of an engine's answer; `part` names the part of the query that found it, `hidden` fields are left out."""
    score = float(raw.get("_score") or 0.0)
    found = raw.get("inner_hits") or {}
    source = raw.get("_source") or {}
    if not source and not found and "highlight" not in raw:
        return Hit(raw["_id"], score, parts={part: score}, index=raw["_index"])
    kept_out = {PROVENANCE, *spec.embeddings, *hidden}
    # OpenSearch returns the fields in an order of its own.
    order = [name for name in spec.fields if name in source]
    chunks = [chunk for path, inner in found.items() if path in spec.embeddings for chunk in _chunks(path, inner)]
    return Hit(
        id=raw["_id"],
        score=score,
        source={key: source[key] for key in dict.fromkeys([*order, *source]) if key not in kept_out},
        passages=tuple(sorted(chunks, key=lambda one: (-one.score, one.start))),
        highlights={name: tuple(marked) for name, marked in (raw.get("highlight") or {}).items()},
        parts={part: score},
        index=raw["_index"],
        children=tuple(_relatives("child", found, spec, part)),
        parent=next(_relatives("parent", found, spec, part), None),
    )


def _relatives(relation: str, found: Mapping[str, Any], spec: Spec, part: str) -> Iterator[Hit]:
    """Children or parents among the inner hits; a compiler names these `child:NAME`."""
    for key, inner in found.items():
        if key.partition(":")[0] == relation:
            yield from (parse_hit(raw, spec, part) for raw in inner["hits"]["hits"])


def _chunks(path: str, inner: Mapping[str, Any]) -> Iterator[Passage]:
    for raw in inner["hits"]["hits"]:
        source = raw.get("_source") or {}
        # A chunk's own fields stand there by themselves, or under the path.
        chunk = value_at(source, path, source)
        yield Passage(
            text=str(chunk.get("text", "")),
            start=int(chunk.get("start", 0)),
            end=int(chunk.get("end", 0)),
            score=float(raw.get("_score") or 0.0),
        )
