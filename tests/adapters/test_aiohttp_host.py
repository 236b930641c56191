"""An aiohttp host that nobody here wrote: with authentication of its own on everything, and handlers that stream."""

import asyncio
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from credits_plugin import Settings, Usage, build
from credits_plugin.adapters import Payer
from credits_plugin.adapters.aiohttp_host import current_payer, gate_turns, metered, plug_in
from credits_plugin.adapters.base import request_of
from credits_plugin.errors import ConfigurationError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.sandbox.webhooks import signature_header

PRICES = {"toy": {"input": "1", "output": "2", "cache_read": "0.1"}}
USAGE = Usage(input=56, cache_read=64, output=30)
COST = 14_076  # (56 · 100 + 64 · 10 + 30 · 200) · 1.15
WORDS = "one two three four five six seven eight nine ten".split()
MESSAGES = [{"role": "user", "content": "Hello"}]


def payer_of(request):
    user = request.headers.get("X-User")
    return Payer(user, key_id="key-1") if user else None


@web.middleware
async def ask_everybody_for_a_key(request, handler):
    if request.headers.get("Authorization") != "Bearer host":
        return web.json_response({"error": "who are you?"}, status=401)
    return await handler(request)


class Host:
    """A host's application and what its handlers do: `fails`, `hangs`, `silent` about usage; `calls` counts them."""

    def __init__(self, service):
        self.service = service
        self.fails, self.hangs, self.silent = None, False, False
        self.calls, self.payers = [], []
        self.app = web.Application(middlewares=[ask_everybody_for_a_key], client_max_size=100)
        gate = metered(service, identify=payer_of, read=self.read)
        self.app.router.add_post("/complete", gate(self.complete))
        self.app.router.add_post("/stream", gate(self.stream))
        self.app.router.add_post("/turn", self.turn)
        self.app.router.add_get("/turn", self.turn)

    async def read(self, request, payer):
        stream = request.path == "/stream"
        return request_of(payer, model="toy", messages=MESSAGES, max_output_tokens=100, stream=stream)

    async def complete(self, request, call):
        self.calls.append(call)
        await self.ask(call, at=0)
        call.add_streamed_text(" ".join(WORDS))
        return web.Response(text=" ".join(WORDS))

    async def stream(self, request, call):
        self.calls.append(call)
        response = web.StreamResponse()
        for number, word in enumerate(WORDS):
            await self.ask(call, at=number)
            goes_on = await call.deliver(f"{word} ")
            if not response.prepared:
                await response.prepare(request)
            await response.write(f"{word} ".encode())
            if not goes_on:
                break
        return response

    async def ask(self, call, *, at):
        if at == self.fails:
            raise RuntimeError("the model failed")
        if self.hangs and at in (0, 3) and (at == 3 or call.request.stream is False):
            await asyncio.sleep(3_600)
        if not self.silent and at in (0, 9):
            call.report(USAGE)

    async def turn(self, request):
        self.payers.append(current_payer())
        return web.Response(text="turned")

    async def grant(self, amount, account="ada"):
        command = PostTransfer(account_key(account), account, self.service.new_id(), Code.PROMOTION, amount, now_ms())
        await self.service.writer.execute(command)

    async def rows(self, account="ada"):
        """Return (balance, held) and the charges' (amount, output)."""
        key = account_key(account)
        transfers = f"SELECT amount, output FROM transfer WHERE code = 2 AND account_id = {key} ORDER BY seq"
        balance = f"SELECT balance, held FROM account WHERE id = {key}"

        def read(database):
            return database.execute_sql(balance).fetchall(), database.execute_sql(transfers).fetchall()

        (standing,), charges = await self.service.reads.run(read)
        return tuple(standing), [tuple(charge) for charge in charges]

    async def settled(self):
        async with asyncio.timeout(10):
            while (await self.rows())[0][1] or not (await self.rows())[1]:
                await asyncio.sleep(0.01)
        return (await self.rows())[1]


