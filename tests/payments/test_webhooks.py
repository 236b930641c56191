"""The inbox: one grant per payment for ever, our order against every other claim, nothing lost when something fails."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import pytest

from credits_plugin.errors import ForgedEvent, GatewayError
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import account_lots
from credits_plugin.models import OutboxMessage, Payment
from credits_plugin.payments import inbox, queries
from credits_plugin.payments.states import InboxStatus, PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
COMPLETED = "checkout.session.completed"


async def test_a_paid_session_adds_its_credits_and_says_so(till, caplog):
    caplog.set_level(logging.INFO, "credits_plugin")
    bought = await till.buy()

    receipt = await till.complete(bought)

    assert receipt.status is InboxStatus.PROCESSED
    assert await till.balance() == 1_000 * MICRO
    assert "Handling Stripe webhook event: checkout.session.completed" in caplog.messages
    line = f"Successfully added 1000 credits to user anna from Stripe payment {bought.intent_id}"
    assert line in caplog.messages
    assert "anna@example.com" not in caplog.text


async def test_an_event_that_tells_all_is_granted_without_a_read_or_a_call_before(till, shop_through):
    class Unreachable(StripeGateway):
        async def payment_intent(self, payment_intent_id):
            raise AssertionError(payment_intent_id)

    bought = await till.buy()
    blind = till.with_shop(replace(shop_through(Unreachable), reads=None))
    assert (await blind.complete(bought)).status is InboxStatus.PROCESSED
    assert await till.balance() == 1_000 * MICRO


async def test_the_payment_its_grant_and_its_lot_are_tied(till):
    bought = await till.buy()
    await till.complete(bought)
    payment = await till.payment(bought.payment_id)
    [lot] = await till.shop.reads.run(lambda database: account_lots(database, account_key("anna")))
    assert payment.status is PaymentStatus.PAID
    assert (payment.payment_intent_id, payment.external_id, payment.email) == (
        bought.intent_id,
        "anna",
        "anna@example.com",
    )
    assert (lot.id, lot.payment_id, lot.reference) == (payment.grant_transfer_id, payment.id, bought.intent_id)
    assert payment.paid_at_ms is not None


async def test_the_purchase_is_announced_once_after_the_commit(till, database):
    bought = await till.buy()
    await till.complete(bought)
    await till.complete(bought)
    rows = list(OutboxMessage.select().dicts().execute(database.primary))
    assert [(row["kind"], row["account_id"]) for row in rows] == [("purchased", account_key("anna"))]
    data = json.loads(rows[0]["payload"])
    assert (data["payment_id"], data["microcredits"]) == (str(bought.payment_id), 1_000 * MICRO)


async def test_fifty_concurrent_duplicates_make_one_grant(till, make_event):
    bought = await till.buy()
    event = make_event(COMPLETED, await till.session(bought.session_id))
    receipts = await asyncio.gather(*(till.deliver(event) for _ in range(50)))
    assert {receipt.status for receipt in receipts} == {InboxStatus.PROCESSED}
    assert sum(not receipt.repeated for receipt in receipts) == 1
    assert await till.amounts() == [1_000 * MICRO]
    line = await till.inbox(event["id"])
    assert (line.attempts, line.status) == (1, InboxStatus.PROCESSED)


async def test_fifty_duplicates_on_two_hosts_make_one_grant(till, second_host, make_event):
    bought = await till.buy()
    other = till.with_shop(second_host)
    session = await till.session(bought.session_id)
    events = [make_event(COMPLETED, session) for _ in range(25)]
    deliveries = [host.deliver(event) for event in events for host in (till, other)]
    receipts = await asyncio.gather(*deliveries)
    assert {receipt.status for receipt in receipts} == {InboxStatus.PROCESSED}
    assert await till.amounts() == [1_000 * MICRO]


async def test_first_payments_of_a_new_account_on_two_hosts_are_both_granted(till, second_host):
    one, two = await till.buy(), await till.buy()
    await asyncio.gather(till.complete(one), till.with_shop(second_host).complete(two))
    assert await till.amounts() == [1_000 * MICRO] * 2


async def test_two_event_types_for_one_payment_make_one_grant(till, make_event):
    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    await asyncio.gather(till.deliver(make_event("payment_intent.succeeded", intent)), till.complete(bought))
    assert await till.amounts() == [1_000 * MICRO]


async def test_payment_intent_succeeded_alone_grants_through_its_session(till, make_event):
    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    await till.deliver(make_event("payment_intent.succeeded", intent))
    assert await till.amounts() == [1_000 * MICRO]


async def test_a_completed_but_unpaid_session_waits(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    await till.deliver(make_event(COMPLETED, session | {"payment_status": "unpaid"}))
    assert await till.balance() == 0
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.PROCESSING

    await till.deliver(make_event("checkout.session.async_payment_succeeded", session))
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_a_failed_slow_payment_grants_nothing(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id) | {"payment_status": "unpaid"}
    await till.deliver(make_event("checkout.session.async_payment_failed", session))
    await till.deliver(make_event(COMPLETED, session))
    assert await till.balance() == 0
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.FAILED


@ON_SQLITE
async def test_expired_then_paid_is_granted(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    expired = session | {"status": "expired", "payment_status": "unpaid", "payment_intent": None}
    await till.deliver(make_event("checkout.session.expired", expired))
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.EXPIRED
    await till.complete(bought)
    await till.deliver(make_event("checkout.session.expired", expired))
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.PAID
    assert await till.amounts() == [1_000 * MICRO]


async def test_a_declined_card_is_logged_on_the_payment(till, make_event):
    purchase = await till.order()
    assert await till.pay(purchase, card="4000000000009995") == 402
    intent_id = (await till.session(purchase.session_id))["payment_intent"]
    intent = await till.get(f"payment_intents/{intent_id}")
    await till.deliver(make_event("payment_intent.payment_failed", intent))
    payment = await till.payment(purchase.payment_id)
    assert payment.status is PaymentStatus.OPEN
    assert "insufficient_funds" in payment.detail

    assert await till.pay(purchase) == 303
    await till.deliver(make_event(COMPLETED, await till.session(purchase.session_id)))
    paid = await till.payment(purchase.payment_id)
    assert (paid.status, paid.detail) == (PaymentStatus.PAID, None)


@ON_SQLITE
async def test_a_canceled_intent_is_logged_on_the_payment(till, make_event):
    purchase = await till.order()
    await till.pay(purchase, card="4000000000000002")
    intent_id = (await till.session(purchase.session_id))["payment_intent"]
    intent = await till.get(f"payment_intents/{intent_id}")
    canceled = intent | {"status": "canceled", "cancellation_reason": "abandoned", "last_payment_error": None}
    await till.deliver(make_event("payment_intent.canceled", canceled))
    payment = await till.payment(purchase.payment_id)
    assert (payment.status, payment.detail) == (PaymentStatus.CANCELED, "canceled: abandoned")


TAMPERED = [
    {"user_id": "mallory", "credits": "999999999", "package_id": "3"},
    {"user_id": "anna", "credits": "999999999", "payment_id": "1"},
    {},
]


@ON_SQLITE
@pytest.mark.parametrize("metadata", TAMPERED)
async def test_tampered_metadata_changes_nothing_of_our_order(till, make_event, metadata):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    await till.deliver(make_event(COMPLETED, session | {"metadata": metadata}))
    assert await till.amounts("anna") == [1_000 * MICRO]
    assert await till.amounts("mallory") == []


@ON_SQLITE
async def test_an_event_without_any_name_is_completed_from_stripes_own_copy(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    bare = session | {"metadata": {"user_id": "mallory"}, "client_reference_id": None}
    await till.deliver(make_event(COMPLETED, bare))
    assert await till.amounts("anna") == [1_000 * MICRO]


MISMATCHES = [
    {"amount_total": 100},
    {"amount_total": 100_000},
    {"amount_total": None},
    {"currency": "jpy"},
    {"currency": "xyz"},
    {"livemode": True},
    {"client_reference_id": "mallory"},
    {"payment_intent": None},
]


@ON_SQLITE
@pytest.mark.parametrize("change", MISMATCHES)
async def test_a_session_that_differs_from_our_order_is_quarantined(till, make_event, change):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    receipt = await till.deliver(make_event(COMPLETED, session | change))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.balance() == 0
    assert await till.balance("mallory") == 0
    payment = await till.payment(bought.payment_id)
    assert payment.detail == receipt.detail
    assert not payment.is_granted

    await till.complete(bought)
    assert await till.amounts() == [1_000 * MICRO]


async def test_one_payment_intent_pays_one_payment_only(till, make_event):
    one, two = await till.buy(), await till.buy()
    await till.complete(one)
    session = await till.session(two.session_id) | {"payment_intent": one.intent_id}
    receipt = await till.deliver(make_event(COMPLETED, session))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_an_intent_that_received_another_amount_is_quarantined(till, make_event):
    bought = await till.buy()
    await till.complete(bought)
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    receipt = await till.deliver(make_event("payment_intent.succeeded", intent | {"amount_received": 1}))
    assert receipt.status is InboxStatus.QUARANTINED


@ON_SQLITE
async def test_an_event_of_the_other_mode_is_quarantined(till, make_event):
    bought = await till.buy()
    receipt = await till.deliver(make_event(COMPLETED, await till.session(bought.session_id), livemode=True))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.balance() == 0


@ON_SQLITE
async def test_an_event_of_another_stripe_account_is_quarantined(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    receipt = await till.deliver(make_event(COMPLETED, session, account="acct_other"))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.balance() == 0


@ON_SQLITE
async def test_a_session_that_is_no_payment_of_ours_is_ignored(till, make_event):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    foreign = session | {"id": "cs_test_foreign", "metadata": {}}
    assert (await till.deliver(make_event(COMPLETED, foreign))).status is InboxStatus.IGNORED
    claims = session | {"id": "cs_test_foreign"}
    assert (await till.deliver(make_event(COMPLETED, claims))).status is InboxStatus.QUARANTINED
    assert await till.balance() == 0


@ON_SQLITE
@pytest.mark.parametrize("event_type", ["payment_intent.succeeded", "charge.refunded", "refund.created"])
async def test_money_of_another_business_on_the_same_stripe_account_is_ignored(till, make_event, event_type):
    intent = await till.post(
        "payment_intents", amount=1000, currency="usd", confirm="true", payment_method="pm_card_visa",
        **{"automatic_payment_methods[enabled]": "true", "automatic_payment_methods[allow_redirects]": "never"},
    )  # fmt: skip
    refund = await till.post("refunds", payment_intent=intent["id"])
    charge = await till.get(f"charges/{intent['latest_charge']}")
    data = {"payment_intent.succeeded": intent, "charge.refunded": charge, "refund.created": refund}[event_type]
    receipt = await till.deliver(make_event(event_type, data))
    assert receipt.status is InboxStatus.IGNORED
    assert "ours" in receipt.detail


async def test_an_unknown_type_is_stored_and_ignored(till, make_event):
    event = make_event("radar.early_fraud_warning.created", {"id": "issfr_1", "object": "radar.early_fraud_warning"})
    assert (await till.deliver(event)).status is InboxStatus.IGNORED
    line = await till.inbox(event["id"])
    assert (line.status, line.object_id, line.attempts) == (InboxStatus.IGNORED, "issfr_1", 1)


@ON_SQLITE
@pytest.mark.parametrize("change", [{"amount_total": "1000"}, {"payment_status": None}, {"metadata": ["a"]}])
async def test_an_object_in_an_unknown_shape_is_quarantined(till, make_event, change):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    receipt = await till.deliver(make_event(COMPLETED, session | change))
    assert receipt.status is InboxStatus.QUARANTINED
    assert "field" in receipt.detail


@ON_SQLITE
async def test_a_handled_type_with_another_kind_of_object_is_quarantined(till, make_event):
    receipt = await till.deliver(make_event(COMPLETED, {"id": "cus_1", "object": "customer"}))
    assert receipt.status is InboxStatus.QUARANTINED


async def test_a_webhook_that_outran_our_own_commit_adopts_its_payment(till, database):
    """A crash between Stripe's answer and our commit: the row knows no session, the session knows its row."""
    bought = await till.buy()
    forget = Payment.update(stripe_session_id=None, payment_url=None, status="created")
    await till.shop.writer.work([], lambda tx: forget.execute(tx.database))
    await till.complete(bought)
    payment = await till.payment(bought.payment_id)
    assert (payment.session_id, payment.status) == (bought.session_id, PaymentStatus.PAID)
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_a_session_that_names_anothers_payment_does_not_adopt_it(till, make_event):
    mine, hers = await till.buy("mallory"), await till.buy("anna")
    forget = Payment.update(stripe_session_id=None).where(Payment.id == hers.payment_id)
    await till.shop.writer.work([], lambda tx: forget.execute(tx.database))
    session = await till.session(mine.session_id)
    stolen = session | {"id": "cs_test_stolen", "metadata": {"payment_id": str(hers.payment_id)}}
    receipt = await till.deliver(make_event(COMPLETED, stolen))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.balance("mallory") == 0
    assert await till.balance("anna") == 0


