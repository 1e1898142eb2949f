"""[[steps]], [routing] and [capabilities]: each key arrives in the policy, each mistake is told where it stands."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.config import load, schema
from bursar.doors.cli.setup import TEMPLATE
from bursar.doors.open import make_policy
from bursar.policy import (
    Capability,
    Check,
    Consistency,
    JudgePrompt,
    Margin,
    Match,
    Policy,
    ResponseCache,
    Routing,
    SemanticCache,
    StepRule,
)
from bursar.policy.alerts import Spike
from bursar.policy.breakers import Ceiling
from bursar.rules.validate import said
from bursar.types import Answer
from configs import as_json, dollars, faults, outside, policy_of, tables
from test_cli import Cli, cli  # noqa: F401  (a fixture)
from test_config_breakers import MATCHES, written

TIERS = """
[tiers]
small = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
mid = ["openai/gpt-4o"]
frontier = ["anthropic/claude-opus-4-8"]
[[steps]]
"""  # six lines: a step's first key stands on the seventh
LINE = 7


@pytest.mark.parametrize(
    ("text", "key", "told"),
    [
        ('tier = "smal"', "tier", "'smal' is no tier: [tiers] has small, mid, frontier"),
        ('min_tier = "auto"', "min_tier", "'auto' is no tier"),
        ('max_tier = "x"', "max_tier", "'x' is no tier"),
        ('cascade = ["small"]', "cascade", "at least 2"),
        ('cascade = ["small", "large"]', "cascade[1]", "'large' is no tier"),
        ('cascade = ["small", "mid", "small"]', "cascade[2]", "'small' is there already"),
        ('cascade = ["mid", "small"]', "cascade[1]", "cheapest first"),
        ('tier = "mid"\ncascade = ["small", "frontier"]', "tier", "'mid' is not in the cascade"),
        ('min_tier = "mid"\nmax_tier = "small"', "min_tier", "no tier is left"),
        ('tier = "small"\nmin_tier = "mid"', "tier", "outside mid to frontier"),
        ('cascade = ["small", "mid", "frontier"]\nmax_tier = "mid"', "cascade[2]", "outside small to mid"),
        ('providers = ["openai", "acme"]', "providers[1]", "'acme' is no configured provider"),
        ("providers = []", "providers", "at least 1"),
        ('tier = "frontier"\nproviders = ["openai"]', "tier", "has no model of openai"),
        ('cascade = ["small", "frontier"]\nproviders = ["openai"]', "cascade[1]", "has no model of openai"),
        ('tier = "auto"\nproviders = ["gemini"]', "tier", "no tier has a model of gemini"),
        ("validate = {}", "validate", "checks nothing: expected one or more of json_schema, labels"),
        ("validate = { labels = [] }", "validate.labels", "at least 1"),
        ('validate = { labels = "yes" }', "validate.labels", "tuple"),
        ('validate = { regex = "(" }', "validate.regex", "expected a regular expression"),
        ('validate = { python = "checks.ok" }', "validate.python", 'expected "package.module:function"'),
        ('validate = { python = { function = "a:b", min = 2 } }', "validate.python.min", "from 0 to 1, got 2"),
        ("validate = { json_schema = 5 }", "validate.json_schema", "the name of a file"),
        ("validate = { json_schema = { type = 5 } }", "validate.json_schema", "not a JSON Schema"),
        ("validate = { margin = 1.5 }", "validate.margin", "from 0 to 1, got 1.5"),
        ('validate = { judge = { prompt = "p", tier = "x" } }', "validate.judge.tier", "'x' is no tier"),
        ('validate = { judge = { prompt = "" } }', "validate.judge.prompt", "at least 1"),
        ("validate = { judge = { min = 0.5 } }", "validate.judge.prompt", "is required"),
        ("validate = { consistency = { samples = 0 } }", "validate.consistency.samples", "1"),
        ('validate = { lables = ["a"], margin = 0.5 }', "validate.lables", "did you mean labels?"),
        (
            'validate = { judge = { prompt = "p", tier = "frontier" } }\nproviders = ["openai"]', "validate.judge.tier",
            "has no model of openai",
        ),
        ('cascadee = ["a", "b"]', "cascadee", "did you mean cascade?"),
        ('validat = { margin = 1 }', "validat", "did you mean validate?"),
    ],
)  # fmt: skip
def test_a_wrong_step_is_told_where_it_stands(tmp_path: Path, text: str, key: str, told: str) -> None:
    """One fault for one mistake."""
    (fault,) = faults(tmp_path, TIERS + text)
    at = next(at for at, line in enumerate(text.splitlines()) if line.startswith(re.match(r"\w+", key)[0]))  # type: ignore[index]
    assert (fault.line, fault.key) == (LINE + at, f"steps[0].{key}")
    assert told in fault.message


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ('[tiers]\nauto = ["openai/gpt-4o"]', 2, "tiers.auto", 'not "auto"'),
        ('[tiers]\n"a>b" = ["openai/gpt-4o"]', 2, "tiers.a>b", "expected letters"),
        ('[[steps]]\ntier = "auto"', 2, "steps[0].tier", "there are none: add [tiers]"),
        ('[[steps]]\ntier = "small"', 2, "steps[0].tier", "[tiers] has none"),
        ('[[steps]]\nvalidate = { judge = { prompt = "p" } }', 2, "steps[0].validate.judge", "add [tiers]"),
        ("[routing]\nagreement = 1", 2, "routing.agreement", "less than 1"),
        ("[routing]\naudit_share = -0.1", 2, "routing.audit_share", "from 0 to 1"),
        ("[routing]\nsecond_usd = -1", 2, "routing.second_usd", "0 or more"),
        ("[routing]\nwarm = 5", 2, "routing.warm", "duration"),
        ("[capabilities.gpt-4o]\ncontext_tokens = 1", 1, "capabilities.gpt-4o", "expected provider/model"),
        ("[capabilities.'a/b']", 1, "capabilities.a/b", "says nothing"),
        ("[capabilities.'a/b']\ncontext_tokens = 0", 2, "capabilities.a/b.context_tokens", "greater than 0"),
        ("[capabilities.'a/b']\ninputs = ['text', 'smell']", 2, "capabilities.a/b.inputs[1]", "'image'"),
        ("[capabilities.'a/b']\ninputs = ['image']", 2, "capabilities.a/b.inputs", 'expected "text" among them'),
        ("[capabilities.'a/b']\nfeatures = ['magic']", 2, "capabilities.a/b.features[0]", "'tools'"),
    ],
)
def test_what_else_is_wrong(tmp_path: Path, text: str, line: int, key: str, told: str) -> None:
    """Tiers, their constants, and what models can take."""
    (fault,) = faults(tmp_path, text)
    assert (fault.line, fault.key) == (line, key)
    assert told in fault.message


# --- what a step names outside the file


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's module of checks, importable for the time of a test."""
    (tmp_path / "users_checks.py").write_text(
        "from pydantic import BaseModel\n"
        "class Parties(BaseModel):\n    buyer: str\n"
        "def long(text: str) -> bool:\n    return len(text) > 3\n"
        "def two(a, b): ...\n"
        "number = 5\nnothing = None\n"
    )
    (tmp_path / "users_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_checks"
    for name in ("users_checks", "users_broken"):
        sys.modules.pop(name, None)


def test_what_cannot_be_had_is_told_all_at_once(tmp_path: Path, module: str) -> None:
    """Files and functions that are not there, or are none, at their own lines."""
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "null.json").write_text("null")
    (tmp_path / "schema.json").write_text('{"type": 5}')
    wanted = [
        ('json_schema = "none.json"', "json_schema", "none.json cannot be read: No such file"),
        ('json_schema = "text.json"', "json_schema", "text.json is not JSON"),
        ('json_schema = "schema.json"', "json_schema", "not a JSON Schema"),
        ('python = "users_absent:f"', "python", "is its folder on PYTHONPATH?"),
        (f'python = "{module}:g"', "python", "has no attribute 'g'"),
        ('python = "users_broken:f"', "python", "users_broken raises ZeroDivisionError"),
        (f'python = "{module}:number"', "python", "5 validates nothing"),
        (f'python = "{module}:two"', "python", "is to take the answer's text"),
        (f'python = "{module}:nothing"', "python", "is None"),
        ('json_schema = "null.json"', "json_schema", "expected an object"),
    ]
    steps = "".join(f"[[steps]]\nvalidate = {{ {text} }}\n" for text, _, _ in wanted)
    found = outside(tmp_path, steps + '[[steps]]\ncache = { semantic = { judge = "users_absent:f" } }\n')
    assert [(f.line, f.key) for f in found[:-1]] == [
        (2 * at + 2, f"steps[{at}].validate.{key}") for at, (_, key, _) in enumerate(wanted)
    ]
    assert all(told in f.message for f, (_, _, told) in zip(found[:-1], wanted, strict=True))
    assert (found[-1].line, found[-1].key) == (2 * len(wanted) + 2, f"steps[{len(wanted)}].cache.semantic.judge")


