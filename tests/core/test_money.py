"""Integer money: exact, rounded in one direction, every currency with its own exponent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits_plugin.errors import InvalidValue
from credits_plugin.money import (
    MAX_AMOUNT,
    format_credits,
    format_money,
    parse_credits,
    parse_money,
    proportional_credits,
    require_amount,
)


@pytest.mark.parametrize(
    ("microcredits", "shown"),
    [(1_000_000_000, "1,000"), (-42_500, "-0.0425"), (0, "0"), (1, "0.000001"), (1_500_000, "1.5")],
)
def test_credits_are_shown_exactly(microcredits: int, shown: str):
    assert format_credits(microcredits) == shown


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT))
def test_what_is_shown_parses_back(microcredits: int):
    assert parse_credits(format_credits(microcredits)) == microcredits


@pytest.mark.parametrize("text", ["", "abc", "NaN", "inf", "1e30", "0.0000001", "1.2.3", "--1"])
def test_text_that_is_no_number_of_credits_is_refused(text: str):
    with pytest.raises(InvalidValue):
        parse_credits(text)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [(1_000, "usd", "$10.00"), (500, "jpy", "¥500"), (1_500, "kwd", "KWD 1.500"), (-5, "eur", "-€0.05")],
)
def test_money_has_its_currencys_places(amount: int, currency: str, shown: str):
    assert format_money(amount, currency) == shown


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [("10", "usd", 1_000), ("9.99", "usd", 999), ("500", "jpy", 500), ("1.5", "kwd", 1_500)],
)
def test_money_is_parsed_into_minor_units(text: str, currency: str, amount: int):
    assert parse_money(text, currency) == amount


@pytest.mark.parametrize(
    ("text", "currency"), [("0", "usd"), ("-1", "usd"), ("1.001", "usd"), ("1.5", "jpy"), ("x", "usd")]
)
def test_money_that_cannot_be_is_refused(text: str, currency: str):
    with pytest.raises(InvalidValue):
        parse_money(text, currency)


@pytest.mark.parametrize(
    "value", [0, -1, 2**63, True, 1.0, "1", float("nan"), None, pytest.param(10**5_000, id="huge")]
)
def test_an_amount_must_be_a_positive_whole_number_that_fits(value: object):
    with pytest.raises(InvalidValue):
        require_amount(value, "an amount")


@given(st.integers(1, 10**15), st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
def test_partial_claw_backs_add_up_to_the_grant(granted: int, parts: list[int]):
    whole = sum(parts)
    taken, refunded = 0, 0
    for part in parts:
        refunded += part
        target = proportional_credits(granted, part_minor=refunded, whole_minor=whole)
        assert target >= taken
        taken = target
    assert taken == granted
