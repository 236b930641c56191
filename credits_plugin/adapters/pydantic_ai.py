"""pydantic-ai: ``Agent(…, capabilities=[MeteredRequests(service, identify)])`` holds credits for every model request.

The capability wraps the model that serves each attempt, so tool loops, output retries, ``ModelFallback`` and the
segments of a continued response are one hold each; retries inside the provider's SDK are part of one. A refusal is the
answer's text where the output may be text, else it is raised: a text would only be rejected as output and asked for
again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Final, NoReturn

from pydantic_ai import RunContext
from pydantic_ai._run_context import get_current_run_context
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.messages import (
    AudioUrl,
    BaseToolReturnPart,
    BinaryContent,
    CachePoint,
    DocumentUrl,
    FilePart,
    ImageUrl,
    ModelMessage,
    ModelResponse,
    NativeToolCallPart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    UploadedFile,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_core import to_json

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..metering import MeteredCall, RequestRefused
from ..pricing.hosted_tools import price_name
from .base import Identify, guarded_stream, report_answer, request_of, usage_of_totals

NOT_METERED: Final = Refusal("not_metered", "Batches and compaction cannot be metered; send ordinary requests.")

_LASTING: Final = ("1h", "12h")
"""Lives of a cache that are, or are cut to, an hour at the providers that have a price for it."""


class MeteredRequests(AbstractCapability[Any]):
    """Meters every model request of an agent; ``identify`` is given the :class:`RunContext`, with the run's deps.

    With ``min_output_tokens`` a request is made for what is left, if that is enough for so short an answer.
    """

    def __init__(
        self,
        service: Credits,
        identify: Identify[RunContext[Any] | None],
        *,
        min_output_tokens: int | None = None,
    ) -> None:
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens

    def get_ordering(self) -> CapabilityOrdering:
        """Stand next to the provider: what other capabilities answer themselves costs nothing."""
        return CapabilityOrdering(position="innermost")

    def get_wrapper_model(self, model: Model) -> Model:
        """Wrap the model that serves an attempt."""
        return MeteredModel(model, self._service, self._identify, min_output_tokens=self._min_output_tokens)


class MeteredModel(WrapperModel):
    """A model whose requests are metered, for an agent of its own or for ``pydantic_ai.direct``.

    ``identify`` is given None outside of an agent's run. Requests that would bypass the meter are refused.
    """

    def __init__(
        self,
        wrapped: Model | str,
        service: Credits,
        identify: Identify[RunContext[Any] | None],
        *,
        min_output_tokens: int | None = None,
    ) -> None:
        super().__init__(wrapped)
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: Mapping[str, Any] | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Hold, ask the model, settle; or answer with the refusal."""
        context = get_current_run_context()
        try:
            asked = self._asked(messages, model_settings, model_request_parameters, context)
            async with self._service.metered(asked) as call:
                limited = _limited(model_settings, call)
                response = await self.wrapped.request(messages, limited, model_request_parameters)
                report_answer(call, _usage_of(response), "".join(map(_answer_text, response.parts)))
                return response
        except RequestRefused as refused:
            return _answer(refused, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: Mapping[str, Any] | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse, None]:
        """Hold, stream from the model, settle; or stream the refusal."""
        async with AsyncExitStack() as stack:
            try:
                asked = self._asked(messages, model_settings, model_request_parameters, run_context, stream=True)
                call = await stack.enter_async_context(self._service.metered(asked))
            except RequestRefused as refused:
                yield _stream_of(_answer(refused, model_request_parameters), model_request_parameters)
                return
            limited = _limited(model_settings, call)
            response = await stack.enter_async_context(
                self.wrapped.request_stream(messages, limited, model_request_parameters, run_context)
            )
            response.close_stream = _leaving(call, response.close_stream)
            events = _guarded(call, response, aiter(response))
            response._event_iterator = events  # noqa: SLF001 - where the host, too, puts one for whoever reads it
            yield response

    async def batch_create(self, *_requests: Any) -> NoReturn:
        """Refuse: a batch's requests are answered and paid for elsewhere.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused(NOT_METERED)

    async def compact_messages(self, *_request: Any, **_instructions: Any) -> NoReturn:
        """Refuse: a compaction's answer has no limit that could be held for.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused(NOT_METERED)

    def _asked(
        self,
        messages: Sequence[ModelMessage],
        model_settings: Mapping[str, Any] | None,
        parameters: ModelRequestParameters,
        context: RunContext[Any] | None,
        *,
        stream: bool = False,
    ) -> AIRequest:
        settings = {**(self.wrapped.settings or {}), **(model_settings or {})}
        return request_of(
            self._identify(context),
            model=self.wrapped.model_name,
            provider=self.wrapped.system,
            messages=list(_chat(messages, parameters)),
            tools=list(_tools(parameters)),
            max_output_tokens=settings.get("max_tokens"),
            min_output_tokens=self._min_output_tokens,
            cache_control=_cache(settings, parameters),
            run_id=context.run_id if context else None,
            stream=stream,
        )


def _limited(model_settings: Mapping[str, Any] | None, call: MeteredCall) -> dict[str, Any]:
    return {**(model_settings or {}), "max_tokens": call.hold.estimate.max_output_tokens}


