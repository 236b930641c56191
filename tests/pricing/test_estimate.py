"""The estimate of a request: its limits, and that no usage within them costs more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_plugin.errors import InvalidValue
from credits_plugin.pricing.estimate import DEFAULT_MAX_OUTPUT_TOKENS, estimate
from credits_plugin.pricing.price import Price, Rates, Tier
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.pricing.prompt import count_prompt
from hookspecs import AIRequest, Usage

PRICE = Price("openai", "gpt-4o", Rates(250, 125, 300, 1_000, 1_200), markup_bps=1_500)
NOW = 1_795_348_800_000


def request(**fields) -> AIRequest:
    return AIRequest(**{"account_id": "a", "model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]} | fields)


def test_the_requests_own_limit_comes_first_then_the_prices_then_the_default():
    limited = Price("p", "m", PRICE.rates, markup_bps=0, max_output_tokens=900)
    assert estimate(request(max_output_tokens=7), limited).max_output_tokens == 7
    assert estimate(request(), limited).max_output_tokens == 900
    assert estimate(request(), PRICE).max_output_tokens == DEFAULT_MAX_OUTPUT_TOKENS
    assert estimate(request(), PRICE, default_max_output_tokens=11).max_output_tokens == 11


def test_an_estimate_names_the_requests_model_and_counts_messages_and_tools():
    tools = [{"type": "function", "function": {"name": "f"}}]
    made = estimate(request(tools=tools), PRICE)
    assert made.model == "gpt-4o"
    assert made.input_tokens == count_prompt(request().messages, tools, "gpt-4o").total


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, float("nan"), "10", 2**63, 10**5_000], ids=lambda _: "limit")
def test_a_limit_that_is_no_positive_whole_number_is_refused(limit):
    with pytest.raises(InvalidValue):
        estimate(request(max_output_tokens=limit), PRICE)


def test_an_estimate_too_large_for_the_database_is_refused():
    dear = Price("p", "m", Rates(*[10**30] * 5), markup_bps=0)
    with pytest.raises(InvalidValue, match="too many to price"):
        estimate(request(), dear)


rates = st.builds(Rates, *[st.integers(0, 10**11)] * 5)


@dataclass(frozen=True)
class Shares:
    """How an actual usage divides what the estimate allows, in thousandths."""

    prompt: int
    cache_read: int
    cache_write: int
    completion: int
    reasoning: int

    def usage_within(self, made: Any) -> Usage:
        prompt = made.input_tokens * self.prompt // 1_000
        read = prompt * self.cache_read // 1_000
        written = (prompt - read) * self.cache_write // 1_000
        completion = made.max_output_tokens * self.completion // 1_000
        reasoning = completion * self.reasoning // 1_000
        return Usage(prompt - read - written, read, written, completion - reasoning, reasoning)


@settings(max_examples=300, deadline=None)
@given(
    st.builds(Shares, *[st.integers(0, 1_000)] * 5),
    rates,
    st.lists(st.tuples(st.integers(0, 400), rates), max_size=3, unique_by=lambda tier: tier[0]),
    st.integers(0, 20_000),
    st.text(max_size=200),
    st.integers(1, 10_000),
    st.sampled_from(["gpt-4o", "claude-sonnet-4-5"]),
)
def test_no_usage_within_an_estimate_costs_more_than_it(shares, base, tiers, markup_bps, text, limit, model):
    rising = tuple(Tier(above, of) for above, of in sorted(tiers, key=lambda tier: tier[0]))
    price = Price("p", "m", base, markup_bps=markup_bps, tiers=rising, request_rate=3)
    asked = request(model=model, messages=[{"role": "user", "content": text}], max_output_tokens=limit)
    made = estimate(asked, price)
    assert price.cost_microcredits(shares.usage_within(made)) <= made.cost_microcredits


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "sonar-pro"])
def test_real_prices_are_bounded_too(model):
    price = PriceBook().price_for(model, "perplexity" if model == "sonar-pro" else None, at_ms=NOW)
    asked = request(model=model, messages=[{"role": "user", "content": "long " * 150_000}], max_output_tokens=5_000)
    made = estimate(asked, price)
    for prompt in (0, 1, 100_000, 200_000, 200_001, made.input_tokens):
        for usage in (Usage(prompt, output=5_000), Usage(0, prompt, 0, 0, 5_000), Usage(0, 0, prompt, 2_500, 2_500)):
            assert price.cost_microcredits(usage) <= made.cost_microcredits


def test_an_uncountable_prompt_costs_more_than_any_ordinary_balance_holds():
    endless: list[Any] = []
    endless.append(endless)
    price = PriceBook().price_for("gpt-4o-mini", at_ms=NOW)
    assert estimate(request(messages=endless), price).cost_microcredits > 10_000 * 1_000_000
