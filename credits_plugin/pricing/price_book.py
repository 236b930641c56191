"""All prices in memory: the operator's overrides first, then the bundled snapshot of genai-prices. No network.

A look-up through genai-prices takes about 250 microseconds for a known model and up to a millisecond for an unknown
one; ours is one cached call after the first. The library's data is loaded when a name first needs it (a quarter of a
second, 30 MB): call :meth:`PriceBook.warm_up` from a thread at start to keep that off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..errors import UnknownModel
from .overrides import Overrides, PriceOverride, parse_overrides
from .price import KINDS, Price, Rates, Tier, rate_from_usd

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

__all__ = ["Overrides", "Price", "PriceBook", "PriceOverride", "Rates", "Tier", "parse_overrides"]

MAX_NAME_LENGTH: Final = 200
"""Longer model or provider names are unknown without a search: names come from requests."""

_CACHED_NAMES: Final = 4_096
# genai-prices has prices by time of day. All its limits, and all offsets between time zones, are multiples of this.
_PERIOD_MS: Final = 15 * 60 * 1_000
_REQUESTS_PER_KCOUNT: Final = 1_000
_PREFIX_SEPARATORS: Final = "/:"

_Found: TypeAlias = "tuple[Provider, ModelInfo]"


class PriceBook:
    """Finds the price of a model by name, at a time.

    Order: an override of exactly this name (``provider/name`` before ``name``), the override with the longest matching
    prefix, genai-prices, the fallback override. A model that genai-prices lists as free, or prices only in units that
    no usage reports (hours, pages), counts as unknown: only an override can give a model away. Safe between threads.
    """

    def __init__(
        self,
        overrides: Sequence[PriceOverride] = (),
        *,
        credits_per_usd: int = 100,
        markup_bps: int = 1_500,
        fallback: PriceOverride | None = None,
    ) -> None:
        self._credits_per_usd = credits_per_usd
        self._markup_bps = markup_bps
        convert = self._convert_override
        self._exact = {override.pattern.lower(): convert(override) for override in overrides if not override.is_prefix}
        prefixes = [(override.pattern.lower(), convert(override)) for override in overrides if override.is_prefix]
        self._prefixes = sorted(prefixes, key=lambda item: len(item[0]), reverse=True)
        self._fallback = convert(fallback) if fallback else None
        self._cached: Callable[[str, str | None, int], Price | None] = lru_cache(_CACHED_NAMES)(self._search)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, credits_per_usd: int, markup_bps: int) -> PriceBook:
        """Build from the ``[prices]`` table of the settings file, see :mod:`.overrides`.

        Raises:
            ConfigurationError: a value of the table is wrong.
        """
        parsed = parse_overrides(table)
        return cls(parsed.prices, credits_per_usd=credits_per_usd, markup_bps=markup_bps, fallback=parsed.fallback)

    def price_for(self, model: str, provider: str | None = None, *, at_ms: int) -> Price:
        """Return the price of ``model`` at ``at_ms`` (milliseconds of the Unix epoch).

        ``provider`` is a genai-prices provider id or what its matching accepts (``openai``, ``vertex_ai``); without it
        a prefix of the name counts (``openai/gpt-4o``, ``openai:gpt-4o``), then the library's own inference. The same
        name in the same quarter of an hour returns the same object.

        Raises:
            UnknownModel: nothing prices the model; the message says what to configure.
        """
        if not _is_name(model) or not (provider is None or _is_name(provider)):
            raise _unknown(model, provider)
        price = self._cached(model, provider, at_ms // _PERIOD_MS)
        if price is None:
            raise _unknown(model, provider)
        return price

    def warm_up(self) -> None:
        """Load genai-prices now; blocks for about a quarter of a second."""
        _providers()

    def _search(self, model: str, provider: str | None, period: int) -> Price | None:
        override = self._find_override(model.lower(), provider.lower() if provider else None)
        if override is not None:
            return override
        found = _find_model(model.lower(), provider)
        if found is not None:
            price = self._convert_model(*found, datetime.fromtimestamp(period * _PERIOD_MS / 1_000, UTC))
            if not price.is_free():
                return price
        return self._fallback

    def _find_override(self, model: str, provider: str | None) -> Price | None:
        names = (f"{provider}/{model}", model) if provider else (model,)
        for name in names:
            if name in self._exact:
                return self._exact[name]
        return next((price for prefix, price in self._prefixes if any(n.startswith(prefix) for n in names)), None)

    def _convert_override(self, override: PriceOverride) -> Price:
        return override.to_price(credits_per_usd=self._credits_per_usd, markup_bps=self._markup_bps)

    def _convert_model(self, provider: Provider, model: ModelInfo, at: datetime) -> Price:
        prices = model.get_prices(at)
        thresholds = sorted({tier.start for price in _token_prices(prices).values() for tier in _tiers_of(price)})
        per_request = _usd_at(getattr(prices, "requests_kcount", None), 0)
        return Price(
            provider=provider.id,
            model=model.id,
            rates=self._convert_rates(prices, 0),
            markup_bps=self._markup_bps,
            # One token above the threshold: the first prompt that the tier prices.
            tiers=tuple(Tier(start, self._convert_rates(prices, start + 1)) for start in thresholds),
            request_rate=rate_from_usd(per_request, self._credits_per_usd * _REQUESTS_PER_KCOUNT),
            context_window=model.context_window,
        )

    def _convert_rates(self, prices: ModelPrice, input_tokens: int) -> Rates:
        stated = {kind: _usd_at(price, input_tokens) for kind, price in _token_prices(prices).items()}
        input_, output = stated.get("input", Decimal(0)), stated.get("output", Decimal(0))
        usd = {"cache_read": input_, "cache_write": input_, "reasoning": output, "input": input_, "output": output}
        return Rates(**{kind: rate_from_usd((usd | stated)[kind], self._credits_per_usd) for kind in KINDS})


_PRICE_KEYS: Final = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
}


def _token_prices(prices: ModelPrice) -> dict[str, Decimal | TieredPrices]:
    # Only what the provider states, by our kinds.
    stated = {kind: getattr(prices, key) for kind, key in _PRICE_KEYS.items()}
    return {kind: price for kind, price in stated.items() if price is not None}


def _tiers_of(price: Decimal | TieredPrices) -> Sequence[Any]:
    return () if isinstance(price, Decimal) else price.tiers


def _usd_at(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal:
    # genai_prices.types.calc_unit_price: the highest tier with input_tokens > start prices all tokens.
    if price is None or isinstance(price, Decimal):
        return price or Decimal(0)
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
    return reached[-1] if reached else price.base


def _providers() -> list[Provider]:
    # Late: a quarter of a second and 30 MB that a shop with its own prices for everything never needs.
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    return get_snapshot().providers


def _find_model(model: str, provider: str | None) -> _Found | None:
    # The library's own matching, without its snapshot's look-up: that remembers every name it was ever asked.
    providers = _providers()
    if provider is not None and provider.lower() != "litellm":
        return _find_in_provider(model, provider, providers)
    prefixed = _find_by_prefix(model, providers)
    if prefixed is not None:
        return prefixed
    matching = (p for p in providers if p.model_match is not None and p.model_match.is_match(model))
    inferred = next(matching, None)
    return _pair(inferred, model, providers) if inferred else None


def _find_in_provider(model: str, provider_id: str, providers: list[Provider]) -> _Found | None:
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415

    provider = find_provider_by_id(providers, provider_id)
    if provider is None:
        return None
    found = _pair(provider, model, providers)
    if found is None and model.startswith(tuple(provider.id + separator for separator in _PREFIX_SEPARATORS)):
        found = _pair(provider, model[len(provider.id) + 1 :], providers)
    return found


def _find_by_prefix(model: str, providers: list[Provider]) -> _Found | None:
    cut = min((model.find(separator) for separator in _PREFIX_SEPARATORS if separator in model), default=0)
    return _find_in_provider(model[cut + 1 :], model[:cut], providers) if cut else None


def _pair(provider: Provider, model: str, providers: list[Provider]) -> _Found | None:
    found = provider.find_model(model, all_providers=providers)
    return (provider, found) if found else None


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH


def _unknown(model: object, provider: str | None) -> UnknownModel:
    shown = f"{model!r:.80}"
    of_provider = f" of provider {provider!r:.80}" if provider else ""
    msg = (
        f'no price is known for model {shown}{of_provider}; add it to the settings file as [prices."name"] with input '
        'and output in USD per million tokens, or add [prices."*"] as the price of every unknown model'
    )
    return UnknownModel(msg, model=shown, provider=provider)
