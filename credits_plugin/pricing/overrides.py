"""Prices that the operator sets: the ``[prices]`` table of the settings file.

.. code-block:: toml

    [prices."my-model"]            # exactly this model, whatever the provider
    input = "0.15"                 # USD per million tokens, in quotes: decimals, never floats
    output = "0.60"
    cache_read = "0.075"           # optional; without it the input price
    cache_write = "0.1875"         # optional; without it the input price
    reasoning = "0.60"             # optional; without it the output price
    audio_input = "40"             # optional, as are audio_cache_read, cache_write_1h, audio_output and image_output;
                                   # without them those tokens cost what text does
    per_request = "0.005"          # optional; USD per request
    markup_bps = 2000              # optional; without it the markup of docs/prices.md
    max_output_tokens = 16384      # optional; the bound for requests that state none

    [prices."my-model".tools]      # optional; USD per call of a tool that the provider runs
    web_search = "0.01"

    [[prices."my-model".changes]]  # optional, several; a whole price that takes its place from then on
    effective_from = 2026-12-01T00:00:00Z
    input = "0.20"
    output = "0.80"

    [prices."openai/gpt-4o"]       # this model of this provider; beats "gpt-4o"
    [prices."acme/*"]              # every name that begins with acme/; the longest such prefix wins
    [prices."*"]                   # every model that neither the lines above nor genai-prices know

A price of ``"0"`` gives the model away; only a line here can do that. A model with ``changes`` alone has the price that
it would have without them until the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from hookspecs import SPECIAL_KINDS

from ..errors import ConfigurationError
from ..money import BASIS_POINTS
from .patterns import Pattern, parse_pattern
from .price import CALLS_PER_RATE, KINDS, REQUESTS_PER_RATE, Price, Rates, rate_from_usd

FALLBACK_PATTERN: Final = "*"
MAX_USD_PER_MILLION: Final = 1_000_000
"""A dollar a token. More is a slip of the decimal point, not a price."""
PERIOD_MS: Final = 15 * 60 * 1_000
"""Prices change at quarters of an hour: so do those of genai-prices that go by the time of day."""

_MAX_PLACES: Final = 18
_REQUIRED: Final = ("input", "output")
_PRICE_KEYS: Final = (*_REQUIRED, *(kind for kind in KINDS if kind not in _REQUIRED), "per_request")
_INTEGER_KEYS: Final = {"markup_bps": (0, 100 * BASIS_POINTS), "max_output_tokens": (1, 10_000_000)}
_OTHER_KEYS: Final = ("tools", "changes")
_DATE_KEY: Final = "effective_from"

ToolPrices = tuple[tuple[str, Decimal], ...]
"""USD per call of each tool, sorted by name."""


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """A price set by the operator, in USD per million tokens; ``per_request`` in USD per request, ``tools`` per call.

    ``pattern`` is a model name, ``provider/model``, or, if ``is_prefix``, how such a name begins. Upper and lower case
    are the same. ``None`` means the documented default of that field. ``changes`` are the prices that follow it, in
    order of time; ``effective_from_ms`` None means from ever.
    """

    pattern: str
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_cache_read: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    per_request: Decimal | None = None
    markup_bps: int | None = None
    max_output_tokens: int | None = None
    is_prefix: bool = False
    tools: ToolPrices = ()
    effective_from_ms: int | None = None
    changes: tuple[PriceOverride, ...] = ()

    @property
    def name(self) -> str:
        """The pattern as the settings file writes it."""
        return Pattern(self.pattern, self.is_prefix).name

    def at(self, at_ms: int) -> PriceOverride | None:
        """Return the price that is in effect then, None before the first one."""
        begun = [one for one in (self, *self.changes) if (one.effective_from_ms or 0) <= at_ms]
        return begun[-1] if begun else None

    def to_price(self, *, credits_per_usd: int, markup_bps: int, tools: ToolPrices = ()) -> Price:
        """Convert to microcredits; ``tools`` are those of every model, which this one's own precede."""
        plain = {
            "input": self.input,
            "cache_read": _stated(self.cache_read, self.input),
            "cache_write": _stated(self.cache_write, self.input),
            "output": self.output,
            "reasoning": _stated(self.reasoning, self.output),
        }
        usd = plain | {kind: _stated(getattr(self, kind), plain[charged]) for kind, charged in SPECIAL_KINDS.items()}
        return Price(
            provider="settings",
            model=self.name,
            rates=Rates(**{kind: rate_from_usd(usd[kind], credits_per_usd) for kind in KINDS}),
            markup_bps=markup_bps,
            request_rate=rate_from_usd(self.per_request or Decimal(0), credits_per_usd * REQUESTS_PER_RATE),
            tools=tool_rates((*tools, *self.tools), credits_per_usd),
            max_output_tokens=self.max_output_tokens,
        )


