"""What the doctor says of the providers' prompt caches: savings to the nano-dollar, and each cause by its own case."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.doors.cli import main
from bursar.insights.prompts import TEXTS, StepCache, Why, build, examined
from bursar.rules import digest
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from bursar.types import Api, Block, BlockKind, Entry, Instant
from library_kit import PRICES
from prompt_kit import KINDS, Clock, guard_on, paid, through, uncached, written

CLAUDE, GPT, OLD = "claude-sonnet-5-5", "gpt-5.6-sol", "gpt-4o"
SECOND = 1_000_000


def row(at_s: float, *blocks: tuple[BlockKind, str], tokens: int = 2000, cached: int = 0, **more: Any) -> Entry:
    """A call of blocks of so many tokens each, of which the provider has read so many."""
    packed, _ = digest.pack(tuple(Block(kind, text.encode()) for kind, text in blocks), b"k")
    packed = b"".join(packed[at : at + 9] + tokens.to_bytes(4) for at in range(0, len(packed), 13))
    total = tokens * len(blocks)
    usage = {"input_tokens": total - cached, "cache_read_input_tokens": cached, "output_tokens": 1}
    told = Entry(
        request_id=f"{at_s}", attempt=1, run_id=None, parent_run_id=None, session_id=None, user_id=None, user_tier=None,
        agent_id="a", step="s", tenant="t", tags=(), key_id=None, started_at=Instant(int(at_s * SECOND)),
        api="messages", provider="anthropic", requested_model=CLAUDE, model=CLAUDE, tier=None, route_reason="caller",
        stream=False, status="completed", http_status=200, input_tokens=total, cached_tokens=cached,
        cache_write_tokens=0, output_tokens=1, usage=json.dumps(usage), input_estimate=total, blocks=packed,
    )  # fmt: skip
    return msgspec.structs.replace(told, **more)


def gpt(at_s: float, *blocks: tuple[BlockKind, str], model: str = GPT, api: Api = "responses", **more: Any) -> Entry:
    usage = {"input_tokens": 2000 * len(blocks), "output_tokens": 1, "total_tokens": 2000 * len(blocks) + 1}
    usage["input_tokens_details"] = {"cached_tokens": 0, "cache_write_tokens": 0}  # type: ignore[assignment]
    return row(at_s, *blocks, model=model, provider="openai", api=api, usage=json.dumps(usage), **more)


def found(*entries: Entry) -> StepCache:
    (step,) = examined(entries, PRICES)
    return step


TOOLS: tuple[BlockKind, str] = ("tools", "t")
SYSTEM: tuple[BlockKind, str] = ("system", "s")
ONE: tuple[BlockKind, str] = ("message", "one")
TWO: tuple[BlockKind, str] = ("message", "two")
THREE: tuple[BlockKind, str] = ("message", "three")

CASES: list[tuple[str, Why, int, tuple[Entry, ...]]] = [
    ("nothing marks what returns", "unmarked", 4000, (row(0, SYSTEM, ONE), row(9, SYSTEM, ONE, TWO))),
    ("a marker too early", "not_found", 2000,
     (row(0, SYSTEM, ONE, cache_write_tokens=2000), row(9, SYSTEM, ONE, TWO, cached=2000))),
    ("OpenAI writes the end alone", "not_found", 2000, (gpt(0, SYSTEM, ONE), gpt(9, SYSTEM, TWO))),
    ("too short to be cached", "below_floor", 400, (row(0, SYSTEM, ONE, tokens=200), row(9, SYSTEM, ONE, tokens=200))),
    ("other tools", "tools_changed", 4000,
     (row(0, TOOLS, SYSTEM, ONE), row(9, ("tools", "t2"), SYSTEM, ONE, TWO))),
    ("a date in the system prompt", "system_changed", 2000, (row(0, SYSTEM, ONE), row(9, ("system", "s2"), TWO))),
    ("a message rewritten", "history_changed", 2000,
     (row(0, ONE, TWO, THREE), row(9, ("message", "1"), TWO, ("message", "3")))),
    ("other settings", "settings_changed", 4000,
     (row(0, ONE, TWO, ("params", '{"thinking":1}')), row(9, ONE, TWO, ("params", '{"thinking":0}')))),
    ("another model", "model_changed", 4000,
     (row(0, SYSTEM, ONE, model="claude-haiku-4-5"), row(9, SYSTEM, ONE))),
    ("back too late", "expired", 4000, (row(0, SYSTEM, ONE), row(301, SYSTEM, ONE))),
]  # fmt: skip


@pytest.mark.parametrize(("why", "tokens", "entries"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_cause_by_its_own_case(why: Why, tokens: int, entries: tuple[Entry, ...]) -> None:
    """One cause, the tokens that might have been read, at the difference of input and read rate."""
    step = found(*entries)
    (cause,) = step.causes
    card = PRICES.card(entries[-1].provider, entries[-1].model or "", entries[-1].terms, entries[-1].started_at)
    rates: Any = card.rates  # type: ignore[union-attr]
    assert (cause.why, cause.calls, cause.tokens) == (why, 1, tokens)
    assert cause.nanos == tokens * (rates["input"] - rates["cache_read"]) // 10**6 == step.missed_nanos
    assert why in TEXTS and step.calls == 2 and step.unknown == 0


@pytest.mark.parametrize(
    "entries",
    [
        (row(0, SYSTEM, ONE),),
        (row(0, SYSTEM, ONE), row(9, SYSTEM, ONE, TWO, cached=4000)),
        (row(0, SYSTEM, ONE, tokens=5000), row(9, ("system", "x"), TWO, tokens=100)),
        (row(0, ONE), row(9, TWO), row(20, THREE)),
        (row(0, SYSTEM, ONE, status="failed", http_status=500), row(1, SYSTEM, ONE)),
        (row(0, SYSTEM, ONE, model="unheard-of"), row(1, SYSTEM, ONE, model="unheard-of")),
    ],
    ids=["a first call", "all is read", "a new prompt", "one-shot", "an error", "a model nobody knows"],
)
def test_no_cause_where_nothing_was_missed(entries: tuple[Entry, ...]) -> None:
    """What did not come back, or was read, or stands in no cache that is known, is no loss."""
    assert found(*entries).causes == ()


def test_unknown_usage_is_counted_and_in_no_sum() -> None:
    """Nor is a row without a price."""
    step = found(row(0, ONE, usage=None), row(1, ONE, model="unheard-of"), row(2, TWO, usage="{}"))
    assert (step.calls, step.unknown, step.input_tokens, step.saved_nanos) == (3, 3, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_dollars_are_the_bills_net_of_premiums(kind: str) -> None:
    """Of an agent's conversation, against the sandbox's own bill; and little is missed."""
    clock, store = Clock(), MemoryStore()
    with SandboxServer(Settings(clock=clock)) as sandbox, guard_on(store, clock) as guard:
        one = through(guard, kind, sandbox, clock)
        lines = one.converse(8, "today")
        guard.flush()
        (step,) = build(store, PRICES).steps
    assert step.saved_nanos == uncached(one.model, lines) - paid(one.model, lines) > 0
    assert step.premium_nanos > 0 and step.cache_write_tokens == written(lines)
    assert step.missed_nanos < 0.05 * step.saved_nanos


def test_premiums_paid_in_vain_are_a_loss() -> None:
    """Saved is below zero where what was written never returned."""
    usage = {"input_tokens": 0, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 0, "output_tokens": 1}
    step = found(row(0, ONE, usage=json.dumps(usage), cache_write_tokens=2000))
    assert step.saved_nanos == -step.premium_nanos < 0


@pytest.fixture
def booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's conversation without any marker, in ./bursar.db."""
    monkeypatch.chdir(tmp_path)
    for name in ("BURSAR_CONFIG", "BURSAR_STORE__URL"):
        monkeypatch.delenv(name, raising=False)
    clock = Clock()
    with (
        SandboxServer(Settings(clock=clock)) as sandbox,
        guard_on(SqliteStore(tmp_path / "bursar.db"), clock, ()) as guard,
        guard.run(agent="clerk"),
        guard.step("talk"),
    ):
        through(guard, "haiku", sandbox, clock).converse(5, "today")


@pytest.mark.usefixtures("booked")
def test_the_command_names_step_dollars_and_cure(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for machines the same."""
    told = [_run(capsys, "doctor", *more) for more in ((), ("--json",), ("--agent", "nobody"))]
    (step,) = json.loads(told[1])["steps"]
    (cause,) = step["causes"]
    assert (step["agent"], step["step"], step["calls"], step["saved_usd"]) == ("clerk", "talk", 5, "0")
    assert cause["why"] == "unmarked" and cause["calls"] == 4 and cause["usd"] == step["missed_usd"]
    assert 4 * 6000 < cause["tokens"] < step["input_tokens"]
    assert 'set prompt_cache = "auto"' in told[0] and "clerk / talk" in told[0] and f"{cause['tokens']:,}" in told[0]
    assert "No call in this period" in told[2]
    assert "Example: bursar doctor" in _run(capsys, "doctor", "--help")


def _run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    return capsys.readouterr().out
