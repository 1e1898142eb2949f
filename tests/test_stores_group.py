"""The writing thread: what it takes first, and what becomes of the jobs should it die."""

import threading

import pytest

from bursar.stores.group import GroupCommit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_writer_says_so() -> None:
    """Should the writing thread die of a bug, the jobs it had and all later ones are told; nobody waits for ever."""
    buried, told = list[int](), threading.Event()

    def commit(jobs: list[int]) -> None:
        raise ZeroDivisionError("a bug")

    def bury(jobs: list[int], fault: BaseException) -> None:
        buried.extend(jobs)
        told.set()

    group = GroupCommit[int](commit, bury, lambda: None, lambda: None)
    assert group.submit(1, "now")
    assert told.wait(10)
    assert group._thread is not None
    group._thread.join(10)
    assert (buried, group.submit(2, "now"), type(group.fault)) == ([1], False, ZeroDivisionError)


def test_a_settlement_never_overtakes_its_reserve() -> None:
    """However they were queued, a reserve is written before its settlement, and what asks for all comes last."""
    batches = list[list[str]]()
    gate, began = threading.Event(), threading.Event()

    def commit(jobs: list[str]) -> None:
        began.set()
        gate.wait(10)
        batches.append(jobs)

    group = GroupCommit[str](commit, lambda jobs, fault: None, lambda: None, lambda: None)
    group.submit("first", "now")
    assert began.wait(10)
    for number in range(300):
        group.submit(f"reserve {number}", "now")
        group.submit(f"settle {number}", "soon")
    group.submit("mark", "last")
    gate.set()
    group.close()
    order = [job for batch in batches for job in batch]
    assert len(order) == 602 and order[-1] == "mark"
    assert all(order.index(f"reserve {number}") < order.index(f"settle {number}") for number in range(300))


@pytest.mark.parametrize("size", [10, 300])
def test_what_was_submitted_before_is_written_before(size: int) -> None:
    """A job of "behind" finds all that came before it in its own batch or an earlier one, and everything comes in the
    order of submission up to it."""
    batches = list[list[int]]()
    gate, began = threading.Event(), threading.Event()

    def commit(jobs: list[int]) -> None:
        began.set()
        gate.wait(10)
        batches.append(jobs)

    group = GroupCommit[int](commit, lambda jobs, fault: None, lambda: None, lambda: None)
    group.submit(-1, "now")
    assert began.wait(10)
    for number in range(size):
        group.submit(4 * number, "soon")
        group.submit(4 * number + 1, "now")
        group.submit(4 * number + 2, "behind")
        group.submit(4 * number + 3, "soon")
    gate.set()
    group.close()
    order = [job for batch in batches for job in batch]
    assert sorted(order) == list(range(-1, 4 * size))
    behind = order.index(4 * size - 2)
    assert order[: behind + 1] == [-1, *range(4 * size - 1)]
    assert max(map(len, batches)) <= 256
