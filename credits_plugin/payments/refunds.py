"""Refunds that an operator asks for here: row and key first, then Stripe, then the credits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from hookspecs import RefundProposal

from ..errors import GatewayError, InvalidValue, NotFound, RefundRefused
from ..ledger.queries import account_lots
from ..ledger.work import Transaction
from ..models import AdminAction, Refund
from ..money import MAX_AMOUNT, format_credits, format_money, require_amount
from .claw_back import merge_refund, refund_problem
from .freezes import claw_back_target
from .gateway import RefundOrder, RefundReason, RefundResult
from .queries import PaymentView, RefundView, payment, refund, refund_of_key, refunds_of
from .records import lock_payment
from .shop import Shop
from .states import LIVE_REFUNDS, RefundStatus

_KEY: Final = re.compile(r"[A-Za-z0-9_.:-]{8,200}")
_MAX_NOTE: Final = 1_000
_MAX_ACTOR: Final = 255


@dataclass(frozen=True, slots=True)
class _Request:
    """A checked request of an operator. ``amount_minor`` None means all that is left."""

    payment: PaymentView
    intent_id: str
    amount_minor: int | None
    reason: RefundReason
    note: str
    actor: str
    idempotency_key: str


async def refund_payment(
    shop: Shop,
    *,
    payment_id: int,
    amount_minor: int | None,
    reason: str,
    note: str,
    actor: str,
    idempotency_key: str,
    microcredits: int | None = None,
) -> RefundView:
    """Send money back and take the credits that it bought; ``amount_minor`` None is all that is left.

    ``microcredits`` asks by credits instead: their share of the money, rounded down, so never more of them are taken.
    The host's ``refund_policy`` may refuse a new refund.

    The same key again means the same refund: it is looked up and completed, never made twice.

    Raises:
        NotFound: there is no such payment.
        InvalidValue: the amount, reason, note, actor or key is none.
        RefundRefused: the payment is not paid, the amount exceeds what is left, the key belongs to another refund, the
            host's policy forbids it, or Stripe refused for good.
        GatewayError: Stripe may or may not have done it; repeat with the same key.
    """
    request = await _check(
        shop,
        payment_id=payment_id,
        amount_minor=amount_minor,
        reason=reason,
        note=note,
        actor=actor,
        idempotency_key=idempotency_key,
        microcredits=microcredits,
    )
    await _ask_policy(shop, request)
    refund_id = shop.new_id()
    row = await shop.writer.work(
        [request.payment.account_id], lambda tx: _request_refund(tx, request, refund_id=refund_id)
    )
    if row.status is not RefundStatus.REQUESTED:
        return _ended(row)
    result = await _send(shop, request, row, repeated=row.id != refund_id)
    if problem := refund_problem(request.payment, result):
        raise RefundRefused(problem, refund_id=row.id)
    return await shop.writer.work(
        [request.payment.account_id], lambda tx: merge_refund(tx, payment_id=payment_id, result=result)
    )


async def _check(
    shop: Shop,
    *,
    payment_id: int,
    amount_minor: int | None,
    reason: str,
    note: str,
    actor: str,
    idempotency_key: str,
    microcredits: int | None,
) -> _Request:
    if not _KEY.fullmatch(idempotency_key):
        msg = "an idempotency key is 8 to 200 letters, digits, dots, colons, dashes or underscores"
        raise InvalidValue(msg)
    _require_text(actor, what="actor", highest=_MAX_ACTOR)
    if note:
        _require_text(note, what="note", highest=_MAX_NOTE)
    if amount_minor is not None:
        require_amount(amount_minor, "a refund")
    checked_reason = _reason(reason)
    if microcredits is not None and (amount_minor is not None or not require_amount(microcredits, "a refund")):
        msg = "ask for a refund by money or by credits, not by both"
        raise InvalidValue(msg)
    known_id = type(payment_id) is int and 0 < payment_id <= MAX_AMOUNT * 2 - 1
    ours = await shop.reads.run(lambda database: payment(database, payment_id)) if known_id else None
    if ours is None:
        msg = f"there is no payment {payment_id!r:.40}"
        raise NotFound(msg)
    if not ours.is_granted or ours.payment_intent_id is None:
        msg = f"payment {payment_id} is {ours.status}, so there is nothing of it to refund here"
        raise RefundRefused(msg, payment_id=payment_id)
    if microcredits is not None:
        amount_minor = money_for_credits(ours, microcredits)
    return _Request(ours, ours.payment_intent_id, amount_minor, checked_reason, note, actor, idempotency_key)


def money_for_credits(ours: PaymentView, microcredits: int) -> int | None:
    """Return the money that so many of a payment's credits were bought for, rounded down; None for all that are left.

    Raises:
        RefundRefused: fewer are left of its grant.
        InvalidValue: so few that they are not worth the currency's smallest unit.
    """
    left = ours.credited - ours.clawed_back
    if microcredits > left:
        msg = f"{format_credits(left)} credits of payment {ours.id} are left to refund"
        raise RefundRefused(msg, payment_id=ours.id)
    if microcredits == left:
        return None
    amount = ours.whole_minor * microcredits // ours.credited
    if not amount:
        msg = f"{format_credits(microcredits)} credits of payment {ours.id} are worth less than its smallest coin"
        raise InvalidValue(msg)
    return amount


async def _ask_policy(shop: Shop, request: _Request) -> None:
    """Let the host refuse a new refund; one that was asked for before is completed, whatever the policy is now."""
    hooks, ours = shop.hooks(), request.payment
    earlier = await shop.reads.run(lambda database: refund_of_key(database, request.idempotency_key))
    if hooks is None or earlier is not None:
        return
    refunds = await shop.reads.run(lambda database: refunds_of(database, ours.id))
    lots = await shop.reads.run(lambda database: account_lots(database, ours.account_id))
    amount = max(_left_minor(ours, refunds), 0) if request.amount_minor is None else request.amount_minor
    target = claw_back_target(ours, money_back_minor=ours.refunded_minor + ours.disputed_minor + amount)
    proposal = RefundProposal(
        ours.external_id or "",
        str(ours.id),
        amount,
        ours.currency,
        microcredits=target - ours.clawed_back,
        unspent_microcredits=sum(lot.remaining for lot in lots if lot.payment_id == ours.id),
        reason=request.reason,
        actor=request.actor,
    )
    refusal = await hooks.refund_policy(proposal)
    if refusal is not None:
        msg = f"the host's policy refuses this refund: {refusal}"
        raise RefundRefused(msg, payment_id=ours.id)


def _request_refund(tx: Transaction, request: _Request, *, refund_id: int) -> RefundView:
    """Commit the row and its key before any money moves; the sum of refunds is checked under the payment's lock."""
    ours = lock_payment(tx, request.payment.id)
    earlier = refund_of_key(tx.database, request.idempotency_key)
    if earlier is not None:
        return _same_request(earlier, request)
    left = _left_minor(ours, refunds_of(tx.database, ours.id))
    amount = left if request.amount_minor is None else request.amount_minor
    if amount > left or left <= 0:
        msg = (
            f"{format_money(max(left, 0), ours.currency)} of payment {ours.id} is left to refund"
            f"{', so ' + format_money(amount, ours.currency) + ' is too much' if left > 0 else ''}"
        )
        raise RefundRefused(msg, payment_id=ours.id, left_minor=max(left, 0))
    _insert_refund(tx, request, refund_id=refund_id, amount_minor=amount)
    row = refund(tx.database, refund_id)
    assert row is not None  # noqa: S101 - just written
    return row


