"""[[alerts]] and [alerting]: each key arrives in the policy, each mistake is told where it stands, no URL is told."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.config import load
from bursar.doors.open import make_policy
from bursar.policy import Alert
from bursar.policy.alerts import (
    DEFAULTS,
    Cap,
    Drift,
    Falling,
    Forecast,
    Quiet,
    Rule,
    Share,
    Spike,
    Stranger,
    Terms,
    Threshold,
    Wrong,
)
from configs import as_json, dollars, faults, outside, policy_of, shares, tables
from test_config_breakers import MATCHES, NAMES, NANOS, ZONES, written

HEAD = '[[alerts]]\nname = "a"\n'
SPIKE = HEAD + 'rule = { metric = "spend", over = 1.2 }\n'


@pytest.mark.parametrize(
    ("text", "line", "key", "told"),
    [
        ('[[alerts]]\nrule = { metric = "unknown_model" }', 1, "alerts[0].name", "is required"),
        (HEAD, 1, "alerts[0].rule", "is required"),
        (HEAD + "rule = { over = 1 }", 3, "alerts[0].rule.metric", "is required"),
        (HEAD + 'rule = { metric = "spent" }', 3, "alerts[0].rule.metric", "'spend', 'budget', 'cost_per_run'"),
        (HEAD + 'rule = { metric = "spend" }', 3, "alerts[0].rule", "either over, times what is expected, or over_usd"),
        (HEAD + 'rule = { metric = "spend", over = 2, over_usd = 1 }', 3, "alerts[0].rule", "either over"),
        (HEAD + 'rule = { metric = "spend", noise = 2, over_usd = 1 }', 3, "alerts[0].rule", "noise is about what is"),
        (
            HEAD + 'rule = { metric = "spend", over = 2, noise = 2, of = "rolling_7d_mean" }', 3, "alerts[0].rule",
            'expected of = "usual" with it',
        ),
        (HEAD + 'rule = { metric = "spend", over = 2, of = "last" }', 3, "alerts[0].rule.of", "'usual'"),
        (HEAD + 'rule = { metric = "spend", over = 0 }', 3, "alerts[0].rule.over", "a multiple above 0"),
        (HEAD + 'rule = { metric = "spend", over = 1.0000001 }', 3, "alerts[0].rule.over", "six decimals at most"),
        (HEAD + 'rule = { metric = "spend", over = nan }', 3, "alerts[0].rule.over", "a multiple above 0"),
        (HEAD + 'rule = { metric = "spend", over = 2, window = "week" }', 3, "alerts[0].rule.window", "'day'"),
        (HEAD + 'rule = { metric = "budget", at = [] }', 3, "alerts[0].rule.at", "at least 1"),
        (HEAD + 'rule = { metric = "budget", at = [0.8, 0] }', 3, "alerts[0].rule.at[1]", "above 0"),
        (HEAD + 'rule = { metric = "failed", over = 1 }', 3, "alerts[0].rule.over", "below 1"),
        (HEAD + 'rule = { metric = "hit_rate", falls_by = 0 }', 3, "alerts[0].rule.falls_by", "above 0"),
        (HEAD + 'rule = { metric = "hit_rate", fallsby = 0.3 }', 3, "alerts[0].rule.fallsby", "did you mean falls_by?"),
        (HEAD + 'rule = { metric = "month_forecast" }', 3, "alerts[0].rule.over_usd", "is required"),
        (SPIKE + 'by = "team"', 4, "alerts[0].by", "'user'"),
        (HEAD + 'rule = { metric = "budget" }\nby = "user"', 4, "alerts[0].by", "is not for budgets"),
        (HEAD + 'rule = { metric = "budget" }\nmatch = { agent = "a" }', 4, "alerts[0].match", "is not for budgets"),
        (HEAD + 'rule = { metric = "unknown_model" }\nby = "model"', 4, "alerts[0].by", "is not for unknown_model"),
        (SPIKE + 'timezone = "Mars"', 4, "alerts[0].timezone", "IANA"),
        (SPIKE + 'severity = "bad"', 4, "alerts[0].severity", "'critical'"),
        (SPIKE + 'quiet = { start = "25:00" }', 4, "alerts[0].quiet.start", 'a time of the day such as "22:00"'),
        (SPIKE + 'quiet = { days = ["monday"] }', 4, "alerts[0].quiet.days[0]", "'mon'"),
        (SPIKE + "cooldown = 6", 4, "alerts[0].cooldown", "expected a duration"),
        (SPIKE + "band = 1", 4, "alerts[0].band", "below 1"),
        (SPIKE + 'explained_by = ["b"]', 4, "alerts[0].explained_by[0]", "'b' is no other alert"),
        (SPIKE + 'explained_by = ["a"]', 4, "alerts[0].explained_by[0]", "'a' is no other alert"),
        (SPIKE + 'notify = ["mailto://x"]', 4, "alerts[0].notify[0]", "expected an http"),
        (SPIKE + 'notify = ["https://u:hush@h/x"]', 4, "alerts[0].notify[0]", "goes by notify_env"),
        (SPIKE + 'notify_env = ["slack://hush"]', 4, "alerts[0].notify_env[0]", "the name of an environment variable"),
        (SPIKE + SPIKE, 5, "alerts[1].name", "another alert has this name (alerts[0])"),
        ("[alerting]\ndefaults = 3", 2, "alerting.defaults", "boolean"),
        ("[alerting]\nnotfy = []", 2, "alerting.notfy", "did you mean notify?"),
    ],
)  # fmt: skip
def test_a_wrong_alert_is_told_where_it_stands(tmp_path: Path, text: str, line: int, key: str, told: str) -> None:
    """One fault for one mistake; no URL is repeated."""
    (fault,) = faults(tmp_path, text)
    assert (fault.line, fault.key) == (line, key)
    assert told in fault.message
    assert "hush" not in fault.message


# --- the usual alerts

USUAL = [rule.name for rule, _ in DEFAULTS]


def names(tmp_path: Path, text: str) -> list[str]:
    return [alert.rule.name for alert in policy_of(tmp_path, text).alerts]


def test_the_usual_alerts_hold_where_none_is_configured(tmp_path: Path) -> None:
    """Without targets; one's own alerts take their place, unless both are wanted; one of the same name is that one."""
    bare = tuple(Alert(rule=rule, terms=terms) for rule, terms in DEFAULTS)
    assert policy_of(tmp_path, "").alerts == bare
    assert names(tmp_path, "[alerting]\ndefaults = false") == []
    assert names(tmp_path, SPIKE) == ["a"]
    assert names(tmp_path, f"[alerting]\ndefaults = true\n{SPIKE}") == ["a", *USUAL]
    own = SPIKE.replace('"a"', '"budgets"') + 'explained_by = ["cost per run"]\n'
    assert sorted(names(tmp_path, f"[alerting]\ndefaults = true\n{own}")) == sorted(USUAL)


