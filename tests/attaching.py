"""What the tests of attaching share: an index as a shop makes it, which knows nothing of knnex, and its goods."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from feeding import Stranger

from knnex.engines import Engine, Request, path_of

WORDS = ("cat", "dog", "robot", "mat", "log", "human", "passage", "query")
#: Three dims of the shop's own, which Elasticsearch from 9.2 on does not show.
LUCENE = {"name": "hnsw", "engine": "lucene", "space_type": "l2"}
THEIRS = {
    "elasticsearch": {"type": "dense_vector", "dims": 3},
    # By default it is of faiss, whose library the distribution that is tested with lacks: a document ends the node.
    "opensearch": {"type": "knn_vector", "dimension": 3, "method": LUCENE},
}
META = {"owner": "shop team", "schema": {"version": 7}}
SHOP: dict[str, Any] = {
    "dynamic_templates": [{"codes": {"match": "*_code", "mapping": {"type": "keyword"}}}],
    "properties": {
        "sku": {"type": "keyword"},
        "name": {"type": "text", "fields": {"raw": {"type": "keyword", "ignore_above": 256}}},
        "description": {"type": "text"},
        "status": {"type": "text"},
        "link": {"type": "text"},
        "price": {"type": "double"},
        "maker": {
            "properties": {
                "name": {"type": "text"},
                "address": {"properties": {"city": {"type": "keyword", "ignore_above": 64}}},
            }
        },
        "brand": {"type": "alias", "path": "maker.name"},
        "reviews": {"type": "nested", "properties": {"by": {"type": "keyword"}, "text": {"type": "text"}}},
    },
}


def shop_body(product: str, *, settings: Mapping[str, Any] | None = None, **mappings: Any) -> dict[str, Any]:
    """The body that makes the shop's index."""
    knn = {"knn": True} if product == "opensearch" else {}
    held = copy.deepcopy({**SHOP, "_meta": META, **mappings})
    held["properties"]["theirs"] = THEIRS[product]
    return {
        "settings": {"number_of_shards": 2, "number_of_replicas": 0, **knn, **(settings or {})},
        "mappings": held,
    }


def thing(number: int, words: int = 6) -> dict[str, Any]:
    """One of the shop's goods."""
    text = " ".join(WORDS[(number * 3 + place * place) % len(WORDS)] for place in range(words))
    return {
        "sku": f"SKU-{number}",
        "name": f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} {'x' * (1 + number % 7)}",
        "description": f"{text} of the {'very ' * (number % 5)}best",
        "status": "in stock" if number % 2 else "sold out",
        "link": f"https://shop.example/things/{number}",
        "price": number / 4,
        "maker": {"name": "Acme", "address": {"city": "Bonn"}},
        "reviews": [{"by": "ann", "text": "good enough for me"}],
        "theirs": [0.25, 0.5, number + 1.0],
        "shelf_code": f"A{number}",
    }


def raw(engine: Engine, method: str, path: str, body: Any = None, **params: str) -> Any:
    """One request, as anybody would send it."""

    def flow() -> Any:
        return (yield Request(method, path, params, body, frozenset({404}))).body

    return engine.run(flow())


@contextmanager
def an_index(engine: Engine, body: Mapping[str, Any] | None = None) -> Iterator[str]:
    """The shop's index, deleted afterwards."""
    name = f"knnex-test-{uuid4().hex[:12]}"
    raw(engine, "PUT", path_of(name), body or shop_body(engine.dialect.product))
    try:
        yield name
    finally:
        raw(engine, "DELETE", path_of(name))


def filled(engine: Engine, index: str, count: int) -> Stranger:
    """The shop's writer, which has put goods there under ids that are no field of theirs."""
    stranger = Stranger(engine, index)
    for start in range(0, count, 500):
        answer = stranger.bulk((f"id-{one}", thing(one)) for one in range(start, min(count, start + 500)))
        assert not answer["errors"], answer
    stranger.send("POST", "_refresh")
    return stranger


def without(held: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A dict without some keys."""
    return {key: value for key, value in held.items() if key not in names}
