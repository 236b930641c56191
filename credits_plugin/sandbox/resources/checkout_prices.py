"""What a session costs at a time: with its discount, and with tax once it is known where the buyer lives."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call
from credits_plugin.sandbox.checkout_totals import priced, totals
from credits_plugin.sandbox.currencies import check_step, format_money, minimum_minor
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.params import hash_of, list_of, text
from credits_plugin.sandbox.resources.coupons import find_code, redeem, redeemable
from credits_plugin.sandbox.store import Json

DISCOUNTS = list_of(hash_of({"coupon": text(), "promotion_code": text()}), maximum=1, clearable=True)


def price_new_session(call: Call, session: Json, items: list[Json]) -> tuple[Json, list[Json]]:
    """The session and its items with what they cost so far; StripeError for a discount or a total that cannot be."""
    discount = _wanted_discount(call, session["currency"])
    tax_known = session["automatic_tax"]["status"] == "complete"
    session |= {"discounts": [discount] if discount else []}
    session, items = _reprice(call, session, items, with_tax=tax_known)
    check_total(session["amount_total"], session["currency"], discounted=discount is not None)
    return session, items


def _wanted_discount(call: Call, currency_code: str) -> Json | None:
    wanted = call.params.get("discounts")
    if not wanted:
        return None
    if "allow_promotion_codes" in call.params:
        raise StripeError("You may only specify one of these parameters: allow_promotion_codes, discounts.")
    if len(wanted[0]) != 1:
        raise StripeError(
            "You must specify exactly one of these parameters: discounts[0][coupon], discounts[0][promotion_code]."
        )
    param = f"discounts[0][{next(iter(wanted[0]))}]"
    coupon, code = redeemable(call, wanted[0], currency_code=currency_code, param=param)
    return {"coupon": coupon["id"], "promotion_code": code and code["id"]}


def _reprice(call: Call, session: Json, items: list[Json], *, with_tax: bool) -> tuple[Json, list[Json]]:
    discount = session["discounts"][0] if session["discounts"] else {"coupon": ""}
    coupon = call.store.get("coupon", discount["coupon"])
    items = priced(items, coupon=coupon, tax_percent=call.tax_percent if with_tax else None)
    return session | totals(items), items


def check_total(total: int, currency_code: str, *, discounted: bool) -> None:
    """Refuse what could not be charged; only a discount can bring the total to nothing."""
    if total == 0 and discounted:
        return
    least = minimum_minor(currency_code)
    if total < least:
        raise StripeError(
            "The Checkout Session's total amount due must add up to at least "
            f"{format_money(least, currency_code)} {currency_code}",
            code="amount_too_small",
        )
    check_step(total, currency_code, param="line_items")


def reprice_session(call: Call, session: Json, *, with_tax: bool) -> Json:
    """Price a stored session anew and save it."""
    lines = call.fetch("checkout_lines", session["id"])
    session, items = _reprice(call, session, lines["items"], with_tax=with_tax)
    call.store.put("checkout_lines", lines | {"items": items})
    return call.save(session)


def apply_promotion_code(call: Call, session: Json, code: str) -> Json:
    """What the buyer's entry on the payment page does; StripeError for a code that is unknown or used up."""
    found = find_code(call, code.strip()) if session["allow_promotion_codes"] else None
    if found is None:
        raise StripeError("This code is invalid.")
    coupon, _ = redeemable(call, {"promotion_code": found["id"]}, currency_code=session["currency"], param="code")
    discounts = [{"coupon": coupon["id"], "promotion_code": found["id"]}]
    session = reprice_session(call, session | {"discounts": discounts}, with_tax=False)
    check_total(session["amount_total"], session["currency"], discounted=True)
    return session


def finish_pricing(call: Call, session: Json) -> Json:
    """Add the tax, now that the buyer has said where they live; all sandbox buyers live where the rate is the same."""
    if session["automatic_tax"]["status"] != "requires_location_inputs":
        return session
    automatic_tax = session["automatic_tax"] | {"status": "complete"}
    return reprice_session(call, session | {"automatic_tax": automatic_tax}, with_tax=True)


def redeem_discounts(call: Call, session: Json) -> None:
    """Count the use of what the session was discounted by."""
    for discount in session["discounts"]:
        redeem(call, discount)
