"""An answer as a validator sees it, and what the validator says of it."""

import msgspec


class ToolCall(msgspec.Struct, frozen=True):
    """A function that the model asks for: its name and its arguments as JSON text."""

    name: str
    arguments: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a validator sees of an answer, whatever wire format it came in."""

    text: str = ""
    finish_reason: str | None = None
    """As the provider said it, in lower case."""
    refusal: str | None = None
    """The model's refusal, where the format has a place of its own for it."""
    tool_calls: tuple[ToolCall, ...] = ()
    likeliest: tuple[float, float | None] | None = None
    """Log-probabilities of the first token's two likeliest candidates; None: the answer tells none."""
    request: str = ""
    """The text of the request's last message, where a validator is to see it."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a validator said of one answer. ok None: it does not know."""

    ok: bool | None
    score: float | None = None
    """0 to 1, where there is one."""
    reason: str = ""
    repairable: bool = False
    """The same model may mend it if it is told what was wrong."""
    retry_hint: str | None = None
    """What to tell it."""
    cost_nanos: int | None = 0
    """What judging cost; None: unknown."""
