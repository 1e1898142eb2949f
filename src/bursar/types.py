"""The frozen data that crosses every boundary. `None` is unknown, never zero; token counts are integers;
amounts are nano-dollars; instants are microseconds since the Unix epoch, UTC; durations name their unit.
"""

from typing import Literal, NewType, TypeAlias

import msgspec

Instant = NewType("Instant", int)
"""Microseconds since the Unix epoch, UTC. Always an argument: nothing below the drivers reads a clock."""

Api: TypeAlias = Literal["chat", "responses", "embeddings", "messages", "gemini", "converse", "other"]
"""The wire format of a call. `converse` is priced but not served; `other` is a paid path passed through unread."""

Family: TypeAlias = Literal["openai", "anthropic", "gemini"]
"""Whose wire formats a provider speaks."""

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Header names in lower case, in order, duplicates kept."""

Bucket: TypeAlias = Literal[
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_30m",
    "cache_write_1h",
    "cache_write_12h",
    "output",
    "input_audio",
    "cache_read_audio",
    "output_audio",
    "input_image",
    "cache_read_image",
    "output_image",
    "input_video",
    "cache_read_video",
    "output_video",
]
"""Disjoint billed dimensions: a token is in exactly one of them. `output` includes reasoning."""

Fee: TypeAlias = Literal["web_search", "grounded_prompt", "file_search"]
"""What is billed by the piece, at list price and never multiplied by a tier or region."""

CostStatus: TypeAlias = Literal["final", "estimated", "unpriced"]
Status: TypeAlias = Literal["open", "completed", "failed", "abandoned", "expired", "refused", "hit"]
CacheState: TypeAlias = Literal["hit", "semantic_hit", "coalesced", "miss", "bypass"]
CacheWish: TypeAlias = Literal["on", "off", "refresh", "only"]
"""What a caller says of Bursar's caches; it can only narrow what the step's rule allows."""
Purpose: TypeAlias = Literal["call", "embed", "judge", "audit", "refresh"]

Scope: TypeAlias = Literal["run", "session", "user", "agent", "step", "tenant", "global"]
"""Whose spending a budget counts together."""
Window: TypeAlias = Literal["hour", "day", "week", "month", "lifetime"]
"""Calendar windows of the budget's time zone; weeks begin on Monday; a lifetime has no end."""
OnExhausted: TypeAlias = Literal["finish", "downgrade", "refuse"]
BudgetState: TypeAlias = Literal["ok", "wrap_up", "exhausted", "suspended"]

PPM = 1_000_000
"""Shares are whole millionths."""


class Part(msgspec.Struct, frozen=True):
    """What one model did inside a call: disjoint buckets of tokens, all at that model's rates."""

    buckets: dict[Bucket, int]
    model: str | None = None
    """The model whose rates apply; None: the model that the answer names."""
    billed: bool = True
    """False where the provider's own rules make the tokens free (a refusal before any output)."""


class Usage(msgspec.Struct, frozen=True):
    """A usage object, normalised. Totals are inclusive: input holds cached and written tokens, output reasoning."""

    parts: tuple[Part, ...]
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    fees: tuple[tuple[Fee, int], ...] = ()
    estimated: bool = False
    """True where a count had to be guessed (no usage reported, a search count inferred from items)."""


class Terms(msgspec.Struct, frozen=True):
    """The billing facts beside the tokens: what was served wins over what was asked; unknown words stay."""

    service_tier: str | None = None
    """standard | flex | priority | ultrafast | scale ... as normalised from the answer; None: standard."""
    batch: bool = False
    region: str | None = None
    """Inference geography or regional endpoint, e.g. "us"; None: global."""
    window: str | None = None
    """OpenAI background completion window, "2h" | "8h"; from the request, for no answer tells it."""
    fast: bool = False
    """Anthropic speed = fast."""


