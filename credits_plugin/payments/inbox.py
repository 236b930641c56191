"""The webhook's inbox: verify, fetch what is missing, then one unit of work that also writes the event's row.

A 2xx answer is due when ``receive`` returns, a 400 for ``ForgedEvent``, and a 5xx for anything else: Stripe then
delivers again, and an event that is not processed yet is handled anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import peewee

from ..errors import CreditsError
from ..ledger.ids import now_ms
from ..ledger.work import Transaction
from ..models import InboxEvent
from ..prepared import Prepared
from .checkout import log_fulfilment
from .events import LookFirst, Plan, Verdict, plan_at_once, plan_event
from .gateway import StripeEvent
from .queries import inbox_event
from .shop import Shop
from .states import InboxStatus

logger = logging.getLogger(__name__)

_MAX_DETAIL: Final = 1_000
_PLAIN: Final = Verdict(InboxStatus.PROCESSED)
"""What nearly all events come to."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a webhook. ``repeated`` says that the event had been processed before."""

    event_id: str
    type: str
    status: InboxStatus
    detail: str | None = None
    repeated: bool = False


async def receive(shop: Shop, raw: bytes, signature: str) -> Receipt:
    """Handle one delivery; when it returns, what it did is committed.

    Raises:
        ForgedEvent: Stripe did not sign this; nothing was written.
        CreditsError: the event could not be handled now; its row says why, and it may be delivered again.
    """
    secrets = shop.settings.stripe_webhook_secrets
    event = shop.gateway.read_event(raw, signature, secrets=secrets, now_ms=now_ms())
    logger.info("Handling Stripe webhook event: %s", event.type)
    return await _handle_or_note(shop, event)  # its unit of work finds the rare repeat; asking before costs each a read


async def accept(shop: Shop, event: StripeEvent) -> Receipt:
    """Handle an event of Stripe's own list, unless it was processed before; most of those were.

    Raises:
        CreditsError: it could not be handled now; its row says why.
    """
    logger.info("Handling Stripe webhook event: %s", event.type)
    seen = await shop.reads.run(lambda database: inbox_event(database, event.id))
    if seen is not None and seen.status is InboxStatus.PROCESSED:
        return Receipt(event.id, event.type, seen.status, seen.detail, repeated=True)
    return await _handle_or_note(shop, event)


async def handle_again(shop: Shop, event: StripeEvent) -> Receipt:
    """Handle an event whatever became of it before; what it did already is not done twice.

    Raises:
        CreditsError: it could not be handled now; its row says why, unless it had been processed before.
    """
    return await _handle_or_note(shop, event, again=True)


async def _handle_or_note(shop: Shop, event: StripeEvent, *, again: bool = False) -> Receipt:
    try:
        return await _handle_twice(shop, event, again=again)
    except Exception as error:  # whatever failed, the row must say so and Stripe must hear a 5xx
        await _note_failure(shop, event, error)
        raise


async def _handle_twice(shop: Shop, event: StripeEvent, *, again: bool) -> Receipt:
    """Handle the event; if another host was at the same new rows at the same moment, look at them and try once more."""
    try:
        return await _handle(shop, event, again=again)
    except Exception as error:
        if not _is_collision(error):
            raise
        return await _handle(shop, event, again=again)


def _is_collision(error: Exception) -> bool:
    """Whether a unique row was there already, or a deadlock was broken up.

    The ledger's set-wise SQL raises the driver's own errors, whose classes have these names in every driver (PEP 249).
    """
    return any(kind.__name__ in {"IntegrityError", "OperationalError"} for kind in type(error).__mro__)


async def _handle(shop: Shop, event: StripeEvent, *, again: bool) -> Receipt:
    try:
        verdict, repeated = await _carry_out(shop, event, plan_at_once(shop, event), again=again)
    except LookFirst:
        verdict, repeated = await _carry_out(shop, event, await plan_event(shop, event), again=again)
    if verdict.fulfilment is not None:
        log_fulfilment(verdict.fulfilment)
    if verdict.status is InboxStatus.QUARANTINED:
        logger.error("Quarantined Stripe event %s (%s): %s", event.id, event.type, verdict.detail)
    return Receipt(event.id, event.type, verdict.status, verdict.detail, repeated)


