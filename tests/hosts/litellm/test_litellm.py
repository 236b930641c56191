"""litellm's proxy as its command runs it, in front of a provider with known usage, asked with OpenAI's own client."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import litellm
import openai
import pytest
from host_examples import EXAMPLES
from host_ledger import ANSWER_TOKENS, COST, PRICES, SEARCH, THREE_WORDS_TOKENS, Ledger, affording
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.utils import CacheCreationTokenDetails, PromptTokensDetailsWrapper
from stub_provider import ANSWER, Behaviour, StubProvider

from credits_plugin import Credits, Settings, Usage, build
from credits_plugin.adapters.litellm_proxy import MeteredProxy
from credits_plugin.adapters.litellm_proxy import _usage_of as usage_of
from credits_plugin.pricing.prompt import count_prompt
from credits_plugin.sandbox.model_server import ModelServer

HELLO: Any = [{"role": "user", "content": "Hello"}]
START_S = 60
CONFIG = """
model_list:
  - {model_name: toy, litellm_params: {model: openai/toy, api_base: PROVIDER, api_key: none, max_retries: 0}}
  - {model_name: searching, litellm_params: {model: openai/toy, api_base: PROVIDER, api_key: none, max_retries: 0}}
  - {model_name: closed, litellm_params: {model: openai/toy, api_base: "http://127.0.0.1:9/v1", api_key: none}}
  - {model_name: alone, litellm_params: {model: openai/toy, api_base: "http://127.0.0.1:9/v1", api_key: none}}
litellm_settings:
  callbacks: [callbacks.copier, callbacks.metered_proxy, callbacks.guard]
  num_retries: 0
  fallbacks: [{closed: [toy]}]
  cache: true
  cache_params: {type: local, mode: default_off}
general_settings: {custom_auth: callbacks.authenticate}
"""
CALLBACKS = """
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from credits_plugin.adapters.litellm_proxy import MeteredProxy
from litellm_proxy_callbacks import metered_proxy as example

metered_proxy = MeteredProxy(example._service, min_output_tokens=1, client_fields=["chat_template_kwargs"])

async def authenticate(request, api_key):
    user = api_key.removeprefix("sk-")
    proxy_server.general_settings["cancel_on_disconnect"] = user.startswith("cancelling")
    proxy_server.general_settings["always_include_stream_usage"] = True if user.startswith("counting") else None
    limits = {"rpm_limit": 1} if user.startswith("hasty") else {}
    limits |= {"metadata": {"model_rpm_limit": {"closed": 1}}} if user.startswith("diverted") else {}
    return UserAPIKeyAuth(api_key=api_key, token=api_key, user_id=None if user == "nobody" else user, **limits)

class Copier(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        return {**data, "metadata": dict(data["metadata"])} if "copied" in str(data.get("messages")) else data

class Guard(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if "forbidden" in str(data.get("messages")):
            raise HTTPException(400, "held back")
        return data

copier, guard = Copier(), Guard()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def ledger(home: Path) -> Iterator[Ledger]:
    """The ledger of the whole module: starting the proxy takes seconds, so each test has a user of its own."""
    service: Credits = build(Settings(database_url=f"sqlite:///{home / 'credits.db'}", prices=PRICES))
    yield Ledger(service)
    service.close_sync()


@pytest.fixture(scope="module")
def running_provider() -> Iterator[StubProvider]:
    with StubProvider() as provider:
        yield provider


@pytest.fixture
def provider(running_provider: StubProvider) -> StubProvider:
    running_provider.behaviour = Behaviour.ANSWER
    running_provider.calls.clear()
    return running_provider


@pytest.fixture(scope="module")
def proxy(home: Path, ledger: Ledger, running_provider: StubProvider) -> Iterator[str]:
    (home / "config.yaml").write_text(CONFIG.replace("PROVIDER", running_provider.url))
    (home / "callbacks.py").write_text(CALLBACKS)
    (home / "litellm_proxy_callbacks.py").write_text((EXAMPLES / "litellm_proxy_callbacks.py").read_text())
    prices = {"toy": PRICES["toy"], "closed": PRICES["toy"], "alone": PRICES["toy"], '"*"': PRICES["toy"]}
    lines = [
        f"[prices.{name}]\n" + "\n".join(f'{k} = "{v}"' for k, v in price.items()) for name, price in prices.items()
    ]
    lines.append('[prices.searching]\ninput = "1"\noutput = "2"\ntools = {web_search = "0.01"}')
    (home / "credits.toml").write_text("\n".join(lines))
    with running_proxy(home, home / "config.yaml", ledger, CREDITS_SETTINGS=str(home / "credits.toml")) as url:
        yield url


@contextmanager
def running_proxy(home: Path, config: Path, ledger: Ledger, **environment: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).with_name("litellm"),
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment |= {"CREDITS_DATABASE_URL": ledger.service.settings.database_url}
    environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(home), "PYTHONPATH": str(home)}
    environment |= {"LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(16)}"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | environment, cwd=home, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, process, home / "log")
            yield url
        finally:
            process.terminate()
            process.wait(20)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/liveliness").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the proxy does not start:\n{log.read_text()[-3000:]}")


