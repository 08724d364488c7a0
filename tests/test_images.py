"""Embeddings of pictures: the encoder, indexes that hold both pictures and words, and queries by either."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from filling import draining, held, made, own_log
from gallery import drawn, plain, saved, uri, web
from served import Server, serving
from tiny import tiny_clip, tiny_model, tiny_vit
from typer.testing import CliRunner

from knnex import F, Picture, Query, Text, load_spec
from knnex.cli import app
from knnex.client import Cluster, connect
from knnex.encoders import ImageEncoder, TextEncoder, VectorCache, encode_cached, fingerprint, load_encoder, resolve
from knnex.encoders.pictures import Pictures
from knnex.encoders.queries import query_cache
from knnex.encoders.remote import RemoteEncoder, _pool
from knnex.engines import Engine
from knnex.errors import EncoderError, KnnexError, ModelUnavailable, QueryError, SpecError
from knnex.ingest import Event, apply_events, ingest
from knnex.ingest.audit import AuditReport, audit
from knnex.ingest.costing import cost
from knnex.ingest.log import Buried
from knnex.mappings import Embedding, Stored
from knnex.query import plan
from knnex.settings import settings

PNG, JPEG = saved(drawn(1)), saved(drawn(1), "JPEG", quality=90)
FIELDS: dict[str, Any] = {"title": {"type": "text"}, "picture": {"type": "keyword", "doc_values": False, "index": False},
                          "kind": {"type": "keyword"}}  # fmt: skip
COUNT = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures by their numbers, 0.png and on."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        (root / f"{number}.png").write_bytes(saved(drawn(number)))
    (root / "broken.png").write_bytes(PNG[:60])
    return root


@pytest.fixture
def images(folder: Path, fresh_settings: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Settings under which that folder is read."""
    fresh_settings.setattr("knnex.encoders.registry._loaded", {})
    fresh_settings.setenv("KNNEX_IMAGES", str(folder))
    query_cache.cache_clear()
    yield fresh_settings
    query_cache.cache_clear()


def look(clip: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "image", "source": ["picture"], "encoder": str(clip)} | more


