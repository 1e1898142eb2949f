"""Whose key reaches which provider through a gateway without Bursar keys: a caller's own goes to nobody else."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from bursar.policy import (
    Candidate,
    Check,
    Endpoint,
    JudgePrompt,
    Match,
    Provider,
    Routing,
    SemanticCache,
    StepRule,
    Validator,
)
from bursar.rules.route import ladder
from gateways import Running, running
from route_kit import asking, rules, step

MINE, THEIRS = "sk-callers-own", {"second": "sk-second", "openai": "sk-openai"}
TIERS = {"small": (Candidate("second", "gpt-4.1-mini"),), "mid": (Candidate("openai", "gpt-4o"),)}
"""The same wire format, two providers."""
QUESTION = "Please tell me the colour of the sky over Oslo"


def no(answer: Any) -> bool:
    return False


@contextmanager
def climbing(credentials: dict[str, str], *checks: Validator) -> Iterator[Running]:
    """From small to mid, whatever small answers."""
    with running(credentials=credentials) as gateway:
        driver = gateway.app.proxy.driver
        rule = StepRule(match=Match(step="extract"), cascade=("small", "mid"), validators=checks)
        driver.policy = replace(driver.policy, tiers=TIERS, steps=(rule,), routing=Routing(audit_share=0.0))
        yield gateway


def ask(gateway: Running, model: str, **headers: str) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return gateway.post("/v1/chat/completions", body, {"authorization": f"Bearer {MINE}", **headers})


def seen(gateway: Running) -> list[tuple[str, str | None, str | None]]:
    """Model, key and idempotency key of each request that the providers got."""
    told = []
    for got in gateway.sandbox.requests:
        headers = {name.decode(): value.decode() for name, value in got.headers}
        key = headers.get("authorization")
        told.append(
            (json.loads(got.body)["model"], key and key.removeprefix("Bearer "), headers.get("idempotency-key"))
        )
    return told


def test_a_cascade_tells_each_provider_its_own() -> None:
    """gpt-4o is OpenAI's, and so is the key that comes with it; his idempotency key is that of his very request."""
    with climbing(THEIRS, Check("no", no)) as gateway:
        once = {"idempotency-key": "i", "x-bursar-step": "extract"}
        assert ask(gateway, "gpt-4o", **once).status_code == 200
        small, mid = seen(gateway)
        assert small == ("gpt-4.1-mini", "sk-second", None) and mid[:2] == ("gpt-4o", MINE)
        gateway.fresh()
        assert ask(gateway, "gpt-4o", **{"idempotency-key": "i"}).status_code == 200
        assert seen(gateway) == [("gpt-4o", MINE, "i")]


def test_a_judge_elsewhere_is_asked_with_its_own() -> None:
    with climbing(THEIRS, JudgePrompt("Is it right?", tier="small")) as gateway:
        ask(gateway, "gpt-4o", **{"x-bursar-step": "extract"})
        keys = {(model, key) for model, key, _ in seen(gateway)}
        assert ("gpt-4.1-mini", "sk-second") in keys and ("gpt-4.1-mini", MINE) not in keys


@pytest.mark.parametrize(
    ("model", "headers"),
    [("gpt-4o", {"x-bursar-step": "extract"}), ("gpt-4o", {"x-bursar-tier": "small"}),
     ("openai/gpt-4o", {"x-bursar-tier": "small"})],
)  # fmt: skip
def test_where_no_key_is_known_none_is_told(model: str, headers: dict[str, str]) -> None:
    """A provider that then says 401 has failed."""
    with climbing({}, Check("no", no)) as gateway:
        ask(gateway, model, **headers)
        assert seen(gateway)[0] == ("gpt-4.1-mini", None, None)


@pytest.mark.parametrize(("credentials", "told"), [(THEIRS, "sk-second"), ({}, MINE)])
def test_who_asks_for_a_tier_is_served_with_the_keys_that_are_here(credentials: dict[str, str], told: str) -> None:
    """His own is for nobody by name: it goes where there is no other."""
    with climbing(credentials) as gateway:
        assert ask(gateway, "small").status_code == 200
        assert seen(gateway) == [("gpt-4.1-mini", told, None)]


def test_his_own_provider_gets_his_key_though_there_is_another() -> None:
    with climbing(THEIRS) as gateway:
        for model in ("gpt-4o", "openai/gpt-4o"):
            assert ask(gateway, model).status_code == 200
        assert {key for _, key, _ in seen(gateway)} == {MINE}


@pytest.mark.parametrize("model", ["gpt-4o", "small"])
def test_a_look_up_elsewhere_is_made_with_its_own(model: str) -> None:
    """The embeddings that a semantic cache asks for, at the provider that serves the call."""
    near = SemanticCache(ttl_ms=60_000, scope="tenant", embedder=Endpoint("second", "text-embedding-3-small"))
    with running(credentials=THEIRS) as gateway:
        driver = gateway.app.proxy.driver
        rule = StepRule(match=Match(step="extract"), tier="small", semantic_cache=near)
        driver.policy = replace(driver.policy, tiers=TIERS, steps=(rule,), cache_key=b"k" * 32)
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
        gateway.post("/v1/chat/completions", body, {"authorization": f"Bearer {MINE}", "x-bursar-step": "extract"})
        assert [(name, key) for name, key, _ in seen(gateway)] == [
            ("text-embedding-3-small", "sk-second"), ("gpt-4.1-mini", "sk-second")
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "whose"),
    [("gpt-4o", "openai"), ("groq/llama", "groq"), ("nobody's", "openai"), ("anthropic/opus", "(none)"),
     ("small", None), ("auto", None)],
)  # fmt: skip
def test_whom_a_request_addresses(model: str, whose: str | None) -> None:
    """By its own words, whatever the step's rule makes of it; what no provider could take is for nobody."""
    providers = {name: Provider(name, "openai", f"http://{name}.test") for name in ("openai", "groq")}
    providers["anthropic"] = Provider("anthropic", "anthropic", "http://anthropic.test")
    policy = replace(rules(step(tier="small")), providers=providers)
    assert ladder.home(asking(model), policy) == whose
