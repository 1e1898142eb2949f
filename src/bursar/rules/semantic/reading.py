"""A text as the guard sees it: numbers, negations, names, dates, units, identifiers, content words. Pure.

`read` costs some 100 us for a question of twelve words; keep the reading of a stored query beside it. Nothing
raises: a text in an unknown language has fewer marks and the same content comparison.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from bursar.rules.semantic import lexicon as lex
from bursar.rules.semantic.stem import stem

Placed: TypeAlias = tuple[str, str]
"""A content word's stem with the preposition that governs it, or ""."""

_TOKEN = re.compile(
    r"(?P<code>https?://\S+|[\w.+-]+@\w[\w.-]*\w|`[^`]+`|\w+(?:/\w+){2,}|(?<!\w)--?[A-Za-z][\w-]*)"
    r"|(?P<number>\d{1,3}(?:,\d{2,3})+(?:\.\d+)?|\d+(?:[.:]\d+)*)(?P<suffix>[A-Za-z]*)(?!\w)"
    r"|(?P<word>\w+(?:['’.]\w+)*)"
    r"|(?P<mark>[%$€£¥₹+*/=<>^&#!?.:;\n\"“”])",
)
_END = frozenset('.?!:;\n"“”')
_UNSPELT = {f"{word}nt": f"{word}n't" for word in lex.UNSPELT}
_CONTRACTED = _UNSPELT | {
    "cant": "can't", "wont": "won't", "whats": "what's", "hows": "how's", "wheres": "where's", "whos": "who's",
    "im": "i'm", "ive": "i've", "thats": "that's",
}  # fmt: skip
_TAILS = {"s": "is", "re": "are", "m": "am", "ve": "have", "ll": "will", "d": "would"}


class Reading(msgspec.Struct, frozen=True):
    """What the guard compares; every field is a set or sequence of normal forms."""

    words: frozenset[str]
    """Stems of all words."""
    initials: str
    numbers: tuple[str, ...]
    """In order of the text: "30", "2.1", "1/2"."""
    negations: int
    names: frozenset[str]
    codes: frozenset[str]
    dates: frozenset[str]
    units: frozenset[str]
    tokens: frozenset[str]
    """All words as they stand, in lower case, phrases joined."""
    content: tuple[Placed, ...]
    """Content words in order."""
    speakers: str
    """Who is named, in order: "1" for the asker ("I", "our"), "2" for the asked."""
    language: str | None


class _Token(msgspec.Struct):
    text: str
    kind: str
    """word, number, code or mark."""
    raw: str
    starts: bool
    """Nothing, or the end of a sentence, stands before it."""


def read(text: str) -> Reading:
    """The reading of one text."""
    tokens = list(_joined(list(_tokens(unicodedata.normalize("NFKC", text)))))
    words = [token for token in tokens if token.kind == "word"]
    numbers = _numbers(tokens)
    dates, dated = _dates(tokens)
    units = frozenset(_units(tokens))
    return Reading(
        words=frozenset(stem(token.text) for token in words),
        initials="".join(token.text[0] for token in words),
        numbers=tuple(numbers),
        negations=sum(token.text in lex.NEGATIONS for token in words),
        names=frozenset(_names(words)),
        codes=frozenset(token.text for token in tokens if token.kind == "code"),
        dates=dates,
        units=units,
        tokens=frozenset(token.text for token in tokens if token.kind != "mark" or token.text not in _END),
        content=tuple(_content(tokens, dated)),
        speakers="".join("1" if t.text in lex.ASKER else "2" for t in words if t.text in lex.ASKER | lex.ASKED),
        language=_language(text, words),
    )


def _tokens(text: str) -> Iterator[_Token]:
    starts = True
    for match in _TOKEN.finditer(text):
        kind, raw = str(match.lastgroup), match[0]
        lower = raw.lower()
        if kind == "mark":
            starts = starts or raw in _END
            yield _Token(lower, kind, raw, False)
            continue
        if kind in ("number", "suffix"):
            yield from _number(match["number"], match["suffix"].lower(), starts)
        elif kind == "code":
            yield _Token(lower.strip("`"), "code", raw, starts)
        else:
            yield from _word(raw, lower, starts)
        starts = False


