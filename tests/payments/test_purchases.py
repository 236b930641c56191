"""Starting a purchase and looking at it: our row first, our figures always, nobody else's session."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from credits_plugin.errors import GatewayError, GatewayOutcomeUnknown, InvalidValue, NotFound
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.ids import account_key
from credits_plugin.models import Account
from credits_plugin.payments import checkout, queries
from credits_plugin.payments.fulfilment import Fulfilled
from credits_plugin.payments.shop import Shop
from credits_plugin.payments.states import PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""


async def test_a_purchase_returns_a_page_that_takes_a_card(till, caplog):
    caplog.set_level(logging.INFO, "credits_plugin")
    purchase = await till.order(email="anna@example.com")
    assert await till.pay(purchase) == 303
    assert f"Created Stripe checkout session {purchase.session_id} for user anna" in caplog.messages
    assert "anna@example.com" not in caplog.text


@ON_SQLITE
async def test_the_session_carries_our_order_and_the_settings_urls(till):
    purchase = await till.order(package_id=2, email="anna@example.com")
    session = await till.session(purchase.session_id)
    expected = {"user_id": "anna", "package_id": "2", "credits": "5500", "payment_id": str(purchase.payment_id)}
    assert session["metadata"] == expected
    assert (session["amount_total"], session["currency"]) == (5_000, "usd")
    assert session["success_url"] == "https://chat.example.com/credits/success?session_id={CHECKOUT_SESSION_ID}"
    assert session["cancel_url"] == "https://chat.example.com/credits/cancel"
    assert session["customer_email"] == "anna@example.com"


@ON_SQLITE
async def test_the_payment_intent_carries_the_same_metadata(till):
    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    assert intent["metadata"]["payment_id"] == str(bought.payment_id)


async def test_an_open_payment_is_stored_with_its_order(till):
    purchase = await till.order()
    payment = await till.payment(purchase.payment_id)
    assert payment.status is PaymentStatus.OPEN
    assert (payment.session_id, payment.payment_url) == (purchase.session_id, purchase.payment_url)
    assert (payment.microcredits, payment.amount_minor, payment.currency) == (1_000 * MICRO, 1_000, "usd")
    assert not payment.is_granted


@ON_SQLITE
@pytest.mark.parametrize("package_id", [0, 4, -1, True, "1", 1.0, None, 2**70])
async def test_an_unknown_package_is_refused_and_the_known_ones_are_named(till, package_id):
    with pytest.raises(NotFound, match="there are 1, 2, 3"):
        await till.order(package_id=package_id)
    assert await till.shop.reads.run(queries.payments_page) == []


@ON_SQLITE
@pytest.mark.parametrize("account", ["", "a\r\nb", "x" * 256])
async def test_an_account_id_that_is_none_is_refused(till, account):
    with pytest.raises(InvalidValue):
        await till.order(account)


@ON_SQLITE
@pytest.mark.parametrize(
    "email", ["", "anna", "a@b", "a b@c.de", "a@b@c.de", "x" * 300 + "@a.de", "a\n@b.de", "ä@b.de", "a..b@c.de"]
)
async def test_an_unusable_email_does_not_stop_the_purchase(till, email):
    purchase = await till.order(email=email)
    assert (await till.session(purchase.session_id))["customer_email"] is None


@ON_SQLITE
async def test_the_row_and_its_key_are_committed_before_stripe_is_asked(till, shop_through, database):
    """Nobody listens at the gateway's address, so the call fails; what it would have used is on disk."""
    shop = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(GatewayOutcomeUnknown):
        await till.with_shop(shop).order()
    [payment] = await till.shop.reads.run(queries.payments_page)
    assert payment.status is PaymentStatus.CREATED
    assert "no answer came from Stripe" in payment.detail
    row = database.primary.execute_sql("SELECT idempotency_key FROM payment").fetchone()
    assert row[0].startswith(f"purchase-{payment.id}-")


