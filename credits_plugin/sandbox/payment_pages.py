"""`/v1/payment_pages`: what Stripe's own hosted page asks Stripe; not published, but the official CLI pays with it."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route
from credits_plugin.sandbox.checkout_payments import Buyer, GivenMethod, pay_session
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.params import integer, text
from credits_plugin.sandbox.resources.checkout_sessions import present
from credits_plugin.sandbox.store import Json


def retrieve(call: Call) -> Json:
    """The session that the page is about."""
    return present(call, call.fetch("checkout.session", call.path["id"]))


def confirm(call: Call) -> Json:
    """Pay with a payment method, as the button does."""
    session = call.fetch("checkout.session", call.path["id"])
    if call.params.get("expected_amount", session["amount_total"]) != session["amount_total"]:
        raise StripeError("The amount of the session has changed.", param="expected_amount")
    method = call.fetch("payment_method", call.params["payment_method"], param="payment_method", status=400)
    billing = method["billing_details"]
    buyer = Buyer(
        pays_with=GivenMethod(method["id"]),
        name=billing["name"] or "Test Buyer",
        email=billing["email"] or "buyer@example.com",
        country=billing["address"]["country"],
    )
    return present(call, pay_session(call, session["id"], buyer))


ROUTES = (
    Route("GET", "/v1/payment_pages/{id}", retrieve),
    Route(
        "POST", "/v1/payment_pages/{id}/confirm", confirm,
        {"payment_method": text(required=True), "expected_amount": integer()},
    ),
)  # fmt: skip