async def test_a_session_that_names_another_payment_of_its_buyer_grants_its_own(till, make_event):
    first, second = await till.buy(), await till.buy()
    session = await till.session(second.session_id)
    named = session | {"metadata": session["metadata"] | {"payment_id": str(first.payment_id)}}
    receipt = await till.deliver(make_event(COMPLETED, named))
    assert receipt.status is InboxStatus.PROCESSED
    other, ours = await till.payment(first.payment_id), await till.payment(second.payment_id)
    assert (other.is_granted, other.detail, ours.is_granted) == (False, None, True)


async def test_a_failed_handling_leaves_its_reason_and_the_redelivery_succeeds(till, shop_through, make_event):
    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    event = make_event("payment_intent.succeeded", intent)
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(GatewayError):
        await till.with_shop(away).deliver(event)
    failed = await till.inbox(event["id"])
    assert (failed.status, failed.attempts) == (InboxStatus.FAILED, 1)
    assert failed.detail.startswith("gateway_error: Stripe could not be reached")
    assert await till.balance() == 0

    assert (await till.deliver(event)).status is InboxStatus.PROCESSED
    assert (await till.inbox(event["id"])).attempts == 2
    assert await till.balance() == 1_000 * MICRO


async def test_a_grant_that_the_ledger_refuses_leaves_no_half_behind(till, make_event, database):
    bought = await till.buy()
    bump = Payment.update(microcredits=2**62 + 1).where(Payment.id == bought.payment_id)
    await till.shop.writer.work([], lambda tx: bump.execute(tx.database))
    event = make_event(COMPLETED, await till.session(bought.session_id))
    with pytest.raises(Exception, match="whole number"):
        await till.deliver(event)
    assert (await till.inbox(event["id"])).status is InboxStatus.FAILED
    assert (await till.payment(bought.payment_id)).payment_intent_id is None
    assert OutboxMessage.select().count(database.primary) == 0

    repair = Payment.update(microcredits=1_000 * MICRO).where(Payment.id == bought.payment_id)
    await till.shop.writer.work([], lambda tx: repair.execute(tx.database))
    await till.deliver(event)
    assert await till.amounts() == [1_000 * MICRO]


