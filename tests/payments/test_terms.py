"""The terms of what was bought: whichever way it is granted, what is used first, what expires, what comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_disputes import CLOSED, CREATED, REINSTATED, WITHDRAWN, dispute_of

from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.jobs import Jobs
from credits_plugin.ledger.attribution import lot_reports
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import PlaceHold, SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.ledger.queries import account_balance, account_lots, account_transfers
from credits_plugin.metering.price_versions import PriceVersions
from credits_plugin.models import Account, Lot, Payment
from credits_plugin.payments import checkout
from credits_plugin.payments.packages import parse_packages
from credits_plugin.payments.pull import pull_events
from credits_plugin.payments.reconcile import reconcile
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.replay import replay_event
from hookspecs import Usage

MICRO = 1_000_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
COMPLETED = "checkout.session.completed"
ANNA = account_key("anna")
MONTH, LASTING, FIRST = 1, 2, 3
SOLD = {"credits": 1_000, "price_minor": 1_000, "currency": "usd"}
PACKAGES = parse_packages(
    [
        {"id": MONTH, "name": "Month", **SOLD, "valid_days": 30},
        {"id": LASTING, "name": "Lasting", **SOLD},
        {"id": FIRST, "name": "First", **SOLD, "priority": 10},
    ]
)


@pytest.fixture
def shop(shop):
    return replace(shop, packages=PACKAGES)


async def granted(till, package_id=MONTH):
    bought = await till.buy(package_id=package_id)
    await till.complete(bought)
    return bought


async def spend(till, amount):
    """One AI request: held, then settled."""
    writer, hold_id, now = till.shop.writer, till.shop.new_id(), now_ms()
    await writer.execute(PlaceHold(ANNA, "anna", hold_id, amount * MICRO, now, now + MINUTE_MS, 0, 0))
    await writer.execute(SettleHold(ANNA, hold_id, amount * MICRO, now, Usage(input=1)))


async def lots(till):
    return await till.shop.reads.run(lambda database: account_lots(database, ANNA))


async def terms_of(till, bought):
    """(priority, days valid) of the lot of a purchase."""
    paid_at_ms = (await till.payment(bought.payment_id)).paid_at_ms
    (lot,) = [lot for lot in await lots(till) if lot.payment_id == bought.payment_id]
    return lot.priority, lot.expires_at_ms and (lot.expires_at_ms - paid_at_ms) / DAY_MS


async def left(till):
    """(priority, whole credits left) of each lot, in burn-down order."""
    return [(lot.priority, lot.remaining // MICRO) for lot in await lots(till)]


async def codes(till):
    lines = await till.shop.reads.run(lambda database: account_transfers(database, ANNA))
    return [(line.code.name, line.amount // MICRO) for line in reversed(lines)]


async def pass_time(till, days):
    """Let what the account has grow older: all its times lie so much longer ago."""
    gone_ms = int(days * DAY_MS)

    def work(tx):
        for query in (
            Lot.update(expires_at_ms=Lot.expires_at_ms - gone_ms).where(Lot.account_id == ANNA),
            Account.update(next_expiry_at_ms=Account.next_expiry_at_ms - gone_ms).where(Account.id == ANNA),
            Payment.update(paid_at_ms=Payment.paid_at_ms - gone_ms).where(Payment.account_id == ANNA),
        ):
            query.execute(tx.database)

    await till.shop.writer.work([ANNA], work)


async def sweep(shop):
    """Run the real job once; returns how many accounts it looked at."""
    prices = PriceVersions(shop.writer, shop.reads)
    return await Jobs(shop.settings, shop.writer, shop.reads, shop.new_id, prices, lambda: None).expire_lots()


async def by_webhook(till, bought, make_event, shop_through):
    await till.deliver(make_event(COMPLETED, await till.session(bought.session_id)))


async def by_payment_intent(till, bought, make_event, shop_through):
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    await till.deliver(make_event("payment_intent.succeeded", intent))


async def by_a_slow_payment_method(till, bought, make_event, shop_through):
    await till.deliver(make_event("checkout.session.async_payment_succeeded", await till.session(bought.session_id)))


async def by_success_page(till, bought, make_event, shop_through):
    await checkout.find_session(till.shop, account_id="anna", session_id=bought.session_id)


async def by_pull(till, bought, make_event, shop_through):
    await pull_events(till.shop, at_ms=now_ms())


async def by_reconciliation(till, bought, make_event, shop_through):
    await reconcile(till.shop, at_ms=now_ms(), pause_s=0, apply=True)


async def by_replay(till, bought, make_event, shop_through):
    event = make_event("payment_intent.succeeded", await till.get(f"payment_intents/{bought.intent_id}"))
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(Exception, match="could not be reached"):
        await till.with_shop(away).deliver(event)
    await replay_event(till.shop, event["id"], actor="operator:olga")


WAYS = [
    by_webhook,
    by_payment_intent,
    by_a_slow_payment_method,
    by_success_page,
    by_pull,
    by_reconciliation,
    by_replay,
]


@ON_SQLITE
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_every_way_of_granting_gives_the_credits_the_terms_of_their_package(till, make_event, shop_through, way):
    bought = await till.buy(package_id=MONTH)
    await way(till, bought, make_event, shop_through)
    assert await terms_of(till, bought) == (100, 30)
    assert await codes(till) == [("PURCHASE", 1_000)]


async def test_what_expires_is_used_before_what_lasts_and_a_low_priority_before_both(till, database):
    lasting, month, first = [await granted(till, package_id) for package_id in (LASTING, MONTH, FIRST)]
    assert [await terms_of(till, bought) for bought in (lasting, month, first)] == [(100, None), (100, 30), (10, None)]
    steps = []
    for amount in (400, 700, 1_100):
        await spend(till, amount)
        steps.append({lot.payment_id: lot.remaining // MICRO for lot in await lots(till)})
    assert steps == [
        {lasting.payment_id: 1_000, month.payment_id: 1_000, first.payment_id: 600},
        {lasting.payment_id: 1_000, month.payment_id: 900},
        {lasting.payment_id: 800},
    ]
    assert audit(database).clean


async def test_the_sweep_turns_what_is_left_into_breakage_at_the_hour_that_was_promised(till, database):
    await granted(till, LASTING)
    await granted(till, MONTH)
    await spend(till, 400)
    await pass_time(till, 30 - 5 / 1_440)
    assert await sweep(till.shop) == 0
    await pass_time(till, 5 / 1_440)
    assert await sweep(till.shop) == 1
    assert await sweep(till.shop) == 0
    assert await codes(till) == [("PURCHASE", 1_000), ("PURCHASE", 1_000), ("USAGE", -400), ("EXPIRY", -600)]
    assert await left(till) == [(100, 1_000)]
    found = await till.shop.reads.run(lambda database: account_balance(database, ANNA))
    assert (found.balance, found.next_expiry_at_ms) == (1_000 * MICRO, None)
    assert audit(database).clean


async def test_a_refund_takes_its_share_of_the_grant_although_a_part_has_expired(till, database):
    """What expired is not there to be taken, so other credits pay for it; the books stay a function of the refunds."""
    bought = await granted(till, MONTH)
    await granted(till, LASTING)
    await spend(till, 400)
    await pass_time(till, 31)
    await sweep(till.shop)

    async def refund(amount_minor, key):
        words = {"reason": "requested_by_customer", "note": "", "actor": "olga", "idempotency_key": key}
        await refund_payment(till.shop, payment_id=bought.payment_id, amount_minor=amount_minor, **words)

    await refund(250, "a-quarter")
    assert await till.balance() == 750 * MICRO
    await refund(None, "and-the-rest")
    assert await till.balance() == 0
    payment = await till.payment(bought.payment_id)
    assert payment.clawed_back == payment.credited == 1_000 * MICRO
    reports = await till.shop.reads.run(lambda database: lot_reports(database, ANNA))
    assert [(one.spent + one.not_yet_attributed, one.expired, one.clawed_back) for one in reports] == [
        (400 * MICRO, 600 * MICRO, 0),
        (0, 0, 1_000 * MICRO),
    ]
    assert audit(database).clean


async def test_a_refund_after_all_has_expired_leaves_a_debt_that_the_next_purchase_repays(till, make_event, database):
    bought = await granted(till, MONTH)
    await pass_time(till, 31)
    await sweep(till.shop)
    await till.deliver(make_event("refund.created", await till.refund(bought, 300)))
    assert await till.balance() == -300 * MICRO
    await granted(till, MONTH)
    assert await left(till) == [(100, 700)]
    assert audit(database).clean


async def test_what_a_failed_refund_gives_back_is_as_long_valid_from_then_on(till, make_event, database):
    bought = await granted(till, MONTH)
    refund = await till.refund(bought, 1_000)
    await till.deliver(make_event("refund.created", refund))
    assert await lots(till) == []
    await pass_time(till, 40)
    await till.deliver(make_event("refund.failed", refund | {"status": "failed"}))
    (lot,) = await lots(till)
    assert (lot.priority, lot.remaining, lot.payment_id) == (100, 1_000 * MICRO, bought.payment_id)
    assert 0 <= now_ms() + 30 * DAY_MS - lot.expires_at_ms < MINUTE_MS
    assert await sweep(till.shop) == 0
    assert audit(database).clean


async def test_what_a_dispute_gives_back_is_as_long_valid_from_then_on(till, make_event, database):
    bought = await granted(till, MONTH)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    await pass_time(till, 40)
    await till.deliver(make_event(REINSTATED, dispute_of(bought, "won", moved=[-1_000, 1_000])))
    (lot,) = await lots(till)
    assert (lot.remaining, lot.payment_id) == (1_000 * MICRO, bought.payment_id)
    assert 0 <= now_ms() + 30 * DAY_MS - lot.expires_at_ms < MINUTE_MS
    assert audit(database).clean


async def test_what_a_dispute_has_frozen_expires_when_the_freeze_ends(till, make_event, database):
    bought = await granted(till, MONTH)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    await pass_time(till, 31)
    await sweep(till.shop)
    assert await till.balance() == 1_000 * MICRO
    await till.deliver(make_event(CLOSED, dispute_of(bought, "won")))
    await sweep(till.shop)
    assert await codes(till) == [("PURCHASE", 1_000), ("EXPIRY", -1_000)]
    assert audit(database).clean


async def test_what_comes_back_of_a_lasting_package_keeps_its_priority_and_never_expires(till, make_event):
    bought = await granted(till, FIRST)
    refund = await till.refund(bought, 1_000)
    await till.deliver(make_event("refund.created", refund))
    await till.deliver(make_event("refund.failed", refund | {"status": "failed"}))
    assert await terms_of(till, bought) == (10, None)


@ON_SQLITE
async def test_credits_of_a_package_that_is_sold_no_more_never_expire(till):
    bought = await till.buy(package_id=MONTH)
    later = till.with_shop(replace(till.shop, packages={LASTING: PACKAGES[LASTING]}))
    await later.complete(bought)
    assert await terms_of(till, bought) == (100, None)


@ON_SQLITE
async def test_the_terms_are_those_at_the_grant_and_stay_when_the_settings_change(till):
    bought = await till.buy(package_id=MONTH)
    longer = till.with_shop(replace(till.shop, packages={MONTH: replace(PACKAGES[MONTH], valid_days=60)}))
    await longer.complete(bought)
    assert await terms_of(till, bought) == (100, 60)
    await till.complete(bought)
    assert await terms_of(till, bought) == (100, 60)