def _left_minor(ours: PaymentView, refunds: list[RefundView]) -> int:
    """Return what can still be sent back; what a dispute has taken is gone."""
    live = sum(row.amount_minor for row in refunds if row.status in LIVE_REFUNDS)
    return ours.whole_minor - live - ours.disputed_minor


def _insert_refund(tx: Transaction, request: _Request, *, refund_id: int, amount_minor: int) -> None:
    ours = request.payment
    row = {
        "id": refund_id,
        "payment_id": ours.id,
        "account_id": ours.account_id,
        "status": RefundStatus.REQUESTED,
        "amount_minor": amount_minor,
        "currency": ours.currency,
        "reason": request.reason,
        "note": request.note or None,
        "actor": request.actor,
        "idempotency_key": request.idempotency_key,
        "created_at_ms": tx.at_ms,
        "updated_at_ms": tx.at_ms,
    }
    Refund.insert(row).execute(tx.database)
    action = {
        "id": refund_id,  # the refund's own id, so that whoever hears of its outcome can complete the entry
        "at_ms": tx.at_ms,
        "actor": request.actor,
        "action": "refund",
        "subject": f"payment {ours.id}",
        "account_id": ours.account_id,
        "reason": f"{request.reason}: {request.note}" if request.note else request.reason,
    }
    AdminAction.insert(action).execute(tx.database)


