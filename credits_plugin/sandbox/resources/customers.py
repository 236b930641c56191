"""`/v1/customers`."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError, resource_missing
from credits_plugin.sandbox.expansion import Loader
from credits_plugin.sandbox.objects import new_id, random_text
from credits_plugin.sandbox.params import (
    ADDRESS,
    SHIPPING,
    choice,
    created_filter,
    email,
    hash_of,
    list_of,
    merge_metadata,
    metadata,
    text,
    unsupported,
)
from credits_plugin.sandbox.store import Json

_FIELDS = {
    "address": ADDRESS,
    "description": text(clearable=True),
    "email": email(clearable=True),
    "invoice_settings": hash_of(
        {"default_payment_method": text(clearable=True)} | unsupported("custom_fields", "footer", "rendering_options")
    ),
    "metadata": metadata(),
    "name": text(max_length=256, clearable=True),
    "phone": text(max_length=20, clearable=True),
    "preferred_locales": list_of(text()),
    "shipping": SHIPPING,
    "tax_exempt": choice("none", "exempt", "reverse", clearable=True),
    **unsupported(
        "balance", "business_name", "cash_balance", "individual_name", "invoice_prefix", "next_invoice_sequence",
        "source", "tax",
    ),
}  # fmt: skip
_UPDATE = _FIELDS | unsupported(
    "bank_account", "card", "default_alipay_account", "default_bank_account", "default_card", "default_source"
)
_CREATE = _FIELDS | unsupported("payment_method", "tax_id_data", "test_clock")


def create(call: Call) -> Json:
    """A customer; emits `customer.created`."""
    return create_customer(call, call.params)


def create_customer(call: Call, values: Json) -> Json:
    """Also used by Checkout, which creates customers of its own."""
    customer: Json = {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": call.now,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": random_text(8).upper(),
        "invoice_settings": {
            "custom_fields": None, "default_payment_method": None, "footer": None, "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }  # fmt: skip
    customer |= _changes(call, customer, values)
    call.save(customer)
    call.emit("customer.created", customer)
    return customer


def update(call: Call) -> Json:
    """Changes the given fields; emits `customer.updated` with what they were."""
    customer = _living(call)
    return call.update(customer, _changes(call, customer, call.params), event_type="customer.updated")


def _changes(call: Call, customer: Json, values: Json) -> Json:
    changes = dict(values)
    if "metadata" in values:
        changes["metadata"] = merge_metadata(customer["metadata"], values["metadata"])
    if "tax_exempt" in values:
        changes["tax_exempt"] = values["tax_exempt"] or "none"
    if "invoice_settings" in values:
        changes["invoice_settings"] = customer["invoice_settings"] | values["invoice_settings"]
        _check_default(call, customer["id"], values["invoice_settings"].get("default_payment_method"))
    return changes


def _check_default(call: Call, customer_id: str, method_id: str | None) -> None:
    if method_id is None:
        return
    param = "invoice_settings[default_payment_method]"
    method = call.fetch("payment_method", method_id, param=param, status=400)
    if method["customer"] != customer_id:
        raise StripeError(
            f"The customer does not have a payment method with the ID {method_id}. The payment method must be attached "
            "to the customer.",
            code="resource_missing",
            param=param,
        )


def retrieve(call: Call) -> Json:
    """A customer, or the stub of a deleted one."""
    return call.fetch("customer", call.path["id"])


def _living(call: Call) -> Json:
    customer = retrieve(call)
    if customer.get("deleted"):
        raise resource_missing("customer", customer["id"])
    return customer


def delete(call: Call) -> Json:
    """Leaves a stub; emits `customer.deleted`."""
    customer = _living(call)
    call.emit("customer.deleted", customer)
    stub: Json = {"id": customer["id"], "object": "customer", "deleted": True}
    return call.save(stub)


def list_all(call: Call) -> Json:
    """Customers, newest first; `email` matches exactly."""
    address = call.params.get("email")
    return page_of(
        call, "customer", where=lambda row: not row.get("deleted") and (address is None or row["email"] == address)
    )


def payment_methods(call: Call) -> Json:
    """The payment methods attached to a customer."""
    customer = _living(call)
    wanted = {name: call.params[name] for name in ("allow_redisplay", "type") if name in call.params}
    return page_of(
        call,
        "payment_method",
        where=lambda row: (
            row["customer"] == customer["id"] and all(row[name] == value for name, value in wanted.items())
        ),
    )


ROUTES = (
    Route("POST", "/v1/customers", create, _CREATE),
    list_route("/v1/customers", list_all, email=text(), created=created_filter(), **unsupported("test_clock")),
    Route("GET", "/v1/customers/{id}", retrieve),
    Route("POST", "/v1/customers/{id}", update, _UPDATE),
    Route("DELETE", "/v1/customers/{id}", delete),
    list_route(
        "/v1/customers/{id}/payment_methods",
        payment_methods,
        type=text(),
        allow_redisplay=choice("always", "limited", "unspecified"),
    ),
)

INCLUDABLE: dict[tuple[str, str], Loader] = {
    ("customer", "invoice_credit_balance"): lambda _store, _customer: {},
    ("customer", "tax"): lambda _store, _customer: {
        "automatic_tax": "unrecognized_location", "ip_address": None, "location": None, "provider": "stripe",
    },
}  # fmt: skip
