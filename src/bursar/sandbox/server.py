"""The sandbox over real sockets: in the foreground for the command line, in a thread for tests.

A port that is taken raises OSError; leaving the context drops open connections and joins the thread.
"""

import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn

from bursar.sandbox.app import Got, SandboxApp
from bursar.sandbox.bill import Bill
from bursar.sandbox.settings import Settings


def _config(app: SandboxApp) -> uvicorn.Config:
    # A broken connection is a fault asked for here: uvicorn's complaints about it would be noise.
    return uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1)


class _Server(uvicorn.Server):
    """Says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def serve(settings: Settings | None = None, host: str = "127.0.0.1", port: int = 4601) -> None:
    """Serves until interrupted."""
    with _listen(host, port) as listener:
        uvicorn.Server(_config(SandboxApp(settings))).run(sockets=[listener])


class SandboxServer:
    """`with SandboxServer(settings) as s:` serves on a free loopback port; `s.url` has no path."""

    def __init__(self, settings: Settings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.app = SandboxApp(settings)
        self._listener = _listen(host, port)
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"

    @property
    def bill(self) -> Bill:
        return self.app.bill

    @property
    def requests(self) -> list[Got]:
        return list(self.app.requests)

    def __enter__(self) -> Self:
        self._server = _Server(_config(self.app))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="bursar-sandbox", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(30):
            raise RuntimeError("the sandbox did not start within 30 s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(30)
        self._listener.close()
