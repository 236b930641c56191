"""Disputes: what Stripe says of one, merged into its row, and the credits that follow from it.

Nothing here depends on the order or number of events: of several states the furthest one counts, of the money how often
it went each way. An inquiry (``warning_…``) moves nothing. A dispute that opens freezes the credits that it threatens,
as far as they are there; they are taken when the money is, and given back when it comes again.
"""

from __future__ import annotations

from ..ledger.work import Transaction
from ..models import Dispute
from ..notify.outbox import put_event
from .claw_back import Cause, take_back
from .gateway import DisputeResult
from .queries import DisputeView, PaymentView, dispute_of_stripe
from .records import lock_payment
from .states import OPEN_DISPUTES, DisputeStatus, dispute_rank


def dispute_problem(payment: PaymentView, result: DisputeResult) -> str | None:
    """Say why a dispute of Stripe's cannot be one of this payment; None where it can."""
    if result.currency != payment.currency:
        return f"dispute {result.id} is in {result.currency}, the payment in {payment.currency}"
    intents = (payment.payment_intent_id, result.payment_intent_id)
    if None not in intents and intents[0] != intents[1]:
        return f"dispute {result.id} belongs to {intents[1]}, not to {intents[0]}"
    return None


def merge_dispute(tx: Transaction, *, payment_id: int, result: DisputeResult, seen_at_ms: int) -> DisputeView:
    """Record what Stripe says of a dispute and bring the credits in line; the same news again changes nothing.

    ``seen_at_ms`` is when Stripe said it: it decides between two words of one rank. A dispute of a payment that was not
    granted yet is recorded only: the grant will take it into account.
    """
    payment = lock_payment(tx, payment_id)
    before = dispute_of_stripe(tx.database, result.id)
    if before is None:
        _insert(tx, payment, result, seen_at_ms=seen_at_ms)
    else:
        _update(tx, before, result, seen_at_ms=seen_at_ms)
    take_back(tx, payment_id=payment_id, cause=Cause.DISPUTE, reference=result.id)
    after = dispute_of_stripe(tx.database, result.id)
    assert after is not None  # noqa: S101 - written in this transaction
    _announce(tx, payment, before, after)
    return after


def _insert(tx: Transaction, payment: PaymentView, result: DisputeResult, *, seen_at_ms: int) -> None:
    row = {
        "id": tx.new_id(),
        "payment_id": payment.id,
        "account_id": payment.account_id,
        "stripe_dispute_id": result.id,
        "status": result.status,
        "status_at_ms": seen_at_ms,
        "amount_minor": result.amount_minor,
        "currency": result.currency,
        "reason": result.reason,
        "withdrawals": result.withdrawals,
        "reinstatements": result.reinstatements,
        "evidence_due_at_ms": result.evidence_due_at_ms,
        "created_at_ms": result.created_at_ms,
        "updated_at_ms": tx.at_ms,
    }
    Dispute.insert(row).execute(tx.database)


def _update(tx: Transaction, before: DisputeView, result: DisputeResult, *, seen_at_ms: int) -> None:
    """Merge: the furthest state with what was said beside it, and the highest counts, which only ever grow."""
    values: dict[str, object] = {
        "withdrawals": max(before.withdrawals, result.withdrawals),
        "reinstatements": max(before.reinstatements, result.reinstatements),
        "updated_at_ms": tx.at_ms,
    }
    if _precedence(result.status, seen_at_ms) > _precedence(before.status, before.status_at_ms):
        values |= {
            "status": result.status,
            "status_at_ms": seen_at_ms,
            "amount_minor": result.amount_minor,
            "reason": result.reason,
            "evidence_due_at_ms": result.evidence_due_at_ms or before.evidence_due_at_ms,
        }
    Dispute.update(values).where(Dispute.id == before.id).execute(tx.database)


def _precedence(status: DisputeStatus, at_ms: int) -> tuple[int, int, str]:
    return (dispute_rank(status), at_ms, status)


def _announce(tx: Transaction, payment: PaymentView, before: DisputeView | None, after: DisputeView) -> None:
    """Tell the host's plugins when a dispute opens and when it ends; what it takes is told by the claw-back."""
    was, is_ = before.status if before else None, after.status
    if was == is_ or tx.account(payment.account_id) is None:
        return
    opens = is_ in OPEN_DISPUTES and was not in OPEN_DISPUTES
    if opens or dispute_rank(is_) == dispute_rank(DisputeStatus.WON):
        data = {
            "payment_id": str(payment.id),
            "dispute": after.stripe_dispute_id,
            "status": is_,
            "amount_minor": after.amount_minor,
            "currency": after.currency,
            "evidence_due_at_ms": after.evidence_due_at_ms,
            "frozen_microcredits": after.frozen or 0,
        }
        put_event(tx, account_id=payment.account_id, kind="dispute_opened" if opens else "dispute_closed", data=data)
