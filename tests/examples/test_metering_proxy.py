"""The metering proxy, seen by the official openai client on one side and by an upstream on the other."""

import asyncio
import base64
import io
import logging

import aiohttp
import openai
import pytest
from proxy_host import COST, GRANT, proxy, running_proxy
from upstream import KEY, USAGE, WORDS, chunk, running_upstream

from credits_plugin import AIRequest, Usage
from credits_plugin.ledger.audit import audit
from credits_plugin.metering import MeteredCall

SAID = Usage(input=8, cache_read=4, output=20)
MESSAGES = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
async def upstream():
    async with running_upstream() as (running, url):
        running.url = url
        yield running


@pytest.fixture
async def host(tmp_path, upstream):
    async with running_proxy(tmp_path, upstream.url) as running:
        yield running


@pytest.fixture
async def client(host):
    await host.grant()
    async with host.client() as running:
        yield running


async def ask(client, **more):
    return await client.chat.completions.create(model="toy", messages=MESSAGES, **more)


async def read(stream):
    return [piece async for piece in stream]


def spoken(chunks):
    return "".join(choice.delta.content or "" for one in chunks for choice in one.choices)


async def post(host, raw, *, key=None):
    """Return the status and the error code of a chat's answer to a body that no client library would send."""
    headers = {"Authorization": f"Bearer {key or host.key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        url = f"{host.url}/v1/chat/completions"
        async with http.post(url, data=raw) as response:
            return response.status, (await response.json())["error"]["code"]


async def test_answer_is_passed_on_and_charged_at_the_reported_usage(host, client):
    answer = await ask(client)
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.usage.prompt_tokens == 12
    assert await host.charges() == [(COST, SAID)]
    assert await host.balance() == (GRANT - COST, 0)


async def test_key_of_the_client_is_stamped_nowhere_but_its_account_is_charged(host, client):
    other_id, other = host.keys.add("other")
    assert other_id != host.key_id
    await host.grant(account="other")
    async with host.client(other) as second:
        await ask(second, user="acme")
    assert await host.charges() == []
    assert await host.charges("other") == [(COST, SAID)]


async def test_stream_without_asking_for_usage_shows_none_and_is_charged_all_the_same(host, client, upstream):
    chunks = await read(await ask(client, stream=True))
    assert spoken(chunks) == "".join(WORDS)
    assert [one for one in chunks if not one.choices or one.usage] == []
    assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
    assert await host.charges() == [(COST, SAID)]  # no waiting: who sees the end sees the cost


async def test_stream_that_asks_for_usage_gets_it_as_the_upstream_gave_it(host, client):
    chunks = await read(await ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == USAGE["total_tokens"]
    assert await host.charges() == [(COST, SAID)]


@pytest.mark.parametrize("streaming", [False, True])
async def test_without_credits_the_client_raises_402_with_the_link_and_does_not_retry(host, upstream, streaming):
    await host.grant(1_000)
    async with host.client() as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await ask(client, stream=streaming)
    error = refused.value
    assert (error.status_code, error.code, error.type) == (402, "insufficient_credits", "payment_required")
    assert error.body["purchase_url"] == f"{host.url}/credits"
    assert error.body["available"]["microcredits"] == 1_000
    assert error.body["needed"]["microcredits"] > 256 * 200  # the least output that is worth it
    assert "credits" in str(error)
    assert upstream.requests == []
    assert error.response.request.headers["x-stainless-retry-count"] == "0"


async def test_wrong_revoked_and_missing_keys_are_401_before_the_body_is_read(host, client, upstream):
    for key in ("sk-wrong", "é", host.key_id):
        assert await post(host, b"{", key=key) == (401, "invalid_api_key")
    assert host.keys.revoke(host.key_id)
    with pytest.raises(openai.AuthenticationError):
        await ask(client)
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()
    assert upstream.requests == []


async def test_key_as_a_password_opens_the_pages_and_not_the_api(host, client):
    password = base64.b64encode(f"anything:{host.key}".encode()).decode()
    async with aiohttp.ClientSession(headers={"Authorization": f"Basic {password}"}) as http:
        async with http.get(f"{host.url}/credits") as response:
            assert response.status == 200
        async with http.post(f"{host.url}/v1/chat/completions", json={}) as response:
            assert response.status == 401
    async with aiohttp.ClientSession() as http, http.get(f"{host.url}/credits") as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_limit_goes_to_the_upstream_by_the_name_it_knows(host, client, upstream, name):
    await ask(client, **{name: 50})
    assert upstream.bodies[0]["max_tokens"] == 50
    assert "max_completion_tokens" not in upstream.bodies[0]


async def test_without_a_limit_the_upstream_gets_the_one_that_the_hold_covers(host, client, upstream):
    await ask(client)
    assert upstream.bodies[0]["max_tokens"] == 1_000


async def test_several_choices_are_held_for_each(host, client, upstream):
    await ask(client, max_tokens=30, n=3)
    assert upstream.bodies[0]["max_tokens"] == 30
    await ask(client, n=3)
    assert upstream.bodies[1]["max_tokens"] == 333
    async with host.client(host.keys.add("poor")[1]) as poor:
        bound = await host.service.estimate(AIRequest("poor", "toy", MESSAGES, max_output_tokens=100))
        await host.grant(bound.cost_microcredits + COST, account="poor")  # a hundred tokens of output, not two hundred
        await ask(poor, max_tokens=100)
        with pytest.raises(openai.APIStatusError, match="may need"):
            await ask(poor, max_tokens=100, n=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("service_tier", "priority"),
        ("web_search_options", {}),
        ("models", ["toy-large"]),
        ("n", 129),
        ("n", True),
        ("max_tokens", "many"),
        ("max_tokens", -1),
        ("tools", [{"type": "web_search"}]),
        ("messages", "Hello"),
        ("stream", 1),
        ("model", None),
    ],
)
async def test_field_that_cannot_be_metered_is_a_400_that_names_it(host, client, upstream, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post(
            "/chat/completions", body={"model": "toy", "messages": MESSAGES, field: value}, cast_to=object
        )
    assert refused.value.param == field
    assert upstream.requests == []


async def test_model_without_a_price_is_a_404_and_never_asked_for(host, client, upstream):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model="unheard-of", messages=MESSAGES)
    assert refused.value.code == "unknown_model"
    assert upstream.requests == []


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_error_of_the_upstream_is_passed_on_with_its_status_and_costs_nothing(
    host, client, upstream, status, streaming
):
    upstream.status, upstream.headers = status, {"Retry-After": "7", "Set-Cookie": "a=b", "openai-organization": "us"}
    with pytest.raises(openai.APIStatusError) as failed:
        await ask(client.with_options(max_retries=0), stream=streaming)
    assert (failed.value.status_code, failed.value.code) == (status, "busy")
    headers = failed.value.response.headers
    assert headers["Retry-After"] == "7"
    assert "Set-Cookie" not in headers
    assert "openai-organization" not in headers
    assert await host.balance() == (GRANT, 0)


async def test_the_clients_own_retries_are_new_calls_and_only_the_answered_one_is_charged(host, client, upstream):
    upstream.status, upstream.headers = 429, {"Retry-After-Ms": "1"}
    retried = asyncio.ensure_future(ask(client.with_options(max_retries=20)))
    while len(upstream.requests) < 2:
        await asyncio.sleep(0.01)
    upstream.status = 200
    await retried
    assert await host.charges() == [(COST, SAID)]
    assert await host.balance() == (GRANT - COST, 0)


@pytest.mark.parametrize("status", [401, 402, 403, 302])
async def test_what_the_upstream_has_against_us_is_a_502_without_its_words(host, client, upstream, status):
    upstream.status, upstream.error = status, {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    upstream.headers = {"Location": "http://127.0.0.1:9/elsewhere"}
    with pytest.raises(openai.InternalServerError) as failed:
        await ask(client.with_options(max_retries=0))
    assert (failed.value.status_code, failed.value.code) == (502, "upstream_refused")
    assert KEY not in failed.value.response.text
    assert await host.balance() == (GRANT, 0)


async def test_upstreams_key_is_cut_out_of_its_errors(host, client, upstream):
    upstream.status, upstream.error = 500, {"error": {"message": f"cannot bill {KEY}"}}
    with pytest.raises(openai.InternalServerError, match=r"cannot bill \(key\)"):
        await ask(client.with_options(max_retries=0))


async def test_upstream_that_cannot_be_reached_is_a_502_and_costs_nothing(tmp_path):
    async with running_proxy(tmp_path, "http://127.0.0.1:9/v1") as host, host.client(max_retries=0) as client:
        await host.grant()
        for streaming in (False, True):
            with pytest.raises(openai.InternalServerError) as failed:
                await ask(client, stream=streaming)
            assert failed.value.code == "upstream_failed"
        assert await host.balance() == (GRANT, 0)


@pytest.mark.parametrize(
    "ending",
    [None, {"error": {"message": "boom", "code": "broken"}}, "no json", "[]", ": the end"],
    ids=["breaks", "error", "garbage", "no object", "no end"],
)
async def test_upstream_that_fails_after_its_first_piece_raises_in_the_client_and_costs_nothing(
    host, client, upstream, ending
):
    upstream.script = [chunk("Once"), chunk(" upon"), ending] if ending != ": the end" else [chunk("Once")]
    stream = await ask(client, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "Once"
    with pytest.raises(openai.APIError) as failed:
        await read(stream)
    assert failed.value.code == ("broken" if isinstance(ending, dict) else "upstream_failed")
    assert await host.balance() == (GRANT, 0)


async def test_error_as_the_first_event_of_a_stream_is_an_http_error(host, client, upstream):
    upstream.script = [{"error": {"message": "boom", "code": "broken"}}]
    with pytest.raises(openai.InternalServerError, match="boom"):
        await ask(client.with_options(max_retries=0), stream=True)


async def test_answer_without_usage_is_charged_by_the_estimate_and_its_text(host, client, upstream):
    upstream.usage = None
    await ask(client)
    await read(await ask(client, stream=True))
    (first, whole), (second, streamed) = await host.charges()
    assert (first, whole) == (second, streamed)
    assert whole.output >= 20
    assert whole.input > 0


@pytest.mark.parametrize("streams", [False, True])
async def test_usage_that_cannot_be_is_charged_like_none_and_the_answer_ends(host, client, upstream, streams):
    upstream.usage = {"prompt_tokens": 10**30, "completion_tokens": 1, "prompt_tokens_details": [1]}
    answer = await ask(client, stream=streams)
    if streams:
        await read(answer)
    _, usage = await settled(host)
    assert 20 <= usage.output < 1_000


async def test_a_stream_whose_charge_fails_ends_with_an_error(host, client, monkeypatch):
    async def fails(*_):
        raise RuntimeError("a bug behind the last event")

    monkeypatch.setattr(MeteredCall, "__aexit__", fails)
    with pytest.raises(openai.APIError, match="went wrong on our side"):
        await asyncio.wait_for(read(await ask(client, stream=True)), 10)


async def settled(host):
    async with asyncio.timeout(10):
        while (await host.balance())[1] or not await host.charges():
            await asyncio.sleep(0.01)
    return (await host.charges())[0]


async def test_client_that_leaves_a_stream_stops_the_upstream_and_pays_for_what_came(host, client, upstream):
    upstream.hangs = True
    stream = await ask(client, stream=True)
    for _ in range(3):
        await anext(stream)
    await stream.close()
    await asyncio.wait_for(upstream.left.wait(), 10)
    _, usage = await settled(host)
    assert 3 <= usage.output <= 18  # three words, estimated
    assert usage.input > 0


async def test_client_that_is_only_missed_when_writing_to_it_pays_for_what_came(tmp_path, upstream):
    upstream.script = [chunk("word ")] * 20_000
    async with running_proxy(tmp_path, upstream.url, handler_cancellation=False) as host, host.client() as client:
        await host.grant(100 * GRANT)
        stream = await ask(client, stream=True, max_tokens=100_000)
        await anext(stream)
        await stream.close()
        _, usage = await settled(host)
    assert usage.output > 0


async def test_client_that_leaves_before_an_answer_stops_the_upstream_and_pays_for_the_prompt(host, client, upstream):
    upstream.hangs = True
    waiting = asyncio.ensure_future(ask(client))
    while not upstream.requests:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait_for(upstream.left.wait(), 10)
    _, usage = await settled(host)
    assert usage.output == 0
    assert usage.input > 0


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Request-Id"])
async def test_request_with_an_id_is_served_once(host, client, upstream, name):
    headers = {name: "order-1"}
    upstream.hangs = True
    first = asyncio.ensure_future(ask(client, extra_headers=headers))
    while not upstream.requests:
        await asyncio.sleep(0.01)
    with pytest.raises(openai.ConflictError) as twice:
        await ask(client, extra_headers=headers)
    assert twice.value.code == "request_under_way"
    first.cancel()
    await settled(host)
    upstream.hangs = False
    with pytest.raises(openai.ConflictError) as again:
        await ask(client, extra_headers=headers)
    assert again.value.code == "request_id_reused"
    assert len(upstream.requests) == 1


async def test_id_fits_neither_another_account_nor_another_request(host, client):
    headers = {"Idempotency-Key": "order-1"}
    await ask(client, extra_headers=headers)
    await ask(client, extra_headers=headers, max_tokens=40)
    await host.grant(account="other")
    async with host.client(host.keys.add("other")[1]) as other:
        await ask(other, extra_headers=headers)
    assert [len(await host.charges(account)) for account in ("acme", "other")] == [2, 1]


async def test_id_of_a_failed_request_is_used_up_so_the_client_is_told_not_to_retry(host, client, upstream):
    upstream.status = 500
    with pytest.raises(openai.InternalServerError):
        await ask(client, extra_headers={"Idempotency-Key": "order-1"})
    assert len(upstream.requests) == 1


async def test_refused_request_may_come_again_under_its_id_after_the_purchase(host):
    async with host.client() as client:
        headers = {"Idempotency-Key": "order-1"}
        with pytest.raises(openai.APIStatusError, match="Buy credits"):
            await ask(client, extra_headers=headers)
        await host.grant()
        assert await ask(client, extra_headers=headers)


async def test_upstream_sees_our_key_and_nothing_of_the_clients_headers(host, client, upstream):
    secret = {"Cookie": "session=1", "X-Forwarded-For": "10.0.0.1", "OpenAI-Organization": "theirs"}
    await ask(client, extra_headers=secret)
    await read(await ask(client, stream=True, extra_headers=secret))
    for _, headers, _ in upstream.requests:
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert host.key not in str(headers)
        assert not {"Cookie", "X-Forwarded-For", "OpenAI-Organization", "x-stainless-lang"} & headers.keys()


async def test_neither_key_gets_into_the_logs_or_the_key_table(host, client, upstream, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    await ask(client)
    upstream.status = 401
    with pytest.raises(openai.InternalServerError):
        await ask(client.with_options(max_retries=0))
    async with host.client("sk-mistyped-key") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await ask(stranger)
    written = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpcore"))
    assert "POST /v1/chat/completions" in written
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("keys.db*"))
    assert host.key_id.encode() in stored
    for key in (host.key, KEY, "sk-mistyped-key"):
        assert key not in written
        assert key.encode() not in stored


@pytest.mark.parametrize("path", ["/v1/files", "/v1/responses/resp_1", "/v1/models/toy", "/v1", "/"])
async def test_everything_else_is_a_404_in_openais_envelope(host, client, upstream, path):
    headers = {"Authorization": f"Bearer {host.key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(host.url + path) as response:
        assert (response.status, response.content_type) == (404, "application/json")
        assert (await response.json())["error"]["code"] == "not_served"
    assert upstream.requests == []


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b"[" * 200_000], ids=["empty", "cut", "list", "bytes", "deep"]
)
async def test_body_that_is_no_json_object_is_a_400(host, client, raw):
    assert await post(host, raw) == (400, "invalid_value")


async def test_body_above_the_limit_is_a_413(host, client):
    assert await post(host, io.BytesIO(b" " * (proxy.MAX_BODY_BYTES + 1))) == (413, "not_served")


async def test_models_are_the_upstreams(host, client):
    assert [model.id for model in (await client.models.list()).data] == ["toy"]


async def test_embedding_is_charged_for_its_input(host, client, upstream):
    answer = await client.embeddings.create(model="toy-embedding", input=["one", "two"], encoding_format="float")
    assert answer.data[0].embedding == [0.5, 0.25]
    assert await host.charges() == [(805, Usage(input=7))]  # 7 · 100 · 1.15
    assert upstream.bodies[0] == {"model": "toy-embedding", "input": ["one", "two"], "encoding_format": "float"}


@pytest.mark.parametrize("streaming", [False, True])
async def test_response_is_metered_and_nothing_of_it_is_stored_upstream(host, client, upstream, streaming):
    answer = await client.responses.create(model="toy", input="Hello", max_output_tokens=90, stream=streaming)
    if streaming:
        answer = (await read(answer))[-1].response
    assert answer.output_text == "".join(WORDS)
    assert (upstream.bodies[0]["store"], upstream.bodies[0]["max_output_tokens"]) == (False, 90)
    assert await host.charges() == [(COST, SAID)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("conversation", "conv_1"),
        ("prompt", {"id": "pmpt_1"}),
        ("tools", [{"type": "web_search_preview"}]),
        ("input", [{"type": "item_reference", "id": "msg_1"}]),
        ("max_tokens", 5),
    ],
)
async def test_response_that_builds_on_what_is_stored_or_paid_extra_is_refused(host, client, upstream, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/responses", body={"model": "toy", "input": "Hello", field: value}, cast_to=object)
    assert refused.value.param == field
    assert upstream.requests == []


@pytest.mark.parametrize("streaming", [False, True])
async def test_search_that_the_operator_serves_is_held_for_limited_and_charged(tmp_path, upstream, streaming):
    tools = [{"type": "web_search", "search_context_size": "low"}]
    async with running_proxy(tmp_path, upstream.url, hosted_tools=("web_search",), most_tool_calls=3) as host:
        await host.grant()
        async with host.client() as client:
            body = {
                "model": "searching",
                "input": "Hello",
                "tools": tools,
                "max_output_tokens": 90,
                "stream": streaming,
            }
            answer = await client.responses.create(**body)
            if streaming:
                await read(answer)
            await client.responses.create(**body | {"stream": False}, extra_body={"max_tool_calls": 2})
            with pytest.raises(openai.BadRequestError, match="functions of your own or web_search"):
                await client.responses.create(model="searching", input="Hello", tools=[{"type": "image_generation"}])
        assert [(sent["tools"], sent["max_tool_calls"]) for sent in upstream.bodies] == [(tools, 3), (tools, 2)]
        assert [amount for amount, _ in await host.charges()] == [
            COST + 2 * 1_150_000
        ] * 2  # a page that is read is free
        bound = await host.service.estimate(AIRequest("acme", "searching", tools=tools, max_tool_calls=3))
        assert bound.tool_calls == {"web_search": 3}


async def test_failed_response_costs_nothing_and_its_event_reaches_the_client(host, client, upstream):
    failed = {"id": "resp_1", "status": "failed", "error": {"code": "server_error", "message": "boom"}, "usage": None}
    upstream.script = [
        {"type": "response.output_text.delta", "delta": "Hm"},
        {"type": "response.failed", "response": failed},
    ]
    events = await read(await client.responses.create(model="toy", input="Hello", stream=True))
    assert [event.type for event in events] == ["response.output_text.delta", "response.failed"]
    assert await host.balance() == (GRANT, 0)


async def test_event_of_megabytes_passes(host, client, upstream):
    upstream.script = [chunk("x" * 3_000_000), {"choices": [], "usage": USAGE}, "[DONE]"]
    assert len(spoken(await read(await ask(client, stream=True)))) == 3_000_000
    assert await host.charges() == [(COST, SAID)]


async def test_tool_calls_and_thoughts_of_a_stream_that_is_left_are_charged(host, client, upstream):
    function = {"index": 0, "function": {"name": "look_up", "arguments": '{"where": "here"}'}}
    upstream.script = [
        {**chunk(""), "choices": [{"index": 0, "delta": {"reasoning_content": "let me think about it"}}]},
        {**chunk(""), "choices": [{"index": 0, "delta": {"tool_calls": [function]}}]},
    ]
    upstream.hangs = True
    stream = await ask(client, stream=True)
    await anext(stream)
    await anext(stream)
    await stream.close()
    _, usage = await settled(host)
    assert usage.output >= 10


async def test_stream_ends_as_at_its_limit_when_the_credits_end_and_never_costs_more(host, upstream):
    upstream.script = [chunk(f"{word} ") for word in range(3_000)]
    bound = await host.service.estimate(AIRequest("acme", "toy", MESSAGES, max_output_tokens=300, stream=True))
    await host.grant(bound.cost_microcredits)
    async with host.client() as client:
        chunks = await read(await ask(client, stream=True, max_tokens=300_000))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert spoken(chunks).startswith("0 1 2 3 ")
    ((cost, usage),) = await host.charges()
    assert 0 < usage.output <= 300
    assert await host.balance() == (bound.cost_microcredits - cost, 0)


async def test_books_are_exact_after_answers_refusals_failures_and_departures_at_once(tmp_path, upstream, database_url):
    """Two hundred calls of the official client, thirty-two at a time, to the microcredit."""
    async with running_proxy(tmp_path, upstream.url, database_url=database_url) as host:
        await host.grant()
        async with host.client() as client, host.client(host.keys.add("poor")[1]) as poor:
            await call_two_hundred_times(client, poor)
        async with asyncio.timeout(10):
            while (await host.balance())[1]:
                await asyncio.sleep(0.01)
        charges = await host.charges()
        assert len(upstream.requests) == len(charges) == 120
        assert charges.count((COST, SAID)) == 80
        left = [(amount, usage) for amount, usage in charges if usage != SAID]
        assert all(usage.input > 0 and usage.output > 0 for _, usage in left)
        assert all(amount == -(-(usage.input * 100 + usage.output * 200) * 115 // 100) for amount, usage in left)
        assert await host.balance() == (GRANT - sum(amount for amount, _ in charges), 0)
        assert await host.charges("poor") == []
        report = await asyncio.to_thread(audit, host.service.database)
        assert report.findings == []


async def call_two_hundred_times(client, poor):
    at_once = asyncio.Semaphore(32)

    async def call(number):
        async with at_once:
            match number % 5:
                case 0:
                    with pytest.raises(openai.APIStatusError, match="credits"):
                        await ask(poor, stream=number % 2 == 0)
                case 1:
                    with pytest.raises(openai.BadRequestError):
                        await ask(client, extra_body={"service_tier": "flex"})
                case 2:
                    hang = [{"role": "user", "content": "hang"}]
                    stream = await client.chat.completions.create(model="toy", messages=hang, stream=True)
                    await anext(stream)
                    await stream.close()
                case 3:
                    assert spoken(await read(await ask(client, stream=True))) == "".join(WORDS)
                case _:
                    await ask(client)

    await asyncio.gather(*map(call, range(200)))
