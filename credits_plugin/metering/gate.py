"""The gate for one AI request: admit it (estimate, price, hold) and settle it. Two ledger commands, no network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from hookspecs import AIRequest, Estimate, Hold, Outcome, OutcomeStatus, Refusal

from ..database import Reads
from ..errors import (
    AccountInDebt,
    BudgetExceeded,
    CreditsError,
    DatabaseError,
    InsufficientCredits,
    InvalidValue,
    OutcomeUnknown,
    Overloaded,
    UnknownModel,
)
from ..ledger.entries import Extended, ExtendHold, Placed, PlaceHold, ReleaseHold, Settled, SettleHold
from ..ledger.ids import IdMaker, account_key, now_ms, require_name
from ..ledger.work import Transaction
from ..ledger.writer import LedgerWriter
from ..money import credits_to_microcredits
from ..notify.outbox import put_event
from ..pricing.estimate import bound_with_output, estimate
from ..pricing.price import Price
from ..pricing.price_book import PriceBook
from ..settings import HoldPolicy, Settings
from .observations import Event, Observations
from .outcomes import is_measured, usage_to_charge
from .price_versions import PriceVersions
from .refusals import refusal_of
from .retry_tokens import RetryTokens
from .sizing import amount_to_hold, cut_to, least_to_hold

logger = logging.getLogger(__name__)

_NAMES: Final = ("request_id", "run_id", "key_id", "member_id")
_SETTLE_RETRIES: Final = 8
_EXTEND_RETRIES: Final = 2
"""A reader waits meanwhile: a stream that cannot go on ends within a fraction of a second."""
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
    retry_tokens: RetryTokens
    override: Callable[[AIRequest], Awaitable[Estimate | None]] | None = None
    observations: Observations = field(default_factory=Observations)

    async def estimate(self, request: AIRequest) -> Estimate:
        """Return an upper bound of what the request can cost.

        Raises:
            UnknownModel: no price is known.
            InvalidValue: a limit or a name that cannot be.
        """
        _require_names(request)
        return (await self._estimate(request))[0]

    async def admit(self, request: AIRequest) -> Hold | Refusal:
        """Place a hold for the request, or say why not. Never raises for what a request can contain.

        Less than the bound is held where ``can_extend`` or the operator allow it and enough was seen; where less
        is available, as much as there is, if that is enough for the request's ``min_output_tokens``.
        """
        try:
            _require_names(request)
            account_id = account_key(request.account_id)
            bound, price = await self._estimate(request)
            amount = amount_to_hold(
                bound, price, likely_output_tokens=self._likely_output_tokens(request, account_id, price)
            )
            least = least_to_hold(request, bound, price)
            version = await self.versions.id_of(price)
            hold_id = self.new_id()
            placed = await self._place(request, account_id, bound, version, hold_id, amount=amount, least=least)
        except CreditsError as error:
            return self._refuse(request, error)
        if placed.amount < amount:
            self.observations.note_event(price.model, Event.CUT)
            bound = bound if request.can_extend else cut_to(bound, price, amount=placed.amount)
        return Hold(
            hold_id=placed.hold_id,
            account_id=request.account_id,
            amount_microcredits=placed.amount,
            estimate=bound,
            price_version=placed.price_version,
            expires_at_ms=placed.expires_at_ms,
            request_id=request.request_id,
            run_id=request.run_id,
            is_repeated=placed.hold_id != hold_id,  # the writer's own retries repeat with the same id
        )

    async def extend(self, hold: Hold, *, output_tokens: int) -> Hold:
        """Raise a hold to cover so many completion tokens, or to what is available; its end moves, too.

        Returns the hold to go on with; :meth:`affords` says how far it reaches. It is never lowered.

        Raises:
            HoldEnded: it was settled or has expired.
            CreditsError: a budget forbids it, or the database failed.
        """
        price = await self.versions.price_of(hold.price_version)
        tokens = max(min(output_tokens, hold.estimate.max_output_tokens), 0)
        amount = bound_with_output(hold.estimate, price, tokens)
        now, held = now_ms(), hold.amount_microcredits
        expires_at_ms = now + self.settings.hold_ttl_s * 1_000
        command = ExtendHold(
            account_key(hold.account_id), hold.hold_id, max(amount, held), now, expires_at_ms, least=held
        )
        raising = self._persist(command, retries=_EXTEND_RETRIES)
        raised: Extended = await asyncio.shield(asyncio.ensure_future(raising))
        return replace(hold, amount_microcredits=raised.amount, expires_at_ms=raised.expires_at_ms)

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
        if given is not None:
            return given, price
        output, calls = self.settings.default_max_output_tokens, self.settings.default_tool_calls
        return estimate(request, price, default_max_output_tokens=output, default_tool_calls=calls), price

    def _likely_output_tokens(self, request: AIRequest, account_id: int, price: Price) -> int | None:
        if not request.can_extend and self.settings.hold_policy is HoldPolicy.BOUND:
            return None
        percentile = self.settings.hold_percentile
        return self.observations.likely_output_tokens(account_id, price.model, percentile=percentile)

    async def _place(
        self,
        request: AIRequest,
        account_id: int,
        bound: Estimate,
        version: int,
        hold_id: int,
        *,
        amount: int,
        least: int | None,
    ) -> Placed:
        now = now_ms()
        command = PlaceHold(
            account_id,
            request.account_id,
            hold_id,
            amount,
            now,
            now + self.settings.hold_ttl_s * 1_000,
            version,
            bound.input_tokens,
            request.request_id or None,
            request.run_id or None,
            request.key_id or None,
            request.member_id or None,
            least,
        )
        answer = self.writer.execute(command)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            answer.add_done_callback(partial(self._release_unwanted, hold_id))
            raise

    def _release_unwanted(self, hold_id: int, answer: asyncio.Future[Placed]) -> None:
        """Give back a hold whose caller was cancelled while it was being placed: nobody else knows of it."""
        if answer.cancelled() or answer.exception() is not None or answer.result().hold_id != hold_id:
            return  # there is none, or it is an earlier request's of the same id
        placed = answer.result()
        release = self.writer.execute(ReleaseHold(placed.account_id, placed.hold_id, now_ms()))
        release.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _refuse(self, request: AIRequest, error: CreditsError) -> Refusal:
        url = self.settings.purchase_url
        if not isinstance(error, InsufficientCredits | AccountInDebt | BudgetExceeded):
            logger.info("refused a request of model %.80r: %s: %s", request.model, error.code, error.message)
            return refusal_of(error, purchase_url=url)
        with suppress(UnknownModel):  # since a moment ago
            self.observations.note_event(self.price_of(request).model, Event.REFUSED)
        token = self.retry_tokens.issue(request, needed=error.needed, at_ms=now_ms())
        return refusal_of(error, purchase_url=url, retry_token=token)

    async def _settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        usage = usage_to_charge(hold, outcome)
        account_id = account_key(hold.account_id)
        if usage is None:
            await self._persist(ReleaseHold(account_id, hold.hold_id, now_ms()))
            return None
        price = await self.versions.price_of(hold.price_version)
        try:
            cost = price.cost_microcredits(usage)
        except InvalidValue:
            if not is_measured(outcome.usage):
                raise
            logger.exception("hold %s is settled as if no usage was reported", hold.hold_id)
            return await self._settle(hold, replace(outcome, usage=None))
        if not is_measured(outcome.usage):
            cost = min(cost, hold.amount_microcredits)
        settled: Settled = await self._persist(SettleHold(account_id, hold.hold_id, cost, now_ms(), usage))
        if outcome.status is OutcomeStatus.COMPLETED and is_measured(outcome.usage) and not settled.repeated:
            held, output, hidden = hold.amount_microcredits, usage.output, usage.reasoning
            self.observations.note_settled(account_id, price.model, held=held, cost=cost, output=output, hidden=hidden)
        self._note_low_balance(account_id, settled)
        return settled

    async def _persist(self, command: SettleHold | ReleaseHold | ExtendHold, *, retries: int = _SETTLE_RETRIES) -> Any:
        for attempt in range(retries):
            try:
                return await self.writer.execute(command)
            except (DatabaseError, OutcomeUnknown, Overloaded) as error:
                logger.warning("%s of %s failed (%s); again", type(command).__name__, command.hold_id, error.code)
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


def _require_names(request: AIRequest) -> None:
    # What a database cannot keep fails there, and with it the batch of all who asked at that moment is run one by one.
    require_name(request.account_id, "an account id")
    for what in _NAMES:
        name = getattr(request, what)
        if name:
            require_name(name, what)


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("a low-balance event could not be stored: %s", task.exception())
