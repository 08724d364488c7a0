"""The names a query may use: the fields, embeddings and joins of a spec, and the closest one to a wrong name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..errors import UnknownField
from ..mappings import PROVENANCE, LookupJoin, NestedJoin, Spec

TEXT = frozenset({"text", "match_only_text", "search_as_you_type"})
KEYWORD = frozenset({"keyword", "constant_keyword", "wildcard", "join", "flattened", "flat_object"})
DATE = frozenset({"date", "date_nanos"})
# Integer types and the largest value each can hold; beyond it OpenSearch answers with an error.
INTEGERS = {"byte": 2**7 - 1, "short": 2**15 - 1, "integer": 2**31 - 1, "long": 2**63 - 1, "unsigned_long": 2**64 - 1}
FLOATS = {"half_float": 65_504.0, "float": 3.4028234663852886e38, "double": 1.7976931348623157e308}

_LISTED = 30
# No more of a wrong name is shown.
_SHOWN = 80


@dataclass(frozen=True)
class Known:
    """A field: its full name, its type, the nested objects it lies in, if any, and the format of a date."""

    name: str
    type: str
    nested: str | None = None
    format: str | None = None


class Names:
    """Everything that can be named in a query to one index."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._fields = {known.name: known for known in _fields(spec)}

    @classmethod
    def of(cls, spec: Spec) -> Names:
        """The names of a spec, read from it once: making them costs more than planning a query."""
        known = _KNOWN.get(id(spec))
        if known is None or known.spec is not spec:
            if len(_KNOWN) >= _KEPT:
                _KNOWN.clear()
            known = _KNOWN[id(spec)] = cls(spec)
        return known

    def field(self, name: str, nested: str | None = None) -> Known:
        """The field of that name; inside `nested` its path may be left out. Raises UnknownField."""
        inside = nested is not None and not name.startswith(f"{nested}.")
        known = self._fields.get(f"{nested}.{name}" if inside else name)
        if known is None or (nested is not None and known.nested != nested):
            there = [one.name for one in self._fields.values() if nested is None or one.nested == nested]
            raise self.unknown("field", name, there, f" in {nested}" if nested else "")
        return known

    def anywhere(self, name: str) -> Known:
        """The field of that path, in nested objects too. Raises UnknownField."""
        head = name.partition(".")[0]
        return self.field(name, head if self.is_nested(head) else None)

    def has(self, name: str) -> bool:
        """Whether a field has that name."""
        return name in self._fields

    def is_nested(self, name: str) -> bool:
        """Whether a nested join has that name."""
        return isinstance(self.spec.joins.get(name), NestedJoin)

    def embedding(self, name: str) -> str:
        """The name, when it is an embedding's. Raises UnknownField."""
        return self._one_of("embedding", name, self.spec.embeddings)

    def parent(self, name: str) -> str:
        """The name, when it is a parent's. Raises UnknownField."""
        return self._one_of("parent", name, self.spec.parents())

    def child(self, name: str) -> str:
        """The name, when it is a child's. Raises UnknownField."""
        return self._one_of("child", name, [child for one in self.spec.parents().values() for child in one.children])

    def nested(self, name: str) -> str:
        """The name, when it is a nested join's. Raises UnknownField."""
        joins = [key for key, join in self.spec.joins.items() if isinstance(join, NestedJoin)]
        fields = [known.name for known in self._fields.values() if known.type == "nested"]
        return self._one_of("nested join", name, [*joins, *fields])

    def lookup(self, name: str) -> LookupJoin:
        """The lookup join of that name. Raises UnknownField."""
        joins = {key: join for key, join in self.spec.joins.items() if isinstance(join, LookupJoin)}
        return joins[self._one_of("lookup join", name, joins)]

    def _one_of(self, kind: str, name: str, there: Iterable[str]) -> str:
        names = list(there)
        if name not in names:
            raise self.unknown(kind, name, names)
        return name

    def unknown(self, kind: str, name: str, there: Iterable[str], where: str = "") -> UnknownField:
        """The error for a wrong name, with the closest right one and a list of those there are."""
        names = sorted(one for one in there if not one.startswith(PROVENANCE))
        short = str(name) if len(str(name)) <= _SHOWN else f"{str(name)[:_SHOWN]}…"
        close = get_close_matches(short, names, n=1, cutoff=0.5)
        listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
        hint = f"it has {listed}" if names else f"its spec declares no {kind}"
        join = None if kind in ("field", "embedding") else self.spec.joins.get(str(name))
        if join is not None:
            hint = f"it is a join of another kind: ask it by where_{join.kind}({name!r}, ...)"
        return UnknownField(
            f"index {self.spec.index!r} has no {kind} {short!r}{where}"
            + (f"; did you mean {close[0]!r}?" if close else ""),
            hint=hint,
        )


# By the spec's id; each holds its spec, so that the id is not given to another.
_KNOWN: dict[int, Names] = {}
_KEPT = 64


def _fields(spec: Spec) -> Iterator[Known]:
    for name, field in spec.fields.items():
        yield from _expand(name, field.mapping())
    for name, join in spec.joins.items():
        if isinstance(join, NestedJoin):
            for key, field in join.fields.items():
                yield from _expand(f"{name}.{key}", field.mapping(), name)
    for parent in spec.parents().values():
        yield Known(parent.field, "join")
    yield Known(f"{PROVENANCE}.version", "long")
    for name in spec.embeddings:
        yield Known(f"{PROVENANCE}.vectors.{name}.fingerprint", "keyword")
        yield Known(f"{PROVENANCE}.vectors.{name}.input_hash", "keyword")


def _expand(name: str, mapping: Mapping[str, Any], nested: str | None = None) -> Iterator[Known]:
    """A field, its multi-fields (`title.raw`) and the fields of its objects (`address.city`)."""
    kind = str(mapping.get("type", "object"))
    nested = name if kind == "nested" else nested
    yield Known(name, kind, nested, mapping.get("format") if kind in DATE else None)
    for key in shingles(mapping):
        yield Known(f"{name}.{key}", "text", nested)
    for inner in ("fields", "properties"):
        for key, value in (mapping.get(inner) or {}).items():
            yield from _expand(f"{name}.{key}", value, nested)


def shingles(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """The subfields that a `search_as_you_type` field has by itself: pairs of words, triples, and so on."""
    if mapping.get("type") != "search_as_you_type":
        return ()
    return tuple(f"_{size}gram" for size in range(2, int(mapping.get("max_shingle_size", 3)) + 1))
