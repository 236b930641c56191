"""What each type of Stripe event does: first fetch what is missing, then one unit of work. A table, nothing clever.

An event is a hint: what it changes follows from our rows and Stripe's present state, so order and number of events do
not matter. Types that are not in the table are stored and ignored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from ..ledger.work import Transaction
from .checkout import find_order, receipt_of
from .claw_back import merge_refund, refund_problem
from .disputes import dispute_problem, merge_dispute
from .fulfilment import Fulfilled, Fulfilment, claim_of, settle_locked, settle_session, state_of_unpaid
from .gateway import Charge, CheckoutSession, DisputeResult, PaymentIntent, RefundResult, StripeEvent, Unreadable
from .queries import PaymentView, payment_of_intent
from .records import change_payment, lock_payment, lock_payment_of, note_receipt
from .shop import Shop
from .states import InboxStatus, PaymentStatus, later_payment_status


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an event came to. ``fulfilment`` is set where it looked at a session, to be logged after the commit."""

    status: InboxStatus
    detail: str | None = None
    fulfilment: Fulfilment | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do for an event: a unit of work on the account and payment it concerns, if there are any."""

    run: Callable[[Transaction], Verdict]
    account_id: int | None = None
    payment_id: int | None = None


Settle: TypeAlias = Callable[[Transaction], Fulfilment]
Planner: TypeAlias = Callable[[Shop, StripeEvent], Awaitable[Plan]]


class LookFirst(Exception):
    """An event alone does not say enough, or our rows are not as it has them: what is missing must be fetched first."""


def plan_at_once(shop: Shop, event: StripeEvent) -> Plan:
    """Plan the grant of a purchase that its signed event tells all of, without reading anything before.

    Where to look is the event's word; what is granted is our row's, as ever.

    Raises:
        LookFirst: it is another event. The unit of work raises it, too, where our row is not as the event has it.
    """
    session = event.object
    if not isinstance(session, CheckoutSession) or not _says_paid(event, session) or _not_ours(shop, event):
        raise LookFirst
    claim = claim_of(session)
    if claim is None:
        raise LookFirst
    account_id, payment_id = claim

    def run(tx: Transaction) -> Verdict:
        ours = lock_payment_of(tx, account_id, payment_id)
        if ours is None or ours.session_id != session.id or not _tells_all(event, ours, session):
            raise LookFirst
        unpaid = state_of_unpaid(session)
        return _verdict(settle_locked(tx, ours, session, packages=shop.packages, unpaid=unpaid))

    return Plan(run, account_id, payment_id)


async def plan_event(shop: Shop, event: StripeEvent) -> Plan:
    """Decide what an event does, fetching from Stripe what it lacks.

    Raises:
        GatewayError: Stripe could not be asked; the event must be delivered again.
    """
    planner = _PLANNERS.get(event.type)
    problem = _not_ours(shop, event)
    if problem is not None:
        return _end(InboxStatus.QUARANTINED, problem)
    if planner is None:
        return _end(InboxStatus.IGNORED, "nothing is done for this type")
    if isinstance(event.object, Unreadable):
        return _end(InboxStatus.QUARANTINED, event.object.reason)
    return await planner(shop, event)


def _not_ours(shop: Shop, event: StripeEvent) -> str | None:
    if event.livemode != shop.settings.livemode:
        return f"livemode is {event.livemode}, our key is of the other mode"
    if event.connected_account is not None:
        return f"it comes from another Stripe account, {event.connected_account}"
    return None


async def _plan_session(shop: Shop, event: StripeEvent) -> Plan:
    session = event.object
    if not isinstance(session, CheckoutSession):
        return _wrong_kind(event)
    order = await find_order(shop, session)
    if order.payment is None:
        # One that claims to be ours is for an operator to look at; others are another business on the same account.
        claimed = "payment_id" in session.metadata
        return _end(InboxStatus.QUARANTINED if claimed else InboxStatus.IGNORED, order.problem)
    ours, told = order.payment, order.session
    unpaid = _UNPAID.get(event.type) or state_of_unpaid(told)
    intent = None if told is session and _tells_all(event, ours, told) else await receipt_of(shop, ours, told)
    settle = _settle(shop, ours, told, unpaid=unpaid, intent=intent)
    return Plan(lambda tx: _verdict(settle(tx)), ours.account_id, ours.id)


def _tells_all(event: StripeEvent, ours: PaymentView, session: CheckoutSession) -> bool:
    """Whether a signed event alone says enough for a grant, so that no call delays it.

    It shows the session as it was completed: paid then, our price to the coin, so all of it was captured. Our pages
    capture on their own; a session that is captured by hand or later is not paid yet at this moment.
    """
    paid = (session.amount_total_minor, session.currency)
    return _says_paid(event, session) and paid == (ours.amount_minor, ours.currency)


def _says_paid(event: StripeEvent, session: CheckoutSession) -> bool:
    return event.type == "checkout.session.completed" and session.payment_status == "paid"


async def _plan_intent(shop: Shop, event: StripeEvent) -> Plan:
    intent = event.object
    if not isinstance(intent, PaymentIntent):
        return _wrong_kind(event)
    found = await _payment_of_intent(shop, intent.id)
    if found is None:
        return _end(InboxStatus.IGNORED, f"{intent.id} is no payment of ours")
    ours = found[0]
    return _after_settling(*found, lambda tx, fulfilment: _note_intent(tx, ours.id, intent, fulfilment))


async def _plan_charge(shop: Shop, event: StripeEvent) -> Plan:
    """Keep the charge's id and receipt of a payment that was granted without asking for them."""
    charge = event.object
    if not isinstance(charge, Charge):
        return _wrong_kind(event)
    intent_id = charge.payment_intent_id
    ours = None if intent_id is None else await shop.reads.run(lambda database: payment_of_intent(database, intent_id))
    if ours is None:
        return _end(InboxStatus.IGNORED, "it paid no payment that we know yet")

    def run(tx: Transaction) -> Verdict:
        note_receipt(tx, ours.id, charge_id=charge.id, receipt_url=charge.receipt_url)
        return Verdict(InboxStatus.PROCESSED)

    return Plan(run, ours.account_id, ours.id)


