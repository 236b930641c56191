"""google-adk's runner with agents on a model that calls a provider with known usage over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.genai import types
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, SEARCH, THREE_WORDS_TOKENS, affording
from stub_provider import ANSWER, Behaviour

from credits_plugin.adapters import Payer, google_adk
from credits_plugin.adapters.google_adk import MeteredModels


class ChatModel(BaseLlm):
    """A model behind the Chat Completions protocol, as small as it can be."""

    url: str

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        limit = llm_request.config.max_output_tokens
        body = {"model": self.model, "messages": [], "max_tokens": limit, "stream": stream}
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(
                f"{self.url}/chat/completions", json=body | {"stream_options": {"include_usage": True}}
            ) as answer,
        ):
            if not stream:
                whole = await answer.json()
                yield LlmResponse(
                    content=said(whole["choices"][0]["message"]["content"]), usage_metadata=metadata(whole)
                )
                return
            text, usage = "", None
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    chunk = json.loads(line[6:])
                    usage = metadata(chunk) or usage
                    for choice in chunk["choices"]:
                        word = choice["delta"].get("content", "")
                        text += word
                        yield LlmResponse(content=said(word), partial=True)
            yield LlmResponse(content=said(text), partial=False, usage_metadata=usage)


def said(text: str) -> types.Content:
    return types.Content(role="model", parts=[types.Part(text=text)])


def metadata(chunk: dict[str, Any]) -> types.GenerateContentResponseUsageMetadata | None:
    if not (usage := chunk.get("usage")):
        return None
    return types.GenerateContentResponseUsageMetadata(
        prompt_token_count=usage["prompt_tokens"],
        cached_content_token_count=usage["prompt_tokens_details"]["cached_tokens"],
        candidates_token_count=usage["completion_tokens"],
        total_token_count=usage["total_tokens"],
    )


@pytest.fixture
def model(provider):
    return ChatModel(model="toy", url=provider.url)


@pytest.fixture
def runner(service, model):
    agent = LlmAgent(name="helper", model=model, instruction="Be brief.")
    return InMemoryRunner(agent=agent, app_name="test", plugins=[MeteredModels(service, identify)])


def identify(context) -> Payer | None:
    return Payer(context.user_id) if context.user_id != "stranger" else None


def begin(runner, user: str, *, stream: bool = False) -> AsyncGenerator[Any, None]:
    config = RunConfig(streaming_mode=StreamingMode.SSE if stream else StreamingMode.NONE)
    message = types.Content(role="user", parts=[types.Part(text="Hello")])
    return runner.run_async(user_id=user, session_id=user, new_message=message, run_config=config)


async def chat(runner, user: str, *, stream: bool = False) -> list[Any]:
    await runner.session_service.create_session(app_name="test", user_id=user, session_id=user)
    return [event async for event in begin(runner, user, stream=stream)]


def text(event: Any) -> str:
    return "".join(part.text for part in event.content.parts)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_costs_what_the_provider_reported(runner, ledger, provider, stream):
    ledger.grant("ann")
    events = await chat(runner, "ann", stream=stream)
    assert text(events[-1]) == ANSWER
    assert ledger.charges("ann") == [COST]
    assert ledger.tokens("ann") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ann") == 0
    assert provider.calls[0]["max_tokens"] == 4_096


@pytest.mark.parametrize("stream", [False, True])
async def test_without_credits_the_answer_says_so_and_the_provider_is_not_called(runner, ledger, provider, stream):
    ledger.grant("bob", 100)
    [event] = await chat(runner, "bob", stream=stream)
    assert event.error_code == "insufficient_credits"
    assert "credits" in text(event)
    assert provider.calls == []
    assert (ledger.charges("bob"), ledger.held("bob")) == ([], 0)


async def test_a_run_that_nobody_pays_for_is_refused(runner, provider):
    [event] = await chat(runner, "stranger")
    assert event.error_code == "unidentified"
    assert provider.calls == []


async def test_an_abandoned_stream_costs_the_prompt_and_what_was_streamed(runner, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.HANG
    await listen(runner, "ann")
    [(prompt, _, _, output, _)] = ledger.tokens("ann")
    assert prompt > 0
    assert output == THREE_WORDS_TOKENS
    assert ledger.held("ann") == 0


async def test_a_cancelled_run_costs_the_prompt_and_what_was_streamed(runner, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.HANG
    heard = asyncio.Event()
    task = asyncio.create_task(listen(runner, "ann", heard))
    await heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [tokens[3] for tokens in ledger.tokens("ann")] == [THREE_WORDS_TOKENS]
    assert ledger.held("ann") == 0


async def test_a_provider_that_fails_costs_nothing(runner, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.FAIL
    with pytest.raises(aiohttp.ClientResponseError):
        await chat(runner, "ann")
    assert len(provider.calls) == 1
    assert (ledger.charges("ann"), ledger.held("ann")) == ([], 0)


async def test_a_provider_that_breaks_off_costs_nothing(runner, ledger, provider):
    ledger.grant("ann")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(aiohttp.ClientPayloadError):
        await chat(runner, "ann", stream=True)
    assert (ledger.charges("ann"), ledger.held("ann")) == ([], 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_usage_costs_the_prompt_and_the_text_once(runner, ledger, provider, stream):
    ledger.grant("ann")
    provider.behaviour = Behaviour.NO_USAGE
    await chat(runner, "ann", stream=stream)
    assert [tokens[3] for tokens in ledger.tokens("ann")] == [ANSWER_TOKENS]
    assert ledger.held("ann") == 0


async def test_a_stream_ends_well_where_the_credits_do(service, model, ledger, provider):
    plugin = MeteredModels(service, identify, min_output_tokens=1)
    agent = LlmAgent(name="helper", model=model)
    runner = InMemoryRunner(agent=agent, app_name="test", plugins=[plugin])
    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("ben")
    await chat(runner, "ben", stream=True)
    limit = affording(ledger.tokens("ben")[0][0], THREE_WORDS_TOKENS + 1)
    ledger.grant("ann", limit)
    last = (await chat(runner, "ann", stream=True))[-1]
    assert (last.partial, last.finish_reason) == (None, types.FinishReason.MAX_TOKENS)
    assert ledger.stopped_at(limit, "ann", text(last))


async def test_reasoning_that_a_model_counts_twice_is_charged_once(service, provider, ledger):
    class Reasoning(BaseLlm):
        """What ADK's LiteLlm says of 120 in and 30 out, 20 of them reasoning."""

        async def generate_content_async(self, llm_request, stream=False):
            usage = {"prompt_token_count": 120, "candidates_token_count": 30, "total_token_count": 150}
            usage = types.GenerateContentResponseUsageMetadata(**usage, thoughts_token_count=20)
            yield LlmResponse(content=said(ANSWER), usage_metadata=usage)

    ledger.grant("ann")
    agent = LlmAgent(name="helper", model=Reasoning(model="toy"))
    await chat(InMemoryRunner(agent=agent, app_name="test", plugins=[MeteredModels(service, identify)]), "ann")
    assert ledger.tokens("ann") == [(120, 0, 0, 10, 20)]