def tool_rates(tools: ToolPrices, credits_per_usd: int) -> tuple[tuple[str, int], ...]:
    """Convert USD per call to microcredits per million calls; of a tool that is there twice, the last counts."""
    rates = {tool: rate_from_usd(usd, credits_per_usd * CALLS_PER_RATE) for tool, usd in tools}
    return tuple(sorted(rates.items()))


def _stated(usd: Decimal | None, default: Decimal) -> Decimal:
    return default if usd is None else usd


@dataclass(frozen=True, slots=True)
class Overrides:
    """All overrides of the settings file, and the price of unknown models if there is one."""

    prices: tuple[PriceOverride, ...] = ()
    fallback: PriceOverride | None = None

    @property
    def every(self) -> tuple[PriceOverride, ...]:
        """All of them, the fallback last."""
        return self.prices if self.fallback is None else (*self.prices, self.fallback)


def parse_overrides(table: Mapping[str, Any]) -> Overrides:
    """Read the ``[prices]`` table; its form is this module's docstring.

    Raises:
        ConfigurationError: a value is wrong; the message names its key and says what to write instead.
    """
    parsed: dict[str, PriceOverride] = {}
    for name, entry in table.items():
        override = _parse_entry(name, entry)
        if override.name in parsed:
            msg = f'[prices."{name}"] is there twice; upper and lower case are the same, keep one'
            raise ConfigurationError(msg, key=name)
        parsed[override.name] = override
    fallback = parsed.pop(FALLBACK_PATTERN, None)
    return Overrides(tuple(parsed.values()), fallback)


def parse_tools(table: object, where: str) -> ToolPrices:
    """Read a table of USD per call.

    Raises:
        ConfigurationError: it is no table, or a value is wrong.
    """
    if not isinstance(table, Mapping):
        msg = f'{where} must be a table; write {where} and below it web_search = "0.01", in USD per call'
        raise ConfigurationError(msg, key=where)
    return tuple(sorted((tool, _parse_usd(f"{where} {tool}", usd)) for tool, usd in table.items()))


def _parse_entry(name: str, entry: object) -> PriceOverride:
    where = f'[prices."{name}"]'
    if not isinstance(entry, Mapping):
        msg = f'{where} must be a table; write {where} and below it input = "0.15" and output = "0.60"'
        raise ConfigurationError(msg, key=name)
    pattern = parse_pattern(name.lower(), where, what="model name")
    changes = _parse_changes(name, pattern, entry.get("changes", []))
    if changes and entry.keys() == {"changes"}:
        return replace(changes[0], changes=changes[1:])
    _require_keys(where, entry, name, known=(*_PRICE_KEYS, *_INTEGER_KEYS, *_OTHER_KEYS))
    return PriceOverride(pattern.text, is_prefix=pattern.is_prefix, changes=changes, **_parse_values(where, entry))


