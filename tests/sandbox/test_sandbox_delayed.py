"""Money that comes later: bank debits, manual captures; and a checkout's discounts, tax, saved cards."""

from __future__ import annotations

import pytest

from credits_plugin.sandbox.errors import StripeError

WAITS = {"method": "bank", "account": "000999999990"}


async def event_types(api):
    return [event.type for event in (await api.events.list_async({"limit": 100})).data][::-1]


async def pay_by_bank(api, order, buyer, **fields):
    session = await api.checkout.sessions.create_async(order)
    status, location, text = await buyer(session.url, **(WAITS | fields))
    assert (status, location is not None) == (303, True), text
    return await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent.latest_charge"]})


async def test_bank_debit_completes_the_session_unpaid(api, order, buyer):
    session = await pay_by_bank(api, order, buyer)
    charge = session.payment_intent.latest_charge
    assert (session.status, session.payment_status) == ("complete", "unpaid")
    assert (session.payment_intent.status, session.payment_intent.amount_received) == ("processing", 0)
    assert (charge.status, charge.paid, charge.balance_transaction) == ("pending", False, None)
    assert charge.id.startswith("py_")
    assert charge.payment_method_details.us_bank_account.last4 == "9990"
    assert (await event_types(api))[2:] == [
        "payment_intent.created", "charge.pending", "payment_intent.processing", "checkout.session.completed",
    ]  # fmt: skip


async def test_debit_that_arrives_pays_the_session(api, order, buyer, sandbox):
    session = await pay_by_bank(api, order, buyer)
    assert sandbox.complete_delayed_payment(session.id)["payment_status"] == "paid"
    intent = await api.payment_intents.retrieve_async(session.payment_intent.id, {"expand": ["latest_charge"]})
    assert (intent.status, intent.amount_received, intent.latest_charge.paid) == ("succeeded", 1000, True)
    assert (await event_types(api))[6:] == [
        "charge.succeeded", "payment_intent.succeeded", "checkout.session.async_payment_succeeded", "charge.updated",
    ]  # fmt: skip
    with pytest.raises(StripeError, match="no payment under way"):
        sandbox.complete_delayed_payment(session.id)


async def test_debit_that_fails_leaves_the_session_unpaid(api, order, buyer, sandbox, refused):
    session = await pay_by_bank(api, order, buyer)
    failed = sandbox.complete_delayed_payment(session.id, succeed=False)
    assert (failed["status"], failed["payment_status"]) == ("complete", "unpaid")
    intent = await api.payment_intents.retrieve_async(session.payment_intent.id)
    assert (intent.status, intent.last_payment_error.code) == ("requires_payment_method", "insufficient_funds")
    assert (await event_types(api))[6:] == [
        "charge.failed", "payment_intent.payment_failed", "checkout.session.async_payment_failed",
    ]  # fmt: skip
    error = await refused(api.refunds.create_async({"payment_intent": intent.id}))
    assert "does not have a successful charge" in error.user_message


@pytest.mark.parametrize(
    ("account", "currency", "status"),
    [
        ("000123456789", "usd", "paid"),
        ("000111111113", "usd", "unpaid"),
        ("AT611904300234573201", "eur", "paid"),
        ("AT861904300235473202", "eur", "unpaid"),
    ],
)
async def test_test_accounts_decide_by_the_clock(start_sandbox, connect, order, buyer, account, currency, status):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    order["line_items"][0]["price_data"]["currency"] = currency
    session = await pay_by_bank(api, order, buyer, account=account)
    assert session.payment_status == "unpaid"
    now[0] += 11
    session = await api.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == status


async def test_debit_is_refunded_and_its_refund_may_fail(api, order, buyer, sandbox):
    session = await pay_by_bank(api, order, buyer)
    sandbox.complete_delayed_payment(session.id)
    refund = await api.refunds.create_async({"payment_intent": session.payment_intent.id, "amount": 400})
    assert refund.id.startswith("pyr_")
    sandbox.fail_refund(refund.id)
    booked = await api.balance_transactions.list_async({})
    assert [row.type for row in booked.data] == ["payment_failure_refund", "payment_refund", "payment"]
    assert [row.reporting_category for row in booked.data] == ["refund_failure", "refund", "charge"]


async def test_accounts_are_offered_in_their_currency_and_only_where_switched_on(
    start_sandbox, connect, order, buyer, http
):
    api = connect(await start_sandbox(bank_debits=False)).v1
    session = await api.checkout.sessions.create_async(order)
    assert session.payment_method_types == ["card"]
    api = connect(await start_sandbox()).v1
    assert (await api.checkout.sessions.create_async(order)).payment_method_types == ["card", "us_bank_account"]
    order["line_items"][0]["price_data"]["currency"] = "jpy"
    session = await api.checkout.sessions.create_async(order)
    assert session.payment_method_types == ["card"]
    status, _, text = await buyer(session.url, **WAITS)
    assert (status, "Choose one of the test accounts." in text) == (400, False)  # the form is not there at all
    async with http.get(session.url) as page:
        assert "Test account" not in await page.text()


