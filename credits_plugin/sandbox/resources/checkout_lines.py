"""The line items of a checkout session, from stored prices or priced on the spot."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.errors import StripeError, parameter_missing
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import hash_of, integer, list_of, merge_metadata, metadata, text, unsupported, url
from credits_plugin.sandbox.resources.catalog import AMOUNT, PRODUCT_DATA, create_price, create_product
from credits_plugin.sandbox.store import Json

PARAM = list_of(
    hash_of(
        {
            "metadata": metadata(),
            "price": text(),
            "price_data": hash_of(
                {
                    **AMOUNT,
                    "product": text(),
                    "product_data": hash_of(
                        {**PRODUCT_DATA, "description": text(max_length=40000), "images": list_of(url(), maximum=8)}
                    ),
                    **unsupported("recurring"),
                }
            ),
            "quantity": integer(minimum=1, maximum=999_999),
            **unsupported("adjustable_quantity", "tax_rates"),
        }
    )
)


def create_items(call: Call, wanted: list[Json]) -> list[Json]:
    """The items in the order given; inline prices are created (not active). All share one currency."""
    items = [_item(call, line, f"line_items[{position}]") for position, line in enumerate(wanted)]
    currencies = {item["currency"] for item in items}
    if len(currencies) > 1:
        raise StripeError(
            "Checkout doesn't support line items in different currencies: " + ", ".join(sorted(currencies)) + ".",
            param="line_items",
        )
    return items


def _item(call: Call, line: Json, name: str) -> Json:
    if "quantity" not in line:
        raise parameter_missing(f"{name}[quantity]")
    if ("price" in line) == ("price_data" in line):
        raise StripeError(f"You must specify exactly one of these parameters: {name}[price], {name}[price_data].")
    price = _stored_price(call, line["price"], f"{name}[price]") if "price" in line else _inline(call, line, name)
    product = call.fetch("product", price["product"])
    total = price["unit_amount"] * line["quantity"]
    return {
        "id": new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": price["currency"],
        "description": product["name"],
        "metadata": merge_metadata({}, line.get("metadata")),
        "price": price,
        "quantity": line["quantity"],
    }


def _stored_price(call: Call, price_id: str, param: str) -> Json:
    price = call.fetch("price", price_id, param=param, status=400)
    if not price["active"]:
        raise StripeError("The price specified is inactive. This field only accepts active prices.", param=param)
    return price


def _inline(call: Call, line: Json, name: str) -> Json:
    data = dict(line["price_data"])
    product_id, product_data = data.pop("product", None), data.pop("product_data", None)
    prefix = f"{name}[price_data]"
    if (product_id is None) == (product_data is None):
        raise StripeError(
            f"You must specify exactly one of these parameters: {prefix}[product], {prefix}[product_data]."
        )
    product = (
        call.fetch("product", product_id, param=f"{prefix}[product]", status=400)
        if product_id is not None
        else create_product(call, product_data, active=False)
    )
    return create_price(call, product, data, active=False, prefix=prefix)