def client(proxy: str, user: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy}/v1", api_key=f"sk-{user}", max_retries=0, timeout=20)


def ask(proxy: str, user: str, **options: Any) -> Any:
    return client(proxy, user).chat.completions.create(**{"model": "toy", "messages": HELLO, **options})


def settled(ledger: Ledger, user: str, count: int = 1) -> list[tuple[int, ...]]:
    """Wait until so many calls of a user are settled and none is held; a client may see the end before the ledger."""
    deadline = time.monotonic() + 20
    while (len(ledger.tokens(user)), ledger.held(user)) != (count, 0):
        assert time.monotonic() < deadline, (ledger.tokens(user), ledger.held(user))
        time.sleep(0.02)
    return ledger.tokens(user)


def test_searches_and_an_hours_cache_are_read_from_litellms_usage():
    lives = CacheCreationTokenDetails(ephemeral_5m_input_tokens=5, ephemeral_1h_input_tokens=15)
    prompt = PromptTokensDetailsWrapper(
        cached_tokens=10, cache_creation_tokens=20, cache_creation_token_details=lives, web_search_requests=2
    )
    usage = litellm.Usage(prompt_tokens=100, completion_tokens=5, prompt_tokens_details=prompt)
    read = usage_of(litellm.ModelResponse(usage=usage))
    assert read == Usage(70, 10, 5, 5, cache_write_1h=15, tool_calls={"web_search": 2})
    assert usage_of(litellm.ModelResponse(usage=litellm.Usage(prompt_tokens=1, completion_tokens=2))) == Usage(
        1, output=2
    )


@pytest.mark.parametrize("asked", [{"tools": [{"type": "web_search"}]}, {"web_search_options": {}}])
def test_searches_of_the_provider_are_held_for(proxy, ledger, provider, asked):
    user = f"searcher-{next(iter(asked))}"
    ledger.grant(user, 5 * SEARCH)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(proxy, user, model="searching", **asked)
    assert (refused.value.status_code, provider.calls) == (402, [])


def test_an_answer_costs_what_the_provider_reported(proxy, ledger, provider):
    ledger.grant("ann")
    assert ask(proxy, "ann").choices[0].message.content == ANSWER
    assert settled(ledger, "ann") == [(56, 64, 0, 30, 0)]
    assert ledger.charges("ann") == [COST]


def test_a_stream_costs_what_the_provider_reported_though_the_client_asked_for_no_usage(proxy, ledger, provider):
    ledger.grant("ben")
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(proxy, "ben", stream=True) if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert settled(ledger, "ben") == [(56, 64, 0, 30, 0)]


