"""`/v1/coupons` and `/v1/promotion_codes`: what a buyer pays less; once, for Checkout."""

from __future__ import annotations

from typing import Any

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError, resource_missing
from credits_plugin.sandbox.objects import new_id, random_text
from credits_plugin.sandbox.params import (
    Param,
    boolean,
    choice,
    created_filter,
    currency,
    hash_of,
    integer,
    merge_metadata,
    metadata,
    text,
    unsupported,
)
from credits_plugin.sandbox.store import Json


def _parse_percent(raw: Any, name: str) -> float:
    try:
        percent = float(raw)
    except (TypeError, ValueError) as error:
        raise StripeError(f"Invalid decimal: {raw}", param=name) from error
    if not 0 < percent <= 100:
        raise StripeError("Percent off must be greater than 0 and less than or equal to 100.", param=name)
    return int(percent) if percent == int(percent) else percent


_COUPON = {
    "amount_off": integer(minimum=1),
    "currency": currency(),
    "duration": choice("once", "forever", unsupported=("repeating",)),
    "id": text(),
    "max_redemptions": integer(minimum=1),
    "metadata": metadata(),
    "name": text(max_length=40),
    "percent_off": Param(_parse_percent),
    "redeem_by": integer(),
    **unsupported("applies_to", "currency_options", "duration_in_months"),
}
_PROMOTION_CODE = {
    "active": boolean(),
    "code": text(max_length=500),
    "expires_at": integer(),
    "max_redemptions": integer(minimum=1),
    "metadata": metadata(),
    "promotion": hash_of({"type": choice("coupon", required=True), "coupon": text(required=True)}, required=True),
    **unsupported("customer", "customer_account", "restrictions"),
}


def create(call: Call) -> Json:
    """A coupon over an amount or a percentage; emits `coupon.created`."""
    params = call.params
    if ("amount_off" in params) == ("percent_off" in params):
        raise StripeError("You must specify exactly one of these parameters: percent_off, amount_off.")
    if "amount_off" in params and "currency" not in params:
        raise StripeError("You must pass currency when passing amount_off.", param="currency")
    coupon_id = params.get("id") or random_text(8)
    if call.store.get("coupon", coupon_id) is not None:
        raise StripeError("Coupon already exists.", code="resource_already_exists", param="id")
    coupon: Json = {
        "id": coupon_id,
        "object": "coupon",
        "amount_off": None,
        "created": call.now,
        "currency": None,
        "duration": "once",
        "duration_in_months": None,
        "livemode": False,
        "max_redemptions": None,
        "name": None,
        "percent_off": None,
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }
    coupon |= {name: value for name, value in params.items() if name != "id"}
    coupon["metadata"] = merge_metadata({}, params.get("metadata"))
    call.emit("coupon.created", call.save(coupon))
    return coupon


def retrieve(call: Call) -> Json:
    """One coupon."""
    return call.fetch("coupon", call.path["id"])


def update(call: Call) -> Json:
    """Its name and metadata; emits `coupon.updated`."""
    coupon = retrieve(call)
    changes = dict(call.params)
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(coupon["metadata"], changes["metadata"])
    return call.update(coupon, changes, event_type="coupon.updated")


def delete(call: Call) -> Json:
    """Nobody can redeem it any more; emits `coupon.deleted`."""
    coupon = retrieve(call)
    call.store.drop("coupon", coupon["id"])
    call.emit("coupon.deleted", coupon)
    return {"id": coupon["id"], "object": "coupon", "deleted": True}


def list_all(call: Call) -> Json:
    """Coupons, newest first."""
    return page_of(call, "coupon")


