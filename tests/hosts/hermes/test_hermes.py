"""hermes' own API server and agent, its plugins loaded by entry point, on a provider with known usage."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from aiohttp import web
from gateway.config import PlatformConfig
from gateway.platform_registry import platform_registry
from gateway.platforms import api_server
from hermes_cli.plugins import PluginContext, PluginManifest, get_plugin_manager
from host_examples import EXAMPLES
from host_ledger import ANSWER_TOKENS, COST, THREE_WORDS_TOKENS, affording
from stub_provider import ANSWER, Behaviour

from credits_plugin.adapters import Payer, hermes
from credits_plugin.sandbox.model_server import ModelServer

OPERATOR = "operator-key-of-32-characters-or-more"
HELLO: Any = [{"role": "user", "content": "Hello"}]


def identify_request(request: web.Request) -> Payer | None:
    user = request.headers.get("Authorization", "").removeprefix("Bearer user-")
    return Payer(user) if not user.startswith("Bearer") else None


def hermes_config(url: str, *, model: str = "toy", plugins: Sequence[str] = ("credits",)) -> dict[str, Any]:
    return {
        "model": {"default": model, "provider": "custom", "base_url": url, "api_key": "none", "max_tokens": 500},
        "agent": {"api_max_retries": 1},
        "auxiliary": {"title_generation": {"enabled": False}},
        "plugins": {"enabled": plugins},
        "platform_toolsets": {"api_server": []},
    }


@pytest.fixture
def hermes_home(provider, monkeypatch) -> Path:
    home = Path(os.environ["HERMES_HOME"])
    (home / "config.yaml").write_text(json.dumps(hermes_config(provider.url)))  # JSON is YAML
    monkeypatch.setattr(api_server, "CHAT_COMPLETIONS_SSE_KEEPALIVE_SECONDS", 0.1)
    return home


@pytest.fixture
def plugin(service):
    hermes.plugin.configure(service, identify_request=identify_request)
    yield hermes.plugin
    hermes.plugin.__init__()


@pytest.fixture
async def server(hermes_home, plugin) -> AsyncIterator[str]:
    """The address of hermes' API server, as its gateway would make it."""
    port = free_port()
    get_plugin_manager().discover_and_load()
    config = PlatformConfig(enabled=True, extra={"host": "127.0.0.1", "port": port, "key": OPERATOR})
    adapter = platform_registry.create_adapter("api_server", config)
    assert await adapter.connect()
    yield f"http://127.0.0.1:{port}/v1"
    await adapter.disconnect()
    await plugin.door.service.close()


def client(server: str, token: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server, api_key=token, max_retries=0, timeout=30)


async def ask(server: str, user: str, **options: Any) -> Any:
    return await client(server, f"user-{user}").chat.completions.create(model="any", messages=HELLO, **options)


async def test_an_answer_costs_what_the_provider_reported(server, ledger, provider):
    ledger.grant("ann")
    answer = await ask(server, "ann")
    assert answer.choices[0].message.content == ANSWER
    assert ledger.tokens("ann") == [(56, 64, 0, 30, 0)]
    assert ledger.charges("ann") == [COST]
    assert ledger.held("ann") == 0
    assert provider.calls[0]["max_tokens"] == 500


async def test_a_stream_costs_what_the_provider_reported(server, ledger, provider):
    ledger.grant("ann")
    assert await text_of(await ask(server, "ann", stream=True)) == ANSWER
    await settled(ledger, "ann")
    assert ledger.tokens("ann") == [(56, 64, 0, 30, 0)]