async def test_manual_capture_completes_the_session_unpaid_and_takes_a_part(api, order, buyer):
    order["payment_intent_data"] = {"capture_method": "manual"}
    session = await api.checkout.sessions.create_async(order)
    assert session.payment_method_types == ["card"]
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id)
    assert (session.status, session.payment_status) == ("complete", "unpaid")
    await api.payment_intents.capture_async(session.payment_intent, {"amount_to_capture": 600})
    session = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (session.payment_status, session.amount_total, session.payment_intent.amount_received) == ("paid", 1000, 600)
    charge = await api.charges.retrieve_async(session.payment_intent.latest_charge)
    assert (charge.amount, charge.amount_captured, charge.amount_refunded) == (1000, 600, 0)
    refund = await api.refunds.create_async({"charge": charge.id})
    assert refund.amount == 600


async def test_authorization_that_is_canceled_is_never_paid(api, order, buyer):
    order["payment_intent_data"] = {"capture_method": "manual"}
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id)
    await api.payment_intents.cancel_async(session.payment_intent)
    assert (await api.checkout.sessions.retrieve_async(session.id)).payment_status == "unpaid"
    assert (await event_types(api))[-2:] == ["charge.refunded", "payment_intent.canceled"]


@pytest.mark.parametrize(
    ("coupon", "discount"),
    [({"percent_off": 25}, 250), ({"percent_off": 33.33}, 333), ({"amount_off": 300, "currency": "usd"}, 300)],
)
async def test_coupon_lowers_the_total(api, order, buyer, coupon, discount):
    made = await api.coupons.create_async(coupon)
    session = await api.checkout.sessions.create_async(order | {"discounts": [{"coupon": made.id}]})
    assert (session.amount_subtotal, session.amount_total, session.total_details.amount_discount) == (
        1000, 1000 - discount, discount,
    )  # fmt: skip
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (session.payment_status, session.payment_intent.amount_received) == ("paid", 1000 - discount)
    assert (await api.coupons.retrieve_async(made.id)).times_redeemed == 1


async def test_discount_of_several_lines_adds_up_to_the_whole(api, order):
    made = await api.coupons.create_async({"amount_off": 100, "currency": "usd"})
    price = {"currency": "usd", "unit_amount": 333, "product_data": {"name": "x"}}
    order["line_items"] = [{"quantity": 1, "price_data": price}] * 3
    session = await api.checkout.sessions.create_async(order | {"discounts": [{"coupon": made.id}]})
    items = (await api.checkout.sessions.line_items.list_async(session.id)).data
    assert [item.amount_discount for item in items] == [33, 33, 34]
    assert session.amount_total == sum(item.amount_total for item in items) == 899


async def test_buyer_enters_a_promotion_code(api, order, buyer, http):
    coupon = await api.coupons.create_async({"percent_off": 10, "max_redemptions": 1})
    code = await api.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "SAVE10"}
    )
    order["allow_promotion_codes"] = True
    session = await api.checkout.sessions.create_async(order)
    async with http.post(session.url, data={"code": "NOPE"}) as page:
        assert (page.status, "This code is invalid." in await page.text()) == (400, True)
    async with http.post(session.url, data={"code": " save10 "}) as page:
        assert (page.status, "$9.00" in await page.text()) == (200, True)
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id)
    assert (session.amount_total, session.discounts[0].promotion_code) == (900, code.id)
    late = await api.checkout.sessions.create_async(order)
    async with http.post(late.url, data={"code": "SAVE10"}) as page:
        assert (page.status, "used up or expired" in await page.text()) == (400, True)


async def test_order_that_costs_nothing_is_complete_without_a_payment(api, order, buyer):
    coupon = await api.coupons.create_async({"percent_off": 100})
    session = await api.checkout.sessions.create_async(order | {"discounts": [{"coupon": coupon.id}]})
    await buyer(session.url, number="")
    session = await api.checkout.sessions.retrieve_async(session.id)
    assert (session.status, session.payment_status, session.payment_intent) == ("complete", "no_payment_required", None)
    assert (await event_types(api))[-1] == "checkout.session.completed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discounts": [{"coupon": "nothing"}]}, "No such coupon: 'nothing'"),
        (
            {"discounts": [{"coupon": "eur"}]},
            "The coupon's currency is eur, the session's usd.",
        ),
        (
            {"discounts": [{"coupon": "most"}]},
            "The Checkout Session's total amount due must add up to at least $0.50 usd",
        ),
        (
            {"discounts": [{"coupon": "most"}], "allow_promotion_codes": True},
            "You may only specify one of these parameters: allow_promotion_codes, discounts.",
        ),
    ],
)  # fmt: skip
async def test_discount_that_cannot_be_is_refused(api, order, refused, change, message):
    await api.coupons.create_async({"id": "eur", "amount_off": 100, "currency": "eur"})
    await api.coupons.create_async({"id": "most", "amount_off": 960, "currency": "usd"})
    assert (await refused(api.checkout.sessions.create_async(order | change))).user_message == message


