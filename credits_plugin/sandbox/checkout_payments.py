"""What happens when a buyer presses Pay on the hosted page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from credits_plugin.sandbox.bank_accounts import TestAccount
from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import TestCard
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.resources.authentication import refuse
from credits_plugin.sandbox.resources.checkout_prices import finish_pricing, redeem_discounts
from credits_plugin.sandbox.resources.checkout_sessions import EXPIRE, customer_details
from credits_plugin.sandbox.resources.customers import create_customer
from credits_plugin.sandbox.resources.delayed_payments import session_of
from credits_plugin.sandbox.resources.payment_intents import attempt, book_payment, create_intent
from credits_plugin.sandbox.resources.payment_methods import (
    EMPTY_ADDRESS,
    NO_BILLING_DETAILS,
    create_bank_account,
    create_card,
)
from credits_plugin.sandbox.store import Json


@dataclass(frozen=True, slots=True)
class SavedMethod:
    """A payment method that the session's customer has kept."""

    method_id: str


@dataclass(frozen=True, slots=True)
class GivenMethod:
    """A payment method that was made for this payment."""

    method_id: str


@dataclass(frozen=True, slots=True)
class Buyer:
    """What the form holds once it is checked; the number and the code are gone by then.

    `pays_with` is None where nothing is due. `expires` is (month, year) of a card. `keep` saves the card for the
    customer's next purchase. `country` is asked for where tax depends on it.
    """

    pays_with: TestCard | TestAccount | SavedMethod | GivenMethod | None
    name: str
    email: str
    expires: tuple[int, int] | None = None
    keep: bool = False
    country: str | None = None


def pay_session(call: Call, session_id: str, buyer: Buyer) -> Json:
    """Charge the session; returns it completed. A declined card raises its 402 and leaves the session open.

    Emits `payment_intent.created` (first attempt), `charge.succeeded`, `payment_intent.succeeded`,
    `checkout.session.completed`, `charge.updated`; or `charge.failed`, `payment_intent.payment_failed`. A bank debit
    and a manual capture complete the session unpaid; a total of nothing completes it without a payment intent. A card
    that needs authentication leaves it open until `finish_authentication`.
    """
    session = call.fetch("checkout.session", session_id)
    if session["status"] != "open":
        raise StripeError(f"This Checkout Session has a status of `{session['status']}` and takes no more payments.")
    session = finish_pricing(call, _with_customer(call, session, buyer))
    if session["amount_total"] == 0:
        return _complete(call, session, buyer, payment_status="no_payment_required")
    method = _method(call, session, buyer)
    intent = _intent_of(call, session)
    session = call.update(session, {"payment_intent": intent["id"]})
    if method["type"] not in session["payment_method_types"]:
        raise StripeError(f"The payment method type {method['type']} is not offered for this session.")
    intent = attempt(call, intent, method, book=False)
    if intent["status"] == "requires_action":
        call.store.put("checkout_buyer", {"id": session["id"], **asdict(replace(buyer, pays_with=None))})
        return session
    return _finish(call, session, buyer, intent, method)


def finish_authentication(call: Call, intent: Json, *, succeed: bool) -> Json:
    """The cardholder has answered: the payment and its session go on, or it fails and the session stays open.

    Returns the intent. Raises StripeError if nobody was asked.
    """
    if intent["status"] != "requires_action":
        raise StripeError(f"Payment {intent['id']} is {intent['status']}: it waits for nobody's authentication.")
    if not succeed:
        return refuse(call, intent)
    session, method = session_of(call, intent), call.fetch("payment_method", intent["payment_method"])
    intent = attempt(call, intent, method, book=session is None, authenticated=True)
    if session is not None:
        row = call.fetch("checkout_buyer", session["id"])
        buyer = Buyer(**{name: value for name, value in row.items() if name != "id"})
        _finish(call, session, buyer, intent, method)
    return intent


def _finish(call: Call, session: Json, buyer: Buyer, intent: Json, method: Json) -> Json:
    _keep_method(call, session, intent, method, buyer)
    paid = intent["status"] == "succeeded"
    session = _complete(call, session, buyer, payment_status="paid" if paid else "unpaid")
    if paid:
        book_payment(call, intent)
    return session


def _method(call: Call, session: Json, buyer: Buyer) -> Json:
    address = EMPTY_ADDRESS | {"country": buyer.country}
    billing = NO_BILLING_DETAILS | {"address": address, "email": buyer.email, "name": buyer.name}
    match buyer.pays_with:
        case SavedMethod(method_id):
            method = call.fetch("payment_method", method_id)
            if session["customer"] is None or method["customer"] != session["customer"]:
                raise StripeError("This payment method belongs to somebody else.")
            return method
        case GivenMethod(method_id):
            return call.fetch("payment_method", method_id)
        case TestAccount() as account:
            return create_bank_account(call, account, billing_details=billing)
        case TestCard() as card:
            return create_card(call, card, expires=buyer.expires, billing_details=billing)
        case None:
            raise StripeError("Enter a payment method.")


def _intent_of(call: Call, session: Json) -> Json:
    if session["payment_intent"] is not None:
        intent = call.fetch("payment_intent", session["payment_intent"])
        # A promotion code may have come between two attempts.
        return call.update(intent, {"amount": session["amount_total"]})
    wanted = call.fetch("checkout_intent_data", session["id"])
    values = {name: value for name, value in wanted.items() if name != "id"}
    values |= {
        "amount": session["amount_total"], "currency": session["currency"], "customer": session["customer"],
        "payment_method_types": session["payment_method_types"],
    }  # fmt: skip
    return create_intent(call, values)


def _with_customer(call: Call, session: Json, buyer: Buyer) -> Json:
    if session["customer"] is not None:
        return session
    keeps = call.fetch("checkout_intent_data", session["id"]).get("setup_future_usage")
    if session["customer_creation"] != "always" and not keeps:
        return session
    customer = create_customer(call, {"email": buyer.email, "name": buyer.name})
    return call.update(session, {"customer": customer["id"]})


def _keep_method(call: Call, session: Json, intent: Json, method: Json, buyer: Buyer) -> None:
    """Attach the card to the customer, for off-session payments or because the buyer ticked the box."""
    wanted = intent["setup_future_usage"] or buyer.keep
    if wanted and session["customer"] is not None and method["customer"] is None:
        redisplay = "always" if buyer.keep else "limited"
        kept = call.save(method | {"allow_redisplay": redisplay, "customer": session["customer"]})
        call.emit("payment_method.attached", kept)


def _complete(call: Call, session: Json, buyer: Buyer, *, payment_status: str) -> Json:
    call.unschedule(EXPIRE, session["id"])
    redeem_discounts(call, session)
    details = customer_details(email_address=buyer.email, name=buyer.name)
    if buyer.country:
        details["address"] = EMPTY_ADDRESS | {"country": buyer.country}
    changes = {
        "collected_information": {"business_name": None, "individual_name": None, "shipping_details": None},
        "customer_details": details,
        "payment_status": payment_status,
        "status": "complete",
        "url": None,
    }
    _update_customer(call, session, details)
    completed = call.update(session, changes)
    call.emit("checkout.session.completed", completed)
    return completed


def _update_customer(call: Call, session: Json, details: Json) -> None:
    """Where the merchant asked for it, the customer gets what the buyer has entered."""
    wanted = call.fetch("checkout_customer_update", session["id"])
    changes = {name: details[name] for name in ("name", "address") if wanted.get(name) == "auto" and details[name]}
    customer = call.store.get("customer", session["customer"] or "")
    if customer is not None and changes:
        call.update(customer, changes, event_type="customer.updated")