@pytest.mark.parametrize(("version", "searches"), [("gemini-2.5-flash", 1), ("gemini-3.1-pro-preview", 2), (None, 2)])
async def test_searches_of_google_are_held_for_and_charged(service, ledger, version, searches):
    held: list[int] = []

    class Searching(BaseLlm):
        async def generate_content_async(self, llm_request, stream=False):
            held.append(ledger.held("ann"))
            usage = {"prompt_token_count": 10, "candidates_token_count": 5, "total_token_count": 15}
            yield LlmResponse(
                content=said(ANSWER),
                model_version=version,
                usage_metadata=types.GenerateContentResponseUsageMetadata(**usage),
                grounding_metadata=types.GroundingMetadata(web_search_queries=["moon", "", "sun", "moon"]),
            )

    config = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())], max_output_tokens=10)
    agent = LlmAgent(name="helper", model=Searching(model="searching"), before_model_callback=with_tools(config))
    runner = InMemoryRunner(agent=agent, app_name="test", plugins=[MeteredModels(service, identify)])
    ledger.grant("ann", 5 * SEARCH)
    await chat(runner, "ann")
    assert held == []
    ledger.grant("ann")
    async with aclosing(begin(runner, "ann")) as events:
        async for _ in events:
            pass
    assert 5 * SEARCH < held[0] < 6 * SEARCH
    assert ledger.charges("ann") == [searches * SEARCH + affording(10, 5)]


