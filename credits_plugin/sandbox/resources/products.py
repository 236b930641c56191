"""`/v1/products`."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.params import (
    boolean,
    created_filter,
    hash_of,
    list_of,
    merge_metadata,
    metadata,
    text,
    unsupported,
    url,
)
from credits_plugin.sandbox.resources.catalog import AMOUNT, create_price, create_product
from credits_plugin.sandbox.store import Json

_FIELDS = {
    "active": boolean(),
    "description": text(max_length=40000, clearable=True),
    "images": list_of(url(), maximum=8, clearable=True),
    "metadata": metadata(),
    "statement_descriptor": text(max_length=22),
    "unit_label": text(max_length=12, clearable=True),
    "url": url(clearable=True),
    **unsupported("marketing_features", "package_dimensions", "shippable", "tax_code"),
}
_CREATE = {
    **_FIELDS,
    "name": text(required=True),
    "id": text(),
    "default_price_data": hash_of(AMOUNT | unsupported("recurring", "currency_options", "custom_unit_amount")),
}
_UPDATE = {**_FIELDS, "name": text(), "default_price": text(clearable=True)}


def create(call: Call) -> Json:
    """A product, with its first price if `default_price_data` is given."""
    values = dict(call.params)
    price_data = values.pop("default_price_data", None)
    if call.store.get("product", values.get("id", "")) is not None:
        raise StripeError("Product already exists.", code="resource_already_exists", param="id")
    product = create_product(call, values)
    if price_data is None:
        return product
    price = create_price(call, product, price_data)
    return call.update(product, {"default_price": price["id"]}, event_type="product.updated")


def update(call: Call) -> Json:
    """Emits `product.updated`."""
    product = call.fetch("product", call.path["id"])
    changes = dict(call.params)
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(product["metadata"], changes["metadata"])
    if "images" in changes:
        changes["images"] = changes["images"] or []
    if changes.get("default_price") is not None:
        call.fetch_named("price", "default_price")
    return call.update(product, {**changes, "updated": call.now}, event_type="product.updated")


def retrieve(call: Call) -> Json:
    """One product."""
    return call.fetch("product", call.path["id"])


def delete(call: Call) -> Json:
    """For products without prices; emits `product.deleted`."""
    product = retrieve(call)
    if next(call.store.newest_first("price", lambda row: row["product"] == product["id"]), None) is not None:
        raise StripeError("This product cannot be deleted because it has one or more user-created prices.")
    call.store.drop("product", product["id"])
    call.emit("product.deleted", product)
    return {"id": product["id"], "object": "product", "deleted": True}


def list_all(call: Call) -> Json:
    """Products, newest first; filters: `active`, `ids`, `url`."""
    active, ids, address = (call.params.get(name) for name in ("active", "ids", "url"))
    return page_of(
        call,
        "product",
        where=lambda row: (
            (active is None or row["active"] == active)
            and (ids is None or row["id"] in ids)
            and (address is None or row["url"] == address)
        ),
    )


ROUTES = (
    Route("POST", "/v1/products", create, _CREATE),
    list_route(
        "/v1/products", list_all, active=boolean(), ids=list_of(text()), url=text(), created=created_filter(),
        **unsupported("shippable"),
    ),
    Route("GET", "/v1/products/{id}", retrieve),
    Route("DELETE", "/v1/products/{id}", delete),
    Route("POST", "/v1/products/{id}", update, _UPDATE),
)  # fmt: skip
