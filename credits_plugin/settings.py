"""Frozen settings. The only reader of the environment; everything else is handed a :class:`Settings`.

The environment names what differs per machine (keys, URLs, database); an optional TOML file, named by
``CREDITS_SETTINGS``, holds what a shop decides: packages, prices and rules. See docs/configuration.md.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .money import BASIS_POINTS

DEFAULT_PACKAGES: Final[tuple[Mapping[str, Any], ...]] = (
    {"id": 1, "name": "Starter", "credits": 1_000, "price_minor": 1_000, "currency": "usd"},
    {"id": 2, "name": "Plus", "credits": 5_500, "price_minor": 5_000, "currency": "usd"},
    {"id": 3, "name": "Studio", "credits": 24_000, "price_minor": 20_000, "currency": "usd"},
)
"""What is sold while the settings file has no ``[[packages]]``: 1,000 credits for $10, and two larger packages."""


class UnknownUsageRule(StrEnum):
    """What a request costs whose usage was never reported (crash, hold expired)."""

    RELEASE = "release"
    CHARGE_INPUT = "charge_input"


class HoldPolicy(StrEnum):
    """What is held for a request that does not extend its hold while it streams."""

    BOUND = "bound"
    """The most it can cost: no overrun."""
    OBSERVED = "observed"
    """What requests like it cost: more of them at the same time, and an overrun may leave a debt."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a build of the product needs to know. Durations end in their unit; secrets stay out of ``repr``."""

    database_url: str = "sqlite:///credits.db"
    frontend_url: str = "http://127.0.0.1:8080"
    stripe_secret_key: str = field(default="", repr=False)
    stripe_webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    stripe_api_base: str | None = None
    prefix: str = "/api/credits"
    pages_prefix: str = "/credits"
    packages: Sequence[Mapping[str, Any]] = DEFAULT_PACKAGES
    prices: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    markup: Mapping[str, Any] = field(default_factory=dict)
    tenants: Mapping[str, Any] = field(default_factory=dict)
    price_data: str | None = None
    price_updates: bool = False
    price_updates_url: str | None = None
    price_max_factor: int = 3
    credits_per_usd: int = 100
    markup_bps: int = 1_500
    default_max_output_tokens: int = 4_096
    default_tool_calls: int = 5
    hold_ttl_s: int = 600
    hold_policy: HoldPolicy = HoldPolicy.BOUND
    hold_percentile: int = 95
    unknown_usage: UnknownUsageRule = UnknownUsageRule.RELEASE
    sweep_interval_s: float = 5.0
    reconcile_interval_s: int = 900
    queue_limit: int = 20_000
    low_balance_credits: int = 100
    promotion_codes: bool = False
    automatic_tax: bool = False
    run_budget_credits: int = 0
    run_report_days: int = 30
    hosts_secret: str = field(default="", repr=False)
    hosts_listen: str = "127.0.0.1:0"
    settings_file: str | None = None
    from_environment: frozenset[str] = frozenset()
    """Settings that the environment named: the file does not change them."""

    def __post_init__(self) -> None:
        _require_url(self.frontend_url, "FRONTEND_URL")
        for name in ("prefix", "pages_prefix"):
            value = getattr(self, name)
            if not value.startswith("/") or value.endswith("/"):
                msg = f"{name} must start with a slash and not end with one, like '/api/credits'; got {value!r}"
                raise ConfigurationError(msg)
        host, _, port = self.hosts_listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > _LAST_PORT:
            msg = f"CREDITS_HOSTS_LISTEN must be an address and a port, like '10.0.0.5:7400'; got {self.hosts_listen!r}"
            raise ConfigurationError(msg)
        for name, lowest, highest in _BOUNDS:
            value = getattr(self, name)
            if isinstance(value, bool) or not lowest <= value <= highest:
                msg = f"{name} must be between {lowest} and {highest}; got {value!r}"
                raise ConfigurationError(msg)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                msg = f"{name} must be true or false; got {getattr(self, name)!r}"
                raise ConfigurationError(msg)
        self._check_price_sources()
        if any(not secret.strip() for secret in self.stripe_webhook_secrets):
            msg = "STRIPE_WEBHOOK_SECRET has an empty entry: anybody can sign with an empty secret; remove it"
            raise ConfigurationError(msg)

    def _check_price_sources(self) -> None:
        if self.price_updates_url is not None:
            _require_url(self.price_updates_url, "price_updates_url")
        if self.price_updates and self.price_data:
            msg = "price_updates and price_data both name where price data comes from; set one of them"
            raise ConfigurationError(msg)

    @property
    def livemode(self) -> bool:
        """Whether the Stripe key moves real money. Events of the other mode are quarantined."""
        return self.stripe_secret_key.startswith(("sk_live_", "rk_live_"))

    @property
    def purchase_url(self) -> str:
        """The page on which a user buys credits."""
        return f"{self.frontend_url}{self.pages_prefix}"

    @property
    def success_url(self) -> str:
        """Where Stripe sends a buyer who has paid; Stripe fills in the session id."""
        return f"{self.purchase_url}/success?session_id={{CHECKOUT_SESSION_ID}}"

    @property
    def cancel_url(self) -> str:
        """Where Stripe sends a buyer who goes back."""
        return f"{self.purchase_url}/cancel"

    def require_stripe(self) -> None:
        """Refuse to take payments without keys.

        Raises:
            ConfigurationError: naming each missing variable.
        """
        missing = [
            name
            for name, value in (
                ("STRIPE_SECRET_KEY", self.stripe_secret_key),
                ("STRIPE_WEBHOOK_SECRET", self.stripe_webhook_secrets),
            )
            if not value
        ]
        if missing:
            msg = (
                f"{' and '.join(missing)} not set: copy them from the Stripe dashboard (Developers), "
                "or use those of `credits sandbox`"
            )
            raise ConfigurationError(msg)


