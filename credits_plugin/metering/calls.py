"""Metering around a call that the caller makes itself: the hold is placed on entry and ended on exit."""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Self

from peewee import PeeweeException

from hookspecs import AIRequest, Hold, Refusal, Usage

from ..errors import CreditsError
from .gate import Metering
from .layers import Layer, under_way
from .outcomes import is_measured
from .refusals import UNDER_WAY, RequestRefused
from .stretch import Need, Stretch

logger = logging.getLogger(__name__)


class Call:
    """What the async and the sync façade share: who asks, the hold, and what the provider has answered so far.

    ``within`` names the call that this one may be a layer of, where the host's threads do not carry its context;
    ``layer`` is what is known of it so far, shared with the layers that join.
    """

    def __init__(self, request: AIRequest, metering: Metering, *, within: Call | None = None) -> None:
        self.request = request
        self._metering = metering
        self._within: Layer | None = within.layer if within is not None else None
        self.layer: Layer = Layer(request, metering.price_of)
        self._token: Token[Layer | None] | None = None

    @property
    def hold(self) -> Hold:
        """The hold of this call; its estimate has the ``max_output_tokens`` to send to the provider."""
        hold = self.layer.root.hold
        assert hold is not None, "the call was not entered"  # noqa: S101 - misuse, not input
        return hold

    def report(self, usage: Usage) -> None:
        """Report the provider's usage; the last report counts. One without any token says nothing and is left out."""
        if is_measured(usage):
            self.layer.usage = usage

    def add_streamed_text(self, text: str) -> None:
        """Add a piece of text that the provider has delivered, for a stream that does not extend its hold."""
        self.layer.text.add(text)

    def not_sent(self) -> None:
        """Say that the last attempt never reached the provider, so that it costs nothing."""
        self.layer.mark_sent(sent=False)

    def client_gone(self) -> None:
        """Say that the client has gone: what was streamed is charged, whichever error ends the block."""
        self.layer.client_is_gone = True

    def _stopped_by(self, error: Exception) -> bool:
        # Raised into the host's block, it would look like a failure of the provider, and what was delivered be free.
        logger.warning("the stream of hold %s ends: %s", self.hold.hold_id, error)
        return False

    def _joins(self) -> bool:
        """Enter the block; returns whether another layer has the hold already."""
        assert self._token is None, "a call is entered once; make a new one"  # noqa: S101 - misuse, not input
        joins = self.layer.join(within=self._within)
        if joins:
            self._token = under_way.set(self.layer)
        return joins

    def _begin(self, answer: Hold | Refusal) -> None:
        if isinstance(answer, Refusal):
            raise RequestRefused(answer)
        if answer.is_repeated:
            raise RequestRefused(UNDER_WAY)
        self.layer.hold = answer
        self._token = under_way.set(self.layer)

    def _settles(self, kind: type[BaseException] | None) -> bool:
        """Leave the block; returns whether this layer settles the hold."""
        if self._token is not None:
            with suppress(ValueError):  # a generator that was dropped is closed in another context
                under_way.reset(self._token)
        return self.layer.leave(kind)


class MeteredCall(Call):
    """``async with credits.metered(request) as call``: the hold is placed on entry and ended on exit, whatever happens.

    Report what the provider said with :meth:`report`, and the text of a stream with :meth:`deliver`, so that an
    abandoned stream is charged for what it delivered.

    Raises:
        RequestRefused: on entry, when the request must not be sent.
    """

    async def deliver(self, text: str) -> bool:
        """Count a piece of streamed text, and extend the hold in time; returns whether credits are left for more.

        The piece itself is counted and may be sent on; after False, end the stream. Waits only where the hold does not
        cover what was streamed.
        """
        self.layer.text.add(text)
        try:
            return await self._reach()
        except (CreditsError, PeeweeException) as error:
            return self._stopped_by(error)

    async def _reach(self) -> bool:
        root, text = self.layer.root, self.layer.text
        if root.stretch is None:
            root.stretch = await Stretch.of(root, self._metering)
        match root.stretch.need(text):
            case Need.NOTHING:
                return True
            case Need.SOON:
                root.stretch.go_ahead(text)
                return True
            case Need.NOW:
                return await root.stretch.reach(text)

    async def __aenter__(self) -> Self:
        if not self._joins():
            self._begin(await self._metering.admit(self.request))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._settles(kind):
            await self._metering.settle(self.hold, self.layer.outcome())
