"""What providers charge, from genai-prices: finding a model in its data, and its price in our units. No network.

A look-up takes about 250 microseconds for a known model and up to a millisecond for an unknown one, so what is found is
kept (:mod:`.price_list`). The library's data is loaded when a name first needs it: a quarter of a second, 30 MB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hookspecs import SPECIAL_KINDS

from ..errors import InvalidValue
from .overrides import ToolPrices, tool_rates
from .price import KINDS, Price, Rates, Tier, rate_from_usd

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

Found: TypeAlias = "tuple[Provider, ModelInfo]"

_REQUESTS_PER_KCOUNT: Final = 1_000
_PREFIX_SEPARATORS: Final = "/:"
_PRICE_KEYS: Final = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_cache_read": "cache_audio_read_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "audio_output": "output_audio_mtok",
    "image_output": "output_image_mtok",
}
_TOOL_KEYS: Final = {
    "code_execution": "code_executions_kcount",
    "file_search": "storage_searches_kcount",
    "social_search": "social_searches_kcount",
    "web_search": "web_searches_kcount",
}
_CALLS_PER_KCOUNT: Final = Decimal(1_000)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a provider's USD become ours. ``tools`` are the operator's prices of every model, in USD per call."""

    credits_per_usd: int
    markup_bps: int
    tools: ToolPrices = ()


def bundled_providers() -> list[Provider]:
    """Return the data that came with the installed genai-prices."""
    from genai_prices.data import providers  # noqa: PLC0415 - see above

    return providers


def parse_providers(text: bytes) -> list[Provider]:
    """Read genai-prices' own JSON, the array of providers that it publishes.

    Raises:
        InvalidValue: it is none, or of a form that the installed library does not read.
    """
    # The name is private, but it is all that the library's own updater does with what it has fetched.
    from genai_prices.types import _providers_from_raw  # noqa: PLC0415 - 30 MB, only where a name needs it

    try:
        raw = json.loads(text)
        if not isinstance(raw, list) or not raw:
            msg = "it is no list of providers"
            raise ValueError(msg)
        return _providers_from_raw(raw)
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's error is a ValueError
        msg = f"this is not the price data of genai-prices: {str(error)[:300]}"
        raise InvalidValue(msg) from error


def find_model(providers: list[Provider], model: str, provider: str | None) -> Found | None:
    """Find a model by its name in lower case.

    The library's own matching, without its snapshot's look-up: that remembers every name it was ever asked.
    """
    if provider is not None and provider.lower() != "litellm":
        return _find_in_provider(model, provider, providers)
    prefixed = _find_by_prefix(model, providers)
    if prefixed is not None:
        return prefixed
    matching = (p for p in providers if p.model_match is not None and p.model_match.is_match(model))
    inferred = next(matching, None)
    return _pair(inferred, model, providers) if inferred else None


def _find_in_provider(model: str, provider_id: str, providers: list[Provider]) -> Found | None:
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415 - 30 MB, only where a name needs it

    provider = find_provider_by_id(providers, provider_id)
    if provider is None:
        return None
    found = _pair(provider, model, providers)
    if found is None and model.startswith(tuple(provider.id + separator for separator in _PREFIX_SEPARATORS)):
        found = _pair(provider, model[len(provider.id) + 1 :], providers)
    return found


def _find_by_prefix(model: str, providers: list[Provider]) -> Found | None:
    cut = min((model.find(separator) for separator in _PREFIX_SEPARATORS if separator in model), default=0)
    return _find_in_provider(model[cut + 1 :], model[:cut], providers) if cut else None


def _pair(provider: Provider, model: str, providers: list[Provider]) -> Found | None:
    found = provider.find_model(model, all_providers=providers)
    return (provider, found) if found else None


def price_at(found: Found, at: datetime, terms: Terms) -> Price:
    """Return what a model costs at a time, in our units."""
    provider, model = found
    return _convert(found, model.get_prices(at), terms, provider.id)


def every_price(found: Found, terms: Terms) -> list[Price]:
    """Return all prices that a model has, at whatever time."""
    prices = found[1].prices
    listed = [conditional.prices for conditional in prices] if isinstance(prices, list) else [prices]
    return [_convert(found, one, terms, found[0].id) for one in listed]


def _convert(found: Found, prices: ModelPrice, terms: Terms, provider_id: str) -> Price:
    model = found[1]
    thresholds = sorted({tier.start for price in _token_prices(prices).values() for tier in _tiers_of(price)})
    per_request = _usd_at(getattr(prices, "requests_kcount", None), 0)
    return Price(
        provider=provider_id,
        model=model.id,
        rates=_rates(prices, 0, terms.credits_per_usd),
        markup_bps=terms.markup_bps,
        # One token above the threshold: the first prompt that the tier prices.
        tiers=tuple(Tier(start, _rates(prices, start + 1, terms.credits_per_usd)) for start in thresholds),
        request_rate=rate_from_usd(per_request, terms.credits_per_usd * _REQUESTS_PER_KCOUNT),
        tools=tool_rates((*_tool_prices(prices), *terms.tools), terms.credits_per_usd),
        context_window=model.context_window,
    )


def _rates(prices: ModelPrice, input_tokens: int, credits_per_usd: int) -> Rates:
    stated = {kind: _usd_at(price, input_tokens) for kind, price in _token_prices(prices).items()}
    input_, output = stated.get("input", Decimal(0)), stated.get("output", Decimal(0))
    usd = {"cache_read": input_, "cache_write": input_, "reasoning": output, "input": input_, "output": output} | stated
    if "cache_read" not in stated and "audio_input" in stated:
        usd.setdefault("audio_cache_read", stated["audio_input"])
    usd |= {kind: usd[plain] for kind, plain in SPECIAL_KINDS.items() if kind not in usd}
    return Rates(**{kind: rate_from_usd(usd[kind], credits_per_usd) for kind in KINDS})


def _token_prices(prices: ModelPrice) -> Mapping[str, Decimal | TieredPrices]:
    # Only what the provider states, by our kinds.
    stated = {kind: getattr(prices, key) for kind, key in _PRICE_KEYS.items()}
    return {kind: price for kind, price in stated.items() if price is not None}


def _tool_prices(prices: ModelPrice) -> ToolPrices:
    stated = ((tool, getattr(prices, key)) for tool, key in _TOOL_KEYS.items())
    return tuple((tool, _usd_at(price, 0) / _CALLS_PER_KCOUNT) for tool, price in stated if price is not None)


def _tiers_of(price: Decimal | TieredPrices) -> Sequence[Any]:
    return () if isinstance(price, Decimal) else price.tiers


def _usd_at(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal:
    # genai_prices.types.calc_unit_price: the highest tier with input_tokens > start prices all tokens.
    if price is None or isinstance(price, Decimal):
        return price or Decimal(0)
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base
