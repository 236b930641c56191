"""3-D Secure: on the payment page, by API with and without a way back, and off-session."""

from __future__ import annotations

import pytest

from credits_plugin.sandbox.errors import StripeError

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_authenticationRequired"}
CARD = "4000002500003155"


async def event_types(api):
    return [event.type for event in (await api.events.list_async({"limit": 100})).data][::-1]


async def test_buyer_is_sent_to_the_bank_and_comes_back_paid(api, order, buyer, http):
    session = await api.checkout.sessions.create_async(order)
    status, bank, _ = await buyer(session.url, number=CARD)
    assert (status, "/authenticate/pi_" in bank) == (303, True)
    waiting = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert (waiting.status, waiting.payment_intent.status) == ("open", "requires_action")
    async with http.get(bank) as page:
        assert "Complete authentication" in await page.text()
    async with http.post(bank, data={"outcome": "complete"}, allow_redirects=False) as answer:
        assert answer.headers["Location"] == f"http://shop.test/success?session_id={session.id}"
    paid = await api.checkout.sessions.retrieve_async(session.id)
    assert (paid.payment_status, paid.customer_details.email) == ("paid", "ada@example.com")
    assert (await event_types(api))[2:] == [
        "payment_intent.created", "payment_intent.requires_action", "charge.succeeded", "payment_intent.succeeded",
        "checkout.session.completed", "charge.updated",
    ]  # fmt: skip
    async with http.post(bank, data={"outcome": "complete"}) as again:
        assert again.status == 404


async def test_buyer_who_fails_may_pay_with_another_card(api, order, buyer, http):
    session = await api.checkout.sessions.create_async(order)
    _, bank, _ = await buyer(session.url, number=CARD)
    async with http.post(bank, data={"outcome": "fail"}) as page:
        assert (page.status, "unable to authenticate" in await page.text()) == (402, True)
    failed = await api.checkout.sessions.retrieve_async(session.id, {"expand": ["payment_intent"]})
    assert failed.payment_intent.last_payment_error.code == "payment_intent_authentication_failure"
    status, _, _ = await buyer(session.url)
    assert status == 303
    paid = await api.checkout.sessions.retrieve_async(session.id)
    assert (paid.payment_status, paid.payment_intent) == ("paid", failed.payment_intent.id)
    assert len((await api.charges.list_async({"payment_intent": paid.payment_intent})).data) == 1


@pytest.mark.parametrize(("outcome", "status"), [("complete", "succeeded"), ("fail", "failed")])
async def test_intent_with_a_return_address_sends_its_buyer_back(api, http, outcome, status):
    intent = await api.payment_intents.create_async(PAY | {"return_url": "http://shop.test/back?cart=1"})
    assert (intent.status, intent.next_action.type) == ("requires_action", "redirect_to_url")
    url = intent.next_action.redirect_to_url.url
    async with http.post(url, data={"outcome": outcome}, allow_redirects=False) as answer:
        location = answer.headers["Location"]
    assert location.startswith(f"http://shop.test/back?cart=1&payment_intent={intent.id}&")
    assert location.endswith(f"redirect_status={status}")


async def test_cardholder_answers_once(api, sandbox):
    intent = await api.payment_intents.create_async(PAY)
    assert intent.next_action.type == "use_stripe_sdk"
    assert sandbox.authenticate(intent.id)["status"] == "succeeded"
    with pytest.raises(StripeError, match="waits for nobody"):
        sandbox.authenticate(intent.id)
    other = await api.payment_intents.create_async(PAY)
    assert (await api.payment_intents.cancel_async(other.id)).status == "canceled"
    with pytest.raises(StripeError, match="waits for nobody"):
        sandbox.authenticate(other.id, succeed=False)


@pytest.mark.parametrize("option", ["off_session", "error_on_requires_action"])
async def test_nobody_can_be_asked_when_the_buyer_is_away(api, refused, option):
    customer = await api.customers.create_async({})
    card = await api.payment_methods.attach_async("pm_card_authenticationRequired", {"customer": customer.id})
    params = PAY | {"customer": customer.id, "payment_method": card.id, option: True}
    error = await refused(api.payment_intents.create_async(params))
    assert (error.http_status, error.code) == (402, "authentication_required")
    intent = await api.payment_intents.retrieve_async(error.error.payment_intent.id)
    assert (intent.status, intent.amount_received) == ("requires_payment_method", 0)