async def _plan_refund(shop: Shop, event: StripeEvent) -> Plan:
    refund = event.object
    if not isinstance(refund, RefundResult):
        return _wrong_kind(event)
    return await _plan_refunds(shop, refund.payment_intent_id, [refund])


async def _plan_refunded_charge(shop: Shop, event: StripeEvent) -> Plan:
    """The charge carries a sum and no list, so the list is fetched."""
    charge = event.object
    if not isinstance(charge, Charge):
        return _wrong_kind(event)
    return await _plan_refunds(shop, charge.payment_intent_id, None)


async def _plan_refunds(shop: Shop, intent_id: str | None, known: list[RefundResult] | None) -> Plan:
    found = await _payment_of_intent(shop, intent_id) if intent_id is not None else None
    if intent_id is None or found is None:
        return _end(InboxStatus.IGNORED, "it refunds no payment of ours")
    ours = found[0]
    refunds = await shop.gateway.refunds_of_intent(intent_id) if known is None else known
    return _after_settling(*found, lambda tx, fulfilment: _merge(tx, ours.id, refunds, fulfilment))


async def _plan_dispute(shop: Shop, event: StripeEvent) -> Plan:
    dispute = event.object
    if not isinstance(dispute, DisputeResult):
        return _wrong_kind(event)
    dispute = _with_event(dispute, event.type)
    intent_id = dispute.payment_intent_id
    if intent_id is None and dispute.charge_id is not None:  # older API versions name the charge alone
        intent_id = (await shop.gateway.charge(dispute.charge_id)).payment_intent_id
    found = await _payment_of_intent(shop, intent_id) if intent_id is not None else None
    if found is None:
        return _end(InboxStatus.IGNORED, f"{dispute.id} disputes no payment of ours")
    ours = found[0]
    return _after_settling(
        *found, lambda tx, fulfilment: _merge_dispute(tx, ours.id, dispute, event.created_at_ms, fulfilment)
    )


def _with_event(dispute: DisputeResult, event_type: str) -> DisputeResult:
    """Count the movement that the event's own type tells of, for objects that do not list it."""
    reinstated = event_type == "charge.dispute.funds_reinstated"
    withdrawn = reinstated or event_type == "charge.dispute.funds_withdrawn"
    return replace(
        dispute,
        withdrawals=max(dispute.withdrawals, int(withdrawn)),
        reinstatements=max(dispute.reinstatements, int(reinstated)),
    )


def _merge_dispute(
    tx: Transaction, payment_id: int, dispute: DisputeResult, seen_at_ms: int, fulfilment: Fulfilment | None
) -> Verdict:
    problem = dispute_problem(lock_payment(tx, payment_id), dispute)
    if problem is not None:
        change_payment(tx, payment_id, detail=problem)
        return Verdict(InboxStatus.QUARANTINED, problem, fulfilment)
    merge_dispute(tx, payment_id=payment_id, result=dispute, seen_at_ms=seen_at_ms)
    return Verdict(InboxStatus.PROCESSED, fulfilment=fulfilment)


def _after_settling(
    ours: PaymentView, settle: Settle | None, work: Callable[[Transaction, Fulfilment | None], Verdict]
) -> Plan:
    """Plan ``work`` on a payment, after what its session calls for; a session that does not fit stops it."""

    def run(tx: Transaction) -> Verdict:
        fulfilment = settle(tx) if settle else None
        if fulfilment is not None and fulfilment.outcome is Fulfilled.QUARANTINED:
            return _verdict(fulfilment)
        return work(tx, fulfilment)

    return Plan(run, ours.account_id, ours.id)