class Price(msgspec.Struct, frozen=True):
    """What a call costs. nanos is None exactly when status is "unpriced"; price_id names the card that said so."""

    nanos: int | None
    status: CostStatus
    price_id: str | None = None
    why: str | None = None
    """For unpriced: what was missing and the setting that cures it."""


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
    marks: Marks | None = None
    """For the provider's prompt cache; None: the step has not asked for any, and nothing is learned from it."""


class Reading(msgspec.Struct, frozen=True):
    """What a meter knows about an answer, whole or cut short."""

    usage: Usage | None = None
    """None: the provider has not said (yet)."""
    partial: Usage | None = None
    """What the provider had said before the stream was cut (Anthropic: input and cache, exact); usage is None then."""
    raw_usage: str | None = None
    """The provider's usage as JSON text, as it came (merged for Anthropic streams)."""
    model: str | None = None
    terms: Terms = Terms()
    response_id: str | None = None
    finish_reason: str | None = None
    output_units: int = 0
    """The estimator's count, in tokens, of the output that was seen."""
    terminal: bool = False
    """The dialect's own last event was seen."""
    error: str | None = None
    """An error event in the stream, as "type: message", shortened."""
    pending: bool = False
    """A background response that has not ended: its usage comes later."""
    malformed: int = 0
    """Events of the stream that could not be read; they were passed on."""


class Timing(msgspec.Struct, frozen=True):
    """When an attempt was sent, gave its first byte and ended; None: it never did."""

    sent: Instant
    first_byte: Instant | None
    ended: Instant


class Completed(msgspec.Struct, frozen=True):
    """A 2xx answer that came to its end. body is None where it was streamed through to the caller."""

    status: int
    headers: Headers
    body: bytes | None
    reading: Reading
    timing: Timing
    keepable: bytes | None = None
    """The whole answer, of a plan that keeps, where it may be kept."""


class Failed(msgspec.Struct, frozen=True):
    """An error status, a transport failure, or a stream that broke. status is None where no answer came."""

    status: int | None
    headers: Headers
    body: bytes | None
    error: str
    reading: Reading
    timing: Timing
    unsent: bool = False
    """The request never left (no connection): nothing can be owed for it."""
    relayed: bool = False
    """The caller has already had the first byte: no other attempt may follow."""
    retry_after_ms: int | None = None
    cause: BaseException | None = None
    """The transport's own exception, raised again unchanged where the door is a client's transport."""


class Abandoned(msgspec.Struct, frozen=True):
    """The caller went away: what had been read by then; drained is True where the rest was read in the background."""

    status: int | None
    headers: Headers
    reading: Reading
    timing: Timing
    drained: bool = False
    keepable: bytes | None = None
    """As of a completed one: read to its end though its caller had gone."""


Outcome: TypeAlias = Completed | Failed | Abandoned


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One counter that an attempt is to be charged to, with its budget's terms. The store finds the window."""

    budget: str
    scope: Scope
    key: str
    """Whose counter: the scope's id, "(none)" where it is missing, the key's own id where it is not trusted."""
    tenant: str
    """"" for the scope global: it counts all tenants together."""
    window: Window = "lifetime"
    zone: str = "UTC"
    limit_nanos: int | None = None
    limit_tokens: int | None = None
    finish_reserve: int = 0
    """Share of the limit that is open to final calls only, in millionths."""
    max_share: int = 100_000
    """A hold that takes more of what is available is made smaller by a lower output limit, in millionths."""
    wrap_up: int = 800_000
    """From this share of what is open to everybody on, the run should come to its end, in millionths."""
    patience_ms: int = 2_000
    on_exhausted: OnExhausted = "finish"
    learned_input: bool = False
    """Hold the input at its learned p99.9 and not at its ceiling (input_hold = "p99.9"): may overrun, never hidden."""
    least: bool = False
    """The lowest limit that was ever claimed with holds."""


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """What a row holds of one counter while it is open; kept on the row for good, so that counters can be audited."""

    budget: str
    scope: Scope
    key: str
    tenant: str
    start: int
    """The window's first instant, microseconds; 0 for a lifetime."""
    nanos: int
    tokens: int


