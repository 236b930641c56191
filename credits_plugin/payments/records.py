"""Payment rows inside a unit of work: how they are locked and changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ..errors import LedgerError, PaymentError
from ..ledger.work import Transaction
from ..models import Payment
from ..prepared import Prepared
from .queries import PaymentView, payment_view


def lock_payment(tx: Transaction, payment_id: int) -> PaymentView:
    """Return the payment as it stands, locked until the commit; its account must be declared.

    The update changes nothing: on PostgreSQL it waits for whoever has the row, and returns what they committed. The
    account's lock is not enough, for a new buyer has no account row yet.

    Raises:
        PaymentError: there is no such payment.
    """
    rows = _LOCK.rows(tx.database, payment_id)
    if not rows:
        msg = f"there is no payment {payment_id}"
        raise PaymentError(msg)
    return _view(tx, rows[0])


def lock_payment_of(tx: Transaction, account_id: int, payment_id: int) -> PaymentView | None:
    """Do as ``lock_payment`` does, if the account has such a payment."""
    rows = _LOCK_OF.rows(tx.database, payment_id, account_id)
    return _view(tx, rows[0]) if rows else None


def change_payment(tx: Transaction, payment_id: int, **values: Any) -> PaymentView:
    """Write columns of a locked payment and return it anew."""
    (row,) = _change(tuple(values)).rows(tx.database, payment_id, tx.at_ms, *_plain(values))
    return _view(tx, row)


def claim_payment(tx: Transaction, payment_id: int, **values: Any) -> None:
    """Write a payment's grant; the condition makes a second one impossible even if a lock were missing.

    Raises:
        LedgerError: it has been granted.
    """
    if _claim(tuple(values)).execute(tx.database, payment_id, tx.at_ms, *_plain(values)).rowcount != 1:
        msg = f"payment {payment_id} has already been granted"
        raise LedgerError(msg)


def note_receipt(tx: Transaction, payment_id: int, *, charge_id: str | None, receipt_url: str | None) -> PaymentView:
    """Keep a payment's charge and its receipt where we have none yet."""
    ours = lock_payment(tx, payment_id)
    return change_payment(
        tx, payment_id, charge_id=ours.charge_id or charge_id, receipt_url=ours.receipt_url or receipt_url
    )


def _view(tx: Transaction, row: dict[str, Any]) -> PaymentView:
    account = tx.account(row["account_id"])
    return payment_view(row, external_id=account.external_id if account is not None else None)


def _plain(values: Mapping[str, Any]) -> list[Any]:
    return [value.value if isinstance(value, Enum) else value for value in values.values()]


_LOCK: Final = Prepared(
    lambda payment_id: Payment.update(status=Payment.status).where(Payment.id == payment_id).returning(Payment)
)
_LOCK_OF: Final = Prepared(
    lambda payment_id, account_id: (
        Payment.update(status=Payment.status)
        .where(Payment.id == payment_id, Payment.account_id == account_id)
        .returning(Payment)
    )
)


@lru_cache
def _change(columns: tuple[str, ...]) -> Prepared:
    return Prepared(
        lambda payment_id, at_ms, *values: _update(columns, values, at_ms, Payment.id == payment_id).returning(Payment)
    )


@lru_cache
def _claim(columns: tuple[str, ...]) -> Prepared:
    return Prepared(
        lambda payment_id, at_ms, *values: _update(
            columns, values, at_ms, Payment.id == payment_id, Payment.grant_transfer_id.is_null()
        )
    )


def _update(columns: Sequence[str], values: Sequence[Any], at_ms: Any, *conditions: Any) -> Any:
    return Payment.update({**dict(zip(columns, values, strict=True)), "updated_at_ms": at_ms}).where(*conditions)
