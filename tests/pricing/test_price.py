"""One price: cost of a usage, its bound, its record."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_plugin.errors import InvalidValue
from credits_plugin.money import MAX_AMOUNT
from credits_plugin.pricing.price import Price, Rates, Tier, rate_from_usd
from hookspecs import Usage

USD = 100_000_000  # microcredits at 100 credits per USD
PLAIN = Price("openai", "plain", Rates(3 * USD, 1 * USD, 4 * USD, 15 * USD, 20 * USD), markup_bps=1_500)
TIERED = Price(
    "google",
    "tiered",
    Rates(1 * USD, 1 * USD, 1 * USD, 10 * USD, 10 * USD),
    markup_bps=0,
    tiers=(
        Tier(200_000, Rates(2 * USD, 2 * USD, 2 * USD, 15 * USD, 15 * USD)),
        Tier(500_000, Rates(4 * USD, 4 * USD, 4 * USD, 30 * USD, 30 * USD)),
    ),
)

rates = st.builds(Rates, *[st.integers(0, 10**12)] * 5, *[st.none() | st.integers(0, 10**12)] * 5)
tools = st.dictionaries(st.sampled_from(["web_search", "file_search"]), st.integers(0, 10**15)).map(
    lambda stated: tuple(sorted(stated.items()))
)
tiers = st.lists(st.tuples(st.integers(0, 2_000), rates), max_size=3, unique_by=lambda item: item[0]).map(
    lambda items: tuple(Tier(above, of) for above, of in sorted(items, key=lambda item: item[0]))
)
prices = st.builds(
    Price,
    provider=st.just("p"),
    model=st.text(max_size=5),
    rates=rates,
    markup_bps=st.integers(0, 100_000),
    tiers=tiers,
    request_rate=st.integers(0, 10**13),
    tools=tools,
)
counts = st.integers(0, 3_000)
usages = st.builds(Usage, *[counts] * 10, st.fixed_dictionaries({"web_search": st.integers(0, 9), "other": counts}))


def test_cost_is_the_sum_over_all_kinds_plus_markup():
    usage = Usage(input=1_000_000, cache_read=1_000_000, cache_write=1_000_000, output=1_000_000, reasoning=1_000_000)
    assert PLAIN.cost_microcredits(usage) == (3 + 1 + 4 + 15 + 20) * USD * 115 // 100


def test_one_token_of_a_cheap_model_costs_one_microcredit_and_not_nothing():
    cheap = Price("p", "cheap", Rates(1, 1, 1, 1, 1), markup_bps=0)
    assert cheap.cost_microcredits(Usage(input=1)) == 1


def test_rounding_happens_once_for_the_whole_request():
    price = Price("p", "m", Rates(*[500_000] * 5), markup_bps=0)  # half a microcredit a token
    assert price.cost_microcredits(Usage(1, 1, 1, 1, 1)) == 3
    assert sum(price.cost_microcredits(u) for u in (Usage(1), Usage(0, 1), Usage(output=1))) == 3


SPECIAL = Price(
    "p",
    "special",
    Rates(100, 10, 125, 400, 500, 1_000, 150, 200, 2_000, 3_000),
    markup_bps=0,
    tools=(("file_search", 2_500 * 1_000_000), ("web_search", 10_000 * 1_000_000)),
)


def test_audio_images_and_a_lasting_cache_cost_their_own_rates():
    usage = Usage(audio_input=10**6, audio_cache_read=10**6, cache_write_1h=10**6, audio_output=10**6)
    assert SPECIAL.cost_microcredits(usage) == 1_000 + 150 + 200 + 2_000
    assert SPECIAL.cost_microcredits(Usage(input=10**6, output=10**6, image_output=10**6)) == 100 + 400 + 3_000


def test_special_kinds_cost_what_the_plain_kind_does_where_a_price_states_none():
    usage = Usage(audio_input=1, audio_cache_read=2, cache_write_1h=3, audio_output=4, image_output=5)
    assert PLAIN.cost_microcredits(usage) == PLAIN.cost_microcredits(Usage(1, 2, 3, 9, 0))
    assert replace(PLAIN.rates, audio_input=PLAIN.rates.input) == PLAIN.rates


def test_each_tool_call_costs_its_fee_and_a_tool_without_one_nothing():
    assert SPECIAL.cost_microcredits(Usage(tool_calls={"web_search": 2, "file_search": 1, "other": 7})) == 22_500
    assert SPECIAL.bound_microcredits(input_tokens=0, output_tokens=0, tool_calls={"web_search": 2}) == 20_000
    with pytest.raises(InvalidValue, match="calls of web_search must be a whole number"):
        SPECIAL.bound_microcredits(input_tokens=0, output_tokens=0, tool_calls={"web_search": -1})


def test_audio_and_lasting_cache_tokens_count_towards_the_tier():
    assert TIERED.cost_microcredits(Usage(input=1, audio_input=100_000, cache_write_1h=100_000)) == 200_001 * 200
    assert TIERED.bound_microcredits(input_tokens=100_000, output_tokens=0, audio_input_tokens=100_001) == 200_001 * 200


def test_no_usage_costs_only_the_fee_per_request():
    assert PLAIN.cost_microcredits(Usage()) == 0
    with_fee = Price("p", "m", PLAIN.rates, markup_bps=1_500, request_rate=5_000 * 1_000_000)
    assert with_fee.cost_microcredits(Usage()) == 5_750


def test_a_tier_prices_the_whole_request_only_above_its_threshold():
    assert TIERED.cost_microcredits(Usage(input=200_000)) == 200_000 * 100
    assert TIERED.cost_microcredits(Usage(input=200_001)) == 200_001 * 200
    assert TIERED.cost_microcredits(Usage(input=500_001, output=10)) == 500_001 * 400 + 10 * 3_000


def test_cached_prompt_tokens_count_towards_the_tier_and_output_does_not():
    assert TIERED.cost_microcredits(Usage(input=1, cache_read=100_000, cache_write=100_000)) == 200_001 * 200
    assert TIERED.cost_microcredits(Usage(input=1, output=900_000)) == 100 + 900_000 * 1_000


def test_a_million_million_tokens_are_charged_without_overflow():
    assert PLAIN.cost_microcredits(Usage(input=10**12)) == 10**12 * 345
    assert 10**12 * 345 < 2**63


@pytest.mark.parametrize("usage", [Usage(input=10**17), Usage(output=2**62), Usage(input=2**63, cache_read=2**64)])
def test_a_usage_that_does_not_fit_the_database_is_refused(usage):
    with pytest.raises(InvalidValue, match="too large"):
        PLAIN.cost_microcredits(usage)


@pytest.mark.parametrize("kind", ["audio_input", "audio_cache_read", "cache_write_1h", "audio_output", "image_output"])
def test_a_special_count_that_does_not_fit_the_database_is_refused_even_if_it_is_free(kind):
    free = Price("p", "free", Rates(0, 0, 0, 0, 0), markup_bps=0)
    assert free.is_free()
    with pytest.raises(InvalidValue, match="too large"):
        free.cost_microcredits(Usage(**{kind: 2**62}))
    assert not Price("p", "m", Rates(0, 0, 0, 0, 0, **{kind: 1}), markup_bps=0).is_free()


def test_a_token_count_that_does_not_fit_the_database_is_refused_even_if_it_is_free():
    free = Price("p", "free", Rates(0, 0, 0, 0, 0), markup_bps=0)
    with pytest.raises(InvalidValue, match="too large"):
        free.cost_microcredits(Usage(input=2**62))


@pytest.mark.parametrize("count", [-1, True, 1.0, float("nan"), "1", None, 1e308])
def test_a_count_that_is_no_whole_number_never_becomes_a_cost_or_a_bound(count):
    with pytest.raises(ValueError, match="whole number of tokens"):
        PLAIN.cost_microcredits(Usage(input=count))
    with pytest.raises(InvalidValue, match="input_tokens must be a whole number"):
        PLAIN.bound_microcredits(input_tokens=count, output_tokens=0)
    with pytest.raises(InvalidValue, match="output_tokens must be a whole number"):
        PLAIN.bound_microcredits(input_tokens=0, output_tokens=count)


@pytest.mark.parametrize("rate", [-1, True, 0.5, "1", None, 10**31])
def test_a_rate_that_is_no_whole_number_is_refused(rate):
    with pytest.raises(InvalidValue, match="rate of output"):
        Rates(1, 1, 1, rate, 1)


@pytest.mark.parametrize("thresholds", [(2, 1), (1, 1)])
def test_tiers_must_rise(thresholds):
    with pytest.raises(InvalidValue, match="rising thresholds"):
        Price("p", "m", PLAIN.rates, markup_bps=0, tiers=tuple(Tier(above, PLAIN.rates) for above in thresholds))


@settings(max_examples=300, deadline=None)
@given(prices, usages, st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_no_usage_within_the_counts_costs_more_than_the_bound(price, usage, spare_input, spare_output, is_cached_1h):
    usage = usage if is_cached_1h else replace(usage, cache_write_1h=0)
    bound = price.bound_microcredits(
        input_tokens=usage.input + usage.cache_read + usage.cache_write + usage.cache_write_1h + spare_input,
        output_tokens=usage.output + usage.reasoning + usage.audio_output + usage.image_output + spare_output,
        audio_input_tokens=usage.audio_input + usage.audio_cache_read,
        tool_calls=usage.tool_calls,
        is_cached_1h=is_cached_1h,
    )
    assert price.cost_microcredits(usage) <= bound


@settings(max_examples=300, deadline=None)
@given(prices, counts, counts)
def test_the_bound_of_a_prompt_with_audio_is_reached_by_some_usage(price, input_tokens, audio_tokens):
    prompt = input_tokens + audio_tokens
    lengths = {prompt, *(t.above_input_tokens for t in price.tiers if t.above_input_tokens <= prompt)}
    dearest = max(
        price.cost_microcredits(Usage(**{kind: text, audio_kind: audio}, tool_calls={"web_search": 2}))
        for length in lengths
        for text, audio in (
            (min(input_tokens, length), max(length - input_tokens, 0)),
            (max(length - audio_tokens, 0), min(audio_tokens, length)),
        )
        for kind in ("input", "cache_read", "cache_write")
        for audio_kind in ("audio_input", "audio_cache_read")
    )
    calls = {"web_search": 2}
    bound = price.bound_microcredits(
        input_tokens=input_tokens, output_tokens=0, audio_input_tokens=audio_tokens, tool_calls=calls
    )
    assert bound == dearest


@settings(max_examples=300, deadline=None)
@given(prices, counts, counts, st.booleans())
def test_the_bound_is_reached_by_some_usage_within_the_counts(price, input_tokens, output_tokens, is_cached_1h):
    lengths = {input_tokens, *(t.above_input_tokens for t in price.tiers if t.above_input_tokens <= input_tokens)}
    dearest = max(
        price.cost_microcredits(Usage(**{kind: length}, **{output_kind: output_tokens}))
        for length in lengths
        for kind in ("input", "cache_read", "cache_write", *(["cache_write_1h"] if is_cached_1h else []))
        for output_kind in ("output", "reasoning", "audio_output", "image_output")
    )
    allowed = {"input_tokens": input_tokens, "output_tokens": output_tokens, "is_cached_1h": is_cached_1h}
    assert price.bound_microcredits(**allowed) == dearest


def test_a_bound_that_does_not_fit_the_database_is_refused():
    with pytest.raises(InvalidValue, match="too many to price"):
        PLAIN.bound_microcredits(input_tokens=MAX_AMOUNT, output_tokens=0)


@settings(max_examples=100, deadline=None)
@given(prices, usages)
def test_a_stored_record_gives_the_same_price_digest_and_cost(price, usage):
    restored = Price.from_record(json.loads(json.dumps(price.to_record())))
    assert restored == price
    assert restored.digest() == price.digest()
    assert restored.cost_microcredits(usage) == price.cost_microcredits(usage)


def test_the_digest_is_the_same_on_every_machine_and_version():
    # A change here makes a new price version of every price in every database: raise the record's format with it.
    assert TIERED.digest() == "340136fe689467cc9dec714642fedb4687fb55ca11692ceb23e1e7987181dbfc"


@pytest.mark.parametrize(
    "changed",
    [
        {"provider": "azure"},
        {"model": "other"},
        {"rates": Rates(3 * USD, 1 * USD, 4 * USD, 15 * USD, 20 * USD + 1)},
        {"markup_bps": 1_501},
        {"tiers": (Tier(10, PLAIN.rates),)},
        {"request_rate": 1},
        {"tools": (("web_search", 1),)},
        {"tools": (("web_search", 0),)},
        {"rates": replace(PLAIN.rates, audio_output=1)},
        {"rates": replace(PLAIN.rates, cache_write_1h=1)},
    ],
)
def test_whatever_affects_the_cost_changes_the_digest(changed):
    fields = {"provider": "openai", "model": "plain", "rates": PLAIN.rates, "markup_bps": 1_500}
    assert Price(**fields).digest() == PLAIN.digest()
    assert Price(**{**fields, **changed}).digest() != PLAIN.digest()


def test_a_record_of_the_first_version_loads_and_costs_the_same():
    # As version 0.1.0 wrote it; its digest is the one above.
    written = (
        '{"format": 1, "provider": "google", "model": "tiered", "rates": [100000000, 100000000, 100000000, 1000000000, '
        '1000000000], "tiers": [[200000, 200000000, 200000000, 200000000, 1500000000, 1500000000], [500000, 400000000, '
        '400000000, 400000000, 3000000000, 3000000000]], "request_rate": 0, "markup_bps": 0}'
    )
    restored = Price.from_record(json.loads(written))
    assert restored == TIERED
    assert restored.digest() == TIERED.digest()
    assert json.dumps(TIERED.to_record()) == written
    assert restored.cost_microcredits(Usage(input=500_001, output=10)) == 500_001 * 400 + 10 * 3_000


def test_the_digest_of_a_price_with_all_there_is_stays_the_same_too():
    assert SPECIAL.digest() == "1394194f089aefc9832dc4ee183801b0a18747e5768b42e6f13748802f4028f0"


def test_limits_do_not_change_the_digest():
    fields = {"provider": "openai", "model": "plain", "rates": PLAIN.rates, "markup_bps": 1_500}
    assert Price(**fields, max_output_tokens=1, context_window=2).digest() == PLAIN.digest()


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 2},
        {"format": 3},
        {"format": 2, "tools": []},
        {"format": 2, "tools": {"web_search": -1}},
        {"format": None},
        {"rates": [1, 2]},
        {"rates": [1, 2, 3, 4, -5]},
        {"tiers": [[1]]},
        {"markup_bps": "1"},
    ],
)
def test_a_damaged_record_is_refused(damage):
    with pytest.raises(InvalidValue):
        Price.from_record(PLAIN.to_record() | damage)


def test_a_record_without_rates_is_refused():
    record = PLAIN.to_record()
    del record["rates"]
    with pytest.raises(InvalidValue, match="damaged"):
        Price.from_record(record)


def test_usd_become_rates_exactly_or_rounded_up():
    assert rate_from_usd(Decimal("0.15"), 100) == 15_000_000
    assert rate_from_usd(Decimal("0.000000001"), 1) == 1
    assert rate_from_usd(Decimal("0.0000001000000001"), 1) == 1
    assert rate_from_usd(Decimal("1.000000000000000001"), 100) == 100_000_001
    assert rate_from_usd(Decimal(0), 100) == 0


@settings(max_examples=500, deadline=None)
@given(prices, counts, counts, st.integers(0, 10**9), st.integers(0, 9), st.booleans())
def test_the_affordable_output_is_the_largest_whose_bound_is_within_the_amount(
    price, text, audio, amount, calls, is_cached_1h
):
    prompt = {"input_tokens": text, "audio_input_tokens": audio, "is_cached_1h": is_cached_1h}
    prompt["tool_calls"] = {"web_search": calls, "other": 3}
    affordable = price.affordable_output_tokens(amount, **prompt)
    if affordable is None:
        assert price.bound_microcredits(**prompt, output_tokens=0) > amount
        return
    assert price.bound_microcredits(**prompt, output_tokens=min(affordable, 10**9)) <= amount
    if affordable < MAX_AMOUNT:
        assert price.bound_microcredits(**prompt, output_tokens=affordable + 1) > amount


@settings(max_examples=300, deadline=None)
@given(prices, counts, counts)
def test_what_was_held_for_an_output_affords_it(price, input_tokens, output_tokens):
    bound = price.bound_microcredits(input_tokens=input_tokens, output_tokens=output_tokens)
    assert price.affordable_output_tokens(bound, input_tokens=input_tokens) >= output_tokens


@pytest.mark.parametrize("amount", [-1, 1.5, None, 2**63])
def test_an_amount_that_is_none_affords_nothing_and_says_so(amount):
    with pytest.raises(InvalidValue, match="amount must be a whole number"):
        PLAIN.affordable_output_tokens(amount, input_tokens=1)
