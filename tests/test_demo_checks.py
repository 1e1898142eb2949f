"""What the demo's users check answers by: it lets right answers through and sees wrong ones, by the request alone."""

import itertools
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from bursar.doors.demo import checks, legal, workload
from bursar.doors.demo.contracts import Contract, contract, standard
from bursar.types import Answer, ToolCall

CASES = [contract(number) for number in range(30)]
STEPS: dict[str, tuple[Callable[[Answer], bool], str]] = {
    "classify": (checks.kind, "classified"),
    "parties": (checks.parties, "parties"),
    "dates": (checks.dates, "dates"),
    "obligations": (checks.obligations, "obligations"),
    "risks": (checks.risks, "risks"),
    "compare": (checks.deviations, "deviations"),
}


def answered(step: str, case: Contract, found: BaseModel, *, by_tool: bool = False) -> Answer:
    """An answer to the step's own request."""
    request = legal.prompt(step, case.text, standard() if step == "compare" else "")
    told = found.model_dump_json()
    if by_tool:
        return Answer(tool_calls=(ToolCall(f"record_{step}", told),), request=request)
    return Answer(text=told, request=request)


@pytest.mark.parametrize("step", STEPS)
def test_what_is_right_passes(step: str) -> None:
    """As text, and as the arguments of a tool's call."""
    check, field = STEPS[step]
    for case in CASES:
        for by_tool in (False, True):
            assert check(answered(step, case, getattr(case, field), by_tool=by_tool)) is True


@pytest.mark.parametrize("step", [step for step in STEPS if step != "risks"])
def test_what_another_contract_says_is_refused(step: str) -> None:
    """And the complaint says which contract and which step it is about."""
    check, field = STEPS[step]
    for case, other in itertools.pairwise(CASES):
        if getattr(case, field) == getattr(other, field):
            continue
        with pytest.raises(ValueError, match=rf"\A{case.title}, {step}: "):
            check(answered(step, case, getattr(other, field)))


def test_a_clause_left_out_is_seen_where_the_request_tells_it() -> None:
    """The last obligation, the last deviation. Of risks the contract alone does not tell: only made-up clauses are."""
    for case in CASES:
        fewer = case.obligations.model_copy(update={"items": case.obligations.items[:-1]})
        with pytest.raises(ValueError, match="has an obligation that is not listed"):
            checks.obligations(answered("obligations", case, fewer))
        less = case.deviations.model_copy(update={"clauses": case.deviations.clauses[:-1]})
        with pytest.raises(ValueError, match="not every clause that departs is named"):
            checks.deviations(answered("compare", case, less))
        risk = case.risks.items[0].model_copy(update={"clause": "99"})
        assert checks.risks(answered("risks", case, case.risks.model_copy(update={"items": []})))
        with pytest.raises(ValueError, match="there is no clause '99'"):
            checks.risks(answered("risks", case, case.risks.model_copy(update={"items": [risk]})))


def test_a_weaker_check_looks_whether_what_is_named_exists() -> None:
    """What is left out passes; a clause or a party that there is not does not."""
    case = CASES[0]
    items, clauses = case.obligations.items, case.deviations.clauses
    assert checks.obligations_stand(answered("obligations", case, legal.Obligations(items=items[:1])))
    assert checks.deviations_stand(answered("compare", case, legal.Deviations(clauses=clauses[:-1], comment="")))
    for update, complaint in (({"clause": "99"}, "there is no clause '99'"), ({"party": "Nobody"}, "'Nobody' is no")):
        with pytest.raises(ValueError, match=complaint):
            wrong = legal.Obligations(items=[items[0].model_copy(update=update)])
            checks.obligations_stand(answered("obligations", case, wrong))
    with pytest.raises(ValueError, match="there is no clause '99'"):
        checks.deviations_stand(answered("compare", case, legal.Deviations(clauses=["99"], comment="")))


def test_what_is_no_such_answer_is_refused() -> None:
    """Prose, and JSON of another shape."""
    case = CASES[0]
    for text in ("I am not sure.", "{}", '{"kind": "marriage"}'):
        for step, (check, _) in STEPS.items():
            with pytest.raises(ValueError, match=rf"\A{case.title}, {step}: "):
                check(Answer(text=text, request=legal.prompt(step, case.text)))


def test_the_judgement_tells_the_fee_that_was_found() -> None:
    """Whatever it was: the last step is judged by what it was given."""
    case = CASES[0]
    found = [getattr(case, field) for _, field in STEPS.values()]
    request = legal.findings(case.text, *found)
    assert request.startswith(f"<findings>\n{case.title}\n")
    assert checks.judgement(Answer(text=f"It costs EUR {case.fee} a year.", request=request))
    with pytest.raises(ValueError, match=rf"\A{case.title}, summary: "):
        checks.judgement(Answer(text="See Schedule A.", request=request))
    analysis = legal.Analysis(**dict(zip([field for _, field in STEPS.values()], found, strict=True)), summary=case.fee)
    assert workload.right_findings(case, analysis) == 7
