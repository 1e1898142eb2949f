"""Tiers, steps, validators and cascades in the library: real SDK clients against a sandbox on real sockets.

Whatever happens on the way up, every attempt and every judge is a row of the run, and their costs are the provider's
bill to the nano-dollar.
"""

import asyncio
import contextvars
import json
import re
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bursar
import library_kit as kit
import routing_kit as routes
from bursar.money import format_usd
from bursar.policy import Candidate, Check, JudgePrompt, Match, Policy, StepRule
from bursar.sandbox import SandboxServer
from bursar.types import Answer, Judgement
from gateways import running
from routing_kit import GPT, GPT_MID, KEYS, MIXED, RIGHT, SCHEMA, WRONG, Deal, at, usd


@pytest.fixture(scope="module")
def climbing() -> Iterator[SandboxServer]:
    """From mid on they are right."""
    with SandboxServer(routes.settings("mid")) as server:
        yield server


@pytest.fixture(scope="module")
def mending() -> Iterator[SandboxServer]:
    """Nobody is right before he is told what was wrong."""
    with SandboxServer(routes.settings("frontier", mends=True)) as server:
        yield server


# Validators of every kind


VALIDATORS: dict[str, Any] = {
    "model": Deal,
    "schema": SCHEMA,
    "labels": [RIGHT, "nothing else"],
    "regex": re.compile(r'"pages": \d+'),
    "function": lambda text: "pages" in text,
    "answer": lambda answer: "pages" in answer.text,
    "score": lambda text: 0.9 if "pages" in text else 0.2,
    "assertion": None,
    "all of a list": [Deal, re.compile("Ada")],
    "policy's own": Check("own", lambda answer: "pages" in answer.text),
}


def asserted(text: str) -> bool:
    assert "pages" in text, "no pages"
    return True


@pytest.mark.parametrize("kind", sorted(VALIDATORS))
def test_a_failed_check_climbs(climbing: SandboxServer, kind: str) -> None:
    """Small fails (where it may mend, twice), mid passes; the caller has mid's answer and its headers."""
    validate = asserted if kind == "assertion" else VALIDATORS[kind]
    mends = kind not in ("function", "answer", "score", "policy's own")
    with at(climbing) as (guard, server, url), guard.run() as run:
        client = routes.openai(guard, url)
        with run.step("extract", cascade=["small", "mid"], validate=validate) as step:
            raw = client.chat.completions.with_raw_response.create(model=GPT_MID, messages=kit.said("Who buys?"))
        assert routes.chat_text(raw.parse()) == RIGHT and step.flagged == run.flagged == 0
        rows = routes.ordered(guard)
        assert [row.tier for row in rows] == ["small", "small", "mid"][not mends :]
        assert {(row.run_id, row.step, row.requested_model) for row in rows} == {(run.id, "extract", GPT_MID)}
        assert [row.validated for row in rows] == [False] * (len(rows) - 1) + [True]
        told = raw.headers
        assert (told["x-bursar-validated"], told["x-bursar-tier"]) == ("true", "mid")
        assert told["x-bursar-model"].startswith("openai/gpt-4o") and "cascade:mid" in told["x-bursar-route-reason"]
        assert told["x-bursar-attempts"] == str(len(rows))
        cost = routes.billed(guard, server)
        assert run.cost == Decimal(told["x-bursar-cost-usd"]) == usd(cost)


def test_one_repair_with_the_error_told(mending: SandboxServer) -> None:
    """The second request of the same tier ends with what was wrong; the bad answer itself is not carried on."""
    with at(mending) as (guard, server, url), guard.step("extract", cascade=["small", "mid"], validate=Deal):
        assert routes.chat_text(routes.chat(routes.openai(guard, url))) == RIGHT
        assert [row.tier for row in routes.ordered(guard)] == ["small", "small"]
        first, second = (json.loads(got.body)["messages"] for got in server.requests)
        assert second[:-1] == first and "pages: Field required" in second[-1]["content"]
        assert not any("Ada" in str(message) for message in second)
        routes.billed(guard, server)


def test_a_broken_validator_never_passes(climbing: SandboxServer) -> None:
    """Its exception is unknown: it climbs, is not repaired, and the last answer is flagged."""

    def broken(text: str) -> bool:
        raise KeyError("no such table")

    with at(climbing) as (guard, server, url), guard.run() as run:
        client = routes.openai(guard, url)
        with run.step("extract", cascade=["small", "mid"], validate=broken) as step:
            raw = client.chat.completions.with_raw_response.create(model=GPT, messages=kit.said("Who buys?"))
        assert raw.headers["x-bursar-validated"] == "false" and routes.chat_text(raw.parse()) == RIGHT
        assert [(row.tier, row.validated) for row in routes.ordered(guard)] == [("small", None), ("mid", None)]
        assert step.flagged == run.flagged == 1
        routes.billed(guard, server)


