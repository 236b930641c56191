"""Disputes: frozen while they threaten, taken and restored with the money; once, whatever told of it, in any order."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest

from credits_plugin.database import Dialect
from credits_plugin.errors import InsufficientCredits, RefundRefused
from credits_plugin.jobs import Jobs
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, HoldStatus, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import account_key, id_time_ms, now_ms
from credits_plugin.ledger.queries import account_balance, account_transfers
from credits_plugin.metering import PriceVersions
from credits_plugin.models import Hold, OutboxMessage
from credits_plugin.payments import queries
from credits_plugin.payments.claw_back import merge_refund
from credits_plugin.payments.disputes import merge_dispute
from credits_plugin.payments.freezes import claw_back_target
from credits_plugin.payments.fulfilment import settle_session
from credits_plugin.payments.gateway import CheckoutSession, DisputeResult, RefundResult
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.states import DisputeStatus, InboxStatus, PaymentStatus, RefundStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
CREATED, UPDATED, CLOSED = "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"
WITHDRAWN, REINSTATED = "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated"


def dispute_of(bought, status="needs_response", *, amount=1_000, moved=(), **changes):
    """A dispute as Stripe's API shows it; ``moved`` are the amounts of its balance transactions."""
    return {
        "id": f"dp_{bought.intent_id}",
        "object": "dispute",
        "amount": amount,
        "currency": "usd",
        "charge": "ch_1",
        "payment_intent": bought.intent_id,
        "reason": "fraudulent",
        "status": status,
        "created": 1_800_000_000,
        "livemode": False,
        "balance_transactions": [{"object": "balance_transaction", "amount": one} for one in moved],
        "evidence_details": {"due_by": 1_801_000_000},
        "metadata": {},
        **changes,
    }


async def granted(till, account="anna", package_id=1):
    bought = await till.buy(account, package_id)
    await till.complete(bought)
    return bought


async def spend(till, amount, account="anna"):
    command = PostTransfer(
        account_key(account), account, till.shop.new_id(), Code.ADJUSTMENT_OUT, amount * MICRO, now_ms()
    )
    await till.shop.writer.execute(command)


async def books(till, account="anna"):
    """Balance and held credits."""
    found = await till.shop.reads.run(lambda database: account_balance(database, account_key(account)))
    return found.balance / MICRO, found.held / MICRO


