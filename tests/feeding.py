"""What the tests of the change feed share: writing as somebody who knows nothing of knnex, and looking at vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from filling import held

from knnex.engines import Engine, Flow, Request, path_of
from knnex.ingest import Patience, RedisLog, Target
from knnex.ingest.feed_follow import catch_up
from knnex.ingest.feed_state import FeedReport
from knnex.ingest.render import text_of

HASTY = Patience(attempts=2, first=0.01, longest=0.01)


class Stranger:
    """Somebody who writes straight into an index, by its alias or its own name."""

    def __init__(self, engine: Engine, index: str) -> None:
        self.engine, self.index = engine, index

    def send(self, method: str, *path: str, body: Any = None, **params: str) -> Any:
        def flow() -> Flow[Any]:
            allow = frozenset({404, 409})
            return (yield Request(method, path_of(self.index, *path), params, body, allow)).body

        return self.engine.run(flow())

    def put(self, id_: str, document: dict[str, Any], **params: str) -> Any:
        return self.send("PUT", "_doc", id_, body=document, **params)

    def change(self, id_: str, fields: dict[str, Any]) -> Any:
        """An update of the engine reads, merges and writes: it is refused, and lost, where another write falls between."""
        return self.send("POST", "_update", id_, body={"doc": fields}, retry_on_conflict="50")

    def delete(self, id_: str, **params: str) -> Any:
        return self.send("DELETE", "_doc", id_, **params)

    def bulk(self, documents: Iterable[tuple[str, dict[str, Any]]]) -> Any:
        lines = [line for id_, document in documents for line in ({"index": {"_id": id_}}, document)]
        return self.send("POST", "_bulk", body=tuple(lines))

    def get(self, id_: str, **params: str) -> dict[str, Any]:
        return dict(self.send("GET", "_doc", id_, **params))

    def count(self, query: dict[str, Any]) -> int:
        self.send("POST", "_refresh")
        return int(self.send("POST", "_count", body={"query": query})["count"])


def passed(engine: Engine, log: RedisLog, target: Target, **options: Any) -> FeedReport:
    """One pass of the feed."""
    return catch_up(engine, log, lambda _: target, target.alias, **{"patience": HASTY, **options})


def wrong(engine: Engine, target: Target, name: str = "plot_vector") -> dict[str, str]:
    """The documents whose vector is not that of their text, and what is wrong."""
    found: dict[str, str] = {}
    texts: dict[str, str] = {}
    documents = held(engine, target.alias)
    for id_, document in documents.items():
        text = text_of(target.spec.embeddings[name].source, document)
        vector = document.get(name)
        if text is None or vector is None:
            found |= {id_: "there is one"} if vector else {id_: "there is none"} if text else {}
        else:
            texts[id_] = text
    vectors = target.encoders[name].encode_documents(list(texts.values())) if texts else []
    for id_, vector in zip(texts, vectors, strict=True):
        if not np.allclose(documents[id_][name], vector, atol=1e-4):
            found[id_] = f"it is not that of {texts[id_]!r}"
    return found
