"""The middleware inside Microsoft's real Agents SDK, behind its JWT middleware, with tokens that it really verifies."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, THREE_WORDS_TOKENS, Ledger
from jwt import PyJWKClient
from jwt.algorithms import RSAAlgorithm
from microsoft_agents.hosting.aiohttp import CloudAdapter, jwt_authorization_middleware, start_agent_process
from microsoft_agents.hosting.core import ActivityHandler, TurnContext
from microsoft_agents.hosting.core.authorization import AgentAuthConfiguration, AnonymousTokenProvider
from microsoft_agents.hosting.core.authorization._entra_issuers import BOTFRAMEWORK_JWKS_URIS
from microsoft_agents.hosting.core.authorization.jwt.jwt_token_validator import (
    JwtTokenValidator,
    _JwkClientCacheEntry,
)
from stub_provider import ANSWER, WORDS, Behaviour, StubProvider

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.aiohttp_host import current_payer, plug_in
from credits_plugin.adapters.base import request_of
from credits_plugin.adapters.microsoft_agents import CreditsMiddleware
from credits_plugin.adapters.openai_api import CHAT, StreamReader, upstream_body
from credits_plugin.ledger.audit import audit
from credits_plugin.metering import RequestRefused

APP_ID: Final = "0b0dbf3e-58a1-4fd6-a62a-4ba9dd4b7a30"
ISSUER: Final = "https://api.botframework.com"
KEY: Final = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
MESSAGES: Final = [{"role": "user", "content": "Hello"}]


class LocalProvider(AnonymousTokenProvider):
    """Gives the token that the SDK wants for calls back to the channel, which no test makes."""

    async def get_access_token(self, resource_url: str, scopes: list[str], force_refresh: bool = False) -> str:
        return "token"


class LocalConnections:
    """The SDK's connections, offline."""

    def get_connection(self, connection_name: str | None) -> LocalProvider:
        return LocalProvider()

    get_default_connection = get_token_provider = lambda self, *_arguments: LocalProvider()

    def get_default_connection_configuration(self) -> AgentAuthConfiguration:
        return AgentAuthConfiguration(client_id=APP_ID)


class Agent(ActivityHandler):
    """Asks its model itself, streamed, and sends the whole answer."""

    def __init__(self, service: Credits, provider: StubProvider) -> None:
        self.service, self.provider = service, provider
        self.turns: list[Payer | None] = []
        self.heard = b""

    async def on_message_activity(self, turn_context: TurnContext) -> None:
        self.turns.append(current_payer())
        await turn_context.send_activity(await self.answer())

    async def on_conversation_update_activity(self, turn_context: TurnContext) -> None:
        self.turns.append(current_payer())
        await turn_context.send_activity(await self.answer())

    async def answer(self) -> str:
        body = {"model": "toy", "messages": MESSAGES, "stream": True}
        try:
            request = request_of(current_payer(), model="toy", messages=MESSAGES, max_output_tokens=500, stream=True)
            async with self.service.metered(request) as call, aiohttp.ClientSession() as http:
                sent = upstream_body(CHAT, body, max_output_tokens=call.hold.estimate.max_output_tokens)
                async with http.post(f"{self.provider.url}/chat/completions", json=sent) as response:
                    response.raise_for_status()
                    reader, self.heard = StreamReader(CHAT, body), b""
                    async for piece in response.content.iter_any():
                        self.heard += await reader.read(piece, call)
        except RequestRefused as refused:
            return refused.refusal.text
        chunks = [json.loads(line[6:]) for line in self.heard.splitlines() if line.startswith(b"data: {")]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.fixture
async def keys() -> AsyncIterator[None]:
    """Serve the channel's public keys from here; the SDK verifies by them as by Microsoft's."""
    public = json.loads(RSAAlgorithm.to_jwk(KEY.public_key())) | {"kid": "key-1", "use": "sig", "alg": "RS256"}

    async def show_keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": [public]})

    app = web.Application()
    app.router.add_get("/keys", show_keys)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = PyJWKClient(f"http://127.0.0.1:{runner.addresses[0][1]}/keys")
    cache = JwtTokenValidator._jwk_client_manager._cache
    cache[BOTFRAMEWORK_JWKS_URIS[ISSUER]] = _JwkClientCacheEntry(client, threading.Lock())
    yield
    cache.clear()
    await runner.cleanup()


