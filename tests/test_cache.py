from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_py
from pydantic import SecretStr

from knnex.encoders import RedisVectorCache, TextEncoder, VectorCache, cache_key, encode_cached, open_cache
from knnex.encoders.pulse import watched
from knnex.engines.embedded import start_redis
from knnex.errors import SettingsError
from knnex.settings import Settings

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def key(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=16).digest()


def vector(number: int, dims: int = 384) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(dims).astype(np.float32)


def some(numbers: range) -> dict[bytes, np.ndarray]:
    return {key(number): vector(number) for number in numbers}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


@pytest.fixture(scope="module")
def evicting_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis such as a cache needs: with a bound, beyond which it drops what was not used for longest."""
    with start_redis(home=tmp_path_factory.mktemp("redis")) as server:
        with redis_py.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "20mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        yield server.url


Opens = Callable[..., Any]


@pytest.fixture(params=["file", "redis"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """Opens the same cache each time; every test that asks for it runs once for each kind."""
    if request.param == "file":
        yield lambda **options: VectorCache(tmp_path / "vectors.db", **options)
    else:
        url = str(request.getfixturevalue("evicting_url"))
        yield lambda **options: RedisVectorCache(url, **options)
        with redis_py.Redis.from_url(url) as client:
            client.flushdb()


def test_vectors_come_back_bit_by_bit_after_reopening(opens: Opens) -> None:
    with opens() as cache:
        cache.put_many(some(range(1200)))
    with opens() as cache:
        found = cache.get_many([key(number) for number in range(1300)])
        assert found.keys() == some(range(1200)).keys()
        assert all(np.array_equal(found[key(number)], vector(number)) for number in range(1200))
        assert (cache.hits, cache.misses, len(cache)) == (1200, 100, 1200)
        assert found[key(0)].dtype == np.float32
        assert not found[key(0)].flags.writeable


def test_nothing_asked_nothing_found(opens: Opens) -> None:
    with opens() as cache:
        cache.put_many({})
        assert cache.get_many([]) == {}
        assert len(cache) == 0


def test_a_second_put_replaces_the_first(opens: Opens) -> None:
    with opens() as cache:
        cache.put_many({key(1): vector(1)})
        cache.put_many({key(1): vector(2)})
        assert np.array_equal(cache.get_many([key(1)])[key(1)], vector(2))
        assert len(cache) == 1


def test_a_closed_cache_opens_again_when_used(opens: Opens) -> None:
    cache = opens()
    cache.put_many(some(range(2)))
    cache.close()
    cache.close()
    assert len(cache.get_many([key(0)])) == 1
    cache.close()


def test_half_the_width_takes_half_the_room_and_is_read_as_float32_by_all(opens: Opens) -> None:
    with opens(dtype="float16") as half, opens() as whole:
        half.put_many(some(range(10)) | {key(10): np.full(3, 1e5, np.float32)})
        whole.put_many({key(11): vector(11)})
        for cache in (half, whole):
            found = cache.get_many([key(number) for number in range(12)])
            assert {one.dtype for one in found.values()} == {np.dtype(np.float32)}
            assert not any(one.flags.writeable for one in found.values())
            for number in range(10):
                assert np.array_equal(found[key(number)], vector(number).astype(np.float16).astype(np.float32))
            # Too great for float16, and what was put in full width.
            assert found[key(10)].tolist() == [1e5, 1e5, 1e5]
            assert np.array_equal(found[key(11)], vector(11))


def test_a_cache_can_be_opened_in_another_process(opens: Opens) -> None:
    with opens(dtype="float16") as cache:
        cache.put_many(some(range(2)))
        with pickle.loads(pickle.dumps(cache)) as again:
            assert (type(again), again.dtype, len(again), again.hits) == (type(cache), "float16", 2, 0)
            assert getattr(again, "max_bytes", None) == getattr(cache, "max_bytes", None)


def test_the_redis_of_an_event_log_is_refused(evicting_url: str) -> None:
    with redis_py.Redis.from_url(evicting_url) as client:
        client.sadd("knnex:indexes", "films")
        with pytest.raises(SettingsError, match="holds an event log"):
            RedisVectorCache(evicting_url)
        client.delete("knnex:indexes")
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(SettingsError, match="never drops a key") as caught:
            RedisVectorCache(evicting_url)
        assert "allkeys-lru" in str(caught.value.hint)
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "0")
        with pytest.raises(SettingsError, match="has no bound"):
            RedisVectorCache(evicting_url)
        client.config_set("maxmemory", "20mb")
    RedisVectorCache(evicting_url).close()
    with pytest.raises(SettingsError, match="is no URL of a Redis"):
        RedisVectorCache("http://localhost")


def test_a_redis_drops_what_does_not_fit(evicting_url: str) -> None:
    with RedisVectorCache(evicting_url) as cache, redis_py.Redis.from_url(evicting_url) as client:
        for start in range(0, 20_000, 1000):
            cache.put_many(some(range(start, start + 1000)))
        assert 1000 < len(cache) < 15_000
        assert len(cache.get_many([key(number) for number in range(19_900, 20_000)])) > 50
        assert 0 < client.ttl(client.randomkey()) <= 30 * 24 * 3600
        client.flushdb()


def test_a_changed_vector_in_a_redis_is_a_miss(evicting_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisVectorCache(evicting_url) as cache, redis_py.Redis.from_url(evicting_url) as client:
        cache.put_many(some(range(3)))
        prefix = b"knnex:vector:"
        client.set(prefix + key(1), client.get(prefix + key(2)))  # sound, but of another key
        client.set(prefix + key(2), b"x")
        assert cache.get_many([key(0), key(1), key(2)]).keys() == {key(0)}
        assert "Dropped 2 vectors with a wrong checksum" in caplog.text
        assert (len(cache), cache.hits, cache.misses) == (1, 1, 2)
        client.flushdb()


def test_a_redis_that_is_gone_stops_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start_redis(home=tmp_path) as server:
        with redis_py.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "20mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        # Without a password it takes any.
        cache = RedisVectorCache(server.url.replace("redis://", "redis://default:secret@"))
        cache.put_many(some(range(3)))
    assert cache.get_many([key(0)]) == {}
    cache.put_many(some(range(3)))
    assert (len(cache), cache.misses) == (0, 1)
    assert caplog.text.count(f"The vector cache {server.url} is not used for now") == 1
    assert "secret" not in caplog.text + repr(cache)
    cache.close()


def test_the_settings_choose_the_cache(evicting_url: str, tmp_path: Path) -> None:
    ours = Settings(cache_dir=tmp_path, cache_bytes=5 << 20)
    with open_cache(ours) as cache:
        assert isinstance(cache, VectorCache)
        assert (cache.path, cache.max_bytes, cache.dtype) == (tmp_path / "vectors.sqlite", 5 << 20, "float32")
    there = ours.model_copy(update={"cache_url": SecretStr(evicting_url), "cache_dtype": "float16"})
    with open_cache(there) as cache:
        assert isinstance(cache, RedisVectorCache)
        assert (cache.url, cache.dtype) == (evicting_url, "float16")


def test_the_file_stays_within_its_bound_and_drops_the_oldest(path: Path) -> None:
    bound = 2_000_000
    with VectorCache(path, max_bytes=bound) as cache:
        for start in range(0, 4000, 100):
            cache.put_many(some(range(start, start + 100)))
        assert 0.7 * bound / 1_700 < len(cache) < bound / 1_500
        assert len(cache.get_many([key(number) for number in range(3900, 4000)])) == 100
        assert cache.get_many([key(number) for number in range(100)]) == {}
    assert path.stat().st_size < bound * 1.2


def test_what_was_read_is_kept_longer_than_what_was_not(path: Path) -> None:
    with VectorCache(path, max_bytes=2_000_000) as cache:
        cache.put_many(some(range(600)))
        # An hour later, as far as the file knows.
        with sqlite3.connect(path) as file:
            file.execute("UPDATE vectors SET used = used - 4000")
        file.close()
        cache.get_many([key(number) for number in range(100)])
        for start in range(600, 1500, 100):
            cache.put_many(some(range(start, start + 100)))
        assert len(cache.get_many([key(number) for number in range(100)])) == 100
        assert len(cache.get_many([key(number) for number in range(100, 600)])) < 250


WRITER = """
import sys, numpy as np
from hashlib import blake2b
from knnex.encoders.cache import VectorCache
path, mine, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
key = lambda number: blake2b(str(number).encode(), digest_size=16).digest()
vector = lambda number: np.random.default_rng(number).standard_normal(384).astype(np.float32)
cache = VectorCache(path)
print("ready", flush=True)
for turn in range(rounds):
    # Half of the keys are everybody's, half this process's own.
    numbers = [*range(turn * 20, turn * 20 + 10), *range(mine + turn * 10, mine + turn * 10 + 10)]
    cache.put_many({key(number): vector(number) for number in numbers})
    found = cache.get_many([key(number) for number in numbers])
    assert len(found) == 20, len(found)
    assert all(np.array_equal(found[key(number)], vector(number)) for number in numbers)
