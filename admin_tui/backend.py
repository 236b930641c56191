"""What the screens work with: the database read-only, a clock, who is at the keyboard, and the way to Stripe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import peewee

from credits_plugin.database import Database, Reads, open_database, require_current_schema
from credits_plugin.errors import ConfigurationError, DatabaseError
from credits_plugin.ledger.budget_actions import Operator
from credits_plugin.ledger.budget_queries import BudgetPlace, BudgetView, find_budget
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.money import MICROCREDITS_PER_CREDIT
from credits_plugin.payments.queries import RefundView
from credits_plugin.settings import Settings

if TYPE_CHECKING:
    from credits_plugin.bootstrap import Credits
    from credits_plugin.payments.inbox import Receipt
    from credits_plugin.payments.replay import Preview
    from credits_plugin.payments.shop import Shop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RefundDecision:
    """What an operator decided: how much, why, and the key that makes a repetition the same refund."""

    payment_id: int
    amount_minor: int
    reason: str
    note: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class BudgetDecision:
    """What an operator decided on a budget or run, why, and the id that makes a repetition the same change.

    ``amount`` in microcredits: the limit that is set, or removed, or what a run may spend more.
    """

    external_id: str
    place: BudgetPlace
    amount: int
    note: str
    action_id: int


@dataclass(slots=True)
class Backend:
    """One database, open for reading; for writing only from the first change on, and never with ``is_read_only``."""

    settings: Settings
    database: Database
    actor: str
    is_read_only: bool = False
    clock: Callable[[], int] = now_ms
    new_id: IdMaker = field(default_factory=IdMaker)
    reads: Reads = field(init=False)
    _credits: Credits | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.reads = Reads(self.database)

    async def read(self, query: Callable[[peewee.Database], T]) -> T:
        """Run a query in a read thread."""
        return await self.reads.run(query)

    def obstacle(self, what: str) -> str | None:
        """Say why ``what`` (a verb: refund, replay) cannot be done from here, or None."""
        obstacle = self.read_only_obstacle(what)
        if obstacle is not None:
            return obstacle
        try:
            self.settings.require_stripe()
        except ConfigurationError as error:
            return error.message
        return None

    def read_only_obstacle(self, what: str) -> str | None:
        """Say why ``what``, which needs no Stripe, cannot be done from here, or None."""
        if self.is_read_only:
            return f"this session is read-only: start credits-admin without --read-only to {what}"
        return None

    async def refund(self, decision: RefundDecision) -> RefundView:
        """Give money back through Stripe and take the credits back; repeating the same decision converges.

        Raises:
            PaymentError: the payment cannot be refunded, or not by that much.
            GatewayError: Stripe refused, or no answer came: then repeat the same decision.
        """
        shop = await self._shop("refund")
        from credits_plugin.payments.refunds import refund_payment  # noqa: PLC0415 - a third of all imports: screens do not wait for them

        return await refund_payment(
            shop,
            payment_id=decision.payment_id,
            amount_minor=decision.amount_minor,
            reason=decision.reason,
            note=decision.note,
            actor=self.actor,
            idempotency_key=decision.idempotency_key,
        )

    async def preview_event(self, event_id: str) -> Preview:
        """Say what a stored event would do now; changes nothing.

        Raises:
            NotFound: there is no such event.
        """
        shop = await self._shop("replay")
        from credits_plugin.payments.replay import preview_event  # noqa: PLC0415 - a third of all imports: screens do not wait for them

        return await preview_event(shop, event_id)

    async def replay_event(self, event_id: str) -> Receipt:
        """Handle a stored event again; what it did before is not done twice.

        Raises:
            CreditsError: it could not be handled now; its row says why.
        """
        shop = await self._shop("replay")
        from credits_plugin.payments.replay import replay_event  # noqa: PLC0415 - a third of all imports: screens do not wait for them

        return await replay_event(shop, event_id, actor=self.actor)

    async def budget(self, external_id: str, place: BudgetPlace) -> BudgetView | None:
        """Read a budget as it is now, or None if there is no such one."""
        key, now = account_key(external_id), self.clock()
        return await self.read(lambda database: find_budget(database, key, place, at_ms=now))

    async def set_cap(self, decision: BudgetDecision) -> BudgetView | None:
        """Set a limit, and return the budget; repeating the same decision converges.

        Raises:
            CreditsError: it cannot be; nothing was written, or, where the outcome is unknown, repeat the same decision.
        """
        budgets = (await self._service("set caps")).budgets
        kind, name, period = decision.place
        by = self._operator(decision)
        await budgets.set_limit(decision.external_id, decision.amount, kind=kind, name=name, period=period, by=by)
        return await self.budget(decision.external_id, decision.place)

    async def remove_cap(self, decision: BudgetDecision) -> None:
        """Bound this spending no longer; repeating the same decision converges.

        Raises:
            NotFound: it is gone already.
            CreditsError: as for :meth:`set_cap`.
        """
        budgets = (await self._service("remove caps")).budgets
        kind, name, period = decision.place
        await budgets.remove(decision.external_id, kind=kind, name=name, period=period, by=self._operator(decision))

    async def resume_run(self, decision: BudgetDecision) -> BudgetView:
        """Let a run go on, with whole credits more to spend; repeating the same decision converges.

        Raises:
            NotFound: the run was purged.
            CreditsError: as for :meth:`set_cap`.
        """
        budgets = (await self._service("resume runs")).budgets
        added, name = decision.amount // MICROCREDITS_PER_CREDIT, decision.place[1]
        return await budgets.resume_run(decision.external_id, name, added, by=self._operator(decision))

    def _operator(self, decision: BudgetDecision) -> Operator:
        return Operator(self.actor, decision.action_id, decision.note)

    async def _shop(self, what: str) -> Shop:
        """Return the way to Stripe.

        Raises:
            ConfigurationError: ``what`` cannot be done from here.
        """
        obstacle = self.obstacle(what)
        if obstacle is not None:
            raise ConfigurationError(obstacle)
        shop = (await self._service(what)).shop
        assert shop is not None  # noqa: S101 - the keys are there, so the shop is
        return shop

    async def _service(self, what: str) -> Credits:
        """Return the service, made with the first use: a third of all there is to import, and screens don't wait.

        Raises:
            ConfigurationError: ``what`` cannot be done from here.
        """
        obstacle = self.read_only_obstacle(what)
        if obstacle is not None:
            raise ConfigurationError(obstacle)
        from credits_plugin.bootstrap import build  # noqa: PLC0415 - a third of all imports: screens do not wait for them

        if self._credits is None:
            self._credits = await asyncio.to_thread(build, self.settings)
        return self._credits

    async def close(self) -> None:
        """Close every connection."""
        if self._credits is not None:
            await self._credits.close()
        await asyncio.to_thread(self.reads.close)


def open_backend(settings: Settings, *, actor: str, is_read_only: bool) -> Backend:
    """Open the database that ``settings`` name; creates and changes nothing.

    Raises:
        ConfigurationError: the URL names no database.
        DatabaseError: missing, unreachable, not migrated or migrated by a newer version.
    """
    database = open_database(settings.database_url)
    try:
        require_current_schema(database)
    except peewee.PeeweeException as error:
        msg = f"cannot read database {database.name}: {error}"
        raise DatabaseError(msg) from error
    return Backend(settings, database, actor, is_read_only)
