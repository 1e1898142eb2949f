"""The account that answers: which model, which answer, what of the prompt is cached; decided before the first byte.

What the provider would refuse is raised as Bad. Nothing is sent from here.
"""

import msgspec

from bursar.sandbox import embeddings, responses
from bursar.sandbox.answers import Bank, compose
from bursar.sandbox.asks import Ask, Bad, Block, Dialect, Json, Prompted, Reply
from bursar.sandbox.cache import Found, PromptCache
from bursar.sandbox.faults import Fault
from bursar.sandbox.heads import FAMILY
from bursar.sandbox.models import Model, known, stand_in
from bursar.sandbox.recorded import Cell, Row, load
from bursar.sandbox.schema import draw
from bursar.sandbox.settings import Settings
from bursar.sandbox.speech import SPEECH, guarded

MAX_STORED = 10_000
FAULT_WORDS = {
    429: "Rate limit reached for requests. Please try again later.",
    500: "The server had an error while processing your request.",
    503: "The service is overloaded. Please try again later.",
    529: "Overloaded",
}


class Served(msgspec.Struct):
    """One generating request, decided and ready to be sent."""

    dialect: Dialect
    request_id: str
    reply: Reply
    found: Found
    fault: Fault
    cell: Cell | None
    query: str


class Provider:
    """Models, answers, prompt cache and stored responses of one account."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.cache = PromptCache(settings.clock)
        self._bank = Bank(settings.tasks)
        self._recorded = load(settings.recorded) if settings.recorded else None
        self._turns: dict[str, list[Block]] = {}
        self._stored: dict[str, tuple[Reply, float]] = {}
        self._cancelled: set[str] = set()
        self._number = 0

    def reset(self) -> None:
        """Forgets caches and stored responses."""
        self.cache.clear()
        self._turns.clear()
        self._stored.clear()
        self._cancelled.clear()

    @property
    def recorded_models(self) -> list[str]:
        return sorted(self._recorded.models) if self._recorded else []

    def new_id(self, prefix: str) -> str:
        """A fresh id, the same in every sandbox with the same seed and history."""
        self._number += 1
        return f"{prefix}{draw(self._settings.seed, prefix, self._number):016x}{self._number:08x}"

    def serve(self, dialect: Dialect, asked: Json, scope: str, fault: Fault, request_id: str, query: str) -> Served:
        """Everything that is decided before the first byte; Bad where the provider refuses."""
        ask = guarded(lambda: self._read(dialect, asked))
        model = self.model(ask.model, dialect)
        self._check(ask, model)
        if fault.status is not None or fault.kind == "overloaded" or (fault.kind == "error-event" and not ask.stream):
            raise self._refusal(dialect, fault)
        row, cell = self._row(ask)
        found = Found(Prompted(ask.prompt_tokens if cell is None or cell.it is None else cell.it))
        if cell is None and dialect != "embeddings":
            found = self.cache.look(model, ask, scope)
        seed, bank = self._settings.seed, self._bank
        choices = [] if dialect == "embeddings" else guarded(lambda: compose(ask, model, bank, row, seed))
        prefix = embeddings.ID_PREFIX if dialect == "embeddings" else SPEECH[dialect].ID_PREFIX
        reply = Reply(
            id=self.new_id(prefix),
            created=int(self._settings.clock()),
            ask=ask,
            model=model,
            choices=choices,
            prompted=found.prompted,
            tier=tier(ask, model),
            usage=fault.kind != "no-usage",
            chunk=self._settings.chunk_tokens,
        )
        if dialect == "responses" and asked.get("store", True) is not False:
            self._keep(reply)
        return Served(dialect, request_id, reply, found, fault, cell, query)

    def _read(self, dialect: Dialect, asked: Json) -> Ask:
        if dialect == "embeddings":
            return embeddings.read(asked)
        previous = asked.get("previous_response_id")
        if dialect != "responses" or previous is None:
            return SPEECH[dialect].read(asked)
        if (before := self._turns.get(previous)) is None:
            raise Bad(
                400,
                f"Previous response with id '{previous}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        return responses.read(asked, before)

    def model(self, name: str, dialect: Dialect) -> Model:
        """The model of that name, or a 404: a provider serves its own models, in its own dialects."""
        model, family = known(name), FAMILY[dialect]
        fits = model is not None and model.family == family and (model.tier == "embedding") == (dialect == "embeddings")
        if model is not None and fits:
            return model
        if self._settings.any_model or (self._recorded and name in self._recorded.models):
            return model or stand_in(name, family)
        words = {"messages": f"model: {name}", "gemini": f"models/{name} is not found for this API version."}
        message = words.get(dialect, f"The model '{name}' does not exist or you do not have access to it.")
        raise Bad(404, message, code=None if dialect == "messages" else "model_not_found", param="model")

    def _check(self, ask: Ask, model: Model) -> None:
        tokens = max((len(b.pieces) for b in ask.blocks), default=0) if model.tier == "embedding" else ask.prompt_tokens
        if tokens > model.context:
            message = f"prompt is too long: {tokens} tokens > {model.context} maximum"
            raise Bad(400, message, code=None if ask.dialect == "messages" else "context_length_exceeded")

    def _row(self, ask: Ask) -> tuple[Row | None, Cell | None]:
        row = self._recorded.find(ask.prompt, ask.tools) if self._recorded and ask.dialect != "embeddings" else None
        cell = row.m.get(ask.model.removeprefix("models/")) if row else None
        return (row, cell) if cell else (None, None)

    def _refusal(self, dialect: Dialect, fault: Fault) -> Bad:
        overloaded = 529 if dialect == "messages" else 503
        status = fault.status or (overloaded if fault.kind == "overloaded" else 500)
        words = FAULT_WORDS.get(status, f"The sandbox was asked for a {status}.")
        if fault.kind == "quota":
            words = "You exceeded your current quota, please check your plan and billing details."
        bad = Bad(status, words, code="insufficient_quota" if fault.kind == "quota" and dialect != "messages" else None)
        if status in (429, 503, 529) and fault.kind != "quota":
            bad.retry_after_s = self._settings.retry_after_s
        return bad

    def _keep(self, reply: Reply) -> None:
        self._turns[reply.id] = responses.turn(reply)
        self._stored[reply.id] = (reply, self._settings.clock() + self._settings.background_ms / 1000)
        while len(self._stored) > MAX_STORED:
            oldest = next(iter(self._stored))
            del self._stored[oldest], self._turns[oldest]

    def stored(self, response_id: str, *, cancel: bool = False) -> Json:
        """A stored response as it stands now; KeyError where there is none."""
        reply, ready_at = self._stored[response_id]
        running = self._settings.clock() < ready_at
        if cancel and running:
            self._cancelled.add(response_id)
        if response_id in self._cancelled:
            return responses.shell(reply, "cancelled")
        return responses.shell(reply, "in_progress") if running else responses.whole(reply)


def tier(ask: Ask, model: Model) -> str:
    """The tier served: flex or priority where the model has it, else default."""
    asked = {"fast": "priority"}.get(ask.service_tier or "", ask.service_tier or "default")
    return asked if ask.dialect in ("chat", "responses") and asked in model.tiers else "default"
