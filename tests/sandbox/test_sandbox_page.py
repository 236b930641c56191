"""The sandbox's page for people, and the same actions over HTTP."""

from __future__ import annotations

import pytest
from chromium import EXECUTABLE, Tab

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
HOSTILE = "<img src=x onerror=alert(1)>"
KEY = {"Authorization": "Bearer sk_test_sandbox"}


@pytest.fixture
async def page(sandbox, http):
    async def read() -> str:
        async with http.get(f"{sandbox.url}/sandbox") as response:
            assert response.status == 200
            return await response.text()

    return read


@pytest.fixture
async def press(sandbox, http):
    """Press a button: returns (status, text), redirects not followed."""

    async def post(name: str, headers: dict | None = None, **fields: str) -> tuple[int, str]:
        url = f"{sandbox.url}/sandbox/do/{name}"
        async with http.post(url, data=fields, headers=headers, allow_redirects=False) as response:
            return response.status, await response.text()

    return post


async def test_empty_page_says_what_will_appear(page):
    assert "Nobody has bought anything yet" in await page()


async def test_page_shows_payments_requests_events_and_deliveries(api, sandbox, receiver, page, refused):
    receiver.statuses = [500, 0]
    intent = await api.payment_intents.create_async(PAY)
    await refused(api.refunds.create_async({"payment_intent": intent.id, "amount": 9999}))
    await sandbox.drain()
    text = await page()
    for part in ("$10.00", intent.latest_charge, "POST /v1/refunds", "is greater than unrefunded amount", "500, 200"):
        assert part in text
    assert text.index("POST /v1/refunds") < text.index("charge.succeeded") < text.index("payment_intent.created")


async def test_request_stands_above_its_events_and_newer_things_on_top(api, page):
    await api.customers.create_async({})
    await api.products.create_async({"name": "x"})
    text = await page()
    order = ["POST /v1/products", "product.created", "POST /v1/customers", "customer.created"]
    assert sorted(order, key=text.index) == order


async def test_payments_of_one_second_stand_newest_first(api, order, buyer, page):
    order["line_items"][0]["price_data"]["unit_amount"] = 1100
    first = await api.checkout.sessions.create_async(order)
    paid = await api.payment_intents.create_async(PAY | {"amount": 2200})
    last = await api.checkout.sessions.create_async(order)
    text = await page()
    marks = [last.id, paid.latest_charge, first.id]
    assert sorted(marks, key=text.index) == marks


async def test_buttons_do_what_they_say(api, sandbox, press, page):
    intent = await api.payment_intents.create_async(PAY)
    charge = intent.latest_charge
    assert (await press("dispute", charge=charge, inquiry="true", reason="unrecognized"))[0] == 303
    (dispute,) = (await api.disputes.list_async()).data
    assert (dispute.status, dispute.reason) == ("warning_needs_response", "unrecognized")
    assert (await press("escalate_dispute", dispute=dispute.id))[0] == 303
    assert "You win" in await page()
    await press("close_dispute", dispute=dispute.id, won="true")
    assert (await api.disputes.retrieve_async(dispute.id)).status == "won"
    await press("refund", charge=charge, amount="")
    (refund,) = (await api.refunds.list_async()).data
    assert refund.amount == 1000
    await press("fail_refund", refund=refund.id)
    assert (await api.refunds.retrieve_async(refund.id)).status == "failed"


async def test_delayed_payment_and_open_session_are_decided_on_the_page(api, order, buyer, press, page):
    waiting = await api.checkout.sessions.create_async(order)
    await buyer(waiting.url, method="bank", account="000999999990")
    left = await api.checkout.sessions.create_async(order)
    assert "The money arrives" in await page()
    await press("complete_delayed_payment", session=waiting.id, succeed="true")
    await press("expire_session", session=left.id)
    assert (await api.checkout.sessions.retrieve_async(waiting.id)).payment_status == "paid"
    assert (await api.checkout.sessions.retrieve_async(left.id)).status == "expired"


