"""Alerts and breakers: what is open and of the period what is over, the rows behind each, and who was told.

Incidents come from the store's shared states and their log, the last first. A cursor that is not ours is ValueError.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from bursar.doors.dashboard.asked import Asked
from bursar.doors.dashboard.pages import breakers, parts
from bursar.doors.dashboard.view import Cell, Part, Steps, Table, Tile, View, rows_of
from bursar.insights import incidents
from bursar.insights.breakers import Seen
from bursar.money import parse_usd
from bursar.policy import Alert, Policy
from bursar.policy.alerts import Cap, Forecast, Share, Spike, Stranger, Threshold, Wrong
from bursar.rules import window
from bursar.stores.base import Store
from bursar.stores.counters import BUCKET_US
from bursar.types import Instant

_DAY_US = 86_400_000_000
_LOOKS = {"critical": "bad", "warning": "warn", "failed": "bad", "delivered": "good"}


def build(store: Store, policy: Policy, asked: Asked) -> View:
    """What is open, whenever it opened; of the period what is over. `past=`, `breakers=`, `sent=`: older ones."""
    running, shut = incidents.running(store), breakers.suspended(store, asked)
    shown: list[Part] = [open_table(policy, asked, running), breakers.shut_table(asked, shut)]
    if (steps := _next_steps(policy)) is not None and not running and not shut:
        shown.append(steps)
    shown += [_past(store, policy, asked), breakers.closed_table(store, asked), _deliveries(store, asked)]
    return View(title="Alerts and breakers", tiles=_tiles(policy, running, shut), parts=tuple(shown), live=True)


def _tiles(policy: Policy, running: list[dict[str, Any]], shut: list[Seen]) -> tuple[Tile, ...]:
    critical = sum(one["severity"] == "critical" for one in running)
    probing = sum(seen.document.state.status == "half_open" for seen in shut)
    told = sum(bool(alert.webhooks or alert.services) for alert in policy.alerts)
    return (
        Tile("Open alerts", f"{len(running):,}", f"{critical:,} critical" if running else "nothing is too much",
             look="bad" if running else ""),
        Tile("Suspended", f"{len(shut) - probing:,}", f"{probing:,} on probation" if probing else "by breakers",
             look="bad" if len(shut) > probing else ""),
        Tile("Alerts watched", f"{len(policy.alerts):,}", f"{told:,} of them tell somebody"),
        Tile("Breakers", f"{len(policy.breakers):,}", "configured"),
    )  # fmt: skip


def _next_steps(policy: Policy) -> Steps | None:
    """What is not set up yet."""
    steps: list[tuple[str, str]] = []
    if not any(alert.webhooks or alert.services for alert in policy.alerts):
        steps += [
            ("Be told where you are: a signed webhook, or Slack, mail and others, in bursar.toml:",
             '[alerting]\nnotify = ["https://hooks.example.com/bursar"]'),
            ("See that it arrives:", "bursar alerts test"),
        ]  # fmt: skip
    if not policy.breakers:
        steps.append((
            "Have what runs away stopped by itself, in bursar.toml:",
            '[[breakers]]\nname = "session ceiling"\nscope = "session"\nrule = { metric = "spend", over_usd = 5 }',
        ))  # fmt: skip
    return Steps("What to set up next", tuple(steps)) if steps else None


def open_table(policy: Policy, asked: Asked, running: Iterable[dict[str, Any]]) -> Table:
    """Incidents that are open, the last opened first."""
    return Table(
        title="Open alerts",
        columns=("Alert", "Of", "#Now", "#Limit", "Severity", "Since, UTC", "Why"),
        rows=rows_of(_row(policy, asked, one) for one in running),
        empty="No alert is open.",
    )


def _past(store: Store, policy: Policy, asked: Asked) -> Table:
    past, older = parts.newest(asked, "past", lambda at: incidents.past(store, parts.MOST, at), _ended)
    return Table(
        title="Alerts that are over",
        columns=("Alert", "Of", "#Peak", "#Limit", "Severity", "Began, UTC", "Over, UTC", "Why"),
        rows=rows_of(_row(policy, asked, one) for one in past),
        empty="None has ended in this period.",
        more=older,
    )


def _row(policy: Policy, asked: Asked, one: Mapping[str, Any]) -> list[Cell]:
    """Of one that is over: when, and the worst that it was."""
    href, over = _behind(policy, asked, one), one["resolved_at"] is not None
    return [
        Cell(parts.plain(one["alert"])),
        Cell(parts.plain(one["subject"]) if one["subject"] else "all", href),
        Cell(_measure(one, "peak" if over else "value"), href),
        Cell(_measure(one, "limit")),
        Cell(one["severity"], look=_LOOKS.get(one["severity"], "")),
        Cell(parts.minute(_instant(one["since"]))),
        *([Cell(parts.minute(_ended(one)))] if over else []),
        Cell(parts.plain(one["why"]), look="wrap"),
    ]


def _measure(one: Mapping[str, Any], name: str) -> str:
    value = one[name]
    if value is None:
        return "" if name == "limit" else "unknown"
    match one["unit"]:
        case "usd":
            return parts.dollars(parse_usd(value))
        case "share":
            return f"{float(value):.1%}".replace(".0%", "%")
    return f"{value:,}"


def _deliveries(store: Store, asked: Asked) -> Table:
    sent, older = parts.newest(asked, "sent", lambda at: incidents.deliveries(store, parts.MOST, at), _sent)
    return Table(
        title="Messages sent",
        columns=("Target", "Status", "At, UTC", "#Messages", "#Attempts", "Error"),
        rows=rows_of(
            (
                Cell(parts.plain(one["target"])), Cell(one["status"], look=_LOOKS.get(one["status"], "")),
                Cell(parts.minute(_sent(one))), Cell(f"{len(one['messages']):,}"), Cell(f"{one['attempts']:,}"),
                Cell(parts.plain(one["error"]) if one["error"] else "", look="wrap"),
            )
            for one in sent
        ),
        empty="Nobody was told anything in this period.",
        more=older,
    )  # fmt: skip


def _ended(one: Mapping[str, Any]) -> Instant:
    return _instant(one["resolved_at"])


def _sent(one: Mapping[str, Any]) -> Instant:
    return _instant(one["at"])


def _instant(text: str) -> Instant:
    """ISO 8601 as the insights write it."""
    at = datetime.fromisoformat(text)
    return Instant(int(at.timestamp()) * 1_000_000 + at.microsecond)


# --- the rows behind an incident


def _behind(policy: Policy, asked: Asked, one: Mapping[str, Any]) -> str | None:
    """The rows that an incident is about; of a budget its counters, of the caches their page. None: the alert is not
    configured any more, and whose rows it watched is not known."""
    alert = next((found for found in policy.alerts if found.rule.name == one["alert"]), None)
    if alert is None:
        return None
    subject = str(one["subject"] or "")
    if isinstance(alert.rule, Threshold):
        return asked.link("budgets", name=subject)
    if isinstance(alert.rule, Wrong):
        return asked.link("caches")
    until = None if one["resolved_at"] is None else parts.stamp(_ended(one) + BUCKET_US)
    since = parts.stamp(_from(alert, _instant(one["since"])))
    return asked.link("calls", **_labels(alert, subject), since=since, until=until)


def _labels(alert: Alert, subject: str) -> dict[str, str]:
    if isinstance(alert.rule, Stranger):
        provider, _, model = subject.partition("/")
        return {"provider": provider, "model": model}
    told = {name: getattr(alert.match, name) for name in ("agent", "step")}
    labels = {name: key for name, key in told.items() if key is not None and not set("*?[") & set(key)}
    if isinstance(alert.rule, Share) and alert.rule.of == "failed":
        labels["status"] = "failed"
    if alert.by is not None and subject:
        labels[alert.by] = subject
    return labels


def _from(alert: Alert, since: Instant) -> Instant:
    """When the window began in which it was seen; for what looks back over a day, a day before."""
    match alert.rule:
        case Spike() | Cap():
            return window.bounds(alert.rule.window, alert.zone, since)[0]
        case Forecast():
            return window.bounds("month", alert.zone, since)[0]
    return Instant(since - _DAY_US)
