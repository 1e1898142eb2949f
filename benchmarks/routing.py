"""The learned chain on recorded answers of real models: its cost and right answers beside the plain ones.

Each row of a data file is one prompt with every model's answer, right or wrong, and its cost. Calls are drawn from the
rows of each step with replacement, the steps in turn, five seeds; every policy sees the same calls and the same
verdicts. `--prices` gives the tiers' costs a call (recorded: each answer's own), `--validator` who judges: `perfect`
is free, `noisy` passes 95 % of the right and 15 % of the wrong answers and costs half a small call. The last tier is
accepted as it answers. Without --json a table is printed, with the bars of the routing evidence marked met or not.

    python benchmarks/routing.py --data FILE ... [--models S,M,L] [--prices 1:3:5] [--validator noisy] [--json]
"""

import argparse
import gzip
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from bursar.money import divide_half_even, parse_usd
from bursar.rules.chain.audit import Labelled, frozen, gaps
from bursar.rules.chain.cost import default_chain
from bursar.rules.chain.decide import Tier, decide, observe
from bursar.rules.chain.state import Step, learn, repool
from bursar.rules.retry import draw

MARKS = (30, 100, 300, 1000)
SEEDS = 5
UNIT = 1_000_000
"""Nano-dollars that a price of 1 stands for."""
POLICIES = ("bursar", "bursar_two_tier", "naive", "always_small", "always_large", "random_mix", "hindsight")

CHAINS = (
    ("claude-3-haiku-20240307-FC", "claude-3-sonnet-20240229-FC", "claude-3-opus-20240229-FC"),
    ("claude-3-haiku-20240307-FC", "claude-3-5-sonnet-20240620-FC", "claude-3-opus-20240229-FC"),
    ("gpt-4o-mini-2024-07-18-FC", "gpt-4o-2024-08-06-FC", "gpt-4-turbo-2024-04-09-FC"),
    ("open-mistral-nemo-2407-FC-Auto", "mistral-small-2402-FC-Auto", "mistral-large-2407-FC-Auto"),
    ("mistralai/mistral-7b-chat", "mistralai/mixtral-8x7b-chat", "gpt-4-1106-preview"),
    ("claude-instant-v1", "claude-v1", "claude-v2"),
    ("mistralai/mixtral-8x7b-chat", "gpt-3.5-turbo-1106", "gpt-4-1106-preview"),
)
"""Each provider's own ladder, by its prices of the time: used where a file has all its models and none are named."""

TABLE_PAIR = ("claude-3-haiku-20240307-FC", "gpt-4o-2024-08-06-FC")
"""The pair that the bars of the step table are stated for."""

Answer = tuple[bool, int]
"""Right or wrong, nano-dollars."""
Row = tuple[Answer, ...]


class Setting(msgspec.Struct, frozen=True):
    file: str
    models: tuple[str, ...]
    prices: str
    validator: str


class Call(msgspec.Struct, frozen=True):
    """One drawn call: for each tier whether it is right, what it costs and whether the validator passes it."""

    right: tuple[bool, ...]
    nanos: tuple[int, ...]
    passes: tuple[bool, ...]
    check: int


class Tally(msgspec.Struct):
    """What a policy has come to."""

    calls: int = 0
    nanos: int = 0
    right: int = 0
    attempts: int = 0

    def add(self, nanos: int, right: bool, attempts: int) -> None:
        self.calls += 1
        self.nanos += nanos
        self.right += right
        self.attempts += attempts


