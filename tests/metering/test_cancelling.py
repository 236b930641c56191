"""A caller that is cancelled at any await of a metered call: no hold is lost, nothing is charged twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from metering_seed import PRICES, balance, give

from credits_plugin import AIRequest, Outcome, OutcomeStatus, RequestRefused, Settings, Usage
from credits_plugin.bootstrap import Credits, build
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key

START = 10_000_000
ASKED = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=10_000, can_extend=True)
WORDS = "some more words that are delivered "
INPUT = 115
ALL_OF_IT = 40


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Credits]:
    built = build(Settings(database_url=database_url, prices=PRICES))
    await give(built, "anna", START)
    yield built
    assert audit(built.database).clean
    await built.close()


class CancelledAt:
    """Awaits ``work``, and has the task cancelled when it waits for the n-th time. ``waits`` counts them."""

    def __init__(self, work: Coroutine[Any, Any, Any], *, at: int, late: bool) -> None:
        self._work, self._at, self._late = work, at, late
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        resume = partial(self._work.send, None)
        while True:
            try:
                waited_for = resume()
            except StopIteration as done:
                return done.value
            self.waits += 1
            if self.waits == self._at:
                self._cancel(waited_for)
            try:
                resume = partial(self._work.send, (yield waited_for))
            except BaseException as error:  # noqa: BLE001 - handed on to the work
                resume = partial(self._work.throw, error)

    def _cancel(self, waited_for: asyncio.Future[Any] | None) -> None:
        task = asyncio.current_task()
        if self._late and waited_for is not None:  # the answer is there, and not yet heard
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


async def run_cancelled(make: Awaitable[Any]) -> bool:
    """Whether it was cancelled."""
    try:
        await make
    except asyncio.CancelledError:
        return True
    return False


async def settled_books(service: Credits) -> tuple[int, int]:
    """The balance and what is held, once nothing is under way any more."""
    for _ in range(3):  # a hold that is being placed, and its release, come before what is queued now
        await service.writer.work((), lambda tx: None)
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while balance(service, "anna")[1]:
            await asyncio.sleep(0.002)
    return balance(service, "anna")


def transfers(service: Credits) -> list[int]:
    sql = "SELECT amount FROM transfer WHERE code = 2 ORDER BY id"
    return [row[0] for row in service.reads.run_sync(lambda db: db.execute_sql(sql).fetchall())]


async def whole_call(service: Credits, *, fails: bool = False) -> None:
    async with service.metered(ASKED) as call:
        for _ in range(60):
            assert await call.deliver(WORDS)
        if fails:
            raise TimeoutError
        call.report(Usage(input=10, output=100))


@pytest.mark.parametrize("late", [False, True], ids=["at the await", "as its answer comes"])
async def test_a_metered_call_cancelled_at_any_await_leaves_no_hold_and_at_most_one_charge(
    service: Credits, late: bool
):
    for _ in range(60):
        service.metering.observations.note_settled(
            account_key("anna"), "toy", held=1_000, cost=500, output=20, hidden=0
        )
    charged, cancelled = 0, 0
    for at in range(1, ALL_OF_IT):
        before = balance(service, "anna")[0]
        call = CancelledAt(whole_call(service), at=at, late=late)
        cancelled += await run_cancelled(asyncio.create_task(_waited(call)))
        after, held = await settled_books(service)
        assert held == 0, at
        new = transfers(service)[charged:]
        assert len(new) <= 1, at
        assert before - after == sum(new), at
        charged += len(new)
        if call.waits < at:
            break
    else:
        raise AssertionError("the call waits more often than was tried")
    assert cancelled >= at // 2 >= 2
    assert charged >= 2


async def test_a_call_that_fails_and_is_cancelled_while_it_is_released_is_released(service: Credits):
    async def fail() -> None:
        with pytest.raises(TimeoutError):
            await whole_call(service, fails=True)

    for at in range(1, ALL_OF_IT):
        call = CancelledAt(fail(), at=at, late=False)
        await run_cancelled(asyncio.create_task(_waited(call)))
        await settled_books(service)
        if call.waits < at:
            break
    assert all(amount >= INPUT for amount in transfers(service))


@pytest.mark.parametrize("late", [False, True], ids=["at the await", "as its answer comes"])
async def test_admit_and_settle_cancelled_at_any_await_converge(service: Credits, late: bool):
    done = Outcome(OutcomeStatus.COMPLETED, Usage(input=10))
    settles = 0
    for at in range(1, ALL_OF_IT):
        admit = CancelledAt(service.admit(ASKED), at=at, late=late)
        task = asyncio.create_task(_waited(admit))
        if await run_cancelled(task):
            assert (await settled_books(service))[1] == 0, at
            continue
        settle = CancelledAt(service.settle(task.result(), done), at=at, late=late)
        await run_cancelled(asyncio.create_task(_waited(settle)))
        settles += 1
        async with asyncio.timeout(10):
            while len(transfers(service)) < settles:
                await asyncio.sleep(0.002)
        repeated = await service.settle(task.result(), done)
        assert (repeated.repeated, len(transfers(service))) == (True, settles)
        if settle.waits < at and admit.waits < at:
            break
    assert await settled_books(service) == (START - settles * 1_150, 0)


async def _waited(work: CancelledAt) -> Any:
    return await work


async def test_a_hold_of_another_host_is_settled_although_the_caller_is_cancelled(service: Credits, database_url: str):
    for at in range(1, ALL_OF_IT):
        hold = await service.admit(ASKED)
        other = build(Settings(database_url=database_url, prices=PRICES))  # it must read the price first
        settle = CancelledAt(other.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10))), at=at, late=False)
        await run_cancelled(asyncio.create_task(_waited(settle)))
        assert await settled_books(service) == (START - at * 1_150, 0)
        await other.close()
        if settle.waits < at:
            break


async def test_a_caller_cancelled_while_refused_leaves_nothing(service: Credits):
    for at in range(1, 5):
        poor = CancelledAt(service.metered(replace(ASKED, account_id="bob")).__aenter__(), at=at, late=False)
        with suppress(asyncio.CancelledError, RequestRefused):
            await asyncio.create_task(_waited(poor))
    assert service.reads.run_sync(lambda db: db.execute_sql("SELECT count(*) FROM hold").fetchone()) == (0,)
