"""A run of the reconciliation: Stripe's lists page by page, each object against our books, safe repairs, a report.

The incremental run reads what Stripe made since the last one, and asks about rows of ours that should have moved on;
the full one reads everything. A run that breaks off is begun again where the last whole one began.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

import peewee

from ..errors import CreditsError, GatewayError, NotFound
from .gateway import Listed, Listing, PaymentIntent, StripeEvent
from .inbox import accept
from .local_facts import disputes_to_ask_about, local_facts, payments_to_ask_about, refunds_to_ask_about
from .pull import DAYS_KEPT, LISTED_TYPES
from .queries import InboxLine, inbox_event, payment
from .reconciliation import Local, compare, compare_event, refund_not_sent
from .repairs import mend
from .replay import stored_event
from .reports import Report, Result, keep_report, last_report
from .shop import Shop

T = TypeVar("T")

_DAY_MS: Final = 86_400_000
_OVERLAP_MS: Final = 600_000
"""Stripe's lists may show an object late, and clocks differ."""
_TRIES: Final = 4
_LISTINGS: Final[Mapping[str, Listing]] = MappingProxyType(
    {
        "cs": Listing.SESSIONS,
        "pi": Listing.INTENTS,
        "ch": Listing.CHARGES,
        "py": Listing.CHARGES,
        "re": Listing.REFUNDS,
        "pyr": Listing.REFUNDS,
        "du": Listing.DISPUTES,
        "dp": Listing.DISPUTES,
    }
)
"""Which list an id is of, by its beginning."""


async def reconcile(shop: Shop, *, at_ms: int, full: bool = False, apply: bool = False, pause_s: float = 1.0) -> Report:
    """Compare Stripe's lists with our books; with ``apply`` mend what is safe, and keep the report for the admin.

    Without ``apply`` nothing is written. The first incremental run reaches back 30 days. Where Stripe is busy it is
    asked again after ``pause_s``, then twice that, and so on.

    Raises:
        GatewayError: Stripe's lists could not be read; what was mended until then stands.
    """
    last = await shop.reads.run(last_report)
    since_ms = at_ms - DAYS_KEPT * _DAY_MS if last is None else last.at_ms - _OVERLAP_MS
    run = _Run(shop, at_ms, None if full else since_ms, apply, pause_s)
    await run.compare_events()
    for listing in Listing:
        await run.compare_list(listing)
    await run.compare_own_rows()
    for result in last.left if last is not None else ():
        await run.look_again(result.finding.subject)
    report = Report(at_ms, run.from_ms, apply, dict(run.compared), list(run.results.values()))
    if apply:
        await shop.writer.work([], partial(keep_report, report=report))
    return report


