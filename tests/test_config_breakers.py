"""[[breakers]]: each key arrives in the policy, each mistake is told where it stands."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.config import load
from bursar.policy import Breaker, Match
from bursar.policy.breakers import Ceiling, Errors, FanOut, Growth, Loop, Trigger, Velocity
from configs import as_json, dollars, faults, policy_of, shares, tables

HEAD = '[[breakers]]\nname = "a"\nscope = "session"\n'
CEILING = HEAD + 'rule = { metric = "spend", over_usd = 5.00 }\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ('[[breakers]]\nscope = "run"\nrule = { metric = "loop" }', 1, "breakers[0].name", "is required"),
        (HEAD, 1, "breakers[0].rule", "is required"),
        (HEAD + "rule = {}", 4, "breakers[0].rule.metric", "is required"),
        (HEAD + 'rule = { metric = "sped" }', 4, "breakers[0].rule.metric", "'spend', 'velocity', 'loop'"),
        (HEAD + 'rule = { metric = "spend" }', 4, "breakers[0].rule.over_usd", "is required"),
        (HEAD + '[breakers.rule]\nmetric = "spend"\nover_usd = -1', 6, "breakers[0].rule.over_usd", "0 or more"),
        (HEAD + 'rule = { metric = "spend", over_usd = 1, windo = "day" }', 4, "breakers[0].rule.windo", "window?"),
        (HEAD + 'rule = { metric = "loop", over_runs = 1 }', 4, "breakers[0].rule.over_runs", "configuration: see"),
        (HEAD + 'rule = { metric = "loop", repeats = 1 }', 4, "breakers[0].rule.repeats", "2"),
        (HEAD + 'rule = { metric = "loop", alike = true }', 4, "breakers[0].rule.alike", "or false"),
        (HEAD + 'rule = { metric = "velocity", over_usd = 1, minutes = 61 }', 4, "breakers[0].rule.minutes", "60"),
        (HEAD + 'rule = { metric = "velocity", over_usd = 1, times = 0 }', 4, "breakers[0].rule.times", "above 0"),
        (HEAD + 'rule = { metric = "errors", failures = 9, of = 8 }', 4, "breakers[0].rule", "never trips"),
        (HEAD + 'rule = { metric = "fan_out", within = "0s" }', 4, "breakers[0].rule.within", "above 0"),
        (HEAD + 'rule = { metric = "growth", turns = "x" }', 4, "breakers[0].rule.turns", "integer"),
        (CEILING + 'suspend = "30m"', 5, "breakers[0].suspend", 'expected "reset"'),
        (CEILING + "suspend = 5", 5, "breakers[0].suspend", 'or a duration such as "30m"'),
        (CEILING.replace("session", "globe"), 3, "breakers[0].scope", "'global'"),
        (CEILING + "text = ''", 5, "breakers[0].text", "at least 1"),
        (
            CEILING.replace("session", "run").replace("over", 'window = "day", over'), 4, "breakers[0].rule",
            "a run is not counted anew by the clock",
        ),
        (CEILING + CEILING, 6, "breakers[1].name", "another breaker has this name (breakers[0])"),
    ],
)  # fmt: skip
def test_a_wrong_breaker_is_told_where_it_stands(tmp_path: Path, text: str, line: int, key: str, told: str) -> None:
    """One fault for one mistake, without the names of pydantic's unions in it."""
    (fault,) = faults(tmp_path, text)
    assert (fault.line, fault.key) == (line, key)
    assert told in fault.message


def test_a_budget_does_not_take_a_breakers_counter(tmp_path: Path) -> None:
    """A ceiling counts under "breaker:NAME": no budget may be called so."""
    text = '[[budgets]]\nname = "breaker:a"\nscope = "user"\nlimit_usd = 1\n'
    (fault,) = faults(tmp_path, text)
    assert (fault.line, fault.key) == (2, "budgets[0].name")


def test_what_is_left_out_is_the_policys_own(tmp_path: Path) -> None:
    """A breaker with nothing but its metric is the struct with nothing but its trigger."""
    rules = ["loop", "growth", "fan_out", "errors"]
    told = policy_of(tmp_path, tables("breakers", [_bare(name) for name in rules]))
    triggers: list[Trigger] = [Loop(), Growth(), FanOut(), Errors()]
    assert told.breakers == tuple(
        Breaker(name=name, scope="user", trigger=trigger) for name, trigger in zip(rules, triggers, strict=True)
    )
    assert policy_of(tmp_path, "").breakers == ()


