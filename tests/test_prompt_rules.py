"""Habits of a step and where they say that a marker pays: laws, the published arithmetic, and a search of all sets."""

import itertools
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bursar.rules import digest
from bursar.rules.prompt.habits import (
    HORIZONS_S,
    Habits,
    Row,
    Trace,
    chain,
    chances,
    first_return,
    floor_of,
    meet,
    observe,
    summary,
)
from bursar.rules.prompt.hints import Spot
from bursar.rules.prompt.known import Rules, rules_of
from bursar.rules.prompt.place import place
from bursar.types import PPM, Api, Block, BlockKind, Bucket, Instant, Mark, Marks

SECOND = 1_000_000
RATES: dict[Bucket, int] = {
    "input": 1000, "cache_read": 100, "cache_write_5m": 1250, "cache_write_30m": 1250, "cache_write_1h": 2000,
    "output": 5000,
}  # fmt: skip
CLAUDE, GPT = "claude-sonnet-4-5", "gpt-5.6-sol"
MARKS = rules_of("messages", CLAUDE)
TAKES = Spot(1, True)


def packed(*blocks: tuple[BlockKind, str], tokens: int = 2000) -> bytes:
    """Blocks by what they say, each of so many tokens."""
    found, _ = digest.pack(tuple(Block(kind, text.encode()) for kind, text in blocks), b"k")
    return b"".join(found[at : at + 9] + tokens.to_bytes(4) for at in range(0, len(found), 13))


def row(at_s: float, *texts: str, api: Api = "messages", model: str = CLAUDE, system: str = "s", **more: Any) -> Row:
    blocks = packed(("system", system), *(("message", text) for text in texts))
    return Row(at=Instant(int(at_s * SECOND)), api=api, provider="p", model=model, blocks=blocks, **more)


def whole(at_s: float, *texts: str, **more: Any) -> Row:
    """A call of which the provider has cached everything."""
    return row(at_s, *texts, input_tokens=1, cached_tokens=1, cache_write_tokens=0, **more)


