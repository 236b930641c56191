"""`/v1/checkout/sessions` in payment mode: a page where a buyer pays for line items."""

from __future__ import annotations

from typing import Any

from credits_plugin.sandbox.bank_accounts import kinds_for
from credits_plugin.sandbox.call import Call, Route, cut_page, list_route, page_of
from credits_plugin.sandbox.errors import StripeError, parameter_missing
from credits_plugin.sandbox.expansion import Loader
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import (
    SHIPPING,
    boolean,
    choice,
    created_filter,
    email,
    hash_of,
    integer,
    list_of,
    merge_metadata,
    metadata,
    must_be_false,
    text,
    unsupported,
    url,
)
from credits_plugin.sandbox.resources import checkout_lines
from credits_plugin.sandbox.resources.checkout_prices import DISCOUNTS, price_new_session
from credits_plugin.sandbox.resources.payment_intents import cancel_intent
from credits_plugin.sandbox.store import Json, Store

EXPIRE = "expire_session"
SHORTEST_S = 30 * 60
LONGEST_S = 24 * 3600

_INTENT_DATA = hash_of(
    {
        "capture_method": choice("automatic", "automatic_async", "manual"),
        "description": text(max_length=1000),
        "metadata": metadata(),
        "receipt_email": text(),
        "setup_future_usage": choice("off_session", "on_session"),
        "shipping": SHIPPING,
        "statement_descriptor": text(max_length=22),
        "statement_descriptor_suffix": text(max_length=22),
        **unsupported("application_fee_amount", "on_behalf_of", "transfer_data", "transfer_group"),
    }
)
_CREATE = {
    "mode": choice("payment", unsupported=("setup", "subscription"), required=True),
    "adaptive_pricing": hash_of({"enabled": must_be_false()}),
    "allow_promotion_codes": boolean(),
    "automatic_tax": hash_of({"enabled": boolean()} | unsupported("liability")),
    "billing_address_collection": choice("auto", unsupported=("required",)),
    "cancel_url": url(),
    "client_reference_id": text(max_length=200),
    "custom_text": hash_of(
        {"submit": hash_of({"message": text(max_length=1200, required=True)})}
        | unsupported("after_submit", "shipping_address", "terms_of_service_acceptance")
    ),
    "customer": text(),
    "customer_creation": choice("always", "if_required"),
    "customer_email": email(),
    "customer_update": hash_of({"name": choice("auto", "never"), "address": choice("auto", "never")}
        | unsupported("shipping")),
    "discounts": DISCOUNTS,
    "expires_at": integer(),
    "invoice_creation": hash_of({"enabled": must_be_false()} | unsupported("invoice_data")),
    "line_items": checkout_lines.PARAM,
    "locale": choice("auto", "en", unsupported=("de", "es", "fr", "it", "ja", "nl", "pt", "zh")),
    "metadata": metadata(),
    "origin_context": choice("web", "mobile_app"),
    "payment_intent_data": _INTENT_DATA,
    "payment_method_collection": choice("always", unsupported=("if_required",)),
    "phone_number_collection": hash_of({"enabled": must_be_false()}),
    "saved_payment_method_options": hash_of(
        {
            "allow_redisplay_filters": list_of(choice("always", "limited", "unspecified")),
            "payment_method_save": choice("disabled", "enabled"),
            **unsupported("payment_method_remove"),
        }
    ),
    "submit_type": choice("auto", "pay", "book", "donate"),
    "success_url": url(),
    "tax_id_collection": hash_of({"enabled": must_be_false()}),
    "ui_mode": choice("hosted_page", unsupported=("embedded_page", "elements", "form")),
    **unsupported(
        "after_expiration", "allowed_payment_method_types", "branding_settings", "consent_collection", "currency",
        "custom_fields", "customer_account", "excluded_payment_method_types",
        "integration_identifier", "managed_payments", "name_collection", "optional_items",
        "payment_method_configuration", "payment_method_data", "payment_method_options", "permissions",
        "redirect_on_completion", "return_url", "setup_intent_data",
        "shipping_address_collection", "shipping_options", "subscription_data", "wallet_options",
    ),
}  # fmt: skip


