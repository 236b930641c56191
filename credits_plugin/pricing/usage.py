"""Usage as providers report it, translated to ours: one function per format, from the decoded JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookspecs import Usage


def usage_from_openai(usage: Mapping[str, Any]) -> Usage:
    """Translate the ``usage`` object of an OpenAI-compatible answer (Chat Completions or Responses).

    There, cached tokens are part of the prompt tokens and reasoning tokens part of the completion tokens.
    A part that exceeds its whole is cut to it, so that a confused upstream is never charged twice.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    prompt_parts = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    completion_parts = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    cached = min(_count(prompt_parts, "cached_tokens", default=0), prompt)
    written = min(_count(prompt_parts, "cache_write_tokens", default=0), prompt - cached)
    reasoning = min(_count(completion_parts, "reasoning_tokens", default=0), completion)
    return Usage(
        input=prompt - cached - written,
        cache_read=cached,
        cache_write=written,
        output=completion - reasoning,
        reasoning=reasoning,
    )


def usage_from_anthropic(usage: Mapping[str, Any]) -> Usage:
    """Translate the ``usage`` object of an Anthropic message, whose counts are disjoint; thinking is part of output.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    return Usage(
        input=_count(usage, "input_tokens"),
        cache_read=_count(usage, "cache_read_input_tokens", default=0),
        cache_write=_count(usage, "cache_creation_input_tokens", default=0),
        output=_count(usage, "output_tokens"),
    )


def usage_from_gemini(usage: Mapping[str, Any]) -> Usage:
    """Translate Gemini's ``usageMetadata`` (or ``usage_metadata``): cached tokens are part of the prompt's.

    Tool use prompts are prompt tokens beside the prompt's; thoughts are completion tokens beside the candidates'.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    prompt = _count(usage, "promptTokenCount", "prompt_token_count")
    cached = min(_count(usage, "cachedContentTokenCount", "cached_content_token_count", default=0), prompt)
    return Usage(
        input=prompt - cached + _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count", default=0),
        cache_read=cached,
        output=_count(usage, "candidatesTokenCount", "candidates_token_count", default=0),
        reasoning=_count(usage, "thoughtsTokenCount", "thoughts_token_count", default=0),
    )


def _count(source: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = source.get(name)
        if value is not None:
            if type(value) is not int or value < 0:
                msg = f"usage[{name!r}] must be a whole number of tokens, 0 or more; got {value!r}"
                raise ValueError(msg)
            return value
    if default is None:
        msg = f"the provider's usage has none of {', '.join(names)}"
        raise ValueError(msg)
    return default