@pytest.fixture
def host(sqlite_url):
    settings = Settings(
        database_url=sqlite_url,
        prices=PRICES,
        stripe_secret_key="sk_test_sandbox",
        stripe_webhook_secrets=("whsec_test",),
        stripe_api_base="http://127.0.0.1:9",
    )
    service = build(settings)
    yield Host(service)
    service.close_sync()


@asynccontextmanager
async def running(app, *, handler_cancellation=True):
    listener = socket.create_server(("127.0.0.1", 0))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=handler_cancellation, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        headers = {"Authorization": "Bearer host", "X-User": "ada"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}", headers=headers) as client:
            yield client
    finally:
        await runner.cleanup()


async def post(client, path, **options):
    async with client.post(path, **options) as response:
        return response.status, response.content_type, await response.text()


@pytest.mark.parametrize("path", ["/complete", "/stream"])
async def test_an_allowed_request_is_charged_what_the_provider_reports(host, path):
    await host.grant(1_000_000)
    async with running(host.app) as client:
        assert (await post(client, path))[2].split() == WORDS
        assert await host.rows() == ((1_000_000 - COST, 0), [(COST, 30)])
        assert host.calls[0].request.key_id == "key-1"


@pytest.mark.parametrize("path", ["/complete", "/stream"])
async def test_a_refused_request_is_a_402_and_its_handler_is_not_called(host, path):
    await host.grant(1)
    async with running(host.app) as client:
        status, content_type, text = await post(client, path)
    assert (status, content_type) == (402, "application/problem+json")
    assert '"purchase_url": "http://127.0.0.1:8080/credits"' in text
    assert host.calls == []


async def test_a_request_that_nobody_pays_for_is_a_401(host):
    async with running(host.app) as client:
        status, _, text = await post(client, "/complete", headers={"X-User": ""})
    assert status == 401
    assert '"unidentified"' in text
    assert host.calls == []


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_stream_that_its_client_leaves_is_charged_for_what_it_delivered(host, cancels):
    await host.grant(1_000_000)
    host.silent, host.hangs = True, cancels
    async with running(host.app, handler_cancellation=cancels) as client:
        async with client.post("/stream") as response:
            await response.content.readexactly(len("one two three ") if cancels else 4)
            response.close()
        ((cost, output),) = await host.settled()
    assert cost > 0
    assert output >= (3 if cancels else 1)
    assert not cancels or output < 20


async def test_a_handler_that_is_cancelled_before_an_answer_is_charged_for_the_prompt(host):
    await host.grant(1_000_000)
    host.hangs = True
    async with running(host.app) as client:
        waiting = asyncio.ensure_future(post(client, "/complete"))
        while not host.calls:
            await asyncio.sleep(0.01)
        waiting.cancel()
        ((cost, output),) = await host.settled()
    assert cost > 0
    assert output == 0


async def test_writing_to_a_client_that_has_gone_is_no_failure_of_the_provider(host):
    await host.grant(1_000_000)

    async def hang_up(request, call):
        request.transport.abort()
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 100_000)

    app = web.Application()
    app.router.add_post("/stream", metered(host.service, identify=payer_of, read=host.read)(hang_up))
    async with running(app, handler_cancellation=False) as client:
        with pytest.raises(aiohttp.ClientError):
            await post(client, "/stream")
        ((cost, output),) = await host.settled()
    assert cost > 0
    assert output == 0


@pytest.mark.parametrize(("path", "at"), [("/complete", 0), ("/stream", 0), ("/stream", 3)])
async def test_a_provider_error_costs_nothing(host, path, at):
    await host.grant(1_000_000)
    host.silent, host.fails = True, at
    async with running(host.app) as client:
        if at:
            with pytest.raises(aiohttp.ClientPayloadError):
                await post(client, path)
        else:
            assert (await post(client, path))[0] == 500
    assert await host.rows() == ((1_000_000, 0), [])


