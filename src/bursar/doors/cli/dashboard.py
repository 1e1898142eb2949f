"""`bursar dashboard`: the pages alone, of any ledger, on this machine, until Ctrl-C. Where keys exist one is asked."""

import sys
import time
from contextlib import closing
from typing import Annotated

import uvicorn
from cyclopts import Parameter

from bursar.doors import dashboard as pages
from bursar.doors.cli.serving import free, until_told
from bursar.doors.cli.shared import Config, ledger, note, say_json
from bursar.doors.gateway.access import Doorkeeper
from bursar.doors.gateway.serve import options
from bursar.doors.open import open_books

HOST = "127.0.0.1"
PORT = 4602


def dashboard(
    *,
    port: Annotated[int, Parameter(help="0: a free one.")] = PORT,
    as_json: Annotated[bool, Parameter(name="--json", help="Tell the address as JSON.")] = False,
    config: Config = None,
) -> None:
    """The pages of the ledger: what the agents cost, why, and what to do."""
    with ledger(config) as (settings, _):
        pass  # one that is not there is said, never made
    with closing((books := open_books(settings)).store) as store:
        keyed = any(key.revoked_at is None for key in store.list_keys())
        hash_key = books.secret("keys")
        doorkeeper = Doorkeeper(store, hash_key, time.monotonic, keyed=keyed)
        app = pages.create(store, books.policy, doorkeeper, hash_key)
        bound = free(HOST, port)
        url = f"http://{HOST}:{bound}/"
        if as_json:
            say_json({"dashboard": url})
            sys.stdout.flush()
        asks = "an admin key is asked" if keyed else "this machine alone, no keys"
        note(f"dashboard at {url} (ledger {settings.store.url}, {asks}); Ctrl-C ends it")
        with until_told():
            uvicorn.run(app, host=HOST, port=bound, **options())
