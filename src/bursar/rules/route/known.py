"""What is known when a tier is chosen, gathered by whoever can ask for it; and what is learned of the outcome."""

from collections.abc import Mapping

import msgspec

from bursar.policy.steps import Feature, Modality
from bursar.rules.chain.audit import Audits
from bursar.rules.chain.decide import Decision
from bursar.rules.chain.state import Step
from bursar.types import Entry, Instant, Judgement


class Site(msgspec.Struct, frozen=True):
    """What is learned together: one step of one agent of one tenant, as far as the key may name them."""

    tenant: str
    agent: str
    step: str

    @property
    def key(self) -> str:
        """Unambiguous: the step comes last."""
        return f"{len(self.agent)}:{self.agent}/{self.step}"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of a model beside its text, read from its body."""

    inputs: frozenset[Modality] = frozenset({"text"})
    features: frozenset[Feature] = frozenset()
    fields: int | None = None
    """Scalar fields of the output schema; None: it has none."""
    nested: bool = False
    """The output schema holds objects or arrays."""
    pinned: str | None = None
    """Why the conversation cannot go on at another model: signatures, thinking blocks, state at the server."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Who answered last in the same run (or session) and step: its prompt cache may be warm."""

    provider: str
    model: str
    tier: str | None
    prefix_tokens: int = 0
    """Input that it read from its cache, or wrote to it."""
    at: Instant


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """All that a decision stands on, beside the call and the policy."""

    asked: Asked = Asked()
    estimate: int = 0
    """Our own count of the input, in tokens."""
    highs: Mapping[str, float] = {}
    """By "provider/model": the learned p99.9 of reported tokens over estimated ones, where enough is known."""
    step: Step = Step()
    pool: Step = Step()
    """The counts of all steps of the tenant together."""
    audits: Mapping[str, Audits] = {}
    """By tier."""
    last: Served | None = None
    broken: frozenset[tuple[str, str]] = frozenset()
    """(provider, model) that have not answered lately."""
    routed: str | None = None
    """The tier that the user's own router names."""


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """What one judged attempt showed: for its row and, where it says something of the tier, for the step."""

    site: Site
    entry: Entry
    judgement: Judgement
    decision: Decision | None
    """None: it teaches nothing of the tier (cut by a limit of ours, served by another one)."""
