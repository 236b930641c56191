"""Events once more: a rehearsal changes nothing, a replay does what is left to do, and the commands show both."""

from __future__ import annotations

import asyncio

import pytest

from credits_plugin.__main__ import main
from credits_plugin.errors import GatewayError, NotFound
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.models import AdminAction, InboxEvent, OutboxMessage, Payment
from credits_plugin.payments.replay import preview_event, replay_event
from credits_plugin.payments.states import InboxStatus, PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
COMPLETED = "checkout.session.completed"


async def failed_event(till, shop_through, make_event):
    """A purchase whose only event could not be handled, because Stripe was away."""
    bought = await till.buy()
    event = make_event("payment_intent.succeeded", await till.get(f"payment_intents/{bought.intent_id}"))
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(GatewayError):
        await till.with_shop(away).deliver(event)
    return bought, event["id"]


async def test_a_preview_says_what_would_change_and_changes_nothing(till, shop_through, make_event, database):
    bought, event_id = await failed_event(till, shop_through, make_event)
    preview = await preview_event(till.shop, event_id)
    assert preview.status is InboxStatus.PROCESSED
    changes = {change.what: (change.before, change.after) for change in preview.changes}
    assert changes == {"balance": ("0", "1,000"), "payment": ("open", "paid")}

    assert await till.amounts() == []
    payment = await till.payment(bought.payment_id)
    assert (payment.status, payment.payment_intent_id) == (PaymentStatus.OPEN, None)
    line = await till.inbox(event_id)
    assert (line.status, line.attempts) == (InboxStatus.FAILED, 1)
    assert OutboxMessage.select().count(database.primary) == 0


async def test_a_replay_does_what_the_preview_said_and_names_who_asked(till, shop_through, make_event, database):
    _, event_id = await failed_event(till, shop_through, make_event)
    receipt = await replay_event(till.shop, event_id, actor="operator:olga")
    assert receipt.status is InboxStatus.PROCESSED
    assert await till.amounts() == [1_000 * MICRO]
    line = await till.inbox(event_id)
    assert (line.status, line.attempts, line.detail) == (InboxStatus.PROCESSED, 2, None)
    [action] = AdminAction.select().dicts().execute(database.primary)
    assert (action["actor"], action["action"], action["subject"]) == ("operator:olga", "replay", f"event {event_id}")


async def test_a_processed_event_may_be_replayed_and_changes_nothing(till, make_event):
    bought = await till.buy()
    event = make_event(COMPLETED, await till.session(bought.session_id))
    await till.deliver(event)
    assert (await preview_event(till.shop, event["id"])).changes == ()
    receipt = await replay_event(till.shop, event["id"], actor="operator:olga")
    assert (receipt.status, receipt.repeated) == (InboxStatus.PROCESSED, False)
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
async def test_a_quarantined_event_is_granted_once_its_cause_is_mended(till, make_event, database):
    bought = await till.buy()
    price = Payment.update(amount_minor=999)
    await till.shop.writer.work([], lambda tx: price.execute(tx.database))
    event = make_event(COMPLETED, await till.session(bought.session_id))
    assert (await till.deliver(event)).status is InboxStatus.QUARANTINED
    assert "price" in (await preview_event(till.shop, event["id"])).detail

    price = Payment.update(amount_minor=1_000)
    await till.shop.writer.work([], lambda tx: price.execute(tx.database))
    assert (await replay_event(till.shop, event["id"], actor="olga")).status is InboxStatus.PROCESSED
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_what_cannot_be_handled_now_says_why(till, shop_through, make_event):
    _, event_id = await failed_event(till, shop_through, make_event)
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    preview = await preview_event(away, event_id)
    assert (preview.status, preview.changes) == (InboxStatus.FAILED, ())
    assert preview.detail.startswith("gateway_error: Stripe could not be reached")


@ON_SQLITE
async def test_a_replay_that_fails_does_not_undo_that_it_was_processed(till, shop_through, make_event):
    bought = await till.buy()
    event = make_event("charge.refunded", await till.get(f"charges/{await charge_of(till, bought)}"))
    await till.complete(bought)
    await till.deliver(event)
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(GatewayError):
        await replay_event(away, event["id"], actor="olga")
    assert (await till.inbox(event["id"])).status is InboxStatus.PROCESSED


async def charge_of(till, bought):
    return (await till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]


@ON_SQLITE
async def test_an_event_that_never_came_is_not_found(till):
    for use in (preview_event(till.shop, "evt_x"), replay_event(till.shop, "evt_x", actor="olga")):
        with pytest.raises(NotFound, match="no event"):
            await use


@ON_SQLITE
async def test_the_commands_list_show_rehearse_and_apply(
    till, shop_through, make_event, database_url, monkeypatch, capsys
):
    _, event_id = await failed_event(till, shop_through, make_event)
    for name, value in {
        "DATABASE_URL": database_url,
        "STRIPE_SECRET_KEY": "sk_test_sandbox",
        "STRIPE_WEBHOOK_SECRET": "whsec_x",
        "CREDITS_STRIPE_API_BASE": till.shop.settings.stripe_api_base,
    }.items():
        monkeypatch.setenv(name, value)

    async def credits(*arguments):
        code = await asyncio.to_thread(main, ["events", *arguments])
        return code, capsys.readouterr().out

    code, listed = await credits("list", "--status", "failed")
    assert (code, event_id in listed, "could not be reached" in listed) == (0, True, True)
    assert await credits("list", "--status", "quarantined") == (0, "")
    code, shown = await credits("show", event_id)
    assert "failed after 1 attempts" in shown
    assert '"type": "payment_intent.succeeded"' in shown

    code, rehearsed = await credits("replay", event_id)
    assert code == 0
    assert "balance: 0 -> 1,000" in rehearsed
    assert await till.amounts() == []

    code, applied = await credits("replay", event_id, "--apply")
    assert (code, "done: processed" in applied) == (0, True)
    assert await till.amounts() == [1_000 * MICRO]
    assert await asyncio.to_thread(main, ["events", "show", "evt_x"]) == 2


@ON_SQLITE
async def test_older_and_newer_shapes_are_understood_or_quarantined_and_stay_replayable(till, make_event, database):
    bought = await till.buy()
    session = await till.session(bought.session_id)
    older = {key: value for key, value in session.items() if key not in {"amount_subtotal", "total_details"}}
    newer = session | {"payment_status": {"state": "paid"}}
    for shape, version, status in (
        (newer, "2031-01-01.future", InboxStatus.QUARANTINED),
        (older, "2019-12-03", InboxStatus.PROCESSED),
    ):
        event = make_event(COMPLETED, shape, api_version=version)
        assert (await till.deliver(event)).status is status
        assert (await till.inbox(event["id"])).api_version == version
        assert (await preview_event(till.shop, event["id"])).status is status
    assert await till.amounts() == [1_000 * MICRO]
    assert InboxEvent.select().count(database.primary) == 2
