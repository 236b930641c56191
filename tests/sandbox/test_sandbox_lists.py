"""The lists that reconciliation walks: filters, cursors in both directions, `has_more`, time bounds."""

from __future__ import annotations

import pytest

START = 1_800_000_000
PAGE = 3


@pytest.fixture
async def shop(start_sandbox, connect, order, buyer):
    """Seven payments, one a minute: each refunded in part, then disputed; returns the v1 services."""
    now = [float(START)]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    for _ in range(7):
        session = await api.checkout.sessions.create_async(order)
        await buyer(session.url)
        session = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
        await api.refunds.create_async({"payment_intent": session.payment_intent.id, "amount": 100})
        sandbox.dispute(session.payment_intent.latest_charge)
        now[0] += 60
    return api


def nouns(api):
    return {
        "sessions": api.checkout.sessions,
        "payment_intents": api.payment_intents,
        "charges": api.charges,
        "refunds": api.refunds,
        "disputes": api.disputes,
        "balance_transactions": api.balance_transactions,
        "events": api.events,
    }


NOUNS = ("sessions", "payment_intents", "charges", "refunds", "disputes", "balance_transactions", "events")


@pytest.mark.parametrize("noun", NOUNS)
async def test_list_is_walked_by_cursor_newest_first_without_gap_or_repeat(shop, noun):
    service = nouns(shop)[noun]
    everything = [row.id async for row in (await service.list_async({"limit": 100})).auto_paging_iter()]
    walked, params = [], {"limit": PAGE}
    while True:
        page = await service.list_async(params)
        walked += [row.id for row in page.data]
        assert page.has_more == (len(walked) < len(everything))
        if not page.has_more:
            break
        params = {"limit": PAGE, "starting_after": walked[-1]}
    assert walked == everything
    assert len(set(walked)) == len(walked) >= 7
    before = await service.list_async({"limit": PAGE, "ending_before": everything[PAGE + 1]})
    assert ([row.id for row in before.data], before.has_more) == (everything[1 : PAGE + 1], True)
    created = [row.created for row in (await service.list_async({"limit": 100})).data]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize("noun", NOUNS)
async def test_list_is_bounded_in_time_at_both_ends(shop, noun):
    service = nouns(shop)[noun]
    bounds = {"created": {"gte": START + 60, "lt": START + 180}, "limit": 100}
    found = {row.created for row in (await service.list_async(bounds)).data}
    assert found == {START + 60, START + 120}
    exact = {row.created for row in (await service.list_async({"created": START + 60, "limit": 100})).data}
    assert exact == {START + 60}


async def test_one_payment_is_found_from_every_side(shop):
    session = (await shop.checkout.sessions.list_async({"limit": 1})).data[0]
    by_intent = {"payment_intent": session.payment_intent}
    for noun in ("sessions", "charges", "refunds", "disputes"):
        assert len((await nouns(shop)[noun].list_async(by_intent)).data) == 1
    charge = (await shop.charges.list_async(by_intent)).data[0]
    assert len((await shop.refunds.list_async({"charge": charge.id})).data) == 1
    assert len((await shop.balance_transactions.list_async({"source": charge.id})).data) == 1
    assert len((await shop.balance_transactions.list_async({"type": "adjustment", "limit": 100})).data) == 7
    assert len((await shop.checkout.sessions.list_async({"status": "complete", "limit": 100})).data) == 7
    types = {"types": ["refund.created", "charge.dispute.funds_withdrawn"], "limit": 100}
    assert len((await shop.events.list_async(types)).data) == 14


async def test_books_add_up(shop):
    rows = (await shop.balance_transactions.list_async({"limit": 100})).data
    assert {kind: sum(row.amount for row in rows if row.reporting_category == kind) for kind in
            ("charge", "refund", "dispute")} == {"charge": 7000, "refund": -700, "dispute": -6300}  # fmt: skip
    assert all(row.net == row.amount - row.fee for row in rows)