def token(key: Any = KEY) -> str:
    claims = {"iss": ISSUER, "aud": APP_ID, "exp": int(time.time()) + 600, "serviceurl": "http://127.0.0.1:9"}
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": "key-1"})


class Host:
    """The SDK's host as its samples set it up, and a channel that sends to it."""

    def __init__(self, app: web.Application, agent: Agent) -> None:
        self.app, self.agent, self.url = app, agent, ""

    async def send(
        self, *, sender: str = "29:ada", channel: str = "msteams", kind: str = "message", bearer: str | None = ""
    ) -> tuple[int, list[str]]:
        """Return the status and the texts of the replies."""
        activity = {
            "type": kind,
            "id": "1",
            "channelId": channel,
            "serviceUrl": "http://127.0.0.1:9",
            "deliveryMode": "expectReplies",
            "from": {"id": sender},
            "recipient": {"id": "28:agent"},
            "conversation": {"id": "c"},
            "text": "Hello",
            "membersAdded": [{"id": "x"}],
        }
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer or token()}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.post(f"{self.url}/api/messages", json=activity) as response,
        ):
            body = await response.json()
        return response.status, [reply.get("text") for reply in (body or {}).get("activities", [])]


@pytest.fixture
async def host(service: Credits, provider: StubProvider, keys: None) -> AsyncIterator[Host]:
    adapter = CloudAdapter(connection_manager=LocalConnections())
    adapter.use(CreditsMiddleware(service, model="toy"))
    agent = Agent(service, provider)

    async def messages(request: web.Request) -> web.StreamResponse:
        return await start_agent_process(request, agent, adapter) or web.Response(status=202)

    app = web.Application(middlewares=[jwt_authorization_middleware])
    app["agent_configuration"] = AgentAuthConfiguration(client_id=APP_ID)
    app.router.add_post("/api/messages", messages)
    plug_in(app, service, identify=lambda _request: None)
    host = Host(app, agent)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield host
    await runner.cleanup()


ADA: Final = "msteams:29:ada"


async def test_an_allowed_turn_is_charged_what_the_provider_reports(host, provider, ledger):
    ledger.grant(ADA)
    assert await host.send() == (200, [ANSWER])
    assert ledger.charges(ADA) == [COST]
    assert ledger.tokens(ADA) == [(56, 64, 0, 30, 0)]
    assert ledger.held(ADA) == 0
    assert provider.calls[0]["max_tokens"] == 500
    assert host.agent.turns[0].run_id is not None


async def test_a_streamed_answer_costs_what_the_provider_reports_at_its_end(host, provider, ledger):
    ledger.grant(ADA)
    assert await host.send() == (200, [ANSWER])
    assert provider.calls[0]["stream"] is True
    pieces = [json.loads(line[6:]) for line in host.agent.heard.splitlines() if line.startswith(b"data: {")]
    said = [piece["choices"][0]["delta"].get("content") for piece in pieces]
    assert "".join(text or "" for text in said) == ANSWER
    assert len([text for text in said if text]) == len(WORDS)
    assert ledger.tokens(ADA) == [(56, 64, 0, 30, 0)]
    assert ledger.held(ADA) == 0


async def test_a_refused_turn_is_answered_and_the_agent_does_not_run(host, provider, ledger):
    ledger.grant(ADA, 1)
    status, (text,) = await host.send()
    assert status == 200
    assert "Buy credits" in text
    assert text.endswith("/credits")
    assert (host.agent.turns, provider.calls) == ([], [])


async def test_a_call_that_is_refused_within_a_turn_says_why(host, provider, ledger):
    ledger.grant(ADA, 90_000)  # a short answer can be paid, one of 500 tokens not
    _, (text,) = await host.send()
    assert "Buy credits" in text
    assert (len(host.agent.turns), provider.calls) == (1, [])


