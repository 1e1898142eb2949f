"""May the answer to one text serve for another? What cosine cannot see. Pure; 15 to 30 us for two readings.

`veto` (always on) refuses what certainly differs; `doubts` names what the strict mode refuses too: with it a pair
passes only where both texts hold the same content words in the same roles. `strict` serves tools, SQL, money, health.
A refusal costs a call to the model; a wrong pass costs the user a wrong answer: in doubt both refuse.
"""

from collections import Counter
from typing import Literal, TypeAlias

from bursar.rules.semantic import lexicon as lex
from bursar.rules.semantic.reading import Reading
from bursar.rules.semantic.stem import stem

Veto: TypeAlias = Literal["language", "number", "negation", "date", "unit", "code", "opposite", "name"]
Doubt: TypeAlias = Literal["content", "extra", "order", "relation", "tense", "modality", "person", "question", "units",
                           "names"]  # fmt: skip

_OPPOSITES = frozenset((stem(a), stem(b)) for a, b in lex.OPPOSITES if stem(a) != stem(b))
_OPPOSABLE = frozenset(a for a, _ in _OPPOSITES)
_RAW_OPPOSABLE = frozenset(a for a, _ in lex.OPPOSITES)
_NATIONAL = ("", "n", "an", "ian", "i", "ish", "ese", "s", "es")


def refusal(a: Reading, b: Reading, *, strict: bool = False) -> Veto | Doubt | None:
    """Why b's answer must not serve for a; None where nothing speaks against it."""
    found: Veto | Doubt | None = veto(a, b)
    if found is None and strict:
        found = next(iter(doubts(a, b)), None)
    return found


def veto(a: Reading, b: Reading) -> Veto | None:
    """The first certain difference."""
    if a.language is not None and b.language is not None and a.language != b.language:
        return "language"
    if sorted(a.numbers) != sorted(b.numbers):
        return "number"
    if (a.negations + b.negations + _prefixed(a.words, b.words) + _prefixed(b.words, a.words)) % 2:
        return "negation"
    if a.dates != b.dates:
        return "date"
    if a.units - b.units and b.units - a.units:
        return "unit"
    if a.codes != b.codes and _coded(a, b):
        return "code"
    if _opposed(a, b):
        return "opposite"
    if _missing(a, b) and _missing(b, a):
        return "name"
    return None


def doubts(a: Reading, b: Reading) -> frozenset[Doubt]:
    """What the strict mode refuses beyond the veto."""
    found: set[Doubt] = set()
    left, right = (Counter(word for _, word in side.content) for side in (a, b))
    lacks, adds = right - left, left - right
    if lacks and adds:
        found.add("content")
    elif lacks or adds:
        found.add("extra")
    elif _reordered(a, b):
        found.add("order")
    if a.numbers != b.numbers and not a.dates:
        found.add("order")
    if _of(a, lex.RELATIONS) - lex.LENIENT_RELATIONS != _of(b, lex.RELATIONS) - lex.LENIENT_RELATIONS:
        found.add("relation")
    if _tense(a, b):
        found.add("tense")
    if _split(a, b, lex.MUST, lex.MAY) or _split(a, b, lex.MUST, lex.SHOULD) or _split(a, b, lex.MAY, lex.SHOULD):
        found.add("modality")
    if _persons(a) != _persons(b) or _swapped(a.speakers, b.speakers):
        found.add("person")
    if _question(a) != _question(b):
        found.add("question")
    if a.units != b.units:
        found.add("units")
    if _missing(a, b) or _missing(b, a):
        found.add("names")
    return frozenset(found)


def _prefixed(words: frozenset[str], others: frozenset[str]) -> int:
    """How many words are a negative prefix before a word that only the other side has."""
    return sum(
        stem(word.removeprefix(prefix)) in others - words
        for word in words - others
        for prefix in lex.NEGATIVE_PREFIXES
        if word.startswith(prefix) and len(word) - len(prefix) > 2
    )


def _coded(a: Reading, b: Reading) -> bool:
    """Identifiers differ, and not only in spacing or case ("iphone 6" and "iphone6")."""
    return any(code not in other.tokens for side, other in ((a, b), (b, a)) for code in side.codes)


def _opposed(a: Reading, b: Reading) -> bool:
    left, right = a.words - b.words, b.words - a.words
    if any((x, y) in _OPPOSITES for x in left & _OPPOSABLE for y in right & _OPPOSABLE):
        return True
    first, second = (a.tokens - b.tokens) & _RAW_OPPOSABLE, (b.tokens - a.tokens) & _RAW_OPPOSABLE
    return any((x, y) in lex.OPPOSITES for x in first for y in second)


def _missing(a: Reading, b: Reading) -> bool:
    """Does a hold a name that b lacks?"""
    return any(
        not any(name + ending in b.words or name.removesuffix(ending) in b.words for ending in _NATIONAL)
        and not (2 < len(name) <= 5 and name in b.initials)
        for name in a.names - b.words
    )


def _of(reading: Reading, words: frozenset[str]) -> frozenset[str]:
    return reading.tokens & words


def _tense(a: Reading, b: Reading) -> bool:
    """Past against another tense; present against future where no date fixes the time."""
    (past_a, now_a, then_a), (past_b, now_b, then_b) = (
        [bool(side.tokens & words) for words in (lex.PAST, lex.PRESENT, lex.FUTURE)] for side in (a, b)
    )
    if past_a != past_b and (now_a or then_a if past_b else now_b or then_b):
        return True
    return not a.dates and ((then_a and now_b and not then_b) or (then_b and now_a and not then_a))


def _split(a: Reading, b: Reading, one: frozenset[str], other: frozenset[str]) -> bool:
    """One side is of this kind only, the other side of that kind only."""
    kinds = [(bool(side.tokens & one), bool(side.tokens & other)) for side in (a, b)]
    return kinds in ([(True, False), (False, True)], [(False, True), (True, False)])


def _persons(reading: Reading) -> frozenset[str]:
    return frozenset(lex.PERSONS[word] for word in reading.tokens if word in lex.PERSONS) - {"we"}


def _swapped(one: str, other: str) -> bool:
    """ "Do I owe you" against "do you owe me": both texts name both, in another order."""
    return set(one) == set(other) == {"1", "2"} and one[0] != other[0]


def _question(reading: Reading) -> frozenset[str]:
    """The kinds of question that ask for different things; "how" and "what" introduce any."""
    return reading.tokens & (lex.QUESTIONS | lex.AMOUNTS)


def _reordered(a: Reading, b: Reading) -> bool:
    """Same words in other roles? A word's place may change with a loose preposition ("list in X", "X list") only."""
    directed = [_directed(side) for side in (a, b)]
    if directed[0] != directed[1]:
        return True
    left, right = (_loose(side) for side in (a, b))
    if left - right and right - left:
        return True
    floating = left | right | {word for words in directed[0].values() for word in words}
    one, two = ([word for _, word in side.content if word not in floating] for side in (a, b))
    return one != two


def _directed(reading: Reading) -> dict[str, list[str]]:
    """Under each directing preposition its words in order."""
    found: dict[str, list[str]] = {}
    for governor, word in reading.content:
        if governor.removeprefix("not ") in lex.DIRECTED:
            found.setdefault(governor, []).append(word)
    return found


def _loose(reading: Reading) -> frozenset[str]:
    return frozenset(word for governor, word in reading.content if governor in lex.LOOSE)