@pytest.mark.parametrize("configured", [False, True])
def test_a_validator_may_ask_a_model_itself(climbing: SandboxServer, configured: bool) -> None:
    """By the wrapped client, in the same step: booked to it, never judged itself, part of what the answer cost."""
    asked: list[str] = []

    def agrees(text: str) -> bool:
        asked.append(text)
        routes.chat(client, text=f"Is this right? {text}")
        return "pages" in text

    check = Check("agrees", lambda answer: agrees(answer.text))
    rule = StepRule(match=Match(step="extract"), cascade=("small", "mid"), validators=(check,))
    with at(climbing, rules=(rule,) * configured) as (guard, server, url), guard.run() as run:
        client = routes.openai(guard, url)
        said: Any = {} if configured else {"cascade": ["small", "mid"], "validate": agrees}
        with run.step("extract", **said):
            raw = client.chat.completions.with_raw_response.create(model=GPT_MID, messages=kit.said("Who buys?"))
        assert routes.chat_text(raw.parse()) == RIGHT and asked == [WRONG, RIGHT]
        rows = routes.ordered(guard)
        assert [(row.tier, row.step, row.run_id) for row in rows] == [
            (tier, "extract", run.id) for tier in ("small", "small", "mid", "small")
        ]
        assert run.cost == usd(routes.billed(guard, server)) == Decimal(raw.headers["x-bursar-cost-usd"])


def test_a_validator_alone_keeps_the_callers_model(climbing: SandboxServer) -> None:
    """Without a tier or a cascade: one repair at most, then the answer is given, flagged; nobody else is asked."""
    with at(climbing) as (guard, server, url), guard.step("extract", validate=Deal) as step:
        answer = routes.chat(routes.openai(guard, url))
        assert routes.chat_text(answer) == WRONG and step.flagged == 1
        assert [(row.tier, row.model) for row in routes.ordered(guard)] == [("small", GPT)] * 2
        routes.billed(guard, server)


# What the code says and what the configuration says


def refused(text: str) -> bool:
    return False


RULE = StepRule(
    match=Match(step="extract_*"), tier="mid", cascade=("small", "mid"), validators=(Check("never", lambda _: False),),
    max_output_tokens=7,
)  # fmt: skip


def test_what_code_says_takes_the_place_of_the_rules_field(climbing: SandboxServer) -> None:
    """Field by field; the rest of the first rule that matches stays, also where another step has the same words."""
    with at(climbing, rules=(RULE,)) as (guard, server, url):
        client = routes.openai(guard, url)
        with guard.step("extract_all", validate=refused):
            routes.chat(client, max_tokens=50)
        with guard.step("extract_all", tier="small", validate=refused, max_output_tokens=9):
            routes.chat(client, max_tokens=50)
        with guard.step("other", tier="small", max_output_tokens=9):
            routes.chat(client, max_tokens=50)
        sent = [json.loads(got.body) for got in server.requests]
        limits = [body.get("max_completion_tokens", body.get("max_tokens")) for body in sent]
        tiers = [row.tier for row in routes.ordered(guard)]
        assert list(zip(tiers, limits, strict=True)) == [
            ("mid", 7), ("small", 9), ("mid", 9), ("small", 9),
        ]  # fmt: skip


def test_a_step_says_nothing_for_the_steps_inside(climbing: SandboxServer) -> None:
    """Nor for a run inside; nor under another guard."""
    with at(climbing) as (guard, _, url), routes.guarded(url) as other:
        client, others = routes.openai(guard, url), routes.openai(other, url)
        with guard.step("outer", tier="mid"):
            routes.chat(client)
            routes.chat(others)
            with guard.step("inner"):
                routes.chat(client)
            with guard.run():
                routes.chat(client)
            routes.chat(client)
        assert [row.tier for row in routes.ordered(guard)] == ["mid", "small", "small", "mid"]
        assert [row.tier for row in routes.ordered(other)] == ["small"]


