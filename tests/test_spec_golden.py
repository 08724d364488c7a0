"""Golden mappings: what each dialect makes of a spec, or why it declines; what the live version knows is sent to it.

KNNEX_UPDATE_GOLDEN=1 writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import servers

from knnex import Query, Spec, load_spec
from knnex.engines import Dialect, Engine, Request
from knnex.engines.engine import DIALECTS
from knnex.errors import AccessDenied, RequestRejected, UnsupportedByEngine
from knnex.mappings import ALIVE, Resolved, Stored, drop, index_body, version_name
from knnex.query import plan, search

GOLDEN = Path(__file__).parent / "golden" / "mappings"
# Read on import: the harness takes KNNEX_ variables away before a test runs.
UPDATE = os.environ.get("KNNEX_UPDATE_GOLDEN") == "1"
VERSIONS: dict[str, list[tuple[int, ...]]] = {
    "elasticsearch": [(8, 13), (8, 19), (9, 5)],
    "opensearch": [(2, 19), (3, 4), (3, 6)],
}
DIALECTS_BY_NAME = {
    f"{product}-{'.'.join(map(str, version))}": DIALECTS[product](version)
    for product, versions in VERSIONS.items()
    for version in versions
}
KEYWORD = {"type": "keyword"}
CHUNK = {"unit": "paragraph"}

# What differs from the plainest spec: options of its embedding "v", or other parts of the spec.
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dot_product": {"similarity": "dot_product"},
    "l2": {"similarity": "l2"},
    "max_inner_product": {"similarity": "max_inner_product"},
    "hnsw": {"hnsw": {"m": 48, "ef_construction": 400}},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "binary": {"quantization": "binary"},
    "fp16": {"quantization": "fp16"},
    "flat": {"index": "flat"},
    "flat_int8": {"index": "flat", "quantization": "int8"},
    "flat_int4": {"index": "flat", "quantization": "int4"},
    "flat_binary": {"index": "flat", "quantization": "binary"},
    "disk": {"index": "disk", "quantization": "binary"},
    "oversample": {"quantization": "int4", "oversample": 2.5},
    "oversample_off": {"quantization": "binary", "oversample": 0},
    "bfloat16": {"element_type": "bfloat16"},
    "bfloat16_binary": {"element_type": "bfloat16", "quantization": "binary", "similarity": "max_inner_product"},
    "faiss": {"engine": "faiss"},
    "faiss_fp16": {"engine": "faiss", "quantization": "fp16", "similarity": "l2"},
    "faiss_int8": {"engine": "faiss", "quantization": "int8"},
    "faiss_int4": {"engine": "faiss", "quantization": "int4"},
    "faiss_binary": {"engine": "faiss", "quantization": "binary", "similarity": "max_inner_product"},
    "lucene": {"engine": "lucene", "quantization": "int8", "similarity": "max_inner_product"},
    "options_of_elasticsearch": {"quantization": "int8", "options": {"flat_index_threshold": 1000}},
    "options_of_opensearch": {"engine": "faiss", "options": {"ef_search": 200}},
    "chunks": {"chunk": CHUNK, "quantization": "int8"},
}
SPECS: dict[str, dict[str, Any]] = {
    "several_embeddings": {
        "embeddings": {
            "v": {"source": "{title}", "encoder": "any"},
            "w": {"source": "{title}", "encoder": "any", "similarity": "l2", "quantization": "int8"},
            "c": {"source": "{plot}", "encoder": "any", "chunk": CHUNK, "hnsw": {"m": 32, "ef_construction": 200}},
        }
    },
    "no_embedding": {"embeddings": {}},
    "nested_and_lookup": {
        "joins": {
            "cast": {"kind": "nested", "fields": {"name": KEYWORD, "age": {"type": "integer"}}},
            "maker": {"kind": "lookup", "field": "genre", "key": "id", "index": "people"},
        }
    },
    "parents": {
        "joins": {
            "studio": {"kind": "parent", "children": ["film", "series"]},
            "film": {"kind": "parent", "children": ["scene"]},
        },
        "mapping": {"_routing": {"required": True}},
    },
    "settings": {
        "settings": {"number_of_shards": 2, "index": {"refresh_interval": "5s"}, "index.number_of_replicas": 0}
    },
    "analyzers": {
        "fields": {"title": {"type": "text", "analyzer": "words"}, "plot": {"type": "text"}, "genre": KEYWORD},
        "settings": {"analysis": {"analyzer": {"words": {"type": "standard", "stopwords": ["the", "a"]}}}},
    },
    "dynamic_templates": {
        "mapping": {
            "dynamic": True,
            "dynamic_templates": [{"words": {"match_mapping_type": "string", "mapping": KEYWORD}}],
            "date_detection": False,
        }
    },
    "dynamic_strict": {
        "fields": {"id": KEYWORD, "title": {"type": "text"}, "plot": {"type": "text"}, "genre": KEYWORD},
        "mapping": {"dynamic": "strict"},
    },
    "dynamic_runtime": {"mapping": {"dynamic": "runtime"}},
    "dynamic_strict_allow_templates": {"mapping": {"dynamic": "strict_allow_templates"}},
}
DIMS = {"1025 dims": 1025, "5000 dims": 5000, "odd int4": 65, "narrow binary": 32}
WIDTHS: dict[str, dict[str, Any]] = {
    "1025 dims": {},
    "5000 dims": {},
    "odd int4": {"quantization": "int4"},
    "narrow binary": {"quantization": "binary"},
}
CASES = [*EMBEDDINGS, *SPECS, *WIDTHS]
# What a live engine refuses although it is no older than the version that the mapping was made for.
REFUSED = {
    ("opensearch", "sq"): r"Parameter \[bits\] is required|'bits'",
    ("elasticsearch", "flat_index_threshold"): r"unsupported parameters:\s+\[flat_index_threshold",
    ("elasticsearch", "join"): r"type \[join\]",
    ("opensearch", "options_of_elasticsearch"): r"flat_index_threshold",
}


def spec_of(case: str, index: str = "movies") -> Spec:
    options = EMBEDDINGS.get(case, WIDTHS.get(case, {}))
    body = {
        "index": index,
        "fields": {"title": {"type": "text"}, "plot": {"type": "text"}, "genre": KEYWORD},
        "embeddings": {"v": {"source": "{title}", "encoder": "any"} | options},
    }
    return load_spec(body | SPECS.get(case, {}))


def resolved_of(case: str, spec: Spec) -> dict[str, Resolved]:
    return dict.fromkeys(spec.embeddings, Resolved(DIMS.get(case, 64), "f" * 32))


def compiled(case: str, dialect: Dialect) -> dict[str, Any]:
    spec = spec_of(case)
    try:
        body = index_body(spec, dialect, resolved_of(case, spec))
    except UnsupportedByEngine as error:
        return {"declined": str(error), "hint": error.hint}
    return dict(json.loads(json.dumps(body)))


@pytest.mark.parametrize("name", DIALECTS_BY_NAME)
def test_what_a_dialect_makes_of_specs_is_what_it_was(name: str) -> None:
    made = {case: compiled(case, DIALECTS_BY_NAME[name]) for case in CASES}
    path = GOLDEN / f"{name}.json"
    if UPDATE:
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert golden.keys() == made.keys()
    for case in CASES:
        assert made[case] == golden[case], case
    assert all(one["hint"] for one in made.values() if "declined" in one)


def test_every_golden_mapping_belongs_to_a_dialect() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(DIALECTS_BY_NAME)


@pytest.mark.parametrize("case", CASES)
def test_the_live_engine_takes_what_was_made_for_its_version_and_older_ones(
    engine: Engine, index_name: str, case: str
) -> None:
    live, stored = engine.dialect, version_name(index_name, 1)
    sent: list[dict[str, Any]] = []
    for dialect in reversed(DIALECTS_BY_NAME.values()):
        golden = compiled(case, dialect)
        older = dialect.product == live.product and dialect.version <= live.version
        if not older or "declined" in golden or golden in sent:
            continue
        sent.append(golden)
        spec = spec_of(case, index_name)
        body = index_body(spec, dialect, resolved_of(case, spec))
        body["aliases"] = {index_name: {"filter": ALIVE, "is_write_index": True}}
        request = Request("PUT", f"/{stored}", body=body)
        refusal = _refusal(golden, case, dialect, live)
        if refusal:
            with pytest.raises((RequestRejected, UnsupportedByEngine), match=refusal):
                engine.send(request)
            continue
        engine.send(request)
        if len(sent) == 1 and not _needs_native_library(golden):
            _is_searched(engine, Stored(stored, spec, resolved_of(case, spec)))
        engine.run(drop(index_name))
    assert sent or case in _declined_by_all(live)


def _declined_by_all(live: Dialect) -> set[str]:
    """The cases that no version up to the live one can run: their goldens hold the reason."""
    ours = [one for one in DIALECTS_BY_NAME.values() if one.product == live.product and one.version <= live.version]
    return {case for case in CASES if all("declined" in compiled(case, one) for one in ours)}


def _refusal(golden: dict[str, Any], case: str, dialect: Dialect, live: Dialect) -> str | None:
    text = json.dumps(golden["mappings"]["properties"])
    if live.product == "opensearch":
        if case == "options_of_elasticsearch":
            return REFUSED[live.product, case] if dialect.version >= (3, 6) else "flat_index_threshold|bits"
        # From 3.6 on `bits` is mandatory, and before it was not known.
        old = dialect.version < (3, 6) <= live.version
        return REFUSED[live.product, "sq"] if old and '"sq"' in text else None
    if '"join"' in text and servers.is_embedded(live.product):
        return REFUSED[live.product, "join"]
    return REFUSED[live.product, "flat_index_threshold"] if "flat_index" in text and live.version < (9, 4) else None


def _needs_native_library(golden: dict[str, Any]) -> bool:
    """Whether the embedded OpenSearch would end at the first write or search, for lack of a native library."""
    text = json.dumps(golden["mappings"]["properties"])
    return servers.is_embedded("opensearch") and ('"faiss"' in text or '"bits": 1}' in text)


def _is_searched(engine: Engine, stored: Stored) -> None:
    """A document is found, or refused for a licence."""
    disk = any(one.index == "disk" for one in stored.spec.embeddings.values())
    if disk and engine.capabilities.licence not in ("enterprise", "trial"):
        with pytest.raises(AccessDenied, match=r"non-compliant for \[bbq_disk\]"):
            _is_found(engine, stored)
    else:
        _is_found(engine, stored)


def _is_found(engine: Engine, stored: Stored) -> None:
    """A document with its vectors goes in, and is found by each of them."""
    rng = np.random.default_rng(7)
    document: dict[str, Any] = {"title": "The robot", "plot": "It dreams.", "genre": "sci-fi"}
    vectors = {}
    for name, one in stored.resolved.items():
        row = rng.normal(size=one.dims)
        vectors[name] = (row / np.linalg.norm(row)).astype(np.float32).tolist()
        chunk = {"text": "It dreams.", "start": 0, "end": 10, "vector": vectors[name]}
        document[name] = [chunk] if stored.spec.embeddings[name].chunk else vectors[name]
    engine.send(Request("PUT", f"/{stored.index}/_doc/1", {"routing": "1", "refresh": "true"}, document))
    for name, vector in vectors.items():
        query = Query().semantic(name, vector=vector)
        hits = engine.run(search(plan(query, stored, engine.dialect, _no_texts)))
        assert [hit.id for hit in hits] == ["1"]


def _no_texts(name: str, texts: Any) -> Any:
    raise LookupError(f"nothing is encoded for {name}: {texts}")