_LAST_PORT: Final = 65_535
_SWITCHES: Final = ("promotion_codes", "automatic_tax", "price_updates")
_BOUNDS: Final = (
    ("credits_per_usd", 1, 1_000_000),
    ("markup_bps", 0, 100 * BASIS_POINTS),
    ("default_max_output_tokens", 1, 10_000_000),
    ("default_tool_calls", 0, 1_000),
    ("hold_ttl_s", 1, 86_400),
    ("hold_percentile", 50, 100),
    ("sweep_interval_s", 0.05, 3_600),
    ("reconcile_interval_s", 0, 86_400),
    ("queue_limit", 16, 10_000_000),
    ("low_balance_credits", 0, 10**12),
    ("run_budget_credits", 0, 10**12),
    ("run_report_days", 1, 10_000),
    ("price_max_factor", 1, 1_000),
)

_ENVIRONMENT: Final = {
    "DATABASE_URL": "database_url",
    "FRONTEND_URL": "frontend_url",
    "STRIPE_SECRET_KEY": "stripe_secret_key",
    "STRIPE_WEBHOOK_SECRET": "stripe_webhook_secrets",
    "CREDITS_STRIPE_API_BASE": "stripe_api_base",
    "CREDITS_PREFIX": "prefix",
    "CREDITS_PAGES_PREFIX": "pages_prefix",
    "CREDITS_PER_USD": "credits_per_usd",
    "CREDITS_MARKUP_BPS": "markup_bps",
    "CREDITS_DEFAULT_MAX_OUTPUT_TOKENS": "default_max_output_tokens",
    "CREDITS_DEFAULT_TOOL_CALLS": "default_tool_calls",
    "CREDITS_HOLD_TTL_S": "hold_ttl_s",
    "CREDITS_HOLD_POLICY": "hold_policy",
    "CREDITS_HOLD_PERCENTILE": "hold_percentile",
    "CREDITS_UNKNOWN_USAGE": "unknown_usage",
    "CREDITS_SWEEP_INTERVAL_S": "sweep_interval_s",
    "CREDITS_RECONCILE_INTERVAL_S": "reconcile_interval_s",
    "CREDITS_QUEUE_LIMIT": "queue_limit",
    "CREDITS_LOW_BALANCE_CREDITS": "low_balance_credits",
    "CREDITS_RUN_BUDGET_CREDITS": "run_budget_credits",
    "CREDITS_RUN_REPORT_DAYS": "run_report_days",
    "CREDITS_PROMOTION_CODES": "promotion_codes",
    "CREDITS_AUTOMATIC_TAX": "automatic_tax",
    "CREDITS_PRICE_DATA": "price_data",
    "CREDITS_PRICE_UPDATES": "price_updates",
    "CREDITS_PRICE_UPDATES_URL": "price_updates_url",
    "CREDITS_PRICE_MAX_FACTOR": "price_max_factor",
    "CREDITS_HOSTS_SECRET": "hosts_secret",
    "CREDITS_HOSTS_LISTEN": "hosts_listen",
}