def placed(asked: Row, habits: Habits, rules: Rules | None = None, **more: Any) -> Marks:
    spots = more.pop("spots", [TAKES] * (len(asked.blocks) // 13))
    return place(asked, spots, habits, more.pop("rates", RATES), rules or rules_of(asked.api, asked.model), **more)


def at(*blocks: int, ttl: str = "5m") -> tuple[Mark, ...]:
    return tuple(Mark(block, ttl) for block in blocks)  # type: ignore[arg-type]


def learned(tally: dict[tuple[int, int], tuple[int, ...]]) -> Habits:
    """Habits by their life table: (kind, level) -> awaited and returned in each interval."""
    found: Any = {kind * 8 + level: (*counts, 0, 0, 0) for (kind, level), counts in tally.items()}
    return Habits(calls=99, tally=found)


# --- the arithmetic of caching.md


@pytest.mark.parametrize(("returned", "pays"), [(217, False), (218, True)])
def test_a_marker_pays_from_21_7_percent_on(returned: int, pays: bool) -> None:
    """p > (w - 1) / (w - r): at 1.25 and 0.1 that is 21.74 %."""
    habits = learned({(2, 0): (999, 0, 0, returned, 0, 0), (1, 0): (999, 0, 0, 999, 0, 0)})
    assert (placed(row(0, "x"), habits).marks[-1:] == at(1)) is pays


@pytest.mark.parametrize(("later", "ttl"), [(390, "5m"), (400, "1h")])
def test_an_hour_beats_five_minutes_by_the_rule(later: int, ttl: str) -> None:
    """p60 > 0.395 + 0.605 p5: with p5 = 0.5 that is 0.6975; here p60 is 0.695 and 0.7."""
    counts = (999, 999, 999, 500, later, 0)
    habits = learned({(kind, level): counts for kind in (1, 2) for level in range(8)})
    found = placed(row(0, "x"), habits)
    assert {mark.ttl for mark in found.marks} == {ttl}
    without = {bucket: rate for bucket, rate in RATES.items() if bucket != "cache_write_1h"}
    assert {mark.ttl for mark in placed(row(0, "x"), habits, rates=without).marks} == {"5m"}


SHARES = st.sampled_from([0, 20, 50, 70, 80, 90, 95, 99])
TALLY = st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=24, max_size=24).map(
    lambda shares: {divmod(n, 8): (99, 99, 99, *returned) for n, returned in enumerate(shares)}
)
SPOTS = st.builds(Spot, st.integers(1, 25), st.sampled_from([True, True, True, False]))


def cheapest(asked: Row, spots: list[Spot], habits: Habits, rules: Rules, only: tuple[Mark, ...] | None) -> int:
    """The price of these marks, or of the best of all sets, by the formula of caching.md, in PPM of a rate."""
    links = chain(asked)
    met, tally = meet(habits, links, asked.at)
    lowest, chance, alive = [PPM] * 3, [], []
    parts: list[int] = []
    for link, seen in zip(links, met, strict=True):
        lowest = [min(a, b) for a, b in zip(lowest, chances(tally, link.kind)[seen.level], strict=True)]
        chance.append(lowest)
        old = seen.trace
        alive.append(old is not None and asked.at - old.at < old.kept)
        parts.append(spots[link.block].parts + (parts[-1] if parts else 0))
    marked = [n for n, link in enumerate(links) if spots[link.block].takes]
    seam = max((n for n in marked if alive[n]), default=-1)
    ttls = {bucket.removeprefix("cache_write_"): (RATES[bucket], life) for bucket, life in rules.writes}

    def price(marks: list[tuple[int, str]]) -> int:
        total = start = 0
        for number, ttl in marks:
            end, (write, life) = links[number].end, ttls[ttl]
            p = chance[number][HORIZONS_S.index(life)]
            near = seam >= 0 and parts[number] - parts[seam] < rules.look_back
            read = end if alive[number] else links[seam].end if near else 0
            read = max(0, min(read, end) - start)
            each = p * RATES["cache_read"] + (PPM - p) * write
            total += read * RATES["cache_read"] * PPM + (end - start - read) * each
            start = end
        return total + (links[-1].end - start) * RATES["input"] * PPM

    if only is not None:
        by_block = {link.block: number for number, link in enumerate(links)}
        return price([(by_block[mark.block], mark.ttl) for mark in only])
    able = [n for n in marked if links[n].end >= rules.floor]
    return min(
        price(list(zip(numbers, lives, strict=True)))
        for size in range(rules.most + 1)
        for numbers in itertools.combinations(able, size)
        for lives in itertools.combinations_with_replacement(ttls, size)
    )


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=6),
    front=st.sampled_from([200, 1500]),
    tools=st.booleans(),
    tally=TALLY,
    spots=st.lists(SPOTS, min_size=8, max_size=8),
    seen=st.integers(0, 6),
    covered=st.integers(0, 6),
    sights=st.integers(1, 20),
    age=st.sampled_from([1, 200, 299, 301, 2000]),
    look_back=st.sampled_from([1, 20]),
)
def test_no_set_of_markers_is_cheaper(
    sizes: list[int],
    front: int,
    tools: bool,
    tally: dict[Any, Any],
    spots: list[Spot],
    seen: int,
    covered: int,
    sights: int,
    age: int,
    look_back: int,
) -> None:
    """Against a search of every set of at most four markers with every lifetime: never above 5 % dearer; in fact never
    dearer at all. Lifetimes fall along the prompt, no marker stands where none can, or below the floor."""
    kinds: list[BlockKind] = ["tools", "system"] if tools else ["system"]
    blocks = [*((kind, f"{kind}") for kind in kinds), *(("message", f"m{n}") for n in range(len(sizes)))]
    raw = packed(*blocks)
    tokens = [front] * len(kinds) + sizes
    raw = b"".join(raw[13 * n : 13 * n + 9] + size.to_bytes(4) for n, size in enumerate(tokens))
    asked = Row(at=Instant(10_000 * SECOND), api="messages", provider="p", model=CLAUDE, blocks=raw)
    before = asked.at - age * SECOND
    traces = {
        link.key: Trace(before, before, sights, 4, 300 * SECOND * (number < covered and link.end >= MARKS.floor))
        for number, link in enumerate(chain(asked)[:seen])
    }
    habits = learned(tally)
    habits = Habits(calls=99, tally=habits.tally, waiting=(traces, {}, {}))
    rules = Rules("marks", 1024, 4, look_back, MARKS.writes)
    found = place(asked, spots, habits, RATES, rules)
    best = cheapest(asked, spots, habits, rules, None)
    event(f"{len(found.marks)} markers")
    assert cheapest(asked, spots, habits, rules, found.marks) <= best
    assert len(found.marks) <= 4 and all(spots[mark.block].takes for mark in found.marks)
    lives = [mark.ttl for mark in found.marks]
    assert lives == sorted(lives, key=["1h", "5m"].index)
    assert all(sum(tokens[: mark.block + 1]) >= 1024 for mark in found.marks)


