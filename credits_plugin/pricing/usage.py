"""Usage as providers report it, translated to ours: one function per format, from the decoded JSON.

A whole that is missing or wrong is an error, for nothing can be charged; a part of an odd shape counts as not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

from hookspecs import Usage

_HOSTED_CALLS: Final = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}
"""Items of a Responses API answer that OpenAI charges for by the call; a function call is the host's own affair."""


def usage_from_openai(usage: Mapping[str, Any], *, output: Iterable[Mapping[str, Any]] = ()) -> Usage:
    """Translate the ``usage`` object of an OpenAI-compatible answer (Chat Completions or Responses).

    There, cached and audio tokens are part of the prompt tokens, reasoning, audio and image tokens of the completion
    tokens. A part that exceeds its whole is cut to it, so that a confused upstream is never charged twice. Audio whose
    share of the cached tokens is not told is taken as not cached, as far as that is possible. Pass the ``output`` items
    of a Responses answer to have the calls of OpenAI's own tools counted: its usage does not tell them.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    parts = _parts(usage, "prompt_tokens_details", "input_tokens_details")
    cached = min(_count(parts, "cached_tokens", default=0), prompt)
    written = min(_count(parts, "cache_write_tokens", default=0), prompt - cached)
    audio = min(_count(parts, "audio_tokens", default=0), prompt - written)
    fresh = prompt - cached - written
    told = _parts(parts, "cached_tokens_details")
    audio_read = min(max(_count(told, "audio_tokens", default=0), audio - fresh), audio, cached)
    return Usage(
        input=fresh - (audio - audio_read),
        cache_read=cached - audio_read,
        cache_write=written,
        audio_input=audio - audio_read,
        audio_cache_read=audio_read,
        tool_calls=_hosted_calls(usage, output),
        **_openai_completion(usage, completion),
    )


def _openai_completion(usage: Mapping[str, Any], completion: int) -> dict[str, int]:
    parts = _parts(usage, "completion_tokens_details", "output_tokens_details")
    reasoning = min(_count(parts, "reasoning_tokens", default=0), completion)
    audio = min(_count(parts, "audio_tokens", default=0), completion - reasoning)
    image = min(_count(parts, "image_tokens", default=0), completion - reasoning - audio)
    plain = completion - reasoning - audio - image
    return {"output": plain, "reasoning": reasoning, "audio_output": audio, "image_output": image}


def _hosted_calls(usage: Mapping[str, Any], output: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count what is charged by the call; Perplexity and OpenRouter tell searches in the usage. None counts twice."""
    calls: Counter[str] = Counter()
    for item in filter(_is_object, output):
        tool = _HOSTED_CALLS.get(str(item.get("type")))
        # Of what a web search call may be, opening and reading a page is free.
        if tool is not None and _parts(item, "action").get("type", "search") == "search":
            calls[tool] += 1
    told = _parts(usage, "server_tool_use")
    searches = _count(usage, "num_search_queries", default=_count(told, "web_search_requests", default=0))
    calls["web_search"] = max(calls["web_search"], searches)
    return {tool: count for tool, count in calls.items() if count}


def usage_from_anthropic(usage: Mapping[str, Any]) -> Usage:
    """Translate the ``usage`` object of an Anthropic message, whose counts are disjoint; thinking is part of output.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    written = _count(usage, "cache_creation_input_tokens", default=0)
    lasting = min(_count(_parts(usage, "cache_creation"), "ephemeral_1h_input_tokens", default=0), written)
    told = _parts(usage, "server_tool_use")
    calls = {tool: _count(told, f"{tool}_requests", default=0) for tool in ("web_search", "web_fetch")}
    return Usage(
        input=_count(usage, "input_tokens"),
        cache_read=_count(usage, "cache_read_input_tokens", default=0),
        cache_write=written - lasting,
        cache_write_1h=lasting,
        output=_count(usage, "output_tokens"),
        tool_calls={tool: count for tool, count in calls.items() if count},
    )


def usage_from_gemini(usage: Mapping[str, Any]) -> Usage:
    """Translate Gemini's ``usageMetadata`` (or ``usage_metadata``): cached tokens are part of the prompt's.

    Tool use prompts are prompt tokens beside the prompt's; thoughts are completion tokens beside the candidates'. How
    many of each are audio or images, the details by modality say. Grounding with a search is not told: count its calls
    and set ``tool_calls`` yourself.

    Raises:
        ValueError: a count is missing, negative or no whole number.
    """
    prompt = _count(usage, "promptTokenCount", "prompt_token_count")
    cached = min(_count(usage, "cachedContentTokenCount", "cached_content_token_count", default=0), prompt)
    tool_prompt = _count(usage, "toolUsePromptTokenCount", "tool_use_prompt_token_count", default=0)
    output = _count(usage, "candidatesTokenCount", "candidates_token_count", default=0)
    audio_read = min(_modality(usage, "AUDIO", "cacheTokensDetails", "cache_tokens_details"), cached)
    # The prompt's details count the cached tokens too, as the prompt's total does.
    audio = _modality(usage, "AUDIO", "promptTokensDetails", "prompt_tokens_details") - audio_read
    audio = min(max(audio, 0), prompt - cached)
    tool_audio = _modality(usage, "AUDIO", "toolUsePromptTokensDetails", "tool_use_prompt_tokens_details")
    tool_audio = min(tool_audio, tool_prompt)
    spoken = min(_modality(usage, "AUDIO", "candidatesTokensDetails", "candidates_tokens_details"), output)
    drawn = min(_modality(usage, "IMAGE", "candidatesTokensDetails", "candidates_tokens_details"), output - spoken)
    return Usage(
        input=prompt - cached - audio + tool_prompt - tool_audio,
        cache_read=cached - audio_read,
        output=output - spoken - drawn,
        reasoning=_count(usage, "thoughtsTokenCount", "thoughts_token_count", default=0),
        audio_input=audio + tool_audio,
        audio_cache_read=audio_read,
        audio_output=spoken,
        image_output=drawn,
    )


def _modality(usage: Mapping[str, Any], modality: str, *names: str) -> int:
    """Sum one modality of a list of ``{"modality": "AUDIO", "tokenCount": 5}``; enums of the SDK end in its name."""
    details = next((usage[name] for name in names if isinstance(usage.get(name), list | tuple)), ())
    told = ((str(item.get("modality")), item) for item in filter(_is_object, details))
    mine = (item for name, item in told if name.upper().rpartition(".")[2] == modality)
    return sum(_count(item, "tokenCount", "token_count", default=0) for item in mine)


def _parts(source: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the first object of these names, or an empty one: what is no object tells nothing of the whole."""
    return next((source[name] for name in names if _is_object(source.get(name))), {})


def _is_object(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


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