def _number(digits: str, suffix: str, starts: bool) -> Iterator[_Token]:
    digits = digits.replace(",", "")
    if suffix in ("", "st", "nd", "rd", "th", "s", "x"):
        yield _Token(digits.lstrip("0") or "0", "number", digits, starts)
    elif suffix == "k":
        yield _Token(digits + "000" if digits.isdigit() else digits, "number", digits, starts)
    elif suffix in lex.UNITS or suffix in ("am", "pm"):
        yield _Token(digits.lstrip("0") or "0", "number", digits, starts)
        yield _Token(suffix, "word", suffix, False)
    else:
        yield _Token(digits + suffix, "code", digits, starts)


def _word(raw: str, lower: str, starts: bool) -> Iterator[_Token]:
    lower = _CONTRACTED.get(lower.replace("’", "'"), lower.replace("’", "'"))
    if "." in lower:
        parts = raw.split(".")
        if all(len(part) == 1 for part in parts):
            yield _Token("".join(parts).lower(), "word", "".join(parts), starts)
        elif parts[0][-1:].islower() and parts[1][:1].isupper():
            for number, part in enumerate(parts):
                yield from _word(part, part.lower(), starts or number > 0)
        else:
            yield _Token(lower, "code", raw, starts)
    elif "_" in lower or any(char.isdigit() for char in lower):
        yield _Token(lower, "code", raw, starts)
    elif lower.endswith("n't"):
        yield _Token({"ca": "can", "wo": "will", "ai": "is"}.get(lower[:-3], lower[:-3]), "word", lower, starts)
        yield _Token("not", "word", "not", False)
    elif "'" in lower:
        head, _, tail = lower.partition("'")
        yield _Token(head, "word", raw.partition("'")[0].partition("’")[0], starts)
        if tail in _TAILS and (tail != "s" or head in lex.SUBJECTS):
            yield _Token(_TAILS[tail], "word", tail, False)
    else:
        yield _Token(lower, "word", raw, starts)


def _joined(tokens: list[_Token]) -> Iterator[_Token]:
    """Phrases of the lexicon as one word each."""
    at = 0
    while at < len(tokens):
        for phrase, joined in _PHRASES.get(tokens[at].text, ()):
            part = tokens[at : at + len(phrase)]
            if tuple(token.text for token in part) == phrase:
                yield _Token(joined, "word", joined, tokens[at].starts)
                at += len(phrase)
                break
        else:
            yield tokens[at]
            at += 1


_PHRASES = {
    first: tuple(entry for entry in lex.PHRASES if entry[0][0] == first) for first in {p[0] for p, _ in lex.PHRASES}
}


def _numbers(tokens: list[_Token]) -> list[str]:
    """Digits and number words in order; "one" alone is a pronoun more often than a number."""
    found: list[str] = []
    value: int | None = None
    spelt: list[str] = []
    for token in [*tokens, _Token("", "mark", "", False)]:
        text = token.text
        scale = lex.SCALES.get(text)
        if text in lex.ONES or text in lex.TENS:
            value = (value or 0) + lex.ONES.get(text, lex.TENS.get(text, 0))
            spelt.append(text)
            continue
        if scale is not None:
            value = (1 if value is None else value) * scale
            if value == scale and found and found[-1].isdigit() and not spelt:
                value = int(found.pop()) * scale
            spelt.append(text)
            continue
        if value is not None and spelt != ["one"]:
            found.append(str(value))
        value, spelt = None, []
        if token.kind == "number":
            found.append(text)
        elif text in lex.ORDINALS and text != "second":
            found.append(str(lex.ORDINALS[text]))
        elif text in lex.MULTIPLES:
            found.append(lex.MULTIPLES[text])
    return found


def _names(words: list[_Token]) -> Iterator[str]:
    """Capitalised words inside a sentence; none where most words are capitalised. Names of languages in any case."""
    inner = [token for token in words if not token.starts]
    shouted = sum(token.raw[0].isupper() for token in inner) * 3 > len(inner) * 2 > 4
    for token in words:
        if token.text in lex.LANGUAGES:
            yield stem(token.text)
        elif shouted or token.text in lex.FILLER or token.text in lex.DAYS or token.text in lex.MONTHS:
            continue
        elif any(char.isupper() for char in (token.raw[1:] if token.starts else token.raw)):
            yield stem(token.text)