async def codes(till, account="anna"):
    lines = await till.shop.reads.run(lambda database: account_transfers(database, account_key(account)))
    return [(line.code, line.amount // MICRO) for line in reversed(lines)]


async def disputes(till, bought):
    return await till.shop.reads.run(lambda database: queries.disputes_of(database, bought.payment_id))


def kinds(database):
    return [row["kind"] for row in OutboxMessage.select().order_by(OutboxMessage.id).dicts().execute(database.primary)]


async def test_an_open_dispute_freezes_its_credits_and_moves_none(till, make_event, database):
    bought = await granted(till)
    receipt = await till.deliver(make_event(CREATED, dispute_of(bought)))
    assert receipt.status is InboxStatus.PROCESSED
    assert await books(till) == (1_000, 1_000)
    [row] = await disputes(till, bought)
    assert (row.status, row.frozen, row.evidence_due_at_ms) == (
        DisputeStatus.NEEDS_RESPONSE,
        1_000 * MICRO,
        1_801_000_000_000,
    )
    hold = PlaceHold(account_key("anna"), "anna", till.shop.new_id(), 1, now_ms(), now_ms() + 1_000, 0, 0)
    with pytest.raises(InsufficientCredits):
        await till.shop.writer.execute(hold)
    assert kinds(database) == ["purchased", "dispute_opened"]
    assert audit(database).findings == []


async def test_the_sweep_leaves_a_freeze_alone_and_begins_behind_it(till, make_event, shop, database, monkeypatch):
    bought = await granted(till)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    jobs = Jobs(
        shop.settings, shop.writer, shop.reads, shop.new_id, PriceVersions(shop.writer, shop.reads), lambda: None
    )
    monkeypatch.setattr("credits_plugin.jobs._LATE_MS", 0)
    assert await jobs.expire_holds() == 0
    [dispute] = await disputes(till, bought)
    assert id_time_ms(jobs._oldest_open) >= id_time_ms(dispute.hold_id) > 0
    assert await books(till) == (1_000, 1_000)
    await till.deliver(make_event(CLOSED, dispute_of(bought, "won")))
    await jobs.purge_holds()
    assert await books(till) == (1_000, 0)


async def test_the_money_taken_turns_the_freeze_into_a_claw_back(till, make_event, database):
    bought = await granted(till)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    assert await books(till) == (0, 0)
    assert await codes(till) == [(Code.PURCHASE, 1_000), (Code.DISPUTE, -1_000)]
    payment = await till.payment(bought.payment_id)
    assert (payment.status, payment.disputed_minor, payment.clawed_back) == (
        PaymentStatus.DISPUTED,
        1_000,
        1_000 * MICRO,
    )
    assert audit(database).findings == []


async def test_a_dispute_that_was_won_is_restored_once(till, make_event, database):
    bought = await granted(till)
    for _ in range(2):
        for name, status, moved in (
            (CREATED, "needs_response", []),
            (WITHDRAWN, "needs_response", [-1_000]),
            (UPDATED, "under_review", [-1_000]),
            (CLOSED, "won", [-1_000]),
            (REINSTATED, "won", [-1_000, 1_000]),
        ):
            await till.deliver(make_event(name, dispute_of(bought, status, moved=moved)))
    assert await books(till) == (1_000, 0)
    assert await codes(till) == [(Code.PURCHASE, 1_000), (Code.DISPUTE, -1_000), (Code.DISPUTE_WON, 1_000)]
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.PAID
    assert kinds(database) == ["purchased", "dispute_opened", "disputed", "dispute_closed", "dispute_won"]
    assert audit(database).findings == []


@ON_SQLITE
async def test_an_inquiry_moves_and_freezes_nothing(till, make_event):
    bought = await granted(till)
    for name, status in (
        (CREATED, "warning_needs_response"),
        (UPDATED, "warning_under_review"),
        (CLOSED, "warning_closed"),
    ):
        await till.deliver(make_event(name, dispute_of(bought, status)))
        assert await books(till) == (1_000, 0)
    assert (await disputes(till, bought))[0].status is DisputeStatus.WARNING_CLOSED


@ON_SQLITE
async def test_an_inquiry_that_becomes_a_dispute_takes_its_credits(till, make_event):
    bought = await granted(till)
    await till.deliver(make_event(CREATED, dispute_of(bought, "warning_needs_response")))
    await till.deliver(make_event(UPDATED, dispute_of(bought, "needs_response")))
    assert await books(till) == (1_000, 1_000)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    assert await books(till) == (0, 0)


async def test_a_dispute_after_the_spend_becomes_debt_that_the_next_purchase_repays(till, make_event, database):
    bought = await granted(till)
    await spend(till, 900)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    assert await books(till) == (100, 100)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    assert await books(till) == (-900, 0)
    await granted(till)
    assert await books(till) == (100, 0)
    assert audit(database).findings == []


@ON_SQLITE
async def test_what_is_bought_after_a_dispute_opened_is_not_frozen(till, make_event):
    bought = await granted(till)
    await spend(till, 1_000)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    await granted(till)
    await till.deliver(make_event(UPDATED, dispute_of(bought, "under_review")))
    assert await books(till) == (1_000, 0)


@ON_SQLITE
async def test_a_lost_dispute_takes_although_nobody_told_of_the_money(till, make_event):
    bought = await granted(till)
    await till.deliver(make_event(CLOSED, dispute_of(bought, "lost")))
    assert await books(till) == (0, 0)


@ON_SQLITE
@pytest.mark.parametrize("status", ["won", "prevented", "warning_closed"])
async def test_a_dispute_that_ends_without_money_moving_ends_its_freeze(till, make_event, status):
    bought = await granted(till)
    first = "warning_needs_response" if status == "warning_closed" else "needs_response"
    await till.deliver(make_event(CREATED, dispute_of(bought, first)))
    await till.deliver(make_event(CLOSED, dispute_of(bought, status)))
    assert await books(till) == (1_000, 0)
    assert [code for code, _ in await codes(till)] == [Code.PURCHASE]


@ON_SQLITE
async def test_a_partial_dispute_freezes_and_takes_its_part_rounded_up(till, make_event, database):
    bought = await granted(till, package_id=2)  # 5,500 credits for 5,000 cents
    await till.deliver(make_event(CREATED, dispute_of(bought, amount=1_001)))
    assert await books(till) == (5_500, 1_101.1)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, amount=1_001, moved=[-1_001])))
    assert await books(till) == (4_398.9, 0)
    assert audit(database).findings == []