def _bare(metric: str) -> dict[str, Any]:
    return {"name": metric, "scope": "user", "rule": {"metric": metric}}


# --- any breaker

MS = st.integers(1, 10**9)
NANOS = st.integers(0, 10**18 - 1)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"])
WORDS = st.text("abcäöü*?[]{}'\"\\#= ", min_size=1, max_size=8)
NAMES = WORDS.filter(lambda text: text == text.strip())
MATCHES = st.builds(
    Match, st.none() | WORDS, st.none() | WORDS, st.none() | WORDS,
    st.dictionaries(WORDS, WORDS, max_size=2).map(lambda tags: tuple(tags.items())),
)  # fmt: skip
TRIGGERS: st.SearchStrategy[Trigger] = st.one_of(
    st.builds(Ceiling, over_nanos=NANOS, window=st.sampled_from(["hour", "day", "lifetime"]), zone=ZONES),
    st.builds(Velocity, over_nanos=NANOS, minutes=st.integers(1, 60), times=st.none() | st.integers(1, 10**12)),
    st.builds(Loop, repeats=st.integers(2, 1000), alike=st.none() | st.integers(2, 1000), within_ms=MS),
    st.builds(
        Growth, turns=st.integers(2, 10_000), times=st.integers(1, 1000), tokens=st.integers(0, 10**9), within_ms=MS
    ),
    st.builds(FanOut, over_runs=st.integers(1, 10_000), within_ms=MS),
    st.integers(1, 1000).flatmap(
        lambda of: st.builds(Errors, failures=st.integers(1, of), of=st.just(of), within_ms=MS)
    ),
)


@st.composite
def breakers(draw: st.DrawFn) -> Breaker:
    trigger = draw(TRIGGERS)
    forever = isinstance(trigger, Ceiling) and trigger.window == "lifetime"
    scopes = ["session", "user", "agent", "tenant", "global"]
    return Breaker(
        name=draw(NAMES), scope=draw(st.sampled_from(scopes if isinstance(trigger, Ceiling) else [*scopes, "run"])),
        trigger=trigger, match=draw(MATCHES), suspend_ms=None if forever else draw(st.none() | MS),
        probe_ms=draw(MS), text=draw(st.none() | WORDS),
    )  # fmt: skip


def written(match: Match) -> dict[str, Any]:
    told = {name: getattr(match, name) for name in ("agent", "step", "user_tier") if getattr(match, name) is not None}
    return told | ({"tags": dict(match.tags)} if match.tags else {})


def rule(trigger: Trigger) -> dict[str, Any]:
    match trigger:
        case Ceiling(over_nanos=nanos, window=window, zone=zone):
            return {"metric": "spend", "over_usd": dollars(nanos), "window": window, "timezone": zone}
        case Velocity(over_nanos=nanos, minutes=minutes, times=times):
            told = {} if times is None else {"times": shares(times)}
            return {"metric": "velocity", "over_usd": dollars(nanos), "minutes": minutes, **told}
        case Loop(repeats=repeats, alike=alike, within_ms=within):
            return {"metric": "loop", "repeats": repeats, "alike": alike or False, "within": f"{within}ms"}
        case Growth(turns=turns, times=times, tokens=tokens, within_ms=within):
            return {"metric": "growth", "turns": turns, "times": times, "tokens": tokens, "within": f"{within}ms"}
        case FanOut(over_runs=runs, within_ms=within):
            return {"metric": "fan_out", "over_runs": runs, "within": f"{within}ms"}
        case Errors(failures=failures, of=of, within_ms=within):
            return {"metric": "errors", "failures": failures, "of": of, "within": f"{within}ms"}


@settings(deadline=None)
@given(breaker=breakers())
def test_any_breaker_is_what_its_section_says(breaker: Breaker, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written out and read back it is the same, from the file and from the environment."""
    told: dict[str, Any] = {
        "name": breaker.name, "scope": breaker.scope, "match": written(breaker.match), "rule": rule(breaker.trigger),
        "suspend": "reset" if breaker.suspend_ms is None else f"{breaker.suspend_ms}ms",
        "probe": f"{breaker.probe_ms}ms",
    } | ({} if breaker.text is None else {"text": breaker.text})  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "breakers.toml"
    path.write_text(tables("breakers", [told]), "utf-8")
    (section,) = load(path, {}).breakers
    assert section.policy() == breaker
    (section,) = load(Path(os.devnull), {"BURSAR_BREAKERS": as_json([told])}).breakers
    assert section.policy() == breaker
