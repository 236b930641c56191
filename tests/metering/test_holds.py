"""Holds that do not starve: cut to what is available, begun by what was seen, raised while a stream runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from metering_seed import PRICES, admitted, balance, give

from credits_plugin import AIRequest, Outcome, OutcomeStatus, Refusal, Settings, Usage
from credits_plugin.__main__ import main
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import HoldEnded
from credits_plugin.jobs import Jobs
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import ExpireHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.metering import Metering
from credits_plugin.pricing.tokens import count_text_tokens
from credits_plugin.settings import HoldPolicy

ASKED = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=10_000)
LONG = replace(ASKED, stream=True, can_extend=True)
WORDS_WITHOUT_END = "some more words that are delivered " * 100
OUTPUT = 230
"""Microcredits of an output token."""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Credits]:
    built = build(Settings(database_url=database_url, prices=PRICES))
    yield built
    assert audit(built.database).clean
    await built.close()


async def bound(service: Credits, request: AIRequest = ASKED) -> int:
    return (await service.estimate(request)).cost_microcredits


def have_seen(service: Credits, *tokens: int, of: str = "anna", times: int = 100, hidden: int = 0) -> None:
    for output in tokens:
        for _ in range(times):
            service.metering.observations.note_settled(
                account_key(of), "toy", held=1_000, cost=500, output=output, hidden=hidden
            )


async def test_output_is_cut_to_what_can_be_afforded(service: Credits):
    input_cost = await bound(service) - 10_000 * OUTPUT
    await give(service, "anna", input_cost + 700 * OUTPUT + 229)
    hold = await admitted(service, replace(ASKED, min_output_tokens=500))
    assert hold.estimate.max_output_tokens == 700
    assert hold.amount_microcredits == input_cost + 700 * OUTPUT + 229
    await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(output=700)))
    assert balance(service, "anna")[0] >= 0


async def test_output_is_not_cut_below_what_the_request_needs(service: Credits):
    await give(service, "anna", await bound(service) - 10_000 * OUTPUT + 499 * OUTPUT)
    refusal = await service.admit(replace(ASKED, min_output_tokens=500))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "insufficient_credits"
    assert balance(service, "anna")[1] == 0


async def test_output_is_not_cut_where_nobody_asked_for_it(service: Credits):
    await give(service, "anna", await bound(service) - 1)
    assert isinstance(await service.admit(ASKED), Refusal)


async def test_a_stream_that_extends_keeps_its_limit_where_less_is_available_at_first(service: Credits):
    await give(service, "anna", await bound(service) - 9_000 * OUTPUT)
    hold = await admitted(service, replace(LONG, min_output_tokens=500))
    assert hold.estimate.max_output_tokens == 10_000
    assert hold.amount_microcredits == await bound(service) - 9_000 * OUTPUT


@pytest.mark.parametrize("least", [0, -1, 1.5, True])
async def test_a_least_output_that_is_none_is_refused_by_value(service: Credits, least):
    await give(service, "anna", 10_000_000)
    assert (await service.admit(replace(ASKED, min_output_tokens=least))).code == "invalid_value"


async def test_a_stream_begins_with_what_its_account_usually_needs(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, *range(100, 200))
    hold = await admitted(service, LONG)
    assert hold.estimate.max_output_tokens == 10_000
    covered = (hold.amount_microcredits - (await bound(service) - 10_000 * OUTPUT)) // OUTPUT
    assert 195 <= covered <= 195 * 5 // 4


async def test_without_the_promise_to_extend_the_whole_bound_is_held(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    assert (await admitted(service, ASKED)).amount_microcredits == await bound(service)


async def test_the_operator_may_hold_by_observation_for_all_requests(service: Credits, database_url: str):
    settings = Settings(database_url=database_url, prices=PRICES, hold_policy=HoldPolicy.OBSERVED)
    await give(service, "anna", 10_000_000)
    other = build(settings)
    have_seen(other, 100)
    hold = await admitted(other, ASKED)
    assert hold.amount_microcredits < await bound(service) // 10
    assert hold.estimate.max_output_tokens == 10_000
    await other.close()


async def test_few_observations_are_none_and_those_of_all_accounts_count_for_a_new_one(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100, times=49)
    assert (await admitted(service, LONG)).amount_microcredits == await bound(service)
    have_seen(service, 100, of="bob", times=151)
    assert (await admitted(service, LONG)).amount_microcredits < await bound(service) // 10


async def test_answers_that_grew_longer_are_noticed(service: Credits):
    have_seen(service, 100)
    assert likely(service.metering) < 200
    have_seen(service, 5_000)
    assert likely(service.metering) >= 5_000


async def test_where_answers_hide_tokens_twice_the_longest_is_held(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 50, hidden=50)
    have_seen(service, 1_000, times=1)
    hold = await admitted(service, LONG)
    covered = (hold.amount_microcredits - (await bound(service) - 10_000 * OUTPUT)) // OUTPUT
    assert 2_000 <= covered <= 2_500


async def test_where_holds_were_overrun_the_whole_bound_is_held_again(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    for _ in range(2):
        service.metering.observations.note_settled(account_key("anna"), "toy", held=100, cost=101, output=100, hidden=0)
    assert (await admitted(service, LONG)).amount_microcredits == await bound(service)


async def test_a_stream_extends_its_hold_as_it_grows_and_is_charged_for_its_text(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    async with service.metered(LONG) as call:
        first = call.hold
        for _ in range(200):
            assert await call.deliver("some more words that are delivered ")
            assert call.hold.amount_microcredits <= await bound(service)
        assert call.hold.amount_microcredits > 2 * first.amount_microcredits
        assert balance(service, "anna")[1] >= first.amount_microcredits
    text = "some more words that are delivered " * 200
    cost = first.estimate.input_tokens * 115 + count_text_tokens(text, "toy") * OUTPUT
    assert balance(service, "anna") == (10_000_000 - cost, 0)


async def test_a_stream_that_is_no_faster_than_the_ledger_never_waits_for_it(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 1_000)
    async with service.metered(LONG) as call:
        await call.deliver("x")
        first = call.hold.amount_microcredits
        for _ in range(100):
            delivered = call.deliver("some more words that are delivered ")
            with pytest.raises(StopIteration) as ended:
                delivered.send(None)
            assert ended.value.value is True
            async with asyncio.timeout(10):
                while call.layer.stretch.is_under_way:
                    await asyncio.sleep(0.001)
        assert call.hold.amount_microcredits > first


async def test_a_stream_ends_when_credits_run_out_and_costs_no_more_than_was_held(service: Credits):
    have_seen(service, 100)
    await give(service, "anna", await bound(service) - 9_000 * OUTPUT)
    pieces = 0
    async with service.metered(LONG) as call:
        while await call.deliver("some more words that are delivered "):
            pieces += 1
        assert not await call.deliver("and more")
    left, held = balance(service, "anna")
    assert (held, left >= 0) == (0, True)
    assert left < 300 * OUTPUT
    assert 20 < pieces < 200


async def test_a_stream_that_was_out_of_credits_goes_on_with_those_that_came_in_time(service: Credits):
    have_seen(service, 100)
    await give(service, "anna", await bound(service) - 9_700 * OUTPUT)
    async with service.metered(LONG) as call:
        for piece in range(100):
            if piece == 5:
                await give(service, "anna", 10_000_000)
            assert await call.deliver("some more words that are delivered ")


async def test_a_stream_in_a_thread_extends_its_hold_too(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)

    def stream() -> tuple[int, int]:
        with service.sync.metered(LONG) as call:
            first = call.hold.amount_microcredits
            for _ in range(200):
                assert call.deliver("some more words that are delivered ")
            return first, call.hold.amount_microcredits

    first, last = await asyncio.to_thread(stream)
    assert last > 2 * first
    assert balance(service, "anna")[1] == 0


async def test_the_text_of_an_inner_layer_extends_the_hold_of_the_outer_one(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    async with service.metered(LONG) as outer:
        first = outer.hold.amount_microcredits
        async with service.metered(LONG) as inner:
            for _ in range(200):
                assert await inner.deliver("some more words that are delivered ")
        assert outer.hold.amount_microcredits > 2 * first


async def test_a_stream_that_is_longer_than_a_hold_lives_keeps_its_hold(service: Credits, database_url: str):
    await give(service, "anna", 10_000_000)
    short = build(Settings(database_url=database_url, prices=PRICES, hold_ttl_s=1))
    async with short.metered(ASKED) as call:
        ends = call.hold.expires_at_ms
        while now_ms() < ends + 200:
            assert await call.deliver("word ")
            await asyncio.sleep(0.02)
        key = account_key("anna")
        assert not (await service.writer.execute(ExpireHold(key, call.hold.hold_id, now_ms()))).changed
    await short.close()


async def test_a_stream_whose_hold_has_expired_ends(service: Credits, database_url: str):
    await give(service, "anna", 10_000_000)
    short = build(Settings(database_url=database_url, prices=PRICES, hold_ttl_s=1))
    async with short.metered(ASKED) as call:
        expire = ExpireHold(account_key("anna"), call.hold.hold_id, call.hold.expires_at_ms + 1)
        assert (await service.writer.execute(expire)).changed
        while now_ms() < call.hold.expires_at_ms:
            await asyncio.sleep(0.02)
        async with asyncio.timeout(10):
            while await call.deliver("word "):
                await asyncio.sleep(0.01)
    assert balance(service, "anna")[0] < 10_000_000  # what was delivered is charged all the same
    await short.close()


async def test_a_stream_whose_service_is_gone_ends_instead_of_raising(database_url: str):
    service = build(Settings(database_url=database_url, prices=PRICES))
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    call = service.metered(LONG)
    await call.__aenter__()
    assert await call.deliver("words ")
    await service.close()
    assert not await call.deliver(WORDS_WITHOUT_END)


async def test_a_stream_in_a_thread_whose_service_is_gone_ends_too(database_url: str):
    service = build(Settings(database_url=database_url, prices=PRICES))
    await give(service, "anna", 10_000_000)
    call = service.sync.metered(LONG)
    call.__enter__()
    await service.close()
    assert not call.deliver("words ")


async def test_hosts_with_hooks_extend_a_hold_themselves(service: Credits):
    await give(service, "anna", 10_000_000)
    have_seen(service, 100)
    hold = await admitted(service, LONG)
    await asyncio.sleep(0.005)
    raised = await service.extend(hold, output_tokens=5_000)
    assert raised.expires_at_ms > hold.expires_at_ms
    assert raised.amount_microcredits == await bound(service) - 5_000 * OUTPUT
    assert (await service.extend(raised, output_tokens=10)).amount_microcredits == raised.amount_microcredits
    assert (await service.extend(raised, output_tokens=10**9)).amount_microcredits == await bound(service)
    await service.settle(raised, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))
    with pytest.raises(HoldEnded):
        await service.extend(raised, output_tokens=9_000)


def jobs_of(service: Credits) -> Jobs:
    return Jobs(
        service.settings,
        service.writer,
        service.reads,
        service.new_id,
        service.versions,
        lambda: service.hooks,
        observations=service.metering.observations,
    )


def likely(metering: Metering, of: str = "anna") -> int | None:
    return metering.observations.likely_output_tokens(account_key(of), "toy", percentile=95)


async def test_hosts_learn_what_the_others_have_seen(service: Credits, database_url: str):
    other = build(Settings(database_url=database_url, prices=PRICES))
    have_seen(service, 100, times=30)
    have_seen(other, 100, times=30)
    assert likely(service.metering) is likely(other.metering) is None
    assert await jobs_of(service).exchange_observations() == 3
    assert await jobs_of(other).exchange_observations() == 3
    assert 100 <= likely(other.metering) <= 125
    assert likely(service.metering) is None
    await jobs_of(service).exchange_observations()
    assert likely(service.metering) == likely(other.metering)
    later = build(Settings(database_url=database_url, prices=PRICES))
    assert likely(later.metering) is None
    await jobs_of(later).exchange_observations()
    assert likely(later.metering) == likely(other.metering)
    await other.close()
    await later.close()


async def test_what_was_stored_is_still_known(service: Credits):
    have_seen(service, 100, times=60)
    await jobs_of(service).exchange_observations()
    assert 100 <= likely(service.metering) <= 125


async def test_old_sizes_count_less_than_new_ones(service: Credits):
    jobs = jobs_of(service)
    have_seen(service, 5_000, times=900)
    await jobs.exchange_observations()
    for _ in range(6):
        have_seen(service, 10, times=900)
        likely(service.metering)
        await jobs.exchange_observations()
    total = "SELECT sum(count) FROM observation WHERE kind = 1 AND account_id <> 0"
    assert service.reads.run_sync(lambda db: db.execute_sql(total).fetchone())[0] <= 1_000
    assert likely(service.metering) < 5_000


async def test_the_report_tells_how_good_holds_were(
    service: Credits, database_url: str, capsys: pytest.CaptureFixture[str]
):
    await give(service, "anna", 10_000_000)
    for output in (5_000, 5_000, 20_000):
        hold = await admitted(service, ASKED)
        await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(output=output)))
    await give(service, "bob", await bound(service) - 5_000 * OUTPUT)
    await admitted(service, replace(ASKED, account_id="bob", min_output_tokens=10))
    assert isinstance(await service.admit(replace(ASKED, account_id="bob")), Refusal)
    await jobs_of(service).exchange_observations()
    assert await asyncio.to_thread(main, ["holds", "report", "--database", database_url]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:2] == ["model", "settled"]
    assert told[1].split() == ["toy", "3", "45/45/195", "5119/20479", "1", "0", "1", "1"]
