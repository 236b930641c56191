"""A sandbox whose every answer and event is checked; a client, a buyer and a webhook receiver."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web
from stripe_schema import CheckedSandbox, Checker, load_checker

from credits_plugin.sandbox import Sandbox, SandboxSettings

stripe.enable_telemetry = False


@pytest.fixture(scope="session")
def checker() -> Checker:
    found = load_checker()
    if found is None:
        pytest.skip("Stripe's OpenAPI document (../shared/stripe/spec3.json.gz) is not here")
    return found


@dataclass
class Receiver:
    """A merchant's webhook endpoint; `statuses` are answered first, then 200 (0 hangs up without an answer).

    Events whose id is in `refused` get a 500 every time.
    """

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    raw: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    delay_s: float = 0.0
    under_way: int = 0
    most_under_way: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.raw.append((await request.read(), dict(request.headers)))
        status = self.statuses.pop(0) if self.statuses else 200
        if json.loads(self.raw[-1][0])["id"] in self.refused:
            status = 500
        await asyncio.sleep(self.delay_s)
        self.under_way -= 1
        if status == 0 and request.transport:
            request.transport.close()
        return web.Response(status=status or 200)

    def events(self, secret: str = "whsec_sandbox") -> list[dict[str, Any]]:
        """What arrived, verified by the official library, sorted by the order of its making."""
        verifier = stripe.StripeClient("sk_test_unused")
        return [
            verifier.construct_event(body, headers["Stripe-Signature"], secret).to_dict(for_json=True)
            for body, headers in self.raw
        ]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    received = Receiver()
    app = web.Application()
    app.router.add_post("/hook", received.receive)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    received.url = f"http://{host}:{port}/hook"
    yield received
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
async def start_sandbox() -> AsyncIterator[Any]:
    """Start checked sandboxes with settings and a clock of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(clock: Any = None, **settings: Any) -> CheckedSandbox:
            values = SandboxSettings(**{"retry_base_s": 0.01, **settings})
            return await stack.enter_async_context(CheckedSandbox(values, clock=clock))

        yield start


@pytest.fixture
async def sandbox(receiver: Receiver) -> AsyncIterator[CheckedSandbox]:
    settings = SandboxSettings(webhook_url=receiver.url, retry_base_s=0.01, merchant_name="Northwind AI")
    async with CheckedSandbox(settings) as running:
        yield running


def client_of(sandbox: Sandbox, http: aiohttp.ClientSession, key: str = "sk_test_sandbox") -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": sandbox.url},
        http_client=stripe.AIOHTTPClient(session=http, timeout=aiohttp.ClientTimeout(total=20)),
    )


@pytest.fixture
def connect(http: aiohttp.ClientSession) -> Any:
    """The official client of any sandbox."""
    return functools.partial(client_of, http=http)


@pytest.fixture
def api(sandbox: CheckedSandbox, http: aiohttp.ClientSession) -> Any:
    """The official client's v1 services on the default sandbox."""
    return client_of(sandbox, http).v1


ORDER: dict[str, Any] = {
    "mode": "payment",
    "success_url": "http://shop.test/success?session_id={CHECKOUT_SESSION_ID}",
    "cancel_url": "http://shop.test/cancel",
    "line_items": [
        {
            "quantity": 1,
            "price_data": {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "1,000 credits"}},
        }
    ],
    "metadata": {"user_id": "user-1", "package_id": "1"},
}


@pytest.fixture
def order() -> dict[str, Any]:
    """Parameters of an ordinary purchase: 10 USD, one line."""
    return json.loads(json.dumps(ORDER))


@pytest.fixture
def buyer(http: aiohttp.ClientSession) -> Any:
    """Fill in the payment page as a browser does; returns (status, Location, text)."""

    async def pay(url: str, number: str = "4242424242424242", **fields: str) -> tuple[int, str | None, str]:
        form = {"card_number": number, "exp": "12 / 40", "cvc": "123", "name": "Ada Buyer", "email": "ada@example.com"}
        async with http.post(url, data=form | fields, allow_redirects=False) as response:
            return response.status, response.headers.get("Location"), await response.text()

    return pay


@pytest.fixture
def refused() -> Any:
    """The error that a call ends with: `error = await refused(call)`; fails when there is none."""

    async def catch(call: Any) -> stripe.StripeError:
        with pytest.raises(stripe.StripeError) as caught:
            await call
        return caught.value

    return catch
