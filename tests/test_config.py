"""The configuration: every fault at once with its place, the environment over the file, secrets kept secret, limits to
the nano-dollar."""

import json
import os
import re
import threading
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from bursar.config import (
    AlertingSection,
    AlertSection,
    BreakerSection,
    BudgetSection,
    CapabilitySection,
    ConfigError,
    RoutingSection,
    Settings,
    StepSection,
    load,
    schema,
)
from bursar.doors.open import make_policy, open_books
from bursar.policy import Budget, Candidate, Match, Policy, ResponseCache, SemanticCache, StepRule
from configs import faults, policy_of
from conftest import ROOT


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    """A shape, a provider that is not there, a word, a section of a later version: one run tells all four."""
    found = faults(
        tmp_path,
        'on_disconnect = "sometimes"\n[tiers]\nsmall = ["nobody/x"]\n[gateway]\nport = "zz"\n[trials]\nname = "x"\n',
    )
    assert [(f.line, f.key) for f in found] == [
        (1, "on_disconnect"), (3, "tiers.small"), (5, "gateway.port"), (6, "trials"),
    ]  # fmt: skip
    assert all(f.file.endswith("bursar.toml") for f in found)


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ("[store]\nredis = 'redis://h'", 2, "store.redis", "not enforced by this version"),
        ("[store]\nurl = 'postgresql://u:hush@h/db'", 2, "store.url", "expected sqlite:///PATH"),
        ("[store]\nurl = 'sqlite:///:memory:'", 2, "store.url", "expected sqlite:///PATH"),
        ("[store]\nurll = 'x'", 2, "store.urll", "did you mean url?"),
        ("[gateway]\nport = true", 2, "gateway.port", "expected a whole number"),
        ("[gateway]\nport = 70000", 2, "gateway.port", "65535"),
        ("[providers.acme]\nbase_url = 'http://h'", 1, "providers.acme.api", "is required"),
        ("[prices.gpt-4o]\ninput = '1'", 1, "prices.gpt-4o", "expected provider/model"),
        ("[prices.'a/b']\ninput = 'NaN'", 2, "prices.a/b.input", "expected 0 or more"),
        ("[tiers]\nsmall = []", 2, "tiers.small", "at least 1"),
        ("[drain]\ntime = 5", 2, "drain.time", "duration"),
        ("note = '''\n[gateway]\nport = 1\n'''\n[gateway]\nport = -1", 6, "gateway.port", "greater than or equal to 0"),
        ("a = \n", 1, "TOML", "Invalid value"),
        ("refuse_status = 500", 1, "refuse_status", "less than or equal to 499"),
        ("opaque_input_tokens = 0", 1, "opaque_input_tokens", 'above 0, or "refuse"'),
        ("opaque_input_tokens = true", 1, "opaque_input_tokens", 'above 0, or "refuse"'),
        ("finish_text = ''", 1, "finish_text", "at least 1"),
    ],
)
def test_a_fault_names_line_key_and_what_was_expected(
    tmp_path: Path, text: str, line: int, key: str, told: str
) -> None:
    """Each kind of mistake is found where it stands."""
    found = {f.key: f for f in faults(tmp_path, text)}
    assert found[key].line == line
    assert told in found[key].message


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """What a fault shows may end in a log: a pasted key, URL or password does not."""
    text = "[store]\nurl='hush://hush'\n[providers.openai]\nbase_url='hush-1'\napi_key='hush-2'\napi_key_env='hush-3'\n"
    found = faults(tmp_path, text)
    assert len(found) == 4
    assert not any("hush" in f.message for f in found)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """Variables overlay the file key by key, from the mapping that is handed in and no other."""
    path = tmp_path / "bursar.toml"
    path.write_text('[gateway]\nport = 1\nhost = "::1"\n')
    told = load(path, {"BURSAR_GATEWAY__PORT": "2", "BURSAR_PROVIDERS__OPENAI__BASE_URL": "http://h/v1"})
    assert (told.gateway.port, told.gateway.host) == (2, "::1")
    assert told.providers["openai"].base_url == "http://h/v1"
    assert told.providers["openai"].api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "environ", [{"BURSAR_STOR__URL": "x"}, {"BURSAR_STORE__URLL": "x"}, {"BURSAR_TIERS": "{"}, {"BURSAR_CAPTURE": "x"}]
)
def test_a_wrong_variable_is_a_fault_of_the_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    """A variable that was meant for us and cannot be used is told, by its name."""
    (only,) = faults(tmp_path, "", environ)
    assert (only.file, only.line, only.key) == ("environment", None, next(iter(environ)))