def create(call: Call) -> Json:
    """An open session with its payment page; nothing is charged and no payment intent exists yet."""
    params = call.params
    for required in ("success_url", "line_items"):
        if not params.get(required):
            raise parameter_missing(required)
    if "customer_update" in params and "customer" not in params:
        raise StripeError("`customer_update` can only be used with `customer`.", param="customer_update")
    if "customer" in params and "customer_email" in params:
        raise StripeError("You may only specify one of these parameters: customer, customer_email.")
    customer = call.fetch_named("customer", "customer")
    items = checkout_lines.create_items(call, params["line_items"])
    session = _new_session(call, customer=customer, currency=items[0]["currency"])
    session, items = price_new_session(call, session, items)
    session = call.save(session)
    call.store.put("checkout_lines", {"id": session["id"], "items": items})
    call.store.put("checkout_intent_data", {"id": session["id"], **params.get("payment_intent_data", {})})
    call.store.put("checkout_customer_update", {"id": session["id"], **params.get("customer_update", {})})
    call.schedule(EXPIRE, session["id"], due_at=session["expires_at"])
    return session


def _expires_at(call: Call) -> int:
    expires_at = int(call.params.get("expires_at", call.now + LONGEST_S))
    if expires_at < call.now + SHORTEST_S:
        raise StripeError(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.", param="expires_at"
        )
    if expires_at > call.now + LONGEST_S:
        raise StripeError(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.", param="expires_at"
        )
    return expires_at


def _new_session(call: Call, *, customer: Json | None, currency: str) -> Json:
    session_id, params = new_id("cs"), call.params
    address = customer["email"] if customer else params.get("customer_email")
    return _DEFAULTS | {
        "id": session_id,
        "allow_promotion_codes": params.get("allow_promotion_codes"),
        "automatic_tax": _automatic_tax(params, customer),
        "billing_address_collection": params.get("billing_address_collection"),
        "branding_settings": _branding(call.merchant_name),
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": call.now,
        "currency": currency,
        "custom_text": _custom_text(params),
        "customer": customer and customer["id"],
        "customer_creation": None if customer else params.get("customer_creation", "if_required"),
        "customer_details": customer_details(email_address=address, name=None) if address else None,
        "customer_email": params.get("customer_email"),
        "expires_at": _expires_at(call),
        "locale": params.get("locale"),
        "metadata": merge_metadata({}, params.get("metadata")),
        "origin_context": params.get("origin_context"),
        "payment_method_types": _method_types(call, currency),
        "saved_payment_method_options": _saved_options(params, customer),
        "submit_type": params.get("submit_type"),
        "success_url": params["success_url"],
        "url": page_url(call, session_id),
    }


def _method_types(call: Call, currency: str) -> list[str]:
    by_hand = call.params.get("payment_intent_data", {}).get("capture_method") == "manual"  # which is for cards alone
    return ["card", *(kinds_for(currency) if call.bank_debits and not by_hand else ())]


def _automatic_tax(params: Json, customer: Json | None) -> Json:
    enabled = params.get("automatic_tax", {}).get("enabled", False)
    status = None
    if enabled:
        status = "complete" if customer and customer["address"] else "requires_location_inputs"
    liability, provider = ({"type": "self"}, "stripe") if enabled else (None, None)
    return {"enabled": enabled, "liability": liability, "provider": provider, "status": status}


def _saved_options(params: Json, customer: Json | None) -> Json | None:
    if customer is None:
        return None
    options: Json = {
        "allow_redisplay_filters": ["always"], "payment_method_remove": "disabled", "payment_method_save": None,
    }  # fmt: skip
    options |= params.get("saved_payment_method_options", {})
    return options


def customer_details(*, email_address: str | None, name: str | None) -> Json:
    """What is known of the buyer."""
    return {
        "address": None, "business_name": None, "email": email_address, "individual_name": None, "name": name,
        "phone": None, "tax_exempt": "none", "tax_ids": None,
    }  # fmt: skip


def page_url(call: Call, session_id: str) -> str:
    """Where the buyer pays."""
    return f"{call.base_url}/c/pay/{session_id}"


def _branding(merchant_name: str) -> Json:
    return {
        "background_color": "#ffffff", "border_style": "rounded", "button_color": "#0074d4",
        "display_name": merchant_name, "font_family": "default", "icon": None, "logo": None,
    }  # fmt: skip


def _custom_text(params: Json) -> Json:
    nothing = {"after_submit": None, "shipping_address": None, "submit": None, "terms_of_service_acceptance": None}
    return {**nothing, **params.get("custom_text", {})}