@pytest.mark.parametrize("stream", [False, True])
async def test_without_credits_the_client_gets_402_before_anything_is_streamed(server, ledger, provider, stream):
    ledger.grant("bob", 100)
    with pytest.raises(openai.APIStatusError) as refused:
        await ask(server, "bob", stream=stream)
    assert refused.value.status_code == 402
    assert refused.value.response.json()["code"] == "insufficient_credits"
    assert provider.calls == []
    assert (ledger.charges("bob"), ledger.held("bob")) == ([], 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_credits_do_not_cover_is_answered_with_a_text(server, ledger, provider, stream):
    ledger.grant("bob", 30_000)  # enough for the user's message alone, too little for what hermes makes of it
    answer = await ask(server, "bob", stream=stream)
    text = await text_of(answer) if stream else answer.choices[0].message.content
    assert "Buy credits to go on" in text
    assert provider.calls == []
    assert (ledger.charges("bob"), ledger.held("bob")) == ([], 0)


async def test_a_client_that_leaves_a_stream_pays_for_the_prompt_and_what_was_streamed(server, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.HANG
    async with await ask(server, "ann", stream=True) as stream:
        words = 0
        async for chunk in stream:
            words += bool(chunk.choices[0].delta.content)
            if words == 3:
                break
    await settled(ledger, "ann")
    [(prompt, _, _, output, _)] = ledger.tokens("ann")
    assert prompt > 0
    assert output == THREE_WORDS_TOKENS


async def test_a_provider_that_fails_costs_nothing(server, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.FAIL
    answer = await ask(server, "ann")
    assert answer.choices[0].finish_reason == "error"
    assert len(provider.calls) > 0
    assert (ledger.charges("ann"), ledger.held("ann")) == ([], 0)


async def test_a_provider_that_breaks_off_costs_nothing_and_what_hermes_asks_again_what_it_is(server, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.BREAK
    stream = await ask(server, "ann", stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            provider.behaviour = Behaviour.ANSWER
    await settled(ledger, "ann")
    assert len(provider.calls) == 2
    assert ledger.tokens("ann") == [(56, 64, 0, 30, 0)]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_usage_costs_the_prompt_and_the_text_once(server, ledger, provider, stream):
    ledger.grant("ann")
    provider.behaviour = Behaviour.NO_USAGE
    answer = await ask(server, "ann", stream=stream)
    if stream:
        await text_of(answer)
    await settled(ledger, "ann")
    assert [tokens[3] for tokens in ledger.tokens("ann")] == [ANSWER_TOKENS]


async def test_a_stream_ends_where_the_credits_do(server, service, plugin, ledger, provider):
    plugin.door = replace(plugin.door, min_output_tokens=1)
    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("ben")
    assert await text_of(await ask(server, "ben", stream=True)) == ANSWER
    await settled(ledger, "ben")
    limit = affording(ledger.tokens("ben")[0][0], THREE_WORDS_TOKENS + 1)
    ledger.grant("ann", limit)
    heard = await text_of(await ask(server, "ann", stream=True))
    await settled(ledger, "ann")
    assert ledger.stopped_at(limit, "ann", heard)


async def test_users_at_the_same_time_each_pay_for_their_own(server, ledger, provider):
    users = [f"user{number}" for number in range(6)]
    for user in users:
        ledger.grant(user)
    await asyncio.gather(*(ask(server, user) for user in users))
    assert [ledger.charges(user) for user in users] == [[COST]] * len(users)


async def test_a_session_that_a_user_names_is_the_users_own(server, ledger, provider):
    for user in ("ann", "eve"):
        ledger.grant(user)
    said = [{"role": "user", "content": "My secret is 42."}]
    anns = client(server, "user-ann").chat.completions.with_raw_response
    first = await anns.create(model="any", messages=said)
    session = {"X-Hermes-Session-Id": first.headers["X-Hermes-Session-Id"]}
    await ask(server, "ann", extra_headers=session)
    assert "My secret is 42." in json.dumps(provider.calls[-1])
    await ask(server, "eve", extra_headers=session)
    assert "My secret is 42." not in json.dumps(provider.calls[-1])


async def test_a_users_token_opens_nothing_but_chat(server, ledger):
    with pytest.raises(openai.AuthenticationError):
        await client(server, "user-ann").responses.create(model="any", input="Hello")
    with pytest.raises(openai.AuthenticationError):
        await client(server, "nobody").chat.completions.create(model="any", messages=HELLO)
    assert [model.id async for model in client(server, "user-ann").models.list()]


async def test_the_operators_calls_are_refused_unless_somebody_pays_for_them(server, provider):
    answer = await client(server, OPERATOR).chat.completions.create(model="any", messages=HELLO)
    assert "Nobody is named who pays" in answer.choices[0].message.content
    assert provider.calls == []


def test_a_chat_platforms_user_pays_for_its_turns(hermes_home, service, ledger):
    """The middleware alone, as hermes calls it for Telegram and the like."""
    from gateway.session_context import clear_session_vars, set_session_vars

    ledger.grant("telegram:7")
    seen: list[hermes.Session] = []

    def identify_session(session: hermes.Session) -> Payer:
        seen.append(session)
        return Payer(f"{session.platform}:{session.user_id}")

    plugin = hermes.CreditsPlugin()
    plugin.configure(service, identify_session=identify_session)
    tokens = set_session_vars(platform="telegram", user_id="7", chat_id="70")
    usage = SimpleNamespace(prompt_tokens=120, completion_tokens=30, prompt_tokens_details=None)
    answer = plugin.execute(
        request={"model": "toy", "messages": HELLO},
        next_call=lambda request: SimpleNamespace(id="1", choices=[], usage=usage, asked=request),
        api_mode="chat_completions",
        provider="custom",
    )
    clear_session_vars(tokens)
    assert seen == [("telegram", "7", "70")]
    assert answer.asked["max_tokens"] == 4_096
    assert ledger.tokens("telegram:7") == [(120, 0, 0, 30, 0)]


@pytest.mark.parametrize("mode", ["chat_completions", "anthropic_messages", "codex_responses", "bedrock_converse"])
def test_a_refusal_is_an_answer_in_every_protocol_of_hermes(service, mode):
    from agent.transports import get_transport

    plugin = hermes.CreditsPlugin()
    plugin.configure(service)
    answer = plugin.execute(request={"model": "toy", "messages": HELLO}, next_call=never, api_mode=mode, model="toy")
    transport = get_transport(mode)
    assert transport.validate_response(answer)
    assert "Nobody is named who pays" in transport.normalize_response(answer).content


def test_a_check_that_fails_refuses(service):
    plugin = hermes.CreditsPlugin()
    plugin.configure(service, identify_session=lambda session: 1 / 0)
    answer = plugin.execute(request={"model": "toy"}, next_call=never, api_mode="chat_completions")
    assert answer.choices[0].message.content == hermes.GATE_FAILED.text


def test_unconfigured_it_lets_calls_pass_and_says_so_once(hermes_home, caplog):
    context = PluginContext(PluginManifest(name="credits"), get_plugin_manager())
    plugin = hermes.CreditsPlugin()
    plugin.register(context)
    config = PlatformConfig(enabled=True, extra={"key": OPERATOR})
    assert type(platform_registry.create_adapter("api_server", config)) is api_server.APIServerAdapter
    for _ in range(2):
        assert plugin.execute(request={"model": "toy"}, next_call=lambda request: "called") == "called"
    assert [record.levelname for record in caplog.records if "not configured" in record.message] == ["WARNING"]
    get_plugin_manager()._middleware["llm_execution"].pop()


async def test_the_example_answers_those_who_have_credits(ledger, tmp_path):
    """hermes' own gateway as its command runs it, with the example among its plugins."""
    ledger.grant("ann")
    shutil.copytree(EXAMPLES / "hermes_plugin", tmp_path / "plugins" / "accounts")
    port = free_port()
    async with ModelServer() as model_server:
        config = hermes_config(model_server.url, model="local-small", plugins=["accounts", "credits"])
        config["platforms"] = {"api_server": {"enabled": True, "extra": {"port": port, "key": OPERATOR}}}
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        async with running_gateway(tmp_path, ledger):
            url = f"http://127.0.0.1:{port}/v1"
            await answering(url)
            with pytest.raises(openai.APIStatusError, match="insufficient_credits"):
                await client(url, "token-of-bob").chat.completions.create(model="any", messages=HELLO)
            answer = await client(url, "token-of-ann").chat.completions.create(model="any", messages=HELLO)
            assert "I am local-small" in answer.choices[0].message.content
    assert len(ledger.charges("ann")) == 1
    assert ledger.charges("bob") == []


@asynccontextmanager
async def running_gateway(home: Path, ledger: Any) -> AsyncIterator[None]:
    environment = {"HERMES_HOME": str(home), "HOME": str(home), "CREDITS_SETTINGS": str(EXAMPLES / "credits.toml")}
    environment["DATABASE_URL"] = ledger.service.settings.database_url
    command = [sys.executable, "-m", "hermes_cli.main", "gateway", "run"]
    with (home / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | environment, cwd=home, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def answering(url: str) -> None:
    """Wait until the server answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client(url, "token-of-ann").models.list()
            except openai.APIConnectionError:
                await asyncio.sleep(0.1)
            else:
                return


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


async def text_of(stream: Any) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def settled(ledger: Any, user: str) -> None:
    """Wait until nothing of a user is held: hermes ends a stream before its agent's last steps."""
    async with asyncio.timeout(20):
        while ledger.held(user) or not ledger.tokens(user):
            await asyncio.sleep(0.02)


def never(request: Any) -> Any:
    raise AssertionError(request)