def with_tools(config: types.GenerateContentConfig):
    def add(callback_context, llm_request):
        llm_request.config.tools = [*(llm_request.config.tools or ()), *config.tools]
        llm_request.config.max_output_tokens = config.max_output_tokens

    return add


async def test_an_agent_used_as_a_tool_is_paid_for_by_whoever_asked(service, model, ledger, provider):
    class Asking(BaseLlm):
        """Asks its tool once, then answers."""

        async def generate_content_async(self, llm_request, stream=False):
            call = types.FunctionCall(name="helper", args={"request": "Hello"})
            is_first = not any(part.function_response for part in llm_request.contents[-1].parts)
            part = types.Part(function_call=call) if is_first else types.Part(text="Done.")
            usage = {"prompt_token_count": 10, "candidates_token_count": 1, "total_token_count": 11}
            usage = types.GenerateContentResponseUsageMetadata(**usage)
            yield LlmResponse(content=types.Content(role="model", parts=[part]), usage_metadata=usage)

    ledger.grant("ann")
    tool = AgentTool(LlmAgent(name="helper", model=model))
    agent = LlmAgent(name="asking", model=Asking(model="toy"), tools=[tool])
    runner = InMemoryRunner(agent=agent, app_name="test", plugins=[MeteredModels(service, identify)])
    await chat(runner, "ann")
    assert sorted(ledger.tokens("ann")) == [(10, 0, 0, 1, 0), (10, 0, 0, 1, 0), (56, 64, 0, 30, 0)]


async def test_a_metered_model_serves_no_runner_without_the_plugin(runner, model, ledger, provider):
    ledger.grant("ann")
    await chat(runner, "ann")
    [event] = await chat(InMemoryRunner(agent=LlmAgent(name="free", model=model), app_name="test"), "ann")
    assert event.error_code == "unidentified"
    assert len(provider.calls) == 1


async def test_a_payer_pays_for_the_request_that_was_named_and_for_no_other(service, runner, model, ledger, provider):
    ledger.grant("ann")
    await chat(runner, "ann")
    google_adk._asked.set(google_adk._Asked(service, Payer("ann"), "run", LlmRequest(), None))
    [response] = [response async for response in model.generate_content_async(LlmRequest())]
    assert response.error_code == "unidentified"
    assert len(provider.calls) == 1


async def test_a_live_session_is_refused(runner, ledger, provider):
    from google.adk.agents import LiveRequestQueue

    session = await runner.session_service.create_session(app_name="test", user_id="ann", session_id="ann")
    live = runner.run_live(session=session, live_request_queue=LiveRequestQueue())
    [event] = [event async for event in live]
    assert "Live sessions cannot be metered" in text(event)


def test_the_example_says_what_was_charged_or_what_is_missing(ledger, tmp_path):
    assert "Buy credits" in run_example("google_adk_agent.py", "Hello", ledger=ledger, home=tmp_path)
    ledger.grant("ada")
    printed = run_example("google_adk_agent.py", "Hello", ledger=ledger, home=tmp_path)
    assert "I am local-small" in printed
    assert printed.count("ada was charged") == len(ledger.charges("ada")) == 1


async def listen(runner, user: str, heard: asyncio.Event | None = None) -> None:
    """Listen to three words, then leave; or say that they were heard, and stay."""
    await runner.session_service.create_session(app_name="test", user_id=user, session_id=user)
    words = 0
    async with aclosing(begin(runner, user, stream=True)) as events:
        async for event in events:
            words += bool(event.partial)
            if words == 3 and heard is None:
                return
            if words == 3:
                heard.set()
