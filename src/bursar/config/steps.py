"""[[steps]], [routing] and [capabilities]: which model does a step, who judges it, and what of its answers is kept."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from bursar.config.base import MatchSection, Section
from bursar.config.values import (
    Candidate,
    Imported,
    JsonSchema,
    Lasting,
    Milliseconds,
    Name,
    Number,
    Portion,
    Regex,
    Score,
    Text,
    Usd,
    Whole,
)
from bursar.policy import CacheScope, Capability, Check, Consistency, JudgePrompt, Margin, ResponseCache, Routing
from bursar.policy.steps import Feature, Modality

_CHECK, _JUDGE = Check("", bool), JudgePrompt("")
_SAMPLES = Consistency()
_ROUTING = Routing()


class EmbedderSection(Section):
    """What turns a text into a vector: the local MiniLM, from its package or from a folder with its files; or a
    provider's embeddings endpoint, where each look-up is a paid call."""

    kind: Literal["minilm", "endpoint"] = "minilm"
    path: Text | None = None
    model: Candidate | None = None
    dimensions: Number | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> "EmbedderSection":
        if self.kind == "endpoint" and (self.model is None or self.path is not None):
            raise ValueError('an endpoint is named by its model: expected model = "openai/text-embedding-3-small"')
        if self.kind == "minilm" and (self.model is not None or self.dimensions is not None):
            raise ValueError('model and dimensions are an endpoint\'s: expected kind = "endpoint" with them')
        return self


class SemanticSection(Section):
    """Answers given again to questions that mean the same.

    threshold (0.92) alone: a fixed score and the guard, no promise. max_error: the share of wrong hits among the hits
    that is not to be passed; nothing is served before that is certified, and threshold is only the score's floor.
    judge: "package.module:function" of (question, stored answer, fresh answer) -> True, False or None.
    """

    threshold: Portion | None = None
    max_error: Portion | None = None
    ttl: Lasting = 86_400_000
    scope: CacheScope = "user"
    mode: Literal["serve", "shadow"] = "serve"
    strict: bool = False
    judge: Imported | None = None
    embedder: EmbedderSection = EmbedderSection()


class StepCacheSection(Section):
    """Which answers of a step are kept and given again, for how long and to whom."""

    response: Lasting | None = None
    stale: Milliseconds = 0
    scope: CacheScope = "user"
    tools: bool = False
    semantic: SemanticSection | None = None

    @model_validator(mode="after")
    def _keeps_something(self) -> "StepCacheSection":
        if self.response is None and self.semantic is None:
            raise ValueError('keeps nothing: expected response, such as response = "24h", semantic, or both')
        if self.response is None and (self.stale or self.tools):
            raise ValueError("stale and tools are about answers that response keeps: expected response with them")
        return self

    def response_cache(self) -> ResponseCache | None:
        """As the policy has it; None where equal requests are not kept."""
        if self.response is None:
            return None
        return ResponseCache(ttl_ms=self.response, stale_ms=self.stale, scope=self.scope, tools=self.tools)


class PythonSection(Section):
    """A function or a pydantic model: "package.module:name". min: what a score that it gives has to reach."""

    function: Imported
    min: Score = _CHECK.minimum


class JudgeSection(Section):
    """A model that scores the answer from 0 to 1. tier absent: the cheapest one."""

    prompt: Text
    min: Score = _JUDGE.minimum
    tier: Name | None = None

    def policy(self) -> JudgePrompt:
        """As the policy has it."""
        return JudgePrompt(self.prompt, self.min, self.tier)


class ConsistencySection(Section):
    """Further samples of the same model; the share of them that has to say the same."""

    samples: Annotated[Whole, Field(ge=1, le=20)] = _SAMPLES.samples
    min: Score = _SAMPLES.minimum

    def policy(self) -> Consistency:
        """As the policy has it."""
        return Consistency(self.samples, self.min)


def _function(value: object) -> object:
    return {"function": value} if isinstance(value, str) else value


class ValidateSection(Section):
    """Who judges the answers of a step: all that is named must pass, what costs nothing first."""

    json_schema: JsonSchema | None = None
    labels: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    regex: Regex | None = None
    python: Annotated[PythonSection, BeforeValidator(_function, json_schema_input_type=str | PythonSection)] | None = (
        None
    )
    margin: Score | None = None
    judge: JudgeSection | None = None
    consistency: ConsistencySection | None = None

    @model_validator(mode="after")
    def _checks_something(self) -> "ValidateSection":
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"checks nothing: expected one or more of {', '.join(type(self).model_fields)}")
        return self

    def paid(self) -> tuple[Margin | JudgePrompt | Consistency, ...]:
        """The validators that are no functions of the answer alone."""
        margin = () if self.margin is None else (Margin(self.margin),)
        judge = () if self.judge is None else (self.judge.policy(),)
        return (*margin, *judge, *(() if self.consistency is None else (self.consistency.policy(),)))


class StepSection(Section):
    """What holds for the steps that match; the first section that matches a call is the one."""

    match: MatchSection = MatchSection()
    tier: Name | None = None
    cascade: Annotated[tuple[Name, ...], Field(min_length=2)] | None = None
    checks: Annotated[ValidateSection | None, Field(alias="validate")] = None
    min_tier: Name | None = None
    max_tier: Name | None = None
    providers: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    max_output_tokens: Number | None = None
    cache: StepCacheSection | None = None
    prompt_cache: Literal["off", "auto"] = "off"


class CapabilitySection(Section):
    """What a model can take, where the reviewed table does not know it or is wrong: each key wins over the table's."""

    context_tokens: Number | None = None
    max_output_tokens: Number | None = None
    inputs: frozenset[Modality] | None = None
    features: frozenset[Feature] | None = None

    @field_validator("inputs")
    @classmethod
    def _reads(cls, inputs: frozenset[Modality]) -> frozenset[Modality]:
        if "text" not in inputs:
            raise ValueError('expected "text" among them: every call has some')
        return inputs

    @model_validator(mode="after")
    def _says_something(self) -> "CapabilitySection":
        if not self.model_fields_set:
            raise ValueError(f"says nothing: expected one or more of {', '.join(type(self).model_fields)}")
        return self

    def policy(self) -> Capability:
        """As the policy has it."""
        told: dict[str, Any] = dict(self)
        return Capability(**told)


class RoutingSection(Section):
    """The constants of tiers that are learned."""

    agreement: Annotated[Score, Field(gt=0, lt=1)] = _ROUTING.agreement
    audit_share: Score = _ROUTING.audit_share
    second_usd: Usd = _ROUTING.second_nanos
    failure_usd: Usd = _ROUTING.failure_nanos
    warm: Milliseconds = _ROUTING.warm_ms

    def policy(self) -> Routing:
        """As the policy has it."""
        return Routing(
            agreement=self.agreement, audit_share=self.audit_share, second_nanos=self.second_usd,
            failure_nanos=self.failure_usd, warm_ms=self.warm,
        )  # fmt: skip
