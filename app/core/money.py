"""Money in whole pico-USD.

Amounts are integers, so that sums are exact in any order. Rounding happens once, on each line of a statement. Nano-USD
would be too coarse: a price of 0.005 USD per million tokens is 5.5 nano-USD per token in the US.
"""

from decimal import ROUND_HALF_EVEN, Decimal

PICO_PER_USD = 10**12
# The largest amount that a client may set. Every amount up to it fits into a bigint; sums are numeric.
LARGEST_AMOUNT_PICO = 9_000_000 * PICO_PER_USD

_PICO_PER_CENT = PICO_PER_USD // 100
_SHOWN_DIGITS = 2


def to_pico(amount: Decimal) -> int:
    """Convert USD to whole pico-USD.

    Raises:
        ValueError: the amount is not a finite number, or is finer than one pico-USD.
    """
    if not amount.is_finite():
        raise ValueError("not a number")
    numerator, denominator = amount.as_integer_ratio()
    pico, rest = divmod(numerator * PICO_PER_USD, denominator)
    if rest:
        raise ValueError("finer than a pico-USD")
    return pico


def to_usd(pico: int) -> str:
    """Format as an exact decimal in USD, with as many decimal places as needed and at least two."""
    sign = "-" if pico < 0 else ""
    whole, fraction = divmod(abs(pico), PICO_PER_USD)
    digits = f"{fraction:012d}".rstrip("0").ljust(_SHOWN_DIGITS, "0")
    return f"{sign}{whole}.{digits}"


def round_to_cent(pico: int) -> int:
    """Round half to even, to 0.01 USD. No other code rounds money."""
    cents = (Decimal(pico) / _PICO_PER_CENT).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    return int(cents) * _PICO_PER_CENT
