"""Views to HTML, by templates that escape whatever they are given. The one file that needs jinja2 (extra `dashboard`).

Without it every page is 501 and says what to install.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from bursar.doors.dashboard.view import FULL, HEIGHT

try:
    import jinja2
except ImportError:  # pragma: no cover - proved by the command line's own test
    jinja2 = None  # type: ignore[assignment]

_HERE = Path(__file__).parent
ASSETS: Mapping[str, tuple[bytes, str]] = {
    name: ((_HERE / "static" / name).read_bytes(), media)
    for name, media in (
        ("dashboard.css", "text/css"), ("dashboard.js", "text/javascript"), ("icon.svg", "image/svg+xml"),
    )
}  # fmt: skip
"""Name -> bytes and media type."""
VERSION = hashlib.sha256(b"".join(content for content, _ in ASSETS.values())).hexdigest()[:12]
"""In every asset's address: what changes is another file, so that browsers may keep each for ever."""

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Renderer:
    """Draws the templates of this package."""

    def __init__(self) -> None:
        self._templates: Any = None
        if jinja2 is not None:
            self._templates = jinja2.Environment(
                loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
                trim_blocks=True, lstrip_blocks=True, auto_reload=False,
            )  # fmt: skip
            self._templates.globals |= {"FULL": FULL, "HEIGHT": HEIGHT, "VERSION": VERSION}

    def page(self, template: str, status: int = 200, **told: Any) -> Response:
        """One page as an answer, with all its headers."""
        if self._templates is None:
            text = "The pages need the extra dashboard: pip install 'bursar[dashboard]'. The admin API is /bursar/v1.\n"
            return PlainTextResponse(text, 501, dict(HEADERS))
        html = self._templates.get_template(template).render(**told)
        return HTMLResponse(html.encode("utf-8", "replace"), status, dict(HEADERS))
