"""Events pulled from Stripe's own list: all of them, once, also after an interruption, and through the same inbox."""

from __future__ import annotations

import pytest

from credits_plugin.errors import GatewayError
from credits_plugin.gateways import stripe_api
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.ids import now_ms
from credits_plugin.models import StripeCursor
from credits_plugin.payments import queries
from credits_plugin.payments.pull import DAYS_KEPT, Pulled, pull_events
from credits_plugin.payments.states import InboxStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""


async def pull(till, shop=None, **at):
    return await pull_events(shop or till.shop, at_ms=at.get("at_ms", now_ms()))


async def test_a_host_without_a_webhook_learns_everything_from_the_list(till):
    bought = await till.buy()
    await till.refund(bought, 400)
    assert await till.amounts() == []

    first = await pull(till)

    assert sorted(await till.amounts()) == [-400 * MICRO, 1_000 * MICRO]
    assert (first.failed, first.repeated) == (0, 0)
    assert first.handled >= 3
    lines = await till.shop.reads.run(queries.inbox_page)
    assert {line.status for line in lines} == {InboxStatus.PROCESSED}


async def test_the_next_pull_brings_what_is_new_and_knows_the_rest(till):
    await till.buy()
    first = await pull(till)
    assert (await pull(till)) == Pulled(repeated=first.handled)
    await till.buy()
    second = await pull(till)
    assert (second.handled, second.repeated) == (first.handled, first.handled)
    assert await till.amounts() == [1_000 * MICRO] * 2


async def test_a_webhook_and_a_pull_of_the_same_events_grant_once(till, make_event):
    bought = await till.buy()
    await till.complete(bought)
    await pull(till)
    assert await till.amounts() == [1_000 * MICRO]


class BreaksOff(StripeGateway):
    """The real gateway, whose second page cannot be read."""

    async def events_page(self, *, before_id=None, **query):
        if before_id is not None:
            raise GatewayError("Stripe could not be reached", retryable=True)
        return await super().events_page(before_id=before_id, **query)


async def test_an_interrupted_pull_goes_on_where_it_stood(till, shop_through, monkeypatch, database):
    monkeypatch.setattr(stripe_api, "_PAGE", 2)
    for _ in range(3):
        await till.buy()
    with pytest.raises(GatewayError):
        await pull(till, shop_through(BreaksOff))
    [cursor] = StripeCursor.select().dicts().execute(database.primary)
    assert '"before_id": "evt_' in cursor["position"]
    handled = len(await till.shop.reads.run(queries.inbox_page))
    assert handled == 2

    rest = await pull(till)

    assert rest.repeated == 0
    assert await till.amounts() == [1_000 * MICRO] * 3
    [cursor] = StripeCursor.select().dicts().execute(database.primary)
    assert '"before_id": null' in cursor["position"]
    assert (await pull(till)).handled == 0


@ON_SQLITE
async def test_an_event_that_stripe_has_forgotten_does_not_stop_the_pass(till, database):
    await till.buy()
    position = f'{{"from_ms": {now_ms() - 86_400_000}, "before_id": "evt_long_gone"}}'
    row = {"name": "events", "position": position, "updated_at_ms": 1}
    await till.shop.writer.work([], lambda tx: StripeCursor.insert(row).execute(tx.database) and None)
    assert (await pull(till)).handled > 0
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_what_failed_is_tried_again_by_the_next_pull(till, shop_through, make_event):
    bought = await till.buy()
    event = make_event("payment_intent.succeeded", await till.get(f"payment_intents/{bought.intent_id}"))
    with pytest.raises(GatewayError):
        await till.with_shop(shop_through(StripeGateway, api_base="http://127.0.0.1:9")).deliver(event)
    later = now_ms() + (DAYS_KEPT + 1) * 86_400_000  # the list itself is empty by then
    assert await pull(till, at_ms=later) == Pulled(recovered=1)
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_one_event_that_cannot_be_handled_does_not_hold_up_the_others(till, shop_through):
    bought = await till.buy()
    await till.refund(bought, 400)

    class NoLists(StripeGateway):
        async def refunds_of_intent(self, payment_intent_id):
            raise GatewayError("Stripe could not be reached", retryable=True)

    pulled = await pull(till, shop_through(NoLists))
    assert (pulled.failed, pulled.recovered) == (1, 0)  # charge.refunded needs the list, refund.created does not
    assert sorted(await till.amounts()) == [-400 * MICRO, 1_000 * MICRO]
    await pull(till)
    failed = await till.shop.reads.run(lambda db: queries.inbox_page(db, status=InboxStatus.FAILED))
    assert failed == []
