"""The demo's legal analyst by hand-made tiers and by learned ones: what a document costs, and how much of it is right.

    python benchmarks/legal.py [--documents 200] [--seeds 0 1 2] [--prices contract 1:10:50] [--json]

Real SDK, real sockets, a bursar.toml of each kind. All read the document in six steps and write the judgement from what
was found. Figures are of the second half of the documents; the sandbox knows what is right, the checks do not.
`frontier`: every step on the frontier model. `hand`: two steps on small, four on mid, the judgement on frontier; what
fails its check is mended once, then goes to the frontier. `bare`: the same tiers, and nobody checks. `auto`: every step
learned, from an empty ledger; the first half of the documents teaches. `weak`: the same, with checks that only look
whether what is named exists, and no model smaller than mid where these see little.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from anthropic import Anthropic

from bursar import Guard
from bursar.config import load
from bursar.doors.demo import acts, legal, workload
from bursar.doors.demo.contracts import Contract, contract, standard
from bursar.doors.open import Books, open_books
from bursar.sandbox import SandboxServer, Settings

POLICIES = ("frontier", "hand", "bare", "auto", "weak")
Z95 = 1.96
CHECKS = {
    "classify": "kind", "parties": "parties", "dates": "dates", "obligations": "obligations", "risks": "risks",
    "compare": "deviations", "summary": "judgement",
}  # fmt: skip
"""The step's check in bursar.doors.demo.checks."""
HAND = {
    "classify": ("small", "frontier"), "parties": ("small", "frontier"), "dates": ("mid", "frontier"),
    "obligations": ("mid", "frontier"), "risks": ("mid", "frontier"), "compare": ("mid", "frontier"),
    "summary": ("frontier",),
}  # fmt: skip
FLOORS = {"risks": "mid"}
"""Where a check sees too little to vouch for the smallest model."""
WEAK = {"obligations": "obligations_stand", "compare": "deviations_stand"}
"""The same steps' checks where nobody looks for what is left out: these get that floor too."""
TIERS = """
[tiers]
small = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"]
mid = ["openai/gpt-4o"]
frontier = ["anthropic/claude-opus-4-8"]
"""
PRICES = {
    "contract": "",
    "1:10:50": """
[prices]
"openai/gpt-4o-mini" = { input = "0.10", output = "0.50", cached = "0.05" }
"openai/gpt-4o" = { input = "1.00", output = "5.00", cached = "0.50" }
"anthropic/claude-opus-4-8" = { input = "5.00", output = "25.00", cached = "0.50" }
""",
}
"""The list prices of the tiers of contract.md, and others in that ratio."""


