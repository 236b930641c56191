"""What happens on its own: holds and lots expire, ended holds are purged, events are delivered, books are reconciled,
prices are followed.

Every host runs these jobs; each is idempotent, so several hosts on one database do no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import peewee

from hookspecs import HookCaller, Usage

from .database import Reads
from .errors import CreditsError
from .ledger.entries import OPEN_ENDED_MS, ExpireHold, ExpireLots, HoldStatus
from .ledger.ids import IdMaker, first_id_at, now_ms
from .ledger.work import Transaction
from .ledger.writer import LedgerWriter
from .metering import PriceVersions
from .models import Account, Hold
from .notify.outbox import due_events, mark_delivered, mark_failed
from .payments.reconcile import reconcile
from .payments.reports import last_report
from .payments.shop import Shop
from .pricing.refresh import PriceRefresher
from .settings import Settings, UnknownUsageRule

logger = logging.getLogger(__name__)

_PAGE: Final = 500
TOMBSTONE_DAYS: Final = 2
"""How long an ended hold is remembered, so that a late settle or a retried request id still finds it."""
_DAY_MS: Final = 86_400_000


@dataclass(slots=True)
class Jobs:
    """The background work of one process; ``run`` repeats it until it is cancelled."""

    settings: Settings
    writer: LedgerWriter
    reads: Reads
    new_id: IdMaker
    versions: PriceVersions
    hooks: Callable[[], HookCaller | None]
    shop: Shop | None = None
    prices: PriceRefresher | None = None
    _oldest_open: int = field(default=0, init=False)

    async def run(self) -> None:
        """Repeat all jobs at their intervals. A job that fails is logged and tried again next time."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            if self.prices is not None:
                tasks.create_task(self._follow_prices(self.prices))
            if self.shop is not None and self.settings.reconcile_interval_s:
                tasks.create_task(self._reconcile_now_and_then())

    async def _sweep(self) -> None:
        while True:
            for job in (self.expire_holds, self.expire_lots, self.purge_holds, self.deliver_events):
                await _guarded(job)
            await asyncio.sleep(self.settings.sweep_interval_s)

    async def _follow_prices(self, prices: PriceRefresher) -> None:
        """Keep the prices at what their sources say; beside the sweeps, because a fetch may take its time."""
        while True:
            await _guarded(partial(asyncio.to_thread, prices.look, at_ms=now_ms()))
            await asyncio.sleep(self.settings.sweep_interval_s)

    async def _reconcile_now_and_then(self) -> None:
        """Reconcile ``reconcile_interval_s`` after any host's last run; a new shop's first one waits as long."""
        interval_ms, started_ms = self.settings.reconcile_interval_s * 1000, now_ms()
        while True:
            last = await self.reads.run(last_report)
            due_ms = (started_ms if last is None else last.at_ms) + interval_ms
            if due_ms <= now_ms():
                await _guarded(self.reconcile)
                due_ms = now_ms() + interval_ms
            await asyncio.sleep(max(due_ms - now_ms(), 0) / 1000)

    async def expire_holds(self) -> int:
        """End open holds whose time is over; returns how many."""
        now, ended, after = now_ms(), 0, self._oldest_open
        while True:
            rows = await self.reads.run(partial(_open_holds, after=after, before_ms=now))
            for identifier, account_id, expires_at_ms, version, input_tokens in rows:
                if expires_at_ms <= now:
                    charge, usage = await self._unknown_usage(version, input_tokens)
                    command = ExpireHold(account_id, identifier, now, charge, usage)
                    ended += (await self.writer.execute(command)).changed
            if len(rows) < _PAGE:
                break
            after = rows[-1][0] + 1
        self._oldest_open = await self.reads.run(_oldest_open_hold)
        return ended

    async def expire_lots(self) -> int:
        """Turn credits whose time is over into breakage; returns how many accounts were looked at."""
        now = now_ms()
        due = await self.reads.run(lambda database: _accounts_due(database, at_ms=now))
        for account_id in due:
            await self.writer.execute(ExpireLots(account_id, self.new_id(), now))
        return len(due)

    async def purge_holds(self) -> int:
        """Forget ended holds that are older than ``TOMBSTONE_DAYS``; returns how many."""
        limit = first_id_at(now_ms() - TOMBSTONE_DAYS * _DAY_MS)
        old = await self.reads.run(lambda database: _tombstones(database, before=limit))
        if old:
            await self.writer.work((), lambda tx: _delete_holds(tx, old))
        return len(old)

    async def deliver_events(self) -> int:
        """Tell the host's plugins what was committed; returns how many events were delivered."""
        hooks, delivered = self.hooks(), 0
        if hooks is None:
            return 0
        now = now_ms()
        for pending in await self.reads.run(lambda database: due_events(database, at_ms=now)):
            try:
                await hooks.on_credit_event(pending.event)
            except ExceptionGroup as failure:
                logger.warning("%s; it is delivered again later", failure)
                detail = "; ".join(repr(error) for error in failure.exceptions)
                await self.writer.work((), partial(mark_failed, pending=pending, detail=detail))
            else:
                await self.writer.work((), partial(mark_delivered, event_id=pending.event.event_id))
                delivered += 1
        return delivered

    async def reconcile(self) -> int:
        """Compare our books with what is new at Stripe and mend what is safe; returns how many differences are left."""
        if self.shop is None:
            return 0
        report = await reconcile(self.shop, at_ms=now_ms(), apply=True)
        if report.repaired or report.left:
            logger.warning(
                "Reconciliation with Stripe: %d mended, %d left; `credits reconcile` shows them",
                report.repaired,
                len(report.left),
            )
        return len(report.left)

    async def _unknown_usage(self, version: int, input_tokens: int) -> tuple[int, Usage | None]:
        if self.settings.unknown_usage is UnknownUsageRule.RELEASE:
            return 0, None
        usage = Usage(input=input_tokens)
        return (await self.versions.price_of(version)).cost_microcredits(usage), usage


