"""`/v1/charges`: made by payment intents; there is no direct way to create one."""

from __future__ import annotations

import secrets
from typing import Any

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.cards import Decline, Fate
from credits_plugin.sandbox.expansion import Loader
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import SHIPPING, created_filter, merge_metadata, metadata, text, unsupported
from credits_plugin.sandbox.resources import balance_transactions
from credits_plugin.sandbox.store import Json, Store

CAPTURE_WINDOW_S = 7 * 24 * 3600

_UPDATE = {
    "customer": text(),
    "description": text(clearable=True),
    "metadata": metadata(),
    "receipt_email": text(clearable=True),
    "shipping": SHIPPING,
    **unsupported("fraud_details", "transfer_group"),
}


def create_charge(call: Call, intent: Json, method: Json, *, decline: Decline | None, captured: bool) -> Json:
    """The attempt of a payment intent to take the money; emits nothing. `captured` is whether it is taken at once."""
    # What is no card payment has ids of its own in Stripe's API.
    amount, paid, charge_id = intent["amount"], decline is None, new_id("ch" if method["type"] == "card" else "py")
    charge = _DEFAULTS | {name: intent[name] for name in _FROM_INTENT}
    charge |= {
        "id": charge_id,
        "amount_captured": amount if paid and captured else 0,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": call.merchant_name.upper()[:22],
        "captured": paid and captured,
        "created": call.now,
        "failure_code": decline and decline.code,
        "failure_message": decline and decline.message,
        "outcome": _outcome(decline),
        "paid": paid,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": _method_details(call, method, amount, captured=captured),
        "receipt_url": f"{call.base_url}/receipts/{charge_id}" if paid else None,
        "status": "succeeded" if paid else "failed",
    }
    return call.save(charge)


_FROM_INTENT = (
    "amount", "currency", "customer", "description", "metadata", "receipt_email", "shipping", "statement_descriptor",
    "statement_descriptor_suffix",
)  # fmt: skip
_DEFAULTS: Json = {
    "id": "",
    "object": "charge",
    "amount": 0,
    "amount_captured": 0,
    "amount_refunded": 0,
    "application": None,
    "application_fee": None,
    "application_fee_amount": None,
    "balance_transaction": None,
    "destination": None,
    "dispute": None,
    "disputed": False,
    "failure_balance_transaction": None,
    "fraud_details": {},
    "livemode": False,
    "on_behalf_of": None,
    "order": None,
    "radar_options": {},
    "receipt_number": None,
    "refunded": False,
    "review": None,
    "source": None,
    "source_transfer": None,
    "transfer_data": None,
    "transfer_group": None,
}


def _outcome(decline: Decline | None) -> Json:
    approved = decline is None
    return {
        "advice_code": decline and decline.advice_code,
        "network_advice_code": None,
        "network_decline_code": decline and decline.network_decline_code,
        "network_status": "approved_by_network" if approved else "declined_by_network",
        "reason": decline and decline.reason,
        "risk_level": "normal",
        "risk_score": secrets.randbelow(60),
        "seller_message": "Payment complete."
        if approved
        else "The bank did not return any further details with this decline.",
        "type": "authorized" if approved else "issuer_declined",
    }


def _method_details(call: Call, method: Json, amount: int, *, captured: bool) -> Json:
    kind = method["type"]
    if kind == "card":
        return {"card": _card_details(call, method, amount, captured=captured), "type": kind}
    unsaid = {"financial_connections_account", "generated_from", "networks", "status_details"}
    return {kind: {name: value for name, value in method[kind].items() if name not in unsaid}, "type": kind}


def _card_details(call: Call, method: Json, amount: int, *, captured: bool) -> Json:
    card = method["card"]
    shared = (
        "brand",
        "checks",
        "country",
        "exp_month",
        "exp_year",
        "fingerprint",
        "funding",
        "last4",
        "regulated_status",
    )
    details: Json = {name: card[name] for name in shared} | {
        "amount_authorized": amount,
        "authorization_code": f"{secrets.randbelow(10**6):06d}",
        "extended_authorization": {"status": "disabled"},
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": card["brand"],
        "network_token": {"used": False},
        "network_transaction_id": f"{secrets.randbelow(10**15):015d}",
        "overcapture": {"maximum_amount_capturable": amount, "status": "unavailable"},
        "three_d_secure": None,
        "transaction_link_id": None,
        "wallet": None,
    }
    return details if captured else details | {"capture_before": call.now + CAPTURE_WINDOW_S}


def settle(call: Call, charge_id: str, fate: Fate, *, announce: bool) -> Json:
    """Book the captured money; `announce` emits the `charge.updated` that brings the balance transaction later."""
    charge = call.fetch("charge", charge_id)
    transaction = balance_transactions.record(
        call,
        source=charge,
        amount=charge["amount_captured"],
        kind="charge" if charge["payment_method_details"]["type"] == "card" else "payment",
        at_once=fate is Fate.AVAILABLE_AT_ONCE,
    )
    changes = {"balance_transaction": transaction["id"]}
    return call.update(charge, changes, event_type="charge.updated" if announce else None)


def refundable(charge: Json) -> int:
    """Minor units that were captured and not given back."""
    return int(charge["amount_captured"]) - int(charge["amount_refunded"])


def update(call: Call) -> Json:
    """Emits `charge.updated`."""
    charge = call.fetch("charge", call.path["id"])
    changes: Json = dict(call.params)
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(charge["metadata"], changes["metadata"])
    return call.update(charge, changes, event_type="charge.updated")


def retrieve(call: Call) -> Json:
    """One charge."""
    return call.fetch("charge", call.path["id"])


def list_all(call: Call) -> Json:
    """Charges, newest first; filters: `payment_intent`, `customer`."""
    wanted = {name: call.params[name] for name in ("payment_intent", "customer") if name in call.params}
    return page_of(call, "charge", where=lambda row: all(row[name] == value for name, value in wanted.items()))


def refunds_of(store: Store, charge: Json) -> Any:
    """The `refunds` list that appears in a charge when it is asked for."""
    rows = list(store.newest_first("refund", lambda row: row["charge"] == charge["id"]))
    url = f"/v1/charges/{charge['id']}/refunds"
    return {"object": "list", "data": rows[:10], "has_more": len(rows) > 10, "total_count": len(rows), "url": url}


def list_refunds(call: Call) -> Json:
    """The refunds of one charge."""
    charge = retrieve(call)
    return page_of(call, "refund", where=lambda row: row["charge"] == charge["id"])


ROUTES = (
    list_route(
        "/v1/charges", list_all, payment_intent=text(), customer=text(), created=created_filter(),
        **unsupported("transfer_group"),
    ),
    Route("GET", "/v1/charges/{id}", retrieve),
    Route("POST", "/v1/charges/{id}", update, _UPDATE),
    list_route("/v1/charges/{id}/refunds", list_refunds),
)  # fmt: skip

INCLUDABLE: dict[tuple[str, str], Loader] = {("charge", "refunds"): refunds_of}
