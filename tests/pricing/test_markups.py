"""Whose markup counts: the tenant's for the model, the tenant's, the price's, the model's, the general one."""

from __future__ import annotations

import tomllib

import pytest

from credits_plugin.errors import ConfigurationError
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.settings import Settings

SETTINGS = """
markup_bps = 1500

[prices."own"]
input = "1"
output = "1"
markup_bps = 700

[prices."plain"]
input = "1"
output = "1"

[markup]
"own" = 600
"gpt-4o" = 500
"openai/*" = 400
"claude-*" = 300

[tenants."acme"]
markup_bps = 200

[tenants."acme".markup]
"own" = 100
"claude-sonnet-*" = 0

[tenants."acme-*"]
markup_bps = 50

[tenants."acme-eu-*".markup]
"plain" = 25
"""
NOW = 1_764_000_000_000


def book(toml: str = SETTINGS) -> PriceBook:
    return PriceBook.from_settings(Settings(**tomllib.loads(toml)))


@pytest.mark.parametrize(
    ("model", "account_id", "markup_bps"),
    [
        ("own", "acme", 100),  # tenant and model
        ("plain", "acme", 200),  # tenant
        ("gpt-4o", "acme", 200),  # tenant before model
        ("claude-sonnet-4-5", "acme", 0),
        ("claude-opus-4-6", "acme", 200),
        ("own", None, 700),  # the price's own before the model's
        ("gpt-4o", "somebody", 500),  # model: exact before the longest beginning
        ("openai/gpt-4o", "somebody", 500),
        ("gpt-4o-mini", "somebody", 400),  # by the provider that has it
        ("claude-sonnet-4-5", "somebody", 300),
        ("plain", "somebody", 1_500),  # general
        ("gemini-2.5-pro", "somebody", 1_500),
        ("own", "acme-us-1", 50),
        ("plain", "acme-eu-1", 25),  # the longest beginning speaks for the account ...
        ("own", "acme-eu-1", 700),  # ... alone
        ("plain", "Acme", 1_500),  # accounts' names have cases
    ],
)
def test_the_most_particular_markup_counts(model: str, account_id: str | None, markup_bps: int):
    assert book().price_for(model, at_ms=NOW, account_id=account_id).markup_bps == markup_bps


def test_tenants_on_the_same_terms_share_a_price_version_and_others_do_not():
    prices = book()
    same = {prices.price_for("own", at_ms=NOW, account_id=f"acme-{n}").digest() for n in range(50)}
    assert len(same) == 1
    assert prices.price_for("own", at_ms=NOW, account_id="acme").digest() not in same
    assert prices.prices._cached.cache_info().currsize == 2


def test_a_tenants_markup_is_on_the_fallback_and_on_free_models_too():
    toml = (
        '[prices."*"]\ninput = "1"\noutput = "1"\n[prices."free"]\ninput = 0\noutput = 0\n[tenants.t]\nmarkup_bps = 9'
    )
    assert book(toml).price_for("nonsense", at_ms=NOW, account_id="t").markup_bps == 9
    assert book(toml).price_for("free", at_ms=NOW, account_id="t").is_free()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[markup]\nm = -1", r'\[markup\] "m" is -1; write a whole number of basis points'),
        ("[markup]\ngpt-4.1 = 5", "quote the model's name"),
        ("[markup]\n'a*b' = 5", "no model name"),
        ("markup = 5", r"\[markup\] must be a table"),
        ("tenants = 5", r"\[tenants\] must be a table"),
        ("[tenants]\nacme = 5", r'\[tenants."acme"\] must be a table'),
        ("[tenants.acme]", "must be a table with markup_bps or markup"),
        ("[tenants.acme]\nmarkup = 5", "must be a table"),
        ("[tenants.acme]\nmarkup_bps = '5'", "write a whole number"),
        ("[tenants.acme]\nbps = 5", "unknown are bps"),
        ("[tenants.'a*b']\nmarkup_bps = 5", "no account name"),
        ("[tools]\nweb_search = 0.1", "a float is not exact"),
        ("tools = 1", r"\[tools\] must be a table"),
    ],
)
def test_a_table_that_is_wrong_says_what_to_write(toml: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        book(toml)