@pytest.mark.parametrize("stream", [False, True])
def test_without_credits_the_client_gets_402_and_the_provider_is_not_called(proxy, ledger, provider, stream):
    ledger.grant("bob", 100)  # less than the prompt and one token
    with pytest.raises(openai.APIStatusError) as refused:
        ask(proxy, "bob", stream=stream)
    problem = refused.value.body["provider_specific_fields"]
    assert (refused.value.status_code, problem["code"]) == (402, "insufficient_credits")
    assert problem["needed"]["microcredits"] > problem["available"]["microcredits"]
    assert provider.calls == []
    assert (ledger.charges("bob"), ledger.held("bob")) == ([], 0)


def test_a_key_that_is_nobodys_is_refused(proxy, provider):
    with pytest.raises(openai.APIStatusError, match="Nobody is named who pays"):
        ask(proxy, "nobody")
    assert provider.calls == []


def test_a_client_that_leaves_a_stream_pays_for_the_prompt_and_what_was_streamed(proxy, ledger, provider):
    ledger.grant("eve")
    provider.behaviour = Behaviour.HANG
    with ask(proxy, "eve", stream=True) as stream:
        for _ in range(3):
            next(stream)
        assert ledger.held("eve") > 0
    [(prompt, _, _, output, _)] = settled(ledger, "eve")
    assert prompt > 0
    assert output == THREE_WORDS_TOKENS


def leave(proxy: str, user: str, provider: StubProvider, *, stream: bool) -> None:
    """Ask, and hang up while the provider thinks."""

    async def hang_up() -> None:
        async with openai.AsyncOpenAI(base_url=f"{proxy}/v1", api_key=f"sk-{user}", max_retries=0) as asking:
            task = asyncio.ensure_future(
                asking.chat.completions.create(model="toy", messages=HELLO, max_tokens=100, stream=stream)
            )
            while not provider.calls:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    provider.behaviour = Behaviour.LATE
    asyncio.run(hang_up())


def test_an_answer_whose_client_has_left_is_made_and_charged(proxy, ledger, provider):
    ledger.grant("liz")
    leave(proxy, "liz", provider, stream=False)
    assert ledger.held("liz") > 0
    provider.behaviour = Behaviour.ANSWER
    assert settled(ledger, "liz") == [(56, 64, 0, 30, 0)]


def test_where_litellm_cancels_an_answer_whose_client_has_left_the_prompt_is_charged(proxy, ledger, provider):
    ledger.grant("cancelling")
    leave(proxy, "cancelling", provider, stream=False)
    [(prompt, _, _, output, _)] = settled(ledger, "cancelling")
    assert (prompt > 0, output) == (True, 0)


def test_a_stream_whose_client_has_left_before_it_began_is_charged(proxy, ledger, provider):
    ledger.grant("lou")
    leave(proxy, "lou", provider, stream=True)
    provider.behaviour = Behaviour.HANG
    [(prompt, _, _, _, _)] = settled(ledger, "lou")
    assert prompt > 0


def test_a_provider_that_fails_costs_nothing(proxy, ledger, provider):
    ledger.grant("fay")
    provider.behaviour = Behaviour.FAIL
    with pytest.raises(openai.InternalServerError):
        ask(proxy, "fay")
    assert len(provider.calls) == 1
    assert settled(ledger, "fay", 0) == []


def test_a_provider_that_breaks_off_costs_nothing(proxy, ledger, provider):
    ledger.grant("gus")
    provider.behaviour = Behaviour.BREAK
    with pytest.raises(openai.APIError):
        list(ask(proxy, "gus", stream=True))
    assert settled(ledger, "gus", 0) == []


def test_a_stream_without_usage_costs_the_prompt_and_the_text(proxy, ledger, provider):
    ledger.grant("hal")
    provider.behaviour = Behaviour.NO_USAGE
    list(ask(proxy, "hal", stream=True))
    [(prompt, _, _, output, _)] = settled(ledger, "hal")
    assert prompt > 0
    assert output > 0


