"""OpenAI's API as it is read by a proxy: what a request can cost, and what a stream says."""

import json

import pytest

from credits_plugin import Refusal, Usage
from credits_plugin.adapters import Payer
from credits_plugin.adapters.openai_api import (
    CHAT,
    EMBEDDINGS,
    RESPONSES,
    ApiError,
    StreamReader,
    request_id_of,
    request_of_body,
    text_of,
    upstream_body,
    usage_of,
)
from credits_plugin.errors import InvalidValue
from credits_plugin.metering import RequestRefused
from credits_plugin.pricing.prompt import count_prompt

PAYER = Payer("acme", key_id="key_1")
MESSAGES = [{"role": "user", "content": "Hello"}]


def request_of(body, path=CHAT, payer=PAYER):
    return request_of_body(path, {"model": "toy", **body}, payer)


def bound(request):
    return count_prompt(request.messages, request.tools, request.model).total


def test_payer_is_the_keys_and_never_the_bodys():
    request = request_of({"messages": MESSAGES, "user": "somebody"})
    assert (request.account_id, request.key_id, request.member_id) == ("acme", "key_1", None)
    with pytest.raises(RequestRefused):
        request_of({"messages": MESSAGES}, payer=None)


def test_streams_extend_their_holds():
    request = request_of({"messages": MESSAGES, "stream": True})
    assert (request.stream, request.can_extend) == (True, True)


@pytest.mark.parametrize("shaping", ["tools", "functions", "response_format"])
def test_what_shapes_an_answer_counts_as_prompt(shaping):
    schema = {"type": "object", "description": "very long " * 200}
    value = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        "functions": [{"name": "f", "parameters": schema}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}},
    }[shaping]
    assert bound(request_of({"messages": MESSAGES, shaping: value})) > bound(request_of({"messages": MESSAGES})) + 300


def test_instructions_and_formats_of_a_response_count_as_prompt():
    plain = bound(request_of({"input": "Hello"}, RESPONSES))
    long = "very long " * 200
    assert bound(request_of({"input": "Hello", "instructions": long}, RESPONSES)) > plain + 300
    assert bound(request_of({"input": "Hello", "text": {"format": {"schema": long}}}, RESPONSES)) > plain + 300
    assert bound(request_of({"input": [{"role": "user", "content": long}]}, RESPONSES)) > plain + 300


@pytest.mark.parametrize("given", ["word " * 500, ["word " * 250] * 2, list(range(500)), [list(range(250))] * 2])
def test_embeddings_are_bounded_by_their_input_however_it_is_given(given):
    assert bound(request_of({"input": given}, EMBEDDINGS)) >= 500


@pytest.mark.parametrize("given", [None, 5, {"text": "Hello"}])
def test_input_of_another_kind_is_refused(given):
    with pytest.raises(InvalidValue, match="input must be"):
        request_of({"input": given}, EMBEDDINGS)


def test_least_name_of_a_limit_wins_and_goes_upstream_alone():
    body = {"model": "toy", "messages": MESSAGES, "max_tokens": 9, "max_completion_tokens": 5, "n": 2}
    assert request_of(body).max_output_tokens == 10
    sent = upstream_body(CHAT, body, max_output_tokens=10, limit_field="max_completion_tokens")
    assert sent == {"model": "toy", "messages": MESSAGES, "n": 2, "max_completion_tokens": 5}


def test_more_choices_than_paid_tokens_are_refused():
    with pytest.raises(InvalidValue, match="n must be at most 3"):
        upstream_body(CHAT, {"model": "toy", "messages": MESSAGES, "n": 4}, max_output_tokens=3)


