"""Which row of the price catalogue a model's name means, and which catalogue a base URL means. Pure.

The catalogue (genai-prices data) matches loosely: "starts with claude-opus-4-8" also takes claude-opus-4-8-fast, and
"contains o4-mini" takes o4-mini-deep-research. Here a loose match counts only if what is left of the name is a
snapshot date, a version or a word like `latest`: anything else may be another model at another price, and is unknown.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bursar.rules import price_table

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, Provider

_TAIL = re.compile(
    r"(?:[-@:](?:20\d{6}|20\d\d-\d\d-\d\d|(?:0[1-9]|1[0-2])-(?:\d\d|20\d\d)|\d{3,4}"
    r"|latest|preview|exp|default|thinking|customtools|v1|v\d+:\d+(?::\d+k)?)|:\d+)*"
)
_GEMMA_TAIL = re.compile(r"(?:-(?:[ea]?\d+b|it|maas))*(?::free)?")
_FINE_TUNE_TAIL = re.compile(r"[-\d]*(?::.*)?")
_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_REGIONAL = re.compile(r"https://([a-z]{2,3})\.api\.openai\.com(?:[/:?#]|$)")
_OWN_PREFIX = {
    "openai": ("openai/",),
    "anthropic": ("anthropic/",),
    "google": ("google/", "gemini/", "vertex_ai/", "anthropic/"),
    "azure": ("azure/", "openai/"),
    "aws": ("bedrock/", "converse/"),
}
_BOUNDARY = "-@:./"


def plain_name(model: str, catalog: str) -> str:
    """A model's name as the catalogue spells it: lower case, without a path or the catalogue's own prefix."""
    name = model.strip().lower()
    if catalog == "google" and "models/" in name:
        name = name.rpartition("models/")[2]
    if catalog == "aws" and name.startswith("arn:"):
        name = name.rpartition("/")[2]
    for prefix in _OWN_PREFIX.get(catalog, ()):
        name = name.removeprefix(prefix)
    return name


def find(providers: Sequence["Provider"], catalog: str, name: str) -> tuple[str, "ModelInfo"] | None:
    """The row for a plain name and the catalogue it stands in (another one where it is resold); None: unknown."""
    home = next((p for p in providers if p.id == catalog), None)
    if home is None:
        return None
    resold = [p for p in providers if p.id in (home.fallback_model_providers or ())]
    for spelling in dict.fromkeys((name, _COMPACT_DATE.sub(r"-\1-\2-\3", name))):
        for provider in (home, *resold):
            for model in provider.models:
                if _names(model.match, spelling):
                    return provider.id, model
    return None


def catalog_of(base_url: str) -> str | None:
    """The catalogue whose provider answers at this base URL; None: no known provider."""
    from genai_prices.data import providers  # noqa: PLC0415

    patterns = [(p.api_pattern, p.id) for p in providers]
    for pattern, catalog in (*price_table.HOSTS, *patterns):
        found = re.match(pattern, base_url)
        # The catalogue's patterns are open at the end: without this, api.openai.com.example.org would be OpenAI.
        if found and (found.group().endswith("/") or base_url[found.end() :][:1] in ("", "/", ":", "?", "#")):
            return catalog
        if found and pattern.endswith(r"\."):
            return catalog
    return None


def region_of(base_url: str) -> str | None:
    """The region that a base URL fixes (OpenAI's regional endpoints, billed with an uplift); None: none."""
    found = _REGIONAL.match(base_url)
    return found.group(1) if found else None


def _names(logic: "MatchLogic", name: str) -> bool:
    """Whether a match clause names this model, and not merely a part of its name."""
    from genai_prices import types  # noqa: PLC0415

    match logic:
        case types.ClauseEquals():
            return logic.is_match(name)
        case types.ClauseStartsWith(starts_with=text):
            return name.startswith(text.lower()) and _tail_is_plain(name, len(text))
        case types.ClauseEndsWith(ends_with=text):
            return name.endswith(text.lower()) and _head_is_plain(name, len(name) - len(text))
        case types.ClauseContains(contains=text):
            start = name.find(text.lower())
            return start >= 0 and _head_is_plain(name, start) and _tail_is_plain(name, start + len(text))
        case types.ClauseRegex(regex=pattern):
            found = re.search(pattern, name)
            if found is None or found.end() == 0 or pattern.endswith("$"):
                return found is not None
            return _tail_is_plain(name, max(name.rfind("-", 0, found.end()), 0))
        case types.ClauseOr(or_=clauses):
            return any(_names(clause, name) for clause in clauses)
        case types.ClauseAnd(and_=clauses):
            return all(_names(clause, name) for clause in clauses)


def _head_is_plain(name: str, start: int) -> bool:
    """A vendor, region or path before the match, not half a word."""
    return start == 0 or name[start - 1] in "./:"


def _tail_is_plain(name: str, end: int) -> bool:
    """Only a date, a version or a word like `latest` after the match."""
    if name.startswith("ft:"):
        return _FINE_TUNE_TAIL.fullmatch(name, end) is not None
    if ".ft-" in name[:end]:
        return True
    if end < len(name) and name[end] not in _BOUNDARY:  # the match ended inside a word: judge the whole word
        end = max(name.rfind(mark, 0, end) for mark in _BOUNDARY)
        if end < 0:
            return False
    elif name[end - 1] in _BOUNDARY:
        end -= 1
    tail = _GEMMA_TAIL if name.startswith("gemma") else _TAIL
    return tail.fullmatch(name, end) is not None
