"""Events as older and newer API versions, or the other mode, would word them; pure but for look-ups.

Sources: https://docs.stripe.com/changelog (2022-11-15: `charges` of a payment intent and `refunds` of a charge left the
objects; dahlia: `ui_mode` was renamed). The newer version is invented: a reader can only be ready for what it does
not know.
"""

from __future__ import annotations

from copy import deepcopy

from credits_plugin.sandbox.store import Json, Store

OLDER_VERSION = "2022-08-01"
NEWER_VERSION = "2027-09-30.later"

_YOUNG_MEMBERS = {
    "checkout.session": (
        "adaptive_pricing", "allowed_payment_method_types", "branding_settings", "collected_information",
        "customer_account", "discounts", "integration_identifier", "managed_payments", "optional_items",
        "origin_context", "payment_method_configuration_details", "permissions", "saved_payment_method_options",
        "wallet_options",
    ),
    "dispute": ("enhanced_eligibility_types", "payment_method_details"),
    "payment_intent": (
        "allowed_payment_method_types", "customer_account", "excluded_payment_method_types", "latest_charge",
        "payment_method_configuration_details",
    ),
    "refund": ("customer", "customer_account", "destination_details", "payment_method"),
}  # fmt: skip


def older_shape(event: Json, store: Store) -> Json:
    """As an endpoint that is pinned to 2022-08-01 gets it."""
    event = deepcopy(event) | {"api_version": OLDER_VERSION}
    obj = event["data"]["object"]
    kind = obj["object"]
    if kind == "payment_intent":
        charge = store.get("charge", obj["latest_charge"] or "")
        obj["charges"] = _list([charge] if charge else [], f"/v1/charges?payment_intent={obj['id']}")
    elif kind == "charge":
        refunds = list(store.newest_first("refund", lambda row: row["charge"] == obj["id"]))
        obj["refunds"] = _list(refunds, f"/v1/charges/{obj['id']}/refunds")
    elif kind == "checkout.session":
        obj |= {"shipping_details": None, "ui_mode": "hosted"}
    for name in _YOUNG_MEMBERS.get(kind, ()):
        obj.pop(name, None)
    return event


def _list(rows: list[Json], url: str) -> Json:
    return {"object": "list", "data": rows, "has_more": False, "total_count": len(rows), "url": url}


def newer_shape(event: Json) -> Json:
    """As a version that nobody knows yet may word it: more members, and one hash where null or text was."""
    event = deepcopy(event) | {"api_version": NEWER_VERSION, "context": None, "reason": {"type": "request"}}
    event["data"]["object"] |= {"later_details": {"kind": "unheard_of", "amounts": [{"value": "1.00"}]}}
    return event


def of_live_mode(event: Json) -> Json:
    """As if it came from the account's live mode."""
    event = deepcopy(event) | {"livemode": True}
    event["data"]["object"]["livemode"] = True
    return event