# --- what is learned


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 60, 299, 301, 1799, 1801, 3599, 3601])), max_size=40))
def test_the_life_table_counts_every_return_once(calls: list[tuple[int, int]]) -> None:
    """Each time a prompt is seen again, the gap falls in one interval; who is awaited is never fewer than who came."""
    habits, now = Habits(), 0
    last: dict[int, int] = {}
    returns = [0, 0, 0]
    for which, gap in calls:
        now += gap
        raw = packed(("message", str(which)))
        habits = observe(habits, Row(at=Instant(now * SECOND), api="chat", provider="p", model="m", blocks=raw))
        since = now - last.get(which, -(10**9))
        if since <= HORIZONS_S[-1]:
            returns[sum(since > horizon for horizon in HORIZONS_S)] += 1
        last[which] = now
    counted = [sum(column) for column in zip(*habits.tally.values(), strict=True)] or [0] * 9
    assert counted[3:6] == returns
    assert counted[6:] == list(map(len, habits.waiting))
    assert counted[0] + counted[6] == len(calls), "each call has had its first interval, or is in it"
    assert all(counts[k] >= counts[3 + k] for counts in habits.tally.values() for k in range(3))
    for level in chances(habits.tally, 2):
        assert 0 <= level[0] <= level[1] <= level[2] <= PPM


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(-(10**12), 10**12)), max_size=6))
def test_nothing_raises(calls: list[tuple[bytes, int]]) -> None:
    """Damaged digests, rows out of order: nothing is learned from what cannot be read, and nothing is placed on it."""
    habits = Habits()
    for raw, moment in calls:
        one = Row(at=Instant(moment), api="messages", provider="p", model=None, blocks=raw, cached_tokens=5)
        place(one, [TAKES] * 5, habits, RATES, MARKS)
        habits = observe(habits, one)
    assert habits.calls == len(calls)


def test_habits_are_bounded_and_frozen() -> None:
    """However many prompts: so many traces, 24 classes, counts that are halved; an earlier value never changes."""
    habits = Habits()
    first = observe(habits, row(0, "a"))
    unheeded: Any = {"marks": Marks(covered=5000), "cached_tokens": 0, "cache_write_tokens": 0}
    for n in range(1500):
        said = (f"{n}:{m}" for m in range(20))
        habits = observe(habits, row(n, *said, model=f"claude-{n}", **unheeded))
    assert sum(map(len, habits.waiting)) <= 2048 and len(habits.tally) <= 24 and len(habits.floors) <= 16
    assert all(counts[0] <= 1025 for counts in habits.tally.values())
    assert Habits() == Habits(0, ({}, {}, {}), {}, {}) and first == observe(Habits(), row(0, "a"))


def conversation(turns: int, name: str, start_s: float, gap_s: float, habits: Habits, **more: Any) -> Habits:
    said: list[str] = []
    for turn in range(turns):
        said += [f"{name} {turn}", f"{name} answer {turn}"]
        habits = observe(habits, whole(start_s + turn * gap_s, *said[:-1], **more))
    return habits


def test_a_growing_conversation_is_marked_at_its_end() -> None:
    """Turn after turn the marker moves with the end; the first turn of the next conversation is marked too."""
    habits = Habits()
    assert placed(row(0, "a"), habits) == Marks()
    for n in range(4):
        habits = conversation(5, f"c{n}", n * 200, 20, habits)
    assert placed(row(800, "new"), habits).marks[-1:] == at(1)
    habits = observe(habits, whole(800, "new"))
    found = placed(row(820, "new", "answer", "more"), habits)
    assert found.marks[-1:] == at(3) and found.covered == 8000
    assert summary(habits).shared[0] > 900_000 and summary(habits).grows[0] > 600_000


