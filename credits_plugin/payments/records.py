"""Payment rows inside a unit of work: how they are locked and changed."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ..errors import PaymentError
from ..ledger.work import Transaction
from ..models import Payment
from ..prepared import Prepared
from .queries import PaymentView, payment


def lock_payment(tx: Transaction, payment_id: int) -> PaymentView:
    """Return the payment as it stands, locked until the commit.

    The update comes before the read and changes nothing: on PostgreSQL it waits for whoever has the row, and the read
    that follows sees what they committed. The account's lock is not enough, for a new buyer has no account row yet.

    Raises:
        PaymentError: there is no such payment.
    """
    _LOCK.execute(tx.database, payment_id)
    found = payment(tx.database, payment_id)
    if found is None:
        msg = f"there is no payment {payment_id}"
        raise PaymentError(msg)
    return found


def change_payment(tx: Transaction, payment_id: int, **values: Any) -> PaymentView:
    """Write columns of a locked payment and return it anew."""
    values["updated_at_ms"] = tx.at_ms
    plain = [value.value if isinstance(value, Enum) else value for value in values.values()]
    _change(tuple(values)).execute(tx.database, payment_id, *plain)
    changed = payment(tx.database, payment_id)
    assert changed is not None  # noqa: S101 - the row is locked, and payments are never deleted
    return changed


def note_receipt(tx: Transaction, payment_id: int, *, charge_id: str | None, receipt_url: str | None) -> PaymentView:
    """Keep a payment's charge and its receipt where we have none yet."""
    ours = lock_payment(tx, payment_id)
    return change_payment(
        tx, payment_id, charge_id=ours.charge_id or charge_id, receipt_url=ours.receipt_url or receipt_url
    )


_LOCK: Final = Prepared(lambda payment_id: Payment.update(status=Payment.status).where(Payment.id == payment_id))


@lru_cache
def _change(columns: tuple[str, ...]) -> Prepared:
    def build(payment_id: Any, *values: Any) -> Any:
        return Payment.update(dict(zip(columns, values, strict=True))).where(Payment.id == payment_id)

    return Prepared(build)
