"""What happens when a buyer presses Pay on the hosted page."""

from __future__ import annotations

from dataclasses import dataclass

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import TestCard
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.resources.checkout_sessions import EXPIRE, customer_details
from credits_plugin.sandbox.resources.customers import create_customer
from credits_plugin.sandbox.resources.payment_intents import attempt, book_payment, create_intent
from credits_plugin.sandbox.resources.payment_methods import NO_BILLING_DETAILS, create_card
from credits_plugin.sandbox.store import Json


@dataclass(frozen=True, slots=True)
class Buyer:
    """What the form holds once it is checked; the number and the code are gone by then."""

    card: TestCard
    expires: tuple[int, int]
    name: str
    email: str


def pay_session(call: Call, session_id: str, buyer: Buyer) -> Json:
    """Charge the session; returns it completed. A declined card raises its 402 and leaves the session open.

    Emits `payment_intent.created` (first attempt), `charge.succeeded`, `payment_intent.succeeded`,
    `checkout.session.completed`, `charge.updated`; or `charge.failed`, `payment_intent.payment_failed`.
    """
    session = call.fetch("checkout.session", session_id)
    if session["status"] != "open":
        raise StripeError(f"This Checkout Session has a status of `{session['status']}` and takes no more payments.")
    session = _with_customer(call, session, buyer)
    billing = NO_BILLING_DETAILS | {"email": buyer.email, "name": buyer.name}
    method = create_card(call, buyer.card, expires=buyer.expires, billing_details=billing)
    intent = _intent_of(call, session)
    session = call.update(session, {"payment_intent": intent["id"]})
    intent = attempt(call, intent, method, book=False)
    session = _complete(call, session, buyer)
    book_payment(call, intent)
    return session


def _intent_of(call: Call, session: Json) -> Json:
    if session["payment_intent"] is not None:
        return call.fetch("payment_intent", session["payment_intent"])
    wanted = call.fetch("checkout_intent_data", session["id"])
    values = {name: value for name, value in wanted.items() if name != "id"}
    values |= {
        "amount": session["amount_total"], "currency": session["currency"], "customer": session["customer"],
        "payment_method_types": ["card"],
    }  # fmt: skip
    return create_intent(call, values)


def _with_customer(call: Call, session: Json, buyer: Buyer) -> Json:
    if session["customer"] is not None or session["customer_creation"] != "always":
        return session
    customer = create_customer(call, {"email": buyer.email, "name": buyer.name})
    return call.update(session, {"customer": customer["id"]})


def _complete(call: Call, session: Json, buyer: Buyer) -> Json:
    call.unschedule(EXPIRE, session["id"])
    changes = {
        "collected_information": {"business_name": None, "individual_name": None, "shipping_details": None},
        "customer_details": customer_details(email_address=buyer.email, name=buyer.name),
        "payment_status": "paid",
        "status": "complete",
        "url": None,
    }
    completed = call.update(session, changes)
    call.emit("checkout.session.completed", completed)
    return completed
