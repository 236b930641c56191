"""Signed deliveries: headers, signatures, retries, what is pending, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import stripe

from credits_plugin.sandbox import SandboxSettings, WebhookEndpoint


async def test_every_event_of_a_payment_is_delivered_once_and_verifies(api, order, buyer, sandbox, receiver, checker):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    await sandbox.drain()
    delivered = receiver.events()
    listed = (await api.events.list_async({"limit": 100})).data
    assert sorted(event["id"] for event in delivered) == sorted(event.id for event in listed)
    assert "checkout.session.completed" in [event["type"] for event in delivered]
    for event in delivered:
        assert checker.problems_of_object(event) + checker.problems_of_object(event["data"]["object"]) == []


async def test_delivery_carries_stripes_headers(api, sandbox, receiver):
    await api.customers.create_async({"email": "a@example.com"})
    await sandbox.drain()
    _, headers = receiver.raw[0]
    assert headers["User-Agent"] == "Stripe/1.0 (+https://stripe.com/docs/webhooks)"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["Stripe-Signature"].startswith(f"t={int(time.time())}"[:8])


async def test_event_names_the_request_that_caused_it(api, sandbox, receiver):
    await api.customers.create_async({"email": "a@example.com"}, {"idempotency_key": "key-1"})
    await sandbox.drain()
    request = receiver.events()[0]["request"]
    assert request["idempotency_key"] == "key-1"
    assert request["id"].startswith("req_")


async def test_signature_covers_the_raw_bytes(api, sandbox, receiver):
    await api.customers.create_async({"name": "Zoë"})
    await sandbox.drain()
    body, headers = receiver.raw[0]
    tampered = body.replace(b"cus_", b"cus-", 1)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(tampered, headers["Stripe-Signature"], "whsec_sandbox")
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, headers["Stripe-Signature"], "whsec_other")


async def test_failed_delivery_is_retried_until_it_arrives(api, sandbox, receiver):
    receiver.statuses = [500, 0, 302, 404]
    customer = await api.customers.create_async({})
    await sandbox.drain()
    assert [event["data"]["object"]["id"] for event in receiver.events()] == [customer.id] * 5
    assert len({event["id"] for event in receiver.events()}) == 1


async def test_pause_between_attempts_doubles(start_sandbox, connect, receiver):
    sandbox = await start_sandbox(webhook_url=receiver.url, retry_base_s=0.05)
    receiver.statuses = [500, 500, 500]
    started = time.monotonic()
    await connect(sandbox).v1.customers.create_async({})
    await sandbox.drain()
    assert time.monotonic() - started >= 0.05 + 0.1 + 0.2
    assert len(receiver.raw) == 4


async def test_delivery_is_given_up_after_the_last_attempt_and_can_be_sent_again(start_sandbox, connect, receiver):
    sandbox = await start_sandbox(webhook_url=receiver.url, max_delivery_attempts=3)
    receiver.statuses = [500] * 4
    api = connect(sandbox).v1
    await api.customers.create_async({})
    await sandbox.drain()
    assert len(receiver.raw) == 3
    undelivered = await api.events.list_async({"delivery_success": False})
    assert [event.pending_webhooks for event in undelivered.data] == [1]
    assert await sandbox.deliver_pending() == 1
    assert await sandbox.deliver_pending() == 0
    assert (await api.events.list_async({"delivery_success": False})).data == []
    assert [event.pending_webhooks for event in (await api.events.list_async({"delivery_success": True})).data] == [0]


async def test_cursor_keeps_its_place_when_its_event_is_delivered_meanwhile(start_sandbox, connect, receiver):
    sandbox = await start_sandbox(webhook_url=receiver.url, max_delivery_attempts=1)
    receiver.statuses = [500] * 3
    api = connect(sandbox).v1
    for _ in range(3):
        await api.customers.create_async({})
    await sandbox.drain()
    everything = [event.id for event in (await api.events.list_async()).data]
    first = await api.events.list_async({"delivery_success": False, "limit": 1})
    receiver.refused = set(everything[1:])
    assert await sandbox.deliver_pending() == 2
    rest = await api.events.list_async({"delivery_success": False, "starting_after": first.data[0].id})
    assert [event.id for event in rest.data] == everything[1:]


async def test_api_answers_while_the_endpoint_hangs(start_sandbox, connect, receiver):
    sandbox = await start_sandbox(webhook_url=receiver.url)
    receiver.delay_s = 0.5
    started = time.monotonic()
    for _ in range(3):
        await connect(sandbox).v1.customers.create_async({})
    assert time.monotonic() - started < 0.45
    await sandbox.drain()
    assert len(receiver.raw) == 3


async def test_deliveries_run_side_by_side_but_not_all_at_once(start_sandbox, connect, receiver):
    sandbox = await start_sandbox(webhook_url=receiver.url)
    receiver.delay_s = 0.05
    await asyncio.gather(*(connect(sandbox).v1.customers.create_async({}) for _ in range(20)))
    await sandbox.drain()
    assert len(receiver.raw) == 20
    assert 1 < receiver.most_under_way <= 8


async def test_two_endpoints_get_each_event_with_their_own_secrets(start_sandbox, connect, receiver):
    second = WebhookEndpoint(receiver.url, "whsec_second")
    sandbox = await start_sandbox(webhook_url=receiver.url, more_webhooks=(second,))
    await connect(sandbox).v1.customers.create_async({})
    await sandbox.drain()
    verified = []
    for body, headers in receiver.raw:
        for secret in ("whsec_sandbox", "whsec_second"):
            try:
                stripe.Webhook.construct_event(body, headers["Stripe-Signature"], secret)
                verified.append(secret)
            except stripe.SignatureVerificationError:
                continue
    assert sorted(verified) == ["whsec_sandbox", "whsec_second"]
    assert json.loads(receiver.raw[0][0])["pending_webhooks"] == 2


async def test_endpoint_can_be_set_while_the_sandbox_runs(start_sandbox, connect, receiver):
    sandbox = await start_sandbox()
    api = connect(sandbox).v1
    await api.customers.create_async({})
    sandbox.set_webhook(receiver.url, "whsec_late")
    await api.customers.create_async({})
    await sandbox.drain()
    assert [event["type"] for event in receiver.events("whsec_late")] == ["customer.created"]
    assert [event.pending_webhooks for event in (await api.events.list_async()).data] == [0, 0]


async def test_undelivered_event_is_delivered_after_a_restart(start_sandbox, connect, receiver, tmp_path):
    settings = {"webhook_url": receiver.url, "data_path": tmp_path / "sandbox.db"}
    first = await start_sandbox(**settings, retry_base_s=60)
    receiver.statuses = [503]
    await connect(first).v1.customers.create_async({})
    while not receiver.raw:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(first.close(), 5)
    second = await start_sandbox(**settings)
    await second.drain()
    assert len({event["id"] for event in receiver.events()}) == 1
    assert len(receiver.raw) == 2


async def test_endpoint_that_is_no_address_does_not_break_anything(start_sandbox, connect):
    sandbox = await start_sandbox(webhook_url="nowhere", max_delivery_attempts=2)
    await connect(sandbox).v1.customers.create_async({})
    await sandbox.drain()
    assert SandboxSettings().endpoints() == ()
