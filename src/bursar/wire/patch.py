"""The edits of a request on its way out, made in one pass: a dialect says what each one comes to. Nothing here raises.

Where no edit is asked for, or none is needed, the body goes on as the very same object.
"""

import msgspec

from bursar.wire import peek, splice
from bursar.wire.splice import Edits


class Patching:
    """A dialect's `patch`; what a dialect does not say, it does not edit."""

    names_model = True
    """The model stands in the body."""

    def patch(
        self,
        body: bytes,
        *,
        model: str | None = None,
        add_usage: bool = False,
        output_limit: int | None = None,
        tools_off: bool = False,
        note: str | None = None,
        hint: str | None = None,
        logprobs: bool = False,
    ) -> bytes:
        """The body with these edits spliced in and every other byte as it was; the same object where none is needed.

        output_limit: tokens per choice; only ever lowers what the caller stated. tools_off: no tool may be called, the
        tools stay. note: a system note for the end of the prompt, left out where it would move a cached prefix.
        hint: said by the user behind all of that, wherever there is a prompt. logprobs: chat only, the two likeliest.
        """
        if model is None or not self.names_model:
            if output_limit is None and note is None and hint is None and not (add_usage or tools_off or logprobs):
                return body
            model = None
        found = peek.members(body)
        if found is None:
            return body
        edits: Edits = {}
        if model is not None:
            edits |= _named(found, model)
        if add_usage:
            edits |= self._asking(found)
        if output_limit is not None:
            edits |= self._limited(found, output_limit)
        if tools_off:
            edits |= self._tools_off(found)
        if note is not None:
            edits |= self._noted(found, note)
        if hint is not None:
            edits |= self._hinted(found | {key: msgspec.Raw(value) for key, value in edits.items()}, hint)
        if logprobs:
            edits |= self._scored(found)
        return splice.set_members(body, edits, found)

    def _asking(self, found: peek.Members) -> Edits:
        del found
        return {}

    def _limited(self, found: peek.Members, limit: int) -> Edits:
        del found, limit
        return {}

    def _tools_off(self, found: peek.Members) -> Edits:
        del found
        return {}

    def _noted(self, found: peek.Members, note: str) -> Edits:
        del found, note
        return {}

    def _hinted(self, found: peek.Members, hint: str) -> Edits:
        """found: as the note has left it."""
        del found, hint
        return {}

    def _scored(self, found: peek.Members) -> Edits:
        del found
        return {}


def _named(found: peek.Members, model: str) -> Edits:
    return {} if peek.text(found.get("model")) == model else {"model": msgspec.json.encode(model)}


def lowered(found: peek.Members, limit: int, *keys: str) -> Edits:
    """Every one of these members that stands, brought down to the limit; where none does, the first is put in.

    What is no count is replaced as well: a provider might read it as one.
    """
    stated = [key for key in keys if peek.first(found, key) is not None]
    if not stated:
        return {keys[0]: b"%d" % limit}
    told = {key: peek.count(found[key]) for key in stated}
    return {key: b"%d" % limit for key, count in told.items() if count is None or count > limit}


def inside(found: peek.Members, key: str, edits: Edits) -> Edits:
    """The same edits one level down: in the object that is that member, {} where it is missing or null.

    A member of another type is left alone: the provider will refuse it, in its own words.
    """
    value = peek.first(found, key)
    if value is None:
        return {key: splice.set_members(b"{}", edits)}
    return {} if peek.members(value) is None else {key: splice.set_members(bytes(value), edits)}