@pytest.mark.parametrize(("behavior", "total", "tax"), [("exclusive", 1200, 200), ("inclusive", 1000, 167)])
async def test_automatic_tax_is_in_the_total_once_the_buyer_has_a_country(
    api, order, buyer, http, behavior, total, tax
):
    order["automatic_tax"] = {"enabled": True}
    order["line_items"][0]["price_data"]["tax_behavior"] = behavior
    session = await api.checkout.sessions.create_async(order)
    assert (session.automatic_tax.status, session.amount_total) == ("requires_location_inputs", 1000)
    async with http.get(session.url) as page:
        assert f"Pay ${total / 100:.2f}" in await page.text()
    status, _, text = await buyer(session.url)
    assert (status, "Select a country." in text) == (400, True)
    await buyer(session.url, country="AT")
    session = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (session.amount_total, session.total_details.amount_tax) == (total, tax)
    assert (session.automatic_tax.status, session.payment_intent.amount) == ("complete", total)
    assert session.customer_details.address.country == "AT"


async def test_three_decimal_amounts_are_multiples_of_ten(api, order, refused):
    order["line_items"][0]["price_data"] |= {"currency": "kwd", "unit_amount": 1234}
    assert "divisible by 10" in (await refused(api.checkout.sessions.create_async(order))).user_message
    error = await refused(api.payment_intents.create_async({"amount": 1234, "currency": "bhd"}))
    assert error.param == "amount"
    order["line_items"][0]["price_data"]["unit_amount"] = 1230
    assert (await api.checkout.sessions.create_async(order)).amount_total == 1230


async def test_customer_is_used_again_and_a_card_is_saved_for_off_session_payments(api, order, buyer):
    order["payment_intent_data"] = {"setup_future_usage": "off_session"}
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    session = await api.checkout.sessions.retrieve_async(session.id)
    (card,) = (await api.customers.payment_methods.list_async(session.customer)).data
    assert card.allow_redisplay == "limited"
    assert "payment_method.attached" in await event_types(api)
    later = {
        "amount": 500, "currency": "usd", "customer": session.customer, "payment_method": card.id, "confirm": True,
        "off_session": True,
    }  # fmt: skip
    assert (await api.payment_intents.create_async(later)).status == "succeeded"
    order |= {"customer": session.customer, "customer_update": {"name": "auto"}}
    again = await api.checkout.sessions.create_async(order)
    await buyer(again.url, name="Ada Lovelace")
    assert (await api.checkout.sessions.retrieve_async(again.id)).customer == session.customer
    assert (await api.customers.retrieve_async(session.customer)).name == "Ada Lovelace"


async def test_buyer_keeps_a_card_and_pays_with_it_the_next_time(api, order, buyer, http):
    customer = await api.customers.create_async({"email": "ada@example.com"})
    order |= {"customer": customer.id, "saved_payment_method_options": {"payment_method_save": "enabled"}}
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url, keep="yes")
    (card,) = (await api.customers.payment_methods.list_async(customer.id)).data
    session = await api.checkout.sessions.create_async(order)
    async with http.get(session.url) as page:
        assert "Visa •••• 4242" in await page.text()
    await buyer(session.url, number="", method="saved", saved=card.id)
    assert (await api.checkout.sessions.retrieve_async(session.id)).payment_status == "paid"
    other = await api.customers.create_async({})
    session = await api.checkout.sessions.create_async(order | {"customer": other.id})
    status, _, _ = await buyer(session.url, number="", method="saved", saved=card.id)
    assert status == 400


async def test_session_is_expired_from_outside(api, order, sandbox):
    session = await api.checkout.sessions.create_async(order)
    assert sandbox.expire_session(session.id)["status"] == "expired"
    with pytest.raises(StripeError, match="can be expired"):
        sandbox.expire_session(session.id)
    assert (await event_types(api))[-1] == "checkout.session.expired"


async def test_events_are_listed_for_thirty_days(start_sandbox, connect, refused):
    now = [1_800_000_000.0]
    api = connect(await start_sandbox(clock=lambda: now[0])).v1
    await api.customers.create_async({})
    (event,) = (await api.events.list_async()).data
    now[0] += 30 * 24 * 3600 + 1
    assert (await api.events.list_async()).data == []
    assert (await refused(api.events.retrieve_async(event.id))).http_status == 404
