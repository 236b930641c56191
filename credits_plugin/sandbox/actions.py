"""What only a bank, a buyer or a person at the dashboard can do in reality: by name, for tests, the page and HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from credits_plugin.sandbox import faults, outgoing
from credits_plugin.sandbox.call import Call, Handler
from credits_plugin.sandbox.checkout_payments import finish_authentication
from credits_plugin.sandbox.errors import resource_missing
from credits_plugin.sandbox.params import Spec, boolean, choice, integer, read_params, text
from credits_plugin.sandbox.resources import checkout_sessions, delayed_payments, dispute_life, refund_life, refunds
from credits_plugin.sandbox.state import State
from credits_plugin.sandbox.store import Json


@dataclass(frozen=True, slots=True)
class Action:
    """A handler and the parameters that it takes."""

    handler: Handler
    params: Spec


def act(state: State, name: str, **values: Any) -> Json:
    """Do it now; returns the object as it is then. Raises StripeError for what is unknown, wrong or too late.

    Values of None are left out; all others are checked like the parameters of a request.
    """
    raw = {key: _plain(value) for key, value in values.items() if value is not None}
    action = ACTIONS.get(name)
    if action is None:
        raise resource_missing("action", name)
    params = read_params(raw, action.params)
    state.run_due()
    with state.store.transaction():
        return action.handler(state.call(params=params))


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, dict) else str(value)


def _named(call: Call, kind: str, *, param: str | None = None) -> Json:
    param = param or kind
    return call.fetch(kind, call.params[param], param=param, status=400)


def _dispute(call: Call) -> Json:
    options = {name: call.params[name] for name in ("reason", "inquiry", "amount") if name in call.params}
    return dispute_life.open_dispute(call, _named(call, "charge"), **options)


def _escalate_dispute(call: Call) -> Json:
    return dispute_life.escalate(call, _named(call, "dispute"))


def _close_dispute(call: Call) -> Json:
    return dispute_life.resolve(call, _named(call, "dispute"), won=call.params.get("won", True))


def _start_refunds_as(call: Call) -> Json:
    return refund_life.start_refunds_as(call, call.params["status"])


def _succeed_refund(call: Call) -> Json:
    return refund_life.succeed_refund(call, _named(call, "refund"))


def _fail_refund(call: Call) -> Json:
    reason = call.params.get("reason", "expired_or_canceled_card")
    return refund_life.fail_refund(call, _named(call, "refund"), reason=reason)


def _cancel_refund(call: Call) -> Json:
    return refund_life.cancel_refund(call, _named(call, "refund"))


def _complete_delayed_payment(call: Call) -> Json:
    session = _named(call, "checkout.session", param="session")
    return delayed_payments.complete_delayed_payment(call, session, succeed=call.params.get("succeed", True))


def _authenticate(call: Call) -> Json:
    intent = _named(call, "payment_intent")
    return finish_authentication(call, intent, succeed=call.params.get("succeed", True))


def _expire_session(call: Call) -> Json:
    session = _named(call, "checkout.session", param="session")
    return checkout_sessions.expire_open(call, session)


def _add_fault(call: Call) -> Json:
    return faults.add_fault(call.store, call.params.pop("kind"), **call.params)


def _clear_faults(call: Call) -> Json:
    faults.clear_faults(call.store)
    return {}


def _deliver_again(call: Call) -> Json:
    event = _named(call, "event")
    outgoing.deliver_again(call.store, event["id"], call.endpoint_ids)
    return event


def _release_events(call: Call) -> Json:
    return {"released": outgoing.release(call.store, newest_first=call.params.get("newest_first", False))}


_ID = text(required=True)
ACTIONS = {
    "dispute": Action(
        _dispute,
        {
            "charge": _ID, "reason": choice(*dispute_life.REASONS), "inquiry": boolean(), "amount": integer(minimum=1),
        },
    ),
    "escalate_dispute": Action(_escalate_dispute, {"dispute": _ID}),
    "close_dispute": Action(_close_dispute, {"dispute": _ID, "won": boolean()}),
    "refund": Action(refunds.create, refunds.CREATE),
    "start_refunds_as": Action(_start_refunds_as, {"status": choice(*refund_life.STARTS, required=True)}),
    "succeed_refund": Action(_succeed_refund, {"refund": _ID}),
    "fail_refund": Action(_fail_refund, {"refund": _ID, "reason": choice(*refund_life.FAILURE_REASONS)}),
    "cancel_refund": Action(_cancel_refund, {"refund": _ID}),
    "complete_delayed_payment": Action(_complete_delayed_payment, {"session": _ID, "succeed": boolean()}),
    "authenticate": Action(_authenticate, {"payment_intent": _ID, "succeed": boolean()}),
    "expire_session": Action(_expire_session, {"session": _ID}),
    "deliver_again": Action(_deliver_again, {"event": _ID}),
    "release_events": Action(_release_events, {"newest_first": boolean()}),
    "add_fault": Action(
        _add_fault,
        {
            "kind": choice(*faults.KINDS, required=True), "match": text(max_length=200),
            "times": integer(minimum=1, maximum=1000), "seconds": integer(minimum=0), "size": integer(minimum=2),
        },
    ),
    "clear_faults": Action(_clear_faults, {}),
}  # fmt: skip
"""By their names in the programmatic API (`Sandbox`)."""
