"""Payment intents, charges, refunds, customers and the catalogue, as the official library sees them."""

from __future__ import annotations

import asyncio

import pytest
import stripe

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}


async def types_of(api):
    return [event.type for event in (await api.events.list_async({"limit": 100})).data][::-1]


async def test_confirmed_intent_succeeds_and_books_the_money(api):
    intent = await api.payment_intents.create_async(PAY | {"expand": ["latest_charge.balance_transaction"]})
    assert (intent.status, intent.amount_received) == ("succeeded", 1000)
    assert intent.latest_charge.balance_transaction.net == 941
    assert await types_of(api) == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "charge.updated",
    ]


async def test_declined_card_is_a_card_error_with_the_intent_inside(api, refused):
    error = await refused(api.payment_intents.create_async(PAY | {"payment_method": "pm_card_chargeDeclined"}))
    assert isinstance(error, stripe.CardError)
    assert (error.http_status, error.code, error.error.decline_code) == (402, "card_declined", "generic_decline")
    intent = await api.payment_intents.retrieve_async(error.error.payment_intent.id)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", "card_declined")
    assert await types_of(api) == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]


async def test_card_0341_attaches_and_then_fails_to_charge(api, refused):
    customer = await api.customers.create_async({})
    method = await api.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer.id})
    params = PAY | {"customer": customer.id, "payment_method": method.id, "off_session": True}
    error = await refused(api.payment_intents.create_async(params))
    assert error.code == "card_declined"
    listed = await api.customers.payment_methods.list_async(customer.id)
    assert [row.id for row in listed.data] == [method.id]


async def test_intent_is_confirmed_later_and_only_once(api, refused):
    intent = await api.payment_intents.create_async({"amount": 1000, "currency": "usd"})
    assert intent.status == "requires_payment_method"
    paid = await api.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})
    assert paid.status == "succeeded"
    error = await refused(api.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"}))
    assert (error.http_status, error.code) == (400, "payment_intent_unexpected_state")


async def test_partial_capture_receives_the_captured_part_only(api):
    intent = await api.payment_intents.create_async(PAY | {"capture_method": "manual"})
    assert (intent.status, intent.amount_capturable, intent.amount_received) == ("requires_capture", 1000, 0)
    captured = await api.payment_intents.capture_async(intent.id, {"amount_to_capture": 600})
    assert (captured.status, captured.amount_received) == ("succeeded", 600)
    charge = await api.charges.retrieve_async(captured.latest_charge)
    assert (charge.amount, charge.amount_captured) == (1000, 600)


async def test_open_intent_can_be_canceled_and_a_paid_one_cannot(api, refused):
    open_intent = await api.payment_intents.create_async({"amount": 1000, "currency": "usd"})
    canceled = await api.payment_intents.cancel_async(open_intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.cancellation_reason) == ("canceled", "abandoned")
    assert (await types_of(api))[-1] == "payment_intent.canceled"
    paid = await api.payment_intents.create_async(PAY)
    error = await refused(api.payment_intents.cancel_async(paid.id))
    assert error.code == "payment_intent_unexpected_state"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 0}, "parameter_invalid_integer"),
        ({"amount": 49}, "amount_too_small"),
        ({"amount": 10**9}, "amount_too_large"),
        ({"amount": 49, "currency": "jpy"}, "amount_too_small"),
        ({"amount": "ten"}, "parameter_invalid_integer"),
        ({"payment_method": "pm_nothing"}, "resource_missing"),
    ],
)
async def test_intent_that_stripe_would_refuse_is_refused(api, refused, change, code):
    error = await refused(api.payment_intents.create_async(PAY | change))
    assert (error.http_status, error.code) == (400, code)
    assert (await api.payment_intents.list_async()).data == []


async def test_partial_refunds_add_up_and_never_exceed_the_charge(api, refused):
    intent = await api.payment_intents.create_async(PAY)
    first = await api.refunds.create_async(
        {"payment_intent": intent.id, "amount": 400, "reason": "requested_by_customer"}
    )
    assert (first.status, first.amount, first.charge) == ("succeeded", 400, intent.latest_charge)
    error = await refused(api.refunds.create_async({"charge": intent.latest_charge, "amount": 601}))
    assert error.http_status == 400
    assert error.user_message == "Refund amount ($6.01) is greater than unrefunded amount on charge ($6.00)"
    rest = await api.refunds.create_async({"charge": intent.latest_charge})
    assert rest.amount == 600
    charge = await api.charges.retrieve_async(intent.latest_charge)
    assert (charge.amount_refunded, charge.refunded) == (1000, True)
    error = await refused(api.refunds.create_async({"charge": intent.latest_charge}))
    assert error.code == "charge_already_refunded"
    listed = await api.refunds.list_async({"payment_intent": intent.id})
    assert [row.id for row in listed.data] == [rest.id, first.id]


