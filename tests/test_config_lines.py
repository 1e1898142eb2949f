"""Where a key stands in a TOML document: hand-made ones, and whatever else tomllib reads."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.config.lines import Path as KeyPath
from bursar.config.lines import line_of, lines


def paths(value: Any, at: KeyPath = ()) -> Iterator[KeyPath]:
    if at:
        yield at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in members:
        yield from paths(below, (*at, key))


SOURCE = """a = 1 # [no]
[b]
c = { d."e f" = [1, 2] }
text = '''
[x]
a = '''
list = [ # ]
  {},
  {n = '#'},
]
[[x]]
n = 1979-05-27 07:32:00
[ x . 'm' ]
k = 1
[[x]]
m.k = "\\"]"
[[x.y]]
[[x.y]]
z = ''''a''''
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 1),
        (("b", "c"), 3),
        (("b", "c", "d", "e f"), 3),
        (("b", "text"), 4),
        (("b", "list", 1), 9),
        (("b", "list", 1, "n"), 9),
        (("x",), 11),
        (("x", 0, "m", "k"), 14),
        (("x", 1), 15),
        (("x", 1, "m", "k"), 16),
        (("x", 1, "y", 1, "z"), 19),
        (("x", 1, "y", 1, "unknown"), 18),
        (("x", 7), 11),
        (("nowhere",), None),
    ],
)
def test_where_a_key_stands(path: KeyPath, line: int | None) -> None:
    """Tables, inline ones, arrays of both; strings over several lines with brackets in them; the nearest table else."""
    assert line_of(SOURCE, path) == line


KEYS = st.sampled_from(["a", "b", "c-d", "e f", 'q"t', "ü"])
LEAVES = st.sampled_from([
    "1", "true", "1.5", "1979-05-27 07:32:00", '"x]}#,"', "'y\\'", '"\\""', '"""\n[a]\nb = "" 1\n"""',
    "'''\n''# '''",
])  # fmt: skip


def written(key: str) -> str:
    return key if re.fullmatch(r"[a-z-]+", key) else '"' + key.replace('"', '\\"') + '"'


INLINE = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + "".join(f" {i}, # ]\n" for i in items) + "]"),
        st.dictionaries(KEYS, inner.filter(lambda text: "#" not in text), max_size=3).map(
            lambda pairs: "{ " + ", ".join(f"{written(k)} = {v}" for k, v in pairs.items()) + " }"
        ),
    ),
    max_leaves=6,
)
TABLES = st.lists(
    st.tuples(st.sampled_from(["[%s]", "[[%s]]"]), st.lists(KEYS, min_size=1, max_size=3),
              st.dictionaries(KEYS, INLINE, max_size=3)), max_size=5,
)  # fmt: skip


@given(TABLES)
def test_every_path_of_a_document_has_its_line(tables: Any) -> None:
    """Whatever tomllib reads: each path is found, each key stands on the line that is told, and no line is made up."""
    source = ""
    for header, keys, pairs in tables:
        more = f"\n{header % '.'.join(map(written, keys))} # [x]\n\n"
        more += "".join(f"  {written(key)} = {value}\n" for key, value in pairs.items())
        try:
            tomllib.loads(source + more)
        except tomllib.TOMLDecodeError:
            continue  # a table said twice, a key in the way
        source += more
    found, rows = lines(source), source.split("\n")
    assert set(found) == set(paths(tomllib.loads(source)))
    for path, line in found.items():
        if isinstance(path[-1], str):
            assert written(path[-1]) in rows[line - 1]
