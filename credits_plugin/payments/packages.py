"""Packages: what is sold, at what price. Parsed once at start-up, so that a mistake there never reaches a buyer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ..errors import ConfigurationError
from ..ledger.entries import LotTerms
from ..money import MAX_AMOUNT, MICROCREDITS_PER_CREDIT, credits_to_microcredits, currency_exponent

_KEYS: Final = ("id", "name", "credits", "price_minor", "currency")
_MAX_ID: Final = 2**31 - 1
_MAX_NAME: Final = 250
_MAX_PRICE_MINOR: Final = 99_999_999
"""Stripe's own limit: eight digits."""
_TERMS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({"valid_days": (1, 36_500), "priority": (0, 1_000)})
"""What a package may say of its credits' terms: lowest and highest. A hundred years, and room on both sides of 100."""
_DAY_MS: Final = 86_400_000
_CURRENCY: Final = re.compile(r"[a-z]{3}")


@dataclass(frozen=True, slots=True)
class Package:
    """A fixed number of whole credits for a fixed price in minor units of ``currency`` (lower case).

    The credits expire ``valid_days`` days of 24 hours after they were granted, None: never; ``priority`` is their place
    in burn-down, lower first.
    """

    id: int
    name: str
    credits: int
    price_minor: int
    currency: str
    valid_days: int | None = None
    priority: int = LotTerms().priority

    @property
    def microcredits(self) -> int:
        """The credits in the ledger's unit."""
        return credits_to_microcredits(self.credits)

    def terms(self, *, granted_at_ms: int) -> LotTerms:
        """Return how credits of this package are burned down that are granted at ``granted_at_ms``."""
        expires_at_ms = None if self.valid_days is None else granted_at_ms + self.valid_days * _DAY_MS
        return LotTerms(self.priority, expires_at_ms)


def parse_packages(tables: Sequence[Mapping[str, Any]]) -> dict[int, Package]:
    """Parse the ``[[packages]]`` tables of the settings into packages by id, in their order.

    Raises:
        ConfigurationError: a table is incomplete or wrong, or an id is used twice; the message names it.
    """
    packages: dict[int, Package] = {}
    for position, table in enumerate(tables, 1):
        package = _parse_package(table, where=f"packages[{position}]")
        if package.id in packages:
            msg = f"packages[{position}].id {package.id} is used twice; give each package its own id"
            raise ConfigurationError(msg)
        packages[package.id] = package
    if not packages:
        msg = "no packages are configured, so nothing can be sold; add a [[packages]] table to the settings file"
        raise ConfigurationError(msg)
    return packages


def _parse_package(table: Mapping[str, Any], *, where: str) -> Package:
    if missing := [key for key in _KEYS if key not in table]:
        msg = f"{where} lacks {', '.join(missing)}; a package has {', '.join(_KEYS)}"
        raise ConfigurationError(msg)
    if unknown := [str(key) for key in table if key not in {*_KEYS, *_TERMS}]:
        may_have = f"a package has {', '.join(_KEYS)}, and may have {', '.join(_TERMS)}"
        msg = f"{where} has unknown keys {', '.join(unknown)}; {may_have}"
        raise ConfigurationError(msg)
    package = Package(
        _whole(table["id"], highest=_MAX_ID, what=f"{where}.id"),
        _name(table["name"], what=f"{where}.name"),
        _whole(table["credits"], highest=MAX_AMOUNT // MICROCREDITS_PER_CREDIT, what=f"{where}.credits"),
        _whole(table["price_minor"], highest=_MAX_PRICE_MINOR, what=f"{where}.price_minor"),
        _currency(table["currency"], what=f"{where}.currency"),
        **_terms(table, where=where),
    )
    if currency_exponent(package.currency) == 3 and package.price_minor % 10:
        msg = f"{where}.price_minor must end in 0: card networks take {package.currency} to two places only"
        raise ConfigurationError(msg)
    return package


def _terms(table: Mapping[str, Any], *, where: str) -> dict[str, int]:
    """Return what the table says of its credits' terms; what it leaves out has a default."""
    return {
        key: _whole(table[key], lowest=lowest, highest=highest, what=f"{where}.{key}")
        for key, (lowest, highest) in _TERMS.items()
        if key in table
    }


def _whole(value: Any, *, highest: int, what: str, lowest: int = 1) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        msg = f"{what} must be a whole number from {lowest} to {highest}; got {value!r:.40}"
        raise ConfigurationError(msg)
    return value


def _name(value: Any, *, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_NAME or not value.isprintable():
        msg = f"{what} must be 1 to {_MAX_NAME} printable characters; got {value!r:.40}"
        raise ConfigurationError(msg)
    return value


def _currency(value: Any, *, what: str) -> str:
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value.lower()):
        msg = f"{what} must be a three-letter currency code like 'usd'; got {value!r:.40}"
        raise ConfigurationError(msg)
    return value.lower()