async def _carry_out(shop: Shop, event: StripeEvent, plan: Plan, *, again: bool) -> tuple[Verdict, bool]:
    """Run the plan and write the event's row in one unit of work; returns also whether it had been processed before."""

    def work(tx: Transaction) -> tuple[Verdict, bool]:
        is_new = _insert_event(tx, event, _PLAIN, account_id=plan.account_id)
        seen = None if is_new else inbox_event(tx.database, event.id)
        if seen is not None and seen.status is InboxStatus.PROCESSED and not again:
            return Verdict(seen.status, seen.detail), True
        verdict = plan.run(tx)
        if not is_new:
            _finish_event(tx, event, verdict, account_id=plan.account_id)
        elif (verdict.status, verdict.detail) != (_PLAIN.status, _PLAIN.detail):
            _CORRECT.execute(tx.database, event.id, verdict.status.value, _shortened(verdict.detail))
        return verdict, False

    return await shop.writer.work([] if plan.account_id is None else [plan.account_id], work)


async def _note_failure(shop: Shop, event: StripeEvent, error: Exception) -> None:
    """Leave the event's row behind, in a unit of work of its own: the failed one was rolled back."""
    code = error.code if isinstance(error, CreditsError) else type(error).__name__
    detail = f"{code}: {str(error).partition(chr(10))[0]}"  # further lines of a driver's error show values of rows
    logger.error("Stripe event %s (%s) failed, and will be delivered again: %s", event.id, event.type, detail)

    failed = Verdict(InboxStatus.FAILED, detail)

    def work(tx: Transaction) -> None:
        if not _insert_event(tx, event, failed, account_id=None):
            _finish_event(tx, event, failed, account_id=None)

    try:
        await shop.writer.work([], work)
    except Exception:  # the caller raises the first error, which is the one that matters
        logger.exception("The failure of Stripe event %s could not be recorded", event.id)


def _insert_event(tx: Transaction, event: StripeEvent, verdict: Verdict, *, account_id: int | None) -> bool:
    """Add the event's row if it is new, and say so; on PostgreSQL this waits for another host that is adding it.

    The row says what the event is expected to come to: nearly always that, in one statement instead of two.
    """
    row = (
        event.id,
        event.type,
        verdict.status.value,
        _shortened(verdict.detail),
        account_id,
        event.object_id,
        event.api_version,
        int(event.livemode),
        event.payload,
        event.created_at_ms,
        tx.at_ms,
    )
    added: int = _INSERT.execute(tx.database, *row).rowcount
    return added == 1


def _finish_event(tx: Transaction, event: StripeEvent, verdict: Verdict, *, account_id: int | None) -> None:
    """Say on the row of an event that came before what it came to this time; what is processed stays."""
    _FINISH.execute(tx.database, event.id, verdict.status.value, _shortened(verdict.detail), account_id)


def _shortened(detail: str | None) -> str | None:
    return detail and detail[:_MAX_DETAIL]


_COLUMNS: Final = (
    InboxEvent.event_id,
    InboxEvent.type,
    InboxEvent.status,
    InboxEvent.detail,
    InboxEvent.account_id,
    InboxEvent.object_id,
    InboxEvent.api_version,
    InboxEvent.livemode,
    InboxEvent.payload,
    InboxEvent.created_at_ms,
    InboxEvent.received_at_ms,
)
_INSERT: Final = Prepared(
    lambda *values: InboxEvent.insert(
        {**dict(zip(_COLUMNS, values, strict=True)), InboxEvent.attempts: 1}
    ).on_conflict_ignore()
)
_CORRECT: Final = Prepared(
    lambda event_id, status, detail: InboxEvent.update(status=status, detail=detail).where(
        InboxEvent.event_id == event_id
    )
)
_FINISH: Final = Prepared(
    lambda event_id, status, detail, account_id: InboxEvent.update(
        status=status,
        detail=detail,
        attempts=InboxEvent.attempts + 1,
        account_id=peewee.fn.COALESCE(account_id, InboxEvent.account_id),
    ).where(InboxEvent.event_id == event_id, InboxEvent.status != InboxStatus.PROCESSED)
)
