"""What stands around the learned chain: audits, shapes, prompt caches, chain lengths, and its benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.policy import Card
from bursar.rules.chain import audit as chain_audit
from bursar.rules.chain import cost as chain_cost
from bursar.rules.chain.audit import Audits, Labelled
from bursar.rules.chain.decide import Tier, decide
from bursar.rules.chain.state import UNIT, Count, Step

MODELS = (("s", 2), ("m", 3), ("l", 7))
"""Of each model: one in so many of its answers is wrong, and it costs so many tenths of a cent."""


class TestAudits:
    def test_the_gate(self) -> None:
        """59 of 59 prove 95 %, 29 of 29 prove 90 %, two failures need 124; one fewer proves nothing."""
        for agreed, audited, target in ((59, 59, 0.95), (29, 29, 0.90), (122, 124, 0.95)):
            assert chain_audit.proves(Audits(agreed, audited), target)
            assert not chain_audit.proves(Audits(agreed - 1, audited - 1), target)
            assert chain_audit.agreement_lower(agreed, audited) >= target
        assert not chain_audit.proves(Audits(), 0.0)

    @given(audited=st.integers(1, 400), data=st.data(), target=st.floats(0.01, 0.99))
    def test_the_gate_is_the_bound(self, audited: int, data: st.DataObject, target: float) -> None:
        """Proved exactly where the lower bound reaches the target; the bound is never above what was seen."""
        agreed = data.draw(st.integers(0, audited))
        bound = chain_audit.agreement_lower(agreed, audited)
        assert 0 <= bound <= agreed / audited
        if abs(bound - target) > 1e-9:
            assert chain_audit.proves(Audits(agreed, audited), target) == (bound >= target)

    def test_no_proof_keeps_the_callers_model(self) -> None:
        """The cheapest tier that is proved, and None where none is: nothing is downgraded on hope."""
        audits = {"small": Audits(58, 58), "mid": Audits(70, 70)}
        assert chain_audit.allowed(("small", "mid"), audits, 0.95) == "mid"
        assert chain_audit.allowed(("small", "mid"), {"small": Audits(58, 58)}, 0.95) is None

    def test_old_audits_go(self) -> None:
        """A tier that turned bad is found out, however long it was good."""
        audits = Audits()
        for _ in range(1_000):
            audits = audits.after(True)
        assert audits.total[1] <= 2 * chain_audit.PAGE
        for _ in range(30):
            audits = audits.after(False)
        assert not chain_audit.proves(audits, 0.95)
        assert chain_audit.merge(audits, Audits(1, 2)) == chain_audit.merge(Audits(1, 2), audits)

    @given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60), st.integers(1, 10**9))
    def test_audits_stay_within_their_share(self, costs: list[int], frontier: int) -> None:
        """Whatever the draws: what audits have cost is at most 3 % of what was spent."""
        spent = audits = 0
        for cost in costs:
            spent += cost
            if chain_audit.audit_due(0.0, 1.0, spent, audits, frontier):
                audits += frontier
            assert audits <= 0.03 * spent
        share = chain_audit.audit_share(1_000, 50_000)
        assert share == pytest.approx(0.0006)
        assert not chain_audit.audit_due(share, share, 10**12, 0, 1)
        assert chain_audit.audit_share(None, 1) == chain_audit.audit_share(1, None) == 0.0

    def test_false_passes(self) -> None:
        """Of 100 accepted 10 % were wrong, and 30 were rejected: a quarter of the wrong ones got through."""
        assert chain_audit.false_pass_rate(100, 30, Audits(18, 20)) == pytest.approx(0.25)
        assert chain_audit.false_pass_rate(100, 30, Audits()) is None

    def test_the_frozen_table(self) -> None:
        """The steps with nothing to lose go to the small tier, while right answers stay at the target."""
        table = {"easy": Labelled(100, 95, 95), "hard": Labelled(100, 20, 90), "near": Labelled(100, 88, 90)}
        assert chain_audit.frozen(table, 0.95) == {"easy", "near"}
        assert chain_audit.frozen(table, 1.0) == set()
        gaps = chain_audit.gaps(table)
        assert gaps["easy"] < gaps["near"] < gaps["hard"]
        assert chain_audit.gaps({}) == {}


class TestCosts:
    @staticmethod
    def card(rate: int, **more: int) -> Card:
        return Card("test", {"input": rate, "output": 5 * rate, "cache_read": rate // 10, **more}, {})  # type: ignore[dict-item]

    @pytest.mark.parametrize(("ratio", "fresh", "output", "limit"), [(5, 500, 300, 10_667), (3, 500, 300, 4_211)])
    def test_when_a_switch_pays(self, ratio: int, fresh: int, output: int, limit: int) -> None:
        """prefix < (n + 5 o)(1 - 1/R) / (1.25/R - 0.1): 5.3 and 2.1 times n + 5 o at R = 5 and 3; both warm: always."""
        rate = 3_000_000_000
        here, there = self.card(rate), self.card(rate // ratio, cache_write_5m=rate * 5 // 4 // ratio)
        assert chain_cost.switch_pays(limit - 1, fresh, output, here, there)
        assert not chain_cost.switch_pays(limit + 1, fresh, output, here, there)
        assert chain_cost.switch_pays(10**7, fresh, output, here, there, there_warm=True)

    def test_a_far_cheaper_model_always_pays(self) -> None:
        """From R = 12.5 on the small model's write costs no more than the large one's read."""
        here, there = self.card(2_500_000), self.card(200_000, cache_write_5m=250_000)
        assert chain_cost.toll_nanos(10**6, here, there) == 0
        assert chain_cost.switch_pays(10**9, 1, 1, here, there)
        assert chain_cost.switch_pays(1, 1, 1, Card("x", {}, {}), there) is None

    def test_a_shape_leans_and_never_locks(self) -> None:
        """A label is for the small tier, tools are for the next, prose for none; real answers outweigh any of them."""
        closed = chain_cost.shape(labels=True, fields=None, nested=False, tools=False, input_tokens=100)
        assert closed == chain_cost.shape(labels=False, fields=3, nested=False, tools=False, input_tokens=3_999)
        nested = chain_cost.shape(labels=False, fields=2, nested=True, tools=False, input_tokens=100)
        prose = chain_cost.shape(labels=False, fields=None, nested=False, tools=False, input_tokens=100)
        long = chain_cost.shape(labels=True, fields=None, nested=False, tools=False, input_tokens=4_000)
        assert (closed, nested, prose, long) == ("closed", "structured", "open", "open")
        near = (Tier("small", 1_000), Tier("mid", 2_000), Tier("large", 8_000))
        assert chain_cost.lean(near, prose) == near
        leaning = chain_cost.lean(near, nested)
        assert decide(Step(), near).tier == "small"
        assert decide(Step(), leaning).tier == "mid"
        assert decide(Step({"small": Count(5 * UNIT, 0)}), leaning).tier == "small"
        assert decide(Step({"small": Count(0, 30 * UNIT)}), chain_cost.lean(near, closed)).tier != "small"

    def test_two_tiers_where_prices_are_close(self) -> None:
        """1:3:5 is a chain of two, 1:10:50 one of three; an unknown price is not judged."""

        def kept(*costs: int | None) -> list[int | None]:
            return [t.cost_nanos for t in chain_cost.default_chain(tuple(Tier(str(c), c) for c in costs))]

        assert kept(1, 3, 5) == [1, 5]
        assert kept(1, 10, 50) == [1, 10, 50]
        assert kept(1, 4, 5, 16) == [1, 4, 16]
        assert kept(1, None, 5) == [1, None, 5]
        assert kept(1, 2) == [1, 2]


def test_the_benchmark_prints_a_line_for_each_policy(tmp_path: Path) -> None:
    """On a file of its form: costs over the large tier, accuracy and calls, the same calls for every policy."""
    rows = [
        {"id": str(n), "task": f"t{n % 2}", "m": {m: {"ok": int(n % k > 0), "usd": 0.001 * k} for m, k in MODELS}}
        for n in range(24)
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = f"--data {file} --models s,m,l --prices recorded --validator noisy --seeds 1 --json"
    script = Path(__file__).parent.parent / "benchmarks" / "routing.py"
    run = subprocess.run([sys.executable, str(script), *asked.split()], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == 4 * 7
    last = {line["policy"]: line for line in lines if line["calls_per_step"] == 1000}
    assert last["always_large"]["cost"] == last["always_large"]["cost_of_large"] == pytest.approx(2000 * 0.007)
    assert last["always_small"]["cost"] == pytest.approx(2000 * 0.002)
    assert last["hindsight"]["cost"] <= min(last["naive"]["cost"], last["always_large"]["cost"])
    assert last["random_mix"]["cost"] == pytest.approx(last["bursar"]["cost"])
    assert last["bursar"]["cost"] <= 1.01 * last["naive"]["cost"]
    assert 1 <= last["bursar"]["calls_per_request"] <= 3
    assert last["bursar"]["accuracy"] > last["always_small"]["accuracy"]
