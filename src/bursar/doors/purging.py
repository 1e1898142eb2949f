"""Which kept answers to forget, as the command line and the admin API are told; and what is kept, for machines.

A purge that says nothing is refused, not taken for everything: that is said by `all`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bursar.stores.cache import Purge, Shelf

_NAMES = ("step", "model", "tag", "prefix", "tenant")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,32}")


class BadPurge(ValueError):
    """What is wrong, beginning with the name of the option."""


def read(said: Mapping[str, object]) -> Purge:
    """step, model, tag ("k=v"), prefix (hex), tenant: strings, all of which must hold; or all: true. BadPurge."""
    told = {name: value for name, value in said.items() if value is not None and value is not False}
    if unknown := told.keys() - {*_NAMES, "all"}:
        raise BadPurge(f"{min(unknown):.80}: is not known; expected some of {', '.join(_NAMES)}, or all")
    if not told:
        raise BadPurge(f"all: nothing is said; expected some of {', '.join(_NAMES)}, or all")
    if told.get("all", True) is not True or ("all" in told and len(told) > 1):
        raise BadPurge("all: expected alone, and true")
    for name in _NAMES:
        if not isinstance(told.get(name, ""), str):
            raise BadPurge(f"{name}: expected text, got {told[name]!r:.80}")
    text: dict[str, str] = {name: str(told[name]) for name in _NAMES if name in told}
    return Purge(
        tenant=text.get("tenant"), step=text.get("step"), model=text.get("model"),
        tag=_tag(text.get("tag")), prefix=_prefix(text.get("prefix")),
    )  # fmt: skip


def _tag(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    key, equals, value = text.partition("=")
    if not (key and equals) or '"' in key:
        raise BadPurge(f"tag: expected k=v, got {text!r:.80}")
    return key, value


def _prefix(text: str | None) -> bytes | None:
    """Whole bytes, so that a prefix is what it looks like."""
    if text is None:
        return None
    if not _HEX.fullmatch(text):
        raise BadPurge(f"prefix: expected an even number of hexadecimal digits, 2 to 64, got {text!r:.80}")
    return bytes.fromhex(text)


def as_json(shelves: Sequence[Shelf], answers: int, size: int) -> dict[str, Any]:
    """{"answers", "bytes", "items": [{"tenant", "step", "model", "answers", "bytes"}]}: expired ones count in the sums
    until they are trimmed, and are no items."""
    items = [{name: getattr(shelf, name) for name in shelf.__struct_fields__} for shelf in shelves]
    return {"answers": answers, "bytes": size, "items": items}
