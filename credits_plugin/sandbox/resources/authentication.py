"""3-D Secure: a bank wants to hear from its cardholder before it lets a payment through."""

from __future__ import annotations

from urllib.parse import urlencode

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import Decline
from credits_plugin.sandbox.errors import INVALID_REQUEST, StripeError
from credits_plugin.sandbox.objects import random_text
from credits_plugin.sandbox.store import Json

CANNOT_BE_ASKED = Decline(
    "authentication_required", "Your card was declined. This transaction requires authentication.",
    "authentication_required",
)  # fmt: skip
"""What an off-session payment with such a card ends with."""


def page_url(call: Call, intent_id: str) -> str:
    """Where the cardholder says yes or no."""
    return f"{call.base_url}/authenticate/{intent_id}"


def ask_cardholder(call: Call, intent: Json, method: Json) -> Json:
    """Put the intent in `requires_action`; emits `payment_intent.requires_action`."""
    url, return_url = page_url(call, intent["id"]), call.params.get("return_url")
    if return_url is None:
        sdk = {"source": f"payatt_{random_text(24)}", "stripe_js": url, "type": "three_d_secure_redirect"}
        next_action: Json = {"type": "use_stripe_sdk", "use_stripe_sdk": sdk}
    else:
        next_action = {"redirect_to_url": {"return_url": return_url, "url": url}, "type": "redirect_to_url"}
    changes = {"next_action": next_action, "payment_method": method["id"], "status": "requires_action"}
    intent = call.update(intent, changes)
    call.emit("payment_intent.requires_action", intent)
    return intent


def refuse(call: Call, intent: Json) -> Json:
    """The cardholder said no, or failed to say yes; emits `payment_intent.payment_failed`."""
    error = StripeError(
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this PaymentIntent again.",
        kind=INVALID_REQUEST,
        code="payment_intent_authentication_failure",
        details={"payment_method": call.fetch("payment_method", intent["payment_method"])},
    )
    changes = {
        "last_payment_error": error.body(None)["error"], "next_action": None, "payment_method": None,
        "status": "requires_payment_method",
    }  # fmt: skip
    intent = call.update(intent, changes)
    call.emit("payment_intent.payment_failed", intent)
    return intent


def way_back(intent: Json, outcome: Json) -> str | None:
    """The merchant's return address with what Stripe adds to it; None where the merchant gave none."""
    redirect = (intent["next_action"] or {}).get("redirect_to_url")
    if redirect is None:
        return None
    status = "succeeded" if outcome["status"] in {"succeeded", "requires_capture"} else "failed"
    added = urlencode({
        "payment_intent": intent["id"], "payment_intent_client_secret": intent["client_secret"],
        "redirect_status": status,
    })  # fmt: skip
    return f"{redirect['return_url']}{'&' if '?' in redirect['return_url'] else '?'}{added}"