class Balance(msgspec.Struct, frozen=True):
    """Where a counter stands: what closed rows were charged, and what open ones hold. Nano-dollars and tokens."""

    settled_nanos: int = 0
    settled_tokens: int = 0
    held_nanos: int = 0
    held_tokens: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt may take at most, as a function of its output limit, and of which counters.

    Costs are in millionths of a nano-dollar, so that one rounding up, at the end, is enough.
    """

    claims: tuple[Claim, ...] = ()
    input_tokens: int = 0
    """The ceiling."""
    input_cost: int | None = None
    """Of the ceiling, at the dearest rate that the request allows; None: no price is known and none is asked for."""
    likely_tokens: int = 0
    """The learned p99.9 of the input."""
    likely_cost: int | None = None
    output_rate: int | None = None
    """Nano-dollars per million tokens."""
    choices: int = 1
    stated: int | None = None
    """The output limit that holds where none is sent: the body's own, else the model's; None: not known."""
    wanted: int | None = None
    """The limit wanted: the caller's, the step's or the model's own; None: not known."""
    floor: int = 1
    """The smallest limit that makes sense to the provider."""
    clamp: bool = True
    """The limit may go below what this step usually needs: the last rung before the end."""
    final: bool = False
    max_nanos: int | None = None
    """What this attempt may cost at most by the caller's own word."""
    climb: tuple[str, ...] = ()
    """Trusted runs whose counters, and those of every run above them, are claimed too, on the terms they last had."""

    @property
    def free(self) -> bool:
        """No limit of any kind stands over it."""
        return not self.claims and self.max_nanos is None and not self.climb and self.wanted == self.stated


class Standing(msgspec.Struct, frozen=True):
    """The tightest budget of a call as the caller is told of it. Remaining: limit - settled - held."""

    budget: str
    scope: Scope
    state: BudgetState = "ok"
    remaining_nanos: int | None = None
    remaining_tokens: int | None = None
    wrap_nanos: int | None = None
    """What may still be spent before the run should come to its end; None: no such limit."""
    wrap_tokens: int | None = None


class Hold(msgspec.Struct, frozen=True):
    """The receipt of a Reserve: the row is durably open, every charge is held. Settle takes it back, once."""

    request_id: str
    attempt: int
    charges: tuple[Charge, ...] = ()
    nanos: int | None = None
    """What the attempt can cost at most, at the output limit granted; None: unknown, or nothing was claimed."""
    output_limit: int | None = None
    """The limit to send where it is not the one that the body states; None: leave the body as it is."""
    lowered: bool = False
    """The limit is below the one wanted: an answer that it cuts is nobody's fault."""
    from_reserve: bool = False
    """Granted out of the finish reserve."""
    learned_input: int | None = None
    """The input held by a claim that goes by the learned p99.9, in tokens; None: all hold the ceiling."""
    input_rate: int = 0
    """What a token of input is held at: millionths of a nano-dollar."""
    standing: Standing | None = None


RefusalKind: TypeAlias = Literal["policy", "exhausted", "held", "call", "miss"]
"""policy: may not be sent at all. exhausted: spent money stands in the way. held: only others' holds do. call: the
caller's own guard of this call. miss: only a cached answer was wanted, and there is none."""


