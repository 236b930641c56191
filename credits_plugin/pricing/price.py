"""One model's price as integers, and the two sums made with it: the cost after a call, its upper bound before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, Self

from hookspecs import Usage

from ..errors import InvalidValue
from ..money import BASIS_POINTS, MAX_AMOUNT, MICROCREDITS_PER_CREDIT, ceil_div

TOKENS_PER_RATE: Final = 1_000_000
REQUESTS_PER_RATE: Final = 1_000_000
KINDS: Final = ("input", "cache_read", "cache_write", "output", "reasoning")

_RECORD_FORMAT: Final = 1
# Any real rate is far below; a stored record beyond it is damaged.
_MAX_RATE: Final = 10**30
_DIVISOR: Final = TOKENS_PER_RATE * BASIS_POINTS
_INTEGER_FIELDS: Final = ("request_rate", "markup_bps")


def rate_from_usd(usd_per_million: Decimal, credits_per_usd: int) -> int:
    """Convert USD per million tokens to microcredits per million tokens; exact, or rounded up to the next integer."""
    numerator, denominator = usd_per_million.as_integer_ratio()
    return ceil_div(numerator * credits_per_usd * MICROCREDITS_PER_CREDIT, denominator)


@dataclass(frozen=True, slots=True)
class Rates:
    """Microcredits per million tokens of each kind, before markup.

    Raises:
        InvalidValue: a rate is negative, absurdly large or no whole number.
    """

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int

    def __post_init__(self) -> None:
        for kind in KINDS:
            _require_count(getattr(self, kind), f"rate of {kind}", _MAX_RATE)

    @property
    def highest_input(self) -> int:
        """The dearest way to be charged for a prompt token."""
        return max(self.input, self.cache_read, self.cache_write)

    @property
    def highest_output(self) -> int:
        """The dearest way to be charged for a completion token."""
        return max(self.output, self.reasoning)


@dataclass(frozen=True, slots=True)
class Tier:
    """Rates of the whole request once its prompt (cached tokens included) exceeds ``above_input_tokens``."""

    above_input_tokens: int
    rates: Rates

    def __post_init__(self) -> None:
        _require_count(self.above_input_tokens, "above_input_tokens")


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model, with our markup. Immutable; its :meth:`digest` identifies it for ever.

    ``model`` is the name of the price, not of the request: a model's canonical id, or the pattern of the override that
    answered, so that names invented by callers cannot make new prices. ``tiers`` follow the rule of the providers and
    of genai-prices: the highest tier whose threshold the prompt exceeds prices *all* tokens, not only those above it.
    ``request_rate`` is a fee per request in microcredits per million requests. The two limits do not affect the cost.
    """

    provider: str
    model: str
    rates: Rates
    markup_bps: int
    tiers: tuple[Tier, ...] = ()
    request_rate: int = 0
    max_output_tokens: int | None = field(default=None, compare=False)
    context_window: int | None = field(default=None, compare=False)
    _factor: int = field(init=False, repr=False, compare=False)
    _plain: tuple[int, int, int, int, int] = field(init=False, repr=False, compare=False)
    _digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _INTEGER_FIELDS:
            _require_count(getattr(self, name), name, _MAX_RATE)
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            msg = f"tiers of {self.model} must have rising thresholds; got {thresholds}"
            raise InvalidValue(msg)
        object.__setattr__(self, "_factor", BASIS_POINTS + self.markup_bps)
        object.__setattr__(self, "_plain", _as_tuple(self.rates))
        canonical = json.dumps(self.to_record(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "_digest", hashlib.sha256(canonical.encode()).hexdigest())

    def cost_microcredits(self, usage: Usage) -> int:
        """Return what ``usage`` costs, markup included, rounded up once to a whole microcredit.

        Raises:
            InvalidValue: a token count or the cost exceeds ``MAX_AMOUNT``; nothing that large can be stored.
        """
        input_, read, write, output, reasoning = _counts_of(usage)
        rates = self._plain if not self.tiers else _as_tuple(self.rates_at(input_ + read + write))
        weighted = (
            input_ * rates[0]
            + read * rates[1]
            + write * rates[2]
            + output * rates[3]
            + reasoning * rates[4]
            + self.request_rate
        )
        cost: int = -(-weighted * self._factor // _DIVISOR)
        if cost > MAX_AMOUNT or (input_ | read | write | output | reasoning) >= MAX_AMOUNT:
            msg = f"usage of {self.model} is too large to be charged"
            raise InvalidValue(msg, model=self.model)
        return cost

    def bound_microcredits(self, *, input_tokens: int, output_tokens: int) -> int:
        """Return the highest cost of any usage with at most so many prompt and completion tokens.

        Every prompt token is taken at its dearest kind, and the tier that makes the request dearest is assumed among
        those that a prompt of at most ``input_tokens`` can reach.

        Raises:
            InvalidValue: a count is negative or no whole number, or the bound exceeds ``MAX_AMOUNT``.
        """
        _require_count(input_tokens, "input_tokens")
        _require_count(output_tokens, "output_tokens")
        weighted = self.request_rate + max(
            min(input_tokens, longest) * rates.highest_input + output_tokens * rates.highest_output
            for rates, longest in self._reachable(input_tokens)
        )
        bound = ceil_div(weighted * self._factor, _DIVISOR)
        if bound > MAX_AMOUNT:
            msg = f"{input_tokens} prompt tokens and {output_tokens} completion tokens are too many to price"
            raise InvalidValue(msg, model=self.model)
        return bound

    def affordable_output_tokens(self, amount: int, *, input_tokens: int) -> int | None:
        """Return the most completion tokens whose bound with so many prompt tokens is at most ``amount`` microcredits.

        The inverse of :meth:`bound_microcredits`: None where ``amount`` does not cover the prompt, and at most
        ``MAX_AMOUNT``, where completion tokens are free.

        Raises:
            InvalidValue: a count or the amount is negative or no whole number.
        """
        _require_count(amount, "amount")
        _require_count(input_tokens, "input_tokens")
        left = amount * _DIVISOR // self._factor - self.request_rate
        affordable = MAX_AMOUNT
        for rates, longest in self._reachable(input_tokens):
            for_output = left - min(input_tokens, longest) * rates.highest_input
            if for_output < 0:
                return None
            if rates.highest_output:
                affordable = min(affordable, for_output // rates.highest_output)
        return affordable

    def rates_at(self, input_tokens: int) -> Rates:
        """Return the rates for a whole request whose prompt has ``input_tokens`` tokens, cached ones included."""
        for tier in reversed(self.tiers):
            if input_tokens > tier.above_input_tokens:
                return tier.rates
        return self.rates

    def is_free(self) -> bool:
        """Whether no usage ever costs anything."""
        every = (self.rates, *(tier.rates for tier in self.tiers))
        return not self.request_rate and not any(any(_as_tuple(rates)) for rates in every)

    def digest(self) -> str:
        """Return 64 hex digits over everything that identifies the price or affects a cost; stable for ever."""
        return self._digest

    def to_record(self) -> dict[str, Any]:
        """Return a JSON-able dict of strings and integers from which :meth:`from_record` makes an equal price."""
        return {
            "format": _RECORD_FORMAT,
            "provider": self.provider,
            "model": self.model,
            "rates": list(_as_tuple(self.rates)),
            "tiers": [[tier.above_input_tokens, *_as_tuple(tier.rates)] for tier in self.tiers],
            "request_rate": self.request_rate,
            "markup_bps": self.markup_bps,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Restore a stored price; the limits, which do not affect the cost, are not stored.

        Raises:
            InvalidValue: the record is incomplete or was written by a newer version.
        """
        if record.get("format") != _RECORD_FORMAT:
            msg = f"price record has format {record.get('format')!r}, this version reads {_RECORD_FORMAT}; upgrade"
            raise InvalidValue(msg)
        try:
            return cls(
                provider=record["provider"],
                model=record["model"],
                rates=Rates(*record["rates"]),
                markup_bps=record["markup_bps"],
                tiers=tuple(Tier(above, Rates(*rates)) for above, *rates in record["tiers"]),
                request_rate=record["request_rate"],
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"price record is damaged: {error!r}"
            raise InvalidValue(msg) from error

    def _reachable(self, input_tokens: int) -> Iterator[tuple[Rates, int]]:
        # Each set of rates with the longest prompt it applies to, up to the tier that input_tokens itself reaches.
        rates = self.rates
        for tier in self.tiers:
            if input_tokens <= tier.above_input_tokens:
                break
            yield rates, tier.above_input_tokens
            rates = tier.rates
        yield rates, input_tokens


# One C call instead of five attribute look-ups: this runs on every settle.
_counts_of: Final = attrgetter(*KINDS)


def shown(value: object) -> str:
    """Show a rejected value in an error message, shortly: Python refuses to print integers of 5,000 digits."""
    return f"{value!r:.40}" if type(value) is not int or abs(value) < _MAX_RATE else "a far larger one"


def _as_tuple(rates: Rates) -> tuple[int, int, int, int, int]:
    return rates.input, rates.cache_read, rates.cache_write, rates.output, rates.reasoning


def _require_count(value: object, what: str, highest: int = MAX_AMOUNT) -> None:
    if type(value) is not int or not 0 <= value <= highest:
        msg = f"{what} must be a whole number from 0 to {highest}; got {shown(value)}"
        raise InvalidValue(msg)
