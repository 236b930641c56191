"""What a signed event says alone, and what is looked up because it does not: the amount taken, charge and receipt."""

from __future__ import annotations

import asyncio
import json
import zipfile
from dataclasses import replace

import pytest

from credits_plugin.__main__ import main
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.payments import checkout
from credits_plugin.payments.states import InboxStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""


class AsksNobody(StripeGateway):
    """A gateway that must not be asked for anything."""

    async def _api(self):
        raise AssertionError


async def test_a_completed_session_at_our_price_is_granted_without_asking_stripe(till, shop_through):
    bought = await till.buy()
    await till.with_shop(shop_through(AsksNobody)).complete(bought)
    payment = await till.payment(bought.payment_id)
    assert (payment.whole_minor, payment.charge_id, payment.receipt_url) == (1_000, None, None)
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
@pytest.mark.parametrize(
    ("event_type", "change"),
    [
        ("checkout.session.completed", {"amount_total": 1_190, "total_details": {"amount_tax": 190}}),
        ("checkout.session.async_payment_succeeded", {}),
    ],
    ids=["another total", "late money"],
)
async def test_where_the_event_does_not_say_enough_stripe_is_asked_and_a_smaller_capture_counts(
    till, shop_through, make_event, event_type, change
):
    class TookLess(StripeGateway):
        async def payment_intent(self, payment_intent_id):
            return replace(await super().payment_intent(payment_intent_id), amount_received_minor=500)

    bought = await till.buy()
    session = await till.session(bought.session_id) | change
    await till.with_shop(shop_through(TookLess)).deliver(make_event(event_type, session))
    assert (await till.payment(bought.payment_id)).whole_minor == 500


@ON_SQLITE
@pytest.mark.parametrize("source", ["charge.succeeded", "the success page"])
async def test_charge_and_receipt_come_with_the_charge_or_when_the_buyer_looks(till, make_event, source):
    bought = await till.buy()
    await till.complete(bought)
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    await till.deliver(make_event("payment_intent.succeeded", intent))
    payment = await till.payment(bought.payment_id)
    assert (payment.charge_id, payment.receipt_url) == (intent["latest_charge"], None)
    if source == "charge.succeeded":
        await till.deliver(make_event(source, await till.get(f"charges/{intent['latest_charge']}")))
    else:
        await checkout.find_session(till.shop, account_id="anna", session_id=bought.session_id)
    payment = await till.payment(bought.payment_id)
    assert payment.charge_id == intent["latest_charge"]
    assert payment.receipt_url.startswith("http")


@ON_SQLITE
async def test_a_buyer_sees_a_paid_session_while_stripe_is_away(till, shop_through):
    bought = await till.buy()
    await till.complete(bought)
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    view = await checkout.find_session(away, account_id="anna", session_id=bought.session_id)
    assert (view.payment_status, view.payment.receipt_url) == ("paid", None)


@ON_SQLITE
async def test_a_charge_before_its_grant_or_of_nobody_is_ignored(till, make_event):
    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    charge = await till.get(f"charges/{intent['latest_charge']}")
    receipt = await till.deliver(make_event("charge.succeeded", charge))
    assert receipt.status is InboxStatus.IGNORED
    assert await till.balance() == 0


@ON_SQLITE
@pytest.mark.parametrize("has_keys", [True, False])
async def test_the_evidence_file_has_the_receipt_as_far_as_stripe_can_be_asked(
    till, make_event, database_url, sandbox, tmp_path, monkeypatch, has_keys
):
    bought = await till.buy()
    await till.complete(bought)
    charge = (await till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]
    dispute = sandbox.dispute(charge)
    await till.deliver(make_event("charge.dispute.created", await till.get(f"disputes/{dispute['id']}")))
    if has_keys:
        monkeypatch.setenv("STRIPE_SECRET_KEY", till.shop.settings.stripe_secret_key)
        monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_x")
        monkeypatch.setenv("CREDITS_STRIPE_API_BASE", sandbox.url)
    path = tmp_path / "evidence.zip"
    command = ["disputes", "evidence", dispute["id"], "--out", str(path), "--database", database_url]
    assert await asyncio.to_thread(main, command) == 0
    receipt = json.loads(zipfile.ZipFile(path).read("receipt.json"))
    assert (receipt["charge"], bool(receipt["receipt_url"])) == ((charge, True) if has_keys else (None, False))
