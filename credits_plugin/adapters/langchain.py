"""LangChain and LangGraph: a middleware for agents, and metered chat models for every other call.

``create_agent(…, middleware=[…, CreditsMiddleware(service, identify)])`` must be last in the list: what stands after it
may ask other models, which it does not know. A refusal is the agent's answer; where structured output is wanted it is
raised. ``metered_model(model, service, payer)`` returns a model of the same class, for chains, graph nodes and the
models that other middleware calls; it raises :class:`RequestRefused`. LangChain's own cache costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from hookspecs import Usage

from ..bootstrap import Credits
from ..errors import ConfigurationError
from ..metering import Call, RequestRefused
from ..pricing.prompt import asks_for_1h
from ..pricing.usage import usage_from_openai
from .base import (
    Identify,
    Payer,
    guarded_iterator,
    guarded_stream,
    out_of_credits,
    report_answer,
    request_of,
    usage_of_totals,
    usage_or_none,
)

_LIMITS: Final = ("max_tokens", "max_output_tokens", "max_completion_tokens", "num_predict")
"""The fields by which chat models know their output limit, the usual one first."""
_CACHE_WRITES: Final = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_METER: Final = "_credits_meter"


class CreditsMiddleware(AgentMiddleware):
    """Meters an agent's model calls; ``identify`` is given the LangGraph ``Runtime``, with the run's context.

    With ``min_output_tokens`` a call is made for what is left, if that is enough for so short an answer.
    """

    def __init__(self, service: Credits, identify: Identify[Any], *, min_output_tokens: int | None = None) -> None:
        super().__init__()
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
        """Hold, call the model, settle; or answer with the refusal."""
        try:
            return handler(self._metered(request))
        except RequestRefused as refused:
            return _answer(request, refused)

    async def awrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[Any]]) -> Any:
        """Hold, call the model, settle; or answer with the refusal."""
        try:
            return await handler(self._metered(request))
        except RequestRefused as refused:
            return _answer(request, refused)

    def _metered(self, request: ModelRequest) -> ModelRequest:
        payer = self._identify(request.runtime)
        execution = getattr(request.runtime, "execution_info", None)
        run_id = execution.run_id if execution is not None else None
        model = metered_model(
            request.model, self._service, payer, run_id=run_id, min_output_tokens=self._min_output_tokens
        )
        return request.override(model=model)


def metered_model(
    model: BaseChatModel,
    service: Credits,
    payer: Payer | None,
    *,
    run_id: str | None = None,
    min_output_tokens: int | None = None,
) -> BaseChatModel:
    """Return a copy of a chat model whose every provider call is metered; ``None`` pays for nothing.

    The copy is of a subclass of the model's class, so that tools, structured output, streaming, callbacks and cache are
    the model's own.

    Raises:
        ConfigurationError: the model has no known output limit, or streams past its ``_stream`` methods.
    """
    model_class: Any = type(model)
    metered = model.model_copy()
    metered.__dict__[_METER] = _Meter(service, payer, run_id, _limit_of(model_class), min_output_tokens)
    object.__setattr__(metered, "__class__", _metered_class(model_class))
    return metered


@dataclass(frozen=True, slots=True)
class _Meter:
    """Who pays for a model's calls, and by which field their output is limited."""

    service: Credits
    payer: Payer | None
    run_id: str | None
    limit: str
    min_output_tokens: int | None

    def request(self, model: Any, messages: Sequence[BaseMessage], settings: Mapping[str, Any], *, stream: bool) -> Any:
        named = model._get_ls_params(**settings)  # noqa: SLF001 - where every model names itself for tracing
        each = next((settings[name] for name in _LIMITS if settings.get(name)), getattr(model, self.limit))
        return request_of(
            self.payer,
            model=named.get("ls_model_name") or "",
            provider=named.get("ls_provider"),
            messages=_messages(messages),
            tools=_tools(settings),
            max_output_tokens=each * _answers(model, settings) if each else None,
            min_output_tokens=self.min_output_tokens,
            max_tool_calls=settings.get("max_tool_calls"),
            cache_control=_cache(model, messages, settings),
            run_id=self.run_id,
            stream=stream,
        )

    def limited(self, model: BaseChatModel, call: Call, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the model and the call's settings with the limit that the hold covers, and with usage in streams."""
        limit = max(call.hold.estimate.max_output_tokens // _answers(model, settings), 1)
        changes: dict[str, Any] = {self.limit: limit}
        if getattr(model, "stream_usage", False) is None:
            changes["stream_usage"] = True  # where nobody has decided, compatible servers are not asked for it
        return model.model_copy(update=changes), {name: settings[name] for name in settings if name not in _LIMITS}


def _limit_of(model_class: type[BaseChatModel]) -> str:
    name = next((name for name in _LIMITS if name in model_class.model_fields), None)
    if name is None:
        msg = f"{model_class.__name__} has no output limit by a name that is known ({', '.join(_LIMITS)})"
        raise ConfigurationError(msg)
    return name


@lru_cache
def _metered_class(model_class: Any) -> Any:
    """Return a subclass under the same name, which meters what the class does itself; LangChain's own ways lead there.

    Raises:
        ConfigurationError: the class has a native event stream, which would not be metered.
    """
    if any(hasattr(model_class, name) for name in ("_stream_chat_model_events", "_astream_chat_model_events")):
        msg = f"{model_class.__name__} streams in a way that is not metered; use another class for this provider"
        raise ConfigurationError(msg)
    methods: dict[str, Any] = {
        name: metered(getattr(model_class, name))
        for name, metered in _METERED.items()
        if getattr(model_class, name) is not getattr(BaseChatModel, name)
    }
    same = {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    return type(model_class)(model_class.__name__, (model_class,), methods | same)


def _generate(original: Callable[..., ChatResult]) -> Callable[..., ChatResult]:
    def _generate(
        self: Any, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **settings: Any
    ) -> ChatResult:
        meter: _Meter = self.__dict__[_METER]
        asked = meter.request(self, messages, settings, stream=False)
        with meter.service.sync.metered(asked) as call:
            model, limited = meter.limited(self, call, settings)
            with _reporting(call) as results:
                results.append(original(model, messages, stop=stop, run_manager=run_manager, **limited))
            return results[0]

    return _generate


def _agenerate(original: Callable[..., Awaitable[ChatResult]]) -> Callable[..., Awaitable[ChatResult]]:
    async def _agenerate(
        self: Any, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **settings: Any
    ) -> ChatResult:
        meter: _Meter = self.__dict__[_METER]
        asked = meter.request(self, messages, settings, stream=False)
        async with meter.service.metered(asked) as call:
            model, limited = meter.limited(self, call, settings)
            with _reporting(call) as results:
                results.append(await original(model, messages, stop=stop, run_manager=run_manager, **limited))
            return results[0]

    return _agenerate


def _stream(original: Callable[..., Any]) -> Callable[..., Generator[ChatGenerationChunk, None, None]]:
    def _stream(
        self: Any, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **settings: Any
    ) -> Generator[ChatGenerationChunk, None, None]:
        meter: _Meter = self.__dict__[_METER]
        asked, sums = meter.request(self, messages, settings, stream=True), _Sums()
        with meter.service.sync.metered(asked) as call:
            model, limited = meter.limited(self, call, settings)
            source = original(model, messages, stop=stop, run_manager=run_manager, **limited)
            with (
                sums.charging_what_is_thrown_away(call),
                closing(guarded_iterator(call, source, text_of=sums.text_of, usage_at_end=sums.usage)) as chunks,
            ):
                yield from chunks
        if not sums.is_over:
            yield sums.last_chunk(meter.service)

    return _stream


def _astream(original: Callable[..., Any]) -> Callable[..., AsyncGenerator[ChatGenerationChunk, None]]:
    async def _astream(
        self: Any, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **settings: Any
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        meter: _Meter = self.__dict__[_METER]
        asked, sums = meter.request(self, messages, settings, stream=True), _Sums()
        async with meter.service.metered(asked) as call:
            model, limited = meter.limited(self, call, settings)
            source = original(model, messages, stop=stop, run_manager=run_manager, **limited)
            chunks = guarded_stream(call, source, text_of=sums.text_of, usage_at_end=sums.usage)
            with sums.charging_what_is_thrown_away(call):
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
        if not sums.is_over:
            yield sums.last_chunk(meter.service)

    return _astream


_METERED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "_generate": _generate,
    "_agenerate": _agenerate,
    "_stream": _stream,
    "_astream": _astream,
}


class _Sums:
    """What the chunks of a stream add up to: their usage is in parts, the prompt's often in the first."""

    def __init__(self) -> None:
        self.is_over = False
        self._usage: Any = None
        self._has_begun = False
        self._has_text = False

    def text_of(self, chunk: ChatGenerationChunk) -> str:
        """Add a chunk and return its text."""
        self._has_begun = True
        if (usage := getattr(chunk.message, "usage_metadata", None)) is not None:
            self._usage = add_usage(self._usage, usage)
        self._has_text = self._has_text or bool(chunk.message.text)
        return _text_of(chunk)

    def last_chunk(self, service: Credits) -> ChatGenerationChunk:
        """Return the end of a stream that used up the credits, by the reason that hosts know.

        Raises:
            RequestRefused: it had not said anything.
        """
        if not self._has_text:
            raise out_of_credits(service)
        return ChatGenerationChunk(message=AIMessageChunk(""), generation_info={"finish_reason": "length"})

    def usage(self) -> Usage | None:
        """Return the sum; called once the stream has come to its end."""
        self.is_over = True
        return _usage_of_metadata(self._usage)

    @contextmanager
    def charging_what_is_thrown_away(self, call: Call) -> Iterator[None]:
        """Charge what was streamed when openai's library leaves a stream that is not in the shape asked for."""
        try:
            yield
        except Exception as error:
            if self._has_begun and (isinstance(error, ValueError) or hasattr(error, "completion")):
                call.client_gone()
            raise


def _text_of(generation: ChatGeneration) -> str:
    """Return what an answer or a piece of one says, with its tool calls and reasoning."""
    message = generation.message
    blocks = message.content if isinstance(message.content, list) else [message.content]
    texts: list[str | None] = [block if isinstance(block, str) else _text_of_block(block) for block in blocks]
    texts.append(message.additional_kwargs.get("reasoning_content"))
    calls: Any = getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", ())
    for call in calls:
        arguments = call["args"]
        texts += [call["name"], arguments if isinstance(arguments, str | None) else json.dumps(arguments)]
    return "".join(text for text in texts if text)


def _text_of_block(block: Mapping[str, Any]) -> str:
    return "".join(text for name in ("text", "thinking", "reasoning") if isinstance(text := block.get(name), str))


@contextmanager
def _reporting(call: Call) -> Iterator[list[ChatResult]]:
    """Report the result that is put into the list, or the usage of the answer that an error threw away."""
    results: list[ChatResult] = []
    try:
        yield results
    except Exception as error:
        report_answer(call, _usage_of_thrown(error), "")
        raise
    for generation in results[0].generations:
        report_answer(
            call, _usage_of_metadata(getattr(generation.message, "usage_metadata", None)), _text_of(generation)
        )


def _usage_of_metadata(metadata: Mapping[str, Any] | None) -> Usage | None:
    """Translate LangChain's usage: cached tokens are part of the input, reasoning is part of the output.

    Details carry a prefix at some service tiers (``flex_cache_read``), and cache writes one name for each lifetime.
    """
    if not metadata:
        return None
    read, written = metadata.get("input_token_details") or {}, metadata.get("output_token_details") or {}
    return usage_of_totals(
        input_tokens=metadata["input_tokens"],
        output_tokens=metadata["output_tokens"],
        cache_read=sum(read[name] or 0 for name in read if name.endswith("cache_read")),
        cache_write=sum(read[name] or 0 for name in read if name.endswith(_CACHE_WRITES)),
        cache_write_1h=sum(read[name] or 0 for name in read if name.endswith(_CACHE_WRITES[-1])),
        reasoning=sum(written[name] or 0 for name in written if name.endswith("reasoning")),
    )


def _usage_of_thrown(error: Exception) -> Usage | None:
    """Return the usage of an answer that openai's library threw away: cut off, or not in the shape that was asked for.

    LangChain attaches the HTTP response to such an error.
    """
    try:
        raw = error.response.json()["usage"]  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - whatever else the error is, it tells of no usage
        return None
    return usage_or_none(raw, usage_from_openai)


def _answer(request: ModelRequest, refused: RequestRefused) -> AIMessage:
    if request.response_format is not None:
        raise refused  # an agent that waits for structured output asks again after any text, without end
    refusal = refused.refusal
    return AIMessage(refusal.text, response_metadata={"credits_refusal": refusal.code})


def _answers(model: Any, settings: Mapping[str, Any]) -> int:
    return int(settings.get("n") or getattr(model, "n", None) or 1)


def _messages(messages: Sequence[BaseMessage]) -> list[Any]:
    try:
        return list(convert_to_openai_messages(messages))
    except (KeyError, TypeError, ValueError):  # what OpenAI's format has no name for is counted as it is
        return [{"role": message.type, "content": message.content} for message in messages]


def _cache(model: Any, messages: Sequence[BaseMessage], settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the request's wish for an hour's cache: OpenAI's format has no place for those of its parts."""
    contents = (message.content for message in messages if isinstance(message.content, list))
    blocks = (block for content in contents for block in content if isinstance(block, dict))
    parts = [settings, getattr(model, "model_kwargs", None) or {}, *blocks]
    return {"ttl": "1h"} if any(map(asks_for_1h, parts)) else None


def _tools(settings: Mapping[str, Any]) -> list[Any]:
    shape: Any = settings.get("response_format")
    if hasattr(shape, "model_json_schema"):
        shape = shape.model_json_schema()
    return [*(settings.get("tools") or ()), *([shape] if shape else ())]
