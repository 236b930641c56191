"""litellm's proxy: an instance of :class:`MeteredProxy` under ``litellm_settings: callbacks`` in its configuration.

One request of a client is one hold, at the price of the model's public name (``model_name`` in the configuration):
retries and fallbacks that the operator configured are part of it, and what litellm answers from its cache costs
nothing. A refusal is HTTP 402 in OpenAI's envelope, before any header of a stream, with the problem document in
``error.provider_specific_fields``.

litellm reports each failed attempt to ``async_log_failure_event``, also those that it makes good, and every success to
``async_log_success_event`` out of a queue, after the answer. So neither settles here: the hooks around the answer do.
Routes whose usage is not in tokens, or whose answers these hooks do not see, are refused with ``not_metered``.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from typing import Any, Final

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..ledger.ids import now_ms
from ..metering import MeteredCall, RequestRefused
from ..web.problems import refusal_response
from .base import Identify, Payer, guarded_stream, request_of, usage_of_totals

METERED: Final = frozenset("completion acompletion text_completion atext_completion embedding aembedding".split())
FREE: Final = frozenset("moderation amoderation list_mcp_tools call_mcp_tool".split())
NOT_METERED: Final = Refusal("not_metered", "This route cannot be metered; use chat completions or embeddings.")

_TOKEN: Final = "credits_call"  # noqa: S105 - the name of a field
_TEXTS: Final = ("content", "reasoning_content")
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
# A client must not choose a dearer model than the one that is held for.
_CHOICES_OF_CLIENTS: Final = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")

_held: Final[ContextVar[str]] = ContextVar("credits_litellm_held", default="")
"""The token of the call that this task's request is held for. litellm and the hooks before ours may go on with another
dictionary than the one that the token was put into."""


def payer_of_key(key: UserAPIKeyAuth) -> Payer | None:
    """Return who pays for a key that litellm has authenticated: its team, else its user; None where it has neither."""
    account_id = key.team_id or key.user_id
    return Payer(account_id, key_id=key.token, member_id=key.user_id if key.team_id else None) if account_id else None


class MeteredProxy(CustomLogger):
    """Meters a litellm proxy; ``identify`` is given the authenticated key.

    The first request starts the service's jobs: litellm has no place of its own to start them.
    """

    def __init__(
        self,
        service: Credits,
        identify: Identify[UserAPIKeyAuth] = payer_of_key,
        *,
        min_output_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens
        self._open: dict[str, MeteredCall] = {}
        self._jobs: asyncio.Future[None] | None = None

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Hold what the request can cost.

        Raises:
            ProxyException: it must not be sent; the client gets the refusal.
        """
        if self._jobs is None:
            self._jobs = asyncio.ensure_future(self._service.start())
        if call_type in FREE:
            return data
        await self._release_earlier()
        try:
            if call_type not in METERED:
                raise RequestRefused(NOT_METERED)
            call = self._service.metered(self._request(self._identify(user_api_key_dict), data))
            await call.__aenter__()
        except RequestRefused as refused:
            raise _refuse(refused.refusal) from None
        # In place: where a later hook refuses, litellm's failure hook is given the dictionary that we were given.
        data["metadata"] = {**(data.get("metadata") or {}), _TOKEN: self._note(call)}
        _limit(data, call)
        return data

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: UserAPIKeyAuth, response: Any
    ) -> None:
        """Settle an answer that is not streamed."""
        if (call := self._take(data)) is None:
            return
        async with AsyncExitStack() as settling:
            settling.push_async_exit(call)
            if _is_cached(response):
                call.not_sent()
            elif (usage := _usage_of(response)) is not None:
                call.report(usage)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: UserAPIKeyAuth, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Count a stream and settle it, however it ends."""
        async with AsyncExitStack() as settling:
            if (call := self._take(request_data)) is not None:
                settling.push_async_exit(call)
                if _is_cached(response):
                    call.not_sent()
                else:
                    counted = guarded_stream(call, response, text_of=_text_of, usage_of=_usage_of)
                    response = await settling.enter_async_context(aclosing(counted))
            async for piece in response:
                yield piece

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: UserAPIKeyAuth,
        traceback_str: str | None = None,
    ) -> None:
        """Give back the hold of a request whose last attempt has failed, or that was refused after it was held for."""
        if (call := self._take(request_data) or self._earlier()) is not None:
            await call.__aexit__(type(original_exception), original_exception, None)

    def _request(self, payer: Payer | None, data: Mapping[str, Any]) -> AIRequest:
        limit = next((data[name] for name in _LIMITS if data.get(name)), None)
        if (answers := _answers(data)) > 1:
            limit = answers * (limit or self._service.settings.default_max_output_tokens)
        prompt = data.get("prompt") or data.get("input") or ""
        return request_of(
            payer,
            model=data.get("model") or "",
            messages=data.get("messages") or [{"role": "user", "content": prompt}],
            tools=_tools(data),
            max_output_tokens=1 if "input" in data else limit,
            min_output_tokens=self._min_output_tokens and self._min_output_tokens * answers,
            max_tool_calls=data.get("max_tool_calls"),
            cache_control=data.get("cache_control"),
            stream=bool(data.get("stream")),
        )

    def _note(self, call: MeteredCall) -> str:
        """Remember the call until one of the hooks around its answer takes it, or its hold has expired."""
        while self._open and next(iter(self._open.values())).hold.expires_at_ms < now_ms():
            del self._open[next(iter(self._open))]
        token = secrets.token_hex(16)
        self._open[token] = call
        _held.set(token)
        return token

    def _take(self, data: Mapping[str, Any]) -> MeteredCall | None:
        """Return the call of a request, to be settled: only the first who asks gets it."""
        token = (data.get("metadata") or {}).get(_TOKEN)
        return self._open.pop(token, None) if isinstance(token, str) else None

    def _earlier(self) -> MeteredCall | None:
        return self._open.pop(_held.get(), None)

    async def _release_earlier(self) -> None:
        """Release what this request was held for before: a limit of its key has turned it to a fallback, unsent."""
        if (call := self._earlier()) is not None:
            call.not_sent()
            await call.__aexit__(None, None, None)


def _tools(data: Mapping[str, Any]) -> list[Any]:
    tools = list(data.get("tools") or data.get("functions") or ())
    # By this field a chat asks every provider for its web search.
    return [*tools, {"type": "web_search"}] if data.get("web_search_options") is not None else tools


def _limit(data: dict[str, Any], call: MeteredCall) -> None:
    """Set the limit that is held for in a request, and take a choice of models by the client out of it."""
    for name in _CHOICES_OF_CLIENTS:
        data.pop(name, None)
    if "input" not in data:
        name = next((name for name in _LIMITS if data.get(name)), "max_tokens")
        data[name] = call.hold.estimate.max_output_tokens // _answers(data)


def _answers(data: Mapping[str, Any]) -> int:
    """Return how many answers are asked for, each of them as long as the limit."""
    asked = [data.get(name) for name in ("n", "best_of")]
    return max([1, *(count for count in asked if type(count) is int)])


def _refuse(refusal: Refusal) -> ProxyException:
    response = refusal_response(refusal)
    problem = json.loads(response.text or "{}")
    return ProxyException(
        refusal.text, type=refusal.code, param=None, code=response.status, provider_specific_fields=problem
    )


def _is_cached(response: Any) -> bool:
    hidden = getattr(response, "_hidden_params", None) or {}
    is_replayed = getattr(response, "custom_llm_provider", None) == "cached_response"
    return is_replayed or (isinstance(hidden, Mapping) and hidden.get("cache_hit") is True)


def _usage_of(response: Any) -> Usage | None:
    """Return the usage in litellm's own format, in which the prompt's tokens are all of them for every provider."""
    usage = getattr(response, "usage", None)
    if usage is None:
        return None
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    written = getattr(prompt, "cache_creation_token_details", None)
    told = (prompt, getattr(usage, "server_tool_use", None))
    searches = max(getattr(place, "web_search_requests", None) or 0 for place in told)
    return usage_of_totals(
        input_tokens=usage.prompt_tokens or 0,
        cache_read=getattr(prompt, "cached_tokens", None) or 0,
        cache_write=getattr(prompt, "cache_creation_tokens", None) or 0,
        cache_write_1h=getattr(written, "ephemeral_1h_input_tokens", None) or 0,
        output_tokens=usage.completion_tokens or 0,
        reasoning=getattr(completion, "reasoning_tokens", None) or 0,
        tool_calls={"web_search": searches} if searches else {},
    )


def _text_of(chunk: Any) -> str:
    texts: list[str | None] = []
    for choice in getattr(chunk, "choices", None) or ():
        delta = getattr(choice, "delta", None)
        texts += [getattr(choice, "text", None), *(getattr(delta, name, None) for name in _TEXTS)]
        for tool_call in getattr(delta, "tool_calls", None) or ():
            texts += [tool_call.function.name, tool_call.function.arguments]
    return "".join(text for text in texts if text)
