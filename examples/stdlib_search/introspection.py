"""What is public in the standard library of the running Python, and under which names."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any

_LEFT_OUT = (
    # Easter eggs, programs, tests and tables; `readline` and `rlcompleter` would change the terminal.
    *("antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "nturl2path", "pydoc_data", "sre_*"),
    *("readline", "rlcompleter", "test", "this", "turtledemo", "*.test", "*.tests", "curses.has_key"),
    # In effect private: what people use of these is public in the package above.
    *("asyncio.*", "concurrent.futures.*", "ctypes.macholib", "importlib.readers", "importlib.simple", "json.scanner"),
    *("multiprocessing.forkserver", "multiprocessing.heap", "multiprocessing.popen_*", "multiprocessing.resource_*"),
    *("multiprocessing.spawn", "multiprocessing.util", "sqlite3.*", "xml.dom.domreg", "xml.dom.expatbuilder"),
    *("xml.dom.minicompat", "xml.dom.xmlbuilder", "xml.etree.cElementTree"),
)
# The same objects under the name that people import.
_KNOWN_AS = {"posixpath": "os.path", "ntpath": "os.path", "genericpath": "os.path", "posix": "os", "nt": "os"}
# Put into builtins by `site`, for the interactive prompt only.
# The type of a function behind `functools.cache`, which is no routine for `inspect`.
_CACHED = type(functools.cache(str))
_AT_THE_PROMPT = frozenset(("copyright", "credits", "exit", "license", "quit"))


@dataclass(frozen=True)
class Found:
    """A class, function or method under one of its names."""

    module: str
    parent: str
    name: str
    thing: Any

    @property
    def id(self) -> str:
        """The name in full, as people write it."""
        return self.name if self.parent == "builtins" else f"{self.parent.removeprefix('builtins.')}.{self.name}"

    @property
    def rank(self) -> tuple[bool, bool, int, int, str]:
        """The lower, the better the name: at home, not an alias, near the top, short."""
        own_name = getattr(self.thing, "__name__", self.name)
        at_home = _is_home(self.module, self.thing)
        return not at_home, own_name != self.name, self.id.count("."), len(self.id), self.id


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Old modules warn when they are imported or read, and a few print."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def public_modules() -> dict[str, ModuleType]:
    """Every public module and submodule that can be imported here."""
    modules: dict[str, ModuleType] = {}
    waiting = [*sys.stdlib_module_names, "os.path"]
    for name in waiting:
        if name.rpartition(".")[2].startswith("_") or any(fnmatchcase(name, left_out) for left_out in _LEFT_OUT):
            continue
        if name in _KNOWN_AS or not (module := _imported(name)):
            continue
        modules[name] = module
        waiting += [f"{name}.{sub.name}" for sub in pkgutil.iter_modules(getattr(module, "__path__", ()))]
    return dict(sorted(modules.items()))


def _imported(name: str) -> ModuleType | None:
    """The module, or None for one of another platform, or whose library is not installed."""
    try:
        return importlib.import_module(name)
    except (ImportError, AttributeError, OSError):
        return None


def classes_and_functions(modules: Mapping[str, ModuleType]) -> Iterator[Found]:
    """The classes and functions of the modules, each under every public name it has."""
    for module_name, module in modules.items():
        listed = getattr(module, "__all__", None)
        for name in sorted(vars(module) if listed is None else listed):
            thing = _behind(vars(module).get(name))
            if name.startswith("_") or thing is None or (module_name == "builtins" and name in _AT_THE_PROMPT):
                continue
            if listed is not None or _is_home(module_name, thing):
                yield Found(module_name, module_name, name, thing)


def methods(classes: Iterable[Found]) -> Iterator[Found]:
    """What the classes define, or have from a base that is not public itself; the most general class first."""
    ordered = sorted(classes, key=lambda one: (len(inspect.getmro(one.thing)), one.rank))
    public = {id(one.thing) for one in ordered}
    for one in ordered:
        bases = [base for base in inspect.getmro(one.thing) if base is one.thing or id(base) not in public]
        members = {name: thing for base in reversed(bases) for name, thing in vars(base).items()}
        for name, thing in sorted(members.items()):
            method = _behind(getattr(thing, "__func__", thing))
            if not name.startswith("_") and method is not None and not inspect.isclass(method):
                yield Found(one.module, one.id, name, method)


def _behind(thing: Any) -> Any:
    """The class or function that this is, or that it is bound from (`random.choice`); None for anything else."""
    if isinstance(thing, MethodType):
        return thing.__func__
    if isinstance(thing, BuiltinMethodType) and not isinstance(thing.__self__, ModuleType | type | None):
        return vars(type(thing.__self__)).get(thing.__name__, thing)
    return thing if inspect.isroutine(thing) or inspect.isclass(thing) or isinstance(thing, _CACHED) else None


def _is_home(module: str, thing: Any) -> bool:
    """Does the object say that it comes from this module, from inside it, or from the C half of it?"""
    said = getattr(thing, "__module__", None) or getattr(getattr(thing, "__objclass__", None), "__module__", None) or ""
    said = _KNOWN_AS.get(said, said)
    return module == "builtins" or f"{said}.".startswith(f"{module}.") or said.lstrip("_") == module