def test_other_stream_options_are_kept():
    body = {"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": False}}
    sent = upstream_body(CHAT, body, max_output_tokens=5)
    assert sent["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_id_is_bound_to_path_and_content():
    ids = [
        request_id_of(headers, path, raw)
        for headers in ({"Idempotency-Key": "a"}, {"X-Request-Id": "b"})
        for path in (CHAT, RESPONSES)
        for raw in (b"{}", b"{ }")
    ]
    assert len(set(ids)) == 8
    assert request_id_of({"Idempotency-Key": "a", "X-Request-Id": "b"}, CHAT, b"{}") == ids[0]
    assert request_id_of({}, CHAT, b"{}") is None


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("insufficient_credits", 402),
        ("account_in_debt", 402),
        ("unknown_model", 404),
        ("invalid_value", 400),
        ("request_id_reused", 409),
        ("request_under_way", 409),
        ("gate_failed", 503),
    ],
)
def test_refusals_have_the_status_that_openais_clients_understand(code, status):
    error = ApiError.refusing(Refusal(code, "No.", 5, 3, "https://example.com/credits"))
    assert error.status == status
    assert error.headers == ({"Retry-After": "2"} if status == 503 else {"x-should-retry": "false"})
    body = json.loads(error.body)["error"]
    assert (body["code"], body["message"]) == (code, "No. https://example.com/credits")
    assert ("needed" in body) == (status == 402)


def test_usage_is_found_wherever_an_answer_has_it():
    assert usage_of({"usage": {"prompt_tokens": 5, "completion_tokens": 2}}) == Usage(input=5, output=2)
    assert usage_of({"usage": {"prompt_tokens": 5, "total_tokens": 5}}) == Usage(input=5)
    assert usage_of({"response": {"usage": {"input_tokens": 5, "output_tokens": 2}}}) == Usage(input=5, output=2)
    for none in ({}, {"usage": None}, {"usage": 5}, {"usage": {"prompt_tokens": -1}}, {"response": "x"}):
        assert usage_of(none) is None


def test_calls_of_the_upstreams_tools_are_counted_and_odd_items_are_not():
    calls = [{"type": "web_search_call"}, {"type": "web_search_call", "action": "odd"}, {"type": []}, 5, {}]
    whole = {"usage": {"input_tokens": 5, "output_tokens": 2}, "output": calls}
    counted = Usage(input=5, output=2, tool_calls={"web_search": 2})
    assert usage_of(whole) == usage_of({"type": "response.completed", "response": whole}) == counted
    assert usage_of(whole | {"output": "odd"}) == Usage(input=5, output=2)


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview_2025_03_11", "mcp", [], 5])
def test_tools_of_the_upstream_are_refused_unless_the_host_serves_them(kind):
    tools = [{"type": kind}]
    served = kind not in ("mcp", [], 5)
    for path, allowed in ((RESPONSES, ()), (CHAT, ("web_search",)), (RESPONSES, ("web_search",))):
        body = {"model": "toy", "tools": tools} | ({"messages": MESSAGES} if path == CHAT else {"input": "Hello"})
        if served and path == RESPONSES and allowed:
            request = request_of_body(path, body, PAYER, hosted_tools=allowed)
            assert (list(request.tools), request.max_tool_calls) == (tools, 5)
        else:
            with pytest.raises(InvalidValue, match="tools must be functions of your own"):
                request_of_body(path, body, PAYER, hosted_tools=allowed)


def test_a_client_may_ask_for_fewer_calls_of_tools_but_not_for_more():
    body = {"model": "toy", "input": "Hello", "tools": [{"type": "web_search"}]}

    def limit(**more):
        return request_of_body(
            RESPONSES, body | more, PAYER, hosted_tools=["web_search"], most_tool_calls=4
        ).max_tool_calls

    assert (limit(), limit(max_tool_calls=3), limit(max_tool_calls=9)) == (4, 3, 4)
    assert upstream_body(RESPONSES, body, max_output_tokens=5, max_tool_calls=3)["max_tool_calls"] == 3
    for odd in (0, -1, True, "many"):
        with pytest.raises(InvalidValue, match="max_tool_calls must be a whole number above 0"):
            limit(max_tool_calls=odd)