def load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The answers of a file by step: {model: {ok, usd, ...}} a row, amounts as decimals."""
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as text:
        for line in text:
            if line.strip():
                row = json.loads(line, parse_float=Decimal)
                steps[row["task"]].append(row["m"])
    return dict(sorted(steps.items()))


def ladders(steps: dict[str, list[dict[str, Any]]], asked: str | None) -> list[tuple[str, ...]]:
    """The chains to run on a file: the one asked for, else the known ladders, else one made by cost and accuracy."""
    costs, rights = defaultdict(list), defaultdict(list)
    for row in (row for rows in steps.values() for row in rows):
        for model, answer in row.items():
            costs[model].append(float(answer["usd"]))
            rights[model].append(answer["ok"] >= 0.5)
    if asked is not None:
        models = tuple(asked.split(","))
        return [models] if all(model in costs for model in models) else []
    known: list[tuple[str, ...]] = [chain for chain in CHAINS if all(model in costs for model in chain)]
    if known or len(costs) < 2:
        return known
    cost = {model: statistics.fmean(values) for model, values in costs.items()}
    small = min(cost, key=lambda model: cost[model])
    large = max((m for m in cost if m != small), key=lambda m: (statistics.fmean(rights[m]), -cost[m]))
    middle = (cost[small] * cost[large]) ** 0.5
    between = [m for m in cost if cost[small] < cost[m] < cost[large]]
    mid = min(between, key=lambda m: max(cost[m] / middle, middle / cost[m]), default=None)
    return [(small, large) if mid is None else (small, mid, large)]


def scale(prices: str, tiers: int) -> list[int] | None:
    """Nano-dollars a call by tier; None: as recorded. Two tiers take the ends of three prices."""
    if prices == "recorded":
        return None
    parts = [parse_usd(part) // 1000 for part in prices.split(":")]
    parts = [parts[0], parts[-1]] if tiers == 2 else parts
    if len(parts) != tiers:
        raise SystemExit(f"--prices {prices} has {len(parts)} prices for {tiers} models")
    return parts


def rows_of(steps: dict[str, list[dict[str, Any]]], setting: Setting) -> dict[str, list[Row]]:
    fixed = scale(setting.prices, len(setting.models))
    return {
        step: [
            tuple(
                (row[m]["ok"] >= 0.5, fixed[at] if fixed else parse_usd(row[m]["usd"]))
                for at, m in enumerate(setting.models)
            )
            for row in rows
        ]
        for step, rows in (
            (step, [row for row in rows if all(m in row for m in setting.models)]) for step, rows in steps.items()
        )
        if rows
    }


def drawn(rows: list[Row], step: str, number: int, seed: int, noisy: bool) -> Call:
    """The call of this number, the same for every policy."""
    request = f"{step}:{number}"
    row = rows[int(draw(str(seed), request, "row") * len(rows))]
    right = tuple(ok for ok, _ in row)
    passes = right
    if noisy:
        passes = tuple(
            draw(str(seed), request, f"verdict:{at}") < (0.95 if ok else 0.15) for at, ok in enumerate(right)
        )
    return Call(right, tuple(nanos for _, nanos in row), passes, divide_half_even(row[0][1], 2) if noisy else 0)


def walk(call: Call, chain: tuple[int, ...]) -> tuple[int, bool, int]:
    """A fixed chain on one call: nano-dollars, right or wrong, attempts."""
    nanos, attempts = 0, 0
    for at in chain:
        attempts += 1
        nanos += call.nanos[at]
        if at == chain[-1]:
            break
        nanos += call.check
        if call.passes[at]:
            break
    return nanos, call.right[at], attempts


class Learner:
    """Bursar's own rules on one stream of calls: a state for each step, and all of them together."""

    def __init__(self, tiers: tuple[Tier, ...], names: tuple[str, ...], seed: int) -> None:
        self.tiers = tiers
        self.position = {name: at for at, name in enumerate(names)}
        self.seed = str(seed)
        self.steps: dict[str, Step] = {}
        self.pool = Step()
        self.took: list[int] = []
        self.clock = time.thread_time_ns

    def serve(self, call: Call, step: str, request: str) -> tuple[int, bool, int]:
        nanos = 0
        failed: tuple[str, ...] = ()
        while True:
            chance = draw(self.seed, request, f"probe:{len(failed)}")
            state = self.steps.get(step, Step())
            start = self.clock()
            decision = decide(state, self.tiers, failed, chance, pool=self.pool)
            self.took.append(self.clock() - start)
            at = self.position[decision.tier]
            last = decision.tier == self.tiers[-1].name
            ok = None if last else call.passes[at]
            nanos += call.nanos[at] + (0 if last else call.check)
            # Where no price list tells what a check costs, it is learned with the answer that it judges.
            billed = call.nanos[at] + (call.check if self.tiers[0].cost_nanos is None and not last else 0)
            after = observe(state, decision, ok, cost_nanos=billed)
            self.pool = repool(self.pool, state, after)
            self.steps[step] = after
            if ok is not False:
                return nanos, call.right[at], len(failed) + 1
            failed = (*failed, decision.tier)