async def test_a_refund_while_a_dispute_is_open_shrinks_the_freeze(till, make_event, database):
    bought = await granted(till)
    await till.deliver(make_event(CREATED, dispute_of(bought)))
    await till.deliver(make_event("refund.created", await till.refund(bought, 400)))
    assert await books(till) == (600, 600)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    assert await books(till) == (0, 0)
    assert await codes(till) == [(Code.PURCHASE, 1_000), (Code.REFUND, -400), (Code.DISPUTE, -600)]
    assert audit(database).findings == []


@ON_SQLITE
async def test_a_dispute_seen_before_the_grant_leaves_nothing(till, make_event, database):
    bought = await till.buy()
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    await till.complete(bought)
    assert await books(till) == (0, 0)
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.DISPUTED
    assert audit(database).findings == []


@ON_SQLITE
async def test_disputed_money_cannot_be_refunded_from_here(till, make_event):
    bought = await granted(till)
    await till.deliver(make_event(WITHDRAWN, dispute_of(bought, moved=[-1_000])))
    with pytest.raises(RefundRefused):
        await refund_payment(
            till.shop,
            payment_id=bought.payment_id,
            amount_minor=None,
            reason="fraudulent",
            note="",
            actor="operator:olga",
            idempotency_key="refund-key-1",
        )


@ON_SQLITE
@pytest.mark.parametrize(
    "change",
    [{"currency": "eur"}, {"status": "wonderful"}, {"amount": 0}, {"balance_transactions": [{"amount": "1"}]}],
)
async def test_a_dispute_that_does_not_fit_is_quarantined(till, make_event, change):
    bought = await granted(till)
    receipt = await till.deliver(make_event(WITHDRAWN, dispute_of(bought) | change))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await books(till) == (1_000, 0)


@ON_SQLITE
async def test_an_older_api_version_without_intent_and_list_is_understood(till, make_event):
    bought = await granted(till)
    charge = (await till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]
    older = dispute_of(bought, charge=charge)
    del older["payment_intent"], older["balance_transactions"], older["evidence_details"]
    await till.deliver(make_event(WITHDRAWN, older, api_version="2018-02-28"))
    assert await books(till) == (0, 0)


@ON_SQLITE
async def test_a_dispute_of_another_business_is_ignored(till, make_event):
    bought = await granted(till)
    receipt = await till.deliver(make_event(WITHDRAWN, dispute_of(replace(bought, intent_id="pi_of_another_shop"))))
    assert receipt.status is InboxStatus.IGNORED


@ON_SQLITE
async def test_a_word_that_was_overruled_counts_by_its_time(till, make_event):
    bought = await granted(till)
    lost = make_event(CLOSED, dispute_of(bought, "lost", moved=[-1_000]), created=1_800_000_100)
    won = make_event(CLOSED, dispute_of(bought, "won", moved=[-1_000, 1_000]), created=1_800_000_200)
    for event in (won, lost):
        await till.deliver(event)
    assert (await disputes(till, bought))[0].status is DisputeStatus.WON
    assert await books(till) == (1_000, 0)