def test_text_is_everything_that_was_said_thought_and_asked_for_and_nothing_twice():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "reasoning": "b", "tool_calls": [call]}
    details = [{"type": "reasoning.text", "text": "b"}]
    assert text_of({"choices": [{"message": {**message, "reasoning_details": details}}]}) == "abf{}"
    parts = [{"type": "output_text", "text": "a"}]
    assert text_of({"output": [{"type": "message", "role": "assistant", "content": parts}]}) == "a"
    assert text_of({"type": "response.output_text.delta", "delta": "a"}) == "a"
    assert text_of({"type": "response.output_text.done", "text": "a"}) == ""
    for nonsense in ({"choices": 5}, {"choices": [None, {"delta": 5}]}, {"delta": None}):
        assert text_of(nonsense) == ""


class Counted:
    """A call that takes note of what it is told; its credits end after so many pieces of text."""

    def __init__(self, pieces=99):
        self.pieces, self.text, self.usage = pieces, [], None

    def report(self, usage):
        self.usage = usage

    async def deliver(self, text):
        self.text.append(text)
        return len(self.text) < self.pieces


def events(*chunks):
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(text, **more):
    return {"id": "c", "model": "toy", "choices": [{"index": 0, "delta": {"content": text}}], **more}


async def test_reader_counts_each_piece_and_reports_the_last_usage():
    reader, call = StreamReader(CHAT, {}), Counted()
    stream = events(chunk("a"), chunk("b", usage={"prompt_tokens": 5, "completion_tokens": 2}), chunk("c"))
    out = b"".join([await reader.read(stream[at : at + 7], call) for at in range(0, len(stream), 7)])
    assert call.text == ["a", "b", "c"]
    assert call.usage == Usage(input=5, output=2)
    assert b"usage" not in out
    assert out == events(chunk("a"), chunk("b"), chunk("c"))


async def test_reader_leaves_the_end_to_be_sent_after_the_settlement():
    reader, call = StreamReader(CHAT, {}), Counted()
    assert await reader.read(b"data: [DONE]\n\n" + events(chunk("more")), call) == b""
    assert (reader.is_over, call.text) == (True, [])
    assert reader.last_event() == b"data: [DONE]\n\n"


async def test_chunks_without_choices_that_are_no_usage_are_kept():
    filters = {"id": "c", "choices": [], "prompt_filter_results": [], "usage": None}
    assert b"prompt_filter_results" in await StreamReader(CHAT, {}).read(events(filters), Counted())


async def test_stream_whose_credits_end_ends_every_choice_as_if_at_its_limit():
    reader, call = StreamReader(CHAT, {}), Counted(pieces=2)
    two = {**chunk(""), "choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}]}
    out = await reader.read(events(two, two, chunk("never counted")), call)
    last = json.loads(out.rpartition(b"data: ")[2])
    assert [(choice["index"], choice["finish_reason"]) for choice in last["choices"]] == [(0, "length"), (1, "length")]
    assert (last["id"], last["model"]) == ("c", "toy")
    assert (reader.is_over, call.text) == (True, ["ab", "ab"])


async def test_response_whose_credits_end_is_an_error():
    delta = {"type": "response.output_text.delta", "delta": "a"}
    out = await StreamReader(RESPONSES, {}).read(events(delta, delta), Counted(pieces=1))
    assert json.loads(out.rpartition(b"data: ")[2])["error"]["code"] == "insufficient_credits"
    assert out.count(b"output_text") == 1


@pytest.mark.parametrize(
    "line", [b"data: {", b"data: []", b'data: {"error": {"message": "boom"}}', b"data: " + b"[" * 99_999]
)
async def test_reader_stops_at_a_failure_and_keeps_what_came_before(line):
    reader, call = StreamReader(CHAT, {}), Counted()
    out = await reader.read(events(chunk("a")) + line + b"\n\n" + events(chunk("b")), call)
    assert "error" in json.loads(reader.failure)
    assert call.text == ["a"]
    assert out == events(chunk("a"))