def tiers_of(setting: Setting) -> tuple[Tier, ...]:
    """The tiers as a request finds them: with a price list, or where only answers tell the cost, without."""
    fixed = scale(setting.prices, len(setting.models))
    check = fixed[0] // 2 if fixed and setting.validator == "noisy" else 0
    return tuple(Tier(model, fixed[at] if fixed else None, check) for at, model in enumerate(setting.models))


def play(rows: dict[str, list[Row]], setting: Setting, seed: int, took: list[int]) -> Iterator[dict[str, Any]]:
    """One seed of one setting: a line for each policy at each number of calls a step."""
    last = len(setting.models) - 1
    subsets = [(*some, last) for size in range(last + 1) for some in combinations(range(last), size)]
    tiers = tiers_of(setting)
    short = default_chain(tiers)
    learners = {"bursar": Learner(tiers, setting.models, seed)}
    if short != tiers:
        learners["bursar_two_tier"] = Learner(short, setting.models, seed)
    fixed = {"naive": tuple(range(last + 1)), "always_small": (0,), "always_large": (last,)}
    sums = {name: Tally() for name in (*learners, *fixed)}
    chains = {step: {chain: Tally() for chain in subsets} for step in rows}
    for number in range(1, MARKS[-1] + 1):
        for step, pool in rows.items():
            call = drawn(pool, step, number, seed, setting.validator == "noisy")
            for name, learner in learners.items():
                sums[name].add(*learner.serve(call, step, f"{step}:{number}"))
            for name, chain in fixed.items():
                sums[name].add(*walk(call, chain))
            for chain, tally in chains[step].items():
                tally.add(*walk(call, chain))
        if number in MARKS:
            best = [min(tallies.values(), key=lambda tally: tally.nanos) for tallies in chains.values()]
            whole = Tally(*(sum(getattr(tally, field) for tally in best) for field in Tally.__struct_fields__))
            yield from lines(setting, seed, number, {**sums, "hindsight": whole})
    took += learners["bursar"].took


def lines(setting: Setting, seed: int, number: int, sums: dict[str, Tally]) -> Iterator[dict[str, Any]]:
    """The lines of one mark. Relative prices are in units of the first price, recorded ones in dollars."""
    unit = 10**9 if setting.prices == "recorded" else UNIT
    small, large, ours = sums["always_small"], sums["always_large"], sums["bursar"]
    share = min(1.0, max(0.0, (ours.nanos - small.nanos) / ((large.nanos - small.nanos) or 1)))
    sums = {"bursar_two_tier": ours, **sums}
    for policy in POLICIES:
        tally = sums.get(policy)
        figures = {"cost": 0.0, "accuracy": 0.0, "calls_per_request": 1.0}
        if tally is None:  # small and large at random, in the proportion that costs what ours costs
            figures["cost"] = ((1 - share) * small.nanos + share * large.nanos) / unit
            figures["accuracy"] = ((1 - share) * small.right + share * large.right) / ours.calls
        else:
            figures["cost"] = tally.nanos / unit
            figures["accuracy"] = tally.right / tally.calls
            figures["calls_per_request"] = tally.attempts / tally.calls
        yield {
            "file": setting.file,
            "setting": f"{','.join(setting.models)} {setting.prices} {setting.validator}",
            "models": list(setting.models),
            "prices": setting.prices,
            "validator": setting.validator,
            "policy": policy,
            "calls_per_step": number,
            "seed": seed,
            "requests": ours.calls,
            "cost": figures["cost"],
            "cost_of_large": large.nanos / unit,
            "accuracy": figures["accuracy"],
            "calls_per_request": figures["calls_per_request"],
        }


