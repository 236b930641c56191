"""`/v1/prices`: one-time, per unit."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import parameter_missing
from credits_plugin.sandbox.params import (
    boolean,
    choice,
    created_filter,
    currency,
    hash_of,
    list_of,
    merge_metadata,
    metadata,
    text,
    unsupported,
)
from credits_plugin.sandbox.resources.catalog import AMOUNT, PRODUCT_DATA, create_price, create_product
from credits_plugin.sandbox.store import Json

_CREATE = {
    **AMOUNT,
    "active": boolean(),
    "billing_scheme": choice("per_unit", unsupported=("tiered",)),
    "lookup_key": text(max_length=200),
    "nickname": text(),
    "product": text(),
    "product_data": hash_of(
        {**PRODUCT_DATA, "active": boolean(), "id": text(), "statement_descriptor": text(max_length=22)}
    ),
    **unsupported(
        "currency_options", "custom_unit_amount", "recurring", "tiers", "tiers_mode", "transfer_lookup_key",
        "transform_quantity",
    ),
}  # fmt: skip
_UPDATE = {
    "active": boolean(),
    "metadata": metadata(),
    "nickname": text(clearable=True),
    **unsupported("currency_options", "lookup_key", "tax_behavior", "transfer_lookup_key"),
}


def create(call: Call) -> Json:
    """A price for `product` or for a product made on the spot; emits `price.created`."""
    values = dict(call.params)
    product_data = values.pop("product_data", None)
    product = call.fetch_named("product", "product")
    values.pop("product", None)
    if product is None and product_data is None:
        raise parameter_missing("product")
    if product is None:
        product = create_product(call, product_data)
    return create_price(call, product, values)


def update(call: Call) -> Json:
    """Emits `price.updated`."""
    price = call.fetch("price", call.path["id"])
    changes = dict(call.params)
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(price["metadata"], changes["metadata"])
    return call.update(price, changes, event_type="price.updated")


def retrieve(call: Call) -> Json:
    """One price."""
    return call.fetch("price", call.path["id"])


def list_all(call: Call) -> Json:
    """Prices, newest first."""
    wanted = {name: call.params[name] for name in ("active", "currency", "product", "type") if name in call.params}
    keys = call.params.get("lookup_keys")
    return page_of(
        call,
        "price",
        where=lambda row: (
            all(row[name] == value for name, value in wanted.items()) and (keys is None or row["lookup_key"] in keys)
        ),
    )


ROUTES = (
    Route("POST", "/v1/prices", create, _CREATE),
    list_route(
        "/v1/prices", list_all, active=boolean(), currency=currency(), product=text(), created=created_filter(),
        type=choice("one_time", "recurring"), lookup_keys=list_of(text(), maximum=10), **unsupported("recurring"),
    ),
    Route("GET", "/v1/prices/{id}", retrieve),
    Route("POST", "/v1/prices/{id}", update, _UPDATE),
)  # fmt: skip
