"""``GET retry/{token}``: a client waits for credits with what its refusal gave it."""

from __future__ import annotations

import asyncio

import pytest
from shopfront import Shopfront, buy_and_pay, deliver_to, problem

from credits_plugin import AIRequest, Hold, Refusal

ASKED = AIRequest("ada", "gpt-4o-mini", [{"role": "user", "content": "hello"}], max_output_tokens=100)


async def token_of(shopfront: Shopfront) -> str:
    refusal = await shopfront.credits.admit(ASKED)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_token
    return f"/api/credits/retry/{refusal.retry_token}"


async def test_a_client_waits_until_its_purchase_arrives_and_is_admitted(shopfront: Shopfront):
    deliver_to(shopfront)
    waiting = asyncio.create_task(shopfront.browser("ada").get(await token_of(shopfront)))
    await buy_and_pay(shopfront, "ada")
    answer = await asyncio.wait_for(waiting, 20)
    retry = (await answer.json())["retry"]
    assert retry["affordable"] is True
    assert retry["available"]["credits"] == "1000"
    assert isinstance(await shopfront.credits.admit(ASKED), Hold)


async def test_without_credits_the_answer_comes_when_the_wait_is_over(shopfront: Shopfront):
    url = await token_of(shopfront)
    answer = await (await shopfront.browser("ada").get(url, params={"wait_s": "0"})).json()
    assert answer["success"] is True
    assert answer["retry"]["affordable"] is False
    assert answer["retry"]["needed"]["microcredits"] > 0
    assert answer["retry"]["available"] == {"microcredits": 0, "credits": "0"}


async def test_the_token_of_another_account_is_the_same_404_as_none_at_all(shopfront: Shopfront):
    url = await token_of(shopfront)
    theirs = await problem(await shopfront.browser("bob").get(url), 404, "not_found")
    missing = await problem(await shopfront.browser("bob").get("/api/credits/retry/a.b"), 404, "not_found")
    assert theirs == missing
    await problem(await shopfront.browser(None).get(url), 401, "unauthenticated")


@pytest.mark.parametrize("wait_s", ["-1", "31", "x", "999999", "1.5", ""])
async def test_a_wait_that_is_none_or_too_long_is_refused(shopfront: Shopfront, wait_s: str):
    answer = await shopfront.browser("ada").get(await token_of(shopfront), params={"wait_s": wait_s})
    assert (await problem(answer, 400, "invalid_value"))["field"] == "wait_s"


async def test_a_host_that_shuts_down_does_not_wait_for_those_who_wait(shopfront: Shopfront):
    waiting = asyncio.create_task(shopfront.browser("ada").get(await token_of(shopfront)))
    await asyncio.sleep(0.1)
    shopfront.credits.parking.close()
    answer = await asyncio.wait_for(waiting, 10)
    assert (await answer.json())["retry"]["affordable"] is False