def test_the_second_call_already_teaches() -> None:
    """No history but one call, and it has come back: its return counts before this call is placed."""
    habits = observe(Habits(), row(0, "a"))
    assert placed(row(20, "a", "b", "c"), habits).marks == at(3)
    assert placed(row(20, "z"), habits).marks == at(0), "only the system prompt has come back"
    assert placed(row(20, "z", system="other"), habits) == Marks()


def test_one_shot_prompts_are_never_marked() -> None:
    """Nothing returns: nothing is written, at Anthropic's not once; at OpenAI's the implicit write is turned off."""
    for api, model in (("messages", CLAUDE), ("responses", GPT)):
        habits = Habits()
        for n in range(20):
            one = row(n, f"{n}", api=api, model=model, system=f"s{n}")  # type: ignore[arg-type]
            if api == "messages" or n < 8:
                assert placed(one, habits) == Marks()
            habits = observe(habits, one)
        last = placed(row(21, "x", api=api, model=model, system="s21"), habits)  # type: ignore[arg-type]
        assert last == Marks(explicit=api == "responses")
        assert summary(habits).one_shot == PPM


def test_openai_is_left_alone_until_something_is_known() -> None:
    """Cold: as the caller wrote it. A growing conversation: the implicit marker stands for ours. A shared prompt with
    one-shot questions: a breakpoint after it, and the rest is not written."""
    one = row(0, "a", api="responses", model=GPT)
    assert placed(one, Habits()) == Marks()
    habits = Habits()
    for n in range(4):
        habits = conversation(5, f"c{n}", n * 200, 20, habits, api="responses", model=GPT)
    found = placed(row(800, "new", api="responses", model=GPT), habits)
    assert not found.explicit and found.covered == 4000
    habits = Habits()
    for n in range(20):
        habits = observe(habits, row(n, f"q{n}", api="responses", model=GPT))
    found = placed(row(21, "another", api="responses", model=GPT), habits)
    assert found == Marks(at(0, ttl="30m"), explicit=True, covered=2000)


def test_a_tail_that_is_replaced_every_turn_is_not_written() -> None:
    """The last message states the moment and is gone in the next call: the marker stands before it."""
    habits = Habits()
    for n in range(6):
        said = [f"m{k}" for k in range(n + 1)]
        habits = observe(habits, whole(20 * n, *said, f"now {n}", marks=Marks(covered=2000 * (n + 2))))
    found = placed(row(130, *(f"m{k}" for k in range(7)), "now 7"), habits)
    assert found.marks[-1:] == at(7)


def test_what_the_provider_has_is_read_whatever_its_chance() -> None:
    """Conversations end at their second turn: the second is read to where the first was written, and not written."""
    habits = Habits()
    for n in range(12):
        habits = conversation(2, f"c{n}", n * 400, 20, habits)
    habits = observe(habits, whole(4900, "c"))
    assert placed(row(4920, "c", "answer", "last"), habits).marks == at(0, 1)


def test_an_old_end_out_of_reach_gets_its_own_marker() -> None:
    """A marker finds an entry among 20 blocks: parallel tool results of one turn can be more."""
    habits = Habits()
    for n in range(4):
        habits = conversation(5, f"c{n}", n * 200, 20, habits)
    habits = observe(habits, whole(800, "new"))
    asked = row(820, "new", "calls", "results")
    far = placed(asked, habits, spots=[TAKES, TAKES, Spot(12, True), Spot(12, True)])
    assert {mark.block for mark in far.marks} >= {1, 3}


def test_an_old_end_within_reach_needs_no_marker() -> None:
    """Four new ends worth a marker each: the marker nearest to the old end reads it, unless that is out of reach."""
    steps = {(2, level): (99, 0, 0, came, 0, 0) for level, came in enumerate([50, 70, 85, 90, 96, 96, 96, 96])}
    habits = learned({**steps, (1, 4): (99, 0, 0, 99, 0, 0)})
    habits = observe(habits, whole(0, "old"))
    asked = row(20, "old", "a", "b", "c", "d")
    assert placed(asked, habits).marks == at(2, 3, 4, 5)
    far = placed(asked, habits, spots=[TAKES, TAKES, Spot(20, True), TAKES, TAKES, TAKES])
    assert far.marks[0] == at(1)[0] and len(far.marks) == 4