def test_decorated_functions(climbing: SandboxServer) -> None:
    """Plain, async, generator and async generator: the rule holds in each call of each."""
    with at(climbing) as (guard, _, url):
        client, lazy = routes.openai(guard, url), routes.openai(guard, url, openai.AsyncOpenAI)

        @guard.step("extract", tier="small", cascade=["small", "mid"], validate=Deal)
        def plain() -> str:
            return routes.chat_text(routes.chat(client))

        @guard.step("extract", tier="small", cascade=["small", "mid"], validate=Deal)
        async def awaited() -> str:
            return routes.chat_text(await routes.chat(lazy))

        @guard.step("extract", tier="small", cascade=["small", "mid"], validate=Deal)
        def generated() -> Iterator[str]:
            yield routes.chat_text(routes.chat(client))

        assert [plain(), asyncio.run(awaited()), *generated(), plain()] == [RIGHT] * 4
        assert [row.tier for row in routes.ordered(guard)] == ["small", "small", "mid"] * 4


WRONGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tier": "tiny"}, ValueError, "'tiny' is no tier: .tiers. has small, mid"),
    ({"cascade": ["mid", "small"]}, ValueError, "in the order of .tiers.: small, mid"),
    ({"cascade": ["small", "small"]}, ValueError, "does not climb"),
    ({"cascade": ["small"]}, ValueError, "for one say tier="),
    ({"cascade": []}, ValueError, "expected two tiers or more"),
    ({"cascade": "small"}, ValueError, "expected a list of tiers"),
    ({"cascade": ["small", "large"]}, ValueError, "'large' is no tier"),
    ({"min_tier": "mid", "max_tier": "small"}, ValueError, "no tier is left"),
    ({"max_output_tokens": 0}, ValueError, "expected a whole number of 1 or more"),
    ({"max_output_tokens": True}, ValueError, "expected a whole number of 1 or more"),
    ({"validate": "yes"}, TypeError, "give .label, .*or re.compile"),
    ({"validate": []}, TypeError, "validates nothing"),
    ({"validate": {"type": "nonsense"}}, ValueError, "not a JSON Schema"),
    ({"validate": JudgePrompt("Good?", tier="tiny")}, ValueError, "'tiny' is no tier"),
    ({"tyer": "small"}, TypeError, "tyer"),
]


@pytest.mark.parametrize(("said", "kind", "cure"), WRONGS)
def test_what_cannot_be_meant_raises_where_it_is_said(said: dict[str, Any], kind: type[Exception], cure: str) -> None:
    """Where the decorator is applied and where a run's step is made; without tiers too."""
    with routes.guarded("http://127.0.0.1:1") as guard, guard.run() as run:
        for say in (guard.step, run.step):
            with pytest.raises(kind, match=cure):
                say("extract", **said)
    with kit.guarded() as bare:
        for empty in ({"tier": "auto"}, {"validate": JudgePrompt("Good?")}):
            with pytest.raises(ValueError, match=r"there are none: add .tiers."):
                bare.step("extract", **empty)


TIERS = st.sampled_from(["small", "mid", "frontier", "tiny"])


@given(st.lists(TIERS, max_size=4), st.none() | TIERS)
def test_a_cascade_is_taken_exactly_where_it_climbs(cascade: list[str], tier: str | None) -> None:
    order = list(MIXED)
    places = [order.index(name) if name in order else -1 for name in cascade]
    climbs = len(cascade) > 1 and -1 not in places and places == sorted(set(places))
    with routes.guarded("http://127.0.0.1:1", MIXED) as guard:
        try:
            guard.step("extract", cascade=cascade, tier=tier)
        except ValueError:
            assert not climbs or (tier is not None and tier not in cascade)
        else:
            assert climbs and (tier is None or tier in cascade)


# Streams and tools