_RULES: Final[Mapping[str, type[StrEnum]]] = {"unknown_usage": UnknownUsageRule, "hold_policy": HoldPolicy}
_TABLES: Final = frozenset({"packages", "prices", "tools", "markup", "tenants"})
PRICE_SETTINGS: Final = tuple(
    "prices tools markup tenants markup_bps credits_per_usd "
    "price_data price_updates price_updates_url price_max_factor".split()
)
"""What a running host reads anew when its settings file changes."""
# What the TOML file may set besides its tables; secrets stay in the environment.
_FILE_KEYS: Final = frozenset(_ENVIRONMENT.values()) - {"stripe_secret_key", "stripe_webhook_secrets", "hosts_secret"}


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the environment and the TOML file that ``CREDITS_SETTINGS`` names; the environment wins.

    Raises:
        ConfigurationError: a value is missing or wrong; the message names the variable and says what to write.
    """
    source = os.environ if environment is None else environment
    values = _read_file(source.get("CREDITS_SETTINGS"))
    named = {attribute: name for name, attribute in _ENVIRONMENT.items() if source.get(name, "").strip()}
    values |= {attribute: _parse(name, attribute, source[name].strip()) for attribute, name in named.items()}
    if "STRIPE_WEBHOOK_SECRET" in source and not source["STRIPE_WEBHOOK_SECRET"].strip():
        msg = "STRIPE_WEBHOOK_SECRET is empty: anybody can sign with an empty secret; set it or remove the variable"
        raise ConfigurationError(msg)
    if "frontend_url" in values:
        values["frontend_url"] = values["frontend_url"].rstrip("/")
    values |= {"settings_file": source.get("CREDITS_SETTINGS") or None, "from_environment": frozenset(named)}
    return Settings(**values)


def reload_prices(settings: Settings) -> Settings:
    """Return the settings with the price part of their file as it is now; the environment wins, as before.

    Raises:
        ConfigurationError: any value of the file is missing or wrong.
    """
    if settings.settings_file is None:
        return settings
    read = _read_file(settings.settings_file)
    left_out: dict[str, Any] = {
        one.name: one.default if one.default_factory is MISSING else {} for one in fields(Settings)
    }
    movable = set(PRICE_SETTINGS) - settings.from_environment
    return replace(settings, **{name: read.get(name, left_out[name]) for name in movable})


def with_prices_of(settings: Settings, path: str) -> Settings:
    """Return the settings with those of the price part that another file states, whatever the environment says.

    Raises:
        ConfigurationError: any value of the file is wrong.
    """
    read = _read_file(path)
    return replace(settings, **{name: read[name] for name in PRICE_SETTINGS if name in read})


def _parse(name: str, attribute: str, text: str) -> Any:
    match attribute:
        case "stripe_webhook_secrets":
            return tuple(secret.strip() for secret in text.split(","))
        case "unknown_usage" | "hold_policy":
            return _parse_rule(_RULES[attribute], name, text)
        case _ if attribute in _SWITCHES:
            return _parse_switch(name, text)
        case "sweep_interval_s":
            return _parse_number(name, text, float)
        case _ if any(attribute == bound[0] for bound in _BOUNDS):
            return _parse_number(name, text, int)
        case _:
            return text


def _parse_rule(rules: type[StrEnum], name: str, text: str) -> StrEnum:
    try:
        return rules(text)
    except ValueError:
        msg = f"{name} must be one of {', '.join(rules)}; got {text!r}"
        raise ConfigurationError(msg) from None


def _parse_switch(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        msg = f"{name} must be true or false; got {text!r}"
        raise ConfigurationError(msg)
    return text == "true"


def _parse_number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError:
        msg = f"{name} must be a number, without a unit; got {text!r}"
        raise ConfigurationError(msg) from None


def _read_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"the settings file {path} cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid TOML: {error}"
        raise ConfigurationError(msg) from error
    unknown = table.keys() - _FILE_KEYS - _TABLES
    if unknown:
        known = ", ".join(sorted(_FILE_KEYS | _TABLES))
        msg = f"{path} has unknown settings {', '.join(sorted(unknown))}; known are {known}"
        raise ConfigurationError(msg)
    for name, rules in _RULES.items():
        if name in table:
            table[name] = _parse_rule(rules, name, str(table[name]))
    return table


def _require_url(value: str, name: str) -> None:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        msg = f"{name} must be an http(s) address without a query, like 'https://chat.example.com'; got {value!r}"
        raise ConfigurationError(msg)
