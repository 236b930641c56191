"""What the screens work with: the database read-only, a clock, who is at the keyboard, and the way to Stripe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import peewee

from credits_plugin.database import Database, Reads, open_database, require_current_schema
from credits_plugin.errors import ConfigurationError, DatabaseError
from credits_plugin.ledger.ids import now_ms
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


@dataclass(slots=True)
class Backend:
    """One database, open for reading; for writing only from the first refund on, and never with ``is_read_only``."""

    settings: Settings
    database: Database
    actor: str
    is_read_only: bool = False
    clock: Callable[[], int] = now_ms
    reads: Reads = field(init=False)
    _credits: Credits | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.reads = Reads(self.database)

    async def read(self, query: Callable[[peewee.Database], T]) -> T:
        """Run a query in a read thread."""
        return await self.reads.run(query)

    def obstacle(self, what: str) -> str | None:
        """Say why ``what`` (a verb: refund, replay) cannot be done from here, or None."""
        if self.is_read_only:
            return f"this session is read-only: start credits-admin without --read-only to {what}"
        try:
            self.settings.require_stripe()
        except ConfigurationError as error:
            return error.message
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

    async def _shop(self, what: str) -> Shop:
        """Return the way to Stripe, made with the first use: a third of all there is to import, and screens don't wait.

        Raises:
            ConfigurationError: ``what`` cannot be done from here.
        """
        obstacle = self.obstacle(what)
        if obstacle is not None:
            raise ConfigurationError(obstacle)
        from credits_plugin.bootstrap import build  # noqa: PLC0415 - a third of all imports: screens do not wait for them

        if self._credits is None:
            self._credits = await asyncio.to_thread(build, self.settings)
        shop = self._credits.shop
        assert shop is not None  # noqa: S101 - the keys are there, so the shop is
        return shop

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
