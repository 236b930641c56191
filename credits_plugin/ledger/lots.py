"""Lots: burn-down order and attribution. Pure.

Settling moves the balance alone, so the lots' remaining credits add up to at least the balance; the difference is
spend that no lot has been charged with yet. It is attributed whenever lots change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .entries import LotState


def burn_down_order(lot: LotState) -> tuple[int, bool, int, int]:
    """Sort key: lower priority number, then sooner expiry (none is last), then older."""
    return (lot.priority, lot.expires_at_ms is None, lot.expires_at_ms or 0, lot.id)


def attribute_spend(lots: Sequence[LotState], *, balance: int) -> list[LotState]:
    """Burn lots down until they add up to ``balance`` (to nothing where it is negative); return those that changed."""
    unattributed = sum(lot.remaining for lot in lots) - max(balance, 0)
    return burn(sorted(lots, key=burn_down_order), unattributed)


def burn(lots: Iterable[LotState], amount: int) -> list[LotState]:
    """Take ``amount`` microcredits from ``lots`` in the order given; return those that changed."""
    changed = []
    for lot in lots:
        if amount <= 0:
            break
        taken = min(lot.remaining, amount)
        if taken:
            lot.remaining -= taken
            amount -= taken
            changed.append(lot)
    return changed


def expire(lots: Iterable[LotState], amount: int) -> list[LotState]:
    """Turn ``amount`` microcredits of ``lots``, in the order given, into breakage; return those that changed."""
    lots = list(lots)
    before = {lot.id: lot.remaining for lot in lots}
    changed = burn(lots, amount)
    for lot in changed:
        lot.expired += before[lot.id] - lot.remaining
    return changed


def next_expiry_at_ms(lots: Iterable[LotState]) -> int | None:
    """Return when the next lot with credits left expires, or None."""
    return min((lot.expires_at_ms for lot in lots if lot.remaining and lot.expires_at_ms is not None), default=None)
