"""Products and prices as they are made: by their own endpoints, by each other's, and inline by Checkout."""

from __future__ import annotations

from typing import Any

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.errors import StripeError, parameter_missing
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import choice, currency, integer, merge_metadata, metadata, text, unsupported
from credits_plugin.sandbox.store import Json

AMOUNT = {
    "currency": currency(required=True),
    "unit_amount": integer(minimum=0),
    "metadata": metadata(),
    "tax_behavior": choice("unspecified", "exclusive", "inclusive"),
    **unsupported("unit_amount_decimal"),
}
PRODUCT_DATA = {
    "name": text(required=True),
    "metadata": metadata(),
    "unit_label": text(max_length=12),
    **unsupported("tax_code"),
}


def create_product(call: Call, values: Json, *, active: bool = True) -> Json:
    """Also used for the inline products of Checkout, which are not active. Emits `product.created`."""
    product: Json = {
        "id": new_id("prod"),
        "object": "product",
        "active": active,
        "attributes": [],
        "created": call.now,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": call.now,
        "url": None,
    }
    product |= values
    product["metadata"] = merge_metadata({}, values.get("metadata"))
    call.save(product)
    call.emit("product.created", product)
    return product


def create_price(call: Call, product: Json, values: Json, *, active: bool = True, prefix: str = "") -> Json:
    """Also used for the inline prices of Checkout, which are not active; `prefix` names them in errors."""
    if values.get("unit_amount") is None:
        raise parameter_missing(f"{prefix}[unit_amount]" if prefix else "unit_amount")
    price: Json = {
        "id": new_id("price"),
        "object": "price",
        "active": active,
        "billing_scheme": "per_unit",
        "created": call.now,
        "currency": values["currency"],
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": product["id"],
        "recurring": None,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "one_time",
        "unit_amount": values["unit_amount"],
        "unit_amount_decimal": str(values["unit_amount"]),
    }
    price |= values
    price["metadata"] = merge_metadata({}, values.get("metadata"))
    _check_lookup_key(call, price["lookup_key"])
    call.save(price)
    call.emit("price.created", price)
    return price


def _check_lookup_key(call: Call, lookup_key: Any) -> None:
    if lookup_key is not None and any(call.store.newest_first("price", lambda row: row["lookup_key"] == lookup_key)):
        raise StripeError(
            f"A price (`{lookup_key}`) already uses that lookup key.",
            code="resource_already_exists",
            param="lookup_key",
        )