def test_a_stream_is_held_back_under_a_validator_only(climbing: SandboxServer) -> None:
    """Held: the caller has mid's events alone. Straight: the first byte of the first tier, whatever it says."""
    with at(climbing) as (guard, server, url):
        client = routes.openai(guard, url)
        with guard.step("extract", cascade=["small", "mid"], validate=Deal):
            chunks = list(routes.chat(client, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == RIGHT
        assert {chunk.model for chunk in chunks} == {routes.ordered(guard)[-1].model} and all(
            c.usage is None for c in chunks
        )
        with guard.step("straight", cascade=["small", "mid"]):
            raw = client.chat.completions.with_raw_response.create(
                model=GPT_MID, messages=kit.said("Who buys?"), stream=True
            )
            assert "x-bursar-validated" not in raw.headers and raw.headers["x-bursar-tier"] == "small"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse()) == WRONG
        assert [row.tier for row in routes.ordered(guard)] == ["small", "small", "mid", "small"]
        routes.billed(guard, server)


def test_a_call_of_tools_passes_and_the_last_answer_is_judged(climbing: SandboxServer) -> None:
    """A turn that asks for tools has no answer yet."""
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    with at(climbing) as (guard, server, url), guard.step("plan", cascade=["small", "mid"], validate=["Done."]):
        client = routes.openai(guard, url)
        message = routes.chat(client, text="plan it", tools=[tool]).choices[0].message
        back: Any = [*kit.said("plan it"), message.model_dump(exclude_none=True),
                     {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]  # fmt: skip
        last = client.chat.completions.create(model=GPT, messages=back, tools=[tool])
        assert routes.chat_text(last) == "Done." and [row.tier for row in routes.ordered(guard)] == ["small"] * 2
        routes.billed(guard, server)


# Budgets and judges


def test_a_judge_is_a_row_of_the_run(climbing: SandboxServer) -> None:
    """Asked at the judge's provider by the guard's key, after the free checks; its cost is the run's."""
    judge = JudgePrompt("Is it right?", minimum=0.7, tier="small")
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url), guard.run() as run:
        with run.step("extract", cascade=["mid", "frontier"], validate=[Deal, judge]):
            raw = routes.openai(guard, url).chat.completions.with_raw_response.create(
                model="mid", messages=kit.said("Who buys?")
            )
        assert routes.chat_text(raw.parse()) == RIGHT and raw.headers["x-bursar-validated"] == "true"
        rows = routes.ordered(guard)
        assert [(row.tier, row.purpose, row.run_id) for row in rows] == [
            ("mid", "call", run.id),
            ("small", "judge", run.id),
        ]
        cost = routes.billed(guard, server)
        assert run.cost == usd(cost) == Decimal(raw.headers["x-bursar-cost-usd"]) and run.calls == 1


def test_a_budget_that_ends_in_the_middle_gives_the_best_answer(climbing: SandboxServer) -> None:
    """The next tier cannot be held: small's answer, flagged, within the budget, and the run should finish."""
    with at(climbing) as (guard, server, url), guard.run(budget=bursar.Budget(usd="0.0005")) as run:
        client = routes.openai(guard, url)
        with run.step("extract", cascade=["small", "mid"], validate=lambda text: "pages" in text) as step:
            raw = client.chat.completions.with_raw_response.create(
                model=GPT, messages=kit.said("Who buys?"), max_tokens=300
            )
        assert routes.chat_text(raw.parse()) == WRONG and raw.headers["x-bursar-validated"] == "false"
        assert raw.headers["x-bursar-tier"] == "small" and (step.flagged, run.flagged) == (1, 1)
        assert [(row.tier, row.status) for row in routes.ordered(guard)] == [("small", "completed"), ("mid", "refused")]
        assert run.cost == usd(routes.billed(guard, server)) <= Decimal("0.0005") and run.should_finish


@pytest.mark.parametrize("tenths", [1, 5, 20])
def test_a_budget_holds_over_cascades_and_judges(climbing: SandboxServer, tenths: int) -> None:
    """Eight threads climb in one run, with a judge: never more than the budget, and what it cost is the bill."""
    limit = Decimal(tenths) / 1000
    judge = JudgePrompt("Is it right?", minimum=0.95, tier="small")
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url), guard.run(budget=bursar.Budget(usd=limit)) as run:
        client = routes.openai(guard, url)
        texts: list[str] = []

        def work(number: int) -> None:
            with run.step("extract", cascade=["small", "mid", "frontier"], validate=[Deal, judge]):
                for turn in range(2):
                    told = kit.patient_chat(client, f"Who buys {number} {turn}?", max_tokens=100)
                    texts.append(routes.chat_text(told))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert run.cost == usd(routes.billed(guard, server)) <= limit and run.unknown == 0
        assert len(texts) == 16 and all(
            RIGHT.startswith(text) or text == WRONG or kit.STOPPED in text for text in texts
        )
        rows = kit.rows(guard)
        assert any(row.status == "refused" for row in rows)
        assert any(row.purpose == "judge" for row in rows) or tenths < 10


