"""The least provider there can be: answers a chat completion of about 100 tokens at once, plain or as 100 chunks.

Usage: python benchmarks/provider_stub.py PORT
"""

import asyncio
import json
import sys

import httptools

TEXT = "The quick brown fox jumps over the lazy dog and runs far away into the deep green forest again. " * 5
USAGE = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
PLAIN = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()  # fmt: skip


def _chunk(**more: object) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    return b"data: " + json.dumps({**base, **more}).encode() + b"\n\n"


WORDS = [
    _chunk(choices=[{"index": 0, "delta": {"content": "word "}, "finish_reason": None}], usage=None) for _ in range(100)
]
LAST = [
    _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None),
    _chunk(choices=[], usage=USAGE),
    b"data: [DONE]\n\n",
]
HEAD_PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r\r\ncontent-length: %d\r\n\r\n" % len(PLAIN)
)
HEAD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Stub(asyncio.Protocol):
    """One connection; keep-alive; no pipelining."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        stream = b'"stream":true' in self.body or b'"stream": true' in self.body
        self.body = b""
        if stream:
            self.task = asyncio.ensure_future(self._stream())
        else:
            self.transport.write(HEAD_PLAIN + PLAIN)

    async def _stream(self) -> None:
        self.transport.write(HEAD_STREAM)
        for event in [*WORDS, *LAST]:
            self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))
            await asyncio.sleep(0)
        self.transport.write(b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