def _dates(tokens: list[_Token]) -> tuple[frozenset[str], frozenset[int]]:
    """Days, months, moments and "last week" as sets; with the places in the text that they take."""
    found: set[str] = set()
    places: set[int] = set()
    for at, token in enumerate(tokens):
        text = token.text
        before = tokens[at - 1].text if at else ""
        after = tokens[at + 1] if at + 1 < len(tokens) else None
        if text in lex.DAYS or text in lex.MOMENTS:
            found.add(text)
        elif text in lex.MONTHS:
            found.add(lex.MONTH_OF.get(text, text))
        elif text in ("may", "march"):
            numbered = (at > 0 and tokens[at - 1].kind == "number") or (after is not None and after.kind == "number")
            if not numbered and not (before in lex.BEFORE_MONTH and (text == "march" or token.raw[0].isupper())):
                continue
            found.add(text)
        elif text in lex.NEARNESS and after is not None and after.text.rstrip("s") in lex.PERIODS | lex.DAYS:
            found.add(f"{lex.NEARNESS[text]} {after.text.rstrip('s')}")
            places.add(at + 1)
        else:
            continue
        places.add(at)
    return frozenset(found), frozenset(places)


def _units(tokens: list[_Token]) -> Iterator[str]:
    """Units behind a number, or behind a preposition that asks for one."""
    for at, token in enumerate(tokens):
        unit = lex.UNITS.get(token.text)
        if unit is None:
            continue
        before = tokens[at - 1] if at else None
        counted = before is not None and (before.kind == "number" or before.text in lex.ONES or before.text in lex.TENS
                                          or before.text in lex.SCALES)  # fmt: skip
        if token.kind == "mark" or counted or (before is not None and before.text in lex.BEFORE_UNIT):
            yield unit


def _content(tokens: list[_Token], dated: frozenset[int]) -> Iterator[Placed]:
    """Words that carry meaning, each with its preposition; numbers and dates are compared elsewhere."""
    governor, found = "", False
    for at, token in enumerate(tokens):
        text = token.text
        if token.kind == "mark":
            if text in _END:
                governor = ""
            elif text not in lex.UNITS and text not in "#":
                yield "", text
        elif text == "to" and (at == 0 or tokens[at - 1].text in lex.INFINITIVE):
            governor = ""
        elif text in lex.DIRECTED or text in lex.LOOSE:
            governor = f"not {text}" if at and tokens[at - 1].text in lex.NEGATIONS else text
        elif token.kind == "number" or at in dated or text in _COUNTING or (not found and _command(tokens, at)):
            continue
        elif token.kind == "code" or not (text in lex.FILLER or text in lex.RELATIONS or text in lex.NEGATIONS):
            found = True
            yield governor, lex.UNITS.get(text) or stem(text)
        elif text not in lex.DETERMINERS:
            governor = ""


def _command(tokens: list[_Token], at: int) -> bool:
    return tokens[at].text in lex.COMMANDS and not (at and tokens[at - 1].text in lex.DETERMINERS)


_COUNTING = frozenset(lex.ONES) - {"one"} | frozenset(lex.TENS) | frozenset(lex.SCALES)


def _language(text: str, words: list[_Token]) -> str | None:
    """A script, or a language by its function words; None where neither is clear."""
    scripts: dict[str, int] = {}
    for char in text[:200]:
        if char.isalpha() and not char.isascii():
            script = unicodedata.name(char, "?").split()[0]
            scripts[script] = scripts.get(script, 0) + 1
    letters = sum(char.isalpha() for char in text[:200])
    if scripts:
        script, count = max(scripts.items(), key=lambda item: item[1])
        if script != "LATIN" and count * 2 > letters:
            return "JAPANESE" if script in ("HIRAGANA", "KATAKANA") else script
    seen = {name: sum(token.text in known for token in words) for name, known in lex.FUNCTION_WORDS.items()}
    best, second = sorted(seen.values(), reverse=True)[:2]
    return max(seen, key=lambda name: seen[name]) if best >= 2 and best > second else None
