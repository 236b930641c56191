"""Requests that wait for credits: woken when a unit of work has touched their account, and now and then.

A purchase that another host's webhook granted, a hold that ended and a budget that starts anew are found by looking
again every ``LOOK_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, NoReturn

from hookspecs import Refusal

from ..database import Reads
from ..errors import AccountInDebt, BudgetExceeded, CreditsError, InsufficientCredits, LedgerError, Overloaded
from ..ledger.entries import PlaceHold
from ..ledger.ids import IdMaker, account_key, now_ms
from ..ledger.queries import account_balance
from ..ledger.work import Transaction
from ..ledger.writer import LedgerWriter
from .retry_tokens import RetryClaim, RetryTokens, unknown_token

logger = logging.getLogger(__name__)

MOST_PARKED: Final = 1_000
MOST_OF_AN_ACCOUNT: Final = 20
LOOK_S: Final = 2.0
_SHORT: Final = (InsufficientCredits, AccountInDebt, BudgetExceeded)


class RetryState(NamedTuple):
    """Whether a refused request could be admitted now, and the figures of its account, in microcredits."""

    is_affordable: bool
    needed: int
    available: int


class _CouldBePlaced(LedgerError):
    """Undoes a rehearsed hold: it fitted."""


class Parking:
    """Where refused requests wait. At most ``MOST_PARKED`` at a time, and ``MOST_OF_AN_ACCOUNT`` of one account."""

    def __init__(self, tokens: RetryTokens, writer: LedgerWriter, reads: Reads, new_id: IdMaker) -> None:
        self._tokens = tokens
        self._writer = writer
        self._reads = reads
        self._new_id = new_id
        self._lock = threading.Lock()
        self._parked: dict[int, set[_Waiter]] = {}
        self._is_closed = False
        writer.after_work = self.wake

    async def wait_for(self, refusal: Refusal, *, timeout_s: float) -> bool:
        """Wait until a refused request can be afforded; False after ``timeout_s``, or where waiting does not help.

        True reserves nothing: admit the request anew. False at once where too many wait already.
        """
        if refusal.retry_token is None:
            return False
        try:
            claim = self._tokens.read(refusal.retry_token, at_ms=now_ms())
            return (await self._wait(claim, timeout_s=timeout_s)).is_affordable
        except CreditsError as error:
            logger.info("a refused request does not wait: %s", error.code)
            return False

    async def wait_with(self, token: str, *, account_id: str, timeout_s: float) -> RetryState:
        """Wait as the owner of a token asks to; answers when it can be afforded, or after ``timeout_s``.

        Raises:
            NotFound: the token is unknown, over, or another account's: all look the same.
            Overloaded: too many wait already.
        """
        claim = self._tokens.read(token, at_ms=now_ms())
        if claim.account_id != account_id:
            raise unknown_token()
        return await self._wait(claim, timeout_s=timeout_s)

    def wake(self, account_ids: Iterable[int]) -> None:
        """Let those look again who wait for these accounts; from any thread."""
        with self._lock:
            waiters = [waiter for key in account_ids for waiter in self._parked.get(key, ())]
        for waiter in waiters:
            waiter.wake()

    def close(self) -> None:
        """Let everybody go who waits, with the answer of now."""
        self._is_closed = True
        self.wake(list(self._parked))

    async def _wait(self, claim: RetryClaim, *, timeout_s: float) -> RetryState:
        until = asyncio.get_running_loop().time() + timeout_s
        with self._place_for(account_key(claim.account_id)) as waiter:
            while True:
                waiter.event.clear()
                state = await self._look(claim)
                left = until - asyncio.get_running_loop().time()
                if state.is_affordable or left <= 0 or self._is_closed:
                    return state
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waiter.event.wait(), min(left, LOOK_S))

    @contextlib.contextmanager
    def _place_for(self, key: int) -> Iterator[_Waiter]:
        waiter = _Waiter()
        with self._lock:
            mine = self._parked.get(key, set())
            if len(mine) >= MOST_OF_AN_ACCOUNT or sum(map(len, self._parked.values())) >= MOST_PARKED:
                msg = "too many refused requests wait for credits already; try again later"
                raise Overloaded(msg)
            self._parked[key] = mine | {waiter}
        try:
            yield waiter
        finally:
            with self._lock:
                left = self._parked.pop(key) - {waiter}
                if left:
                    self._parked[key] = left

    async def _look(self, claim: RetryClaim) -> RetryState:
        key = account_key(claim.account_id)
        balance = await self._reads.run(lambda database: account_balance(database, key))
        available = balance.available if balance else 0
        fits = available >= claim.needed and await self._would_be_placed(claim, key)
        return RetryState(fits, claim.needed, available)

    async def _would_be_placed(self, claim: RetryClaim, key: int) -> bool:
        """Rehearse the hold by the ledger's own rules, budgets and debts included, and undo it."""

        def rehearse(tx: Transaction) -> NoReturn:
            who = (claim.run_id, claim.key_id, claim.member_id)
            at_ms = tx.at_ms
            tx.decide(
                PlaceHold(key, claim.account_id, self._new_id(), claim.needed, at_ms, at_ms + 1, 0, 0, None, *who)
            )
            msg = "the hold would be placed"
            raise _CouldBePlaced(msg)

        try:
            await self._writer.work([key], rehearse)
        except _CouldBePlaced:
            return True
        except _SHORT:
            return False


class _Waiter:
    """One who waits, in an event loop of their own."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Let them look again; nothing where the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.event.set)
