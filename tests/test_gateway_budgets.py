"""Budgets at the gateway door, with real SDKs: whose counter is charged, what a caller is told when it is used up, and
what the admin API says of it. Every test ends with an audited ledger without open rows (gateways.running)."""

from collections.abc import Callable
from typing import Any

import anthropic
import msgspec
import openai
import pytest
from google.genai import errors

from bursar.doors.gateway.proxy import Settings
from bursar.money import parse_usd
from bursar.policy import Budget, Match
from bursar.types import Instant
from gateways import Running, create_key, running

HELLO: Any = [{"role": "user", "content": "Tell me about bookkeeping."}]
MINI = "gpt-4o-mini"
HAIKU = "claude-haiku-4-5"
FLASH = "gemini-2.5-flash"
DAY = 86_400_000_000
NOON = Instant(20_000 * DAY + DAY // 2)
GONE = Budget(
    name="nothing left", scope="global", limit_tokens=0, finish_text="Over: {budget}, {limit}, {spent} spent."
)
TEXT = "Over: nothing left, 0 tokens, 0 tokens spent."


def headers(gw: Running, **labels: str) -> dict[str, str]:
    """One call with these labels: the gateway's own words on the answer."""
    told = gw.openai().chat.completions.with_raw_response.create(
        model=MINI, messages=HELLO, extra_headers={f"x-bursar-{k.replace('_', '-')}": v for k, v in labels.items()}
    )
    return {k.removeprefix("x-bursar-"): v for k, v in told.headers.items() if k.startswith("x-bursar-")}


def spend(gw: Running, client: openai.OpenAI, most: int = 50, **labels: str) -> int:
    """Call until it is refused; how many calls were answered by the provider."""
    extra = {f"x-bursar-{k.replace('_', '-')}": v for k, v in labels.items()}
    for done in range(most):
        told = client.chat.completions.with_raw_response.create(model=MINI, messages=HELLO, extra_headers=extra)
        if told.headers["x-bursar-budget-state"] == "exhausted":
            return done
    raise AssertionError(f"{most} calls and no end")


def budgets(gw: Running, query: str = "", **sent: str) -> list[dict[str, Any]]:
    answer = gw.get(f"/bursar/v1/budgets{query}", sent)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# --- whose counter


def test_each_user_has_a_day(clock: list[int]) -> None:
    """A user's allowance is his own, is never passed by a nano-dollar, and is there again on the next day of its zone;
    whoever names nobody shares one."""
    daily = Budget(name="daily", scope="user", window="day", limit_nanos=parse_usd("0.0004"))
    with running(clock=lambda: Instant(clock[0]), budgets=(daily,)) as gw:
        client = gw.openai()
        first = spend(gw, client, user_id="u1")
        assert first == spend(gw, client, user_id="u2") == spend(gw, client) >= 2
        assert spend(gw, client, user_id="u1") == 0
        lines = {item["key"]: item for item in budgets(gw)}
        assert lines.keys() == {"u1", "u2", "(none)"}
        for item in lines.values():
            assert parse_usd(item["settled_usd"]) <= parse_usd(item["limit_usd"]) == daily.limit_nanos
            assert (item["state"], item["held_usd"], item["window"]) == ("wrap_up", "0", "day")
            assert (item["started_at"], item["resets_at"]) == ("2024-10-04T00:00:00Z", "2024-10-05T00:00:00Z")
        assert sum(parse_usd(item["settled_usd"]) for item in lines.values()) == gw.sandbox.bill.total_nanos()
        clock[0] += DAY // 2
        assert spend(gw, client, user_id="u1") == first


@pytest.fixture
def clock() -> list[int]:
    return [NOON]


def test_a_key_decides_whose_budget_it_is() -> None:
    """Law 11. Ids that a key does not vouch for are labels: they open no further allowance, and a tier that it does not
    vouch for chooses no budget. A trusted key's users each have their own; the missing one is one of them."""
    each = Budget(name="each", scope="user", limit_tokens=1_500)
    free = Budget(name="free", scope="user", match=Match(user_tier="free"), limit_tokens=700)
    with running(keyed=True, credentials={"openai": "sk"}, budgets=(each, free)) as gw:
        plain, trusted = create_key(gw.store), create_key(gw.store, trusted=frozenset({"user", "user_tier"}))
        client = gw.openai(plain)
        alone = spend(gw, client, user_id="a", user_tier="free")
        assert alone >= 1
        assert [spend(gw, client, user_id=name) for name in ("b", "c")] == [0, 0]
        assert spend(gw, client) == 0

        server = gw.openai(trusted)
        assert spend(gw, server, user_id="a") == spend(gw, server, user_id="b") == spend(gw, server) == alone
        assert 0 < spend(gw, server, user_id="d", user_tier="free") < alone

        ids = {key.trusted_claims: key.key_id for key in gw.store.list_keys() if key.role == "data"}
        seen = {(item["name"], item["key"]) for item in budgets(gw, **bearer(gw.admin))}
        assert seen == {
            ("each", f"key:{ids[frozenset()]}"), ("each", "a"), ("each", "b"), ("each", "(none)"), ("each", "d"),
            ("free", "d"),
        }  # fmt: skip
        assert {row.user_id for row in gw.rows()} == {"a", "b", "c", "d", None}  # as labels they are all there


# --- what a caller is told


def chat(gw: Running, stream: bool) -> tuple[str, Any]:
    client = gw.openai()
    if not stream:
        choice = client.chat.completions.create(model=MINI, messages=HELLO).choices[0]
        return choice.message.content or "", choice.finish_reason
    chunks = list(client.chat.completions.create(model=MINI, messages=HELLO, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, [c.choices[0].finish_reason for c in chunks if c.choices][-1]


def responses(gw: Running, stream: bool) -> tuple[str, Any]:
    client = gw.openai()
    if not stream:
        told = client.responses.create(model="gpt-4.1", input="hello")
    else:
        *_, last = client.responses.create(model="gpt-4.1", input="hello", stream=True)
        assert last.type == "response.incomplete"
        told = last.response
    assert told.incomplete_details is not None
    return told.output_text, (told.status, told.incomplete_details.reason)


def messages(gw: Running, stream: bool) -> tuple[str, Any]:
    client = gw.anthropic()
    if not stream:
        told = client.messages.create(model=HAIKU, max_tokens=300, messages=HELLO)
    else:
        with client.messages.stream(model=HAIKU, max_tokens=300, messages=HELLO) as events:
            told = events.get_final_message()
    return "".join(block.text for block in told.content if block.type == "text"), told.stop_reason


def gemini(gw: Running, stream: bool) -> tuple[str, Any]:
    client = gw.gemini()
    if not stream:
        answers = [client.models.generate_content(model=FLASH, contents="hello")]
    else:
        answers = list(client.models.generate_content_stream(model=FLASH, contents="hello"))
    reason = (answers[-1].candidates or [])[0].finish_reason
    return "".join(answer.text or "" for answer in answers), reason and reason.value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("use", "ending"),
    [
        (chat, "length"),
        (responses, ("incomplete", "max_output_tokens")),
        (messages, "max_tokens"),
        (gemini, "MAX_TOKENS"),
    ],
)
def test_a_used_up_budget_ends_with_an_answer(use: Callable[[Running, bool], Any], ending: Any, stream: bool) -> None:
    """A valid completion of the caller's dialect, as its SDK reads it; nothing is sent; the row says what it was."""
    with running(budgets=(GONE,)) as gw:
        assert use(gw, stream) == (TEXT, ending)
        row = gw.row()
        assert (row.status, row.http_status, row.cost_nanos, row.stream) == ("refused", 200, 0, stream)
        assert list(gw.sandbox.requests) == []


def test_a_partial_answer_carries_our_headers() -> None:
    """As an answer of the provider would, and the state says what it is."""
    with running(budgets=(GONE,)) as gw:
        told = headers(gw)
        row = gw.row()
    assert (told["budget-state"], told["budget-scope"], told["budget-remaining-tokens"]) == ("exhausted", "global", "0")
    assert (told["request-id"], told["cost-usd"], told["cost-status"]) == (row.request_id, "0", "final")
    assert "budget-remaining-usd" not in told


STRICT = Budget(name="strict", scope="global", limit_nanos=0, on_exhausted="refuse")


def test_a_refusal_is_one_attempt() -> None:
    """402, each dialect's own error, and no SDK that is set to retry sends it again; nothing reaches the provider."""
    with running(budgets=(STRICT,)) as gw:
        client, claude = gw.openai().with_options(max_retries=4), gw.anthropic().with_options(max_retries=4)
        with pytest.raises(openai.APIStatusError) as told:
            client.chat.completions.create(model=MINI, messages=HELLO)
        error: Any = told.value
        assert (error.status_code, error.type, error.code) == (402, "insufficient_quota", "budget_exceeded")
        assert error.response.headers["x-should-retry"] == "false"
        assert error.response.headers["x-bursar-budget-state"] == "exhausted"
        assert '[[budgets]] "strict"' in error.message
        with pytest.raises(openai.APIStatusError):
            client.responses.create(model="gpt-4.1", input="hello", stream=True)
        with pytest.raises(anthropic.APIStatusError) as claimed:
            claude.messages.create(model=HAIKU, max_tokens=300, messages=HELLO)
        body: Any = claimed.value.body
        assert (claimed.value.status_code, body["error"]["type"]) == (402, "billing_error")
        assert body["error"]["details"] == {"error_code": "budget_exceeded"}
        gem = gw.gemini()
        with pytest.raises(errors.ClientError) as google:
            gem.models.generate_content(model=FLASH, contents="hello")
        assert (google.value.code, google.value.status) == (402, "FAILED_PRECONDITION")
        assert [(row.status, row.http_status) for row in gw.rows(4)] == [("refused", 402)] * 4
        assert list(gw.sandbox.requests) == []


def test_the_status_of_a_refusal_is_the_policys() -> None:
    """refuse_status, on the answer and on the row."""
    with running(budgets=(STRICT,), refuse_status=422) as gw:
        told = gw.post("/v1/chat/completions", {"model": MINI, "messages": HELLO}, bearer("k"))
        assert (told.status_code, told.headers["x-should-retry"]) == (422, "false")
        assert gw.row().http_status == 422


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    ],
    ids=["structured", "forced tool"],
)
def test_who_could_not_read_a_text_is_refused(more: dict[str, Any]) -> None:
    """A partial answer would break a parser: an error says it instead, whatever on_exhausted says."""
    with running(budgets=(GONE,)) as gw:
        told = gw.post("/v1/chat/completions", {"model": MINI, "messages": HELLO, **more}, bearer("k"))
        assert (told.status_code, told.json()["error"]["code"]) == (402, "budget_exceeded")
        assert gw.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"}, bearer("k")).is_error


