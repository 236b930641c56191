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