def story(account, payment_id):
    """A sale that was refunded in part, once in vain, disputed in whole, and won: six events as units of work."""
    intent, at = f"pi_{payment_id}", itertools.count(1_000)
    session = CheckoutSession(
        f"cs_{payment_id}", "complete", "paid", 1_000, 1_000, 0, 0, 0, "usd", False, account, intent, None, None
    )
    refund = RefundResult(f"re_{payment_id}", RefundStatus.SUCCEEDED, 300, "usd", intent, None, None, None, 1)
    failed = replace(refund, id=f"re_{payment_id}_failed", status=RefundStatus.FAILED, amount_minor=200)
    base = DisputeResult(
        f"dp_{payment_id}", DisputeStatus.NEEDS_RESPONSE, 1_000, "usd", None, intent, "fraudulent", 0, 0, None, 1
    )
    states = (
        base,
        replace(base, withdrawals=1),
        replace(base, status=DisputeStatus.WON, withdrawals=1, reinstatements=1),
    )

    def told(result):
        seen_at_ms = next(at)
        return lambda tx: merge_dispute(tx, payment_id=payment_id, result=result, seen_at_ms=seen_at_ms)

    return [
        lambda tx: settle_session(tx, session, payment_id=payment_id, packages={}, unpaid=PaymentStatus.PROCESSING),
        lambda tx: merge_refund(tx, payment_id=payment_id, result=refund),
        *map(told, states),
        lambda tx: merge_refund(tx, payment_id=payment_id, result=failed),
    ]


async def test_every_order_of_six_events_with_each_doubled_ends_in_the_same_books(till, database):
    """Refund and dispute of one payment: one claw-back, restored but for the refund.

    Each event is told twice at its place in the order, and one of them a third time at the end.
    """
    orders = list(itertools.permutations(range(6)))
    if database.dialect is Dialect.POSTGRESQL:
        orders = orders[::35]

    async def play(number, order):
        account = f"account-{number}"
        payment_id = await new_payment(till.shop, account)
        events = story(account, payment_id)

        def tell(tx):
            for position in order:
                events[position](tx)
                events[position](tx)
            events[number % 6](tx)

        await till.shop.writer.work([account_key(account)], tell)
        payment = await till.payment(payment_id)
        [row] = await till.shop.reads.run(lambda database: queries.disputes_of(database, payment_id))
        return (
            await books(till, account),
            (payment.status, payment.refunded_minor, payment.disputed_minor, payment.clawed_back),
            (row.status, row.withdrawals, row.reinstatements, row.hold_id),
        )

    results = await asyncio.gather(*(play(number, order) for number, order in enumerate(orders)))
    assert set(results) == {
        (
            (700, 0),
            (PaymentStatus.PARTIALLY_REFUNDED, 300, 0, 300 * MICRO),
            (DisputeStatus.WON, 1, 1, None),
        )
    }
    assert audit(database).findings == []
    open_holds = Hold.select().where(Hold.state == HoldStatus.PLACED).count(database.primary)
    assert open_holds == 0


@pytest.mark.parametrize(("told", "expected"), [(2, (1_000, 1_000)), (3, (0, 0))], ids=["open", "withdrawn"])
async def test_a_dispute_known_before_the_grant_takes_effect_with_it(till, told, expected):
    payment_id = await new_payment(till.shop, "anna")
    events = story("anna", payment_id)
    for step in (*events[2 : told + 1], events[0]):
        await till.shop.writer.work([account_key("anna")], step)
    assert await books(till) == expected


async def new_payment(shop, account):
    """A payment row as a purchase writes it, without asking for a page."""
    from credits_plugin.payments.checkout import _payment_row

    payment_id = shop.new_id()
    row = _payment_row(shop, shop.packages[1], payment_id=payment_id, account_id=account_key(account), email=None)

    def insert(tx):
        from credits_plugin.models import Payment

        Payment.insert({**row, "created_at_ms": tx.at_ms, "updated_at_ms": tx.at_ms}).execute(tx.database)

    await shop.writer.work([account_key(account)], insert)
    return payment_id


@pytest.mark.parametrize("sums", list(itertools.product([0, 1, 300, 1_000], repeat=2)))
def test_the_target_depends_on_the_sum_alone_and_never_exceeds_the_grant(sums):
    class Payment:
        credited, whole_minor = 777, 1_000

    one = claw_back_target(Payment, money_back_minor=sum(sums))
    assert 0 <= one <= 777
    assert (one == 777) == (sum(sums) >= 1_000)
