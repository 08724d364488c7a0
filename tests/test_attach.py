"""Adding vectors to an index that others made and go on writing: nothing of theirs changes, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from attaching import META, SHOP, an_index, filled, raw, shop_body, thing, without
from feeding import Stranger, passed, wrong
from filling import held, own_log
from test_cli import Shell
from test_feed_follow import Writer

from knnex.client import connect
from knnex.engines import Access, Engine, open_engine
from knnex.errors import IndexMissing, KnnexError, SpecMismatch, UnsupportedByEngine
from knnex.ingest import Event, RedisLog, Target, apply_events, make_target
from knnex.ingest.attach import attach, detach, examine, fill
from knnex.ingest.feed_state import feed_state
from knnex.mappings import Spec, drop, find, load_spec

FEATURE = "Vectors for an index that others made"


@pytest.fixture
def log(redis_url: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 13)
    yield opened
    for index in opened.indexes():
        opened.forget(index)
    opened.close()


@pytest.fixture
def shop(engine: Engine) -> Iterator[str]:
    with an_index(engine) as name:
        yield name


def attach_all(engine: Engine, index: str, model: Path, *fields: str) -> Target:
    """Attach as the command does."""
    spec = examine(engine, index, fields=fields, encoder=str(model)).proposal.spec
    return make_target(index, attach(engine, index, spec))


def mapping(engine: Engine, index: str) -> dict[str, Any]:
    return dict(raw(engine, "GET", f"/{index}/_mapping")[index]["mappings"])


@pytest.mark.feature(FEATURE)
def test_vectors_are_added_and_nothing_of_theirs_changes(engine: Engine, shop: str, log: RedisLog, tiny: Path) -> None:
    stranger = filled(engine, shop, 60)
    before, documents = mapping(engine, shop), held(engine, shop)
    prospect = examine(engine, shop, encoder=str(tiny))
    spec = prospect.proposal.spec
    assert (prospect.documents, spec.id) == (60, "_id")
    assert spec.embeddings["description_vector"].source == "{name}. {description}"
    assert load_spec(prospect.proposal.to_yaml()) == spec
    assert (mapping(engine, shop), held(engine, shop)) == (before, documents), "a proposal changes nothing"

    target = attach_all(engine, shop, tiny)
    done = fill(engine, log, shop)
    assert done
    assert (done.enriched, done.buried, done.behind) == (60, 0, 0)
    after = mapping(engine, shop)
    assert without(after, "_meta", "properties") == without(before, "_meta", "properties")
    assert without(after["properties"], "description_vector", "_knnex") == before["properties"]
    assert without(after["_meta"], "knnex") == META
    assert {
        id_: without(one, "description_vector", "_knnex") for id_, one in held(engine, shop).items()
    } == documents, "the shop's own vectors are among them"
    assert wrong(engine, target, "description_vector") == {}
    assert stranger.count({"exists": {"field": "theirs"}}) == 60


@pytest.mark.feature(FEATURE)
def test_it_is_searched_and_followed_by_its_own_name(
    engine: Engine, engine_url: str, shop: str, log: RedisLog, tiny: Path
) -> None:
    stranger = filled(engine, shop, 10)
    target = attach_all(engine, shop, tiny, "description")
    fill(engine, log, shop)
    with connect(engine_url) as cluster:
        hits = cluster.index(shop).search(held(engine, shop)["id-7"]["description"])
        assert hits[0].id == "id-7"
        assert hits[0]["maker"]["address"]["city"] == "Bonn"
    stranger.change("id-3", {"description": "a new text"})
    stranger.put("id-new", thing(99))
    stranger.delete("id-1")
    assert passed(engine, log, target).enriched == 2
    assert wrong(engine, target, "description_vector") == {}
    stranger.change("id-3", {"price": 1.5})
    assert passed(engine, log, target).enriched == 0
    assert stranger.count({"exists": {"field": "description_vector"}}) == 10
    assert stranger.count({"exists": {"field": "theirs"}}) == 10


@pytest.mark.feature(FEATURE)
def test_an_alias_of_theirs_is_a_name_as_good(engine: Engine, shop: str, log: RedisLog, tiny: Path) -> None:
    alias = f"{shop}-alias"
    stranger = filled(engine, shop, 5)
    narrow = {"filter": {"term": {"sku": "SKU-1"}}, "index_routing": "1"}
    raw(engine, "POST", "/_aliases", {"actions": [{"add": {"index": shop, "alias": alias, **narrow}}]})
    target = attach_all(engine, alias, tiny, "description")
    assert (target.stored.index, target.spec.index) == (shop, alias)
    done = fill(engine, log, alias)
    assert done
    assert done.enriched == 5, "those too that its filter hides, where they lie"
    assert stranger.count({"exists": {"field": "description_vector"}}) == 5


@pytest.mark.feature(FEATURE)
def test_once_more_changes_nothing_and_a_detach_leaves_the_vectors(
    engine: Engine, shop: str, log: RedisLog, tiny: Path
) -> None:
    stranger = filled(engine, shop, 20)
    target = attach_all(engine, shop, tiny)
    fill(engine, log, shop)
    after, version = mapping(engine, shop), stranger.get("id-3")["_version"]
    again = attach_all(engine, shop, tiny)
    assert again.stored == target.stored
    seen = fill(engine, log, shop)
    assert seen
    assert (seen.seen, seen.enriched) == (0, 0)
    with pytest.raises(SpecMismatch, match="attached already"):
        examine(engine, shop, fields=["status"])
    other = target.spec.model_copy(update={"embeddings": {"v": target.spec.embeddings["description_vector"]}})
    with pytest.raises(SpecMismatch, match="another spec"):
        attach(engine, shop, other)
    assert (mapping(engine, shop), stranger.get("id-3")["_version"]) == (after, version)

    assert detach(engine, log, shop).index == shop
    left = mapping(engine, shop)
    assert (left["_meta"], left["properties"]) == (META, after["properties"])
    assert raw(engine, "GET", f"/{shop}/_alias")[shop]["aliases"] == {}
    assert feed_state(log, shop) is None
    with pytest.raises(SpecMismatch, match="did not make"):
        detach(engine, log, shop)
    attach_all(engine, shop, tiny)
    back = fill(engine, log, shop)
    assert back
    assert (back.seen, back.enriched, back.encoded) == (20, 0, 0), "the vectors were there"


@pytest.mark.feature(FEATURE)
def test_while_they_write_nothing_of_theirs_is_lost(engine: Engine, log: RedisLog, tiny: Path) -> None:
    fields = {"title": {"type": "text"}, "plot": {"type": "text"}, "rev": {"type": "long"}}
    body = shop_body(engine.dialect.product, properties={**SHOP["properties"], **fields})
    with an_index(engine, body) as index:
        writers = [Writer(engine, index, name, 60) for name in range(4)]
        stranger = Stranger(engine, index)
        stranger.bulk((f"old-{one}", {**writers[0].film(), "theirs": [1.0, 2.0, one]}) for one in range(200))
        target = attach_all(engine, index, tiny, "title", "plot")
        [name] = target.spec.embeddings
        for writer in writers:
            writer.start()
        during = fill(engine, log, index)
        for writer in writers:
            writer.join()
        assert during
        assert during.enriched >= 200
        while passed(engine, log, target).behind:
            pass
        assert wrong(engine, target, name) == {}
        found = held(engine, index)
        for writer in writers:
            for id_, expected in writer.expected.items():
                there = found.get(id_)
                assert (there and without(there, name, "_knnex")) == expected, id_
        assert stranger.count({"exists": {"field": "theirs"}}) == 200
        assert not any("description" in one for one in found.values())


@pytest.mark.feature(FEATURE)
def test_killed_in_the_middle_it_goes_on_where_it_was(
    engine: Engine, engine_url: str, redis_url: str, shop: str, tiny: Path, tmp_path: Path
) -> None:
    filled(engine, shop, 1800)
    url = urlunsplit(urlsplit(redis_url)._replace(path="/13"))
    with_log = own_log(redis_url, 13)
    environment = {
        **os.environ,
        "KNNEX_URL": engine_url,
        "KNNEX_REDIS_URL": url,
        "KNNEX_LEASE": "1",
        "KNNEX_CACHE_DIR": str(tmp_path / "cache"),
    }
    words = [sys.executable, "-m", "knnex", "attach", shop, "--yes", "--encoder", str(tiny), "--embed", "description"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        while not ((state := feed_state(with_log, shop)) and 0 < state.behind < 1800) and killed.poll() is None:
            pass
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    left = Stranger(engine, shop).count({"bool": {"must_not": [{"exists": {"field": "description_vector"}}]}})
    target = attach_all(engine, shop, tiny)
    done = fill(engine, with_log, shop, lease=1.0)
    with_log.forget(shop)
    with_log.close()
    assert 0 < left < 1800
    assert done
    assert done.enriched == left
    assert Stranger(engine, shop).count({"exists": {"field": "description_vector"}}) == 1800
    assert target.stored.attached


@pytest.mark.feature(FEATURE)
def test_a_document_without_vector_is_buried_and_looked_at_again(
    engine: Engine, shop: str, log: RedisLog, tiny: Path
) -> None:
    stranger = filled(engine, shop, 3)
    target = attach_all(engine, shop, tiny, "link")
    stranger.put("odd", {"link": None, "maker": {"name": "Acme"}})
    spec = target.spec.model_copy(
        update={
            "embeddings": {
                "link_vector": target.spec.embeddings["link_vector"].model_copy(update={"source": "{maker}"})
            }
        }
    )
    odd = Target(shop, type(target.stored)(shop, spec, target.stored.resolved, attached=True), target.encoders)
    assert passed(engine, log, odd).buried == 4
    [first, *_] = log.buried(shop)
    assert "holds an object" in first.reason
    assert isinstance(first.event, Event)
    done = apply_events(engine, target, [first.event])
    assert (done.written + done.stale, done.buried) == (1, ())


def test_documents_of_others_are_written_by_others(engine: Engine, engine_url: str, shop: str, tiny: Path) -> None:
    stranger = filled(engine, shop, 3)
    attach_all(engine, shop, tiny)
    with connect(engine_url) as cluster:
        index = cluster.index(shop)
        for act in (
            lambda: index.upsert({"_id": "id-1", "name": "mine"}, inline=True),
            lambda: index.update({"_id": "id-1", "name": "mine"}),
            lambda: index.delete("id-1"),
        ):
            with pytest.raises(SpecMismatch, match="only adds vectors") as failure:
                act()
            assert "knnex follow" in str(failure.value.hint)
        with pytest.raises(SpecMismatch, match="documents of others"):
            cluster.drop(shop)
    assert stranger.count({"match_all": {}}) == 3


def refused(engine: Engine, name: str, error: type[KnnexError], said: str, **options: Any) -> None:
    with pytest.raises(error, match=said) as failure:
        examine(engine, name, **options)
    assert failure.value.hint, "the way out"


def test_what_is_no_ordinary_index_is_declined(engine: Engine, shop: str, tiny: Path) -> None:
    product = engine.dialect.product
    for name, error, said in (
        (f"{shop}-none", IndexMissing, "there is no index"),
        (f"{shop[:-2]}*", UnsupportedByEngine, "means several indexes"),
        (f"{shop},other", UnsupportedByEngine, "means several indexes"),
        ("_all", UnsupportedByEngine, "means several indexes"),
        ("far:shop", UnsupportedByEngine, "another cluster"),
        ("no name", IndexMissing, "is no name of an index"),
    ):
        refused(engine, name, error, said)
    filled(engine, shop, 2)
    refused(engine, shop, SpecMismatch, "did you mean 'description'", fields=["descripton"])
    for block in ("read_only", "write"):
        raw(engine, "PUT", f"/{shop}/_settings", {f"index.blocks.{block}": True})
        refused(engine, shop, SpecMismatch, f"index.blocks.{block}")
        raw(engine, "PUT", f"/{shop}/_settings", {f"index.blocks.{block}": None})
    raw(engine, "POST", f"/{shop}/_close")
    refused(engine, shop, SpecMismatch, "is closed")
    raw(engine, "POST", f"/{shop}/_open")
    with an_index(engine) as second:
        both = [{"add": {"index": one, "alias": f"{shop}-both"}} for one in (shop, second)]
        raw(engine, "POST", "/_aliases", {"actions": both})
        refused(engine, f"{shop}-both", SpecMismatch, "points at 2 indexes")
        raw(engine, "POST", "/_aliases", {"actions": [{"add": {"index": second, "alias": f"{shop}-w"}}]})
        with pytest.raises(SpecMismatch, match="is taken in this cluster"):
            attach_all(engine, shop, tiny, "description")
    with an_index(engine, shop_body(product, _source={"enabled": False})) as blind:
        refused(engine, blind, SpecMismatch, "keeps no _source")
    with an_index(engine, shop_body(product, _source={"excludes": ["price"]})) as partly:
        refused(engine, partly, SpecMismatch, "excludes: price")
    assert "knnex" not in mapping(engine, shop)["_meta"]


def test_a_data_stream_is_declined(opensearch_url: str) -> None:
    """Of the real engines that the suite starts, OpenSearch alone has the module."""
    engine = open_engine(opensearch_url, Access())
    name = f"knnex-test-{uuid4().hex[:12]}-stream"
    template = {"index_patterns": [name], "data_stream": {}, "priority": 900, "template": {"settings": {}}}
    raw(engine, "PUT", f"/_index_template/{name}", template)
    try:
        raw(engine, "PUT", f"/_data_stream/{name}")
        refused(engine, name, UnsupportedByEngine, "is a data stream")
        backing = raw(engine, "GET", f"/_data_stream/{name}")["data_streams"][0]["indices"][0]["index_name"]
        refused(engine, backing, UnsupportedByEngine, "belongs to the data stream")
    finally:
        raw(engine, "DELETE", f"/_data_stream/{name}")
        raw(engine, "DELETE", f"/_index_template/{name}")
        engine.close()


def test_an_index_that_knnex_made_is_not_attached(engine: Engine, index_name: str, tiny: Path) -> None:
    from filling import films, made

    made(engine, films(index_name, str(tiny)))
    refused(engine, index_name, SpecMismatch, "is an index that knnex made")


def test_an_index_without_text_is_declined_and_an_empty_one_asks_for_names(
    engine: Engine, shop: str, tiny: Path
) -> None:
    refused(engine, shop, SpecMismatch, "no field that looks like text", encoder=str(tiny))
    spec = examine(engine, shop, fields=["description"], encoder=str(tiny)).proposal.spec
    assert spec.embeddings["description_vector"].chunk is None
    body = shop_body(engine.dialect.product, properties={"sku": {"type": "keyword"}})
    with an_index(engine, body) as index:
        Stranger(engine, index).bulk([("1", {"sku": "a"}), ("2", {"sku": "b"})])
        Stranger(engine, index).send("POST", "_refresh")
        refused(engine, index, SpecMismatch, "--embed|no field", encoder=str(tiny))
        prospect = examine(engine, index, fields=["sku"], encoder=str(tiny))
        assert prospect.proposal.spec.embeddings["sku_vector"].source == "{sku}"


def test_too_many_fields_and_a_field_of_another_kind_are_told(engine: Engine, shop: str, tiny: Path) -> None:
    filled(engine, shop, 2)
    count = len(SHOP["properties"])
    raw(engine, "PUT", f"/{shop}/_settings", {"index.mapping.total_fields.limit": count + 8})
    with pytest.raises(SpecMismatch, match="does not take the fields") as failure:
        attach_all(engine, shop, tiny)
    assert "total_fields.limit" in str(failure.value.hint)
    spec: Spec = examine(engine, shop, encoder=str(tiny)).proposal.spec
    held_fields = {**spec.fields, "price": spec.fields["sku"]}
    with pytest.raises(SpecMismatch, match="of type double, and not keyword"):
        attach(engine, shop, spec.model_copy(update={"fields": held_fields}))
    with pytest.raises(SpecMismatch, match="did not make"):
        engine.run(find(shop))
    with pytest.raises(SpecMismatch, match="did not make"):
        engine.run(drop(shop))


def test_where_vectors_cannot_be_added_a_copy_is_proposed(
    engine: Engine, engine_url: str, redis_url: str, tmp_path: Path, tiny: Path
) -> None:
    product = engine.dialect.product
    settings = {"knn": False} if product == "opensearch" else {"disable_sequence_numbers": True}
    reason = "index.knn" if product == "opensearch" else "disable_sequence_numbers"
    body = shop_body(product, settings=settings)
    del body["mappings"]["properties"]["theirs"]
    with an_index(engine, body) as index:
        filled(engine, index, 4)
        shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
        told = shell("attach", index, "--yes", "--encoder", str(tiny), "--spec", "shop.yml")
        assert told.returncode == 1
        for said in (reason, "_reindex", "knnex create shop.yml", f"knnex follow {index}-knnex"):
            assert said in told.stderr
        spec = load_spec(tmp_path / "shop.yml")
        assert spec.index == f"{index}-knnex"
        assert "knnex" not in mapping(engine, index)["_meta"]
        made = shell("create", "shop.yml")
        assert made.returncode == 0, made.stderr
        with connect(engine_url) as cluster:
            done = cluster.index(spec.index).upsert({"_id": "id-1", **thing(1)}, inline=True)
            assert (done.in_index, cluster.index(spec.index).count()) == (1, 1)
            cluster.drop(spec.index)


@pytest.mark.feature(FEATURE)
def test_the_command_proposes_asks_fills_and_lets_go(
    engine: Engine, engine_url: str, redis_url: str, shop: str, tmp_path: Path, tiny: Path
) -> None:
    filled(engine, shop, 12)
    shell = Shell(tmp_path, KNNEX_URL=engine_url, KNNEX_REDIS_URL=redis_url)
    before = mapping(engine, shop)
    dry = shell("attach", shop, "--dry-run", "--spec", "shop.yml", "--encoder", str(tiny))
    assert dry.returncode == 0, dry.stderr
    assert f"PUT /{shop}/_mapping" in dry.stdout
    assert "# description: prose" in dry.stdout
    assert mapping(engine, shop) == before
    no = shell("attach", shop, "--spec", "shop.yml", give="n\n")
    assert (no.returncode, mapping(engine, shop)) == (1, before)
    both = shell("attach", shop, "--spec", "shop.yml", "--embed", "name")
    assert (both.returncode, "--embed too" in both.stderr) == (1, True)
    done = shell("attach", shop, "--spec", "shop.yml", give="y\n")
    assert (done.returncode, "12 documents were given vectors" in done.stdout) == (0, True), done.stderr
    assert f"knnex follow {shop}" in done.stdout
    again = shell.json("attach", shop)
    assert (again["new"], again["filled"]["enriched"]) == (False, 0)
    refused_drop = shell("drop", shop, "--yes")
    assert (refused_drop.returncode, "knnex detach" in refused_drop.stderr) == (1, True)
    off = shell("detach", shop, "--yes")
    assert (off.returncode, "description_vector, _knnex stay" in off.stdout) == (0, True), off.stderr
    assert json.dumps(mapping(engine, shop)["_meta"], sort_keys=True) == json.dumps(META, sort_keys=True)
