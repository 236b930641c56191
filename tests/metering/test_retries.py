"""Refused requests that wait for credits: tokens that grant nothing, waiters that are few and are let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from metering_seed import PRICES, give

from credits_plugin import AIRequest, Hold, Refusal, Settings
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import NotFound, Overloaded
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, SetBudget
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, ReleaseHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.metering import parking
from credits_plugin.metering.retry_tokens import LIFE_S, RetryTokens

ASKED = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=100, key_id="k", run_id="r")
SECRET = Settings(stripe_secret_key="sk_test_a")


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Credits]:
    built = build(Settings(database_url=database_url, prices=PRICES))
    yield built
    assert audit(built.database).clean
    await built.close()


async def refused(service: Credits, request: AIRequest = ASKED) -> Refusal:
    answer = await service.admit(request)
    assert isinstance(answer, Refusal), answer
    return answer


async def waiting(service: Credits, refusal: Refusal, *, timeout_s: float = 20) -> asyncio.Task[bool]:
    task = asyncio.create_task(service.wait_for_credits(refusal, timeout_s=timeout_s))
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


async def grant_by_work(service: Credits, user: str, microcredits: int) -> None:
    key = account_key(user)
    command = PostTransfer(key, user, service.new_id(), Code.PROMOTION, microcredits, now_ms(), "test grant")
    await service.writer.work([key], lambda tx: tx.decide(command))


def test_a_token_says_who_asked_and_what_was_needed():
    tokens = RetryTokens(SECRET)
    claim = tokens.read(tokens.issue(ASKED, needed=5, at_ms=1_000), at_ms=2_000)
    assert claim == ("anna", 5, "k", None, "r", 1_000 + LIFE_S * 1_000)


def test_hosts_with_the_same_secret_read_each_others_tokens():
    token = RetryTokens(SECRET).issue(ASKED, needed=5, at_ms=0)
    assert RetryTokens(replace(SECRET, frontend_url="http://elsewhere")).read(token, at_ms=0).needed == 5


@pytest.mark.parametrize("other", ["", "x", ".", "a.b", "é.é", "x" * 5_000, "a.b.c"])
def test_what_is_no_token_is_unknown(other: str):
    with pytest.raises(NotFound):
        RetryTokens(SECRET).read(other, at_ms=0)


def test_a_changed_forged_or_old_token_is_unknown():
    tokens = RetryTokens(SECRET)
    token = tokens.issue(ASKED, needed=5, at_ms=0)
    payload, _, signature = token.partition(".")
    cheaper, _, _ = tokens.issue(ASKED, needed=1, at_ms=0).partition(".")
    forged = RetryTokens(replace(SECRET, stripe_secret_key="sk_test_b")).issue(ASKED, needed=5, at_ms=0)
    for bad in (f"{cheaper}.{signature}", f"{payload}.{signature[:-1]}", f"{payload}.", payload, forged, token + "A"):
        with pytest.raises(NotFound):
            tokens.read(bad, at_ms=0)
    with pytest.raises(NotFound):
        tokens.read(token, at_ms=LIFE_S * 1_000)
    assert "sk_test_a" not in token


def test_without_a_secret_a_token_is_this_process_own():
    token = RetryTokens(Settings()).issue(ASKED, needed=5, at_ms=0)
    with pytest.raises(NotFound):
        RetryTokens(Settings()).read(token, at_ms=0)


async def test_a_refusal_that_credits_cure_carries_a_token_and_others_none(service: Credits):
    assert (await refused(service)).retry_token
    assert (await refused(service, replace(ASKED, model="nobody-prices-this"))).retry_token is None


async def test_a_parked_request_goes_on_when_a_purchase_is_granted(service: Credits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parking, "LOOK_S", 60.0)
    task = await waiting(service, await refused(service))
    await grant_by_work(service, "anna", 10_000_000)
    assert await asyncio.wait_for(task, 10)
    assert isinstance(await service.admit(ASKED), Hold)


async def test_a_grant_of_another_host_is_found_by_looking_again(service: Credits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parking, "LOOK_S", 0.05)
    task = await waiting(service, await refused(service))
    await give(service, "anna", 10_000_000)
    assert await asyncio.wait_for(task, 10)


async def test_too_little_leaves_it_waiting_until_its_time_is_over(service: Credits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parking, "LOOK_S", 0.05)
    refusal = await refused(service)
    task = await waiting(service, refusal, timeout_s=0.3)
    await grant_by_work(service, "anna", refusal.needed_microcredits - 1)
    assert await task is False


async def test_credits_that_another_request_gives_back_count_and_the_rehearsal_leaves_no_trace(service: Credits):
    await give(service, "anna", 10_000_000)
    hold = PlaceHold(account_key("anna"), "anna", service.new_id(), 10_000_000, now_ms(), now_ms() + 60_000, 1, 1)
    await service.writer.execute(hold)
    refusal = await refused(service)
    task = await waiting(service, refusal)
    await service.writer.execute(ReleaseHold(account_key("anna"), hold.hold_id, now_ms()))
    assert await task  # what another request gave back counts as well
    assert service.reads.run_sync(lambda db: db.execute_sql("SELECT held FROM account").fetchone()) == (0,)


async def set_budget(service: Credits, credits: int) -> None:
    microcredits = credits * 1_000_000
    key, now = account_key("anna"), now_ms()
    await service.writer.execute(
        SetBudget(key, "anna", service.new_id(), BudgetKind.KEY, "k", BudgetPeriod.DAY, microcredits, now)
    )


async def test_a_key_that_may_spend_no_more_is_refused_by_its_budget_and_goes_on_when_that_is_raised(
    service: Credits, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parking, "LOOK_S", 0.05)
    await give(service, "anna", 10_000_000)
    await set_budget(service, 0)
    refusal = await refused(service)
    assert (refusal.code, refusal.purchase_url) == ("budget_exceeded", None)
    assert (refusal.budget.kind, refusal.budget.name, refusal.budget.period) == ("key", "k", "day")
    assert refusal.budget.ends_at_ms > now_ms()
    assert "key 'k'" in refusal.text.lower()
    assert isinstance(await service.admit(replace(ASKED, key_id="another")), Hold)
    task = await waiting(service, refusal)
    await set_budget(service, 100)
    assert await asyncio.wait_for(task, 10)
    assert isinstance(await service.admit(ASKED), Hold)


async def test_a_cut_fits_the_budget_too(service: Credits):
    await give(service, "anna", 10_000_000_000)
    await set_budget(service, 1)
    hold = await service.admit(replace(ASKED, max_output_tokens=100_000, min_output_tokens=10))
    assert hold.amount_microcredits == 1_000_000
    assert 10 <= hold.estimate.max_output_tokens < 5_000


async def test_a_refusal_that_waiting_does_not_cure_does_not_wait(service: Credits):
    unpriced = await refused(service, replace(ASKED, model="nobody-prices-this"))
    async with asyncio.timeout(5):
        assert await service.wait_for_credits(unpriced, timeout_s=60) is False
        forged = replace(await refused(service), retry_token="a.b")
        assert await service.wait_for_credits(forged, timeout_s=60) is False


async def test_the_parking_is_bounded_for_an_account_and_in_all(service: Credits, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parking, "MOST_OF_AN_ACCOUNT", 2)
    monkeypatch.setattr(parking, "MOST_PARKED", 3)
    anna, bob = await refused(service), await refused(service, replace(ASKED, account_id="bob"))
    tasks = [await waiting(service, anna) for _ in range(2)]
    with pytest.raises(Overloaded):
        await service.parking.wait_with(anna.retry_token, account_id="anna", timeout_s=5)
    tasks.append(await waiting(service, bob))
    with pytest.raises(Overloaded):
        await service.parking.wait_with(bob.retry_token, account_id="bob", timeout_s=5)
    assert await service.wait_for_credits(bob, timeout_s=60) is False
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    again = await waiting(service, bob)  # who was cancelled has left
    again.cancel()


async def test_who_waits_is_let_go_when_the_service_closes(service: Credits):
    task = await waiting(service, await refused(service), timeout_s=300)
    service.parking.close()
    assert await asyncio.wait_for(task, 10) is False
