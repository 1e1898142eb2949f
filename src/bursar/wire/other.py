"""A paid path that is passed through unread. Its errors take the OpenAI shape, for want of a better one."""

from bursar.types import Api, Headers, Reading, View
from bursar.wire import openai_base, peek
from bursar.wire.meter import NoMeter


class Other(openai_base.OpenAIDialect):
    """Any other POST: what its body means is not known, so nothing in it is edited."""

    api: Api = "other"
    names_model = False

    def view(self, body: bytes, path: str, headers: Headers) -> View:
        """The model and whether a stream was asked, where the body is a JSON object that says so."""
        del path, headers
        found = peek.members(body)
        if found is None:
            return View(readable=False, opaque_input=True, prose=False)
        return View(
            model=peek.text(found.get("model")),
            stream=peek.flag(found.get("stream")),
            claims=tuple(peek.claims(found)),
            opaque_input=True,
            prose=False,
        )

    def path(self, path: str, *, model: str | None) -> str:
        """The path as it is."""
        del model
        return path

    def meter(self, view: View, headers: Headers, *, hide_usage: bool) -> NoMeter:
        del view, headers, hide_usage
        return NoMeter()

    def read(self, body: bytes, view: View, headers: Headers) -> Reading:
        del body, view, headers
        return Reading(terminal=True)
