"""Where price data comes from: the installed genai-prices, a file, or genai-prices' own updates over the network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError, InvalidValue
from ..settings import Settings
from .catalogue import bundled_providers, parse_providers
from .vetting import Vetted, vet

if TYPE_CHECKING:
    from genai_prices.types import Provider

logger = logging.getLogger(__name__)

_REPORTED: Final = 20


def providers_of(settings: Settings) -> list[Provider] | None:
    """Return the data of the file that ``price_data`` names, vetted; None for the installed one.

    Raises:
        ConfigurationError: the file cannot be read, or is no price data.
    """
    if settings.price_data is None:
        return None
    vetted = read_price_data(settings.price_data, max_factor=settings.price_max_factor)
    report_held_back(vetted, settings.price_data)
    return vetted.providers


def read_price_data(path: str, *, max_factor: int) -> Vetted:
    """Read and vet a file of genai-prices' JSON; takes about a second.

    Raises:
        ConfigurationError: the file cannot be read, or is no price data.
    """
    try:
        return _vetted(parse_providers(Path(path).read_bytes()), max_factor=max_factor)
    except OSError as error:
        msg = f"price_data names {path}, which cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from error
    except InvalidValue as error:
        msg = f"price_data names {path}: {error.message}"
        raise ConfigurationError(msg) from error


def fetch_price_data(url: str | None, *, max_factor: int) -> Vetted:
    """Fetch what genai-prices publishes, with its own updater, and vet it. Blocks for seconds.

    Raises:
        InvalidValue: nothing came, or no price data.
    """
    from genai_prices import UpdatePrices  # noqa: PLC0415 - see catalogue.py

    updater = UpdatePrices(url=url) if url else UpdatePrices()
    try:
        snapshot = updater.fetch()
    except Exception as error:  # whatever a foreign client raises: the prices in force stay
        msg = f"{updater.url} gave no price data: {str(error)[:300]}"
        raise InvalidValue(msg) from error
    if snapshot is None or not snapshot.providers:
        msg = f"{updater.url} gave no price data"
        raise InvalidValue(msg)
    return _vetted(snapshot.providers, max_factor=max_factor)


def _vetted(providers: list[Provider], *, max_factor: int) -> Vetted:
    try:
        return vet(providers, bundled_providers(), max_factor=max_factor)
    except Exception as error:  # whatever foreign data makes of the library, the prices in force stay
        msg = f"the price data cannot be compared with the installed: {str(error)[:300]}"
        raise InvalidValue(msg) from error


def report_held_back(vetted: Vetted, source: str) -> None:
    """Tell the log what is not used of new data."""
    for held in vetted.held_back[:_REPORTED]:
        logger.warning("a new price in %s is held back: %s", source, held)
    if (more := len(vetted.held_back) - _REPORTED) > 0:
        logger.warning("and %d more prices in %s are held back; `credits prices diff` lists them", more, source)
