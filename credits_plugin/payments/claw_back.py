"""Taking credits back when money goes back: compute the target from all refunds and disputes, post the difference.

So the books are a function of the refunds and disputes alone, whatever the order or number of events that told of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ..errors import LedgerError
from ..ledger.entries import Code, LotTerms, PostTransfer
from ..ledger.work import Transaction
from ..models import AdminAction, Lot, Refund
from ..notify.outbox import put_event
from .freezes import adjust_freezes, claw_back_target
from .gateway import RefundResult
from .queries import PaymentView, RefundView, disputes_of, refund, refunds_of
from .records import change_payment, lock_payment
from .states import MONEY_BACK, RefundStatus, granted_status, later_refund_status

OBSERVED_ACTOR = "stripe"
"""The actor of refunds that nobody asked for here: made in Stripe's dashboard, or by Stripe."""


class Cause(StrEnum):
    """What made the money go back, or come again."""

    REFUND = "refund"
    DISPUTE = "dispute"


_WORDS: Final[Mapping[tuple[Cause, bool], tuple[Code, str]]] = MappingProxyType(
    {
        (Cause.REFUND, True): (Code.REFUND, "refunded"),
        (Cause.REFUND, False): (Code.REFUND_FAILED, "refund_failed"),
        (Cause.DISPUTE, True): (Code.DISPUTE, "disputed"),
        (Cause.DISPUTE, False): (Code.DISPUTE_WON, "dispute_won"),
    }
)


def refund_problem(payment: PaymentView, result: RefundResult) -> str | None:
    """Say why a refund of Stripe's cannot be one of this payment; None where it can."""
    if result.currency != payment.currency:
        return f"refund {result.id} is in {result.currency}, the payment in {payment.currency}"
    if payment.payment_intent_id is not None and result.payment_intent_id != payment.payment_intent_id:
        return f"refund {result.id} belongs to {result.payment_intent_id}, not to {payment.payment_intent_id}"
    return None


def merge_refund(tx: Transaction, *, payment_id: int, result: RefundResult) -> RefundView:
    """Record what Stripe says of a refund and bring the credits in line; the same news again changes nothing.

    A refund of a payment that was not granted yet is recorded only: the grant will take it into account.
    """
    payment = lock_payment(tx, payment_id)
    before = tx.account(payment.account_id)
    balance_before = before.balance if before is not None else 0
    row = _linked_row(tx, payment, result) or _insert_observed(tx, payment, result)
    status = later_refund_status(row.status, result.status)
    changes = {"status": status, "detail": result.failure or row.detail, "updated_at_ms": tx.at_ms}
    Refund.update(**changes).where(Refund.id == row.id).execute(tx.database)
    take_back(tx, payment_id=payment_id, cause=Cause.REFUND, reference=result.id)
    if row.status is RefundStatus.REQUESTED:
        _complete_admin_action(tx, payment, refund_id=row.id, balance_before=balance_before)
    return _require(refund(tx.database, row.id))


def take_back(tx: Transaction, *, payment_id: int, cause: Cause, reference: str) -> None:
    """Bring the credits in line with the payment's refunds and disputes: compute the target, post the difference.

    Rounds up what is taken; the parts of a full refund add up to the grant. May leave the account in debt. Money that
    goes back twice, by a refund and by a dispute, takes its credits once. What open disputes still threaten is frozen.
    ``cause`` and ``reference`` say on the transfer what has changed. Nothing changed: nothing is posted.
    """
    payment = lock_payment(tx, payment_id)
    refunded_minor = sum(row.amount_minor for row in refunds_of(tx.database, payment_id) if row.status in MONEY_BACK)
    disputed_minor = sum(row.amount_minor for row in disputes_of(tx.database, payment_id) if row.is_withdrawn)
    sums = {"refunded_minor": refunded_minor, "disputed_minor": disputed_minor}
    if not payment.is_granted:
        change_payment(tx, payment_id, **sums)
        return
    target = claw_back_target(payment, money_back_minor=refunded_minor + disputed_minor)
    status = granted_status(**sums, paid_minor=payment.whole_minor)
    change_payment(tx, payment_id, **sums, clawed_back=target, status=status)
    if target != payment.clawed_back:
        _post_difference(tx, payment, difference=target - payment.clawed_back, cause=cause, reference=reference)
    adjust_freezes(tx, payment, money_back_minor=refunded_minor + disputed_minor)


