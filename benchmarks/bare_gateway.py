"""The bare pass-through that the gateway is measured against: uvicorn (raw ASGI) and aiohttp, nothing between.

Usage: python benchmarks/bare_gateway.py PORT PROVIDER_PORT
"""

import sys
from typing import Any

import aiohttp
import uvicorn

SESSION: list[aiohttp.ClientSession] = []


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                SESSION.append(aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)))
                await send({"type": "lifespan.startup.complete"})
            else:
                await SESSION.pop().close()
                await send({"type": "lifespan.shutdown.complete"})
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    url = f"http://127.0.0.1:{PROVIDER}{scope['path']}"
    async with SESSION[0].post(url, data=body, headers={"content-type": "application/json"}) as answer:
        headers = [(b"content-type", answer.headers["content-type"].encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    PROVIDER = int(sys.argv[2])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
