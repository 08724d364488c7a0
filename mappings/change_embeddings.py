"""From what differs to operations: embeddings, which are the dear part of any change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import SpecMismatch
from .apply import Stored
from .changes import NO_REMOVAL, Sides
from .compare import change, same
from .in_place import why_not_forward
from .operations import AddEmbedding, ChangeEmbedding, ChangeIndexOptions, DropEmbedding, Operation
from .spec import PROVENANCE, Embedding

# What a spec says of an embedding without changing its vectors, or how they are searched.
_APART = {"query_prompt", "dims"}


def embeddings(sides: Sides) -> Iterator[Operation]:
    """Vectors: new ones, those made or searched otherwise, those that are gone."""
    stored = sides.live.stored
    for name, embedding in sides.wanted.spec.embeddings.items():
        if name in stored.spec.embeddings and name in sides.live.properties:
            yield from _embedding(sides, name, stored.spec.embeddings[name], embedding)
        else:
            yield _new_embedding(sides, name, embedding)
    for name in sorted(stored.spec.embeddings.keys() - sides.wanted.spec.embeddings.keys()):
        if stored.attached:
            reason = "the field stays in an index that others made; nobody fills it any more"
            yield DropEmbedding(index=stored.index, kind="in place", reason=reason, name=name)
        else:
            yield DropEmbedding(index=stored.index, kind="new version", reason=NO_REMOVAL, name=name)


def reusable(name: str, was: Stored, wanted: Stored) -> bool:
    """Whether the vectors of an embedding, as one index holds them, are what another one would be given."""
    if name not in was.spec.embeddings or was.resolved[name].fingerprint != wanted.resolved[name].fingerprint:
        return False
    old, new = was.spec.embeddings[name], wanted.spec.embeddings[name]
    # Some engines keep them rounded, or, where they compare directions, at another length; dot_product asks for one.
    if (old.element_type, old.engine) != (new.element_type, new.engine):
        return False
    return old.similarity == new.similarity or (old.similarity, new.similarity) == ("dot_product", "cosine")


def _new_embedding(sides: Sides, name: str, embedding: Embedding) -> AddEmbedding:
    field, live = sides.properties[name], sides.live.properties.get(name)
    if live is not None and not same(field, live):
        raise SpecMismatch(
            f"embedding {name!r} cannot be added: {sides.live.index} has a field of that name already, "
            f"of type {live.get('type', 'object')}",
            hint="give the embedding another name in the spec",
        )
    return AddEmbedding(
        index=sides.live.index,
        kind="backfill",
        reason="a vector field may be added; documents get their vectors in place",
        name=name,
        encoder=embedding.encoder,
        properties={name: field, PROVENANCE: sides.properties[PROVENANCE]},
    )


def _embedding(sides: Sides, name: str, was: Embedding, wanted: Embedding) -> Iterator[Operation]:
    index, stored = sides.live.index, sides.live.stored
    old, new = stored.resolved[name], sides.wanted.resolved[name]
    lines = _attributes(was, wanted)
    if old.dims != new.dims:
        lines.append(f"dims {old.dims} -> {new.dims}")
    if old.fingerprint != new.fingerprint:
        what = lines or [f"the model behind {wanted.encoder} (fingerprint {old.fingerprint} -> {new.fingerprint})"]
        reason = "vectors of two kinds cannot stand in one index: all are made anew"
        yield ChangeEmbedding(
            index=index, kind="new version", reason=reason, name=name, changes=tuple(what), encode=True
        )
        return
    before, after = _vector(sides.live.properties[name]), _vector(sides.properties[name])
    similarity = was.similarity != wanted.similarity
    shown = _changes(before, after, _vector(sides.former[name]))
    if not (shown or similarity):
        return
    why = why_not_forward(sides.dialect, before, after)
    if similarity:
        why = "scores of two kinds cannot stand in one index"
    changes = tuple(lines or shown)
    if why:
        anew = not reusable(name, stored, sides.wanted)
        yield ChangeEmbedding(index=index, kind="new version", reason=why, name=name, changes=changes, encode=anew)
        return
    yield ChangeIndexOptions(
        index=index,
        kind="in place",
        reason=f"{sides.dialect} takes it for new segments; older ones follow as they are merged",
        name=name,
        changes=changes,
        properties={name: sides.properties[name]},
    )


def _vector(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """The field that holds the vector: inside the chunks, if there are any."""
    inner: Mapping[str, Any] = field.get("properties", {}).get("vector", field)
    return inner


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], former: Mapping[str, Any]) -> list[str]:
    """Options of a vector that are asked for and otherwise, and those of its graph that no longer are."""
    held, asked = before.get("index_options") or {}, after.get("index_options") or {}
    gone = (former.get("index_options") or {}).keys() & held.keys() - asked.keys()
    found = [change(key, before.get(key), after[key]) for key in after if not same(after[key], before.get(key), key)]
    return found + [change(f"index_options.{key}", held[key], None) for key in sorted(gone)]


def _attributes(was: Embedding, wanted: Embedding) -> list[str]:
    """What a spec says otherwise of an embedding."""
    old, new = was.model_dump(mode="json"), wanted.model_dump(mode="json")
    return [change(key, old[key], new[key]) for key in new if key not in _APART and old.get(key) != new[key]]
