"""Money is an integer of nano-dollars; `Decimal` stands only at the edges and no float ever touches an amount.

A value that cannot be a number of dollars raises ValueError with the value in its text.
"""

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation, localcontext

NANOS_PER_USD = 1_000_000_000

_WIDE = Context(prec=60)


def parse_usd(text: str | int | Decimal) -> int:
    """Dollars as a decimal string, an integer or a Decimal -> nano-dollars, half-even below one nano-dollar."""
    if isinstance(text, bool) or not isinstance(text, str | int | Decimal):
        raise ValueError(f"{text!r} is not an amount in dollars: give a decimal string such as '0.50'")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount in dollars: give a decimal string such as '0.50'") from None
    if not amount.is_finite() or abs(amount) >= Decimal("1e15"):
        raise ValueError(f"{text!r} is not a finite amount in dollars below 1e15")
    with localcontext(_WIDE):
        return int((amount * NANOS_PER_USD).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def format_usd(nanos: int) -> str:
    """Nano-dollars -> the shortest plain decimal string in dollars: 15_040_000 -> '0.01504', 0 -> '0'."""
    sign = "-" if nanos < 0 else ""
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    if not rest:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{rest:09d}".rstrip("0")


def divide_half_even(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded half-even, exactly, for a positive denominator."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient % 2):
        return quotient + 1
    return quotient


def divide_up(numerator: int, denominator: int) -> int:
    """numerator / denominator rounded up: what a hold takes, so that it never falls short."""
    return -(-numerator // denominator)


def nanos_per_million(usd_per_million_tokens: str | Decimal) -> int:
    """A rate in USD per million tokens -> whole nano-dollars per million tokens, rounded up below that.

    Published rates have at most six decimals, so the result is exact for all of them.
    """
    with localcontext(_WIDE):
        return int((Decimal(usd_per_million_tokens) * NANOS_PER_USD).quantize(Decimal(1), rounding=ROUND_CEILING))
