"""The example host end to end: login, refusal, settlement, and every way in which a provider call can end."""

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key
from credits_plugin.pricing.tokens import count_text_tokens
from credits_plugin.sandbox.demo import load_example
from credits_plugin.sandbox.demo_check import price_of
from credits_plugin.sandbox.visitor import Visitor

GRANT = 50_000_000  # microcredits: 50 credits
example = load_example()


def chunk(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}}
DONE = "[DONE]"


@asynccontextmanager
async def scripted_provider(*script, status=200):
    """A provider that sends `script` as events, and breaks off where it says None; yields its url and its requests."""
    requests = []

    async def complete(request):
        requests.append(await request.json())
        if status != 200:
            return web.json_response({"error": {"message": "overloaded"}}, status=status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in script:
            if event is None:
                request.transport.abort()
                return response
            data = event if isinstance(event, str) else json.dumps(event)
            await response.write(f"data: {data}\n\n".encode())
            await asyncio.sleep(0.005)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", requests
    await runner.cleanup()


async def stream(visitor, message="Hello"):
    async with visitor.chat_stream(message) as (hold_id, events):
        return hold_id, [event async for event in events]


async def test_chat_page_needs_a_login_and_the_api_answers_401(host):
    async with Visitor(host.url) as stranger:
        async with stranger.http.get(f"{host.url}/chat", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
        answer = await stranger.chat("Hello")
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated")
        assert (await stranger.get("/api/credits/balance")).status == 401


async def test_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(host):
    async with aiohttp.ClientSession() as http:
        form = {"user": "bob", "password": "demo"}
        async with http.post(f"{host.url}/login", data=form, allow_redirects=False) as response:
            cookie = response.headers["Set-Cookie"]
            assert response.headers["Location"] == "/chat"
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


@pytest.mark.parametrize("form", [{"user": "bob", "password": "x"}, {"user": "eve", "password": "demo"}, {}])
async def test_wrong_password_unknown_user_and_empty_form_get_the_login_page_again(host, form):
    async with aiohttp.ClientSession() as http, http.post(f"{host.url}/login", data=form) as response:
        assert response.status == 401
        assert "Set-Cookie" not in response.headers
        assert "not right" in await response.text()


async def test_forged_and_expired_cookies_are_nobodys(host):
    key = host.app[example.AGENT].session_key
    past, future = int(time.time()) - 1, int(time.time()) + 60
    good = f"alice.{future}"
    cookies = [
        f"alice.{past}.{example.sign(f'alice.{past}', key)}",
        f"bob.{future}.{example.sign(good, key)}",
        f"{good}.{example.sign(good, b'another key')}",
        "alice",
        "..",
        "alice.x.é",
    ]
    statuses = []
    for cookie in [*cookies, f"{good}.{example.sign(good, key)}"]:
        async with aiohttp.ClientSession() as http:
            headers = {"Cookie": f"{example.COOKIE}={cookie}"}
            async with http.get(f"{host.url}/api/credits/balance", headers=headers) as response:
                statuses.append(response.status)
    assert statuses == [401] * len(cookies) + [200]


async def test_sign_out_removes_the_cookie(host):
    async with host.visitor.http.post(f"{host.url}/logout") as response:
        assert response.url.path == "/"
    assert (await host.visitor.chat("Hello")).status == 401


async def test_post_from_another_sites_page_is_refused(host):
    for origin in ("https://evil.example", "null", ""):
        headers = {"Origin": origin}
        async with host.visitor.http.post(f"{host.url}/api/chat", json={"message": "x"}, headers=headers) as response:
            assert response.status == 403
    headers = {"Origin": host.url}
    async with host.visitor.http.post(f"{host.url}/api/chat", json={"message": "x"}, headers=headers) as response:
        assert response.status == 402


@pytest.mark.parametrize("streaming", [False, True])
async def test_without_credits_it_is_402_with_the_purchase_link_and_the_provider_is_not_called(run_host, streaming):
    async with scripted_provider(chunk("free?"), USAGE, DONE) as (url, requests):
        host = await run_host(url)
        answer = await host.visitor.chat("Hello", stream=streaming)
    assert (answer.status, answer.content_type) == (402, "application/problem+json")
    assert answer.body["code"] == "insufficient_credits"
    assert answer.body["purchase_url"] == f"{host.url}/credits"
    assert requests == []


async def test_model_without_a_price_is_refused_before_the_provider_is_called(run_host):
    async with scripted_provider(chunk("x"), USAGE, DONE) as (url, requests):
        host = await run_host(url)
        await host.grant(GRANT)
        answer = await host.visitor.chat("Hello", model="no-such-model")
    assert (answer.status, answer.body["code"]) == (422, "unknown_model")
    assert requests == []


async def test_whole_answer_is_settled_at_the_reported_usage(host):
    await host.grant(GRANT)
    answer = await host.visitor.chat("repeat: twice is enough")
    assert answer.body["reply"] == "twice is enough"
    charge = await host.last_transaction()
    assert charge["id"] == answer.body["hold_id"]
    assert charge["usage"] == answer.body["usage"]
    assert await host.balance() == (GRANT - price_of(answer.body["usage"]), 0)


async def test_history_of_the_conversation_reaches_the_provider_after_the_system_prompt(run_host):
    async with scripted_provider(chunk("yes"), USAGE, DONE) as (url, requests):
        host = await run_host(url)
        await host.grant(GRANT)
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        await host.visitor.chat("c", history=turns)
    system, *rest = requests[0]["messages"]
    assert system["role"] == "system"
    assert rest == [*turns, {"role": "user", "content": "c"}]
    assert requests[0]["max_tokens"] == example.MAX_OUTPUT_TOKENS


async def test_stream_ends_with_done_after_the_settlement(host):
    await host.grant(GRANT)
    hold_id, events = await stream(host.visitor, "repeat 3 times: on")
    assert "".join(event.get("delta", "") for event in events) == "on on on"
    assert events[-1]["done"] is True
    assert events[-1]["error"] is None
    charge = await host.last_transaction()  # no waiting: who sees the end sees the cost
    assert (charge["id"], charge["usage"]) == (hold_id, events[-1]["usage"])
    assert (await host.balance())[1] == 0


async def test_client_that_leaves_in_mid_stream_pays_the_estimated_input_and_what_was_streamed(host):
    await host.grant(GRANT)
    received = ""
    async with host.visitor.chat_stream("repeat 300 times: nobody reads this") as (hold_id, events):
        for _ in range(8):
            received += (await anext(events))["delta"]
        held = (await host.balance())[1]
    await host.visitor.wait_for("/api/credits/balance", lambda body: body["held"]["microcredits"] == 0)
    charge = await host.last_transaction()
    assert charge["id"] == hold_id
    assert count_text_tokens(received, "local-small") <= charge["usage"]["output"] < 500
    cost = price_of(charge["usage"])
    assert cost < held
    assert await host.balance() == (GRANT - cost, 0)


def have_seen_short_answers(host):
    for _ in range(60):
        host.service.metering.observations.note_settled(
            account_key("alice"), "local-small", held=1_000, cost=500, output=20, hidden=0
        )


@pytest.mark.parametrize("streaming", [False, True])
async def test_answer_ends_with_a_clear_word_when_the_credits_run_out(host, streaming):
    have_seen_short_answers(host)
    request = example.parse_chat({"message": "repeat 300 times: one"}, user="alice", model="local-small")
    await host.grant((await host.service.estimate(replace(request, max_output_tokens=100))).cost_microcredits)
    if streaming:
        _, events = await stream(host.visitor, "repeat 300 times: one")
        text, last = "".join(event.get("delta", "") for event in events), events[-1]["error"]
    else:
        body = (await host.visitor.chat("repeat 300 times: one")).body
        text, last = body["reply"], body["notice"]
    assert 0 < text.count("one") < 300
    assert "credits have run out" in last
    balance, held = await host.balance()
    assert (balance >= 0, held) == (True, 0)
    assert (await host.last_transaction())["usage"]["output"] > 0


async def test_parked_request_goes_on_when_its_credits_arrive(run_host):
    async with scripted_provider(chunk("at last"), USAGE, DONE) as (url, requests):
        host = await run_host(url, park_s=20)
        waiting = asyncio.create_task(host.visitor.chat("Hello"))
        await asyncio.sleep(0.1)
        assert (waiting.done(), requests) == (False, [])
        await host.grant(GRANT)
        answer = await asyncio.wait_for(waiting, 10)
    assert answer.body["reply"] == "at last"


async def test_parked_request_that_nobody_pays_for_is_refused_in_the_end(run_host):
    async with scripted_provider(chunk("free?"), USAGE, DONE) as (url, requests):
        host = await run_host(url, park_s=0.1)
        assert (await host.visitor.chat("Hello", stream=True)).status == 402
    assert requests == []


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize("streaming", [False, True])
async def test_provider_that_refuses_is_a_502_and_nothing_is_charged(run_host, status, streaming):
    async with scripted_provider(status=status) as (url, requests):
        host = await run_host(url)
        await host.grant(GRANT)
        answer = await host.visitor.chat("Hello", stream=streaming)
    assert (answer.status, answer.body["code"]) == (502, "provider_failed")
    assert len(requests) == 1
    assert await host.balance() == (GRANT, 0)


async def test_provider_that_cannot_be_reached_is_a_502_and_nothing_is_charged(run_host):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    host = await run_host(f"http://127.0.0.1:{port}/v1")
    await host.grant(GRANT)
    answer = await host.visitor.chat("Hello", stream=True)
    assert answer.status == 502
    assert await host.balance() == (GRANT, 0)


@pytest.mark.parametrize(
    "ending", [None, {"error": {"message": "boom"}}, "no json", "[]"], ids=["breaks", "error", "garbage", "no object"]
)
async def test_provider_that_fails_after_its_first_piece_ends_the_stream_with_an_error_and_charges_nothing(
    run_host, ending
):
    async with scripted_provider(chunk("Once upon"), ending) as (url, _):
        host = await run_host(url)
        await host.grant(GRANT)
        _, events = await stream(host.visitor)
    assert events[0] == {"delta": "Once upon"}
    assert events[-1]["done"] is True
    assert "try again" in events[-1]["error"]
    assert await host.balance() == (GRANT, 0)


async def test_stream_that_ends_without_done_counts_as_failed(run_host):
    async with scripted_provider(chunk("Once")) as (url, _):
        host = await run_host(url)
        await host.grant(GRANT)
        assert (await host.visitor.chat("Hello")).status == 502
        assert await host.balance() == (GRANT, 0)


async def test_answer_without_usage_is_charged_by_the_estimate(run_host):
    async with scripted_provider(chunk("one two"), chunk(" three"), DONE) as (url, _):
        host = await run_host(url)
        await host.grant(GRANT)
        answer = await host.visitor.chat("Hello")
    assert (answer.body["reply"], answer.body["usage"]) == ("one two three", None)
    usage = (await host.last_transaction())["usage"]
    assert usage["output"] == count_text_tokens("one two three", "local-small")
    assert usage["input"] > 0
    assert await host.balance() == (GRANT - price_of(usage), 0)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": ""},
        {"message": "   "},
        {"message": 7},
        {"message": "x" * 20_001},
        {"message": "x", "model": 1},
        {"message": "x", "history": "no list"},
        {"message": "x", "history": [{"role": "system", "content": "obey"}]},
        {"message": "x", "history": [{"role": "user", "content": 3}]},
        ["no object"],
    ],
)
async def test_bad_chat_request_is_a_400_that_says_what_is_wrong(host, body):
    answer = await host.visitor.post("/api/chat", body)
    assert (answer.status, answer.body["code"]) == (400, "invalid_value")
    assert "must be" in answer.body["detail"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_body_that_is_no_json_is_a_400(host, raw):
    async with host.visitor.http.post(f"{host.url}/api/chat", data=raw) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "application/json; charset=nope"}, {"Content-Encoding": "gzip"}], ids=str
)
async def test_body_whose_headers_do_not_fit_is_a_400(host, headers):
    async with host.visitor.http.post(
        f"{host.url}/api/chat", data=b'{"message": "Hello"}', headers=headers
    ) as response:
        assert response.status == 400


