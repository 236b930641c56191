"""The lists of the screens as sources: the core's queries, with the keys by which pages follow each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peewee

from credits_plugin.ledger import queries
from credits_plugin.ledger.budget_queries import BUDGET_ORDER, BudgetView, budgets_page
from credits_plugin.ledger.keysets import (
    KeyWindow,
    account_window,
    key_window,
    ledger_window,
    newer_count,
)
from credits_plugin.ledger.queries import Balance, LedgerLine, TransferLine
from credits_plugin.models import Budget, InboxEvent, Payment, Transfer
from credits_plugin.payments.queries import InboxLine, PaymentView, inbox_page, payments_page

from .feeds import End, Row, Source
from .widgets.virtual_table import BLOCK


def accounts(prefix: str = "") -> Source[Balance]:
    """Customers in the order of their ids, those whose id or e-mail starts with ``prefix``."""
    return Source(
        page=lambda database, key: queries.accounts_page(database, prefix=prefix, after=key, limit=BLOCK),
        window=lambda database, key, end: account_window(
            database, prefix=prefix, after=key, from_end=end is End.LAST, step=BLOCK
        ),
        key=lambda row: row.external_id,
    )


def account_ledger(account_id: int) -> Source[TransferLine]:
    """One account's transfers, newest first, down to the archived ones. Its chain is numbered: any page is at hand."""

    def window(database: peewee.Database, before_seq: int | None, _end: End) -> KeyWindow:
        balance = queries.account_balance(database, account_id)
        oldest = (balance.archived if balance else 0) + 1
        before_seq = max(before_seq or (balance.transfers if balance else 0) + 1, oldest)
        return KeyWindow(before_seq - oldest, False, range(before_seq, oldest, -BLOCK) or (None,))

    def newer(database: peewee.Database, row: TransferLine) -> int:
        balance = queries.account_balance(database, account_id)
        return balance.transfers - row.seq if balance else 0

    return Source(
        page=lambda database, key: queries.account_transfers(database, account_id, before_seq=key, limit=BLOCK),
        window=window,
        key=lambda row: row.seq,
        key_above=lambda row: row.seq + 1,
        newer=newer,
    )


def ledger() -> Source[LedgerLine]:
    """All transfers, newest first."""
    return Source(
        page=lambda database, key: queries.ledger_page(database, before_id=key, limit=BLOCK),
        window=lambda database, key, end: ledger_window(database, before_id=key, from_end=end is End.LAST, step=BLOCK),
        key=lambda row: row.transfer.id,
        key_above=lambda row: row.transfer.id + 1,
        newer=lambda database, row: newer_count(database, [Transfer.id], than=row.transfer.id),
    )


def ledger_of_reference(reference: str) -> Source[LedgerLine]:
    """Transfers with exactly this reference."""
    return short_list(lambda database: queries.transfers_by_reference(database, reference))


def payments(account_id: int | None = None) -> Source[PaymentView]:
    """Payments of one account, or all, newest first."""
    mine = [Payment.account_id == account_id] if account_id is not None else []
    return Source(
        page=lambda database, key: payments_page(database, account_id=account_id, before_id=key, limit=BLOCK),
        window=lambda database, key, end: key_window(
            database, [Payment.id], *mine, before=key, from_end=end is End.LAST, step=BLOCK
        ),
        key=lambda row: row.id,
        key_above=lambda row: row.id + 1,
        newer=lambda database, row: newer_count(database, [Payment.id], *mine, than=row.id),
    )


def budgets(account_id: int, clock: Callable[[], int]) -> Source[BudgetView]:
    """One account's budgets and runs in the order of their index, as they are at the clock's time."""
    return Source(
        page=lambda database, key: budgets_page(database, account_id, at_ms=clock(), after=key, limit=BLOCK),
        window=lambda database, key, end: key_window(
            database,
            BUDGET_ORDER,
            Budget.account_id == account_id,
            before=key,
            from_end=end is End.LAST,
            ascending=True,
            step=BLOCK,
        ),
        key=lambda row: row.place,
    )


def inbox() -> Source[InboxLine]:
    """Stripe's events, the latest received first."""
    keys: Sequence[peewee.Field] = [InboxEvent.received_at_ms, InboxEvent.event_id]
    return Source(
        page=lambda database, key: inbox_page(database, before=key, limit=BLOCK),
        window=lambda database, key, end: key_window(database, keys, before=key, from_end=end is End.LAST, step=BLOCK),
        key=lambda row: (row.received_at_ms, row.event_id),
        key_above=lambda row: (row.received_at_ms, row.event_id + "~"),
        newer=lambda database, row: newer_count(database, keys, than=(row.received_at_ms, row.event_id)),
    )


def short_list(read: Callable[[peewee.Database], Sequence[Row]]) -> Source[Row]:
    """A list that is read in one piece; its pages are slices of it."""

    def page(database: peewee.Database, start: Any) -> Sequence[Row]:
        return read(database)[start or 0 : (start or 0) + BLOCK]

    def window(database: peewee.Database, _start: Any, _end: End) -> KeyWindow:
        rows = len(read(database))
        return KeyWindow(rows, False, range(0, rows, BLOCK) or (None,))

    return Source(page=page, window=window, key=lambda _row: None)
