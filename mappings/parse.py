"""Reading a spec from YAML, or from a dict; what is wrong is told by line, key and the closest right name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

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
    if not isinstance(source, (str, Path)):
        raise SpecError(f"{type(source).__name__} is no spec", hint="give a path, YAML text, a dict or a Spec")
    if isinstance(source, str) and ("\n" in source or ": " in source):
        return parse_yaml(source, "the spec")
    path = Path(source)
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise SpecError(f"cannot read the spec {path}: {error.strerror}", hint="give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8: {error.reason}", hint="save it as UTF-8") from None
    except ValueError as error:  # a null byte in the name
        raise SpecError(f"{source!r} is no path: {error}", hint="give the path of a YAML file") from None


def parse_yaml(text: str, name: str) -> Spec:
    """A spec from YAML text; `name` stands for it in messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _lines(node, name) if node else {}
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is a date that there is not, and the like
        mark = getattr(error, "problem_mark", None)
        where = f"{name} line {mark.line + 1}" if mark else name
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SpecError(f"{where}: not YAML: {reason}", hint="check indentation and quotes") from None
    except RecursionError:
        raise SpecError(f"{name}: an alias (*) stands inside its own anchor (&)", hint="write it out") from None
    if not isinstance(data, dict):
        raise SpecError(f"{name} holds no mapping", hint="start with `index: NAME` and `fields:`")
    return parse(data, name, lines)


def parse(data: dict[str, Any], name: str, lines: Mapping[tuple[str, ...], int]) -> Spec:
    """A spec from plain data; `lines` gives the line of each key's path."""
    try:
        spec = Spec.model_validate(data)
        spec.model_dump(mode="json")
        return spec
    except PydanticSerializationError as error:
        problems = [f"{name}: {error}"]
    except ValidationError as error:
        problems = [_problem(one, name, lines) for one in error.errors()]
    raise SpecError("\n".join(problems), hint="`knnex schema` prints what a spec may hold")


def _problem(error: Any, name: str, lines: Mapping[tuple[str, ...], int]) -> str:
    path = tuple(str(part) for part in error["loc"] if str(part) not in {*_BRANCHES, "[key]"})
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = f"{name} line {line}" if line else name
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        close = get_close_matches(path[-1], _KEYS, n=1)
        message = "unknown key" + (f", did you mean {close[0]!r}?" if close else "")
    elif "[key]" in error["loc"]:
        message = "a name must be text; put it in quotes"
    elif error["type"] == "model_type" and path[0] == "fields":
        message = f"{error['input']!r} has no type; write {path[-1]}: {{type: {error['input']}}}"
    elif error["type"] == "union_tag_not_found":
        message = "kind is missing: parent, nested or lookup"
    return f"{where}: {'.'.join(path)}: {message}" if path else f"{where}: {message}"


def _lines(node: yaml.Node, name: str, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """The line of each key. Raises SpecError for a key that is there twice, of which YAML would drop one."""
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*path, str(key.value)), key.start_mark.line + 1
            if inner in found and key.value != "<<":
                raise SpecError(
                    f"{name} line {line}: {'.'.join(inner)} is in line {found[inner]} already", hint="keep one of them"
                )
            found[inner] = line
            found |= _lines(value, name, inner)
    return found


def dump_yaml(spec: Spec) -> str:
    """The spec as YAML, defaults left out; `load_spec` reads it back equal."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
