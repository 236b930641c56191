"""`/v1/payment_methods`: cards, by Stripe's test tokens; a card number is never taken over the API."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from credits_plugin.sandbox.bank_accounts import TEST_ACCOUNTS, TestAccount
from credits_plugin.sandbox.call import Call, Route
from credits_plugin.sandbox.cards import DECLINES, Fate, TestCard, card_of_token, declined
from credits_plugin.sandbox.errors import StripeError, parameter_missing, resource_missing
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import ADDRESS, Param, choice, email, hash_of, text, unsupported
from credits_plugin.sandbox.store import Json

EMPTY_ADDRESS: Json = {
    "city": None, "country": None, "line1": None, "line2": None, "postal_code": None, "state": None,
}  # fmt: skip
NO_BILLING_DETAILS: Json = {"address": EMPTY_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}


def create_card(
    call: Call,
    card: TestCard,
    *,
    expires: tuple[int, int] | None = None,
    billing_details: Json | None = None,
    customer: str | None = None,
) -> Json:
    """A payment method of a test card; `expires` is (month, year) and defaults to a year from now.

    What the card will do is kept in a row of its own that no answer shows.
    """
    moment = time.gmtime(call.now)
    month, year = expires or (moment.tm_mon, moment.tm_year + 1)
    method: Json = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details or NO_BILLING_DETAILS,
        "card": _card(card, month=month, year=year),
        "created": call.now,
        "customer": customer,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }
    call.store.put("card_fate", {"id": method["id"], "fate": card.fate})
    return call.save(method)


def create_bank_account(call: Call, account: TestAccount, *, billing_details: Json) -> Json:
    """A payment method of a test bank account."""
    fingerprint = hashlib.sha256(account.number.encode()).hexdigest()[:16]
    if account.kind == "us_bank_account":
        details: Json = {
            "account_holder_type": "individual", "account_type": "checking", "bank_name": "STRIPE TEST BANK",
            "financial_connections_account": None, "fingerprint": fingerprint, "last4": account.last4,
            "networks": {"preferred": "ach", "supported": ["ach"]}, "routing_number": "110000000",
            "status_details": {},
        }  # fmt: skip
    else:
        details = {
            "bank_code": "19043", "branch_code": "", "country": account.number[:2], "fingerprint": fingerprint,
            "generated_from": {"charge": None, "setup_attempt": None}, "last4": account.last4,
        }  # fmt: skip
    method: Json = {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details,
        "created": call.now,
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": account.kind,
        account.kind: details,
    }
    call.store.put("card_fate", {"id": method["id"], "fate": account.fate})
    return call.save(method)


def _card(card: TestCard, *, month: int, year: int) -> Json:
    return {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": "american_express" if card.brand == "amex" else card.brand,
        "exp_month": month,
        "exp_year": year,
        "fingerprint": hashlib.sha256(f"{card.brand} {card.last4}".encode()).hexdigest()[:16],
        "funding": card.funding,
        "generated_from": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def create(call: Call) -> Json:
    """From a card's test token or a test bank account; a card number is refused, as for most of Stripe's customers."""
    kind = call.params["type"]
    details = call.params.get(kind)
    if details is None:
        raise parameter_missing(kind)
    billing = NO_BILLING_DETAILS | call.params.get("billing_details", {})
    billing["address"] = EMPTY_ADDRESS | (billing["address"] or {})
    number = details.get("iban") or details.get("account_number")
    if kind != "card":
        account = next((one for one in TEST_ACCOUNTS if (one.kind, one.number) == (kind, number)), None)
        if account is None:
            raise StripeError(f"The sandbox knows Stripe's test accounts only, not {str(number)[-4:]}.", param=kind)
        return create_bank_account(call, account, billing_details=billing)
    card = card_of_token(details["token"])
    if card is None:
        raise resource_missing("token", details["token"], param="card[token]", status=400)
    return create_card(call, card, billing_details=billing)


def fate_of(call: Call, method: Json) -> Fate:
    """What a payment with this method will do."""
    row = call.fetch("card_fate", method["id"])
    return Fate(row["fate"])


def method_of(call: Call, method_id: str, *, param: str = "payment_method", status: int = 404) -> Json:
    """A stored payment method, or a fresh one for a test token."""
    card = card_of_token(method_id)
    if card is not None:
        return create_card(call, card)
    method = call.store.get("payment_method", method_id)
    if method is None:
        error = resource_missing("PaymentMethod", method_id, param=param, status=status)
        raise StripeError(
            f"{error.message}; It's possible this PaymentMethod exists on one of your connected accounts, in which "
            "case you should retry this request on that connected account. Learn more at "
            "https://stripe.com/docs/connect/authentication",
            status=status,
            code=error.code,
            param=param,
        )
    return method


def attach(call: Call) -> Json:
    """Attach to a customer; cards that are declined at once are refused with 402. Emits `payment_method.attached`."""
    customer = call.fetch_named("customer", "customer")
    method = method_of(call, call.path["id"])
    decline = DECLINES.get(fate_of(call, method))
    if decline is not None and fate_of(call, method) is not Fate.FAILS_ONLY_WHEN_CHARGED:
        raise declined(decline, details={}, param="")
    if method["customer"] is not None:
        raise StripeError(
            "The payment method you provided has already been attached to a customer.",
            code="payment_method_unexpected_state",
        )
    method["customer"] = customer and customer["id"]
    call.save(method)
    call.emit("payment_method.attached", method)
    return method


def detach(call: Call) -> Json:
    """Take it from its customer, for good; emits `payment_method.detached`."""
    method = method_of(call, call.path["id"])
    if method["customer"] is None:
        raise StripeError(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
            code="payment_method_unexpected_state",
        )
    return call.update(method, {"customer": None}, event_type="payment_method.detached")


def retrieve(call: Call) -> Json:
    """One payment method."""
    return method_of(call, call.path["id"])


def _refuse_number(_raw: Any, name: str) -> Any:
    raise StripeError(
        "Sending credit card numbers directly to the Stripe API is generally unsafe. We suggest you use test tokens "
        "that map to the test card you are using, see https://stripe.com/docs/testing.",
        param=name,
    )


_CREATE = {
    "type": choice("card", "sepa_debit", "us_bank_account", required=True),
    "billing_details": hash_of(
        {"address": ADDRESS, "email": email(clearable=True), "name": text(), "phone": text()} | unsupported("tax_id")
    ),
    "card": hash_of(
        {"token": text(required=True), "number": Param(_refuse_number)}
        | unsupported("cvc", "exp_month", "exp_year", "networks")
    ),
    "sepa_debit": hash_of({"iban": text(required=True)}),
    "us_bank_account": hash_of(
        {
            "account_holder_type": choice("individual", "company"), "account_number": text(required=True),
            "account_type": choice("checking", "savings"), "routing_number": text(),
        }
    ),
    **unsupported("allow_redisplay", "metadata"),
}  # fmt: skip

ROUTES = (
    Route("POST", "/v1/payment_methods", create, _CREATE),
    Route("GET", "/v1/payment_methods/{id}", retrieve),
    Route("POST", "/v1/payment_methods/{id}/attach", attach, {"customer": text(required=True)}),
    Route("POST", "/v1/payment_methods/{id}/detach", detach),
)
