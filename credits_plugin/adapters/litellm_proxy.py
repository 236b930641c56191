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
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from typing import Any, Final

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..errors import InvalidValue
from ..ledger.ids import now_ms
from ..metering import MeteredCall, RequestRefused
from ..web.problems import refusal_response
from .base import Identify, Payer, guarded_stream, report_answer, request_of, usage_of_totals
from .openai_api import MAX_CHOICES

_SAMPLING: Final = (
    "n max_tokens stream stream_options temperature top_p top_k min_p stop seed logprobs top_logprobs logit_bias "
    "frequency_penalty presence_penalty repetition_penalty"
)
# What litellm itself does with a request: how it is named in logs, guarded and cached. What the operator set for a key
# stands in some of these fields, whatever the client has sent there: left out, it would not hold.
_HANDLING: Final = (
    "model user metadata litellm_metadata tags guardrails cache ttl no-log litellm_session_id litellm_trace_id "
    "litellm_call_id api_version safety_identifier allowed_model_region success_callback failure_callback"
)
METERED: Final[Mapping[str, frozenset[str]]] = {
    "completion": frozenset(
        f"{_HANDLING} {_SAMPLING} messages max_completion_tokens tools tool_choice parallel_tool_calls functions "
        "function_call response_format reasoning_effort thinking verbosity prompt_cache_key web_search_options "
        "cache_control".split()
    ),
    "text_completion": frozenset(f"{_HANDLING} {_SAMPLING} prompt suffix echo best_of".split()),
    "embedding": frozenset(f"{_HANDLING} input dimensions encoding_format input_type".split()),
}
"""The routes that are metered, and what a client may send to each: nothing that moves a limit, money or time unseen.

Whatever else it sends is left out, in the body or by header: another deadline would make a stream fail after it was
heard, retries and fallbacks are the operator's, and providers have many names for a limit, a tier or another model.
"""
FREE: Final = frozenset("moderation amoderation list_mcp_tools call_mcp_tool".split())
NOT_METERED: Final = Refusal("not_metered", "This route cannot be metered; use chat completions or embeddings.")

_TOKEN: Final = "credits_call"  # noqa: S105 - the name of a field
_TEXTS: Final = ("content", "reasoning_content")
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_LIMIT_SENT: Final = "max_tokens"
_CLIENT_GONE: Final = 499
# litellm makes it of headers such as anthropic-beta, and says nowhere that a client has sent it.
_FIELDS_OF_HEADERS: Final = ("provider_specific_header",)

_held: Final[ContextVar[str]] = ContextVar("credits_litellm_held", default="")
"""The token of the call that this task's request is held for. litellm and the hooks before ours may go on with another
dictionary than the one that the token was put into."""


def payer_of_key(key: UserAPIKeyAuth) -> Payer | None:
    """Return who pays for a key that litellm has authenticated: its team, else its user; None where it has neither."""
    account_id = key.team_id or key.user_id
    return Payer(account_id, key_id=key.token, member_id=key.user_id if key.team_id else None) if account_id else None


