"""The demo: three agents on the sandbox, through the library door, and what it says of them."""

import contextlib
import io
import json
import re
import tempfile
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from bursar.config import load
from bursar.doors import demo
from bursar.doors.cli import main as command_line
from bursar.doors.demo import acts, contracts, lessons, picture, web, workload
from bursar.doors.gateway.app import Gateway
from bursar.doors.open import open_store
from bursar.sandbox import Bill
from bursar.sandbox.tokens import count

RUNS = 2


def played(runs: int, *, as_json: bool) -> tuple[int, str]:
    """The exit code of `bursar demo` and what it printed on stdout."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = demo.main(runs, as_json=as_json)
    return code, printed.getvalue()


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What `bursar demo --json --runs 2` prints; it ended in 0."""
    code, printed = played(RUNS, as_json=True)
    assert code == 0
    found: dict[str, Any] = json.loads(printed)
    return found


def test_the_ledger_is_the_bill(result: dict[str, Any]) -> None:
    """The ledger, the provider's bill, the agents' sum and the report's total are one amount, exactly."""
    agents = sum(Decimal(agent["cost_usd"]) for agent in result["agents"].values())
    report = result["report"]
    by_agent = sum(Decimal(line["cost_usd"]) for line in report["metrics"]["cost_per_run"]["by_agent"])
    by_step = sum(Decimal(line["cost_usd"]) for line in report["rows"])
    amounts = {Decimal(result["bill_usd"]), Decimal(result["ledger_usd"]), agents, by_agent, by_step}
    assert amounts == {Decimal(report["totals"]["cost_usd"])}
    assert result["exact"] is True
    assert report["totals"]["unpriced"] == report["totals"]["estimated"] == 0


def test_after_is_exact_cheaper_and_as_good(result: dict[str, Any]) -> None:
    """The second act's ledger is its own bill too; every agent costs less, and none is right less often."""
    before, after = result["before"], result["after"]
    assert before["ledger_usd"] == result["ledger_usd"] and before["agents"] == result["agents"]
    for act in (before, after):
        assert act["exact"] is True
        costs = [Decimal(agent["cost_usd"]) for agent in act["agents"].values()]
        assert sum(costs) == Decimal(act["ledger_usd"]) == Decimal(act["bill_usd"])
    assert Decimal(after["ledger_usd"]) < Decimal(before["ledger_usd"]) / 2
    for name, agent in after["agents"].items():
        was = before["agents"][name]
        assert (agent["runs"], agent["graded"]) == (was["runs"], was["graded"])
        assert Decimal(agent["cost_usd"]) <= Decimal(was["cost_usd"])
        assert agent["right"] >= was["right"]
    report = after["report"]
    assert Decimal(report["totals"]["cost_usd"]) == Decimal(after["ledger_usd"])
    assert report["totals"]["unpriced"] == report["totals"]["estimated"] == 0


def test_both_acts_tell_their_caches_and_tiers(result: dict[str, Any]) -> None:
    """Before nothing is kept and no small model is asked; after most attempts are small. The shares add up to one."""
    before, after = result["before"], result["after"]
    for act in (before, after):
        for share in ("call_share", "cost_share"):
            assert sum(tier[share] for tier in act["tiers"]) == pytest.approx(1)
        assert sum(Decimal(tier["cost_usd"]) for tier in act["tiers"]) == Decimal(act["ledger_usd"])
        assert sum(act["hits"].values()) == pytest.approx(act["hit_rate"] * act["calls"])
        assert 0 < act["prompt_cache_share"] < 1
    assert before["hits"] == {"hit": 0, "semantic_hit": 0, "coalesced": 0}
    assert "small" not in {tier["tier"] for tier in before["tiers"]}
    assert next(tier["call_share"] for tier in after["tiers"] if tier["tier"] == "small") > 0.5


def test_the_estimate_is_far_off(result: dict[str, Any]) -> None:
    """The report's own call says about $80 for 1,000 reports; the runs come to several times that."""
    estimate, measured = Decimal(result["estimate_per_1000_usd"]), Decimal(result["measured_per_1000_usd"])
    assert 70 < estimate < 90
    assert 3 < measured / estimate < 8
    researcher = result["agents"]["researcher"]
    assert measured == Decimal(researcher["cost_usd"]) * 1000 / researcher["runs"]


