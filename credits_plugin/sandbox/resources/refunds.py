"""`/v1/refunds`: full and partial, by charge or payment intent."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.cards import Fate
from credits_plugin.sandbox.currencies import format_money
from credits_plugin.sandbox.errors import StripeError, parameter_missing
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import choice, created_filter, integer, merge_metadata, metadata, text, unsupported
from credits_plugin.sandbox.resources import balance_transactions
from credits_plugin.sandbox.resources.charges import refundable
from credits_plugin.sandbox.resources.payment_methods import fate_of
from credits_plugin.sandbox.store import Json

FAIL = "fail_refund"
FAILS_AFTER_S = 5
"""How long a refund to 4000 0000 0000 5126 looks successful."""

_CREATE = {
    "amount": integer(minimum=1),
    "charge": text(),
    "metadata": metadata(),
    "payment_intent": text(),
    "reason": choice("duplicate", "fraudulent", "requested_by_customer"),
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
    amount: int = call.params.get("amount", left)
    if amount > left:
        asked, unrefunded = format_money(amount, charge["currency"]), format_money(left, charge["currency"])
        raise StripeError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({unrefunded})", param="amount"
        )
    refund = _create_refund(call, charge, amount)
    call.emit("refund.created", refund)
    _move_refunded(call, charge, amount)
    method = call.fetch("payment_method", charge["payment_method"])
    if fate_of(call, method) is Fate.REFUND_FAILS:
        call.schedule(FAIL, refund["id"], due_at=call.now + FAILS_AFTER_S)
    return refund


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


def _create_refund(call: Call, charge: Json, amount: int) -> Json:
    refund: Json = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {
            "card": {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"},
            "type": "card",
        },
        "metadata": merge_metadata({}, call.params.get("metadata")),
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": call.params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    transaction = balance_transactions.record(call, source=refund, amount=-amount, kind="refund")
    refund["balance_transaction"] = transaction["id"]
    return call.save(refund)


def _move_refunded(call: Call, charge: Json, amount: int) -> None:
    refunded = charge["amount_refunded"] + amount
    changes = {"amount_refunded": refunded, "refunded": refunded >= charge["amount_captured"]}
    call.update(charge, changes, event_type="charge.refunded" if amount > 0 else "charge.updated")


def fail_due(call: Call, refund_id: str) -> None:
    """The bank sends the money back; emits `refund.failed` and `refund.updated`, and the charge is whole again."""
    refund = call.fetch("refund", refund_id)
    transaction = balance_transactions.record(call, source=refund, amount=refund["amount"], kind="refund_failure")
    changes = {
        "status": "failed",
        "failure_reason": "expired_or_canceled_card",
        "failure_balance_transaction": transaction["id"],
    }
    previous = {name: refund.get(name) for name in changes}
    failed = call.update(refund, changes)
    for event_type in ("refund.failed", "refund.updated", "charge.refund.updated"):
        call.emit(event_type, failed, previous=previous)
    _move_refunded(call, call.fetch("charge", refund["charge"]), -refund["amount"])


def update(call: Call) -> Json:
    """Metadata only; emits `refund.updated` and `charge.refund.updated`."""
    refund = call.fetch("refund", call.path["id"])
    merged = merge_metadata(refund["metadata"], call.params.get("metadata", {}))
    previous = {"metadata": refund["metadata"]}
    updated = call.update(refund, {"metadata": merged}, event_type="refund.updated")
    if merged != refund["metadata"]:
        call.emit("charge.refund.updated", updated, previous=previous)
    return updated


def retrieve(call: Call) -> Json:
    """One refund."""
    return call.fetch("refund", call.path["id"])


def list_all(call: Call) -> Json:
    """Refunds, newest first; filters: `charge`, `payment_intent`."""
    wanted = {name: call.params[name] for name in ("charge", "payment_intent") if name in call.params}
    return page_of(call, "refund", where=lambda row: all(row[name] == value for name, value in wanted.items()))


ROUTES = (
    Route("POST", "/v1/refunds", create, _CREATE),
    list_route("/v1/refunds", list_all, charge=text(), payment_intent=text(), created=created_filter()),
    Route("GET", "/v1/refunds/{id}", retrieve),
    Route("POST", "/v1/refunds/{id}", update, {"metadata": metadata()}),
)
