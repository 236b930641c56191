"""Prices of a running host, followed as their sources change: settings file, price data, genai-prices' updates.

What is wrong is refused as a whole, once and loudly, and the prices in force stay.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError, InvalidValue
from ..settings import Settings, reload_prices
from .price_book import PriceBook, price_list
from .price_list import PriceList
from .sources import fetch_price_data, report_held_back

if TYPE_CHECKING:
    from genai_prices.types import Provider

logger = logging.getLogger(__name__)

FETCH_INTERVAL_S: Final = 3_600


class PriceRefresher:
    """Keeps a price book at what its sources say. ``look`` blocks, for seconds at worst: call it in a thread."""

    def __init__(self, settings: Settings, book: PriceBook) -> None:
        self._settings = settings
        self._book = book
        self._files: dict[str, _WatchedFile] = {}
        self._fetched: list[Provider] | None = None
        self._next_fetch_ms = 0

    def look(self, *, at_ms: int) -> bool:
        """Look at every source, and put in force what is new and sound; returns whether anything was."""
        names = filter(None, (self._settings.settings_file, self._settings.price_data))
        files = [self._files.setdefault(name, _WatchedFile(name)) for name in names]
        changed = [file.name for file in files if file.has_settled()]
        fetched = self._fetch(at_ms=at_ms)
        return (bool(changed) or fetched) and self._apply(changed)

    def _fetch(self, *, at_ms: int) -> bool:
        if not self._settings.price_updates or at_ms < self._next_fetch_ms:
            return False
        self._next_fetch_ms = at_ms + FETCH_INTERVAL_S * 1_000
        try:
            vetted = fetch_price_data(self._settings.price_updates_url, max_factor=self._settings.price_max_factor)
        except InvalidValue as error:
            logger.warning("prices were not updated: %s", error)
            return False
        if vetted.providers == self._fetched:
            return False
        report_held_back(vetted, "the updated price data")
        self._fetched = vetted.providers
        return True

    def _apply(self, changed: list[str]) -> bool:
        try:
            settings = reload_prices(self._settings)
            prices = price_list(settings, providers=self._fetched if settings.price_updates else None)
        except ConfigurationError as error:
            why = " or ".join(changed), error
            logger.error("the prices in force stay, for %s is refused: %s", *why)  # noqa: TRY400 - the message says all
            return False
        differing = changed_overrides(self._book.prices, prices)
        self._settings = settings
        self._book.replace(prices)
        logger.info("prices were read anew; the settings' own changed for %s", ", ".join(differing) or "no model")
        return True


def changed_overrides(before: PriceList, after: PriceList) -> list[str]:
    """Return the names of the settings' prices that one list has and the other has not, or differently."""
    old, new = ({one.name: one for one in prices.overrides.every} for prices in (before, after))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


class _WatchedFile:
    """A file that is looked at again and again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = Path(name)
        self._stat: tuple[int, int, int] | None = None
        self._seen = ""
        self._used = ""

    def has_settled(self) -> bool:
        """Whether it holds something new, the same at two looks in a row: half of what is being written never counts.

        Each content is reported once, so one that is refused is refused once.
        """
        try:
            stat = self._path.stat()
            now = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if now == self._stat and self._seen == self._used:
                return False
            digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        except OSError as error:
            digest, now = f"unreadable: {error.strerror}", (0, 0, 0)
        settled = digest == self._seen and digest != self._used
        self._stat, self._seen = now, digest
        if settled:
            self._used = digest
        return settled