def _post_difference(tx: Transaction, payment: PaymentView, *, difference: int, cause: Cause, reference: str) -> None:
    account = tx.account(payment.account_id)
    if account is None:
        msg = f"payment {payment.id} is granted, but its account has no row; run `credits audit`"
        raise LedgerError(msg)
    code, kind = _WORDS[cause, difference > 0]
    posted = tx.decide(
        PostTransfer(
            payment.account_id,
            account.external_id,
            tx.new_id(),
            code,
            abs(difference),
            tx.at_ms,
            reference=reference,
            payment_id=payment.id,
            terms=_terms_again(tx, payment) if difference < 0 else LotTerms(),
        )
    )
    put_event(
        tx,
        account_id=payment.account_id,
        kind=kind,
        data={
            "payment_id": str(payment.id),
            cause.value: reference,
            "microcredits": posted.amount,
            "balance": posted.balance,
        },
    )


def _terms_again(tx: Transaction, payment: PaymentView) -> LotTerms:
    """Return the terms of the payment's grant for credits that come back: its priority, and as long valid from now on.

    Not its own expiry: that went on while nobody could use them, and may be over.
    """
    query = Lot.select(Lot.priority, Lot.expires_at_ms).where(
        Lot.account_id == payment.account_id, Lot.id == payment.grant_transfer_id
    )
    priority, expires_at_ms = next(iter(query.tuples().execute(tx.database)), (LotTerms().priority, None))
    if expires_at_ms is None or payment.paid_at_ms is None:
        return LotTerms(priority)
    return LotTerms(priority, tx.at_ms + expires_at_ms - payment.paid_at_ms)


def _linked_row(tx: Transaction, payment: PaymentView, result: RefundResult) -> RefundView | None:
    """Return the row of this refund. One that we asked for, and that has no Stripe id yet, becomes its row.

    Also one that was noted as refused: Stripe's word that it exists is worth more than an error we once got.
    """
    rows = refunds_of(tx.database, payment.id)
    known = next((row for row in rows if row.stripe_refund_id == result.id), None)
    asked = next((row for row in rows if row.id == result.own_refund_id and row.stripe_refund_id is None), None)
    if known is not None or asked is None or asked.amount_minor != result.amount_minor:
        return known
    Refund.update(stripe_refund_id=result.id).where(Refund.id == asked.id).execute(tx.database)
    return replace(asked, status=RefundStatus.REQUESTED, detail=None)


def _insert_observed(tx: Transaction, payment: PaymentView, result: RefundResult) -> RefundView:
    refund_id = tx.new_id()
    row = {
        "id": refund_id,
        "payment_id": payment.id,
        "account_id": payment.account_id,
        "status": result.status,
        "amount_minor": result.amount_minor,
        "currency": result.currency,
        "reason": result.reason or "",
        "actor": OBSERVED_ACTOR,
        "idempotency_key": f"seen {result.id}",  # a blank is in no key that a caller may choose
        "stripe_refund_id": result.id,
        "created_at_ms": result.created_at_ms,
        "updated_at_ms": tx.at_ms,
    }
    Refund.insert(row).execute(tx.database)
    return _require(refund(tx.database, refund_id))


def _complete_admin_action(tx: Transaction, payment: PaymentView, *, refund_id: int, balance_before: int) -> None:
    """Fill in the values before and after, now that the refund that an operator asked for has had its effect."""
    account = tx.account(payment.account_id)
    balance_after = account.balance if account is not None else 0
    changed = _require(refund(tx.database, refund_id))
    values = {
        "before": json.dumps({"balance": balance_before, "refunded_minor": payment.refunded_minor}),
        "after": json.dumps({"balance": balance_after, "status": changed.status}),
    }
    AdminAction.update(**values).where(AdminAction.id == refund_id).execute(tx.database)


def _require(row: RefundView | None) -> RefundView:
    assert row is not None  # noqa: S101 - written in this transaction
    return row
