"""Why a request must not be sent, in words and figures."""

from __future__ import annotations

from hookspecs import Refusal

from ..errors import AccountInDebt, CreditsError, InsufficientCredits
from ..money import format_credits


class RequestRefused(CreditsError):
    """``async with credits.metered(request)`` was refused; ``refusal`` says why. The request was not sent."""

    code = "request_refused"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text, refusal_code=refusal.code)
        self.refusal = refusal


def refusal_of(error: CreditsError, *, purchase_url: str) -> Refusal:
    """Return the refusal that tells a payer of ``error``; the link is given where credits would help."""
    if not isinstance(error, InsufficientCredits | AccountInDebt):
        return Refusal(code=error.code, message=error.message)
    if isinstance(error, AccountInDebt):
        message = "Your balance is below zero. Buy credits to go on."
    else:
        needed, available = format_credits(error.needed), format_credits(max(error.available, 0))
        message = f"This request may need up to {needed} credits; you have {available} available. Buy credits to go on."
    return Refusal(
        code=error.code,
        message=message,
        needed_microcredits=error.needed,
        available_microcredits=error.available,
        purchase_url=purchase_url,
    )