print("done", flush=True)
"""


def writer(path: Path, number: int, rounds: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(path), str(number * 1_000_000), str(rounds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_write_one_new_file_and_lose_nothing(path: Path) -> None:
    writers = [writer(path, number, 30) for number in (1, 2, 3)]
    for process in writers:
        out, errors = process.communicate(timeout=120)
        assert out.split() == ["ready", "done"], errors
        assert "not used" not in errors
    with VectorCache(path) as cache:
        assert len(cache) == 300 + 3 * 300
        mine = range(2_000_000, 2_000_300)
        found = cache.get_many([key(number) for number in mine])
        assert all(np.array_equal(found[key(number)], vector(number)) for number in mine)


def test_a_killed_writer_leaves_a_sound_file(path: Path) -> None:
    process = writer(path, 1, 1_000_000)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    with VectorCache(path) as cache:
        while len(cache) < 200:
            pass
        process.kill()
        process.communicate()
        numbers = range(1_000_000, 1_000_100)
        found = cache.get_many([key(number) for number in numbers])
        assert all(np.array_equal(found[key(number)], vector(number)) for number in numbers)
        cache.put_many(some(range(5)))
    file = sqlite3.connect(path)
    assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file.close()


def test_threads_share_one_cache(path: Path) -> None:
    failures: list[object] = []

    def work(first: int) -> None:
        for turn in range(20):
            numbers = range(first + turn * 10, first + turn * 10 + 10)
            cache.put_many(some(numbers))
            if len(cache.get_many([key(number) for number in numbers])) != 10:
                failures.append((first, turn))

    with VectorCache(path) as cache:
        threads = [threading.Thread(target=work, args=(number * 1000,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert (len(cache), cache.hits) == (800, 800)


def test_a_forked_child_uses_a_connection_of_its_own(path: Path) -> None:
    code = f"""
