"""Which plans can carry which calls, and what leaves by them: edits, headers, paths. No socket is needed for that."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from bursar.drivers import passage
from bursar.drivers.life import TransportFailure
from bursar.types import Api, Call, Headers, Instant, Mark, Marks, Plan, Tags
from bursar.wire.dialect import of

HI = [{"role": "user", "content": "hi"}]
PATHS = {"chat": "/chat/completions", "messages": "/v1/messages?beta=true", "responses": "/responses"}
FAR = Plan("anthropic", "claude", api="messages", max_output=500)
BACK = Plan("openai", "gpt", api="chat", max_output=500)


def call(
    api: Api, headers: Headers = (), provider: str | None = None, reach: frozenset[str] | None = None, **body: Any
) -> Call:
    raw = json.dumps({"model": "m", **body}).encode()
    view = of(api).view(raw, PATHS[api], headers)
    return Call("req", api, view, raw, headers, PATHS[api], Tags(), Instant(0), provider=provider, reach=reach)


def sent(call: Call, plan: Plan) -> Any:
    return json.loads(passage.of(call, plan).ship().body)


def changed(plan: Plan, **more: Any) -> Plan:
    return Plan(plan.provider, plan.model, api=plan.api, max_output=plan.max_output, **more)


@pytest.mark.parametrize(
    ("asked", "plan", "why"),
    [
        (call("chat", messages=HI), FAR, None),
        (call("messages", messages=HI, max_tokens=9), BACK, None),
        (call("chat", messages=HI), Plan("openai", "gpt"), None),
        (call("chat", messages=HI, seed=1), Plan("openai", "gpt", api="chat"), None),
        (call("chat", messages=HI, seed=1), FAR, "seed"),
        (call("chat", messages=HI, n=2), FAR, "n cannot be carried"),
        (call("chat", messages=HI), Plan("anthropic", "claude", api="messages"), "max_tokens"),
        (call("chat", messages=HI), Plan("anthropic", None, api="messages", max_output=9), "no model"),
        (call("messages", messages=HI, max_tokens=9, top_k=3), BACK, "top_k"),
        (call("messages", messages=[{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "", "signature": "s"}]}, *HI], max_tokens=9), BACK, "pinned"),
        (call("responses", input="hi"), FAR, "no translation"),
        (call("chat", messages=HI), Plan("gemini", "g", api="gemini", max_output=9), "no translation"),
        (call("chat", provider="mine", reach=frozenset({"anthropic"}), messages=HI), FAR, None),
        (call("chat", provider="mine", messages=HI), FAR, "no key of anthropic"),
    ],
)  # fmt: skip
def test_what_can_cross(asked: Call, plan: Plan, why: str | None) -> None:
    """A reason for what cannot, before anything is held or sent; and by a plan made all the same nothing leaves."""
    told = passage.crossing(asked, plan)
    assert told is None if why is None else told is not None and why in told
    if why is None:
        assert passage.of(asked, plan).ship().body
    elif asked.provider is None:
        with pytest.raises(TransportFailure, match=why) as failed:
            passage.of(asked, plan).ship()
        assert failed.value.unsent


def test_edits_are_made_where_they_mean_something() -> None:
    """In the provider's own dialect: no edit can make what was to cross impossible, a chat note least of all."""
    plan = changed(FAR, output_limit=50, tools_off=True, note="n", hint="h", logprobs=True, add_usage=True)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    there = sent(call("chat", messages=HI, tools=[tool], stream=True), plan)
    texts = [block["text"] for block in there["messages"][-1]["content"]]
    assert (texts, there["max_tokens"], there["tool_choice"]) == (["hi", "n", "h"], 50, {"type": "none"})
    assert there["stream"] is True and "stream_options" not in there and "logprobs" not in there
    back = sent(
        call("messages", messages=HI, max_tokens=99, stream=True),
        changed(BACK, output_limit=50, note="n", hint="h", logprobs=True),
    )
    roles = [(message["role"], message["content"]) for message in back["messages"]]
    assert roles == [("user", "hi"), ("system", "n"), ("user", "h")]
    assert (back["max_completion_tokens"], back["logprobs"], back["top_logprobs"]) == (50, True, 2)
    assert back["stream_options"] == {"include_usage": True}


def test_an_edited_limit_never_rises() -> None:
    """What the caller set is less than the model and the budget allow."""
    assert sent(call("chat", messages=HI, max_tokens=7), changed(FAR, output_limit=50))["max_tokens"] == 7
    assert sent(call("chat", messages=HI), FAR)["max_tokens"] == 500


