"""`bursar budgets` and `bursar budgets suggest` as they are used: whose counter, how far, what is unknown."""

import contextlib
import re
from pathlib import Path

import pytest

import test_cli
from books import MINUTE, NOON, done, live, row
from bursar.config import load
from bursar.rules import book
from bursar.stores.sqlite import SqliteStore
from bursar.types import Ask, Claim, Hold
from test_cli import Cli

cli = test_cli.cli

CONFIG = """
[[budgets]]
name = "free users, daily"
scope = "user"
window = "day"
timezone = "Europe/Berlin"
limit_usd = 0.5
limit_tokens = 10_000

[[budgets]]
name = "all of it"
scope = "global"
limit_usd = "100"
"""


def spend(
    store: SqliteStore, request: str, user: str, cost: int, *, ends: bool = True, limit: int = 500_000_000
) -> None:
    """A call on the free users' budget: 600 tokens and $0.0505 held, 150 tokens and `cost` nano-dollars spent."""
    claim = Claim(
        budget="free users, daily", scope="user", key=user, tenant="default", window="day", zone="Europe/Berlin",
        limit_nanos=limit, limit_tokens=10_000,
    )  # fmt: skip
    asked = Ask(
        claims=(claim,), input_tokens=100, input_cost=500_000 * 10**6, output_rate=100 * 10**9, stated=500, wanted=500
    )
    opening = row(request, agent_id="helper", user_id=user, step="plan")
    hold = store.reserve(opening, asked).result(10)
    assert isinstance(hold, Hold)
    if ends:
        store.settle(hold, done(book.granted(opening, hold), cost_nanos=cost)).result(10)


@pytest.fixture
def touched(cli: Cli) -> Cli:
    """Two users' counters, the second of them overrun; one configured budget that nobody has touched."""
    Path("bursar.toml").write_text(CONFIG)
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        spend(store, "1", "ada", 20_000_000)
        spend(store, "2", "bob", 600_000_000)
    return cli


def test_balances_are_told_with_whose_they_are(touched: Cli) -> None:
    """The last touched first: limit, spent, held, left, and when it resets; what nobody has touched is listed too."""
    told = touched("budgets", "--json")
    assert told.code == 0
    bob, ada = told.json["items"]
    assert (ada["name"], ada["scope"], ada["key"], ada["window"]) == ("free users, daily", "user", "ada", "day")
    assert (ada["limit_usd"], ada["settled_usd"], ada["held_usd"], ada["remaining_usd"]) == ("0.5", "0.02", "0", "0.48")
    assert (ada["limit_tokens"], ada["settled_tokens"], ada["remaining_tokens"]) == (10_000, 150, 9_850)
    assert (ada["state"], ada["used"], ada["overrun_usd"]) == ("ok", 0.04, "0")
    assert (bob["state"], bob["used"], bob["overrun_usd"], bob["remaining_usd"]) == ("exhausted", 1.2, "0.1", "-0.1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT2[23]:00:00Z", ada["resets_at"])  # midnight in Berlin
    assert [one["name"] for one in told.json["untouched"]] == ["all of it"]
    assert told.json["untouched"][0]["limit_usd"] == "100" and told.json["next_cursor"] is None


def test_the_table_shows_both_sides_of_a_limit(touched: Cli) -> None:
    shown = touched("budgets").out
    lines = [line.split() for line in shown.splitlines()]
    at = next(number for number, line in enumerate(lines) if "ada" in line)
    first, second = lines[at : at + 2]
    assert [part for part in first if part.startswith("$")] == ["$0.5000", "$0.0200", "$0", "$0.4800"]
    assert second[:2] == ["10,000", "tokens"] and "9,850" in second
    assert re.search(r"all of it +every global +lifetime +untouched +\$100\n?", shown)
    assert "exhausted" in shown and "Who touched" not in shown


def test_one_budget_with_who_touched_it(touched: Cli) -> None:
    told = touched("budgets", "--name", "free users, daily", "--json").json
    assert told["untouched"] == []
    assert [item["touchers"] for item in told["items"] if item["key"] == "ada"] == [
        [{"agent_id": "helper", "user_id": "ada", "step": "plan", "rows": 1, "usd": "0.02", "tokens": 150}]
    ]
    shown = touched("budgets", "--name", "free users, daily").out
    assert re.search(r"Who touched free users, daily \(user ada\)", shown)
    assert re.search(r"helper +ada +plan +1 +\$0\.0200 +150", shown)


def test_what_is_held_is_told_apart_from_what_is_spent(cli: Cli) -> None:
    """By another process that still has a call in flight."""
    Path("bursar.toml").write_text(CONFIG)
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        spend(store, "1", "ada", 0, ends=False)
        (item,) = cli("budgets", "--json").json["items"]
    assert (item["settled_usd"], item["held_usd"], item["remaining_usd"]) == ("0", "0.0505", "0.4495")
    assert (item["settled_tokens"], item["held_tokens"], item["used"]) == (0, 600, 0.101)


