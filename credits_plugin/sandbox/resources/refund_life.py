"""The life of a refund: pending, waiting for the customer, succeeded, canceled, failed (even after it succeeded).

The charge's `amount_refunded` moves when a refund is made, whatever its status, and back when it fails or is canceled.
"""

from __future__ import annotations

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import Fate
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import merge_metadata
from credits_plugin.sandbox.resources import balance_transactions
from credits_plugin.sandbox.resources.dispute_life import close_refunded_inquiry
from credits_plugin.sandbox.resources.payment_methods import fate_of
from credits_plugin.sandbox.store import Json

FAIL = "fail_refund"
SUCCEED = "succeed_refund"
FAILS_AFTER_S = 5
"""How long a refund to 4000 0000 0000 5126 looks successful."""
SUCCEEDS_AFTER_S = 5
"""How long a refund to 4000 0000 0000 7726 is pending."""

REFUND_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
FAILURE_REASONS = (
    "charge_for_pending_refund_disputed", "declined", "expired_or_canceled_card", "insufficient_funds",
    "lost_or_stolen_card", "merchant_request", "unknown",
)  # fmt: skip
STARTS = ("succeeded", "pending", "requires_action")
"""The statuses that a new refund can begin with."""


def create_refund(
    call: Call, charge: Json, *, amount: int, reason: str | None, metadata: dict[str, str] | None = None
) -> Json:
    """Give `amount` (minor units) back; emits `refund.created` and the charge's cumulative `charge.refunded`."""
    method = call.fetch("payment_method", charge["payment_method"])
    fate, by_card = fate_of(call, method), method["type"] == "card"
    status = "pending" if fate is Fate.REFUND_PENDING else first_status(call)
    refund = _new_refund(call, charge, amount=amount, reason=reason, status=status)
    refund["metadata"] = merge_metadata({}, metadata)
    if not by_card:
        refund |= {"id": new_id("pyr"), "destination_details": {"type": "us_bank_transfer", "us_bank_transfer": {}}}
    kind = "refund" if by_card else "payment_refund"
    transaction = balance_transactions.record(call, source=refund, amount=-amount, kind=kind)
    refund = call.save(refund | {"balance_transaction": transaction["id"]})
    call.emit("refund.created", refund)
    _move_refunded(call, charge, amount)
    if fate is Fate.REFUND_FAILS:
        call.schedule(FAIL, refund["id"], due_at=call.now + FAILS_AFTER_S)
    elif fate is Fate.REFUND_PENDING:
        call.schedule(SUCCEED, refund["id"], due_at=call.now + SUCCEEDS_AFTER_S)
    return refund


def _new_refund(call: Call, charge: Json, *, amount: int, reason: str | None, status: str) -> Json:
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
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }
    if status == "pending":
        refund["pending_reason"] = "processing"
    if status == "requires_action":
        sent_to = charge["billing_details"]["email"] or "buyer@example.com"
        expires_at = call.now + 45 * balance_transactions.DAY_S
        email_sent = {"email_sent_at": call.now, "email_sent_to": sent_to}
        refund["next_action"] = {
            "display_details": {"email_sent": email_sent, "expires_at": expires_at}, "type": "display_details",
        }  # fmt: skip
    return refund


def first_status(call: Call) -> str:
    """What a new refund begins with; `start_refunds_as` changes it."""
    return str((call.store.get("behaviour", "refunds") or {"status": "succeeded"})["status"])


def start_refunds_as(call: Call, status: str) -> Json:
    """Have every later refund begin as `pending`, `requires_action` or (as by itself) `succeeded`."""
    row = {"id": "refunds", "status": status}
    call.store.put("behaviour", row)
    return row


def succeed_refund(call: Call, refund: Json) -> Json:
    """The money has arrived; emits `refund.updated` and `charge.refund.updated`."""
    if refund["status"] not in {"pending", "requires_action"}:
        raise StripeError(f"Refund {refund['id']} is {refund['status']}: only a waiting refund can still succeed.")
    return _end(call, refund, {"status": "succeeded"})


def fail_refund(call: Call, refund: Json, *, reason: str = "expired_or_canceled_card") -> Json:
    """The bank sends the money back, even after success; emits `refund.failed` and the charge is whole again."""
    if refund["status"] in {"failed", "canceled"}:
        raise StripeError(f"Refund {refund['id']} is {refund['status']} already.")
    return _take_back(call, refund, {"status": "failed", "failure_reason": reason})


def cancel_refund(call: Call, refund: Json) -> Json:
    """It will not happen after all; the charge is whole again."""
    return _take_back(call, refund, {"status": "canceled", "failure_reason": "merchant_request"})


def _take_back(call: Call, refund: Json, changes: Json) -> Json:
    kind = "payment_failure_refund" if refund["id"].startswith("pyr_") else "refund_failure"
    transaction = balance_transactions.record(call, source=refund, amount=refund["amount"], kind=kind)
    ended = _end(call, refund, {**changes, "failure_balance_transaction": transaction["id"]})
    _move_refunded(call, call.fetch("charge", refund["charge"]), -refund["amount"])
    return ended


def _end(call: Call, refund: Json, changes: Json) -> Json:
    for action in (FAIL, SUCCEED):
        call.unschedule(action, refund["id"])
    previous = {name: refund.get(name) for name in changes}
    waited_for = {"next_action", "pending_reason"}
    ended = call.save({name: value for name, value in refund.items() if name not in waited_for} | changes)
    failed = ("refund.failed",) if changes["status"] == "failed" else ()
    for event_type in (*failed, "refund.updated", "charge.refund.updated"):
        call.emit(event_type, ended, previous=previous)
    return ended


def _move_refunded(call: Call, charge: Json, amount: int) -> None:
    refunded = charge["amount_refunded"] + amount
    changes = {"amount_refunded": refunded, "refunded": refunded >= charge["amount_captured"]}
    charge = call.update(charge, changes, event_type="charge.refunded" if amount > 0 else "charge.updated")
    close_refunded_inquiry(call, charge)


def fail_due(call: Call, refund_id: str) -> None:
    """What the clock does to a refund to 4000 0000 0000 5126."""
    fail_refund(call, call.fetch("refund", refund_id))


def succeed_due(call: Call, refund_id: str) -> None:
    """What the clock does to a refund to 4000 0000 0000 7726."""
    succeed_refund(call, call.fetch("refund", refund_id))
