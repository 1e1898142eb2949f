"""The command line: one page of commands, each imported when it is asked for, so that `bursar --help` is quick.

Exit codes: 0; 1 a finding; 2 usage or configuration, said on stderr in a line each and never as a traceback.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

_COMMANDS = (
    ("demo", "playing:demo", "Three agents on the simulated provider, and what they cost.", "bursar demo"),
    ("init", "setup:init", "Write a commented bursar.toml.", "bursar init"),
    ("check", "setup:check", "Validate the configuration: every fault with its line.", "bursar check --config F"),
    ("serve", "serving:serve", "The gateway, its admin API and pages.", "bursar serve --port 4600 --workers 2"),
    ("dashboard", "dashboard:dashboard", "The pages of a ledger.", "bursar dashboard --port 4602"),
    ("sandbox", "serving:sandbox", "The simulated provider alone.", "bursar sandbox --faults 429:0.05"),
    ("report", "asking:report", "The four metrics and a table.", "bursar report --by step --since 7d"),
    ("runs", "asking:runs", "The runs, newest first.", "bursar runs --agent researcher --since 24h"),
    ("run", "asking:run", "One run's call map: every attempt, in order.", "bursar run RUN_ID"),
    ("doctor", "doctoring:doctor", "Why provider prompt caching misses, in dollars.", "bursar doctor --since 7d"),
    ("price", "asking:price", "Price usage objects: JSON lines in, JSON lines out.", "bursar price < usage.jsonl"),
    ("verify", "asking:verify", "Audit the ledger; exit code 1 on any mismatch.", "bursar verify --json"),
    ("export", "transfer:export_", "Write the ledger's rows.", "bursar export --format csv --out calls.csv"),
    ("import", "transfer:import_", "Add another tool's log, or an export.", "bursar import logs.json --from litellm"),
)  # fmt: skip
"""name, where it is, what it does, an example"""

_KEYS = (
    ("create", "keys:create", "Make a key and show its secret, once.",
     "bursar keys create --name shop --trust user,session,run,agent,step"),
    ("list", "keys:list_", "The keys, without their secrets.", "bursar keys list"),
    ("revoke", "keys:revoke", "End a key.", "bursar keys revoke key_0123456789abcdef"),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; always ends in SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(list(sys.argv[1:] if argv is None else argv)))


def app() -> App:
    """The commands."""
    told = App(
        name="bursar",
        help="Cost control of production AI agents: every LLM call seen, priced and booked.",
        help_epilogue="Example: bursar demo",
        help_format="plaintext",
        version=lambda: version("bursar"),
        default_parameter=Parameter(negative=()),
        exit_on_error=False,
        result_action="return_value",
    )
    keys = App(
        name="keys", help="Who may use the gateway: create, list, revoke.", help_epilogue=f"Example: {_KEYS[1][3]}"
    )
    for group, commands in ((told, _COMMANDS), (keys, _KEYS)):
        for name, place, what, example in commands:
            group.command(f"{__name__}.{place}", name=name, help=what, help_epilogue=f"Example: {example}")
    told.command(keys)
    told.command(f"{__name__}.budgets:app", name="budgets", help="Where the budgets stand; limits from recorded runs.")
    told.command(f"{__name__}.alerts:app", name="alerts", help="Incidents, open and past; a test of every target.")
    told.command(f"{__name__}.breakers:app", name="breakers", help="Who is suspended, why and until when; reset.")
    told.command(f"{__name__}.cache:app", name="cache", help="The answers that are kept to be given again.")
    return told


def _run(argv: list[str]) -> int:
    try:
        told = app()(argv)
        sys.stdout.flush()
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain again when it flushes stdout at exit.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as fault:
        if type(fault).__name__ not in _USERS_FAULTS:
            raise
        sys.stderr.write("".join(f"bursar: {line}\n" for line in str(fault).splitlines()))
        return 2
    return told if isinstance(told, int) else 0


_USERS_FAULTS = frozenset(("Misuse", "ConfigError", "StoreFailure", "CannotServe"))
"""By name: importing their classes would cost every `--help` what they import."""
