"""Every story of one-time money, with a host that is killed at every statement and every call to Stripe.

Whoever waits for an answer asks again, as Stripe, buyers and operators do: one charge, one grant, the same books.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from lives import live

from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.models import Dispute, InboxEvent, Lot, OutboxMessage, Payment, Refund, Transfer
from credits_plugin.payments import checkout, inbox
from credits_plugin.payments.pull import pull_events
from credits_plugin.payments.reconcile import reconcile
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.shop import Shop

MICRO = 1_000_000
MOST_DEATHS = 2_000


@dataclass(frozen=True, slots=True)
class World:
    """What outlives every host: the database, Stripe, and those who ask again."""

    till: Any
    sandbox: Any
    database: Database
    database_url: str
    sign: Callable[..., str]

    async def survive(self, account: str, act: Callable[[Shop], Awaitable[Any]]) -> int:
        """Kill a host at its first step, the next one at its second, …; from the first again whenever one left a trace.

        So each state that a death leaves meets a death at each further step. Returns how many died.
        """
        deaths, step, left = 0, 1, self.books(account)
        while await live(self.database_url, self.till.shop, act, dies_at=step):
            deaths += 1
            assert deaths < MOST_DEATHS
            now = self.books(account)
            step, left = (step + 1, left) if now == left else (1, now)
        return deaths

    def books(self, account: str) -> dict[str, Any]:
        """Everything that our books say of an account, but for ids and times."""
        key = account_key(account)

        def rows(model: Any, *columns: Any) -> list[Any]:
            query = model.select(*columns).where(model.account_id == key)
            return sorted(query.tuples().execute(self.database.primary), key=repr)

        sums = (Payment.refunded_minor, Payment.clawed_back, Payment.disputed_minor, Payment.paid_minor)
        known = (Payment.grant_transfer_id.is_null(), Payment.payment_intent_id.is_null(), Payment.charge_id.is_null())
        transfers = Transfer.select(Transfer.code, Transfer.amount, Transfer.balance_after).order_by(Transfer.seq)
        return {
            "payments": rows(Payment, Payment.status, Payment.detail, Payment.receipt_url.is_null(), *sums, *known),
            "transfers": list(transfers.where(Transfer.account_id == key).tuples().execute(self.database.primary)),
            "lots": rows(Lot, Lot.amount, Lot.remaining),
            "refunds": rows(Refund, Refund.status, Refund.amount_minor, Refund.stripe_refund_id.is_null()),
            "disputes": rows(Dispute, Dispute.status, Dispute.withdrawals, Dispute.reinstatements, Dispute.frozen),
            "inbox": rows(InboxEvent, InboxEvent.type, InboxEvent.status),
            "outbox": rows(OutboxMessage, OutboxMessage.kind),
        }

    async def charges(self) -> list[tuple[int, int, bool]]:
        """All that Stripe ever took: amount, refunded, disputed."""
        listed = (await self.till.get("charges?limit=100"))["data"]
        return [(one["amount"], one["amount_refunded"], one["disputed"]) for one in listed]

    def deliver(self, *events: dict[str, Any]) -> Callable[[Shop], Awaitable[None]]:
        """Deliver as Stripe does: each until it is answered with 200."""

        async def act(shop: Shop) -> None:
            for event in events:
                raw = json.dumps(event).encode()
                await inbox.receive(shop, raw, self.sign(raw))

        return act

    async def events_of(self, bought: Any, *types: str) -> list[dict[str, Any]]:
        """Stripe's own events about a purchase, in this order of types, those of one type oldest first."""
        listed = (await self.till.get("events?limit=100"))["data"]
        ours = (bought.intent_id, bought.session_id)
        told = [one for one in reversed(listed) if one["type"] in types and any(i in json.dumps(one) for i in ours)]
        assert {one["type"] for one in told} == set(types)
        return sorted(told, key=lambda one: types.index(one["type"]))


@pytest.fixture
def world(till, sandbox, database, database_url, signed, caplog) -> World:
    caplog.set_level(logging.CRITICAL)  # each death is logged
    return World(till, sandbox, database, database_url, signed)


async def same_books(world: World, story: Callable[[str], Awaitable[Callable[[Shop], Awaitable[Any]]]]) -> int:
    """Play a story undisturbed for one buyer and through all deaths for another; both end the same. Returns the deaths.

    ``story`` sets the scene for an account and returns what the mortal host does.
    """
    assert await live(world.database_url, world.till.shop, await story("calm"), dies_at=None) == 0
    deaths = await world.survive("torn", await story("torn"))
    assert world.books("torn") == world.books("calm")
    first, second = await world.charges()
    assert first == second
    assert audit(world.database).findings == []
    return deaths


