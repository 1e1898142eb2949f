"""Whether an agent goes round in circles, from the digests of its requests alone. Pure, bounded, one row at a time.

A thread is one conversation of one run: a request belongs to it where the thread's last message stands in the same
place. What a request adds to its thread is a turn. The same turn, bit for bit, is the same tool call with the same
result; where the client gives every call a new id, turns of the same shape (as many messages, each as long to a few
tokens) are as near as digests can tell. Requests without messages say nothing.
"""

import hashlib
from collections.abc import Iterator

import msgspec

from bursar.rules import digest
from bursar.types import Entry, Instant

_THREADS = 16
"""Conversations that are followed at once; the one that has been silent for longest is forgotten."""
_SIZES = 8
_RECORD = 13
"""Bytes of a block's digest (rules/digest.py); imported rows may hold anything."""
_SLACK_TOKENS = 6
"""Two ids of one length are estimated to differ by so much at most."""
_SLACK_PERCENT = 2


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """What one request added: a digest of it, how many messages, and the estimated tokens of the last of them."""

    digest: bytes
    messages: int
    sizes: tuple[int, ...]

    def alike(self, other: "Turn") -> bool:
        """As many messages, each as long."""
        return self.messages == other.messages and all(
            abs(one - two) <= max(_SLACK_TOKENS, max(one, two) * _SLACK_PERCENT // 100)
            for one, two in zip(self.sizes, other.sizes, strict=True)
        )


class Thread(msgspec.Struct, frozen=True, array_like=True):
    """One conversation: where it stands, its late turns, and for how long it has only grown."""

    run: bytes
    messages: int
    last: str
    """Digest of its last message."""
    tokens: int
    first_tokens: int
    grown: int
    """Requests in a row, each of which was longer than the one before."""
    turns: tuple[Turn, ...]
    at: Instant


class Circle(msgspec.Struct, frozen=True):
    """How the newest request stands to its own thread's past."""

    same: int = 1
    """How many of the late turns are this very one, it included."""
    alike: int = 1
    """How many are of its shape."""
    grown: int = 0
    tokens: int = 0
    first_tokens: int = 0
    turn: Turn | None = None


NOTHING = Circle()


def follow(
    threads: tuple[Thread, ...], row: Entry, now: Instant, memory: int, within_ms: int
) -> tuple[tuple[Thread, ...], Circle]:
    """The threads after one more request, and what it is to its own. memory: turns that a thread remembers."""
    messages = list(_messages(row))
    if not messages:
        return threads, NOTHING
    run = _hash(f"{row.run_id or ''}\0{row.session_id or ''}".encode())
    threads = tuple(one for one in threads if now - one.at <= within_ms * 1000)
    own = _own(threads, run, messages)
    thread = _begun(run, messages, now) if own is None else _grown(own, messages, now, memory)
    kept = sorted((one for one in threads if one is not own), key=lambda one: one.at)[-_THREADS + 1 :]
    newest = thread.turns[-1]
    circle = Circle(
        same=sum(one.digest == newest.digest for one in thread.turns),
        alike=sum(newest.alike(one) for one in thread.turns),
        grown=thread.grown,
        tokens=thread.tokens,
        first_tokens=thread.first_tokens,
        turn=newest,
    )
    return (*kept, thread), circle


def _messages(row: Entry) -> Iterator[tuple[str, int]]:
    """(digest, estimated tokens) of each message; what frames the conversation says nothing of its turns."""
    packed = row.blocks if len(row.blocks) % _RECORD == 0 else b""
    return ((found, tokens) for kind, found, tokens in digest.unpack(packed) if kind == "message")


def _own(threads: tuple[Thread, ...], run: bytes, messages: list[tuple[str, int]]) -> Thread | None:
    """The longest thread of this run whose last message the request still holds in its place."""
    fits = [
        one for one in threads
        if one.run == run and one.messages <= len(messages) and messages[one.messages - 1][0] == one.last
    ]  # fmt: skip
    return max(fits, key=lambda one: (one.messages, one.at), default=None)


def _begun(run: bytes, messages: list[tuple[str, int]], now: Instant) -> Thread:
    tokens = sum(size for _, size in messages)
    return Thread(
        run, len(messages), messages[-1][0], tokens, tokens, 0, (_turn(messages),), now
    )  # fmt: skip


def _grown(thread: Thread, messages: list[tuple[str, int]], now: Instant, memory: int) -> Thread:
    """A request that adds nothing is the whole request once more."""
    added = messages[thread.messages :]
    tokens = sum(size for _, size in messages)
    turn = _turn(added or messages)
    return Thread(
        thread.run, len(messages), messages[-1][0], tokens, thread.first_tokens,
        thread.grown + 1 if tokens > thread.tokens else 0, (*thread.turns, turn)[-memory:], now,
    )  # fmt: skip


def _turn(messages: list[tuple[str, int]]) -> Turn:
    whole = _hash("".join(found for found, _ in messages).encode())
    return Turn(whole, len(messages), tuple(size for _, size in messages[-_SIZES:]))


def _hash(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=8).digest()
