# ruff: noqa: E501  (a clause stands on a line)
"""Contracts for the document analyst, made from a seed, each with all that is to be found in it.

Nothing here can fail: the same number gives the same contract, clause for clause.
"""

from datetime import date, timedelta
from random import Random

import msgspec

from bursar.doors.demo.legal import (
    Classified,
    Dates,
    Deviations,
    Kind,
    Obligation,
    Obligations,
    Parties,
    Risk,
    Risks,
)  # fmt: skip

_FIRST = ("Alder", "Birch", "Calder", "Dunmore", "Elster", "Fenwick", "Garland", "Harrow", "Ilford", "Juniper")
_SECOND = (
    "Analytics",
    "Foods",
    "Instruments",
    "Logistics",
    "Media",
    "Optics",
    "Pharma",
    "Systems",
    "Textiles",
    "Water",
)
_FORMS = ("Ltd", "GmbH", "plc", "S.A.", "B.V.")
_KINDS: tuple[Kind, ...] = ("services", "licence", "supply", "lease", "confidentiality", "consultancy")
_ITEMS = ("inspection", "delivery", "on-call duty", "training day", "licence seat", "storage", "report", "maintenance")

_CLAUSES = (
    ("Definitions", "In this agreement, Supplier means {supplier} and Customer means {customer}. Confidential Information means all information that a party discloses in connection with this agreement, in whatever form, unless it is public, was known before, or was developed independently and this can be shown by written records. Business Day means any day on which banks are open for general business at the seat of the Customer."),
    ("Term", "This agreement takes effect on {effective} and runs until {expires}. It is extended by one year at a time unless one of the parties gives notice in writing at least {notice} days before the end of the term then running. The right to terminate for good cause remains unaffected; good cause is in particular the insolvency of a party or a delay in payment of more than sixty days."),
    ("Supplier's duties", "The Supplier provides the performance set out in Schedule A with the care of a prudent businessman, by staff who are qualified for it, and keeps records of it for six years. It reports to the Customer in writing by the tenth Business Day of every month, and informs the Customer without delay where it becomes aware that a date or a quality cannot be met, stating the cause and the remedy."),
    ("Customer's duties", "The Customer names a person who is authorised to decide, gives the Supplier access to the premises, systems and data that it needs, and pays every undisputed invoice within {days} days of its receipt. Objections to an invoice are raised in writing within that period, with reasons; the undisputed part is paid in any case."),
    ("Fees", "The yearly fee is EUR {fee}, payable in four equal parts at the beginning of each quarter, plus value added tax at the statutory rate. Travel costs are reimbursed on proof at the rates of Schedule A. The fee may be raised once a year by the change of the consumer price index, on three months' notice; a rise of more than five percent gives the Customer the right to terminate."),
    ("Intellectual property", "Each party keeps the rights that it had before. Rights in what is made for the Customer under this agreement pass to the Customer on payment; until then the Customer may use it for the purposes of this agreement. The Supplier may go on using general knowledge, methods and tools, provided that no Confidential Information of the Customer is disclosed by it."),
    ("Confidentiality", "Each party keeps the other's Confidential Information secret during the term and for five years after it, uses it for the purposes of this agreement only, and gives it only to staff and advisers who need it and are bound by equal duties. Where a court or an authority demands disclosure, the other party is told in time to object, as far as the law allows it."),
    ("Data protection", "Where the Supplier processes personal data on behalf of the Customer, the parties conclude an agreement as required by law before the processing begins. The Supplier reports a breach within {hours} hours of becoming aware of it, names the categories of data and persons concerned, and supports the Customer in its duties towards authorities and persons concerned at its own expense."),
    ("Liability", "Each party is liable without limit for intent and gross negligence. For slight negligence the Supplier is liable only for the breach of duties that are essential to this agreement, and up to {cap} of the yearly fee in a contract year; liability for lost profit, loss of data and consequential damage is excluded in that case. Liability under mandatory law remains unaffected."),
    ("Warranty", "The Supplier warrants that its performance conforms to Schedule A and infringes no third party's rights. It remedies a defect within ten Business Days of notice; where two attempts fail, the Customer may reduce the fee or, where the defect is serious, withdraw. Claims lapse twelve months after performance, save for fraudulent concealment."),
    ("Insurance", "The Supplier maintains liability insurance of at least EUR 5,000,000 for personal injury and property damage and EUR 1,000,000 for financial loss for each event, with an insurer licensed in the European Economic Area, for the term and two years after it, and proves it on request. A reduction of the cover is notified at once."),
    ("Subcontractors", "The Supplier may use subcontractors only {subcontract}. It binds them by the duties of this agreement, in particular those of confidentiality and data protection, and answers for them as for its own staff. The Customer may object to a subcontractor for good cause, which includes competition with the Customer."),
    ("Force majeure", "Neither party answers for a failure that is caused by circumstances beyond its control which could not be foreseen, such as war, epidemic, strike at a third party, or the failure of public networks. The party concerned informs the other at once. Where the obstacle lasts longer than ninety days, either party may terminate with effect for the future."),
    ("Assignment", "Neither party may assign this agreement or single rights under it without the other's prior written consent, which may not be withheld unreasonably. {assignment} Section 354a of the Commercial Code and similar mandatory provisions remain unaffected."),
    ("Final provisions", "Amendments are made in writing; this also holds for a waiver of this requirement. Should a provision be void, the others remain in force, and the parties replace the void one by a valid one that comes closest to what they meant. This agreement is governed by the law of {law}, without its rules on the conflict of laws. Place of jurisdiction is the seat of the Customer."),
)  # fmt: skip
_USUAL = {
    "days": "30", "hours": "24", "cap": "100 percent", "law": "the Netherlands",
    "subcontract": "with the Customer's prior written consent", "assignment": "A change of control counts as an assignment.",
}  # fmt: skip
_UNUSUAL = {
    "days": ("10", "Customer's duties", "invoices fall due after ten days", "low"),
    "hours": ("96", "Data protection", "a breach is reported too late for the authority's deadline", "high"),
    "cap": ("10 percent", "Liability", "damages are capped at a tenth of the yearly fee", "high"),
    "law": ("the State of Delaware", "Final provisions", "foreign law governs the contract", "medium"),
    "subcontract": ("at its own discretion", "Subcontractors", "subcontractors are used without consent", "medium"),
    "assignment": (
        "A change of control of the Supplier does not count as an assignment.",
        "Assignment",
        "the supplier may be sold to a competitor",
        "medium",
    ),
}


