"""What the success page says about a session: its receipt, or how far its payment has come."""

from __future__ import annotations

from typing import Any, Final, assert_never

from ..ledger.queries import Balance
from ..money import format_credits, format_money
from ..payments.queries import PaymentView
from ..payments.states import PaymentStatus
from .rendering import shown_credits

_TEXTS: Final = {
    "processing": (
        "Processing…",
        "We are waiting for the confirmation of your payment. This page updates by itself.",
    ),
    "pending": (
        "Your bank is still working on it",
        "The payment has been started, but your bank needs more time. Your credits arrive once it confirms.",
    ),
    "failed": ("The payment did not go through", "Nothing was charged. You can try again, also with another card."),
    "expired": ("This checkout has expired", "Nothing was charged. Choose a package again to start a new one."),
    "paid": ("Thank you!", "Your payment has been received and your credits are ready to use."),
    "refunded": ("This payment was refunded", "The money went back to you, and the credits were taken back."),
}


def success_view(payment: PaymentView, balance: Balance | None, *, expires_at_ms: int | None) -> dict[str, Any]:
    """Return what the page shows; there is a receipt once the credits have been granted.

    ``expires_at_ms`` is when they expire, None for never.
    """
    state = _state_of(payment.status)
    heading, explanation = _TEXTS[state]
    receipt = _receipt(payment, balance, expires_at_ms) if payment.is_granted else None
    return {"state": state, "heading": heading, "explanation": explanation, "receipt": receipt}


def _state_of(status: PaymentStatus) -> str:
    match status:
        case PaymentStatus.PAID | PaymentStatus.PARTIALLY_REFUNDED:
            return "paid"
        case PaymentStatus.REFUNDED | PaymentStatus.DISPUTED:
            return "refunded"
        case PaymentStatus.PROCESSING:
            return "pending"
        case PaymentStatus.FAILED | PaymentStatus.CANCELED:
            return "failed"
        case PaymentStatus.EXPIRED:
            return "expired"
        case PaymentStatus.CREATED | PaymentStatus.OPEN:
            return "processing"
        case _:
            assert_never(status)


def _receipt(payment: PaymentView, balance: Balance | None, expires_at_ms: int | None) -> dict[str, Any]:
    url = payment.receipt_url or ""
    return {
        "payment": payment.payment_intent_id or str(payment.id),
        "package": payment.package_name,
        "amount": format_money(payment.whole_minor, payment.currency),
        "credits": format_credits(payment.credited),
        "email": payment.email,
        "paid_at": payment.paid_at_ms,
        "expires": expires_at_ms,
        "balance": shown_credits(balance.balance) if balance else "",
        "url": url if url.startswith(("https://", "http://")) else None,
    }