def test_default_providers(tmp_path: Path) -> None:
    """None configured: all three. Some configured: those, and a default that a tier names."""
    path = tmp_path / "bursar.toml"
    path.write_text("")
    assert set(load(path, {}).providers) == {"openai", "anthropic", "gemini"}
    path.write_text("[providers.openai]\n[tiers]\nbig = ['anthropic/claude-opus-4-8']\n")
    policy = make_policy(load(path, {}))
    assert set(policy.providers) == {"openai", "anthropic"}
    assert policy.tiers == {"big": (Candidate("anthropic", "claude-opus-4-8"),)}


def test_named_files_must_be_there(tmp_path: Path) -> None:
    """A file that was named and is missing is a fault, by argument or by BURSAR_CONFIG."""
    for path, environ in ((tmp_path / "x.toml", {}), (None, {"BURSAR_CONFIG": str(tmp_path / "x.toml")})):
        with pytest.raises(ConfigError, match="cannot be read"):
            load(path, environ)


def test_a_short_drain_is_not_no_drain(tmp_path: Path) -> None:
    """Whole seconds, rounded up."""
    path = tmp_path / "bursar.toml"
    path.write_text('[drain]\ntime = "500ms"\n')
    assert make_policy(load(path, {})).drain.seconds == 1


def test_racing_starts_agree_on_one_secret(tmp_path: Path) -> None:
    """However many open a new ledger at once, all derive the same keys, and the file is its owner's alone."""
    settings = load(None, {"BURSAR_STORE__URL": f"sqlite:///{tmp_path}/b.db"})
    roots: list[bytes] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        books = open_books(settings, {})
        roots.append(books.root)
        books.store.close()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(roots) == 8
    assert len(set(roots)) == 1
    assert (tmp_path / "b.db.secret").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.glob("b.db.secret*")] == ["b.db.secret"]


