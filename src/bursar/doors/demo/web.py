"""A small made-up web for the research assistant: questions, a search engine, pages. All of it follows from a seed.

An address or a query that is not known gets an answer in words, as from any search engine.
"""

from random import Random

import msgspec

SUBJECTS = (
    "heat pumps", "container shipping", "cultured meat", "office vacancies", "electric vans", "rooftop solar",
    "contract logistics", "vertical farming", "freight rail", "green hydrogen", "dental care", "battery recycling",
)  # fmt: skip
PLACES = ("Germany", "Spain", "Poland", "the Nordics", "Japan", "Canada", "Brazil", "Korea", "Italy")
PARTS = ("demand and prices", "costs and margins", "rules and subsidies", "suppliers and rivals")
HARD = 0.4
"""Share of questions that take more than looking things up."""

_SITES = ("statistics-office", "market-monitor", "trade-journal", "regulator", "industry-association", "daily-business")
_SENTENCES = (
    "In {year} the market for {subject} in {place} came to {big} million euros, after {small} million the year before.",
    "Of the {count} companies that were asked, {share} % expect their orders to rise within the next twelve months.",
    "The average price fell by {rate} % in the second half of {year}, mostly because of cheaper parts from abroad.",
    "The regulator of {place} has announced that applications will be decided within {count} days from {year} on.",
    "Smaller firms, which have fewer than {count} employees, account for {share} % of sales and {rate} % of exports.",
    "Wages in the trade rose by {rate} % in {year}, faster than in the rest of the economy, and are expected to go on.",
    "Analysts disagree: one group sees growth of {rate} % a year, another warns that subsidies end in {year}.",
    "The largest supplier holds a share of {share} % and has said that it will add {count} jobs at its main site.",
    "Imports of {subject} to {place} reached {small} million euros, of which {share} % came from three countries.",
    "A survey of {count} buyers found that reliability matters more than price to {share} % of them.",
    "Interest rates weigh on new projects: {share} % of those planned for {year} have been put off by at least a year.",
    "The association's president said that the figures for {subject} had been revised upwards by {rate} %.",
    "Energy makes up {share} % of costs, so that a rise of ten percent in power prices takes {rate} % off the margin.",
    "Regional differences are large: in the capital of {place} the figure is {share} %, in the countryside {rate} %.",
)


class Question(msgspec.Struct, frozen=True):
    """What a client wants to know, how it divides, and what a right report finds."""

    number: int
    text: str
    parts: tuple[str, ...]
    hard: bool
    finding: str
    mistake: str


def question(number: int) -> Question:
    """The question of that number: the same in every run of the demo."""
    lot = Random(f"question {number}")
    subject = SUBJECTS[number % len(SUBJECTS)]
    place = PLACES[number // len(SUBJECTS) % len(PLACES)]
    year = 2030 + number // (len(SUBJECTS) * len(PLACES))
    rate = lot.randint(3, 14)
    return Question(
        number,
        f"Should we enter the market for {subject} in {place} by {year}?",
        tuple(f"{part} of {subject} in {place} until {year}" for part in PARTS),
        lot.random() < HARD,
        f"Finding: the market for {subject} in {place} will grow by {rate} % a year until {year}.",
        f"Finding: the market for {subject} in {place} will shrink by {rate} % a year until {year}.",
    )


def addresses(part: str) -> list[str]:
    """Where the pages on a part of a question are."""
    slug = "-".join(part.lower().split())
    return [f"https://{site}.example/{slug}" for site in _SITES]


def search(query: str) -> str:
    """Six results: address, title, excerpt."""
    results = []
    for number, url in enumerate(addresses(query), 1):
        excerpt = " ".join(_prose(Random(f"excerpt {url}"), query, 3))
        results.append(f"[{number}] {url}\n{query.capitalize()}: report and figures\n{excerpt}")
    return "\n\n".join(results)


def read_page(url: str) -> str:
    """A page as plain text: about 2,000 tokens, as long as a newspaper's longer articles."""
    slug = url.rpartition("/")[2]
    if not slug:
        return f"404: there is no page at {url}"
    title, lot = slug.replace("-", " "), Random(f"page {url}")
    paragraphs = [" ".join(_prose(lot, title, 5)) for _ in range(lot.randint(11, 15))]
    return f"{title.capitalize()}\n\n" + "\n\n".join(paragraphs)


def _prose(lot: Random, title: str, sentences: int) -> list[str]:
    subject, _, rest = title.partition(" of ")[2].partition(" in ")
    place = rest.rpartition(" until ")[0] or "the region"
    return [
        lot.choice(_SENTENCES).format(
            subject=subject or title,
            place=place,
            year=lot.randint(2021, 2029),
            big=lot.randint(400, 9000),
            small=lot.randint(100, 400),
            count=lot.randint(20, 900),
            share=lot.randint(11, 89),
            rate=lot.randint(2, 24),
        )
        for _ in range(sentences)
    ]
