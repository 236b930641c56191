"""An account's history: its transfers with the payments behind them, a page at a time. Used by API and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import peewee

from ..ledger.entries import Code
from ..ledger.queries import TransferLine, account_transfers, archived_transfers, lot_expiries
from ..payments.queries import PaymentView, payment_of_intent

PAGE_SIZE: Final = 25


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A transfer, and for a purchase the payment that paid for it.

    ``expires_at_ms`` is when credits that came in with it expire, or did; None for never, and for what went out.
    """

    transfer: TransferLine
    payment: PaymentView | None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Lines, newest first. ``older`` is the cursor of the next page, None on the last one.

    ``archived`` counts the account's oldest transfers that no page has any more; the last page says so.
    """

    lines: list[HistoryLine]
    older: int | None
    archived: int = 0


def history_page(database: peewee.Database, account_id: int, *, before_seq: int | None) -> HistoryPage:
    """Return one page; any depth costs the same. ``account_id`` is the ledger's key, and cursors only count in it."""
    transfers = account_transfers(database, account_id, before_seq=before_seq, limit=PAGE_SIZE)
    expiries = lot_expiries(database, account_id, [transfer.id for transfer in transfers if transfer.amount > 0])
    lines = [
        HistoryLine(transfer, _payment_of(database, account_id, transfer), expiries.get(transfer.id))
        for transfer in transfers
    ]
    archived = archived_transfers(database, account_id)
    oldest_seq = transfers[-1].seq if transfers else 1
    return HistoryPage(lines, oldest_seq if oldest_seq > archived + 1 else None, archived)


def _payment_of(database: peewee.Database, account_id: int, transfer: TransferLine) -> PaymentView | None:
    if transfer.code is not Code.PURCHASE or transfer.reference is None:
        return None
    payment = payment_of_intent(database, transfer.reference)
    return payment if payment is not None and payment.account_id == account_id else None