_DEFAULTS: Json = {
    "id": "",
    "object": "checkout.session",
    "adaptive_pricing": {"enabled": False},
    "after_expiration": None,
    "allow_promotion_codes": None,
    "allowed_payment_method_types": None,
    "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
    "client_secret": None,
    "collected_information": None,
    "consent": None,
    "consent_collection": None,
    "currency_conversion": None,
    "custom_fields": [],
    "customer_account": None,
    "discounts": [],
    "integration_identifier": None,
    "invoice": None,
    "invoice_creation": {
        "enabled": False,
        "invoice_data": {
            "account_tax_ids": None, "custom_fields": None, "description": None, "footer": None, "issuer": None,
            "metadata": {}, "rendering_options": None,
        },
    },
    "livemode": False,
    "managed_payments": {"enabled": False},
    "mode": "payment",
    "optional_items": None,
    "payment_intent": None,
    "payment_link": None,
    "payment_method_collection": "if_required",
    "payment_method_configuration_details": None,
    "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
    "payment_method_types": ["card"],
    "payment_status": "unpaid",
    "permissions": None,
    "phone_number_collection": {"enabled": False},
    "recovered_from": None,
    "saved_payment_method_options": None,
    "setup_intent": None,
    "shipping_address_collection": None,
    "shipping_cost": None,
    "shipping_options": [],
    "status": "open",
    "subscription": None,
    "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    "ui_mode": "hosted_page",
    "wallet_options": None,
}  # fmt: skip


def present(call: Call, session: Json) -> Json:
    """The session as it is answered: an open page moves with the address under which the sandbox is reached."""
    return session | {"url": page_url(call, session["id"]) if session["status"] == "open" else None}


def retrieve(call: Call) -> Json:
    """One session."""
    return present(call, call.fetch("checkout.session", call.path["id"]))


def update(call: Call) -> Json:
    """Metadata only."""
    session = call.fetch("checkout.session", call.path["id"])
    merged = merge_metadata(session["metadata"], call.params.get("metadata", {}))
    return present(call, call.update(session, {"metadata": merged}))


def expire(call: Call) -> Json:
    """Close an open session; emits `checkout.session.expired`."""
    return expire_open(call, call.fetch("checkout.session", call.path["id"]))


def expire_open(call: Call, session: Json) -> Json:
    """The same for a session at hand; StripeError if it is not open."""
    if session["status"] != "open":
        raise StripeError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"`{session['status']}`."
        )
    return expire_session(call, session)


def expire_session(call: Call, session: Json) -> Json:
    """An attempt that was declined leaves an intent behind; it is canceled with the session."""
    call.unschedule(EXPIRE, session["id"])
    if session["payment_intent"] is not None:
        cancel_intent(call, call.fetch("payment_intent", session["payment_intent"]), reason="expired")
    expired = call.update(session, {"status": "expired", "url": None})
    call.emit("checkout.session.expired", expired)
    return expired


def expire_due(call: Call, session_id: str) -> None:
    """What the clock does when `expires_at` has come."""
    session = call.fetch("checkout.session", session_id)
    if session["status"] == "open":
        expire_session(call, session)


def list_all(call: Call) -> Json:
    """Sessions, newest first; filters: `payment_intent`, `customer`, `status`, `customer_details[email]`."""
    wanted = {name: call.params[name] for name in ("payment_intent", "customer", "status") if name in call.params}
    address = call.params.get("customer_details", {}).get("email")
    return page_of(
        call,
        "checkout.session",
        where=lambda row: (
            all(row[name] == value for name, value in wanted.items())
            and (address is None or (row["customer_details"] or {}).get("email") == address)
        ),
        present=lambda row: present(call, row),
    )


def line_items(call: Call) -> Json:
    """What is bought."""
    call.fetch("checkout.session", call.path["id"])
    return cut_page(call, "item", call.fetch("checkout_lines", call.path["id"])["items"])


def included_line_items(store: Store, session: Json) -> Any:
    """The `line_items` list that appears in a session when it is asked for."""
    items = (store.get("checkout_lines", session["id"]) or {"items": []})["items"]
    url = f"/v1/checkout/sessions/{session['id']}/line_items"
    return {"object": "list", "data": items[:10], "has_more": len(items) > 10, "url": url}


ROUTES = (
    Route("POST", "/v1/checkout/sessions", create, _CREATE),
    list_route(
        "/v1/checkout/sessions", list_all, payment_intent=text(), customer=text(), created=created_filter(),
        status=choice("open", "complete", "expired"), customer_details=hash_of({"email": text(required=True)}),
        **unsupported("customer_account", "payment_link", "subscription"),
    ),
    Route("GET", "/v1/checkout/sessions/{id}", retrieve),
    Route("POST", "/v1/checkout/sessions/{id}", update, {"metadata": metadata()}),
    Route("POST", "/v1/checkout/sessions/{id}/expire", expire),
    list_route("/v1/checkout/sessions/{id}/line_items", line_items),
)  # fmt: skip

INCLUDABLE: dict[tuple[str, str], Loader] = {("checkout.session", "line_items"): included_line_items}
