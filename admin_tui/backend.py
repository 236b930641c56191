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

    def refund_obstacle(self) -> str | None:
        """Say why no refund can be made from here, or None."""
        if self.is_read_only:
            return "this session is read-only: start credits-admin without --read-only to refund"
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
        obstacle = self.refund_obstacle()
        if obstacle is not None:
            raise ConfigurationError(obstacle)
        # The way to Stripe is a third of all there is to import: screens do not wait for it.
        from credits_plugin.bootstrap import build  # noqa: PLC0415 - see above
        from credits_plugin.payments.refunds import refund_payment  # noqa: PLC0415 - see above

        if self._credits is None:
            self._credits = await asyncio.to_thread(build, self.settings)
        shop = self._credits.shop
        assert shop is not None  # noqa: S101 - the keys are there, so the shop is
        return await refund_payment(
            shop,
            payment_id=decision.payment_id,
            amount_minor=decision.amount_minor,
            reason=decision.reason,
            note=decision.note,
            actor=self.actor,
            idempotency_key=decision.idempotency_key,
        )

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