async def test_refund_events_carry_the_refund_and_the_cumulative_charge(api):
    intent = await api.payment_intents.create_async(PAY)
    await api.refunds.create_async({"payment_intent": intent.id, "amount": 400})
    await api.refunds.create_async({"payment_intent": intent.id, "amount": 100})
    events = (await api.events.list_async({"types": ["refund.created", "charge.refunded"]})).data[::-1]
    assert [event.type for event in events] == ["refund.created", "charge.refunded"] * 2
    assert [event.data.object["amount"] for event in events[::2]] == [400, 100]
    assert [event.data.object["amount_refunded"] for event in events[1::2]] == [400, 500]
    assert events[3].data.previous_attributes.to_dict() == {"amount_refunded": 400}


async def test_concurrent_refunds_of_one_charge_never_exceed_it(api):
    intent = await api.payment_intents.create_async(PAY)
    attempts = [api.refunds.create_async({"payment_intent": intent.id, "amount": 300}) for _ in range(5)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(not isinstance(result, stripe.StripeError) for result in results) == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "Missing required param: charge."),
        ({"charge": "ch_nothing"}, "No such charge: 'ch_nothing'"),
        ({"payment_intent": "pi_nothing"}, "No such payment_intent: 'pi_nothing'"),
        ({"charge": "ch_x", "amount": 0}, "This value must be greater than or equal to 1."),
        (
            {"charge": "ch_x", "reason": "mood"},
            "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer",
        ),
    ],
)
async def test_wrong_refund_is_refused(api, refused, params, message):
    error = await refused(api.refunds.create_async(params))
    assert (error.http_status, error.user_message) == (400, message)


async def test_unpaid_intent_cannot_be_refunded(api, refused):
    intent = await api.payment_intents.create_async({"amount": 1000, "currency": "usd"})
    error = await refused(api.refunds.create_async({"payment_intent": intent.id}))
    assert "does not have a successful charge to refund" in error.user_message


async def test_refund_to_card_5126_fails_later_and_the_money_returns(start_sandbox, connect):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    intent = await api.payment_intents.create_async(PAY | {"payment_method": "pm_card_refundFail"})
    refund = await api.refunds.create_async({"payment_intent": intent.id, "amount": 400})
    assert refund.status == "succeeded"
    now[0] += 6
    failed = await api.refunds.retrieve_async(refund.id, {"expand": ["charge"]})
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert (failed.charge.amount_refunded, failed.charge.refunded) == (0, False)
    seen = await types_of(api)
    assert [name for name in seen if name.startswith("refund.")] == [
        "refund.created",
        "refund.failed",
        "refund.updated",
    ]


async def test_refund_that_fails_later_does_so_without_any_request(start_sandbox, connect, receiver, monkeypatch):
    monkeypatch.setattr("credits_plugin.sandbox.resources.refund_life.FAILS_AFTER_S", 0)
    sandbox = await start_sandbox(webhook_url=receiver.url)
    api = connect(sandbox).v1
    intent = await api.payment_intents.create_async(PAY | {"payment_method": "pm_card_refundFail"})
    await api.refunds.create_async({"payment_intent": intent.id})
    for _ in range(200):
        if "refund.failed" in [event["type"] for event in receiver.events()]:
            break
        await asyncio.sleep(0.01)
    assert "refund.failed" in [event["type"] for event in receiver.events()]


async def test_changed_refund_tells_what_it_was(api):
    intent = await api.payment_intents.create_async(PAY)
    refund = await api.refunds.create_async({"payment_intent": intent.id, "metadata": {"a": "1"}})
    await api.refunds.update_async(refund.id, {"metadata": {"b": "2"}})
    event = (await api.events.list_async({"type": "refund.updated"})).data[0]
    assert event.data.object["metadata"].to_dict() == {"a": "1", "b": "2"}
    assert event.data.previous_attributes["metadata"].to_dict() == {"a": "1"}


