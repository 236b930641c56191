"""bub's own framework and agent, its plugins loaded by entry point, on a provider with known usage."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from bub import configure
from bub.builtin.agent import Agent
from bub.channels.message import ChannelMessage
from bub.framework import BubFramework
from bub.store import InMemoryTapeStore
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, THREE_WORDS_TOKENS, affording
from stub_provider import ANSWER, WORDS, Behaviour, StubProvider

from credits_plugin import Credits
from credits_plugin.adapters import Payer, bub


@pytest.fixture
def settings(tmp_path: Path, provider: StubProvider, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of bub that names the provider, and another that nobody runs."""
    file = tmp_path / "config.json"
    values = {"model": "openai:toy", "api_key": "key", "api_base": provider.url, "client_args": {"max_retries": 0}}
    values["providers"] = {"closed": {"type": "openai", "api_base": "http://127.0.0.1:9/v1", "api_key": "key"}}
    file.write_text(json.dumps(values))
    monkeypatch.setenv("BUB_HOME", str(tmp_path))
    return file


@pytest.fixture
def plugin(service: Credits) -> Iterator[bub.CreditsPlugin]:
    """The plugin of the entry point, configured: the channel's chat names the payer."""
    bub.plugin.configure(service, identify)
    yield bub.plugin
    bub.plugin.__init__()


def identify(turn: bub.Turn) -> Payer | None:
    chat = getattr(turn.message, "chat_id", None)
    return Payer(chat) if chat not in (None, "stranger") else None


@pytest.fixture
async def framework(settings: Path) -> AsyncIterator[BubFramework]:
    framework = BubFramework(settings)
    framework.load_hooks()
    async with framework.running():
        yield framework


async def chat(framework: BubFramework, user: str, *, stream: bool = False) -> str:
    message = ChannelMessage(session_id=f"test:{user}", channel="test", chat_id=user, content="Hello")
    return (await framework.process_inbound(message, stream_output=stream)).model_output


async def begin(framework: BubFramework, user: str) -> Any:
    """Start a turn whose stream the test reads, as a channel would."""
    message = ChannelMessage(session_id=f"test:{user}", channel="test", chat_id=user, content="Hello")
    state = await framework.build_state(message, message.session_id)
    agent = Agent(framework, tools=(), tape_store=InMemoryTapeStore(), skill_dirs=())
    return await agent.run_stream(session_id=message.session_id, prompt="Hello", state=state)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_costs_what_the_provider_reported(framework, plugin, ledger, provider, stream):
    ledger.grant("ann")
    assert await chat(framework, "ann", stream=stream) == ANSWER
    assert ledger.charges("ann") == [COST]
    assert ledger.tokens("ann") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ann") == 0
    assert len(provider.calls) == 1


