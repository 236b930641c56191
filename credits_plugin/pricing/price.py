"""One model's price as integers, and the two sums made with it: the cost after a call, its upper bound before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final, Self, TypeAlias

from hookspecs import SPECIAL_KINDS, USAGE_KINDS, Usage

from ..errors import InvalidValue
from ..money import BASIS_POINTS, MAX_AMOUNT, MICROCREDITS_PER_CREDIT, ceil_div

TOKENS_PER_RATE: Final = 1_000_000
REQUESTS_PER_RATE: Final = 1_000_000
CALLS_PER_RATE: Final = 1_000_000
KINDS: Final = USAGE_KINDS

_PLAIN_RECORD: Final = 1
_FULL_RECORD: Final = 2
_PLAIN_KINDS: Final = len(KINDS) - len(SPECIAL_KINDS)
# Any real rate is far below; a stored record beyond it is damaged.
_MAX_RATE: Final = 10**30
_DIVISOR: Final = TOKENS_PER_RATE * BASIS_POINTS
_INTEGER_FIELDS: Final = ("request_rate", "markup_bps")
_EachKind: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int]


def rate_from_usd(usd_per_million: Decimal, credits_per_usd: int) -> int:
    """Convert USD per million tokens to microcredits per million tokens; exact, or rounded up to the next integer."""
    numerator, denominator = usd_per_million.as_integer_ratio()
    return ceil_div(numerator * credits_per_usd * MICROCREDITS_PER_CREDIT, denominator)


@dataclass(frozen=True, slots=True)
class Rates:
    """Microcredits per million tokens of each kind, before markup.

    A kind of ``SPECIAL_KINDS`` that costs the same as its plain kind is None, stated or not: equal rates are equal.

    Raises:
        InvalidValue: a rate is negative, absurdly large or no whole number.
    """

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    audio_input: int | None = None
    audio_cache_read: int | None = None
    cache_write_1h: int | None = None
    audio_output: int | None = None
    image_output: int | None = None
    each: _EachKind = field(init=False, repr=False, compare=False)
    """The rate of every kind, in the order of ``KINDS``."""

    def __post_init__(self) -> None:
        for kind in KINDS:
            if kind not in SPECIAL_KINDS or getattr(self, kind) is not None:
                _require_count(getattr(self, kind), f"rate of {kind}", _MAX_RATE)
        for kind, plain in SPECIAL_KINDS.items():
            if getattr(self, kind) == getattr(self, plain):
                object.__setattr__(self, kind, None)
        stated = ((getattr(self, kind), SPECIAL_KINDS.get(kind)) for kind in KINDS)
        object.__setattr__(
            self, "each", tuple(getattr(self, plain or "") if rate is None else rate for rate, plain in stated)
        )

    @property
    def is_plain(self) -> bool:
        """Whether the five plain kinds say it all."""
        return all(getattr(self, kind) is None for kind in SPECIAL_KINDS)

    @property
    def highest_input(self) -> int:
        """The dearest way to be charged for a prompt token of text, but for writing it to an hour's cache."""
        return max(self.input, self.cache_read, self.cache_write)

    @property
    def highest_audio_input(self) -> int:
        """The dearest way to be charged for a prompt token of audio."""
        return max(self.each[5], self.each[6])

    @property
    def highest_output(self) -> int:
        """The dearest way to be charged for a completion token, whatever it is a token of."""
        return max(self.output, self.reasoning, self.each[8], self.each[9])


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
    ``request_rate`` is a fee per request in microcredits per million requests, ``tools`` are those per million calls of
    tools that the provider runs, sorted by name; a tool that is not there costs nothing. The two limits do not affect
    the cost.
    """

    provider: str
    model: str
    rates: Rates
    markup_bps: int
    tiers: tuple[Tier, ...] = ()
    request_rate: int = 0
    tools: tuple[tuple[str, int], ...] = ()
    max_output_tokens: int | None = field(default=None, compare=False)
    context_window: int | None = field(default=None, compare=False)
    _factor: int = field(init=False, repr=False, compare=False)
    _plain: _EachKind = field(init=False, repr=False, compare=False)
    _digest: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _INTEGER_FIELDS:
            _require_count(getattr(self, name), name, _MAX_RATE)
        for tool, rate in self.tools:
            _require_count(rate, f"rate of tool {tool:.40}", _MAX_RATE)
        thresholds = [tier.above_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            msg = f"tiers of {self.model} must have rising thresholds; got {thresholds}"
            raise InvalidValue(msg)
        object.__setattr__(self, "_factor", BASIS_POINTS + self.markup_bps)
        object.__setattr__(self, "_plain", self.rates.each)
        canonical = json.dumps(self.to_record(), sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "_digest", hashlib.sha256(canonical.encode()).hexdigest())

    def cost_microcredits(self, usage: Usage) -> int:
        """Return what ``usage`` costs, markup included, rounded up once to a whole microcredit.

        Raises:
            InvalidValue: a token count or the cost exceeds ``MAX_AMOUNT``; nothing that large can be stored.
        """
        input_, read, write, output, reasoning, audio, audio_read, write_1h, audio_out, image_out = _counts_of(usage)
        prompt = input_ + read + write + audio + audio_read + write_1h
        rates = self._plain if not self.tiers else self.rates_at(prompt).each
        weighted = (
            input_ * rates[0]
            + read * rates[1]
            + write * rates[2]
            + output * rates[3]
            + reasoning * rates[4]
            + self.request_rate
        )
        special = audio | audio_read | write_1h | audio_out | image_out
        if special:
            counts = (audio, audio_read, write_1h, audio_out, image_out)
            weighted += sum(map(int.__mul__, counts, rates[_PLAIN_KINDS:]))
        if usage.tool_calls:
            weighted += self._tool_fees(usage.tool_calls)
        cost: int = -(-weighted * self._factor // _DIVISOR)
        if cost > MAX_AMOUNT or (input_ | read | write | output | reasoning | special) >= MAX_AMOUNT:
            msg = f"usage of {self.model} is too large to be charged"
            raise InvalidValue(msg, model=self.model)
        return cost

    def bound_microcredits(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        audio_input_tokens: int = 0,
        tool_calls: Mapping[str, int] | None = None,
        is_cached_1h: bool = False,
    ) -> int:
        """Return the highest cost of any usage with at most so many prompt and completion tokens and tool calls.

        ``audio_input_tokens`` of the prompt are beside its ``input_tokens``. Every prompt token is taken at its dearest
        kind, and the tier that makes the request dearest is assumed among those that so long a prompt can reach. To be
        written to an hour's cache is among those kinds only where ``is_cached_1h``.

        Raises:
            InvalidValue: a count is negative or no whole number, or the bound exceeds ``MAX_AMOUNT``.
        """
        _require_count(input_tokens, "input_tokens")
        _require_count(output_tokens, "output_tokens")
        _require_count(audio_input_tokens, "audio_input_tokens")
        prompt = (input_tokens, audio_input_tokens, is_cached_1h)
        weighted = self._fees_bound(tool_calls) + max(
            _dearest_prompt(rates, longest, *prompt) + output_tokens * rates.highest_output
            for rates, longest in self._reachable(input_tokens + audio_input_tokens)
        )
        bound = ceil_div(weighted * self._factor, _DIVISOR)
        if bound > MAX_AMOUNT:
            calls = " and these tool calls" if tool_calls else ""
            msg = f"{input_tokens} prompt tokens, {output_tokens} completion tokens{calls} are too many to price"
            raise InvalidValue(msg, model=self.model)
        return bound

    def affordable_output_tokens(
        self,
        amount: int,
        *,
        input_tokens: int,
        audio_input_tokens: int = 0,
        tool_calls: Mapping[str, int] | None = None,
        is_cached_1h: bool = False,
    ) -> int | None:
        """Return the most completion tokens whose bound with so many prompt tokens is at most ``amount`` microcredits.

        The inverse of :meth:`bound_microcredits`: None where ``amount`` does not cover the prompt and the tool calls,
        and at most ``MAX_AMOUNT``, where completion tokens are free.

        Raises:
            InvalidValue: a count or the amount is negative or no whole number.
        """
        _require_count(amount, "amount")
        _require_count(input_tokens, "input_tokens")
        _require_count(audio_input_tokens, "audio_input_tokens")
        left = amount * _DIVISOR // self._factor - self._fees_bound(tool_calls)
        affordable = MAX_AMOUNT
        prompt = (input_tokens, audio_input_tokens, is_cached_1h)
        for rates, longest in self._reachable(input_tokens + audio_input_tokens):
            for_output = left - _dearest_prompt(rates, longest, *prompt)
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
        """Whether no tokens ever cost anything, nor the request itself; tool calls may."""
        every = (self.rates, *(tier.rates for tier in self.tiers))
        return not self.request_rate and not any(any(rates.each) for rates in every)

    def digest(self) -> str:
        """Return 64 hex digits over everything that identifies the price or affects a cost; stable for ever."""
        return self._digest

    def to_record(self) -> dict[str, Any]:
        """Return a JSON-able dict of strings and integers from which :meth:`from_record` makes an equal price.

        A price that states nothing beyond the five plain kinds has the first format, so its digest stays what it was.
        """
        is_plain = not self.tools and all(rates.is_plain for rates in (self.rates, *(t.rates for t in self.tiers)))
        kinds = _PLAIN_KINDS if is_plain else len(KINDS)
        record = {
            "format": _PLAIN_RECORD if is_plain else _FULL_RECORD,
            "provider": self.provider,
            "model": self.model,
            "rates": list(self.rates.each[:kinds]),
            "tiers": [[tier.above_input_tokens, *tier.rates.each[:kinds]] for tier in self.tiers],
            "request_rate": self.request_rate,
            "markup_bps": self.markup_bps,
        }
        return record if is_plain else record | {"tools": dict(self.tools)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Restore a stored price; the limits, which do not affect the cost, are not stored.

        Raises:
            InvalidValue: the record is incomplete or was written by a newer version.
        """
        if record.get("format") not in {_PLAIN_RECORD, _FULL_RECORD}:
            msg = f"price record has format {record.get('format')!r}, this version reads up to {_FULL_RECORD}; upgrade"
            raise InvalidValue(msg)
        try:
            tools = record["tools"] if record["format"] == _FULL_RECORD else {}
            return cls(
                provider=record["provider"],
                model=record["model"],
                rates=Rates(*record["rates"]),
                markup_bps=record["markup_bps"],
                tiers=tuple(Tier(above, Rates(*rates)) for above, *rates in record["tiers"]),
                request_rate=record["request_rate"],
                tools=tuple(sorted(tools.items())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"price record is damaged: {error!r}"
            raise InvalidValue(msg) from error

    def _fees_bound(self, calls: Mapping[str, int] | None) -> int:
        if not calls:
            return self.request_rate
        for tool, count in calls.items():
            _require_count(count, f"calls of {tool:.40}")
        return self.request_rate + self._tool_fees(calls)

    def _tool_fees(self, calls: Mapping[str, int]) -> int:
        return sum(calls.get(tool, 0) * rate for tool, rate in self.tools)

    def _reachable(self, input_tokens: int) -> Iterator[tuple[Rates, int]]:
        # Each set of rates with the longest prompt it applies to, up to the tier that input_tokens itself reaches.
        rates = self.rates
        for tier in self.tiers:
            if input_tokens <= tier.above_input_tokens:
                break
            yield rates, tier.above_input_tokens
            rates = tier.rates
        yield rates, input_tokens


# One C call instead of ten attribute look-ups: this runs on every settle.
_counts_of: Final = attrgetter(*KINDS)


def shown(value: object) -> str:
    """Show a rejected value in an error message, shortly: Python refuses to print integers of 5,000 digits."""
    return f"{value!r:.40}" if type(value) is not int or abs(value) < _MAX_RATE else "a far larger one"


def _dearest_prompt(rates: Rates, longest: int, text: int, audio: int, is_cached_1h: bool) -> int:
    """Return the most that ``text`` and ``audio`` tokens can cost in a prompt of at most ``longest`` tokens."""
    text_rate, audio_rate = rates.highest_input, rates.highest_audio_input
    if is_cached_1h:
        text_rate, audio_rate = max(text_rate, rates.each[7]), max(audio_rate, rates.each[7])
    (dearer, first), (cheaper, second) = sorted(((text_rate, text), (audio_rate, audio)), reverse=True)
    first = min(first, longest)
    return first * dearer + min(second, longest - first) * cheaper


def _require_count(value: object, what: str, highest: int = MAX_AMOUNT) -> None:
    if type(value) is not int or not 0 <= value <= highest:
        msg = f"{what} must be a whole number from 0 to {highest}; got {shown(value)}"
        raise InvalidValue(msg)
