"""Plays the three agents against the sandbox, through the library door, and counts what came of it: one act.

Each agent has a thread of its own and makes its runs one after another, so that what is in the provider's prompt cache
depends on nothing but the seed: the same number of runs costs the same dollars. An error in an agent ends the demo.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bursar.doors.demo import legal, research, tutor, web, workload
from bursar.doors.demo.acts import KEY
from bursar.doors.demo.contracts import contract, standard
from bursar.doors.library.guard import Guard
from bursar.doors.open import Books
from bursar.money import divide_half_even
from bursar.policy import PriceBook, Unpriced
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.base import Filters, Run, Store
from bursar.types import Terms

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI


SEED = 0
FAULTS = "429:0.02,503:0.01"
"""What a real provider does now and then; the SDKs retry it."""
MAIN_STEP = "report"
"""The call of the research assistant that its author reckoned with."""
AGENTS = ("researcher", "legal", "tutor")

Heard: TypeAlias = Callable[[str, int], None]
"""Hears of every finished run (for the tutor: session): the agent, and how many it has done."""


class Grade(NamedTuple):
    """Answers that were right, of those that were graded."""

    right: int = 0
    graded: int = 0

    @property
    def quality(self) -> float | None:
        """Share of right answers; None where none was graded."""
        return self.right / self.graded if self.graded else None


class Played(NamedTuple):
    """What came of one act; amounts in nano-dollars."""

    seconds: float
    runs: Mapping[str, list[Run]]
    """The root runs of each agent, newest first; what is nested in them is within their totals."""
    grades: Mapping[str, Grade]
    estimate_per_1000: int
    bill: int
    """By the provider's own account."""
    ledger: int
    """By Bursar's."""

    @property
    def exact(self) -> bool:
        """Whether the ledger agrees with the provider's bill, to the nano-dollar."""
        return self.ledger == self.bill

    def cost(self, agent: str) -> int:
        return sum(run.tree_cost_nanos for run in self.runs[agent])

    def per_run(self, agent: str) -> int:
        return divide_half_even(self.cost(agent), len(self.runs[agent]))

    @property
    def measured_per_1000(self) -> int:
        """What a thousand reports cost, by the ledger."""
        return divide_half_even(self.cost("researcher") * 1000, len(self.runs["researcher"]))


def sandbox(runs: int) -> SandboxServer:
    """The provider that knows the answers to so many runs."""
    tasks = workload.tasks(runs)
    return SandboxServer(Settings(seed=SEED, tasks=tasks, faults=FAULTS, retry_after_s=0.02, chunk_tokens=24))


def play(guard: Guard, told: Books, server: SandboxServer, runs: int, heard: Heard) -> Played:
    """So many reports, contracts and tutoring sessions; then the sums. Guard and store stay open.

    The provider forgets all that was before: both acts find it the same.
    """
    server.app.reset()
    store = told.store
    began = time.monotonic()
    with _clients(guard, server.url) as (openai, anthropic):
        agents = (
            partial(_researcher, guard, openai),
            partial(_legal, guard, anthropic),
            partial(_tutor, guard, openai),
        )
        with ThreadPoolExecutor(len(agents)) as pool:
            playing = {name: pool.submit(agent, runs, heard) for name, agent in zip(AGENTS, agents, strict=True)}
        grades = {name: done.result() for name, done in playing.items()}
    guard.flush()
    seconds = time.monotonic() - began
    found = {name: _roots(store, name) for name in AGENTS}
    (total,) = store.spend("total")
    reckoned = estimate(store, told.policy.prices)
    return Played(seconds, found, grades, reckoned, server.bill.total_nanos(), total.counts.cost_nanos)


@contextmanager
def _clients(guard: Guard, url: str) -> Iterator[tuple["OpenAI", "Anthropic"]]:
    """The SDKs' clients, guarded. They go straight to the sandbox, past any proxy of the environment."""
    from anthropic import Anthropic
    from openai import OpenAI

    straight = guard.http_client(trust_env=False)
    other = guard.http_client(trust_env=False, provider="anthropic")
    with (
        OpenAI(base_url=f"{url}/v1", api_key=KEY, http_client=straight) as openai,
        Anthropic(base_url=url, api_key=KEY, http_client=other) as anthropic,
    ):
        yield openai, anthropic


def _researcher(guard: Guard, client: "OpenAI", runs: int, heard: Heard) -> Grade:
    tools = {"search": web.search, "read_page": web.read_page}
    right = 0
    for number in range(runs):
        asked = web.question(number)
        report = research.research(guard, client, tools, asked.text, **workload.client_of(number))
        right += workload.right_report(asked, report)
        heard("researcher", number + 1)
    return Grade(right, runs)


def _legal(guard: Guard, client: "Anthropic", runs: int, heard: Heard) -> Grade:
    house, right = standard(), 0
    for number in range(runs):
        case = contract(number)
        analysis = legal.analyse(guard, client, case.text, house, **workload.client_of(number))
        right += workload.right_findings(case, analysis)
        heard("legal", number + 1)
    return Grade(right, runs * len(legal.ASKS))


def _tutor(guard: Guard, client: "OpenAI", runs: int, heard: Heard) -> Grade:
    graded: list[bool] = []
    for number, (who, asked) in enumerate(workload.sessions(runs), 1):
        answers = tutor.lesson(guard, client, asked, **who)
        marks = [workload.right_lesson(*pair) for pair in zip(asked, answers, strict=True)]
        graded += [mark for mark in marks if mark is not None]
        heard("tutor", number)
    return Grade(sum(graded), len(graded))


def _roots(store: Store, agent: str) -> list[Run]:
    """An agent's runs that stand in no other, newest first."""
    found: list[Run] = []
    cursor = None
    while True:
        page = store.runs(Filters(agent_id=agent), 500, cursor)
        found += [run for run in page.items if run.is_root]
        if (cursor := page.next_cursor) is None:
            return found


def estimate(store: Store, prices: PriceBook) -> int:
    """Nano-dollars of a thousand reports as their author reckoned: the report's own call, at list price, no more."""
    calls = store.calls(Filters(agent_id="researcher", step=MAIN_STEP, status="completed"), 1000).items
    card = prices.card("openai", research.MODEL, Terms(), calls[0].started_at)
    if isinstance(card, Unpriced):
        raise LookupError(f"{research.MODEL} has no list price: {card.why}")
    tokens = [(call.input_tokens or 0, call.output_tokens or 0) for call in calls]
    nanos = sum(read * card.rates["input"] + written * card.rates["output"] for read, written in tokens)
    return divide_half_even(nanos * 1000, len(calls) * 1_000_000)
