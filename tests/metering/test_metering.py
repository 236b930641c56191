"""One AI request: estimated, held, settled by the documented rule, on both databases."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from metering_seed import PRICES, admitted, balance, give
from peewee import OperationalError

from credits_plugin import AIRequest, Estimate, Hold, Outcome, OutcomeStatus, Refusal, Settings, Usage
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import HoldEnded
from credits_plugin.ledger.audit import audit
from credits_plugin.metering import RequestRefused

ANNA = "anna"
START = 10_000_000


def ask(text: str = "hello", *, model: str = "toy", **more) -> AIRequest:
    return AIRequest(ANNA, model, [{"role": "user", "content": text}], max_output_tokens=100, **more)


async def test_a_request_is_held_at_its_estimate_and_settled_at_its_cost(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    assert hold.amount_microcredits == hold.estimate.cost_microcredits
    assert hold.estimate.cost_microcredits == hold.estimate.input_tokens * 115 + 100 * 230
    assert balance(service, ANNA) == (START, hold.amount_microcredits)

    settled = await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10, cache_read=20, output=7)))

    assert settled.amount == (10 * 100 + 20 * 10 + 7 * 200) * 115 // 100 == 2_990
    assert balance(service, ANNA) == (START - settled.amount, 0)
    assert audit(service.database).clean


async def test_without_credits_the_refusal_carries_figures_and_the_link(service: Credits):
    refusal = await service.admit(ask())
    assert isinstance(refusal, Refusal)
    assert refusal.code == "insufficient_credits"
    assert refusal.needed_microcredits > 0
    assert refusal.available_microcredits == 0
    assert refusal.purchase_url == service.settings.purchase_url


async def test_a_model_without_a_price_is_refused(service: Credits):
    await give(service, ANNA, START)
    refusal = await service.admit(ask(model="no-such-model-anywhere"))
    assert (refusal.code, balance(service, ANNA)[1]) == ("unknown_model", 0)


@pytest.mark.parametrize("account_id", ["", "a\x00b", "x" * 300, "a\ud800", None, 7, ["anna"]])
async def test_an_account_id_that_cannot_be_is_refused_by_value(service: Credits, account_id: str):
    refusal = await service.admit(AIRequest(account_id, "toy"))
    assert refusal.code == "invalid_value"


@pytest.mark.parametrize("name", ["request_id", "run_id", "key_id", "member_id"])
@pytest.mark.parametrize("value", ["a\x00b", "x" * 256, "a\ud800", 7, ["run"]])
async def test_a_name_that_no_database_can_keep_is_refused_by_value(service: Credits, name: str, value: object):
    await give(service, ANNA, START)
    refusal = await service.admit(ask(**{name: value}))
    assert (refusal.code, balance(service, ANNA)[1]) == ("invalid_value", 0)
    assert name in refusal.message


async def test_names_that_look_alike_are_different_accounts(service: Credits):
    await give(service, "Zo\u00eb", START)
    assert isinstance(await service.admit(AIRequest("Zo\u00eb", "toy", max_output_tokens=5)), Hold)
    assert isinstance(await service.admit(AIRequest("Zoe\u0308", "toy", max_output_tokens=5)), Refusal)


@pytest.mark.parametrize("status", [OutcomeStatus.FAILED_BEFORE_SEND, OutcomeStatus.FAILED_AFTER_SEND])
async def test_a_request_that_failed_without_usage_costs_nothing(service: Credits, status: OutcomeStatus):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    assert await service.settle(hold, Outcome(status)) is None
    assert balance(service, ANNA) == (START, 0)


async def test_a_failure_after_usage_was_reported_is_charged(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    settled = await service.settle(hold, Outcome(OutcomeStatus.FAILED_AFTER_SEND, Usage(input=10)))
    assert settled.amount == 1_150


@pytest.mark.parametrize("status", [OutcomeStatus.ABORTED, OutcomeStatus.COMPLETED])
async def test_without_usage_the_estimated_input_and_what_was_streamed_is_charged(
    service: Credits, status: OutcomeStatus
):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    settled = await service.settle(hold, Outcome(status, streamed_text="one two three"))
    only_input = hold.estimate.input_tokens * 115
    assert only_input < settled.amount < hold.amount_microcredits
    assert (settled.amount - only_input) % 230 == 0


async def test_what_was_streamed_never_costs_more_than_the_hold(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    settled = await service.settle(hold, Outcome(OutcomeStatus.ABORTED, streamed_text="word " * 10_000))
    assert settled.amount == hold.amount_microcredits


async def test_usage_above_the_hold_is_charged_and_may_leave_a_debt_that_blocks(service: Credits):
    hold_for = ask()
    cost = (await service.estimate(hold_for)).cost_microcredits
    await give(service, ANNA, cost)
    hold = await admitted(service, hold_for)
    await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(output=1_000)))
    assert balance(service, ANNA) == (cost - 230_000, 0)
    assert (await service.admit(hold_for)).code == "account_in_debt"
    assert audit(service.database).clean


async def test_the_price_at_the_hold_is_charged_although_it_changed_in_flight(service: Credits, database_url: str):
    from credits_plugin import Settings

    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    dearer = build(Settings(database_url=database_url, prices={"toy": {"input": "100", "output": "200"}}))
    settled = await dearer.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10)))
    assert settled.amount == 1_150
    await dearer.close()


async def test_the_same_request_id_places_one_hold_and_is_charged_once(service: Credits):
    await give(service, ANNA, START)
    first, second = await asyncio.gather(
        admitted(service, ask(request_id="r-1")), admitted(service, ask(request_id="r-1"))
    )
    assert first.hold_id == second.hold_id
    assert sorted((first.is_repeated, second.is_repeated)) == [False, True]
    done = Outcome(OutcomeStatus.COMPLETED, Usage(input=10))
    settled = await asyncio.gather(service.settle(first, done), service.settle(second, done))
    assert sorted(one.repeated for one in settled) == [False, True]
    assert balance(service, ANNA) == (START - 1_150, 0)
    assert (await service.admit(ask(request_id="r-1"))).code == "request_id_reused"


async def test_a_metered_call_is_refused_while_another_host_makes_the_one_of_its_id(service: Credits):
    await give(service, ANNA, START)
    other = build(service.settings)
    async with service.metered(ask(request_id="r-2")) as call:
        for twin in (service, other):
            entering = twin.metered(ask(request_id="r-2")).__aenter__()
            elsewhere = contextvars.Context()  # here it would be a layer of the call under way
            with pytest.raises(RequestRefused) as refused:
                await asyncio.create_task(entering, context=elsewhere)
            assert refused.value.refusal.code == "request_under_way"
        call.report(Usage(input=10))
    assert balance(service, ANNA) == (START - 1_150, 0)
    await other.close()


async def test_two_hundred_concurrent_requests_on_credits_for_twenty_place_twenty(service: Credits):
    cost = (await service.estimate(ask())).cost_microcredits
    await give(service, ANNA, cost * 20)
    answers = await asyncio.gather(*(service.admit(ask()) for _ in range(200)))
    assert sum(isinstance(answer, Hold) for answer in answers) == 20
    assert balance(service, ANNA) == (cost * 20, cost * 20)


async def test_a_caller_cancelled_while_its_hold_is_placed_leaves_no_hold(service: Credits):
    await give(service, ANNA, START)
    await admitted(service, ask())  # the price version is stored by now
    held_before = balance(service, ANNA)[1]
    for pause in (0, 0, 0.0005, 0.001, 0.002):
        task = asyncio.create_task(service.admit(ask()))
        await asyncio.sleep(pause)
        task.cancel()
        try:
            hold = await task
        except asyncio.CancelledError:
            continue
        await service.settle(hold, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))
    await asyncio.sleep(0.1)
    assert balance(service, ANNA) == (START, held_before)


async def test_a_caller_cancelled_while_settling_is_charged_all_the_same(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    task = asyncio.create_task(service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert balance(service, ANNA) == (START - 1_150, 0)


async def test_a_metered_call_settles_what_it_reported(service: Credits):
    await give(service, ANNA, START)
    async with service.metered(ask()) as call:
        assert balance(service, ANNA)[1] == call.hold.amount_microcredits
        call.report(Usage(input=10))
    assert balance(service, ANNA) == (START - 1_150, 0)


async def test_a_metered_call_that_is_refused_never_runs(service: Credits):
    with pytest.raises(RequestRefused) as refused:
        async with service.metered(ask()):
            os.kill(os.getpid(), signal.SIGABRT)  # nothing that could be mistaken for success
    assert refused.value.refusal.code == "insufficient_credits"


async def test_a_metered_call_that_raises_is_released_and_the_error_passes(service: Credits):
    await give(service, ANNA, START)
    with pytest.raises(ZeroDivisionError):
        async with service.metered(ask()):
            raise ZeroDivisionError
    assert balance(service, ANNA) == (START, 0)


async def test_a_metered_call_cancelled_in_mid_stream_pays_for_what_it_got(service: Credits):
    await give(service, ANNA, START)
    streaming = asyncio.Event()

    async def stream() -> None:
        async with service.metered(ask()) as call:
            call.add_streamed_text("one two three ")
            streaming.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(stream())
    await streaming.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left, held = balance(service, ANNA)
    assert held == 0
    assert 0 < START - left < 100_000


async def test_an_unsettled_hold_expires_and_a_late_settle_is_charged_once(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    await service.start()
    async with asyncio.timeout(10):
        while balance(service, ANNA)[1]:
            await asyncio.sleep(0.05)
    assert balance(service, ANNA) == (START, 0)
    done = Outcome(OutcomeStatus.COMPLETED, Usage(input=10))
    assert not (await service.settle(hold, done)).repeated
    assert (await service.settle(hold, done)).repeated
    assert balance(service, ANNA) == (START - 1_150, 0)


async def test_settling_after_a_release_is_refused(service: Credits):
    await give(service, ANNA, START)
    hold = await admitted(service, ask())
    await service.settle(hold, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))
    with pytest.raises(HoldEnded):
        await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=1)))


async def test_an_estimate_is_an_upper_bound_with_the_markup(service: Credits):
    estimate = await service.estimate(ask("word " * 200))
    assert isinstance(estimate, Estimate)
    assert estimate.input_tokens >= 200
    assert estimate.max_output_tokens == 100


async def test_a_free_model_serves_who_never_bought_anything(database_url: str):
    service = build(Settings(database_url=database_url, prices={"free": {"input": "0", "output": "0"}}))
    request = AIRequest("newcomer", "free", [{"role": "user", "content": "hi"}], max_output_tokens=10)
    async with service.metered(request) as call:
        call.report(Usage(input=10, output=5))
    assert balance(service, "newcomer") == (0, 0)
    assert audit(service.database).clean
    await service.close()


async def test_usage_too_large_to_be_stored_counts_as_none_reported(service: Credits):
    await give(service, ANNA, START)
    hold = await service.admit(ask())
    absurd = Outcome(OutcomeStatus.COMPLETED, Usage(input=10**30, output=1), streamed_text="one two three")
    settled = await service.settle(hold, absurd)
    assert 0 < settled.amount <= hold.amount_microcredits
    assert balance(service, ANNA) == (START - settled.amount, 0)


async def test_a_failed_call_with_usage_too_large_to_be_stored_is_released(service: Credits):
    await give(service, ANNA, START)
    hold = await service.admit(ask())
    assert await service.settle(hold, Outcome(OutcomeStatus.FAILED_AFTER_SEND, Usage(input=10**30))) is None
    assert balance(service, ANNA) == (START, 0)


class Flawed:
    """The lock between processes, as if the system had no file handle left for it the first few times."""

    def __init__(self, turn: Any, times: int) -> None:
        self._turn, self._times = turn, times

    def __enter__(self) -> None:
        self._times -= 1
        if self._times >= 0:
            raise OSError(24, "Too many open files")
        self._turn.__enter__()

    def __exit__(self, *error: object) -> None:
        self._turn.__exit__(*error)

    def close(self) -> None:
        self._turn.close()


async def test_a_settle_that_the_database_refuses_for_a_moment_is_tried_again(tmp_path: Path):
    service = build(Settings(database_url=f"sqlite:///{tmp_path / 'c.db'}", prices=PRICES))
    await give(service, ANNA, START)
    hold = await service.admit(ask())
    service.writer._turn = Flawed(service.writer._turn, 2)
    settled = await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10)))
    assert (settled.amount, balance(service, ANNA)) == (1_150, (START - 1_150, 0))
    await service.close()


async def test_a_refusal_tells_a_payer_nothing_of_the_database(tmp_path: Path):
    service = build(Settings(database_url=f"sqlite:///{tmp_path / 'c.db'}", prices=PRICES))
    await give(service, ANNA, START)
    service.writer._turn = Flawed(service.writer._turn, 99)
    refusal = await service.admit(ask())
    assert (refusal.code, refusal.message) == (
        "database_error",
        "The service cannot reach its database. Try again in a moment.",
    )
    await service.close()


async def test_a_cancelled_caller_whose_hold_was_placed_twice_over_leaves_no_hold(
    service: Credits, monkeypatch: pytest.MonkeyPatch
):
    """The commit's answer was lost: the writer's second try finds the hold, which is this caller's all the same."""
    await give(service, ANNA, START)
    await service.settle(
        await admitted(service, ask()), Outcome(OutcomeStatus.FAILED_BEFORE_SEND)
    )  # the price is known now
    real, lost = service.writer._store.batch, iter([True])
    is_committed, is_cancelled = threading.Event(), threading.Event()

    @contextmanager
    def batch_whose_answer_is_lost():
        with real():
            yield
        if next(lost, False):
            is_committed.set()
            is_cancelled.wait(10)
            raise OperationalError("connection lost after the commit")

    monkeypatch.setattr(service.writer._store, "batch", batch_whose_answer_is_lost)
    admission = asyncio.create_task(service.admit(ask()))
    assert await asyncio.to_thread(is_committed.wait, 10)
    admission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admission
    assert balance(service, ANNA)[1] > 0
    is_cancelled.set()
    async with asyncio.timeout(0.8):  # a hold lives a second here
        while balance(service, ANNA) != (START, 0):
            await asyncio.sleep(0.01)