def verdicts(policy: Policy, *texts: str) -> list[bool | None]:
    """What the one check of the one step says of each text."""
    (check,) = policy.steps[0].validators
    assert isinstance(check, Check)
    return [said(check.run(Answer(text=text)), check.minimum).ok for text in texts]


def test_a_schemas_file_is_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the command runs."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "parties.json").write_text('{"required": ["buyer"], "type": "object"}')
    monkeypatch.chdir(tmp_path / "sub")
    told = policy_of(tmp_path, '[[steps]]\nvalidate = { json_schema = "parties.json" }\n')
    assert verdicts(told, '{"buyer": "a"}', "{}", "text") == [True, False, False]


def test_a_schema_in_the_file_has_jsons_numbers(tmp_path: Path) -> None:
    """TOML's decimals would break multipleOf."""
    told = policy_of(tmp_path, "[[steps]]\nvalidate = { json_schema = { multipleOf = 0.5, maximum = 1.5 } }\n")
    assert verdicts(told, "1.5", "1.25", "2.0") == [True, False, False]


def test_functions_and_models_by_their_names(tmp_path: Path, module: str) -> None:
    """A function of the text, a pydantic model; a score against its own minimum."""
    for name, texts, expected in (
        ("long", ("four", "ten"), [True, False]),
        ("Parties", ('{"buyer": "a"}', "{}"), [True, False]),
    ):
        told = policy_of(tmp_path, f'[[steps]]\nvalidate = {{ python = "{module}:{name}" }}\n')
        assert verdicts(told, *texts) == expected
    text = f'[[steps]]\nvalidate = {{ python = {{ function = "{module}:long", min = 0.9 }} }}\n'
    (check,) = policy_of(tmp_path, text).steps[0].validators
    assert isinstance(check, Check) and check.minimum == 0.9


