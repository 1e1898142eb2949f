"""The guard refuses what differs and passes what does not; eligibility keeps personal and dated questions out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.rules.semantic.eligible import ineligible
from bursar.rules.semantic.guard import doubts, refusal, veto
from bursar.rules.semantic.reading import read
from bursar.rules.semantic.score import Neighbour, candidates, nearest, pack, unpack

VETOED = [
    ("Ship 3 boxes", "Ship 4 boxes", "number"),
    ("Ship three boxes", "Ship thirteen boxes", "number"),
    ("What does 1,000 cost?", "What does 10,000 cost?", "number"),
    ("Which jobs ran?", "Which jobs did not run?", "negation"),
    ("Why can I log in?", "Why can't I log in?", "negation"),
    ("Is the seat occupied?", "Is the seat unoccupied?", "negation"),
    ("How do I mount a disk?", "How do I unmount a disk?", "negation"),
    ("Turn on the heater", "Turn off the heater", "opposite"),
    ("List files made before the release", "List files made after the release", "opposite"),
    ("Buying a used boat", "Selling a used boat", "opposite"),
    ("Meet on Monday", "Meet on Wednesday", "date"),
    ("Sales in May", "Sales in June", "date"),
    ("Costs of this month", "Costs of last month", "date"),
    ("Wait 5 minutes", "Wait 5 hours", "unit"),
    ("How heavy is it in pounds?", "How heavy is it in kilos?", "unit"),
    ("What is ERR_41?", "What is ERR_14?", "code"),
    ("Open src/app/main.py please", "Open src/app/test.py please", "code"),
    ("How large is Peru?", "How large is Chile?", "name"),
    ("say hello in danish", "say hello in polish", "name"),
    ("Wie kann ich mein Konto löschen und was ist zu tun", "How can I delete my account and what is to do", "language"),
]
DOUBTED = [
    ("Does the cat chase the dog?", "Does the dog chase the cat?", "order"),
    ("Copy files from attic to cellar", "Copy files from cellar to attic", "order"),
    ("Show rows owned by ann but not by bob", "Show rows owned by bob but not by ann", "order"),
    ("Restart the printer", "Restart the printer's spooler", "extra"),
    ("What cures gout?", "What cures scurvy?", "content"),
    ("Users with more than 5 logins", "Users with exactly 5 logins", "relation"),
    ("Is the road closed?", "Was the road closed?", "tense"),
    ("Can I bring a bag?", "Must I bring a bag?", "modality"),
    ("What does he owe?", "What does she owe?", "person"),
    ("Do I owe you a reply?", "Do you owe me a reply?", "person"),
    ("Why did the pump stop?", "When did the pump stop?", "question"),
]
SAME = [
    ("how do i renew my passport", "How do I renew my passport?"),
    ("Please renew my passport", "I want to renew my passport"),
    ("Sort an array in Java", "Sort a Java array"),
    ("Give me 3 tips for a talk", "Give me three tips for a talk"),
    ("Turn on dark mode", "How can I enable dark mode?"),
    ("Is the shop open on May 3?", "Will the shop be open on 3 May?"),
    ("Organise the colour palette", "Organize the color palette"),
    ("What's the boiling point of tin?", "What is the boiling point of tin"),
]


@pytest.mark.parametrize(("a", "b", "why"), VETOED)
def test_vetoes(a: str, b: str, why: str) -> None:
    """Each kind of certain difference is refused by name, in both directions, without the strict mode."""
    assert veto(read(a), read(b)) == why
    assert veto(read(b), read(a)) == why


@pytest.mark.parametrize(("a", "b", "why"), DOUBTED)
def test_doubts(a: str, b: str, why: str) -> None:
    """What only the strict mode refuses: the plain guard passes it."""
    assert veto(read(a), read(b)) is None
    assert why in doubts(read(a), read(b))
    assert refusal(read(a), read(b), strict=True) is not None


@pytest.mark.parametrize(("a", "b"), SAME)
def test_paraphrases_pass_the_strict_mode(a: str, b: str) -> None:
    assert refusal(read(a), read(b), strict=True) is None
    assert refusal(read(b), read(a), strict=True) is None


@given(text=st.text(max_size=120))
def test_a_text_serves_itself(text: str) -> None:
    """Any text may take its own answer, and reading never raises."""
    assert refusal(read(text), read(text), strict=True) is None


@given(a=st.text(max_size=60), b=st.text(max_size=60))
def test_the_guard_has_no_direction(a: str, b: str) -> None:
    """What one side refuses the other refuses."""
    one, two = read(a), read(b)
    assert (veto(one, two) is None) == (veto(two, one) is None)
    assert doubts(one, two) == doubts(two, one)


@given(n=st.integers(0, 10**9), m=st.integers(0, 10**9), frame=st.sampled_from(["Order {} cups", "error {}?", "v{}"]))
def test_another_number_is_another_question(n: int, m: int, frame: str) -> None:
    assert (refusal(read(frame.format(n)), read(frame.format(m))) is None) == (n == m)


@given(values=st.lists(st.floats(-1.9, 1.9), min_size=1, max_size=20))
def test_features_survive_packing(values: list[float]) -> None:
    assert unpack(pack(values)) == pytest.approx(values, abs=1 / 128)


def near(text: str, cosine: float, answer: str = "a", entry: str = "1") -> Neighbour:
    return Neighbour(entry, answer, cosine, read(text))


def test_the_nearest_that_passes_is_served() -> None:
    """A refused nearest query does not hide a good second; below the threshold nothing is served."""
    found = [near("Ship 4 boxes", 0.99), near("Please ship 3 boxes", 0.95, "b", "2")]
    served = nearest(read("Ship 3 boxes"), found, 0.9)
    assert served is not None and served.answer == "b"
    assert nearest(read("Ship 3 boxes"), found, 0.96) is None


def test_aliases_speak_together() -> None:
    """Three queries of one answer outweigh a single nearer one; vetoed answers are no candidates."""
    found = [near("Reset the key", 0.90, "x", "1"), *(near("Reset a key", 0.89, "y", str(n)) for n in (2, 3, 4))]
    assert [candidate.neighbour.answer for candidate in candidates(read("Reset key"), found)] == ["y", "x"]
    assert candidates(read("Ship 3 boxes"), [near("Ship 4 boxes", 0.99)]) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("?!", "empty"),
        ("word " * 500, "long"),
        ("What is the weather in Rome today?", "time"),
        ("Who won last week?", "time"),
        ("What is my balance?", "personal"),
        ("hi, where's my parcel?", "personal"),
        ("write to ann@example.org", "personal"),
        ("as I said, do it again", "context"),
        ("tell me more", "context"),
        ("How do I change my PIN?", None),
        ("Why was my card declined?", None),
        ("What is the capital of Peru?", None),
    ],
)
def test_eligible(text: str, why: str | None) -> None:
    assert ineligible(text) == why


def test_a_short_life_makes_now_words_eligible() -> None:
    assert ineligible("latest score?", fresh_for_s=30) is None
    assert ineligible("latest score?", fresh_for_s=3_600) == "time"