def main() -> None:
    asked = arguments()
    prices = [asked.prices] if asked.prices else ["1:10:50", "1:3:5"]
    validators = [asked.validator] if asked.validator else ["perfect", "noisy"]
    every: list[dict[str, Any]] = []
    took: list[int] = []
    files = {str(path): load(path) for path in asked.data}
    for name, steps in files.items():
        chains = ladders(steps, asked.models)
        if not chains:
            models = sorted({model for rows in steps.values() for row in rows for model in row})
            print(f"{name} has not all of {asked.models}; it has {', '.join(models)}", file=sys.stderr)
        for setting in (Setting(Path(name).name, c, p, v) for c in chains for p in prices for v in validators):
            rows = rows_of(steps, setting)
            for seed in range(asked.seeds):
                for line in play(rows, setting, seed, took):
                    every.append(line)
                    if asked.json:
                        print(json.dumps(line), flush=True)
    if not every:
        raise SystemExit(2)
    if not asked.json:
        table(every)
        raise SystemExit(0 if bars(every, files, took) else 1)


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="JSON lines or .gz")
    options.add_argument("--models", metavar="SMALL,MID,LARGE", help="2 to 4 models, cheapest first")
    options.add_argument("--prices", metavar="recorded|1:10:50|1:3:5", help="default: both of the ratios")
    options.add_argument("--validator", choices=("perfect", "noisy"), help="default: both")
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--json", action="store_true")
    return options.parse_args()


def table(every: list[dict[str, Any]]) -> None:
    """Cost over the large tier's, right answers, calls a request: means over the seeds."""
    print(f"{'policy':16}" + "".join(f"{f'{mark} calls a step':>28}" for mark in MARKS))
    print(f"{'':16}" + f"{'cost/large   right  calls':>28}" * len(MARKS))
    for setting, found in groups(every, "file", "setting"):
        print(f"\n{' '.join(setting)}")
        for (policy,), rows in groups(found, "policy"):
            cells = ""
            for (_,), seeds in groups(rows, "calls_per_step"):
                over = mean(seeds, "cost") / mean(seeds, "cost_of_large")
                cells += f"{over:14.3f} {mean(seeds, 'accuracy'):7.1%}{mean(seeds, 'calls_per_request'):6.2f}"
            print(f"{policy:16}{cells}")