def _parse_changes(name: str, pattern: Pattern, entries: object) -> tuple[PriceOverride, ...]:
    where = f'[[prices."{name}".changes]]'
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        msg = f"{where} must be a list of tables, each with {_DATE_KEY}, input and output"
        raise ConfigurationError(msg, key=name)
    changes = []
    for entry in entries:
        _require_keys(where, entry, name, known=(_DATE_KEY, *_PRICE_KEYS, *_INTEGER_KEYS, "tools"))
        from_ms = _parse_date(where, entry.get(_DATE_KEY))
        values = _parse_values(where, entry)
        changes.append(PriceOverride(pattern.text, is_prefix=pattern.is_prefix, effective_from_ms=from_ms, **values))
    changes.sort(key=lambda change: change.effective_from_ms or 0)
    if len({change.effective_from_ms for change in changes}) < len(changes):
        msg = f"{where} has two prices from the same time on; keep one"
        raise ConfigurationError(msg, key=name)
    return tuple(changes)


def _parse_values(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {key: _parse_usd(f"{where} {key}", entry[key]) for key in _PRICE_KEYS if key in entry}
    values |= {key: _parse_integer(f"{where} {key}", key, entry[key]) for key in _INTEGER_KEYS if key in entry}
    return values | ({"tools": parse_tools(entry["tools"], f"{where} tools")} if "tools" in entry else {})


def _parse_date(where: str, value: object) -> int:
    if isinstance(value, datetime) and value.tzinfo is not None:
        at_ms = int(value.astimezone(UTC).timestamp() * 1_000)
        if at_ms > 0 and at_ms % PERIOD_MS == 0:
            return at_ms
    msg = (
        f"{where} {_DATE_KEY} is {value!s:.40}; write a time with its zone, on a quarter of an hour, without quotes, "
        f"as in {_DATE_KEY} = 2026-12-01T00:00:00Z"
    )
    raise ConfigurationError(msg, key=where)


def _require_keys(where: str, entry: Mapping[str, Any], name: str, *, known: tuple[str, ...]) -> None:
    unknown = sorted(str(key) for key in entry if key not in known)
    if unknown:
        hint = f"; quote the model's name, as in {where}" if isinstance(entry[unknown[0]], Mapping) else ""
        msg = f"{where} has unknown keys {', '.join(unknown)}; known are {', '.join(known)}{hint}"
        raise ConfigurationError(msg, key=name)
    missing = [key for key in _REQUIRED if key not in entry]
    if missing:
        msg = f'{where} lacks {" and ".join(missing)}; write {missing[0]} = "0.15", in USD per million tokens'
        raise ConfigurationError(msg, key=name)


def _parse_usd(where: str, value: object) -> Decimal:
    advice = 'write USD per million tokens in quotes, from "0" up, as in "0.15"'
    if isinstance(value, float):
        advice = f'a float is not exact; write it in quotes, as in "{value}"' if value >= 0 else advice
    elif type(value) is int and 0 <= value <= MAX_USD_PER_MILLION:
        return Decimal(value)
    elif isinstance(value, str):
        price = _decimal(value)
        if price is not None:
            return price
    msg = f"{where} is {value!r:.40}; {advice}"
    raise ConfigurationError(msg, key=where)


def _decimal(text: str) -> Decimal | None:
    try:
        price = Decimal(text.strip())
    except InvalidOperation:
        return None
    if not price.is_finite() or price.is_signed() or price > MAX_USD_PER_MILLION:
        return None
    exponent = price.as_tuple().exponent
    return price if isinstance(exponent, int) and exponent >= -_MAX_PLACES else None


def _parse_integer(where: str, key: str, value: object) -> int:
    low, high = _INTEGER_KEYS[key]
    if type(value) is not int or not low <= value <= high:
        example = "2000 for 20 %" if key == "markup_bps" else "16384"
        msg = f"{where} is {value!r:.40}; write a whole number from {low} to {high} without quotes, as in {example}"
        raise ConfigurationError(msg, key=where)
    return value