def test_pages_of_budgets_and_wrong_questions(touched: Cli) -> None:
    first = touched("budgets", "--limit", "1", "--json").json
    rest = touched("budgets", "--limit", "1", "--cursor", first["next_cursor"], "--json").json
    assert [page["items"][0]["key"] for page in (first, rest)] == ["bob", "ada"]
    assert rest["untouched"] == [] and rest["next_cursor"] is None
    assert "More: --cursor" in touched("budgets", "--limit", "1").out
    for argv, told in (
        (["budgets", "--limit", "0"], "expected 1 to 1000"),
        (["budgets", "--name", "no such"], "no budget 'no such' is configured"),
        (["budgets", "--cursor", "?"], "--cursor"),
        (["budgets", "suggest", "--agent", "a", "--by", "step"], "--by: expected tag:K"),
        (["budgets", "suggest", "--agent", "a", "--coverage", "0"], "--coverage 0.0: expected a share"),
        (["budgets", "suggest", "--agent", "a", "--confidence", "1"], "--confidence 1.0: expected a share"),
        (["budgets", "suggest", "--agent", "a", "--promise", "nan"], "--promise nan: expected a share"),
    ):
        ended = touched(*argv)
        assert (ended.code, told in ended.err) == (2, True), ended.err


def test_no_budget_at_all(cli: Cli) -> None:
    SqliteStore("bursar.db").close()
    assert "No budget is configured" in cli("budgets").out


@pytest.mark.parametrize("command", ["budgets", "budgets suggest"])
def test_help_ends_with_an_example(cli: Cli, command: str) -> None:
    told = cli(*command.split(), "--help")
    assert told.code == 0 and f"Example: bursar {command}" in told.out
    assert "--config" in told.out and "--json" in told.out and "--no-" not in told.out


# --- suggest


@pytest.fixture
def recorded(cli: Cli) -> Cli:
    """20 short and 16 long tasks of one agent; one short run cost nobody knows what, the last one is the largest."""
    with contextlib.closing(SqliteStore("bursar.db")) as store:
        for number in range(36):
            kind, size = ("short", 1_000) if number < 20 else ("long", 6_000 if number < 28 else 9_000)
            tokens = 60_000 if number == 35 else size
            cost = {"input_tokens": tokens, "output_tokens": 0, "cost_nanos": tokens * 1_000 if number else None}
            live(
                store, f"q{number}", run_id=f"run-{number}", agent_id="researcher", tags=(("task", kind),),
                started_at=NOON + number * MINUTE, outcome=cost,
            )  # fmt: skip
    return cli


def test_a_limit_for_each_kind_of_task(recorded: Cli) -> None:
    told = recorded("budgets", "suggest", "--agent", "researcher", "--by", "tag:task", "--json").json
    short, long = told["suggestions"]
    assert (short["kind"], short["limit_tokens"], short["limit_usd"]) == ("short", 1_250, "0.00125")
    assert (short["tokens"]["runs"], short["usd"]["runs"], short["usd"]["unknown_runs"]) == (20, 19, ["run-0"])
    assert (long["kind"], long["limit_tokens"], long["tokens"]["stopped_runs"]) == ("long", 12_500, ["run-35"])
    assert long["tokens"]["stopped_at_most"] == pytest.approx(0.264, abs=1e-3)
    assert long["tokens"]["runs_needed"] == 149 and long["tokens"]["limit_that_keeps_the_promise"] is None
    assert long["tokens"]["drift"]["later_median"] == 9_000 and short["tokens"]["drift"] is None
    assert (told["runs_under_way"], told["older_runs_left_out"]) == (0, False)
    Path("suggested.toml").write_text("\n".join(one["toml"] for one in told["suggestions"]))
    assert [budget.limit_tokens for budget in load(Path("suggested.toml"), {}).budgets] == [1_250, 12_500]


def test_a_suggestion_says_what_it_would_have_done(recorded: Cli) -> None:
    shown = recorded("budgets", "suggest", "--agent", "researcher", "--by", "tag:task").out
    assert "12,500 tokens  (0.9 of 16 runs came to at most 9,000 tokens; 0.2 more" in shown
    assert "It would have stopped 1 of 16 runs: run-35." in shown
    assert "At confidence 0.95, at most 26.4% of such runs would be stopped." in shown
    assert "To promise at most 0.02 takes 149 runs with none of them stopped: 133 more." in shown
    assert "! 1 run of unknown total left out: run-0." in shown
    assert "! Runs since 2025-11-24T16:28:00Z are larger: median 6,000 tokens before, 9,000 tokens after" in shown
    assert 'match = { agent = "researcher", tags = { "task" = "long" } }\nlimit_tokens = 12_500' in shown


def test_other_terms_and_a_period(recorded: Cli) -> None:
    """All runs of the agent together; the largest is covered; a promise that these runs do allow."""
    asked = ("--coverage", "1", "--buffer", "0", "--promise", "0.1", "--since", "2025-11-24T16:05:00Z")
    (told,) = recorded("budgets", "suggest", "--agent", "researcher", *asked, "--json").json["suggestions"]
    assert (told["by"], told["runs"], told["limit_tokens"], told["usd"]["unknown_runs"]) == (None, 31, 60_000, [])
    assert (told["tokens"]["runs_needed"], told["tokens"]["limit_that_keeps_the_promise"]) == (29, 60_000)
    shown = recorded("budgets", "suggest", "--agent", "researcher", *asked).out
    assert "To promise at most 0.1, the limit has to be 60,000 tokens or more (it takes 29 runs)." in shown


def test_nothing_recorded_suggests_nothing(recorded: Cli) -> None:
    told = recorded("budgets", "suggest", "--agent", "nobody")
    assert told.code == 0 and "Nothing to go by" in told.out
    assert recorded("budgets", "suggest", "--agent", "nobody", "--json").json["suggestions"] == []