def test_every_agent_is_counted(result: dict[str, Any]) -> None:
    """Runs, calls and quality of each agent: so many reports, contracts and sessions of five questions."""
    agents = result["agents"]
    assert {name: agent["runs"] for name, agent in agents.items()} == {
        "researcher": RUNS,
        "legal": RUNS,
        "tutor": RUNS * workload.QUESTIONS_A_SESSION,
    }
    assert sum(agent["calls"] for agent in agents.values()) == result["report"]["totals"]["attempts"]
    assert agents["legal"]["calls"] >= 7 * RUNS
    for agent in agents.values():
        assert agent["quality"] == agent["right"] / agent["graded"] > 0.5
    steps = {line["step"] for line in result["report"]["rows"]}
    assert {"plan", "gather", "check", "report", "classify", "summary", "answer"} <= steps


def timeless(told: dict[str, Any]) -> dict[str, Any]:
    """Without durations, and without what the semantic cache's pool is called: its key is drawn anew each time."""
    found: dict[str, Any] = json.loads(json.dumps(told))
    for act in (found, found["before"], found["after"]):
        act["seconds"] = None
    for pool in found["after"]["report"]["metrics"]["cache_hit_rate"]["semantic"]:
        pool["pool"] = None
    return found


def test_the_same_runs_cost_the_same(result: dict[str, Any]) -> None:
    """A second demo has the same calls, tokens, dollars and answers; only its duration is its own."""
    _, printed = played(RUNS, as_json=True)
    again = json.loads(printed)
    assert timeless(again) == timeless(result)


def test_it_is_told_to_people(result: dict[str, Any]) -> None:
    """The text holds the report by step, both figures, one run's map with its sub-agent, the proof, what to do next."""
    code, text = played(1, as_json=False)
    assert code == 0
    assert "\nCost per agent run" in text and "\nBy step" in text
    assert "\n1,000 research reports: estimated $" in text
    assert "└ fact-checker" in text
    for act in ("Proof: ", "Proof (after): "):
        proof = next(line for line in text.splitlines() if line.startswith(act))
        left, right = proof.removeprefix(f"{act}ledger ").split(" = provider's own bill ")
        assert left == right
    assert "\na run of" in text and "\nattempts: small" in text and "\ninput: prompt cache" in text
    assert "check passed" in text and "held $" in text  # the decisions of the second act's runs
    assert "docs/library.md" in text and "docs/gateway.md" in text


def test_a_difference_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bill that differs by one nano-dollar ends in exit code 1 and says by how much."""
    honest = Bill.total_nanos
    monkeypatch.setattr(Bill, "total_nanos", lambda bill: honest(bill) + 1)
    code, text = played(1, as_json=False)
    assert code == 1
    assert "They differ by $0.000000001" in text


def test_the_gateway_stays_open_on_the_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --serve the gateway answers from the demo's ledger and sends calls on to the sandbox; the ledger is kept."""
    answers: list[Any] = []

    def run(app: Gateway, host: str, port: int) -> None:
        with TestClient(app, base_url=f"http://{host}:{port}") as client:
            answers.append(client.get("/bursar/v1/spend", params={"by": "agent"}).json())
            answers.append(client.get("/").text)
            ask = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello?"}]}
            answers.append(client.post("/v1/chat/completions", json=ask).json())

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("bursar.doors.gateway.serve.run", run)
    assert demo.main(1, as_json=True, serve=True) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)["after"]
    assert "dashboard is at http://127.0.0.1:4600/" in told.err and "<html" in answers.pop(1)
    spent = sum(Decimal(line["cost_usd"]) for line in answers[0]["items"])
    assert spent == Decimal(result["ledger_usd"])
    assert answers[1]["choices"][0]["message"]["content"]
    (config,) = tmp_path.glob("*/bursar.toml")
    with closing(open_store(load(config).store.url)) as store:
        assert sum(line.counts.calls for line in store.spend("total")) == result["report"]["totals"]["calls"] + 1


def test_it_is_shown_as_bursar_report_shows_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`bursar report --by step` on the first act's ledger and `bursar run` on the second's print what the demo did."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("bursar.doors.gateway.serve.run", lambda app, host, port: None)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert demo.main(1, serve=True) == 0
    (folder,) = tmp_path.glob("bursar-demo-*")
    (run_id,) = re.findall(r"^Run (\w+), agent researcher", printed.getvalue(), flags=re.MULTILINE)
    for command, file in ((["report", "--by", "step"], "before.toml"), (["run", run_id], "bursar.toml")):
        told = io.StringIO()
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit) as end:
            command_line([*command, "--config", str(folder / file)])
        assert not end.value.code
        assert len(told.getvalue()) > 1000
        assert told.getvalue() in printed.getvalue()


