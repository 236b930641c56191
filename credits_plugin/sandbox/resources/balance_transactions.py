"""`/v1/balance_transactions`: what charges, refunds and disputes do to the merchant's balance."""

from __future__ import annotations

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.params import created_filter, currency, text, unsupported
from credits_plugin.sandbox.store import Json

DAY_S = 24 * 3600
PENDING_S = 6 * DAY_S
"""How long card money stays pending in a young account."""


DISPUTE_FEE_MINOR = 1500
"""Taken with each dispute and given back when it is won, as recorded from Stripe for US accounts."""

_ADJUSTMENTS = {
    "dispute": ("Chargeback withdrawal for {charge}", DISPUTE_FEE_MINOR),
    "dispute_reversal": ("Chargeback reversal for {charge}", -DISPUTE_FEE_MINOR),
}
"""Kinds that Stripe books under the type `adjustment`: their description and their fee."""

_CATEGORIES = {"payment": "charge", "payment_refund": "refund", "payment_failure_refund": "refund_failure"}
"""Reporting categories that are not called like their kind."""


def record(call: Call, *, source: Json, amount: int, kind: str, at_once: bool = False) -> Json:
    """Book `amount` (minor units, negative for money that leaves).

    `kind` is `charge`, `refund`, `refund_failure`, `dispute` or `dispute_reversal`, or what Stripe calls these for
    methods other than cards: `payment`, `payment_refund`, `payment_failure_refund`.
    """
    description, fee = source.get("description"), fee_minor(amount) if kind in {"charge", "payment"} else 0
    if kind in _ADJUSTMENTS:
        wording, fee = _ADJUSTMENTS[kind]
        description = wording.format_map(source)
    transaction: Json = {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": call.now if at_once else (call.now + PENDING_S) // DAY_S * DAY_S,
        "balance_type": "payments",
        "created": call.now,
        "currency": source["currency"],
        "description": description,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": _fee_details(fee, source["currency"], of_dispute=kind in _ADJUSTMENTS),
        "net": amount - fee,
        "reporting_category": _CATEGORIES.get(kind, kind),
        "source": source["id"],
        "status": "available" if at_once else "pending",
        "type": "adjustment" if kind in _ADJUSTMENTS else kind,
    }
    return call.save(transaction)


def fee_minor(amount: int) -> int:
    """2.9 % rounded half up, plus 30, as recorded from Stripe for US cards in USD (2500 → 103, 2900 → 114)."""
    return (amount * 29 + 500) // 1000 + 30


def _fee_details(fee: int, currency_code: str, *, of_dispute: bool) -> list[Json]:
    if fee == 0:
        return []
    description = "Dispute fee" if of_dispute else "Stripe processing fees"
    return [
        {
            "amount": fee, "application": None, "currency": currency_code, "description": description,
            "type": "stripe_fee",
        }
    ]  # fmt: skip


def retrieve(call: Call) -> Json:
    """One balance transaction."""
    return call.fetch("balance_transaction", call.path["id"])


def list_all(call: Call) -> Json:
    """Balance transactions, newest first; filters: `type`, `source`, `currency`."""
    wanted = {name: call.params[name] for name in ("type", "source", "currency") if name in call.params}
    return page_of(
        call, "balance_transaction", where=lambda row: all(row[name] == value for name, value in wanted.items())
    )


ROUTES = (
    list_route(
        "/v1/balance_transactions", list_all, type=text(), source=text(), currency=currency(),
        created=created_filter(), **unsupported("payout"),
    ),
    Route("GET", "/v1/balance_transactions/{id}", retrieve),
)  # fmt: skip
