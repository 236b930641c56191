"""What stands in the panels of a customer: plain lines from plain values, long and slim. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from credits_plugin.ledger.budget_entries import BudgetPeriod
from credits_plugin.ledger.budget_queries import BudgetView
from credits_plugin.ledger.entries import Code
from credits_plugin.ledger.queries import Balance, ChainSums, CodeSum, LotLine, OpenHold

from ..formats import MINUS, code_text, credits_text, duration_text, signed_credits
from ..widgets.panels import Line
from ..widgets.virtual_table import Cell, Tone

_LINES: Final = 6
_LABEL: Final = 11
_NUMBER: Final = 13
_PERIODS: Final = {BudgetPeriod.DAY: "today", BudgetPeriod.MONTH: "this month", BudgetPeriod.NONE: "in all"}


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """Everything that the panels of a customer show, read at ``at_ms``.

    ``caps`` are its own budgets, ``budgets`` how many there are with those of its members, keys and runs.
    """

    balance: Balance
    sums: ChainSums | None
    holds: Sequence[OpenHold]
    lots: Sequence[LotLine]
    at_ms: int
    caps: Sequence[BudgetView] = ()
    budgets: int = 0


def merge_sums(known: ChainSums | None, newer: ChainSums | None) -> ChainSums | None:
    """Join the sums of a chain with those of the transfers that came after it; across a gap only the newer count."""
    if known is None or newer is None:
        return newer or known
    if newer.oldest_seq != known.newest_seq + 1:
        return newer
    by_code = dict(known.by_code)
    for code, part in newer.by_code.items():
        earlier = by_code.get(code, CodeSum(0, 0))
        by_code[code] = CodeSum(earlier.transfers + part.transfers, earlier.amount + part.amount)
    return ChainSums(known.oldest_seq, newer.newest_seq, known.opening, newer.closing, by_code)


def balance_lines(facts: AccountFacts) -> list[Line]:
    """Show what is available, held and there; and the next expiry."""
    account = facts.balance
    return [
        _number("available", account.available, Tone.BAD if account.available < 0 else Tone.STRONG),
        _number("held", account.held, Tone.WARNING if account.held else Tone.MUTED),
        _number("balance", account.balance, Tone.BAD if account.balance < 0 else Tone.PLAIN),
        [Cell("next expiry ", Tone.MUTED), _expiry(account.next_expiry_at_ms, facts.at_ms)],
        [Cell(_transfers(account), Tone.MUTED)],
        [Cell(account.email or "no e-mail known", Tone.MUTED)],
    ]


def _transfers(account: Balance) -> str:
    if account.archived:  # short: the panel has 25 columns
        return f"{account.archived:,} of {account.transfers:,} archived"
    return f"{account.transfers:,} transfers"


def why_title(facts: AccountFacts) -> str:
    """Ask for the balance as the panel answers it."""
    return f"Why {credits_text(facts.balance.balance)}?"


def why_lines(facts: AccountFacts) -> list[Line]:
    """Add the transfers up by code, and say whether the stored balance is what they come to."""
    sums = facts.sums
    if sums is None:
        return [[Cell("no transfer yet", Tone.MUTED)]]
    parts = sorted(sums.by_code.items(), key=lambda part: -abs(part[1].amount))
    lines: list[Line] = [_sum_line(code, part) for code, part in parts[: _LINES - 1 - bool(sums.opening)]]
    shown = sum(part.amount for _, part in parts[: len(lines)])
    if sums.opening:
        is_archived = sums.oldest_seq == facts.balance.archived + 1
        lines.insert(0, _part("archived" if is_archived else f"before no. {sums.oldest_seq:,}", "", sums.opening))
    if shown != sums.total:
        lines[-1] = _part("others", "", sums.total - shown + parts[len(lines) - 1 - bool(sums.opening)][1].amount)
    return [*lines, [_verdict(facts, sums)]]


def hold_lines(facts: AccountFacts) -> list[Line]:
    """Show the newest open holds; one past its time is called stale."""
    if not facts.holds:
        return [[Cell("none", Tone.MUTED)]]
    lines: list[Line] = [_hold_line(hold, facts.at_ms) for hold in facts.holds[:_LINES]]
    if len(facts.holds) > _LINES:
        lines[-1] = [Cell(f"and {len(facts.holds) - _LINES + 1} more", Tone.MUTED)]
    return lines


def lot_lines(facts: AccountFacts) -> list[Line]:
    """Show the lots with credits left, in the order in which they are used."""
    if not facts.lots:
        return [[Cell("none with credits left", Tone.MUTED)]]
    lines: list[Line] = [_lot_line(lot, facts.at_ms) for lot in facts.lots[:_LINES]]
    if len(facts.lots) > _LINES:
        lines[-1] = [Cell(f"and {len(facts.lots) - _LINES + 1} more", Tone.MUTED)]
    return lines


def cap_line(facts: AccountFacts) -> Line:
    """Show what is left of the customer's own budgets, and how many others there are."""
    parts: list[Cell] = []
    for cap in facts.caps:
        left, limit = cap.left or 0, cap.limit or 0
        parts.append(Cell(credits_text(left), Tone.STRONG if left > 0 else Tone.BAD))
        parts.append(Cell(f" of {credits_text(limit)} left {_PERIODS[cap.period]} · "))
    others = facts.budgets - len(facts.caps)
    return [*parts, Cell(f"{others:,} for members, keys and runs (b)" if others else "(b)", Tone.MUTED)]