async def test_the_provider_is_told_what_the_hold_covers(framework, plugin, ledger, provider):
    ledger.grant("ann")
    await chat(framework, "ann")
    assert provider.calls[0]["max_completion_tokens"] == 16_384  # bub's own limit, which the hold was placed for
    assert provider.calls[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
async def test_without_credits_the_answer_says_so_and_the_provider_is_not_called(
    framework, plugin, ledger, provider, stream
):
    ledger.grant("bob", 100)
    answer = await chat(framework, "bob", stream=stream)
    assert "credits" in answer
    assert provider.calls == []
    assert (ledger.charges("bob"), ledger.held("bob")) == ([], 0)


async def test_a_turn_that_nobody_pays_for_is_refused(framework, plugin, provider):
    assert "Nobody is named who pays" in await chat(framework, "stranger")
    assert provider.calls == []


async def test_an_abandoned_stream_costs_the_prompt_and_what_was_streamed(framework, plugin, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.HANG
    async with aclosing(await begin(framework, "ann")) as events:
        await read_words(events, 3)
        assert ledger.held("ann") > 0
    [(prompt, _, _, output, _)] = ledger.tokens("ann")
    assert prompt > 0
    assert output == THREE_WORDS_TOKENS
    assert ledger.held("ann") == 0


@pytest.mark.parametrize("is_closed", [True, False])
async def test_a_stream_that_is_dropped_before_its_first_piece_costs_the_prompt(
    framework, plugin, ledger, provider, is_closed
):
    ledger.grant("ann")
    message = ChannelMessage(session_id="test:ann", channel="test", chat_id="ann", content="Hello")
    agent = Agent(framework, tools=(), tape_store=InMemoryTapeStore(), skill_dirs=())
    state = await framework.build_state(message, message.session_id) | {"_runtime_agent": agent}
    assert plugin.before_llm_call(state) is None
    asked = [{"role": "user", "content": "Hello"}]
    stream = await agent.model_runner.completion_response(model="openai:toy", messages=asked, tools=[])
    assert ledger.held("ann") > 0
    if is_closed:
        await stream.aclose()
    else:
        del stream
        gc.collect()
    await ledger.settled("ann")
    [(prompt, _, _, output, _)] = ledger.tokens("ann")
    assert (prompt > 0, output) == (True, 0)


async def test_a_cancelled_turn_costs_the_prompt_and_what_was_streamed(framework, plugin, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.HANG
    heard = asyncio.Event()

    async def listen() -> None:
        async with aclosing(await begin(framework, "ann")) as events:
            await read_words(events, 3)
            heard.set()
            await read_words(events, 1)

    task = asyncio.create_task(listen())
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [tokens[3] for tokens in ledger.tokens("ann")] == [THREE_WORDS_TOKENS]
    assert ledger.held("ann") == 0


async def test_a_provider_that_fails_costs_nothing(framework, plugin, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.FAIL
    with pytest.raises(Exception, match="out of order"):
        await chat(framework, "ann")
    assert len(provider.calls) == 1
    assert (ledger.charges("ann"), ledger.held("ann")) == ([], 0)


async def test_a_provider_that_breaks_off_costs_nothing(framework, plugin, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(Exception, match="Connection error"):
        await chat(framework, "ann", stream=True)
    assert (ledger.charges("ann"), ledger.held("ann")) == ([], 0)


async def test_an_answer_without_usage_costs_the_prompt_and_the_text(framework, plugin, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.NO_USAGE
    assert await chat(framework, "ann", stream=True) == ANSWER
    assert [tokens[3] for tokens in ledger.tokens("ann")] == [ANSWER_TOKENS]
    assert ledger.held("ann") == 0


async def test_a_stream_ends_where_the_credits_do(framework, service, plugin, ledger, provider):
    plugin.configure(service, identify, min_output_tokens=1)
    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("ben")
    assert await chat(framework, "ben", stream=True) == ANSWER
    limit = affording(ledger.tokens("ben")[0][0], THREE_WORDS_TOKENS + 1)
    ledger.grant("ann", limit)
    heard = await chat(framework, "ann", stream=True)
    assert ledger.stopped_at(limit, "ann", heard)


async def test_each_attempt_of_a_fallback_is_a_call_of_its_own(framework, plugin, ledger, provider, monkeypatch):
    ledger.grant("ann")
    monkeypatch.setenv("BUB_MODEL", "closed:toy")
    monkeypatch.setenv("BUB_FALLBACK_MODELS", '["openai:toy"]')
    configure.load(framework.config_file)
    assert await chat(framework, "ann") == ANSWER
    assert (ledger.charges("ann"), ledger.held("ann")) == ([COST], 0)


async def test_a_sub_agent_is_paid_for_by_whoever_asked(framework, plugin, ledger, provider):
    ledger.grant("ann")
    message = ChannelMessage(session_id="test:ann", channel="test", chat_id="ann", content="Hello")
    state = await framework.build_state(message, message.session_id)
    agent = Agent(framework, tools=(), tape_store=InMemoryTapeStore(), skill_dirs=())
    inherited = {**state, "session_id": "temp/1"}  # as bub's tool `subagent` makes it
    async with aclosing(await agent.run_stream(session_id="temp/1", prompt="Hello", state=inherited)) as events:
        await read_words(events, len(WORDS))
        async for _ in events:
            pass
    assert ledger.charges("ann") == [COST]


async def test_unconfigured_it_lets_calls_pass_and_says_so_once(framework, ledger, provider, caplog):
    assert await chat(framework, "ann") == ANSWER
    assert await chat(framework, "ann") == ANSWER
    assert [record.levelname for record in caplog.records if "not configured" in record.message] == ["WARNING"]
    assert ledger.charges("ann") == []


async def read_words(events: AsyncIterator[Any], count: int) -> None:
    async for event in events:
        count -= event.kind == "text"
        if not count:
            return


def test_the_example_says_what_was_charged_or_what_is_missing(ledger, tmp_path):
    assert "Buy credits" in run_example("bub_agent.py", "Hello", ledger=ledger, home=tmp_path)
    ledger.grant("ada")
    printed = run_example("bub_agent.py", "Hello", ledger=ledger, home=tmp_path)
    assert "I am local-small" in printed
    assert printed.count("ada was charged") == len(ledger.charges("ada")) == 1
