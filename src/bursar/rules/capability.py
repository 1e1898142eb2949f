"""What a model can take: the hard filter before any route. Reviewed rows, dated; the user's own words win. Pure.

A model that no row and no override describes is unknown, and unknown is not "everything": what a call needs and the
model is not known to have refuses that candidate, with the setting that cures it. The caller's own model is never
filtered by this table: the provider answers for it.
"""

import fnmatch
import re
from collections.abc import Mapping

import msgspec

from bursar.policy.steps import Capability, Feature, Modality
from bursar.rules.listing import find, plain_name
from bursar.rules.price_table import MAX_OUTPUT

VERSION = "2026-11-28"
"""When every row was last checked; part of a decision's reason where a row refuses a candidate."""

MODELS_DEV = "models.dev, by langchain-openai 1.7.4; https://developers.openai.com/api/docs/models"
ANTHROPIC = "https://platform.claude.com/docs/en/about-claude/models; model profiles of pydantic-ai 2.68.0"
GOOGLE = "https://ai.google.dev/gemini-api/docs/models; model profiles of pydantic-ai 2.68.0"


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What one call asks of a model. Token counts are the real ones or their ceiling, never a guess below."""

    input_tokens: int
    output_tokens: int = 0
    """The output limit that would be sent; 0 where the call sends none."""
    inputs: frozenset[Modality] = frozenset({"text"})
    features: frozenset[Feature] = frozenset()


class Row(msgspec.Struct, frozen=True):
    """A claim about every model of a catalogue whose name matches (`re.fullmatch`); the first match speaks."""

    catalog: str
    models: str
    inputs: str
    features: str
    source: str
    context_tokens: int | None = None
    """Only where the price catalogue lists none, or counts it another way."""
    checked_on: str = VERSION


_DATE = r"(-20\d\d-\d\d-\d\d|-latest)?"
_SNAPSHOT = r"([-@]20\d{6}|-latest|-v\d(:\d)?)?"
_OLD = "tools forced_tool sampling"
_ALL = "tools forced_tool structured sampling"
_FIXED = "tools forced_tool structured"

ROWS = (
    Row("openai", rf"gpt-3\.5-turbo{_DATE}|gpt-3\.5-turbo-\d{{4}}", "text", _OLD, MODELS_DEV),
    Row("openai", rf"gpt-4(-\d{{4}})?{_DATE}", "text", _OLD, MODELS_DEV),
    Row("openai", rf"gpt-4-turbo{_DATE}|gpt-4o-2024-05-13", "text image", _OLD, MODELS_DEV),
    Row("openai", rf"gpt-4o(-mini)?{_DATE}", "text image file", _ALL, MODELS_DEV),
    Row("openai", rf"gpt-4\.1(-mini|-nano)?{_DATE}", "text image file", _ALL, MODELS_DEV),
    Row("openai", rf"o3-mini{_DATE}", "text", _FIXED, MODELS_DEV),
    Row("openai", rf"(o1|o3|o4-mini)(-pro)?{_DATE}", "text image file", _FIXED, MODELS_DEV),
    Row("openai", rf"gpt-5\.[12345]{_DATE}|gpt-5\.4-(mini|nano){_DATE}", "text image file", _FIXED, MODELS_DEV),
    Row("openai", rf"gpt-5(-mini|-nano|-pro)?{_DATE}", "text image file", _FIXED, MODELS_DEV),
    Row("openai", rf"gpt-5\.[24]-pro{_DATE}", "text image file", "tools forced_tool", MODELS_DEV),
    Row("openai", rf"gpt-5\.5-pro{_DATE}|gpt-5\.3-codex", "text image file", _FIXED, MODELS_DEV),
    Row("openai", rf"gpt-5\.6(-sol|-terra|-luna)?{_DATE}", "text image file", _FIXED, MODELS_DEV),
    Row("openai", rf"gpt-6-(astra|sol|luna){_DATE}|gpt-6\.1-(sol|terra){_DATE}", "text image file", _FIXED, MODELS_DEV),
    Row("anthropic", rf"claude-3-(haiku|sonnet|opus){_SNAPSHOT}", "text image", _OLD, ANTHROPIC),
    Row("anthropic", rf"claude-3-5-haiku{_SNAPSHOT}", "text image file", _OLD, ANTHROPIC),
    Row("anthropic", rf"claude-3-[57]-sonnet{_SNAPSHOT}", "text image file", _OLD, ANTHROPIC),
    Row("anthropic", rf"claude-(opus|sonnet)-4(-0)?{_SNAPSHOT}", "text image file", _OLD, ANTHROPIC),
    Row("anthropic", rf"claude-(opus-4-[156]|sonnet-4-[56]|haiku-4-5){_SNAPSHOT}", "text image file", _ALL, ANTHROPIC),
    Row(
        "anthropic",
        rf"claude-(opus-5-5|sonnet-5-5|fable-5-[12]|mythos-5-[12]){_SNAPSHOT}",
        "text image file",
        "tools structured",
        ANTHROPIC,
    ),
    Row(
        "anthropic",
        rf"claude-(opus-4-[78]|opus-5|sonnet-5|haiku-5-5|fable-5){_SNAPSHOT}",
        "text image file",
        _FIXED,
        ANTHROPIC,
    ),
    Row("google", r"gemini-(2\.5|3(\.\d)?)-.*(image|tts|live).*", "text image", "sampling", GOOGLE),
    Row(
        "google",
        r"gemini-(2\.[05]|3(\.\d)?)-(pro|flash)(-lite)?(-preview.*|-00\d|-latest)?|gemini-4-argon.*",
        "text image file audio video",
        _ALL,
        GOOGLE,
        context_tokens=1_048_576,
    ),
)


class Table:
    """Capabilities by provider and model: the user's overrides, then the reviewed rows. Remembers what it has found.

    overrides: by "provider/model" (globs allowed, an exact name wins), each field that is set wins over the row's.
    catalogs: the price catalogue's name by the policy's provider name, as for the prices.
    """

    __slots__ = ("_catalogs", "_found", "_overrides")

    def __init__(self, overrides: Mapping[str, Capability] | None = None, catalogs: Mapping[str, str] | None = None):
        self._overrides = dict(overrides or {})
        self._catalogs = {"gemini": "google", "vertex": "google", **(catalogs or {})}
        self._found: dict[tuple[str, str], Capability] = {}

    def of(self, provider: str, model: str) -> Capability:
        """What is known of provider/model; a Capability of Nones where nothing is."""
        found = self._found.get((provider, model))
        if found is None:
            if len(self._found) >= _REMEMBERED:  # names come from callers: never more than this many
                self._found.clear()
            found = self._found[provider, model] = self._look(provider, model)
        return found

    def _look(self, provider: str, model: str) -> Capability:
        catalog = self._catalogs.get(provider, provider)
        reviewed = _reviewed(catalog, plain_name(model, catalog))
        full = f"{provider}/{model}"
        glob = next((k for k in sorted(self._overrides, key=len, reverse=True) if fnmatch.fnmatchcase(full, k)), None)
        own = self._overrides.get(full) or (self._overrides[glob] if glob is not None else None)
        if own is None:
            return reviewed
        said = {name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None}
        return msgspec.structs.replace(reviewed, **said)


_REMEMBERED = 4096


def _reviewed(catalog: str, name: str) -> Capability:
    from genai_prices.data import providers  # noqa: PLC0415

    row = next((row for row in ROWS if row.catalog == catalog and re.fullmatch(row.models, name)), None)
    listed = find(providers, catalog, name)
    window = None if listed is None else listed[1].context_window
    longest = (tokens for home, models, tokens in MAX_OUTPUT if home == catalog and re.fullmatch(models, name))
    return Capability(
        context_tokens=window if row is None or row.context_tokens is None else row.context_tokens,
        max_output_tokens=next(longest, None),
        inputs=None if row is None else msgspec.convert(row.inputs.split(), frozenset[Modality]),
        features=None if row is None else msgspec.convert(row.features.split(), frozenset[Feature]),
    )


def lacks(capability: Capability, needs: Needs, name: str) -> str | None:
    """Why a candidate cannot take a call, and the setting that would change it; None: it can.

    name: "provider/model", for the text. A text-only call without tools asks nothing but the window.
    """
    cure = f'[capabilities."{name}"]'
    tokens, window = needs.input_tokens + needs.output_tokens, capability.context_tokens
    if window is None:
        return f"{name}: its context window is not known; set {cure} context_tokens"
    if tokens > window:
        return f"{name}: {tokens} tokens do not fit into its window of {window}"
    if capability.max_output_tokens is not None and needs.output_tokens > capability.max_output_tokens:
        return f"{name}: it answers with at most {capability.max_output_tokens} tokens, asked for {needs.output_tokens}"
    if missing := needs.inputs - (capability.inputs or {"text"}):
        known = "is not known to take" if capability.inputs is None else "does not take"
        return f"{name}: it {known} {', '.join(sorted(missing))} (table of {VERSION}); else set {cure} inputs"
    if unable := needs.features - (capability.features or frozenset()):
        known = "is not known to support" if capability.features is None else "does not support"
        return f"{name}: it {known} {', '.join(sorted(unable))} (table of {VERSION}); else set {cure} features"
    return None