async def test_without_a_token_of_the_channel_nobody_gets_in(host, provider):
    forged = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    for bearer in (None, "nonsense", token(forged)):
        assert (await host.send(bearer=bearer))[0] == 401
    assert (host.agent.turns, provider.calls) == ([], [])


async def test_where_the_host_allows_anonymous_senders_nobody_pays_for_them(host, provider, ledger):
    ledger.grant(ADA)
    host.app["agent_configuration"].ANONYMOUS_ALLOWED = True
    _, (text,) = await host.send(bearer=None)
    assert "Sign in" in text
    assert (host.agent.turns, provider.calls) == ([], [])


@pytest.mark.parametrize("channel", ["directline", "webchat"])
async def test_a_user_id_that_a_page_may_choose_pays_only_if_its_token_is_bound_to_it(host, ledger, channel):
    ledger.grant(f"{channel}:ada")
    ledger.grant(f"{channel}:dl_ada")
    _, (text,) = await host.send(channel=channel, sender="ada")
    assert "Sign in" in text
    assert await host.send(channel=channel, sender="dl_ada") == (200, [ANSWER])
    assert ledger.charges(f"{channel}:ada") == []
    assert ledger.charges(f"{channel}:dl_ada") == [COST]


async def test_the_same_id_in_another_channel_is_another_account(host, ledger):
    ledger.grant(ADA)
    _, (text,) = await host.send(channel="slack")
    assert "Buy credits" in text
    assert ledger.charges(ADA) == []


async def test_what_is_no_message_has_nobody_who_pays(host, provider, ledger):
    ledger.grant(ADA)
    _, (text,) = await host.send(kind="conversationUpdate")
    assert "Sign in" in text
    assert (host.agent.turns, provider.calls) == ([None], [])


async def test_a_turn_whose_client_leaves_is_charged_for_what_was_streamed(host, provider, ledger):
    ledger.grant(ADA)
    provider.behaviour = Behaviour.HANG
    sending = asyncio.ensure_future(host.send())
    while b"three" not in host.agent.heard:
        await asyncio.sleep(0.01)
    sending.cancel()
    await ledger.settled(ADA)
    assert ledger.said(ADA) == [THREE_WORDS_TOKENS]


@pytest.mark.parametrize("behaviour", [Behaviour.FAIL, Behaviour.BREAK])
async def test_a_provider_error_costs_nothing(host, provider, ledger, behaviour):
    ledger.grant(ADA)
    provider.behaviour = behaviour
    await host.send()
    assert provider.calls
    assert (ledger.charges(ADA), ledger.held(ADA)) == ([], 0)


async def test_an_answer_without_usage_is_charged_by_the_estimate_and_its_text(host, provider, ledger):
    ledger.grant(ADA)
    provider.behaviour = Behaviour.NO_USAGE
    await host.send()
    assert ledger.said(ADA) == [ANSWER_TOKENS]


async def test_the_webhook_is_spared_the_jwt_middleware(host):
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{host.url}/api/credits/webhook", data=b"{}") as response:
            problem = await response.json()
        async with http.get(f"{host.url}/api/credits/balance") as response:
            assert response.status == 401
    assert "Authorization" not in str(problem)
    assert problem["type"].startswith("urn:credits-plugin:")


async def test_books_are_clean_after_turns_at_once(host, service, ledger):
    ledger.grant(ADA)
    await asyncio.gather(*(host.send() for _ in range(10)))
    assert ledger.charges(ADA) == [COST] * 10
    assert (await asyncio.to_thread(audit, service.database)).findings == []


def test_the_example_runs_offline(ledger: Ledger, tmp_path: Path):
    ledger.grant("ada")
    printed = run_example("microsoft_agents_host.py", "Hello", ledger=ledger, home=tmp_path)
    assert "local stand-in" in printed
    assert "ada was charged" in printed
    assert len(ledger.charges("ada")) == 1