def test_who_is_told(tmp_path: Path) -> None:
    """Whom the alert names; else whom [alerting] names, for the usual ones as well."""
    text = f"""
    [alerting]
    defaults = true
    notify = ["https://h.example/all"]
    notify_env = ["ALL"]
    {SPIKE}
    [[alerts]]
    name = "b"
    rule = {{ metric = "unknown_model" }}
    notify_env = ["TWO"]
    """
    told = policy_of(tmp_path, text, {"ALL": "json://localhost/all", "TWO": " json://localhost/1  json://localhost/2 "})
    everybody = (("https://h.example/all",), ("json://localhost/all",))
    found = {alert.rule.name: (alert.webhooks, alert.services) for alert in told.alerts}
    assert found == {"a": everybody, "b": ((), ("json://localhost/1", "json://localhost/2"))} | dict.fromkeys(
        USUAL, everybody
    )


def test_services_that_cannot_be_had(tmp_path: Path) -> None:
    """A variable that is not set, and one that apprise does not know, at their lines and without their values."""
    text = f'[alerting]\nnotify_env = ["NONE"]\n{SPIKE}notify_env = ["GOOD", "BAD"]\n'
    found = outside(tmp_path, text, {"GOOD": "json://localhost", "BAD": "nonsense://hush"})
    assert [(f.line, f.key) for f in found] == [(2, "alerting.notify_env[0]"), (6, "alerts[0].notify_env[1]")]
    assert "NONE is not set" in found[0].message and "apprise does not know" in found[1].message
    assert not any("hush" in f.message for f in found)