# --- headers


def test_answers_say_what_is_left() -> None:
    """Of the tightest budget; of a whole answer after its own cost, so that it agrees with the books; only in the kind
    of amount that is limited."""
    pair = (
        Budget(name="wide", scope="global", limit_tokens=10**9),
        Budget(name="narrow", scope="agent", match=Match(agent="a"), limit_nanos=parse_usd("0.01"), wrap_up=1),
    )
    with running(budgets=pair) as gw:
        for _ in range(2):
            told = headers(gw, agent_id="a")
            left = parse_usd("0.01") - gw.sandbox.bill.total_nanos()
            assert told["budget-remaining-usd"] == budgets(gw, "?budget=narrow")[0]["remaining_usd"]
            assert parse_usd(told["budget-remaining-usd"]) == left
            assert told["budget-scope"] == "agent" and "budget-remaining-tokens" not in told
            assert told["budget-state"] == "wrap_up", "a tenth of a cent of a cent was to be enough"
        told = headers(gw, agent_id="b")
        assert (told["budget-scope"], told["budget-state"]) == ("global", "ok")
        assert int(told["budget-remaining-tokens"]) == budgets(gw, "?budget=wide")[0]["remaining_tokens"]


def test_a_stream_says_what_is_left_while_it_is_held() -> None:
    """Its head leaves before its tokens are known: what is told is what is left beside its own hold."""
    with running(budgets=(Budget(name="b", scope="global", limit_tokens=50_000),)) as gw:
        told = gw.openai().chat.completions.with_raw_response.create(
            model=MINI, messages=HELLO, max_tokens=500, stream=True
        )
        list(told.parse())
        (row,) = gw.rows(1)
        assert int(told.headers["x-bursar-budget-remaining-tokens"]) == 50_000 - row.charges[0].tokens < 49_500


