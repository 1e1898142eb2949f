"""What the report says of routes, and why each attempt was made as it was: every number is that of its rows."""

import io
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import bursar
import routing_kit as kitchen
from bursar.doors.cli import callmap as maps
from bursar.insights import callmap, report, routes, why
from bursar.money import parse_usd
from bursar.policy import AUTO, Match, StepRule
from bursar.rules.budget import NONE
from bursar.rules.chain.audit import Audits
from bursar.rules.chain.decide import Decision, Weighed, observe
from bursar.rules.chain.state import Step
from bursar.rules.route.auditing import Book
from bursar.rules.route.known import Site
from bursar.sandbox import SandboxServer
from bursar.stores.base import Store
from bursar.stores.states import Changed
from bursar.types import Charge, Entry, Judgement, Mark, Marks
from prompt_kit import agent
from test_report import TIERS, book, row, shown

SMALL, MID, TOP = TIERS


def judged(*told: tuple[Entry, bool | None], others: tuple[Entry, ...] = ()) -> Store:
    """A ledger of rows and what was said of them."""
    store = book(*(entry for entry, _ in told), *others)
    for entry, word in told:
        store.judged(entry, word, msgspec.json.encode(Judgement(ok=word)).decode()).result()
    return store


def put(store: Store, kind: str, document: Any, step: str = "s", agent: str = "a", tenant: str = "default") -> None:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    store.states.update(kind, tenant, Site(tenant, agent, step).key, lambda found, now: Changed(body, None)).result()


def ids(store: Store, tiers: tuple[str, ...] = TIERS, steps: tuple[StepRule, ...] = ()) -> set[str]:
    return {remark.id for remark in report.build(store, tiers=tiers, steps=steps).remarks}


def of(store: Store, step: str = "s") -> dict[str | None, dict[str, Any]]:
    """The step's tiers, as JSON."""
    told = report.as_json(report.build(store, tiers=TIERS))["routes"]
    (found,) = (one for one in told["steps"] if one["step"] == step)
    return {one["tier"]: one for one in found["tiers"]}


class TestSums:
    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(
            st.tuples(st.sampled_from(("s", "t", None)), st.sampled_from((*TIERS, None)), st.none() | st.booleans(),
                      st.none() | st.integers(0, 10**9), st.sampled_from(("completed", "hit"))),
            max_size=12,
        )
    )  # fmt: skip
    def test_are_those_of_the_rows(self, told: list[tuple[Any, ...]]) -> None:
        """Pass rates by step and tier, and what a solved request cost: exactly what the rows add up to."""
        rows = []
        for at, (step, tier, word, cost, status) in enumerate(told):
            word = None if status == "hit" else word
            price = "unpriced" if cost is None else "final"
            entry = row(at, step=step, tier=tier, cost_nanos=cost, cost_status=price, status=status, validated=word)
            rows.append((entry, word))
        store = judged(*((entry, word) for entry, word in rows if entry.status != "hit"),
                       others=tuple(entry for entry, _ in rows if entry.status == "hit"))  # fmt: skip
        found = report.build(store, tiers=TIERS).routes
        routed = {entry.step for entry, word in rows if entry.tier is not None or word is not None}
        assert {one.step for one in found.steps} == routed if found is not None else not routed
        for one in found.steps if found is not None else ():
            mine = [(entry, word) for entry, word in rows if entry.step == one.step]
            passed = sum(word is True for _, word in mine)
            hits = sum(entry.status == "hit" for entry, _ in mine)
            spent = sum(entry.cost_nanos or 0 for entry, _ in mine)
            if any(word is not None for _, word in mine):
                assert one.solved == passed + hits
                assert one.solved_nanos is None or abs(one.solved_nanos * one.solved - spent) <= one.solved / 2
                assert (one.solved_nanos is None) == (one.solved == 0)
            else:
                assert (one.solved, one.solved_nanos) == (None, None)
            order = [tier for tier in (*TIERS, None) if any(entry.tier == tier for entry, _ in mine)]
            assert [tried.tier for tried in one.tiers] == order
            for tried in one.tiers:
                words = [word for entry, word in mine if entry.tier == tried.tier]
                assert (tried.counts.passed, tried.counts.rejected) == (words.count(True), words.count(False))
                assert tried.pass_rate == (words.count(True) / n if (n := len(words) - words.count(None)) else None)

    def test_everything_a_step_tried_is_in_what_a_solved_request_cost(self) -> None:
        """Escalations, repairs, judge calls and audits are paid for by the answers that were accepted."""
        store = judged(
            (row(0, tier=SMALL, cost_nanos=1_000), False),
            (row(0, attempt=2, tier=SMALL, cost_nanos=1_000), False),
            (row(0, attempt=3, tier=TOP, cost_nanos=50_000), True),
            (row(1, tier=SMALL, cost_nanos=1_000), True),
            others=(row(2, tier=SMALL, purpose="judge", cost_nanos=3_000), row(3, tier=TOP, purpose="audit",
                                                                               cost_nanos=44_000)),
        )  # fmt: skip
        (step,) = report.as_json(report.build(store, tiers=TIERS))["routes"]["steps"]
        assert (step["calls"], step["solved"], parse_usd(step["cost_per_solved_usd"])) == (2, 2, 50_000)
        text = shown(report.build(store, tiers=TIERS))
        assert "Pass rates by step and tier" in text and "$0.000050" in text

    def test_no_route_no_section(self) -> None:
        """Where no row has a tier and none was judged nothing is said, and no document is asked for."""
        store = book(row(0, tier=None), row(1, tier=None))
        put(store, "audits", Book(tiers={SMALL: Audits(1, 9)}))
        found = report.build(store, tiers=TIERS)
        assert (found.routes, report.as_json(found)["routes"]) == (None, None)
        assert "Pass rates" not in shown(found)

    def test_by_tier_tells_what_was_passed_and_rejected(self) -> None:
        """Columns of their own, where there is something in them."""
        store = judged((row(0, tier=SMALL), True), (row(1, tier=SMALL), False), (row(2, tier=TOP), True))
        lines = report.as_json(report.build(store, by="tier", tiers=TIERS))["rows"]
        assert {line["tier"]: (line["passed"], line["rejected"]) for line in lines} == {SMALL: (1, 1), TOP: (1, 0)}
        assert "rejected" in shown(report.build(store, by="tier", tiers=TIERS))
        assert "rejected" not in shown(report.build(book(row(0)), by="tier", tiers=TIERS))


