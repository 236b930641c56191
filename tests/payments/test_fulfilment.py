"""What a session must match to be granted, and how much of it: discounts, tax, captures, currencies, all at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import ClassVar

import pytest

from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import now_ms
from credits_plugin.models import Payment
from credits_plugin.payments import checkout
from credits_plugin.payments.fulfilment import Fulfilled
from credits_plugin.payments.packages import parse_packages
from credits_plugin.payments.pull import pull_events
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.states import InboxStatus, PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
COMPLETED = "checkout.session.completed"


def totals(*, discount=0, tax=0, shipping=0):
    return {"total_details": {"amount_discount": discount, "amount_tax": tax, "amount_shipping": shipping}}


async def allow_discounts(till):
    allow = Payment.update(allows_discounts=1)
    await till.shop.writer.work([], lambda tx: allow.execute(tx.database) and None)


class Receives(StripeGateway):
    """The real gateway, whose payment intents received another amount or are in another state."""

    change: ClassVar[dict] = {}

    async def payment_intent(self, payment_intent_id):
        return replace(await super().payment_intent(payment_intent_id), **self.change)


async def test_webhook_page_pull_and_second_host_at_once_grant_once(till, second_host, make_event, database):
    bought = await till.buy()
    raw = await till.session(bought.session_id)
    session = await till.shop.gateway.session(bought.session_id)
    other = till.with_shop(second_host)
    await asyncio.gather(
        *(host.deliver(make_event(COMPLETED, raw)) for host in (till, other) for _ in range(5)),
        *(checkout.fulfil(shop, session) for shop in (till.shop, second_host) for _ in range(5)),
        *(
            checkout.find_session(shop, account_id="anna", session_id=bought.session_id)
            for shop in (till.shop, second_host)
        ),
        pull_events(till.shop, at_ms=now_ms()),
    )
    assert await till.amounts() == [1_000 * MICRO]
    assert audit(database).findings == []


@ON_SQLITE
async def test_a_promotion_code_pays_less_and_grants_all(till, shop_through, make_event, database):
    bought = await till.buy()
    await allow_discounts(till)
    Receives.change = {"amount_received_minor": 800}
    shop = shop_through(Receives)
    session = await till.session(bought.session_id) | {"amount_total": 800} | totals(discount=200)
    receipt = await till.with_shop(shop).deliver(make_event(COMPLETED, session))
    assert receipt.status is InboxStatus.PROCESSED
    payment = await till.payment(bought.payment_id)
    assert (await till.balance(), payment.whole_minor, payment.amount_minor) == (1_000 * MICRO, 800, 1_000)

    refund = await till.refund(bought, 400)  # half of what was paid is half of the credits
    await till.deliver(make_event("refund.created", refund))
    assert await till.balance() == 500 * MICRO
    assert audit(database).findings == []


@ON_SQLITE
@pytest.mark.parametrize(
    ("total", "details"),
    [(1_190, totals(tax=190)), (1_000, totals(tax=160))],
    ids=["tax on top", "tax inside the price"],
)
async def test_tax_does_not_make_it_another_order(till, shop_through, make_event, total, details):
    bought = await till.buy()
    Receives.change = {"amount_received_minor": total}
    session = await till.session(bought.session_id) | {"amount_total": total} | details
    await till.with_shop(shop_through(Receives)).deliver(make_event(COMPLETED, session))
    assert await till.balance() == 1_000 * MICRO
    assert (await till.payment(bought.payment_id)).whole_minor == total


MISFITS = [
    ({"amount_total": 800} | totals(discount=200), "allowed none"),
    ({"amount_subtotal": 800, "amount_total": 800}, "the price of session"),
    ({"amount_total": 900} | totals(tax=100), "the amount of session"),
    ({"amount_subtotal": 2_000, "amount_total": 1_000} | totals(discount=1_000), "the price of session"),
]


@ON_SQLITE
@pytest.mark.parametrize(("change", "reason"), MISFITS)
async def test_a_total_that_does_not_follow_from_our_price_is_quarantined_with_its_reason(
    till, make_event, change, reason
):
    bought = await till.buy()
    receipt = await till.deliver(make_event(COMPLETED, await till.session(bought.session_id) | change))
    assert receipt.status is InboxStatus.QUARANTINED
    assert reason in receipt.detail
    assert (await till.payment(bought.payment_id)).detail == receipt.detail
    assert await till.balance() == 0


@ON_SQLITE
async def test_an_order_that_a_code_pays_in_full_is_for_an_operator(till, make_event):
    bought = await till.buy()
    await allow_discounts(till)
    free = {"amount_total": 0, "payment_status": "no_payment_required", "payment_intent": None}
    session = await till.session(bought.session_id) | free | totals(discount=1_000)
    receipt = await till.deliver(make_event(COMPLETED, session))
    assert (receipt.status, "without a payment" in receipt.detail) == (InboxStatus.QUARANTINED, True)
    assert await till.balance() == 0


async def capture_told(host, bought):
    """Hand over the session that was captured by hand: its event said unpaid, so somebody looked it up."""
    return await checkout.fulfil(host.shop, await host.shop.gateway.session(bought.session_id))


async def test_a_partial_capture_grants_its_part_rounded_down(till, shop_through, make_event, database):
    bought = await till.buy()
    Receives.change = {"amount_received_minor": 333}
    host = till.with_shop(shop_through(Receives))
    await capture_told(host, bought)
    payment = await till.payment(bought.payment_id)
    assert await till.balance() == 333 * MICRO
    assert (payment.whole_minor, payment.credited, payment.microcredits) == (333, 333 * MICRO, 1_000 * MICRO)

    intent = await till.get(f"payment_intents/{bought.intent_id}")
    event = make_event("payment_intent.succeeded", intent | {"amount_received": 333})
    assert (await host.deliver(event)).status is InboxStatus.PROCESSED
    await till.deliver(make_event("refund.created", await till.refund(bought, 333)))
    assert await till.balance() == 0
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.REFUNDED
    assert audit(database).findings == []


@ON_SQLITE
@pytest.mark.parametrize("received", [0, 1_001])
async def test_a_capture_that_is_no_part_of_the_price_is_quarantined(till, shop_through, received):
    bought = await till.buy()
    Receives.change = {"amount_received_minor": received}
    result = await capture_told(till.with_shop(shop_through(Receives)), bought)
    assert (result.outcome, "received" in result.detail) == (Fulfilled.QUARANTINED, True)
    assert await till.balance() == 0


@ON_SQLITE
async def test_authorised_but_not_captured_waits(till, shop_through):
    bought = await till.buy()
    Receives.change = {"status": "requires_capture", "amount_received_minor": 0}
    result = await capture_told(till.with_shop(shop_through(Receives)), bought)
    assert (result.outcome, result.detail) == (Fulfilled.WAITING, f"{bought.intent_id} is requires_capture")
    assert await till.balance() == 0
    await till.complete(bought)
    assert await till.balance() == 1_000 * MICRO


CURRENCIES = [("jpy", 1_500, 500), ("kwd", 4_560, 1_520), ("usd", 999, 333)]


@ON_SQLITE
@pytest.mark.parametrize(("currency", "price", "third"), CURRENCIES)
async def test_currencies_with_no_and_with_three_decimals_keep_their_minor_units(
    till, make_event, currency, price, third
):
    package = {"id": 7, "name": "Local", "credits": 900, "price_minor": price, "currency": currency}
    local = till.with_shop(replace(till.shop, packages=parse_packages([package])))
    purchase = await local.order(package_id=7)
    assert await local.pay(purchase) == 303
    await local.deliver(make_event(COMPLETED, await local.session(purchase.session_id)))
    assert await till.balance() == 900 * MICRO
    payment = await till.payment(purchase.payment_id)
    assert (payment.whole_minor, payment.currency) == (price, currency)

    await refund_payment(
        local.shop,
        payment_id=payment.id,
        amount_minor=third,
        reason="requested_by_customer",
        note="",
        actor="olga",
        idempotency_key="refund-key-1",
    )
    assert await till.balance() == 600 * MICRO


@ON_SQLITE
async def test_codes_and_tax_are_asked_for_only_where_the_settings_say_so(till, shop, monkeypatch):
    from credits_plugin.gateways import stripe_api

    asked = []
    real = stripe_api._session_params
    monkeypatch.setattr(stripe_api, "_session_params", lambda order: asked.append(real(order)) or real(order))
    await till.order()
    assert not {"allow_promotion_codes", "automatic_tax"} & asked[0].keys()

    settings = replace(shop.settings, promotion_codes=True, automatic_tax=True)
    await till.with_shop(replace(shop, settings=settings)).order()
    assert asked[1]["allow_promotion_codes"] is True
    assert asked[1]["automatic_tax"] == {"enabled": True}


@ON_SQLITE
async def test_a_session_that_waits_is_granted_by_whoever_looks_next(till, shop):
    bought = await till.buy()
    session = await shop.gateway.session(bought.session_id)
    unpaid = replace(session, payment_status="unpaid")
    assert (await checkout.fulfil(shop, unpaid)).outcome is Fulfilled.WAITING
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.PROCESSING
    assert (await checkout.fulfil(shop, session)).outcome is Fulfilled.GRANTED
