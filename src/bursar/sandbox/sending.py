"""Sends an answer, whole or as a stream, with the fault that was asked for, and has it booked.

It is booked before its last byte leaves, so whoever has read the answer finds it on the bill. After a hang-up
sending stops at once. A connection that is to break is left without its end.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias
from urllib.parse import parse_qs

import msgspec

from bursar.sandbox import embeddings, gemini, responses
from bursar.sandbox.asks import Bad
from bursar.sandbox.bill import LineStatus
from bursar.sandbox.exchange import Exchange
from bursar.sandbox.heads import Heads
from bursar.sandbox.provider import FAULT_WORDS, Served
from bursar.sandbox.settings import Settings
from bursar.sandbox.speech import SPEECH

_LOOK_UP = 8
"""Events between two looks for a hang-up, where no pause between events gives one."""

Book: TypeAlias = Callable[[LineStatus, int], object]
"""Books the answer: how it ended, and the output tokens that are billed."""


async def send_whole(exchange: Exchange, served: Served, heads: Heads, settings: Settings, book: Book) -> None:
    """Sends a JSON answer. It was generated whole, so it is billed whole unless it broke before its first byte."""
    reply, fault = served.reply, served.fault
    if reply.ask.background:
        answer = responses.shell(reply, "queued")
    else:
        answer = embeddings.whole(reply) if served.dialect == "embeddings" else SPEECH[served.dialect].whole(reply)
    body, headers = msgspec.json.encode(answer), heads.of(served.dialect, served.request_id)
    if fault.kind == "cut":
        book("cut" if fault.after else "failed", reply.output if fault.after else 0)
        await exchange.start(200, [*headers, ("content-length", str(len(body)))])
        await exchange.write(body[: len(body) // 2 if fault.after else 0])
        return
    book("completed", reply.output)
    if fault.kind == "malformed":
        body = body[: len(body) // 2]
    if fault.kind in ("gzip", "slow"):
        slow_ms = settings.slow_ms if fault.kind == "slow" else None
        await exchange.start(200, headers, gzip=fault.kind == "gzip", slow_ms=slow_ms)
        await exchange.write(body)
        await exchange.end()
    else:
        await exchange.answer(200, headers, body)


async def send_stream(exchange: Exchange, served: Served, heads: Heads, settings: Settings, book: Book) -> None:
    """Sends the events one by one."""
    reply, fault, speech = served.reply, served.fault, SPEECH[served.dialect]
    frames, kind = speech.frames(reply), speech.STREAM_TYPE
    if served.dialect == "gemini" and "sse" not in parse_qs(served.query).get("alt", ()):
        frames, kind = gemini.array_frames(reply), "application/json"
    slow_ms = settings.slow_ms if fault.kind == "slow" else None
    headers = heads.of(served.dialect, served.request_id, kind)
    await exchange.start(200, headers, gzip=fault.kind == "gzip", slow_ms=slow_ms)
    pending = fault.kind in ("cut", "malformed", "error-event")
    made = pieces = 0
    for number, (frame, upto, last) in enumerate(_to_last(frames)):
        if settings.chunk_ms or number % _LOOK_UP == 0:
            await exchange.pause(settings.chunk_ms / 1000)
        if exchange.gone:
            book("cut", reply.output if speech.BILLS_HANGUP_WHOLE else made)
            return
        due = last or (pieces >= fault.after if upto > made else made == reply.output > 0)
        if pending and due:
            pending = False
            if fault.kind != "malformed":
                book("cut" if made else "failed", made)
                return await _broken(exchange, served, number)
            await exchange.write(speech.torn_frame(reply))
        if last:
            book("completed", reply.output)
        await exchange.write(frame)
        pieces += upto > made
        made = max(made, upto)
    await exchange.end()


def _to_last(frames: Iterator[tuple[bytes, int]]) -> Iterator[tuple[bytes, int, bool]]:
    """Frames with their tokens, the last one marked."""
    frame, upto = next(frames)
    for following, after in frames:
        yield frame, upto, False
        frame, upto = following, after
    yield frame, upto, True


async def _broken(exchange: Exchange, served: Served, number: int) -> None:
    """The end of a stream that fails: the dialect's error event, or for a cut nothing at all."""
    if served.fault.kind == "error-event":
        claude = served.dialect == "messages"
        bad = Bad(529, FAULT_WORDS[529]) if claude else Bad(500, FAULT_WORDS[500], code="server_error")
        await exchange.write(SPEECH[served.dialect].error_frame(bad, served.request_id, number))
        await exchange.end()
