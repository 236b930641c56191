"""The local model server, driven by OpenAI's own client where it is installed, and by raw HTTP for what it refuses."""

import asyncio
import json
import time

import aiohttp
import pytest

from credits_plugin import usage_from_openai
from credits_plugin.pricing.tokens import count_text_tokens
from credits_plugin.sandbox.model_server import ModelServer, ModelServerSettings, compose_answer, count_tokens

FAST = ModelServerSettings(word_delay_s=0.0)


@pytest.fixture
async def url():
    async with ModelServer(FAST) as server:
        yield server.url


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def client(url):
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


async def complete(http, url, **body):
    async with http.post(f"{url}/chat/completions", json={"model": "local-small", **body}) as response:
        return response.status, await response.json()


async def test_official_client_lists_the_models_that_are_configured():
    openai = pytest.importorskip("openai")
    settings = ModelServerSettings(models=("local-small", "house-model"))
    async with ModelServer(settings) as server, openai.AsyncOpenAI(base_url=server.url, api_key="none") as client:
        assert [model.id async for model in client.models.list()] == ["local-small", "house-model"]
        assert (await client.models.retrieve("house-model")).id == "house-model"


async def test_official_client_gets_an_answer_made_of_its_input_with_real_token_counts(client):
    answer = await client.chat.completions.create(model="local-small", messages=user("The quick brown fox jumps."))
    text = answer.choices[0].message.content
    assert "not a language model" in text
    assert "The quick brown fox jumps." in text
    assert "5 words" in text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == count_text_tokens(text, "gpt-4o")
    prompt = 3 + 3 + count_text_tokens("user", "gpt-4o") + count_text_tokens("The quick brown fox jumps.", "gpt-4o")
    assert answer.usage.prompt_tokens == prompt
    assert answer.usage.total_tokens == prompt + answer.usage.completion_tokens


async def test_official_client_streams_the_same_answer_word_by_word_and_gets_usage_last(client):
    whole = await client.chat.completions.create(model="local-small", messages=user("Stream this."))
    stream = await client.chat.completions.create(
        model="local-small", messages=user("Stream this."), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(words) == whole.choices[0].message.content
    assert len(words) > 20
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_stream_without_include_usage_has_no_usage_member(http, url):
    body = {"model": "local-small", "messages": user("hi"), "stream": True}
    async with http.post(f"{url}/chat/completions", json=body) as response:
        lines = [line async for line in response.content if line.strip()]
    assert lines[-1] == b"data: [DONE]\n"
    assert all("usage" not in json.loads(line[6:]) for line in lines[:-1])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [1, 7, 40])
async def test_output_limit_is_honoured_and_reported_as_length(client, name, limit):
    answer = await client.chat.completions.create(
        model="local-small", messages=user("repeat 50 times: credits are counted"), **{name: limit}
    )
    assert answer.choices[0].finish_reason == "length"
    assert limit - 8 <= answer.usage.completion_tokens <= limit
    assert count_tokens(answer.choices[0].message.content) == answer.usage.completion_tokens


async def test_long_prompt_is_cached_when_it_comes_again_with_a_follow_up(http, url):
    system = {"role": "system", "content": "You are counted in tokens, not in words. " * 200}
    _, first = await complete(http, url, messages=[system, *user("one")])
    _, second = await complete(http, url, messages=[system, *user("two")])
    assert usage_from_openai(first["usage"]).cache_read == 0
    cached = usage_from_openai(second["usage"])
    assert cached.cache_read >= 1_024
    assert cached.cache_read % 128 == 0
    assert cached.input > 0


async def test_stream_can_be_left_in_the_middle_and_the_server_goes_on_serving(http):
    async with ModelServer(ModelServerSettings(word_delay_s=0.05)) as server:
        body = {"model": "local-small", "messages": user("repeat 500 times: on and on"), "stream": True}
        async with http.post(f"{server.url}/chat/completions", json=body) as response:
            await response.content.readline()
        status, _ = await complete(http, server.url, messages=user("still there?"))
    assert status == 200


async def test_closing_the_server_does_not_wait_for_a_stream(http):
    server = ModelServer(ModelServerSettings(word_delay_s=1.0))
    await server.start()
    body = {"model": "local-small", "messages": user("repeat 500 times: slow"), "stream": True}
    async with http.post(f"{server.url}/chat/completions", json=body) as response:
        await response.content.readline()
        started = time.monotonic()
        await asyncio.wait_for(server.close(), 5)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "gpt-99", "messages": user("x")}, 404, "model"),
        ({"model": "", "messages": user("x")}, 400, "model"),
        ({"messages": user("x"), "model": 7}, 400, "model"),
        ({"model": "local-small"}, 400, "messages"),
        ({"model": "local-small", "messages": []}, 400, "messages"),
        ({"model": "local-small", "messages": ["x"]}, 400, "messages[0].role"),
        ({"model": "local-small", "messages": [{"role": ["user"]}]}, 400, "messages[0].role"),
        ({"model": "local-small", "messages": user("x"), "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "local-small", "messages": user("x"), "max_tokens": True}, 400, "max_tokens"),
        ({"model": "local-small", "messages": user("x"), "n": 2}, 400, "n"),
    ],
)
async def test_bad_requests_get_openais_error_envelope(http, url, body, status, param):
    async with http.post(f"{url}/chat/completions", json=body) as response:
        error = (await response.json())["error"]
    assert response.status == status
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_a_400(http, url, raw):
    async with http.post(f"{url}/chat/completions", data=raw) as response:
        assert response.status == 400
        assert "JSON" in (await response.json())["error"]["message"]


async def test_unknown_path_is_a_404_in_the_envelope(http, url):
    async with http.get(f"{url}/embeddings") as response:
        assert response.status == 404
        assert "error" in await response.json()


async def test_key_is_asked_for_when_one_is_configured(http):
    async with ModelServer(ModelServerSettings(api_key="secret", word_delay_s=0.0)) as server:
        async with http.get(f"{server.url}/models") as response:
            assert response.status == 401
        async with http.get(f"{server.url}/models", headers={"Authorization": "Bearer secret"}) as response:
            assert response.status == 200


def test_answers_are_made_of_the_input():
    assert compose_answer(user("repeat 3 times: ha"), "m") == "ha ha ha"
    assert compose_answer(user("count: one two three"), "m").startswith("That is 3 words, 1 sentence, 13 characters")
    summary = compose_answer(user("Summarise this: Ledgers balance. Ledgers never forget."), "m")
    assert "“Ledgers balance.”" in summary
    assert "ledgers" in summary
    assert "message 2" in compose_answer([*user("a"), {"role": "assistant", "content": "b"}, *user("c d")], "m")
    parts = [{"role": "user", "content": [{"type": "text", "text": "repeat: parts"}, {"type": "image_url"}]}]
    assert compose_answer(parts, "m") == "parts"
