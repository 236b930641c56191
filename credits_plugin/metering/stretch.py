"""Keeps a hold ahead of its stream: raised in steps, renewed before it expires, one command in flight at a time."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Final, Protocol, Self

from hookspecs import Hold

from ..errors import CreditsError, HoldEnded, UnknownHold
from ..ledger.ids import now_ms
from ..pricing.estimate import affordable_output
from ..pricing.price import Price
from .gate import Metering
from .observations import Event
from .streamed import StreamedText

logger = logging.getLogger(__name__)

STEP_TOKENS: Final = 256
"""The hold is raised once less than this is left of it, by twice as much."""


class Need(Enum):
    """What a stream needs of its hold before it goes on."""

    NOTHING = auto()
    SOON = auto()
    NOW = auto()


class Holder(Protocol):
    """Who has the hold: it is replaced as it grows."""

    hold: Hold | None


class Stretch:
    """The reach of one hold while its stream runs; ``is_under_way`` while a command that nobody waits for is."""

    def __init__(self, holder: Holder, metering: Metering, price: Price) -> None:
        self._holder = holder
        self._metering = metering
        self._price = price
        self._renew_ms = metering.settings.hold_ttl_s * 1_000 // 2
        self._covered = self._covered_by(self._hold)
        self._ahead: asyncio.Task[None] | None = None
        self.is_under_way = False
        self._was_raised = False
        self._is_exhausted = False
        self._is_over = False

    @classmethod
    async def of(cls, holder: Holder, metering: Metering) -> Self:
        """Return the reach of the hold that ``holder`` has."""
        assert holder.hold is not None, "the call was not entered"  # noqa: S101 - misuse, not input
        return cls(holder, metering, await metering.versions.price_of(holder.hold.price_version))

    @property
    def _hold(self) -> Hold:
        hold = self._holder.hold
        assert hold is not None  # noqa: S101 - made for a call that has one
        return hold

    def need(self, text: StreamedText) -> Need:
        """Say what the stream needs, having delivered ``text``. Takes a microsecond while the hold reaches far."""
        if self._is_over:
            return Need.NOW
        hold = self._hold
        if self._covered < hold.estimate.max_output_tokens:
            tokens = text.tokens_at_most(self._covered - STEP_TOKENS, hold.estimate.model)
            if tokens > self._covered:
                return Need.NOW
            if tokens > self._covered - STEP_TOKENS and not self._is_exhausted and not self.is_under_way:
                return Need.SOON
        is_old = now_ms() > hold.expires_at_ms - self._renew_ms
        return Need.SOON if is_old and not self.is_under_way else Need.NOTHING

    def go_ahead(self, text: StreamedText) -> None:
        """Begin to extend in the running event loop, without waiting."""
        if not self.is_under_way:
            self.is_under_way = True
            self._ahead = asyncio.ensure_future(self._raise(text))

    async def reach(self, text: StreamedText) -> bool:
        """Wait until the hold covers ``text``; False where it cannot: the stream must end, now and for good."""
        if self._ahead is not None and self._ahead.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._ahead])
        if self._is_over:
            return False
        if self.need(text) is Need.NOW:
            await asyncio.shield(asyncio.ensure_future(self._raise(text)))
            self._is_over = self._is_over or self.need(text) is Need.NOW
        return not self._is_over

    async def _raise(self, text: StreamedText) -> None:
        hold = self._hold
        wanted = text.tokens_at_most(0, hold.estimate.model) + 2 * STEP_TOKENS
        wanted = min(max(wanted, self._covered), hold.estimate.max_output_tokens)
        try:
            raised = await self._metering.extend(hold, output_tokens=wanted)
        except CreditsError as error:
            logger.info("hold %s could not be extended: %s", hold.hold_id, error.code)
            self._is_exhausted = True
            self._is_over = isinstance(error, HoldEnded | UnknownHold)
        else:
            self._adopt(raised, wanted)
        finally:
            self.is_under_way = False

    def _adopt(self, raised: Hold, wanted: int) -> None:
        if raised.amount_microcredits > self._hold.amount_microcredits and not self._was_raised:
            self._was_raised = True
            self._metering.observations.note_event(self._price.model, Event.EXTENDED)
        if raised.amount_microcredits >= self._hold.amount_microcredits:  # answers may come in another order
            self._holder.hold = raised
            self._covered = self._covered_by(raised)
        self._is_exhausted = self._covered < wanted

    def _covered_by(self, hold: Hold) -> int:
        return affordable_output(hold.estimate, self._price, hold.amount_microcredits)
