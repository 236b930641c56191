"""The adapter inside the real langchain and langgraph, against a provider with known usage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from host_examples import run_example
from host_ledger import ANSWER_TOKENS, COST, SEARCH, THREE_WORDS, THREE_WORDS_TOKENS, affording
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from openai import APIConnectionError, InternalServerError, LengthFinishReasonError
from pydantic import BaseModel, ValidationError
from stub_provider import ANSWER, Behaviour, StubProvider

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.langchain import CreditsMiddleware, metered_model
from credits_plugin.errors import ConfigurationError
from credits_plugin.metering import RequestRefused

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Context:
    user: str | None


class City(BaseModel):
    """A city."""

    name: str


ADA = Context("ada")


def payer_of(runtime) -> Payer | None:
    return Payer(runtime.context.user) if runtime.context and runtime.context.user else None


@pytest.fixture
def model(provider: StubProvider) -> ChatOpenAI:
    return ChatOpenAI(model="toy", base_url=provider.url, api_key="none", max_retries=0)


@pytest.fixture
def agent(service: Credits, model: ChatOpenAI):
    return create_agent(model, context_schema=Context, middleware=[CreditsMiddleware(service, payer_of)])


@pytest.fixture
def metered(service: Credits, model: ChatOpenAI):
    return metered_model(model, service, Payer("ada"))


async def test_an_allowed_run_is_charged_what_the_provider_reports(agent, provider, ledger):
    ledger.grant("ada")
    state = await agent.ainvoke(HELLO, context=ADA)
    assert state["messages"][-1].text == ANSWER
    assert ledger.charges("ada") == [COST]
    assert ledger.tokens("ada") == [(56, 64, 0, 30, 0)]
    assert ledger.held("ada") == 0
    assert provider.calls[0]["max_completion_tokens"] == 4096


def test_a_sync_run_is_charged_the_same(agent, provider, ledger):
    ledger.grant("ada")
    assert agent.invoke(HELLO, context=ADA)["messages"][-1].text == ANSWER
    assert ledger.charges("ada") == [COST]


async def test_the_limit_sent_is_the_one_the_hold_covers(service, model, provider, ledger):
    ledger.grant("ada")
    by_field = metered_model(model.model_copy(update={"max_tokens": 77}), service, Payer("ada"))
    await by_field.ainvoke("Hello")
    await by_field.bind(max_tokens=66).ainvoke("Hello")
    await by_field.bind(max_completion_tokens=55).ainvoke("Hello")
    await metered_model(model, service, Payer("ada")).bind(n=2).ainvoke("Hello")  # the default, for both together
    assert [call["max_completion_tokens"] for call in provider.calls] == [77, 66, 55, 2048]


async def test_less_is_asked_for_where_less_is_left(service, model, provider, ledger):
    ledger.grant("bob")
    provider.behaviour = Behaviour.NO_USAGE
    await metered_model(model, service, Payer("bob")).ainvoke("Hello")
    ((input_tokens, *_rest),) = ledger.tokens("bob")
    ledger.grant("ada", affording(input_tokens, 20))
    metered = metered_model(model, service, Payer("ada"), min_output_tokens=1)
    await metered.bind(max_completion_tokens=66).ainvoke("Hello")
    assert provider.calls[1]["max_completion_tokens"] == 20


@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_a_refused_run_answers_with_the_refusal_and_calls_nobody(agent, provider, ledger, mode):
    ledger.grant("ada", 1)
    answers = [answer async for answer in agent.astream(HELLO, context=ADA, stream_mode=mode)]
    message = answers[-1]["messages"][-1] if mode == "values" else answers[-1][0]
    assert "Buy credits" in message.text
    assert message.response_metadata == {"credits_refusal": "insufficient_credits"}
    assert provider.calls == []
    assert ledger.charges("ada") == []


def test_a_refused_sync_run_answers_with_the_refusal(agent, provider):
    assert "Buy credits" in agent.invoke(HELLO, context=ADA)["messages"][-1].text
    assert provider.calls == []


async def test_a_run_that_nobody_pays_for_is_refused(agent, provider):
    state = await agent.ainvoke(HELLO, context=Context(None))
    assert state["messages"][-1].response_metadata == {"credits_refusal": "unidentified"}
    assert provider.calls == []


async def test_a_refusal_is_raised_where_structured_output_is_wanted(service, model, provider):
    middleware = [CreditsMiddleware(service, payer_of)]
    agent = create_agent(model, context_schema=Context, middleware=middleware, response_format=City)
    with pytest.raises(RequestRefused, match="Buy credits"):
        await agent.ainvoke(HELLO, context=ADA)
    assert provider.calls == []


async def text_of(stream, *, until=None) -> str:
    text = ""
    async for chunk, _metadata in stream:
        text += chunk.text
        if text == until:
            break
    return text


async def test_a_stream_is_charged_what_the_provider_reports(agent, provider, ledger):
    ledger.grant("ada")
    assert await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages")) == ANSWER
    assert provider.calls[0]["stream"] is True
    assert ledger.charges("ada") == [COST]


def test_a_sync_stream_is_charged_the_same(agent, provider, ledger):
    ledger.grant("ada")
    text = "".join(chunk.text for chunk, _metadata in agent.stream(HELLO, context=ADA, stream_mode="messages"))
    assert text == ANSWER
    assert provider.calls[0]["stream"] is True
    assert ledger.charges("ada") == [COST]


async def test_a_stream_of_events_is_charged_the_same(agent, metered, ledger):
    ledger.grant("ada")
    async for _event in agent.astream_events(HELLO, context=ADA, version="v2"):
        pass
    async for _event in await metered.astream_events("Hello", version="v3"):
        pass
    assert ledger.charges("ada") == [COST, COST]


async def test_a_stream_that_its_reader_leaves_is_charged_for_what_it_delivered(agent, metered, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    stream = agent.astream(HELLO, context=ADA, stream_mode="messages")
    assert await text_of(stream, until=THREE_WORDS) == THREE_WORDS
    await stream.aclose()
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_model_s_stream_that_its_reader_leaves_is_charged_for_what_it_delivered(metered, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    text = ""
    async for chunk in metered.astream("Hello"):
        text += chunk.text
        if text == THREE_WORDS:
            break
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_model_s_sync_stream_that_its_reader_leaves_is_charged_for_what_it_delivered(metered, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG

    def read() -> None:
        text = ""
        for chunk in metered.stream("Hello"):
            text += chunk.text
            if text == THREE_WORDS:
                return

    await asyncio.to_thread(read)
    await ledger.settled("ada")
    assert ledger.said("ada") == [THREE_WORDS_TOKENS]


async def test_a_stream_ends_well_where_the_credits_do(service, model, provider, ledger):
    middleware = [CreditsMiddleware(service, payer_of, min_output_tokens=1)]
    agent = create_agent(model, context_schema=Context, middleware=middleware)

    def hear(user: str) -> str:
        pieces = agent.stream(HELLO, context=Context(user), stream_mode="messages")
        return "".join(piece.text for piece, _metadata in pieces)

    provider.behaviour = Behaviour.NO_USAGE
    for user in ("bob", "eve"):
        ledger.grant(user)
    assert await text_of(agent.astream(HELLO, context=Context("bob"), stream_mode="messages")) == ANSWER
    assert hear("eve") == ANSWER
    (bob,) = ledger.tokens("bob")
    limit = affording(bob[0], THREE_WORDS_TOKENS + 1)
    for user in ("ada", "una"):
        ledger.grant(user, limit)
    heard = await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages"))
    assert ledger.stopped_at(limit, "ada", heard)
    heard = hear("una")
    assert ledger.stopped_at(limit, "una", heard)


async def test_credits_that_end_within_a_tool_call_are_no_empty_answer(service, model, provider, ledger):
    def shout(input: str) -> str:
        """Shout."""
        return input.upper()

    middleware = [CreditsMiddleware(service, payer_of, min_output_tokens=1)]
    agent = create_agent(model, [shout], context_schema=Context, middleware=middleware)

    def hear(user: str) -> str:
        pieces = agent.stream(HELLO, context=Context(user), stream_mode="messages")
        return "".join(piece.text for piece, _metadata in pieces)

    provider.behaviour = Behaviour.NO_USAGE
    ledger.grant("bob")
    assert hear("bob") == ANSWER
    (bob,) = ledger.tokens("bob")
    for user in ("ada", "una"):
        ledger.grant(user, affording(bob[0], 6))
    provider.behaviour = Behaviour.CALL_TOOL
    heard = await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages"))
    assert "ran out before there was an answer" in heard
    assert "ran out before there was an answer" in hear("una")
    await ledger.settled("ada")
    assert len(ledger.charges("ada")) == len(ledger.charges("una")) == 1


async def test_a_run_whose_task_is_cancelled_is_charged_for_its_prompt(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    run = asyncio.create_task(agent.ainvoke(HELLO, context=ADA))
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
    with pytest.raises(InternalServerError):
        await agent.ainvoke(HELLO, context=ADA)
    assert ledger.charges("ada") == []
    assert ledger.held("ada") == 0


async def test_a_stream_that_the_provider_breaks_off_costs_nothing(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(APIConnectionError):
        await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages"))
    assert len(provider.calls) == 1
    assert ledger.charges("ada") == []
    assert ledger.held("ada") == 0


async def test_an_answer_without_usage_is_counted(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.NO_USAGE
    await agent.ainvoke(HELLO, context=ADA)
    await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages"))
    assert ledger.said("ada") == [ANSWER_TOKENS, ANSWER_TOKENS]


async def test_what_the_sdk_retries_is_one_hold(service, provider, ledger):
    ledger.grant("ada")
    patient = ChatOpenAI(model="toy", base_url=provider.url, api_key="none", max_retries=1)
    provider.behaviour = Behaviour.FAIL
    run = asyncio.create_task(metered_model(patient, service, Payer("ada")).ainvoke("Hello"))
    while not provider.calls:
        await asyncio.sleep(0.01)
    provider.behaviour = Behaviour.ANSWER
    await run
    assert len(provider.calls) == 2
    assert ledger.charges("ada") == [COST]


async def test_a_tool_loop_is_a_hold_for_each_call(service, model, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CALL_TOOL

    def shout(input: str) -> str:
        """Shout."""
        return input.upper()

    agent = create_agent(model, [shout], context_schema=Context, middleware=[CreditsMiddleware(service, payer_of)])
    state = await agent.ainvoke(HELLO, context=ADA)
    assert state["messages"][-1].text == ANSWER
    assert ledger.charges("ada") == [COST, COST]


async def test_the_run_id_of_the_configuration_names_the_run(agent, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.HANG
    run_id = "11111111-1111-4111-8111-111111111111"
    stream = agent.astream(HELLO, {"run_id": run_id}, context=ADA, stream_mode="messages")
    await text_of(stream, until=THREE_WORDS)
    assert ledger.runs("ada") == [run_id]
    await stream.aclose()
    await ledger.settled("ada")


async def test_a_metered_model_raises_the_refusal(metered, provider):
    with pytest.raises(RequestRefused, match="Buy credits"):
        await metered.ainvoke("Hello")
    with pytest.raises(RequestRefused, match="Buy credits"):
        async for _chunk in metered.astream("Hello"):
            pass
    assert provider.calls == []


async def test_a_graph_s_node_is_metered_by_a_metered_model(service, model, ledger):
    ledger.grant("ada")

    async def think(state, runtime):
        return {"messages": [await metered_model(model, service, payer_of(runtime)).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState, context_schema=Context)
    graph.add_node("think", think)
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    await graph.compile().ainvoke(HELLO, context=ADA)
    assert ledger.charges("ada") == [COST]


async def test_structured_output_is_charged_though_it_cannot_be_parsed(metered, ledger):
    ledger.grant("ada")
    with pytest.raises(OutputParserException):
        await metered.with_structured_output(City, method="json_mode").ainvoke("Hello")
    with pytest.raises(ValidationError):
        await metered.with_structured_output(City).ainvoke("Hello")
    with pytest.raises(ValidationError):
        await asyncio.to_thread(metered.with_structured_output(City).invoke, "Hello")
    assert ledger.charges("ada") == [COST, COST, COST]


async def test_structured_output_that_was_cut_off_is_charged(metered, provider, ledger):
    ledger.grant("ada")
    provider.behaviour = Behaviour.CUT_OFF
    with pytest.raises(LengthFinishReasonError):
        await metered.with_structured_output(City).ainvoke("Hello")
    assert ledger.charges("ada") == [COST]


async def test_streamed_structured_output_is_charged_though_it_cannot_be_parsed(metered, ledger):
    ledger.grant("ada")
    with pytest.raises(ValueError, match="expected value"):
        async for _piece in metered.with_structured_output(City).astream("Hello"):
            pass
    await ledger.settled("ada")
    assert len(ledger.said("ada")) == 1


async def test_a_metered_model_in_a_metered_agent_is_charged_once(service, metered, ledger):
    ledger.grant("ada")
    agent = create_agent(metered, context_schema=Context, middleware=[CreditsMiddleware(service, payer_of)])
    await agent.ainvoke(HELLO, context=ADA)
    await text_of(agent.astream(HELLO, context=ADA, stream_mode="messages"))
    assert ledger.charges("ada") == [COST, COST]


async def test_a_middleware_s_own_model_is_metered_when_it_is_wrapped(service, model, metered, provider, ledger):
    ledger.grant("ada")
    summary = SummarizationMiddleware(metered, trigger=("messages", 2), keep=("messages", 1))
    agent = create_agent(model, context_schema=Context, middleware=[summary, CreditsMiddleware(service, payer_of)])
    talk = {"messages": [("user", "Hello"), ("assistant", "Hello!"), ("user", "How are you?")]}
    await agent.ainvoke(talk, context=ADA)
    assert len(provider.calls) == 2
    assert ledger.charges("ada") == [COST, COST]


async def test_an_answer_from_the_cache_costs_nothing(service, model, provider, ledger):
    ledger.grant("ada")
    cached = metered_model(model.model_copy(update={"cache": InMemoryCache()}), service, Payer("ada"))
    await cached.ainvoke("Hello")
    await cached.ainvoke("Hello")
    assert len(provider.calls) == 1
    assert ledger.charges("ada") == [COST]


class Written(BaseChatModel):
    """A model of another provider, which knows no async code and no streams."""

    model: str = "toy"
    max_tokens: int = 10
    _llm_type = "written"

    def _generate(self, messages, stop=None, run_manager=None, **settings):
        read = {"cache_read": 10, "cache_creation": 0, "ephemeral_5m_input_tokens": 20}
        usage = {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105}
        told = usage | {"input_token_details": read, "output_token_details": {"reasoning": 2}}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Hello!", usage_metadata=told))])


async def test_a_sync_model_is_metered_in_async_code_and_its_cache_writes_are_told_apart(service, ledger):
    ledger.grant("ada")
    assert (await metered_model(Written(), service, Payer("ada")).ainvoke("Hello")).text == "Hello!"
    assert ledger.tokens("ada") == [(70, 10, 20, 3, 2)]


@pytest.mark.parametrize("block", [{"type": "video", "url": "https://example.test"}, {"no": "type"}])
async def test_a_prompt_that_openai_has_no_name_for_is_metered(service, ledger, block):
    ledger.grant("ada")
    await metered_model(Written(), service, Payer("ada")).ainvoke([HumanMessage([block])])
    assert ledger.tokens("ada") == [(70, 10, 20, 3, 2)]


@pytest.mark.parametrize("place", [None, "block", "setting"])
async def test_an_hours_cache_is_held_for_and_charged(service, ledger, place):
    held: list[int] = []

    class Lasting(Written):
        model: str = "searching"

        def _generate(self, messages, stop=None, run_manager=None, **settings):
            held.append(ledger.held("ada"))
            read = {"cache_creation": 0, "ephemeral_1h_input_tokens": 20}
            usage = {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105, "input_token_details": read}
            return ChatResult(generations=[ChatGeneration(message=AIMessage("Hello!", usage_metadata=usage))])

    ledger.grant("ada")
    marker = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    block = {"type": "text", "text": "Hello " * 1_000} | (marker if place == "block" else {})
    model = metered_model(Lasting(), service, Payer("ada"))
    await model.ainvoke([HumanMessage([block])], **(marker if place == "setting" else {}))
    assert (held[0] > 1_000 * 900) is (place is not None)
    assert ledger.charges("ada") == [(80 * 100 + 20 * 900 + 5 * 200) * 115 // 100]


async def test_searches_of_the_provider_are_held_for(service, model, provider, ledger):
    searching = metered_model(model.model_copy(update={"model_name": "searching"}), service, Payer("ada"))
    ledger.grant("ada", 2 * SEARCH)
    with pytest.raises(RequestRefused):
        await searching.ainvoke("Hello", tools=[{"type": "web_search", "max_uses": 2}])
    assert provider.calls == []


def test_a_model_with_a_stream_of_its_own_is_not_metered(service, model):
    class Native(ChatOpenAI):
        def _stream_chat_model_events(self, messages, **settings):
            raise AssertionError

    native = Native(model="toy", api_key="none")
    with pytest.raises(ConfigurationError, match="not metered"):
        metered_model(native, service, Payer("ada"))


async def test_a_model_stays_of_its_class(metered):
    assert isinstance(metered, ChatOpenAI)
    assert type(metered).__name__ == "ChatOpenAI"


def test_a_model_without_a_known_limit_is_not_metered(service):
    with pytest.raises(ConfigurationError, match="no output limit"):
        metered_model(GenericFakeChatModel(messages=iter(())), service, Payer("ada"))


def test_the_example_runs_and_says_what_was_charged(ledger, tmp_path):
    ledger.grant("ada")
    printed = run_example("langchain_agent.py", "Hello", ledger=ledger, home=tmp_path)
    assert printed.count("ada was charged") == len(ledger.charges("ada")) == 2
