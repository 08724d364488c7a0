"""Any spec survives YAML, JSON and the mapping's `_meta`, and the JSON Schema lets it through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from knnex import Spec, cli_schema, load_spec
from knnex.mappings import META, Resolved, Stored, differing, dump_yaml
from knnex.mappings.compile import meta
from knnex.mappings.schema import json_schema

# What YAML reads as something else is among the names: a truth, a number, nothing, a merge, a date.
ODD = (
    "on",
    "no",
    "null",
    "~",
    "1",
    "1e3",
    "0x1f",
    "<<",
    "=",
    "2024-01-02",
    "a: b",
    "# c",
    "- d",
    "é",
    "名",
    "\u2028",
    " x ",
)
NAMES = st.sampled_from(ODD) | st.text(min_size=1, max_size=8)
TEXTS = st.text(max_size=30)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(NAMES.filter(lambda name: name != "type"), JSON, max_size=2)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    return {**draw(OPTIONS), "type": draw(st.sampled_from(["text", "keyword", "long"]))}


@st.composite
def embeddings(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"encoder": draw(TEXTS.filter(bool)), "source": [draw(st.sampled_from(names))]}
    optional = {
        "query_prompt": TEXTS,
        "document_prompt": TEXTS,
        "chunk": st.fixed_dictionaries(
            {"unit": st.sampled_from(["tokens", "sentence", "paragraph"]), "max_tokens": st.integers(64, 8192)}
        ),
        "similarity": st.sampled_from(["cosine", "dot_product", "l2", "max_inner_product"]),
        "dims": st.integers(1, 16_000),
        "element_type": st.sampled_from(["float", "bfloat16"]),
        "hnsw": st.fixed_dictionaries({"m": st.integers(2, 512), "ef_construction": st.integers(2, 3200)}),
        "engine": st.sampled_from(["lucene", "faiss"]),
        "options": st.dictionaries(st.sampled_from(["on_disk_rescore", "confidence_interval"]), JSON, max_size=2),
    }
    for key, value in optional.items():
        if draw(st.booleans()):
            made[key] = draw(value)
    if draw(st.booleans()):
        made |= {"quantization": draw(st.sampled_from(["int8", "int4", "binary", "fp16"]))}
        made |= {"oversample": draw(st.sampled_from([None, 0, 1, 2.5, 10]))}
    return made


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.lists(NAMES, min_size=4, max_size=7, unique=True))
    names = [name for name in names if name not in ("id", "_knnex", "relation") and "." not in name]
    mine, vectors, joined = names[:2] or ["title"], names[2:4], names[4:]
    joins: dict[str, Any] = {}
    for name, kind in zip(joined, ("nested", "lookup", "parent"), strict=False):
        joins[name] = {
            "nested": {"kind": "nested", "fields": draw(st.dictionaries(NAMES, fields(), max_size=2))},
            "lookup": {"kind": "lookup", "field": mine[0], "key": draw(NAMES), "index": draw(st.none() | NAMES)},
            "parent": {"kind": "parent", "children": draw(st.lists(NAMES, min_size=1, max_size=2))},
        }[kind]
    return load_spec(
        {
            "index": draw(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)),
            "fields": {name: draw(fields()) for name in mine},
            "embeddings": {name: draw(embeddings(mine)) for name in vectors},
            "joins": joins,
            "settings": {"analysis": draw(st.dictionaries(NAMES.filter(lambda one: "." not in one), JSON, max_size=2))},
            "mapping": {"dynamic_templates": draw(st.lists(st.dictionaries(NAMES, JSON, max_size=1), max_size=2))},
        }
    )


SCHEMA = Draft202012Validator(json_schema())


@settings(max_examples=200, deadline=None)
@given(specs())
def test_any_spec_survives(spec: Spec) -> None:
    written = dump_yaml(spec)
    again = load_spec(written)
    assert again == spec
    assert list(again.fields) == list(spec.fields)
    assert list(again.embeddings) == list(spec.embeddings)
    assert dump_yaml(again) == written
    assert load_spec(spec.model_dump()) == Spec.model_validate_json(spec.model_dump_json()) == spec
    SCHEMA.validate(yaml.safe_load(written))
    resolved = dict.fromkeys(spec.embeddings, Resolved(8, "f"))
    stored = json.loads(json.dumps({META: meta(spec, resolved)}))[META]["spec"]
    assert differing(Stored("a", spec, resolved), Stored("a", Spec.model_validate(stored), resolved)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"embeddings": {"v": {"source": "{t}", "encoder": "x", "similarity": "cosin"}}},
        {"embeddings": {"v": {"source": "{t}", "encoder": "x", "hnsw": {"m": 1}}}},
        {"embeddings": {"v": {"source": "{t}"}}},
        {"joins": {"j": {"kind": "mother"}}},
        {"setings": {}},
    ],
    ids=str,
)
def test_an_editor_sees_what_is_wrong(wrong: dict[str, Any]) -> None:
    assert list(SCHEMA.iter_errors({"index": "a", "fields": {"t": {"type": "text"}}} | wrong))


def test_the_schema_explains_every_key() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    for name, part in {"Spec": schema, **schema["$defs"]}.items():
        for key, one in part.get("properties", {}).items():
            assert key in ("kind",) or one.get("description"), f"{name}.{key}"


def test_the_command_prints_it_or_writes_it(tmp_path: Path) -> None:
    app = typer.Typer()
    cli_schema.register(app)
    assert json.loads(CliRunner().invoke(app, []).stdout) == json_schema()
    path = tmp_path / "knnex.json"
    done = CliRunner().invoke(app, ["--output", str(path)])
    assert json.loads(path.read_text()) == json_schema()
    assert done.stdout == "# yaml-language-server: $schema=knnex.json\n"