def test_purposes_have_keys_of_their_own_and_weak_roots_are_refused(tmp_path: Path) -> None:
    """The variable goes before the file; a short, emptied or readable secret opens nothing."""
    settings = load(None, {"BURSAR_STORE__URL": f"sqlite:///{tmp_path}/b.db"})
    books = open_books(settings, {"BURSAR_SECRET": "r" * 32})
    books.store.close()
    assert books.secret("keys") != books.secret("digests")
    assert not (tmp_path / "b.db.secret").exists()
    with pytest.raises(ConfigError, match="5 characters"):
        open_books(settings, {"BURSAR_SECRET": "short"})
    file = tmp_path / "b.db.secret"
    file.touch(0o600)
    with pytest.raises(ConfigError, match="holds 0 bytes"):
        open_books(settings, {})
    file.write_text("s" * 64)
    os.chmod(file, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_books(settings, {})


def test_the_schema_describes_every_section() -> None:
    """Editors complete what load() accepts, and nothing else."""
    told = schema()
    assert {"store", "providers", "tiers", "prices", "gateway"} <= set(told["properties"])
    assert told["additionalProperties"] is False


# --- budgets and steps

USER = 'name = "a"\nscope = "user"\n'
LIMITED = USER + "limit_tokens = 1\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        (USER, 1, "budgets[0]", "limits nothing: expected limit_usd, limit_tokens or both"),
        ('scope = "user"\nlimit_usd = 1', 1, "budgets[0].name", "is required"),
        (LIMITED + 'scoope = "x"', 5, "budgets[0].scoope", "did you mean scope?"),
        (LIMITED + 'match = { agnet = "x" }', 5, "budgets[0].match.agnet", "did you mean agent?"),
        (LIMITED + 'match = { agent = "" }', 5, "budgets[0].match.agent", "at least 1"),
        (LIMITED + "[budgets.match]\ntags = { kind = 7 }", 6, "budgets[0].match.tags.kind", "valid string"),
        (USER + "limit_usd = 0.1234567891", 4, "budgets[0].limit_usd", "nine decimals at most"),
        (USER + "limit_usd = -1", 4, "budgets[0].limit_usd", "expected 0 or more and below 1e9 dollars, got -1"),
        (USER + "limit_usd = nan", 4, "budgets[0].limit_usd", 'expected dollars, such as "0.50"'),
        (USER + "limit_usd = true", 4, "budgets[0].limit_usd", 'expected dollars, such as "0.50"'),
        (USER + "limit_tokens = 1.5", 4, "budgets[0].limit_tokens", "valid integer"),
        (LIMITED + 'window = "fortnight"', 5, "budgets[0].window", "'hour'"),
        (LIMITED + 'timezone = "Mars/Base"', 5, "budgets[0].timezone", "IANA time zone"),
        (LIMITED + 'timezone = "../etc"', 5, "budgets[0].timezone", "IANA time zone"),
        (LIMITED + "finish_reserve = 0.1", 5, "budgets[0].finish_reserve", "run and session only"),
        (LIMITED + "finish_reserve = 1", 5, "budgets[0].finish_reserve", "expected 0 or more and below 1, got 1"),
        (LIMITED + "finish_reserve = 0.1234567", 5, "budgets[0].finish_reserve", "six decimals at most"),
        (LIMITED + "max_share = 0", 5, "budgets[0].max_share", "expected above 0 and at most 1, got 0"),
        (LIMITED + "wrap_up = 1.01", 5, "budgets[0].wrap_up", "expected above 0 and at most 1, got 1.01"),
        (LIMITED + "patience = 2", 5, "budgets[0].patience", "duration"),
        (LIMITED + 'input_hold = "p99"', 5, "budgets[0].input_hold", "'ceiling' or 'p99.9'"),
        (LIMITED + 'on_exhausted = "downgrade"', 5, "budgets[0].on_exhausted", "add [tiers]"),
        (LIMITED.replace('"a"', '"run:a"'), 2, "budgets[0].name", 'does not begin with "run:"'),
        (LIMITED.replace('"a"', '" "'), 2, "budgets[0].name", "printable"),
        (LIMITED.replace("user", "run") + 'window = "day"', 5, "budgets[0].window", 'expected "lifetime"'),
    ],
)
def test_a_wrong_budget_is_said_where_it_stands(tmp_path: Path, text: str, line: int, key: str, told: str) -> None:
    """Each mistake with its line, and every other budget is left out of it."""
    (fault,) = faults(tmp_path, "[[budgets]]\n" + text)
    assert (fault.line, fault.key) == (line, key)
    assert told in fault.message
    sound = '[[budgets]]\nname = "sound"\nscope = "global"\nlimit_usd = 1\n\n'
    (fault,) = faults(tmp_path, sound + "[[budgets]]\n" + text)
    assert (fault.line, fault.key) == (line + 5, key.replace("[0]", "[1]"))


def test_a_name_is_one_budgets_own(tmp_path: Path) -> None:
    """Counters go by the name: the second that bears it is told."""
    (fault,) = faults(tmp_path, f"[[budgets]]\n{LIMITED}[[budgets]]\n{LIMITED}")
    assert (fault.line, fault.key, fault.message) == (6, "budgets[1].name", "another budget has this name (budgets[0])")