async def test_a_webhook(world):
    async def story(account):
        bought = await world.till.buy(account)
        types = ("checkout.session.completed", "payment_intent.succeeded", "charge.succeeded")
        return world.deliver(*await world.events_of(bought, *types))

    assert await same_books(world, story) > 30
    assert await world.till.amounts("torn") == [1_000 * MICRO]


async def test_a_webhook_that_asks_stripe(world):
    async def story(account):
        bought = await world.till.buy(account)
        return world.deliver(*await world.events_of(bought, "payment_intent.succeeded"))

    assert await same_books(world, story) > 20
    assert await world.till.amounts("torn") == [1_000 * MICRO]


async def test_money_that_arrives_late(world):
    async def story(account):
        purchase = await world.till.order(account)
        form = {"method": "bank", "account": "000999999990", "name": "Eve", "email": "eve@example.com"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(purchase.payment_url, data=form, allow_redirects=False) as answer,
        ):
            assert answer.status == 303
        world.sandbox.complete_delayed_payment(purchase.session_id)
        intent = (await world.till.session(purchase.session_id))["payment_intent"]
        bought = SimpleNamespace(intent_id=intent, session_id=purchase.session_id)
        types = ("checkout.session.completed", "checkout.session.async_payment_succeeded")
        return world.deliver(*await world.events_of(bought, *types))

    assert await same_books(world, story) > 20
    assert await world.till.amounts("torn") == [1_000 * MICRO]


async def test_a_pull_of_what_was_never_delivered(world):
    world.sandbox.add_fault("drop", times=1_000)
    await world.till.buy("torn")
    step = 0

    async def act(shop):
        await pull_events(shop, at_ms=now_ms())

    while await live(world.database_url, world.till.shop, act, dies_at=(step := step + 1)):
        assert step < MOST_DEATHS
    assert step > 15
    assert await world.till.amounts("torn") == [1_000 * MICRO]
    assert len(await world.charges()) == 1
    assert audit(world.database).findings == []


async def test_a_landing_page(world):
    async def story(account):
        bought = await world.till.buy(account)

        async def act(shop):
            view = await checkout.find_session(shop, account_id=account, session_id=bought.session_id)
            assert view.payment_status == "paid"

        return act

    assert await same_books(world, story) > 15
    assert await world.till.amounts("torn") == [1_000 * MICRO]


async def test_an_order_that_is_asked_for_until_there_is_a_page(world):
    """Each attempt is an order of its own, as a person's second click is; one is paid, once."""
    till, made, step = world.till, [], 0

    async def act(shop):
        made.append(await checkout.start_purchase(shop, account_id="torn", package_id=1))

    while await live(world.database_url, till.shop, act, dies_at=(step := step + 1)):
        assert step < MOST_DEATHS
    [purchase] = made
    assert step > 5
    assert await till.pay(purchase) == 303
    sessions = (await till.get("checkout/sessions?limit=100"))["data"]
    for session in sessions:
        event = {"id": f"evt_{session['id']}", "object": "event", "type": "checkout.session.completed"}
        event |= {"livemode": False, "created": session["created"], "data": {"object": session}}
        await till.deliver(event)
    assert await till.amounts("torn") == [1_000 * MICRO]
    assert len(await world.charges()) == 1
    assert audit(world.database).findings == []


async def test_a_refund_from_here(world):
    async def story(account):
        bought = await world.till.buy(account)
        await world.till.complete(bought)

        async def act(shop):
            await refund_payment(
                shop,
                payment_id=bought.payment_id,
                amount_minor=400,
                reason="requested_by_customer",
                note="",
                actor="operator:olga",
                idempotency_key=f"refund-{account}",
            )

        return act

    assert await same_books(world, story) > 30
    assert await world.till.amounts("torn") == [1_000 * MICRO, -400 * MICRO]
    assert sorted(await world.charges()) == [(1_000, 400, False)] * 2


async def test_a_dispute_that_is_lost_beside_a_refund(world):
    async def story(account):
        bought = await world.till.buy(account)
        charge = (await world.till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]
        world.sandbox.refund(charge, amount=300)
        dispute = world.sandbox.dispute(charge, amount=700)
        world.sandbox.close_dispute(dispute["id"], won=False)
        types = (
            "checkout.session.completed",
            "refund.created",
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
        )
        return world.deliver(*await world.events_of(bought, *types))

    assert await same_books(world, story) > 80
    assert await world.till.balance("torn") == 0


async def test_a_reconciliation_of_what_no_event_told(world):
    world.sandbox.add_fault("never_created", times=1_000)

    async def story(account):
        bought = await world.till.buy(account)
        charge = (await world.till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]
        world.sandbox.refund(charge, amount=300)
        world.sandbox.dispute(charge, amount=700)

        async def act(shop):
            report = await reconcile(shop, at_ms=now_ms(), apply=True)
            assert report.left == []

        return act

    assert await same_books(world, story) > 80
    assert await world.till.balance("torn") == 0
