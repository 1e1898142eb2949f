"""The legal document analyst, as its users would write it: Anthropic's SDK, seven steps, structured output, streaming.

Six steps send the whole contract to the frontier model, the easy ones too; the last is written from what they found. An
answer that does not fit its schema raises pydantic's ValidationError; errors of the SDK reach the caller.
"""

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from anthropic import Anthropic

    from bursar import Guard

MODEL = "claude-opus-4-8"
SYSTEM = """\
You analyse commercial contracts for an in-house legal team. You read the contract that you are given, and nothing else.
Quote names, dates and amounts exactly as they stand in the contract. Dates are given as YYYY-MM-DD. Refer to clauses by
their numbers. Where the contract is silent, leave the field empty; never fill it from what contracts usually say."""

Kind = Literal["services", "licence", "supply", "lease", "confidentiality", "consultancy"]
M = TypeVar("M", bound=BaseModel)


class Classified(BaseModel):
    """What sort of contract it is."""

    kind: Kind


class Parties(BaseModel):
    """Who contracts."""

    supplier: str
    customer: str


class Dates(BaseModel):
    """When it starts and ends, the notice in days, and the yearly fee in EUR."""

    effective: str
    expires: str
    notice_days: int
    fee: str


class Obligation(BaseModel):
    """A duty: whose, what, and the clause."""

    party: str
    duty: str
    clause: str


class Obligations(BaseModel):
    """Every duty in the contract."""

    items: list[Obligation]


class Risk(BaseModel):
    """A risk for the customer, and its clause."""

    clause: str
    risk: str
    severity: Literal["low", "medium", "high"]


class Risks(BaseModel):
    """Every risk in the contract."""

    items: list[Risk]


class Deviations(BaseModel):
    """Clauses that depart from the house standard."""

    clauses: list[str]
    comment: str


class Analysis(BaseModel):
    """All that the seven steps found."""

    classified: Classified
    parties: Parties
    dates: Dates
    obligations: Obligations
    risks: Risks
    deviations: Deviations
    summary: str


ASKS = {
    "classify": "What kind of contract is this?",
    "parties": "Who are the parties? Record the supplier and the customer.",
    "dates": "From when to when does it run, with what notice can it be ended, what is the yearly fee? Record it.",
    "obligations": "List every obligation: the party that owes it, what is owed, and the clause.",
    "risks": "List every risk for the customer: the clause, the risk, and how severe it is.",
    "compare": "Compare the contract with our house standard. Which clauses depart from it?",
    "summary": "Judge for the managing director, on one page: the yearly cost, what speaks against it, what to do.",
}


def prompt(step: str, contract: str, standard: str = "") -> str:
    """The text of a step: the contract, for `compare` the house standard, and the question."""
    house = f"<standard>\n{standard}\n</standard>\n\n" if standard else ""
    return f"<contract>\n{contract}\n</contract>\n\n{house}{ASKS[step]}"


def findings(contract: str, *found: BaseModel) -> str:
    """The text of the last step: the contract's title, what the steps before it found, and the question."""
    lines = [contract.partition("\n")[0], *(one.model_dump_json() for one in found)]
    return "\n".join(["<findings>", *lines, "</findings>", "", ASKS["summary"]])


def analyse(
    guard: "Guard", client: "Anthropic", contract: str, standard: str, *, user: str, session: str, user_tier: str
) -> Analysis:
    """One contract in seven steps."""
    with guard.run(agent="legal", user=user, session=session, user_tier=user_tier) as run:
        with run.step("classify"):
            classified = extract(client, prompt("classify", contract), Classified)
        with run.step("parties"):
            parties = record(client, prompt("parties", contract), Parties)
        with run.step("dates"):
            dates = record(client, prompt("dates", contract), Dates)
        with run.step("obligations"):
            obligations = extract(client, prompt("obligations", contract), Obligations)
        with run.step("risks"):
            risks = extract(client, prompt("risks", contract), Risks)
        with run.step("compare"):
            deviations = extract(client, prompt("compare", contract, standard), Deviations)
        with run.step("summary"):
            found = (classified, parties, dates, obligations, risks, deviations)
            summary = write(client, findings(contract, *found))
    return Analysis(
        classified=classified,
        parties=parties,
        dates=dates,
        obligations=obligations,
        risks=risks,
        deviations=deviations,
        summary=summary,
    )


def extract(client: "Anthropic", text: str, shape: type[M]) -> M:
    """An answer of that shape, by structured output."""
    answer = client.messages.parse(
        model=MODEL,
        max_tokens=4000,
        system=SYSTEM,
        messages=[{"role": "user", "content": text}],
        output_format=shape,
    )
    if answer.parsed_output is None:
        raise ValueError(f"no {shape.__name__} in the answer, which ended with {answer.stop_reason}")
    return answer.parsed_output


def record(client: "Anthropic", text: str, shape: type[M]) -> M:
    """An answer of that shape, by a tool that the model has to use."""
    tool: Any = {
        "name": f"record_{shape.__name__.lower()}",
        "description": shape.__doc__,
        "input_schema": shape.model_json_schema(),
    }
    answer = client.messages.create(
        model=MODEL,
        max_tokens=1000,
        system=SYSTEM,
        messages=[{"role": "user", "content": text}],
        tools=[tool],
        tool_choice={"type": "tool", "name": tool["name"]},
    )
    return next(shape.model_validate(block.input) for block in answer.content if block.type == "tool_use")


def write(client: "Anthropic", text: str) -> str:
    """Prose, streamed."""
    message: Any = {"role": "user", "content": text}
    with client.messages.stream(model=MODEL, max_tokens=2000, system=SYSTEM, messages=[message]) as stream:
        return "".join(stream.text_stream)