class Contract(msgspec.Struct, frozen=True):
    """A contract, and what a right analysis finds in it."""

    number: int
    text: str
    fee: str
    classified: Classified
    parties: Parties
    dates: Dates
    obligations: Obligations
    risks: Risks
    deviations: Deviations

    @property
    def title(self) -> str:
        """Its first line."""
        return self.text.partition("\n")[0]


def contract(number: int) -> Contract:
    """The contract of that number: the same in every run of the demo."""
    lot = Random(f"contract {number}")
    kind = _KINDS[number % len(_KINDS)]
    supplier, customer = (f"{a} {b} {lot.choice(_FORMS)}" for a, b in zip(lot.sample(_FIRST, 2), lot.sample(_SECOND, 2), strict=True))  # fmt: skip
    start = date(2024, 1, 1) + timedelta(days=lot.randrange(700))
    end = start + timedelta(days=365 * lot.randint(1, 5))
    notice = lot.choice((30, 60, 90, 180))
    fee = f"{lot.randint(20, 900)},{lot.randint(0, 9)}00.00"
    dates = Dates(effective=start.isoformat(), expires=end.isoformat(), notice_days=notice, fee=fee)
    odd = sorted(lot.sample(sorted(_UNUSUAL), lot.randint(1, 4)))
    facts = {**_USUAL, **{name: _UNUSUAL[name][0] for name in odd}}
    words = {"supplier": supplier, "customer": customer, "effective": dates.effective, "expires": dates.expires}
    body = _body(facts | words | {"notice": str(notice), "fee": fee})
    head = f"{kind.upper()} AGREEMENT No. {number + 1}\n\nbetween {supplier} and {customer}"
    return Contract(
        number,
        f"{head}\n\n{body}\n\nSchedule A\n\n{_schedule(lot)}",
        fee,
        Classified(kind=kind),
        Parties(supplier=supplier, customer=customer),
        dates,
        _obligations(supplier, customer),
        Risks(items=[_risk(name) for name in odd]),
        Deviations(clauses=[_clause(_UNUSUAL[name][1]) for name in odd], comment=f"{len(odd)} clauses depart."),
    )


def standard() -> str:
    """The house standard that contracts are compared with."""
    blank = "____"
    names = ("supplier", "customer", "effective", "expires", "notice", "fee")
    return _body({**_USUAL, **dict.fromkeys(names, blank)})


def _body(facts: dict[str, str]) -> str:
    clauses = [f"{n}. {title}\n{text.format_map(facts)}" for n, (title, text) in enumerate(_CLAUSES, 1)]
    return "\n\n".join(clauses)


def _clause(title: str) -> str:
    return str(1 + [name for name, _ in _CLAUSES].index(title))


def _risk(name: str) -> Risk:
    _, title, risk, severity = _UNUSUAL[name]
    return Risk(clause=_clause(title), risk=risk, severity=severity)  # type: ignore[arg-type]


def _obligations(supplier: str, customer: str) -> Obligations:
    duties = (
        (supplier, "keep records for six years", "Supplier's duties"),
        (supplier, "report in writing by the tenth Business Day of every month", "Supplier's duties"),
        (supplier, "inform the Customer without delay where a date or a quality cannot be met", "Supplier's duties"),
        (customer, "name a person who is authorised to decide", "Customer's duties"),
        (customer, "give access to premises, systems and data", "Customer's duties"),
        (customer, "pay every undisputed invoice in time", "Customer's duties"),
        (customer, "pay the yearly fee in four equal parts", "Fees"),
        (supplier, "keep Confidential Information secret for five years after the term", "Confidentiality"),
        (customer, "keep Confidential Information secret for five years after the term", "Confidentiality"),
        (supplier, "report a breach of personal data", "Data protection"),
        (supplier, "remedy a defect within ten Business Days", "Warranty"),
        (supplier, "maintain liability insurance and prove it on request", "Insurance"),
        (supplier, "bind subcontractors by the duties of the agreement", "Subcontractors"),
    )
    return Obligations(items=[Obligation(party=p, duty=d, clause=_clause(title)) for p, d, title in duties])


def _schedule(lot: Random) -> str:
    rows = [
        f"A.{n}  {lot.choice(_ITEMS)}, site {lot.randint(1, 40)}, unit {lot.choice('ABCDEF')}{lot.randint(10, 99)}: "
        f"{lot.randint(1, 48)} a year at EUR {lot.randint(40, 4000)}.{lot.randint(10, 99)} each"
        for n in range(1, lot.randint(90, 220))
    ]
    return "\n".join(rows)