def groups(rows: list[dict[str, Any]], *keys: str) -> list[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return list(found.items())


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


class Bars:
    """The bars of the routing evidence: each is printed with what was measured."""

    def __init__(self) -> None:
        self.met = True

    def bar(self, name: str, figure: float, limit: float, unit: str = "", least: bool = False) -> None:
        good = figure >= limit if least else figure <= limit
        self.met &= good
        sign = ">=" if least else "<="
        print(f"{'met    ' if good else 'NOT MET'} {name}: {figure:.3f}{unit} ({sign} {limit}{unit})")


def bars(every: list[dict[str, Any]], files: dict[str, dict[str, list[dict[str, Any]]]], took: list[int]) -> bool:
    """Prints B1-B5 and B7; True where every one is met."""
    print()
    all_bars = Bars()
    chains(every, all_bars)
    for steps in files.values():
        step_table(steps, all_bars)
    drift(all_bars)
    budget(took, all_bars)
    return all_bars.met


def chains(every: list[dict[str, Any]], to: Bars) -> None:
    """B1-B3, over all settings: ratios of the seeds' mean costs."""
    at: dict[tuple[Any, ...], list[dict[str, Any]]] = dict(groups(every, "file", "setting", "calls_per_step", "policy"))
    settings = {(file, setting) for file, setting, _, _ in at}

    def over(setting: tuple[str, str], mark: int, policy: str, other: str) -> float:
        return mean(at[*setting, mark, policy], "cost") / mean(at[*setting, mark, other], "cost")

    for mark in MARKS:
        worst = max(settings, key=lambda s: over(s, mark, "bursar", "naive"))
        to.bar(
            f"B1 cost over naive, worst setting ({worst[1]}), {mark} calls", over(worst, mark, "bursar", "naive"), 1.01
        )
    for mark in MARKS[1:]:
        worst = max(settings, key=lambda s: over(s, mark, "bursar", "always_large"))
        to.bar(f"B1 cost over large, worst setting, {mark} calls", over(worst, mark, "bursar", "always_large"), 1.02)
    saved = {m: statistics.fmean(1 - over(s, m, "bursar", "naive") for s in settings) for m in MARKS}
    best = {m: statistics.fmean(1 - over(s, m, "hindsight", "naive") for s in settings) for m in MARKS}
    for mark, least in ((100, 0.05), (1000, 0.07)):
        to.bar(f"B2 mean saving over naive, {mark} calls, hindsight {best[mark]:.3f}", saved[mark], least, least=True)
    to.bar(
        "B2 share of the hindsight gain, 1000 calls", saved[1000] / best[1000] if best[1000] else 1.0, 0.8, least=True
    )
    for setting in settings:
        if setting[1] == f"{','.join(CHAINS[0])} 1:3:5 perfect":
            saving = 1 - over(setting, 100, "bursar_two_tier", "naive")
            to.bar("B2 BFCL-Anthropic 1:3:5 perfect, 100 calls, two tiers as by default", saving, 0.25, least=True)
            print(f"        the same with all three tiers: {1 - over(setting, 100, 'bursar', 'naive'):.3f}")
    for validator, other, limit in (("perfect", "always_large", -0.005), ("noisy", "naive", -0.025)):
        loss = {
            s: mean(at[*s, 1000, "bursar"], "accuracy") - mean(at[*s, 1000, other], "accuracy")
            for s in settings
            if s[1].endswith(validator)
        }
        if loss:
            worst = min(loss, key=lambda s: loss[s])
            missed = f"{sum(value < limit for value in loss.values())} of {len(loss)} settings miss, worst {worst[1]}"
            to.bar(f"B3 right answers over {other} ({missed})", loss[worst], limit, least=True)


def step_table(steps: dict[str, list[dict[str, Any]]], to: Bars) -> None:
    """B4: routing by a table of labelled rows alone, on the rows that were left out, ten draws."""
    small, large = TABLE_PAIR
    rows = [
        (step, row[small], row[large]) for step, found in steps.items() for row in found if {small, large} <= {*row}
    ]
    if not rows:
        return
    for labelled in (50, len(rows) // 2):
        gained, quality, cost = [], [], []
        for seed in range(10):
            order = sorted(range(len(rows)), key=lambda at: draw(str(seed), str(at), "label"))
            known = label([rows[at] for at in order[:labelled]])
            left = [rows[at] for at in order[labelled:]]
            gained.append(apgr(left, gaps(known)))
            chosen = frozen(known)
            picked = [(a, b)[step not in chosen] for step, a, b in left]
            quality.append(sum(a["ok"] for a in picked) / sum(b["ok"] for _, _, b in left))
            cost.append(float(sum(a["usd"] for a in picked) / sum(b["usd"] for _, _, b in left)))
        spread = f"+- {1.96 * statistics.stdev(gained) / len(gained) ** 0.5:.3f}"
        goal = 0.80 if labelled == 50 else 0.84
        to.bar(f"B4 APGR of the step table from {labelled} rows ({spread})", statistics.fmean(gained), goal, least=True)
        if labelled > 50:
            to.bar("B4 frozen at 99 %: quality over large", statistics.fmean(quality), 0.985, least=True)
            to.bar("B4 frozen at 99 %: cost over large", statistics.fmean(cost), 0.70)


def label(rows: list[tuple[str, Any, Any]]) -> dict[str, Labelled]:
    return {
        step: Labelled(len(found), sum(a["ok"] >= 0.5 for _, a, _ in found), sum(b["ok"] >= 0.5 for _, _, b in found))
        for step in sorted({step for step, _, _ in rows})
        for found in [[row for row in rows if row[0] == step]]
    }


def apgr(rows: list[tuple[str, Any, Any]], gap: dict[str, float]) -> float:
    """Average share of the gap recovered as the large tier takes 0 to 100 % of the rows, greatest gap first.

    Rows of equal gap are taken in proportion: the curve is straight over them.
    """
    whole = sum(b["ok"] - a["ok"] for _, a, b in rows)
    recovered, area = 0.0, 0.0
    by_gap: dict[float, list[float]] = defaultdict(list)
    for step, a, b in rows:
        by_gap[gap.get(step, 0.0)].append(float(b["ok"] - a["ok"]))
    for _, gains in sorted(by_gap.items(), reverse=True):
        area += len(gains) / len(rows) * (recovered + sum(gains) / 2)
        recovered += sum(gains)
    return area / float(whole) if whole else 0.0


def drift(to: Bars) -> None:
    """B5: the small tier falls from 0.8 to 0.05 at call 500 and recovers at 1500; one difficulty a call decides all."""
    costs: dict[str, list[int]] = {"bursar": [0] * 4, "naive": [0] * 4}
    nanos = (UNIT, 3 * UNIT, 5 * UNIT)
    for seed in range(2 * SEEDS):
        names = ("small", "mid", "large")
        learner = Learner(tuple(Tier(n, c) for n, c in zip(names, nanos, strict=True)), names, seed)
        for number in range(3000):
            phase = sum(number >= start for start in (500, 1500, 2000))
            hard = draw(str(seed), str(number), "hard")
            right = (hard < (0.05 if phase == 1 else 0.8), hard < 0.85, hard < 0.95)
            call = Call(right, nanos, right, 0)
            costs["bursar"][phase] += learner.serve(call, "step", str(number))[0]
            costs["naive"][phase] += walk(call, (0, 1, 2))[0]
    whole = [ours / naive for ours, naive in zip(costs["bursar"], costs["naive"], strict=True)]
    to.bar("B5 drift, cost over naive while the small tier is broken", whole[1], 0.90)
    to.bar("B5 drift, in the 500 calls after it recovers", whole[2], 1.15)
    to.bar("B5 drift, later", whole[3], 0.90)


def budget(took: list[int], to: Bars) -> None:
    """B7: processor time of a decision, size of a step's state, and that it comes back from its JSON as it was."""
    took.sort()
    print(f"        decisions timed: {len(took)}, median {took[len(took) // 2] / 1000:.1f} us")
    to.bar("B7 decision, p99", took[int(len(took) * 0.99)] / 1000, 100, " us")
    names, state = ("small", "middle", "large", "frontier"), Step()
    for number in range(20_000):  # every cell there can be: each tier after each set of the others
        shuffled = sorted(names, key=lambda name: draw("B7", str(number), name))
        size = int(draw("B7", str(number), "size") * len(names))
        ok = draw("B7", str(number), "ok") < 0.4
        state = learn(
            state, shuffled[0], tuple(shuffled[1 : size + 1]), ok, cost_nanos=10**10, ms=99_999, output_tokens=99_999
        )
    text = msgspec.json.encode(state)
    to.bar(f"B7 state of a step with {len(state.cells)} cells", len(text), 4096, " bytes")
    to.bar("B7 states that differ after saving and loading", int(msgspec.json.decode(text, type=Step) != state), 0)


if __name__ == "__main__":
    main()
