"""``credits prices``: what requests cost, what would change, and what was charged wrongly."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import InvalidValue, UnknownModel
from ..ledger.ids import now_ms
from ..money import BASIS_POINTS, ceil_div, format_credits
from ..pricing.catalogue import bundled_providers
from ..pricing.price import CALLS_PER_RATE, KINDS, REQUESTS_PER_RATE, Price, Rates
from ..pricing.price_book import PriceBook, price_list
from ..pricing.price_list import PriceList
from ..pricing.sources import fetch_price_data, read_price_data
from ..pricing.vetting import Vetted
from ..settings import load_settings, with_prices_of
from . import rerate
from .options import time_ms


def add_parser(commands: Any) -> None:
    """Add the command and its parts."""
    prices = commands.add_parser("prices", help="check, show and compare prices; rerate: correct what was wrong")
    parts = prices.add_subparsers(required=True, metavar="PART")

    check = parts.add_parser("check", help="read the settings' prices and their price data: is anything wrong?")
    check.set_defaults(run=_check)

    show = parts.add_parser("show", help="what a model costs")
    show.add_argument("model", help="as requests name it")
    show.add_argument("--provider", help="as requests name it")
    show.add_argument("--account", help="for this account, with its markup")
    show.add_argument("--at", metavar="TIME", help="then: 2026-12-01 (UTC) or an ISO time; default now")
    show.set_defaults(run=_show)

    diff = parts.add_parser("diff", help="what other settings, or newer price data, would change")
    diff.add_argument("settings", nargs="?", metavar="FILE", help="another settings file, to compare with the present")
    diff.add_argument("--price-data", metavar="FILE", help="price data of genai-prices, to compare with the installed")
    diff.add_argument("--fetch", action="store_true", help="fetch that data; price_updates_url says from where")
    diff.set_defaults(run=_diff)
    rerate.add_parser(parts)


def _check(_options: argparse.Namespace) -> int:
    settings = load_settings()
    prices = price_list(settings)
    changes = sum(len(one.changes) + (one.effective_from_ms is not None) for one in prices.overrides.every)
    print(f"{len(prices.overrides.every)} prices of your own, {changes} of them with a date")
    by_model, by_tenant = (sum(1 for _ in patterns) for patterns in (prices.markups.models, prices.markups.tenants))
    print(f"{by_model} markups by model, {by_tenant} by tenant")
    models = sum(len(provider.models) for provider in prices.providers)
    print(f"{models:,} models of {len(prices.providers)} providers from {settings.price_data or 'the installed data'}")
    if settings.price_data is None:
        return 0
    return _print_held_back(read_price_data(settings.price_data, max_factor=settings.price_max_factor))


def _show(options: argparse.Namespace) -> int:
    at_ms = now_ms() if options.at is None else time_ms(options.at, "--at")
    book = PriceBook.from_settings(load_settings())
    price = book.price_for(options.model, options.provider, at_ms=at_ms, account_id=options.account)
    source = "your settings" if price.provider == "settings" else f"genai-prices, provider {price.provider}"
    print(f"{price.model}, from {source}; markup {price.markup_bps / 100:g} %")
    for line in _price_lines(price):
        print(line)
    return 0


def _price_lines(price: Price | None) -> Iterator[str]:
    """Yield the price in credits, markup included, as :meth:`Price.cost_microcredits` charges it."""
    if price is None:
        yield "  no price"
        return
    yield from _rate_lines(price, price.rates, "")
    for tier in price.tiers:
        yield from _rate_lines(price, tier.rates, f" of prompts above {tier.above_input_tokens:,} tokens")
    if price.request_rate:
        yield f"  {_credits(price, price.request_rate, REQUESTS_PER_RATE)} credits a request"
    for tool, rate in price.tools:
        yield f"  {_credits(price, rate, CALLS_PER_RATE)} credits a call of {tool}"
    if price.is_free():
        yield "  tokens are free"


def _rate_lines(price: Price, rates: Rates, which: str) -> Iterator[str]:
    stated = ((kind, getattr(rates, kind)) for kind in KINDS)
    for kind, rate in stated:
        if rate is not None:
            yield f"  {_credits(price, rate, 1)} credits a million tokens of {kind.replace('_', ' ')}{which}"


def _credits(price: Price, rate: int, per: int) -> str:
    return format_credits(ceil_div(rate * (BASIS_POINTS + price.markup_bps), BASIS_POINTS * per))


def _diff(options: argparse.Namespace) -> int:
    """Return 0 where nothing differs and 1 where something does."""
    settings = load_settings()
    if (options.settings is not None) + (options.price_data is not None) + options.fetch != 1:
        msg = "credits prices diff compares with one thing: a settings FILE, --price-data FILE or --fetch"
        raise InvalidValue(msg)
    if options.settings is not None:
        before, after = price_list(settings), price_list(with_prices_of(settings, options.settings))
        return _print_differences(before, after, _names(before, after))
    if options.fetch:
        vetted = fetch_price_data(settings.price_updates_url, max_factor=settings.price_max_factor)
    else:
        vetted = read_price_data(options.price_data, max_factor=settings.price_max_factor)
    before, after = (price_list(settings, providers=data) for data in (bundled_providers(), vetted.providers))
    models = {(model.id, one.id) for one in (*before.providers, *after.providers) for model in one.models}
    return max(_print_held_back(vetted), _print_differences(before, after, sorted(models)))


def _names(before: PriceList, after: PriceList) -> list[tuple[str, str | None]]:
    """Return what either list's settings name; whatever else differs is the general markup."""
    if before.markups.general_bps != after.markups.general_bps:
        print(f"the general markup becomes {after.markups.general_bps} instead of {before.markups.general_bps}")
    names = {one.name.lower() for prices in (before, after) for one in prices.overrides.every}
    return [(name, None) for name in sorted(names)]


def _print_differences(before: PriceList, after: PriceList, names: Iterable[tuple[str, str | None]]) -> int:
    at_ms, differing = now_ms(), 0
    for name, provider in names:
        old, new = (_price(prices, name, provider, at_ms=at_ms) for prices in (before, after))
        if old != new:
            differing += 1
            print(f"{provider}/{name}" if provider else name)
            print("\n".join(f"- {line.strip()}" for line in _price_lines(old)))
            print("\n".join(f"+ {line.strip()}" for line in _price_lines(new)))
    print(f"{differing} models cost something else now, to accounts without terms of their own")
    return int(differing > 0)


def _price(prices: PriceList, name: str, provider: str | None, *, at_ms: int) -> Price | None:
    try:
        return prices.price_named(name, provider, at_ms=at_ms, account_id=None)
    except UnknownModel:
        return None


def _print_held_back(vetted: Vetted) -> int:
    for held in vetted.held_back:
        print(f"held back: {held}")
    return int(bool(vetted.held_back))
