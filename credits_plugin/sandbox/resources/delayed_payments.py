"""Bank debits: the session completes unpaid, and the money comes or fails to come later."""

from __future__ import annotations

from credits_plugin.sandbox.bank_accounts import DEBIT_FAILURES
from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.cards import Decline, Fate
from credits_plugin.sandbox.errors import INVALID_REQUEST, StripeError
from credits_plugin.sandbox.resources.charges import create_charge, settle
from credits_plugin.sandbox.resources.payment_methods import fate_of
from credits_plugin.sandbox.store import Json

FINISH = "finish_debit"
FINISHES_AFTER_S = 10
"""How long a bank debit is under way; in reality two to fourteen business days."""


def start_debit(call: Call, intent: Json, method: Json) -> Json:
    """Put the intent in `processing`; emits `charge.pending` and `payment_intent.processing`."""
    charge = create_charge(call, intent, method, decline=None, captured=True)
    charge = call.save(charge | {"paid": False, "receipt_url": None, "status": "pending"})
    call.emit("charge.pending", charge)
    changes = {
        "last_payment_error": None, "latest_charge": charge["id"], "payment_method": method["id"],
        "status": "processing",
    }  # fmt: skip
    intent = call.update(intent, changes)
    call.emit("payment_intent.processing", intent)
    if fate_of(call, method) is not Fate.DEBIT_WAITS:
        call.schedule(FINISH, intent["id"], due_at=call.now + FINISHES_AFTER_S)
    return intent


def finish_due(call: Call, intent_id: str) -> None:
    """What the clock does: the account decides."""
    intent = call.fetch("payment_intent", intent_id)
    fate = fate_of(call, call.fetch("payment_method", intent["payment_method"]))
    finish(call, intent, failure=DEBIT_FAILURES.get(fate))


def complete_delayed_payment(call: Call, session: Json, *, succeed: bool) -> Json:
    """Decide now what becomes of a session's debit; returns the session. Raises StripeError if none is under way."""
    intent = call.store.get("payment_intent", session["payment_intent"] or "")
    if intent is None or intent["status"] != "processing":
        raise StripeError(f"Session {session['id']} has no payment under way.")
    finish(call, intent, failure=None if succeed else DEBIT_FAILURES[Fate.ACCOUNT_EMPTY])
    return call.fetch("checkout.session", session["id"])


def finish(call: Call, intent: Json, *, failure: Decline | None) -> None:
    """Emits `charge.succeeded`, `payment_intent.succeeded`, `checkout.session.async_payment_succeeded`.

    With a failure: `charge.failed`, `payment_intent.payment_failed`, `checkout.session.async_payment_failed`.
    """
    call.unschedule(FINISH, intent["id"])
    charge = call.fetch("charge", intent["latest_charge"])
    if failure is None:
        _succeed(call, intent, charge)
    else:
        _fail(call, intent, charge, failure)


def _succeed(call: Call, intent: Json, charge: Json) -> None:
    receipt_url = f"{call.base_url}/receipts/{charge['id']}"
    call.emit("charge.succeeded", call.save(charge | {"paid": True, "receipt_url": receipt_url, "status": "succeeded"}))
    intent = call.save(intent | {"amount_received": intent["amount"], "status": "succeeded"})
    call.emit("payment_intent.succeeded", intent)
    session = session_of(call, intent)
    if session is not None:
        paid = call.save(session | {"payment_status": "paid"})
        call.emit("checkout.session.async_payment_succeeded", paid)
    settle(call, charge["id"], Fate.DEBIT_SUCCEEDS, announce=True)


def _fail(call: Call, intent: Json, charge: Json, failure: Decline) -> None:
    changes = {
        "amount_captured": 0, "captured": False, "failure_code": failure.code, "failure_message": failure.message,
        "status": "failed",
    }  # fmt: skip
    call.emit("charge.failed", call.save(charge | changes))
    method = call.fetch("payment_method", intent["payment_method"])
    error = StripeError(
        failure.message,
        kind=INVALID_REQUEST,
        code=failure.code,
        details={"charge": charge["id"], "payment_method": method},
    )
    changes = {
        "last_payment_error": error.body(None)["error"], "payment_method": None, "status": "requires_payment_method",
    }  # fmt: skip
    intent = call.save(intent | changes)
    call.emit("payment_intent.payment_failed", intent)
    session = session_of(call, intent)
    if session is not None:
        call.emit("checkout.session.async_payment_failed", session)


def session_of(call: Call, intent: Json) -> Json | None:
    """The session that made the intent, if one did."""
    return next(call.store.newest_first("checkout.session", lambda row: row["payment_intent"] == intent["id"]), None)