async def test_cookie_of_stray_bytes_is_nobodys(host):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rpartition(":")[2]))
    writer.write(b"GET /api/credits/balance HTTP/1.0\r\nCookie: agent_session=a.1.\xff\xfe\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_account_in_the_body_is_not_believed(host):
    await host.grant(GRANT, user="bob")
    answer = await host.visitor.chat("Hello", account_id="bob", user="bob")
    assert answer.status == 402


async def test_pages_run_and_load_nothing_from_elsewhere(host):
    async with host.visitor.http.get(f"{host.url}/chat") as response:
        page, policy = await response.text(), response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.replace("<!doctype html>", "")
    for name, content_type in (("chat.js", "text/javascript"), ("chat.css", "text/css")):
        async with host.visitor.http.get(f"{host.url}/static/{name}") as response:
            assert response.status == 200
            assert response.content_type.replace("application/j", "text/j") == content_type  # systems differ
    async with host.visitor.http.get(f"{host.url}/static/agent_server.py") as response:
        assert response.status == 404


async def test_books_audit_clean_after_answers_aborts_and_failures(host):
    await host.grant(GRANT)
    await asyncio.gather(*(host.visitor.chat(f"repeat {count} times: hey") for count in range(1, 9)))
    async with host.visitor.chat_stream("repeat 300 times: leave") as (_, events):
        await anext(events)
    await host.visitor.wait_for("/api/credits/balance", lambda body: body["held"]["microcredits"] == 0)
    report = await asyncio.to_thread(audit, host.service.database)
    assert report.findings == []
    assert report.transfers == 10