def _same_request(earlier: RefundView, request: _Request) -> RefundView:
    same_amount = request.amount_minor is None or request.amount_minor == earlier.amount_minor
    if earlier.payment_id != request.payment.id or not same_amount:
        msg = "this idempotency key belongs to another refund; use a new one for a new refund"
        raise RefundRefused(msg, refund_id=earlier.id)
    return earlier


async def _send(shop: Shop, request: _Request, row: RefundView, *, repeated: bool) -> RefundResult:
    """Make the refund at Stripe. A repetition looks for it first: Stripe forgets keys after a day."""
    try:
        if repeated and (found := await _made_before(shop, request, row)):
            return found
        order = RefundOrder(row.id, request.intent_id, row.amount_minor, request.reason)
        return await shop.gateway.create_refund(order, idempotency_key=row.idempotency_key)
    except GatewayError as error:
        refused, detail = not error.retryable, str(error)
        await shop.writer.work([row.account_id], lambda tx: _note_refusal(tx, row, detail=detail, refused=refused))
        if not refused:
            raise
        msg = f"Stripe refused the refund: {error.message}"
        raise RefundRefused(msg, refund_id=row.id) from error


async def _made_before(shop: Shop, request: _Request, row: RefundView) -> RefundResult | None:
    made = await shop.gateway.refunds_of_intent(request.intent_id)
    return next((result for result in made if result.own_refund_id == row.id), None)


def _note_refusal(tx: Transaction, row: RefundView, *, detail: str, refused: bool) -> None:
    """Keep Stripe's words. An unknown outcome stays requested: it uses up the amount until it is known."""
    status = RefundStatus.FAILED if refused else RefundStatus.REQUESTED
    query = Refund.update(status=status, detail=detail, updated_at_ms=tx.at_ms)
    query.where(Refund.id == row.id, Refund.status == RefundStatus.REQUESTED).execute(tx.database)


def _ended(row: RefundView) -> RefundView:
    if row.status is RefundStatus.FAILED and row.stripe_refund_id is None:
        msg = f"Stripe refused the refund: {row.detail}; use a new key to try again"
        raise RefundRefused(msg, refund_id=row.id)
    return row


def _reason(reason: str) -> RefundReason:
    try:
        return RefundReason(reason)
    except ValueError:
        msg = f"a refund's reason is one of {', '.join(RefundReason)}; got {reason!r:.40}"
        raise InvalidValue(msg) from None


def _require_text(value: str, *, what: str, highest: int) -> None:
    if not value.strip() or len(value) > highest or not value.isprintable():
        msg = f"the {what} must be 1 to {highest} printable characters"
        raise InvalidValue(msg)
