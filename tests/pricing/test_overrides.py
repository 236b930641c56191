"""The operator's prices: parsing, and what a wrong line says."""

from __future__ import annotations

import tomllib
from decimal import Decimal

import pytest

from credits_plugin.errors import ConfigurationError
from credits_plugin.pricing.overrides import PriceOverride, parse_overrides
from hookspecs import Usage

EXAMPLE = """
[prices."my-model"]
input = "0.15"
output = "0.60"
cache_read = "0.075"
cache_write = "0.1875"
reasoning = "0.70"
per_request = "0.005"
markup_bps = 2000
max_output_tokens = 16384

[prices."Acme/*"]
input = 1
output = "2"

[prices."*"]
input = "30"
output = "60"
"""


def parse(toml: str):
    return parse_overrides(tomllib.loads(toml)["prices"])


def test_every_documented_key_is_read():
    parsed = parse(EXAMPLE)
    assert parsed.prices[0] == PriceOverride(
        "my-model",
        Decimal("0.15"),
        Decimal("0.60"),
        cache_read=Decimal("0.075"),
        cache_write=Decimal("0.1875"),
        reasoning=Decimal("0.70"),
        per_request=Decimal("0.005"),
        markup_bps=2000,
        max_output_tokens=16384,
    )


def test_a_trailing_star_is_a_prefix_and_a_lone_star_the_fallback():
    parsed = parse(EXAMPLE)
    assert parsed.prices[1] == PriceOverride("acme/", Decimal(1), Decimal(2), is_prefix=True)
    assert parsed.fallback == PriceOverride("", Decimal(30), Decimal(60), is_prefix=True)


def test_an_override_becomes_a_price_in_microcredits():
    price = parse(EXAMPLE).prices[0].to_price(credits_per_usd=100, markup_bps=2_000)
    usage = Usage(1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)
    usd = Decimal("0.15") + Decimal("0.075") + Decimal("0.1875") + Decimal("0.60") + Decimal("0.70") + Decimal("0.005")
    assert price.cost_microcredits(usage) == usd * Decimal("1.2") * 100 * 1_000_000
    assert price.max_output_tokens == 16384


def test_unstated_kinds_follow_input_and_output_and_the_general_markup():
    price = parse(EXAMPLE).prices[1].to_price(credits_per_usd=100, markup_bps=1_500)
    assert price.rates.cache_read == price.rates.cache_write == price.rates.input == 100_000_000
    assert price.rates.reasoning == price.rates.output == 200_000_000
    assert price.markup_bps == 1_500
    assert price.model == "acme/*"


def test_a_price_of_zero_may_be_configured():
    price = parse('[prices.m]\ninput = "0"\noutput = 0').prices[0].to_price(credits_per_usd=100, markup_bps=1_500)
    assert price.is_free()


def test_no_overrides_are_none():
    assert parse_overrides({}).prices == ()
    assert parse_overrides({}).fallback is None


@pytest.mark.parametrize(
    "value",
    ['"-0.15"',
     '"-0"', '"NaN"', '"sNaN"', '"Infinity"', '""', '"free"', '"0,15"', "-1", "true", "[]", '"1e7"', '"1e-19"',
     "nan", "-0.5", "1000001"],
)  # fmt: skip
def test_a_price_that_is_no_decimal_from_zero_up_is_refused_and_says_what_to_write(value):
    with pytest.raises(
        ConfigurationError, match=r'\[prices."m"\] output is .*; write USD per million tokens in quotes'
    ):
        parse(f'[prices.m]\ninput = "1"\noutput = {value}')


def test_a_float_is_refused_and_shown_in_quotes():
    with pytest.raises(ConfigurationError, match=r'\[prices."m"\] input is 0.15; a float is not exact; .* "0.15"'):
        parse('[prices.m]\ninput = 0.15\noutput = "1"')


@pytest.mark.parametrize("value", ["-1", "1000001", "15.0", '"1500"', "true"])
def test_a_markup_that_is_no_whole_number_is_refused(value):
    with pytest.raises(ConfigurationError, match=r'\[prices."m"\] markup_bps is .* write a whole number'):
        parse(f'[prices.m]\ninput = "1"\noutput = "1"\nmarkup_bps = {value}')


@pytest.mark.parametrize("value", ["0", "-1", "true", "1e3"])
def test_an_output_limit_that_is_no_positive_whole_number_is_refused(value):
    with pytest.raises(ConfigurationError, match=r'\[prices."m"\] max_output_tokens is'):
        parse(f'[prices.m]\ninput = "1"\noutput = "1"\nmax_output_tokens = {value}')


def test_an_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"unknown keys cached, inptu; known are input, output, cache_read"):
        parse('[prices.m]\ninptu = "1"\noutput = "1"\ncached = 1')


