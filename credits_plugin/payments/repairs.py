"""Mending what a reconciliation found, through the code that events go through: done twice, it is done once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..errors import PaymentError
from .checkout import fulfil
from .claw_back import merge_refund
from .disputes import merge_dispute
from .gateway import Charge, CheckoutSession, DisputeResult, EventObject, RefundResult
from .queries import PaymentView, payment
from .reconciliation import Finding
from .shop import Shop


async def mend(shop: Shop, finding: Finding, theirs: EventObject, *, at_ms: int) -> None:
    """Bring our books in line with an object as Stripe has it at ``at_ms``; never charges, never sends money.

    Raises:
        GatewayError: Stripe had to be asked for more and failed.
        PaymentError: there is nothing that could be done without an operator.
    """
    match theirs:
        case CheckoutSession():
            await fulfil(shop, theirs)
        case RefundResult():
            await _record_refunds(shop, await _payment_of(shop, finding), [theirs])
        case Charge(payment_intent_id=str(intent_id)):
            known = await shop.gateway.refunds_of_intent(intent_id)
            await _record_refunds(shop, await _payment_of(shop, finding), known)
        case DisputeResult():
            ours = await _payment_of(shop, finding)
            work = partial(merge_dispute, payment_id=ours.id, result=theirs, seen_at_ms=at_ms)
            await shop.writer.work([ours.account_id], work)
        case _:
            raise _beyond_repair(finding)


async def _record_refunds(shop: Shop, ours: PaymentView, refunds: Sequence[RefundResult]) -> None:
    for one in refunds:
        await shop.writer.work([ours.account_id], partial(merge_refund, payment_id=ours.id, result=one))


async def _payment_of(shop: Shop, finding: Finding) -> PaymentView:
    payment_id = finding.payment_id
    ours = None if payment_id is None else await shop.reads.run(lambda database: payment(database, payment_id))
    if ours is None:
        raise _beyond_repair(finding)
    return ours


def _beyond_repair(finding: Finding) -> PaymentError:
    return PaymentError(f"{finding.subject} cannot be mended without an operator")
