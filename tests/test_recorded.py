"""Real input: recorded tool-calling prompts through both doors give exactly the recorded tokens and dollars, by model.

The provider is the sandbox in recorded mode; prices come by override in a bursar.toml, as a user would write it.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types as gt

import bursar
from bursar.config import load
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings as ProxySettings
from bursar.doors.open import open_books, open_store
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.base import Store
from gateways import TLS, serving

Row = dict[str, Any]
CHAT, RESPONSES, CLAUDE, GEMINI = (
    "gpt-4o-mini-2024-07-18-FC", "gpt-4o-2024-08-06-FC", "claude-3-haiku-20240307-FC", "gemini-1.5-flash-preview-0514",
)  # fmt: skip
RATES = {CHAT: (".15", ".6"), RESPONSES: ("2.5", "10"), CLAUDE: (".25", "1.25"), GEMINI: (".075", ".3")}
"""USD per million tokens, in and out, as the data's own README gives them."""
PROVIDERS = {CHAT: "openai", RESPONSES: "openai", CLAUDE: "anthropic", GEMINI: "gemini"}


def made_up() -> list[Row]:
    """Rows of the recorded form, for machines without the public data; two share a prompt and differ in their tools."""
    rows = []
    for number in range(24):
        tools = [{"name": f"math.f{number}", "desc": f"Does {number}.", "n_params": 2, "required": 1}]
        told = {m: {"ok": number % 2, "it": 50 + 7 * number, "ot": 5 + number, "usd": 0.001} for m in RATES}
        rows.append({"id": f"r{number}", "task": "t", "prompt": f"Question {number // 2}?", "tools": tools, "m": told})
    return rows


def toml(url: str, folder: Path) -> Path:
    prices = "".join(
        f'[prices."{PROVIDERS[model]}/{model}"]\ninput = "{rate_in}"\noutput = "{rate_out}"\n'
        for model, (rate_in, rate_out) in RATES.items()
    )
    bases = {"openai": f"{url}/v1", "anthropic": url, "gemini": url}
    providers = "".join(f'[providers.{n}]\napi = "{n}"\nbase_url = "{base}"\n' for n, base in bases.items())
    path = folder / "bursar.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{folder}/ledger.db"\n{providers}{prices}')
    return path


def schema(tool: Row) -> Row:
    """A stub of a tool, from what the row tells of it."""
    names = [f"p{n}" for n in range(tool["n_params"])]
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": names[: tool["required"]]}


def ask_chat(client: openai.OpenAI, row: Row) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": t["name"], "description": t["desc"], "parameters": schema(t)}}
        for t in row["tools"]
    ]
    client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": row["prompt"]}], tools=tools)


def ask_responses(client: openai.OpenAI, row: Row) -> None:
    tools: Any = [
        {"type": "function", "name": t["name"], "description": t["desc"], "parameters": schema(t), "strict": False}
        for t in row["tools"]
    ]
    client.responses.create(model=RESPONSES, input=row["prompt"], tools=tools)


def ask_claude(client: anthropic.Anthropic, row: Row) -> None:
    tools: Any = [{"name": t["name"], "description": t["desc"], "input_schema": schema(t)} for t in row["tools"]]
    messages: Any = [{"role": "user", "content": row["prompt"]}]
    with client.messages.stream(model=CLAUDE, max_tokens=4096, messages=messages, tools=tools) as stream:
        stream.until_done()


def ask_gemini(client: genai.Client, row: Row) -> None:
    tools = [
        gt.FunctionDeclaration(name=t["name"], description=t["desc"], parameters_json_schema=schema(t))
        for t in row["tools"]
    ]
    config = gt.GenerateContentConfig(tools=[gt.Tool(function_declarations=tools)])
    for _ in client.models.generate_content_stream(model=GEMINI, contents=row["prompt"], config=config):
        pass


def ask_all(rows: list[Row], url: str, wrap: Callable[[Any], Any]) -> None:
    """Every row by four SDK surfaces, plain and streamed, several at a time."""
    chat = wrap(openai.OpenAI(api_key="k", base_url=f"{url}/v1", http_client=httpx2.Client(verify=TLS)))
    claude = wrap(anthropic.Anthropic(api_key="k", base_url=url, http_client=httpx2.Client(verify=TLS)))
    options = gt.HttpOptions(base_url=url, client_args={"verify": TLS})
    gemini = wrap(genai.Client(api_key="k", http_options=options))
    asks: list[tuple[Callable[[Any, Row], None], Any]] = [
        (ask_chat, chat), (ask_responses, chat), (ask_claude, claude), (ask_gemini, gemini)
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda ask: [ask[0](ask[1], row) for row in rows], asks):
            pass


@contextmanager
def through_the_gateway(config: Path) -> Iterator[str]:
    books = open_books(load(config, {}))
    app = Gateway(books.policy, books.store, books.secret("keys"), {}, ProxySettings())
    with serving(app) as (_, port):
        yield f"http://127.0.0.1:{port}"


def check(rows: list[Row], store: Store) -> None:
    """By served model: the recorded tokens exactly, their dollars at the file's prices exactly."""
    store.flush()
    booked = {line.key: line.counts for line in store.spend("model")}
    assert set(booked) == set(RATES)
    expected: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for row in rows:
        for model, (rate_in, rate_out) in RATES.items():
            told = row["m"][model]
            usd = (told["it"] * Decimal(rate_in) + told["ot"] * Decimal(rate_out)) / 1_000_000
            expected[model] = [a + b for a, b in zip(expected[model], (told["it"], told["ot"], usd), strict=True)]
    for model, (tokens_in, tokens_out, usd) in expected.items():
        counts = booked[model]
        assert [counts.input_tokens, counts.output_tokens] == [int(tokens_in), int(tokens_out)], model
        assert abs(Decimal(counts.cost_nanos) / 10**9 - usd) <= Decimal(len(rows)) / 2 / 10**9, model
        assert (counts.calls, counts.unpriced, counts.estimated) == (len(rows), 0, 0)
    assert store.verify() == []


def both_doors(rows: list[Row], recorded: Path, tmp_path: Path) -> None:
    for door in ("library", "gateway"):
        folder = tmp_path / door
        folder.mkdir()
        with SandboxServer(Settings(recorded=str(recorded))) as sandbox:
            config = toml(sandbox.url, folder)
            if door == "library":
                with bursar.open(config) as guard:
                    ask_all(rows, sandbox.url, guard.wrap)
            else:
                with through_the_gateway(config) as url:
                    ask_all(rows, url, lambda client: client)
        store = open_store(f"sqlite:///{folder}/ledger.db")
        try:
            check(rows, store)
        finally:
            store.close()


def test_recorded_prompts_by_both_doors(tmp_path: Path) -> None:
    """Two dozen made-up rows, some with the same prompt and other tools."""
    rows = made_up()
    recorded = tmp_path / "recorded.jsonl"
    recorded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    both_doors(rows, recorded, tmp_path)


@pytest.mark.slow
def test_the_public_tool_calling_prompts_by_both_doors(tmp_path: Path, shared: Path) -> None:
    """All 950 recorded prompts, four models, two doors: 7,600 calls, tokens and dollars exact."""
    recorded = shared / "data" / "routing" / "bfcl_2024-08_ast.jsonl.gz"
    with gzip.open(recorded, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 950
    both_doors(rows, recorded, tmp_path)