# ---- the spec ----


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"source": ["picture", "title"]}, r"look\.source: a picture is in one field"),
        ({"source": "{picture} {title}"}, r"look\.source: a picture is in one field"),
        (
            {"source": "images/{picture}"},
            r"look\.source: a picture is in one field and nothing beside it; write \[picture\]",
        ),
        ({"chunk": {"unit": "sentence"}}, r"look\.chunk: a picture has no passages"),
        ({"document_prompt": "photo: "}, r"look\.document_prompt: nothing is put before a picture"),
        ({"kind": "sound"}, "look.kind"),
    ],
)
def test_what_is_said_of_a_picture_must_be_so(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_spec({"index": "dresses", "fields": FIELDS, "embeddings": {"look": look(Path("clip"), **declared)}})


def test_one_field_is_written_in_two_ways(clip: Path) -> None:
    for source in (["picture"], "{picture}"):
        assert load_spec({"index": "d", "fields": FIELDS, "embeddings": {"look": look(clip, source=source)}})


def test_pictures_have_a_fingerprint_of_their_own(clip: Path, tmp_path: Path) -> None:
    text = Embedding(source=["picture"], encoder=str(clip))
    image = Embedding(source=["picture"], encoder=str(clip), kind="image")
    prints = {fingerprint(load_encoder(one), one) for one in (text, image)}
    other = Embedding(source=["picture"], encoder=str(tiny_clip(tmp_path, seed=1)), kind="image")
    asked = image.model_copy(update={"query_prompt": "a photo of "})
    assert len(prints | {fingerprint(load_encoder(other), other)}) == 3
    assert fingerprint(load_encoder(asked), asked) in prints


# ---- the encoder ----


def test_a_picture_has_one_vector_however_it_is_given(clip: Path, folder: Path, images: pytest.MonkeyPatch) -> None:
    images.setenv("KNNEX_IMAGE_HOSTS", '["127.0.0.1"]')
    encoder = ImageEncoder(str(clip))
    with web(PNG) as site:
        rows = encoder.encode_documents([uri(PNG), plain(PNG), "1.png", f"{site.url}/picture", uri(saved(drawn(2)))])
    assert rows.shape == (5, 16)
    assert np.abs(rows[:4] - rows[0]).max() == 0
    assert np.abs(rows[4] - rows[0]).max() > 0.01
    assert np.abs(encoder.encode_queries([uri(PNG)])[0] - rows[0]).max() < 1e-6
    assert (encoder.max_tokens, encoder.count_tokens(plain(PNG)), encoder.offsets(plain(PNG))) == (0, 0, [])
    assert encoder.encode_documents([]).shape == encoder.encode_queries([]).shape == (0, 16)
    there = pickle.loads(pickle.dumps(encoder))  # as it goes to the process where suspects are tried
    assert np.abs(there.encode_documents(["1.png"]) - rows[0]).max() < 1e-6


def test_it_is_what_the_library_makes_of_the_picture(clip: Path, vit: Path) -> None:
    from sentence_transformers import SentenceTransformer

    drawings = [drawn(number) for number in range(70)]
    for model in (clip, vit):
        theirs = SentenceTransformer(str(model), device="cpu").encode(drawings)
        ours = ImageEncoder(str(model)).encode_documents([uri(saved(one)) for one in drawings])
        assert np.abs(ours - theirs).max() < 1e-5


def test_a_tiny_picture_is_one_too(clip: Path) -> None:
    """Libraries take three rows of pixels for three colours."""
    encoder = ImageEncoder(str(clip))
    made = encoder.encode_documents([uri(saved(drawn(3).resize((side, side)).resize((64, 64)))) for side in (1, 3)])
    given = encoder.encode_documents([uri(saved(drawn(3).resize((side, side)))) for side in (1, 3)])
    assert np.abs(made[0] - given[0]).max() < 1e-5
    assert np.abs(made[1] - given[1]).max() < 0.5


def test_text_leads_nowhere(clip: Path, folder: Path, images: pytest.MonkeyPatch) -> None:
    """The library would read these files and URLs; for us they are words, on either kind of encoder."""
    images.setenv("KNNEX_IMAGE_HOSTS", '["127.0.0.1"]')
    with web(PNG) as site:
        texts = [str(folder / "1.png"), "1.png", f"{site.url}/picture.png", f"{site.url}/picture.jpg"]
        seen = ImageEncoder(str(clip))
        rows = seen.encode_queries(texts)
        read = TextEncoder(str(clip))
        assert np.abs(read.encode_queries(texts) - rows).max() < 1e-5
        assert np.abs(read.encode_documents([*texts, uri(PNG)])[:4] - rows).max() < 1e-5
        assert site.asked == []
    assert np.abs(rows - seen.encode_documents([uri(PNG)])).max(axis=1).min() > 0.01
    assert read.encode_queries(["a long text " * 200]).shape == (1, 16)  # longer than the model's positions
    assert np.abs(read.encode_documents([uri(PNG)]) - seen.encode_documents([uri(PNG)])).max() > 0.01


def test_texts_and_pictures_are_asked_together(clip: Path) -> None:
    encoder = ImageEncoder(str(clip), query_prompt="photo ")
    mixed = encoder.encode_queries(["a dress", uri(PNG), "a hat", uri(JPEG, "jpeg")])
    assert np.abs(mixed[[1, 3]] - encoder.encode_documents([uri(PNG), uri(JPEG, "jpeg")])).max() < 1e-5
    assert np.abs(mixed[0] - ImageEncoder(str(clip)).encode_queries(["photo a dress"])[0]).max() < 1e-5
    with pytest.raises(QueryError, match="cannot be read: it is damaged"):
        encoder.encode_queries(["a dress", uri(PNG[:60])])


def test_models_that_see_and_models_that_read(vit: Path, tmp_path: Path) -> None:
    sees = ImageEncoder(str(vit))
    assert sees.encode_queries([uri(PNG)]).shape == (1, 32)
    with pytest.raises(QueryError, match="reads pictures and no text") as caught:
        sees.encode_queries(["a dress"])
    assert "image=" in str(caught.value.hint)
    with pytest.raises(ModelUnavailable, match="reads no text, only image"):
        TextEncoder(str(vit))
    with pytest.raises(ModelUnavailable, match="reads no pictures, only text"):
        ImageEncoder(str(tiny_model(tmp_path)))


def test_what_cannot_be_read_harms_no_other(clip: Path, images: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = ImageEncoder(str(clip))
    references = ["1.png", "broken.png", uri(PNG), "http://127.0.0.1:1/x", *["2.png"] * 40, "gone.png"]
    vectors, unread = encoder.encode_readable(references)
    assert sorted(unread) == [1, 3, 44]
    assert np.isnan(vectors[[1, 3, 44]]).all()
    assert np.isfinite(np.delete(vectors, [1, 3, 44], axis=0)).all()
    cache = VectorCache(tmp_path / "vectors.sqlite")
    for encoded, hits in ((2, 0), (0, 2)):
        done = encode_cached(encoder, cache, references)
        assert (done.encoded, done.hits, len(done.unread)) == (encoded, hits, 3) or done.encoded + done.hits == 3
        assert set(done.unread) == {"broken.png", "http://127.0.0.1:1/x", "gone.png"}
    cache.close()
    with pytest.raises(EncoderError, match=r"broken\.png.*damaged"):
        encoder.encode_documents(references)
    with pytest.raises(EncoderError) as caught:
        encoder.encode_documents([uri(PNG[:60]) + "A" * 100_000])
    assert len(str(caught.value)) < 300


def test_what_pictures_cost(clip: Path, images: pytest.MonkeyPatch) -> None:
    embedding = Embedding(**look(clip))
    sample: list[dict[str, object]] = [{"picture": f"{number}.png"} for number in range(COUNT)]
    found = cost(
        "look", embedding, load_encoder(embedding), 2400, [*sample, {"picture": "gone.png"}, {}], None, seconds=0.1
    )
    assert (found.tokens, found.texts) == (0, round(2400 * 25 / 26))
    assert min(found.rate or 0, found.seconds or 0) > 0
    none = cost("look", embedding, load_encoder(embedding), 10, [{"picture": "gone.png"}], None, seconds=0.1)
    assert (none.rate, none.seconds) == (0, None)


# ---- indexes ----


def shop(index: str, clip: Path, words: Path, **more: Any) -> dict[str, Any]:
    return {"index": index, "fields": FIELDS, "embeddings": {"look": look(clip, **more), "meaning": {"source": "{title}", "encoder": str(words)}}}  # fmt: skip


def clothes() -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "title": f"a cat {number}",
            "picture": f"{number}.png",
            "kind": ("dress", "hat")[number % 2],
        }
        for number in range(COUNT)
    ]


