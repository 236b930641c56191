"""``build(settings)``: the only place where the parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from hookspecs import AIRequest, Estimate, Hold, HookCaller, Outcome, Refusal

from .budgets import Budgets
from .database import Database, Reads, open_database, prepare_schema
from .gateways.stripe_api import StripeGateway
from .jobs import Jobs
from .ledger.budget_queries import BudgetView
from .ledger.entries import Settled
from .ledger.ids import IdMaker
from .ledger.writer import LedgerWriter
from .metering import Call, MeteredCall, Metering, PriceVersions, SyncCredits
from .metering.parking import Parking
from .metering.retry_tokens import RetryTokens
from .money import credits_to_microcredits
from .payments.packages import parse_packages
from .payments.shop import Shop
from .pricing.price_book import PriceBook
from .pricing.refresh import PriceRefresher
from .settings import Settings

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Credits:
    """The service: metering, payments and the read side on one database. ``shop`` is None without Stripe keys."""

    settings: Settings
    database: Database
    reads: Reads
    writer: LedgerWriter
    new_id: IdMaker
    price_book: PriceBook
    versions: PriceVersions
    shop: Shop | None
    hooks: HookCaller | None = None
    metering: Metering = field(init=False)
    sync: SyncCredits = field(init=False)
    parking: Parking = field(init=False)
    budgets: Budgets = field(init=False)
    _jobs: asyncio.Task[None] | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        tokens = RetryTokens(self.settings)
        self.metering = Metering(
            self.settings, self.writer, self.reads, self.price_book, self.new_id, self.versions, tokens, self._ask_host
        )
        self.parking = Parking(tokens, self.writer, self.reads, self.new_id)
        self.sync = SyncCredits(self.metering, self.parking)
        self.budgets = Budgets(self.writer, self.reads, self.new_id)

    async def estimate(self, request: AIRequest) -> Estimate:
        """Return an upper bound of what a request can cost; see :meth:`Metering.estimate`."""
        return await self.metering.estimate(request)

    async def admit(self, request: AIRequest) -> Hold | Refusal:
        """Place a hold, or say why not; see :meth:`Metering.admit`."""
        return await self.metering.admit(request)

    async def extend(self, hold: Hold, *, output_tokens: int) -> Hold:
        """Raise the hold of a long stream, for hosts that use the hooks; see :meth:`Metering.extend`."""
        return await self.metering.extend(hold, output_tokens=output_tokens)

    async def settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        """End a hold by the documented rule; see :meth:`Metering.settle`."""
        return await self.metering.settle(hold, outcome)

    def metered(self, request: AIRequest, *, within: Call | None = None) -> MeteredCall:
        """Meter a call that the caller makes itself: ``async with credits.metered(request) as call``.

        Inside another one it is metered once, if it is the same provider call; ``within`` names that one for threads
        that do not carry its context. ``credits.sync.metered`` is the same for worker threads.
        """
        return MeteredCall(request, self.metering, within=within)

    async def wait_for_credits(self, refusal: Refusal, *, timeout_s: float) -> bool:
        """Park a refused request until it can be afforded; then admit it anew. See :meth:`Parking.wait_for`."""
        return await self.parking.wait_for(refusal, timeout_s=timeout_s)

    async def start_run(self, account_id: str, run_id: str, budget_credits: int | None = None) -> BudgetView:
        """Give an agent run its budget before its first request; see :meth:`Budgets.start_run`."""
        return await self.budgets.start_run(account_id, run_id, budget_credits)

    async def run_report(self, account_id: str, run_id: str) -> BudgetView:
        """Return what a run has spent and may still spend; see :meth:`Budgets.run_report`."""
        return await self.budgets.run_report(account_id, run_id)

    async def pause_run(self, account_id: str, run_id: str) -> BudgetView:
        """Refuse a run's further requests; see :meth:`Budgets.pause_run`."""
        return await self.budgets.pause_run(account_id, run_id)

    async def resume_run(self, account_id: str, run_id: str, add_credits: int = 0) -> BudgetView:
        """Let a paused run go on, with more to spend; see :meth:`Budgets.resume_run`."""
        return await self.budgets.resume_run(account_id, run_id, add_credits)

    async def start(self) -> None:
        """Run the background jobs in this event loop and load the price data off it."""
        if self._jobs is None:
            await asyncio.to_thread(self.price_book.warm_up)
            hooks = lambda: self.hooks  # noqa: E731 - the caller comes when the host is ready
            seen = self.metering.observations
            sources = self.settings.settings_file or self.settings.price_data or self.settings.price_updates
            prices = PriceRefresher(self.settings, self.price_book) if sources else None
            jobs = Jobs(
                self.settings, self.writer, self.reads, self.new_id, self.versions, hooks, self.shop, seen, prices
            )
            self._jobs = asyncio.create_task(jobs.run(), name="credits-jobs")

    async def close(self) -> None:
        """Stop the jobs, let parked requests go, write what is queued, close every connection."""
        self.parking.close()
        if self._jobs is not None:
            self._jobs.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._jobs
            self._jobs = None
        if self.shop is not None:
            await self.shop.gateway.close()
        await asyncio.to_thread(self.close_sync)

    def close_sync(self) -> None:
        """Write what is queued and close every connection, for code without an event loop."""
        if not self._closed:
            self._closed = True
            self.parking.close()
            self.writer.close()
            self.sync.close()
            self.reads.close()
        self.database.close_thread()

    async def _ask_host(self, request: AIRequest) -> Estimate | None:
        return await self.hooks.estimate_ai_request(request) if self.hooks is not None else None


def build(settings: Settings) -> Credits:
    """Open the database (an empty one is migrated), start the writer and put the service together.

    Raises:
        ConfigurationError: a setting is missing or wrong.
        DatabaseError: the database is unreachable, unsafe, behind this version or ahead of it.
    """
    packages = parse_packages(settings.packages)
    price_book = PriceBook.from_settings(settings)
    database = open_database(settings.database_url)
    prepare_schema(database)
    new_id = IdMaker()
    writer = _open_writer(database, settings, new_id)
    writer.start()
    reads = Reads(database)
    versions = PriceVersions(writer, reads)
    service = Credits(settings, database, reads, writer, new_id, price_book, versions, shop=None)
    if settings.stripe_secret_key:
        settings.require_stripe()
        gateway = StripeGateway(settings.stripe_secret_key, api_base=settings.stripe_api_base)
        service.shop = Shop(settings, writer, reads, new_id, gateway, packages, lambda: service.hooks)
    return service


def _open_writer(database: Database, settings: Settings, new_id: IdMaker) -> LedgerWriter:
    """Return this host's writer; with a secret that hosts share, one that sends an account's commands to its home."""
    run_budget = credits_to_microcredits(settings.run_budget_credits)
    if not settings.hosts_secret:
        return LedgerWriter(database, new_id=new_id, queue_limit=settings.queue_limit, run_budget=run_budget)
    from .distributed.router import RoutedWriter  # noqa: PLC0415 - for several hosts alone

    host, _, port = settings.hosts_listen.rpartition(":")
    return RoutedWriter(
        database,
        new_id=new_id,
        secret=settings.hosts_secret.encode(),
        host=host,
        port=int(port),
        queue_limit=settings.queue_limit,
        run_budget=run_budget,
    )
