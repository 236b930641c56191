"""Our books against Stripe's lists: what differs, why, and what would mend it. Pure: values in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from .claw_back import refund_problem
from .disputes import dispute_problem
from .fulfilment import name_in_session, session_problem, state_of_unpaid
from .gateway import (
    Charge,
    CheckoutSession,
    DisputeResult,
    EventObject,
    PaymentIntent,
    RefundResult,
    StripeEvent,
    Unreadable,
)
from .queries import DisputeView, InboxLine, PaymentView, RefundView
from .states import InboxStatus, RefundStatus, dispute_rank, later_payment_status, later_refund_status


class FindingKind(StrEnum):
    """What can differ between our books and Stripe's."""

    PAID_NOT_GRANTED = "paid_not_granted"
    GRANTED_NOT_PAID = "granted_not_paid"
    AMOUNT_DIFFERS = "amount_differs"
    STATE_DIFFERS = "state_differs"
    REFUND_MISSED = "refund_missed"
    REFUND_NOT_SENT = "refund_not_sent"
    DISPUTE_MISSED = "dispute_missed"
    EVENT_MISSED = "event_missed"
    UNREADABLE = "unreadable"
    NOT_OURS = "not_ours"


class Repair(StrEnum):
    """What mends a finding. All but the last two are done by ``credits reconcile --apply``, and may be done twice."""

    FULFIL = "fulfil"
    RECORD_REFUND = "record_refund"
    RECORD_DISPUTE = "record_dispute"
    HANDLE_EVENT = "handle_event"
    BY_HAND = "by_hand"
    NONE = "none"