def test_a_judge_that_cannot_be_paid_is_no_pass(climbing: SandboxServer) -> None:
    """It is refused on the call's own budget: the answer is not known to be good, and the next tier is asked."""
    judge = JudgePrompt("Is it right? " + "Look closely. " * 400, tier="small")
    with at(climbing) as (guard, server, url), guard.run(budget=bursar.Budget(tokens=1_000)) as run:
        with run.step("extract", cascade=["small", "mid"], validate=judge):
            answer = routes.chat(routes.openai(guard, url), text="Who buys?", max_tokens=100)
        assert routes.chat_text(answer) == RIGHT
        assert [(row.purpose, row.status) for row in routes.ordered(guard)] == [
            ("call", "completed"), ("judge", "refused"), ("call", "completed"),
        ]  # fmt: skip
        assert run.cost == usd(routes.billed(guard, server)) and run.tokens <= 1_000


# Many at once


def test_threads_and_tasks_have_their_own_answers(climbing: SandboxServer) -> None:
    """Runs in threads and in tasks: each has its own rows, cost and flags, and the sum is the bill."""
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url):
        client, lazy = routes.openai(guard, url), routes.openai(guard, url, openai.AsyncOpenAI)
        runs: list[bursar.Run] = []

        def judged(flags: bool) -> Any:
            return (lambda text: False) if flags else Deal

        def work(at: int) -> None:
            with guard.run() as run, run.step("extract", cascade=["small", "mid"], validate=judged(at % 2 == 1)):
                raw = client.chat.completions.with_raw_response.create(
                    model="small", messages=kit.said(f"Who buys {at}?")
                )
            assert run.flagged == at % 2 and Decimal(raw.headers["x-bursar-cost-usd"]) == run.cost
            runs.append(run)

        async def task(at: int) -> None:
            async with guard.run() as run, run.step("extract", cascade=["small", "mid"], validate=judged(at % 2 == 1)):
                create = lazy.chat.completions.with_raw_response.create
                raw = await create(model="small", messages=kit.said(f"Who buys {at}?"))
            assert run.flagged == at % 2 and Decimal(raw.headers["x-bursar-cost-usd"]) == run.cost
            runs.append(run)

        async def tasks() -> None:
            await asyncio.gather(*(task(at) for at in range(8, 16)))
            await guard._desk.peers.aclose()
            await lazy.close()

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work, at)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(tasks())
        assert len(runs) == 16
        rows = kit.rows(guard)
        for run in runs:
            own = [row for row in rows if row.run_id == run.id]
            assert len(own) == (3 - run.flagged) and len({row.request_id for row in own}) == 1
            assert run.cost == Decimal(format_usd(sum(row.cost_nanos or 0 for row in own)))
        assert sum((run.cost for run in runs), Decimal(0)) == usd(routes.billed(guard, server))


# auto, and a router of one's own


def test_auto_begins_as_the_cascade_and_a_router_may_choose(climbing: SandboxServer) -> None:
    """model="auto" and tier="auto"; a router that breaks, or names no tier, leaves the choice where it was."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    choice: list[Any] = ["small"]

    def router(call: Any, routed: Any) -> str | None:
        asked.append((routed.step, routed.tiers))
        if choice[0] is None:
            raise RuntimeError("no model loaded")
        return str(choice[0])

    rule = StepRule(match=Match(step="extract"), tier="auto", validators=(Check("deal", lambda a: "pages" in a.text),))
    with at(climbing, rules=(rule,), router=router) as (guard, server, url):
        client = routes.openai(guard, url)
        assert guard.router is router
        with guard.step("extract"):
            for chosen in ("mid", "small", "nonsense", None):
                choice[0] = chosen
                assert routes.chat_text(routes.chat(client, model="auto")) == RIGHT
        with guard.step("other", tier="auto", validate=Deal):
            choice[0] = "mid"
            assert routes.chat_text(routes.chat(client)) == RIGHT
        tiers = [row.tier for row in routes.ordered(guard)]
        assert tiers == ["mid", "small", "mid", "small", "mid", "small", "mid", "mid"]
        assert asked == [("extract", ("small", "mid"))] * 4 + [("other", ("small", "mid"))]
        routes.billed(guard, server)


def test_a_tier_by_name_and_the_callers_own_model(climbing: SandboxServer) -> None:
    """Named in the body, or by the step; without any of it the model is the caller's and no header is added."""
    with at(climbing) as (guard, _, url):
        client = routes.openai(guard, url)
        plain = client.chat.completions.with_raw_response.create(model=GPT, messages=kit.said("Who buys?"))
        routes.chat(client, model="mid")
        with guard.step("extract", tier="mid"):
            routes.chat(client)
        assert not any(name.startswith("x-bursar") for name in plain.headers)
        rows = routes.ordered(guard)
        assert [(row.tier, row.route_reason.partition(":")[0]) for row in rows] == [
            ("small", "caller"), ("mid", "tier"), ("mid", "step"),
        ]  # fmt: skip