def test_an_answer_without_usage_costs_the_prompt_and_the_text(proxy, ledger, provider):
    ledger.grant("hub")
    provider.behaviour = Behaviour.NO_USAGE
    assert ask(proxy, "hub").choices[0].message.content == ANSWER
    [(prompt, _, _, output, _)] = settled(ledger, "hub")
    assert prompt > 0
    assert output == ANSWER_TOKENS


def test_a_stream_ends_where_the_credits_do(proxy, ledger, provider):
    def hear(user: str) -> str:
        stream = ask(proxy, user, stream=True)
        heard = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        settled(ledger, user)
        return heard

    limit = affording(count_prompt(HELLO, model="toy").total, THREE_WORDS_TOKENS + 1)
    ledger.grant("pia", limit)
    assert ledger.stopped_at(limit, "pia", hear("pia"))


@pytest.mark.parametrize("stream", [False, True])
def test_what_litellm_answers_from_its_cache_costs_nothing(proxy, ledger, provider, stream):
    user = f"ida{stream}"
    ledger.grant(user)
    use_cache = {"cache": {"use-cache": True}}
    for _ in range(2):
        answer = ask(proxy, user, stream=stream, extra_body=use_cache, messages=[{"role": "user", "content": user}])
        list(answer) if stream else answer
        settled(ledger, user)
    assert len(provider.calls) == 1
    assert settled(ledger, user) == [(56, 64, 0, 30, 0)]


def test_a_fallback_is_part_of_the_request(proxy, ledger, provider):
    ledger.grant("joe")
    assert ask(proxy, "joe", model="closed").choices[0].message.content == ANSWER
    assert settled(ledger, "joe") == [(56, 64, 0, 30, 0)]


def test_a_client_cannot_choose_another_model_to_fall_back_to(proxy, ledger, provider):
    ledger.grant("kim")
    with pytest.raises(openai.InternalServerError):
        ask(proxy, "kim", model="alone", extra_body={"fallbacks": ["toy"]})
    assert settled(ledger, "kim", 0) == []
    assert provider.calls == []


def test_a_request_that_a_limit_of_its_key_stops_holds_nothing(proxy, ledger, provider):
    ledger.grant("hasty")
    ask(proxy, "hasty")
    for _ in range(2):
        with pytest.raises(openai.RateLimitError):
            ask(proxy, "hasty")
        assert len(settled(ledger, "hasty")) == 1
    assert len(provider.calls) == 1


@pytest.mark.parametrize("said", ["forbidden", "forbidden, and copied by a hook"])
def test_a_request_that_a_later_hook_stops_holds_nothing(proxy, ledger, provider, said):
    ledger.grant("ole")
    with pytest.raises(openai.BadRequestError, match="held back"):
        ask(proxy, "ole", messages=[{"role": "user", "content": said}])
    assert settled(ledger, "ole", 0) == []
    assert provider.calls == []


def test_a_request_that_a_limit_turns_to_a_fallback_is_held_for_once(proxy, ledger, provider):
    ledger.grant("diverted")
    for count in (1, 2):
        assert ask(proxy, "diverted", model="closed").choices[0].message.content == ANSWER
        assert settled(ledger, "diverted", count) == count * [(56, 64, 0, 30, 0)]


def test_several_answers_are_held_for_together(proxy, ledger, provider):
    ledger.grant("lea")
    ask(proxy, "lea", n=4, max_tokens=100)
    assert provider.calls[0]["max_tokens"] == 100
    ledger.grant("max", 92_000)  # what 400 tokens cost, without the prompt
    ask(proxy, "max", n=4, max_tokens=100)
    assert 0 < provider.calls[1]["max_tokens"] < 100


def test_a_field_of_another_route_changes_nothing(proxy, ledger, provider):
    ledger.grant("pat")
    provider.behaviour = Behaviour.HANG
    foreign = {"input": "x", "prompt": "word " * 1_000, "suffix": "x"}
    with ask(proxy, "pat", stream=True, max_tokens=5_000, extra_body=foreign) as stream:
        for _ in range(3):
            next(stream)
        assert ledger.held("pat") >= affording(0, 5_000)
    assert [tokens[3] for tokens in settled(ledger, "pat")] == [THREE_WORDS_TOKENS]
    assert provider.calls[0]["max_tokens"] == 5_000
    assert not foreign.keys() & provider.calls[0].keys()


