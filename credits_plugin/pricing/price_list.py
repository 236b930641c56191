"""All prices as they stand: the operator's overrides first, then genai-prices' data, with our markup. Immutable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ..errors import UnknownModel
from .catalogue import Terms, bundled_providers, find_model, price_at
from .markups import Markups, Tenant
from .overrides import PERIOD_MS, Overrides, PriceOverride, ToolPrices
from .patterns import Pattern, Patterns
from .price import Price

if TYPE_CHECKING:
    from genai_prices.types import Provider

MAX_NAME_LENGTH: Final = 200
"""Longer model or provider names are unknown without a search: names come from requests."""

_CACHED_NAMES: Final = 4_096


class PriceList:
    """Finds the price of a model by name, at a time, for an account; see :class:`.price_book.PriceBook`.

    ``providers`` None is the data that came with genai-prices, loaded when a name first needs it.
    """

    def __init__(
        self,
        overrides: Overrides,
        *,
        credits_per_usd: int,
        markups: Markups,
        tools: ToolPrices = (),
        providers: list[Provider] | None = None,
    ) -> None:
        self.overrides = overrides
        self.markups = markups
        self._credits_per_usd = credits_per_usd
        self._tools = tools
        self._providers = providers
        self._patterns: Patterns[PriceOverride] = Patterns(
            (Pattern(override.pattern.lower(), override.is_prefix), override) for override in overrides.prices
        )
        self._cached: Callable[[str, str | None, int, Tenant | None], Price | None] = lru_cache(_CACHED_NAMES)(
            self._search
        )

    @property
    def providers(self) -> list[Provider]:
        """The data of genai-prices that is used."""
        return bundled_providers() if self._providers is None else self._providers

    def price_for(self, model: str, provider: str | None, *, at_ms: int, account_id: str | None) -> Price:
        """See :meth:`.price_book.PriceBook.price_for`."""
        if not _is_name(model) or not (provider is None or _is_name(provider)):
            raise _unknown(model, provider)
        price = self._cached(model, provider, at_ms // PERIOD_MS, self.markups.tenant_of(account_id))
        if price is None:
            raise _unknown(model, provider)
        return price

    def price_instead_of(self, price: Price, *, at_ms: int, account_id: str | None) -> Price:
        """See :meth:`.price_book.PriceBook.price_instead_of`."""
        provider = None if price.provider == "settings" else price.provider
        return self.price_named(price.model, provider, at_ms=at_ms, account_id=account_id)

    def price_named(self, name: str, provider: str | None, *, at_ms: int, account_id: str | None) -> Price:
        """Return the price of a model, or the price that the settings file calls so: ``acme/*``, ``*``.

        Raises:
            UnknownModel: nothing prices it.
        """
        if not name.endswith("*"):
            return self.price_for(name, provider, at_ms=at_ms, account_id=account_id)
        same = next((one.at(at_ms) for one in self.overrides.every if one.name.lower() == name.lower()), None)
        if same is None:
            raise _unknown(name, provider)
        return self._convert(same, (name.lower().removesuffix("*"),), self.markups.tenant_of(account_id))

    def _search(self, model: str, provider: str | None, period: int, tenant: Tenant | None) -> Price | None:
        name, at_ms = model.lower(), period * PERIOD_MS
        names = (f"{provider.lower()}/{name}", name) if provider else (name,)
        in_effect = (override.at(at_ms) for override in self._patterns.matches(*names))
        if override := next(filter(None, in_effect), None):
            return self._convert(override, names, tenant)
        found = find_model(self.providers, name, provider)
        if found is not None:
            names = (*names, f"{found[0].id}/{found[1].id}".lower(), found[1].id.lower())
            markup_bps = self.markups.markup_bps(*names, tenant=tenant, own_bps=None)
            terms = Terms(self._credits_per_usd, markup_bps, self._tools)
            price = price_at(found, datetime.fromtimestamp(at_ms / 1_000, UTC), terms)
            if not price.is_free():
                return price
        fallback = self.overrides.fallback and self.overrides.fallback.at(at_ms)
        return self._convert(fallback, names, tenant) if fallback else None

    def _convert(self, override: PriceOverride, names: Sequence[str], tenant: Tenant | None) -> Price:
        markup_bps = self.markups.markup_bps(*names, tenant=tenant, own_bps=override.markup_bps)
        return override.to_price(credits_per_usd=self._credits_per_usd, markup_bps=markup_bps, tools=self._tools)


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