import os, numpy as np
from knnex.encoders.cache import VectorCache
cache = VectorCache({str(path)!r})
cache.put_many({{b"parent": np.ones(3, np.float32)}})
child = os.fork()
if not child:
    ok = len(cache.get_many([b"parent"])) == 1
    cache.put_many({{b"child": np.ones(3, np.float32)}})
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert len(cache.get_many([b"parent", b"child"])) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONWARNINGS": "ignore"})


@pytest.mark.parametrize("content", [b"not a database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_a_foreign_file_is_put_aside_with_a_warning(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "knnex.encoders"), VectorCache(path) as cache:
        cache.put_many(some(range(3)))
        assert len(cache.get_many([key(0), key(1), key(2)])) == 3
    (aside,) = path.parent.glob("vectors.db.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text


def test_somebody_elses_database_is_put_aside_whole(path: Path) -> None:
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE orders (id INTEGER)")
        foreign.execute("INSERT INTO orders VALUES (42)")
    foreign.close()
    with VectorCache(path) as cache:
        assert len(cache) == 0
    (aside,) = path.parent.glob("vectors.db.damaged-*")
    kept = sqlite3.connect(aside)
    assert kept.execute("SELECT id FROM orders").fetchall() == [(42,)]
    kept.close()


def test_damage_inside_is_met_without_a_crash(path: Path) -> None:
    with VectorCache(path) as cache:
        cache.put_many(some(range(500)))
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 8192):  # every page but the first loses its header
        content[page * 8192 : page * 8192 + 100] = b"\xa5" * 100
    path.write_bytes(content)
    with VectorCache(path) as cache:
        assert cache.get_many([key(number) for number in range(500)]) == {}
        cache.put_many(some(range(10)))
        assert len(cache.get_many([key(number) for number in range(10)])) == 10
    assert len(list(path.parent.glob("vectors.db.damaged-*"))) == 1


def test_a_changed_vector_is_a_miss_and_never_an_answer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with VectorCache(path) as cache:
        cache.put_many(some(range(3)))
        with sqlite3.connect(path) as file:
            wrong = vector(2).tobytes()
            wrong += zlib.crc32(wrong).to_bytes(4, "little")  # sound, but of another key
            file.execute("UPDATE vectors SET vector = ? WHERE key = ?", (wrong, key(1)))
        file.close()
        assert cache.get_many([key(0), key(1)]).keys() == {key(0)}
        assert "checksum" in caplog.text
        assert len(cache) == 2
        cache.put_many({key(1): vector(1)})
        assert np.array_equal(cache.get_many([key(1)])[key(1)], vector(1))


def test_a_writer_that_cannot_write_is_no_error(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with VectorCache(path) as cache:
        cache.put_many(some(range(3)))
        assert cache._open is not None
        cache._open[1].execute("PRAGMA query_only = 1")
        cache.put_many(some(range(3, 6)))
        assert "not used this time" in caplog.text
        assert len(cache.get_many([key(number) for number in range(6)])) == 3


def test_a_path_where_no_file_can_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "vectors.db"):
        with pytest.raises(SettingsError, match="no vector cache can be kept at") as caught:
            VectorCache(path)
        assert caught.value.hint == "set KNNEX_CACHE_DIR"


def test_no_text_is_encoded_twice(opens: Opens) -> None:
    encoder = TextEncoder(MINILM)
    texts = ["a cat", "a dog", "a cat", "", "a bird"]
    with opens() as cache:
        first = encode_cached(encoder, cache, texts)
        assert (first.hits, first.encoded) == (0, 4)
        again = encode_cached(encoder, cache, [*texts, "a fish"])
        assert (again.hits, again.encoded) == (4, 1)
        assert np.array_equal(first.vectors, again.vectors[:5])
        assert np.array_equal(first.vectors[0], first.vectors[2])
        np.testing.assert_allclose(again.vectors, encoder.encode_documents([*texts, "a fish"]), atol=1e-5)
        assert encode_cached(encoder, cache, []).vectors.shape == (0, 384)


def test_without_a_cache_only_the_batch_is_deduplicated() -> None:
    encoded = encode_cached(TextEncoder(MINILM), None, ["x", "x", "y"])
    assert (encoded.hits, encoded.encoded, encoded.vectors.shape) == (0, 2, (3, 384))


def test_encoders_that_differ_share_no_vector(path: Path) -> None:
    plain, prompted = TextEncoder(MINILM), TextEncoder(MINILM, document_prompt="passage: ")
    asking = TextEncoder(MINILM, query_prompt="query: ")
    assert cache_key(plain, "a cat") != cache_key(prompted, "a cat")
    assert cache_key(plain, "a cat") == cache_key(asking, "a cat")
    with VectorCache(path) as cache:
        encode_cached(plain, cache, ["a cat"])
        assert encode_cached(prompted, cache, ["a cat"]).encoded == 1
        assert encode_cached(asking, cache, ["a cat"]).hits == 1


class Slow:
    """A model to which each text is some seconds of work, on a clock of its own; it dies on the text "last"."""

    name, identity, dims = "slow", "slow", 2

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.calls, self.now = seconds, list[int](), 0.0
        monkeypatch.setattr("knnex.encoders.cached.time.monotonic", lambda: self.now)

    def encode_documents(self, texts: list[str]) -> Any:
        if "last" in texts:
            raise RuntimeError("dead")
        self.calls.append(len(texts))
        self.now += self.seconds * len(texts)
        return np.ones((len(texts), 2), dtype=np.float32)


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, [128, 256, 512, 104]), (1.0, [128, 64, 32, 16, *[8] * 95])])
def test_a_slow_model_is_heard_of_and_what_it_made_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, calls: list[int]
) -> None:
    slow: Any = Slow(seconds, monkeypatch)
    heard: list[int] = []
    with VectorCache(path) as cache, watched(lambda: heard.append(len(slow.calls))):
        encode_cached(slow, cache, [str(number) for number in range(1000)])
        assert slow.calls == calls
        assert heard == list(range(1, len(calls) + 1))
        with pytest.raises(RuntimeError, match="dead"):
            encode_cached(slow, cache, [*(f"new {number}" for number in range(1024)), "last"])
        # As many at once as it was found to do.
        assert slow.calls[len(calls)] == (8 if seconds else 1024)
        assert len(cache) == 2024
    told = len(heard)
    encode_cached(slow, None, ["unheard"])
    assert len(heard) == told
