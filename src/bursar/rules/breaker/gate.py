"""Which breakers stand over a call, and whether they let it go. Pure.

Trust is as with budgets: an id that the key may not state is replaced by the key's own. A run's breakers stand over the
runs inside it too, as far as they are known: the library knows all of them, a gateway the parent that a call names.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bursar.policy.breakers import Breaker
from bursar.rules import budget
from bursar.rules.breaker import life, telling
from bursar.rules.breaker.life import CLOSED, State
from bursar.types import Admitted, Claim, Entry, Instant, Kin, Purpose, Refused, Tags

_DERIVED = "auto:"
"""How a step is named that nobody has named (rules/digest.py): to a rule it is no step."""
_WIDE = frozenset(("tenant", "global"))


class Gate(msgspec.Struct, frozen=True):
    """One breaker as it stands over one session, user, agent ..."""

    rule: Breaker
    subject: str
    """Whose it is: the scope's id, as a budget would count it."""
    tenant: str
    """"" for the scope global."""
    id: str
    """Of the state that all processes share."""

    def claim(self, state: State, now: Instant) -> Claim | None:
        """What its ceiling claims of every call, if it has one."""
        return life.claim(state, self.rule, self.subject, self.tenant, now)


def gates(tags: Tags, step: str | None, breakers: Sequence[Breaker], purpose: Purpose = "call") -> tuple[Gate, ...]:
    """Every breaker over a call with these tags, in the order of the rules.

    What Bursar asks in the background for its own ends is nobody's run, session or user (rules/budget.py, claims).
    """
    named = None if step is not None and step.startswith(_DERIVED) else step
    wide = purpose in ("audit", "refresh")
    found: dict[str, Gate] = {}
    for rule in breakers:
        if wide and rule.scope not in _WIDE:
            continue
        for theirs, own in _line(tags, named) if rule.scope == "run" else ((tags, named),):
            if budget.matches(rule.match, theirs, own):
                tenant = "" if rule.scope == "global" else tags.tenant
                subject = budget.subject(rule.scope, theirs, own)
                place = identity(rule, subject, tenant)
                found.setdefault(place, Gate(rule, subject, tenant, place))
    return tuple(found.values())


def identity(rule: Breaker, subject: str, tenant: str) -> str:
    """The name of a breaker's state, 24 hexadecimal digits: no label of a caller's can be taken for another's."""
    told = msgspec.json.encode((rule.name, rule.scope, subject, tenant))
    return hashlib.blake2b(told, digest_size=12).hexdigest()


def _line(tags: Tags, step: str | None) -> Iterator[tuple[Tags, str | None]]:
    """The call's run and those around it, each with the labels of its own."""
    yield tags, step
    line = tags.line[1:]
    if tags.parent_run_id is not None and all(kin.run_id != tags.parent_run_id for kin in line):
        line = (Kin(tags.parent_run_id), *line)
    for kin in line:
        yield budget.labelled(tags, kin), None


def tags_of(entry: Entry, trusted: frozenset[str] | None, line: tuple[Kin, ...]) -> Tags:
    """The tags that a row's call came with. trusted, line: what its row does not tell."""
    return Tags(
        tenant=entry.tenant, run_id=entry.run_id, parent_run_id=entry.parent_run_id, session_id=entry.session_id,
        user_id=entry.user_id, user_tier=entry.user_tier, agent_id=entry.agent_id, step=entry.step, tags=entry.tags,
        key_id=entry.key_id, trusted=trusted, line=line,
    )  # fmt: skip


def asked(
    over: Sequence[Gate], states: Mapping[str, State], now: Instant, request_id: str
) -> Refused | tuple[Gate, ...]:
    """The refusal of the gate that stays shut for longest; else those that this call is to be the probe of."""
    probes, shut = [], list[Refused]()
    for gate in over:
        state = states.get(gate.id, CLOSED)
        found = life.admits(state, now, gate.rule, request_id)
        if found.kind == "refuse":
            shut.append(telling.suspended(state, gate.rule, gate.subject, found.retry_after_ms))
        elif found.kind == "probe":
            probes.append(gate)
    if shut:
        return max(shut, key=lambda one: (one.retry_after_ms is None, one.retry_after_ms or 0))
    return tuple(probes)


def admitted(over: Sequence[Gate], states: Mapping[str, State], now: Instant) -> Admitted:
    """What the ceilings claim of a call that may go."""
    claims = (gate.claim(states.get(gate.id, CLOSED), now) for gate in over)
    return Admitted(tuple(claim for claim in claims if claim is not None))