# guard.cascade


def test_cascade(climbing: SandboxServer) -> None:
    """A text and messages, by either SDK, all tiers or some; the answer and what became of it."""
    with at(climbing, MIXED, keys=KEYS) as (guard, server, url):
        with pytest.raises(ValueError, match=r"guard\.wrap"):
            guard.cascade("Who buys?", Deal)
        routes.openai(guard, url)
        found = guard.cascade("Who buys?", Deal)
        assert (found.text, found.validated, found.tier, found.attempts) == (RIGHT, True, "mid", 3)
        assert found.model is not None and found.model.startswith("openai/") and "mid" in found.reason
        assert found.cost == usd(routes.billed(guard, server))
        claude = routes.anthropic(guard, url)
        found = guard.cascade(
            kit.said("Who buys?"), lambda text: False, client=claude, tiers=["small", "frontier"], step="x"
        )
        assert (found.validated, found.tier, found.text) == (False, "frontier", RIGHT)
        found = guard.cascade("Who buys?", Deal, tiers=["small"], system="Be brief.")
        assert (found.validated, found.tier, found.text) == (False, "small", WRONG)
        assert json.loads(server.requests[-1].body)["system"] == "Be brief."
        assert {row.step for row in kit.rows(guard)} == {"cascade", "x"}
        with pytest.raises(TypeError, match="AsyncOpenAI, AsyncAnthropic"):
            asyncio.run(guard.acascade("Who buys?", Deal, client=claude))
        with pytest.raises(TypeError, match="expected OpenAI"):
            guard.cascade("Who buys?", Deal, client=object())


def test_acascade_in_a_run_out_of_money(climbing: SandboxServer) -> None:
    """auto by an async client; and a budget's own words are no answer of a tier."""
    with at(climbing) as (guard, server, url):

        async def work() -> None:
            client = routes.openai(guard, url, openai.AsyncOpenAI)
            found = await guard.acascade("Who buys?", Deal, tiers="auto")
            assert (found.text, found.validated, found.tier) == (RIGHT, True, "mid")
            async with guard.run(budget=bursar.Budget(tokens=1)) as run:
                found = await guard.acascade("Who buys?", Deal, client=client)
                assert found.text.startswith(kit.STOPPED) and (found.validated, found.tier, found.attempts) == (
                    False,
                    None,
                    0,
                )
                assert run.cost == 0

        asyncio.run(work())
        routes.billed(guard, server)


def test_the_gateway_says_it_too() -> None:
    """Passed, flagged, and nothing where nobody judged; held streams as well."""
    tiers = {"small": (Candidate("openai", GPT),), "mid": (Candidate("openai", GPT_MID),)}
    deal = Check("deal", lambda answer: "pages" in answer.text)
    rules = (
        StepRule(match=Match(step="passes"), cascade=("small", "mid"), validators=(deal,)),
        StepRule(match=Match(step="fails"), tier="small", validators=(deal,)),
    )
    with running(routes.settings("mid"), steps=rules, credentials=KEYS, routing=routes.UNAUDITED) as gateway:
        gateway.app.proxy.driver.policy = msgspec.structs.replace(gateway.app.proxy.driver.policy, tiers=tiers)
        told = {}
        for step in ("passes", "fails", "other"):
            for stream in (False, True):
                ask = {"model": GPT, "messages": kit.said("Who buys?"), "stream": stream}
                reply = gateway.post("/v1/chat/completions", ask, {"x-bursar-step": step})
                told[step, stream] = (reply.headers.get("x-bursar-validated"), reply.headers["x-bursar-tier"])
        assert told == {
            ("passes", False): ("true", "mid"), ("passes", True): ("true", "mid"),
            ("fails", False): ("false", "small"), ("fails", True): ("false", "small"),
            ("other", False): (None, "small"), ("other", True): (None, "small"),
        }  # fmt: skip


def test_public_names() -> None:
    """What users write validators and routers with."""

    def router(call: Any, routed: Any) -> str | None:
        return None

    named: bursar.Router = router
    check: Callable[[bursar.Answer], bursar.Judgement] = lambda answer: bursar.Judgement(ok=bool(answer.text))  # noqa: E731
    assert check(bursar.Answer(text="x")).ok and named is router
    assert (bursar.Answer, bursar.Judgement) == (Answer, Judgement) and Policy(prices=kit.PRICES).router is None
