"""Packages: a mistake in the settings is named at start-up."""

from __future__ import annotations

import pytest

from credits_plugin.errors import ConfigurationError
from credits_plugin.ledger.entries import LotTerms
from credits_plugin.payments.packages import Package, parse_packages
from credits_plugin.settings import DEFAULT_PACKAGES

GOOD = {"id": 1, "name": "Starter", "credits": 1_000, "price_minor": 1_000, "currency": "usd"}


def test_the_default_packages_start_with_a_thousand_credits_for_ten_dollars():
    packages = parse_packages(DEFAULT_PACKAGES)
    assert list(packages) == [1, 2, 3]
    assert packages[1] == Package(1, "Starter", 1_000, 1_000, "usd")
    assert packages[1].microcredits == 1_000_000_000


def test_a_currency_is_stored_in_lower_case():
    assert parse_packages([GOOD | {"currency": "EUR"}])[1].currency == "eur"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": 0}, "id"),
        ({"id": True}, "id"),
        ({"id": "1"}, "id"),
        ({"id": 2**31}, "id"),
        ({"name": "  "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 5}, "name"),
        ({"credits": 0}, "credits"),
        ({"credits": 1.5}, "credits"),
        ({"credits": 2**62}, "credits"),
        ({"price_minor": -1}, "price_minor"),
        ({"price_minor": 100_000_000}, "price_minor"),
        ({"price_minor": "10.00"}, "price_minor"),
        ({"price_minor": 1_001, "currency": "kwd"}, "price_minor"),
        ({"currency": "dollars"}, "currency"),
        ({"currency": None}, "currency"),
        ({"price": 10}, "price"),
        *(({"valid_days": wrong}, "valid_days") for wrong in (0, -1, "x", "30", True, 1.5, None, 36_501, 10**9)),
        *(({"priority": wrong}, "priority") for wrong in (-1, "x", "0", True, 0.5, None, 1_001, 10**9)),
        ({"valid_for_days": 30}, "may have valid_days, priority"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change, named):
    with pytest.raises(ConfigurationError, match=rf"packages\[1\].*{named}"):
        parse_packages([GOOD | change])


def test_credits_never_expire_and_have_the_middle_priority_unless_the_package_says_more():
    assert parse_packages([GOOD])[1].terms(granted_at_ms=1_000) == LotTerms(100, None)
    longest = parse_packages([GOOD | {"valid_days": 36_500, "priority": 1_000}])[1]
    assert longest.terms(granted_at_ms=1_000) == LotTerms(1_000, 1_000 + 36_500 * 86_400_000)
    shortest = parse_packages([GOOD | {"valid_days": 1, "priority": 0}])[1]
    assert shortest.terms(granted_at_ms=0) == LotTerms(0, 86_400_000)


def test_terms_out_of_range_are_told_with_what_is_in_it():
    with pytest.raises(ConfigurationError, match=r"packages\[1\]\.valid_days must be .* from 1 to 36500; got 0"):
        parse_packages([GOOD | {"valid_days": 0}])
    with pytest.raises(ConfigurationError, match=r"packages\[1\]\.priority must be .* from 0 to 1000; got -1"):
        parse_packages([GOOD | {"priority": -1}])


def test_a_missing_key_is_named():
    with pytest.raises(ConfigurationError, match=r"packages\[1\] lacks currency"):
        parse_packages([{key: value for key, value in GOOD.items() if key != "currency"}])


def test_an_id_that_is_used_twice_is_refused():
    with pytest.raises(ConfigurationError, match="used twice"):
        parse_packages([GOOD, GOOD])


def test_nothing_to_sell_is_refused():
    with pytest.raises(ConfigurationError, match="no packages"):
        parse_packages([])
