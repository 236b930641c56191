"""The adapter inside the real nanobot: its API server, its agent loop and its providers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, THREE_WORDS_TOKENS, Ledger, affording
from nanobot.agent.loop import AgentLoop
from nanobot.agent.tools.registry import ToolRegistry
from nanobot.api.server import create_app
from nanobot.config.schema import Config
from nanobot.providers.base import LLMProvider, LLMResponse, LLMUsage, ToolCallRequest
from nanobot.providers.factory import make_provider
from nanobot.providers.fallback_provider import FallbackProvider
from stub_provider import ANSWER, Behaviour, StubProvider

from credits_plugin import AIRequest, Credits, Usage
from credits_plugin.adapters import Payer
from credits_plugin.adapters.nanobot import MeteredProviders, plug_into_api, usage_of
from credits_plugin.ledger.audit import audit


def payer_of(request: web.Request) -> Payer | None:
    user = request.headers.get("X-User")
    return Payer(user) if user else None


@pytest.fixture
def config(provider: StubProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("HOME", str(tmp_path))
    defaults = {"model": "toy", "provider": "custom", "workspace": str(tmp_path / "workspace"), "maxTokens": 500}
    return Config.model_validate(
        {
            "agents": {"defaults": defaults},
            "modelPresets": {"short": {"model": "toy", "provider": "custom", "maxTokens": 50}},
            "providers": {"custom": {"apiBase": provider.url, "apiKey": "none"}},
        }
    )


@pytest.fixture
async def loop(config: Config, service: Credits) -> AsyncIterator[AgentLoop]:
    metered = MeteredProviders(service, min_output_tokens=1)
    model = make_provider(config)
    model._CHAT_RETRY_DELAYS = ()  # its pauses are seconds
    loop = AgentLoop.from_config(
        config,
        tool_registry=ToolRegistry(),
        provider=metered.provider(model),
        preset_snapshot_loader=metered.presets(config),
    )
    yield loop
    await loop.aclose()


@pytest.fixture
async def client(loop: AgentLoop, service: Credits) -> AsyncIterator[aiohttp.ClientSession]:
    app = create_app(loop, model_name="toy")
    plug_into_api(app, service, identify=payer_of, model="toy")
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(url, headers={"X-User": "ada"}) as client:
        yield client
    await runner.cleanup()


def asking(client: aiohttp.ClientSession, *, stream: bool = False, session: str = "one", user: str = "ada") -> Any:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": stream, "session_id": session}
    return client.post("/v1/chat/completions", json=body, headers={"X-User": user})


async def ask(client: aiohttp.ClientSession, **options: Any) -> str:
    async with asking(client, **options) as response:
        assert response.status == 200
        if not options.get("stream"):
            return (await response.json())["choices"][0]["message"]["content"]
        lines = (await response.text()).splitlines()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_allowed_turn_is_charged_what_the_provider_reports(client, provider, ledger, stream):
    ledger.grant("ada")
    assert await ask(client, stream=stream) == ANSWER
    assert ledger.charges("ada") == [COST]
    assert ledger.tokens("ada") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ada") == 0
    assert provider.calls[0].get("max_tokens", provider.calls[0].get("max_completion_tokens")) == 500


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_turn_is_a_402_before_any_header_of_a_stream(client, provider, ledger, stream):
    ledger.grant("ada", 1)
    async with asking(client, stream=stream) as response:
        assert (response.status, response.content_type) == (402, "application/problem+json")
        assert (await response.json())["purchase_url"].endswith("/credits")
    assert provider.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_nobody_pays_for_is_a_401(client, provider, stream):
    async with asking(client, stream=stream, user="") as response:
        assert (response.status, (await response.json())["code"]) == (401, "unidentified")
    assert provider.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_refused_within_a_turn_answers_with_the_reason(client, provider, ledger, stream):
    ledger.grant("ada", 100_000)  # enough to begin, and less than nanobot's own prompt takes
    assert "Buy credits" in await ask(client, stream=stream)
    assert provider.calls == []
    assert ledger.charges("ada") == []


async def test_a_stream_that_its_client_leaves_is_charged_for_what_it_delivered(client, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    async with asking(client, stream=True) as response:
        heard = ""
        while "three" not in heard:
            heard += (await response.content.readline()).decode()
        response.close()
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_turn_whose_client_leaves_before_an_answer_is_charged_for_the_prompt(client, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    waiting = asyncio.ensure_future(ask(client))
    while ledger.held("ada") == 0 or not provider.calls:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await ledger.settled("ada")
    (said,) = ledger.said("ada")
    assert said in (0, THREE_WORDS_TOKENS)  # nanobot streams from the provider, also for whole answers


@pytest.mark.parametrize("behaviour", [Behaviour.FAIL, Behaviour.BREAK])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_error_costs_nothing(client, provider, ledger, stream, behaviour):
    ledger.grant("ada")
    provider.behaviour = behaviour
    async with asking(client, stream=stream) as response:
        await response.read()
    assert provider.calls
    assert (ledger.charges("ada"), ledger.held("ada")) == ([], 0)


async def test_nanobots_own_retries_are_held_each_and_only_the_answered_one_is_charged(client, loop, provider, ledger):
    ledger.grant("ada")
    loop.provider._CHAT_RETRY_DELAYS = (0.05,) * 50
    provider.behaviour = Behaviour.FAIL
    asking = asyncio.ensure_future(ask(client))
    while len(provider.calls) < 2:
        await asyncio.sleep(0.01)
    provider.behaviour = Behaviour.ANSWER
    assert await asking == ANSWER
    assert ledger.charges("ada") == [COST]
    assert ledger.held("ada") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_usage_is_charged_by_the_estimate_and_its_text(client, provider, ledger, stream):
    ledger.grant("ada")
    provider.behaviour = Behaviour.NO_USAGE
    await ask(client, stream=stream)
    assert ledger.said("ada") == [ANSWER_TOKENS]


async def test_a_stream_ends_where_the_credits_do(client, provider, ledger):
    ledger.grant("bob")
    provider.behaviour = Behaviour.NO_USAGE
    await ask(client, user="bob")
    ((prompt, *_),) = ledger.tokens("bob")
    limit = affording(prompt, ANSWER_TOKENS // 2)
    ledger.grant("ada", limit)
    heard = await ask(client, stream=True, session="two")
    assert ledger.stopped_at(limit, "ada", heard.partition(" This request")[0])


async def test_a_whole_answer_is_limited_to_what_can_be_paid(config, service, provider, ledger):
    messages = [{"role": "user", "content": "Hello"}]
    bound = await service.estimate(AIRequest("ada", "toy", messages, max_output_tokens=40))
    ledger.grant("ada", bound.cost_microcredits)
    metered = MeteredProviders(service, identify=lambda _: Payer("ada"), min_output_tokens=30)
    await metered.provider(make_provider(config)).chat_with_retry(messages=messages)
    (call,) = provider.calls
    assert 30 <= call.get("max_tokens", call.get("max_completion_tokens")) <= 40


class Thinker(LLMProvider):
    """Thinks, and says nothing."""

    async def chat(self, **_arguments: Any) -> LLMResponse:
        return LLMResponse(content="", tool_calls=[ToolCallRequest("1", "look_up", {"where": "here"})])

    async def chat_stream(self, *, on_thinking_delta: Any, **_arguments: Any) -> LLMResponse:
        for _ in range(5_000):
            await on_thinking_delta("thought ")
        return LLMResponse(content="", finish_reason="stop")

    def get_default_model(self) -> str:
        return "toy"


async def test_a_stream_whose_credits_end_before_it_said_anything_says_so(service, ledger):
    messages = [{"role": "user", "content": "Hello"}]
    bound = await service.estimate(AIRequest("ada", "toy", messages, max_output_tokens=300, stream=True))
    ledger.grant("ada", bound.cost_microcredits)
    metered = MeteredProviders(service, identify=lambda _: Payer("ada"), min_output_tokens=1)
    thinker = metered.provider(Thinker(provider_name="thinker"))
    answer = await thinker.chat_stream_with_retry(messages=messages, max_tokens=90_000)
    assert "ran out before" in answer.content
    assert 0 < sum(ledger.charges("ada")) <= bound.cost_microcredits


async def test_calls_of_tools_count_as_text_where_no_usage_is_reported(service, ledger):
    ledger.grant("ada")
    metered = MeteredProviders(service, identify=lambda _: Payer("ada"))
    await metered.provider(Thinker(provider_name="thinker")).chat(messages=[{"role": "user", "content": "Hello"}])
    (said,) = ledger.said("ada")
    assert said >= 5


async def test_what_nanobot_does_by_itself_has_nobody_who_pays(loop, provider):
    answer = await loop.process_direct("Hello")
    assert "Sign in" in answer.content
    assert provider.calls == []


async def test_presets_are_metered_as_well(loop, ledger, provider):
    snapshot = loop.runtime_resolver.resolve_preset("short")
    await snapshot.provider.chat_with_retry(messages=[{"role": "user", "content": "Hello"}])
    assert provider.calls == []  # nobody pays


async def test_each_provider_that_a_fallback_asks_is_metered(config, service, provider, ledger):
    ledger.grant("ada")
    broken = Config.model_validate(
        config.model_dump() | {"providers": {"custom": {"apiBase": "http://127.0.0.1:9/v1"}}}
    )
    primary = make_provider(broken)
    primary._CHAT_RETRY_DELAYS = ()
    preset = config.resolve_preset("short")
    chain = FallbackProvider(primary, [preset], lambda _: make_provider(config), primary_context_window_tokens=9_999)
    metered = MeteredProviders(service, identify=lambda _: Payer("ada")).provider(chain)
    answer = await metered.chat_stream_with_retry(messages=[{"role": "user", "content": "Hello"}])
    assert answer.content == ANSWER
    assert ledger.charges("ada") == [COST]


def test_usage_that_nanobot_estimated_is_no_usage():
    assert usage_of(LLMUsage.estimated(input_tokens=5, output_tokens=2)) is None
    assert usage_of(None) is None
    reported = LLMUsage.reported(
        input_tokens=9, output_tokens=2, total_tokens=16, cache_read_tokens=3, cache_write_tokens=1
    )
    assert usage_of(reported) == Usage(input=5, cache_read=3, cache_write=1, output=2, reasoning=5)


async def test_books_are_clean_after_turns_at_once(client, service, ledger):
    ledger.grant("ada")
    await asyncio.gather(*(ask(client, stream=number % 2 == 0, session=f"s{number}") for number in range(6)))
    assert ledger.charges("ada") == [COST] * 6
    assert (await asyncio.to_thread(audit, service.database)).findings == []


def test_the_example_runs_offline(ledger: Ledger, tmp_path: Path):
    ledger.grant("ada")
    printed = run_example("nanobot_host.py", "Hello", ledger=ledger, home=tmp_path)
    assert "local stand-in" in printed
    assert "ada was charged" in printed
    assert len(ledger.charges("ada")) == 1