async def _guarded(call: MeteredCall, response: StreamedResponse, events: Any) -> AsyncGenerator[Any, None]:
    ends: list[str] = []

    def usage_at_end() -> Usage | None:
        ends.append("the provider's")
        return _usage_of(response.get())

    stream = guarded_stream(call, events, text_of=_text_of_event, usage_at_end=usage_at_end)
    async with aclosing(stream):
        async for event in stream:
            yield event
    if not ends:
        response.finish_reason = "length"  # the reason that hosts know for an answer that is cut off


def _leaving(call: MeteredCall, close: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Note that a stream is cancelled before it is closed: the error that follows is not the provider's."""

    async def close_stream() -> None:
        call.client_gone()
        await close()

    return close_stream


def _answer(refused: RequestRefused, parameters: ModelRequestParameters) -> ModelResponse:
    if not parameters.allow_text_output or parameters.output_mode != "text":
        raise refused
    refusal = refused.refusal
    return ModelResponse(parts=[TextPart(refusal.text)], metadata={"credits_refusal": refusal.code})


def _stream_of(response: ModelResponse, parameters: ModelRequestParameters) -> StreamedResponse:
    return CompletedStreamedResponse(response, model_request_parameters=parameters, replay_events=True)


def _usage_of(response: ModelResponse) -> Usage | None:
    """Return the usage of a response that came to its end; until then it is what was streamed of it, often zero."""
    if response.state not in ("complete", "suspended"):
        return None
    usage = response.usage
    return usage_of_totals(
        input_tokens=usage.input_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning=usage.output_reasoning_tokens,
        tool_calls=Counter(price_name(part.tool_name) for part in response.parts if _is_charged(part)),
    )


def _is_charged(part: object) -> bool:
    # Of what OpenAI's web search does, opening and reading a page is free.
    return isinstance(part, NativeToolCallPart) and (part.args_as_dict() or {}).get("type", "search") == "search"


def _text_of_event(event: object) -> str:
    match event:
        case PartStartEvent(part=part):
            return _answer_text(part)
        case PartDeltaEvent(delta=delta):
            return _joined(getattr(delta, name, None) for name in ("content_delta", "tool_name_delta", "args_delta"))
        case _:
            return ""


def _answer_text(part: object) -> str:
    return _joined(getattr(part, name, None) for name in ("content", "tool_name", "args"))


def _joined(texts: Iterable[Any]) -> str:
    return "".join(text if isinstance(text, str) else _json(text) for text in texts if text)


def _chat(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> Iterator[dict[str, Any]]:
    """Yield the prompt in the OpenAI chat format, to be counted: one message a part."""
    for instruction in parameters.instruction_parts or ():
        yield {"role": "system", "content": instruction.content}
    if parameters.output_object is not None:
        yield {"role": "system", "content": _json(parameters.output_object.json_schema)}
    for message in messages:
        role = "assistant" if message.kind == "response" else "user"
        for part in message.parts:
            yield {"role": "system" if part.part_kind == "system-prompt" else role, "content": _content(part)}


def _content(part: Any) -> str | list[dict[str, Any]]:
    match part:
        case UserPromptPart(content=pieces) if not isinstance(pieces, str):
            return [_piece(piece) for piece in pieces]
        case BaseToolReturnPart():
            return [_text(part.model_response_str()), *map(_piece, part.files)]
        case FilePart(content=file):
            return [_piece(file)]
        case _:
            text = getattr(part, "content", None)
            return text if isinstance(text, str) else _json(part)


def _piece(piece: Any) -> dict[str, Any]:
    """Return a piece of a prompt as a part of a chat message: files are counted by size, or as references."""
    match piece:
        case ImageUrl() | AudioUrl() | VideoUrl() | DocumentUrl():
            kind = piece.kind.replace("-", "_")
            return {"type": kind, kind: {"url": piece.url}}
        case BinaryContent(is_audio=True):
            return {"type": "input_audio", "input_audio": {"data": piece.base64, "format": piece.format}}
        case BinaryContent():
            return {"type": "image" if piece.is_image else "file", "file_data": piece.base64}
        case UploadedFile():
            return {"type": "file", "file": {"file_id": piece.file_id}}
        case CachePoint():
            return {"cache_control": {"ttl": piece.ttl}}
        case _:
            return _text(piece if isinstance(piece, str) else str(getattr(piece, "content", "")))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _json(value: Any) -> str:
    return to_json(value, fallback=str, bytes_mode="base64").decode()


def _tools(parameters: ModelRequestParameters) -> Iterator[dict[str, Any]]:
    for tool in (*parameters.function_tools, *parameters.output_tools):
        function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters_json_schema}
        yield {"type": "function", "function": function}
    for native in parameters.native_tools:
        yield {"type": native.kind, "max_uses": getattr(native, "max_uses", None), "settings": _json(native)}


def _cache(settings: Mapping[str, Any], parameters: ModelRequestParameters) -> Mapping[str, Any] | None:
    """Return the request's wish for an hour's cache, by pydantic-ai's own setting or by those of a provider."""
    asked = [parameters.cache, *(value for name, value in settings.items() if "cache" in name)]
    lives = [value.get("retention") if isinstance(value, Mapping) else value for value in asked]
    return {"ttl": "1h"} if any(isinstance(life, str) and life in _LASTING for life in lives) else None
