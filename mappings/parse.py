"""Reading a spec from YAML, or from a dict; what is wrong is told by line, key and the closest right name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from ..errors import SpecError
from .spec import Chunking, Embedding, Hnsw, LookupJoin, Misplaced, NestedJoin, ParentJoin, Spec, close

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
# pydantic names the chosen branch of a union in the error's location; a user's file has no such key.
_JOINS: dict[str, type[BaseModel]] = {"parent": ParentJoin, "nested": NestedJoin, "lookup": LookupJoin}
_PARTS: dict[str, type[BaseModel]] = {"chunk": Chunking, "hnsw": Hnsw}


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
        problems = list(dict.fromkeys(_problem(one, name, lines) for one in error.errors()))
    raise SpecError("\n".join(problems), hint="`knnex schema` prints what a spec may hold")


def _problem(error: Any, name: str, lines: Mapping[tuple[str, ...], int]) -> str:
    path = _path(error)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Misplaced):
        path += cause.path
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    where = f"{name} line {line}" if line else name
    message = _message(error, path)
    return f"{where}: {'.'.join(path)}: {message}" if path else f"{where}: {message}"


def _path(error: Any) -> tuple[str, ...]:
    """Where the error is, as the user's file has it."""
    loc = [str(part) for part in error["loc"]]
    if loc and loc[0] == "joins" and len(loc) > 2 and loc[2] in _JOINS:
        del loc[2]
    if len(loc) > 3 and loc[0] == "embeddings" and loc[2] == "source":
        del loc[3:]
    return tuple(part for part in loc if part != "[key]")


def _message(error: Any, path: tuple[str, ...]) -> str:
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return "unknown key" + close(path[-1], _known(error["loc"]))
    if "[key]" in error["loc"]:
        return "a name must be text; put it in quotes"
    if kind == "missing" and path[-1] in ("type", "kind"):
        return f"{path[-1]} is missing"
    if kind == "model_type" and "fields" in path[:-1] and isinstance(given, str):
        return f"{given!r} has no type; write {path[-1]}: {{type: {given}}}"
    if kind == "union_tag_not_found":
        return "kind is missing: parent, nested or lookup"
    if kind in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']+)'", str(error["ctx"].get("expected") or error["ctx"].get("expected_tags")))
        given = given.get("kind") if isinstance(given, dict) else given
        return f"{given!r:.80} is not one of {', '.join(choices)}{close(str(given), choices)}"
    if kind == "invalid-json-value":
        return f"{given!r:.80} is no JSON value; put a date in quotes"
    if path[-1:] == ("source",) and kind in ("string_type", "tuple_type"):
        return "write '{title}. {body}' or [title, body]"
    return str(error["msg"]).removeprefix("Value error, ")


def _known(loc: tuple[Any, ...]) -> list[str]:
    """The keys that there are where one was not."""
    if loc[0] == "embeddings" and len(loc) > 2:
        model = _PARTS.get(str(loc[2]), Embedding) if len(loc) > 3 else Embedding
    elif loc[0] == "joins" and len(loc) > 3:
        model = _JOINS[str(loc[2])]
    else:
        model = Spec
    return list(model.model_fields)


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
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML takes for the end of a line by its number: in single quotes it would be read as a space."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _LINE_ENDS.search(text) else None)


_Dumper.add_representer(str, _text)
