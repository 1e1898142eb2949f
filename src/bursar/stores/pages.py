"""One page of a listing, the newest first, and where to go on. Pure. A cursor that is none of ours is a ValueError."""

from typing import Generic, TypeVar

import msgspec

from bursar.types import Instant

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows, newest first, and where to go on; next_cursor is None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


def cursor_of(at: int, number: int) -> str:
    """Where a page ended."""
    return f"{at}.{number}"


def parse_cursor(text: str) -> tuple[int, int]:
    """Where to go on; ValueError where the text is no cursor of ours."""
    try:
        at, number = text.split(".")
        return int(at), int(number)
    except ValueError:
        raise ValueError(f"{text!r} is no cursor: give back the next_cursor of the page before") from None


def page_of(numbered: list[tuple[Instant, int, T]], limit: int, cursor: str | None) -> Page[T]:
    """A page of what lies in memory, each item with its time and its number."""
    after = None if cursor is None else parse_cursor(cursor)
    ordered = sorted(numbered, key=lambda item: item[:2], reverse=True)
    left = [item for item in ordered if after is None or item[:2] < after]
    more = cursor_of(*left[limit - 1][:2]) if len(left) > limit else None
    return Page(tuple(item for _, _, item in left[:limit]), more)