@pytest.fixture
def cluster(engine_url: str, images: pytest.MonkeyPatch) -> Iterator[Cluster]:
    opened = connect(engine_url)
    yield opened
    opened.close()


@pytest.mark.feature("Pictures and texts in one index, asked by either")
def test_an_index_of_pictures_and_words(
    engine: Engine, cluster: Cluster, index_name: str, clip: Path, tiny: Path, folder: Path
) -> None:
    index = cluster.create(shop(index_name, clip, tiny))
    broken = [{"id": "broken", "title": "a dog", "picture": "broken.png"}, {"id": "words", "title": "a dog"},
              {"id": "away", "title": "a dog", "picture": "http://169.254.169.254/latest"}]  # fmt: skip
    report = index.ingest([*clothes(), *broken], inline=True)
    assert (report.read, index.count()) == (COUNT + 3, COUNT + 1)
    assert {one.id for one in report.buried} == {"broken", "away"}
    assert re.search("no public address.*damaged", str(sorted(report.buried, key=lambda one: one.id)))
    # Every picture finds itself, also when it was saved otherwise.
    for number in (1, 7, 18):
        for image in (folder / f"{number}.png", saved(drawn(number), "JPEG", quality=92), uri(saved(drawn(number)))):
            assert index.search(Query().semantic("look", image=image).limit(3)).ids[0] == str(number)
    odd = index.search(Query().semantic("look", image=folder / "4.png").where(F.kind == "hat").limit(COUNT))
    assert [hit["kind"] for hit in odd] == ["hat"] * (COUNT // 2)
    assert "words" not in index.search(Query().semantic("look", image=PNG).limit(100)).ids
    # Words ask for pictures, a text alone asks both; pictures and words are fused.
    assert len(index.search(Query("a red dress").semantic("look").limit(5))) == 5
    assert len(index.search("a red dress")) == 10
    fused = Query().semantic("look", image=folder / "9.png", weight=9).semantic("meaning", "cat 9").limit(3)
    assert index.search(fused).ids[0] == "9"
    # By example: a picture, a document's, and both.
    assert index.search(Query().semantic("look").like(Picture(folder / "5.png"))).ids[0] == "5"
    assert "5" not in index.search(Query().semantic("look").like("5")).ids
    assert len(index.search(Query().semantic("look").like("5", Picture(PNG), Text("hat")).limit(4))) == 4
    away = index.search(Query().semantic("look", image=folder / "5.png").unlike(Picture(folder / "5.png"), share=2))
    assert away.ids[0] != "5"
    # Nothing that is told carries the picture.
    asked = Query().semantic("look", image=folder / "5.png").like(Picture(folder / "6.png"))
    for told in (repr(asked), "\n".join(index.explain(asked)), repr(index.search(asked)), repr(index.profile(asked))):
        assert plain(saved(drawn(5)))[200:240] not in told
        assert plain(saved(drawn(6)))[200:240] not in told
    assert "image/png" not in index.to_console(asked)
    assert index.verify(encode=COUNT).clean


def test_the_command_line_asks_by_a_picture(
    engine_url: str, cluster: Cluster, index_name: str, clip: Path, tiny: Path, folder: Path
) -> None:
    cluster.create(shop(index_name, clip, tiny)).ingest(clothes(), inline=True)

    def asked(*words: str) -> Any:
        return CliRunner().invoke(app, ["search", index_name, *words, "--url", engine_url])

    assert json.loads(asked("--image", str(folder / "5.png"), "--json").stdout)[0]["id"] == "5"
    both = json.loads(asked("a cat", "--where", "kind=hat", "--image", str(folder / "5.png"), "--json").stdout)
    assert {name for hit in both for name in hit["parts"]} == {"look", "meaning"}
    assert "picture 'gone.png' cannot be used" in str(asked("--image", "gone.png").exception)
    assert asked().exit_code == 2
    cluster.drop(index_name)
    plain_spec = shop(index_name, clip, tiny)
    del plain_spec["embeddings"]["look"]
    cluster.create(plain_spec)
    assert "no embedding of pictures" in str(asked("--image", str(folder / "5.png")).exception)


def test_a_changed_reference_is_read_again_and_no_other(
    engine: Engine, index_name: str, clip: Path, tiny: Path, images: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = VectorCache(tmp_path / "vectors.sqlite")
    target = made(engine, load_spec(shop(index_name, clip, tiny)), cache)
    events = [Event(target.alias, one["id"], "upsert", one, 10) for one in clothes()]
    assert apply_events(engine, target, events).encoded == 2 * COUNT
    before = held(engine, index_name)
    assert before["3"]["_knnex"]["vectors"]["look"]["fingerprint"] == target.stored.resolved["look"].fingerprint
    changed = [{**one, "picture": "0.png"} if one["id"] == "3" else one for one in clothes()]
    done = apply_events(engine, target, [Event(target.alias, one["id"], "upsert", one, 11) for one in changed])
    assert (done.written, done.encoded, done.cached) == (COUNT, 0, 2 * COUNT)
    after = held(engine, index_name)
    differ = [id_ for id_ in before if np.abs(np.subtract(before[id_]["look"], after[id_]["look"])).max() > 1e-6]
    assert differ == ["3"]
    assert after["3"]["look"] == after["0"]["look"]
    assert audit(engine, target.stored, open_target=lambda: target, encode=COUNT).clean
    cache.close()


def test_workers_bury_what_cannot_be_read_and_write_the_rest(
    engine: Engine, redis_url: str, index_name: str, clip: Path, tiny: Path, images: pytest.MonkeyPatch
) -> None:
    log = own_log(redis_url, 5)
    target = made(engine, load_spec(shop(index_name, clip, tiny)))
    spoilt = [{"id": f"gone-{number}", "title": "a dog", "picture": f"gone-{number}.png"} for number in range(10)]
    try:
        with draining(log, engine):
            report = ingest(engine, target.spec, [*clothes()[:12], *spoilt], log)
        assert {one.id for one in report.buried} == {one["id"] for one in spoilt}
        assert set(held(engine, index_name)) == {str(number) for number in range(12)}
        found: Sequence[Buried] = log.buried(index_name)
        assert len(found) == 10
        assert all("no such file in KNNEX_IMAGES" in one.reason for one in found)
    finally:
        log.forget(index_name)
        log.close()


@pytest.mark.parametrize("how", [{"pictures": True}, {"encode": 1_000}], ids=["pictures", "encode"])
def test_an_audit_tells_of_pictures_that_can_no_longer_be_read(
    engine: Engine, index_name: str, clip: Path, tiny: Path, images: pytest.MonkeyPatch, tmp_path: Path, how: Any
) -> None:
    """They keep their vectors, are told as what they are, and a repair brings them back once they can be read."""
    images.setenv("KNNEX_IMAGES", str(tmp_path))
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes(saved(drawn(number)))
    target = made(engine, load_spec(shop(index_name, clip, tiny)))
    never = {"title": "a dog", "picture": "never.png"}
    events = [Event(target.alias, one["id"], "upsert", one, 10) for one in clothes()]
    assert len(apply_events(engine, target, [*events, Event(target.alias, "never", "upsert", never, 10)]).buried) == 1

    def told(**more: Any) -> AuditReport:
        return audit(engine, target.stored, open_target=lambda: target, **more)

    (tmp_path / "3.png").unlink()
    (tmp_path / "5.png").write_bytes(PNG[:60])
    target.encoders["look"].pictures.folder = tmp_path  # type: ignore[attr-defined]
    assert told().clean
    found = told(**how)
    assert found.faults == {"unreadable": 2}
    assert {(one.id, one.embedding) for one in found.examples} == {("3", "look"), ("5", "look")}
    assert "no such file in KNNEX_IMAGES" in "".join(one.detail for one in found.examples if one.id == "3")
    assert "it is damaged" in "".join(one.detail for one in found.examples if one.id == "5")
    assert found.pictures == (COUNT if "pictures" in how else None)
    left = told(repair=True, **how)
    assert (left.repaired, left.left_count) == (0, 2)
    assert {one.kind for one in left.left} == {"unreadable"}
    assert set(held(engine, index_name)["3"]) >= {"look", "meaning"}
    for number in (3, 5):
        (tmp_path / f"{number}.png").write_bytes(saved(drawn(number)))
    assert told(**how).clean


def test_the_command_tells_of_pictures(
    engine: Engine, engine_url: str, index_name: str, clip: Path, tiny: Path, images: pytest.MonkeyPatch
) -> None:
    target = made(engine, load_spec(shop(index_name, clip, tiny)))
    events = [Event(target.alias, one["id"], "upsert", one, 10) for one in clothes()]
    apply_events(engine, target, events)

    def run(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["verify", index_name, "--url", engine_url, *more])
        return done.exit_code, done.stdout + str(done.exception or "")

    code, said = run()
    assert code == 0
    assert "its pictures were not read again: --pictures reads them" in said
    code, said = run("--pictures")
    assert (code, f"{COUNT} pictures were read again" in said) == (0, True), said
    images.setenv("KNNEX_IMAGES", "/nowhere")
    settings.cache_clear()
    code, said = run("--pictures")
    assert (code, f"{COUNT} unreadable: a vector of a picture that cannot be read any more" in said) == (1, True), said
    images.setenv("KNNEX_ENCODER_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    assert run("--pictures")[0] == 1


def test_pictures_that_all_fail_do_not_blame_the_model(
    engine: Engine, index_name: str, clip: Path, tiny: Path, images: pytest.MonkeyPatch
) -> None:
    target = made(engine, load_spec(shop(index_name, clip, tiny)))
    gone = [Event(target.alias, str(number), "upsert", {"picture": f"gone-{number}.png"}, 10) for number in range(20)]
    assert len(apply_events(engine, target, gone).buried) == 20


# ---- queries ----


def stored(clip: Path, words: Path) -> Stored:
    spec = load_spec(shop("shop", clip, words))
    return Stored("shop-000001", spec, resolve(spec))


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a path to nothing": (lambda at: Query().semantic("look", image=at / "gone.png"), "No such file"),
    "a folder": (lambda at: Query().semantic("look", image=at), "directory"),
    "a path as a str": (lambda at: Query().semantic("look", image=str(at / "1.png")), "taken for a data: URI"),
    "a URL": (lambda _: Query().semantic("look", image="http://127.0.0.1/1.png"), "taken for a data: URI"),
    "nothing": (lambda _: Query().semantic("look", image=b""), "it is empty"),
    "a text": (lambda _: Query().semantic("look", image=b"a red dress"), "it is no JPEG"),
    "a pdf": (lambda _: Query().semantic("look", image=b"%PDF-1.7"), "it is no JPEG"),
    "too many bytes": (lambda _: Query().semantic("look", image=PNG + b"\0" * 20_000_000), "more than 20,000,000 bytes"),
    "a data URI of text": (lambda _: Query().semantic("look", image="data:image/png;base64,aGVsbG8="), "it is no JPEG"),
    "a data URI in percents": (lambda _: Query().semantic("look", image="data:image/png,%89PNG"), "not in base64"),
    "a data URI cut off": (lambda _: Query().semantic("look", image=uri(PNG)[:-3]), "not in base64"),
    "a number": (lambda _: Query().semantic("look", image=3), "it is int"),  # type: ignore[arg-type]
    "a list": (lambda _: Query().semantic("look", image=[PNG]), "it is list"),  # type: ignore[arg-type]
    "a text too": (lambda _: Query().semantic("look", "a dress", image=PNG), "look is given a text and a image"),
    "a vector too": (lambda _: Query().semantic("look", vector=[1.0] * 16, image=PNG), "a vector and a image"),
    "for words": (lambda _: Query().semantic("meaning", image=PNG), "meaning is an embedding of texts"),
    "an example for words": (lambda _: Query().semantic("meaning").like(Picture(PNG)), "meaning is an embedding of texts"),
    "an example for both": (lambda _: Query().like(Picture(PNG)), "meaning is an embedding of texts"),
    "an example that is none": (lambda at: Query().like(Picture(at / "gone.png")), "No such file"),
    "bytes as an example": (lambda _: Query().like(PNG), "is no example"),  # type: ignore[arg-type]
    "highlights without words": (lambda _: Query().semantic("look", image=PNG).highlight("title"), "no words to mark"),
    "reranked without words": (lambda _: Query().semantic("look", image=PNG).rerank(lambda _, texts: [1.0] * len(texts)), "no text to score by"),
    "damaged": (lambda _: Query().semantic("look", image=PNG[:60]), "cannot be read: it is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_picture_that_cannot_be_asked_is_told_before_anything_is_sent(
    clip: Path, tiny: Path, folder: Path, case: str
) -> None:
    from knnex.encoders import query_vectors
    from knnex.engines.opensearch import OpenSearch

    build, said = CASES[case]
    there = stored(clip, tiny)

    def encode(name: str, texts: Sequence[str]) -> Any:
        return query_vectors(there, name, texts)

    with pytest.raises(QueryError, match=said) as caught:
        plan(build(folder), there, OpenSearch((3, 1)), encode)
    assert len(str(caught.value)) < 400


def test_one_picture_is_one_question(folder: Path) -> None:
    ways = [
        Query().semantic("look", image=one)
        for one in (folder / "1.png", PNG, bytearray(PNG), uri(PNG), uri(PNG, "jpeg"))
    ]  # type: ignore[arg-type]
    assert all(one == ways[0] for one in ways)
    assert Picture(PNG) == Picture(folder / "1.png") != Picture(JPEG)
    assert len(repr(ways[0])) < 600


def test_asking_by_a_picture_needs_neither_torch_nor_pillow(folder: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from knnex import Picture, Query
        Query().semantic("look", image=Path({str(folder / "1.png")!r})).like(Picture(b"GIF89a"))
        print(sorted({{"torch", "PIL", "transformers"}} & sys.modules.keys()))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- elsewhere ----


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, clip: Path, vit: Path, folder: Path) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("encode")
    given = {
        "KNNEX_LOG_URL": f"sqlite:///{home / 'log.sqlite'}",
        "KNNEX_MODELS": json.dumps({"acme/clip": str(clip), "acme/vit": str(vit)}),
        "KNNEX_SERVED_MODELS": '["acme/clip", "acme/vit"]',
        "KNNEX_IMAGES": str(folder),
    }
    with serving(home, **given) as started:
        yield started


def test_pictures_are_encoded_elsewhere(
    server: Server, clip: Path, folder: Path, fresh_settings: pytest.MonkeyPatch
) -> None:
    _pool.cache_clear()
    fresh_settings.setattr("knnex.encoders.registry._loaded", {})
    fresh_settings.setenv("KNNEX_ENCODER_URL", server.url)
    embedding = Embedding(source=["picture"], encoder="acme/clip", kind="image")
    there, here = load_encoder(embedding), ImageEncoder(str(clip), pictures=Pictures(folder))
    assert isinstance(there, RemoteEncoder)
    assert [there.identity, there.revision, there.dims, there.max_tokens] == [here.identity, here.revision, 16, 0]
    assert fingerprint(there, embedding) == fingerprint(here, embedding)
    text = Embedding(source=["picture"], encoder="acme/clip")
    assert load_encoder(text).identity == TextEncoder(str(clip)).identity != there.identity
    asked = ["a red dress", uri(PNG), str(folder / "1.png")]
    assert np.abs(there.encode_queries(asked) - here.encode_queries(asked)).max() < 1e-5
    references = ["1.png", "broken.png", uri(PNG), *[f"{number % COUNT}.png" for number in range(300)], "/etc/passwd"]
    (ours, failed), (theirs, unread) = here.encode_readable(references), there.encode_readable(references)
    assert failed == unread
    assert sorted(unread) == [1, 303]
    assert np.allclose(ours, theirs, atol=1e-5, equal_nan=True)
    with pytest.raises(EncoderError, match=r"broken\.png"):
        there.encode_documents(references)
    with pytest.raises(QueryError, match="damaged"):
        there.encode_queries([uri(PNG[:60])])
    with pytest.raises(QueryError, match="reads pictures and no text"):
        RemoteEncoder(server.url, "acme/vit", "image").encode_queries(["a dress"])
    with pytest.raises(KnnexError, match="reads no text"):
        RemoteEncoder(server.url, "acme/vit")
    _pool.cache_clear()


def test_a_kind_the_server_does_not_know(server: Server) -> None:
    body = {"encoder": "acme/clip", "kind": "sound", "side": "query", "texts": []}
    answer = urllib3.request("POST", f"{server.url}/encode", json=body)
    assert (answer.status, "kind" in answer.json()["error"]) == (400, True)


# ---- the page ----


def test_the_page_runs(clip: Path, engine_url: str, index_name: str, images: pytest.MonkeyPatch) -> None:
    """Its example names a real model, in whose place stands a tiny one."""
    page = (Path(__file__).parent.parent / "docs" / "images.md").read_text()
    images.setenv("KNNEX_MODELS", json.dumps({"sentence-transformers/clip-ViT-B-32": str(clip)}))
    images.setenv("KNNEX_URL", engine_url)
    [spec] = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    code = "\n".join(re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    known: dict[str, Any] = {"SPEC": spec.replace("index: clothes", f"index: {index_name}")}
    exec(code.replace('"clothes.yaml"', "SPEC").replace("dress-1.jpg", "1.png").replace("hat-1.jpg", "2.png"), known)
    assert known["found"].ids[0] == "1"
