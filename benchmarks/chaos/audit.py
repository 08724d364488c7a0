"""The audit: everything an index holds, read to the last document, beside what the oracle says it has to hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knnex.encoders import input_hash
from knnex.ingest import Target
from knnex.ingest.render import text_of
from knnex.mappings import PROVENANCE

from .oracle import Expected, Oracle
from .stage import Stage

# lost: accepted and not there. stale: an older version is. ahead: a version nobody gave. zombie: deleted and there.
# duplicate: more than once. stranger: an id nobody sent. wrong: another content. vector: none, or not this text's, or
# another model's. buried, unburied: buried without or left alive against a reason. trimmed: the log itself lost it.
KINDS = (
    "lost", "stale", "ahead", "zombie", "duplicate", "stranger", "wrong", "vector", "buried", "unburied", "waiting",
    "trimmed", "disorder", "hidden",
)  # fmt: skip
_PAGE = 2000
_TOLD = 5
# Vectors of one text made in batches of different lengths differ in the last digits.
_CLOSE = 1e-3


@dataclass
class Audit:
    """What was found; nothing, if all is well."""

    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    documents: int = 0
    deleted: int = 0
    buried: int = 0

    @property
    def clean(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def fault(self, kind: str, example: str, times: int = 1) -> None:
        """Note a fault, and the first few by name."""
        self.faults[kind] += times
        if len(told := self.examples.setdefault(kind, [])) < _TOLD:
            told.append(example)

    def figures(self) -> dict[str, Any]:
        """For a result."""
        counts = {"documents": self.documents, "deleted": self.deleted, "buried as expected": self.buried}
        return (
            counts
            | {kind: self.faults[kind] for kind in KINDS}
            | ({"examples": self.examples} if self.examples else {})
        )


def audit(stage: Stage, oracle: Oracle, target: Target, into: Audit | None = None) -> Audit:
    """Compare an index with the oracle; with `into`, what is found is added to that."""
    found = into or Audit()
    index = target.alias
    expected = oracle.of(index)
    stage.ask("POST", f"/{target.stored.index}/_refresh")
    seen: set[str] = set()
    texts: dict[str, np.ndarray[Any, Any]] = {}
    for hit in everything(stage, target.stored.index):
        id_ = hit["_id"]
        if id_ in seen:
            found.fault("duplicate", f"{index} {id_}")
        elif id_ not in expected:
            found.fault("stranger", f"{index} {id_}")
        else:
            _compare(found, target, id_, hit["_source"], expected[id_], texts)
        seen.add(id_)
    for id_ in expected.keys() - seen:
        found.fault("lost", f"{index} {id_}")
    _check_vectors(found, target, texts)
    _check_rest(stage, oracle, target, found)
    return found


def everything(stage: Stage, index: str) -> Iterator[Mapping[str, Any]]:
    """Every document of a concrete index, tombstones too, with vectors."""
    source = stage.engine.dialect.source_with_vectors(["*"])
    body = {"size": _PAGE, "_source": source, "sort": ["_doc"]}
    page = stage.ask("POST", f"/{index}/_search", body, {"scroll": "2m"})
    while page["hits"]["hits"]:
        if page["_shards"]["failed"]:
            raise RuntimeError(f"a shard of {index} did not answer: {page['_shards']}")
        yield from page["hits"]["hits"]
        page = stage.ask("POST", "/_search/scroll", {"scroll": "2m", "scroll_id": page["_scroll_id"]})
    stage.ask("DELETE", "/_search/scroll", {"scroll_id": [page["_scroll_id"]]})


def _compare(
    found: Audit, target: Target, id_: str, source: Mapping[str, Any], expected: Expected,
    texts: dict[str, np.ndarray[Any, Any]],
) -> None:  # fmt: skip
    made = source[PROVENANCE]
    told = f"{target.alias} {id_}: {made['version']}, expected {expected.version}"
    if made["version"] != expected.version:
        found.fault("stale" if made["version"] < expected.version else "ahead", told)
        return
    if made["deleted"]:
        found.deleted += 1
        if expected.document is not None:
            found.fault("lost", f"{told}, a tombstone")
        return
    if expected.document is None:
        found.fault("zombie", told)
        return
    found.documents += 1
    content = {key: value for key, value in source.items() if key != PROVENANCE and key not in target.spec.embeddings}
    if content != expected.document:
        found.fault("wrong", f"{told}: {content!r:.200}, expected {expected.document!r:.200}")
    _compare_vectors(found, target, told, source, expected, texts)


def _compare_vectors(
    found: Audit, target: Target, told: str, source: Mapping[str, Any], expected: Expected,
    texts: dict[str, np.ndarray[Any, Any]],
) -> None:  # fmt: skip
    for name, embedding in target.spec.embeddings.items():
        text = text_of(embedding.source, expected.document or {})
        if text is None:
            continue
        made = source[PROVENANCE].get("vectors", {}).get(name)
        vector = np.array(source.get(name) or (), dtype=np.float32)
        if made is None or vector.shape != (target.stored.resolved[name].dims,):
            found.fault("vector", f"{told}: none")
        elif made["fingerprint"] != target.stored.resolved[name].fingerprint:
            found.fault("vector", f"{told}: another model's")
        elif made["input_hash"] != input_hash(text):
            found.fault("vector", f"{told}: another text's hash")
        elif text in texts:
            if not np.allclose(texts[text], vector, atol=_CLOSE):
                found.fault("vector", f"{told}: another than its twin's")
        else:
            texts[text] = vector


def _check_vectors(found: Audit, target: Target, texts: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Every vector is the one that the model makes of the text."""
    for encoder in target.encoders.values():
        names = list(texts)
        for start in range(0, len(names), _PAGE):
            part = names[start : start + _PAGE]
            for text, made in zip(part, encoder.encode_documents(part), strict=True):
                if not np.allclose(made, texts[text], atol=_CLOSE):
                    found.fault("vector", f"{target.alias}: not that of {text[:80]!r}")


def _check_rest(stage: Stage, oracle: Oracle, target: Target, found: Audit) -> None:
    """The buried, the log, and what the alias shows."""
    index = target.alias
    buried = {one.id for one in stage.log.find_buried(index, stage.log.burials(index)).values()}
    fated = oracle.fated(index)
    found.buried += len(buried & fated)
    for id_ in sorted(buried - fated - oracle.excused(index)):
        reasons = [one.reason for one in stage.log.buried(index, limit=1000) if one.id == id_]
        found.fault("buried", f"{index} {id_}: {reasons[:1]}")
    for id_ in sorted(fated - buried):
        found.fault("unburied", f"{index} {id_}")
    if waiting := stage.log.backlog(index).total:
        found.fault("waiting", index, waiting)
    if trimmed := stage.log.counts(index).get("lost", 0):
        found.fault("trimmed", index, trimmed)
    if oracle.disorders:
        found.fault("disorder", index, oracle.disorders)
    shown, alive = stage.ask("POST", f"/{index}/_count")["count"], oracle.alive(index)
    if shown != alive:
        found.fault("hidden", f"{index}: a search sees {shown}, expected {alive}", abs(shown - alive))
