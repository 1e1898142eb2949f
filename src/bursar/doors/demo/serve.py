"""`bursar demo --serve`: the gateway on the demo's ledger, with the sandbox behind it, until Ctrl-C.

A port that is taken ends it with a message that names the port.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

from bursar.doors.demo import play
from bursar.doors.gateway import serve
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings
from bursar.policy import Policy
from bursar.stores.sqlite import SqliteStore

HOST, PORT = "127.0.0.1", 4600
CONFIG = """\
# The ledger of one `bursar demo --serve`, for `bursar report --config` and its like.
[store]
url = "sqlite:///{database}"

[tiers]
{tiers}
"""


def leave_open(folder: Path, policy: Policy) -> None:
    """Serves the ledger in that folder; nothing asks for a key, and any key is good for the sandbox."""
    database, config = folder / "bursar.db", folder / "bursar.toml"
    tiers = "\n".join(f"{name} = {json.dumps(models)}" for name, models in play.TIERS.items())
    config.write_text(CONFIG.format(database=database.as_posix(), tiers=tiers), encoding="utf-8")
    keys = dict.fromkeys(policy.providers, play.KEY)
    gateway = Gateway(policy, SqliteStore(database), token_bytes(32), keys, Settings())
    sys.stderr.write(
        f"\nThe gateway is open at http://{HOST}:{PORT} (base_url http://{HOST}:{PORT}/v1) until Ctrl-C.\n"
        f"The ledger stays at {database}: bursar report --config {config}\n"
    )
    with suppress(KeyboardInterrupt):
        serve.run(gateway, HOST, PORT)
