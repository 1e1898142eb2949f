"""Whom a call is booked to: the precedence table of wire.md section 5, and what no header can bring about."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.doors import attribution
from bursar.doors.attribution import BadHeader, KeyFacts
from bursar.types import Cap, Kin, Tags
from bursar.wire import peek

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

USER: list[tuple[str, str, str]] = [
    ("x-bursar-user-id", "1", "1"),
    ("helicone-user-id", "2", "2"),
    ("x-litellm-customer-id", "3", "3"),
    ("x-litellm-end-user-id", "4", "4"),
    ("x-portkey-metadata", '{"_user": "5"}', "5"),
    ("baggage", "a=b;p=1, user.id=user%2F6;x", "user/6"),
    ("body", '{"safety_identifier": "7"}', "7"),
    ("body", '{"user": "8"}', "8"),
    ("body", '{"metadata": {"user_id": "{\\"user_id\\": \\"9\\"}"}}', "9"),
    ("body", '{"metadata": {"user_id": "10"}}', "10"),
]
SESSION = [
    ("x-bursar-session-id", "1", "1"),
    ("helicone-session-id", "2", "2"),
    ("x-litellm-session-id", "3", "3"),
    ("x-portkey-trace-id", "4", "4"),
    ("x-claude-code-session-id", "5", "5"),
    ("x-session-id", "6", "6"),
    ("session-id", "7", "7"),
    ("thread-id", "8", "8"),
    ("baggage", "session.id=9", "9"),
    ("body", '{"metadata": {"session_id": "10"}}', "10"),
    ("body", '{"metadata": {"user_id": "{\\"session_id\\": \\"11\\"}"}}', "11"),
    ("body", '{"conversation": {"id": "12"}}', "12"),
]
RUN = [("x-bursar-run-id", "1", "1"), ("x-litellm-trace-id", "2", "2"), ("traceparent", PARENT, TRACE)]
AGENT = [
    ("x-bursar-agent-id", "1", "1"),
    ("helicone-property-agent", "2", "2"),
    ("body", '{"metadata": {"agent_id": "3"}}', "3"),
    ("baggage", "gen_ai.agent.name=4", "4"),
]
STEP = [
    ("x-bursar-step", "1", "1"),
    ("helicone-property-step", "2", "2"),
    ("helicone-session-path", "/trip/flights/3/", "3"),
    ("body", '{"metadata": {"step": "4"}}', "4"),
]
TABLES = {"user_id": USER, "session_id": SESSION, "run_id": RUN, "agent_id": AGENT, "step": STEP}
CASES = [(field, at) for field, table in TABLES.items() for at in range(len(table))]


def tags(headers: list[tuple[str, str]], body: str = "{}", key: KeyFacts | None = None) -> Tags:
    return attribution.read(tuple(headers), peek.claims(peek.members(body.encode()) or {}), key).tags


@pytest.mark.parametrize(("field", "at"), CASES)
def test_the_first_of_the_table_wins(field: str, at: int) -> None:
    """Each source is heard where no better one speaks, whatever order they stand in; each gives way to a better one."""
    table = TABLES[field]
    sources = [row for row in table[at:] if row[0] != "body"]
    bodies = [row for row in table[at:] if row[0] == "body"]
    if table[at][0] == "body":
        found = tags([(n, v) for n, v, _ in sources if n == "baggage" and field == "agent_id"], table[at][1])
    else:
        given_headers = [(name, value) for name, value, _ in sources]
        found = tags(given_headers[::-1], bodies[0][1] if bodies else "{}")
        assert tags(given_headers, bodies[0][1] if bodies else "{}") == found
    assert getattr(found, field) == table[at][2]


@pytest.mark.parametrize(
    ("headers", "field", "expected"),
    [
        ([("helicone-user-id", "not an id"), ("x-litellm-customer-id", "b")], "user_id", "b"),
        ([("helicone-user-id", "x" * 201), ("x-litellm-customer-id", "b")], "user_id", "b"),
        ([("x-a-session-id", "no id"), ("x-b-session-id", "b")], "session_id", "b"),
        ([("x-session-id", "last"), ("x-b-session-id", "b")], "session_id", "b"),
        ([("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")], "run_id", None),
        ([("traceparent", PARENT.upper())], "run_id", None),
        ([("x-portkey-metadata", "[" * 9000)], "user_id", None),
        ([("x-portkey-metadata", '{"_user":' * 9000)], "user_id", None),
        ([("x-portkey-metadata", '{"_user": 7}')], "user_id", None),
        ([("baggage", "user.id=%FF%00")], "user_id", None),
        ([("baggage", ",,=,;=a, user.id")], "user_id", None),
    ],
)
def test_a_peers_header_that_is_no_id_is_passed_over(headers: Any, field: str, expected: str | None) -> None:
    """It was not meant for us: the next source is asked."""
    assert getattr(tags(headers), field) == expected


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("x-bursar-user-id", "")], "x-bursar-user-id"),
        ([("x-bursar-user-id", "a b")], "x-bursar-user-id"),
        ([("x-bursar-run-id", "r" * 201)], "x-bursar-run-id"),
        ([("x-bursar-step", "caf\u00e9")], "x-bursar-step"),
        ([("x-bursar-run-id", "a"), ("x-bursar-run-id", "b")], "x-bursar-run-id is given twice"),
        ([("x-bursar-tags", "a")], "x-bursar-tags"),
        ([("x-bursar-tags", "a=b,=c")], "x-bursar-tags"),
        ([("x-bursar-cache", "maybe")], "x-bursar-cache"),
        ([("x-bursar-user", "u")], "x-bursar-user is not a header"),
        ([("x-bursar-budget-eur", "1")], "x-bursar-budget-eur is not a header that this version acts on"),
        ([("x-bursar-max-cost-usd", "$1")], "x-bursar-max-cost-usd: expected dollars in nine decimals at most"),
        ([("x-bursar-max-cost-usd", "-1")], "x-bursar-max-cost-usd"),
        ([("x-bursar-max-cost-usd", "1e-3")], "x-bursar-max-cost-usd"),
        ([("x-bursar-max-cost-usd", "nan")], "x-bursar-max-cost-usd"),
        ([("x-bursar-max-cost-usd", "0.0000000001")], "nine decimals"),
        ([("x-bursar-max-cost-usd", "\u0661")], "x-bursar-max-cost-usd"),
        ([("x-bursar-run-id", "r"), ("x-bursar-budget-usd", "")], "x-bursar-budget-usd: expected dollars"),
        ([("x-bursar-run-id", "r"), ("x-bursar-budget-usd", "9999999999")], "x-bursar-budget-usd"),
        ([("x-bursar-run-id", "r"), ("x-bursar-budget-tokens", "1.5")], "x-bursar-budget-tokens: expected a whole"),
        ([("x-bursar-run-id", "r"), ("x-bursar-budget-tokens", "10_000")], "x-bursar-budget-tokens"),
        ([("x-bursar-budget-usd", "1")], "x-bursar-budget-usd limits a run, and the request names none"),
        ([("x-bursar-budget-tokens", "1")], "x-bursar-budget-tokens limits a run"),
    ],
)
def test_one_of_ours_that_is_wrong_is_said(headers: Any, told: str) -> None:
    """Malformed, said twice, misspelt, or a limit that would not be kept: refused by name, never passed over."""
    with pytest.raises(BadHeader, match=told):
        tags(headers)


def test_a_runs_limits_by_header_are_a_further_cap() -> None:
    """Dollars to the nano-dollar, tokens, or both; on the run that the request names, with its labels; they hold as the
    least that was ever said. Without them there is no cap, and none of them goes on."""
    run = [
        ("x-bursar-run-id", "r"),
        ("x-bursar-agent-id", "a"),
        ("x-bursar-user-tier", "free"),
        ("x-bursar-tags", "k=v"),
    ]
    both = attribution.read(
        (*run, ("x-bursar-budget-usd", "0.000000001"), ("x-bursar-budget-tokens", "10000")), (), None
    )
    cap = Cap(limit_nanos=1, limit_tokens=10_000, least=True)
    assert both.tags.line == (Kin("r", "a", "free", (("k", "v"),), cap),)
    assert both.forwarded == ()
    assert tags([*run, ("x-bursar-budget-tokens", "0")]).line[0].cap == Cap(limit_tokens=0, least=True)
    assert tags([("traceparent", PARENT), ("x-bursar-budget-usd", "2")]).line[0].run_id == TRACE
    assert tags(run).line == ()


@pytest.mark.parametrize(
    ("headers", "wish", "no_store"),
    [
        ([], None, False),
        *[([("x-bursar-cache", wish)], wish, False) for wish in ("on", "off", "refresh", "only")],
        ([("cache-control", "no-store")], None, True),
        ([("cache-control", "no-cache")], "refresh", False),
        ([("cache-control", "max-age=0, No-Cache ,no-store")], "refresh", True),
        ([("cache-control", "max-age=0"), ("cache-control", "no-store")], None, True),
        ([("cache-control", "only-if-cached")], "only", False),
        ([("cache-control", "no-storey, public, no-cache=x")], None, False),
        ([("helicone-cache-enabled", "False")], "off", False),
        ([("helicone-cache-enabled", "true")], None, False),
        ([("x-portkey-cache-force-refresh", "true")], "refresh", False),
        ([("x-portkey-cache-force-refresh", "false")], None, False),
        ([("x-bursar-cache", "on"), ("helicone-cache-enabled", "false")], "off", False),
        ([("x-bursar-cache", "on"), ("cache-control", "no-cache")], "refresh", False),
        ([("x-bursar-cache", "refresh"), ("helicone-cache-enabled", "false")], "off", False),
        ([("x-bursar-cache", "off"), ("cache-control", "no-cache, no-store")], "off", True),
        ([("x-bursar-cache", "only"), ("helicone-cache-enabled", "false")], "only", False),
        ([("x-bursar-cache", "only"), ("cache-control", "no-cache, no-store")], "only", True),
    ],
)
def test_what_is_wanted_of_the_caches(headers: Any, wish: str | None, no_store: bool) -> None:
    """The narrowest of what is said, in whichever order; `only` first, for it promises that nothing is spent."""
    for ordered in (headers, headers[::-1]):
        asked = attribution.read(tuple(ordered), (), None)
        assert (asked.cache, asked.no_store, asked.forwarded) == (wish, no_store, ())


@given(st.decimals(0, 999_999_999, allow_nan=False, allow_infinity=False, places=9))
def test_a_calls_own_limit_is_exact(amount: Decimal) -> None:
    """x-bursar-max-cost-usd in nano-dollars; None where it is not said; it does not go on."""
    asked = attribution.read((("x-bursar-max-cost-usd", f"{amount:f}"), ("accept", "x")), (), None)
    assert asked.max_cost_nanos == int(amount * 10**9)
    assert asked.forwarded == (("accept", "x"),)
    assert attribution.read((("accept", "x"),), (), None).max_cost_nanos is None


def test_tags_are_gathered_best_source_first() -> None:
    """Ours, then litellm's, Helicone's, Portkey's, the body's; the first value of a name stands; 32 at most."""
    found = tags(
        [
            ("x-bursar-tags", "team=red, env = x".replace(" = ", "=")),
            ("x-litellm-tags", "beta, team"),
            ("helicone-property-team", "blue"),
            ("helicone-property-plan", "gold"),
            ("x-portkey-metadata", '{"_user": "u", "plan": "tin", "zone": "eu"}'),
        ],
        '{"metadata": {"zone": "us", "note": "n"}}',
    )
    assert dict(found.tags) == {
        "team": "red", "env": "x", "beta": "true", "plan": "gold", "zone": "eu", "note": "n",
    }  # fmt: skip
    many = tags([("x-bursar-tags", ",".join(f"t{n}={n}" for n in range(99)))])
    assert len(many.tags) == 32


NAMES = st.sampled_from(
    [*(row[0] for table in TABLES.values() for row in table if row[0] != "body"), "x-bursar-tags", "x-litellm-tags",
     "x-bursar-cache", "x-bursar-budget-usd", "x-bursar-budget-tokens", "x-bursar-max-cost-usd",
     "authorization", "content-type", "tracestate", "cache-control", "helicone-property-x"]
) | st.text(max_size=30).map(str.lower)  # fmt: skip
HEADERS = st.lists(st.tuples(NAMES, st.text(max_size=60) | st.sampled_from([PARENT, "a", "on", "user.id=u"])))
CLAIMS = st.lists(st.tuples(st.sampled_from(["user", "metadata.user_id", "metadata.x", "?"]), st.text(max_size=60)))
KEYS = st.none() | st.builds(
    KeyFacts, st.just("key_1"), st.sampled_from(["acme", "beta"]), st.frozensets(st.sampled_from(["user", "run"]))
)


@given(HEADERS, CLAIMS, KEYS)
def test_whatever_comes_the_key_decides(headers: Any, claims: Any, key: KeyFacts | None) -> None:
    """Nothing but BadHeader is ever raised; the tenant and what is trusted are the key's; ids are plain; and no header
    of attribution is among those that go on, while every other is, as it came."""
    try:
        asked = attribution.read(tuple(headers), claims, key)
    except BadHeader as bad:
        assert str(bad).startswith("x-bursar-")
        return
    found = asked.tags
    assert found.tenant == (key.tenant if key else "default")
    assert (found.key_id, found.trusted) == ((key.key_id, key.trusted) if key else (None, None))
    said = (found.user_id, found.session_id, found.run_id, found.parent_run_id, found.agent_id, found.step)
    assert all(one is None or attribution.ID.fullmatch(one) for one in said)
    assert list(asked.forwarded) == [pair for pair in headers if not attribution.is_attribution(pair[0])]


@given(st.text())
def test_any_portkey_metadata_and_baggage_is_read_or_passed_over(text: str) -> None:
    """Neither makes anything raise."""
    tags([("x-portkey-metadata", text), ("baggage", text), ("traceparent", text), ("helicone-session-path", text)])
