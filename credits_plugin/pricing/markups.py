"""Our markup on provider prices: the ``[markup]`` and ``[tenants]`` tables of the settings file.

.. code-block:: toml

    markup_bps = 1500              # of everything that nothing below is said about

    [markup]                       # by model: names and beginnings of names, as in [prices]
    "gpt-4o" = 1000
    "anthropic/*" = 1200

    [tenants."acme"]               # by payer: exactly this account ...
    markup_bps = 500

    [tenants."acme".markup]        # ... and for it by model
    "gpt-4o" = 0

    [tenants."team-*"]             # every account whose name begins so; an exact name, then the longest beginning wins
    markup_bps = 800

The first of these that is stated counts: the tenant's for the model, the tenant's, the price's own ``markup_bps``, the
``[markup]`` of the model, the general one. One entry of ``[tenants]`` speaks for an account, never two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import ConfigurationError
from ..money import BASIS_POINTS
from .patterns import Pattern, Patterns, parse_pattern

HIGHEST_MARKUP_BPS: Final = 100 * BASIS_POINTS
_TENANT_KEYS: Final = ("markup_bps", "markup")


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """What is agreed with one account, or with those whose names begin so. Compared by identity: it keys caches."""

    name: str
    markup_bps: int | None = None
    models: Patterns[int] = field(default_factory=Patterns)


class Markups:
    """All markups of the settings file, in basis points. Immutable."""

    def __init__(
        self, general_bps: int, *, models: Patterns[int] | None = None, tenants: Patterns[Tenant] | None = None
    ) -> None:
        self.general_bps = general_bps
        self.models: Patterns[int] = models or Patterns()
        self.tenants: Patterns[Tenant] = tenants or Patterns()

    def tenant_of(self, account_id: str | None) -> Tenant | None:
        """Return the entry that speaks for an account; upper and lower case differ in accounts' names."""
        return self.tenants.find(account_id) if account_id is not None else None

    def markup_bps(self, *names: str, tenant: Tenant | None, own_bps: int | None) -> int:
        """Return the markup on a model that goes by ``names`` and whose price states ``own_bps``."""
        stated = (
            tenant.models.find(*names) if tenant is not None else None,
            tenant.markup_bps if tenant is not None else None,
            own_bps,
            self.models.find(*names),
        )
        return next((bps for bps in stated if bps is not None), self.general_bps)


def parse_markups(general_bps: int, markup: object, tenants: object) -> Markups:
    """Read the two tables; their form is this module's docstring.

    Raises:
        ConfigurationError: a value is wrong; the message names its key and says what to write instead.
    """
    if not isinstance(tenants, Mapping):
        msg = '[tenants] must be a table of tables; write [tenants."acme"] and below it markup_bps = 500'
        raise ConfigurationError(msg, key="tenants")
    parsed = [_parse_tenant(name, entry) for name, entry in tenants.items()]
    return Markups(general_bps, models=_parse_models(markup, "[markup]"), tenants=Patterns(parsed))


def _parse_tenant(name: str, entry: object) -> tuple[Pattern, Tenant]:
    where = f'[tenants."{name}"]'
    unknown = sorted(entry.keys() - set(_TENANT_KEYS)) if isinstance(entry, Mapping) else []
    if not isinstance(entry, Mapping) or unknown or not entry:
        msg = f"{where} must be a table with {' or '.join(_TENANT_KEYS)}"
        raise ConfigurationError(f"{msg}; unknown are {', '.join(unknown)}" if unknown else msg, key=name)
    pattern = parse_pattern(name, where, what="account name")
    general = _parse_bps(f"{where} markup_bps", entry["markup_bps"]) if "markup_bps" in entry else None
    models = _parse_models(entry.get("markup", {}), f'[tenants."{name}".markup]')
    return pattern, Tenant(pattern.name, general, models)


def _parse_models(table: object, where: str) -> Patterns[int]:
    if not isinstance(table, Mapping):
        msg = f'{where} must be a table; write {where} and below it "gpt-4o" = 1000, in basis points'
        raise ConfigurationError(msg, key=where)
    return Patterns(_parse_models_markup(name, bps, where) for name, bps in table.items())


def _parse_models_markup(name: str, bps: Any, where: str) -> tuple[Pattern, int]:
    pattern = parse_pattern(name.lower(), f'{where} "{name}"', what="model name")
    return pattern, _parse_bps(f'{where} "{name}"', bps)


def _parse_bps(where: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= HIGHEST_MARKUP_BPS:
        hint = "; quote the model's name" if isinstance(value, Mapping) else ""
        msg = (
            f"{where} is {value!r:.40}; write a whole number of basis points from 0 to {HIGHEST_MARKUP_BPS} without "
            f"quotes, as in 2000 for 20 %{hint}"
        )
        raise ConfigurationError(msg, key=where)
    return value