async def test_customer_is_made_changed_and_deleted(api, refused):
    customer = await api.customers.create_async({"email": "a@example.com", "metadata": {"user": "1", "old": "x"}})
    changed = await api.customers.update_async(customer.id, {"name": "Ada", "metadata": {"old": ""}})
    assert (changed.email, changed.name, changed.metadata.to_dict()) == ("a@example.com", "Ada", {"user": "1"})
    assert (await api.customers.update_async(customer.id, {"name": ""})).name is None
    assert (await api.customers.delete_async(customer.id)).deleted
    assert (await api.customers.retrieve_async(customer.id)).deleted
    assert (await api.customers.list_async()).data == []
    assert (await refused(api.customers.update_async(customer.id, {"name": "B"}))).code == "resource_missing"
    assert await types_of(api) == ["customer.created", "customer.updated", "customer.updated", "customer.deleted"]


async def test_default_payment_method_must_belong_to_the_customer(api, refused):
    mine, other = [await api.customers.create_async({}) for _ in range(2)]
    method = await api.payment_methods.attach_async("pm_card_mastercard", {"customer": other.id})
    wish = {"invoice_settings": {"default_payment_method": method.id}}
    assert (await refused(api.customers.update_async(mine.id, wish))).http_status == 400
    await api.customers.update_async(other.id, wish)
    found = await api.customers.retrieve_async(other.id, {"expand": ["invoice_settings.default_payment_method"]})
    assert found.invoice_settings.default_payment_method.card.last4 == "4444"


async def test_detached_method_is_gone_from_its_customer(api, refused):
    customer = await api.customers.create_async({})
    method = await api.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    assert (await api.payment_methods.detach_async(method.id)).customer is None
    assert (await api.customers.payment_methods.list_async(customer.id)).data == []
    assert (await refused(api.payment_methods.detach_async(method.id))).http_status == 400
    assert [name for name in await types_of(api) if name.startswith("payment_method")] == [
        "payment_method.attached",
        "payment_method.detached",
    ]


async def test_method_of_another_customer_cannot_pay(api, refused):
    owner, other = [await api.customers.create_async({}) for _ in range(2)]
    method = await api.payment_methods.attach_async("pm_card_visa", {"customer": owner.id})
    params = PAY | {"customer": other.id, "payment_method": method.id}
    assert "belongs to a different Customer" in (await refused(api.payment_intents.create_async(params))).user_message


async def test_prices_and_products_are_listed_by_their_filters(api, refused):
    product = await api.products.create_async({"name": "Credits", "id": "prod_credits"})
    price = await api.prices.create_async(
        {"product": product.id, "currency": "EUR", "unit_amount": 900, "lookup_key": "small"}
    )
    assert (price.currency, str(price.unit_amount_decimal), price.type) == ("eur", "900", "one_time")
    assert [row.id for row in (await api.prices.list_async({"lookup_keys": ["small"]})).data] == [price.id]
    await api.prices.update_async(price.id, {"active": False})
    assert (await api.prices.list_async({"active": True})).data == []
    await api.products.update_async(product.id, {"description": "Prepaid"})
    assert (await api.products.retrieve_async("prod_credits")).description == "Prepaid"
    assert (
        await refused(api.products.create_async({"name": "x", "id": "prod_credits"}))
    ).code == "resource_already_exists"
    assert (
        await refused(api.prices.create_async({"product": product.id, "currency": "eur"}))
    ).code == "parameter_missing"


async def test_inactive_price_cannot_be_sold(api, order, refused):
    price = await api.prices.create_async({"product_data": {"name": "x"}, "currency": "usd", "unit_amount": 900})
    await api.prices.update_async(price.id, {"active": False})
    order["line_items"] = [{"price": price.id, "quantity": 1}]
    assert "is inactive" in (await refused(api.checkout.sessions.create_async(order))).user_message


async def test_events_are_filtered_by_pattern_and_types(api, refused):
    await api.payment_intents.create_async(PAY)
    assert {event.type for event in (await api.events.list_async({"type": "charge.*"})).data} == {
        "charge.succeeded",
        "charge.updated",
    }
    listed = await api.events.list_async({"types": ["payment_intent.created", "charge.updated"]})
    assert len(listed.data) == 2
    assert (await api.events.retrieve_async(listed.data[0].id)).type == "charge.updated"
    assert (await refused(api.events.list_async({"type": "a", "types": ["b"]}))).http_status == 400


async def test_balance_transactions_name_their_source(api):
    intent = await api.payment_intents.create_async(PAY)
    refund = await api.refunds.create_async({"payment_intent": intent.id})
    listed = await api.balance_transactions.list_async({"expand": ["data.source"]})
    assert [(row.type, row.amount, row.source.id) for row in listed.data] == [
        ("refund", -1000, refund.id),
        ("charge", 1000, intent.latest_charge),
    ]
    assert (await api.balance_transactions.retrieve_async(listed.data[0].id)).net == -1000
