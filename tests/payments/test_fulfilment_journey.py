"""Purchases over HTTP that are no plain card payment, and deliveries that go wrong, through the real route."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from credits_plugin.gateways import stripe_api
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import now_ms
from credits_plugin.payments import checkout, queries
from credits_plugin.payments.pull import pull_events
from credits_plugin.payments.states import InboxStatus, PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
pytestmark = pytest.mark.usefixtures("endpoint")
BANK = {"method": "bank", "account": "000999999990"}


async def visit(purchase, **fields):
    """What a buyer sends on the hosted page."""
    form = {"card_number": "4242424242424242", "exp": "12 / 34", "cvc": "123", "name": "Anna", "email": "a@example.com"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(purchase.payment_url, data=form | fields, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.text()


async def enter_code(purchase, code):
    async with aiohttp.ClientSession() as http, http.post(purchase.payment_url, data={"code": code}) as answer:
        assert answer.status == 200, await answer.text()


def with_settings(till, **changes):
    return till.with_shop(replace(till.shop, settings=replace(till.shop.settings, **changes)))


async def order_with_code(till, percent):
    coupon = await till.post("coupons", percent_off=percent)
    await till.post(
        "promotion_codes", **{"promotion[type]": "coupon", "promotion[coupon]": coupon["id"], "code": "LESS"}
    )
    purchase = await with_settings(till, promotion_codes=True).order()
    await enter_code(purchase, "LESS")
    return purchase


async def lines(till, status):
    return await till.shop.reads.run(lambda database: queries.inbox_page(database, status=status))


async def test_a_promotion_code_pays_less_for_all_credits_and_refunds_what_was_paid(till, sandbox, database):
    purchase = await order_with_code(till, 20)
    assert (await visit(purchase))[0] == 303
    await sandbox.drain()
    payment = await till.payment(purchase.payment_id)
    assert (await till.balance(), payment.whole_minor, payment.amount_minor) == (1_000 * MICRO, 800, 1_000)

    sandbox.refund(payment.charge_id, amount=400)
    await sandbox.drain()
    assert await till.balance() == 500 * MICRO
    sandbox.refund(payment.charge_id)
    await sandbox.drain()
    assert await till.balance() == 0
    assert (await till.payment(purchase.payment_id)).status is PaymentStatus.REFUNDED
    assert await lines(till, InboxStatus.QUARANTINED) == []
    assert audit(database).findings == []


@ON_SQLITE
async def test_an_order_that_a_code_pays_in_full_waits_for_an_operator(till, sandbox):
    purchase = await order_with_code(till, 100)
    assert (await visit(purchase, card_number=""))[0] == 303
    await sandbox.drain()
    [line] = await lines(till, InboxStatus.QUARANTINED)
    assert "without a payment" in line.detail
    assert (await till.payment(purchase.payment_id)).detail == line.detail
    assert await till.balance() == 0


@ON_SQLITE
async def test_tax_on_top_is_paid_and_refunded_and_buys_no_credits(till, sandbox, database):
    purchase = await with_settings(till, automatic_tax=True).order()
    assert (await visit(purchase, country="AT"))[0] == 303
    await sandbox.drain()
    payment = await till.payment(purchase.payment_id)
    assert (await till.balance(), payment.amount_minor) == (1_000 * MICRO, 1_000)
    assert payment.whole_minor == (await till.session(purchase.session_id))["amount_total"]
    sandbox.refund(payment.charge_id)
    await sandbox.drain()
    assert await till.balance() == 0
    assert audit(database).findings == []

    again = await with_settings(till, automatic_tax=True).order()  # the customer of the first purchase, with tax
    assert (await visit(again, country="AT"))[0] == 303
    await sandbox.drain()
    assert await till.balance() == 1_000 * MICRO


async def test_a_bank_debit_waits_and_is_granted_when_it_arrives(till, sandbox):
    purchase = await till.order()
    assert (await visit(purchase, **BANK))[0] == 303
    await sandbox.drain()
    assert (await till.payment(purchase.payment_id)).status is PaymentStatus.PROCESSING
    assert await till.balance() == 0
    sandbox.complete_delayed_payment(purchase.session_id)
    await sandbox.drain()
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_a_bank_debit_that_fails_grants_nothing_and_says_why(till, sandbox):
    purchase = await till.order()
    await visit(purchase, **BANK)
    sandbox.complete_delayed_payment(purchase.session_id, succeed=False)
    await sandbox.drain()
    payment = await till.payment(purchase.payment_id)
    assert payment.status is PaymentStatus.FAILED
    assert "insufficient_funds" in payment.detail
    assert await till.balance() == 0


async def test_a_part_captured_by_hand_grants_that_part(till, sandbox, monkeypatch, database):
    real = stripe_api._session_params

    def by_hand(order):
        params = real(order)
        return params | {"payment_intent_data": params["payment_intent_data"] | {"capture_method": "manual"}}

    monkeypatch.setattr(stripe_api, "_session_params", by_hand)
    purchase = await till.order()
    await visit(purchase)
    await sandbox.drain()
    assert await till.balance() == 0
    intent = (await till.session(purchase.session_id))["payment_intent"]
    await till.post(f"payment_intents/{intent}/capture", amount_to_capture=600)
    await sandbox.drain()
    payment = await till.payment(purchase.payment_id)
    assert (await till.balance(), payment.whole_minor, payment.status) == (600 * MICRO, 600, PaymentStatus.PAID)

    sandbox.refund(payment.charge_id)
    await sandbox.drain()
    assert await till.balance() == 0
    assert (await till.payment(purchase.payment_id)).status is PaymentStatus.REFUNDED
    assert audit(database).findings == []


@ON_SQLITE
@pytest.mark.parametrize("fault", ["duplicate", "second_event", "reorder", "older_version", "answer_lost"])
async def test_deliveries_that_go_wrong_grant_once_all_the_same(till, sandbox, fault):
    requests = fault == "answer_lost"
    sandbox.add_fault(fault, **({"match": "POST /v1/checkout/sessions"} if requests else {"times": 20}))
    purchase = await till.order()
    await visit(purchase)
    sandbox.clear_faults()
    sandbox.release_events()
    await sandbox.drain()
    await sandbox.deliver_pending()
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_events_of_the_wrong_mode_are_quarantined_and_the_landing_page_grants_all_the_same(till, sandbox):
    sandbox.add_fault("wrong_livemode", times=20)
    purchase = await till.order()
    await visit(purchase)
    await sandbox.drain()
    quarantined = await lines(till, InboxStatus.QUARANTINED)
    assert {line.detail for line in quarantined} == {"livemode is True, our key is of the other mode"}
    assert await till.balance() == 0
    await checkout.find_session(till.shop, account_id="anna", session_id=purchase.session_id)
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_a_forged_delivery_writes_nothing_and_the_real_one_grants(till, sandbox):
    sandbox.add_fault("bad_signature", times=50)
    purchase = await till.order()
    await visit(purchase)
    await sandbox.deliver_pending()
    assert await till.shop.reads.run(queries.inbox_page) == []
    sandbox.clear_faults()
    await sandbox.deliver(*[event["id"] for event in (await till.get("events?limit=100"))["data"]])
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_events_that_never_came_are_pulled(till, sandbox):
    sandbox.add_fault("drop", times=50)
    purchase = await till.order()
    await visit(purchase)
    await sandbox.drain()
    assert await till.shop.reads.run(queries.inbox_page) == []
    await pull_events(till.shop, at_ms=now_ms())
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_both_secrets_are_valid_while_they_are_rotated(till, sandbox, endpoint, shop):
    old = shop.settings.stripe_webhook_secrets[0]
    rotating = replace(shop.settings, stripe_webhook_secrets=("whsec_new", old))
    for secret in (old, "whsec_new"):
        sandbox.set_webhook(endpoint, secret)
        object.__setattr__(shop, "settings", rotating)
        purchase = await till.order()
        await visit(purchase)
        await sandbox.drain()
        assert (await till.payment(purchase.payment_id)).is_granted
