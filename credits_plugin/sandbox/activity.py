"""What happened in a sandbox, arranged for people: payments with what became of them, requests and events by time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import islice

from credits_plugin.sandbox.state import Noted, State
from credits_plugin.sandbox.store import Json, Store


@dataclass(frozen=True, slots=True)
class Payment:
    """One order or payment: what of it exists. `amount` is in minor units; `status` is a word for people.

    `seq` orders them.
    """

    seq: int
    at: int
    amount: int
    currency: str
    buyer: str
    status: str
    session: Json | None
    intent: Json | None
    charge: Json | None
    refunds: list[Json]
    dispute: Json | None


@dataclass(frozen=True, slots=True)
class Happening:
    """An answered request, or an event with its deliveries; `seq` orders them."""

    seq: int
    at: int
    request: Noted | None = None
    event: Json | None = None
    deliveries: tuple[str, ...] = ()


def recent_payments(store: Store, *, limit: int) -> list[Payment]:
    """Newest first, also within a second: payment intents, and sessions that have none yet."""
    sessions = {row["payment_intent"] or row["id"]: row for row in store.newest_first("checkout.session")}
    refunds: defaultdict[str, list[Json]] = defaultdict(list)
    for refund in store.newest_first("refund"):
        refunds[refund["charge"]].append(refund)
    payments = [
        _payment(store, intent, sessions.get(intent["id"]), refunds)
        for intent in islice(store.newest_first("payment_intent"), limit)
    ]
    payments += [_order(store, row) for row in sessions.values() if row["payment_intent"] is None]
    return sorted(payments, key=lambda payment: payment.seq, reverse=True)[:limit]


def _payment(store: Store, intent: Json, session: Json | None, refunds: defaultdict[str, list[Json]]) -> Payment:
    charge = store.get("charge", intent["latest_charge"] or "")
    dispute = store.get("dispute", charge["dispute"] or "") if charge else None
    return Payment(
        seq=store.seq_of("payment_intent", intent["id"]),
        at=intent["created"],
        amount=intent["amount_received"] or intent["amount"],
        currency=intent["currency"],
        buyer=_buyer(session, charge),
        status=_status(intent, charge, dispute),
        session=session,
        intent=intent,
        charge=charge,
        refunds=refunds[charge["id"]] if charge else [],
        dispute=dispute,
    )


def _order(store: Store, session: Json) -> Payment:
    return Payment(
        seq=store.seq_of("checkout.session", session["id"]),
        at=session["created"],
        amount=session["amount_total"],
        currency=session["currency"],
        buyer=_buyer(session, None),
        status="free" if session["payment_status"] == "no_payment_required" else session["status"],
        session=session,
        intent=None,
        charge=None,
        refunds=[],
        dispute=None,
    )


def _buyer(session: Json | None, charge: Json | None) -> str:
    details = (session or {}).get("customer_details") or (charge or {}).get("billing_details") or {}
    return str(details.get("email") or details.get("name") or "")


def _status(intent: Json, charge: Json | None, dispute: Json | None) -> str:
    if dispute is not None and dispute["status"] not in {"won", "warning_closed"}:
        return "inquiry" if dispute["status"].startswith("warning") else "disputed"
    if intent["status"] == "succeeded" and charge is not None and charge["amount_refunded"]:
        return "refunded" if charge["refunded"] else "partly_refunded"
    words = {"requires_payment_method": "incomplete", "requires_capture": "uncaptured"}
    return words.get(intent["status"]) or str(intent["status"])


def recent_happenings(state: State, *, limit: int) -> list[Happening]:
    """Newest first; a request stands above the events that it caused."""
    store = state.store
    deliveries: defaultdict[str, list[str]] = defaultdict(list)
    for delivery in store.oldest_first("delivery"):
        deliveries[delivery["event"]].append(_outcome(delivery))
    happenings = [
        Happening(store.seq_of("event", event["id"]), event["created"], None, event, tuple(deliveries[event["id"]]))
        for event in islice(store.newest_first("event"), limit)
    ]
    happenings += [Happening(noted.seq, noted.at, request=noted) for noted in state.requests]
    # Equal numbers: the request came after the events that were there already.
    return sorted(happenings, key=lambda one: (one.seq, one.request is not None), reverse=True)[:limit]


def _outcome(delivery: Json) -> str:
    answers = [str(attempt.get("status") or "no answer") for attempt in delivery["attempts"]]
    if delivery["state"] in {"pending", "held", "lost", "dropped"}:
        answers.append(delivery["state"])
    return ", ".join(answers)
