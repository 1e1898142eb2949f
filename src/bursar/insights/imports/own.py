"""Bursar's own JSON lines, as `exports.whole` writes them: back to the very same row.

A column that this version does not know is refused, for the row would not come back whole.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar.insights.exports import BYTES
from bursar.insights.imports.booking import checked
from bursar.insights.imports.fields import Malformed, Row
from bursar.insights.rows import TOLD
from bursar.types import Entry

_MONEY = {name.removesuffix("_nanos") + "_usd": name for name in Entry.__struct_fields__ if name.endswith("_nanos")}


def entry(values: Mapping[str, Any]) -> Entry:
    """The row that a line of the export is."""
    row = Row(values)
    told = dict(values)
    for name, column in _MONEY.items():
        told.pop(name, None)
        told[column] = row.usd(name)
    told["started_at"] = row.instant("started_at")
    told["tags"] = list(row.row("tags").items())
    for name in BYTES:
        if told.get(name) is None:
            told.pop(name, None)
    for name in TOLD:
        _hold_json(name, told.get(name))
    unknown = sorted(told.keys() - set(Entry.__struct_fields__))
    if unknown:
        raise Malformed(f"{', '.join(unknown)[:80]}: no column of this version of Bursar")
    try:
        return checked(msgspec.convert(told, Entry))
    except msgspec.ValidationError as fault:
        raise Malformed(str(fault)) from None


def _hold_json(name: str, text: Any) -> None:
    if isinstance(text, str):
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError):
            raise Malformed(f"{name}: {ascii(text)[:60]} is no JSON") from None
