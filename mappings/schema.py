"""The JSON Schema of a spec, by which an editor completes and checks the file while it is written."""

from __future__ import annotations

from typing import Any

from .spec import Spec

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. It knows each key by itself; what keys must agree on, `load_spec` checks."""
    return {"$schema": _DRAFT} | Spec.model_json_schema() | {"title": "A knnex spec"}
