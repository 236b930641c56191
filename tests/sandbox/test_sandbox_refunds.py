"""Refunds that wait, fail, are canceled, and come from the dashboard."""

from __future__ import annotations

import pytest

from credits_plugin.sandbox.errors import StripeError

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


@pytest.fixture
async def charge(api):
    return (await api.payment_intents.create_async(PAY)).latest_charge


async def refunded_of(api, charge):
    found = await api.charges.retrieve_async(charge)
    return found.amount_refunded, found.refunded


async def refund_events(api):
    listed = await api.events.list_async({"types": ["refund.created", "refund.updated", "refund.failed"]})
    return [(event.type, event.data.object["status"]) for event in listed.data][::-1]


async def test_pending_refund_counts_at_once_and_succeeds_later(api, sandbox, charge):
    sandbox.start_refunds_as("pending")
    refund = await api.refunds.create_async({"charge": charge, "amount": 400})
    assert (refund.status, refund.pending_reason) == ("pending", "processing")
    assert await refunded_of(api, charge) == (400, False)
    sandbox.succeed_refund(refund.id)
    assert (await api.refunds.retrieve_async(refund.id)).to_dict().get("pending_reason") is None
    assert await refund_events(api) == [("refund.created", "pending"), ("refund.updated", "succeeded")]
    with pytest.raises(StripeError, match="only a waiting refund"):
        sandbox.succeed_refund(refund.id)


@pytest.mark.parametrize("start", ["pending", "succeeded", "requires_action"])
async def test_refund_fails_from_every_status_and_the_charge_is_whole_again(api, sandbox, charge, start):
    kept = await api.refunds.create_async({"charge": charge, "amount": 100})
    sandbox.start_refunds_as(start)
    refund = await api.refunds.create_async({"charge": charge})
    assert await refunded_of(api, charge) == (1000, True)
    failed = sandbox.fail_refund(refund.id, reason="declined")
    assert (failed["status"], failed["failure_reason"]) == ("failed", "declined")
    assert await refunded_of(api, charge) == (100, False)
    assert (await refund_events(api))[1:] == [
        ("refund.created", start), ("refund.failed", "failed"), ("refund.updated", "failed"),
    ]  # fmt: skip
    assert kept.status == "succeeded"
    booked = await api.balance_transactions.list_async({"source": refund.id})
    assert [(row.type, row.amount) for row in booked.data] == [("refund_failure", 900), ("refund", -900)]
    with pytest.raises(StripeError, match="is failed already"):
        sandbox.fail_refund(refund.id)


async def test_refund_that_waits_for_the_customer_is_canceled(api, sandbox, charge, refused):
    succeeded = await api.refunds.create_async({"charge": charge, "amount": 100})
    error = await refused(api.refunds.cancel_async(succeeded.id))
    assert (error.http_status, "requires_action" in error.user_message) == (400, True)
    sandbox.start_refunds_as("requires_action")
    refund = await api.refunds.create_async({"charge": charge, "amount": 400})
    assert (refund.status, refund.next_action.type) == ("requires_action", "display_details")
    assert (await api.refunds.cancel_async(refund.id)).status == "canceled"
    assert await refunded_of(api, charge) == (100, False)
    late = await api.refunds.create_async({"charge": charge, "amount": 500})
    assert (await api.test_helpers.refunds.expire_async(late.id)).status == "failed"
    assert await refunded_of(api, charge) == (100, False)


async def test_card_7726_is_refunded_later(start_sandbox, connect):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    intent = await api.payment_intents.create_async(PAY | {"payment_method": "pm_card_pendingRefund"})
    refund = await api.refunds.create_async({"payment_intent": intent.id})
    assert refund.status == "pending"
    now[0] += 6
    assert (await api.refunds.retrieve_async(refund.id)).status == "succeeded"


async def test_refund_that_was_failed_by_hand_does_not_fail_again_by_the_clock(start_sandbox, connect):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    intent = await api.payment_intents.create_async(PAY | {"payment_method": "pm_card_refundFail"})
    refund = await api.refunds.create_async({"payment_intent": intent.id})
    sandbox.fail_refund(refund.id)
    now[0] += 6
    assert await refunded_of(api, intent.latest_charge) == (0, False)
    assert len((await api.events.list_async({"type": "refund.failed"})).data) == 1


async def test_refund_at_the_dashboard_names_no_request(api, sandbox, charge):
    refund = sandbox.refund(charge, amount=400, reason="requested_by_customer")
    event = (await api.events.list_async({"type": "refund.created"})).data[0]
    assert (event.data.object["id"], event.request.id) == (refund["id"], None)
    with pytest.raises(StripeError, match="greater than unrefunded"):
        sandbox.refund(charge, amount=601)
    assert await refunded_of(api, charge) == (400, False)