class TestRemarks:
    @pytest.mark.parametrize(("small", "due"), [(59, False), (60, True), (80, True), (81, False)])
    def test_what_good_routes_come_to(self, small: int, due: bool) -> None:
        """Three to four fifths of the calls at the cheapest of several tiers; it is no warning."""
        store = book(*(row(n, tier=SMALL if n < small else MID) for n in range(100)))
        found = report.build(store, tiers=TIERS)
        assert [remark.good for remark in found.remarks if remark.id == "well_routed"] == [True] * due
        assert ("+ " in shown(found)) == due
        assert "well_routed" not in ids(store, (SMALL,))

    @pytest.mark.parametrize(
        ("agreed", "audited", "rejected", "due"),
        [(8, 10, 10, False), (7, 10, 5, True), (0, 9, 0, False), (20, 20, 0, False), (9, 10, 20, False)],
    )
    def test_a_check_that_lets_too_much_through(self, agreed: int, audited: int, rejected: int, due: bool) -> None:
        """Over 15 % of the wrong answers, once ten were audited; of all agents together."""
        words = [True] * 5 + [False] * rejected
        store = judged(*((row(n, tier=SMALL), word) for n, word in enumerate(words)))
        put(store, "audits", Book(tiers={SMALL: Audits(agreed // 2, audited // 2)}))
        put(store, "audits", Book(tiers={SMALL: Audits(agreed - agreed // 2, audited - audited // 2)}), agent="b")
        told = of(store)[SMALL]
        slipped = 5 * (audited - agreed) / audited
        rate = slipped / (slipped + rejected) if slipped + rejected else 0.0
        assert (told["audited"], told["agreed"], told["precision"]) == (audited, agreed, agreed / audited)
        assert told["false_pass_rate"] == pytest.approx(rate)
        assert told["precision_low"] <= told["precision"]
        assert ("lax_check" in ids(store)) == due == (audited >= 10 and rate > routes.LAX)

    def test_a_chain_that_is_dearer_than_its_last_tier(self) -> None:
        """Nine in ten of the small tier's answers are thrown away and it is hardly cheaper: said, but of what is
        learned, which goes to the last tier by itself."""
        step = Step()
        for at in range(20):
            step = observe(step, Decision(SMALL, ""), at % 10 == 0, cost_nanos=900)
            step = observe(step, Decision(TOP, "", (SMALL,)), True, cost_nanos=1_000)
        store = judged((row(0, tier=SMALL), False), (row(0, attempt=2, tier=TOP), True))
        put(store, "chain", step)
        (told,) = (remark.text for remark in report.build(store, tiers=TIERS).remarks if remark.id == "dear_chain")
        assert told.startswith(
            "Step s of a: trying small, frontier in turn is expected to cost 1.77 times frontier alone"
        )
        chain = StepRule(match=Match(step="s*"), cascade=(SMALL, TOP))
        assert "dear_chain" in ids(store, steps=(chain,))
        assert "dear_chain" in ids(store, steps=(StepRule(match=Match(step="t"), tier=AUTO), chain))
        assert "dear_chain" not in ids(store, steps=(StepRule(match=Match(agent="a"), tier=AUTO),))
        assert "dear_chain" not in ids(store, steps=(StepRule(cascade=(SMALL, MID)),))  # never came so far
        put(store, "chain", msgspec.structs.replace(step, skipped=(SMALL,)))
        assert "dear_chain" not in ids(store)

    def test_a_chain_that_pays_is_not_warned_of(self) -> None:
        step = Step()
        for _ in range(20):
            step = observe(step, Decision(SMALL, ""), True, cost_nanos=10)
        step = observe(step, Decision(TOP, "", (SMALL,)), True, cost_nanos=1_000)
        store = judged((row(0, tier=SMALL), True))
        put(store, "chain", step)
        assert "dear_chain" not in ids(store)

    def test_what_cannot_be_read_is_not_known(self) -> None:
        """Damaged documents and keys of another shape are passed over; steps without a name are found."""
        store = judged((row(0, tier=SMALL, step=None), True))
        for kind, key in itertools.product(("chain", "audits"), (Site("default", "a", "s").key, "*", "x:y/z", "9")):
            store.states.update(kind, "default", key, lambda found, now: Changed(b"{", None)).result()
        put(store, "audits", Book(tiers={SMALL: Audits(3, 4)}), step=NONE)
        (step,) = report.as_json(report.build(store, tiers=TIERS))["routes"]["steps"]
        assert (step["step"], step["tiers"][0]["precision"]) == (None, 0.75)


DECISION = Decision(
    SMALL, "small: 0.90 can pass, 0.10 needed", ("tiny",), (Weighed(SMALL, 12.0, 0.75, 0.9, 0.1, 120_000),), 200_000,
    1_000_000, probe=True, left_out=("mid: 9,000 tokens do not fit",),
)  # fmt: skip
CHARGES = (
    Charge("day", "tenant", "default", "default", 0, 2_000_000, 0, 880_000),
    Charge("task", "run", "r1", "default", 0, 2_000_000, 1_100, 430_000),
)


def decided(**told: Any) -> Entry:
    """A row of which everything was decided."""
    usual = {
        "cache": "miss", "charges": CHARGES, "output_limit": 500, "decision": msgspec.json.encode(DECISION).decode(),
        "marks": msgspec.json.encode(Marks((Mark(1, "5m"),), covered=900)).decode(), "cached_tokens": 60,
        "cache_write_tokens": 30, "validated": False,
        "verdict": msgspec.json.encode(Judgement(ok=False, reason="no JSON", repairable=True, score=0.1)).decode(),
    }  # fmt: skip
    return row(0, **{**usual, **told})


class TestWhy:
    def test_every_decision_in_words(self) -> None:
        """Which cache, the tightest budget and its hold, the candidates, the marks, the check's word."""
        told = {reason.topic: reason.full for reason in why.reasons(decided())}
        assert told == {
            "cache": "looked, and no equal call was kept",
            "budget": "budget task (run r1) held $0.002 and 1,100 tokens with 43% left, the tightest of 2; budget day "
            "(tenant) held $0.002 with 88% left; the answer limited to 500 tokens",
            "route": "small: 0.90 can pass, 0.10 needed; after tiny failed its check; small: 12 answers seen, 75% "
            "expected to pass and 90% at the most, pays from 10%, $0.00012 an attempt; expected $0.0002 to an accepted "
            "answer; $0.001 by the last tier at once; tried to learn, though it is not expected to pay; left out: mid: "
            "9,000 tokens do not fit",
            "prompt_cache": "1 mark kept 5m, the first 900 tokens; 60 of 100 input tokens read from it, 30 written to "
            "it",
            "check": "rejected it (score 0.10): no JSON; the same model may mend it",
        }
        assert why.brief(decided()) == (
            "small: 0.90 can pass, 0.10 needed; check rejected it (score 0.10): no JSON; not in the cache; "
            "prompt cache: 1 mark kept 5m, the first 900 tokens; 60 of 100 input tokens read from it, 30 written to "
            "it; budget task (run r1) held $0.002 and 1,100 tokens with 43% left, the tightest of 2; the answer "
            "limited to 500 tokens"
        )

    def test_where_nothing_was_decided(self) -> None:
        """No line of why, and each topic says so when asked."""
        plain = row(0, cache="bypass", tier=None)
        assert why.brief(plain) == ""
        told = {reason.topic: reason.full for reason in why.reasons(plain)}
        assert told["route"] == "the caller's model was kept" and told["budget"] == "none stands over it"
        assert (told["check"], told["prompt_cache"]) == ("nobody judged it", "its step asks for no marks")

    def test_a_refusal_says_which_budget(self) -> None:
        refused = row(0, status="refused", error="the budget 'day' is used up", cost_nanos=0)
        assert "the budget 'day' is used up" in why.brief(refused)

    @pytest.mark.parametrize("text", ["{", "[]", '"\\ud800"', '{"ok": 3}', "null"])
    def test_what_cannot_be_read_is_left_out(self, text: str) -> None:
        """Rows that others wrote: no fault, and no word of what was there."""
        strange = decided(decision=text, verdict=text, marks=text, validated=None)
        assert {reason.topic for reason in why.reasons(strange)} == {
            "cache",
            "budget",
            "route",
            "prompt_cache",
            "check",
        }

    def test_rows_of_old_do_not_know_what_was_left(self) -> None:
        old = decided(charges=tuple(msgspec.structs.replace(charge, left=None) for charge in CHARGES))
        assert "left" not in why.reasons(old)[1].full and "tightest" not in why.reasons(old)[1].full


def printed(*entries: Entry, width: int = 1000, full: bool = False) -> list[str]:
    out = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    maps.print_run("r1", None, callmap.grow("r1", entries), out, full=full)
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


class TestTheCallMap:
    def test_a_line_an_attempt_and_one_of_why(self) -> None:
        """Where nothing was decided there is none; asked for all, each decision has a line of its own."""
        plain = row(1, cache="bypass", tier=None)
        lines = printed(decided(), plain, row(2, run_id="n1", parent_run_id="r1"))
        told = [line.split()[0] for line in lines[4:]]
        assert told == ["s", "why:", "s", "└", "s"]
        assert lines[5].startswith("    why: small: 0.90 can pass, 0.10 needed; check rejected it")
        full = [line.split(":")[0].strip() for line in printed(decided(), full=True)[5:]]
        assert full == ["cache", "budget", "route", "prompt cache", "check"]

    def test_a_terminal_is_kept_to_and_not_driven(self) -> None:
        """Long words are wrapped under their indent; what a validator or a name says is no command."""
        evil = msgspec.json.encode(Judgement(ok=False, reason="\x1b[2J" + "word " * 60)).decode()
        lines = printed(decided(verdict=evil), width=100)
        assert all(len(line) <= 100 and "\x1b" not in line for line in lines)
        assert [line[:4] for line in lines[5:]] == ["    "] * len(lines[5:]) and len(lines) > 8

    def test_as_json(self) -> None:
        (call,) = callmap.as_json("r1", None, [decided()])["calls"]
        assert call["why"]["check"].startswith("rejected it")
        assert call["marks"] == {"marks": [{"block": 1, "ttl": "5m"}], "explicit": False, "key": None, "covered": 900}


def test_of_a_real_climb() -> None:
    """A cascade under a budget, played on sockets: what each attempt was decided by stands in its row, and the report
    adds it up."""
    with (
        SandboxServer(kitchen.settings("mid")) as server,
        kitchen.at(server) as (guard, _, url),
        guard.run(agent="legal", budget=bursar.Budget(usd="0.10")) as run,
    ):
        client = kitchen.openai(guard, url)
        with run.step("extract", cascade=["small", "mid"], validate=lambda text: "pages" in text):
            kitchen.chat(client, max_tokens=50)
        rows = kitchen.ordered(guard)
        store = guard._desk.store
        (small, mid) = callmap.as_json(run.id, None, rows)["calls"]
        assert small["why"]["budget"].startswith(f"budget run:{run.id} (run {run.id}) held $")
        assert small["why"]["budget"].endswith("% left")
        assert (small["why"]["check"][:8], mid["why"]["check"]) == ("rejected", "passed")
        assert small["why"]["route"].startswith("small: the first of the cascade")
        assert "after small failed its check" in mid["why"]["route"]
        (step,) = report.as_json(report.build(store, tiers=("small", "mid")))["routes"]["steps"]
        assert [(one["tier"], one["passed"], one["rejected"]) for one in step["tiers"]] == [
            ("small", 0, 1),
            ("mid", 1, 0),
        ]
        assert step["solved"] == 1 and parse_usd(step["cost_per_solved_usd"]) == kitchen.billed(guard, server)
        assert store.verify() == []


@pytest.mark.parametrize("door", ["library", "gateway"])
def test_marks_of_a_real_conversation(door: str) -> None:
    """As many as its body was sent with stand in the row; where the step asks for none, none do."""
    with agent(door, "sonnet") as one:
        one.converse(3, "today")
        booked = [msgspec.json.decode(row.marks or "null", type=Marks) for row in one.ledger()]
        sent = [json.dumps(body).count('"cache_control"') for body in one.sent()]
        assert [len(marks.marks) for marks in booked] == sent and sum(sent) > 0
        assert "prompt cache: 1 mark kept 5m" in why.brief(one.ledger()[0])
    with agent(door, "sonnet", ()) as one:
        one.converse(1, "today")
        assert [row.marks for row in one.ledger()] == [None]