def test_without_budgets_no_answer_speaks_of_them() -> None:
    """Nothing to tell, nothing told."""
    with running() as gw:
        assert not [name for name in headers(gw) if name.startswith("budget")]
        assert budgets(gw) == []


def test_a_header_only_lowers_what_a_run_may_spend() -> None:
    """x-bursar-budget-tokens caps its run beside the configured budget; a later, higher word does not raise it; another
    run is not touched by it; a request without a run is told so."""
    wide = Budget(name="wide", scope="run", limit_tokens=3_000)
    with running(budgets=(wide,)) as gw:
        client = gw.openai()
        alone = spend(gw, client, run_id="r0")
        capped = spend(gw, client, run_id="r1", budget_tokens="1000")
        assert 1 <= capped < alone
        assert spend(gw, client, run_id="r1", budget_tokens="1000000") == 0
        assert spend(gw, client, run_id="r1") == 0, "leaving the header out raises nothing either"
        assert spend(gw, client, run_id="child", parent_run_id="r1") == 0, "nor does a run below it"
        assert spend(gw, client, run_id="r2", budget_tokens="1000000") == alone
        used = [(r.run_id, (r.input_tokens or 0) + (r.output_tokens or 0)) for r in gw.rows()]
        assert sum(tokens for run, tokens in used if run == "r1") <= 1_000
        assert {(item["name"], item["key"]) for item in budgets(gw)} >= {("run:r1", "r1"), ("wide", "r1")}
        with pytest.raises(openai.BadRequestError, match="names none"):
            spend(gw, client, budget_tokens="1000")


