"""How values look in a cell: credits with their points aligned, times in UTC, short durations. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from credits_plugin import Usage
from credits_plugin.ledger.entries import Code
from credits_plugin.ledger.queries import TransferLine
from credits_plugin.money import MICROCREDITS_PER_CREDIT, currency_exponent, format_credits

MINUS: Final = "\N{MINUS SIGN}"
NOTHING: Final = "\N{EN DASH}"
"""What stands where there is no value."""
CREDITS_WIDTH: Final = 18
"""Cells of a credits column: a sign, 99,999,999 and six places."""
_PLACES: Final = 6
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_THOUSAND: Final = 1_000
_MILLION: Final = 1_000_000


def credits_text(microcredits: int) -> str:
    """Show microcredits as credits with a real minus sign."""
    return format_credits(microcredits).replace("-", MINUS)


def signed_credits(microcredits: int) -> str:
    """Show microcredits as credits with their sign, also where it is a plus."""
    return f"+{credits_text(microcredits)}" if microcredits > 0 else credits_text(microcredits)


def whole_credits(microcredits: int) -> str:
    """Show microcredits as whole credits, rounded down, for totals at a glance."""
    return f"{microcredits // MICROCREDITS_PER_CREDIT:,}"


def align_point(text: str, width: int = CREDITS_WIDTH) -> str:
    """Pad a decimal number so that the points of a right-aligned column stand below each other.

    A number too wide for that keeps its digits: first the padding goes, then, marked by ``≈``, the places.
    """
    whole, point, places = text.partition(".")
    padded = f"{whole}.{places:<{_PLACES}}" if point else whole + " " * (_PLACES + 1)
    for candidate in (padded, text):
        if len(candidate) <= width:
            return candidate
    return f"≈{whole}"


def time_text(at_ms: int, *, now_ms: int) -> str:
    """Show a time in UTC within 12 cells: the clock for today, day and clock this year, the date before that."""
    at, now = moment(at_ms), moment(now_ms)
    if at.date() == now.date():
        return f"{at:%H:%M:%S}"
    return f"{at:%d %b %H:%M}" if at.year == now.year else f"{at:%d %b %Y}"


def full_time_text(at_ms: int | None) -> str:
    """Show a time in UTC to the second, or a dash where there is none."""
    return f"{moment(at_ms):%Y-%m-%d %H:%M:%S} UTC" if at_ms is not None else NOTHING


def moment(at_ms: int) -> datetime:
    """Return a Unix time in milliseconds as an aware datetime."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def duration_text(milliseconds: int) -> str:
    """Show a duration in its largest unit, rounded down: ``4s``, ``12m``, ``3h``, ``8d``."""
    seconds = max(milliseconds, 0) // 1000
    for size, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def tokens_text(count: int) -> str:
    """Show a number of tokens within five cells: ``310``, ``1.2k``, ``48k``, ``2.1M``."""
    for size, unit in ((_MILLION, "M"), (_THOUSAND, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count // size}{unit}"
    return str(count)


def code_text(code: Code) -> str:
    """Name a transfer's code as a person would: ``refund failed``."""
    return code.name.lower().replace("_", " ")


def details_text(line: TransferLine) -> str:
    """Say what a transfer was for: the model and tokens of usage, the reference of others."""
    used = line.usage
    if used is None:
        return line.reference or ""
    cached = f" +{tokens_text(used.cache_read + used.cache_write)} cached" if used.cache_read + used.cache_write else ""
    return f"{line.model or 'unknown model'} {tokens_text(used.input)}{cached} → {_output_text(used)} tok"


def _output_text(used: Usage) -> str:
    reasoning = f" +{tokens_text(used.reasoning)} reasoning" if used.reasoning else ""
    return f"{tokens_text(used.output)}{reasoning}"


def plain_money(amount_minor: int, currency: str) -> str:
    """Show minor units as a person would type them back: ``8.00`` for USD, ``800`` for JPY."""
    exponent = currency_exponent(currency)
    whole, fraction = divmod(amount_minor, 10**exponent)
    return f"{whole}.{fraction:0{exponent}d}" if exponent else str(whole)
