"""The states of payments, refunds and inbox events, as they are stored."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class PaymentStatus(StrEnum):
    """Life of a payment, in the order in which a later state replaces an earlier one, whatever order events come in.

    ``paid`` and what follows need a grant; the others never take one away.
    """

    CREATED = "created"
    OPEN = "open"
    PROCESSING = "processing"
    CANCELED = "canceled"
    EXPIRED = "expired"
    FAILED = "failed"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class RefundStatus(StrEnum):
    """Life of a refund, in the order in which a later state replaces an earlier one; all but the first are Stripe's.

    A succeeded refund can still fail, when the buyer's bank sends the money back.
    """

    REQUESTED = "requested"
    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    FAILED = "failed"


class DisputeStatus(StrEnum):
    """Life of a dispute, in the order in which a later state replaces an earlier one; the last three end it.

    The ``warning_`` states are an inquiry's: the bank asks, and takes no money. It may still become a dispute.
    """

    WARNING_NEEDS_RESPONSE = "warning_needs_response"
    WARNING_UNDER_REVIEW = "warning_under_review"
    WARNING_CLOSED = "warning_closed"
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    PREVENTED = "prevented"
    WON = "won"
    LOST = "lost"


OPEN_DISPUTES: Final = frozenset({DisputeStatus.NEEDS_RESPONSE, DisputeStatus.UNDER_REVIEW})
"""Disputes that may still take the money; inquiries are none."""
_ENDS: Final = (DisputeStatus.PREVENTED, DisputeStatus.WON, DisputeStatus.LOST)


MONEY_BACK: Final = frozenset({RefundStatus.PENDING, RefundStatus.REQUIRES_ACTION, RefundStatus.SUCCEEDED})
"""Refunds whose money is on its way or gone: they take credits back."""
LIVE_REFUNDS: Final = MONEY_BACK | {RefundStatus.REQUESTED}
"""Refunds that use up the payment's refundable amount."""


class InboxStatus(StrEnum):
    """What became of an incoming event."""

    PROCESSED = "processed"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"
    FAILED = "failed"


def later_payment_status(one: PaymentStatus, other: PaymentStatus) -> PaymentStatus:
    """Return the state that is further in a payment's life."""
    order = list(PaymentStatus)
    return max(one, other, key=order.index)


def later_refund_status(one: RefundStatus, other: RefundStatus) -> RefundStatus:
    """Return the state that is further in a refund's life."""
    order = list(RefundStatus)
    return max(one, other, key=order.index)


def dispute_rank(status: DisputeStatus) -> int:
    """Return how far a dispute is. The ends are one rank: a bank may overrule itself, so the later word counts."""
    order = list(DisputeStatus)
    return order.index(_ENDS[0] if status in _ENDS else status)


def granted_status(*, refunded_minor: int, disputed_minor: int, paid_minor: int) -> PaymentStatus:
    """Return the state of a granted payment, which follows from its refunds and disputes alone."""
    if disputed_minor > 0:
        return PaymentStatus.DISPUTED
    return refunded_status(refunded_minor=refunded_minor, amount_minor=paid_minor)


def refunded_status(*, refunded_minor: int, amount_minor: int) -> PaymentStatus:
    """Return the state of a granted payment, which follows from its refunds alone."""
    if refunded_minor <= 0:
        return PaymentStatus.PAID
    return PaymentStatus.REFUNDED if refunded_minor >= amount_minor else PaymentStatus.PARTIALLY_REFUNDED