def test_a_call_costs_no_more_than_its_own_word() -> None:
    """x-bursar-max-cost-usd: too little for anything is 402, sent nowhere; enough for something lowers the output limit
    that is sent, so that the provider's bill keeps to it."""
    with running() as gw:
        client = gw.openai().with_options(max_retries=4)
        with pytest.raises(openai.APIStatusError) as told:
            client.chat.completions.create(model=MINI, messages=HELLO, extra_headers={"x-bursar-max-cost-usd": "0"})
        assert (told.value.status_code, told.value.code) == (402, "max_cost_exceeded")
        assert list(gw.sandbox.requests) == []
        most = {"x-bursar-max-cost-usd": "0.00008"}
        answer = client.chat.completions.create(model=MINI, messages=HELLO, extra_headers=most)
        assert answer.usage is not None and answer.usage.completion_tokens > 0
        sent = msgspec.json.decode(gw.got().body)
        assert 0 < sent["max_completion_tokens"] < 50
        assert 0 < gw.sandbox.bill.total_nanos() <= 80_000
        assert [row.output_limit for row in gw.rows(2)] == [None, sent["max_completion_tokens"]]


# --- what cannot be held, and what is known


def test_what_nothing_prices_is_not_for_who_has_a_budget() -> None:
    """Contract section 3: even a listed path is refused to a key under a budget, with the reason; whom no budget is
    for may use it; what creates no charge passes."""
    own = Budget(name="tenant a", scope="tenant", match=Match(user_tier="free"), limit_tokens=10**6)
    trust = frozenset({"user_tier"})
    with running(keyed=True, credentials={"openai": "sk"}, settings=Settings(passthrough=("/v1/images",)),
                 budgets=(own,)) as gw:  # fmt: skip
        key = bearer(create_key(gw.store, trusted=trust))
        body = {"model": "gpt-image-1"}
        told = gw.post("/v1/images/generations", body, {**key, "x-bursar-user-tier": "free"})
        assert told.status_code == 403 and "'tenant a' cannot hold what it costs" in told.json()["error"]["message"]
        told = gw.post("/v1/images/generations", body, {**key, "x-bursar-max-cost-usd": "1"})
        assert told.status_code == 403 and "x-bursar-max-cost-usd" in told.json()["error"]["message"]
        assert list(gw.sandbox.requests) == []
        gw.post("/v1/images/generations", body, key)
        assert [row.api for row in gw.rows(1)] == ["other"]
        listed = gw.get("/v1/models", {**key, "x-bursar-user-tier": "free"})
        assert listed.status_code == 200


def test_the_admin_api_knows_every_budget() -> None:
    """Filters, pages, who touched it; amounts as decimal strings; parameters that mean nothing are said; metrics sum
    over users and name none, nor any run."""
    daily = Budget(name='day "1"', scope="user", window="day", limit_nanos=10**9, zone="Europe/Berlin")
    with running(budgets=(daily,)) as gw:
        for user in ("u1", "u2"):
            headers(gw, user_id=user, agent_id="a", step="s", run_id=f"r-{user}", budget_usd="1")
        total = gw.sandbox.bill.total_nanos()
        everything = budgets(gw)
        assert [item["name"] for item in everything].count('day "1"') == 2 and len(everything) == 4
        page = gw.get("/bursar/v1/budgets?limit=3").json()
        rest = gw.get(f"/bursar/v1/budgets?limit=3&cursor={page['next_cursor']}").json()
        assert page["items"] + rest["items"] == everything and rest["next_cursor"] is None
        assert budgets(gw, "?tenant=nobody") == []
        (one,) = (item for item in budgets(gw, "?touchers=1") if item["key"] == "u1")
        (who,) = one["touchers"]
        assert (who["agent_id"], who["user_id"], who["step"], who["rows"]) == ("a", "u1", "s", 1)
        assert who["usd"] == one["settled_usd"] and (one["timezone"], one["rows"]) == ("Europe/Berlin", 1)
        assert (one["limit_usd"], one["limit_tokens"], one["remaining_tokens"]) == ("1", None, None)
        for query in ("touchers=yes", "limit=0", "cursor=!"):
            assert gw.get(f"/bursar/v1/budgets?{query}").status_code == 400, query
        text = gw.get("/metrics").text
        assert f'bursar_budget_settled_usd{{budget="day \\"1\\"",scope="user"}} {total / 1e9}\n' in text
        assert f'bursar_budget_settled_usd{{budget="(run)",scope="run"}} {total / 1e9}\n' in text
        assert 'bursar_budget_held_tokens{budget="(run)",scope="run"} 0.0\n' in text
        assert "u1" not in text and "r-u" not in text
        assert "/bursar/v1/budgets" in gw.get("/bursar/v1/openapi.json").json()["paths"]
        rows = gw.get("/bursar/v1/calls").json()["items"]
        assert len(rows) == 2 and all("charges" not in row for row in rows)
