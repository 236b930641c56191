"""The rules that move credits for any reason but a hold's, and the one place that adds a link to a chain. Pure."""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from hookspecs import Usage

from ..errors import InsufficientCredits, InvalidValue, LedgerError, MaybeArchived
from ..money import MAX_AMOUNT, require_amount
from .book import Book
from .budget_rules import open_account, require_same_name
from .entries import (
    INCOMING,
    AccountState,
    Code,
    ExpireLots,
    LotState,
    Posted,
    PostTransfer,
    RollOver,
    link_hash,
    may_owe,
    pack_link,
)
from .ids import companion_id
from .lots import attribute_spend, burn, burn_down_order, expire, next_expiry_at_ms, roll_over

_Tokens: TypeAlias = tuple[int | None, int | None, int | None, int | None, int | None]
_INCOMING: Final = frozenset(map(int, INCOMING))
_OWN_COMMANDS: Final = frozenset({Code.USAGE, Code.EXPIRY, Code.ROLLED_OUT, Code.ROLLED_IN})
_NOTHING: Final = (0, 0, 0, 0, 0)
_NO_TOKENS: Final[_Tokens] = (None, None, None, None, None)


def post_transfer(book: Book, command: PostTransfer) -> Posted:
    """Post the transfer; what comes in becomes a lot, what goes out leaves the lots in burn-down order."""
    require_amount(command.amount, "a transfer")
    if command.code in _OWN_COMMANDS:
        msg = f"{command.code.name} transfers are made by settling, expiring and rolling over alone"
        raise LedgerError(msg)
    account = book.accounts.get(command.account_id)
    if account is not None:
        require_same_name(account, command.external_id)
    if command.transfer_id in book.settled:
        return _repeat_transfer(book, command.transfer_id, account)
    if command.transfer_id in book.archived:
        raise MaybeArchived(command.transfer_id)
    incoming, within = command.code in INCOMING, not may_owe(command.code, command.reference)
    if account is None:
        if not incoming and within:
            raise InsufficientCredits(command.external_id, needed=command.amount, available=0)
        account = open_account(book, command.account_id, command.external_id, at_ms=command.at_ms)
    if not incoming and within and command.amount > account.available:
        raise InsufficientCredits(account.external_id, needed=command.amount, available=account.available)
    if incoming and account.balance + command.amount > MAX_AMOUNT:
        msg = f"the balance would exceed {MAX_AMOUNT} microcredits"
        raise InvalidValue(msg)
    lots = book.lots[account.id]
    _note_changed(book, attribute_spend(lots, balance=account.balance))
    append_transfer(
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


def expire_lots(book: Book, command: ExpireLots) -> Posted:
    """Post the breakage that is due, if any."""
    account = book.accounts.get(command.account_id)
    if command.transfer_id in book.settled:
        return _repeat_transfer(book, command.transfer_id, account)
    if account is None or account.next_expiry_at_ms is None or account.next_expiry_at_ms > command.at_ms:
        return Posted(0, account.balance if account else 0)
    return Posted(post_breakage(book, account, transfer_id=command.transfer_id, at_ms=command.at_ms), account.balance)


def post_breakage(book: Book, account: AccountState, *, transfer_id: int, at_ms: int) -> int:
    """Expire due lots as far as open holds allow; what a hold keeps goes when the hold has ended."""
    lots = book.lots[account.id]
    _note_changed(book, attribute_spend(lots, balance=account.balance))
    due = [lot for lot in lots if lot.remaining and lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms]
    amount = min(sum(lot.remaining for lot in due), max(account.available, 0))
    if amount:
        append_transfer(book, account, transfer_id, int(Code.EXPIRY), amount, at_ms)
        book.settled[transfer_id] = (account.id, amount)
        _note_changed(book, expire(sorted(due, key=burn_down_order), amount))
    _move_expiry(book, account)
    return amount


def post_rollover(book: Book, command: RollOver) -> Posted:
    """Post what rolls over, out of its lot and into a new one."""
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
            append_transfer(book, account, transfer_id, int(code), new.amount, command.at_ms, str(old.id))
        _note_changed(book, [old])
        lots.append(new)
        book.new_lots[new.id] = new
        book.settled[command.transfer_id] = (account.id, new.amount)
    _move_expiry(book, account)
    return Posted(new.amount if new is not None else 0, account.balance)


def append_transfer(  # noqa: PLR0917 - keywords were measured to cost every settle half a microsecond
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
        book.watched.add(account.id)
        book.moved_expiries.add(account.id)


def _note_changed(book: Book, lots: list[LotState]) -> None:
    for lot in lots:
        if lot.id not in book.new_lots:
            book.changed_lots[lot.id] = lot
