"""Faults on purpose: events that are doubled, lost, late, odd or forged; requests whose outcome nobody hears."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path

import aiohttp
import pytest
import stripe

from credits_plugin.sandbox.actions import ACTIONS
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.faults import ABOUT, KINDS

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


def arrived(receiver, *members):
    """Of each delivery in its order: its type, or the members asked for."""
    bodies = [json.loads(body) for body, _ in receiver.raw]
    return [body["type"] if not members else tuple(body[member] for member in members) for body in bodies]


async def pay(api, sandbox):
    intent = await api.payment_intents.create_async(PAY)
    await sandbox.drain()
    return intent


async def listed(api, **filters):
    return [event.type for event in (await api.events.list_async({"limit": 100, **filters})).data][::-1]


def test_every_fault_and_action_is_explained():
    said = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    assert {fault.value for fault in ABOUT} == set(KINDS)
    assert [name for name in (*KINDS, *ACTIONS) if f"`{name}`" not in said] == []


async def test_duplicate_is_one_event_delivered_twice(api, sandbox, receiver):
    sandbox.add_fault("duplicate", match="charge.succeeded")
    await pay(api, sandbox)
    ids = [event_id for event_id, kind in arrived(receiver, "id", "type") if kind == "charge.succeeded"]
    assert (len(ids), len(set(ids))) == (2, 1)
    assert (await listed(api)).count("charge.succeeded") == 1


async def test_second_event_tells_the_same_under_another_id(api, sandbox, receiver):
    sandbox.add_fault("second_event", match="charge.succeeded")
    await pay(api, sandbox)
    events = [event for event in receiver.events() if event["type"] == "charge.succeeded"]
    assert len({event["id"] for event in events}) == 2
    assert len({event["data"]["object"]["id"] for event in events}) == 1


async def test_dropped_event_is_listed_as_undelivered_and_can_be_sent(api, sandbox, receiver):
    sandbox.add_fault("drop", match="payment_intent.succeeded")
    await pay(api, sandbox)
    assert "payment_intent.succeeded" not in arrived(receiver)
    (lost,) = (await api.events.list_async({"delivery_success": False})).data
    assert lost.type == "payment_intent.succeeded"
    assert await sandbox.deliver(lost.id, lost.id) == [200, 200]
    assert arrived(receiver)[-2:] == ["payment_intent.succeeded"] * 2
    assert await listed(api, delivery_success=False) == []


async def test_event_that_was_never_created_is_nowhere(api, sandbox, receiver):
    sandbox.add_fault("never_created", match="payment_intent.*", times=2)
    intent = await pay(api, sandbox)
    assert intent.status == "succeeded"
    assert not any(name.startswith("payment_intent") for name in [*arrived(receiver), *await listed(api)])


async def test_delayed_event_comes_when_its_time_has_come(start_sandbox, connect, receiver):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0], webhook_url=receiver.url)
    api = connect(sandbox).v1
    sandbox.add_fault("delay", match="charge.succeeded", seconds=3600)
    await pay(api, sandbox)
    assert "charge.succeeded" not in arrived(receiver)
    now[0] += 3600
    await api.events.list_async()
    await sandbox.drain()
    assert arrived(receiver)[-1] == "charge.succeeded"


@pytest.mark.parametrize(
    ("newest_first", "order"),
    [(False, ["charge.succeeded", "charge.updated"]), (True, ["charge.updated", "charge.succeeded"])],
)
async def test_held_events_are_released_in_either_order(api, sandbox, receiver, newest_first, order):
    sandbox.add_fault("hold", match="charge.*", times=2)
    await pay(api, sandbox)
    assert not any(name.startswith("charge") for name in arrived(receiver))
    assert sandbox.release_events(newest_first=newest_first) == 2
    await sandbox.drain()
    assert arrived(receiver)[-2:] == order
    assert sandbox.release_events() == 0


async def test_reordered_events_arrive_last_one_first(api, sandbox, receiver):
    sandbox.add_fault("reorder", size=4)
    await pay(api, sandbox)
    expected = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "charge.updated"]
    assert arrived(receiver) == expected[::-1]
    assert await listed(api) == expected


async def test_reordered_events_survive_a_restart(start_sandbox, connect, receiver, tmp_path):
    settings = {"webhook_url": receiver.url, "data_path": tmp_path / "sandbox.db"}
    first = await start_sandbox(**settings)
    first.add_fault("reorder", match="charge.*", size=3)
    await pay(connect(first).v1, first)
    await first.close()
    second = await start_sandbox(**settings)
    await pay(connect(second).v1, second)
    charges = [event_id for event_id, name in arrived(receiver, "id", "type") if name.startswith("charge")]
    made = [event.id for event in (await connect(second).v1.events.list_async({"type": "charge.*"})).data][::-1]
    assert [event_id for event_id in charges if event_id in made[:3]] == made[:3][::-1]


async def test_older_version_has_the_members_of_its_time(api, sandbox, receiver, order, buyer):
    sandbox.add_fault("older_version", times=100)
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id)
    await api.refunds.create_async({"payment_intent": session.payment_intent, "amount": 400})
    await sandbox.drain()
    events = {event["type"]: event["data"]["object"] for event in receiver.events()}
    assert {version for (version,) in arrived(receiver, "api_version")} == {"2022-08-01"}
    intent, charge = events["payment_intent.succeeded"], events["charge.refunded"]
    assert ("latest_charge" in intent, intent["charges"]["data"][0]["id"]) == (False, charge["id"])
    assert charge["refunds"]["data"][0]["amount"] == 400
    assert events["checkout.session.completed"]["ui_mode"] == "hosted"


async def test_newer_version_and_live_mode_and_forgery_are_told_apart(api, sandbox, receiver):
    sandbox.add_fault("newer_version", match="payment_intent.created")
    sandbox.add_fault("wrong_livemode", match="charge.succeeded")
    sandbox.add_fault("bad_signature", match="payment_intent.succeeded")
    await pay(api, sandbox)
    by_type = {json.loads(body)["type"]: (body, headers["Stripe-Signature"]) for body, headers in receiver.raw}
    newer, live = (json.loads(by_type[name][0]) for name in ("payment_intent.created", "charge.succeeded"))
    assert (newer["api_version"], "later_details" in newer["data"]["object"]) == ("2027-09-30.later", True)
    assert (live["livemode"], live["data"]["object"]["livemode"]) == (True, True)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(*by_type["payment_intent.succeeded"], "whsec_sandbox")
    stripe.Webhook.construct_event(*by_type["charge.updated"], "whsec_sandbox")


async def test_secret_is_rotated_with_both_valid_for_a_while(start_sandbox, connect, receiver):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0], webhook_url=receiver.url, max_delivery_attempts=1)
    api = connect(sandbox).v1
    sandbox.rotate_webhook_secret("whsec_new", keep_old_s=100)

    async def valid(secret: str) -> bool:
        receiver.raw.clear()
        await api.customers.create_async({})
        await sandbox.drain()
        body, headers = receiver.raw[0]
        try:
            stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret, tolerance=10**9)
        except stripe.SignatureVerificationError:
            return False
        return True

    assert (await valid("whsec_sandbox"), await valid("whsec_new")) == (True, True)
    now[0] += 101
    assert (await valid("whsec_sandbox"), await valid("whsec_new")) == (False, True)


async def test_delivery_by_hand_reports_what_the_endpoint_answered(api, sandbox, receiver):
    await api.customers.create_async({})
    await sandbox.drain()
    (event,) = (await api.events.list_async()).data
    receiver.statuses = [503, 0]
    assert await sandbox.deliver(event.id, event.id, event.id) == [503, 0, 200]
    with pytest.raises(StripeError, match="No such event"):
        await sandbox.deliver("evt_nothing")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate_limited", 429, "rate_limit"),
        ("locked", 429, "lock_timeout"),
        ("conflict", 409, "idempotency_key_in_use"),
        ("server_error", 500, None),
    ],
)
async def test_refused_request_has_no_effect_and_uses_up_no_key(api, sandbox, refused, kind, status, code):
    sandbox.add_fault(kind, match="POST /v1/payment_intents")
    attempt = lambda: api.payment_intents.create_async(PAY, {"idempotency_key": "once"})  # noqa: E731
    error = await refused(attempt())
    assert (error.http_status, error.error.code) == (status, code)
    assert (await api.payment_intents.list_async()).data == []
    assert (await attempt()).status == "succeeded"


@pytest.mark.parametrize("kind", ["answer_lost", "answer_stalled", "error_after_effect"])
async def test_request_whose_answer_is_lost_had_its_effect_once(sandbox, connect, http, kind):
    impatient = stripe.StripeClient(
        "sk_test_sandbox",
        base_addresses={"api": sandbox.url},
        http_client=stripe.AIOHTTPClient(session=http, timeout=aiohttp.ClientTimeout(total=0.3)),
    ).v1
    charge = (await impatient.payment_intents.create_async(PAY)).latest_charge
    sandbox.add_fault(kind, match="POST /v1/refunds")
    attempt = lambda: impatient.refunds.create_async({"charge": charge, "amount": 400}, {"idempotency_key": "r"})  # noqa: E731
    with pytest.raises((stripe.StripeError, TimeoutError)):
        await attempt()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # the library drops a connection that stalls without closing it
    again = await attempt()
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert [row.id for row in (await impatient.refunds.list_async({"charge": charge})).data] == [again.id]


@pytest.mark.parametrize("kind", ["hang_up", "timeout"])
async def test_request_that_is_cut_off_before_has_no_effect(sandbox, http, kind):
    impatient = stripe.StripeClient(
        "sk_test_sandbox",
        base_addresses={"api": sandbox.url},
        http_client=stripe.AIOHTTPClient(session=http, timeout=aiohttp.ClientTimeout(total=0.3)),
    ).v1
    sandbox.add_fault(kind, match="POST *")
    with pytest.raises((stripe.StripeError, TimeoutError)):
        await impatient.customers.create_async({}, {"idempotency_key": "c"})
    assert (await impatient.customers.list_async()).data == []
    made = await impatient.customers.create_async({}, {"idempotency_key": "c"})
    assert "Idempotent-Replayed" not in made.last_response.headers


async def test_library_retries_a_lost_answer_with_the_same_key(sandbox, http):
    client = stripe.StripeClient(
        "sk_test_sandbox",
        base_addresses={"api": sandbox.url},
        max_network_retries=2,
        http_client=stripe.AIOHTTPClient(session=http),
    ).v1
    sandbox.add_fault("answer_lost", match="POST /v1/payment_intents", times=2)
    intent = await client.payment_intents.create_async(PAY)
    assert [row.id for row in (await client.payment_intents.list_async()).data] == [intent.id]


async def test_fault_of_a_change_that_is_undone_is_not_used_up(api, sandbox, receiver, refused, order):
    sandbox.add_fault("drop", match="product.created")
    order["line_items"].append({"quantity": 1, "price": "price_nothing"})
    await refused(api.checkout.sessions.create_async(order))
    await api.products.create_async({"name": "x"})
    await sandbox.drain()
    assert "product.created" not in arrived(receiver)


async def test_cleared_faults_do_nothing(api, sandbox, receiver):
    sandbox.add_fault("drop", times=100)
    sandbox.add_fault("server_error", match="*", times=100)
    sandbox.clear_faults()
    await pay(api, sandbox)
    assert len(receiver.raw) == 4
    with pytest.raises(StripeError, match="Invalid kind"):
        sandbox.add_fault("mood")
