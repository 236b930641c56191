"""Metering of one AI request: admit it (estimate, price, hold) and settle it. Two ledger commands, no network.

What a request costs, by how it ended (docs/metering.md has the table):

* usage reported: its cost at the price of the hold, also when that exceeds the hold;
* completed or aborted without usage: the estimated input plus what was streamed, capped by the hold;
* failed before or after it was sent, without usage: nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, assert_never

from hookspecs import AIRequest, Estimate, Hold, Outcome, OutcomeStatus, Refusal, Usage

from .database import Reads
from .errors import AccountInDebt, CreditsError, InsufficientCredits, OutcomeUnknown, Overloaded
from .ledger.entries import Placed, PlaceHold, ReleaseHold, Settled, SettleHold
from .ledger.ids import IdMaker, account_key, now_ms
from .ledger.work import Transaction
from .ledger.writer import LedgerWriter
from .money import credits_to_microcredits, format_credits
from .notify.outbox import put_event
from .pricing.estimate import estimate
from .pricing.price import Price
from .pricing.price_book import PriceBook
from .pricing.tokens import count_text_tokens
from .pricing.versions import ensure_version, load_version
from .settings import Settings

logger = logging.getLogger(__name__)

_SETTLE_RETRIES: Final = 8
_FIRST_PAUSE_S: Final = 0.05


class RequestRefused(CreditsError):
    """``async with credits.metered(request)`` was refused; ``refusal`` says why. The request was not sent."""

    code = "request_refused"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message, refusal_code=refusal.code)
        self.refusal = refusal


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
        except (InsufficientCredits, AccountInDebt) as error:
            return self._refuse(error)
        except CreditsError as error:
            logger.info("refused a request of model %.80r: %s", request.model, error.code)
            return Refusal(code=error.code, message=error.message)
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

    async def _estimate(self, request: AIRequest) -> tuple[Estimate, Price]:
        price = self.price_book.price_for(request.model, request.provider, at_ms=now_ms())
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

    async def _settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        usage = await self._usage_to_charge(hold, outcome)
        account_id = account_key(hold.account_id)
        if usage is None:
            await self._persist(ReleaseHold(account_id, hold.hold_id, now_ms()))
            return None
        price = await self.versions.price_of(hold.price_version)
        cost = price.cost_microcredits(usage)
        if outcome.usage is None:
            cost = min(cost, hold.amount_microcredits)
        settled = await self._persist(SettleHold(account_id, hold.hold_id, cost, now_ms(), usage))
        assert isinstance(settled, Settled)  # noqa: S101 - narrows what the writer answers to a SettleHold
        self._note_low_balance(account_id, settled)
        return settled

    async def _usage_to_charge(self, hold: Hold, outcome: Outcome) -> Usage | None:
        if outcome.usage is not None:
            return outcome.usage
        match outcome.status:
            case OutcomeStatus.FAILED_BEFORE_SEND | OutcomeStatus.FAILED_AFTER_SEND:
                return None
            case OutcomeStatus.COMPLETED | OutcomeStatus.ABORTED:
                streamed = count_text_tokens(outcome.streamed_text, hold.estimate.model) if outcome.streamed_text else 0
                return Usage(input=hold.estimate.input_tokens, output=min(streamed, hold.estimate.max_output_tokens))
            case _:
                assert_never(outcome.status)

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

    def _refuse(self, error: InsufficientCredits | AccountInDebt) -> Refusal:
        if isinstance(error, AccountInDebt):
            message = "Your balance is below zero. Buy credits to go on."
        else:
            needed, available = format_credits(error.needed), format_credits(max(error.available, 0))
            message = (
                f"This request may need up to {needed} credits; you have {available} available. Buy credits to go on."
            )
        return Refusal(
            code=error.code,
            message=message,
            needed_microcredits=error.needed,
            available_microcredits=error.available,
            purchase_url=self.settings.purchase_url,
        )


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("a low-balance event could not be stored: %s", task.exception())


class PriceVersions:
    """Which version each price has in this database. Remembers what it has seen; there are few."""

    def __init__(self, writer: LedgerWriter, reads: Reads) -> None:
        self._writer = writer
        self._reads = reads
        self._ids: dict[str, int] = {}
        self._prices: dict[int, Price] = {}

    async def id_of(self, price: Price) -> int:
        """Return the version to stamp on a hold, storing the price when it is first used."""
        known = self._ids.get(price.digest())
        if known is not None:
            return known
        version = await self._writer.work((), lambda tx: ensure_version(tx.database, price, at_ms=tx.at_ms))
        self._ids[price.digest()] = version
        self._prices[version] = price
        return version

    async def price_of(self, version: int) -> Price:
        """Return the price that a hold was stamped with, also when another process stamped it."""
        known = self._prices.get(version)
        if known is None:
            known = self._prices[version] = await self._reads.run(lambda database: load_version(database, version))
        return known


class MeteredCall:
    """``async with credits.metered(request) as call``: the hold is placed on entry and ended on exit, whatever happens.

    Report what the provider said with :meth:`report`, and the text of a stream with :meth:`add_streamed_text`, so that
    an abandoned stream is charged for what it delivered.

    Raises:
        RequestRefused: on entry, when the request must not be sent.
    """

    def __init__(
        self,
        request: AIRequest,
        *,
        admit: Callable[[AIRequest], Awaitable[Hold | Refusal]],
        settle: Callable[[AIRequest, Hold, Outcome], Awaitable[None]],
    ) -> None:
        self.request = request
        self._admit = admit
        self._settle = settle
        self._hold: Hold | None = None
        self._usage: Usage | None = None
        self._text: list[str] = []

    @property
    def hold(self) -> Hold:
        """The hold of this call; its estimate has the ``max_output_tokens`` to send to the provider."""
        assert self._hold is not None, "the call was not entered"  # noqa: S101 - misuse, not input
        return self._hold

    def report(self, usage: Usage) -> None:
        """Report the provider's usage; the last report counts."""
        self._usage = usage

    def add_streamed_text(self, text: str) -> None:
        """Add a piece of text that the provider has delivered."""
        self._text.append(text)

    async def __aenter__(self) -> Self:
        answer = await self._admit(self.request)
        if isinstance(answer, Refusal):
            raise RequestRefused(answer)
        self._hold = answer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            status = OutcomeStatus.COMPLETED
        elif issubclass(kind, asyncio.CancelledError | GeneratorExit):
            status = OutcomeStatus.ABORTED
        else:
            status = OutcomeStatus.FAILED_AFTER_SEND
        outcome = Outcome(status, self._usage, "".join(self._text), kind.__name__ if kind else None)
        await self._settle(self.request, self.hold, outcome)
