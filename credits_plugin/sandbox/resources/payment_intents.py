"""`/v1/payment_intents`: the attempt to collect an amount, by hand or through Checkout."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.cards import DECLINES, Decline, Fate, declined
from credits_plugin.sandbox.currencies import MAXIMUM_MINOR, check_step, format_money, minimum_minor
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.objects import new_id, random_text
from credits_plugin.sandbox.params import (
    SHIPPING,
    Param,
    boolean,
    choice,
    created_filter,
    currency,
    hash_of,
    integer,
    list_of,
    merge_metadata,
    metadata,
    text,
    unsupported,
    url,
)
from credits_plugin.sandbox.resources.authentication import CANNOT_BE_ASKED, ask_cardholder
from credits_plugin.sandbox.resources.charges import create_charge, settle
from credits_plugin.sandbox.resources.delayed_payments import session_of, start_debit
from credits_plugin.sandbox.resources.dispute_life import schedule_by_card
from credits_plugin.sandbox.resources.payment_methods import fate_of, method_of
from credits_plugin.sandbox.store import Json

CAPTURE = choice("automatic", "automatic_async", "manual")
_FIELDS: dict[str, Param] = {
    "customer": text(),
    "description": text(max_length=1000, clearable=True),
    "metadata": metadata(),
    "payment_method": text(),
    "receipt_email": text(clearable=True),
    "setup_future_usage": choice("off_session", "on_session", clearable=True),
    "shipping": SHIPPING,
    "statement_descriptor": text(max_length=22),
    "statement_descriptor_suffix": text(max_length=22),
}
_ACCEPTANCE = hash_of(
    {"accepted_at": integer(), "type": choice("online", "offline", required=True), "offline": hash_of({})}
    | {"online": hash_of({"ip_address": text(), "user_agent": text()})}
)
_CONFIRM: dict[str, Param] = {
    "error_on_requires_action": boolean(),
    "mandate_data": hash_of({"customer_acceptance": _ACCEPTANCE}),
    "off_session": boolean(),
    "payment_method": text(),
    "receipt_email": text(clearable=True),
    "return_url": url(),
    "use_stripe_sdk": boolean(),
    **unsupported(
        "allowed_payment_method_types", "amount_details", "amount_to_confirm", "capture_method", "client_secret",
        "confirmation_token", "excluded_payment_method_types", "hooks", "mandate", "payment_details",
        "payment_method_data", "payment_method_options", "payment_method_types", "radar_options",
        "setup_future_usage", "shipping",
    ),
}  # fmt: skip
_CREATE: dict[str, Param] = {
    **_CONFIRM,
    **_FIELDS,
    **unsupported(
        "application_fee_amount", "customer_account", "on_behalf_of", "payment_method_configuration", "transfer_data",
        "transfer_group",
    ),
    "amount": integer(required=True),
    "automatic_payment_methods": hash_of({"enabled": boolean(), "allow_redirects": choice("always", "never")}),
    "capture_method": CAPTURE,
    "confirm": boolean(),
    "confirmation_method": choice("automatic", "manual"),
    "currency": currency(required=True),
    "payment_method_types": list_of(choice("card", "sepa_debit", "us_bank_account")),
}  # fmt: skip
_CONFIRM_ONLY = ("confirm", "error_on_requires_action", "mandate_data", "off_session", "return_url", "use_stripe_sdk")


def create(call: Call) -> Json:
    """Emits `payment_intent.created`; with `confirm=true` it is also attempted at once."""
    values = {name: value for name, value in call.params.items() if name not in _CONFIRM_ONLY}
    check_amount(values["amount"], values["currency"])
    call.fetch_named("customer", "customer")
    if "payment_method" in values:
        values["payment_method"] = method_of(call, values["payment_method"], status=400)["id"]
    intent = create_intent(call, values)
    if not call.params.get("confirm"):
        return intent
    return attempt(call, intent, _required_method(call, intent))


def check_amount(amount: int, currency_code: str, *, what: str = "Amount") -> None:
    """Refuse what Stripe would not charge."""
    if amount <= 0:
        raise StripeError(
            "The amount must be greater than or equal to the minimum charge amount allowed for your account and the "
            "currency set (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts).  If you want to "
            "save a Payment Method for future use without an immediate payment, use a Setup Intent instead: "
            "https://docs.stripe.com/payments/setup-intents",
            code="parameter_invalid_integer",
            param="amount",
        )
    least = minimum_minor(currency_code)
    if amount < least:
        raise StripeError(
            f"{what} must be at least {format_money(least, currency_code)} {currency_code}",
            code="amount_too_small",
            param="amount",
        )
    if amount > MAXIMUM_MINOR:
        raise StripeError(
            f"{what} must be no more than {format_money(MAXIMUM_MINOR, currency_code)}",
            code="amount_too_large",
            param="amount",
        )
    check_step(amount, currency_code, param="amount")


def create_intent(call: Call, values: Json) -> Json:
    """An intent before its first attempt; emits `payment_intent.created`."""
    intent_id = new_id("pi")
    by_hand = "payment_method_types" in values
    intent = _DEFAULTS | {
        "id": intent_id,
        "automatic_payment_methods": None if by_hand else {"allow_redirects": "always", "enabled": True},
        "client_secret": f"{intent_id}_secret_{random_text(25)}",
        "created": call.now,
        **values,
        "metadata": merge_metadata({}, values.get("metadata")),
        "status": "requires_confirmation" if values.get("payment_method") else "requires_payment_method",
    }
    intent = call.save(intent)
    call.emit("payment_intent.created", intent)
    return intent


_DEFAULTS: Json = {
    "id": "",
    "object": "payment_intent",
    "allowed_payment_method_types": None,
    "amount": 0,
    "amount_capturable": 0,
    "amount_details": {"tip": {}},
    "amount_received": 0,
    "application": None,
    "application_fee_amount": None,
    "automatic_payment_methods": None,
    "canceled_at": None,
    "cancellation_reason": None,
    "capture_method": "automatic_async",
    "client_secret": None,
    "confirmation_method": "automatic",
    "created": 0,
    "currency": "",
    "customer": None,
    "customer_account": None,
    "description": None,
    "excluded_payment_method_types": None,
    "last_payment_error": None,
    "latest_charge": None,
    "livemode": False,
    "metadata": {},
    "next_action": None,
    "on_behalf_of": None,
    "payment_method": None,
    "payment_method_configuration_details": None,
    "payment_method_options": {
        "card": {"installments": None, "mandate_options": None, "network": None, "request_three_d_secure": "automatic"}
    },
    "payment_method_types": ["card"],
    "processing": None,
    "receipt_email": None,
    "review": None,
    "setup_future_usage": None,
    "shipping": None,
    "source": None,
    "statement_descriptor": None,
    "statement_descriptor_suffix": None,
    "status": "",
    "transfer_data": None,
    "transfer_group": None,
}


def attempt(call: Call, intent: Json, method: Json, *, book: bool = True, authenticated: bool = False) -> Json:
    """Charge the method: returns the succeeded (or capturable) intent, or raises the card's 402 with its traces kept.

    A bank debit is `processing` afterwards, a payment that its cardholder must confirm `requires_action`, unless it is
    `authenticated`.

    With `book=False` the caller books the money later with `book_payment`, so that its own events come first.
    """
    if method["type"] != "card":
        return start_debit(call, intent, method)
    fate = fate_of(call, method)
    decline = DECLINES.get(fate)
    if fate is Fate.NEEDS_AUTHENTICATION and not authenticated:
        if not call.params.get("off_session") and not call.params.get("error_on_requires_action"):
            return ask_cardholder(call, intent, method)
        decline = CANNOT_BE_ASKED
    if decline is not None:
        raise _fail(call, intent, method, decline)
    manual = intent["capture_method"] == "manual"
    charge = create_charge(call, intent, method, decline=None, captured=not manual)
    call.emit("charge.succeeded", charge)
    changes = {
        "amount_capturable": intent["amount"] if manual else 0,
        "amount_received": 0 if manual else intent["amount"],
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "next_action": None,
        "payment_method": method["id"],
        "status": "requires_capture" if manual else "succeeded",
    }
    intent = call.update(intent, changes)
    call.emit("payment_intent.amount_capturable_updated" if manual else "payment_intent.succeeded", intent)
    if book and not manual:
        book_payment(call, intent)
    return intent


def book_payment(call: Call, intent: Json) -> None:
    """Give the charge its balance transaction; a moment later (`charge.updated`) where capture is asynchronous."""
    fate = fate_of(call, call.fetch("payment_method", intent["payment_method"]))
    charge = settle(call, intent["latest_charge"], fate, announce=intent["capture_method"] == "automatic_async")
    schedule_by_card(call, charge, fate)


def _fail(call: Call, intent: Json, method: Json, decline: Decline) -> StripeError:
    charge = create_charge(call, intent, method, decline=decline, captured=True)
    call.emit("charge.failed", charge)
    error = declined(decline, details={"charge": charge["id"], "payment_method": method})
    last_error = error.body(None)["error"]
    changes = {
        "last_payment_error": last_error,
        "latest_charge": charge["id"],
        "payment_method": None,
        "status": "requires_payment_method",
    }
    intent = call.update(intent, changes)
    call.emit("payment_intent.payment_failed", intent)
    error.details["payment_intent"] = intent
    return error


def _required_method(call: Call, intent: Json) -> Json:
    method_id = call.params.get("payment_method", intent["payment_method"])
    if method_id is None:
        raise StripeError(
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a "
            "payment method or ConfirmationToken.",
            code="payment_intent_unexpected_state",
        )
    method = call.store.get("payment_method", method_id) or method_of(call, method_id, status=400)
    if method["customer"] is not None and method["customer"] != intent["customer"]:
        raise StripeError(
            f"The provided PaymentMethod (`{method['id']}`) belongs to a different Customer. Please include the "
            "Customer in the `customer` parameter on the PaymentIntent.",
            param="payment_method",
        )
    return method


def confirm(call: Call) -> Json:
    """Attempt the payment; a declined card is a 402 and leaves the intent open."""
    intent = _in_status(call, "confirm", "requires_payment_method", "requires_confirmation")
    if "receipt_email" in call.params:
        intent = call.update(intent, {"receipt_email": call.params["receipt_email"]})
    return attempt(call, intent, _required_method(call, intent))


def capture(call: Call) -> Json:
    """Take the authorized money, or a part of it; emits `charge.captured` and `payment_intent.succeeded`."""
    intent = _in_status(call, "capture", "requires_capture")
    amount = call.params.get("amount_to_capture", intent["amount_capturable"])
    if amount > intent["amount_capturable"]:
        raise StripeError(
            "The amount to capture is larger than the amount that can be captured.",
            code="amount_too_large",
            param="amount_to_capture",
        )
    charge = call.fetch("charge", intent["latest_charge"])
    charge = call.update(charge, {"captured": True, "amount_captured": amount})
    fate = fate_of(call, call.fetch("payment_method", intent["payment_method"]))
    charge = settle(call, charge["id"], fate, announce=False)
    schedule_by_card(call, charge, fate)
    call.emit("charge.captured", charge)
    intent = call.update(intent, {"amount_capturable": 0, "amount_received": amount, "status": "succeeded"})
    call.emit("payment_intent.succeeded", intent)
    session = session_of(call, intent)
    if session is not None:  # its status becomes `paid` without an event of its own
        call.save(session | {"payment_status": "paid"})
    return intent


def cancel(call: Call) -> Json:
    """Give up an intent that has not succeeded; emits `payment_intent.canceled`."""
    intent = _in_status(
        call, "cancel", "requires_payment_method", "requires_capture", "requires_confirmation", "requires_action"
    )
    open_session = session_of(call, intent)
    if open_session is not None and open_session["status"] == "open":
        raise StripeError(
            "You cannot cancel this PaymentIntent because it was created by a Checkout Session that is still open. "
            f"Expire the session ({open_session['id']}) instead.",
            code="payment_intent_unexpected_state",
        )
    return cancel_intent(call, intent, reason=call.params.get("cancellation_reason"))


def cancel_intent(call: Call, intent: Json, *, reason: str | None) -> Json:
    """Also used when a session expires; an uncaptured charge is released."""
    if intent["status"] == "requires_capture":
        charge = call.fetch("charge", intent["latest_charge"])
        call.update(charge, {"amount_refunded": charge["amount"], "refunded": True}, event_type="charge.refunded")
    changes = {
        "amount_capturable": 0, "canceled_at": call.now, "cancellation_reason": reason, "next_action": None,
        "status": "canceled",
    }  # fmt: skip
    intent = call.update(intent, changes)
    call.emit("payment_intent.canceled", intent)
    return intent


def _in_status(call: Call, verb: str, *statuses: str) -> Json:
    intent = call.fetch("payment_intent", call.path["id"])
    if intent["status"] not in statuses:
        raise StripeError(
            f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
            f"with one of the following statuses may be {verb}ed: {', '.join(statuses)}.",
            code="payment_intent_unexpected_state",
            details={"payment_intent": intent},
        )
    return intent


def update(call: Call) -> Json:
    """Change what may still change."""
    intent = call.fetch("payment_intent", call.path["id"])
    changes = dict(call.params)
    call.fetch_named("customer", "customer")
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(intent["metadata"], changes["metadata"])
    if intent["status"] in {"succeeded", "canceled"} and changes.keys() - {"metadata", "description", "receipt_email"}:
        raise StripeError(
            f"This PaymentIntent could not be updated because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
            details={"payment_intent": intent},
        )
    if "payment_method" in changes:
        changes["payment_method"] = method_of(call, changes["payment_method"], status=400)["id"]
        changes["status"] = "requires_confirmation"
    return call.update(intent, changes)


def retrieve(call: Call) -> Json:
    """One payment intent."""
    return call.fetch("payment_intent", call.path["id"])


def list_all(call: Call) -> Json:
    """Payment intents, newest first; filter: `customer`."""
    customer = call.params.get("customer")
    return page_of(call, "payment_intent", where=lambda row: customer is None or row["customer"] == customer)


ROUTES = (
    Route("POST", "/v1/payment_intents", create, _CREATE),
    list_route(
        "/v1/payment_intents", list_all, customer=text(), created=created_filter(), **unsupported("customer_account")
    ),
    Route("GET", "/v1/payment_intents/{id}", retrieve),
    Route("POST", "/v1/payment_intents/{id}", update, _FIELDS),
    Route("POST", "/v1/payment_intents/{id}/confirm", confirm, _CONFIRM),
    Route("POST", "/v1/payment_intents/{id}/capture", capture, {"amount_to_capture": integer(minimum=1)}),
    Route(
        "POST", "/v1/payment_intents/{id}/cancel", cancel,
        {"cancellation_reason": choice("duplicate", "fraudulent", "requested_by_customer", "abandoned")},
    ),
)  # fmt: skip
