"""Many calls at once under one budget at the gateway: the limit holds by the provider's own bill, nobody is told that
money is spent which is only held, and who has to wait comes through."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from bursar.policy import Budget
from gateways import Running, running, until

HELLO: Any = [{"role": "user", "content": "Tell me about bookkeeping."}]
MINI = "gpt-4o-mini"
GPT = {"authorization": "Bearer k"}


def test_held_by_others_is_tried_again() -> None:
    """What another call under way holds is no exhaustion: after its patience a 429 that says when to come back, and the
    SDK's own retry has its answer."""
    tight = Budget(name="tight", scope="global", limit_tokens=2_000, patience_ms=0)
    with running(budgets=(tight,)) as gw:
        slow = {"x-sandbox-latency-ms": "700"}
        worker = threading.Thread(
            target=lambda: gw.openai().chat.completions.create(
                model=MINI, messages=HELLO, max_tokens=1_800, extra_headers=slow
            )
        )
        worker.start()
        until(lambda: len(gw.sandbox.requests) == 1, "the first call is under way")
        path, body = "/v1/chat/completions", {"model": MINI, "messages": HELLO, "max_tokens": 400}
        told = gw.post(path, body, GPT)
        assert (told.status_code, told.json()["error"]["code"]) == (429, "budget_held")
        assert told.json()["error"]["type"] == "rate_limit_error"
        assert int(told.headers["retry-after-ms"]) <= int(told.headers["retry-after"]) * 1000
        assert "x-should-retry" not in told.headers
        assert told.headers["x-bursar-budget-state"] == "ok"
        answer = (
            gw.openai().with_options(max_retries=20).chat.completions.create(model=MINI, messages=HELLO, max_tokens=400)
        )
        worker.join()
        assert answer.choices[0].message.content
        assert {(row.status, row.http_status) for row in gw.rows()} >= {("completed", 200), ("refused", 429)}
        assert gw.get("/bursar/v1/budgets").json()["items"][0]["held_tokens"] == 0


@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_a_crowd_never_passes_the_limit(where: str, tmp_path: Path) -> None:
    """Mixed sizes, half of them streams, far more than there is money for: what the provider bills is within the limit,
    and what is left is too little for one more such call."""
    cap = Budget(name="cap", scope="global", limit_tokens=9_000, patience_ms=10_000)
    with running(path=tmp_path / "b.db" if where == "sqlite" else None, budgets=(cap,)) as gw:
        told = asyncio.run(_crowd(gw, 160))
        assert set(told) == {"stop", "length"}
        used = sum(sum(line.usage.values()) for line in gw.sandbox.bill.lines)
        rows = gw.rows(160)
        assert used == sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in rows) <= 9_000
        assert {(row.status, row.http_status) for row in rows} == {("completed", 200), ("refused", 200)}
        (line,) = gw.get("/bursar/v1/budgets").json()["items"]
        assert (line["settled_tokens"], line["held_tokens"]) == (used, 0)
        assert line["remaining_tokens"] == 9_000 - used < 500


async def _crowd(gw: Running, count: int) -> list[str]:
    """How each answer ended."""
    client = gw.async_openai()

    async def one(at: int) -> str:
        most, stream = 40 + 35 * (at % 9), at % 2 == 0
        if not stream:
            whole = await client.chat.completions.create(model=MINI, messages=HELLO, max_tokens=most)
            return str(whole.choices[0].finish_reason)
        told = await client.chat.completions.create(model=MINI, messages=HELLO, max_tokens=most, stream=True)
        return [str(c.choices[0].finish_reason) async for c in told if c.choices][-1]

    try:
        return await asyncio.gather(*(one(at) for at in range(count)))
    finally:
        await client.close()
