"""Prompt tokens of chat requests: texts, tools, media and shapes nobody should send."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_data import encoded, png, wav

from credits_plugin.pricing.families import family_of
from credits_plugin.pricing.prompt import (
    MAX_VALUES,
    REFERENCED_FILE_TOKENS,
    UNCOUNTABLE_TOKENS,
    count_prompt,
)
from credits_plugin.pricing.tokens import count_text_tokens

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location.\nUse the user's units.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def tokens_of(*messages, tools=(), model="gpt-4o") -> int:
    return count_prompt(list(messages), tools, model).total


def user(content) -> dict:
    return {"role": "user", "content": content}


NOTHING = tokens_of()
EMPTY_PART = tokens_of(user([{"type": "text", "text": ""}]))


def test_a_plain_conversation_is_at_least_openais_own_count_and_close_to_it():
    # The example of OpenAI's cookbook "How to count tokens"; its API answers 129 (gpt-4) and 124 (gpt-4o).
    def line(name, text):
        return {"role": "system", "name": name, "content": text}

    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain "
            "English.",
        },
        line("example_user", "New synergies will help drive top-line growth."),
        line("example_assistant", "Things working well together will increase revenue."),
        line("example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for "
             "increased leverage."),
        line("example_assistant", "Let's talk later when we're less busy about how to do better."),
        user("This late pivot means we don't have time to boil the ocean for the client deliverable."),
    ]  # fmt: skip
    assert 129 <= tokens_of(*messages, model="gpt-4") <= 260
    assert 124 <= tokens_of(*messages, model="gpt-4o") <= 260


def test_a_long_plain_message_costs_its_text_and_a_small_frame():
    text = "Money is never lost, doubled, forged or overdrawn. " * 200
    exact = count_text_tokens(text, "gpt-4o")
    assert exact + 4 <= tokens_of(user(text)) <= exact + 40


def test_text_parts_count_like_text():
    text = "hello world " * 50
    exact = count_text_tokens(text, "gpt-4o")
    parts = tokens_of(user([{"type": "text", "text": text}, {"type": "input_text", "text": text}]))
    assert 2 * exact <= parts <= 2 * exact + 80


@pytest.mark.parametrize(
    "extra",
    [
        {"name": "x" * 500},
        {"refusal": "no " * 500},
        {"reasoning_content": "because " * 500},
        {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}' * 200}}]},
        {"function_call": {"name": "f", "arguments": '{"a": 1}' * 200}},
        {"anything": {"else": ["entirely " * 500]}},
    ],
)
def test_every_other_field_of_a_message_counts_at_least_its_json(extra):
    with_field = tokens_of({"role": "assistant", "content": "ok", **extra})
    assert with_field >= tokens_of({"role": "assistant", "content": "ok"}) + count_text_tokens(
        json.dumps(next(iter(extra.values()))), "gpt-4o"
    )


def test_tool_definitions_count_at_least_their_json_each_time():
    text = count_text_tokens(json.dumps(WEATHER, separators=(",", ":")), "gpt-4o")
    one, three = tokens_of(tools=[WEATHER]), tokens_of(tools=[WEATHER] * 3)
    assert one >= NOTHING + text
    assert three >= NOTHING + 3 * text
    assert one <= NOTHING + text + 100


def test_many_tools_are_bounded_too():
    tools = [WEATHER] * 1_000
    assert tokens_of(tools=tools) >= count_text_tokens(json.dumps(WEATHER), "gpt-4o") * 1_000


def test_anthropics_hidden_instructions_for_tools_are_covered():
    bare = count_text_tokens(json.dumps(WEATHER), "claude-sonnet-4-5")
    with_tools = tokens_of(tools=[WEATHER], model="claude-sonnet-4-5")
    assert with_tools - tokens_of(model="claude-sonnet-4-5") >= 530 + bare * 9 // 10


@settings(max_examples=150, deadline=None)
@given(json_values, st.sampled_from(["gpt-4o", "gpt-4", "claude-sonnet-4-5"]))
def test_any_json_as_content_as_message_and_as_tool_is_at_least_the_tokens_of_its_strings(value, model):
    def strings(node):
        if isinstance(node, dict):
            return [text for item in node.values() for text in strings(item)]
        return (
            [text for item in node for text in strings(item)]
            if isinstance(node, list)
            else [node] * (type(node) is str)
        )

    least = sum(count_text_tokens(text, model) for text in strings(value))
    for bound in (
        tokens_of(user(value), model=model),
        tokens_of(value, model=model),
        tokens_of(tools=[value], model=model),
        count_prompt(value, value, model).total,
    ):
        assert least <= bound < UNCOUNTABLE_TOKENS


PNG = encoded(png(1_024, 1_024))
IMAGE_URL = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "high"}}
IMAGE_BROKEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
IMAGE_DATA = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
IMAGE_ANTHROPIC = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
IMAGE_RESPONSES = {"type": "input_image", "image_url": "https://x/y.png"}


def added_by(part, model) -> int:
    return tokens_of(user([part]), model=model) - tokens_of(user([]), model=model)


@pytest.mark.parametrize("part", [IMAGE_URL, IMAGE_BROKEN, IMAGE_RESPONSES, {"type": "input_image", "file_id": "f"}])
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "grok-4"])
def test_an_image_whose_size_is_unknown_costs_the_dearest_of_its_family(part, model):
    dearest = family_of(model).image(None, None)
    assert dearest <= added_by(part, model) <= dearest + 200


@pytest.mark.parametrize("part", [IMAGE_URL, IMAGE_RESPONSES, {"type": "file", "file": {"file_id": "f"}}])
@pytest.mark.parametrize("claim", [{"source": {"type": "text"}}, {"source": {"type": "content"}}])
def test_what_a_client_claims_beside_a_medium_makes_it_no_cheaper(part, claim):
    assert added_by({**part, **claim}, "gpt-4o-mini") >= added_by(part, "gpt-4o-mini")


@pytest.mark.parametrize("named", [{"image_url": {"url": "https://x/y.png"}}, {"image_url": "https://x/y.png"}])
def test_an_image_without_a_type_is_an_image(named):
    typed = added_by({"type": "image_url", **named}, "gpt-4o-mini")
    assert added_by(named, "gpt-4o-mini") >= typed - 8
    assert added_by({"image_url": None, "text": "hello"}, "gpt-4o-mini") < 100


@pytest.mark.parametrize("part", [IMAGE_DATA, IMAGE_ANTHROPIC])
@pytest.mark.parametrize(
    ("model", "tokens"),
    [("gpt-4o", 765), ("gpt-4o-mini", 25_501), ("gpt-4.1-mini", 1_659), ("claude-sonnet-4-5", 1_399),
     ("gemini-2.5-pro", 1_032), ("grok-4", 16_384)],
)  # fmt: skip
def test_an_inline_image_costs_what_its_size_does(part, model, tokens):
    assert tokens <= added_by(part, model) <= tokens + 200


def test_low_detail_is_cheap_where_the_family_has_it():
    part = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    assert 85 <= added_by(part, "gpt-4o") <= 285
    assert added_by(part, "claude-sonnet-4-5") >= 1_640


def test_images_inside_tool_results_are_images_too():
    part = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE_ANTHROPIC, {"type": "text", "text": "look"}]}
    assert tokens_of(user([part])) < EMPTY_PART + 765 + 300


def test_text_hidden_in_a_media_part_is_counted_as_text():
    text = "hello world " * 5_000
    for part in ({**IMAGE_URL, "text": text}, {"type": "file", "file": {"file_id": "f", "filename": text}}):
        assert tokens_of(user([part])) >= 5_000 * 2


def test_a_text_document_counts_as_text():
    text = "字" * 9_000
    part = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
    assert tokens_of(user([part]), model="claude-sonnet-4-5") >= count_text_tokens(text, "claude-sonnet-4-5") > 9_000


@pytest.mark.parametrize(("model", "per_s"), [("gpt-4o-audio-preview", 10), ("gemini-2.5-flash", 32), ("unknown", 32)])
def test_inline_audio_is_counted_apart_by_its_seconds(model, per_s):
    audio = {"data": encoded(wav(seconds=60, rate=16_000)), "format": "wav"}
    counted = count_prompt([user([{"type": "input_audio", "input_audio": audio}])], (), model)
    assert 60 * per_s <= counted.audio <= 61 * per_s
    assert counted.total == counted.text + counted.audio
    assert counted.text < count_prompt([user([])], (), model).text + 100


def test_referenced_files_cost_the_constant():
    for part in (
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
        {"type": "input_audio", "input_audio": {}},
    ):
        assert tokens_of(user([part])) >= REFERENCED_FILE_TOKENS


def file_part(data) -> dict:
    return {"type": "file", "file": {"file_data": data, "filename": "x"}}


def test_a_pdf_costs_its_pages_with_text_and_image():
    pages = b"%PDF-1.4" + b"<< /Type /Pages /Count 3 >>" + b"<< /Type /Page /Parent 2 0 R >>" * 3
    for data in (pages, encoded(pages), f"data:application/pdf;base64,{encoded(pages)}"):
        assert 3 * (3_000 + 1_445) <= added_by(file_part(data), "gpt-4o") <= 3 * (3_000 + 1_445) + 200


def test_an_inline_text_file_costs_its_text():
    text = "字" * 9_000
    exact = count_text_tokens(text, "gpt-4o")
    data = f"data:text/plain;base64,{encoded(text.encode())}"
    assert exact <= added_by(file_part(data), "gpt-4o") <= exact + 1_445 + 200


def test_an_inline_file_that_is_no_text_costs_a_token_per_base64_character():
    assert 400_000 <= added_by(file_part(encoded(b"\0\xff\0" * 100_000)), "gpt-4o") <= 402_000
    assert 400_000 <= added_by(file_part(b"\0\xff\0" * 100_000), "gpt-4o") <= 402_000


def test_an_inline_video_costs_by_its_length():
    part = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 400_000}}
    assert 100_000 <= added_by(part, "gemini-2.5-flash") <= 120_000


@pytest.mark.parametrize(
    ("messages", "tools", "model", "exact"),
    [
        ([user("hello")], (), "gpt-4o", True),
        ([], (), "gpt-4o", True),
        ([user("hello")], (), "claude-sonnet-4-5", False),
        ([user("hello")], [WEATHER], "gpt-4o", False),
        ([user([{"type": "text", "text": "hello"}])], (), "gpt-4o", False),
        ([user("hello" * 10_000)], (), "gpt-4o", False),
    ],
    ids=["text", "nothing", "no vocabulary", "tools", "parts", "too long"],
)
def test_a_count_is_called_exact_only_for_texts_in_a_known_vocabulary(messages, tools, model, exact):
    assert count_prompt(messages, tools, model).is_exact is exact


@dataclass(slots=True)
class SlottedMessage:
    role: str
    content: str


class PlainMessage:
    def __init__(self, content):
        self.role, self.content = "assistant", content


class DumpingMessage:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content

    def model_dump(self):
        return {"role": "assistant", "content": self.content}


@pytest.mark.parametrize("make", [PlainMessage, DumpingMessage, lambda text: SlottedMessage("user", text)])
def test_message_objects_of_an_sdk_count_their_fields(make):
    text = "hello world " * 400
    assert 800 <= tokens_of(make(text)) < 1_200


class Broken:
    def model_dump(self):
        raise RuntimeError("no")


def cycle() -> list:
    endless: list = []
    endless.append(endless)
    return endless


def wide_cycle() -> dict:
    endless: dict = {str(n): n for n in range(MAX_VALUES // 2)}
    endless["self"] = endless
    return endless


@pytest.mark.parametrize(
    "value",
    [
        Broken(),
        cycle(),
        wide_cycle(),
        [None] * (MAX_VALUES + 1),
        [[1]] * MAX_VALUES,
        dict.fromkeys(range(MAX_VALUES + 1)),
        (user("x") for _ in [1]),
    ],
    ids=["broken", "cycle", "wide cycle", "long", "nested", "wide", "iterator"],
)
def test_what_is_no_finite_json_is_uncountable_quickly(value):
    started = time.perf_counter()
    assert tokens_of(value) >= UNCOUNTABLE_TOKENS
    assert tokens_of(user(value)) >= UNCOUNTABLE_TOKENS
    assert tokens_of(tools=[value]) >= UNCOUNTABLE_TOKENS
    assert count_prompt(value).total >= UNCOUNTABLE_TOKENS
    assert time.perf_counter() - started < 5


def test_any_collection_of_messages_counts_like_a_list():
    messages = [user("hello world " * 10)] * 20
    assert count_prompt(deque(messages), (), "gpt-4o").total == tokens_of(*messages)
    assert count_prompt({1: messages[0]}.values(), (), "gpt-4o").total == tokens_of(messages[0])


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, True, 1.5, float("nan"), 10**5_000, "text", b"bytes", Decimal("1.5"), {1: 2, (3, 4): 5}, {None: None},
     set("ab"), {"type": ["unhashable"]}, {"type": "document", "source": {"type": []}}, {"type": "image"},
     {"role": 1, "content": 2}, object(), json.loads("[" * 900 + "]" * 900), "\ud800"],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_odd_shape_never_raises(value):
    for bound in (
        tokens_of(value),
        tokens_of(user(value)),
        tokens_of({"role": value, "content": "x"}),
        tokens_of(user([value])),
        tokens_of(tools=[value]),
        count_prompt(value, value or (), "gpt-4o").total,
    ):
        assert NOTHING <= bound < UNCOUNTABLE_TOKENS


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5"])
def test_a_prompt_of_a_thousand_million_characters_does_not_hang(model):
    megabyte = "a" * 10**6
    tokens_of(user("warm"), model=model)
    messages = [user(megabyte)] * 1_000
    started = time.perf_counter()
    assert tokens_of(*messages, model=model) > 9 * 10**8
    assert time.perf_counter() - started < 0.5
