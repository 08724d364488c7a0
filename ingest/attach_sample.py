"""Looking at some documents of an index that knnex did not make: what its fields hold, and how long its texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engines import Flow, Request, path_of
from ..errors import InputError, RequestRejected
from ..mappings.attach_fields import VECTORS, Leaf, leaves
from ..mappings.attach_find import Existing
from ..mappings.attach_text import Measured, measure
from .render import value_of

#: Documents that are looked at.
SAMPLE = 200
_PAGE = 50
_SEED = 7
# What engines count up by themselves stays below; who gives versions of their own mostly gives times or offsets.
_GIVEN_VERSION = 1_000_000
_IDS = frozenset(
    {"keyword", "constant_keyword", "wildcard", "text", "byte", "short", "integer", "long", "unsigned_long"}
)


@dataclass(frozen=True)
class Sample:
    """Documents drawn at random, the ids they go by, and how many there are in all."""

    total: int
    ids: tuple[str, ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    versions: tuple[int, ...] = ()

    @property
    def versions_are_given(self) -> bool:
        """Whether writers seem to give the versions of documents themselves."""
        return sum(one > _GIVEN_VERSION for one in self.versions) * 2 > len(self.versions)


def draw(existing: Existing, count: int = SAMPLE) -> Flow[Sample]:
    """Documents at random, the same ones each time while nobody writes; vectors are not read."""
    excludes = [leaf.path for leaf in leaves(existing) if leaf.type in VECTORS]
    excludes += [f"{name}*" for name in existing.ours]
    total, hits = 0, list[Mapping[str, Any]]()
    for start in range(0, max(1, count), _PAGE):
        try:
            response = yield Request(
                "POST",
                path_of(existing.index, "_search"),
                body=_body(existing, start, min(_PAGE, count - start), excludes),
            )
        except RequestRejected:
            if start:  # beyond what the index lets be paged through
                break
            raise
        found = response.body["hits"]
        total, page = int(found["total"]["value"]), found["hits"]
        hits += page
        if len(page) < _PAGE:
            break
    return Sample(
        total,
        tuple(str(hit["_id"]) for hit in hits),
        tuple(dict(hit.get("_source") or {}) for hit in hits),
        tuple(int(hit.get("_version", 0)) for hit in hits),
    )


def _body(existing: Existing, start: int, size: int, excludes: Sequence[str]) -> dict[str, Any]:
    numbered = existing.setting("disable_sequence_numbers") != "true"
    drawn = {"seed": _SEED, "field": "_seq_no"} if numbered else {}
    score = {"random_score": drawn, "query": {"match_all": {}}}
    return {
        "from": start,
        "size": size,
        "query": {"function_score": score},
        "_source": {"excludes": list(excludes)},
        "version": True,
        "track_total_hits": True,
    }


def judge(sample: Sample, fields: Sequence[Leaf]) -> list[Measured]:
    """What each of these fields holds."""
    return [measure(leaf.path, values(sample, leaf.path)) for leaf in fields]


def values(sample: Sample, path: str) -> list[str]:
    """The text of a field in each document, empty where there is none."""
    return [_value(path, document) for document in sample.documents]


def _value(path: str, document: Mapping[str, Any]) -> str:
    try:
        return value_of(path, document)
    except InputError:  # an object where the mapping has a field
        return ""


def id_field(existing: Existing, sample: Sample) -> str | None:
    """The field that holds what `_id` does in every document looked at, if there is one."""
    for leaf in leaves(existing):
        if "." in leaf.path or leaf.type not in _IDS or not sample.ids:
            continue
        if all(str(document.get(leaf.path)) == id_ for id_, document in zip(sample.ids, sample.documents, strict=True)):
            return leaf.path
    return None
