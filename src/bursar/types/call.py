"""A request as a door hands it in, who it is booked to, and one way to serve it."""

from typing import Literal, TypeAlias

import msgspec

from bursar.types.budget import Claim
from bursar.types.words import Api, CacheWish, Headers, Instant, OnExhausted, Purpose, Terms


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that the code around a run gives it, beside the configured budgets. Nano-dollars and tokens."""

    limit_nanos: int | None = None
    limit_tokens: int | None = None
    finish_reserve: int = 0
    """Share kept for the run's final answer, in millionths."""
    on_exhausted: OnExhausted = "finish"
    least: bool = False
    """Said anew with every call (a header): the lowest that was ever said holds, so that no call can raise it."""


class Kin(msgspec.Struct, frozen=True):
    """A run in a call's line: its own first, then its parent's, up to the root. Each one's budgets cap the call."""

    run_id: str
    agent_id: str | None = None
    user_tier: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    cap: Cap | None = None


class Tags(msgspec.Struct, frozen=True):
    """Who a call is booked to. None is "not said"; `tenant` alone always has a value."""

    tenant: str = "default"
    run_id: str | None = None
    parent_run_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    user_tier: str | None = None
    agent_id: str | None = None
    step: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    key_id: str | None = None
    """The Bursar key that the call came in on; None for the library and the key-less loopback gateway."""
    trusted: frozenset[str] | None = None
    """Claims that the key may make (user, session, run, agent, step, user_tier, tags); None: all are trusted."""
    line: tuple[Kin, ...] = ()
    """The runs around the call where the door knows them, innermost first (the library does; a gateway knows one)."""
    final: bool = False
    """The run's final answer: open to the finish reserve."""


BlockKind: TypeAlias = Literal["tools", "system", "message", "format", "params"]


class Block(msgspec.Struct, frozen=True):
    """One block of a request's content, in prompt order, as the caller's own JSON bytes."""

    kind: BlockKind
    raw: bytes


class View(msgspec.Struct, frozen=True):
    """What Bursar read in a request body without changing it; a body that cannot be read gives a View of Nones."""

    model: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    """The output limit that the caller set, per choice."""
    choices: int = 1
    wants_usage: bool = False
    """Chat only: the caller asked for the usage chunk himself (stream_options.include_usage)."""
    terms: Terms = Terms()
    """Billing facts of the request; the answer's own override them."""
    blocks: tuple[Block, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    """Who the body says it is for, in order of precedence: ("user", ...), ("metadata.user_id", ...)."""
    background: bool = False
    opaque_input: bool = False
    """True where the body does not carry the whole input: server-side state, files, URLs, media, server tools."""
    readable: bool = True
    cache_ttl: str | None = None
    """What the request's cache writes are kept for, "30m" | "12h" | "5m" | "1h"; None: not said, or several."""
    output_floor: int = 1
    """The smallest output limit that the provider would take: Anthropic's thinking budget + 1, Responses' 16."""
    prose: bool = True
    """A plain text would be a valid answer: no structured output, no forced tool, not embeddings."""


class Call(msgspec.Struct, frozen=True):
    """One request as a door hands it in. `body` is the caller's bytes, never rebuilt."""

    request_id: str
    api: Api
    view: View
    body: bytes
    headers: Headers
    """What goes to the provider from the caller, attribution and hop-by-hop headers already taken off."""
    path: str
    """Path and query below the provider's base URL, with a leading slash: "/chat/completions"."""
    tags: Tags
    received: Instant
    tier: str | None = None
    """The tier that the caller asked for beside the body's model (x-bursar-tier); it wins."""
    provider: str | None = None
    """Set where the door's transport fixes the upstream (the library: the client's own base URL)."""
    reach: frozenset[str] | None = None
    """Providers that such a door can reach beside that one."""
    home: str | None = None
    """Else: whom the request names by itself, so that its headers' credentials are that provider's; None: nobody, it
    names a tier."""
    sdk_retry: int = 0
    attempts: int = 1
    """How often the engine may try one plan, the first time included; 1: retries are the caller's."""
    max_cost_nanos: int | None = None
    """What all attempts of this call may cost together at most (x-bursar-max-cost-usd)."""
    cache: CacheWish | None = None
    no_store: bool = False
    """The answer must not be kept (Cache-Control: no-store)."""
    origin: str | None = None
    """Scheme and host that the door's transport fixes beside the provider (the library: the client's own)."""
    rule: int | None = None
    """Which of the policy's step rules is its own, found once for its life: -1 none; None: not looked for yet."""
    ceilings: tuple[Claim, ...] = ()
    """What the breakers over it claim of every attempt, as the budgets do."""
    purpose: Purpose = "call"
    """Another one: a paid side call of Bursar's own, read whole and never relayed."""


Ttl: TypeAlias = Literal["5m", "30m", "1h"]


class Mark(msgspec.Struct, frozen=True):
    """A marker for the provider's prompt cache at the end of that block of View.blocks, kept for so long."""

    block: int
    ttl: Ttl


class Marks(msgspec.Struct, frozen=True):
    """The hints to a provider's prompt cache that are added to one request; false where there is nothing to add."""

    marks: tuple[Mark, ...] = ()
    explicit: bool = False
    """OpenAI from 5.6: no implicit marker at the end of the prompt. Without marks nothing is cached."""
    key: str | None = None
    """prompt_cache_key."""
    covered: int = 0
    """Estimated tokens up to the last marker, an implicit one included: what the cache should read or write."""

    def __bool__(self) -> bool:
        return bool(self.marks or self.explicit or self.key)


class Plan(msgspec.Struct, frozen=True):
    """One way to serve a call: which provider and model, and the edits of the body that this needs."""

    provider: str
    """A provider's name in the policy, or for the library the name derived from the client's own base URL."""
    model: str | None
    """The model sent; None where the body could not be read."""
    requested_model: str | None = None
    tier: str | None = None
    reason: str = "caller"
    add_usage: bool = False
    """Chat streams only: ask the provider for the usage chunk and hide it from the caller."""
    output_limit: int | None = None
    """The output limit to send, per choice; None: as the body says."""
    tools_off: bool = False
    """Forbid tool use and leave the tools where they are: a final answer from the finish reserve."""
    note: str | None = None
    """A short system note for the end of the prompt (tell_model)."""
    looked: bool = False
    """A kept answer was looked for and not found."""
    keep: bytes | None = None
    """The key under which the answer may be kept: it is gathered while it passes."""
    keep_tools: bool = False
    """An answer that calls tools may be kept too."""
    api: Api | None = None
    """The wire format that the provider speaks, where the call has to be translated; None: the call's own."""
    max_output: int | None = None
    """Output tokens that the model can give, for a translation; None: not known."""
    judged: bool = False
    """The answer is read whole, streamed or not, and judged before the caller is given a byte of it."""
    hint: str | None = None
    """What was wrong with an earlier answer to the same request: told to the model at the end of the prompt."""
    logprobs: bool = False
    """Chat only: ask how likely the two likeliest candidates of every token were."""
    decision: str | None = None
    """How the tier was chosen, JSON of a Decision: kept on the row."""
    marks: Marks | None = None
    """For the provider's prompt cache; None: the step has not asked for any, and nothing is learned from it."""