def test_early_returns_are_not_taken_for_all() -> None:
    """Ten conversations, one goes on at once: the others are still awaited, and count half."""
    habits = Habits()
    for n in range(10):
        habits = observe(habits, row(n, f"c{n}", system=f"s{n}"))
    habits = observe(habits, row(11, "c0", "answer", "more", system="s0"))
    assert placed(row(12, "new", system="new"), habits) == Marks()


def test_only_what_was_read_or_written_is_there() -> None:
    """The marker stood behind the system prompt: the message after it is not in the cache."""
    habits = Habits()
    for n in range(12):
        habits = conversation(2, f"c{n}", n * 400, 20, habits)
    habits = observe(habits, whole(4900, "c", marks=Marks(at(0), covered=2000)))
    assert placed(row(4920, "c", "answer", "last"), habits).marks == at(0)


def test_an_entry_for_an_hour_is_there_for_an_hour() -> None:
    """Also where it was last read by way of a marker for five minutes."""
    hour = Marks(at(1, ttl="1h"), covered=4000)
    habits = observe(Habits(), whole(0, "c", marks=hour))
    habits = observe(habits, whole(100, "c", "d", "e", marks=Marks(at(0, 1, 3), covered=8000)))
    traces = [seen.trace for seen in meet(habits, chain(row(101, "c", "d", "e")), Instant(101 * SECOND))[0]]
    assert [trace.kept // SECOND for trace in traces if trace] == [3600, 3600, 300, 300]
    late = meet(habits, chain(row(3699, "c")), Instant(3699 * SECOND))[0]
    assert late[1].trace is not None and 3699 * SECOND - late[1].trace.at < late[1].trace.kept


def test_the_floor_is_learned_from_usage() -> None:
    """Two markers unheeded raise it, an entry below takes that back; one alone, or unreported usage, moves nothing."""
    nothing: Any = {"cached_tokens": 0, "cache_write_tokens": 0, "marks": Marks(covered=4000)}
    once = observe(Habits(), row(0, "a", **nothing))
    assert floor_of(once, CLAUDE, 1024) == 1024
    twice = observe(once, row(1, "a", model=f"{CLAUDE}-20250929", **nothing))
    assert floor_of(twice, CLAUDE, 1024) == 4001 and floor_of(twice, "claude-other", 1024) == 1024
    unknown = observe(twice, row(2, "a", marks=Marks(covered=9000)))
    assert floor_of(unknown, CLAUDE, 1024) == 4001
    cured = observe(twice, row(2, "a", cached_tokens=0, cache_write_tokens=700, marks=Marks(covered=700)))
    assert floor_of(cured, CLAUDE, 1024) == 700
    short = row(30, "a", "b", "c")
    assert placed(short, observe(once, row(20, "a"))).marks[-1:] == at(3)
    assert placed(row(30, "a"), twice).marks == (), "4,000 tokens are below the floor now"


def test_another_model_is_another_cache_and_a_snapshot_is_not() -> None:
    """Switching the model throws the cache away; the dated name that an answer gives is the same model."""
    habits = observe(Habits(), row(0, "a", model=f"{CLAUDE}-20250929"))
    assert placed(row(9, "a", "b", "c"), habits).marks == at(3)
    assert placed(row(9, "a", "b", "c", model="claude-opus-4-8"), habits) == Marks()


def test_a_burst_is_no_return() -> None:
    """Equal prompts sent before the first has begun to answer could not be read: they count once."""
    habits = Habits()
    for n in range(5):
        habits = observe(habits, row(n / 10, "a", first_byte_ms=2000))
    assert sum(counts[3] for counts in habits.tally.values()) == 0
    assert sum(counts[3] for counts in observe(habits, row(3, "a")).tally.values()) == 2


def test_a_guess_is_made_once_and_only_for_what_stands_in_front() -> None:
    """cold: tools and system prompt of a step's first call, nothing else and never again."""
    assert placed(row(0, "a"), Habits(), cold=PPM // 2).marks == at(0)
    assert placed(row(1, "b", system="t"), observe(Habits(), row(0, "a")), cold=PPM // 2) == Marks()
    assert placed(row(0, "a", api="responses", model=GPT), Habits(), cold=PPM // 2) == Marks()


def test_a_rate_that_is_not_known_places_nothing() -> None:
    """Unknown is not zero."""
    habits = observe(Habits(), row(0, "a"))
    for bucket in ("input", "cache_read"):
        rates = {key: rate for key, rate in RATES.items() if key != bucket}
        assert placed(row(9, "a", "b"), habits, rates=rates) == Marks()


def test_the_key_is_stable_and_sharded_by_pace() -> None:
    """One key a step while it is quiet; a busy step spreads its conversations, each of which keeps its key."""
    asked = row(0, "a", api="chat", model="gpt-4o")
    quiet = placed(asked, Habits(), site="s").key
    assert quiet and quiet == placed(row(9, "b", api="chat", model="gpt-4o"), Habits(), site="s").key
    assert quiet != placed(asked, Habits(), site="t").key
    busy = Habits()
    for n in range(100):
        busy = observe(busy, row(n / 2, str(n), api="chat", model="gpt-4o"))
    keys = {n: placed(asked, busy, site="s", conversation=f"c{n}").key for n in range(64)}
    assert len(set(keys.values())) == 8
    assert all(placed(row(70, "z", api="chat", model="gpt-4o"), busy, site="s", conversation=f"c{n}").key == key
               for n, key in keys.items())  # fmt: skip


def test_without_a_conversation_its_opening_chooses_the_shard() -> None:
    """All turns of a conversation go to one shard, however many share their system prompt."""
    busy = Habits()
    for n in range(100):
        busy = observe(busy, row(n / 2, str(n), api="responses", model="gpt-5.4"))

    def key(*said: str) -> str | None:
        return placed(row(60, *said, api="responses", model="gpt-5.4"), busy).key

    assert len({key(f"q{n}") for n in range(40)}) == 8
    assert all(key(f"q{n}") == key(f"q{n}", "answer", "more") for n in range(40))


@pytest.mark.parametrize(
    ("api", "model", "style", "floor"),
    [
        ("messages", "claude-opus-5", "marks", 512),
        ("messages", "claude-fable-5", "marks", 512),
        ("messages", "claude-sonnet-5", "marks", 1024),
        ("messages", "claude-sonnet-5-20260901", "marks", 1024),
        ("messages", "claude-opus-4-8", "marks", 1024),
        ("messages", "claude-sonnet-4-20250514", "marks", 1024),
        ("messages", "claude-opus-4-7", "marks", 2048),
        ("messages", "claude-haiku-4-5-20251001", "marks", 4096),
        ("messages", "us.anthropic.claude-opus-4-5-20251101-v1:0", "marks", 4096),
        ("messages", "deepseek-chat", "none", 1024),
        ("chat", "claude-opus-5", "none", 1024),
        ("chat", "gpt-4o-mini", "key", 1024),
        ("responses", "gpt-5.4", "key", 1024),
        ("responses", "o3", "key", 1024),
        ("responses", "gpt-5.6-sol", "breakpoints", 1024),
        ("chat", "gpt-6.1-sol-2026-10-01", "breakpoints", 1024),
        ("chat", "openai/gpt-5.6-sol", "none", 1024),
        ("chat", "gpt-oss-120b", "none", 1024),
        ("gemini", "gemini-2.5-pro", "none", 1024),
        ("embeddings", "gpt-5.6", "none", 1024),
        ("chat", None, "none", 1024),
    ],
)
def test_the_rules_of_a_model(api: Api, model: str | None, style: str, floor: int) -> None:
    """As caching.md section 5 has them; whom it does not name is left alone."""
    rules = rules_of(api, model)
    assert (rules.style, rules.floor) == (style, floor)


@pytest.mark.parametrize(
    ("counts", "odds"),
    [
        ({}, 500_000),
        ({(1, 0): (0, 0, 0, 0, 0, 0, 12, 0, 0)}, 200_000),
        ({(1, 1): (6, 0, 0, 0, 0, 0, 0, 0, 0)}, 200_000),
        ({(1, 3): (4, 0, 0, 4, 0, 0, 0, 0, 0)}, 750_000),
        ({(1, 5): (900, 0, 0, 0, 0, 0, 0, 0, 0), (2, 0): (900, 0, 0, 0, 0, 0, 0, 0, 0)}, 500_000),
    ],
)
def test_the_odds_of_a_new_system_prompt(counts: dict[tuple[int, int], Any], odds: int) -> None:
    """Even until others have come: four in mind, who waits counts half; only system prompts at first sight tell."""
    tally: Any = {kind * 8 + level: told for (kind, level), told in counts.items()}
    assert first_return(Habits(calls=9, tally=tally), 4) == odds
