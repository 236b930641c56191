"""A buyer pays, is declined, comes too late; and what Stripe tells the merchant about it."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import pytest

PAID = [
    "product.created",
    "price.created",
    "payment_intent.created",
    "charge.succeeded",
    "payment_intent.succeeded",
    "checkout.session.completed",
    "charge.updated",
]


async def event_types(api):
    events = await api.events.list_async({"limit": 100})
    return [event.type for event in reversed(events.data)]


async def test_new_session_is_open_unpaid_and_has_no_payment_intent(api, order, sandbox):
    session = await api.checkout.sessions.create_async(order)
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    assert (session.amount_total, session.currency, session.livemode) == (1000, "usd", False)
    assert session.url == f"{sandbox.url}/c/pay/{session.id}"
    assert session.id.startswith("cs_test_")


async def test_paying_redirects_to_the_success_page_with_the_session_id(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    status, location, _ = await buyer(session.url)
    assert (status, location) == (303, f"http://shop.test/success?session_id={session.id}")


async def test_paid_session_shows_who_paid_and_what(api, order, buyer):
    created = await api.checkout.sessions.create_async(order)
    await buyer(created.url)
    session = await api.checkout.sessions.retrieve_async(created.id, {"expand": ["payment_intent.latest_charge"]})
    assert (session.status, session.payment_status, session.url) == ("complete", "paid", None)
    assert (session.customer_details.email, session.customer_details.name) == ("ada@example.com", "Ada Buyer")
    assert session.metadata.to_dict() == {"user_id": "user-1", "package_id": "1"}
    assert (session.payment_intent.status, session.payment_intent.amount_received) == ("succeeded", 1000)
    assert session.payment_intent.latest_charge.payment_method_details.card.last4 == "4242"


async def test_events_of_a_payment_come_in_stripes_order(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    assert await event_types(api) == PAID


async def test_completed_event_is_a_snapshot_of_the_paid_session(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    events = await api.events.list_async({"type": "checkout.session.completed"})
    snapshot = events.data[0].data.object
    assert (snapshot["id"], snapshot["payment_status"], snapshot["amount_total"]) == (session.id, "paid", 1000)
    assert events.data[0].api_version == "2026-10-28.endive"


@pytest.mark.parametrize(
    ("number", "code", "decline_code", "message"),
    [
        ("4000000000000002", "card_declined", "generic_decline", "Your card was declined."),
        ("4000 0000 0000 9995", "card_declined", "insufficient_funds", "Your card has insufficient funds."),
        ("4000000000000069", "expired_card", None, "Your card has expired."),
        ("4000000000000127", "incorrect_cvc", "incorrect_cvc", "Your card&#39;s security code is incorrect."),
    ],
)
async def test_declined_card_is_told_on_the_page_and_leaves_the_session_open(
    api, order, buyer, number, code, decline_code, message
):
    created = await api.checkout.sessions.create_async(order)
    status, location, page = await buyer(created.url, number)
    assert (status, location) == (402, None)
    assert message in page
    session = await api.checkout.sessions.retrieve_async(created.id, {"expand": ["payment_intent.latest_charge"]})
    assert (session.status, session.payment_status) == ("open", "unpaid")
    assert session.payment_intent.status == "requires_payment_method"
    assert session.payment_intent.last_payment_error.code == code
    assert getattr(session.payment_intent.last_payment_error, "decline_code", None) == decline_code
    assert (session.payment_intent.latest_charge.status, session.payment_intent.latest_charge.failure_code) == (
        "failed",
        code,
    )
    assert (await event_types(api))[-2:] == ["charge.failed", "payment_intent.payment_failed"]


async def test_second_card_pays_after_a_decline_with_the_same_payment_intent(api, order, buyer):
    created = await api.checkout.sessions.create_async(order)
    await buyer(created.url, "4000000000000002")
    declined = await api.checkout.sessions.retrieve_async(created.id)
    assert (await buyer(created.url))[0] == 303
    paid = await api.checkout.sessions.retrieve_async(created.id)
    assert (paid.payment_status, paid.payment_intent) == ("paid", declined.payment_intent)
    assert (await event_types(api)).count("payment_intent.created") == 1


async def test_funds_of_card_0077_are_available_at_once(api, order, buyer):
    for number, status in (("4000000000000077", "available"), ("4242424242424242", "pending")):
        session = await api.checkout.sessions.create_async(order)
        await buyer(session.url, number)
        paid = await api.checkout.sessions.retrieve_async(
            session.id, {"expand": ["payment_intent.latest_charge.balance_transaction"]}
        )
        booked = paid.payment_intent.latest_charge.balance_transaction
        assert (booked.status, booked.amount, booked.fee, booked.net) == (status, 1000, 59, 941)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"card_number": "4242424242424241"}, "Your card number is invalid."),
        ({"card_number": "4242"}, "Your card number is incomplete."),
        ({"card_number": ""}, "Your card number is incomplete."),
        ({"card_number": "4012888888881881"}, "Your request was in test mode, but used a non test card."),
        ({"exp": "12 / 20"}, "Your card&#39;s expiration year is in the past."),
        ({"exp": ""}, "Your card&#39;s expiration date is incomplete."),
        ({"exp": "13 / 40"}, "Your card&#39;s expiration date is invalid."),
        ({"cvc": ""}, "Your card&#39;s security code is incomplete."),
        ({"cvc": "12"}, "Your card&#39;s security code is incomplete."),
        ({"name": ""}, "Required"),
        ({"name": "4242 4242 4242 4242"}, "Your name is invalid."),
        ({"email": "nobody"}, "Your email is incomplete."),
        ({"email": "4242424242424242@example.com"}, "Your email is invalid."),
    ],
)
async def test_wrong_entry_is_refused_in_place_and_charges_nothing(api, order, buyer, fields, message):
    session = await api.checkout.sessions.create_async(order)
    status, location, page = await buyer(
        session.url, **({"number": fields.pop("card_number")} if "card_number" in fields else {}), **fields
    )
    assert (status, location) == (400, None)
    assert message in page
    assert await event_types(api) == PAID[:2]


async def test_card_number_and_code_are_neither_stored_nor_sent_back(start_sandbox, connect, order, buyer, tmp_path):
    sandbox = await start_sandbox(data_path=tmp_path / "sandbox.db")
    session = await connect(sandbox).v1.checkout.sessions.create_async(order)
    _, _, page = await buyer(session.url, "4000000000009995", cvc="737")
    assert 'value="4000' not in page
    assert "737" not in page
    await buyer(session.url, "4242424242424242", cvc="737")
    await sandbox.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"ada@example.com" in stored
    assert b"4242424242424242" not in stored
    assert b"4000000000009995" not in stored


async def test_second_payment_of_a_session_is_refused(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    status, location, page = await buyer(session.url)
    assert (status, location) == (409, None)
    assert "already been processed" in page
    assert len((await api.charges.list_async()).data) == 1


async def test_double_click_charges_once(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    answers = await asyncio.gather(buyer(session.url), buyer(session.url))
    assert sorted(status for status, _, _ in answers) == [303, 409]
    assert len((await api.charges.list_async()).data) == 1


async def test_expired_session_takes_no_payment(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    expired = await api.checkout.sessions.expire_async(session.id)
    assert (expired.status, expired.url) == ("expired", None)
    status, _, page = await buyer(session.url)
    assert status == 409
    assert "timed out" in page
    assert (await event_types(api))[-1] == "checkout.session.expired"


async def test_session_expires_by_the_clock_and_cancels_its_intent(start_sandbox, connect, order, buyer):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    session = await api.checkout.sessions.create_async(order | {"expires_at": 1_800_000_000 + 1800})
    await buyer(session.url, "4000000000000002")
    now[0] += 1801
    expired = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (expired.status, expired.payment_intent.status) == ("expired", "canceled")
    assert (await event_types(api))[-2:] == ["payment_intent.canceled", "checkout.session.expired"]


async def test_completed_session_cannot_be_expired(api, order, buyer, refused):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    error = await refused(api.checkout.sessions.expire_async(session.id))
    assert error.http_status == 400
    assert "This Checkout Session has a status of `complete`." in error.user_message


async def test_line_items_carry_price_and_product(api, order):
    product = await api.products.create_async(
        {"name": "Credits", "default_price_data": {"currency": "eur", "unit_amount": 250}}
    )
    order["line_items"] = [{"price": product.default_price, "quantity": 3}]
    session = await api.checkout.sessions.create_async(order | {"expand": ["line_items.data.price.product"]})
    assert session.line_items.data[0].price.product.name == "Credits"
    assert (session.amount_total, session.currency) == (750, "eur")
    items = await api.checkout.sessions.line_items.list_async(session.id)
    assert [(item.description, item.quantity, item.amount_total) for item in items.data] == [("Credits", 3, 750)]


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [("jpy", 500, "¥500"), ("kwd", 1250, "KWD\u00a01.250"), ("usd", 100000, "$1,000.00")],
)
async def test_page_shows_amounts_with_the_currencys_own_exponent(api, order, http, currency, amount, shown):
    order["line_items"][0]["price_data"] |= {"currency": currency, "unit_amount": amount}
    session = await api.checkout.sessions.create_async(order)
    async with http.get(session.url) as response:
        assert f"Pay {shown}" in await response.text()


async def test_page_of_a_hostile_merchant_is_escaped(api, order, http):
    order["line_items"][0]["price_data"]["product_data"]["name"] = "<script>alert(1)</script>"
    session = await api.checkout.sessions.create_async(order)
    async with http.get(session.url) as response:
        page = await response.text()
        assert "script-src 'nonce-" in response.headers["Content-Security-Policy"]
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


async def test_page_has_the_fields_of_a_plain_form_and_a_way_back(api, order, http):
    session = await api.checkout.sessions.create_async(order)
    async with http.get(session.url) as response:
        page = await response.text()
    assert all(f'name="{field}"' in page for field in ("card_number", "exp", "cvc", "name", "email"))
    assert 'href="http://shop.test/cancel"' in page
    assert "Sandbox" in page
    assert "src=" not in page


async def test_known_email_of_a_session_is_kept(api, order, buyer):
    session = await api.checkout.sessions.create_async(order | {"customer_email": "known@example.com"})
    await buyer(session.url, email="other@example.com")
    paid = await api.checkout.sessions.retrieve_async(session.id)
    assert paid.customer_details.email == "known@example.com"


async def test_customer_is_created_when_the_session_asks_for_it(api, order, buyer):
    session = await api.checkout.sessions.create_async(order | {"customer_creation": "always"})
    await buyer(session.url)
    paid = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["customer"]})
    assert paid.customer.email == "ada@example.com"
    assert "customer.created" in await event_types(api)


async def test_intent_data_of_the_session_reaches_the_payment_intent(api, order, buyer):
    data = {"metadata": {"payment": "42"}, "description": "1,000 credits"}
    session = await api.checkout.sessions.create_async(order | {"payment_intent_data": data})
    await buyer(session.url)
    intents = await api.payment_intents.list_async()
    assert (intents.data[0].metadata.to_dict(), intents.data[0].description) == ({"payment": "42"}, "1,000 credits")


async def test_receipt_page_shows_the_payment(api, order, buyer, http):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    charge = (await api.charges.list_async()).data[0]
    async with http.get(charge.receipt_url) as response:
        page = await response.text()
    assert "$10.00" in page
    assert "Visa ending in 4242" in page


async def test_unknown_page_is_a_404(sandbox, http):
    async with http.get(f"{sandbox.url}/c/pay/cs_test_nothing") as response:
        assert response.status == 404
        assert urlsplit(str(response.url)).path == "/c/pay/cs_test_nothing"


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"success_url": None}, "Missing required param: success_url.", "success_url"),
        ({"line_items": None}, "Missing required param: line_items.", "line_items"),
        ({"mode": None}, "Missing required param: mode.", "mode"),
        ({"success_url": "nowhere"}, "Not a valid URL", "success_url"),
        ({"mode": "gift"}, "Invalid mode: must be one of payment, setup, or subscription", "mode"),
        ({"customer": "cus_missing"}, "No such customer: 'cus_missing'", "customer"),
        (
            {"payment_method_types": ["card"]},
            "Received unknown parameter: payment_method_types",
            "payment_method_types",
        ),
        ({"colour": "red"}, "Received unknown parameter: colour", "colour"),
        ({"shipping_options": [{}]}, "the sandbox does not support it: shipping_options", "shipping_options"),
        ({"expires_at": 5}, "at least 30 minutes", "expires_at"),
        ({"metadata": {"k": "v" * 501}}, "Metadata values can have up to 500 characters", "metadata"),
    ],
)
async def test_session_with_wrong_parameters_is_refused(api, order, refused, change, message, param):
    wrong = {name: value for name, value in (order | change).items() if value is not None}
    if param == "shipping_options":
        wrong["shipping_options"] = [{"shipping_rate": "shr_1"}]
    error = await refused(api.checkout.sessions.create_async(wrong))
    assert error.http_status == 400
    assert message in error.user_message
    assert error.param == param


def line(price_data=None, **fields):
    priced = {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "x"}} | (price_data or {})
    return {"quantity": 1, "price_data": priced} | fields


UNKNOWN = "Received unknown parameter: line_items[0][price_data][product_data][title]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"price": "price_x"}, "Missing required param: line_items[0][quantity]."),
        ({"quantity": 1, "price": "price_missing"}, "No such price: 'price_missing'"),
        ({"quantity": 1}, "You must specify exactly one of these parameters: line_items[0][price]"),
        (line(quantity=0), "This value must be greater than or equal to 1."),
        (line({"unit_amount": 10}), "must add up to at least $0.50 usd"),
        (line({"currency": "zzz"}), "Invalid currency: zzz."),
        (line({"unit_amount": "ten"}), "Invalid integer: ten"),
        (line({"product_data": {"title": "x"}}), UNKNOWN),
        (line({"recurring": {"interval": "month"}}), "the sandbox does not support it: line_items[0][price_data]"),
    ],
)
async def test_session_with_a_wrong_line_is_refused_and_leaves_nothing(api, order, refused, line, message):
    error = await refused(api.checkout.sessions.create_async(order | {"line_items": [line]}))
    assert error.http_status == 400
    assert message in error.user_message
    assert (await api.products.list_async()).data == []
    assert await event_types(api) == []


async def test_sessions_are_found_by_payment_intent_status_and_email(api, order, buyer):
    first, second = [await api.checkout.sessions.create_async(order) for _ in range(2)]
    await buyer(first.url)
    paid = await api.checkout.sessions.retrieve_async(first.id)
    for filters, found in (
        ({"payment_intent": paid.payment_intent}, [first.id]),
        ({"status": "open"}, [second.id]),
        ({"customer_details": {"email": "ada@example.com"}}, [first.id]),
    ):
        listed = await api.checkout.sessions.list_async(filters)
        assert [session.id for session in listed.data] == found


async def test_metadata_of_a_session_is_merged(api, order):
    session = await api.checkout.sessions.create_async(order)
    changed = await api.checkout.sessions.update_async(session.id, {"metadata": {"package_id": "", "note": "x"}})
    assert json.loads(str(changed.metadata)) == {"user_id": "user-1", "note": "x"}
