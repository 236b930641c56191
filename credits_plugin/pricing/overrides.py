"""Prices that the operator sets: the ``[prices]`` table of the settings file.

.. code-block:: toml

    [prices."my-model"]            # exactly this model, whatever the provider
    input = "0.15"                 # USD per million tokens, in quotes: decimals, never floats
    output = "0.60"
    cache_read = "0.075"           # optional; without it the input price
    cache_write = "0.1875"         # optional; without it the input price
    reasoning = "0.60"             # optional; without it the output price
    per_request = "0.005"          # optional; USD per request
    markup_bps = 2000              # optional; without it the general markup
    max_output_tokens = 16384      # optional; the bound for requests that state none

    [prices."openai/gpt-4o"]       # this model of this provider; beats "gpt-4o"
    [prices."acme/*"]              # every name that begins with acme/; the longest such prefix wins
    [prices."*"]                   # every model that neither the lines above nor genai-prices know

A price of ``"0"`` gives the model away; only a line here can do that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from ..errors import ConfigurationError
from ..money import BASIS_POINTS
from .price import REQUESTS_PER_RATE, Price, Rates, rate_from_usd

FALLBACK_PATTERN: Final = "*"
MAX_USD_PER_MILLION: Final = 1_000_000
"""A dollar a token. More is a slip of the decimal point, not a price."""

_MAX_PLACES: Final = 18
_PRICE_KEYS: Final = ("input", "output", "cache_read", "cache_write", "reasoning", "per_request")
_REQUIRED: Final = ("input", "output")
_INTEGER_KEYS: Final = {"markup_bps": (0, 100 * BASIS_POINTS), "max_output_tokens": (1, 10_000_000)}


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """A price set by the operator, in USD per million tokens; ``per_request`` in USD per request.

    ``pattern`` is a model name, ``provider/model``, or, if ``is_prefix``, how such a name begins. Upper and lower case
    are the same. ``None`` means the documented default of that field.
    """

    pattern: str
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    per_request: Decimal | None = None
    markup_bps: int | None = None
    max_output_tokens: int | None = None
    is_prefix: bool = False

    @property
    def name(self) -> str:
        """The pattern as the settings file writes it."""
        return self.pattern + "*" * self.is_prefix

    def to_price(self, *, credits_per_usd: int, markup_bps: int) -> Price:
        """Convert to microcredits; ``markup_bps`` applies where the override states none."""

        def rate(usd: Decimal | None, default: Decimal) -> int:
            return rate_from_usd(default if usd is None else usd, credits_per_usd)

        return Price(
            provider="settings",
            model=self.name,
            rates=Rates(
                input=rate(self.input, self.input),
                cache_read=rate(self.cache_read, self.input),
                cache_write=rate(self.cache_write, self.input),
                output=rate(self.output, self.output),
                reasoning=rate(self.reasoning, self.output),
            ),
            markup_bps=markup_bps if self.markup_bps is None else self.markup_bps,
            request_rate=rate_from_usd(self.per_request or Decimal(0), credits_per_usd * REQUESTS_PER_RATE),
            max_output_tokens=self.max_output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Overrides:
    """All overrides of the settings file, and the price of unknown models if there is one."""

    prices: tuple[PriceOverride, ...] = ()
    fallback: PriceOverride | None = None


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


def _parse_entry(name: str, entry: object) -> PriceOverride:
    where = f'[prices."{name}"]'
    if not isinstance(entry, Mapping):
        msg = f'{where} must be a table; write {where} and below it input = "0.15" and output = "0.60"'
        raise ConfigurationError(msg, key=name)
    _require_keys(where, entry, name)
    pattern = name.strip().lower()
    is_prefix = pattern.endswith("*")
    pattern = pattern.removesuffix("*")
    if "*" in pattern or not (pattern or is_prefix):
        msg = f'{where} is no model name; write a name, or the beginning of one followed by a single *, as in "acme/*"'
        raise ConfigurationError(msg, key=name)
    values: dict[str, Any] = {key: _parse_usd(f"{where} {key}", entry[key]) for key in _PRICE_KEYS if key in entry}
    values |= {key: _parse_integer(f"{where} {key}", key, entry[key]) for key in _INTEGER_KEYS if key in entry}
    return PriceOverride(pattern=pattern, is_prefix=is_prefix, **values)


def _require_keys(where: str, entry: Mapping[str, Any], name: str) -> None:
    known = (*_PRICE_KEYS, *_INTEGER_KEYS)
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
