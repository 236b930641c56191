"""google-adk: ``Runner(…, plugins=[MeteredModels(service, identify)])`` holds credits for every call of every agent.

ADK tells its plugins nothing of a stream that is abandoned. So the plugin's callback only names who pays, and the model
itself is metered: agents and sub-agents, tools that are agents, tool loops. A refusal is the answer's text, with an
``error_code``. Live sessions are refused: they have no answer that could be held for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NamedTuple

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.genai import types
from pydantic_core import to_json

from hookspecs import Refusal, Usage

from ..bootstrap import Credits
from ..metering import MeteredCall, RequestRefused
from .base import UNIDENTIFIED, Identify, Payer, guarded_stream, request_of, usage_of_totals

NOT_METERED: Final = Refusal("not_metered", "Live sessions cannot be metered; use run_async.")
_ONCE_AN_ANSWER: Final = re.compile(r"(.*/)?gemini-[12]\b")


class MeteredModels(BasePlugin):
    """Meters the models of a runner's agents; ``identify`` is given the call's :class:`CallbackContext`.

    From its first call on a model serves runners with this plugin alone; others are refused with ``unidentified``.
    """

    def __init__(
        self, service: Credits, identify: Identify[CallbackContext], *, min_output_tokens: int | None = None
    ) -> None:
        super().__init__(name="credits")
        self._service = service
        self._identify = identify
        self._min_output_tokens = min_output_tokens

    async def before_run_callback(self, *, invocation_context: Any) -> types.Content | None:
        """Refuse a live session."""
        is_live = invocation_context.live_request_queue is not None
        return _content(NOT_METERED.text) if is_live else None

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        """Name who pays for the request that is about to be sent, and have its model metered."""
        agent = callback_context.get_invocation_context().agent
        model = await agent.canonical_model_async(callback_context)
        if not isinstance(model, MeteredModel):
            # ADK looks at the class of a model, so a wrapper would be treated differently than what it wraps.
            plain: Any = type(model)
            object.__setattr__(model, "__class__", _metered_class(plain))
        payer, run_id = self._identify(callback_context), callback_context.invocation_id
        _asked.set(_Asked(self._service, payer, run_id, llm_request, self._min_output_tokens))


class _Asked(NamedTuple):
    service: Credits
    payer: Payer | None
    run_id: str
    llm_request: LlmRequest
    min_output_tokens: int | None


_asked: Final[ContextVar[_Asked | None]] = ContextVar("credits_adk_asked", default=None)
"""Who pays for the request of this task that is about to be sent; ADK hands a model its request alone."""


class MeteredModel:
    """What a model's class becomes part of, so that each request is held for."""

    model: str

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Hold, ask the model, settle; or answer with the refusal."""
        async with AsyncExitStack() as stack:
            try:
                call = await stack.enter_async_context(_metered(llm_request, model=self.model, stream=stream))
            except RequestRefused as refused:
                yield _answer(refused.refusal)
                return
            llm_request.config.max_output_tokens = call.hold.estimate.max_output_tokens
            asked = super().generate_content_async(llm_request, stream)  # type: ignore[misc]  # of the model's class
            responses: AsyncGenerator[LlmResponse, None] = asked
            spoken = _Spoken()
            pieces = guarded_stream(call, responses, text_of=spoken.add, usage_of=_usage_of)
            async for response in await stack.enter_async_context(aclosing(pieces)):
                yield response
            if spoken.is_unfinished:
                yield LlmResponse(content=_content(spoken.answer), finish_reason=types.FinishReason.MAX_TOKENS)


@cache
def _metered_class(plain: Any) -> Any:
    return type(plain)(plain.__name__, (MeteredModel, plain), {"__module__": plain.__module__})


def _metered(llm_request: LlmRequest, *, model: str, stream: bool) -> MeteredCall:
    asked = _asked.get()
    if asked is None or asked.llm_request is not llm_request:
        raise RequestRefused(UNIDENTIFIED)
    request = request_of(
        asked.payer,
        model=llm_request.model or model,
        messages=list(_chat(llm_request)),
        tools=list(_tools(llm_request.config)),
        max_output_tokens=llm_request.config.max_output_tokens,
        min_output_tokens=asked.min_output_tokens,
        run_id=asked.run_id,
        stream=stream,
    )
    return asked.service.metered(request)


class _Spoken:
    """Counts what a model says once: its last response repeats what the partial ones have said."""

    def __init__(self) -> None:
        self.answer = ""
        self.is_unfinished = False
        self._length = 0

    def add(self, response: LlmResponse) -> str:
        """Return the text that a response adds."""
        parts = (response.content.parts if response.content else None) or ()
        text = "".join(map(_text_of, parts))
        self.is_unfinished = bool(response.partial)
        if not response.partial:
            return text[self._length :]
        self._length += len(text)
        self.answer += "".join(part.text for part in parts if part.text and not part.thought)
        return text


def _usage_of(response: LlmResponse) -> Usage | None:
    """Return the usage of a whole answer; a partial response's is that of a part.

    ADK's LiteLlm and Apigee models count reasoning within the candidates and beside them; the total tells.
    """
    usage = response.usage_metadata
    if usage is None or response.partial:
        return None
    prompt = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
    candidates, thoughts = usage.candidates_token_count or 0, usage.thoughts_token_count or 0
    is_within = usage.total_token_count is not None and prompt + candidates + thoughts > usage.total_token_count
    return usage_of_totals(
        input_tokens=prompt,
        cache_read=usage.cached_content_token_count or 0,
        cache_write=getattr(usage, "cache_creation_input_tokens", 0),  # set by ADK beside the fields of Gemini's format
        output_tokens=candidates if is_within else candidates + thoughts,
        reasoning=thoughts,
        tool_calls={"web_search": searches} if (searches := _searches(response)) else {},
    )


def _searches(response: LlmResponse) -> int:
    """Return how many searches Google charges for: each different query, before Gemini 3 a grounded answer as one.

    https://ai.google.dev/gemini-api/docs/pricing
    """
    grounding = response.grounding_metadata
    queries = len({query for query in (grounding and grounding.web_search_queries) or () if query})
    return min(queries, 1) if _ONCE_AN_ANSWER.match(response.model_version or "") else queries


def _chat(llm_request: LlmRequest) -> Iterator[dict[str, Any]]:
    """Yield the prompt in the OpenAI chat format, to be counted."""
    config = llm_request.config
    for part in (config.system_instruction, config.response_schema, config.response_json_schema):
        if part is not None:
            yield {"role": "system", "content": part if isinstance(part, str) else _json(part)}
    for content in llm_request.contents:
        role = "assistant" if content.role == "model" else "user"
        yield {"role": role, "content": [_piece(part) for part in content.parts or ()]}


def _piece(part: types.Part) -> dict[str, Any]:
    """Return a part of a chat message: files are counted by size, or as references."""
    match part:
        case types.Part(inline_data=types.Blob(data=bytes(data), mime_type=mime_type)):
            family, _, kind = (mime_type or "").partition("/")
            if family == "image":
                return {"type": "image", "data": data}
            if family == "audio":
                return {"type": "input_audio", "data": data, "format": kind}
            return {"type": "file", "file_data": data}
        case types.Part(file_data=types.FileData(file_uri=uri)):
            return {"type": "file", "file_id": uri or ""}
        case _:
            return {"type": "text", "text": _text_of(part)}


def _text_of(part: types.Part) -> str:
    text: str | None = part.text
    return text if text is not None else str(part.model_dump_json(exclude_none=True, exclude={"inline_data"}))


def _json(value: Any) -> str:
    """Return a piece of the request's configuration as text: a model, a list of parts, a schema or a schema's class."""
    schema = getattr(value, "model_json_schema", None) if isinstance(value, type) else None
    text: bytes = to_json(schema() if schema else value, fallback=str)
    return text.decode()


def _tools(config: types.GenerateContentConfig) -> Iterator[dict[str, Any]]:
    for tool in config.tools or ():
        own = isinstance(tool, types.Tool) and tool.model_dump(exclude_none=True, exclude={"function_declarations"})
        # The provider's own tools by their names; what is told of all of them is counted as text.
        yield {**dict.fromkeys(own or (), ""), "functions": _json(tool)}


def _content(text: str) -> types.Content:
    return types.Content(role="model", parts=[types.Part(text=text)])


def _answer(refusal: Refusal) -> LlmResponse:
    return LlmResponse(content=_content(refusal.text), error_code=refusal.code, error_message=refusal.text)
