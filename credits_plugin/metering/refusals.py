"""Why a request must not be sent, in words and figures."""

from __future__ import annotations

from typing import Any, Final

from hookspecs import Refusal, SpentBudget

from ..errors import AccountInDebt, BudgetExceeded, CreditsError, InsufficientCredits, public_message
from ..money import format_credits

UNDER_WAY: Final = Refusal(
    "request_under_way",
    "A request with this id is being answered already; wait for it, or give a new request a new id.",
)
"""Both would share one hold and one charge. Where the first one's host died, its hold expires and the id is used up."""


class RequestRefused(CreditsError):
    """``async with credits.metered(request)`` was refused; ``refusal`` says why. The request was not sent."""

    code = "request_refused"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text, refusal_code=refusal.code)
        self.refusal = refusal


def refusal_of(error: CreditsError, *, purchase_url: str, retry_token: str | None = None) -> Refusal:
    """Return the refusal that tells a payer of ``error``; the link is given where credits would help."""
    if not isinstance(error, InsufficientCredits | AccountInDebt | BudgetExceeded):
        return Refusal(code=error.code, message=public_message(error))
    budget = _budget_of(error.fields) if isinstance(error, BudgetExceeded) else None
    return Refusal(
        code=error.code,
        message=_sentence(error),
        needed_microcredits=error.needed,
        available_microcredits=error.available,
        purchase_url=purchase_url if budget is None else None,
        retry_token=retry_token,
        budget=budget,
    )


def _sentence(error: InsufficientCredits | AccountInDebt | BudgetExceeded) -> str:
    if isinstance(error, BudgetExceeded):
        return f"{error.message[:1].upper()}{error.message[1:]}."
    if isinstance(error, AccountInDebt):
        return "Your balance is below zero. Buy credits to go on."
    needed, available = format_credits(error.needed), format_credits(max(error.available, 0))
    return f"This request may need up to {needed} credits; you have {available} available. Buy credits to go on."


def _budget_of(fields: dict[str, Any]) -> SpentBudget:
    return SpentBudget(
        kind=fields["kind"],
        name=fields["name"],
        period=fields["period"],
        limit_microcredits=fields.get("limit"),
        ends_at_ms=fields.get("period_ends_at_ms"),
        is_paused=bool(fields.get("paused")),
    )
