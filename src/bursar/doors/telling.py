"""What the `x-bursar-*` headers say of an answer, the same from every door (contract.md section 3)."""

from bursar.money import format_usd
from bursar.types import Completed, Entry, Headers, Verdict


def facts(entry: Entry | None, attempts: int, *, final: bool, cost_nanos: int | None = None) -> Headers:
    """Which attempt answered, from where and why. final: what it cost is known, if it ever will be.

    cost_nanos: of all attempts and their judges.
    """
    told = [("x-bursar-attempts", str(attempts))]
    if entry is not None:
        told += [("x-bursar-cache", entry.cache), ("x-bursar-route-reason", printable(entry.route_reason))]
        if entry.model is not None:
            told.append(("x-bursar-model", printable(f"{entry.provider}/{entry.model}")))
        if entry.tier is not None:
            told.append(("x-bursar-tier", printable(entry.tier)))
        if final:
            told.append(("x-bursar-cost-status", entry.cost_status))
            if cost_nanos is not None:
                told.append(("x-bursar-cost-usd", format_usd(cost_nanos)))
            if entry.saved_nanos is not None:
                told.append(("x-bursar-saved-usd", format_usd(entry.saved_nanos)))
    return tuple(told)


def validated(verdict: Verdict) -> bool | None:
    """Whether the answer passed its check; None: nobody judged it, or there is none."""
    if not isinstance(verdict.outcome, Completed):
        return None
    if verdict.flagged:
        return False
    return None if verdict.entry is None else verdict.entry.validated


def validation(verdict: Verdict) -> Headers:
    """`x-bursar-validated: false` is the flag of an answer that passed no check; left out where nobody judged."""
    passed = validated(verdict)
    return () if passed is None else (("x-bursar-validated", str(passed).lower()),)


def printable(text: str) -> str:
    """A model's name comes from a body: nothing of it may break out of a header."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
