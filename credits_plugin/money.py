"""Integer units: microcredits, minor units of money, basis points. Pure; no floats anywhere.

Rounding rule of the house: up in what we charge, down in what we give.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Final

from .errors import InvalidValue

MICROCREDITS_PER_CREDIT: Final = 1_000_000
BASIS_POINTS: Final = 10_000
MAX_AMOUNT: Final = 2**62
"""Largest microcredit amount of one transfer: sums of two still fit a signed 64-bit column."""

# ISO 4217 exponents that differ from 2, as Stripe lists them (docs: currencies, zero- and three-decimal).
_ZERO_DECIMAL: Final = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf".split())
_THREE_DECIMAL: Final = frozenset("bhd jod kwd omr tnd".split())


def require_amount(value: object, what: str) -> int:
    """Return ``value`` if it is a positive int that fits a transfer.

    Raises:
        InvalidValue: a bool, float, string, zero, negative or oversized value.
    """
    if type(value) is not int or not 0 < value <= MAX_AMOUNT:
        # A huge int is not shown: turning more than 4,300 digits into text is itself an error.
        shown = "a larger number" if type(value) is int and value > MAX_AMOUNT else f"{value!r:.40}"
        msg = f"{what} must be a whole number from 1 to {MAX_AMOUNT}; got {shown}"
        raise InvalidValue(msg)
    return value


def ceil_div(numerator: int, denominator: int) -> int:
    """Divide two non-negative integers, rounding up."""
    return -(-numerator // denominator)


def credits_to_microcredits(credits: int) -> int:
    """Convert whole credits to microcredits."""
    return credits * MICROCREDITS_PER_CREDIT


def format_credits(microcredits: int) -> str:
    """Show microcredits as credits, exact and without trailing zeros: ``1,000`` or ``-0.0425``."""
    sign = "-" if microcredits < 0 else ""
    whole, fraction = divmod(abs(microcredits), MICROCREDITS_PER_CREDIT)
    tail = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{sign}{whole:,}{tail}"


def parse_credits(text: str) -> int:
    """Parse what a person typed (``1,000`` or ``0.5``) into microcredits.

    Raises:
        InvalidValue: not a plain decimal number with at most six places.
    """
    try:
        value = Decimal(text.strip().replace(",", "")) * MICROCREDITS_PER_CREDIT
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value != int(value) or abs(value) > MAX_AMOUNT:
        msg = f"{text!r:.40} is not a number of credits; write for example 1,000 or 0.5 (at most six places)"
        raise InvalidValue(msg)
    return int(value)


def currency_exponent(currency: str) -> int:
    """Return how many decimal places a currency's minor unit has (JPY 0, USD 2, KWD 3)."""
    code = currency.lower()
    return 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2


def format_money(amount_minor: int, currency: str) -> str:
    """Show minor units with the currency's own exponent: ``$10.00``, ``¥500``, ``KWD 1.500``."""
    exponent = currency_exponent(currency)
    sign = "-" if amount_minor < 0 else ""
    whole, fraction = divmod(abs(amount_minor), 10**exponent)
    tail = f".{fraction:0{exponent}d}" if exponent else ""
    symbol = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}.get(currency.lower(), f"{currency.upper()} ")
    return f"{sign}{symbol}{whole:,}{tail}"


def parse_money(text: str, currency: str) -> int:
    """Parse what a person typed (``10`` or ``9.99``) into minor units of ``currency``.

    Raises:
        InvalidValue: not a positive decimal number with at most the currency's places.
    """
    exponent = currency_exponent(currency)
    try:
        value = Decimal(text.strip().replace(",", "")).scaleb(exponent)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value != int(value) or not 0 < value <= MAX_AMOUNT:
        msg = f"{text!r:.40} is not an amount in {currency.upper()}; write for example {format_example(currency)}"
        raise InvalidValue(msg)
    return int(value)


def format_example(currency: str) -> str:
    """Return an example amount for an error message: ``10.00`` for USD, ``10`` for JPY."""
    exponent = currency_exponent(currency)
    return "10" + ("." + "0" * exponent if exponent else "")


def proportional_credits(granted: int, *, part_minor: int, whole_minor: int) -> int:
    """Return the share of ``granted`` microcredits that ``part_minor`` of ``whole_minor`` money bought, rounded up.

    Monotonic in ``part_minor`` and equal to ``granted`` for the whole, so claw-backs computed as the difference of two
    targets always add up to the grant.
    """
    if part_minor >= whole_minor:
        return granted
    return ceil_div(granted * part_minor, whole_minor)