async def test_a_processed_event_delivered_again_does_nothing(till, make_event):
    bought = await till.buy()
    event = make_event(COMPLETED, await till.session(bought.session_id))
    first, again = await till.deliver(event), await till.deliver(event)
    assert (first.repeated, again.repeated) == (False, True)
    assert (await till.inbox(event["id"])).attempts == 1


async def test_a_forged_webhook_writes_nothing(till, make_event, signed):
    bought = await till.buy()
    raw = json.dumps(make_event(COMPLETED, await till.session(bought.session_id))).encode()
    with pytest.raises(ForgedEvent):
        await inbox.receive(till.shop, raw, signed(raw, secret="whsec_of_a_stranger"))
    assert await till.shop.reads.run(queries.inbox_page) == []
    assert await till.balance() == 0


@ON_SQLITE
async def test_a_grant_without_a_receipt_is_still_a_grant(till, shop_through):
    bought = await till.buy()

    class NoReceipts(StripeGateway):
        async def payment_intent(self, payment_intent_id):
            raise GatewayError("Stripe could not be reached", retryable=True)

    await till.with_shop(shop_through(NoReceipts)).complete(bought)
    assert await till.balance() == 1_000 * MICRO
    assert (await till.payment(bought.payment_id)).receipt_url is None


async def test_the_inbox_pages_by_key(till, make_event):
    ids = []
    for number in range(5):
        event = make_event("customer.created", {"id": f"cus_{number}", "object": "customer"})
        await till.deliver(event)
        ids.append(event["id"])
    page = await till.shop.reads.run(lambda database: queries.inbox_page(database, limit=3))
    last = (page[-1].received_at_ms, page[-1].event_id)
    rest = await till.shop.reads.run(lambda database: queries.inbox_page(database, before=last, limit=3))
    assert sorted(line.event_id for line in [*page, *rest]) == sorted(ids)
    assert len(rest) == 2
    failed = lambda database: queries.inbox_page(database, status=InboxStatus.FAILED)  # noqa: E731
    assert await till.shop.reads.run(failed) == []


async def test_payments_page_by_key_and_account(till):
    for account in ("anna", "boris", "anna"):
        await till.order(account)
    everything = await till.shop.reads.run(lambda database: queries.payments_page(database, limit=2))
    older = await till.shop.reads.run(
        lambda database: queries.payments_page(database, before_id=everything[-1].id, limit=2)
    )
    assert (len(everything), len(older)) == (2, 1)
    key = account_key("anna")
    hers = await till.shop.reads.run(lambda database: queries.payments_page(database, account_id=key))
    assert [payment.account_id for payment in hers] == [key, key]