def test_who_only_reads_needs_no_services(tmp_path: Path) -> None:
    """A report on a machine without the secrets is none the worse for it."""
    path = tmp_path / "bursar.toml"
    path.write_text(SPIKE + 'notify_env = ["NONE"]\n')
    (alert,) = make_policy(load(path, {})).alerts
    assert alert.services == ()


def test_alerting_by_the_environment(tmp_path: Path) -> None:
    """Key by key, as any other section."""
    environ = {"BURSAR_ALERTING__DEFAULTS": "true", "BURSAR_ALERTING__NOTIFY": '["https://h.example/x"]'}
    (own, *usual) = policy_of(tmp_path, SPIKE, environ).alerts
    assert own.webhooks == ("https://h.example/x",)
    assert len(usual) == len(DEFAULTS)
    (fault,) = faults(tmp_path, "", {"BURSAR_ALERTS": '[{"name": "a", "rule": {"metric": "x"}}]'})
    assert (fault.file, fault.key) == ("environment", "BURSAR_ALERTS")
    assert fault.message.startswith("alerts[0].rule.metric: expected one of")


# --- any alert

TIMES = st.integers(1, 10**12)
ROWS = st.integers(1, 10**6)
MS = st.integers(0, 10**9)
RULES: st.SearchStrategy[Rule] = st.one_of(
    st.builds(
        Spike, name=NAMES, window=st.sampled_from(["hour", "day"]), over=TIMES, of=st.just("usual"),
        noise=st.integers(0, 1000), least_nanos=NANOS, cold_nanos=st.none() | NANOS,
    ),
    st.builds(Spike, name=NAMES, over=TIMES, of=st.just("rolling_7d_mean")),
    st.builds(Cap, name=NAMES, limit_nanos=NANOS, window=st.sampled_from(["hour", "day"])),
    st.builds(Threshold, name=NAMES, at=st.sets(TIMES, min_size=1, max_size=3).map(lambda at: tuple(sorted(at)))),
    st.builds(Drift, name=NAMES, over=TIMES, least_runs=ROWS, least_nanos=NANOS),
    st.builds(Falling, name=NAMES, by=st.integers(1, 10**6), least_rows=ROWS),
    st.builds(
        Share, name=NAMES, of=st.sampled_from(["unpriced", "estimated", "failed", "escalated"]),
        over=st.integers(0, 10**6 - 1), least_rows=ROWS,
    ),
    st.builds(Stranger, name=NAMES, least_rows=ROWS),
    st.builds(Forecast, name=NAMES, limit_nanos=NANOS),
    st.builds(Wrong, name=NAMES),
)  # fmt: skip
QUIET = st.builds(
    Quiet, start=st.integers(0, 1439), end=st.integers(0, 1439),
    days=st.frozensets(st.integers(0, 6), min_size=1), zone=ZONES,
)  # fmt: skip
TERMS = st.builds(
    Terms, severity=st.sampled_from(["info", "warning", "critical"]), band=st.integers(0, 10**6 - 1), hold_ms=MS,
    calm_ms=MS, cooldown_ms=MS, worse=TIMES, update_ms=MS, remind_ms=st.none() | st.integers(1, 10**9),
    unknown_ms=st.integers(1, 10**9), quiet=st.none() | QUIET,
)  # fmt: skip
BY = ["user", "session", "agent", "step", "model", "tier", "provider"]
URLS = st.lists(st.sampled_from(["https://a.example/x", "http://127.0.0.1:1/"]), max_size=2).map(tuple)


