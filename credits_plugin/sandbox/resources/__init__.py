"""One file per noun; a new noun adds its ROUTES here (and its due work and includable properties, if it has any)."""

from __future__ import annotations

from credits_plugin.sandbox.call import Route
from credits_plugin.sandbox.expansion import INCLUDABLE
from credits_plugin.sandbox.outgoing import RELEASE
from credits_plugin.sandbox.resources import (
    balance_transactions,
    charges,
    checkout_sessions,
    coupons,
    customers,
    delayed_payments,
    dispute_life,
    disputes,
    events,
    payment_intents,
    payment_methods,
    prices,
    products,
    refund_life,
    refunds,
)
from credits_plugin.sandbox.state import DueWork
from credits_plugin.sandbox.webhooks import release_delivery

ROUTES: tuple[Route, ...] = (
    *balance_transactions.ROUTES,
    *charges.ROUTES,
    *checkout_sessions.ROUTES,
    *coupons.ROUTES,
    *customers.ROUTES,
    *disputes.ROUTES,
    *events.ROUTES,
    *payment_intents.ROUTES,
    *payment_methods.ROUTES,
    *prices.ROUTES,
    *products.ROUTES,
    *refunds.ROUTES,
)

DUE_WORK: dict[str, DueWork] = {
    checkout_sessions.EXPIRE: checkout_sessions.expire_due,
    delayed_payments.FINISH: delayed_payments.finish_due,
    dispute_life.DECIDE: dispute_life.decide_due,
    dispute_life.OPEN_BY_CARD: dispute_life.open_due,
    dispute_life.RUN_OUT: dispute_life.run_out,
    refund_life.FAIL: refund_life.fail_due,
    RELEASE: lambda call, delivery_id: release_delivery(call.store, delivery_id),
    refund_life.SUCCEED: refund_life.succeed_due,
}

INCLUDABLE |= {**charges.INCLUDABLE, **checkout_sessions.INCLUDABLE, **customers.INCLUDABLE}