async def _guarded(job: Callable[[], Awaitable[int]]) -> None:
    try:
        await job()
    except (CreditsError, peewee.PeeweeException):
        logger.exception("%s failed; it is tried again", getattr(job, "__name__", "a job"))


def _open_holds(database: peewee.Database, *, after: int, before_ms: int) -> list[tuple[int, int, int, int, int]]:
    query = (
        Hold.select(Hold.id, Hold.account_id, Hold.expires_at_ms, Hold.price_version, Hold.input_tokens)
        .where((Hold.id >= after) & (Hold.state == HoldStatus.PLACED) & (Hold.id < first_id_at(before_ms)))
        .order_by(Hold.id)
        .limit(_PAGE)
    )
    return list(query.tuples().execute(database))


def _oldest_open_hold(database: peewee.Database) -> int:
    """Return the lowest id of an open hold, so that the next sweep need not walk over ended ones again.

    Open-ended ones are left out: a dispute's, which stands for weeks, would hold back every sweep's beginning.
    """
    may_end = (Hold.state == HoldStatus.PLACED) & (Hold.expires_at_ms < OPEN_ENDED_MS)
    rows = Hold.select(Hold.id).where(may_end).order_by(Hold.id).limit(1)
    return next((row[0] for row in rows.tuples().execute(database)), 0)


def _accounts_due(database: peewee.Database, *, at_ms: int) -> list[int]:
    query = Account.select(Account.id).where(Account.next_expiry_at_ms <= at_ms).limit(_PAGE)
    return [row[0] for row in query.tuples().execute(database)]


def _tombstones(database: peewee.Database, *, before: int) -> list[int]:
    query = Hold.select(Hold.id).where((Hold.id < before) & (Hold.state != HoldStatus.PLACED)).limit(_PAGE)
    return [row[0] for row in query.tuples().execute(database)]


def _delete_holds(tx: Transaction, ids: list[int]) -> None:
    Hold.delete().where(Hold.id.in_(ids) & (Hold.state != HoldStatus.PLACED)).execute(tx.database)
