"""Clients around a sandbox provider, for the tests of the library door. Not a test itself."""

import ssl
from typing import Any

import httpx2
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from google.genai import types as google
from openai import AsyncOpenAI, OpenAI, RateLimitError

import bursar
from bursar.policy import Policy
from bursar.rules.cards import compile_book
from bursar.sandbox.settings import Settings
from bursar.stores.memory import MemoryStore
from bursar.types import Entry

PRICES = compile_book({}, {})
TLS = ssl.create_default_context()
STOPPED = "I have to stop here: the budget for this work"
"""How the partial answer begins where nobody has said otherwise."""
ASK: Any = [{"role": "user", "content": "What is double entry?"}]


def guarded(**policy: Any) -> bursar.Guard:
    return bursar.Guard(Policy(prices=PRICES, **policy), MemoryStore())


def rows(guard: bursar.Guard) -> list[Entry]:
    """Every row, oldest first; the ledger audits clean."""
    guard.flush()
    assert guard._desk.store.verify() == []
    return sorted(guard._desk.store.calls(limit=10_000).items, key=lambda row: (row.request_id, row.attempt))


def decided(found: list[Entry]) -> list[Entry]:
    """Without the calls that waited for others in vain and were asked again."""
    return [row for row in found if row.http_status != 429]


def settings() -> Settings:
    return Settings(clock=lambda: 1_700_000_000.0, retry_after_s=0.01, timeout_s=5)


def openai(url: str, kind: Any = OpenAI, **more: Any) -> Any:
    http = (httpx2.AsyncClient if kind is AsyncOpenAI else httpx2.Client)(verify=TLS, follow_redirects=True)
    return kind(api_key="k", base_url=url + "/v1", http_client=http, **more)


def anthropic(url: str, kind: Any = Anthropic, **more: Any) -> Any:
    http = (httpx2.AsyncClient if kind is AsyncAnthropic else httpx2.Client)(verify=TLS, follow_redirects=True)
    return kind(api_key="k", base_url=url, http_client=http, **more)


def gemini(url: str) -> genai.Client:
    return genai.Client(api_key="k", http_options=google.HttpOptions(base_url=url))


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def chat(client: Any, text: str = "What is double entry?", **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=said(text), **more)


def chat_text(answer: Any) -> tuple[str, str]:
    return answer.choices[0].message.content, answer.choices[0].finish_reason


def chat_streamed(chunks: Any) -> tuple[str, str]:
    *_, last = seen = list(chunks)
    return "".join(chunk.choices[0].delta.content or "" for chunk in seen), last.choices[0].finish_reason


def patient_chat(client: Any, text: str, **more: Any) -> Any:
    """Asks again, as an SDK would, where other calls' holds outlasted the patience: on a busy machine they may."""
    while True:
        try:
            return chat(client, text, **more)
        except RateLimitError:
            continue


async def patient_achat(client: Any, text: str, **more: Any) -> Any:
    while True:
        try:
            return await chat(client, text, **more)
        except RateLimitError:
            continue


def message(client: Any, text: str = "What is double entry?", **more: Any) -> Any:
    return client.messages.create(model="claude-haiku-4-5", max_tokens=60, messages=said(text), **more)


def final(helper: Any) -> Any:
    with helper as stream:
        return list(stream.text_stream), stream.get_final_message().model_dump()
