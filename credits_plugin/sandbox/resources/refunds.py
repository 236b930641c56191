"""`/v1/refunds`: full and partial, by charge or payment intent; `refund_life.py` has what happens to one later."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.currencies import format_money
from credits_plugin.sandbox.errors import StripeError, parameter_missing
from credits_plugin.sandbox.params import choice, created_filter, integer, merge_metadata, metadata, text, unsupported
from credits_plugin.sandbox.resources.charges import refundable
from credits_plugin.sandbox.resources.dispute_life import blocks_refund
from credits_plugin.sandbox.resources.refund_life import REFUND_REASONS, cancel_refund, create_refund, fail_refund
from credits_plugin.sandbox.store import Json

CREATE = {
    "amount": integer(minimum=1),
    "charge": text(),
    "metadata": metadata(),
    "payment_intent": text(),
    "reason": choice(*REFUND_REASONS),
    **unsupported(
        "currency", "customer", "instructions_email", "origin", "refund_application_fee", "reverse_transfer"
    ),
}  # fmt: skip


def create(call: Call) -> Json:
    """Give money back; emits `refund.created` and `charge.refunded`. Without an amount, all that is left."""
    charge = _charge_to_refund(call)
    left = refundable(charge)
    if charge["refunded"] or left == 0:
        raise StripeError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if blocks_refund(call, charge):
        raise StripeError(
            f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed"
        )
    amount: int = call.params.get("amount", left)
    if amount > left:
        asked, unrefunded = format_money(amount, charge["currency"]), format_money(left, charge["currency"])
        raise StripeError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({unrefunded})", param="amount"
        )
    return create_refund(
        call, charge, amount=amount, reason=call.params.get("reason"), metadata=call.params.get("metadata")
    )


def _charge_to_refund(call: Call) -> Json:
    charge = call.fetch_named("charge", "charge")
    intent = call.fetch_named("payment_intent", "payment_intent")
    if charge is None and intent is None:
        raise parameter_missing("charge")
    if charge is None:
        charge = call.store.get("charge", (intent or {}).get("latest_charge") or "")
        name = f"This PaymentIntent ({call.params['payment_intent']})"
    else:
        name = f"Charge {charge['id']}"
    if charge is None or charge["status"] != "succeeded" or not charge["captured"]:
        raise StripeError(f"{name} does not have a successful charge to refund.")
    if intent is not None and charge["payment_intent"] != intent["id"]:
        raise StripeError("The charge and the payment_intent do not belong together.", param="payment_intent")
    return charge


def update(call: Call) -> Json:
    """Metadata only; emits `refund.updated` and `charge.refund.updated`."""
    refund = call.fetch("refund", call.path["id"])
    merged = merge_metadata(refund["metadata"], call.params.get("metadata", {}))
    previous = {"metadata": refund["metadata"]}
    updated = call.update(refund, {"metadata": merged}, event_type="refund.updated")
    if merged != refund["metadata"]:
        call.emit("charge.refund.updated", updated, previous=previous)
    return updated


def cancel(call: Call) -> Json:
    """Withdraw a refund that still waits for the customer; emits `refund.updated`."""
    return cancel_refund(call, _waiting(call, "canceled"))


def expire(call: Call) -> Json:
    """Stripe's test helper: the customer has not acted in time, so the refund fails."""
    return fail_refund(call, _waiting(call, "expired"), reason="expired_or_canceled_card")


def _waiting(call: Call, verb: str) -> Json:
    refund = retrieve(call)
    if refund["status"] != "requires_action":
        raise StripeError(
            f"Refund {refund['id']} has a status of {refund['status']}: only a refund with a status of requires_action "
            f"can be {verb}."
        )
    return refund


def retrieve(call: Call) -> Json:
    """One refund."""
    return call.fetch("refund", call.path["id"])


def list_all(call: Call) -> Json:
    """Refunds, newest first; filters: `charge`, `payment_intent`."""
    wanted = {name: call.params[name] for name in ("charge", "payment_intent") if name in call.params}
    return page_of(call, "refund", where=lambda row: all(row[name] == value for name, value in wanted.items()))


ROUTES = (
    Route("POST", "/v1/refunds", create, CREATE),
    list_route("/v1/refunds", list_all, charge=text(), payment_intent=text(), created=created_filter()),
    Route("GET", "/v1/refunds/{id}", retrieve),
    Route("POST", "/v1/refunds/{id}", update, {"metadata": metadata()}),
    Route("POST", "/v1/refunds/{id}/cancel", cancel),
    Route("POST", "/v1/test_helpers/refunds/{id}/expire", expire),
)
