"""A shop on a real database and the sandbox, and a buyer who pays on its hosted page."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from stripe_schema import CheckedSandbox

from credits_plugin.database import Database, Reads
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.queries import account_balance, account_transfers
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.metering.parking import Parking
from credits_plugin.metering.retry_tokens import RetryTokens
from credits_plugin.payments import checkout, inbox, queries
from credits_plugin.payments.packages import parse_packages
from credits_plugin.payments.queries import PaymentView
from credits_plugin.payments.shop import Shop
from credits_plugin.sandbox import Sandbox
from credits_plugin.settings import Settings
from credits_plugin.web.app import create_app

SECRET = "whsec_of_the_tests"
MICRO = 1_000_000


def sign(raw: bytes, *, secret: str = SECRET, at_s: float | None = None) -> str:
    timestamp = int(time.time() if at_s is None else at_s)
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + raw, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def event_of(event_type: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An event as Stripe sends it, with an id of its own."""
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "livemode": False,
        "pending_webhooks": 1,
        "request": None,
        "type": event_type,
        "data": {"object": data},
        **changes,
    }


@dataclass(frozen=True, slots=True)
class Bought:
    """A purchase that was paid; no event of it has been delivered."""

    payment_id: int
    session_id: str
    intent_id: str


class Till:
    """What a test does: buy, look into Stripe, deliver events, read the books."""

    def __init__(self, shop: Shop, stripe_url: str, http: aiohttp.ClientSession) -> None:
        self.shop = shop
        self._url = stripe_url
        self._http = http

    def with_shop(self, shop: Shop) -> Till:
        return Till(shop, self._url, self._http)

    async def order(self, account: str = "anna", package_id: int = 1, **more: Any) -> checkout.Purchase:
        return await checkout.start_purchase(self.shop, account_id=account, package_id=package_id, **more)

    async def pay(self, purchase: checkout.Purchase, card: str = "4242424242424242") -> int:
        form = {"card_number": card, "exp": "12 / 34", "cvc": "123", "name": "Anna", "email": "anna@example.com"}
        async with self._http.post(purchase.payment_url, data=form, allow_redirects=False) as answer:
            await answer.read()
            return answer.status

    async def buy(self, account: str = "anna", package_id: int = 1) -> Bought:
        purchase = await self.order(account, package_id)
        assert await self.pay(purchase) == 303
        session = await self.session(purchase.session_id)
        return Bought(purchase.payment_id, purchase.session_id, session["payment_intent"])

    async def get(self, path: str) -> dict[str, Any]:
        async with self._http.get(f"{self._url}/v1/{path}", headers=_AUTHORISED) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, **form: Any) -> dict[str, Any]:
        async with self._http.post(f"{self._url}/v1/{path}", data=form, headers=_AUTHORISED) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def session(self, session_id: str) -> dict[str, Any]:
        return await self.get(f"checkout/sessions/{session_id}")

    async def refund(self, bought: Bought, amount: int) -> dict[str, Any]:
        """Refund as somebody does in Stripe's dashboard."""
        return await self.post("refunds", payment_intent=bought.intent_id, amount=amount)

    async def deliver(self, event: dict[str, Any]) -> inbox.Receipt:
        raw = json.dumps(event).encode()
        return await inbox.receive(self.shop, raw, sign(raw))

    async def complete(self, bought: Bought) -> inbox.Receipt:
        return await self.deliver(event_of("checkout.session.completed", await self.session(bought.session_id)))

    async def payment(self, payment_id: int) -> PaymentView:
        found = await self.shop.reads.run(lambda database: queries.payment(database, payment_id))
        assert found is not None
        return found

    async def balance(self, account: str = "anna") -> int:
        found = await self.shop.reads.run(lambda database: account_balance(database, account_key(account)))
        return found.balance if found else 0

    async def amounts(self, account: str = "anna") -> list[int]:
        """The account's transfers, oldest first."""
        lines = await self.shop.reads.run(lambda database: account_transfers(database, account_key(account)))
        return [line.amount for line in reversed(lines)]

    async def inbox(self, event_id: str) -> queries.InboxLine | None:
        return await self.shop.reads.run(lambda database: queries.inbox_event(database, event_id))


_AUTHORISED = {"Authorization": "Bearer sk_test_sandbox"}


class Clock:
    """The sandbox's clock, which a test may put forward."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def sandbox_clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(sandbox_clock: Clock) -> AsyncIterator[Sandbox]:
    async with CheckedSandbox(clock=sandbox_clock) as running:
        yield running


@pytest.fixture
def reads(database: Database) -> Iterator[Reads]:
    opened = Reads(database)
    yield opened
    opened.close()


@pytest.fixture
async def shop(writer: LedgerWriter, reads: Reads, sandbox: Sandbox) -> AsyncIterator[Shop]:
    settings = Settings(
        frontend_url="https://chat.example.com",
        stripe_secret_key="sk_test_sandbox",
        stripe_webhook_secrets=(SECRET,),
        stripe_api_base=sandbox.url,
    )
    gateway = StripeGateway(settings.stripe_secret_key, api_base=sandbox.url)
    yield Shop(settings, writer, reads, IdMaker(), gateway, parse_packages(settings.packages))
    await gateway.close()


@pytest.fixture
async def shop_through(shop: Shop) -> AsyncIterator[Any]:
    """The same shop behind another gateway, which is closed in the end."""
    made: list[StripeGateway] = []

    def make(kind: type[StripeGateway], *, key: str = "sk_test_sandbox", api_base: str | None = None) -> Shop:
        made.append(kind(key, api_base=api_base or shop.settings.stripe_api_base))
        return replace(shop, gateway=made[-1])

    yield make
    for gateway in made:
        await gateway.close()


@pytest.fixture
async def till(shop: Shop, sandbox: Sandbox) -> AsyncIterator[Till]:
    async with aiohttp.ClientSession() as http:
        yield Till(shop, sandbox.url, http)


@pytest.fixture
def make_event() -> Any:
    return event_of


@pytest.fixture
def signed() -> Any:
    return sign


@pytest.fixture
def second_host(database: Database, shop: Shop) -> Iterator[Shop]:
    """Another process's shop on the same database: its own writer, connections and ids."""
    new_id = IdMaker()
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    yield replace(shop, writer=writer, new_id=new_id)
    writer.close()


@pytest.fixture
async def endpoint(shop: Shop, sandbox: Sandbox, writer: LedgerWriter, reads: Reads) -> AsyncIterator[str]:
    """The real webhook route at the end of the sandbox's own signed deliveries; its address."""

    async def nobody(request: web.Request) -> str | None:
        return None

    parking = Parking(RetryTokens(shop.settings), shop.writer, reads, shop.new_id)
    app = web.Application()
    app.add_subapp(shop.settings.prefix, create_app(Service(shop.settings, reads, shop, parking), nobody))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}{shop.settings.prefix}/webhook"
    sandbox.set_webhook(url, SECRET)
    yield url  # what is undelivered in the end is the sandbox's to give up
    await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Service:
    """The part of the product that the routes use here."""

    settings: Settings
    reads: Reads
    shop: Shop
    parking: Parking

    async def estimate(self, request: Any) -> Any:
        raise NotImplementedError
