"""The life of a dispute: opened (as an inquiry or with the money), escalated, reviewed, won or lost.

Source of the states and of the test evidence: https://docs.stripe.com/disputes/how-disputes-work and
https://docs.stripe.com/testing#disputes.
"""

from __future__ import annotations

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import Fate
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.resources import balance_transactions
from credits_plugin.sandbox.store import Json

OPEN_BY_CARD = "open_dispute"
RUN_OUT = "run_out_dispute"
DECIDE = "decide_dispute"

DAY_S = 24 * 3600
ANSWER_WITHIN_DAYS = 9
"""How long the merchant has (7 to 21 days in reality, by card network); after that a chargeback is lost."""
INQUIRY_ENDS_AFTER_DAYS = 120

REASONS = (
    "bank_cannot_process", "check_returned", "credit_not_processed", "customer_initiated", "debit_not_authorized",
    "duplicate", "fraudulent", "general", "incorrect_account_details", "insufficient_funds", "noncompliant",
    "product_not_received", "product_unacceptable", "subscription_canceled", "unrecognized",
)  # fmt: skip
_NETWORK_CODES = {"fraudulent": "10.4", "product_not_received": "13.1", "duplicate": "12.6.1"}
_BY_CARD = {
    Fate.DISPUTED_AS_FRAUD: ("fraudulent", False),
    Fate.DISPUTED_AS_NOT_RECEIVED: ("product_not_received", False),
    Fate.INQUIRED: ("fraudulent", True),
}

CLOSED = frozenset({"won", "lost", "warning_closed"})
REVIEW_OF = {
    "needs_response": "under_review",
    "under_review": "under_review",
    "warning_needs_response": "warning_under_review",
    "warning_under_review": "warning_under_review",
}
"""The status that submitted evidence leads to."""

EVIDENCE_FILES = (
    "cancellation_policy", "customer_communication", "customer_signature", "duplicate_charge_documentation", "receipt",
    "refund_policy", "service_documentation", "shipping_documentation", "uncategorized_file",
)  # fmt: skip
EVIDENCE_TEXTS = (
    "access_activity_log", "billing_address", "cancellation_policy_disclosure", "cancellation_rebuttal",
    "customer_email_address", "customer_name", "customer_purchase_ip", "duplicate_charge_explanation",
    "duplicate_charge_id", "product_description", "refund_policy_disclosure", "refund_refusal_explanation",
    "service_date", "shipping_address", "shipping_carrier", "shipping_date", "shipping_tracking_number",
    "uncategorized_text",
)  # fmt: skip


def open_dispute(
    call: Call, charge: Json, *, reason: str = "fraudulent", inquiry: bool = False, amount: int | None = None
) -> Json:
    """A bank takes `amount` (minor units, default: what was not refunded) back, or only inquires.

    Emits `charge.dispute.created`, `charge.updated` and, unless it is an inquiry, `charge.dispute.funds_withdrawn`.
    Raises StripeError for a charge that took no money or is disputed already.
    """
    if charge["status"] != "succeeded":
        raise StripeError(f"Charge {charge['id']} took no money: it cannot be disputed.", param="charge")
    if charge["disputed"]:
        raise StripeError(f"Charge {charge['id']} is disputed already ({charge['dispute']}).", param="charge")
    disputed = charge["amount_captured"] - charge["amount_refunded"] if amount is None else amount
    if not 0 < disputed <= charge["amount_captured"]:
        raise StripeError(
            f"Charge {charge['id']} captured {charge['amount_captured']}: {disputed} of it cannot be disputed.",
            param="amount",
        )
    dispute = call.save(_new_dispute(call, charge, amount=disputed, reason=reason, inquiry=inquiry))
    call.emit("charge.dispute.created", dispute)
    call.update(charge, {"disputed": True, "dispute": dispute["id"]}, event_type="charge.updated")
    if not inquiry:
        dispute = _withdraw(call, dispute)
    call.schedule(RUN_OUT, dispute["id"], due_at=_runs_out_at(dispute, inquiry=inquiry))
    return dispute


