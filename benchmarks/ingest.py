"""Documents per second through log, worker, encoder and bulk write, beside each part alone and beside plain code.

    make bench ARGS="--engine opensearch --documents 600 --rounds 5"

All ways handle the same documents in the same run: each round has texts of its own, so that no cache helps, and the
order of the ways turns. A round counts only when the index holds every document, with vectors as sentence-transformers makes them.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import numpy as np

from knnex import Spec, connect
from knnex.client import Cluster
from knnex.encoders import TextEncoder, load_encoder
from knnex.engines import Request
from knnex.ingest import Item, write

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "stdlib_search"))
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Bench:
    """The documents of each round, and the ways to get them into an index."""

    def __init__(self, cluster: Cluster, texts: list[str]) -> None:
        self.cluster, self.texts, self.number = cluster, texts, 0
        self.salt = secrets.token_hex(2)
        encoder = load_encoder(self.spec("any").embeddings["meaning"])
        assert isinstance(encoder, TextEncoder)
        self.encoder, self.model = encoder, encoder.model.model
        self.ready: dict[int, np.ndarray[Any, Any]] = {}

    @staticmethod
    def spec(index: str) -> Spec:
        embedding = {"source": "{text}", "encoder": MODEL, "quantization": "int8"}
        return Spec.model_validate(
            {"index": index, "fields": {"text": {"type": "text"}}, "embeddings": {"meaning": embedding}}
        )

    def documents(self, number: int) -> list[dict[str, str]]:
        """This round's documents: two words make every text a new one, in this run and in any other."""
        return [{"id": str(place), "text": f"{self.salt} {number} {text}"} for place, text in enumerate(self.texts)]

    def timed(self, number: int, work: Callable[[str, list[dict[str, str]]], None]) -> float:
        """Documents per second of `work` on a new index, which is checked and dropped afterwards."""
        self.number += 1
        name = f"bench-{self.number}"
        self.cluster.create(self.spec(name))
        documents = self.documents(number)
        try:
            started = time.perf_counter()
            work(name, documents)
            took = time.perf_counter() - started
            self.verify(name, documents)
        finally:
            self.cluster.drop(name)
        return len(documents) / took

    def verify(self, name: str, documents: list[dict[str, str]]) -> None:
        """Every document is there, and a sample of vectors is what sentence-transformers makes of the texts."""
        index = self.cluster.index(name)
        assert index.count() == len(documents), f"{name} holds {index.count()} of {len(documents)}"
        sample = documents[:: max(1, len(documents) // 20)]
        body = {
            "query": {"ids": {"values": [one["id"] for one in sample]}},
            "size": len(sample),
            "_source": self.cluster.engine.dialect.source_with_vectors(["meaning"]),
        }
        hits = self.cluster.engine.send(Request("POST", f"/{name}/_search", body=body)).body["hits"]["hits"]
        stored = {hit["_id"]: np.array(hit["_source"]["meaning"]) for hit in hits}
        expected = self.model.encode([one["text"] for one in sample], show_progress_bar=False)
        for one, vector in zip(sample, expected, strict=True):
            found = stored[one["id"]]
            cosine = float(found @ vector / np.linalg.norm(found) / np.linalg.norm(vector))
            assert cosine > 0.9999, f"document {one['id']} of {name}: cosine {cosine}"

    def through_the_log(self, number: int) -> float:
        return self.timed(number, lambda name, documents: self._complete(self.cluster.index(name).ingest(documents)))

    def inline(self, number: int) -> float:
        return self.timed(
            number, lambda name, documents: self._complete(self.cluster.index(name).ingest(documents, inline=True))
        )

    @staticmethod
    def _complete(report: Any) -> None:
        assert (report.complete, report.cached) == (True, 0), report

    def encoding_alone(self, number: int) -> float:
        texts = [one["text"] for one in self.documents(number)]
        started = time.perf_counter()
        self.ready[number] = self.encoder.encode_documents(texts)
        return len(texts) / (time.perf_counter() - started)

    def writing_alone(self, number: int) -> float:
        if number not in self.ready:
            self.encoding_alone(number)

        def work(name: str, documents: list[dict[str, str]]) -> None:
            items = [
                Item(one["id"], 1, {**one, "meaning": vector})
                for one, vector in zip(documents, self.ready[number], strict=True)
            ]
            outcomes = write(self.cluster.engine, name, items)
            assert all(outcome.status == "written" for outcome in outcomes)

        return self.timed(number, work)

    def by_hand_list(self, number: int) -> float:
        def work(name: str, documents: list[dict[str, str]]) -> None:
            vectors = self.model.encode([one["text"] for one in documents], show_progress_bar=False)
            self._bulk(name, zip(documents, vectors, strict=True))

        return self.timed(number, work)

    def by_hand_loop(self, number: int) -> float:
        def work(name: str, documents: list[dict[str, str]]) -> None:
            self._bulk(name, ((one, self.model.encode(one["text"], show_progress_bar=False)) for one in documents))

        return self.timed(number, work)

    def _bulk(self, name: str, pairs: Any) -> None:
        if self.cluster.engine.dialect.product == "elasticsearch":
            from elasticsearch import helpers
        else:
            from opensearchpy import helpers
        actions = (
            {"_index": name, "_id": one["id"], "_source": {**one, "meaning": vector.tolist()}} for one, vector in pairs
        )
        helpers.bulk(self.cluster.engine.client, actions)


def texts_of(kind: str, count: int) -> list[str]:
    """Real texts: first lines of docstrings (`short`), or whole docstrings (`mixed`)."""
    from corpus import documents

    field = {"short": "first_line", "mixed": "body"}[kind]
    every = list(dict.fromkeys(str(one[field]) for one in documents()))
    return every[:: max(1, len(every) // count)][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["elasticsearch", "opensearch"], default="elasticsearch")
    parser.add_argument("--texts", choices=["short", "mixed"], default="mixed")
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = texts_of(options.texts, options.documents)
    with bench.servers(options.engine) as running, connect(running.engine_url, redis_url=running.redis_url) as cluster:
        work = Bench(cluster, texts)
        ways = {
            "knnex, through log and worker": work.through_the_log,
            "knnex, inline": work.inline,
            "encoding alone": work.encoding_alone,
            "writing alone": work.writing_alone,
            "by hand, encode(list) then bulk": work.by_hand_list,
            "by hand, encode(text) in a loop": work.by_hand_loop,
        }
        for way in ways.values():  # the JVM and the models warm up
            way(10**6)
        figures, probes = bench.rounds(ways, options.rounds)
        tokens = [work.encoder.count_tokens(text) for text in texts]
        engine = str(cluster.engine.dialect)
    ours = figures["knnex, through log and worker"]
    limit = [1 / (1 / a + 1 / b) for a, b in zip(figures["encoding alone"], figures["writing alone"], strict=True)]
    ratios = {
        f"log and worker / {name}": bench.ratio(ours, theirs) for name, theirs in figures.items() if theirs is not ours
    }
    ratios["log and worker / encoding and writing one after the other"] = bench.ratio(ours, limit)
    result = {
        "engine": engine,
        "texts": f"{len(texts)} {options.texts} docstrings, median {int(np.median(tokens))} tokens, most {max(tokens)}",
        "rounds": options.rounds,
        "docs_per_second": {name: [round(one, 1) for one in each] for name, each in figures.items()},
        "ratios": ratios,
        "probe_spread": round(max(probes) / min(probes), 3),
    }
    print(
        *(
            f"{name:<62} {one['median']:6.2f}  ({one['least']:.2f} to {one['most']:.2f})"
            for name, one in ratios.items()
        ),
        sep="\n",
    )
    print("kept:", bench.keep(f"ingest-{options.engine}-{options.texts}", result).name)


if __name__ == "__main__":
    main()
