"""The spec proposed for an index that knnex did not make, with the reasons for everything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import SpecMismatch
from .attach_fields import Leaf, free_name, mapping_taken_over, settings_taken_over, taken_over
from .attach_find import Existing
from .attach_text import Measured
from .parse import dump_yaml, load_spec
from .spec import Chunking, Spec

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
#: A document's own id, which is no field of it: `id` of the spec of an index that others fill.
OWN_ID = "_id"

# A field that fewer documents have leaves a hole in a template.
_ALWAYS = 0.99
# From this share of documents on that are longer than what the encoder reads, they are cut into chunks.
_TOO_LONG = 0.05
_MOST_FIELDS = 4


@dataclass(frozen=True)
class Lengths:
    """How long the sampled documents are for the encoder, which reads `limit` tokens; all in tokens."""

    mean: float
    p95: int
    limit: int
    longer: float

    @classmethod
    def of(cls, counts: Sequence[int], limit: int) -> Lengths:
        """The figures of documents with these numbers of tokens."""
        if not counts:
            return cls(0.0, 0, limit, 0.0)
        ranked = sorted(counts)
        p95 = ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))]
        return cls(sum(ranked) / len(ranked), p95, limit, sum(one > limit for one in ranked) / len(ranked))


@dataclass(frozen=True)
class Proposal:
    """A spec, and why it is so: of the whole, and of its embedding."""

    spec: Spec
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_yaml(self) -> str:
        """The spec with the reasons as comments; `load_spec` reads it back equal."""
        top = "".join(f"# {note}\n" for note in self.notes)
        why = "".join(f"# {reason}\n" for reason in self.reasons)
        lines = dump_yaml(self.spec).splitlines(keepends=True)
        return top + "".join(f"{why}{line}" if line == "embeddings:\n" else line for line in lines)


def choose(measured: Sequence[Measured]) -> list[Measured]:
    """The fields to make a vector of, titles first; without prose and titles, what has words at all."""
    prose = [one for one in measured if one.kind == "prose"]
    titles = [one for one in measured if one.kind == "title"]
    found = titles[:1] + sorted(prose, key=lambda one: -one.present * one.words)[: _MOST_FIELDS - 1]
    return found or [one for one in measured if one.kind == "short"][:1]


def source_of(chosen: Sequence[Measured]) -> str | list[str]:
    """One template of the chosen fields; a list, which leaves no hole, where documents lack one of them."""
    paths = [one.path for one in chosen]
    if len(paths) > 1 and any(one.present < _ALWAYS for one in chosen):
        return paths
    return ". ".join(f"{{{path}}}" for path in paths)


def nothing_found(existing: Existing, measured: Sequence[Measured]) -> SpecMismatch:
    """The error where no field of an index holds text."""
    seen = "; ".join(f"{one.path}: {one.reason}" for one in measured[:10])
    return SpecMismatch(
        f"{existing.index} has no field that looks like text to be understood" + (f" ({seen})" if seen else ""),
        hint="name the fields: --embed FIELD",
    )


def propose(
    existing: Existing,
    chosen: Sequence[Measured],
    rest: Sequence[Measured],
    lengths: Lengths,
    *,
    encoder: str = DEFAULT_ENCODER,
    id_field: str = OWN_ID,
    notes: Sequence[str] = (),
) -> Proposal:
    """The spec of the chosen fields; of the others it says why not."""
    source = source_of(chosen)
    paths = tuple(one.path for one in chosen)
    embedding: dict[str, Any] = {"source": source, "encoder": encoder}
    chunked, why = _chunking(lengths)
    if chunked:
        embedding["chunk"] = chunked.model_dump()
    main = max(chosen, key=lambda one: one.words).path
    fields, joins = taken_over(existing, paths)
    body = {
        "index": existing.name,
        "id": id_field,
        "fields": fields,
        "embeddings": {free_name(existing, main): embedding},
        "joins": joins,
        "settings": settings_taken_over(existing),
        "mapping": mapping_taken_over(existing),
    }
    kept = [f"{one.path}: {one.reason}" for one in chosen]
    out = [f"left out: {one.path}: {one.reason}" for one in rest]
    return Proposal(load_spec(body), (*notes, _id_note(id_field)), (*kept, *out, why))


def renamed(proposal: Proposal, index: str) -> Proposal:
    """The proposal for another index, to which the documents are copied."""
    return replace(proposal, spec=proposal.spec.model_copy(update={"index": index}))


def as_named(leaves: Sequence[Leaf], measured: Mapping[str, Measured]) -> list[Measured]:
    """What somebody named to be embedded, whatever it looks like."""
    return [measured[leaf.path] for leaf in leaves]


def _chunking(lengths: Lengths) -> tuple[Chunking | None, str]:
    """Whether documents are cut into chunks, and why (not)."""
    figures = f"{lengths.mean:,.0f} tokens a document, 95 % have at most {lengths.p95:,}"
    if not lengths.mean:
        return None, "no documents to measure: one vector for each"
    if lengths.longer < _TOO_LONG:
        return None, f"{figures}; the encoder reads {lengths.limit:,}: one vector for each"
    most = max(8, min(Chunking().max_tokens, lengths.limit))
    chunk = Chunking(max_tokens=most, overlap=min(Chunking().overlap, most // 8))
    return chunk, f"{figures}; the encoder reads {lengths.limit:,}, {lengths.longer:.0%} are longer: cut into chunks"


def _id_note(id_field: str) -> str:
    if id_field == OWN_ID:
        return "id: documents are named by their _id, which is no field of theirs"
    return f"id: {id_field} holds what _id does, in every document looked at"
