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

from credits_plugin.pricing.prompt import (
    MAX_VALUES,
    REFERENCED_FILE_TOKENS,
    UNCOUNTABLE_TOKENS,
    estimate_input_tokens,
)
from credits_plugin.pricing.tokens import count_text_tokens, family_of

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
    return estimate_input_tokens(list(messages), tools, model)


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
        estimate_input_tokens(value, value, model),
    ):
        assert least <= bound < UNCOUNTABLE_TOKENS


IMAGE_URL = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "high"}}
IMAGE_DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
IMAGE_ANTHROPIC = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}}
IMAGE_RESPONSES = {"type": "input_image", "image_url": "https://x/y.png"}


@pytest.mark.parametrize(
    "part", [IMAGE_URL, IMAGE_DATA, IMAGE_ANTHROPIC, IMAGE_RESPONSES, {"type": "input_image", "file_id": "f"}]
)
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro"])
def test_an_image_costs_its_familys_constant_whatever_its_size(part, model):
    added = tokens_of(user([part]), model=model) - tokens_of(user([]), model=model)
    constant = family_of(model).per_image
    assert constant <= added <= constant + 200


def test_the_image_constant_covers_the_largest_documented_charges():
    assert family_of("gpt-4o").per_image >= 85 + 170 * 8
    assert family_of("gpt-4o-mini").per_image >= 2_833 + 5_667 * 8
    assert family_of("claude-opus-4-7").per_image >= 4_784


def test_images_inside_tool_results_are_images_too():
    part = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE_ANTHROPIC, {"type": "text", "text": "look"}]}
    assert tokens_of(user([part])) < EMPTY_PART + family_of("gpt-4o").per_image + 300


def test_text_hidden_in_a_media_part_is_counted_as_text():
    text = "hello world " * 5_000
    for part in ({**IMAGE_URL, "text": text}, {"type": "file", "file": {"file_id": "f", "filename": text}}):
        assert tokens_of(user([part])) >= 5_000 * 2


def test_a_text_document_counts_as_text():
    text = "字" * 9_000
    part = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}
    assert tokens_of(user([part]), model="claude-sonnet-4-5") >= 27_000


def test_inline_audio_covers_its_seconds_by_format():
    def minute(name: str, bytes_per_second: int) -> int:
        data = "A" * (60 * bytes_per_second * 4 // 3)
        return tokens_of(user([{"type": "input_audio", "input_audio": {"data": data, "format": name}}]))

    gemini = 32 * 60
    assert gemini <= minute("wav", 8_000) < 2 * gemini
    assert gemini <= minute("mp3", 1_000) < 2 * gemini
    assert gemini <= minute("opus", 500) < 2 * gemini


def test_inline_files_count_by_size_and_referenced_ones_by_the_constant():
    inline = tokens_of(user([{"type": "file", "file": {"file_data": "A" * 400_000, "filename": "x.pdf"}}]))
    assert 100_000 <= inline < 120_000
    raw = tokens_of(user([{"type": "file", "file": {"file_data": b"A" * 300_000}}]))
    assert 100_000 <= raw < 120_000
    for part in (
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}},
        {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
        {"type": "input_audio", "input_audio": {}},
    ):
        assert tokens_of(user([part])) >= REFERENCED_FILE_TOKENS


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
    assert estimate_input_tokens(value) >= UNCOUNTABLE_TOKENS
    assert time.perf_counter() - started < 5


def test_any_collection_of_messages_counts_like_a_list():
    messages = [user("hello world " * 10)] * 20
    assert estimate_input_tokens(deque(messages), (), "gpt-4o") == tokens_of(*messages)
    assert estimate_input_tokens({1: messages[0]}.values(), (), "gpt-4o") == tokens_of(messages[0])


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
        estimate_input_tokens(value, value or (), "gpt-4o"),
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
