"""Finding prices: overrides, genai-prices, names from strangers; costs against the library's own."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot

from credits_plugin.errors import ConfigurationError, UnknownModel
from credits_plugin.pricing.catalogue import Terms, price_at
from credits_plugin.pricing.markups import Markups
from credits_plugin.pricing.overrides import Overrides, PriceOverride
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.pricing.price_list import MAX_NAME_LENGTH, PriceList
from credits_plugin.settings import Settings
from hookspecs import Usage

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def ms(at: datetime) -> int:
    return int(at.timestamp()) * 1_000


NOW = ms(AT)


def override(pattern: str, usd: str, **fields) -> PriceOverride:
    return PriceOverride(pattern, Decimal(usd), Decimal(usd), **fields)


def book_of(overrides=(), *, fallback=None, credits_per_usd=100, markup_bps=1_500) -> PriceBook:
    settled = Overrides(tuple(overrides), fallback)
    return PriceBook(PriceList(settled, credits_per_usd=credits_per_usd, markups=Markups(markup_bps)))


def prefix(pattern: str, usd: str) -> PriceOverride:
    return override(pattern, usd, is_prefix=True)


MODELS = [
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("gpt-5", "openai"),
    ("o3", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-opus-4-6", "anthropic"),
    ("gemini-2.5-pro", "google"),
    ("gemini-2.5-flash", "google"),
    ("deepseek-chat", "deepseek"),
    ("mistral-large-latest", "mistral"),
    ("grok-4", "x-ai"),
    ("sonar-pro", "perplexity"),
    ("openai/gpt-4o", "openrouter"),
    ("text-embedding-3-small", "openai"),
]
USAGES = [
    Usage(input=1),
    Usage(input=1_234, output=567),
    Usage(input=100, cache_read=90_001, cache_write=3_333, output=77, reasoning=1_000),
    Usage(input=150_000, cache_read=49_999, cache_write=1, output=1),
    Usage(input=150_000, cache_read=50_000, cache_write=1, output=1),
    Usage(input=999_999, cache_read=1, output=64_000, reasoning=64_000),
]


def library_usd(model: str, provider: str, usage: Usage, at: datetime) -> Fraction:
    """What genai-prices itself computes, in USD."""
    counts = genai_prices.Usage(
        input_tokens=usage.input + usage.cache_read + usage.cache_write,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output + usage.reasoning,
        output_reasoning_tokens=usage.reasoning,
    )
    answer = genai_prices.calc_price(counts, model, provider_id=provider, genai_request_timestamp=at)
    return Fraction(answer.total_price)


@pytest.mark.parametrize(("model", "provider"), MODELS)
@pytest.mark.parametrize("markup_bps", [0, 1_500])
def test_a_cost_is_the_librarys_own_figure_rounded_up_to_a_microcredit(model, provider, markup_bps):
    price = book_of(markup_bps=markup_bps).price_for(model, provider, at_ms=NOW)
    for usage in USAGES:
        exact = library_usd(model, provider, usage, AT) * 100 * 1_000_000 * (10_000 + markup_bps) / 10_000
        assert exact <= price.cost_microcredits(usage) < exact + 1, usage


def test_every_token_price_of_the_library_agrees_with_ours_at_both_ends_of_every_tier():
    terms, checked = Terms(credits_per_usd=1_000, markup_bps=0), 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            try:
                price = price_at((provider, model), AT, terms)
            except ValueError:
                pytest.fail(f"{provider.id}/{model.id} does not convert")
            if price.is_free():
                continue
            for edge in (1, *(tier.above_input_tokens + step for tier in price.tiers for step in (0, 1))):
                usage = Usage(input=max(edge - 2, 0), cache_read=1, cache_write=1, output=7, reasoning=3)
                counts = genai_prices.Usage(
                    input_tokens=usage.input + 2,
                    cache_read_tokens=1,
                    cache_write_tokens=1,
                    output_tokens=10,
                    output_reasoning_tokens=3,
                )
                exact = Fraction(model.calc_price(counts, provider, genai_request_timestamp=AT).total_price) * 10**9
                # A price with more decimals than a microcredit per million tokens is rounded up as well.
                assert exact <= price.cost_microcredits(usage) <= exact + 2, (provider.id, model.id, edge)
            checked += 1
    assert checked > 1_000


SPECIAL_PRICES = {
    "input_audio_mtok": ("input_tokens input_audio_tokens", "audio_input"),
    "cache_audio_read_mtok": (
        "input_tokens cache_read_tokens input_audio_tokens cache_audio_read_tokens",
        "audio_cache_read",
    ),
    "cache_write_1h_mtok": ("input_tokens cache_write_tokens cache_write_1h_tokens", "cache_write_1h"),
    "output_audio_mtok": ("output_tokens output_audio_tokens", "audio_output"),
    "output_image_mtok": ("output_tokens output_image_tokens", "image_output"),
}


@pytest.mark.parametrize("key", SPECIAL_PRICES)
def test_audio_images_and_lasting_caches_cost_what_the_library_says(key: str):
    checked, (units, kind) = 0, SPECIAL_PRICES[key]
    for provider in get_snapshot().providers:
        for model in provider.models:
            if getattr(model.get_prices(AT), key) is not None:
                price = price_at((provider, model), AT, Terms(credits_per_usd=1_000, markup_bps=0))
                counts = genai_prices.Usage(**dict.fromkeys(units.split(), 1_000))
                exact = Fraction(model.calc_price(counts, provider, genai_request_timestamp=AT).total_price) * 10**9
                assert exact <= price.cost_microcredits(Usage(**{kind: 1_000})) <= exact + 1, (provider.id, model.id)
                checked += 1
    assert checked >= 8


@pytest.mark.parametrize(("key", "tool"), [("web_searches", "web_search"), ("storage_searches", "file_search")])
def test_calls_of_providers_tools_cost_what_the_library_says(key: str, tool: str):
    checked = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            if getattr(model.get_prices(AT), f"{key}_kcount") is not None:
                price = price_at((provider, model), AT, Terms(credits_per_usd=1_000, markup_bps=0))
                counts = genai_prices.Usage(**{key: 3})
                exact = Fraction(model.calc_price(counts, provider, genai_request_timestamp=AT).total_price) * 10**9
                fee = price.cost_microcredits(Usage(tool_calls={tool: 3})) - price.cost_microcredits(Usage())
                assert exact <= fee <= exact + 1, (provider.id, model.id)
                checked += 1
    assert checked >= 30


def test_tools_of_the_settings_are_priced_for_every_model_before_the_librarys():
    book = PriceBook.from_settings(
        Settings(tools={"web_search": "1", "mine": "2"}, markup_bps=0, prices={"m": {"input": 0, "output": 0}})
    )
    for model in ("m", "gemini-2.5-flash", "gpt-4o"):
        price = book.price_for(model, at_ms=NOW)
        assert price.cost_microcredits(Usage(tool_calls={"web_search": 1, "mine": 1})) == 3 * 10**8, model


def test_a_tool_call_of_a_host_is_a_request_with_a_fee():
    table = {"tool:weather": {"input": 0, "output": 0, "per_request": "0.002"}}
    price = PriceBook.from_settings(Settings(prices=table, markup_bps=0)).price_for("tool:weather", at_ms=NOW)
    assert price.cost_microcredits(Usage()) == 200_000
    assert price.bound_microcredits(input_tokens=9, output_tokens=4_096) == 200_000


def test_a_price_of_the_settings_changes_on_its_date():
    later = {"effective_from": datetime(2026, 12, 1, tzinfo=UTC), "input": "7", "output": "7"}
    table = {
        "m": {"input": "1", "output": "1", "changes": [later]},
        "gpt-4o": {"changes": [later]},
        "*": {"changes": [later]},
    }
    book = PriceBook.from_settings(Settings(prices=table))
    before, after = ms(later["effective_from"]) - 1, ms(later["effective_from"])
    assert [book.price_for("m", at_ms=at).rates.input for at in (before, after)] == [10**8, 7 * 10**8]
    assert [book.price_for("gpt-4o", at_ms=at).provider for at in (before, after)] == ["openai", "settings"]
    assert book.price_for("nonsense", at_ms=after).rates.input == 7 * 10**8
    with pytest.raises(UnknownModel):
        book.price_for("nonsense", at_ms=before)


def test_a_replaced_list_is_in_force_for_the_next_request():
    book = PriceBook.from_settings(Settings(prices={"m": {"input": "1", "output": "1"}}))
    first = book.price_for("m", at_ms=NOW)
    book.replace(PriceBook.from_settings(Settings(prices={"m": {"input": "2", "output": "2"}})).prices)
    assert book.price_for("m", at_ms=NOW).rates.input == 2 * first.rates.input


@pytest.mark.parametrize("name", ["gpt-4o", "own", "openai/own", "acme/*", "*"])
def test_the_price_that_stands_now_where_another_was_applied_is_found_by_its_name(name: str):
    def table(usd: str) -> dict:
        return {key: {"input": usd, "output": usd} for key in ("own", "openai/own", "acme/*", "*")}

    old = PriceBook.from_settings(Settings(prices=table("1")))
    new = PriceBook.from_settings(Settings(prices=table("2"), tenants={"anna": {"markup_bps": 0}}))
    applied = old.prices.price_named(name, None, at_ms=NOW, account_id=None)
    now = new.price_instead_of(applied, at_ms=NOW, account_id="anna")
    assert (now.model, now.markup_bps) == (applied.model, 0)
    assert now.rates.input == applied.rates.input * (1 if name == "gpt-4o" else 2)
    if name.endswith("*"):
        with pytest.raises(UnknownModel):
            PriceBook().price_instead_of(applied, at_ms=NOW, account_id="anna")


def test_long_context_tiers_come_from_the_library():
    price = PriceBook().price_for("gemini-2.5-pro", at_ms=NOW)
    assert [tier.above_input_tokens for tier in price.tiers] == [200_000]
    assert price.tiers[0].rates.input == 2 * price.rates.input


def test_a_fee_per_request_comes_from_the_library():
    assert book_of(markup_bps=0).price_for("sonar-pro", "perplexity", at_ms=NOW).cost_microcredits(Usage()) > 0


def test_more_credits_per_usd_make_a_price_proportionally_larger():
    hundred = book_of(credits_per_usd=100).price_for("gpt-4o", at_ms=NOW)
    thousand = book_of(credits_per_usd=1_000).price_for("gpt-4o", at_ms=NOW)
    assert thousand.rates.input == 10 * hundred.rates.input


@pytest.mark.parametrize("name", ["openai/gpt-4o", "openai:gpt-4o", "OpenAI/GPT-4o", "gpt-4o", "gpt-4o-2024-08-06"])
def test_a_model_is_found_with_or_without_its_provider_before_the_name(name):
    assert PriceBook().price_for(name, at_ms=NOW).provider == "openai"


def test_a_provider_before_the_name_decides_whose_price_it_is():
    book = PriceBook()
    assert book.price_for("openrouter/openai/gpt-4o", at_ms=NOW).provider == "openrouter"
    assert book.price_for("azure/gpt-4o", at_ms=NOW).provider == "azure"
    assert book.price_for("openai/gpt-4o", "openai", at_ms=NOW).model == "gpt-4o"


def test_a_stated_provider_is_honoured_even_if_another_one_has_the_model():
    book = PriceBook()
    assert book.price_for("gpt-4o", "azure", at_ms=NOW).provider == "azure"
    with pytest.raises(UnknownModel):
        book.price_for("gpt-4o", "anthropic", at_ms=NOW)
    with pytest.raises(UnknownModel):
        book.price_for("gpt-4o", "nobody", at_ms=NOW)


def test_litellm_as_provider_means_the_provider_in_the_name():
    assert PriceBook().price_for("anthropic/claude-sonnet-4-5", "litellm", at_ms=NOW).provider == "anthropic"


def test_an_unknown_model_is_refused_and_says_what_to_configure():
    with pytest.raises(
        UnknownModel, match=r"'no-such-model' of provider 'acme'; add .*\[prices.\"name\"\].*\[prices.\"\*\"\]"
    ):
        PriceBook().price_for("no-such-model", "acme", at_ms=NOW)


@pytest.mark.parametrize(
    ("model", "provider"), [("meta-llama/llama-3.3-70b-instruct:free", "openrouter"), ("whisper-1", "openai")]
)
def test_a_model_without_a_positive_token_price_is_refused_unless_configured(model, provider):
    with pytest.raises(UnknownModel):
        PriceBook().price_for(model, provider, at_ms=NOW)
    assert book_of([override(model, "0")]).price_for(model, provider, at_ms=NOW).is_free()
    fallback = book_of(fallback=prefix("", "9")).price_for(model, provider, at_ms=NOW)
    assert fallback.model == "*"


def test_the_library_really_lists_the_free_model_of_the_test_before_at_zero():
    free = "meta-llama/llama-3.3-70b-instruct:free"
    assert library_usd(free, "openrouter", Usage(input=10**6, output=10**6), AT) == 0


def test_an_exact_override_beats_a_prefix_beats_the_library_beats_the_fallback():
    book = book_of(
        [override("gpt-4o", "1"), prefix("gpt-", "2"), prefix("gpt-4o-", "3")],
        fallback=prefix("", "4"),
        markup_bps=0,
    )
    assert book.price_for("gpt-4o", at_ms=NOW).rates.input == 100_000_000
    assert book.price_for("gpt-4.1", at_ms=NOW).rates.input == 200_000_000
    assert book.price_for("gpt-4o-mini", at_ms=NOW).rates.input == 300_000_000
    assert book.price_for("claude-sonnet-4-5", at_ms=NOW).provider == "anthropic"
    assert book.price_for("no-such-model", at_ms=NOW).rates.input == 400_000_000


def test_an_override_of_one_provider_beats_the_bare_name_and_leaves_other_providers_alone():
    book = book_of([override("acme/m", "1"), override("m", "2")], markup_bps=0)
    assert book.price_for("m", "acme", at_ms=NOW).model == "acme/m"
    assert book.price_for("acme/m", at_ms=NOW).model == "acme/m"
    assert book.price_for("m", "other", at_ms=NOW).model == "m"
    with pytest.raises(UnknownModel):
        book.price_for("other/m", at_ms=NOW)


def test_names_of_overrides_ignore_case():
    assert book_of([override("My-Model", "1")]).price_for("MY-model", at_ms=NOW).rates.input == 100_000_000


def test_an_override_may_have_its_own_markup():
    book = book_of([override("m", "1", markup_bps=0), override("n", "1")], markup_bps=5_000)
    assert book.price_for("m", at_ms=NOW).cost_microcredits(Usage(input=1)) == 100
    assert book.price_for("n", at_ms=NOW).cost_microcredits(Usage(input=1)) == 150


def test_names_behind_a_prefix_or_the_fallback_share_one_price_version():
    book = book_of([prefix("acme/", "1")], fallback=prefix("", "2"))
    assert len({book.price_for(f"acme/{n}", at_ms=NOW).digest() for n in range(50)}) == 1
    assert len({book.price_for(f"nonsense-{n}", at_ms=NOW).digest() for n in range(50)}) == 1


def test_a_book_is_built_from_the_settings_table():
    table = {"m": {"input": "1", "output": "2"}, "*": {"input": "3", "output": "4"}}
    book = PriceBook.from_settings(Settings(prices=table, credits_per_usd=10, markup_bps=0))
    assert book.price_for("m", at_ms=NOW).rates.output == 20_000_000
    assert book.price_for("other", at_ms=NOW).rates.output == 40_000_000
    with pytest.raises(ConfigurationError):
        PriceBook.from_settings(Settings(prices={"m": {}}))


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_LENGTH + 1), "x" * 10**8, None, 1, ["gpt-4o"], b"gpt-4o"])
def test_what_is_no_name_is_an_unknown_model_and_short_in_the_message(name):
    with pytest.raises(UnknownModel) as caught:
        book_of(fallback=prefix("", "1")).price_for(name, at_ms=NOW)
    assert len(str(caught.value)) < 500


def test_names_invented_by_strangers_do_not_grow_memory_without_limit():
    book = book_of([prefix("a", "1")])
    for n in range(6_000):
        book.price_for(f"a{n}", at_ms=NOW)
    assert book.prices._cached.cache_info().currsize <= 4_096
    snapshot = get_snapshot()
    before = len(snapshot._lookup_cache), len(snapshot._provider_cache), len(snapshot._provider_misses)
    for n in range(50):
        book.price_for(f"gpt-4o-2024-08-{n % 31 + 1:02}", "azure", at_ms=NOW)
        with pytest.raises(UnknownModel):
            book.price_for(f"nonsense-{n}", at_ms=NOW)
    assert (len(snapshot._lookup_cache), len(snapshot._provider_cache), len(snapshot._provider_misses)) == before


def test_the_same_name_in_the_same_quarter_of_an_hour_is_the_same_object():
    book = PriceBook()
    assert book.price_for("gpt-4o", at_ms=NOW) is book.price_for("gpt-4o", at_ms=NOW + 14 * 60_000)


def test_a_price_that_changes_on_a_date_changes_at_midnight_utc():
    book = PriceBook()
    before = book.price_for("claude-opus-4-6", "anthropic", at_ms=ms(datetime(2026, 3, 12, 23, 59, tzinfo=UTC)))
    after = book.price_for("claude-opus-4-6", "anthropic", at_ms=ms(datetime(2026, 3, 13, tzinfo=UTC)))
    assert before.tiers
    assert not after.tiers
    assert before.digest() != after.digest()


def test_a_price_by_time_of_day_is_looked_up_again_when_its_time_comes():
    book, found = book_of(markup_bps=0), 0
    times = [datetime(2026, 11, 22, hour, minute, tzinfo=UTC) for hour in range(24) for minute in (0, 29, 30)]
    for provider, model in every_model_with_prices_by_time_of_day():
        costs = set()
        for at in times:
            usage = Usage(input=10_000, output=10_000)
            exact = library_usd(model.id, provider.id, usage, at) * 10**8
            cost = book.price_for(model.id, provider.id, at_ms=ms(at)).cost_microcredits(usage)
            assert exact <= cost < exact + 1, (provider.id, model.id, at)
            costs.add(cost)
        found += len(costs) > 1
    assert found


def test_every_time_of_day_of_the_library_is_a_multiple_of_our_period():
    limits = [
        time
        for _, model in every_model_with_prices_by_time_of_day()
        for price in model.prices
        if hasattr(price.constraint, "start_time")
        for time in (price.constraint.start_time, price.constraint.end_time)
    ]
    assert limits
    assert all(time.minute % 15 == 0 and time.second == 0 for time in limits)


def every_model_with_prices_by_time_of_day():
    return [
        (provider, model)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list) and any(hasattr(price.constraint, "start_time") for price in model.prices)
    ]


def test_the_library_is_not_loaded_before_a_name_needs_it():
    code = (
        "import sys\n"
        "from credits_plugin.pricing.price_book import PriceBook, Settings\n"
        "from credits_plugin.pricing import estimate\n"
        "book = PriceBook.from_settings(Settings(prices={'m': {'input': '1', 'output': '1'}}))\n"
        "book.price_for('m', at_ms=0)\n"
        "assert not {'genai_prices', 'pydantic', 'bpe_openai'} & sys.modules.keys()\n"
        "book.warm_up(); assert 'genai_prices' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
