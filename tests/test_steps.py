"""What code says of a step, said again: checked and compiled once, and not changed by what becomes of it."""

from typing import Any

import pytest

from bursar.doors.library.steps import Steps
from bursar.policy import Check
from bursar.types import Answer
from route_kit import rules, yes


def schema(kind: str = "integer") -> dict[str, Any]:
    return {"type": "object", "properties": {"pages": {"type": kind}}, "required": ["pages"]}


@pytest.mark.parametrize(
    "said",
    [schema, lambda: dict(reversed(schema().items())), lambda: [schema()], lambda: ["yes", "no"],
     lambda: {"const": True}],
)  # fmt: skip
def test_what_is_written_inline_is_made_once(said: Any) -> None:
    steps = Steps(rules())
    assert steps.own(validate=said()) is steps.own(validate=said())
    assert steps.own(validate=said()) is not steps.own(validate=said(), tier="mid")


def test_what_is_not_the_same_is_not_taken_for_it() -> None:
    steps = Steps(rules())
    told: list[Any] = [schema(), schema("string"), {"const": True}, {"const": 1}, {"const": 1.0}, ["yes"], ["no"]]
    assert len({id(steps.own(validate=one)) for one in told}) == len(told)


def test_a_schema_that_is_changed_later_checks_as_it_was_said() -> None:
    steps, mine = Steps(rules()), schema()
    own = steps.own(validate=mine)
    mine["properties"]["pages"]["type"] = "string"
    assert own is not None and own is not steps.own(validate=mine) and own is steps.own(validate=schema())
    (check,) = own.fields["validators"]
    assert isinstance(check, Check)
    words: Any = [check.run(Answer(text=text)) for text in ('{"pages": 3}', '{"pages": "3"}')]
    assert [word.ok for word in words] == [True, False]


def test_what_is_no_json_is_made_anew() -> None:
    steps = Steps(rules())
    made = [steps.own(validate=[schema(), yes]) for _ in range(2)]
    assert None not in made and made[0] is not made[1]
    round_: dict[str, Any] = {}
    round_["not"] = round_
    with pytest.raises((ValueError, RecursionError)):
        steps.own(validate=round_)