def test_the_picture_stands_alone(tmp_path: Path) -> None:
    """The picture holds the estimate and the proof, and loads nothing from anywhere."""
    drawn = tmp_path / "demo.svg"
    picture.draw(drawn, 1)
    shown = Path(__file__).parents[1] / "docs" / "demo.svg"
    for svg in (drawn.read_text("utf-8"), shown.read_text("utf-8")):
        assert "provider&#x27;s&#160;own&#160;bill" in svg and "research&#160;reports" in svg
        assert set(re.findall(r"https?://[^\s\"')]+", svg)) == {"http://www.w3.org/2000/svg"}
        assert "@font-face" not in svg


def test_missing_sdks_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an SDK the demo says what to install and ends in 2; so does a number of runs that is none."""
    assert demo.main(0) == 2
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "anthropic" else object())
    assert demo.main(1) == 2
    told = capsys.readouterr().err
    assert "--runs 0: give at least 1" in told
    assert "need anthropic: pip install 'bursar[demo]'" in told


@pytest.mark.parametrize("means", [True, False])
def test_the_second_act_is_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, means: bool) -> None:
    """Both files stand up to the parser; without the local embedder nothing semantic is asked for. No variable of this
    process has a say."""
    if means and not acts.means():
        pytest.skip("no local embedder here")
    monkeypatch.setattr(acts, "means", lambda: means)
    monkeypatch.setenv("BURSAR_UNKNOWN_PRICE", "block")
    acts.write(tmp_path, "http://127.0.0.1:9")
    before, after = acts.books(tmp_path, acts.BEFORE), acts.books(tmp_path, acts.AFTER)
    with closing(before.store), closing(after.store):
        assert not before.policy.steps and not before.policy.budgets and before.policy.tiers == after.policy.tiers
        assert after.policy.unknown_price is None and set(after.credentials) == {"openai", "anthropic"}
        assert any(rule.semantic_cache for rule in after.policy.steps) is means
        assert any(rule.response_cache for rule in after.policy.steps) and len(after.policy.budgets) == 2
        assert all(rule.validators for rule in after.policy.steps if rule.tier)
        assert all(rule.prompt_cache == "auto" for rule in after.policy.steps)


def test_the_workload_is_as_large_as_it_says() -> None:
    """A page has about 2,000 tokens, a contract 3,500 to 9,000, and both are the same every time."""
    pages = [web.read_page(url) for number in range(20) for url in web.addresses(web.question(number).parts[0])[:2]]
    assert 1_500 < sum(map(count, pages)) / len(pages) < 2_500
    sizes = [count(contracts.contract(number).text) for number in range(20)]
    assert 3_500 < min(sizes) <= max(sizes) < 9_000
    assert contracts.contract(3) == contracts.contract(3)
    assert web.question(3) == web.question(3)


def test_a_contract_holds_what_is_asked_of_it() -> None:
    """Names, dates and fee stand in the contract; every deviation is one from the house standard."""
    house = contracts.standard().split("\n\n")
    for number in range(20):
        case = contracts.contract(number)
        facts = (case.parties.supplier, case.parties.customer, case.dates.effective, case.dates.expires, case.fee)
        assert all(fact in case.text for fact in facts)
        clauses = {clause.split(".")[0]: clause for clause in case.text.split("\n\n")}
        usual = {clause.split(".")[0]: clause for clause in house}
        assert case.deviations.clauses
        assert all(clauses[at] != usual[at] for at in case.deviations.clauses)


def test_many_students_ask_the_same_in_other_words() -> None:
    """Most questions repeat a topic in other words; one that leans on the answer before names its topic."""
    asked = [question for _, questions in workload.sessions(100) for question in questions]
    assert len(asked) == 100 * workload.QUESTIONS_A_SESSION
    assert len(set(asked)) > 3 * len(lessons.TOPICS)
    assert all(len(set(topic.asked)) == 5 for topic in lessons.TOPICS.values())
    for _, questions in workload.sessions(100):
        topic = ""
        for question in questions:
            if question.startswith("And "):
                assert topic in question
            else:
                topic = next(name for name, one in lessons.TOPICS.items() if question in one.asked)


def test_a_right_lesson_is_told_from_a_wrong_one() -> None:
    """No wrong answer passes for a right one, and a question that leans on another is not graded."""
    for topic in lessons.TOPICS.values():
        assert workload.right_lesson(topic.asked[0], f"Use {topic.right}.") is True
        assert workload.right_lesson(topic.asked[0], f"Use {topic.wrong}.") is False
    assert workload.right_lesson(lessons.AND_THEN.format(topic="sets"), "anything") is None