def test_all_validators_of_a_step(tmp_path: Path, module: str) -> None:
    """What is free is asked first; what is paid is what the section says."""
    told = policy_of(
        tmp_path,
        TIERS
        + f"""
        [steps.validate]
        consistency = {{ samples = 3, min = 0.6 }}
        judge = {{ prompt = "Right? {{answer}}", min = 0.8, tier = "mid" }}
        margin = 0.4
        python = "{module}:long"
        regex = "^[a-z]+$"
        labels = ["yes", "no"]
        json_schema = true
        """.replace("json_schema = true", "json_schema = { type = 'string' }"),
    )
    found = told.steps[0].validators
    assert [one.name for one in found if isinstance(one, Check)] == ["json_schema", "labels", "regex", "long"]
    assert found[4:] == (Margin(0.4), JudgePrompt("Right? {answer}", 0.8, "mid"), Consistency(3, 0.6))


# --- any step

TIER_NAMES = ("small", "mid", "frontier")
SCORES = st.integers(0, 1000).map(lambda thousandth: thousandth / 1000)
PAID = st.tuples(
    st.none() | st.builds(Margin, SCORES),
    st.none() | st.builds(JudgePrompt, st.just("p"), SCORES, st.none() | st.sampled_from(TIER_NAMES)),
    st.none() | st.builds(Consistency, st.integers(1, 20), SCORES),
)


