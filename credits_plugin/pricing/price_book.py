"""The prices in force, in memory: one price list, replaced as a whole. No network, no lock on the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings import Settings
from .markups import parse_markups
from .overrides import parse_overrides, parse_tools
from .price import Price
from .price_list import PriceList
from .sources import providers_of

if TYPE_CHECKING:
    from genai_prices.types import Provider


class PriceBook:
    """Finds the price of a model by name, at a time, for an account.

    Order: an override of exactly this name (``provider/name`` before ``name``), the override with the longest matching
    prefix, genai-prices, the fallback override. A model that genai-prices lists as free, or prices only in units that
    no usage reports (hours, pages), counts as unknown: only an override can give a model away. Safe between threads.
    Without a list it has genai-prices' own prices and the default markup.
    """

    def __init__(self, prices: PriceList | None = None) -> None:
        self._prices = prices or price_list(Settings())

    @classmethod
    def from_settings(cls, settings: Settings) -> PriceBook:
        """Build from the price part of the settings.

        Raises:
            ConfigurationError: a value is wrong, or ``price_data`` cannot be read.
        """
        return cls(price_list(settings))

    @property
    def prices(self) -> PriceList:
        """The list in force."""
        return self._prices

    def replace(self, prices: PriceList) -> None:
        """Put another list in force, for every request from now on. What was admitted keeps the price of its hold."""
        self._prices = prices

    def price_for(self, model: str, provider: str | None = None, *, at_ms: int, account_id: str | None = None) -> Price:
        """Return the price of ``model`` at ``at_ms`` (milliseconds of the Unix epoch), for ``account_id``.

        ``provider`` is a genai-prices provider id or what its matching accepts (``openai``, ``vertex_ai``); without it
        a prefix of the name counts (``openai/gpt-4o``, ``openai:gpt-4o``), then the library's own inference. The same
        name in the same quarter of an hour returns the same object to accounts on the same terms, until the list is
        replaced.

        Raises:
            UnknownModel: nothing prices the model; the message says what to configure.
        """
        return self._prices.price_for(model, provider, at_ms=at_ms, account_id=account_id)

    def price_instead_of(self, price: Price, *, at_ms: int, account_id: str) -> Price:
        """Return what this book has where ``price`` was applied once: the same model's, at that time.

        A price that stood for many names (``acme/*``, ``*``) is replaced by the one of that name alone: which model was
        asked for behind it, no record tells.

        Raises:
            UnknownModel: nothing here prices it.
        """
        return self._prices.price_instead_of(price, at_ms=at_ms, account_id=account_id)

    def warm_up(self) -> None:
        """Load genai-prices now; blocks for about a quarter of a second."""
        _ = self._prices.providers


def price_list(settings: Settings, *, providers: list[Provider] | None = None) -> PriceList:
    """Build the price list that the settings call for; ``providers`` replaces the data that they name.

    Raises:
        ConfigurationError: a value is wrong, or ``price_data`` cannot be read.
    """
    return PriceList(
        parse_overrides(settings.prices),
        credits_per_usd=settings.credits_per_usd,
        markups=parse_markups(settings.markup_bps, settings.markup, settings.tenants),
        tools=parse_tools(settings.tools, "[tools]"),
        providers=providers_of(settings) if providers is None else providers,
    )
