"""The upper bound of what a request can cost, before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

from hookspecs import AIRequest, Estimate

from ..errors import InvalidValue
from .hosted_tools import DEFAULT_TOOL_CALLS, hosted_calls
from .price import Price, shown
from .prompt import asks_for_1h, count_prompt

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4_096


def estimate(
    request: AIRequest,
    price: Price,
    *,
    default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
    default_tool_calls: int = DEFAULT_TOOL_CALLS,
) -> Estimate:
    """Return an upper bound of the request's tokens and cost; takes microseconds, never raises on odd messages.

    The output bound is the request's own limit, else the price's, else ``default_max_output_tokens``. It holds only if
    the host sends ``max_output_tokens`` of the estimate to the provider as the limit. No usage with at most so many
    prompt tokens and completion tokens (reasoning included) costs more than the estimate: a hit in the provider's cache
    is never assumed, and every prompt token is priced as its dearest kind, which may be writing it to the cache; to an
    hour's cache, where any part of the request asks for one. The fees of the provider's tools are those of
    :func:`.hosted_tools.hosted_calls`: where the request does not limit their calls, they are expected, not bounded.

    Raises:
        InvalidValue: a limit of the request is no positive whole number, or the bound is too large to be stored.
    """
    limit = request.max_output_tokens
    if limit is None:
        limit = price.max_output_tokens or default_max_output_tokens
    elif type(limit) is not int or limit <= 0:
        msg = f"max_output_tokens must be a whole number above 0, or left out; got {shown(limit)}"
        raise InvalidValue(msg)
    prompt = count_prompt(request.messages, request.tools, request.model)
    is_cached_1h = prompt.is_cached_1h or (
        request.cache_control is not None and asks_for_1h({"cache_control": request.cache_control})
    )
    calls = hosted_calls(request, price, default_tool_calls=default_tool_calls)
    return Estimate(
        model=request.model,
        input_tokens=prompt.total,
        max_output_tokens=limit,
        cost_microcredits=price.bound_microcredits(
            input_tokens=prompt.text,
            audio_input_tokens=prompt.audio,
            output_tokens=limit,
            tool_calls=calls,
            is_cached_1h=is_cached_1h,
        ),
        audio_input_tokens=prompt.audio,
        is_exact=prompt.is_exact,
        tool_calls=calls,
        is_cached_1h=is_cached_1h,
    )


def bound_with_output(bound: Estimate, price: Price, output_tokens: int) -> int:
    """Return what the estimated request can cost at most with so much output, in microcredits."""
    return price.bound_microcredits(output_tokens=output_tokens, **_whatever_the_output(bound))


def affordable_output(bound: Estimate, price: Price, amount: int) -> int:
    """Return the largest output of the estimated request that ``amount`` microcredits cover, at least 0."""
    return price.affordable_output_tokens(amount, **_whatever_the_output(bound)) or 0


class _Asked(TypedDict):
    input_tokens: int
    audio_input_tokens: int
    tool_calls: Mapping[str, int]
    is_cached_1h: bool


def _whatever_the_output(bound: Estimate) -> _Asked:
    return {
        "input_tokens": bound.input_tokens - bound.audio_input_tokens,
        "audio_input_tokens": bound.audio_input_tokens,
        "tool_calls": bound.tool_calls,
        "is_cached_1h": bound.is_cached_1h,
    }