@st.composite
def rules(draw: st.DrawFn) -> StepRule:
    low, high = sorted(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))))
    within = TIER_NAMES[low : high + 1]
    cascade = [tier for tier in within if draw(st.booleans())]
    return StepRule(
        match=draw(MATCHES),
        tier=draw(st.none() | st.just("auto") | st.sampled_from(cascade if len(cascade) > 1 else within)),
        cascade=tuple(cascade) if len(cascade) > 1 else (),
        validators=tuple(one for one in draw(PAID) if one is not None),
        min_tier=TIER_NAMES[low] if low else None,
        max_tier=TIER_NAMES[high] if high < 2 else None,
        providers=draw(st.sampled_from([(), ("openai", "anthropic"), ("anthropic", "openai", "gemini")])),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        response_cache=draw(st.none() | st.builds(ResponseCache, ttl_ms=st.integers(1, 10**9), tools=st.booleans())),
        prompt_cache=draw(st.sampled_from(["off", "auto"])),
    )


def section(rule: StepRule) -> dict[str, Any]:
    checks: dict[str, Any] = {}
    for one in rule.validators:
        match one:
            case Margin(minimum=minimum):
                checks["margin"] = number(minimum)
            case JudgePrompt(prompt=prompt, minimum=minimum, tier=tier):
                checks["judge"] = {"prompt": prompt, "min": number(minimum)} | ({} if tier is None else {"tier": tier})
            case Consistency(samples=samples, minimum=minimum):
                checks["consistency"] = {"samples": samples, "min": number(minimum)}
    kept = rule.response_cache
    told = {
        "match": written(rule.match), "tier": rule.tier, "cascade": rule.cascade or None, "validate": checks or None,
        "min_tier": rule.min_tier, "max_tier": rule.max_tier, "providers": rule.providers or None,
        "max_output_tokens": rule.max_output_tokens, "prompt_cache": rule.prompt_cache,
        "cache": None if kept is None else {"response": f"{kept.ttl_ms}ms", "tools": kept.tools},
    }  # fmt: skip
    return {key: value for key, value in told.items() if value is not None}


def number(score: float) -> float:
    return round(score, 3)


