"""A provider call that two layers meter is charged once, and no call is given away by that."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from metering_seed import PRICES, balance, give

from credits_plugin import AIRequest, RequestRefused, Settings, Usage
from credits_plugin.bootstrap import Credits, build
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key
from credits_plugin.metering import MeteredCall

START = 10_000_000
TEN = Usage(input=10)
ASKED = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=100)


@pytest.fixture
async def service(sqlite_url: str):
    built = build(Settings(database_url=sqlite_url, prices={**PRICES, "toy-dear": {"input": "10", "output": "20"}}))
    await give(built, "anna", START)
    await give(built, "bob", START)
    yield built
    assert audit(built.database).clean
    await built.close()


def charges(service: Credits, user: str = "anna") -> list[int]:
    sql = f"SELECT amount FROM transfer WHERE code = 2 AND account_id = {account_key(user)}"
    return [row[0] for row in service.reads.run_sync(lambda db: db.execute_sql(sql).fetchall())]


async def test_two_layers_of_one_call_hold_and_charge_once(service: Credits):
    async with service.metered(ASKED) as outer:
        held = balance(service, "anna")[1]
        async with service.metered(ASKED) as inner:
            assert inner.hold is outer.hold
            assert balance(service, "anna")[1] == held
            await inner.deliver("one two")
            inner.report(TEN)
        await outer.deliver("one two")
        outer.report(TEN)
    assert charges(service) == [1_150]
    assert balance(service, "anna") == (START - 1_150, 0)


async def test_the_same_prompt_written_in_parts_is_the_same(service: Credits):
    parts = replace(ASKED, messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}])
    async with service.metered(ASKED), service.metered(parts) as inner:
        inner.report(TEN)
    assert charges(service) == [1_150]


async def test_text_of_two_layers_is_not_added_up(service: Credits):
    async with service.metered(ASKED) as alone:
        await alone.deliver("one two three")
    async with service.metered(ASKED) as outer:
        async with service.metered(ASKED) as inner:
            await inner.deliver("one two three")
        await outer.deliver("one ")
        await outer.deliver("two three")
    first, second = charges(service)
    assert first == second


async def test_the_usage_of_the_layer_nearest_to_the_provider_counts(service: Credits):
    async with service.metered(ASKED) as outer:
        async with service.metered(ASKED) as inner:
            inner.report(TEN)
        outer.report(Usage(input=900))
    assert charges(service) == [1_150]


async def test_a_layer_that_reports_nothing_leaves_it_to_the_other(service: Credits):
    async with service.metered(ASKED) as outer:
        async with service.metered(ASKED) as inner:
            inner.report(Usage())
        outer.report(TEN)
    assert charges(service) == [1_150]


async def test_an_agent_run_that_is_metered_as_a_whole_still_pays_for_each_of_its_calls(service: Credits):
    async with service.metered(ASKED):
        for _ in range(3):
            async with service.metered(ASKED) as call:
                call.report(TEN)
    assert charges(service) == [1_150] * 3


async def test_calls_side_by_side_within_one_are_each_charged(service: Credits):
    async def call() -> None:
        async with service.metered(ASKED) as inner:
            await asyncio.sleep(0)
            inner.report(TEN)

    async with service.metered(ASKED):
        await asyncio.gather(*(call() for _ in range(5)))
    assert charges(service) == [1_150] * 5


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, account_id="bob"),
        replace(ASKED, key_id="another key"),
        replace(ASKED, member_id="somebody"),
        replace(ASKED, run_id="another run"),
        replace(ASKED, model="toy-dear"),
        replace(ASKED, messages=[{"role": "user", "content": "hello, and name this chat"}]),
        replace(ASKED, messages=[]),
    ],
    ids=["payer", "key", "member", "run", "price", "prompt", "no prompt"],
)
async def test_another_call_within_a_call_is_metered_by_itself(service: Credits, other: AIRequest):
    async with service.metered(ASKED) as outer:
        async with service.metered(other) as inner:
            assert inner.hold.hold_id != outer.hold.hold_id
            inner.report(TEN)
        outer.report(TEN)
    assert len(charges(service) + charges(service, "bob")) == 2


async def test_an_inner_layer_may_know_less_of_who_asks(service: Credits):
    async with service.metered(replace(ASKED, run_id="run", member_id="me")) as outer, service.metered(ASKED) as inner:
        assert inner.hold is outer.hold


async def test_two_calls_without_any_text_are_not_taken_for_one(service: Credits):
    silent = AIRequest("anna", "toy", max_output_tokens=10)
    async with service.metered(silent) as outer:
        async with service.metered(silent) as inner:
            inner.report(TEN)
        outer.report(TEN)
    assert charges(service) == [1_150, 1_150]


async def test_a_call_that_a_tool_makes_in_mid_stream_is_charged(service: Credits):
    async def tool() -> None:
        async with service.metered(ASKED) as call:
            call.report(TEN)

    async with service.metered(ASKED) as outer:
        await outer.deliver("let me look that up")
        await asyncio.create_task(tool())
        outer.report(TEN)
    assert charges(service) == [1_150, 1_150]


async def time_out(_: MeteredCall) -> None:
    raise TimeoutError


async def run(service: Credits, provider: Callable[[MeteredCall], Awaitable[None]]) -> None:
    async with service.metered(ASKED) as call:
        await provider(call)


async def test_retries_of_an_sdk_are_one_call(service: Credits):
    async with service.metered(ASKED) as outer:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await run(service, time_out)
        async with service.metered(ASKED) as attempt:
            assert attempt.hold is outer.hold
            attempt.report(TEN)
        outer.report(TEN)
    assert charges(service) == [1_150]


async def test_a_call_that_outlives_the_one_it_joined_is_charged_when_it_ends(service: Credits):
    go_on = asyncio.Event()

    async def background() -> None:
        async with service.metered(ASKED) as inner:
            await go_on.wait()
            inner.report(TEN)

    async with service.metered(ASKED):
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
    assert charges(service) == []
    assert balance(service, "anna")[1] > 0
    go_on.set()
    await task
    assert charges(service) == [1_150]
    assert balance(service, "anna")[1] == 0


async def test_three_layers_left_in_any_order_are_charged_once(service: Credits):
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        before = len(charges(service))
        calls = [service.metered(ASKED) for _ in range(3)]
        for call in calls:
            await call.__aenter__()
        assert len({call.hold.hold_id for call in calls}) == 1
        calls[2].report(TEN)
        for index in order:
            await calls[index].__aexit__(None, None, None)
        assert charges(service)[before:] == [1_150], order
        assert balance(service, "anna")[1] == 0, order


async def test_a_layer_left_with_an_error_within_an_open_one_does_not_lose_it(service: Credits):
    outer, middle, inner = (service.metered(ASKED) for _ in range(3))
    for call in (outer, middle, inner):
        await call.__aenter__()
    await middle.__aexit__(TimeoutError, TimeoutError(), None)
    inner.report(TEN)
    await inner.__aexit__(None, None, None)
    await outer.__aexit__(None, None, None)
    assert charges(service) == [1_150]


async def test_after_a_call_has_ended_the_same_prompt_is_a_new_call(service: Credits):
    for _ in range(2):
        async with service.metered(ASKED) as call:
            call.report(TEN)
    assert charges(service) == [1_150, 1_150]


async def test_a_stream_that_was_dropped_unread_does_not_swallow_the_next_call(service: Credits):
    async def stream():
        async with service.metered(ASKED) as call:
            yield "start"
            call.report(TEN)
            yield "end"

    dropped = stream()
    await anext(dropped)
    async with service.metered(ASKED) as again:
        again.report(TEN)
    await dropped.aclose()
    assert charges(service) == [1_150]  # the dropped stream had no answer, so both count as one call with a retry
    async with service.metered(ASKED) as later:
        later.report(TEN)
    assert charges(service) == [1_150, 1_150]


async def test_services_do_not_join_each_other(service: Credits, tmp_path):
    other = build(Settings(database_url=f"sqlite:///{tmp_path / 'other.db'}", prices=PRICES))
    await give(other, "anna", START)
    async with service.metered(ASKED) as outer, other.metered(ASKED) as inner:
        inner.report(TEN)
        outer.report(TEN)
    assert charges(service) == charges(other) == [1_150]
    await other.close()


async def test_a_thread_without_the_context_joins_the_call_that_it_is_given(service: Credits):
    def worker(outer, found: list[int]) -> None:
        shaped = replace(ASKED, messages=[{"role": "user", "content": "Human: hello"}])
        with service.sync.metered(shaped, within=outer) as inner:
            found.append(inner.hold.hold_id)
            inner.deliver("one two")
            inner.report(TEN)

    async with service.metered(ASKED) as outer:
        found: list[int] = []
        thread = threading.Thread(target=worker, args=(outer, found))
        thread.start()
        await asyncio.to_thread(thread.join)
    assert found == [outer.hold.hold_id]
    assert charges(service) == [1_150]


async def test_naming_the_outer_call_gives_away_neither_a_second_call_nor_a_dearer_one(service: Credits):
    async with service.metered(ASKED) as outer:
        async with service.metered(replace(ASKED, model="toy-dear"), within=outer) as dear:
            dear.report(TEN)
        async with service.metered(ASKED, within=outer) as first:
            first.report(TEN)
        async with service.metered(ASKED, within=outer) as second:
            second.report(TEN)
    async with service.metered(ASKED, within=outer) as late:
        late.report(TEN)
    assert sorted(charges(service)) == [1_150, 1_150, 1_150, 11_500]


async def test_a_refused_outer_call_lets_no_inner_one_pass(service: Credits):
    poor = replace(ASKED, account_id="carla")
    for _ in range(2):
        with pytest.raises(RequestRefused):
            await service.metered(poor).__aenter__()


async def test_what_was_never_sent_costs_nothing_although_the_block_ends_well(service: Credits):
    async with service.metered(ASKED) as outer, service.metered(ASKED) as inner:
        inner.not_sent()
    async with service.metered(ASKED) as call:
        call.not_sent()
    assert charges(service) == []
    assert balance(service, "anna") == (START, 0)
    assert outer.hold.hold_id != call.hold.hold_id


async def test_a_retry_that_was_sent_after_one_that_was_not_is_charged_when_it_is_cancelled(service: Credits):
    async def first(call: MeteredCall) -> None:
        call.not_sent()
        raise ConnectionRefusedError

    async def second(_: MeteredCall) -> None:
        raise asyncio.CancelledError

    async def retried(_: MeteredCall) -> None:
        with suppress(ConnectionRefusedError):
            await run(service, first)
        await run(service, second)

    with pytest.raises(asyncio.CancelledError):
        await run(service, retried)
    assert charges(service) == [(await service.estimate(ASKED)).input_tokens * 115]


@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError])
async def test_a_client_that_hangs_up_pays_for_what_it_got(service: Credits, error: type[Exception]):
    async def write_to_nobody(call: MeteredCall) -> None:
        await call.deliver("one two three")
        raise error

    with pytest.raises(error):
        await run(service, write_to_nobody)
    assert charges(service)[0] > (await service.estimate(ASKED)).input_tokens * 115


async def test_a_host_can_say_that_the_client_is_gone(service: Credits):
    async def stop(call: MeteredCall) -> None:
        await call.deliver("one two three")
        call.client_gone()
        raise RuntimeError("the stream is closed")

    with pytest.raises(RuntimeError):
        await run(service, stop)
    assert charges(service)[0] > (await service.estimate(ASKED)).input_tokens * 115


async def test_a_provider_that_fails_after_some_text_costs_nothing(service: Credits):
    async def fail(call: MeteredCall) -> None:
        await call.deliver("one two three")
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await run(service, fail)
    assert balance(service, "anna") == (START, 0)


async def test_a_call_that_starts_after_the_one_around_it_failed_is_metered_by_itself(service: Credits):
    go_on = asyncio.Event()

    async def background() -> None:
        await go_on.wait()
        async with service.metered(ASKED) as call:
            call.report(TEN)

    tasks = []

    async def fail(_: MeteredCall) -> None:
        tasks.append(asyncio.create_task(background()))
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await run(service, fail)
    go_on.set()
    await tasks[0]
    assert charges(service) == [1_150]


async def test_a_layer_that_is_left_after_its_call_was_settled_changes_nothing(service: Credits):
    outer, inner = service.metered(ASKED), service.metered(ASKED)
    await outer.__aenter__()
    await inner.__aenter__()
    inner.report(TEN)
    await outer.__aexit__(TimeoutError, TimeoutError(), None)
    assert charges(service) == [1_150]
    inner.report(Usage(input=999))
    await inner.__aexit__(TimeoutError, TimeoutError(), None)
    assert balance(service, "anna") == (START - 1_150, 0)


async def test_a_stream_that_goes_on_in_an_inner_layer_is_charged_for_all_of_it(service: Credits):
    outer, inner = service.metered(ASKED), service.metered(ASKED)
    await outer.__aenter__()
    await inner.__aenter__()
    await inner.deliver("one")
    await outer.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
    assert charges(service) == []
    inner.report(Usage(input=20))
    await inner.__aexit__(None, None, None)
    assert charges(service) == [2_300]
    assert balance(service, "anna")[1] == 0


async def test_a_layer_that_ended_well_without_a_word_is_no_attempt_to_be_tried_again(service: Credits):
    async with service.metered(ASKED):
        async with service.metered(ASKED):
            pass
        async with service.metered(ASKED) as second:
            second.report(TEN)
    assert len(charges(service)) == 2


async def test_a_connection_that_breaks_before_any_text_costs_nothing(service: Credits):
    async def break_off(_: MeteredCall) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await run(service, break_off)
    assert balance(service, "anna") == (START, 0)


async def test_what_was_delivered_is_charged_although_a_later_attempt_was_not_sent(service: Credits):
    async with service.metered(ASKED) as call:
        await call.deliver("one two three")
        call.not_sent()
    assert len(charges(service)) == 1


async def test_a_call_that_starts_after_its_layer_failed_is_charged_although_the_outer_call_goes_on(service: Credits):
    tasks = []

    async def background() -> None:
        async with service.metered(ASKED) as call:
            call.report(TEN)

    async def fail(_: MeteredCall) -> None:
        tasks.append(asyncio.create_task(background()))
        raise TimeoutError

    async with service.metered(ASKED) as outer:
        with pytest.raises(TimeoutError):
            await run(service, fail)
        await tasks[0]
        outer.report(Usage(input=20))
    assert sorted(charges(service)) == [1_150, 2_300]


async def test_a_layer_that_was_left_is_no_call_to_be_within(service: Credits):
    async with service.metered(ASKED) as outer:
        with pytest.raises(TimeoutError):
            await run(service, time_out)
        async with service.metered(ASKED, within=outer) as attempt:
            attempt.report(TEN)
        async with service.metered(ASKED, within=attempt) as late:
            late.report(TEN)
    assert charges(service) == [1_150, 1_150]
