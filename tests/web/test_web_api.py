"""The JSON contract, and every way in which it says no."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import pytest
from aiohttp import web
from shopfront import Shopfront, StartShopfront, account_in_cookie, buy, buy_and_pay, deliver_to, problem, sign

from credits_plugin.bootstrap import Credits
from credits_plugin.database import file_lock, lock_path
from credits_plugin.ledger.entries import SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.settings import DEFAULT_PACKAGES
from credits_plugin.web import create_app
from hookspecs import Usage

API = "/api/credits"


async def test_purchase_answers_exactly_what_the_contract_says(shopfront: Shopfront):
    body = {"package_id": 1, "payment_method": "stripe"}
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json=body)
    document = await answer.json()
    assert answer.status == 200
    assert list(document) == ["success", "message", "payment_url"]
    assert document["success"] is True
    assert document["message"] == "Checkout session created"
    assert document["payment_url"].startswith(shopfront.sandbox.url)


async def test_what_a_client_says_of_prices_and_owners_is_never_used(shopfront: Shopfront):
    body = {"package_id": 1, "price": 1, "price_minor": 1, "amount": 1, "currency": "jpy", "credits": 10**9}
    body |= {"quantity": 100, "user_id": "eve", "account_id": "eve", "success_url": "https://evil.example"}
    headers = {"X-User-Id": "eve"}
    browser = shopfront.browser("ada")
    answer = await browser.post(f"{API}/purchase?user_id=eve&account_id=eve", json=body, headers=headers)
    url = (await answer.json())["payment_url"]
    target = await shopfront.pay(url)
    assert target.startswith(f"{shopfront.url}/credits/success?session_id=cs_")
    session_id = target.partition("session_id=")[2]
    session = (await (await browser.get(f"{API}/session/{session_id}?user_id=eve")).json())["session"]
    assert (session["amount_total"], session["currency"]) == (1000, "usd")
    assert session["metadata"] == {"user_id": "ada", "package_id": "1", "credits": "1000"}
    assert (await (await shopfront.browser("eve").get(f"{API}/balance")).json())["balance"]["microcredits"] == 0


@pytest.mark.parametrize("package_id", [True, "1", 1.0, None, 0, -1, [1], {"id": 1}, 2**31, 2**63, 10**400])
async def test_package_ids_of_another_type_or_size_are_refused(shopfront: Shopfront, package_id: Any):
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json={"package_id": package_id})
    assert (await problem(answer, 400, "invalid_value"))["field"] == "package_id"


async def test_a_missing_package_id_is_refused(shopfront: Shopfront):
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json={"payment_method": "stripe"})
    assert (await problem(answer, 400, "invalid_value"))["field"] == "package_id"


@pytest.mark.parametrize("method", ["paypal", "Stripe", None, 1, True])
async def test_payment_methods_but_stripe_are_refused(shopfront: Shopfront, method: Any):
    body = {"package_id": 1, "payment_method": method}
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json=body)
    assert (await problem(answer, 400, "invalid_value"))["field"] == "payment_method"


async def test_an_unknown_package_is_not_found_and_the_answer_names_those_there_are(shopfront: Shopfront):
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json={"package_id": 99})
    assert "1, 2, 3" in (await problem(answer, 404, "not_found"))["detail"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"package_id": NaN}',
        b'{"package_id": Infinity}',
        b'{"package_id": 1, "package_id": 2}',
        b'{"package_id": 1, "meta": {"a": 1, "a": 2}}',
        b'{"package_id": ' + b"9" * 5000 + b"}",
        b"[" * 8000,
    ],
)
async def test_bodies_that_are_not_one_json_object_are_refused(shopfront: Shopfront, raw: bytes):
    headers = {"Content-Type": "application/json"}
    answer = await shopfront.browser("ada").post(f"{API}/purchase", data=raw, headers=headers)
    await problem(answer, 400, "invalid_value")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_purchase_in_another_content_type_is_refused(shopfront: Shopfront, kind: str):
    headers = {"Content-Type": kind}
    answer = await shopfront.browser("ada").post(f"{API}/purchase", data=b'{"package_id": 1}', headers=headers)
    await problem(answer, 415, "unsupported_media_type")


async def test_a_purchase_body_beyond_its_limit_is_refused(shopfront: Shopfront):
    body = {"package_id": 1, "padding": "x" * 9000}
    await problem(await shopfront.browser("ada").post(f"{API}/purchase", json=body), 413, "body_too_large")


async def test_a_body_that_decompresses_beyond_its_limit_is_refused(shopfront: Shopfront):
    raw = zlib.compress(b'{"package_id": 1, "padding": "' + b"x" * 1_000_000 + b'"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "deflate"}
    answer = await shopfront.browser("ada").post(f"{API}/purchase", data=raw, headers=headers)
    await problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "purchase"),
        ("GET", "session/cs_test_x"),
        ("GET", "estimate?prompt=hi"),
        ("GET", "packages"),
        ("GET", "balance"),
        ("GET", "transactions"),
    ],
)
async def test_without_an_account_everything_personal_answers_401(shopfront: Shopfront, method: str, path: str):
    browser = shopfront.browser(None)
    body = {"package_id": 1} if method == "POST" else None
    await problem(await browser.request(method, f"{API}/{path}", json=body), 401, "unauthenticated")


async def test_session_shows_exactly_the_contract_to_its_owner(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    document = await (await shopfront.browser("ada").get(f"{API}/session/{session_id}")).json()
    intent = document["session"].pop("payment_intent")
    assert intent.startswith("pi_")
    assert document == {
        "success": True,
        "session": {
            "id": session_id,
            "payment_status": "paid",
            "customer_email": "ada@example.com",
            "amount_total": 1000,
            "currency": "usd",
            "metadata": {"user_id": "ada", "package_id": "1", "credits": "1000"},
        },
    }


async def test_an_unpaid_session_says_so_and_grants_nothing(shopfront: Shopfront):
    session_id = (await buy(shopfront, "ada")).rpartition("/")[2].partition("#")[0].partition("?")[0]
    browser = shopfront.browser("ada")
    session = (await (await browser.get(f"{API}/session/{session_id}")).json())["session"]
    assert (session["payment_status"], session["payment_intent"]) == ("unpaid", None)
    assert (await (await browser.get(f"{API}/balance")).json())["balance"]["microcredits"] == 0


async def test_anothers_session_is_the_same_404_as_a_missing_one_byte_for_byte(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    stranger = shopfront.browser("eve")
    foreign = await stranger.get(f"{API}/session/{session_id}")
    missing = await stranger.get(f"{API}/session/cs_test_{'0' * (len(session_id) - 8)}")
    malformed = await stranger.get(f"{API}/session/%00%22%27--")
    await problem(foreign, 404, "not_found")
    assert await foreign.read() == await missing.read() == await malformed.read()
    volatile = {"Date"}
    kept = [{k: v for k, v in answer.headers.items() if k not in volatile} for answer in (foreign, missing, malformed)]
    assert kept[0] == kept[1] == kept[2]


async def test_estimate_answers_tokens_and_cost(shopfront: Shopfront):
    await shopfront.grant("ada", 5)
    query = {"prompt": "How far is the moon?", "model": "gpt-4o", "max_output_tokens": "100"}
    document = await (await shopfront.browser("ada").get(f"{API}/estimate", params=query)).json()
    estimate = document["estimate"]
    assert document["success"] is True
    assert (estimate["model"], estimate["max_output_tokens"]) == ("gpt-4o", 100)
    assert 5 < estimate["input_tokens"] < 40
    # 10 USD per million output tokens, 100 credits per USD, 15 % markup: 100 tokens cost 0.115 credits
    assert estimate["cost"]["microcredits"] > 115_000
    assert estimate["available"] == {"microcredits": 5_000_000, "credits": "5"}
    assert estimate["affordable"] is True


async def test_an_estimate_reserves_nothing_and_says_when_credits_are_missing(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    estimate = (await (await browser.get(f"{API}/estimate?prompt=hello")).json())["estimate"]
    assert estimate["affordable"] is False
    assert (await (await browser.get(f"{API}/balance")).json())["held"]["microcredits"] == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "prompt"),
        ("?prompt=a&prompt=b", "prompt"),
        ("?prompt=a&max_output_tokens=-1", "max_output_tokens"),
        ("?prompt=a&max_output_tokens=0", "max_output_tokens"),
        ("?prompt=a&max_output_tokens=1e9", "max_output_tokens"),
        ("?prompt=a&max_output_tokens=%D9%A3", "max_output_tokens"),
        ("?prompt=a&max_output_tokens=99999999999999", "max_output_tokens"),
        ("?prompt=a&model=" + "m" * 201, "model"),
    ],
)
async def test_bad_estimate_parameters_are_named(shopfront: Shopfront, query: str, field: str):
    answer = await shopfront.browser("ada").get(f"{API}/estimate{query}")
    assert (await problem(answer, 400, "invalid_value"))["field"] == field


async def test_a_model_without_a_price_is_a_problem_without_the_operators_advice(shopfront: Shopfront):
    answer = await shopfront.browser("ada").get(f"{API}/estimate?prompt=hi&model=no-such-model-xyz")
    assert "settings" not in (await problem(answer, 422, "unknown_model"))["detail"]


async def test_packages_carry_the_servers_prices(shopfront: Shopfront):
    document = await (await shopfront.browser("ada").get(f"{API}/packages")).json()
    assert [package["id"] for package in document["packages"]] == [1, 2, 3]
    assert document["packages"][0] == {
        "id": 1,
        "name": "Starter",
        "credits": 1000,
        "amount": {"microcredits": 1_000_000_000, "credits": "1000"},
        "price_minor": 1000,
        "currency": "usd",
        "price": "$10.00",
        "valid_days": None,
    }


async def test_what_is_bought_tells_how_long_it_is_valid_before_and_until_when_afterwards(
    start_shopfront: StartShopfront,
):
    shopfront = await start_shopfront(packages=[{**DEFAULT_PACKAGES[0], "valid_days": 30, "priority": 5}])
    browser = shopfront.browser("ada")
    (package,) = (await (await browser.get(f"{API}/packages")).json())["packages"]
    assert package["valid_days"] == 30
    assert "priority" not in package
    session_id = await buy_and_pay(shopfront, "ada")
    await browser.get(f"{API}/session/{session_id}")
    await shopfront.spend("ada", 42_500)
    usage, purchase = (await (await browser.get(f"{API}/transactions")).json())["transactions"]
    valid = datetime.fromisoformat(purchase["expires_at"]) - datetime.fromisoformat(purchase["created_at"])
    assert valid == timedelta(days=30)
    assert (await (await browser.get(f"{API}/balance")).json())["next_expiry_at"] == purchase["expires_at"]
    assert usage["expires_at"] is None


async def test_balance_shows_what_is_held_and_what_expires(shopfront: Shopfront):
    at = now_ms() + 86_400_000
    await shopfront.grant("ada", 10, expires_at_ms=at)
    await shopfront.hold("ada", 2_500_001)
    document = await (await shopfront.browser("ada").get(f"{API}/balance")).json()
    expiry = document.pop("next_expiry_at")
    assert expiry.endswith(f".{at % 1000:03d}Z")
    assert document == {
        "success": True,
        "balance": {"microcredits": 10_000_000, "credits": "10"},
        "held": {"microcredits": 2_500_001, "credits": "2.500001"},
        "available": {"microcredits": 7_499_999, "credits": "7.499999"},
    }


async def test_an_account_without_history_has_zeros(shopfront: Shopfront):
    browser = shopfront.browser("nobody-yet")
    balance = await (await browser.get(f"{API}/balance")).json()
    assert balance["available"] == {"microcredits": 0, "credits": "0"}
    assert balance["next_expiry_at"] is None
    transactions = await (await browser.get(f"{API}/transactions")).json()
    assert transactions == {"success": True, "transactions": [], "next_cursor": None, "archived": 0}


async def test_transactions_show_the_payment_and_its_metadata(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    session = (await (await browser.get(f"{API}/session/{session_id}")).json())["session"]
    await shopfront.spend("ada", 42_500)
    usage, purchase = (await (await browser.get(f"{API}/transactions")).json())["transactions"]
    assert usage["type"] == "usage"
    assert usage["amount"] == {"microcredits": -42_500, "credits": "-0.0425"}
    assert usage["balance_after"]["credits"] == "999.9575"
    assert usage["usage"] == {"input": 56, "cache_read": 64, "cache_write": 0, "output": 30, "reasoning": 0}
    assert (usage["payment_id"], usage["metadata"]) == (None, None)
    assert (usage["expires_at"], purchase["expires_at"]) == (None, None)
    assert purchase["type"] == "purchase"
    assert isinstance(purchase["id"], str)
    assert purchase["amount"] == {"microcredits": 1_000_000_000, "credits": "1000"}
    assert purchase["payment_id"] == session["payment_intent"]
    assert purchase["metadata"] == {
        "provider": "stripe",
        "package_id": 1,
        "package_name": "Starter",
        "session_id": session_id,
        "customer_email": "ada@example.com",
        "amount_total": 1000,
        "currency": "usd",
    }


async def test_transactions_page_by_cursor_through_the_whole_history_once(shopfront: Shopfront):
    await shopfront.grant("ada", 100)
    for _ in range(59):
        await shopfront.spend("ada", 1000)
    browser, seen, cursor = shopfront.browser("ada"), [], None
    for _ in range(3):
        query = {"cursor": cursor} if cursor else {}
        document = await (await browser.get(f"{API}/transactions", params=query)).json()
        seen += [transaction["id"] for transaction in document["transactions"]]
        cursor = document["next_cursor"]
    assert cursor is None
    assert len(set(seen)) == len(seen) == 60
    assert seen == sorted(seen, key=int, reverse=True)


async def test_anothers_cursor_only_counts_in_ones_own_history(shopfront: Shopfront):
    await shopfront.grant("ada", 1)
    document = await (await shopfront.browser("eve").get(f"{API}/transactions?cursor=5")).json()
    assert document["transactions"] == []


@pytest.mark.parametrize("cursor", ["0", "-1", "x", "1 OR 1=1", "9" * 19, "9" * 400, "", "%D9%A3"])
async def test_bad_cursors_are_refused(shopfront: Shopfront, cursor: str):
    answer = await shopfront.browser("ada").get(f"{API}/transactions?cursor={cursor.replace(' ', '+')}")
    assert (await problem(answer, 400, "invalid_value"))["field"] == "cursor"


async def test_unknown_routes_and_methods_are_problems_too(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    await problem(await browser.get(f"{API}/nothing"), 404, "not_found")
    answer = await browser.get(f"{API}/purchase")
    await problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


async def test_a_full_queue_answers_503_with_retry_after(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(queue_limit=16)
    browser = shopfront.browser("ada")
    with file_lock(lock_path(shopfront.credits.database.path)):  # another process is writing, for long
        waiting = [asyncio.create_task(browser.post(f"{API}/purchase", json={"package_id": 1})) for _ in range(40)]
        answer = await next(asyncio.as_completed(waiting))
        await problem(answer, 503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0
    statuses = [answer.status for answer in await asyncio.gather(*waiting)]
    assert set(statuses) == {200, 503}


async def test_a_payment_provider_that_refuses_is_a_502_without_its_words(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(stripe_secret_key="sk_test_wrong")
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json={"package_id": 1})
    assert "sk_test" not in json.dumps(await problem(answer, 502, "gateway_error"))


async def test_a_payment_provider_that_is_away_is_a_503(shopfront: Shopfront):
    await shopfront.sandbox.close()
    answer = await shopfront.browser("ada").post(f"{API}/purchase", json={"package_id": 1})
    assert answer.status == 503
    assert (await answer.json())["code"] in {"gateway_error", "gateway_outcome_unknown"}
    assert "Retry-After" in answer.headers


async def test_an_unexpected_exception_is_a_500_without_traceback_and_is_logged(
    start_shopfront: StartShopfront, caplog: pytest.LogCaptureFixture
):
    async def broken_login(request: web.Request) -> str | None:
        raise ZeroDivisionError("the secret is 4711")

    def host(credits: Credits) -> web.Application:
        app = web.Application()
        app.add_subapp(API, create_app(credits, broken_login))
        return app

    answer = await (await start_shopfront(host=host)).browser("ada").get(f"{API}/balance")
    assert "4711" not in await answer.text()
    await problem(answer, 500, "internal_error")
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


async def test_without_stripe_keys_nothing_can_be_bought_but_everything_else_works(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(stripe_secret_key="", stripe_webhook_secrets=())
    browser = shopfront.browser("ada")
    await problem(await browser.post(f"{API}/purchase", json={"package_id": 1}), 503, "payments_not_configured")
    await problem(await browser.post(f"{API}/webhook", data=b"{}"), 503, "payments_not_configured")
    assert (await (await browser.get(f"{API}/packages")).json())["packages"] == []
    assert (await browser.get(f"{API}/balance")).status == 200


async def test_every_answer_carries_the_security_headers(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    headers = {"X-Request-ID": "reflect-me"}
    for path in (f"{API}/balance", f"{API}/nothing", f"{API}/openapi.json", "/credits", "/credits/nothing"):
        answer = await browser.get(path, headers=headers)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "reflect-me" not in str(answer.headers) + await answer.text()


async def test_the_webhook_grants_and_answers_exactly_the_contract(shopfront: Shopfront):
    deliver_to(shopfront)
    await buy_and_pay(shopfront, "ada")
    await shopfront.sandbox.drain()
    browser = shopfront.browser("ada")
    assert (await (await browser.get(f"{API}/balance")).json())["balance"]["credits"] == "1000"
    raw = json.dumps(_event("evt_unknown_1", "customer.created", {"id": "cus_1", "object": "customer"})).encode()
    answer = await shopfront.browser(None).post(f"{API}/webhook", data=raw, headers={"stripe-signature": sign(raw)})
    assert (answer.status, await answer.json()) == (200, {"success": True, "received": True})


def _event(event_id: str, kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": event_id,
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": now_ms() // 1000,
        "livemode": False,
        "type": kind,
        "data": {"object": thing},
    }


@pytest.mark.parametrize("signature", [None, "", "t=1,v1=00", "t=,v1=", "nonsense", "t=1,v1=\u00e9"])
async def test_a_forged_webhook_is_a_400(shopfront: Shopfront, signature: str | None):
    raw = json.dumps(_event("evt_forged_1", "checkout.session.completed", {"id": "cs_1"})).encode()
    headers = {} if signature is None else {"stripe-signature": signature}
    answer = await shopfront.browser(None).post(f"{API}/webhook", data=raw, headers=headers)
    await problem(answer, 400, "forged_event")


@pytest.mark.parametrize("raw", [b"", b"null", b"\xff\xfe", b"[]", b"{}", b'{"id": 1}'])
async def test_signed_nonsense_is_a_400(shopfront: Shopfront, raw: bytes):
    headers = {"stripe-signature": sign(raw)}
    await problem(await shopfront.browser(None).post(f"{API}/webhook", data=raw, headers=headers), 400, "forged_event")


@pytest.mark.parametrize("client_max_size", [1000, 64 * 1024 * 1024])
async def test_a_webhook_beyond_one_mebibyte_is_a_413_whatever_the_host_allows(
    start_shopfront: StartShopfront, client_max_size: int
):
    shopfront = await start_shopfront(host=_host_with(client_max_size))
    browser = shopfront.browser(None)
    await problem(await browser.post(f"{API}/webhook", data=BytesIO(b"x" * (1024 * 1024 + 1))), 413, "body_too_large")
    await problem(await browser.post(f"{API}/webhook", data=_chunks()), 413, "body_too_large")
    raw = json.dumps(_event("evt_big_1", "customer.created", {"id": "cus_1", "name": "x" * 500_000})).encode()
    answer = await browser.post(f"{API}/webhook", data=raw, headers={"stripe-signature": sign(raw)})
    assert answer.status == 200


async def _chunks() -> Any:
    for _ in range(1100):
        yield b"x" * 1024


def _host_with(client_max_size: int) -> Callable[[Credits], web.Application]:
    def host(credits: Credits) -> web.Application:
        app = web.Application(client_max_size=client_max_size)
        app.add_subapp(API, create_app(credits, account_in_cookie))
        return app

    return host


async def test_a_webhook_that_cannot_be_stored_is_never_a_2xx(shopfront: Shopfront):
    with sqlite3.connect(shopfront.credits.database.path) as broken:
        broken.execute("DROP TABLE inbox_event")
    broken.close()
    raw = json.dumps(_event("evt_lost_1", "customer.created", {"id": "cus_1", "object": "customer"})).encode()
    answer = await shopfront.browser(None).post(f"{API}/webhook", data=raw, headers={"stripe-signature": sign(raw)})
    assert answer.status in {500, 503}
    assert "inbox_event" not in await answer.text()


async def test_debt_shows_as_a_negative_balance(shopfront: Shopfront):
    await shopfront.grant("ada", 1)
    hold_id = await shopfront.hold("ada", 1_000_000)
    await shopfront.credits.writer.execute(SettleHold(account_key("ada"), hold_id, 1_500_000, now_ms(), Usage(input=1)))
    document = await (await shopfront.browser("ada").get(f"{API}/balance")).json()
    assert document["available"] == {"microcredits": -500_000, "credits": "-0.5"}
