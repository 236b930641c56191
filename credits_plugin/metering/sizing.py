"""How much is held for a request, between what it may cost and what requests like it have cost. Pure."""

from __future__ import annotations

from dataclasses import replace

from hookspecs import AIRequest, Estimate

from ..errors import InvalidValue
from ..pricing.estimate import affordable_output, bound_with_output
from ..pricing.price import Price, shown


def amount_to_hold(bound: Estimate, price: Price, *, likely_output_tokens: int | None) -> int:
    """Return what to hold: the bound, or what it would be for the likely output where that is less."""
    if likely_output_tokens is None or likely_output_tokens >= bound.max_output_tokens:
        return bound.cost_microcredits
    return min(bound_with_output(bound, price, likely_output_tokens), bound.cost_microcredits)


def least_to_hold(request: AIRequest, bound: Estimate, price: Price) -> int | None:
    """Return for how little the hold would do, or None where the request does not say.

    Raises:
        InvalidValue: ``min_output_tokens`` is no positive whole number.
    """
    least = request.min_output_tokens
    if least is None:
        return None
    if type(least) is not int or least <= 0:
        msg = f"min_output_tokens must be a whole number above 0, or left out; got {shown(least)}"
        raise InvalidValue(msg)
    return bound_with_output(bound, price, min(least, bound.max_output_tokens))


def cut_to(bound: Estimate, price: Price, *, amount: int) -> Estimate:
    """Return the estimate with the largest output that ``amount`` affords, at most its own."""
    return replace(
        bound,
        max_output_tokens=min(affordable_output(bound, price, amount), bound.max_output_tokens),
        cost_microcredits=min(amount, bound.cost_microcredits),
    )
