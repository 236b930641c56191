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
from .ledger.budget_entries import BudgetKind, BudgetPeriod, RemoveBudget
from .ledger.budget_queries import idle_runs
from .ledger.entries import OPEN_ENDED_MS, ExpireHold, ExpireLots, HoldStatus
from .ledger.ids import IdMaker, first_id_at, now_ms
from .ledger.work import Transaction
from .ledger.writer import LedgerWriter
from .metering import PriceVersions
from .metering.observation_rows import MOST_ROWS, load, store
from .metering.observations import Observations
from .models import Account, Hold
from .notify.outbox import due_events, mark_delivered, mark_failed
from .payments.reconcile import reconcile
from .payments.reports import last_report
from .payments.shop import Shop
from .pricing.refresh import PriceRefresher
from .settings import Settings, UnknownUsageRule

logger = logging.getLogger(__name__)

_PAGE: Final = 500
EXCHANGE_S: Final = 30
"""How often hosts exchange what they have observed; a host that dies forgets as much."""
TOMBSTONE_DAYS: Final = 2
"""How long an ended hold is remembered, so that a late settle or a retried request id still finds it."""
_LATE_MS: Final = 600_000
"""How much older than its commit, by its host's clock, a hold's id may be for the next sweep to find it."""
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS


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
    observations: Observations = field(default_factory=Observations)
    prices: PriceRefresher | None = None
    _oldest_open: int = field(default=0, init=False)
    _looks_back_at_ms: int = field(default=0, init=False)
    _exchanged_at_ms: int = field(default=0, init=False)
    _runs_next_purged_ms: int = field(default=0, init=False)

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
            for job in (
                self.expire_holds,
                self.expire_lots,
                self.purge_holds,
                self.purge_runs,
                self.deliver_events,
                self.exchange_when_due,
            ):
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
        """End open holds whose time is over; returns how many.

        Begins at the lowest hold that the last sweep left open, or ``_LATE_MS`` ago, for tombstones are kept for days;
        once an hour at the first of all, for hosts whose clocks are further behind.
        """
        now, ended = now_ms(), 0
        looks_back = self._looks_back_at_ms <= now
        after, oldest_open = 0 if looks_back else self._oldest_open, first_id_at(now - _LATE_MS)
        while True:
            rows = await self.reads.run(partial(_open_holds, after=after, before_ms=now))
            for identifier, account_id, expires_at_ms, version, input_tokens in rows:
                has_ended = False
                if expires_at_ms <= now:
                    charge, usage = await self._unknown_usage(version, input_tokens)
                    command = ExpireHold(account_id, identifier, now, charge, usage)
                    has_ended = (await self.writer.execute(command)).changed
                    ended += has_ended
                # A dispute's hold stands for weeks: it must not hold every sweep's beginning back.
                if not has_ended and expires_at_ms < OPEN_ENDED_MS:
                    oldest_open = min(oldest_open, identifier)
            if len(rows) < _PAGE:
                break
            after = rows[-1][0] + 1
        self._oldest_open = oldest_open
        if looks_back:
            self._looks_back_at_ms = now + _HOUR_MS
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

    async def purge_runs(self) -> int:
        """Forget runs that hold nothing and were not used for ``run_report_days``; looks once an hour.

        Returns how many were forgotten.
        """
        now = now_ms()
        if now < self._runs_next_purged_ms:
            return 0
        unused_since_ms = now - self.settings.run_report_days * _DAY_MS
        idle = partial(idle_runs, unused_since_ms=unused_since_ms, limit=_PAGE)
        forgotten = 0
        while found := await self.reads.run(idle):
            for account_id, run_id in found:
                command = RemoveBudget(account_id, BudgetKind.RUN, run_id, BudgetPeriod.NONE, unused_since_ms)
                forgotten += (await self.writer.execute(command)).changed
            if len(found) < _PAGE:
                break
        self._runs_next_purged_ms = now + _HOUR_MS
        return forgotten

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

    async def exchange_when_due(self) -> int:
        """Exchange observations once in ``EXCHANGE_S``, and at the start; returns how many buckets were stored."""
        if now_ms() < self._exchanged_at_ms + EXCHANGE_S * 1_000:
            return 0
        self._exchanged_at_ms = now_ms()
        return await self.exchange_observations()

    async def exchange_observations(self) -> int:
        """Store what this host has seen of answers and holds, and learn what all have; returns how many buckets."""
        stored = 0
        while fresh := self.observations.take_fresh(MOST_ROWS):
            try:
                await self.writer.work((), partial(store, seen=fresh))
            except CreditsError:
                self.observations.give_back(fresh)
                raise
            stored += len(fresh)
        wanted = self.observations.wanted_accounts()
        for page in range(0, max(len(wanted), 1), MOST_ROWS):
            accounts = wanted[page : page + MOST_ROWS]
            self.observations.learn(await self.reads.run(partial(load, account_ids=accounts)))
        return stored

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


def _accounts_due(database: peewee.Database, *, at_ms: int) -> list[int]:
    query = Account.select(Account.id).where(Account.next_expiry_at_ms <= at_ms).limit(_PAGE)
    return [row[0] for row in query.tuples().execute(database)]


def _tombstones(database: peewee.Database, *, before: int) -> list[int]:
    query = Hold.select(Hold.id).where((Hold.id < before) & (Hold.state != HoldStatus.PLACED)).limit(_PAGE)
    return [row[0] for row in query.tuples().execute(database)]


def _delete_holds(tx: Transaction, ids: list[int]) -> None:
    Hold.delete().where(Hold.id.in_(ids) & (Hold.state != HoldStatus.PLACED)).execute(tx.database)
