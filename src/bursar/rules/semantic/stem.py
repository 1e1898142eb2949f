"""A word's comparison key: spelling variants, inflection and plain synonyms of English fall together. Pure.

The key need not be a word. Two keys are equal only where an answer for one word serves for the other.
"""

from bursar.rules.semantic.lexicon import IRREGULAR, SYNONYMS

_VOWELS = frozenset("aeiouy")


def stem(word: str) -> str:
    """The key of a lower-case word."""
    known = SYNONYMS.get(word)
    if known is None:
        known = SYNONYMS.get(_base(word), word)
    return _key(IRREGULAR.get(known, known))


def _base(word: str) -> str:
    """Without a plural or third-person ending, for a look-up."""
    word = IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]
    return word


def _key(word: str) -> str:
    word = _base(word)
    for ending in ("ing", "ed"):
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) > 2 and _VOWELS & set(rest):
            word = rest
            break
    if word.endswith(("ise", "yse")) and len(word) > 5:
        word = word[:-2] + "ze"
    elif word.endswith(("is", "ys")) and len(word) > 5:
        word = word[:-1] + "z"
    elif word.endswith("our") and len(word) > 4:
        word = word[:-2] + "r"
    elif word.endswith(("tre", "bre")):
        word = word[:-2] + "er"
    word = word.removesuffix("e")
    if len(word) > 2 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "y" if len(word) > 3 and word.endswith("i") else word
