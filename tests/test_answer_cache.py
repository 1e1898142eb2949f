"""The store of kept answers: bounded, absolute in time, shared by processes, and a miss when anything goes wrong."""

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from bursar.stores.cache import AnswerCache, Purge
from bursar.types import Instant, Kept

ONE = Kept(
    body=b'{"answer":1}', request_id="r", provider="openai", model="gpt-4o", tier="mid", step="extract", tenant="t",
    tags=(("doc", "42"), ("kind", "a.b")), cost_nanos=7, usage="{}", stored_at=Instant(1_000),
    fresh_until=Instant(2_000), gone_at=Instant(3_000),
)  # fmt: skip


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture(params=["memory", "file"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AnswerCache:
    return AnswerCache(None if request.param == "memory" else tmp_path / "cache")


def test_what_was_put_is_found_until_it_is_gone(cache: AnswerCache) -> None:
    """Stale it is still found; using it does not prolong it."""
    cache.put(key(1), ONE)
    assert cache.get(key(1), Instant(2_999)) == ONE
    assert cache.get(key(1), Instant(3_000)) is None
    assert cache.get(key(2), Instant(0)) is None
    cache.put(key(1), replace(ONE, body=b"new"))
    found = cache.get(key(1), Instant(0))
    assert found is not None and found.body == b"new" and cache.size() == (1, 3)


@pytest.mark.parametrize(
    ("what", "left"),
    [
        (Purge(step="extract"), {3}),
        (Purge(model="gpt-4o", tenant="t"), {3}),
        (Purge(tag=("doc", "42")), {3}),
        (Purge(tag=("kind", "a.b")), {2, 3}),
        (Purge(prefix=key(1)[:2]), {2, 3}),
        (Purge(step="nothing"), {1, 2, 3}),
        (Purge(), set()),
    ],
)
def test_purge_forgets_what_is_asked(cache: AnswerCache, what: Purge, left: set[int]) -> None:
    """By step, model, tenant, tag or key prefix; all that is set must hold."""
    cache.put(key(1), ONE)
    cache.put(key(2), replace(ONE, tags=(("doc", "42"),)))
    cache.put(key(3), replace(ONE, step="other", model="mini", tags=()))
    assert cache.purge(what) == 3 - len(left)
    assert {n for n in (1, 2, 3) if cache.get(key(n), Instant(0)) is not None} == left


def test_the_least_lately_used_goes_first() -> None:
    """The bound holds to the few that came since it was last looked after."""
    cache = AnswerCache(None, most_bytes=10_000)
    hour = 3_600_000_000
    for number in range(200):
        now = Instant(number * hour)
        cache.put(number.to_bytes(32), replace(ONE, body=b"x" * 1_000, stored_at=now, gone_at=Instant(10**18)))
        assert cache.get((0).to_bytes(32), now) is not None, "what is in use stays"
    answers, size = cache.size()
    assert answers <= 10 + 64 and size == 1_000 * answers


def test_processes_share_it_and_a_restart_keeps_it(tmp_path: Path) -> None:
    """A purge by one is a purge for all."""
    one, other = AnswerCache(tmp_path / "c"), AnswerCache(tmp_path / "c")
    one.put(key(1), ONE)
    one.close()
    assert other.get(key(1), Instant(0)) == ONE
    assert AnswerCache(tmp_path / "c").purge(Purge()) == 1
    assert other.get(key(1), Instant(0)) is None


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """It holds what callers were answered, and so do the files that SQLite puts beside it."""
    cache = AnswerCache(tmp_path / "c")
    cache.put(key(1), ONE)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_broken_file_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counted, logged once, never raised; and it may be put right while we run."""
    path = tmp_path / "c"
    path.write_bytes(b"this is no database, and long enough to be seen as none" * 20)
    cache = AnswerCache(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.get(key(1), Instant(0)) is None
    assert cache.failures == 3 and len(caplog.records) == 1
    path.unlink()
    cache.put(key(1), ONE)
    assert cache.get(key(1), Instant(0)) == ONE