@ON_SQLITE
async def test_a_refused_purchase_is_marked_failed_and_says_why(till, shop_through):
    shop = shop_through(StripeGateway, key="sk_test_wrong")
    with pytest.raises(GatewayError, match="STRIPE_SECRET_KEY") as caught:
        await till.with_shop(shop).order()
    assert not caught.value.retryable
    [payment] = await till.shop.reads.run(queries.payments_page)
    assert payment.status is PaymentStatus.FAILED
    assert "sk_test_wrong" not in payment.detail


async def test_concurrent_purchases_of_one_account_are_separate(till):
    purchases = [await till.order() for _ in range(2)]
    assert purchases[0].session_id != purchases[1].session_id
    for purchase in purchases:
        assert await till.pay(purchase) == 303
        await checkout.find_session(till.shop, account_id="anna", session_id=purchase.session_id)
    assert await till.balance() == 2_000 * MICRO


async def test_the_second_purchase_uses_the_customer_of_the_first(till):
    bought = await till.buy()
    await till.complete(bought)
    first = (await till.session(bought.session_id))["customer"]
    purchase = await till.order(email="anna@example.com")
    assert (await till.session(purchase.session_id))["customer"] == first


async def test_a_customer_that_stripe_has_lost_blocks_one_purchase_only(till, database):
    await till.complete(await till.buy())
    key = account_key("anna")
    await till.shop.writer.work(
        [key], lambda tx: Account.update(stripe_customer_id="cus_gone").execute(tx.database) and None
    )
    with pytest.raises(GatewayError):
        await till.order()
    purchase = await till.order()
    assert await till.pay(purchase) == 303


async def test_the_owner_sees_the_session_as_the_contract_fixes_it(till):
    bought = await till.buy()
    await till.complete(bought)
    view = await checkout.find_session(till.shop, account_id="anna", session_id=bought.session_id)
    assert view.as_json() == {
        "id": bought.session_id,
        "payment_status": "paid",
        "customer_email": "anna@example.com",
        "amount_total": 1_000,
        "currency": "usd",
        "metadata": {"user_id": "anna", "package_id": "1", "credits": "1000"},
        "payment_intent": bought.intent_id,
    }


async def test_an_unpaid_session_shows_unpaid_and_grants_nothing(till):
    purchase = await till.order()
    view = await checkout.find_session(till.shop, account_id="anna", session_id=purchase.session_id)
    assert view.payment_status == "unpaid"
    assert await till.balance() == 0


async def test_anothers_session_looks_like_a_missing_one(till):
    bought = await till.buy()
    with pytest.raises(NotFound) as anothers:
        await checkout.find_session(till.shop, account_id="boris", session_id=bought.session_id)
    with pytest.raises(NotFound) as missing:
        await checkout.find_session(till.shop, account_id="boris", session_id="cs_test_nothing")
    assert str(anothers.value) == str(missing.value)
    assert await till.balance() == 0


async def test_the_success_page_before_the_webhook_grants_once(till):
    bought = await till.buy()
    view = await checkout.find_session(till.shop, account_id="anna", session_id=bought.session_id)
    assert view.payment.is_granted
    await till.complete(bought)
    assert await till.amounts() == [1_000 * MICRO]


async def test_fulfil_is_idempotent(till, shop: Shop):
    bought = await till.buy()
    session = await shop.gateway.session(bought.session_id)
    outcomes = [(await checkout.fulfil(shop, session)).outcome for _ in range(3)]
    assert outcomes == [Fulfilled.GRANTED, Fulfilled.ALREADY, Fulfilled.ALREADY]
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_a_session_of_nobody_is_not_fulfilled(till, shop: Shop):
    purchase = await till.order()
    session = replace(await shop.gateway.session(purchase.session_id), id="cs_test_other", metadata={})
    assert (await checkout.fulfil(shop, session)).outcome is Fulfilled.UNKNOWN


@ON_SQLITE
async def test_the_session_is_shown_from_our_row_while_stripe_is_away(till, shop_through):
    purchase = await till.order()
    shop = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    view = await checkout.find_session(shop, account_id="anna", session_id=purchase.session_id)
    assert (view.payment_status, view.amount_total) == ("unpaid", 1_000)