@dataclass(slots=True)
class _Run:
    """The state of one run; ``results`` by what was found."""

    shop: Shop
    at_ms: int
    from_ms: int | None
    apply: bool
    pause_s: float
    compared: Counter[str] = field(default_factory=Counter)
    results: dict[str, Result] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    async def compare_events(self) -> None:
        """Look for events that never arrived, or that failed; Stripe keeps them for 30 days."""
        from_ms = max(self.from_ms or 0, self.at_ms - DAYS_KEPT * _DAY_MS)
        before_id: str | None = None
        while True:
            ask = partial(self.shop.gateway.events_page, created_from_ms=from_ms, types=LISTED_TYPES)
            page = await self._patiently(partial(ask, before_id=before_id))
            self.compared["events"] += len(page.events)
            for event in page.events:
                await self._look_at_event(event)
            before_id = page.last_id
            if before_id is None:
                return

    async def compare_list(self, listing: Listing) -> None:
        """Compare every object of a list with our books."""
        before_id: str | None = None
        while True:
            ask = partial(self.shop.gateway.objects_page, listing, created_from_ms=self.from_ms)
            page = await self._patiently(partial(ask, before_id=before_id))
            self.compared[listing] += len(page.objects)
            for listed, ours in zip(page.objects, await self._facts(page.objects), strict=True):
                self._seen.add(listed.id)
                await self._look(listed, ours)
            before_id = page.last_id
            if before_id is None:
                return

    async def compare_own_rows(self) -> None:
        """Ask Stripe about rows of ours that its lists did not show, and that should have moved on or must be there."""
        mode: dict[str, Any] = {"livemode": self.shop.settings.livemode, "full": self.from_ms is None}
        async for ours in self._rows(partial(payments_to_ask_about, at_ms=self.at_ms, **mode)):
            await self._ask(Listing.SESSIONS, ours.session_id or "")
        async for refund in self._rows(partial(refunds_to_ask_about, at_ms=self.at_ms, **mode)):
            if refund.stripe_refund_id is not None:
                await self._ask(Listing.REFUNDS, refund.stripe_refund_id)
            elif not await self._find_unnamed(refund.payment_id, refund.id):
                self._note(Result(refund_not_sent(refund)))
        async for dispute in self._rows(partial(disputes_to_ask_about, **mode)):
            await self._ask(Listing.DISPUTES, dispute.stripe_dispute_id)

    async def look_again(self, subject: str) -> None:
        """Look at what an earlier run left, unless this one has; rows of ours come up by themselves."""
        kind = subject.partition("_")[0]
        if kind in _LISTINGS:
            await self._ask(_LISTINGS[kind], subject)
        elif kind == "evt":
            try:
                await self._look_at_event(await stored_event(self.shop, subject))
            except NotFound:
                return  # it never got a row, and is too old for the list

    async def _rows(self, read: Callable[..., list[T]]) -> AsyncIterator[T]:
        """Yield our own rows, page by page."""
        after_id = 0
        while rows := await self.shop.reads.run(partial(read, after_id=after_id)):
            for row in rows:
                yield row
            after_id = rows[-1].id  # type: ignore[attr-defined]  # every view has one

    async def _ask(self, listing: Listing, object_id: str) -> None:
        if object_id in self._seen:
            return
        self._seen.add(object_id)
        self.compared[listing] += 1
        found = await self._patiently(partial(self.shop.gateway.find_object, listing, object_id))
        await self._look_now(Listed(object_id, found))

    async def _find_unnamed(self, payment_id: int, refund_id: int) -> bool:
        """Look for a refund of ours whose answer was lost among those of its payment intent."""
        ours = await self.shop.reads.run(lambda database: payment(database, payment_id))
        if ours is None or ours.payment_intent_id is None:
            return False
        known = await self._patiently(partial(self.shop.gateway.refunds_of_intent, ours.payment_intent_id))
        found = [one for one in known if one.own_refund_id == refund_id]
        for one in found:
            await self._look_now(Listed(one.id, one))
        return bool(found)

    async def _look(self, listed: Listed, ours: Local) -> None:
        """Compare what a list showed with our books as they were then; a difference is looked at afresh."""
        intent = listed.object
        if isinstance(intent, PaymentIntent) and intent.status == "succeeded" and not _is_granted(ours):
            session = await self._patiently(partial(self.shop.gateway.session_of_intent, intent.id))
            await self._look_now(listed if session is None else Listed(session.id, session))
        elif compare(listed.id, listed.object, ours) is not None:
            await self._look_now(listed)

    async def _look_now(self, listed: Listed) -> None:
        """Compare an object with our books as they are now, and mend what differs if that is safe and wanted."""
        [ours] = await self._facts([listed])
        finding = compare(listed.id, listed.object, ours)
        if finding is None:
            return
        if not (self.apply and finding.is_safe):
            self._note(Result(finding))
            return
        error = await _failure_of(mend(self.shop, finding, listed.object, at_ms=self.at_ms))
        [ours] = await self._facts([listed])
        left = compare(listed.id, listed.object, ours)
        self._note(Result(finding, repaired=left is None, note=error or (left.cause if left else None)))

    async def _look_at_event(self, event: StripeEvent) -> None:
        finding = compare_event(event, await self._inbox_line(event.id))
        if finding is None:
            return
        if not self.apply:
            self._note(Result(finding))
            return
        error = await _failure_of(accept(self.shop, event))
        left = compare_event(event, await self._inbox_line(event.id))
        self._note(Result(finding, repaired=left is None, note=error or (left.cause if left else None)))

    def _note(self, result: Result) -> None:
        self.results.setdefault(result.finding.key, result)

    async def _facts(self, objects: Sequence[Listed]) -> list[Local]:
        return await self.shop.reads.run(lambda database: [local_facts(database, listed) for listed in objects])

    async def _inbox_line(self, event_id: str) -> InboxLine | None:
        return await self.shop.reads.run(lambda database: inbox_event(database, event_id))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Stripe, and again after a pause where it is busy or away."""
        for attempt in range(_TRIES - 1):
            try:
                return await ask()
            except GatewayError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(self.pause_s * 2**attempt)
        return await ask()


async def _failure_of(repair: Awaitable[object]) -> str | None:
    """Return why a repair failed; one that fails must not keep the others from being tried."""
    try:
        await repair
    except (CreditsError, peewee.PeeweeException) as error:
        code = error.code if isinstance(error, CreditsError) else type(error).__name__
        return f"{code}: {str(error).partition(chr(10))[0]}"
    return None


def _is_granted(ours: Local) -> bool:
    return ours.payment is not None and ours.payment.is_granted
