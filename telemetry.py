"""What others can follow of knnex: traces by OpenTelemetry where it is installed, and log lines without secrets.

Spans of a document on its way, each with `knnex.index`, `knnex.documents` and, where there is one, `knnex.lane`:
`knnex.accept` (the producer appends it to the log), `knnex.drain.batch` (a worker takes it, with others: the spans of
their producers are its links), and in that `knnex.encode` and `knnex.bulk`, after which a refresh makes it searchable.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from .settings import Settings

Kind = Literal["internal", "producer", "consumer", "client"]
#: A span keeps no more links than that (the default of OpenTelemetry's SDK).
MOST_LINKS = 128
# Shorter ones would blacken half of every line.
_SHORTEST_SECRET = 4
_CREDENTIALS = re.compile(r"(?<=://)[^/\s\"']*@")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Span:
    """A piece of work that is being traced; without OpenTelemetry it does nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def inside(self) -> AbstractContextManager[Any]:
        """Spans begun in this block, in whichever thread, are parts of this one; an error in it is noted."""
        api = _api()
        if api is None or self._span is None:
            return nullcontext()
        held: AbstractContextManager[Any] = api.use_span(self._span, end_on_exit=False)
        return held

    def note(self, **attributes: str | int | float | bool) -> None:
        """Add attributes."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def end(self) -> None:
        """The work is done."""
        if self._span is not None:
            self._span.end()


def begin(
    name: str, *, kind: Kind = "internal", links: Iterable[str | None] = (), **attributes: str | int | float | bool
) -> Span:
    """A span that lasts until `end`, which another thread may call; for one that ends with its block see `span`.

    `links` are W3C traceparents of what this work serves. Where all are of one trace it goes on in that trace.
    """
    api = _api()
    if api is None:
        return Span()
    parents = [found for one in dict.fromkeys(links) if one and (found := _context(one)) is not None]
    served = [api.get_current_span(parent).get_span_context() for parent in parents]
    one_trace = len({context.trace_id for context in served}) == 1
    started = api.get_tracer("knnex").start_span(
        name,
        context=parents[0] if one_trace else None,
        kind=api.SpanKind[kind.upper()],
        attributes=_named(attributes),
        links=[api.Link(context) for context in served[:MOST_LINKS]],
    )
    return Span(started)


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", links: Iterable[str | None] = (), **attributes: str | int | float | bool
) -> Iterator[Span]:
    """A span for the time of the block."""
    begun = begin(name, kind=kind, links=links, **attributes)
    try:
        with begun.inside():
            yield begun
    finally:
        begun.end()


def traceparent() -> str | None:
    """The W3C traceparent of the span at hand, to be handed on; None where nothing is traced."""
    if _api() is None:
        return None
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Spans begun in this block are parts of a trace that somebody else began; what is no traceparent is ignored."""
    parent = _context(traceparent) if traceparent and _api() is not None else None
    if parent is None:
        yield
        return
    from opentelemetry import context

    token = context.attach(parent)
    try:
        yield
    finally:
        context.detach(token)


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"knnex.{name}": value for name, value in attributes.items()}


@cache
def _api() -> ModuleType | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


@cache
def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def _context(traceparent: str) -> Any:
    """The context of a traceparent, None for what is none."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    found = _propagator().extract({"traceparent": traceparent}, context=Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def formatter(settings: Settings) -> logging.Formatter:
    """How log lines are written, by KNNEX_LOG_FORMAT; passwords, keys and tokens of the settings never are."""
    return {"text": TextLines, "json": JsonLines}[settings.log_format](secrets_of(settings))


class TextLines(logging.Formatter):
    """Lines for people: the time and what happened."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the traceback where there is one."""
        return hide(super().format(record), self._secrets)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, action, every extra, and the trace where there is one."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The line, without line breaks."""
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        line = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        action = line.pop("action", None)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "action": action,
            **{name: value for name, value in line.items() if name not in ("time", "level", "logger")},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if trace := traceparent():
            line["trace"] = trace
        return json.dumps(_clean(line, self._secrets), ensure_ascii=False)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """All that must never be shown of the settings, as it stands there and as URLs spell it; the longest first."""
    plain = [getattr(settings, name) for name in type(settings).model_fields]
    words = {value.get_secret_value() for value in plain if isinstance(value, SecretStr)}
    urls = [value for value in (settings.url, settings.redis_url, *words) if value and "://" in value]
    words = {word for word in words if "://" not in word} | {_password(url) for url in urls}
    spelled = {form for word in words for form in (word, unquote(word), quote(word, safe=""))}
    return tuple(sorted((word for word in spelled if len(word) >= _SHORTEST_SECRET), key=len, reverse=True))


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:  # it is no URL; what it may hold is hidden as that of any other
        return ""


def hide(text: str, secrets: Sequence[str] = ()) -> str:
    """A text without these secrets and without the credentials of any URL in it."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub("***@", text)


def _clean(value: Any, secrets: Sequence[str]) -> Any:
    """As JSON can hold it, and without secrets."""
    if isinstance(value, Mapping):
        return {hide(str(key), secrets): _clean(inner, secrets) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(inner, secrets) for inner in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return hide(str(value), secrets)
