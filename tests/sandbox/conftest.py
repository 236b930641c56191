"""A sandbox whose every answer is checked against Stripe's schema; a client, a buyer and a webhook receiver."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from credits_plugin.sandbox import Sandbox, SandboxSettings

stripe.enable_telemetry = False

SPEC = Path(__file__).parents[2].parent / "shared" / "stripe" / "spec3.json.gz"
DOCUMENT = "urn:stripe:spec"
COMPONENTS = f"{DOCUMENT}#/components/schemas/"

# Top-level members that the specification does not list (it is one API version behind, or never listed them), although
# Stripe's recorded answers or the official library have them.
KNOWN_BEYOND_SPEC = {
    "charge": {"destination", "dispute", "order", "source"},
    "checkout.session": {"allowed_payment_method_types"},
    "payment_intent": {"source"},
    "product": {"attributes", "type"},
}


@dataclass(frozen=True)
class Checker:
    """Stripe's OpenAPI document as a judge of answers and event snapshots."""

    spec: dict[str, Any]
    validator: Any

    def problems_of_answer(self, method: str, path: str, status: int, body: Any) -> list[str]:
        if status != 200:
            return self._problems(f"{COMPONENTS}error", body)
        schema = self._schema_of(method.lower(), path)
        if schema is None:
            return [f"{method} {path} is not an endpoint of Stripe"]
        return self._problems(schema, body) + self._event_problems(body)

    def problems_of_object(self, obj: dict[str, Any]) -> list[str]:
        name = f"deleted_{obj['object']}" if obj.get("deleted") else obj["object"]
        return self._problems(f"{COMPONENTS}{name}", obj)

    def _event_problems(self, body: Any) -> list[str]:
        events = body.get("data") or [] if body.get("object") == "list" else [body]
        return [
            f"{event['type']}: {problem}"
            for event in events
            if event.get("object") == "event"
            for problem in self.problems_of_object(event["data"]["object"])
        ]

    def _schema_of(self, method: str, path: str) -> str | None:
        for template, operations in self.spec["paths"].items():
            if method in operations and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
                pointer = template.replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
                return f"{DOCUMENT}#/paths/{pointer}/{method}/responses/200/content/application~1json/schema"
        return None

    def _problems(self, reference: str, body: Any) -> list[str]:
        errors = self.validator.evolve(schema={"$ref": reference}).iter_errors(body)
        return [_described(error) for error in errors] + self._unknown_members(body)

    def _unknown_members(self, node: Any) -> list[str]:
        """Members of any object in an answer that neither the specification nor the list above knows."""
        if isinstance(node, list):
            return [problem for element in node for problem in self._unknown_members(element)]
        if not isinstance(node, dict):
            return []
        kind = node.get("object")
        if not isinstance(kind, str):  # `data` of an event, whose `object` is the snapshot
            return self._unknown_members(list(node.values()))
        known = self.spec["components"]["schemas"].get(f"deleted_{kind}" if node.get("deleted") else kind)
        extra = set(node) - set(known["properties"]) - KNOWN_BEYOND_SPEC.get(kind, set()) if known else set()
        return [f"{kind} has unknown {sorted(extra)}"] * bool(extra) + self._unknown_members(list(node.values()))


def _described(error: ValidationError) -> str:
    """The error, and for alternatives why none of them fits."""
    reasons = [f"{part.json_path}: {part.message[:200]}" for part in error.context or ()]
    return f"{error.json_path}: {error.message[:200]} {reasons or ''}"


def _nullable(keyword: str) -> Any:
    original = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, value: Any, instance: Any, schema: dict[str, Any]) -> Any:
        if instance is None and schema.get("nullable"):
            return ()
        return original(validator, value, instance, schema)

    return check


@functools.cache
def load_checker() -> Checker | None:
    """OpenAPI 3.0 differs from JSON Schema in `nullable`; expandable fields are `anyOf`s of a string and objects."""
    if not SPEC.exists():
        return None
    spec = json.loads(gzip.decompress(SPEC.read_bytes()))
    keywords = {keyword: _nullable(keyword) for keyword in ("type", "anyOf", "allOf", "oneOf", "enum")}
    registry = Registry().with_resource(DOCUMENT, DRAFT202012.create_resource(spec))
    return Checker(spec, validators.extend(Draft202012Validator, keywords)({}, registry=registry))


@pytest.fixture(scope="session")
def checker() -> Checker:
    found = load_checker()
    if found is None:
        pytest.skip("Stripe's OpenAPI document (../shared/stripe/spec3.json.gz) is not here")
    return found


class CheckedSandbox(Sandbox):
    """Collects what is wrong with any answer; without the specification it checks nothing."""

    def application(self) -> web.Application:
        self.problems: list[str] = []
        app = super().application()
        app.on_response_prepare.append(self._check)
        return app

    async def _check(self, request: web.Request, response: web.StreamResponse) -> None:
        found = load_checker()
        private = request.path.startswith("/v1/payment_pages")  # which Stripe does not publish
        if found is None or private or not request.path.startswith("/v1/") or not isinstance(response, web.Response):
            return
        body = json.loads(response.text or "null")
        for problem in found.problems_of_answer(request.method, request.path, response.status, body):
            self.problems.append(f"{request.method} {request.path} {response.status}: {problem}")


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


@asynccontextmanager
async def checked(settings: SandboxSettings, **options: Any) -> AsyncIterator[CheckedSandbox]:
    async with CheckedSandbox(settings, **options) as running:
        yield running
    assert not running.problems, "\n".join(running.problems[:20])


@pytest.fixture
async def start_sandbox() -> AsyncIterator[Any]:
    """Start checked sandboxes with settings and a clock of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(clock: Any = None, **settings: Any) -> CheckedSandbox:
            values = SandboxSettings(**{"retry_base_s": 0.01, **settings})
            return await stack.enter_async_context(checked(values, clock=clock))

        yield start


@pytest.fixture
async def sandbox(receiver: Receiver) -> AsyncIterator[CheckedSandbox]:
    settings = SandboxSettings(webhook_url=receiver.url, retry_base_s=0.01, merchant_name="Northwind AI")
    async with checked(settings) as running:
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
