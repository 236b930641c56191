"""The ledger's rules. Pure: no SQL, no clock, no ids made here; the same rules run on every database.

A :class:`Book` is the working set. ``decide`` applies one command to it: either completely, leaving the
rows to write in the book, or not at all, raising why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hookspecs import Usage

from ..errors import (
    AccountInDebt,
    HoldEnded,
    InsufficientCredits,
    LedgerError,
    RequestIdReused,
    UnknownHold,
)
from ..money import MAX_AMOUNT, require_amount
from .book import Book
from .budget_entries import PauseRun, RemoveBudget, SetBudget, StartRun
from .budget_rules import open_account, pause_run, remove_budget, require_same_name, set_budget, start_run
from .budgets import end_in_budgets, hold_within_budgets, let_run_wait
from .entries import (
    OPEN_ENDED_MS,
    AccountState,
    Answer,
    Code,
    Command,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    HoldState,
    HoldStatus,
    Placed,
    PlaceHold,
    PostTransfer,
    Released,
    ReleaseHold,
    RollOver,
    Settled,
    SettleHold,
)
from .extending import extend_hold, least_of
from .ids import companion_id
from .transfer_rules import append_transfer, expire_lots, post_breakage, post_rollover, post_transfer

# Plain ints for the rows of the hot path: drivers bind them without asking what an enum member adapts to.
_PLACED: Final = int(HoldStatus.PLACED)
_SETTLED: Final = int(HoldStatus.SETTLED)
_RELEASED: Final = int(HoldStatus.RELEASED)
_EXPIRED: Final = int(HoldStatus.EXPIRED)
_USAGE: Final = int(Code.USAGE)
_make: Final = tuple.__new__
"""Makes a named tuple of a tuple, in half the time that calling its class takes."""


def decide(book: Book, command: Command) -> Answer:
    """Apply one command.

    Raises:
        LedgerError: the rules refuse it; the book is as it was (an expiry that was due may have been posted).
        InvalidValue: an amount that no account can hold.
    """
    return RULES[type(command)](book, command)


def _place_hold(book: Book, command: PlaceHold) -> Placed:
    key, external_id, hold_id, amount, at_ms, expires_at_ms, version, input_tokens, request_id, run_id = command[:10]
    account = book.accounts.get(key)
    if account is None:
        if amount:
            raise InsufficientCredits(external_id, needed=amount, available=0)
        account = open_account(book, key, external_id, at_ms=at_ms)  # a free model needs no purchase before
    if account.external_id != external_id:
        require_same_name(account, external_id)  # raises
    repeated = hold_id if request_id is None else book.requests.get((key, request_id), hold_id)
    if repeated in book.holds or repeated in book.settled:
        return _repeat_hold(book, account, repeated, command)
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        require_amount(amount, "a hold")  # raises, saying why
    due_at_ms = account.next_expiry_at_ms
    if due_at_ms is not None and due_at_ms <= at_ms and key in book.lots:
        post_breakage(book, account, transfer_id=companion_id(hold_id), at_ms=at_ms)
    balance = account.balance
    available = balance - account.held
    if balance < 0 or amount > available:
        amount = _afford(book, account, command)
    budgets = None
    if (account.budgets or (run_id is not None and book.run_budget)) and expires_at_ms < OPEN_ENDED_MS:
        least = least_of(command)
        amount, budgets = hold_within_budgets(book, account, command, amount=amount, least=least)
    values = (hold_id, key, amount, _PLACED, expires_at_ms, version, input_tokens, request_id, run_id, budgets)
    book.holds[hold_id] = book.new_holds[hold_id] = _make(HoldState, values)
    if request_id is not None:
        book.requests[key, request_id] = hold_id
    account.held += amount
    book.changed_holders.add(key)
    return _make(Placed, (hold_id, key, amount, expires_at_ms, version, input_tokens, available - amount, False))


def _afford(book: Book, account: AccountState, command: PlaceHold) -> int:
    """Return what is available, if that is the least at least; a run waits for credits."""
    least, available = least_of(command), account.available
    if account.balance >= 0 and available >= least:
        return available
    if account.budgets and command.run_id is not None:
        let_run_wait(book, account, command.run_id, cause_id=command.hold_id, at_ms=command.at_ms)
    refusal = AccountInDebt if account.balance < 0 else InsufficientCredits
    raise refusal(account.external_id, needed=least, available=available)


def _repeat_hold(book: Book, account: AccountState, hold_id: int, command: PlaceHold) -> Placed:
    hold = book.holds.get(hold_id)
    if hold is not None and hold.request_id is None and not _is_same_request(hold, command):
        msg = f"hold {hold_id} is another request's: two hosts made the same id; try again with a new one"
        raise LedgerError(msg, hold_id=hold_id)
    if hold is None or hold.account_id != account.id or (hold.status != _PLACED and hold.request_id is None):
        msg = f"hold {hold_id} was placed before and has ended; give a new request a new id"
        raise HoldEnded(msg, hold_id=hold_id)
    if hold.status != _PLACED:
        msg = f"request id {hold.request_id!r} was already used and has ended; give a new request a new id"
        raise RequestIdReused(msg, hold_id=hold.id)
    identifier, owner, amount, _, expires_at_ms, version, tokens, *_ = hold
    available = account.balance - account.held
    return Placed(identifier, owner, amount, expires_at_ms, version, tokens, available, repeated=True)


def _is_same_request(hold: HoldState, command: PlaceHold) -> bool:
    _, _, amount, _, *request, _ = hold
    asked = [command.expires_at_ms, command.price_version, command.input_tokens, None, command.run_id]
    return least_of(command) <= amount <= command.amount and request == asked


def _settle_hold(book: Book, command: SettleHold) -> Settled:
    key, hold_id, amount, at_ms, usage = command
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        require_amount(amount, "a cost")  # raises, saying why
    hold = book.holds.get(hold_id)
    if hold is None:
        return _repeat_settle(book, command, hold)
    _, owner, held, status, _, version, _, request_id, _, budgets = hold
    if owner != key or status == _SETTLED or hold_id in book.settled:
        return _repeat_settle(book, command, hold)
    if status == _RELEASED:
        msg = f"hold {hold_id} was released, so it cannot be settled"
        raise HoldEnded(msg, hold_id=hold_id)
    account = book.accounts[key]
    if amount:
        plain = book.note_detail(key, hold_id, usage)
        append_transfer(book, account, hold_id, _USAGE, amount, at_ms, request_id, version, plain)
        book.settled[hold_id] = (key, amount)
    if budgets is not None:
        end_in_budgets(book, hold, at_ms=at_ms, spent=amount)
    if status == _PLACED:
        account.held -= held
        book.changed_holders.add(key)
    _end_hold(book, hold, _SETTLED, proven=amount > 0)
    return _make(Settled, (hold_id, amount, account.balance, False))


def _repeat_settle(book: Book, command: SettleHold, hold: HoldState | None) -> Settled:
    account = book.accounts.get(command.account_id)
    owner, amount = book.settled.get(command.hold_id, (None, 0))
    if hold is not None and owner is None:
        owner = hold.account_id
    if account is None or owner != account.id:
        msg = f"account has no hold {command.hold_id}: it was never placed here, or it ended long ago and was purged"
        raise UnknownHold(msg, hold_id=command.hold_id)
    if hold is not None and hold.status == _PLACED:  # placed once more after it was settled: nobody waits for it
        end_in_budgets(book, hold, at_ms=command.at_ms, spent=0)
        account.held -= hold.amount
        book.changed_holders.add(account.id)
        _end_hold(book, hold, _SETTLED, proven=True)
    return Settled(command.hold_id, amount, account.balance, repeated=True)


def _release_hold(book: Book, command: ReleaseHold) -> Released:
    hold = book.holds.get(command.hold_id)
    if hold is None or hold.account_id != command.account_id:
        if book.settled.get(command.hold_id, (None, 0))[0] == command.account_id:
            msg = f"hold {command.hold_id} was settled, so it cannot be released"
            raise HoldEnded(msg, hold_id=command.hold_id)
        msg = f"account has no hold {command.hold_id}: it was never placed here, or it ended long ago and was purged"
        raise UnknownHold(msg, hold_id=command.hold_id)
    if hold.status == _SETTLED:
        msg = f"hold {hold.id} was settled, so it cannot be released"
        raise HoldEnded(msg, hold_id=hold.id)
    if hold.status == _RELEASED:
        return Released(hold.id, changed=False)
    account = book.accounts[hold.account_id]
    if hold.status == _PLACED:
        end_in_budgets(book, hold, at_ms=command.at_ms, spent=0)
        account.held -= hold.amount
        book.changed_holders.add(account.id)
    _end_hold(book, hold, _RELEASED)
    return Released(hold.id, changed=True)


def _expire_hold(book: Book, command: ExpireHold) -> Released:
    hold = book.holds.get(command.hold_id)
    if (
        hold is None
        or hold.account_id != command.account_id
        or hold.status != _PLACED
        or hold.expires_at_ms > command.at_ms
    ):
        return Released(command.hold_id, changed=False)
    account = book.accounts[hold.account_id]
    charge = min(command.charge, hold.amount) if hold.id not in book.settled else 0
    if charge > 0:
        usage = command.usage or Usage()
        append_transfer(
            book, account, hold.id, _USAGE, charge, command.at_ms, hold.request_id, hold.price_version, usage
        )
        book.settled[hold.id] = (account.id, charge)
    end_in_budgets(book, hold, at_ms=command.at_ms, spent=charge)
    account.held -= hold.amount
    book.changed_holders.add(account.id)
    _end_hold(book, hold, _SETTLED if charge > 0 else _EXPIRED, proven=charge > 0)
    return Released(hold.id, changed=True)


def _end_hold(book: Book, hold: HoldState, status: int, *, proven: bool = False) -> None:
    """Drop the hold's row where a transfer proves it and no request id needs it; keep it as a tombstone otherwise."""
    if not proven or hold.request_id is not None:
        ended = book.new_holds if hold.id in book.new_holds else book.ended_holds
        book.holds[hold.id] = ended[hold.id] = hold._replace(status=status)
        return
    hold_id = hold.id
    del book.holds[hold_id]
    if hold.status != _PLACED:
        book.ended_holds.pop(hold_id, None)
    if book.new_holds.pop(hold_id, None) is None:
        book.deleted_holds.append(hold_id)


RULES: Final[Mapping[type, Callable[[Book, Any], Answer]]] = {
    PlaceHold: _place_hold,
    ExtendHold: extend_hold,
    SettleHold: _settle_hold,
    ReleaseHold: _release_hold,
    ExpireHold: _expire_hold,
    PostTransfer: post_transfer,
    ExpireLots: expire_lots,
    RollOver: post_rollover,
    SetBudget: set_budget,
    StartRun: start_run,
    PauseRun: pause_run,
    RemoveBudget: remove_budget,
}