REPAIR_TEXTS: Final[Mapping[Repair, str]] = MappingProxyType(
    {
        Repair.FULFIL: "bring the payment in line with its session; grant it if it is paid",
        Repair.RECORD_REFUND: "record the refund and take its credits back",
        Repair.RECORD_DISPUTE: "record the dispute and what follows from it",
        Repair.HANDLE_EVENT: "handle the event",
        Repair.BY_HAND: "compare both in Stripe's dashboard; an operator decides",
        Repair.NONE: "nothing: another business on the same Stripe account",
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference. ``subject`` is Stripe's id, or ``refund ID`` for one that only we know."""

    kind: FindingKind
    subject: str
    cause: str
    repair: Repair
    payment_id: int | None = None

    @property
    def key(self) -> str:
        """Name the finding: the same difference seen again has the same key."""
        return f"{self.kind} {self.subject}"

    @property
    def is_safe(self) -> bool:
        """Whether the repair may be done without asking an operator."""
        return self.repair not in {Repair.BY_HAND, Repair.NONE}

    @property
    def is_difference(self) -> bool:
        """Whether our books differ from Stripe's; what is not ours does not count."""
        return self.repair is not Repair.NONE


@dataclass(frozen=True, slots=True)
class Local:
    """What our books know of an object of Stripe's. ``events`` are those of the inbox that carried it."""

    payment: PaymentView | None = None
    refunds: Sequence[RefundView] = ()
    dispute: DisputeView | None = None
    events: Sequence[InboxLine] = ()


def compare(object_id: str, theirs: EventObject, ours: Local) -> Finding | None:
    """Return what differs between an object as Stripe has it now and our books; None where they agree."""
    if theirs is None:
        return _compare_absent(object_id, ours)
    if isinstance(theirs, Unreadable):
        return Finding(FindingKind.UNREADABLE, object_id, theirs.reason, Repair.BY_HAND)
    return _COMPARISONS[type(theirs)](theirs, ours)


def compare_event(event: StripeEvent, seen: InboxLine | None) -> Finding | None:
    """Return whether an event of Stripe's list still has to be handled."""
    if seen is None:
        return Finding(FindingKind.EVENT_MISSED, event.id, f"{event.type} never arrived", Repair.HANDLE_EVENT)
    if seen.status is InboxStatus.FAILED:
        cause = f"{event.type} failed: {seen.detail}"
        return Finding(FindingKind.EVENT_MISSED, event.id, cause, Repair.HANDLE_EVENT)
    return None


def refund_not_sent(row: RefundView) -> Finding:
    """Say of a refund that was asked for here that Stripe has none of it."""
    cause = f"asked for by {row.actor}, but Stripe has no such refund: repeat it with its key, or let it rest"
    return Finding(FindingKind.REFUND_NOT_SENT, f"refund {row.id}", cause, Repair.BY_HAND, row.payment_id)


def _compare_session(session: CheckoutSession, ours: Local) -> Finding | None:
    payment = ours.payment
    if payment is None:
        return _foreign_session(session)
    if payment.is_granted and session.payment_status != "paid":
        cause = f"it was granted, but the session is {session.payment_status}"
        return Finding(FindingKind.GRANTED_NOT_PAID, session.id, cause, Repair.BY_HAND, payment.id)
    problem = session_problem(payment, session) or _naming_problem(payment, session)
    if problem is not None and session.payment_status != "unpaid":
        return Finding(FindingKind.AMOUNT_DIFFERS, session.id, problem, Repair.BY_HAND, payment.id)
    return None if payment.is_granted else _compare_ungranted(session, payment, ours)


def _compare_ungranted(session: CheckoutSession, payment: PaymentView, ours: Local) -> Finding | None:
    if session.payment_status == "paid":
        cause = payment.detail or _why_not_granted(ours.events)
        return Finding(FindingKind.PAID_NOT_GRANTED, session.id, cause, Repair.FULFIL, payment.id)
    state = state_of_unpaid(session)
    if session.status != "open" and later_payment_status(payment.status, state) is not payment.status:
        cause = f"{state} at Stripe, {payment.status} here"
        return Finding(FindingKind.STATE_DIFFERS, session.id, cause, Repair.FULFIL, payment.id)
    return None


def _foreign_session(session: CheckoutSession) -> Finding | None:
    if session.status == "open" or session.payment_status == "unpaid":
        return None
    if "payment_id" in session.metadata:
        cause = "it claims to be ours and is paid, but no payment of ours has it"
        return Finding(FindingKind.NOT_OURS, session.id, cause, Repair.BY_HAND)
    return Finding(FindingKind.NOT_OURS, session.id, "no payment of ours has this session", Repair.NONE)


def _naming_problem(payment: PaymentView, session: CheckoutSession) -> str | None:
    named = payment.is_granted or name_in_session(payment, session) is not None
    return None if named else f"session {session.id} does not name the account that the payment was made for"


def _why_not_granted(events: Sequence[InboxLine]) -> str:
    """Say what became of the events that should have granted it."""
    if not events:
        return "no event of it arrived"
    latest = max(events, key=lambda line: (line.created_at_ms, line.event_id))
    if latest.status is InboxStatus.PROCESSED:
        return f"it was paid after {latest.type}, and no later event arrived"
    return f"{latest.type} was {latest.status}: {latest.detail}"


def _compare_intent(intent: PaymentIntent, ours: Local) -> Finding | None:
    payment = ours.payment
    if payment is None:
        if intent.status != "succeeded":
            return None
        return Finding(FindingKind.NOT_OURS, intent.id, "it paid no payment of ours", Repair.NONE)
    if not payment.is_granted:
        return None  # its session tells what is due
    if intent.status != "succeeded":
        cause = f"payment {payment.id} was granted, but its payment intent is {intent.status}"
        return Finding(FindingKind.GRANTED_NOT_PAID, intent.id, cause, Repair.BY_HAND, payment.id)
    theirs = (intent.amount_received_minor, intent.currency)
    if theirs != (payment.whole_minor, payment.currency):
        cause = f"it received {theirs[0]} {theirs[1]}, granted were {payment.whole_minor} {payment.currency}"
        return Finding(FindingKind.AMOUNT_DIFFERS, intent.id, cause, Repair.BY_HAND, payment.id)
    return None


def _compare_charge(charge: Charge, ours: Local) -> Finding | None:
    """Compare the sum of refunds, while none of ours is in between, for then Stripe counts it one way or the other."""
    payment = ours.payment
    ended = {RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.CANCELED}
    if payment is None or any(row.status not in ended for row in ours.refunds):
        return None
    if payment.refunded_minor == charge.amount_refunded_minor:
        return None
    cause = f"refunded are {charge.amount_refunded_minor} at Stripe, {payment.refunded_minor} here"
    return Finding(FindingKind.REFUND_MISSED, charge.id, cause, Repair.RECORD_REFUND, payment.id)


def _compare_refund(refund: RefundResult, ours: Local) -> Finding | None:
    payment = ours.payment
    if payment is None:
        return Finding(FindingKind.NOT_OURS, refund.id, "it refunds no payment of ours", Repair.NONE)
    problem = refund_problem(payment, refund)
    row = next((row for row in ours.refunds if row.stripe_refund_id == refund.id), None)
    if row is not None and problem is None and row.amount_minor != refund.amount_minor:
        problem = f"it is of {refund.amount_minor} at Stripe, of {row.amount_minor} here"
    if problem is not None:
        return Finding(FindingKind.AMOUNT_DIFFERS, refund.id, problem, Repair.BY_HAND, payment.id)
    if row is None:
        cause = f"a refund of {refund.amount_minor} {refund.currency} that no event told of"
        return Finding(FindingKind.REFUND_MISSED, refund.id, cause, Repair.RECORD_REFUND, payment.id)
    if row.status is refund.status:
        return None
    cause = f"{refund.status} at Stripe, {row.status} here"
    if later_refund_status(row.status, refund.status) is refund.status:
        return Finding(FindingKind.REFUND_MISSED, refund.id, cause, Repair.RECORD_REFUND, payment.id)
    return Finding(FindingKind.STATE_DIFFERS, refund.id, cause, Repair.BY_HAND, payment.id)


def _compare_dispute(dispute: DisputeResult, ours: Local) -> Finding | None:
    payment, row = ours.payment, ours.dispute
    if payment is None:
        return Finding(FindingKind.NOT_OURS, dispute.id, "it disputes no payment of ours", Repair.NONE)
    if problem := dispute_problem(payment, dispute):
        return Finding(FindingKind.AMOUNT_DIFFERS, dispute.id, problem, Repair.BY_HAND, payment.id)
    if row is None:
        cause = f"a dispute of {dispute.amount_minor} {dispute.currency}, {dispute.status}, that no event told of"
        return Finding(FindingKind.DISPUTE_MISSED, dispute.id, cause, Repair.RECORD_DISPUTE, payment.id)
    cause = f"{_dispute_text(dispute)} at Stripe, {_dispute_text(row)} here"
    if dispute_rank(dispute.status) < dispute_rank(row.status):
        return Finding(FindingKind.STATE_DIFFERS, dispute.id, cause, Repair.BY_HAND, payment.id)
    moved = dispute.withdrawals > row.withdrawals or dispute.reinstatements > row.reinstatements
    if moved or dispute.status is not row.status:
        return Finding(FindingKind.DISPUTE_MISSED, dispute.id, cause, Repair.RECORD_DISPUTE, payment.id)
    return None


def _dispute_text(dispute: DisputeResult | DisputeView) -> str:
    return f"{dispute.status} (taken {dispute.withdrawals} times, given back {dispute.reinstatements})"


def _compare_absent(object_id: str, ours: Local) -> Finding | None:
    """Compare what Stripe does not know with what we have under that id."""
    payment = ours.payment
    if ours.dispute is not None or any(row.stripe_refund_id == object_id for row in ours.refunds):
        cause = "our books have it, Stripe does not"
        return Finding(
            FindingKind.STATE_DIFFERS, object_id, cause, Repair.BY_HAND, payment.id if payment is not None else None
        )
    if payment is not None and payment.is_granted:
        cause = f"payment {payment.id} was granted, but Stripe has no {object_id}"
        return Finding(FindingKind.GRANTED_NOT_PAID, object_id, cause, Repair.BY_HAND, payment.id)
    return None


_COMPARISONS: Final[Mapping[type, Callable[[Any, Local], Finding | None]]] = MappingProxyType(
    {
        CheckoutSession: _compare_session,
        PaymentIntent: _compare_intent,
        Charge: _compare_charge,
        RefundResult: _compare_refund,
        DisputeResult: _compare_dispute,
    }
)
