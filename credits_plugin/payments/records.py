"""Payment rows inside a unit of work: how they are locked and changed."""

from __future__ import annotations

from typing import Any

from ..errors import PaymentError
from ..ledger.work import Transaction
from ..models import Payment
from .queries import PaymentView, payment


def lock_payment(tx: Transaction, payment_id: int) -> PaymentView:
    """Return the payment as it stands, locked until the commit.

    The update comes before the read and changes nothing: on PostgreSQL it waits for whoever has the row, and the read
    that follows sees what they committed. The account's lock is not enough, for a new buyer has no account row yet.

    Raises:
        PaymentError: there is no such payment.
    """
    Payment.update(status=Payment.status).where(Payment.id == payment_id).execute(tx.database)
    found = payment(tx.database, payment_id)
    if found is None:
        msg = f"there is no payment {payment_id}"
        raise PaymentError(msg)
    return found


def change_payment(tx: Transaction, payment_id: int, **values: Any) -> PaymentView:
    """Write columns of a locked payment and return it anew."""
    values["updated_at_ms"] = tx.at_ms
    Payment.update(**values).where(Payment.id == payment_id).execute(tx.database)
    changed = payment(tx.database, payment_id)
    assert changed is not None  # noqa: S101 - the row is locked, and payments are never deleted
    return changed
