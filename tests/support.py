"""The table of what works on which engine, made of the suite's own marks: it cannot claim what is not tested."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

TITLES = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}


def table(items: Iterable[pytest.Item]) -> str:
    """Markdown, a row for each `feature` mark; a `never` mark of one of its tests is a no, with its reason."""
    rows: dict[str, dict[str, str]] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        engine = callspec.params.get("engine_name") if callspec else None
        if engine not in TITLES:
            continue
        reasons = [mark.kwargs["reason"] for mark in item.iter_markers("never") if mark.args[0] == engine]
        for mark in item.iter_markers("feature"):
            cells = rows.setdefault(mark.args[0], {})
            if reasons:
                cells[engine] = f"no: {reasons[0]}"
            else:
                cells.setdefault(engine, "yes")
    lines = ["| | " + " | ".join(TITLES.values()) + " |", "|---|" + "---|" * len(TITLES)]
    lines += [
        f"| {name} | " + " | ".join(cells.get(engine, "") for engine in TITLES) + " |"
        for name, cells in sorted(rows.items())
    ]
    return "\n".join(lines) + "\n"
