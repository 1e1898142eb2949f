"""What is known of each provider's prompt cache: dated data, to be overruled by what the usage says. Pure; total.

Read 2026-11-28: the providers' guides and SDK types (anthropic 2.13, openai 3.57). Sources disagree on some floors; a
floor taken too low costs nothing, for the provider then caches nothing and bills nothing. A model that is not named
here is left alone.
"""

import re
from typing import Literal, TypeAlias

import msgspec

from bursar.types import Api, Bucket

Style: TypeAlias = Literal["none", "key", "marks", "breakpoints"]
"""key: implicit and free, routed by a key (OpenAI before gpt-5.6). marks: only what is marked is cached (Anthropic).
breakpoints: the end of every prompt is written unless that is turned off, more may be marked (OpenAI from 5.6)."""


class Rules(msgspec.Struct, frozen=True):
    """How one model's provider caches prompts. Tokens, blocks, seconds."""

    style: Style = "none"
    floor: int = 1024
    """A shorter prefix is silently not cached, tokens."""
    most: int = 4
    """Markers in one request, the implicit one included."""
    look_back: int = 20
    """A marker finds an earlier entry among so many blocks, its own included."""
    writes: tuple[tuple[Bucket, int], ...] = ()
    """What an entry may be kept for, the longest first: (bucket that its write is billed in, seconds)."""


_NONE = Rules()
_KEY = Rules("key")
_BREAKPOINTS = Rules("breakpoints", 1024, 4, 80, (("cache_write_30m", 1800),))
_MARKS: tuple[tuple[Bucket, int], ...] = (("cache_write_1h", 3600), ("cache_write_5m", 300))

_FLOORS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"haiku-4-5|opus-4-[56]"), 4096),
    (re.compile(r"opus-4-7"), 2048),
    (re.compile(r"sonnet-5(?!-\d\b)|sonnet-4|opus-4"), 1024),
)
_NEWEST_FLOOR = 512
"""Opus 5, Fable 5, Mythos 5, and models younger than this list."""

_GPT = re.compile(r"gpt-(\d+)(?:\.(\d+))?o?(?![\d.])")
_REASONING = re.compile(r"o\d(?![\d.])")
_SNAPSHOT = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d|latest)$")


def plain(model: str) -> str:
    """The model's name without its snapshot: what is asked for and what the answer names are one model's cache."""
    return _SNAPSHOT.sub("", model.lower())


def rules_of(api: Api, model: str | None) -> Rules:
    """The rules for that model where it is asked for in that wire format."""
    name = plain(model or "")
    if api == "messages" and "claude" in name:
        floor = next((floor for pattern, floor in _FLOORS if pattern.search(name)), _NEWEST_FLOOR)
        return Rules("marks", floor, writes=_MARKS)
    if api not in ("chat", "responses"):
        return _NONE
    if (version := _GPT.match(name)) is not None:
        later = (int(version[1]), int(version[2] or 0)) >= (5, 6)
        return _BREAKPOINTS if later else _KEY
    return _KEY if _REASONING.match(name) else _NONE
