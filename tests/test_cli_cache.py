"""`bursar cache` and `bursar cache purge` as they are used; and what reports say of a ledger older than its caches."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import books
import test_cli
from books import NOON, aged, live, row
from bursar.doors.cli.tables import console, print_report
from bursar.doors.open import open_store
from bursar.insights import report
from bursar.policy import Match, ResponseCache, StepRule
from bursar.stores.cache import AnswerCache
from bursar.stores.memory import MemoryStore
from bursar.stores.migrate import HEAD
from bursar.stores.semantic import Notes
from bursar.stores.sqlite import SqliteStore
from bursar.types import Instant, Kept
from test_cli import Cli

cli = test_cli.cli
template = books.template
YEARS = 10**9 * 1_000_000


def kept(step: str | None = "extract", *, gone: bool = False, **more: Any) -> Kept:
    """A thousand bytes that were paid for; gone: long ago."""
    at = NOON - (2 * YEARS if gone else 0)
    given: dict[str, Any] = {
        "body": b"x" * 1_000, "request_id": "r", "provider": "openai", "model": "gpt-4o", "tier": None, "step": step,
        "tenant": "default", "cost_nanos": 5, "stored_at": Instant(at), "fresh_until": Instant(at + YEARS),
        "gone_at": Instant(at + YEARS),
    }  # fmt: skip
    return Kept(**{**given, **more})


@pytest.fixture
def filled(cli: Cli) -> Cli:
    """Five answers, one of which has expired."""
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        told = (
            kept(), kept(tags=(("doc", "42"), ("a.b", "c"))), kept("classify", model="gpt-4o-mini"),
            kept("classify", tenant="acme"), kept("old", gone=True),
        )  # fmt: skip
        for at, one in enumerate(told):
            store.cache.put(bytes([at]) * 32, one)
    return cli


def left(cli: Cli) -> int:
    answers: int = cli("cache", "--json").json["answers"]
    return answers


def test_what_is_kept_is_told(filled: Cli) -> None:
    """By tenant, step and model; what has expired is in the sums until it is trimmed, and in no line."""
    told = filled("cache", "--json").json
    assert (told["answers"], told["bytes"], told["max_bytes"]) == (5, 5_000, 256_000_000)
    lines = {(one["tenant"], one["step"], one["model"]): (one["answers"], one["bytes"]) for one in told["items"]}
    assert lines == {
        ("default", "extract", "gpt-4o"): (2, 2_000),
        ("default", "classify", "gpt-4o-mini"): (1, 1_000),
        ("acme", "classify", "gpt-4o"): (1, 1_000),
    }
    shown = filled("cache").out
    assert "5 kept in 5,000 of 256,000,000 bytes; 1 expired" in shown
    assert [line.split() for line in shown.splitlines() if "extract" in line] == [
        ["default", "extract", "gpt-4o", "2", "2,000"]
    ]


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        (("--all",), 5),
        (("--step", "extract"), 2),
        (("--model", "gpt-4o-mini"), 1),
        (("--tag", "doc=42"), 1),
        (("--tag", "a.b=c"), 1),
        (("--tag", "doc=43"), 0),
        (("--prefix", "0101"), 1),
        (("--tenant", "acme"), 1),
        (("--tenant", "acme", "--step", "extract"), 0),
        (("--step", "it's; DROP TABLE answers"), 0),
    ],
)
def test_a_purge_forgets_what_is_said(filled: Cli, said: tuple[str, ...], gone: int) -> None:
    """All of it must hold."""
    assert filled("cache", "purge", *said, "--json").json == {"purged": gone}
    assert left(filled) == 5 - gone
    assert filled("cache", "purge", *said).out == "0 answers forgotten.\n"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((), "--all: nothing is said"),
        (("--all", "--step", "x"), "--all: expected alone"),
        (("--tag", "doc"), "--tag: expected k=v"),
        (("--prefix", "xyz"), "--prefix: expected an even number"),
    ],
)
def test_a_purge_that_cannot_be_meant_forgets_nothing(filled: Cli, said: tuple[str, ...], told: str) -> None:
    """Exit code 2, and what was expected."""
    answer = filled("cache", "purge", *said)
    assert answer.code == 2 and told in answer.err
    assert left(filled) == 5


def test_nothing_is_kept_yet(cli: Cli) -> None:
    """Said, not shown as an empty table; and a path of its own is looked at."""
    SqliteStore("bursar.db").close()
    assert "No answer is kept" in cli("cache").out
    Path("bursar.toml").write_text('[cache]\npath = "elsewhere.db"\nmax_bytes = "1MB"\n')
    elsewhere = AnswerCache(Path("elsewhere.db"))
    elsewhere.put(b"k" * 32, kept())
    elsewhere.close()
    told = cli("cache", "--json").json
    assert (told["answers"], told["max_bytes"]) == (1, 1_000_000)


def test_a_store_keeps_answers_where_it_is_told(tmp_path: Path) -> None:
    """Beside the ledger, in a file that is named, or in memory; within its bound."""
    from bursar.config import CacheSection

    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/b.db")) as store:
        store.cache.put(b"k" * 32, kept())
    assert (tmp_path / "b.db.cache").exists()
    with contextlib.closing(open_store("memory://", CacheSection(path=f"{tmp_path}/c.db", max_bytes=2_000))) as store:
        for at in range(200):
            store.cache.put(bytes([at]) * 32, kept())
        assert store.cache.size()[1] <= 2_000
    assert (tmp_path / "c.db").exists()


# --- reports


LABELS: Any = {
    "cache": st.sampled_from(["hit", "semantic_hit", "coalesced", "miss", "bypass"]),
    "step": st.sampled_from([None, "", "extract", "plan"]),
    "tenant": st.sampled_from(["default", "acme"]),
    "attempt": st.integers(1, 2),
}
ENDS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["completed", "failed", "abandoned", "hit", "refused"]),
        "cost_nanos": st.none() | st.integers(0, 9),
        "saved_nanos": st.none() | st.integers(0, 9),
        "input_tokens": st.none() | st.integers(0, 9),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.fixed_dictionaries(LABELS), ENDS, st.integers(0, 3)), max_size=8))
def test_an_older_ledger_gets_its_sums(template: Path, tmp_path_factory: pytest.TempPathFactory, told: Any) -> None:
    """Of every row so far, as if they had been kept from the beginning: the audit finds nothing."""
    path = tmp_path_factory.mktemp("old") / "b.db"
    path.write_bytes(template.read_bytes())
    with contextlib.closing(SqliteStore(path)) as store:
        for at, (labels, end, quarter) in enumerate(told):
            unknown = end["cost_nanos"] is None
            outcome = {**end, "cost_status": "unpriced" if unknown else "estimated" if at % 2 else "final"}
            labels = {**labels, "started_at": Instant(NOON + quarter * 900_000_000)}
            live(store, f"r{at}", labels.pop("attempt"), outcome, **labels)
        new = store.spend("cache")
    aged(path, "0002")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM rollups WHERE dim IN ('cache|step', 'user_tier|user', 'step|tier')")
    with contextlib.closing(SqliteStore(path)) as store:
        assert store.verify() == []
        assert store.spend("cache") == new
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (HEAD,)


def ledger(*calls: tuple[str, str, int]) -> MemoryStore:
    """What became of the look-up, the step, and how many such calls."""
    store = MemoryStore()
    for at, (state, step, count) in enumerate(calls):
        hit = state not in ("miss", "bypass")
        outcome = {"status": "hit", "cost_nanos": 0, "saved_nanos": 900} if hit else {"cost_nanos": 1_000}
        for number in range(count):
            live(store, f"r{at}.{number}", 1, outcome, cache=state, step=step)
    return store


RULES = (
    StepRule(match=Match(step="ext*"), response_cache=ResponseCache(ttl_ms=1)),
    StepRule(match=Match(agent="a", step="plan")),
    StepRule(match=Match(step="plan")),
    StepRule(match=Match(user_tier="free"), response_cache=ResponseCache(ttl_ms=1)),
)


@pytest.mark.parametrize(
    ("calls", "rules", "why"),
    [
        ((("bypass", "plan", 6), ("miss", "extract", 3), ("hit", "extract", 1)), RULES,
         "60% of the calls are of steps that keep no answers (plan): say so under [[steps]] cache."),
        ((("bypass", "extract", 5), ("bypass", "plan", 4)), RULES,
         "56% of the calls went past the caches (extract): their callers wanted no cache"),
        ((("bypass", "other", 9),), RULES, "100% of the calls went past the caches (other)"),
        ((("bypass", "other", 9),), RULES[:3], "100% of the calls are of steps that keep no answers (other)"),
        ((("bypass", "auto:12345678", 9),), RULES[:1], "100% of the calls are of steps that keep no answers"),
        ((("bypass", "extract", 9),), None, "100% of the calls went past the caches (extract)"),
        ((("miss", "extract", 9), ("bypass", "plan", 1)), RULES,
         "90% of the calls looked and found nothing: no earlier call was equal within the scope"),
        ((*(("bypass", f"s{n}", 1) for n in range(5)),), RULES[:1], "(s0, s1, s2 and 2 more)"),
    ],
)  # fmt: skip
def test_the_reason_is_the_one_that_most_calls_have(calls: Any, rules: Any, why: str) -> None:
    """As far as the rows and the rules can tell, and no further."""
    found = report.build(ledger(*calls), steps=rules)
    (low,) = (remark.text for remark in found.remarks if remark.id == "low_hit_rate")
    assert why in low


def test_no_reason_where_hits_are_many() -> None:
    """A fifth of the calls is enough."""
    found = report.build(ledger(("hit", "extract", 2), ("miss", "extract", 8)), steps=RULES)
    assert [remark.id for remark in found.remarks if remark.id == "low_hit_rate"] == []


def test_shares_are_of_what_would_have_been_paid(capsys: pytest.CaptureFixture[str]) -> None:
    """By cache and by step, for machines and for people."""
    store = ledger(("hit", "extract", 1), ("coalesced", "extract", 1), ("miss", "extract", 1), ("bypass", "plan", 1))
    found = report.build(store, steps=RULES)
    told = report.as_json(found)["metrics"]["cache_hit_rate"]
    assert (told["rate"], told["saved_usd"], told["saved_share"]) == (0.5, "0.0000018", 1_800 / 3_800)
    assert [(one["cache"], one["call_share"], one["saved_share"]) for one in told["by_cache"]] == [
        ("hit", 0.25, 900 / 3_800), ("coalesced", 0.25, 900 / 3_800), ("miss", 0.25, 0.0), ("bypass", 0.25, 0.0),
    ]  # fmt: skip
    assert [(one["step"], one["rate"]) for one in told["by_step"]] == [("extract", 2 / 3), ("plan", 0.0)]
    print_report(found, console())
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["coalesced", "1", "1", "100%", "$0.000001", "24%"] in shown
    assert ["extract", "3", "2", "67%", "$0.000002", "47%"] in shown


def test_the_report_shows_what_the_semantic_cache_has_learned(cli: Cli) -> None:
    """Its counts by step, from the file beside the ledger; a wrong-hit rate where something was judged."""
    SqliteStore("bursar.db").close()
    assert cli("report", "--json").json["metrics"]["cache_hit_rate"]["semantic"] == []
    with contextlib.closing(Notes(Path("bursar.db.cache.questions"))) as notes:
        notes.count("p" * 64, "default", "ask", asked=3, served=2)
    (told,) = cli("report", "--json").json["metrics"]["cache_hit_rate"]["semantic"]
    assert (told["step"], told["asked"], told["served"], told["wrong_of_hits"]) == ("ask", 3, 2, None)


def test_an_open_row_is_no_call_yet() -> None:
    """Sums are of what has ended."""
    store = MemoryStore()
    store.reserve(row("r")).result(10)
    assert store.spend("cache") == []
