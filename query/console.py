"""A request as text for Dev Tools (Kibana, OpenSearch Dashboards), to be pasted and run as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from orjson import loads

from ..engines import Request, encode

_WIDTH = 100


def text(request: Request) -> str:
    """`POST /index/_search` and the body as JSON; the lines of an NDJSON body, one each."""
    path = request.path + (f"?{urlencode(request.params)}" if request.params else "")
    lines = [f"{request.method} {path}"]
    if isinstance(request.body, tuple):
        lines += [_safe(encode(line).decode()) for line in request.body]
    elif request.body is not None:
        lines.append(_safe("".join(_pretty(loads(encode(request.body)), ""))))
    return "\n".join(lines) + "\n"


def _safe(json: str) -> str:
    """Kibana fills in `${variable}` wherever it finds it; within JSON a dollar only stands in strings."""
    return json.replace("${", "\\u0024{")


def _pretty(value: Any, indent: str) -> Iterator[str]:
    """JSON, indented; what fits a line, and a list of numbers, stays on one."""
    flat = encode(value).decode()
    numbers = isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
    if not isinstance(value, (dict, list)) or numbers or len(flat) + len(indent) <= _WIDTH:
        yield flat
        return
    inner = indent + "  "
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield f"{opening}\n"
    items = list(value.items()) if isinstance(value, dict) else [(None, one) for one in value]
    for position, (key, one) in enumerate(items, 1):
        yield inner if key is None else f"{inner}{encode(key).decode()}: "
        yield from _pretty(one, inner)
        yield ",\n" if position < len(items) else "\n"
    yield indent + closing
