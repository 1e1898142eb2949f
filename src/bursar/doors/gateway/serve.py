"""`bursar serve`: the gateway on a socket, in one process or several."""

import os
from typing import Any

import uvicorn

from bursar.doors.gateway.access import is_loopback
from bursar.doors.gateway.app import Gateway

GRACE_SECONDS = 30


class CannotServe(Exception):
    """The gateway may not start as asked; says what to change."""


def check_address(host: str, *, keyed: bool) -> None:
    """Without keys only this machine is served: raises CannotServe for any other address."""
    if not keyed and not is_loopback(host):
        raise CannotServe(
            f"bound to {host} the gateway would spend money for whoever reaches it: create a key first "
            "(`bursar keys create --name NAME`), or bind 127.0.0.1"
        )


def run(app: Gateway | str, host: str, port: int, workers: int = 1, **more: Any) -> None:
    """Serve until SIGINT or SIGTERM; then finish what streams, settle, and return."""
    uvicorn.run(app, host=host, port=port, workers=workers if workers > 1 else None, **options(), **more)


def options() -> dict[str, Any]:
    """What uvicorn is told wherever it serves a Gateway. The provider's own `date` and `server` are relayed instead."""
    return {
        "loop": "auto",
        "http": "auto",
        "ws": "none",
        "access_log": False,
        "log_level": os.environ.get("BURSAR_LOG_LEVEL", "warning"),
        "server_header": False,
        "date_header": False,
        "timeout_graceful_shutdown": GRACE_SECONDS,
    }