class Played(NamedTuple):
    """One policy over some documents."""

    nanos: list[int]
    """What each document cost, in nano-dollars, repairs and escalations included."""
    right: list[int]
    """How many of its seven steps were right."""
    tiers: dict[str, int]
    """Completed attempts by tier."""
    bill: int
    """Nano-dollars of all of them by the provider's own account, at its list prices."""
    ledger: int

    @property
    def mean(self) -> float:
        """Nano-dollars of a document."""
        return sum(self.nanos) / len(self.nanos)

    @property
    def share(self) -> tuple[float, float]:
        """The share of steps that were right, and half its 95 % interval, by the spread between documents."""
        shares = [right / len(legal.ASKS) for right in self.right]
        mean = sum(shares) / len(shares)
        spread = sqrt(sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1))
        return mean, Z95 * spread / sqrt(len(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--prices", nargs="+", choices=PRICES, default=list(PRICES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for prices in options.prices:
        for seed in options.seeds:
            for line in lines(prices, seed, options.documents):
                print(json.dumps(line) if options.json else _told(line), flush=True)


def lines(prices: str, seed: int, documents: int) -> Iterator[dict[str, Any]]:
    """One line a policy: cost of a document, what is saved of the frontier's, and the share of right answers."""
    half = documents // 2
    late = range(half, documents)
    all_top = hand = 0.0
    for policy in POLICIES:
        played = play(policy, prices, seed, range(documents) if policy in ("auto", "weak") else late, late)
        all_top, hand = (played.mean if policy == "frontier" else all_top), (played.mean if policy == "hand" else hand)
        share, half_width = played.share
        yield {
            "prices": prices, "seed": seed, "policy": policy, "documents": len(played.nanos),
            "usd_per_document": played.mean / 1e9, "saved": 1 - played.mean / all_top,
            "of_hand": played.mean / hand if hand else None, "right": share, "right_ci95": half_width,
            "attempts": played.tiers, "exact": played.bill == played.ledger if prices == "contract" else None,
        }  # fmt: skip


def play(policy: str, prices: str, seed: int, documents: Sequence[int], counted: Sequence[int]) -> Played:
    """A policy over documents, one after another, from an empty ledger; the figures are of those that are counted."""
    house = standard()
    cases = [contract(number) for number in documents]
    tasks = tuple(task for case in cases for task in workload.analysis(case, house))
    with (
        tempfile.TemporaryDirectory() as folder,
        SandboxServer(Settings(seed=seed, tasks=tasks, chunk_tokens=64, keep_requests=0)) as server,
        acts.guard(told := _books(Path(folder), policy, prices, server.url)) as guard,
        guard.http_client(trust_env=False, provider="anthropic") as http,
        Anthropic(base_url=server.url, api_key=acts.KEY, http_client=http) as client,
    ):
        right = {case.number: _read(guard, client, case, house) for case in cases}
        guard.flush()
        spent = {line.key: line.counts.cost_nanos for line in told.store.spend("session")}
        tiers = {line.key or "": line.counts.attempts for line in told.store.spend("tier")}
        nanos = [spent[workload.client_of(number)["session"]] for number in counted]
        bill = server.bill.total_nanos()
    return Played(nanos, [right[number] for number in counted], tiers, bill, sum(spent.values()))


def _read(guard: Guard, client: Anthropic, case: Contract, house: str) -> int:
    analysis = legal.analyse(guard, client, case.text, house, **workload.client_of(case.number))
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{case.number} ")
    return workload.right_findings(case, analysis)


def _books(folder: Path, policy: str, prices: str, url: str) -> Books:
    """By a configuration file, as a user would write it."""
    config = folder / "bursar.toml"
    config.write_text(configuration(policy, prices))
    environ = {
        **acts.ENVIRON, "BURSAR_STORE__URL": "memory://",
        "BURSAR_PROVIDERS__OPENAI__BASE_URL": f"{url}/v1", "BURSAR_PROVIDERS__ANTHROPIC__BASE_URL": url,
    }  # fmt: skip
    return open_books(load(config, environ), environ)


def configuration(policy: str, prices: str) -> str:
    """The bursar.toml of a policy."""
    steps = {"frontier": lambda step: "", "hand": _by_hand, "bare": _unchecked, "auto": _learned, "weak": _weakly}[
        policy
    ]
    return TIERS + PRICES[prices] + "".join(map(steps, CHECKS))


def _by_hand(step: str) -> str:
    first, *others = HAND[step]
    cascade = f"cascade = {json.dumps(HAND[step])}\n" if others else ""
    return f'{_matched(step)}tier = "{first}"\n{cascade}'


def _unchecked(step: str) -> str:
    return f'[[steps]]\nmatch = {{ agent = "legal", step = "{step}" }}\ntier = "{HAND[step][0]}"\n'


def _learned(step: str) -> str:
    floor = f'min_tier = "{FLOORS[step]}"\n' if step in FLOORS else ""
    return f'{_matched(step)}tier = "auto"\n{floor}'


def _weakly(step: str) -> str:
    if step not in WEAK:
        return _learned(step)
    return f'{_matched(step, WEAK[step])}tier = "auto"\nmin_tier = "mid"\n'


def _matched(step: str, named: str | None = None) -> str:
    check = f"bursar.doors.demo.checks:{named or CHECKS[step]}"
    return f'[[steps]]\nmatch = {{ agent = "legal", step = "{step}" }}\nvalidate = {{ python = "{check}" }}\n'


def _told(line: dict[str, Any]) -> str:
    of_hand = "" if line["policy"] not in ("auto", "weak") else f", {line['of_hand']:.2f} of hand"
    attempts = ", ".join(f"{tier} {number}" for tier, number in sorted(line["attempts"].items()))
    return (
        f"{line['prices']:<9} seed {line['seed']} {line['policy']:<9} ${line['usd_per_document']:.5f} a document, "
        f"saved {line['saved']:.1%}{of_hand}; right {line['right']:.2%} +- {line['right_ci95']:.2%}; {attempts}"
    )


if __name__ == "__main__":
    main()
