"""An hour's cache and calls of the provider's tools are held for: a request that keeps its limits leaves no debt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from metering_seed import admitted, balance, give

from credits_plugin import AIRequest, Outcome, OutcomeStatus, Refusal, Settings, Usage
from credits_plugin.bootstrap import Credits, build
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key
from credits_plugin.pricing.tokens import count_text_tokens

TEXT = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
ASKED = AIRequest("anna", "toy", [{"role": "user", "content": TEXT}], tools=[SEARCH], max_output_tokens=1_000)
PRICE = {"input": "1", "cache_write": "1.25", "cache_write_1h": "2", "output": "2", "tools": {"web_search": "0.01"}}
WORDS = "some more words that are delivered "
OUTPUT = 230
"""Microcredits of an output token."""
FEES = 3 * 1_150_000
DONE = OutcomeStatus.COMPLETED


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Credits]:
    built = build(Settings(database_url=database_url, prices={"toy": PRICE}, default_tool_calls=2))
    yield built
    assert audit(built.database).clean
    await built.close()


async def test_whoever_has_just_the_estimate_can_use_all_that_the_request_declares(service: Credits):
    bound = await service.estimate(ASKED)
    await give(service, "anna", bound.cost_microcredits)
    hold = await admitted(service, ASKED)
    usage = Usage(cache_write_1h=bound.input_tokens, output=1_000, tool_calls={"web_search": 3})
    settled = await service.settle(hold, Outcome(DONE, usage))
    assert settled.amount == hold.amount_microcredits == bound.input_tokens * 230 + 1_000 * OUTPUT + FEES
    assert balance(service, "anna") == (0, 0)


async def test_who_cannot_pay_the_calls_is_refused_before_anything_is_sent(service: Credits):
    bound = (await service.estimate(ASKED)).cost_microcredits
    await give(service, "anna", bound - 1)
    refusal = await service.admit(ASKED)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.needed_microcredits) == ("insufficient_credits", bound)


async def test_fees_come_before_the_output_that_is_cut(service: Credits):
    without_output = (await service.estimate(ASKED)).cost_microcredits - 1_000 * OUTPUT
    await give(service, "anna", without_output + 400 * OUTPUT + 229)
    assert isinstance(await service.admit(replace(ASKED, min_output_tokens=401)), Refusal)
    hold = await admitted(service, replace(ASKED, min_output_tokens=400))
    assert hold.estimate.max_output_tokens == 400
    usage = Usage(cache_write_1h=hold.estimate.input_tokens, output=400, tool_calls=hold.estimate.tool_calls)
    settled = await service.settle(hold, Outcome(DONE, usage))
    assert settled.amount == without_output + 400 * OUTPUT
    assert balance(service, "anna") == (229, 0)


async def test_a_stream_that_begins_small_holds_the_fees_from_the_first(service: Credits):
    for _ in range(100):
        service.metering.observations.note_settled(account_key("anna"), "toy", held=1, cost=1, output=50, hidden=0)
    streamed = replace(ASKED, stream=True, can_extend=True)
    bound = (await service.estimate(streamed)).cost_microcredits
    await give(service, "anna", bound)
    hold = await admitted(service, streamed)
    assert FEES < hold.amount_microcredits < bound
    raised = await service.metering.extend(hold, output_tokens=1_000)
    assert raised.amount_microcredits == bound


async def test_a_stream_ends_while_the_fees_are_still_covered(service: Credits):
    streamed = replace(ASKED, min_output_tokens=300, stream=True, can_extend=True)
    without_output = (await service.estimate(streamed)).cost_microcredits - 1_000 * OUTPUT
    await give(service, "anna", without_output + 600 * OUTPUT)
    said = ""
    async with service.metered(streamed) as call:
        while await call.deliver(WORDS):
            said += WORDS
        assert 0 < count_text_tokens(said, "toy") <= 600
        output = count_text_tokens(said, "toy")
        prompt = call.hold.estimate.input_tokens
        call.report(Usage(cache_write_1h=prompt, output=output, tool_calls={"web_search": 3}))
    left, held = balance(service, "anna")
    assert left >= 0
    assert held == 0


async def test_unlimited_calls_are_expected_to_be_as_many_as_the_operator_says(service: Credits):
    unlimited = replace(ASKED, tools=[{"type": "web_search"}])
    assert (await service.estimate(unlimited)).tool_calls == {"web_search": 2}
    limited = replace(unlimited, max_tool_calls=7)
    bound = await service.estimate(limited)
    assert bound.tool_calls == {"web_search": 7}
    await give(service, "anna", (await service.estimate(unlimited)).cost_microcredits)
    hold = await admitted(service, unlimited)
    await service.settle(hold, Outcome(DONE, Usage(input=1, output=1_000, tool_calls={"web_search": 7})))
    assert balance(service, "anna")[0] < 0  # what was used is charged all the same


@pytest.mark.parametrize(
    "request_", [replace(ASKED, tools=[SEARCH | {"max_uses": "many"}]), replace(ASKED, max_tool_calls=-1)]
)
async def test_a_limit_that_is_none_is_refused_by_value(service: Credits, request_: AIRequest):
    await give(service, "anna", 10**9)
    refusal = await service.admit(request_)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_value"
    assert balance(service, "anna") == (10**9, 0)