def test_a_budget_is_what_its_section_says(tmp_path: Path) -> None:
    """Every key arrives in the policy, exactly; what is left out is the policy's own default."""
    told = policy_of(
        tmp_path,
        """
        unknown_price = "refuse"
        opaque_input_tokens = "refuse"
        finish_text = "No more of {budget}."
        refuse_status = 422
        [tiers]
        small = ["openai/gpt-4o-mini"]
        [[budgets]]
        name = "all of it"
        scope = "session"
        match = { agent = "a*", step = "s", user_tier = "free", tags = { kind = "report", team = "r?d" } }
        window = "week"
        timezone = "Asia/Kathmandu"
        limit_usd = 0.1
        limit_tokens = 10_000
        on_exhausted = "downgrade"
        finish_text = "Enough."
        finish_reserve = 0.15
        max_share = 1
        wrap_up = 0.5
        patience = "1.5s"
        tell_model = true
        input_hold = "p99.9"
        [[budgets]]
        name = "bare"
        scope = "user"
        limit_usd = "0.000000001"
        [[steps]]
        match = { step = "extract_*" }
        max_output_tokens = 800
        [[steps]]
        """,
    )
    first = Budget(
        name="all of it", scope="session", match=Match("a*", "s", "free", (("kind", "report"), ("team", "r?d"))),
        window="week", zone="Asia/Kathmandu", limit_nanos=100_000_000, limit_tokens=10_000, on_exhausted="downgrade",
        finish_text="Enough.", finish_reserve=150_000, max_share=1_000_000, wrap_up=500_000, patience_ms=1_500,
        tell_model=True, learned_input=True,
    )  # fmt: skip
    assert told.budgets == (first, Budget(name="bare", scope="user", limit_nanos=1))
    assert told.steps == (StepRule(match=Match(step="extract_*"), max_output_tokens=800), StepRule())
    assert (told.unknown_price, told.opaque_input_tokens, told.refuse_status) == ("refuse", 0, 422)
    assert told.finish_text == "No more of {budget}."


def test_a_steps_caches_are_what_its_section_says(tmp_path: Path) -> None:
    """Every key arrives in the policy; what is left out is the policy's own default."""
    told = policy_of(
        tmp_path,
        """
        [cache]
        max_bytes = "1GiB"
        path = "answers.db"
        [[steps]]
        match = { step = "extract" }
        cache = { response = "2d", stale = "1.5h", scope = "tenant", tools = true }
        prompt_cache = "auto"
        [[steps]]
        cache = { response = "1h" }
        [[steps]]
        [steps.cache.semantic]
        threshold = 0.95
        max_error = 0.05
        ttl = "12h"
        scope = "session"
        mode = "shadow"
        strict = true
        [[steps]]
        cache = { semantic = {} }
        """,
    )
    first = ResponseCache(ttl_ms=172_800_000, stale_ms=5_400_000, scope="tenant", tools=True)
    semantic = SemanticCache(
        ttl_ms=43_200_000, threshold=0.95, max_error=0.05, scope="session", mode="shadow", strict=True
    )
    assert told.steps == (
        StepRule(match=Match(step="extract"), response_cache=first, prompt_cache="auto"),
        StepRule(response_cache=ResponseCache(ttl_ms=3_600_000)),
        StepRule(semantic_cache=semantic),
        StepRule(semantic_cache=SemanticCache(ttl_ms=86_400_000)),
    )


