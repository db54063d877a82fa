"""Money in whole pico-USD. Integers, so that sums are exact in any order; rounding happens once, on a statement's line.

Nano would not do: 0.005 USD per million tokens in the US is 5.5 nano per token.
"""

from decimal import ROUND_HALF_EVEN, Decimal

PICO_PER_USD = 10**12
# The largest amount that anybody may set. Below it every amount fits a bigint; sums are numeric.
LARGEST_AMOUNT_PICO = 9_000_000 * PICO_PER_USD

_PICO_PER_CENT = PICO_PER_USD // 100
_SHOWN_DIGITS = 2


def to_pico(amount: Decimal) -> int:
    """USD as whole pico-USD.

    Raises:
        ValueError: the amount is no number, or finer than a pico-USD.
    """
    if not amount.is_finite():
        raise ValueError("not a number")
    numerator, denominator = amount.as_integer_ratio()
    pico, rest = divmod(numerator * PICO_PER_USD, denominator)
    if rest:
        raise ValueError("finer than a pico-USD")
    return pico


def to_usd(pico: int) -> str:
    """The exact decimal string, in USD: at least two digits after the point, no more than it needs."""
    sign = "-" if pico < 0 else ""
    whole, fraction = divmod(abs(pico), PICO_PER_USD)
    digits = f"{fraction:012d}".rstrip("0").ljust(_SHOWN_DIGITS, "0")
    return f"{sign}{whole}.{digits}"


def round_to_cent(pico: int) -> int:
    """Half to even, to 0.01 USD; the one rounding there is."""
    cents = (Decimal(pico) / _PICO_PER_CENT).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    return int(cents) * _PICO_PER_CENT
