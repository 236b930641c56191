"""The gate for one AI request: admit it (estimate, price, hold) and settle it. Two ledger commands, no network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from hookspecs import AIRequest, Estimate, Hold, Outcome, Refusal

from ..database import Reads
from ..errors import AccountInDebt, CreditsError, InsufficientCredits, OutcomeUnknown, Overloaded
from ..ledger.entries import Placed, PlaceHold, ReleaseHold, Settled, SettleHold
from ..ledger.ids import IdMaker, account_key, now_ms
from ..ledger.work import Transaction
from ..ledger.writer import LedgerWriter
from ..money import credits_to_microcredits
from ..notify.outbox import put_event
from ..pricing.estimate import estimate
from ..pricing.price import Price
from ..pricing.price_book import PriceBook
from ..settings import Settings
from .outcomes import is_measured, usage_to_charge
from .price_versions import PriceVersions
from .refusals import refusal_of

logger = logging.getLogger(__name__)

_SETTLE_RETRIES: Final = 8
_FIRST_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Metering:
    """The gate. ``override`` asks the host's ``estimate_ai_request`` hooks; None means the built-in estimate."""

    settings: Settings
    writer: LedgerWriter
    reads: Reads
    price_book: PriceBook
    new_id: IdMaker
    versions: PriceVersions
    override: Callable[[AIRequest], Awaitable[Estimate | None]] | None = None

    async def estimate(self, request: AIRequest) -> Estimate:
        """Return an upper bound of what the request can cost.

        Raises:
            UnknownModel: no price is known.
            InvalidValue: a limit or an account id that cannot be.
        """
        return (await self._estimate(request))[0]

    async def admit(self, request: AIRequest) -> Hold | Refusal:
        """Place a hold for the request, or say why not. Never raises for what a request can contain."""
        try:
            account_id = account_key(request.account_id)
            bound, price = await self._estimate(request)
            placed = await self._place(request, account_id, bound, await self.versions.id_of(price))
        except CreditsError as error:
            return self._refuse(request, error)
        return Hold(
            hold_id=placed.hold_id,
            account_id=request.account_id,
            amount_microcredits=placed.amount,
            estimate=bound,
            price_version=placed.price_version,
            expires_at_ms=placed.expires_at_ms,
            request_id=request.request_id,
            run_id=request.run_id,
        )

    async def settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        """End the hold by the documented rule; returns what was charged, or None where nothing was.

        Retries while the database fails; a caller that is cancelled does not stop it. If this process dies first, the
        hold expires, and a later settle still charges exactly once.
        """
        return await asyncio.shield(asyncio.ensure_future(self._settle(hold, outcome)))

    def price_of(self, request: AIRequest) -> Price:
        """Return the price that a request made now is charged at.

        Raises:
            UnknownModel: no price is known.
        """
        at_ms, payer = now_ms(), request.account_id
        return self.price_book.price_for(request.model, request.provider, at_ms=at_ms, account_id=payer)

    async def _estimate(self, request: AIRequest) -> tuple[Estimate, Price]:
        price = self.price_of(request)
        given = await self.override(request) if self.override is not None else None
        default = self.settings.default_max_output_tokens
        return given or estimate(request, price, default_max_output_tokens=default), price

    async def _place(self, request: AIRequest, account_id: int, bound: Estimate, version: int) -> Placed:
        now = now_ms()
        command = PlaceHold(
            account_id,
            request.account_id,
            self.new_id(),
            bound.cost_microcredits,
            now,
            now + self.settings.hold_ttl_s * 1_000,
            version,
            bound.input_tokens,
            request.request_id or None,
            request.run_id or None,
        )
        answer = self.writer.execute(command)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(self._release_unwanted)
            raise

    def _release_unwanted(self, answer: asyncio.Future[Placed]) -> None:
        """Give back a hold whose caller was cancelled while it was being placed: nobody else knows of it."""
        if answer.cancelled() or answer.exception() is not None or answer.result().repeated:
            return
        placed = answer.result()
        release = self.writer.execute(ReleaseHold(placed.account_id, placed.hold_id, now_ms()))
        release.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _refuse(self, request: AIRequest, error: CreditsError) -> Refusal:
        if not isinstance(error, InsufficientCredits | AccountInDebt):
            logger.info("refused a request of model %.80r: %s", request.model, error.code)
        return refusal_of(error, purchase_url=self.settings.purchase_url)

    async def _settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        usage = usage_to_charge(hold, outcome)
        account_id = account_key(hold.account_id)
        if usage is None:
            await self._persist(ReleaseHold(account_id, hold.hold_id, now_ms()))
            return None
        price = await self.versions.price_of(hold.price_version)
        cost = price.cost_microcredits(usage)
        if not is_measured(outcome.usage):
            cost = min(cost, hold.amount_microcredits)
        settled = await self._persist(SettleHold(account_id, hold.hold_id, cost, now_ms(), usage))
        assert isinstance(settled, Settled)  # noqa: S101 - narrows what the writer answers to a SettleHold
        self._note_low_balance(account_id, settled)
        return settled

    async def _persist(self, command: SettleHold | ReleaseHold) -> object:
        for attempt in range(_SETTLE_RETRIES):
            try:
                return await self.writer.execute(command)
            except (Overloaded, OutcomeUnknown) as error:
                logger.warning("settling hold %s failed (%s); trying again", command.hold_id, error.code)
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
        return await self.writer.execute(command)

    def _note_low_balance(self, account_id: int, settled: Settled) -> None:
        """Tell the host once, when a settle takes the balance below the threshold."""
        threshold = credits_to_microcredits(self.settings.low_balance_credits)
        if settled.repeated or not settled.balance < threshold <= settled.balance + settled.amount:
            return
        data = {"balance_microcredits": settled.balance, "threshold_microcredits": threshold}

        def store(tx: Transaction) -> None:
            put_event(tx, account_id=account_id, kind="low_balance", data=data)

        noted = asyncio.ensure_future(self.writer.work([account_id], store))
        noted.add_done_callback(_log_failure)


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("a low-balance event could not be stored: %s", task.exception())