@pytest.mark.parametrize(
    ("cache", "key", "told"),
    [
        ("cache = {}", "cache", "keeps nothing"),
        ('cache = { stale = "1h" }', "cache", "keeps nothing"),
        ('cache = { stale = "1h", semantic = {} }', "cache", "expected response with them"),
        ('cache = { response = "0s" }', "cache.response", "above 0"),
        ('cache = { response = "11000d" }', "cache.response", "of ten years at most"),
        ("cache = { response = 24 }", "cache.response", "expected a duration"),
        ('cache = { response = "1h", scope = "agent" }', "cache.scope", "'user', 'session', 'tenant' or 'global'"),
        ('cache = { response = "1h", sope = "user" }', "cache.sope", "did you mean scope?"),
        ("cache = { semantic = { threshold = 92 } }", "cache.semantic.threshold", "at most 1"),
        ("cache = { semantic = { max_error = 0 } }", "cache.semantic.max_error", "above 0"),
        ('cache = { semantic = { embedder = { kind = "gpt" } } }', "cache.semantic.embedder.kind", "'minilm'"),
        ('prompt_cache = "on"', "prompt_cache", "'off' or 'auto'"),
    ],
)
def test_a_wrong_cache_is_told(tmp_path: Path, cache: str, key: str, told: str) -> None:
    """At its line, with what was expected."""
    (fault,) = faults(tmp_path, f"[[steps]]\n{cache}\n")
    assert (fault.line, fault.key) == (2, f"steps[0].{key}")
    assert told in fault.message


@pytest.mark.parametrize(
    ("written", "size"),
    [('"256MB"', 256_000_000), ('"1 GiB"', 1 << 30), ('"5kB"', 5_000), ("1000", 1_000), ('"0"', 0)],
)
def test_sizes(tmp_path: Path, written: str, size: int) -> None:
    """As people write them, and as bytes."""
    path = tmp_path / "bursar.toml"
    path.write_text(f"[cache]\nmax_bytes = {written}\n")
    assert load(path, {}).cache.max_bytes == size


@pytest.mark.parametrize("written", ['"1.5GB"', '"many"', "-1", "true", "1.5", '"9999999999999GB"'])
def test_sizes_that_are_none(tmp_path: Path, written: str) -> None:
    """Are faults with an example."""
    (fault,) = faults(tmp_path, f"[cache]\nmax_bytes = {written}\n")
    assert (fault.line, fault.key) == (2, "cache.max_bytes")


def test_left_alone_the_limits_are_the_policys_own(tmp_path: Path) -> None:
    """Defaults stand in one place: no budget, no status, no text of another kind comes of an empty file."""
    told, own = policy_of(tmp_path, ""), Policy(prices=policy_of(tmp_path, "").prices)
    names = ("budgets", "steps", "unknown_price", "opaque_input_tokens", "finish_text", "refuse_status")
    assert [getattr(told, name) for name in names] == [getattr(own, name) for name in names]


@pytest.mark.parametrize(
    ("told", "learned"),
    [
        ("", False),
        ("hard = false", True),
        ("hard = true", False),
        ('hard = false\ninput_hold = "ceiling"', False),
        ('hard = true\ninput_hold = "p99.9"', True),
    ],
)
def test_a_soft_limit_holds_what_is_likely(tmp_path: Path, told: str, learned: bool) -> None:
    """Unless it is told otherwise; a hard one holds the ceiling, unless it is told otherwise."""
    (budget,) = policy_of(tmp_path, f"[[budgets]]\n{LIMITED}{told}\n").budgets
    assert budget.learned_input is learned


@settings(deadline=None)
@given(st.decimals(0, 999_999_999, allow_nan=False, allow_infinity=False, places=9))
def test_no_float_touches_a_limit(amount: Decimal) -> None:
    """Written as a string or as a bare number, in the file or in the environment: the same nano-dollars, exactly."""
    expected = int(amount * 10**9)
    bare = f"{amount:f}"
    for written in (bare, f'"{bare}"'):
        text = f"[[budgets]]\n{USER}limit_usd = {written}\n"
        (told,) = tomllib.loads(text, parse_float=Decimal)["budgets"]
        assert BudgetSection.model_validate(told).limit_usd == expected
        variable = f'[{{"name": "a", "scope": "user", "limit_usd": {written}}}]'
        (budget,) = load(Path(os.devnull), {"BURSAR_BUDGETS": variable}).budgets
        assert budget.limit_usd == expected


