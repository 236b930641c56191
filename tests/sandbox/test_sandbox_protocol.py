"""The wire: keys, envelopes, idempotency, paging, expansion, form encoding."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys

import aiohttp
import pytest
import stripe

KEY = {"Authorization": "Bearer sk_test_sandbox"}


async def test_missing_key_is_a_401(sandbox, http):
    async with http.get(f"{sandbox.url}/v1/customers") as response:
        body = await response.json()
    assert response.status == 401
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith("You did not provide an API key.")


async def test_wrong_key_is_a_401_that_does_not_repeat_it(sandbox, connect, refused):
    secret = "sk_test_abcdefghijklmnopqrstuvwx"
    error = await refused(connect(sandbox, key=secret).v1.customers.list_async())
    assert isinstance(error, stripe.AuthenticationError)
    assert error.user_message == "Invalid API Key provided: sk_test_" + "*" * 20 + "uvwx"


async def test_key_may_come_as_basic_user(sandbox, http):
    credentials = base64.b64encode(b"sk_test_sandbox:").decode()
    async with http.get(f"{sandbox.url}/v1/customers", headers={"Authorization": f"Basic {credentials}"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/wishes"), ("PUT", "/v1/customers"), ("GET", "/v1/subscriptions"), ("POST", "/v2/x")],
)
async def test_unknown_endpoint_is_refused_in_stripes_words(sandbox, http, method, path):
    async with http.request(method, sandbox.url + path, headers=KEY) as response:
        error = (await response.json())["error"]
    assert response.status == 404
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"Unrecognized request URL ({method}: {path}).")


async def test_answer_carries_request_id_and_version(api):
    customer = await api.customers.create_async({})
    headers = customer.last_response.headers
    assert headers["Request-Id"].startswith("req_")
    assert headers["Stripe-Version"] == "2026-10-28.endive"
    assert headers["Content-Type"].startswith("application/json")


async def test_error_envelope_reaches_the_library_whole(api, refused):
    error = await refused(api.customers.retrieve_async("cus_missing"))
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")
    assert error.user_message == "No such customer: 'cus_missing'"
    assert error.request_id.startswith("req_")
    assert error.json_body["error"]["doc_url"] == "https://stripe.com/docs/error-codes/resource-missing"


async def test_same_key_and_parameters_replay_the_first_answer(api):
    first, second = [await api.customers.create_async({"email": "a@b.co"}, {"idempotency_key": "k"}) for _ in range(2)]
    assert first.id == second.id
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert second.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert second.last_response.headers["Request-Id"] != first.last_response.headers["Request-Id"]
    assert len((await api.customers.list_async()).data) == 1


async def test_same_key_with_other_parameters_is_an_idempotency_error(api, refused):
    await api.customers.create_async({"email": "a@b.co"}, {"idempotency_key": "k"})
    error = await refused(api.customers.create_async({"email": "c@d.co"}, {"idempotency_key": "k"}))
    assert isinstance(error, stripe.IdempotencyError)
    assert error.http_status == 400
    assert "can only be used with the same parameters they were first used with" in error.user_message


async def test_same_key_at_another_endpoint_is_an_idempotency_error(api, refused):
    await api.customers.create_async({}, {"idempotency_key": "k"})
    error = await refused(api.products.create_async({"name": "x"}, {"idempotency_key": "k"}))
    assert isinstance(error, stripe.IdempotencyError)
    assert "('/v1/products' vs '/v1/customers')" in error.user_message


async def test_order_of_parameters_does_not_matter_to_a_key(sandbox, http):
    answers = []
    for body in ("email=a%40b.co&name=A", "name=A&email=a%40b.co"):
        headers = KEY | {"Idempotency-Key": "k", "Content-Type": "application/x-www-form-urlencoded"}
        async with http.post(f"{sandbox.url}/v1/customers", data=body, headers=headers) as response:
            answers.append((await response.json())["id"])
    assert answers[0] == answers[1]


async def test_key_in_flight_is_a_409_and_the_library_waits_it_out(start_sandbox, connect, http):
    sandbox = await start_sandbox(latency_s=0.3)
    headers = KEY | {"Idempotency-Key": "k"}

    async def create() -> tuple[int, dict]:
        async with http.post(f"{sandbox.url}/v1/customers", data={"name": "A"}, headers=headers) as response:
            return response.status, await response.json()

    answers = sorted(await asyncio.gather(create(), create()), key=lambda answer: answer[0])
    assert [status for status, _ in answers] == [200, 409]
    assert answers[1][1]["error"]["type"] == "idempotency_error"
    assert answers[1][1]["error"]["code"] == "idempotency_key_in_use"
    patient = connect(sandbox)
    both = [
        patient.v1.customers.create_async({"name": "B"}, {"idempotency_key": "k2", "max_network_retries": 4})
        for _ in "ab"
    ]
    first, second = await asyncio.gather(*both)
    assert first.id == second.id


async def test_failure_is_replayed_too(api, refused):
    params = {"amount": 500, "currency": "usd", "confirm": True, "payment_method": "pm_card_chargeDeclined"}
    errors = [await refused(api.payment_intents.create_async(params, {"idempotency_key": "k"})) for _ in range(2)]
    assert [error.http_status for error in errors] == [402, 402]
    assert errors[0].error.charge == errors[1].error.charge
    assert len((await api.charges.list_async()).data) == 1


async def test_refused_parameters_do_not_use_up_a_key(api, refused):
    await refused(api.customers.create_async({"colour": "red"}, {"idempotency_key": "k"}))
    assert (await api.customers.create_async({}, {"idempotency_key": "k"})).id.startswith("cus_")


async def test_key_is_forgotten_after_a_day(start_sandbox, connect):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    create = connect(sandbox).v1.customers.create_async
    first = await create({}, {"idempotency_key": "k"})
    now[0] += 24 * 3600 - 1
    assert (await create({}, {"idempotency_key": "k"})).id == first.id
    now[0] += 2
    assert (await create({}, {"idempotency_key": "k"})).id != first.id


async def test_lists_are_cut_by_cursors_in_both_directions(api):
    made = [(await api.customers.create_async({"name": str(number)})).id for number in range(5)]
    newest = made[::-1]
    first = await api.customers.list_async({"limit": 2})
    assert ([row.id for row in first.data], first.has_more, first.url) == (newest[:2], True, "/v1/customers")
    after = await api.customers.list_async({"limit": 2, "starting_after": newest[1]})
    assert ([row.id for row in after.data], after.has_more) == (newest[2:4], True)
    last = await api.customers.list_async({"limit": 2, "starting_after": newest[3]})
    assert ([row.id for row in last.data], last.has_more) == (newest[4:], False)
    before = await api.customers.list_async({"limit": 2, "ending_before": newest[4]})
    assert ([row.id for row in before.data], before.has_more) == (newest[2:4], True)


async def test_library_pages_through_everything(api):
    made = [(await api.customers.create_async({})).id for _ in range(7)]
    listed = await api.customers.list_async({"limit": 3})
    assert [row.id async for row in listed.auto_paging_iter()] == made[::-1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"limit": 0}, "This value must be greater than or equal to 1."),
        ({"limit": 101}, "This value must be less than or equal to 100 (it currently is '101')."),
        ({"limit": "many"}, "Invalid integer: many"),
        ({"starting_after": "cus_nobody"}, "No such customer: 'cus_nobody'"),
        ({"colour": "red"}, "Received unknown parameter: colour"),
    ],
)
async def test_wrong_paging_is_refused(api, refused, params, message):
    error = await refused(api.customers.list_async(params))
    assert (error.http_status, error.user_message) == (400, message)
    assert error.param == next(iter(params))


async def test_created_filter_bounds_a_list(start_sandbox, connect):
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])
    api = connect(sandbox).v1
    made = []
    for _ in range(3):
        made.append((await api.customers.create_async({})).id)
        now[0] += 10
    for bound, found in (
        ({"gt": 1_800_000_000}, made[1:]),
        ({"lte": 1_800_000_010}, made[:2]),
        (1_800_000_010, made[1:2]),
    ):
        listed = await api.customers.list_async({"created": bound})
        assert sorted(row.id for row in listed.data) == sorted(found)


async def test_expansion_reaches_through_objects_and_lists(api, order, buyer):
    session = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    await api.refunds.create_async({"payment_intent": (await api.payment_intents.list_async()).data[0].id})
    charges = await api.charges.list_async(
        {"expand": ["data.payment_intent.payment_method", "data.refunds.data.balance_transaction"]}
    )
    charge = charges.data[0]
    assert charge.payment_intent.payment_method.card.brand == "visa"
    assert charge.refunds.data[0].balance_transaction.amount == -1000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("email", "This property cannot be expanded (email)."),
        ("no.such", "This property cannot be expanded (no.such)."),
        ("a.b.c.d.e", "You cannot expand more than 4 levels of a property. Property: a.b.c.d.e"),
    ],
)
async def test_what_cannot_be_expanded_is_refused_and_nothing_is_created(api, refused, path, message):
    error = await refused(api.customers.create_async({"expand": [path]}))
    assert (error.http_status, error.user_message) == (400, message)
    assert (await api.customers.list_async()).data == []


async def test_expansion_in_a_list_needs_the_data_prefix(api, refused):
    error = await refused(api.charges.list_async({"expand": ["customer"]}))
    assert error.user_message == (
        "This property cannot be expanded (customer). You may want to try expanding 'data.customer' instead."
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"name=%FF", "not valid UTF-8"),
        (b"metadata=x", "Invalid object"),
        (b"metadata[a][b]=x", "Invalid string"),
        (b"metadata[a]=1&metadata[a][b]=x", "Invalid object"),
        (b"]name[=x", "malformed parameter name"),
        (b"preferred_locales=en", "Invalid array"),
        (b"email=", None),
        (b"phone=" + b"1" * 21, "must be at most 20 characters"),
    ],
)
async def test_odd_forms_are_answered_without_a_crash(sandbox, http, body, message):
    headers = KEY | {"Content-Type": "application/x-www-form-urlencoded"}
    async with http.post(f"{sandbox.url}/v1/customers", data=body, headers=headers) as response:
        answer = await response.json()
    assert response.status == (200 if message is None else 400)
    assert message is None or message in answer["error"]["message"]


async def test_json_body_is_refused(sandbox, http):
    async with http.post(f"{sandbox.url}/v1/customers", json={"name": "A"}, headers=KEY) as response:
        assert response.status == 400
        assert "application/x-www-form-urlencoded" in (await response.json())["error"]["message"]


async def test_odd_version_is_refused(sandbox, http):
    async with http.get(f"{sandbox.url}/v1/customers", headers=KEY | {"Stripe-Version": "newest"}) as response:
        assert (response.status, (await response.json())["error"]["message"]) == (
            400,
            "Invalid Stripe API version: newest",
        )


async def test_everything_survives_a_restart(start_sandbox, connect, order, buyer, tmp_path):
    path = tmp_path / "data" / "sandbox.db"
    first = await start_sandbox(data_path=path)
    api = connect(first).v1
    session = await api.checkout.sessions.create_async(order)
    waiting = await api.checkout.sessions.create_async(order)
    await buyer(session.url)
    paid = await api.checkout.sessions.retrieve_async(session.id)
    refund = await api.refunds.create_async(
        {"payment_intent": paid.payment_intent, "amount": 1}, {"idempotency_key": "r"}
    )
    await first.close()
    second = await start_sandbox(data_path=path)
    api = connect(second).v1
    again = await api.refunds.create_async(
        {"payment_intent": paid.payment_intent, "amount": 1}, {"idempotency_key": "r"}
    )
    assert again.id == refund.id
    assert (await api.checkout.sessions.retrieve_async(session.id)).payment_status == "paid"
    reopened = await api.checkout.sessions.retrieve_async(waiting.id)
    assert reopened.url.startswith(second.url)
    assert (await buyer(reopened.url))[0] == 303
    assert [row.id for row in (await api.checkout.sessions.list_async()).data] == [waiting.id, session.id]


async def test_failing_request_leaves_no_trace_in_the_file(start_sandbox, connect, order, refused, tmp_path):
    path = tmp_path / "sandbox.db"
    first = await start_sandbox(data_path=path)
    order["line_items"].append({"quantity": 1, "price": "price_missing"})
    await refused(connect(first).v1.checkout.sessions.create_async(order))
    await first.close()
    second = await start_sandbox(data_path=path)
    assert (await connect(second).v1.products.list_async({"active": False})).data == []


async def test_closing_twice_is_safe_and_the_port_is_free_again(start_sandbox):
    sandbox = await start_sandbox()
    url = sandbox.url
    await sandbox.close()
    await sandbox.close()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{url}/v1/customers")
    with pytest.raises(RuntimeError, match="not running"):
        _ = sandbox.url


def test_importing_the_sandbox_loads_neither_aiohttp_nor_stripe():
    code = (
        "import sys, json, credits_plugin.sandbox as s; s.SandboxSettings();"
        "print(json.dumps([m for m in ('aiohttp.web', 'stripe', 'jinja2') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []
