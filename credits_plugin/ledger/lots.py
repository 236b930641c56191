"""Lots: burn-down order and attribution. Pure.

Settling moves the balance alone, so the lots' remaining credits add up to at least the balance; the difference is
spend that no lot has been charged with yet. It is attributed whenever lots change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import InvalidValue
from .entries import LotState, RollOver


def burn_down_order(lot: LotState) -> tuple[int, bool, int, int]:
    """Sort key: lower priority number, then sooner expiry (none is last), then older."""
    return (lot.priority, lot.expires_at_ms is None, lot.expires_at_ms or 0, lot.id)


def attribute_spend(lots: Sequence[LotState], *, balance: int) -> list[LotState]:
    """Burn lots down until they add up to ``balance`` (to nothing where it is negative); return those that changed."""
    unattributed = sum(lot.remaining for lot in lots) - max(balance, 0)
    return burn(sorted(lots, key=burn_down_order), unattributed) if unattributed > 0 else []


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


def rollover(lot: LotState, *, at_ms: int, expires_at_ms: int | None, cap: int | None) -> int:
    """Return how many of a lot's remaining credits carry over to ``expires_at_ms`` (None: for ever), ``cap`` at most.

    What is above the cap stays and expires in its time. A lot that is due carries nothing over, swept or not, so the
    answer depends on no job's timing; whoever renews late grants lots that outlive their period by the delay.

    Raises:
        InvalidValue: the lot never expires, the new expiry is not later than its own, or the cap is negative.
    """
    if lot.expires_at_ms is None or (expires_at_ms is not None and expires_at_ms <= lot.expires_at_ms):
        msg = f"lot {lot.id} expires at {lot.expires_at_ms}; it can be rolled over to a later time only"
        raise InvalidValue(msg)
    if cap is not None and cap < 0:
        msg = f"a rollover's cap must not be negative; got {cap}"
        raise InvalidValue(msg)
    if lot.expires_at_ms <= at_ms:
        return 0
    return lot.remaining if cap is None else min(lot.remaining, cap)


def roll_over(lots: Iterable[LotState], command: RollOver, *, new_id: int) -> tuple[LotState, LotState] | None:
    """Take what :func:`rollover` says from the command's lot; return that lot and the new one, None if nothing moves.

    The new lot keeps the priority, and the payment: a claw-back of it finds its credits wherever they were moved.
    """
    old = next((lot for lot in lots if lot.id == command.lot_id and lot.remaining), None)
    amount = rollover(old, at_ms=command.at_ms, expires_at_ms=command.expires_at_ms, cap=command.cap) if old else 0
    if old is None or not amount:
        return None
    old.remaining -= amount
    new = LotState(new_id, old.account_id, old.priority, command.expires_at_ms, amount, amount, old.payment_id)
    return old, new