class MeteredProxy(CustomLogger):
    """Meters a litellm proxy; ``identify`` is given the authenticated key.

    ``client_fields`` are what clients may send beside :data:`METERED`, such as a provider's own parameters, because the
    operator knows that it makes no request dearer. The first request starts the service's jobs: litellm has no place of
    its own to start them.
    """

    def __init__(
        self,
        service: Credits,
        identify: Identify[UserAPIKeyAuth] = payer_of_key,
        *,
        min_output_tokens: int | None = None,
        client_fields: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens
        self._client_fields = frozenset(client_fields)
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
            if (route := call_type.removeprefix("a")) not in METERED:
                raise RequestRefused(NOT_METERED)
            _leave_out(data, _asked_for(data) - METERED[route] - self._client_fields)
            call = self._service.metered(self._request(self._identify(user_api_key_dict), route, data))
            await call.__aenter__()
        except RequestRefused as refused:
            raise _refuse(refused.refusal) from None
        # In place: where a later hook refuses, litellm's failure hook is given the dictionary that we were given.
        data["metadata"] = {**(data.get("metadata") or {}), _TOKEN: self._note(call)}
        if route != "embedding":
            _limit(data, call)
            _ask_for_usage(data, route)
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
            else:
                report_answer(call, _usage_of(response), _text_of(response))

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
        """Give back the hold of a request whose last attempt has failed, or that was refused after it was held for.

        What litellm cancelled because the client had left (``cancel_on_disconnect``) was asked of the provider.
        """
        if (call := self._take(request_data) or self._earlier()) is not None:
            if isinstance(original_exception, HTTPException) and original_exception.status_code == _CLIENT_GONE:
                call.client_gone()
            await call.__aexit__(type(original_exception), original_exception, None)

    def _request(self, payer: Payer | None, route: str, data: Mapping[str, Any]) -> AIRequest:
        _require("," not in str(data.get("model")), "model", "one model")
        _require(isinstance(data.get("stream"), bool | None), "stream", "true or false")
        answers, limit = _answers(data), min(filter(None, (_count(data, name) for name in _LIMITS)), default=None)
        if answers > 1:
            limit = answers * (limit or self._service.settings.default_max_output_tokens)
        return request_of(
            payer,
            model=data.get("model") or "",
            messages=data.get("messages") or _prompt(data),
            tools=_tools(data),
            max_output_tokens=1 if route == "embedding" else limit,
            min_output_tokens=self._min_output_tokens and self._min_output_tokens * answers,
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


def _asked_for(data: Mapping[str, Any]) -> set[str]:
    """Return the names of what the client has sent, in the body or by header; what litellm adds itself is not in it."""
    seen = data["proxy_server_request"]
    return {*seen["body"], *seen["credential_fields"], *_FIELDS_OF_HEADERS}


def _leave_out(data: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        data.pop(name, None)


def _limit(data: dict[str, Any], call: MeteredCall) -> None:
    """Set the limit that is held for, by the one name that litellm translates for every provider."""
    _leave_out(data, _LIMITS)
    # Some servers take 0 for no limit.
    data[_LIMIT_SENT] = max(call.hold.estimate.max_output_tokens // _answers(data), 1)


def _ask_for_usage(data: dict[str, Any], route: str) -> None:
    """Ask for a stream's usage where litellm does not: of texts, and where the client has said no."""
    options = data.get("stream_options")
    if data.get("stream") and (options is not None or route == "text_completion"):
        is_asked_for = isinstance(options, dict) and options.get("include_usage") is True
        data.setdefault("_litellm_strip_stream_usage", not is_asked_for)
        data["stream_options"] = {"include_usage": True}


def _prompt(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts = [data.get(name) or "" for name in ("prompt", "input", "suffix")]
    return [{"role": "user", "content": text} for text in texts if text]


def _tools(data: Mapping[str, Any]) -> list[Any]:
    """Return the tools, and what else is sent along with the prompt and counted like them."""
    tools = [*(data.get("tools") or ()), *(data.get("functions") or ())]
    _require(all(isinstance(tool, dict) for tool in tools), "tools", "a list of objects")
    # litellm runs these itself, and asks the model again with what came out: calls of which it reports the last alone.
    _require(all(tool.get("type") != "mcp" for tool in tools), "tools", "no MCP servers: list their tools yourself")
    tools += [data["response_format"]] if data.get("response_format") else []
    # By this field a chat asks every provider for its web search.
    return [*tools, {"type": "web_search"}] if data.get("web_search_options") is not None else tools


def _answers(data: Mapping[str, Any]) -> int:
    """Return how many answers are asked for, each of them as long as the limit."""
    prompt = data.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not all(type(token) is int for token in prompt) else 1
    return prompts * max(_count(data, name, most=MAX_CHOICES) or 1 for name in ("n", "best_of"))


def _count(data: Mapping[str, Any], name: str, *, most: int | None = None) -> int | None:
    count = data.get(name)
    if count is not None:
        is_counted = type(count) is int and 0 < count <= (most or count)
        _require(is_counted, name, f"a whole number above 0{f', at most {most}' if most else ''}")
    return count


def _require(holds: bool, name: str, wanted: str) -> None:
    if not holds:
        raise RequestRefused(Refusal(InvalidValue.code, f"{name} must be {wanted}."))


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


def _text_of(answer: Any) -> str:
    """Return the text that an answer or a piece of one brings: what was said, thought, and asked of tools."""
    texts: list[str | None] = []
    for choice in getattr(answer, "choices", None) or ():
        said = getattr(choice, "delta", None) or getattr(choice, "message", None)
        texts += [getattr(choice, "text", None), *(getattr(said, name, None) for name in _TEXTS)]
        for tool_call in getattr(said, "tool_calls", None) or ():
            texts += [tool_call.function.name, tool_call.function.arguments]
    return "".join(text for text in texts if text)