def test_of_two_limits_the_smaller_one_is_held_for_and_sent(proxy, ledger, provider):
    ledger.grant("quy")
    ask(proxy, "quy", max_tokens=5_000, extra_body={"max_completion_tokens": 7})
    ask(proxy, "quy", max_completion_tokens=8)
    assert [(call["max_tokens"], "max_completion_tokens" in call) for call in provider.calls] == [
        (7, False),
        (8, False),
    ]


@pytest.mark.parametrize(
    "field",
    [
        {"extra_body": {"max_tokens": 9_999}},
        {"max_output_tokens": 9_999},
        {"additional_drop_params": ["max_tokens"]},
        {"service_tier": "priority"},
        {"models": ["dear"]},
        {"prediction": {"type": "content", "content": "x"}},
        {"modalities": ["text", "audio"]},
        {"store": True},
        {"max_tool_calls": 1},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_a_client_sends_beside_the_fields_that_are_held_for_is_left_out(proxy, ledger, provider, field):
    user = f"rob-{next(iter(field))}"
    ledger.grant(user)
    ask(proxy, user, max_tokens=100)
    ask(proxy, user, max_tokens=100, extra_body=field)
    assert provider.calls[0] == provider.calls[1]


def test_what_shapes_the_answer_and_what_the_operator_names_is_sent(proxy, ledger, provider):
    ledger.grant("sam")
    shape = {"temperature": 0.5, "seed": 1, "stop": ["x"], "response_format": {"type": "json_object"}}
    ask(proxy, "sam", **shape, extra_body={"top_k": 3, "chat_template_kwargs": {"enable_thinking": False}})
    sent = provider.calls[0]
    assert sent | shape | {"top_k": 3, "chat_template_kwargs": {"enable_thinking": False}} == sent


@pytest.mark.parametrize(
    "field",
    [
        {"n": "4"},
        {"n": True},
        {"n": 129},
        {"max_tokens": "5000"},
        {"max_tokens": -3},
        {"max_completion_tokens": 1.5},
        {"stream": "true"},
        {"tools": "x"},
        {"tools": ["x"]},
        {"tools": [{"type": "mcp", "server_url": "litellm_proxy", "require_approval": "never"}]},
        {"model": "toy,toy"},
    ],
    ids=str,
)
def test_a_field_that_cannot_be_held_for_is_refused(proxy, ledger, provider, field):
    user = f"tim-{len(str(field))}"
    ledger.grant(user)
    with pytest.raises(openai.UnprocessableEntityError, match=f"{next(iter(field))} must be"):
        ask(proxy, user, extra_body=field)
    assert (settled(ledger, user, 0), provider.calls) == ([], [])


@pytest.mark.parametrize(
    "impatience",
    [
        {"extra_body": {"timeout": 1, "stream_timeout": 1, "request_timeout": 1}},
        {"extra_headers": {"x-litellm-timeout": "1", "x-litellm-stream-timeout": "1"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_client_cannot_have_its_stream_fail_to_hear_it_for_free(proxy, ledger, provider, impatience):
    user = f"una-{next(iter(impatience))}"
    ledger.grant(user)
    provider.behaviour = Behaviour.HANG
    with (
        client(proxy, user).with_options(timeout=3) as leaving,
        pytest.raises((httpx.ReadTimeout, openai.APITimeoutError)),
    ):
        list(leaving.chat.completions.create(model="toy", messages=HELLO, stream=True, **impatience))
    assert [tokens[3] for tokens in settled(ledger, user)] == [THREE_WORDS_TOKENS]


def test_several_prompts_are_held_for_together(proxy, ledger, provider):
    def complete(user: str) -> int:
        client(proxy, user).completions.create(model="toy", prompt=["a"] * 100, n=2, max_tokens=100)
        return provider.calls[-1]["max_tokens"]

    ledger.grant("vic")
    assert complete("vic") == 100
    ledger.grant("wes", affording(0, 20_000))
    assert 0 < complete("wes") < 100


@pytest.mark.parametrize("field", ["suffix", "response_format"])
def test_what_is_part_of_the_prompt_is_held_for(proxy, ledger, provider, field):
    user = f"xan-{field}"
    ledger.grant(user, affording(10_000, 0))
    text = "word " * 20_000
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": text}}}
    ask_text, ask_chat = client(proxy, user).completions.create, client(proxy, user).chat.completions.create
    asked = {"suffix": partial(ask_text, prompt="x", suffix=text)}
    asked["response_format"] = partial(ask_chat, messages=HELLO, response_format=schema)
    with pytest.raises(openai.APIStatusError) as refused:
        asked[field](model="toy")
    assert (refused.value.status_code, provider.calls) == (402, [])


def test_a_streamed_text_costs_what_the_provider_reported(proxy, ledger, provider):
    ledger.grant("yan")
    pieces = list(client(proxy, "yan").completions.create(model="toy", prompt="Hello", stream=True))
    assert "".join(piece.choices[0].text or "" for piece in pieces) == ANSWER
    assert settled(ledger, "yan") == [(56, 64, 0, 30, 0)]


def test_a_client_cannot_turn_off_the_count_of_its_stream(proxy, ledger, provider):
    ledger.grant("counting")
    list(ask(proxy, "counting", stream=True, stream_options={"include_usage": False}))
    assert settled(ledger, "counting") == [(56, 64, 0, 30, 0)]


def test_a_route_that_cannot_be_metered_is_refused(proxy, ledger, provider):
    ledger.grant("ned")
    with pytest.raises(openai.APIStatusError, match="cannot be metered"):
        client(proxy, "ned").images.generate(model="toy", prompt="a dog")
    with pytest.raises(openai.APIStatusError, match="cannot be metered"):
        client(proxy, "ned").responses.create(model="toy", input="Hello")
    assert provider.calls == []


async def test_the_headers_of_a_client_choose_nothing_that_costs(service):
    Ledger(service).grant("zoe")
    body = {"model": "toy", "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 9}, "timeout": 1}
    beta = {"custom_llm_provider": "anthropic", "extra_headers": {"anthropic-beta": "context-1m-2025-08-07"}}
    data = body | {"api_key": "theirs", "provider_specific_header": beta, "litellm_call_id": "1"}
    data["proxy_server_request"] = {"body": body, "credential_fields": ("api_key",)}
    key = UserAPIKeyAuth(api_key="sk-zoe", user_id="zoe")
    sent = await MeteredProxy(service).async_pre_call_hook(key, None, data, "acompletion")
    assert sent.keys() == {
        "model", "messages", "thinking", "litellm_call_id", "proxy_server_request", "metadata", "max_tokens"
    }  # fmt: skip
    await service.close()


async def test_the_example_answers_those_who_have_credits(ledger, tmp_path):
    ledger.grant("ann")
    environment = {"CREDITS_SETTINGS": str(EXAMPLES / "credits.toml"), "OPENAI_API_KEY": "none"}

    def play(url: str) -> str:
        settings = environment | {"OPENAI_BASE_URL": url}
        with running_proxy(tmp_path, EXAMPLES / "litellm_proxy.yaml", ledger, **settings) as proxy:
            with pytest.raises(openai.APIStatusError, match="credits"):
                ask(proxy, "bob", model="local-small")
            return ask(proxy, "ann", model="local-small").choices[0].message.content

    before = len(ledger.charges("ann"))
    async with ModelServer() as server:
        assert "I am local-small" in await asyncio.to_thread(play, server.url)
    assert len(settled(ledger, "ann", before + 1)) == before + 1