@pytest.mark.parametrize("path", ["/complete", "/stream"])
async def test_an_answer_without_usage_is_charged_by_the_estimate_and_its_text(host, path):
    await host.grant(1_000_000)
    host.silent = True
    async with running(host.app) as client:
        await post(client, path)
    ((cost, output),) = (await host.rows())[1]
    assert cost > 0
    assert output >= 10


async def test_books_are_clean_after_many_requests_at_once(host):
    await host.grant(9_000_000)
    async with running(host.app) as client:
        await asyncio.gather(*(post(client, "/stream" if number % 2 else "/complete") for number in range(40)))
    assert (await host.rows())[0] == (9_000_000 - 40 * COST, 0)
    assert (await asyncio.to_thread(audit, host.service.database)).findings == []


async def test_a_turn_is_refused_before_its_handler_and_holds_nothing_afterwards(host):
    gate_turns(host.app, host.service, identify=payer_of, model="toy", paths=("/turn",))
    await host.grant(1)
    async with running(host.app) as client:
        assert (await post(client, "/turn"))[:2] == (402, "application/problem+json")
        assert (await post(client, "/turn", headers={"X-User": ""}))[0] == 401
        assert host.payers == []
        await host.grant(1_000_000)
        assert (await post(client, "/turn"))[0] == 200
        async with client.get("/turn") as response:
            assert response.status == 200
    inside, outside = host.payers
    assert (inside.account_id, inside.key_id) == ("ada", "key-1")
    assert inside.run_id is not None
    assert outside is None
    assert await host.rows() == ((1_000_001, 0), [])


async def test_the_webhook_is_spared_the_hosts_authentication_and_its_limit(host):
    plug_in(host.app, host.service, identify=payer_of)
    body = b'{"id": "evt_1", "object": "event", "type": "customer.created", "data": {"object": {}}, "livemode": false}'
    body += b" " * 1_000  # more than the host's client_max_size
    headers = {
        "stripe-signature": signature_header(body, "whsec_test", timestamp=now_ms() // 1_000),
        "Authorization": "",
    }
    async with running(host.app) as client:
        status, _, text = await post(client, "/api/credits/webhook", data=body, headers=headers)
        assert (status, text) == (200, '{"success": true, "received": true}')
        assert (await post(client, "/api/credits/webhook", data=b"{}", headers={"Authorization": ""}))[0] == 400
        async with client.get("/credits", headers={"Authorization": ""}) as response:
            assert (response.status, await response.text()) == (401, '{"error": "who are you?"}')
        async with client.get("/credits") as response:
            assert response.status == 200


async def test_pages_that_are_spared_ask_for_themselves_and_the_hosts_routes_stay_guarded(host):
    host.app.router.add_get("/credits/admin", host.turn)  # the host's own, below our prefix
    plug_in(host.app, host.service, identify=payer_of, spare_pages=True)
    nobody = {"Authorization": "", "X-User": ""}
    async with running(host.app) as client:
        async with client.get("/credits", headers={"Authorization": ""}) as response:
            assert response.status == 200
        async with client.get("/credits", headers=nobody) as response:
            assert (response.status, response.content_type) == (401, "text/html")
        for path in ("/credits/admin", "/turn"):
            async with client.get(path, headers={"Authorization": ""}) as response:
                assert (response.status, await response.text()) == (401, '{"error": "who are you?"}')


async def test_an_application_that_is_frozen_or_has_the_routes_says_so(host):
    plug_in(host.app, host.service, identify=payer_of)
    with pytest.raises(ConfigurationError, match="mounted already"):
        plug_in(host.app, host.service, identify=payer_of)
    frozen = web.Application()
    frozen.freeze()
    with pytest.raises(ConfigurationError, match="frozen"):
        plug_in(frozen, host.service, identify=payer_of)


def test_a_middleware_that_cannot_be_kept_off_the_webhook_is_refused(host):
    async def old_style(app, handler):
        return handler

    host.app.middlewares.append(old_style)
    with pytest.raises(ConfigurationError, match="old style"):
        plug_in(host.app, host.service, identify=payer_of)