@st.composite
def alerts(draw: st.DrawFn) -> Alert:
    rule = draw(RULES)
    budgets, models = isinstance(rule, Threshold), isinstance(rule, Stranger)
    return Alert(
        rule=rule, terms=draw(TERMS), zone=draw(ZONES), webhooks=draw(URLS),
        match=Alert(rule=rule).match if budgets else draw(MATCHES),
        by=None if budgets or models else draw(st.none() | st.sampled_from(BY)),
    )  # fmt: skip


def written_rule(rule: Rule) -> dict[str, Any]:
    match rule:
        case Spike():
            told: dict[str, Any] = {"noise": rule.noise} if rule.noise else {}
            told |= {} if rule.cold_nanos is None else {"cold_usd": dollars(rule.cold_nanos)}
            return told | {
                "metric": "spend", "window": rule.window, "over": shares(rule.over), "of": rule.of,
                "least_usd": dollars(rule.least_nanos),
            }  # fmt: skip
        case Cap():
            return {"metric": "spend", "window": rule.window, "over_usd": dollars(rule.limit_nanos)}
        case Threshold():
            return {"metric": "budget", "at": [shares(at) for at in rule.at]}
        case Drift():
            least = dollars(rule.least_nanos)
            return {
                "metric": "cost_per_run", "over": shares(rule.over), "least_runs": rule.least_runs, "least_usd": least
            }  # fmt: skip
        case Falling():
            return {"metric": "hit_rate", "falls_by": shares(rule.by), "least_rows": rule.least_rows}
        case Share():
            return {"metric": rule.of, "over": shares(rule.over), "least_rows": rule.least_rows}
        case Stranger():
            return {"metric": "unknown_model", "least_rows": rule.least_rows}
        case Forecast():
            return {"metric": "month_forecast", "over_usd": dollars(rule.limit_nanos)}
        case Wrong():
            return {"metric": "wrong_hits"}


def written_alert(alert: Alert) -> dict[str, Any]:
    terms, quiet = alert.terms, alert.terms.quiet
    told: dict[str, Any] = {
        "name": alert.rule.name, "rule": written_rule(alert.rule), "match": written(alert.match),
        "timezone": alert.zone, "notify": list(alert.webhooks), "severity": terms.severity, "band": shares(terms.band),
        "worse": shares(terms.worse), "hold": f"{terms.hold_ms}ms", "calm": f"{terms.calm_ms}ms",
        "cooldown": f"{terms.cooldown_ms}ms", "update": f"{terms.update_ms}ms", "unknown": f"{terms.unknown_ms}ms",
    }  # fmt: skip
    if quiet is not None:
        days = [("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day] for day in sorted(quiet.days)]
        start, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in (quiet.start, quiet.end))
        zone = {} if quiet.zone == alert.zone else {"timezone": quiet.zone}
        told["quiet"] = {"start": start, "end": end, "days": days, **zone}
    if alert.by is not None:
        told["by"] = alert.by
    if terms.remind_ms is not None:
        told["remind"] = f"{terms.remind_ms}ms"
    return told


@settings(deadline=None)
@given(alert=alerts())
def test_any_alert_is_what_its_section_says(alert: Alert, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written out and read back it is the same, from the file and from the environment."""
    path = tmp_path_factory.getbasetemp() / "alerts.toml"
    path.write_text(tables("alerts", [written_alert(alert)]), "utf-8")
    for told in (load(path, {}), load(Path(os.devnull), {"BURSAR_ALERTS": as_json([written_alert(alert)])})):
        (section,) = told.alerts
        assert section.policy(alert.webhooks, ()) == alert
        assert section.notify == alert.webhooks
