"""The Python standard library's own documentation as documents, read by introspection.

Every public module, class, function and method that has a docstring of its own becomes one document, under the name
people write: `functools.cache`, `os.path.join`, `str.split`, `collections.OrderedDict.move_to_end`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from types import ModuleType
from typing import Any

from introspection import Found, classes_and_functions, methods, public_modules, quiet

Document = dict[str, Any]

# Deprecated as a whole in some Python from 3.11 on (PEP 594 and others); such a module says so in a warning alone.
_DEPRECATED_MODULES = (
    *(
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "imghdr",
        "imp",
        "mailcap",
        "msilib",
    ),
    *("nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd", "sunau", "telnetlib", "tkinter.tix", "uu"),
    *("msilib", "xdrlib"),
)
_SAYS_DEPRECATED = re.compile(r"\.\. deprecated|^\W*deprecated\b|(?:this|it|\w+\(\)|which) is deprecated", re.I | re.M)
# How C functions write their call into the docstring: `hypot(*coordinates) -> value`.
_CALL = re.compile(r"^[\w.]+\((?:[^()]|\([^()]*\))*\)")
_TWO_WORDS = re.compile(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}")


def documents(limit: int | None = None, *, modules: Collection[str] | None = None) -> Iterator[Document]:
    """The documents in order of their ids, the same on every run of one Python.

    `modules` keeps what belongs to those modules, `limit` the first so many.
    """
    wanted = [one for one in _corpus() if modules is None or one["module"] in modules]
    return map(dict, wanted[:limit])


@functools.cache
def _corpus() -> tuple[Document, ...]:
    with quiet():
        modules = public_modules()
        things = _once(sorted(classes_and_functions(modules), key=lambda one: one.rank))
        classes = [one for one in things if inspect.isclass(one.thing)]
        members = _once(sorted(methods(classes), key=_is_alias), taken=things)
        found = _without_echoes(filter(None, map(_document, [*things, *members])))
        found += filter(None, [_module_document(name, module, found) for name, module in modules.items()])
    return tuple(sorted(found, key=lambda document: str(document["id"])))


def _is_alias(found: Found) -> bool:
    return bool(getattr(found.thing, "__name__", found.name) != found.name)


def _once(found: Iterable[Found], taken: Iterable[Found] = ()) -> list[Found]:
    """Each object under the first of its names, but for those that are taken."""
    first: dict[int, Found] = {}
    for one in found:
        first.setdefault(id(one.thing), one)
    elsewhere = {id(one.thing) for one in taken}
    return [one for key, one in first.items() if key not in elsewhere]


def _without_echoes(found: Iterable[Document]) -> list[Document]:
    """The same words under the same name only once, in the most general class: `bytes.find`, not `bytearray.find`."""
    first: dict[tuple[str, str], Document] = {}
    for one in found:
        first.setdefault((one["name"], one["body"]), one)
    return list(first.values())


def _document(found: Found) -> Document | None:
    doc = _own_doc(found.thing)
    said = _without_call(doc)
    if not _TWO_WORDS.search(said):
        return None  # a bare name, or a call that Python wrote itself
    kind = "class" if inspect.isclass(found.thing) else "function" if found.parent == found.module else "method"
    deprecated = hasattr(found.thing, "__deprecated__") or bool(_SAYS_DEPRECATED.search(doc))
    return {
        "id": found.id,
        "name": found.name,
        "kind": kind,
        "module": found.module,
        "parent": found.parent,
        "signature": found.name + _signature(found.thing, doc),
        "first_line": _summary(said),
        "body": doc,
        "deprecated": deprecated or found.module in _DEPRECATED_MODULES,
        "length": len(doc),
    }


def _module_document(name: str, module: ModuleType, found: list[Document]) -> Document | None:
    doc = _own_doc(module)
    if not _TWO_WORDS.search(doc):
        return None
    inside = Counter(one["kind"] for one in found if one["module"] == name)
    return {
        "id": name,
        "name": name,
        "kind": "module",
        "module": name,
        "parent": name.rpartition(".")[0] or name,
        "signature": f"import {name}",
        "first_line": _summary(doc),
        "body": doc,
        "deprecated": name in _DEPRECATED_MODULES or bool(re.match(r"\W*deprecated", doc, re.I)),
        "length": len(doc),
        "package": hasattr(module, "__path__"),
        "pure_python": (getattr(module, "__file__", None) or "").endswith(".py"),
        "functions": inside["function"],
        "classes": inside["class"],
    }


def _own_doc(thing: Any) -> str:
    """The docstring of this object itself, cleaned; "" where there is none, or Python made it up."""
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    if not isinstance(doc, str) or doc in (type(thing).__doc__, "An enumeration."):
        return ""
    if dataclasses.is_dataclass(thing) and doc.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""
    return inspect.cleandoc(doc).strip()


def _without_call(doc: str) -> str:
    """The docstring without the calls it may begin with: `hypot(*coordinates) -> value`."""
    while call := _CALL.match(doc):
        rest, _, below = doc[call.end() :].partition("\n")
        told = re.match(r"\s*[-=]+>(?:[^,.:]*[,.:] (?=\w+ \w)|(?= *\w+ \w+ \w+ \w))|\s*(?:--|:)\s*(?=\w)", rest)
        if told:
            return f"{rest[told.end() :].strip()}\n{below}"
        if rest.strip() and not re.match(r"\s*[-=]+>", rest):
            return doc  # a sentence that begins with a call
        doc = re.sub(r"^(?:--|\([^\n]*\))\n", "", below.lstrip()).lstrip()
    return re.sub(r"^[\w\[\], ]{0,40} -> (?=\w+ \w)", "", doc)


def _summary(text: str) -> str:
    """The first sentence, or as much of it as a line holds."""
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0].split())
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph, maxsplit=1)[0].strip("-=~* ")
    return sentence if len(sentence) <= 200 else sentence[:200].rsplit(" ", 1)[0] + " …"


def _signature(thing: Any, doc: str) -> str:
    """`(a, b=1)`: without annotations, and without values that differ from run to run."""
    try:
        signature = inspect.signature(thing)
    except (ValueError, TypeError, AttributeError, NameError):
        call = _CALL.match(doc)
        return call.group()[call.group().index("(") :] if call else "(…)"
    shown = [one for place, one in enumerate(signature.parameters.values()) if place or one.name not in ("self", "cls")]
    bare = [one.replace(annotation=one.empty, default=_default(one.default)) for one in shown]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


class _Shown:
    """A default value as a signature shows it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _default(value: Any) -> Any:
    if value is inspect.Parameter.empty or value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | bytes | tuple) and len(repr(value)) < 30 and " at 0x" not in repr(value):
        return value
    return _Shown(getattr(value, "__qualname__", "…"))