def _new_dispute(call: Call, charge: Json, *, amount: int, reason: str, inquiry: bool) -> Json:
    billing = charge["billing_details"]
    evidence: Json = dict.fromkeys(sorted((*EVIDENCE_FILES, *EVIDENCE_TEXTS)))
    evidence |= {
        "customer_email_address": billing["email"], "customer_name": billing["name"], "enhanced_evidence": {},
    }  # fmt: skip
    return {
        "id": new_id("du"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": call.now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": evidence,
        "evidence_details": {
            "due_by": _end_of_day(call.now + ANSWER_WITHIN_DAYS * DAY_S), "enhanced_eligibility": {},
            "has_evidence": False, "past_due": False, "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": _method_details(charge, reason=reason, inquiry=inquiry),
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }  # fmt: skip


def _method_details(charge: Json, *, reason: str, inquiry: bool) -> Json:
    brand = (charge["payment_method_details"].get("card") or {}).get("brand", "visa")
    card = {
        "brand": brand, "case_type": "inquiry" if inquiry else "chargeback", "network": brand,
        "network_reason_code": _NETWORK_CODES.get(reason, "10"),
    }  # fmt: skip
    return {"card": card, "type": "card"}


def _end_of_day(moment: int) -> int:
    return moment // DAY_S * DAY_S + DAY_S - 1


def _runs_out_at(dispute: Json, *, inquiry: bool) -> int:
    due_by: int = dispute["evidence_details"]["due_by"]
    return dispute["created"] + INQUIRY_ENDS_AFTER_DAYS * DAY_S if inquiry else due_by


def _withdraw(call: Call, dispute: Json) -> Json:
    return _book(call, dispute, amount=-dispute["amount"], kind="dispute", event_type="charge.dispute.funds_withdrawn")


def _book(call: Call, dispute: Json, *, amount: int, kind: str, event_type: str) -> Json:
    transaction = balance_transactions.record(call, source=dispute, amount=amount, kind=kind)
    changes = {"balance_transactions": [*dispute["balance_transactions"], transaction]}
    return call.update(dispute, changes, event_type=event_type)


def escalate(call: Call, dispute: Json) -> Json:
    """An inquiry becomes a chargeback; emits `charge.dispute.updated` and `charge.dispute.funds_withdrawn`."""
    if not is_open_inquiry(dispute):
        raise StripeError(f"Dispute {dispute['id']} is {dispute['status']}: only an open inquiry can escalate.")
    details = dispute["payment_method_details"]
    changes = {
        "evidence_details": dispute["evidence_details"]
        | {"due_by": _end_of_day(call.now + ANSWER_WITHIN_DAYS * DAY_S)},
        "is_charge_refundable": False,
        "payment_method_details": details | {"card": details["card"] | {"case_type": "chargeback"}},
        "status": "needs_response",
    }
    dispute = call.update(dispute, changes, event_type="charge.dispute.updated")
    call.schedule(RUN_OUT, dispute["id"], due_at=_runs_out_at(dispute, inquiry=False))
    return _withdraw(call, dispute)


def is_open_inquiry(dispute: Json) -> bool:
    """Whether no money has been taken so far."""
    return dispute["status"] in {"warning_needs_response", "warning_under_review"}


def resolve(call: Call, dispute: Json, *, won: bool) -> Json:
    """The bank decides. A win emits `charge.dispute.funds_reinstated`; every decision emits `charge.dispute.closed`.

    An inquiry is closed either way, and nothing moves. A lost dispute can still turn into a win, as happens in reality.
    """
    if is_open_inquiry(dispute):
        return _close(call, dispute, "warning_closed")
    if dispute["status"] in {"won", "warning_closed"} or (dispute["status"] == "lost" and not won):
        raise StripeError(f"Dispute {dispute['id']} is {dispute['status']} already.")
    if not won:
        return _close(call, dispute, "lost")
    previous = {"status": dispute["status"]}
    dispute = call.save(dispute | {"status": "won"})
    dispute = _book(
        call, dispute, amount=dispute["amount"], kind="dispute_reversal", event_type="charge.dispute.funds_reinstated"
    )
    call.unschedule(RUN_OUT, dispute["id"])
    call.emit("charge.dispute.closed", dispute, previous=previous)
    return dispute


def accept(call: Call, dispute: Json) -> Json:
    """The merchant gives in."""
    return resolve(call, dispute, won=False)


def _close(call: Call, dispute: Json, status: str) -> Json:
    call.unschedule(RUN_OUT, dispute["id"])
    return call.update(dispute, {"status": status}, event_type="charge.dispute.closed")


def close_refunded_inquiry(call: Call, charge: Json) -> None:
    """A full refund answers an inquiry."""
    dispute = call.store.get("dispute", charge["dispute"] or "")
    if dispute is not None and charge["refunded"] and is_open_inquiry(dispute):
        _close(call, call.save(dispute | {"is_charge_refundable": False}), "warning_closed")


def blocks_refund(call: Call, charge: Json) -> bool:
    """Whether the bank holds, or holds for good, the money that a refund would give back."""
    dispute = call.store.get("dispute", charge["dispute"] or "")
    return dispute is not None and dispute["status"] in {"needs_response", "under_review", "lost"}


def schedule_by_card(call: Call, charge: Json, fate: Fate) -> None:
    """Have the test cards that are disputed by themselves disputed right after this request, as in test mode."""
    if fate in _BY_CARD:
        call.schedule(OPEN_BY_CARD, charge["id"], due_at=call.now)


def open_due(call: Call, charge_id: str) -> None:
    """What the clock does to a charge of such a card, unless it was refunded or disputed meanwhile."""
    charge = call.fetch("charge", charge_id)
    fate = Fate(call.fetch("card_fate", charge["payment_method"])["fate"])
    reason, inquiry = _BY_CARD[fate]
    if not charge["disputed"] and not charge["refunded"]:
        open_dispute(call, charge, reason=reason, inquiry=inquiry)


def run_out(call: Call, dispute_id: str) -> None:
    """What the clock does when nobody has answered in time: a chargeback is lost, an inquiry closed."""
    dispute = call.fetch("dispute", dispute_id)
    if dispute["status"] in {"needs_response", "warning_needs_response", "warning_under_review"}:
        dispute = call.save(dispute | {"evidence_details": dispute["evidence_details"] | {"past_due": True}})
        resolve(call, dispute, won=False)


def obey_test_evidence(call: Call, dispute: Json) -> None:
    """Have submitted test evidence decide the dispute right after this request."""
    if dispute["evidence"]["uncategorized_text"] in _DECISIONS:
        call.schedule(DECIDE, dispute["id"], due_at=call.now)


def decide_due(call: Call, dispute_id: str) -> None:
    """What the clock does for `obey_test_evidence`."""
    dispute = call.fetch("dispute", dispute_id)
    match _DECISIONS[dispute["evidence"]["uncategorized_text"]]:
        case "escalate":
            if is_open_inquiry(dispute):
                escalate(call, dispute)
        case outcome:
            if dispute["status"] not in CLOSED:
                resolve(call, dispute, won=outcome == "won")


_DECISIONS = {"winning_evidence": "won", "losing_evidence": "lost", "escalate_inquiry_evidence": "escalate"}