def test_a_model_name_with_a_dot_and_no_quotes_is_explained():
    with pytest.raises(ConfigurationError, match="quote the model's name"):
        parse('[prices.gpt-4.1]\ninput = "1"\noutput = "1"')


@pytest.mark.parametrize("lines", ['input = "1"', 'output = "1"', ""])
def test_a_price_without_input_or_output_is_refused(lines):
    with pytest.raises(ConfigurationError, match=r"lacks (input|output)"):
        parse(f"[prices.m]\n{lines}")


@pytest.mark.parametrize("name", ["a*b", "**", "a**", "", "  "])
def test_a_name_with_a_star_elsewhere_or_no_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="no model name"):
        parse(f'[prices."{name}"]\ninput = "1"\noutput = "1"')


def test_a_value_instead_of_a_table_is_refused():
    with pytest.raises(ConfigurationError, match="must be a table"):
        parse('[prices]\nm = "0.15"')


def test_two_names_that_differ_in_case_only_are_refused():
    with pytest.raises(ConfigurationError, match="there twice"):
        parse('[prices.M]\ninput = "1"\noutput = "1"\n[prices.m]\ninput = "2"\noutput = "2"')


DATED = """
[prices.m]
input = "1"
output = "2"

[[prices.m.changes]]
effective_from = 2027-01-01T00:00:00Z
input = "5"
output = "6"
markup_bps = 0
tools = {web_search = "0.5"}

[[prices.m.changes]]
effective_from = 2026-12-01T02:00:00+02:00
input = "3"
output = "4"
"""
DECEMBER, JANUARY = 1_796_083_200_000, 1_798_761_600_000


def test_a_price_changes_on_its_dates_whatever_their_order_in_the_file():
    override = parse(DATED).prices[0]
    prices = [override.at(at).input for at in (0, DECEMBER - 1, DECEMBER, JANUARY - 1, JANUARY, 2 * JANUARY)]
    assert prices == [1, 1, 3, 3, 5, 5]
    assert (override.at(JANUARY).markup_bps, override.at(DECEMBER).markup_bps) == (0, None)
    assert override.at(JANUARY).to_price(credits_per_usd=100, markup_bps=0).tools == (
        ("web_search", 50_000_000_000_000),
    )


def test_a_model_with_changes_alone_has_no_price_of_its_own_before_them():
    override = parse("\n".join(DATED.splitlines()[5:])).prices[0]
    assert override.at(DECEMBER - 1) is None
    assert [override.at(at).input for at in (DECEMBER, JANUARY)] == [3, 5]


@pytest.mark.parametrize(
    ("date", "message"),
    [
        ("2026-12-01T00:00:00", "with its zone"),
        ("2026-12-01", "with its zone"),
        ('"2026-12-01T00:00:00Z"', "without quotes"),
        ("2026-12-01T00:07:00Z", "quarter of an hour"),
        ("1960-12-01T00:00:00Z", "with its zone"),
    ],
)
def test_a_date_that_is_none_is_refused_and_says_what_to_write(date: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        parse(f'[[prices.m.changes]]\neffective_from = {date}\ninput = "1"\noutput = "1"')


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[[prices.m.changes]]\ninput = "1"\noutput = "1"', "effective_from is None"),
        ('[[prices.m.changes]]\neffective_from = 2026-12-01T00:00:00Z\ninput = "1"', "lacks output"),
        ('[prices.m.changes]\ninput = "1"', "must be a list of tables"),
        ('[[prices.m.changes]]\neffective_from = 2026-12-01T00:00:00Z\ninput = "1"\noutput = "1"\n' * 2, "same time"),
        ('[prices.m]\ninput = "1"\noutput = "1"\ntools = 5', "tools must be a table"),
        ('[prices.m]\ninput = "1"\noutput = "1"\n[prices.m.tools]\nweb_search = 0.01', "a float is not exact"),
    ],
)
def test_a_change_or_a_tool_that_is_wrong_is_refused(toml: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        parse(toml)


def test_special_kinds_and_tools_may_be_priced():
    toml = '[prices.m]\ninput = "1"\noutput = "2"\naudio_input = "4"\nimage_output = "9"\ntools = {web_search = "0.01"}'
    price = (
        parse(toml)
        .prices[0]
        .to_price(
            credits_per_usd=100, markup_bps=0, tools=(("file_search", Decimal("0.1")), ("web_search", Decimal(7)))
        )
    )
    assert price.cost_microcredits(Usage(audio_input=10**6, image_output=10**6)) == 13 * 100_000_000
    assert price.cost_microcredits(Usage(audio_cache_read=1, audio_output=1)) == 300
    assert price.cost_microcredits(Usage(tool_calls={"web_search": 1})) == 1_000_000  # its own, not the general one
    assert price.cost_microcredits(Usage(tool_calls={"file_search": 1})) == 10_000_000
