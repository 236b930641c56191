"""Usage as providers report it."""

import pytest

from credits_plugin import Usage, usage_from_anthropic, usage_from_gemini, usage_from_openai


def test_openai_usage_is_split_into_disjoint_counts():
    usage = usage_from_openai(
        {
            "prompt_tokens": 120,
            "completion_tokens": 30,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 10},
        }
    )
    assert usage == Usage(input=56, cache_read=64, output=20, reasoning=10)
    assert usage.total_tokens == 150
    assert usage_from_openai({"input_tokens": 5, "output_tokens": 2}) == Usage(input=5, output=2)


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": -1, "completion_tokens": 0}, {"prompt_tokens": True}])
def test_usage_that_is_none_is_refused(usage: dict):
    with pytest.raises(ValueError, match="usage"):
        usage_from_openai(usage)


def test_anthropic_usage_is_disjoint_already():
    usage = {"input_tokens": 7, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 2}
    assert usage_from_anthropic(usage) == Usage(input=7, cache_read=5, cache_write=3, output=2)
    assert usage_from_anthropic({"input_tokens": 7, "output_tokens": 2}) == Usage(input=7, output=2)


def test_gemini_usage_takes_the_cached_from_the_prompt_and_adds_thoughts_and_tool_prompts():
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 9,
        "thoughtsTokenCount": 4,
    }
    assert usage_from_gemini(usage) == Usage(input=65, cache_read=40, output=9, reasoning=4)
    assert usage_from_gemini({"prompt_token_count": 3}) == Usage(input=3)


def test_openai_audio_is_counted_apart_from_text():
    usage = {
        "prompt_tokens": 120,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 30},
    }
    assert usage_from_openai(usage) == Usage(input=20, audio_input=100, output=15, reasoning=5, audio_output=30)
    assert usage_from_openai(usage).total_tokens == 170


@pytest.mark.parametrize(
    ("cached", "told", "expected"),
    [
        (50, {}, Usage(input=10, cache_read=50, audio_input=60)),  # the dearer reading: the cached ones were text
        (50, {"audio_tokens": 20}, Usage(input=30, cache_read=30, audio_input=40, audio_cache_read=20)),
        (80, {}, Usage(cache_read=60, audio_input=40, audio_cache_read=20)),  # 20 of the audio must have been cached
        (120, {}, Usage(cache_read=60, audio_cache_read=60)),
        (50, {"audio_tokens": 999}, Usage(input=60, audio_input=10, audio_cache_read=50)),
    ],
)
def test_openai_audio_from_the_cache_is_told_or_taken_as_fresh(cached: int, told: dict, expected: Usage):
    parts = {"cached_tokens": cached, "audio_tokens": 60, "cached_tokens_details": told}
    usage = usage_from_openai({"prompt_tokens": 120, "completion_tokens": 0, "prompt_tokens_details": parts})
    assert usage == expected
    assert usage.total_tokens == 120


def test_parts_that_exceed_their_whole_never_make_more_tokens_than_that():
    parts = {"audio_tokens": 99, "image_tokens": 99, "reasoning_tokens": 4}
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": parts, "output_tokens_details": parts}
    assert usage_from_openai(usage) == Usage(audio_input=10, reasoning=4, audio_output=1)


def test_calls_of_openais_own_tools_are_counted_from_the_output_items():
    output = [
        {"type": "web_search_call", "action": {"type": "search"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "web_search_call"},
        {"type": "file_search_call", "queries": ["a", "b"]},
        {"type": "function_call", "name": "web_search"},
        {"type": "message"},
    ]
    usage = usage_from_openai({"input_tokens": 1, "output_tokens": 1}, output=output)
    assert usage.tool_calls == {"web_search": 2, "file_search": 1}
    searched = usage_from_openai({"prompt_tokens": 1, "completion_tokens": 1, "num_search_queries": 3})
    assert searched.tool_calls == {"web_search": 3}
    openrouter = {"prompt_tokens": 5, "completion_tokens": 2, "server_tool_use": {"web_search_requests": 3}}
    assert usage_from_openai(openrouter).tool_calls == {"web_search": 3}
    assert usage_from_openai(openrouter, output=[{"type": "web_search_call"}]).tool_calls == {"web_search": 3}


def test_anthropic_tells_the_lasting_cache_and_the_calls_of_its_own_tools():
    usage = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 2,
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0},
    }
    translated = usage_from_anthropic(usage)
    assert translated == Usage(input=7, cache_write=10, cache_write_1h=20, output=2, tool_calls={"web_search": 3})
    assert usage_from_anthropic(usage | {"cache_creation": None, "server_tool_use": None}).cache_write == 30


def test_gemini_tells_audio_and_images_by_modality():
    usage = {
        "promptTokenCount": 100,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "AUDIO", "tokenCount": 60}],
        "cachedContentTokenCount": 30,
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}, {"modality": "TEXT", "tokenCount": 5}],
        "toolUsePromptTokenCount": 8,
        "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
        "candidatesTokenCount": 1_400,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}, {"modality": "AUDIO", "tokenCount": 9}],
    }
    expected = Usage(
        input=40, cache_read=5, output=101, audio_input=38, audio_cache_read=25, audio_output=9, image_output=1_290
    )
    assert usage_from_gemini(usage) == expected
    assert expected.total_tokens == 1_508


def test_gemini_details_of_the_sdk_have_enums_and_other_names():
    details = [{"modality": "MediaModality.AUDIO", "token_count": 2}]
    usage = {"prompt_token_count": 3, "prompt_tokens_details": details, "cache_tokens_details": None}
    assert usage_from_gemini(usage) == Usage(input=1, audio_input=2)


@pytest.mark.parametrize("calls", [{"web_search": -1}, {"web_search": True}, {"web_search": "2"}, {"web_search": 1.0}])
def test_tool_calls_that_are_no_whole_numbers_are_refused(calls: dict):
    with pytest.raises(ValueError, match=r"usage\.web_search must be a whole number"):
        Usage(tool_calls=calls)


@pytest.mark.parametrize("kind", ["audio_input", "audio_cache_read", "cache_write_1h", "audio_output", "image_output"])
def test_every_kind_must_be_a_whole_number(kind: str):
    with pytest.raises(ValueError, match=rf"usage\.{kind} must be a whole number of tokens"):
        Usage(**{kind: -1})


@pytest.mark.parametrize("odd", [[1], "much", 7, True, [None]])
def test_parts_of_an_odd_shape_count_as_not_told(odd: object):
    told = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": odd, "completion_tokens_details": odd}
    assert usage_from_openai(told, output=[odd, {"type": ["web_search_call"]}]) == Usage(input=10, output=5)
    cached = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens_details": odd}}
    assert usage_from_openai(cached) == Usage(input=10, output=5)
    anthropic = {"input_tokens": 10, "output_tokens": 5, "server_tool_use": odd, "cache_creation": odd}
    assert usage_from_anthropic(anthropic) == Usage(input=10, output=5)
    gemini = {"promptTokenCount": 10, "candidatesTokenCount": 5, "promptTokensDetails": odd}
    assert usage_from_gemini(gemini) == Usage(input=10, output=5)