def test_budgets_come_by_the_environment_too(tmp_path: Path) -> None:
    """As JSON, in place of the file's; a fault in them is the variable's."""
    told = policy_of(
        tmp_path, f"[[budgets]]\n{LIMITED}", {"BURSAR_BUDGETS": '[{"name": "b", "scope": "global", "limit_usd": 0.5}]'}
    )
    assert told.budgets == (Budget(name="b", scope="global", limit_nanos=500_000_000),)
    wrong = '[{"name": "b", "scope": "globe", "limit_usd": 1}]'
    (fault,) = faults(tmp_path, f"[[budgets]]\n{LIMITED}", {"BURSAR_BUDGETS": wrong})
    assert (fault.file, fault.line, fault.key) == ("environment", None, "BURSAR_BUDGETS")
    assert fault.message.startswith("budgets[0].scope: ")


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all below it."""

    def within(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from sections(annotation)
        for part in get_args(annotation):
            yield from within(part)

    yield model
    for field in model.model_fields.values():
        yield from within(field.annotation)


def test_every_key_is_told() -> None:
    """On the page about the configuration and in what `bursar init` writes, down to the last table."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    template = (ROOT / "src" / "bursar" / "doors" / "cli" / "template.toml").read_text("utf-8")
    rules = (
        BudgetSection,
        StepSection,
        AlertSection,
        AlertingSection,
        BreakerSection,
        RoutingSection,
        CapabilitySection,
    )
    spans = "\n".join(re.findall(r"`[^`\n]+`", page))
    found = {section for rule in rules for section in sections(rule)}
    assert len(found) > 25
    for section in found:
        for name, field in section.model_fields.items():
            key = field.alias or name
            assert re.search(rf"\b{key}\b", spans), (section, key)
            assert re.search(rf"\b{key}\b", template), (section, key)


def fragments() -> st.SearchStrategy[Any]:
    """Trees of whatever a file may say, with keys and words that mean something somewhere."""
    rules = (
        BudgetSection,
        StepSection,
        AlertSection,
        AlertingSection,
        BreakerSection,
        RoutingSection,
        CapabilitySection,
    )
    keys = {field.alias or name for rule in rules for one in sections(rule) for name, field in one.model_fields.items()}
    words = st.sampled_from(
        [*sorted(keys), "small", "auto", "spend", "loop", "a/b", "1h", "$schema", "type", "$ref", ""]
    )
    leaves = words | st.integers(-2, 2) | st.booleans() | st.sampled_from([0.5, 1e300, -0.5])
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4), max_leaves=12
    )


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(Settings.model_fields)), fragments(), max_size=4))
@example({"steps": [{"validate": {"json_schema": {"$schema": ["a"]}}}]})
@example({"steps": [{"validate": {"json_schema": {"$ref": "#/a", "pattern": "("}}}]})
@example({"steps": [{"validate": [], "cascade": [[], "small"], "tier": {}, "providers": {"a": 1}}], "tiers": []})
@example({"alerts": [{"name": [], "explained_by": [{}]}], "alerting": [], "breakers": {"name": "a"}})
def test_whatever_a_file_says_is_settings_or_faults(told: dict[str, Any]) -> None:
    """Nothing else comes out of load(), and every fault has a name."""
    path = Path(os.devnull)
    environ = {f"BURSAR_{key.upper()}": json.dumps(value) for key, value in told.items()}
    try:
        load(path, environ)
    except ConfigError as wrong:
        assert wrong.faults and all(fault.key and fault.message for fault in wrong.faults)


def test_the_schema_takes_what_people_write() -> None:
    """Durations, shares and amounts are described as they are written, not as they are kept."""
    kinds = schema()["$defs"]["BudgetSection"]["properties"]
    assert kinds["patience"]["type"] == "string"
    assert kinds["finish_reserve"]["type"] == "number"
    assert {"string", "number"} <= {kind.get("type") for kind in kinds["limit_usd"]["anyOf"]}
