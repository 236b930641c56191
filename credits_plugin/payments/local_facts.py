"""What our books know of an object of Stripe's, and which of our own rows Stripe has to be asked about."""

from __future__ import annotations

from typing import Final

import peewee

from ..ledger.ids import first_id_at
from ..models import Dispute, Payment, Refund
from .fulfilment import claimed_payment
from .gateway import Charge, CheckoutSession, DisputeResult, Listed, PaymentIntent, RefundResult
from .queries import (
    DisputeView,
    PaymentView,
    RefundView,
    dispute_of_stripe,
    inbox_page,
    payment,
    payment_of_intent,
    payment_of_session,
    refund,
    refund_of_stripe,
    refunds_of,
)
from .reconciliation import Local
from .states import DisputeStatus, PaymentStatus, RefundStatus, dispute_rank

PAGE: Final = 200
_PAYABLE_MS: Final = 25 * 3_600_000
"""A payment page lives for a day; an hour later its payment must have an end."""
_YOUNG_REFUND_MS: Final = 600_000
"""Before that, a refund without an id of Stripe's may still be on its way."""
_WAITING_REFUNDS: Final = (RefundStatus.PENDING, RefundStatus.REQUIRES_ACTION)
_OPEN_DISPUTES: Final = [status for status in DisputeStatus if dispute_rank(status) < dispute_rank(DisputeStatus.WON)]


def local_facts(database: peewee.Database, listed: Listed) -> Local:
    """Read what our books have about an object that Stripe listed, or about an id that Stripe does not know."""
    match listed.object:
        case CheckoutSession():
            ours = payment_of_session(database, listed.id) or claimed_payment(database, listed.object)
            return Local(ours, events=inbox_page(database, object_id=listed.id))
        case PaymentIntent():
            return Local(payment_of_intent(database, listed.id))
        case Charge() | RefundResult():
            return _of_intent(database, listed.object.payment_intent_id)
        case DisputeResult():
            facts = _of_intent(database, listed.object.payment_intent_id)
            return Local(facts.payment, facts.refunds, dispute_of_stripe(database, listed.id))
        case None:
            return _of_absent(database, listed.id)
        case _:
            return Local()


def _of_intent(database: peewee.Database, intent_id: str | None) -> Local:
    ours = None if intent_id is None else payment_of_intent(database, intent_id)
    return Local() if ours is None else Local(ours, refunds_of(database, ours.id))


def _of_absent(database: peewee.Database, object_id: str) -> Local:
    returned, dispute = refund_of_stripe(database, object_id), dispute_of_stripe(database, object_id)
    row = returned or dispute
    ours = payment_of_session(database, object_id) if row is None else payment(database, row.payment_id)
    return Local(ours, [returned] if returned is not None else [], dispute)


def payments_to_ask_about(
    database: peewee.Database, *, livemode: bool, at_ms: int, full: bool, after_id: int = 0
) -> list[PaymentView]:
    """Return payments, oldest first, that Stripe has to be asked about where its list did not show them.

    Without ``full`` those that should have ended: pages past their day, and slow payment methods. Payments of the other
    mode are left out: our key does not see them.
    """
    condition = (Payment.id > after_id) & (Payment.livemode == int(livemode)) & Payment.stripe_session_id.is_null(False)
    open_page = (Payment.status == PaymentStatus.OPEN) & (Payment.id < first_id_at(at_ms - _PAYABLE_MS))
    ended_late = open_page | (Payment.status == PaymentStatus.PROCESSING)
    condition &= (ended_late | Payment.grant_transfer_id.is_null(False)) if full else ended_late
    query = Payment.select(Payment.id).where(condition).order_by(Payment.id).limit(PAGE)
    found = [payment(database, row[0]) for row in query.tuples().execute(database)]
    return [one for one in found if one is not None]


def refunds_to_ask_about(
    database: peewee.Database, *, livemode: bool, at_ms: int, full: bool, after_id: int = 0
) -> list[RefundView]:
    """Return refunds, oldest first, that are under way or, with ``full``, all that Stripe should know."""
    unsent = (Refund.status == RefundStatus.REQUESTED) & (Refund.created_at_ms < at_ms - _YOUNG_REFUND_MS)
    known = Refund.stripe_refund_id.is_null(False) if full else Refund.status.in_(_WAITING_REFUNDS)
    query = Refund.select(Refund.id).join(Payment, on=(Payment.id == Refund.payment_id))
    query = query.where(Payment.livemode == int(livemode), Refund.id > after_id, unsent | known)
    found = [refund(database, row[0]) for row in query.order_by(Refund.id).limit(PAGE).tuples().execute(database)]
    return [one for one in found if one is not None]


def disputes_to_ask_about(
    database: peewee.Database, *, livemode: bool, full: bool, after_id: int = 0
) -> list[DisputeView]:
    """Return disputes, oldest first, that have not ended or, with ``full``, all."""
    query = Dispute.select(Dispute.stripe_dispute_id).join(Payment, on=(Payment.id == Dispute.payment_id))
    query = query.where(Payment.livemode == int(livemode), Dispute.id > after_id)
    if not full:
        query = query.where(Dispute.status.in_(_OPEN_DISPUTES))
    rows = query.order_by(Dispute.id).limit(PAGE).tuples().execute(database)
    found = [dispute_of_stripe(database, row[0]) for row in rows]
    return [one for one in found if one is not None]