class Refused(msgspec.Struct, frozen=True):
    """No hold: which budget stood in the way, by how much, and which setting cures it."""

    reason: str
    unroutable: bool = False
    """No configured provider can take the call, as it is written."""
    kind: RefusalKind = "policy"
    budget: str | None = None
    on_exhausted: OnExhausted = "refuse"
    retry_after_ms: int | None = None
    """Until the window resets, or until others' holds may have settled; None: not known, or never."""
    patience_ms: int = 0
    """held: how long a store may wait for others' holds before this is its answer."""
    standing: Standing | None = None
    facts: tuple[tuple[str, str], ...] = ()
    """budget, scope, limit, spent, resets as text: what a finish_text may name."""
    answer: str | None = None
    """The text of a graceful partial answer, to be given in the caller's dialect in place of an error."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger (`calls`): one physical attempt, hit or refusal. Column names are the contract's."""

    request_id: str
    attempt: int
    """Counted from 1 over all plans of the request."""
    run_id: str | None
    parent_run_id: str | None
    session_id: str | None
    user_id: str | None
    user_tier: str | None
    agent_id: str | None
    step: str | None
    tenant: str
    tags: tuple[tuple[str, str], ...]
    key_id: str | None
    started_at: Instant
    duration_ms: int | None = None
    first_byte_ms: int | None = None
    api: Api
    provider: str
    requested_model: str | None
    model: str | None
    """The served model once the answer has named it, else the one sent."""
    tier: str | None
    route_reason: str
    stream: bool
    status: Status = "open"
    http_status: int | None = None
    error: str | None = None
    cache: CacheState = "bypass"
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage: str | None = None
    """As the provider sent it, JSON text."""
    service_tier: str | None = None
    terms: Terms = Terms()
    """The billing facts used, so that the cost can be computed again."""
    cost_nanos: int | None = None
    cost_status: CostStatus = "unpriced"
    saved_nanos: int | None = None
    price_id: str | None = None
    hold_nanos: int | None = None
    """What the attempt may cost at most; what it is booked at if its process dies."""
    output_limit: int | None = None
    """The output limit that Bursar sent in place of the caller's, per choice."""
    charges: tuple[Charge, ...] = ()
    """What the row holds of each budget's counter."""
    input_estimate: int | None = None
    """Bursar's own count of the request's tokens, before any learned ratio; what the ratios are learned from."""
    output_estimate: int | None = None
    """Bursar's own count of the output that was seen, before any learned ratio."""
    purpose: Purpose = "call"
    sdk_retry: int = 0
    validated: bool | None = None
    response_id: str | None = None
    blocks: bytes = b""
    """Keyed digests of the request's content, one a block in prompt order (see rules/digest.py)."""
    request: bytes | None = None
    """The caller's body and the answer's: only with capture = true."""
    response: bytes | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was kept to be given again, in its normal form: the whole body, never a stream."""

    body: bytes
    request_id: str
    """Of the call that paid for it."""
    provider: str
    model: str | None
    tier: str | None
    step: str | None
    tenant: str
    tags: tuple[tuple[str, str], ...] = ()
    cost_nanos: int | None
    """What it cost, and so what a hit saves; None: unknown."""
    usage: str | None = None
    price_id: str | None = None
    stored_at: Instant
    fresh_until: Instant
    tools: bool = False
    """It may call tools: each time that it is given its calls get ids of their own."""
    content_type: str = "application/json"
    """Of the body as it is given: a stream's where the caller asked for one."""
    gone_at: Instant
    """Absolute: between fresh_until and this it may still be served while one call refreshes it."""


Joined: TypeAlias = Kept | Literal["leads", "alone"]
"""The answer of an identical call that was under way; or: you lead, others may wait for you; or: nobody does."""


class Ratios(msgspec.Struct, frozen=True):
    """Reported tokens per estimated token, learned per provider and model; 1.0 where nothing is known yet."""

    input: float = 1.0
    output: float = 1.0
    input_high: float | None = None
    """The p99.9 of single calls; None: too few were seen."""


class Verdict(msgspec.Struct, frozen=True):
    """The end of a call's life: the last outcome, its row, and how many attempts were made."""

    outcome: Outcome | Refused
    entry: Entry | None
    attempts: int
    spent_nanos: int = 0
    """What the attempts are known, or held, to have cost."""
    standing: Standing | None = None
    """The tightest budget as the last hold, or the refusal, found it."""
    lowered: bool = False
    """A budget made the output limit smaller than the one wanted: nobody else is given this answer."""