@settings(deadline=None)
@given(rule=rules())
def test_any_step_is_what_its_section_says(rule: StepRule, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written out and read back it is the same, from the file and from the environment."""
    path = tmp_path_factory.getbasetemp() / "steps.toml"
    path.write_text(TIERS.removesuffix("[[steps]]\n") + tables("steps", [section(rule)]), "utf-8")
    assert make_policy(load(path, {})).steps == (rule,)
    path.write_text(TIERS.removesuffix("[[steps]]\n"))
    assert make_policy(load(path, {"BURSAR_STEPS": as_json([section(rule)])})).steps == (rule,)


@settings(deadline=None)
@given(
    routing=st.builds(
        Routing, agreement=SCORES.filter(lambda share: 0 < share < 1), audit_share=SCORES,
        second_nanos=st.integers(0, 10**15), failure_nanos=st.integers(0, 10**15), warm_ms=st.integers(0, 10**9),
    ),
    own=st.builds(
        Capability, context_tokens=st.integers(1, 10**9),
        inputs=st.none() | st.frozensets(st.sampled_from(["image", "file"])).map(lambda found: found | {"text"}),
        features=st.none() | st.frozensets(st.sampled_from(["tools", "forced_tool", "structured", "sampling"])),
    ),
)  # fmt: skip
def test_constants_and_capabilities_are_what_their_sections_say(routing: Routing, own: Capability) -> None:
    """By the environment, key by key and as JSON."""
    told: dict[str, Any] = {"context_tokens": own.context_tokens}
    told |= {} if own.inputs is None else {"inputs": sorted(own.inputs)}
    told |= {} if own.features is None else {"features": sorted(own.features)}
    environ = {
        "BURSAR_ROUTING__AGREEMENT": str(routing.agreement), "BURSAR_ROUTING__AUDIT_SHARE": str(routing.audit_share),
        "BURSAR_ROUTING__SECOND_USD": dollars(routing.second_nanos), "BURSAR_ROUTING__WARM": f"{routing.warm_ms}ms",
        "BURSAR_ROUTING__FAILURE_USD": dollars(routing.failure_nanos),
        "BURSAR_CAPABILITIES": as_json({"acme/strange": told}),
    }  # fmt: skip
    policy = make_policy(load(Path(os.devnull), environ))
    assert policy.routing == routing
    assert policy.capabilities is not None
    assert policy.capabilities.of("acme", "strange") == own


def test_what_is_known_of_models_is_always_there(tmp_path: Path) -> None:
    """The reviewed table, by the provider's name or its catalogue, and the user's word over it, key by key."""
    text = """
    [providers.mine]
    api = "openai"
    base_url = "https://api.openai.com/v1"
    [capabilities."mine/gpt-4o*"]
    context_tokens = 1000
    """
    table = policy_of(tmp_path, text).capabilities
    plain = policy_of(tmp_path, "").capabilities
    assert table is not None and plain is not None
    known = plain.of("openai", "gpt-4o")
    assert known.features is not None and "tools" in known.features
    assert table.of("mine", "gpt-4o") == msgspec.structs.replace(known, context_tokens=1000)
    assert policy_of(tmp_path, "").routing == Routing()


# --- check, and the contract

CONTRACT = """
[store]
url = "sqlite:///bursar.db"

[providers.openai]
api = "openai"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"

[tiers]
small    = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
mid      = ["openai/gpt-4o"]
frontier = ["anthropic/claude-opus-4-8"]

[prices."openai/ft:gpt-4o-mini:acme"]
input = "0.30"
output = "1.20"

[[steps]]
match = { agent = "legal", step = "extract_*" }
tier = "small"
cascade = ["small", "mid", "frontier"]
validate = { json_schema = "parties.json" }
cache = { response = "24h", semantic = { threshold = 0.92, ttl = "24h", scope = "tenant" } }
prompt_cache = "auto"
max_output_tokens = 800

[[budgets]]
name = "free users, daily"
scope = "user"
match = { user_tier = "free" }
window = "day"
limit_usd = 0.50
on_exhausted = "finish"
patience = "2s"
timezone = "UTC"

[[budgets]]
name = "a research task"
scope = "run"
match = { agent = "researcher" }
limit_tokens = 10_000
finish_reserve = 0.15

[[alerts]]
name = "daily spike"
rule = { metric = "spend", window = "day", over = 1.2, of = "rolling_7d_mean" }
notify = ["https://hooks.example.com/bursar"]
notify_env = ["SLACK_URL"]

[[breakers]]
name = "session ceiling"
scope = "session"
rule = { metric = "spend", window = "lifetime", over_usd = 5.00 }
suspend = "reset"

[secrets]
root_env = "BURSAR_SECRET"
"""
"""The contract's own example, but for `redis`, which this version refuses."""


def test_the_contracts_own_example(tmp_path: Path) -> None:
    """Is read, and means what it says."""
    (tmp_path / "parties.json").write_text('{"type": "object"}')
    told = policy_of(tmp_path, CONTRACT, {"SLACK_URL": "json://localhost/slack"})
    (step,) = told.steps
    assert (step.match, step.tier, step.cascade) == (Match("legal", "extract_*"), "small", ("small", "mid", "frontier"))
    assert step.semantic_cache == SemanticCache(ttl_ms=86_400_000, threshold=0.92, scope="tenant")
    assert [type(one) for one in step.validators] == [Check]
    (alert,) = told.alerts
    assert alert.rule == Spike(name="daily spike", over=1_200_000, of="rolling_7d_mean")
    assert (alert.webhooks, alert.services) == (("https://hooks.example.com/bursar",), ("json://localhost/slack",))
    (breaker,) = told.breakers
    assert (breaker.scope, breaker.trigger, breaker.suspend_ms) == ("session", Ceiling(over_nanos=5 * 10**9), None)
    assert len(told.budgets) == 2


def test_the_written_template_is_sound_when_all_of_it_holds(tmp_path: Path) -> None:
    """Every example in it, with what it names outside the file: nothing else is missing."""
    bare = re.sub(r"^# (?=\[|\w+ = )", "", TEMPLATE.read_text(), flags=re.M)
    (tmp_path / "parties.json").write_text("{}")
    found = outside(tmp_path, bare, {"SLACK_URL": "json://localhost/slack"})
    assert [fault.key.rpartition(".")[2] for fault in found] == ["python", "judge"]


def test_check_warns_of_what_is_not_wrong(cli: Cli) -> None:  # noqa: F811
    """A dearer tier below a cheaper one, a cascade without a judge, and what can teach nothing; exit code 0."""
    turned = TIERS.replace("gpt-4o-mini", "gpt-4o").replace('mid = ["openai/gpt-4o"]', 'mid = ["openai/gpt-4o-mini"]')
    Path("bursar.toml").write_text(
        turned + 'cascade = ["small", "mid"]\n[[steps]]\ntier = "auto"\n[routing]\naudit_share = 0\n'
    )
    told = cli("check")
    assert told.code == 0
    warned = [line.removeprefix("warning: ") for line in told.out.splitlines() if line.startswith("warning: ")]
    assert [line.partition(":")[0] for line in warned] == ["tiers.small", "steps[0]", "steps[1]"]
    assert "openai/gpt-4o costs more than openai/gpt-4o-mini of the next tier, mid" in warned[0]
    assert cli("check", "--json").json["warnings"] == warned
    Path("bursar.toml").write_text(TIERS + 'cascade = ["small", "mid"]\nvalidate = { margin = 0.5 }\n')
    assert cli("check", "--json").json["warnings"] == []
    Path("bursar.toml").write_text(
        '[tiers]\none = ["openai/a"]\ntwo = ["openai/b"]\nthree = ["openai/nobody-knows"]\n'
        '[prices."openai/a"]\ninput = "2"\noutput = "1"\n[prices."openai/b"]\ninput = "1"\noutput = "2"\n'
    )
    assert cli("check", "--json").json["warnings"] == []


def test_check_tells_what_is_missing_outside(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A schema's file and a variable, each at its line; exit code 2."""
    monkeypatch.delenv("BURSAR_TEST_NOBODY", raising=False)
    Path("bursar.toml").write_text(
        '[alerting]\nnotify_env = ["BURSAR_TEST_NOBODY"]\n[[steps]]\nvalidate = { json_schema = "none.json" }\n'
    )
    told = cli("check", "--json")
    assert told.code == 2
    assert [(fault["line"], fault["key"]) for fault in told.json["faults"]] == [
        (2, "alerting.notify_env[0]"), (4, "steps[0].validate.json_schema"),
    ]  # fmt: skip


def test_the_schema_for_editors(tmp_path: Path) -> None:
    """Takes what people write: validate by its own name, python as a string, each metric with its keys, no other."""
    import jsonschema  # type: ignore[import-untyped]

    checker = jsonschema.Draft202012Validator(schema())
    sound: list[dict[str, Any]] = [
        {"steps": [{"tier": "auto", "validate": {"python": "a:b", "margin": 0.5, "json_schema": {"type": "object"}}}]},
        {"steps": [{"validate": {"json_schema": "x.json", "python": {"function": "a:b", "min": 0.5}}}]},
        {"breakers": [{"name": "a", "scope": "run", "rule": {"metric": "loop", "alike": False}, "suspend": "30m"}]},
        {"alerts": [{"name": "a", "rule": {"metric": "spend", "over": 1.2}, "quiet": {"start": "22:00"}}]},
        {"capabilities": {"a/b": {"inputs": ["text"]}}, "routing": {"warm": "5m", "second_usd": "0.1"}},
    ]
    for told in sound:
        assert list(checker.iter_errors(told)) == []
    for wrong in (
        {"steps": [{"checks": {"margin": 0.5}}]},
        {"breakers": [{"name": "a", "scope": "run", "rule": {"metric": "loop", "over_runs": 1}}]},
        {"alerts": [{"name": "a", "rule": {"metric": "nothing"}}]},
    ):
        assert list(checker.iter_errors(wrong))