def slim_lines(facts: AccountFacts) -> list[Line]:
    """Show all of it on three lines, for small terminals."""
    account, sums = facts.balance, facts.sums
    parts = sorted(sums.by_code.items(), key=lambda part: -abs(part[1].amount)) if sums else []
    shown = "  ".join(f"{signed_credits(part.amount)} {code_text(code)}" for code, part in parts)
    verdict = [_verdict(facts, sums, short=True), Cell("  ")] if sums else []
    return [
        [
            Cell("available ", Tone.MUTED),
            Cell(credits_text(account.available), Tone.BAD if account.available < 0 else Tone.STRONG),
            Cell("  held ", Tone.MUTED),
            Cell(credits_text(account.held), Tone.WARNING if account.held else Tone.PLAIN),
            Cell("  balance ", Tone.MUTED),
            Cell(credits_text(account.balance), Tone.BAD if account.balance < 0 else Tone.PLAIN),
        ],
        [*verdict, Cell(shown or "no transfer yet")],
        [
            Cell(f"open holds {len(facts.holds)}", Tone.WARNING if facts.holds else Tone.MUTED),
            Cell(f"  lots {len(facts.lots)}  next expiry ", Tone.MUTED),
            _expiry(account.next_expiry_at_ms, facts.at_ms),
            *([Cell(f"  budgets and runs {facts.budgets:,}", Tone.MUTED)] if facts.budgets else []),
        ],
    ]


def _number(label: str, microcredits: int, tone: Tone) -> Line:
    return [Cell(f"{label:<{_LABEL}}", Tone.MUTED), Cell(f"{credits_text(microcredits):>{_NUMBER}}", tone)]


def _sum_line(code: Code, part: CodeSum) -> Line:
    return _part(code_text(code), f"{part.transfers:,}", part.amount)


def _part(name: str, count: str, microcredits: int) -> Line:
    sign = "+" if microcredits > 0 else MINUS
    return [Cell(f"{sign} {name:<13}"), Cell(f"{count:>7}", Tone.MUTED), Cell(f"{credits_text(abs(microcredits)):>14}")]


def _verdict(facts: AccountFacts, sums: ChainSums, *, short: bool = False) -> Cell:
    """Compare the chain's sum with what its last row says, and that with the account, which may be newer."""
    if sums.opening + sums.total != sums.closing:
        return Cell("✗ does not add up: run `credits audit`", Tone.BAD)
    if sums.newest_seq == facts.balance.transfers and sums.closing != facts.balance.balance:
        return Cell("✗ stored balance differs: run `credits audit`", Tone.BAD)
    return Cell("✓ adds up" if short else f"= {credits_text(sums.closing)} ✓ adds up", Tone.GOOD)


def _hold_line(hold: OpenHold, at_ms: int) -> Line:
    age = duration_text(at_ms - hold.placed_at_ms)
    stale = hold.expires_at_ms <= at_ms
    return [
        Cell(f"{MINUS}{credits_text(hold.amount)} ", Tone.WARNING),
        Cell(f"{age}{' STALE' if stale else ''} ", Tone.BAD if stale else Tone.PLAIN),
        Cell(f"{hold.model or ''} {hold.request_id or hold.id}", Tone.MUTED),
    ]


def _lot_line(lot: LotLine, at_ms: int) -> Line:
    name = code_text(lot.code) if lot.code else "lot"
    return [
        Cell(f"{credits_text(lot.remaining)} "),
        *([_expiry(lot.expires_at_ms, at_ms), Cell(" ")] if lot.expires_at_ms is not None else []),
        Cell(f"{name} {lot.reference}" if lot.reference and lot.payment_id is not None else name, Tone.MUTED),
    ]


def _expiry(expires_at_ms: int | None, at_ms: int) -> Cell:
    if expires_at_ms is None:
        return Cell("never", Tone.MUTED)
    if expires_at_ms <= at_ms:
        return Cell("due now", Tone.WARNING)
    return Cell(f"in {duration_text(expires_at_ms - at_ms)}")
