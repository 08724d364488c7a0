"""Reading a spec from YAML, or from a dict; what is wrong is told by line, key and the closest right name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import SpecError
from .spec import Chunking, Embedding, Hnsw, LookupJoin, NestedJoin, ParentJoin, Spec

_MODELS: tuple[type[BaseModel], ...] = (Spec, Embedding, Chunking, Hnsw, ParentJoin, NestedJoin, LookupJoin)
_KEYS = sorted({key for model in _MODELS for key in model.model_fields})
# pydantic names the chosen branch of a union in the error's location; a user's file has no such key.
_BRANCHES = {"parent", "nested", "lookup", "str", "tuple[str, ...]"}


def load_spec(source: str | Path | Mapping[str, Any] | Spec) -> Spec:
    """A spec from a file's path, YAML text, a dict, or a spec itself. Raises SpecError."""
    if isinstance(source, Spec):
        return source
    if isinstance(source, Mapping):
        return parse(dict(source), "the spec", {})
    if isinstance(source, Path) or "\n" not in source:
        path = Path(source)
        try:
            return parse_yaml(path.read_text(encoding="utf-8"), path.name)
        except OSError as error:
            raise SpecError(
                f"cannot read the spec {path}: {error.strerror}", hint="give the path of a YAML file"
            ) from None
        except UnicodeDecodeError as error:
            raise SpecError(f"{path} is not UTF-8: {error.reason}", hint="save it as UTF-8") from None
    return parse_yaml(source, "the spec")


def parse_yaml(text: str, name: str) -> Spec:
    """A spec from YAML text; `name` stands for it in messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name} line {mark.line + 1}" if mark else name
        raise SpecError(
            f"{where}: not YAML: {getattr(error, 'problem', None) or error}", hint="check indentation and quotes"
        ) from None
    if not isinstance(data, dict):
        raise SpecError(f"{name} holds no mapping", hint="start with `index: NAME` and `fields:`")
    return parse(data, name, _lines(node) if node else {})


def parse(data: dict[str, Any], name: str, lines: Mapping[tuple[str, ...], int]) -> Spec:
    """A spec from plain data; `lines` gives the line of each key's path."""
    try:
        return Spec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(one, name, lines) for one in error.errors()]
    raise SpecError("\n".join(problems), hint="`knnex schema` prints what a spec may hold")


def _problem(error: Any, name: str, lines: Mapping[tuple[str, ...], int]) -> str:
    path = tuple(str(part) for part in error["loc"] if str(part) not in _BRANCHES)
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = f"{name} line {line}" if line else name
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        close = get_close_matches(path[-1], _KEYS, n=1)
        message = "unknown key" + (f", did you mean {close[0]!r}?" if close else "")
    return f"{where}: {'.'.join(path)}: {message}" if path else f"{where}: {message}"


def _lines(node: yaml.Node, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            found[inner] = key.start_mark.line + 1
            found |= _lines(value, inner)
    return found


def dump_yaml(spec: Spec) -> str:
    """The spec as YAML, defaults left out; `load_spec` reads it back equal."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
