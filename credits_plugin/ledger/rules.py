"""The ledger's rules. Pure: no SQL, no clock, no ids made here; the same rules run on every database.

A :class:`Book` is the working set. ``decide`` applies one command to it: either completely, leaving the
rows to write in the book, or not at all, raising why.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from hookspecs import Usage

from ..errors import (
    AccountInDebt,
    HoldEnded,
    InsufficientCredits,
    InvalidValue,
    LedgerError,
    MaybeArchived,
    RequestIdReused,
    UnknownHold,
)
from ..money import MAX_AMOUNT, require_amount
from .book import Book
from .entries import (
    INCOMING,
    AccountState,
    Answer,
    Code,
    Command,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    HoldState,
    HoldStatus,
    LotState,
    Placed,
    PlaceHold,
    Posted,
    PostTransfer,
    Released,
    ReleaseHold,
    RollOver,
    Settled,
    SettleHold,
    link_hash,
    may_owe,
    pack_link,
)
from .extending import extend_hold, least_of
from .ids import companion_id
from .lots import attribute_spend, burn, burn_down_order, expire, next_expiry_at_ms, roll_over

_Tokens: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None]
# Plain ints for the rows of the hot path: drivers bind them without asking what an enum member adapts to.
_PLACED: Final = int(HoldStatus.PLACED)
_SETTLED: Final = int(HoldStatus.SETTLED)
_RELEASED: Final = int(HoldStatus.RELEASED)
_EXPIRED: Final = int(HoldStatus.EXPIRED)
_USAGE: Final = int(Code.USAGE)
_INCOMING: Final = frozenset(map(int, INCOMING))
_OWN_COMMANDS: Final = frozenset({Code.USAGE, Code.EXPIRY, Code.ROLLED_OUT, Code.ROLLED_IN})
_NOTHING: Final = (0, 0, 0, 0, 0)
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
    key, external_id, hold_id, amount, at_ms, expires_at_ms, version, input_tokens, request_id, run_id, *_ = command
    account = book.accounts.get(key)
    if account is None:
        raise InsufficientCredits(external_id, needed=amount, available=0)
    if account.external_id != external_id:
        raise _same_key(external_id)
    repeated = hold_id if request_id is None else book.requests.get((key, request_id), hold_id)
    if repeated in book.holds or repeated in book.settled:
        return _repeat_hold(book, account, repeated, command)
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        require_amount(amount, "a hold")  # raises, saying why
    due_at_ms = account.next_expiry_at_ms
    if due_at_ms is not None and due_at_ms <= at_ms and key in book.lots:
        _post_breakage(book, account, transfer_id=companion_id(hold_id), at_ms=at_ms)
    balance = account.balance
    available = balance - account.held
    if balance < 0:
        raise AccountInDebt(external_id, needed=amount, available=available)
    if amount > available:
        if available < (least := least_of(command)):
            raise InsufficientCredits(external_id, needed=least, available=available)
        amount = available
    values = (hold_id, key, amount, _PLACED, expires_at_ms, version, input_tokens, request_id, run_id)
    book.holds[hold_id] = book.new_holds[hold_id] = _make(HoldState, values)
    if request_id is not None:
        book.requests[key, request_id] = hold_id
    account.held += amount
    book.changed_holders.add(key)
    return _make(Placed, (hold_id, key, amount, expires_at_ms, version, input_tokens, available - amount, False))


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
    identifier, owner, amount, _, expires_at_ms, version, tokens, _, _ = hold
    available = account.balance - account.held
    return Placed(identifier, owner, amount, expires_at_ms, version, tokens, available, repeated=True)


def _is_same_request(hold: HoldState, command: PlaceHold) -> bool:
    _, _, amount, _, *request = hold
    asked = [command.expires_at_ms, command.price_version, command.input_tokens, None, command.run_id]
    return least_of(command) <= amount <= command.amount and request == asked


def _settle_hold(book: Book, command: SettleHold) -> Settled:
    key, hold_id, amount, at_ms, usage = command
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        require_amount(amount, "a cost")  # raises, saying why
    hold = book.holds.get(hold_id)
    if hold is None or hold.account_id != key or hold.status == _SETTLED or hold_id in book.settled:
        return _repeat_settle(book, command, hold)
    if hold.status == _RELEASED:
        msg = f"hold {hold_id} was released, so it cannot be settled"
        raise HoldEnded(msg, hold_id=hold_id)
    account = book.accounts[key]
    if amount:
        usage = book.note_detail(key, hold_id, usage)
        _append_transfer(book, account, hold_id, _USAGE, amount, at_ms, hold.request_id, hold.price_version, usage)
        book.settled[hold_id] = (key, amount)
    if hold.status == _PLACED:
        account.held -= hold.amount
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
        _append_transfer(
            book, account, hold.id, _USAGE, charge, command.at_ms, hold.request_id, hold.price_version, usage
        )
        book.settled[hold.id] = (account.id, charge)
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


def _post_transfer(book: Book, command: PostTransfer) -> Posted:
    require_amount(command.amount, "a transfer")
    if command.code in _OWN_COMMANDS:
        msg = f"{command.code.name} transfers are made by settling, expiring and rolling over alone"
        raise LedgerError(msg)
    account = book.accounts.get(command.account_id)
    if account is not None and account.external_id != command.external_id:
        raise _same_key(command.external_id)
    if command.transfer_id in book.settled:
        return _repeat_transfer(book, command.transfer_id, account)
    if command.transfer_id in book.archived:
        raise MaybeArchived(command.transfer_id)
    incoming, within = command.code in INCOMING, not may_owe(command.code, command.reference)
    if account is None:
        if not incoming and within:
            raise InsufficientCredits(command.external_id, needed=command.amount, available=0)
        account = book.accounts[command.account_id] = AccountState(command.account_id, command.external_id)
        book.lots[account.id] = []
        book.new_accounts[account.id] = command.at_ms
    if not incoming and within and command.amount > account.available:
        raise InsufficientCredits(account.external_id, needed=command.amount, available=account.available)
    if incoming and account.balance + command.amount > MAX_AMOUNT:
        msg = f"the balance would exceed {MAX_AMOUNT} microcredits"
        raise InvalidValue(msg)
    lots = book.lots[account.id]
    _note_changed(book, attribute_spend(lots, balance=account.balance))
    _append_transfer(
        book, account, command.transfer_id, int(command.code), command.amount, command.at_ms, command.reference or None
    )
    if incoming:
        _add_lot(book, account, command)
    else:
        own_lot_first = sorted(lots, key=lambda lot: (lot.payment_id != command.payment_id, burn_down_order(lot)))
        _note_changed(book, burn(own_lot_first, command.amount))
    book.settled[command.transfer_id] = (account.id, command.amount)
    _move_expiry(book, account)
    return Posted(command.amount, account.balance)


def _repeat_transfer(book: Book, transfer_id: int, account: AccountState | None) -> Posted:
    owner, amount = book.settled[transfer_id]
    if account is None or owner != account.id:
        msg = f"transfer {transfer_id} is another account's; make a new id for a new transfer"
        raise LedgerError(msg, transfer_id=transfer_id)
    return Posted(amount, account.balance)


def _add_lot(book: Book, account: AccountState, command: PostTransfer) -> None:
    """Make a lot of what came in; a debt is repaid from it first, as the balance already shows."""
    lots = book.lots[account.id]
    lot = LotState(
        command.transfer_id,
        account.id,
        command.terms.priority,
        command.terms.expires_at_ms,
        command.amount,
        min(command.amount, max(account.balance, 0)),
        command.payment_id,
    )
    lots.append(lot)
    book.new_lots[lot.id] = lot


def _expire_lots(book: Book, command: ExpireLots) -> Posted:
    account = book.accounts.get(command.account_id)
    if command.transfer_id in book.settled:
        return _repeat_transfer(book, command.transfer_id, account)
    if account is None or account.next_expiry_at_ms is None or account.next_expiry_at_ms > command.at_ms:
        return Posted(0, account.balance if account else 0)
    return Posted(_post_breakage(book, account, transfer_id=command.transfer_id, at_ms=command.at_ms), account.balance)


def _post_breakage(book: Book, account: AccountState, *, transfer_id: int, at_ms: int) -> int:
    """Expire due lots as far as open holds allow; what a hold keeps goes when the hold has ended."""
    lots = book.lots[account.id]
    _note_changed(book, attribute_spend(lots, balance=account.balance))
    due = [lot for lot in lots if lot.remaining and lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms]
    amount = min(sum(lot.remaining for lot in due), max(account.available, 0))
    if amount:
        _append_transfer(book, account, transfer_id, int(Code.EXPIRY), amount, at_ms)
        book.settled[transfer_id] = (account.id, amount)
        _note_changed(book, expire(sorted(due, key=burn_down_order), amount))
    _move_expiry(book, account)
    return amount


def _roll_over(book: Book, command: RollOver) -> Posted:
    account = book.accounts.get(command.account_id)
    if command.transfer_id in book.settled:
        return _repeat_transfer(book, command.transfer_id, account)
    if account is None:
        return Posted(0, 0)
    if command.transfer_id in book.archived:
        raise MaybeArchived(command.transfer_id)
    lots = book.lots[account.id]
    _note_changed(book, attribute_spend(lots, balance=account.balance))
    old, new = roll_over(lots, command, new_id=companion_id(command.transfer_id)) or (None, None)
    if old is not None and new is not None:
        for code, transfer_id in ((Code.ROLLED_OUT, command.transfer_id), (Code.ROLLED_IN, new.id)):
            _append_transfer(book, account, transfer_id, int(code), new.amount, command.at_ms, str(old.id))
        _note_changed(book, [old])
        lots.append(new)
        book.new_lots[new.id] = new
        book.settled[command.transfer_id] = (account.id, new.amount)
    _move_expiry(book, account)
    return Posted(new.amount if new is not None else 0, account.balance)


def _append_transfer(  # noqa: PLR0917 - keywords were measured to cost every settle half a microsecond
    book: Book,
    account: AccountState,
    transfer_id: int,
    code: int,
    amount: int,
    at_ms: int,
    reference: str | None = None,
    price_version: int | None = None,
    usage: Usage | None = None,
) -> None:
    """Move the balance and add the account's next link. The only place that changes a balance.

    Positional and flat, because every settle passes here.
    """
    key, previous_id, seq = account.id, account.last_transfer_id, account.seq + 1
    balance = account.balance + amount if code in _INCOMING else account.balance - amount
    tokens: _Tokens = _NO_TOKENS
    counted = _NOTHING
    if usage is not None:
        tokens = counted = (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning)
    try:
        content = pack_link(
            transfer_id, key, seq, previous_id, code, amount, balance, at_ms, price_version or 0, *counted
        )
    except struct.error as error:  # nothing has changed yet
        msg = f"transfer {transfer_id} has a number beyond 63 bits, such as its tokens {counted}"
        raise InvalidValue(msg) from error
    digest = link_hash(account.last_hash, content, reference)
    account.balance, account.seq, account.last_transfer_id, account.last_hash = balance, seq, transfer_id, digest
    row = (transfer_id, key, seq, previous_id, code, amount, balance, at_ms, digest, price_version, *tokens, reference)
    book.new_transfers.append(row)
    book.changed_accounts.add(key)


def _move_expiry(book: Book, account: AccountState) -> None:
    expires_at_ms = next_expiry_at_ms(book.lots[account.id])
    if expires_at_ms != account.next_expiry_at_ms:
        account.next_expiry_at_ms = expires_at_ms
        book.moved_expiries.add(account.id)


def _note_changed(book: Book, lots: list[LotState]) -> None:
    for lot in lots:
        if lot.id not in book.new_lots:
            book.changed_lots[lot.id] = lot


def _same_key(external_id: str) -> LedgerError:
    msg = "two account names share one ledger key; rename the newer one"
    return LedgerError(msg, account_id=external_id)


_NO_TOKENS: Final[_Tokens] = (None, None, None, None, None)
RULES: Final[Mapping[type, Callable[[Book, Any], Answer]]] = {
    PlaceHold: _place_hold,
    ExtendHold: extend_hold,
    SettleHold: _settle_hold,
    ReleaseHold: _release_hold,
    ExpireHold: _expire_hold,
    PostTransfer: _post_transfer,
    ExpireLots: _expire_lots,
    RollOver: _roll_over,
}
