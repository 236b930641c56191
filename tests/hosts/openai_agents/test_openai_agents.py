"""The adapter inside the real openai-agents, against a provider with known usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from agents import (
    Agent,
    Model,
    ModelBehaviorError,
    ModelResponse,
    ModelSettings,
    OpenAIProvider,
    RunConfig,
    Runner,
    WebSearchTool,
    trace,
)
from agents.usage import Usage
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, SEARCH, THREE_WORDS, THREE_WORDS_TOKENS, affording
from openai import APIConnectionError, AsyncOpenAI, InternalServerError
from openai.types.responses import ResponseFunctionWebSearch, ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response_function_web_search import ActionOpenPage, ActionSearch
from stub_provider import ANSWER, Behaviour, StubProvider

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.openai_agents import MeteredModel, MeteredProvider
from credits_plugin.metering import RequestRefused


@dataclass
class City:
    name: str


@pytest.fixture
async def client(provider: StubProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def upstream(client: AsyncOpenAI) -> OpenAIProvider:
    return OpenAIProvider(openai_client=client, use_responses=False)


@pytest.fixture
def config(service: Credits, upstream: OpenAIProvider) -> RunConfig:
    metered = MeteredProvider(service, Payer("ada"), wrapped=upstream)
    return RunConfig(model_provider=metered, tracing_disabled=True)


@pytest.fixture
def agent() -> Agent:
    return Agent(name="Helper", instructions="Help.", model="toy")


async def text_of(stream, *, until: str | None = None) -> str:
    text = ""
    async for event in stream.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
        if text == until:
            break
    return text


async def test_an_allowed_run_is_charged_what_the_provider_reports(agent, config, provider, ledger):
    ledger.grant("ada")
    result = await Runner.run(agent, "Hello", run_config=config)
    assert result.final_output == ANSWER
    assert ledger.charges("ada") == [COST]
    assert ledger.tokens("ada") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ada") == 0
    assert provider.calls[0]["max_tokens"] == 4096


async def test_the_limit_sent_is_the_one_the_hold_covers(agent, config, provider, ledger):
    ledger.grant("ada")
    agent.model_settings = ModelSettings(max_tokens=77)
    await Runner.run(agent, "Hello", run_config=config)
    assert provider.calls[0]["max_tokens"] == 77


async def test_a_refused_run_raises_the_refusal_and_calls_nobody(agent, config, provider, ledger):
    ledger.grant("ada", 1)
    with pytest.raises(RequestRefused) as refused:
        await Runner.run(agent, "Hello", run_config=config)
    assert "Buy credits" in refused.value.refusal.text
    assert provider.calls == []
    assert ledger.charges("ada") == []


async def test_a_refused_stream_raises_the_refusal(agent, config, provider):
    with pytest.raises(RequestRefused, match="Buy credits"):
        await text_of(Runner.run_streamed(agent, "Hello", run_config=config))
    assert provider.calls == []


async def test_a_run_that_nobody_pays_for_is_refused(agent, service, upstream, provider):
    config = RunConfig(model_provider=MeteredProvider(service, None, wrapped=upstream), tracing_disabled=True)
    with pytest.raises(RequestRefused) as refused:
        await Runner.run(agent, "Hello", run_config=config)
    assert refused.value.refusal.code == "unidentified"
    assert provider.calls == []


async def test_a_stream_is_charged_what_the_provider_reports(agent, config, ledger):
    ledger.grant("ada")
    assert await text_of(Runner.run_streamed(agent, "Hello", run_config=config)) == ANSWER
    await ledger.settled("ada")
    assert ledger.charges("ada") == [COST]


async def test_a_stream_that_its_reader_cancels_is_charged_for_what_it_delivered(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    stream = Runner.run_streamed(agent, "Hello", run_config=config)
    await text_of(stream, until=THREE_WORDS)
    stream.cancel()
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_stream_ends_well_where_the_credits_do(agent, service, upstream, provider, ledger):
    async def hear(user: str) -> tuple[str, str]:
        metered = MeteredProvider(service, Payer(user), wrapped=upstream, min_output_tokens=1)
        stream = Runner.run_streamed(
            agent, "Hello", run_config=RunConfig(model_provider=metered, tracing_disabled=True)
        )
        return await text_of(stream), stream.final_output

    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("bob")
    assert await hear("bob") == (ANSWER, ANSWER)
    (bob,) = ledger.tokens("bob")
    limit = affording(bob[0], THREE_WORDS_TOKENS + 1)
    ledger.grant("ada", limit)
    heard, output = await hear("ada")
    assert output == heard
    await ledger.settled("ada")
    assert ledger.stopped_at(limit, "ada", heard)


async def test_credits_that_end_within_a_tool_call_are_no_empty_answer(agent, service, upstream, provider, ledger):
    agent.tools = [Agent(name="Expert", model="toy").as_tool("ask_expert", "Asks an expert.")]

    async def hear(user: str) -> str:
        metered = MeteredProvider(service, Payer(user), wrapped=upstream, min_output_tokens=1)
        return await text_of(
            Runner.run_streamed(agent, "Hello", run_config=RunConfig(model_provider=metered, tracing_disabled=True))
        )

    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("bob")
    assert await hear("bob") == ANSWER
    (bob,) = ledger.tokens("bob")
    ledger.grant("ada", affording(bob[0], 6))
    provider.behaviour = Behaviour.CALL_TOOL
    with pytest.raises(RequestRefused, match="ran out before there was an answer"):
        await hear("ada")
    await ledger.settled("ada")
    assert len(ledger.charges("ada")) == len(provider.calls) - 1 == 1


async def test_a_run_whose_task_is_cancelled_is_charged_for_its_prompt(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    run = asyncio.create_task(Runner.run(agent, "Hello", run_config=config))
    while not provider.calls:
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await ledger.settled("ada")
    assert ledger.said("ada") == [0]


async def test_an_error_of_the_provider_costs_nothing(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.FAIL
    with pytest.raises(InternalServerError):
        await Runner.run(agent, "Hello", run_config=config)
    assert ledger.charges("ada") == []
    assert ledger.held("ada") == 0


async def test_a_stream_that_the_provider_breaks_off_costs_nothing(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(APIConnectionError):
        await text_of(Runner.run_streamed(agent, "Hello", run_config=config))
    assert len(provider.calls) == 1
    await ledger.settled("ada")
    assert ledger.charges("ada") == []


async def test_an_answer_without_usage_is_counted(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.NO_USAGE
    await Runner.run(agent, "Hello", run_config=config)
    await text_of(Runner.run_streamed(agent, "Hello", run_config=config))
    await ledger.settled("ada")
    assert ledger.said("ada") == [ANSWER_TOKENS, ANSWER_TOKENS]


async def test_what_the_sdk_retries_is_one_hold(agent, config, client, provider, ledger):
    ledger.grant("ada")
    client.max_retries = 1
    provider.behaviour = Behaviour.FAIL
    run = asyncio.create_task(Runner.run(agent, "Hello", run_config=config))
    while not provider.calls:
        await asyncio.sleep(0.01)
    provider.behaviour = Behaviour.ANSWER
    await run
    assert len(provider.calls) == 2
    assert ledger.charges("ada") == [COST]


async def test_a_tool_loop_is_a_hold_for_each_call_and_an_agent_as_a_tool_has_the_same_payer(
    agent, config, provider, ledger
):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CALL_TOOL
    tool = Agent(name="Expert", model="toy").as_tool("ask_expert", "Asks an expert.")
    agent.tools = [tool]
    result = await Runner.run(agent, "Hello", run_config=config)
    assert result.final_output == ANSWER
    assert len(provider.calls) == 3
    assert ledger.charges("ada") == [COST, COST, COST]


async def test_an_answer_that_the_runner_cannot_use_is_charged(config, provider, ledger):
    ledger.grant("ada")
    agent = Agent(name="Cities", model="toy", output_type=City)
    with pytest.raises(ModelBehaviorError):
        await Runner.run(agent, "Hello", run_config=config)
    assert ledger.charges("ada") == [COST]


async def test_an_answer_that_was_cut_off_before_its_first_word_is_charged(agent, config, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CUT_OFF
    with pytest.raises(ModelBehaviorError):
        await Runner.run(agent, "Hello", run_config=config)
    with pytest.raises(ModelBehaviorError):
        await text_of(Runner.run_streamed(agent, "Hello", run_config=config))
    await ledger.settled("ada")
    assert ledger.said("ada") == [0, 0]  # the SDK throws the usage away, so the estimated input is charged


async def test_a_model_object_is_metered_when_it_is_wrapped(service, upstream, provider, ledger):
    ledger.grant("ada")
    model = MeteredModel(upstream.get_model("toy"), service, Payer("ada"))
    agent = Agent(name="Helper", model=model)
    await Runner.run(agent, "Hello", run_config=RunConfig(tracing_disabled=True))
    assert ledger.charges("ada") == [COST]


async def test_a_metered_model_of_a_metered_provider_is_charged_once(service, config, agent, provider, ledger):
    ledger.grant("ada")
    twice = RunConfig(
        model_provider=MeteredProvider(service, Payer("ada"), wrapped=config.model_provider), tracing_disabled=True
    )
    await Runner.run(agent, "Hello", run_config=twice)
    await text_of(Runner.run_streamed(agent, "Hello", run_config=twice))
    await ledger.settled("ada")
    assert ledger.charges("ada") == [COST, COST]


async def test_searches_of_the_provider_are_held_for_and_charged(service, ledger):
    held: list[int] = []

    class Searching(Model):
        async def get_response(self, *_asked, **_more) -> ModelResponse:
            held.append(ledger.held("ada"))
            actions = [
                ActionSearch(type="search", query="moon"),
                ActionOpenPage(type="open_page", url="https://x.test"),
            ]
            calls = [
                ResponseFunctionWebSearch(id="w", type="web_search_call", status="completed", action=action)
                for action in actions
            ]
            text = ResponseOutputText(annotations=[], text="Hi", type="output_text")
            said = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
            return ModelResponse([*calls, said], Usage(requests=1, input_tokens=10, output_tokens=5), None)

        def stream_response(self, *_asked, **_more):
            raise NotImplementedError

    searching = Searching()
    searching.model = "searching"
    model = MeteredModel(searching, service, Payer("ada"))
    settings = ModelSettings(max_tokens=10, extra_args={"max_tool_calls": 3})
    agent = Agent(name="Helper", model=model, tools=[WebSearchTool()], model_settings=settings)
    ledger.grant("ada", 3 * SEARCH)
    with pytest.raises(RequestRefused):
        await Runner.run(agent, "Hello", run_config=RunConfig(tracing_disabled=True))
    ledger.grant("ada")
    await Runner.run(agent, "Hello", run_config=RunConfig(tracing_disabled=True))
    assert 3 * SEARCH < held[0] < 4 * SEARCH
    assert ledger.charges("ada") == [SEARCH + affording(10, 5)]


async def test_a_traced_run_names_its_trace_as_the_run(agent, service, upstream, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    config = RunConfig(model_provider=MeteredProvider(service, Payer("ada"), wrapped=upstream))
    with trace("errand", trace_id="trace_1"):
        stream = Runner.run_streamed(agent, "Hello", run_config=config)
        await text_of(stream, until=THREE_WORDS)
        assert ledger.runs("ada") == ["trace_1"]
        stream.cancel()
    await ledger.settled("ada")


def test_the_example_runs_and_says_what_was_charged(ledger, tmp_path):
    ledger.grant("ada")
    printed = run_example("openai_agents_agent.py", "Hello", ledger=ledger, home=tmp_path)
    assert printed.count("ada was charged") == len(ledger.charges("ada")) == 2
