"""The upper bound of what a request can cost, before it is made."""

from __future__ import annotations

from typing import Final

from hookspecs import AIRequest, Estimate

from ..errors import InvalidValue
from .price import Price, shown
from .prompt import count_prompt

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4_096


def estimate(
    request: AIRequest, price: Price, *, default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
) -> Estimate:
    """Return an upper bound of the request's tokens and cost; takes microseconds, never raises on odd messages.

    The output bound is the request's own limit, else the price's, else ``default_max_output_tokens``. It holds only if
    the host sends ``max_output_tokens`` of the estimate to the provider as the limit. No usage with at most so many
    prompt tokens and completion tokens (reasoning included) costs more than the estimate: a hit in the provider's cache
    is never assumed, and every prompt token is priced as its dearest kind, which may be writing it to the cache.

    Raises:
        InvalidValue: the request's limit is no positive whole number, or the bound is too large to be stored.
    """
    limit = request.max_output_tokens
    if limit is None:
        limit = price.max_output_tokens or default_max_output_tokens
    elif type(limit) is not int or limit <= 0:
        msg = f"max_output_tokens must be a whole number above 0, or left out; got {shown(limit)}"
        raise InvalidValue(msg)
    prompt = count_prompt(request.messages, request.tools, request.model)
    return Estimate(
        model=request.model,
        input_tokens=prompt.total,
        max_output_tokens=limit,
        cost_microcredits=price.bound_microcredits(
            input_tokens=prompt.text, audio_input_tokens=prompt.audio, output_tokens=limit
        ),
        audio_input_tokens=prompt.audio,
        is_exact=prompt.is_exact,
    )


def bound_with_output(bound: Estimate, price: Price, output_tokens: int) -> int:
    """Return what the estimated request can cost at most with so much output, in microcredits."""
    audio = bound.audio_input_tokens
    return price.bound_microcredits(
        input_tokens=bound.input_tokens - audio, audio_input_tokens=audio, output_tokens=output_tokens
    )


def affordable_output(bound: Estimate, price: Price, amount: int) -> int:
    """Return the largest output of the estimated request that ``amount`` microcredits cover, at least 0."""
    audio = bound.audio_input_tokens
    text = bound.input_tokens - audio
    return price.affordable_output_tokens(amount, input_tokens=text, audio_input_tokens=audio) or 0
