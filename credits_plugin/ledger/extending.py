"""The rule that raises an open hold, for requests that turn out longer than they were held for. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from ..errors import AccountInDebt, HoldEnded, InsufficientCredits, InvalidValue, UnknownHold
from ..money import MAX_AMOUNT, require_amount
from .book import Book
from .budgets import Extension, let_run_wait
from .entries import AccountState, Extended, ExtendHold, HoldState, HoldStatus, PlaceHold
from .lots import attribute_spend


def least_of(command: PlaceHold | ExtendHold) -> int:
    """Return for how little the command's hold may stand: for all that it asks, if it names no least.

    Raises:
        InvalidValue: the least is no whole number from 0 on.
    """
    least = command.least
    if least is None:
        return command.amount
    if type(least) is not int or not 0 <= least <= MAX_AMOUNT:
        msg = f"the least amount of a hold must be a whole number from 0 to {MAX_AMOUNT}; got {least!r:.40}"
        raise InvalidValue(msg)
    return min(least, command.amount)


def extend_hold(book: Book, command: ExtendHold) -> Extended:
    """Raise the hold, completely or as far as its least allows, and move its end; or refuse and change nothing."""
    require_amount(command.amount, "a hold")
    hold = _open_hold(book, command)
    account = book.accounts[hold.account_id]
    budgets = Extension(book, hold, at_ms=command.at_ms)
    available = account.available - _due(book, account, command.at_ms)
    wanted, least = max(command.amount, hold.amount), least_of(command)
    raised = max(min(wanted, hold.amount + available, budgets.most), hold.amount)
    if raised < least:
        if hold.amount + available >= least:
            budgets.refuse(account, command, least=least)
        _refuse(book, account, command, hold, available=available)
    added, expires_at_ms = raised - hold.amount, max(command.expires_at_ms, hold.expires_at_ms)
    if added or expires_at_ms != hold.expires_at_ms:
        counted = budgets.count(raised) if added else hold.budgets
        _write(book, account, hold._replace(amount=raised, expires_at_ms=expires_at_ms, budgets=counted), added=added)
    return Extended(hold.id, raised, expires_at_ms, available - added)


def _refuse(book: Book, account: AccountState, command: ExtendHold, hold: HoldState, *, available: int) -> NoReturn:
    if account.budgets and hold.run_id is not None:
        let_run_wait(book, account, hold.run_id, cause_id=hold.id, at_ms=command.at_ms)
    refusal = AccountInDebt if account.balance < 0 else InsufficientCredits
    raise refusal(account.external_id, needed=least_of(command) - hold.amount, available=available)


def _open_hold(book: Book, command: ExtendHold) -> HoldState:
    hold = book.holds.get(command.hold_id)
    owner = hold.account_id if hold is not None else book.settled.get(command.hold_id, (None, 0))[0]
    if owner != command.account_id:
        msg = f"account has no hold {command.hold_id}: it was never placed here, or it ended long ago and was purged"
        raise UnknownHold(msg, hold_id=command.hold_id)
    if hold is None or hold.status != HoldStatus.PLACED or hold.id in book.settled:
        msg = f"hold {command.hold_id} has ended, so it cannot be extended"
        raise HoldEnded(msg, hold_id=command.hold_id)
    return hold


def _due(book: Book, account: AccountState, at_ms: int) -> int:
    """Return what is available but expired: the next sweep or hold turns it into breakage, no request may have it."""
    if account.next_expiry_at_ms is None or account.next_expiry_at_ms > at_ms or account.id not in book.lots:
        return 0
    lots = [replace(lot) for lot in book.lots[account.id]]
    attribute_spend(lots, balance=account.balance)
    due = sum(lot.remaining for lot in lots if lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms)
    return min(due, max(account.available, 0))


def _write(book: Book, account: AccountState, hold: HoldState, *, added: int) -> None:
    changed = book.new_holds if hold.id in book.new_holds else book.extended_holds
    book.holds[hold.id] = changed[hold.id] = hold
    account.held += added
    book.changed_holders.add(account.id)