def _merge(tx: Transaction, payment_id: int, refunds: list[RefundResult], fulfilment: Fulfilment | None) -> Verdict:
    payment = lock_payment(tx, payment_id)
    problems = [problem for refund in refunds if (problem := refund_problem(payment, refund))]
    if problems:
        change_payment(tx, payment_id, detail=problems[0])
        return Verdict(InboxStatus.QUARANTINED, problems[0], fulfilment)
    for refund in refunds:
        merge_refund(tx, payment_id=payment_id, result=refund)
    return Verdict(InboxStatus.PROCESSED, fulfilment=fulfilment)


def _note_intent(tx: Transaction, payment_id: int, intent: PaymentIntent, fulfilment: Fulfilment | None) -> Verdict:
    """Write on the payment what became of its payment intent; never grants, never takes a grant's state away."""
    payment = lock_payment(tx, payment_id)
    if intent.status == "succeeded" and payment.is_granted and not _is_granted_amount(payment, intent):
        detail = f"{intent.id} received {intent.amount_received_minor} {intent.currency}, not what was granted"
        change_payment(tx, payment_id, detail=detail)
        return Verdict(InboxStatus.QUARANTINED, detail, fulfilment)
    if payment.is_granted:
        note_receipt(tx, payment_id, charge_id=intent.charge_id, receipt_url=intent.receipt_url)
        return Verdict(InboxStatus.PROCESSED, fulfilment=fulfilment)
    status = PaymentStatus.CANCELED if intent.status == "canceled" else payment.status
    detail = intent.failure or payment.detail or ""
    change_payment(tx, payment_id, status=later_payment_status(payment.status, status), detail=detail or None)
    return Verdict(InboxStatus.PROCESSED, detail or None, fulfilment)


def _is_granted_amount(payment: PaymentView, intent: PaymentIntent) -> bool:
    return (intent.amount_received_minor, intent.currency) == (payment.whole_minor, payment.currency)


async def _payment_of_intent(shop: Shop, intent_id: str) -> tuple[PaymentView, Settle | None] | None:
    """Find the payment that a payment intent pays; while it is not granted, also what its session calls for.

    Our row learns of the intent with the grant, so until then Stripe is asked which session it came from.
    """
    ours = await shop.reads.run(lambda database: payment_of_intent(database, intent_id))
    if ours is not None and ours.is_granted:
        return ours, None
    session = await shop.gateway.session_of_intent(intent_id)
    if session is None:
        return None
    order = await find_order(shop, session)
    if order.payment is None:
        return None
    return order.payment, await _session_step(shop, order.payment, order.session, unpaid=state_of_unpaid(order.session))


async def _session_step(shop: Shop, ours: PaymentView, session: CheckoutSession, *, unpaid: PaymentStatus) -> Settle:
    intent = await receipt_of(shop, ours, session)
    return _settle(shop, ours, session, unpaid=unpaid, intent=intent)


def _settle(
    shop: Shop, ours: PaymentView, session: CheckoutSession, *, unpaid: PaymentStatus, intent: PaymentIntent | None
) -> Settle:
    return lambda tx: settle_session(
        tx, session, payment_id=ours.id, packages=shop.packages, unpaid=unpaid, intent=intent
    )


def _verdict(fulfilment: Fulfilment) -> Verdict:
    if fulfilment.outcome is Fulfilled.QUARANTINED:
        return Verdict(InboxStatus.QUARANTINED, fulfilment.detail, fulfilment)
    return Verdict(InboxStatus.PROCESSED, fulfilment.detail, fulfilment)


def _end(status: InboxStatus, detail: str | None) -> Plan:
    return Plan(lambda _: Verdict(status, detail))


def _wrong_kind(event: StripeEvent) -> Plan:
    return _end(InboxStatus.QUARANTINED, f"a {event.type} event does not carry what it should")


_UNPAID: Final[Mapping[str, PaymentStatus]] = MappingProxyType(
    {
        "checkout.session.async_payment_failed": PaymentStatus.FAILED,
        "checkout.session.expired": PaymentStatus.EXPIRED,
    }
)

_PLANNERS: Final[Mapping[str, Planner]] = MappingProxyType(
    {
        "checkout.session.completed": _plan_session,
        "checkout.session.async_payment_succeeded": _plan_session,
        "checkout.session.async_payment_failed": _plan_session,
        "checkout.session.expired": _plan_session,
        "payment_intent.succeeded": _plan_intent,
        "payment_intent.payment_failed": _plan_intent,
        "payment_intent.canceled": _plan_intent,
        "charge.succeeded": _plan_charge,
        "refund.created": _plan_refund,
        "refund.updated": _plan_refund,
        "refund.failed": _plan_refund,
        "charge.refunded": _plan_refunded_charge,
        "charge.dispute.created": _plan_dispute,
        "charge.dispute.updated": _plan_dispute,
        "charge.dispute.funds_withdrawn": _plan_dispute,
        "charge.dispute.funds_reinstated": _plan_dispute,
        "charge.dispute.closed": _plan_dispute,
    }
)
HANDLED_TYPES: Final = tuple(_PLANNERS)
"""The event types to subscribe the webhook endpoint to."""