def create_code(call: Call) -> Json:
    """A code that buyers type for a coupon; emits `promotion_code.created`."""
    params = call.params
    coupon = call.fetch("coupon", params["promotion"]["coupon"], param="promotion[coupon]", status=400)
    code = params.get("code") or random_text(8).upper()
    if find_code(call, code) is not None:
        raise StripeError("An active promotion code with `code: " + code + "` already exists.", param="code")
    promotion_code: Json = {
        "id": new_id("promo"),
        "object": "promotion_code",
        "active": params.get("active", True),
        "code": code,
        "created": call.now,
        "customer": None,
        "customer_account": None,
        "expires_at": params.get("expires_at"),
        "livemode": False,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": merge_metadata({}, params.get("metadata")),
        "promotion": {"coupon": coupon["id"], "type": "coupon"},
        "restrictions": {"first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None},
        "times_redeemed": 0,
    }
    call.emit("promotion_code.created", call.save(promotion_code))
    return promotion_code


def find_code(call: Call, code: str) -> Json | None:
    """The active promotion code that reads so, whatever the case of its letters."""
    fits = lambda row: row["active"] and row["code"].casefold() == code.casefold()  # noqa: E731 - the store's own shape
    return next(call.store.newest_first("promotion_code", fits), None)


def update_code(call: Call) -> Json:
    """Switch it on or off; emits `promotion_code.updated`."""
    promotion_code = call.fetch("promotion_code", call.path["id"])
    changes = dict(call.params)
    if "metadata" in changes:
        changes["metadata"] = merge_metadata(promotion_code["metadata"], changes["metadata"])
    return call.update(promotion_code, changes, event_type="promotion_code.updated")


def retrieve_code(call: Call) -> Json:
    """One promotion code."""
    return call.fetch("promotion_code", call.path["id"])


def list_codes(call: Call) -> Json:
    """Promotion codes, newest first; filters: `active`, `code`, `coupon`."""
    params = call.params
    code = params.get("code")
    return page_of(
        call,
        "promotion_code",
        where=lambda row: (
            params.get("active", row["active"]) == row["active"]
            and (code is None or code.casefold() == row["code"].casefold())
            and params.get("coupon", row["promotion"]["coupon"]) == row["promotion"]["coupon"]
        ),
    )


def redeemable(call: Call, wanted: Json, *, currency_code: str, param: str) -> tuple[Json, Json | None]:
    """The coupon and promotion code that `{coupon}` or `{promotion_code}` name; StripeError if they are of no use."""
    promotion_code = None
    if "promotion_code" in wanted:
        promotion_code = call.fetch("promotion_code", wanted["promotion_code"], param=param, status=400)
        coupon_id = promotion_code["promotion"]["coupon"]
    else:
        coupon_id = wanted["coupon"]
    coupon = call.store.get("coupon", coupon_id)
    if coupon is None:
        raise resource_missing("coupon", coupon_id, param=param, status=400)
    for row in filter(None, (coupon, promotion_code)):
        ends_at = row.get("redeem_by") or row.get("expires_at")
        used_up = row["max_redemptions"] is not None and row["times_redeemed"] >= row["max_redemptions"]
        if used_up or not row.get("active", True) or (ends_at is not None and ends_at <= call.now):
            raise StripeError(f"{row['object'].replace('_', ' ').capitalize()} {row['id']} is used up or expired.")
    if coupon["amount_off"] is not None and coupon["currency"] != currency_code:
        raise StripeError(f"The coupon's currency is {coupon['currency']}, the session's {currency_code}.", param=param)
    return coupon, promotion_code


def redeem(call: Call, discount: Json) -> None:
    """Count the use of a session's discount."""
    for kind in ("coupon", "promotion_code"):
        row = call.store.get(kind, discount[kind] or "")
        if row is not None:
            row["times_redeemed"] += 1
            if kind == "coupon":
                row["valid"] = row["max_redemptions"] is None or row["times_redeemed"] < row["max_redemptions"]
            call.save(row)


ROUTES = (
    Route("POST", "/v1/coupons", create, _COUPON),
    list_route("/v1/coupons", list_all, created=created_filter()),
    Route("GET", "/v1/coupons/{id}", retrieve),
    Route("POST", "/v1/coupons/{id}", update, {"metadata": metadata(), "name": text(max_length=40)}),
    Route("DELETE", "/v1/coupons/{id}", delete),
    Route("POST", "/v1/promotion_codes", create_code, _PROMOTION_CODE),
    list_route(
        "/v1/promotion_codes", list_codes, active=boolean(), code=text(), coupon=text(), created=created_filter(),
        **unsupported("customer", "customer_account"),
    ),
    Route("GET", "/v1/promotion_codes/{id}", retrieve_code),
    Route("POST", "/v1/promotion_codes/{id}", update_code, {"active": boolean(), "metadata": metadata()}),
)  # fmt: skip
