"""Every question that the engine may ask of the world. An effect is awaited; a driver answers it.

Awaiting suspends the life of a call to its driver and resumes with the answer; mypy infers the answer's type.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from bursar.policy import Check, JudgePrompt, Router
from bursar.rules.prompt.marking import Ground
from bursar.rules.route.course import Course
from bursar.rules.route.known import Known, Lesson, Site
from bursar.rules.semantic.choose import Around, Told
from bursar.rules.semantic.question import Question
from bursar.types import (
    Admitted,
    Answer,
    Api,
    Ask,
    Call,
    Entry,
    Hold,
    Instant,
    Joined,
    Judgement,
    Kept,
    Outcome,
    Plan,
    Ratios,
    Refused,
    Verdict,
)

T = TypeVar("T")


class Effect(Generic[T]):
    """One question to the world, answered with a T."""

    __slots__ = ()

    def __await__(self) -> "Generator[Effect[Any], Any, T]":
        return cast(T, (yield self))


@dataclass(frozen=True, slots=True)
class Now(Effect[Instant]):
    """What time is it?"""


@dataclass(frozen=True, slots=True)
class Admit(Effect[Admitted | Refused]):
    """Does a breaker stand in the way? Whoever is let through as a probe is so for good."""

    call: Call


@dataclass(frozen=True, slots=True)
class Lore(Effect[Known]):
    """What is known that a tier is chosen by? What cannot be found out is not known."""

    call: Call
    course: Course
    site: Site
    router: Router | None = None
    """The user's own: asked where the tier is learned."""


@dataclass(frozen=True, slots=True)
class Crossing(Effect[str | None]):
    """Why the call cannot be put in the plan's wire format; None: it can."""

    call: Call
    plan: Plan


@dataclass(frozen=True, slots=True)
class Validate(Effect[Judgement]):
    """Run the checks that are functions on an answer. One that breaks does not know."""

    call: Call
    answer: Answer
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Draft(Effect[Call]):
    """The call of a judge about an answer, in the format of the judge's own provider."""

    call: Call
    plan: Plan
    """Who judges."""
    api: Api
    judge: JudgePrompt
    answer: Answer
    name: str
    """What its request id ends with: no two side calls have one id."""


@dataclass(frozen=True, slots=True)
class Observe(Effect[None]):
    """A judged attempt: marked on its row and learned from, behind the call."""

    lesson: Lesson


@dataclass(frozen=True, slots=True)
class Audit(Effect[None]):
    """The end of a call that an audit may follow, by its own draw and share: behind the call."""

    call: Call
    course: Course
    known: Known
    site: Site
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Pause(Effect[None]):
    """Wait before the next attempt. Milliseconds."""

    ms: int


@dataclass(frozen=True, slots=True)
class Reserve(Effect[Hold | Refused]):
    """Open the ledger row, durably, and hold every claim, or none: answered before any byte leaves."""

    entry: Entry
    ask: Ask = Ask()


@dataclass(frozen=True, slots=True)
class Send(Effect[Outcome]):
    """Send the call by this plan. A streamed answer parks the life here while its bytes pass to the caller."""

    plan: Plan
    entry: Entry
    """The row that this attempt has open."""
    hold: Hold
    call: Call
    """The life's own call, or a side call of it."""


@dataclass(frozen=True, slots=True)
class Settle(Effect[None]):
    """Close the row and every counter in one transaction. Once for each Hold."""

    hold: Hold
    entry: Entry
    plan: Plan | None = None
    """As it was sent: what its marks came to is learned."""


@dataclass(frozen=True, slots=True)
class Habit(Effect[Ground]):
    """How do the prompts of this row's step come back, and where could the body bear a marker?"""

    call: Call
    entry: Entry


@dataclass(frozen=True, slots=True)
class Recall(Effect[Kept | None]):
    """Is an answer kept under this key? In the shape that the call asks for, streamed or whole."""

    key: bytes
    call: Call


@dataclass(frozen=True, slots=True)
class Nearby(Effect[Around | None]):
    """Which questions of before are near this one? None: it cannot be found out, and so is a miss."""

    question: Question
    vector: Sequence[float] | None = None
    """The question's, where a provider has made it; None: the world embeds it."""


@dataclass(frozen=True, slots=True)
class Learn(Effect[None]):
    """What came of a call that asked for what is near: learned from behind the call."""

    told: Told


@dataclass(frozen=True, slots=True)
class Join(Effect[Joined]):
    """Is an identical call under way? Waits for its answer; "leads": go first, others may wait for you."""

    key: bytes
    call: Call
    waits: bool = True
    """False: who does not lead goes on "alone" at once."""


@dataclass(frozen=True, slots=True)
class Keep(Effect[None]):
    """The end of a call that may lead: keep its answer and give it to those who wait, or let them go on."""

    key: bytes
    request_id: str
    kept: Kept | None
    again: bool = False
    """No answer, but another call may fare better: one of those who wait is sent in its place."""


@dataclass(frozen=True, slots=True)
class Learned(Effect[Ratios]):
    """Reported tokens per estimated one, learned for this provider and model."""

    provider: str
    model: str
