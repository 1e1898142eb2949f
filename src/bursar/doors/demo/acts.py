"""The two acts of the demo: before, where the agents' calls are measured and no more, and after, with all of it on.

The policy of the second is `after.toml`, read as any bursar.toml is; ConfigError where it cannot be. The environment of
this process has no say in it.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bursar.config import load
from bursar.doors.library.guard import Guard
from bursar.doors.open import Books, open_books

KEY = "sandbox"
"""Any key does."""
ENVIRON = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
BEFORE, AFTER = "before.toml", "bursar.toml"
"""Their files, in the demo's folder."""

_HEAD = """\
# {about}
[store]
url = "sqlite:///{database}"

[providers.openai]
api = "openai"
base_url = "{url}/v1"
api_key_env = "OPENAI_API_KEY"

[providers.anthropic]
api = "anthropic"
base_url = "{url}"
api_key_env = "ANTHROPIC_API_KEY"

"""
_SEMANTIC = re.compile(r", semantic = \{[^}]*\}")


def write(folder: Path, url: str) -> None:
    """Both configurations, with the sandbox at that URL in the providers' place and a ledger of its own each."""
    text = Path(__file__).with_name("after.toml").read_text("utf-8")
    if not means():
        text = _SEMANTIC.sub("", text)
    tiers = text[text.index("[tiers]") : text.index("# --- ")]
    for name, about, rules in (
        (BEFORE, "The demo's first act: measuring only. Its tiers are names for the report.", tiers),
        (AFTER, "The demo's second act.", text),
    ):
        database = (folder / name).with_suffix(".db").as_posix()
        head = _HEAD.format(about=about, database=database, url=url)
        (folder / name).write_text(head + rules, encoding="utf-8")


def means() -> bool:
    """Whether the semantic cache can be shown: its libraries and the local model's weights are installed."""
    if any(find_spec(name) is None for name in ("numpy", "tokenizers", "usearch")):
        return False
    from bursar.embedders.minilm import find

    return find() is not None


def books(folder: Path, name: str) -> Books:
    """The policy and the ledger of one act."""
    return open_books(load(folder / name, ENVIRON), ENVIRON)


def guard(told: Books) -> Guard:
    """The library's door on them."""
    return Guard(told.policy, told.store, credentials=told.credentials, connect=straight)


def straight(library: str, *, asynchronous: bool) -> Any:
    """A client that goes straight to the sandbox, past any proxy of the environment."""
    import httpx2

    del library
    return (httpx2.AsyncClient if asynchronous else httpx2.Client)(trust_env=False, timeout=60)
