"""The text of a partial answer, in the agent's own words where it gave a function for them, else the template.

Whatever that function does, the caller gets an answer: what it raises, or gives that is no text, is logged once,
without content, and the template stands. Calls that it makes itself are answered by the template alone.
"""

import asyncio
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from traceback import extract_tb
from typing import Any

import msgspec

from bursar.doors.library.budget import Finish, Finishing
from bursar.doors.library.tallies import Tallies
from bursar.insights import rows
from bursar.stores.base import Store
from bursar.types import Call, Refused

_log = logging.getLogger("bursar")
_speaking: ContextVar[bool] = ContextVar("bursar_farewell", default=False)


class Farewell:
    """Says a guard's last words. default: for budgets of the configuration, and runs without a way of their own."""

    def __init__(self, store: Store, tallies: Tallies, default: Finish | None) -> None:
        self._store, self._tallies, self._default = store, tallies, default
        self._complained: set[tuple[str, ...]] = set()

    def of(self, call: Call, refused: Refused) -> Refused:
        """The refusal with the text that the caller shall read."""
        finish = self._finish(call, refused)
        if finish is None:
            return refused
        try:
            with _spoken():
                return _answered(refused, finish(_finishing(call, refused, self._rows(call))))
        except Exception as fault:
            return self._template(refused, finish, fault)

    async def aof(self, call: Call, refused: Refused) -> Refused:
        """The same without blocking the running loop; the function runs on it and may be a coroutine function."""
        finish = self._finish(call, refused)
        if finish is None:
            return refused
        try:
            known = await asyncio.to_thread(self._rows, call)
            with _spoken():
                text = finish(_finishing(call, refused, known))
                return _answered(refused, await text if inspect.isawaitable(text) else text)
        except Exception as fault:
            return self._template(refused, finish, fault)

    def _finish(self, call: Call, refused: Refused) -> Finish | None:
        if refused.answer is None or _speaking.get():
            return None
        tally = self._tallies.known(call.tags.run_id)
        return (tally.nearest_finish() if tally is not None else None) or self._default

    def _rows(self, call: Call) -> list[dict[str, Any]]:
        """What the run has done so far, without the call that is being answered."""
        if call.tags.run_id is None:
            return []
        found = self._store.run(call.tags.run_id, call.tags.tenant)
        return [rows.call(entry) for entry in found if entry.request_id != call.request_id]

    def _template(self, refused: Refused, finish: Finish, fault: Exception) -> Refused:
        place = extract_tb(fault.__traceback__)[-1]
        name = getattr(finish, "__qualname__", type(finish).__qualname__)
        told = (name, type(fault).__name__, f"{place.filename}:{place.lineno}")
        if told not in self._complained:
            self._complained.add(told)
            _log.warning("the finish function %s failed with %s at %s; callers get the template instead", *told)
        return refused


@contextmanager
def _spoken() -> Iterator[None]:
    token = _speaking.set(True)
    try:
        yield
    finally:
        _speaking.reset(token)


def _answered(refused: Refused, text: object) -> Refused:
    if not isinstance(text, str) or not text:
        raise TypeError("expected a text")
    return msgspec.structs.replace(refused, answer=text)


def _finishing(call: Call, refused: Refused, known: list[dict[str, Any]]) -> Finishing:
    facts = dict(refused.facts)
    return Finishing(
        run_id=call.tags.run_id,
        reason=refused.reason,
        budget=facts.get("budget", ""),
        limit=facts.get("limit", ""),
        spent=facts.get("spent", ""),
        messages=[_message(block.raw) for block in call.view.blocks if block.kind == "message"],
        calls=known,
    )


def _message(raw: bytes) -> Any:
    """A message of the request; a bare text (Responses, embeddings) is one of the user's."""
    said = msgspec.json.decode(raw)
    return {"role": "user", "content": said} if isinstance(said, str) else said
