"""What the agents' users check their answers by: from the request and the answer alone, as anybody could.

No check knows what is right. Each says that an answer passes, or raises ValueError with what is wrong, which the model
is told. How much a check sees differs: that of `risks` only finds clauses that there are not.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel

from bursar.doors.demo.legal import Classified, Dates, Deviations, Obligations, Parties, Risks
from bursar.types import Answer

M = TypeVar("M", bound=BaseModel)

_CLAUSE = re.compile(r"^(\d+)\. .*\n(.*)$", re.MULTILINE)
_DUTY = re.compile(r"\b(?:The Supplier|The Customer|It) (?!may\b|is\b)\w+s\b")
"""As in "The Supplier reports": somebody has to do something."""
_BLANK = "____"


def about(title: str, step: str) -> str:
    """How every complaint begins: which contract, and which step."""
    return f"{title}, {step}: "


def kind(answer: Answer) -> bool:
    """The kind stands in the contract's title."""

    def look(found: Classified, contract: str) -> None:
        title = contract.partition("\n")[0]
        _must(found.kind.upper() in title, f"{found.kind!r} is not what the title says")

    return _passes(answer, "classify", Classified, look)


def parties(answer: Answer) -> bool:
    """Both names stand in the contract."""

    def look(found: Parties, contract: str) -> None:
        for name in (found.supplier, found.customer):
            _must(name in contract, f"the contract names no {name!r}")
        _must(found.supplier != found.customer, "supplier and customer are the same")

    return _passes(answer, "parties", Parties, look)


def dates(answer: Answer) -> bool:
    """Both dates, the notice and the fee stand in the contract, and it ends after it begins."""

    def look(found: Dates, contract: str) -> None:
        for words in (found.effective, found.expires, f"{found.notice_days} days", f"EUR {found.fee}"):
            _must(words in contract, f"the contract does not say {words!r}")
        _must(found.effective < found.expires, "it ends before it begins")

    return _passes(answer, "dates", Dates, look)


def obligations(answer: Answer) -> bool:
    """Parties and clauses are the contract's, and no clause is left out in which somebody has to do something."""

    def look(found: Obligations, contract: str) -> None:
        _stand(found, contract)
        named = {item.clause for item in found.items}
        left_out = [at for at, text in clauses(contract).items() if _DUTY.search(text) and at not in named]
        _must(not left_out, f"clause {', '.join(left_out)} has an obligation that is not listed")

    return _passes(answer, "obligations", Obligations, look)


def obligations_stand(answer: Answer) -> bool:
    """Weaker: parties and clauses are the contract's. What is left out is not looked for."""
    return _passes(answer, "obligations", Obligations, _stand)


def _stand(found: Obligations, contract: str) -> None:
    known = clauses(contract)
    for item in found.items:
        _must(item.clause in known, f"there is no clause {item.clause!r}")
        _must(item.party in contract, f"{item.party!r} is no party")


def risks(answer: Answer) -> bool:
    """The clauses are in the contract."""

    def look(found: Risks, contract: str) -> None:
        for item in found.items:
            _must(item.clause in clauses(contract), f"there is no clause {item.clause!r}")

    return _passes(answer, "risks", Risks, look)


def deviations(answer: Answer) -> bool:
    """The clauses named are those whose words are not the standard's, its blanks filled in."""

    def look(found: Deviations, request: str) -> None:
        contract, _, house = request.partition("<standard>\n")
        usual = {clause: _filled(text) for clause, text in clauses(house).items()}
        own = clauses(contract)
        odd = {clause for clause, text in own.items() if clause in usual and not usual[clause].fullmatch(text)}
        for clause in found.clauses:
            _must(clause in odd, f"clause {clause!r} does not depart from the standard")
        _must(odd <= {*found.clauses}, f"not every clause that departs is named: {len(odd)} do")

    return _passes(answer, "compare", Deviations, look)


def deviations_stand(answer: Answer) -> bool:
    """Weaker: the clauses are in the contract."""

    def look(found: Deviations, request: str) -> None:
        own = clauses(request.partition("<standard>\n")[0])
        for clause in found.clauses:
            _must(clause in own, f"there is no clause {clause!r}")

    return _passes(answer, "compare", Deviations, look)


def judgement(answer: Answer) -> bool:
    """The yearly fee that was found is told."""
    title = answer.request.removeprefix("<findings>\n").partition("\n")[0]
    fee = re.search(r'"fee":"([^"]*)"', answer.request)
    if fee is None or f"EUR {fee[1]}" in answer.text:
        return True
    raise ValueError(about(title, "summary") + "it does not tell the yearly fee")


def clauses(text: str) -> dict[str, str]:
    """The words of each numbered clause."""
    return dict(_CLAUSE.findall(text))


def _filled(text: str) -> re.Pattern[str]:
    return re.compile(".+?".join(map(re.escape, text.split(_BLANK))))


def _passes(answer: Answer, step: str, shape: type[M], look: Callable[[M, str], None]) -> bool:
    """The answer, or the arguments of its call, has that shape and stands up to a look at it beside the request."""
    request = answer.request.removeprefix("<contract>\n")
    text = answer.tool_calls[0].arguments if answer.tool_calls else answer.text
    try:
        look(shape.model_validate_json(text), request)
    except ValueError as fault:
        raise ValueError(about(request.partition("\n")[0], step) + str(fault)) from None
    return True


def _must(holds: bool, complaint: str) -> None:
    if not holds:
        raise ValueError(complaint)
