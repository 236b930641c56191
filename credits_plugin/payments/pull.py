"""Events fetched from Stripe's own list, for hosts that cannot be reached from outside, through the webhook's inbox.

A pass goes from the newest event back to where the last whole pass began, less an overlap, because Stripe may show an
event late. Where it stands is stored after each page, so a pass that was interrupted goes on there. Order does not
matter, and what the inbox has processed is skipped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

import peewee

from ..errors import CreditsError, GatewayError
from ..ledger.work import Transaction
from .cursors import read_cursor, store_cursor
from .events import HANDLED_TYPES
from .gateway import EventPage, StripeEvent
from .inbox import Receipt, accept
from .queries import inbox_page
from .replay import stored_event
from .shop import Shop
from .states import InboxStatus

DAYS_KEPT: Final = 30
"""How long Stripe keeps events."""
_DAY_MS: Final = 86_400_000
_OVERLAP_MS: Final = 600_000
_CURSOR: Final = "events"
_MOST_TYPES: Final = 20  # Stripe filters by so many at most
LISTED_TYPES: Final = HANDLED_TYPES if len(HANDLED_TYPES) <= _MOST_TYPES else ()
"""What Stripe is asked to filter its list of events by."""
_RETRIED: Final = 100


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull came to, in events: new to the inbox, known, not handled now, and failed ones tried again."""

    handled: int = 0
    repeated: int = 0
    failed: int = 0
    recovered: int = 0


@dataclass(frozen=True, slots=True)
class _Position:
    """``until_ms``: up to when all is read. The others are of a pass under way: its range and its last event."""

    until_ms: int | None = None
    from_ms: int | None = None
    newest_ms: int | None = None
    before_id: str | None = None


async def pull_events(shop: Shop, *, at_ms: int) -> Pulled:
    """Fetch and handle every event that the last pull has not seen; the first one reaches back 30 days.

    An event that fails is counted, keeps its reason in the inbox and is tried again by the next pull.

    Raises:
        GatewayError: Stripe's list could not be read; the next pull goes on there.
    """
    position = await shop.reads.run(_read_position)
    if position.from_ms is None:
        from_ms = at_ms - DAYS_KEPT * _DAY_MS if position.until_ms is None else position.until_ms - _OVERLAP_MS
        position = replace(position, from_ms=from_ms)
    pulled = Pulled()
    while True:
        position, page = await _next_page(shop, position)
        for event in page.events:
            pulled = _count(pulled, await _accept(shop, event))
        position = _after(position, page)
        await shop.writer.work([], partial(_store_position, position=position))
        if page.last_id is None:
            return replace(pulled, recovered=await _retry_failed(shop))


async def _next_page(shop: Shop, position: _Position) -> tuple[_Position, EventPage]:
    """Fetch the page below the position; from the top again where Stripe has forgotten the event that it names."""
    assert position.from_ms is not None  # noqa: S101 - set when the pass began
    try:
        page = await shop.gateway.events_page(
            created_from_ms=position.from_ms, types=LISTED_TYPES, before_id=position.before_id
        )
    except GatewayError as error:
        if error.retryable or position.before_id is None:
            raise
        position = replace(position, before_id=None)
        page = await shop.gateway.events_page(created_from_ms=position.from_ms or 0, types=LISTED_TYPES)
    return position, page


def _after(position: _Position, page: EventPage) -> _Position:
    """Return the position below a page; after the last one, that of a whole pass."""
    newest_ms = max([position.newest_ms or 0, *(event.created_at_ms for event in page.events)]) or None
    if page.last_id is not None:
        return replace(position, newest_ms=newest_ms, before_id=page.last_id)
    return _Position(until_ms=max(newest_ms or 0, position.until_ms or 0) or None)


async def _accept(shop: Shop, event: StripeEvent) -> Receipt | None:
    try:
        return await accept(shop, event)
    except CreditsError:
        return None  # the inbox has its reason, and the log


def _count(pulled: Pulled, receipt: Receipt | None) -> Pulled:
    if receipt is None:
        return replace(pulled, failed=pulled.failed + 1)
    if receipt.repeated:
        return replace(pulled, repeated=pulled.repeated + 1)
    return replace(pulled, handled=pulled.handled + 1)


async def _retry_failed(shop: Shop) -> int:
    lines = await shop.reads.run(lambda database: inbox_page(database, status=InboxStatus.FAILED, limit=_RETRIED))
    receipts = [await _accept(shop, await stored_event(shop, line.event_id)) for line in lines]
    return sum(receipt is not None for receipt in receipts)


def _read_position(database: peewee.Database) -> _Position:
    return _Position(**read_cursor(database, _CURSOR))


def _store_position(tx: Transaction, *, position: _Position) -> None:
    store_cursor(tx, name=_CURSOR, position=asdict(position))
