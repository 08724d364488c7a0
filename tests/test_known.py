"""What was deleted in an index since it was read whole is found by counting, and hardly anything else is looked at."""

from __future__ import annotations

import random

import pytest
from feeding import Stranger
from filling import films, made

from knnex.engines import Engine
from knnex.ingest import Target, feed
from knnex.ingest.reindex import known as module
from knnex.ingest.reindex.known import Known
from knnex.ingest.reindex.reading import Held, scan

MANY = 400


@pytest.fixture(params=["whole", "chunked"])
def target(request: pytest.FixtureRequest, engine: Engine, index_name: str, minilm: str) -> Target:
    embedding = {"chunk": {"max_tokens": 16, "overlap": 4}} if request.param == "chunked" else {}
    return made(engine, films(index_name, minilm, settings={"number_of_shards": 2}, embedding=embedding))


def read(engine: Engine, target: Target) -> tuple[dict[int, feed.Head], list[Held]]:
    """Where the shards stand, and all that a search sees."""
    heads = engine.run(feed.heads(target.stored.index))
    engine.run(feed.refresh(target.stored.index))
    spans = {shard: (-1, head.checkpoint) for shard, head in heads.items()}
    found = engine.run(scan(target.stored, engine.dialect, spans, 10_000))
    return heads, [one for held in found.values() for one in held]


@pytest.mark.parametrize(("spans", "closely"), [(5_000, 50_000), (20, 50_000), (20, 7), (1, 50)])
def test_of_many_documents_those_that_are_gone_are_found(
    engine: Engine, target: Target, monkeypatch: pytest.MonkeyPatch, spans: int, closely: int
) -> None:
    monkeypatch.setattr(module, "_SPANS", spans)
    monkeypatch.setattr(module, "_CLOSELY", closely)
    stranger, chance = Stranger(engine, target.alias), random.Random(spans + closely)
    chunks = [{"text": "a", "start": 0, "end": 1}, {"text": "b", "start": 2, "end": 3}]
    nested = {"plot_vector": chunks} if target.spec.embeddings["plot_vector"].chunk else {}
    stranger.bulk((str(number), {"title": f"film {number}"} | nested) for number in range(MANY))
    heads, found = read(engine, target)
    assert (len(found), len(heads)) == (MANY, 2)
    known = Known(heads.values())
    known.note(found)

    def suspects() -> list[str]:
        named = engine.run(known.suspects(target.stored.index, engine.dialect, heads))
        assert len(set(named)) == len(named)
        return sorted(id_ for id_, _ in named)

    assert suspects() == []
    ids = chance.sample([one.id for one in found], 90)
    gone, changed, both = ids[:40], ids[40:80], ids[80:]
    for id_ in [*gone, *both]:
        stranger.delete(id_)
    stranger.bulk((id_, {"title": "another"} | nested) for id_ in [*changed, *both])
    _, later = read(engine, target)
    assert suspects() == sorted(ids), "of what was written since nobody has told"
    known.note(one for one in later if one.id in changed or one.id in both)
    assert suspects() == sorted(gone)
    known.forget((id_, None) for id_ in gone)
    assert suspects() == []
    known.watch([("nobody has seen it", None)])
    assert suspects() == ["nobody has seen it"]
