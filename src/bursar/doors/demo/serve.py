"""`bursar demo --serve`: gateway and dashboard on the second act's ledger, the sandbox behind them, until Ctrl-C.

A port that is taken ends it with a message that names the port.
"""

import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

from bursar.doors.demo import acts
from bursar.doors.gateway import serve
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings

HOST, PORT = "127.0.0.1", 4600


def leave_open(folder: Path) -> None:
    """Serves the ledger in that folder; nothing asks for a key, and any key is good for the sandbox."""
    told = acts.books(folder, acts.AFTER)
    gateway = Gateway(told.policy, told.store, token_bytes(32), told.credentials, Settings())
    here = f"http://{HOST}:{PORT}"
    sys.stderr.write(
        f"\nThe dashboard is at {here}/, the gateway at {here}/v1 (base_url), until Ctrl-C.\n"
        f"The ledgers stay: bursar report --config {folder / acts.AFTER}, and {folder / acts.BEFORE} for before.\n"
    )
    with suppress(KeyboardInterrupt):
        serve.run(gateway, HOST, PORT)
