"""What a session costs: line items, less a discount, plus tax, in minor units; pure."""

from __future__ import annotations

from credits_plugin.sandbox.store import Json


def discount_minor(coupon: Json, subtotal: int) -> int:
    """What a coupon takes off; a percentage is rounded half up, an amount is cut at the subtotal."""
    if coupon["amount_off"] is not None:
        return min(int(coupon["amount_off"]), subtotal)
    hundredths = round(coupon["percent_off"] * 100)
    return int((subtotal * hundredths + 5_000) // 10_000)


def tax_minor(taxable: int, *, percent: int, inclusive: bool) -> int:
    """The tax on, or (inclusive) inside of, an amount; rounded half up."""
    whole = 100 + percent if inclusive else 100
    return (2 * taxable * percent + whole) // (2 * whole)


def priced(items: list[Json], *, coupon: Json | None, tax_percent: int | None) -> list[Json]:
    """The items with their amounts; each takes its share of what is left of the discount, so shares add up to it."""
    subtotal = sum(item["amount_subtotal"] for item in items)
    left = discount_minor(coupon, subtotal) if coupon else 0
    left_of_subtotal, done = subtotal, []
    for item in items:
        part = left * item["amount_subtotal"] // left_of_subtotal if left_of_subtotal else 0
        left, left_of_subtotal = left - part, left_of_subtotal - item["amount_subtotal"]
        inclusive = item["price"]["tax_behavior"] == "inclusive"
        taxable = item["amount_subtotal"] - part
        tax = 0 if tax_percent is None else tax_minor(taxable, percent=tax_percent, inclusive=inclusive)
        total = taxable if inclusive else taxable + tax
        done.append(item | {"amount_discount": part, "amount_tax": tax, "amount_total": total})
    return done


def totals(items: list[Json]) -> Json:
    """The session's members that follow from its items."""
    return {
        "amount_subtotal": sum(item["amount_subtotal"] for item in items),
        "amount_total": sum(item["amount_total"] for item in items),
        "total_details": {
            "amount_discount": sum(item["amount_discount"] for item in items),
            "amount_shipping": 0,
            "amount_tax": sum(item["amount_tax"] for item in items),
        },
    }
