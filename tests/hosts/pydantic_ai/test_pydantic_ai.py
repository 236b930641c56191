"""The adapter inside the real pydantic-ai, against a provider with known usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, SEARCH, THREE_WORDS, THREE_WORDS_TOKENS, affording
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import RequestUsage
from stub_provider import ANSWER, Behaviour, StubProvider

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.pydantic_ai import MeteredModel, MeteredRequests
from credits_plugin.metering import RequestRefused


@dataclass
class Deps:
    user: str | None


class City(BaseModel):
    name: str


def payer_of(context: RunContext[Deps] | None) -> Payer | None:
    return Payer(context.deps.user) if context is not None and context.deps.user else None


@pytest.fixture
async def client(provider: StubProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def model(client: AsyncOpenAI) -> OpenAIChatModel:
    return OpenAIChatModel("toy", provider=OpenAIProvider(openai_client=client))


@pytest.fixture
def agent(service: Credits, model: OpenAIChatModel) -> Agent[Deps, str]:
    return Agent(model, deps_type=Deps, capabilities=[MeteredRequests(service, payer_of)])


async def test_an_allowed_run_is_charged_what_the_provider_reports(agent, provider, ledger):
    ledger.grant("ada")
    result = await agent.run("Hello", deps=Deps("ada"))
    assert result.output == ANSWER
    assert ledger.charges("ada") == [COST]
    assert ledger.tokens("ada") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ada") == 0
    assert provider.calls[0]["max_completion_tokens"] == 4096


async def test_the_limit_sent_is_the_one_the_hold_covers(agent, provider, ledger):
    ledger.grant("ada")
    await agent.run("Hello", deps=Deps("ada"), model_settings={"max_tokens": 77})
    assert provider.calls[0]["max_completion_tokens"] == 77


async def test_a_refused_run_answers_with_the_refusal_and_calls_nobody(agent, provider, ledger):
    ledger.grant("ada", 1)
    result = await agent.run("Hello", deps=Deps("ada"))
    assert "Buy credits" in result.output
    assert result.response.metadata == {"credits_refusal": "insufficient_credits"}
    assert provider.calls == []
    assert ledger.charges("ada") == []


async def test_a_refused_stream_says_why(agent, provider):
    async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
        text = "".join([piece async for piece in stream.stream_text(delta=True)])
    assert "Buy credits" in text
    assert provider.calls == []


async def test_a_run_that_nobody_pays_for_is_refused(agent, provider):
    result = await agent.run("Hello", deps=Deps(None))
    assert result.response.metadata == {"credits_refusal": "unidentified"}
    assert provider.calls == []


async def test_a_refusal_is_raised_where_the_output_cannot_be_text(agent, provider, ledger):
    with pytest.raises(RequestRefused) as refused:
        await agent.run("Hello", deps=Deps("ada"), output_type=City)
    assert refused.value.refusal.code == "insufficient_credits"
    assert provider.calls == []


async def test_a_stream_is_charged_what_the_provider_reports(agent, ledger):
    ledger.grant("ada")
    async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
        text = "".join([piece async for piece in stream.stream_text(delta=True)])
    assert text == ANSWER
    assert ledger.charges("ada") == [COST]


async def test_a_stream_that_its_reader_leaves_is_charged_for_what_it_delivered(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
        async for text in stream.stream_text(debounce_by=None):
            if text == THREE_WORDS:
                break
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_stream_whose_task_is_cancelled_is_charged_for_what_it_delivered(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read():
        async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
            async for text in stream.stream_text(debounce_by=None):
                if text == THREE_WORDS:
                    heard.set_result(stream.run_id)

    reader = asyncio.create_task(read())
    run_id = await heard
    assert ledger.runs("ada") == [run_id]
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_stream_that_its_reader_cancels_is_charged_for_what_it_delivered(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    with suppress(ModelAPIError):  # which the host raises, with this version of openai's library
        async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
            async for text in stream.stream_text(debounce_by=None):
                if text == THREE_WORDS:
                    await stream.cancel()
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_usage_of_a_stream_that_was_cancelled_is_not_believed(service, ledger):
    async def speak(_messages, _info):
        yield "one two"
        yield " three"

    ledger.grant("ada")
    metered = MeteredModel(FunctionModel(stream_function=speak, model_name="toy"), service, lambda _: Payer("ada"))
    async with model_request_stream(metered, [ModelRequest.user_text_prompt("Hello")]) as stream:
        async for _event in stream:
            await stream.cancel()
    await ledger.settled("ada")
    ((input_tokens, *_rest),) = ledger.tokens("ada")
    assert input_tokens > 100  # the estimate, an upper bound; the host's own count is 51


async def test_a_stream_ends_well_where_the_credits_do(service, model, provider, ledger):
    agent = Agent(model, deps_type=Deps, capabilities=[MeteredRequests(service, payer_of, min_output_tokens=1)])

    async def hear(user: str) -> tuple[str, str]:
        async with agent.run_stream("Hello", deps=Deps(user)) as stream:
            text = "".join([piece async for piece in stream.stream_text(delta=True, debounce_by=None)])
            return text, stream.response.finish_reason

    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("bob")
    assert await hear("bob") == (ANSWER, "stop")
    (bob,) = ledger.tokens("bob")
    limit = affording(bob[0], THREE_WORDS_TOKENS + 1)
    ledger.grant("ada", limit)
    heard, reason = await hear("ada")
    assert reason == "length"
    await ledger.settled("ada")
    assert ledger.stopped_at(limit, "ada", heard)


async def test_credits_that_end_within_a_tool_call_are_no_empty_answer(service, model, provider, ledger):
    agent = Agent(model, deps_type=Deps, capabilities=[MeteredRequests(service, payer_of, min_output_tokens=1)])

    @agent.tool_plain
    def shout(input: str) -> str:
        return input.upper()

    async def hear(user: str) -> str:
        async with agent.run_stream("Hello", deps=Deps(user)) as stream:
            return await stream.get_output()

    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("bob")
    assert await hear("bob") == ANSWER
    (bob,) = ledger.tokens("bob")
    ledger.grant("ada", affording(bob[0], 6))
    provider.behaviour = Behaviour.CALL_TOOL
    assert "Buy credits" in await hear("ada")  # the host asks for the whole call, which is refused
    await ledger.settled("ada")
    assert len(ledger.charges("ada")) == len(provider.calls) - 1 == 1


async def test_a_run_whose_task_is_cancelled_is_charged_for_its_prompt(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    run = asyncio.create_task(agent.run("Hello", deps=Deps("ada")))
    while not provider.calls:
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await ledger.settled("ada")
    assert ledger.said("ada") == [0]


async def test_an_error_of_the_provider_costs_nothing(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.FAIL
    with pytest.raises(ModelHTTPError):
        await agent.run("Hello", deps=Deps("ada"))
    assert ledger.charges("ada") == []
    assert ledger.held("ada") == 0


async def test_a_stream_that_the_provider_breaks_off_costs_nothing(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(ModelAPIError):
        async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
            await stream.get_output()
    assert len(provider.calls) == 1
    assert ledger.charges("ada") == []
    assert ledger.held("ada") == 0


async def test_an_answer_without_usage_is_counted(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.NO_USAGE
    await agent.run("Hello", deps=Deps("ada"))
    async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
        await stream.get_output()
    assert ledger.said("ada") == [ANSWER_TOKENS, ANSWER_TOKENS]


async def test_an_answer_that_was_cut_off_before_its_first_word_is_charged(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CUT_OFF
    with pytest.raises(UnexpectedModelBehavior):
        await agent.run("Hello", deps=Deps("ada"))
    assert set(ledger.charges("ada")) == {COST}


async def test_what_another_capability_answers_itself_costs_nothing(service, model, provider, ledger):
    class Canned(WrapperModel):
        async def request(self, *_asked):
            return ModelResponse(parts=[TextPart("canned")])

    class Can(AbstractCapability):
        def get_wrapper_model(self, model):
            return Canned(model)

    agent = Agent(model, deps_type=Deps, capabilities=[MeteredRequests(service, payer_of), Can()])
    result = await agent.run("Hello", deps=Deps("ada"))
    assert result.output == "canned"
    assert provider.calls == []


async def test_what_the_sdk_retries_is_one_hold(agent, client, provider, ledger):
    ledger.grant("ada")
    client.max_retries = 1
    provider.behaviour = Behaviour.FAIL
    run = asyncio.create_task(agent.run("Hello", deps=Deps("ada")))
    while not provider.calls:
        await asyncio.sleep(0.01)
    provider.behaviour = Behaviour.ANSWER
    await run
    assert len(provider.calls) == 2
    assert ledger.charges("ada") == [COST]


async def test_a_tool_loop_is_a_hold_for_each_request(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CALL_TOOL

    @agent.tool_plain
    def shout(input: str) -> str:
        return input.upper()

    result = await agent.run("Hello", deps=Deps("ada"))
    assert result.output == ANSWER
    assert ledger.charges("ada") == [COST, COST]


async def test_each_request_of_a_run_is_a_hold_of_its_own(agent, provider, ledger):
    ledger.grant("ada")
    with pytest.raises(UnexpectedModelBehavior):  # the provider never answers as a City, and is asked again
        await agent.run("Hello", deps=Deps("ada"), output_type=City)
    assert len(provider.calls) == 2
    assert ledger.charges("ada") == [COST, COST]


async def test_a_metered_model_in_a_metered_agent_is_charged_once(service, model, provider, ledger):
    ledger.grant("ada")
    metered = MeteredModel(model, service, payer_of)
    agent = Agent(metered, deps_type=Deps, capabilities=[MeteredRequests(service, payer_of)])
    await agent.run("Hello", deps=Deps("ada"))
    async with agent.run_stream("Hello", deps=Deps("ada")) as stream:
        await stream.get_output()
    assert ledger.charges("ada") == [COST, COST]
    assert len(provider.calls) == 2


async def test_a_metered_model_works_without_an_agent(service, model, ledger):
    ledger.grant("ada")
    metered = MeteredModel(model, service, lambda _nobody: Payer("ada"))
    await model_request(metered, [ModelRequest.user_text_prompt("Hello")])
    assert ledger.charges("ada") == [COST]


async def test_requests_that_would_pass_the_meter_by_are_refused(service, model):
    metered = MeteredModel(model, service, payer_of)
    with pytest.raises(RequestRefused, match="cannot be metered"):
        await metered.batch_create([])
    with pytest.raises(RequestRefused, match="cannot be metered"):
        await metered.compact_messages(None)


async def test_an_image_is_estimated_by_its_size_and_not_as_text(agent, provider, ledger):
    ledger.grant("ada", 10_000_000)
    image = BinaryContent(bytes(600_000), media_type="image/png")
    await agent.run(["What is this?", image], deps=Deps("ada"))
    assert ledger.charges("ada") == [COST]


async def test_searches_of_the_provider_are_held_for_and_charged(service, ledger):
    held: list[int] = []

    def answer(messages, info) -> ModelResponse:
        held.append(ledger.held("ada"))
        read = NativeToolCallPart("web_search", {"type": "open_page"})
        parts = [NativeToolCallPart("web_search", {"type": "search"}), NativeToolCallPart("web_search", "{}"), read]
        return ModelResponse([*parts, TextPart("Hi")], usage=RequestUsage(input_tokens=10, output_tokens=5))

    metered = MeteredModel(FunctionModel(answer, model_name="searching"), service, lambda _: Payer("ada"))
    parameters = ModelRequestParameters(native_tools=[WebSearchTool(max_uses=3)])
    hello: list[ModelMessage] = [ModelRequest([UserPromptPart("Hello")])]
    ledger.grant("ada", 3 * SEARCH)
    await metered.request(hello, {"max_tokens": 10}, parameters)
    assert held == []  # three searches, and nothing left for a word
    ledger.grant("ada")
    await metered.request(hello, {"max_tokens": 10}, parameters)
    assert 3 * SEARCH < held[0] < 4 * SEARCH
    assert ledger.charges("ada") == [2 * SEARCH + affording(10, 5)]


@pytest.mark.parametrize("setting", [None, "cache", "anthropic_cache", "anthropic_cache_messages", "point"])
async def test_an_hours_cache_is_held_for_however_it_is_asked_for(service, ledger, setting):
    held: list[int] = []

    def answer(messages, info) -> ModelResponse:
        held.append(ledger.held("ada"))
        return ModelResponse([TextPart("Hi")], usage=RequestUsage(input_tokens=10, output_tokens=5))

    ledger.grant("ada")
    metered = MeteredModel(FunctionModel(answer, model_name="searching"), service, lambda _: Payer("ada"))
    points = [CachePoint(ttl="1h")] if setting == "point" else []
    hello: list[ModelMessage] = [ModelRequest([UserPromptPart(["Hello " * 1_000, *points])])]
    settings = {"max_tokens": 10} | ({setting: "1h"} if setting not in (None, "point") else {})
    await metered.request(hello, settings, ModelRequestParameters())
    assert (held[0] > 1_000 * 900) is (setting is not None)


def test_the_example_runs_and_says_what_was_charged(ledger, tmp_path):
    ledger.grant("ada")
    printed = run_example("pydantic_ai_agent.py", "Hello", ledger=ledger, home=tmp_path)
    assert printed.count("ada was charged") == len(ledger.charges("ada")) == 2