async def test_events_are_delivered_again_held_and_released(api, sandbox, receiver, press, page):
    await press("add_fault", kind="hold", match="customer.*", times="2", seconds="60", size="2")
    first = await api.customers.create_async({})
    second = await api.customers.create_async({})
    assert "Release 2 held" in await page()
    await press("release_events", newest_first="true")
    await sandbox.drain()
    assert [event["data"]["object"]["id"] for event in receiver.events()] == [second.id, first.id]
    await press("deliver_again", event=receiver.events()[0]["id"])
    await sandbox.drain()
    assert [event["data"]["object"]["id"] for event in receiver.events()] == [second.id, first.id, second.id]
    await press("add_fault", kind="server_error", match="POST /v1/customers", times="5")
    assert "5 more" in await page()
    await press("clear_faults")
    assert "5 more" not in await page()


async def test_what_cannot_be_done_is_said_on_the_page(press):
    status, text = await press("dispute", charge="ch_nothing")
    assert (status, "No such charge: &#39;ch_nothing&#39;" in text) == (400, True)
    status, text = await press("destroy", charge=HOSTILE)
    assert (status, "No such action" in text) == (404, True)


async def test_hostile_text_is_text_everywhere(api, sandbox, order, buyer, http, press, page, refused):
    order["line_items"][0]["price_data"]["product_data"]["name"] = HOSTILE
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url, name=HOSTILE)
    await refused(api.refunds.create_async({"charge": HOSTILE}))
    async with http.get(f"{sandbox.url}/v1/customers/{HOSTILE}", headers=KEY) as response:
        assert response.status == 404
    await press("add_fault", kind="drop", match=HOSTILE)
    (event,) = (await api.events.list_async({"type": "product.created"})).data
    async with http.get(f"{sandbox.url}/sandbox/events/{event.id}") as response:
        texts = [await response.text(), await page(), (await press("dispute", charge=HOSTILE))[1]]
        policy = response.headers["Content-Security-Policy"]
    assert all(HOSTILE not in text and "&lt;img src=x onerror=alert(1)&gt;" in text for text in texts)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.test"},
        {"Host": "evil.test", "Origin": "http://evil.test"},
    ],
)
async def test_another_site_presses_no_buttons(api, press, headers):
    intent = await api.payment_intents.create_async(PAY)
    assert (await press("dispute", headers, charge=intent.latest_charge))[0] == 403
    assert (await api.disputes.list_async()).data == []


async def test_page_cannot_be_read_under_a_name_that_leads_here(sandbox, http):
    for path in ("/sandbox", "/sandbox/events/evt_1"):
        async with http.get(sandbox.url + path, headers={"Host": "evil.test"}) as response:
            assert response.status == 403
    async with http.get(f"{sandbox.url}/sandbox/events/evt_1") as response:
        assert response.status == 404


async def test_programs_do_the_same_with_the_secret_key(api, sandbox, http):
    charge = (await api.payment_intents.create_async(PAY)).latest_charge
    url = f"{sandbox.url}/sandbox/api"
    async with http.post(f"{url}/dispute", data={"charge": charge, "inquiry": "true"}, headers=KEY) as response:
        dispute = await response.json()
    assert (response.status, dispute["status"]) == (200, "warning_needs_response")
    async with http.post(f"{url}/add_fault", data={"kind": "mood"}, headers=KEY) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "kind")
    async with http.post(f"{url}/clear_faults") as response:
        assert response.status == 401


@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome on the PATH")
@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_page_works_in_a_browser_and_scrolls_down_only(api, sandbox, order, buyer, width):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url, email=f"{'ada' * 40}@example.com")
    async with Tab() as tab:
        await tab.look_like(width, 844)
        for path in (f"{sandbox.url}/sandbox", (await api.checkout.sessions.create_async(order)).url):
            await tab.open(path)
            assert await tab.ask("document.documentElement.scrollWidth") <= width
        await tab.open(f"{sandbox.url}/sandbox")
        await tab.ask("document.querySelector('button[name=inquiry][value=false]').click()")
        await tab.wait_for("document.body.innerText.includes('You win')")
        assert tab.complaints == []
    assert [row.status for row in (await api.disputes.list_async()).data] == ["needs_response"]
