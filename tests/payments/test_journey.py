"""The way of one purchase with the sandbox's own signed deliveries, over HTTP, from the page to the refund."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from credits_plugin.payments import inbox, queries
from credits_plugin.payments.events import HANDLED_TYPES
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.states import InboxStatus, PaymentStatus

MICRO = 1_000_000


@pytest.fixture
async def delivered(shop, sandbox) -> AsyncIterator[list[inbox.Receipt]]:
    """A host's webhook route; what it has received."""
    receipts: list[inbox.Receipt] = []

    async def webhook(request: web.Request) -> web.Response:
        receipts.append(await inbox.receive(shop, await request.read(), request.headers["stripe-signature"]))
        return web.json_response({"success": True, "received": True})

    app = web.Application()
    app.router.add_post("/webhook", webhook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sandbox.set_webhook(f"http://127.0.0.1:{runner.addresses[0][1]}/webhook", shop.settings.stripe_webhook_secrets[0])
    yield receipts
    await sandbox.drain()
    await runner.cleanup()


async def test_buy_decline_pay_refund_in_parts(till, sandbox, delivered):
    purchase = await till.order()
    assert await till.pay(purchase, card="4000000000000002") == 402
    await sandbox.drain()
    assert "card_declined/generic_decline" in (await till.payment(purchase.payment_id)).detail

    assert await till.pay(purchase) == 303
    await sandbox.drain()
    assert await till.balance() == 1_000 * MICRO

    values = {"reason": "requested_by_customer", "note": "", "actor": "olga"}
    for number, amount in enumerate([250, None]):
        await refund_payment(
            till.shop,
            payment_id=purchase.payment_id,
            amount_minor=amount,
            idempotency_key=f"refund-{number}-key",
            **values,
        )
    await sandbox.drain()

    assert sorted(await till.amounts()) == [-750 * MICRO, -250 * MICRO, 1_000 * MICRO]
    assert (await till.payment(purchase.payment_id)).status is PaymentStatus.REFUNDED
    handled = [receipt for receipt in delivered if receipt.type in HANDLED_TYPES]
    assert {receipt.status for receipt in handled} == {InboxStatus.PROCESSED}
    assert {receipt.status for receipt in delivered if receipt not in handled} == {InboxStatus.IGNORED}
    assert {receipt.type for receipt in handled} >= {
        "checkout.session.completed",
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "refund.created",
        "charge.refunded",
    }


async def test_a_refund_that_fails_later_gives_the_credits_back(till, sandbox, sandbox_clock, delivered):
    purchase = await till.order()
    await till.pay(purchase, card="4000000000005126")
    await sandbox.drain()
    session = await till.session(purchase.session_id)
    await till.post("refunds", payment_intent=session["payment_intent"])
    await sandbox.drain()
    assert await till.balance() == 0

    sandbox_clock.ahead_s = 6  # the bank sends the money back after five seconds
    await till.get("refunds")
    await sandbox.drain()
    [row] = await till.shop.reads.run(lambda database: queries.refunds_of(database, purchase.payment_id))
    payment = await till.payment(purchase.payment_id)
    assert (row.status, payment.status) == ("failed", PaymentStatus.PAID)
    assert await till.balance() == 1_000 * MICRO