def test_marks_stay_in_their_dialect() -> None:
    """Places in the caller's body mean nothing in another one."""
    marked = changed(FAR, marks=Marks((Mark(0, "1h"),)))
    asked = call("chat", messages=HI, prompt_cache_options={"ttl": "30m"})
    assert asked.view.cache_ttl == "30m"
    assert passage.of(asked, marked).ship().body == passage.of(asked, FAR).ship().body
    assert passage.of(asked, marked).view.cache_ttl is None


def test_paths_and_headers() -> None:
    """The provider's own path, without the caller's query; of his headers what tells neither who he is nor whose."""
    mine: Headers = (
        ("authorization", "Bearer k"), ("x-api-key", "k"), ("api-key", "k"), ("x-goog-api-key", "k"), ("cookie", "k"),
        ("x-portkey-token", "k"), ("openai-project", "p"), ("anthropic-beta", "b"), ("x-stainless-lang", "python"),
        ("idempotency-key", "i"), ("content-type", "application/json; charset=utf-8"), ("user-agent", "me"),
        ("accept-encoding", "br"), ("traceparent", "00-1"),
    )  # fmt: skip
    there = passage.of(call("chat", mine, messages=HI), FAR).ship()
    assert there.path == "/v1/messages" and there.provider == "anthropic"
    kept = (("user-agent", "me"), ("traceparent", "00-1"), ("content-type", "application/json"))
    plain = ("accept-encoding", "identity")
    assert there.headers == (*kept, ("anthropic-version", "2023-06-01"), plain)
    back = passage.of(call("messages", mine, messages=HI, max_tokens=9), BACK).ship()
    assert (back.path, back.headers) == ("/chat/completions", (*kept, plain))
    home = passage.of(call("messages", mine, messages=HI, max_tokens=9), Plan("anthropic", "m")).ship()
    assert home.headers == (*[pair for pair in mine if pair[0] != "accept-encoding"], plain)


MINE: Headers = (
    ("authorization", "Bearer k"), ("x-api-key", "k"), ("x-team-token", "k"), ("openai-organization", "o"),
    ("idempotency-key", "i"), ("x-stainless-idempotency-key", "i"), ("anthropic-beta", "b"), ("user-agent", "me"),
)  # fmt: skip
HIS = {"authorization", "x-api-key", "x-team-token", "openai-organization"}
ONCE = {"idempotency-key", "x-stainless-idempotency-key"}
REST = {"anthropic-beta", "user-agent", "accept-encoding"}


@pytest.mark.parametrize(
    ("home", "provider", "goes", "addressed"),
    [("openai", "openai", HIS | ONCE | REST, True), ("openai", "groq", REST, False),
     ("(none)", "groq", REST, False), (None, "groq", HIS | ONCE | REST, False)],
)  # fmt: skip
@pytest.mark.parametrize("fixed", [False, True])
def test_a_credential_leaves_for_whom_it_is_meant(
    home: str | None, provider: str, goes: set[str], addressed: bool, fixed: bool
) -> None:
    """The provider that the caller has addressed: by his words, or by his client (fixed), which always has one."""
    if fixed and home is None:
        return
    asked = replace(call("chat", MINE, home if fixed else None, messages=HI), home=None if fixed else home)
    shipped = passage.of(asked, Plan(provider, "m")).ship()
    assert ({name for name, _ in shipped.headers}, shipped.home) == (goes, addressed)


@pytest.mark.parametrize(
    ("asked", "plan", "repeats"),
    [
        (call("chat", MINE, messages=HI), Plan("openai", "m"), True),
        (call("chat", MINE, messages=HI), Plan("openai", "better"), False),
        (call("chat", MINE, messages=HI), changed(Plan("openai", "m"), hint="no JSON"), False),
        (replace(call("chat", MINE, messages=HI), purpose="judge"), Plan("openai", "m"), False),
        (replace(call("chat", MINE, messages=HI), purpose="audit"), Plan("openai", "m"), False),
        (replace(call("chat", MINE, messages=HI), api="gemini", path="/v1beta/models/m:generateContent"),
         Plan("gemini", "n"), False),
        (call("chat", MINE, messages=HI), FAR, False),
    ],
)  # fmt: skip
def test_only_his_very_request_is_said_to_be_repeated(asked: Call, plan: Plan, repeats: bool) -> None:
    """Else the provider would give the answer of another request again."""
    told = {name for name, _ in passage.of(asked, plan).ship().headers}
    assert told & ONCE == (ONCE if repeats else set())


def test_a_straight_call_is_the_callers_own_object() -> None:
    """Nothing to edit, nothing touched."""
    asked = call("chat", messages=HI)
    way = passage.of(asked, Plan("openai", "m"))
    assert way.ship().body is asked.body and way.view is asked.view
    body, heads = b"{}", (("content-length", "2"),)
    assert way.whole(body, Instant(0)) is body and way.error(body, 500) is body
    assert way.head(heads, stream=False) is heads and way.opened(Instant(0)) is None
