"""openai-agents: ``RunConfig(model_provider=MeteredProvider(service, payer))`` holds credits for every model call.

The provider is made for each run, so the payer is explicit; agents that are used as tools or handed over to run under
the same configuration and payer. An agent whose ``model`` is an object, not a name, is not asked of any provider: give
it a :class:`MeteredModel` around that object. A refusal is raised as :class:`RequestRefused`, out of ``Runner.run``
and out of a stream's events; its ``refusal.text`` is for the user.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from agents import Model, ModelBehaviorError, ModelProvider, ModelResponse, ModelSettings, MultiProvider
from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.tracing import get_current_trace
from openai.types.responses import Response, ResponseCompletedEvent, ResponseOutputMessage, ResponseOutputText
from openai.types.responses.response import IncompleteDetails

from hookspecs import AIRequest, Usage

from ..bootstrap import Credits
from ..metering import MeteredCall
from ..pricing.usage import usage_from_openai
from .base import Payer, guarded_stream, out_of_credits, report_answer, request_of, usage_or_none

_ENDS = ("response.completed", "response.incomplete", "response.failed")


class MeteredProvider(ModelProvider):
    """Meters the models of another provider (by default the SDK's own) for one payer; ``None`` pays for nothing.

    With ``min_output_tokens`` a call is made for what is left, if that is enough for so short an answer.
    """

    def __init__(
        self,
        service: Credits,
        payer: Payer | None,
        *,
        wrapped: ModelProvider | None = None,
        min_output_tokens: int | None = None,
    ) -> None:
        self._service = service
        self._payer = payer
        self._min_output_tokens = min_output_tokens
        self._wrapped = wrapped or MultiProvider()

    def get_model(self, model_name: str | None) -> Model:
        """Return the wrapped provider's model, metered."""
        model = self._wrapped.get_model(model_name)
        return MeteredModel(model, self._service, self._payer, min_output_tokens=self._min_output_tokens)

    async def aclose(self) -> None:
        """Close the wrapped provider."""
        await self._wrapped.aclose()


class MeteredModel(Model):
    """A model whose calls are metered for one payer. Its name, where the price is looked up, is the wrapped model's."""

    def __init__(
        self, wrapped: Model, service: Credits, payer: Payer | None, *, min_output_tokens: int | None = None
    ) -> None:
        self.model = str(getattr(wrapped, "model", ""))
        self._wrapped = wrapped
        self._service = service
        self._payer = payer
        self._min_output_tokens = min_output_tokens

    async def get_response(  # noqa: PLR0917 - the SDK's signature
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: ModelSettings,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: Any,
        **conversation: Any,
    ) -> ModelResponse:
        """Hold, ask the model, settle.

        Raises:
            RequestRefused: nothing was sent.
        """
        asked = self._asked(system_instructions, input, model_settings, [*tools, *handoffs], output_schema)
        useless: ModelBehaviorError | None = None
        async with self._service.metered(asked) as call:
            limited = _limited(model_settings, call)
            try:
                response = await self._wrapped.get_response(
                    system_instructions, input, limited, tools, output_schema, handoffs, tracing, **conversation
                )
                report_answer(call, _usage(response), _answer_text(response))
            except ModelBehaviorError as error:
                useless = error  # the provider answered, and has its money: settled as completed
        if useless is not None:
            raise useless
        return response

    async def stream_response(  # noqa: PLR0917 - the SDK's signature
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: ModelSettings,
        tools: list[Any],
        output_schema: Any,
        handoffs: list[Any],
        tracing: Any,
        **conversation: Any,
    ) -> AsyncGenerator[Any, None]:
        """Hold, stream from the model, settle; where credits run out, the response is complete with what was said.

        Raises:
            RequestRefused: on the first event; nothing was sent.
        """
        asked = self._asked(system_instructions, input, model_settings, [*tools, *handoffs], output_schema, stream=True)
        said, useless = _Said(), None
        async with self._service.metered(asked) as call:
            source = self._wrapped.stream_response(
                system_instructions,
                input,
                _limited(model_settings, call),
                tools,
                output_schema,
                handoffs,
                tracing,
                **conversation,
            )
            try:
                async with aclosing(guarded_stream(call, source, text_of=_text_of, usage_of=_usage_of)) as events:
                    async for event in events:
                        said.note(event)
                        yield event
            except ModelBehaviorError as error:
                useless = error
        if useless is not None:
            raise useless
        if not said.is_over:
            yield self._completed(said)

    def get_retry_advice(self, request: Any) -> Any:
        """Pass on the wrapped model's advice; each attempt of the runner is a hold of its own."""
        return self._wrapped.get_retry_advice(request)

    async def close(self) -> None:
        """Close the wrapped model."""
        await self._wrapped.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._wrapped._cleanup_on_run_end(owner)  # noqa: SLF001 - what the runner asks of its model

    def _completed(self, said: _Said) -> ResponseCompletedEvent:
        """Return the event that the runner needs at the end of a stream: a response of what was said.

        Raises:
            RequestRefused: nothing was said.
        """
        if not said.text:
            raise out_of_credits(self._service)
        text = ResponseOutputText(annotations=[], text=said.text, type="output_text")
        message = ResponseOutputMessage(
            id=FAKE_RESPONSES_ID, content=[text], role="assistant", status="incomplete", type="message"
        )
        response = Response(
            id=FAKE_RESPONSES_ID,
            created_at=time.time(),
            model=self.model,
            object="response",
            output=[message],
            parallel_tool_calls=False,
            tool_choice="auto",
            tools=[],
            incomplete_details=IncompleteDetails(reason="max_output_tokens"),
        )
        return ResponseCompletedEvent(
            response=response, sequence_number=said.sequence_number + 1, type="response.completed"
        )

    def _asked(
        self,
        instructions: str | None,
        input: str | list[Any],
        settings: ModelSettings,
        tools: Sequence[Any],
        output_schema: Any,
        *,
        stream: bool = False,
    ) -> AIRequest:
        trace = get_current_trace()
        return request_of(
            self._payer,
            model=self.model,
            messages=list(_messages(instructions, input, output_schema)),
            tools=[_tool(tool) for tool in tools],
            max_output_tokens=settings.max_tokens,
            min_output_tokens=self._min_output_tokens,
            max_tool_calls=(settings.extra_args or {}).get("max_tool_calls"),
            run_id=trace.trace_id if trace is not None and trace.trace_id != "no-op" else None,
            stream=stream,
        )


class _Said:
    """What a stream has said so far, and whether it came to its own end."""

    def __init__(self) -> None:
        self.is_over = False
        self.sequence_number = 0
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What was said as text."""
        return "".join(self._texts)

    def note(self, event: Any) -> None:
        """Add an event of the stream."""
        self.is_over = self.is_over or event.type in _ENDS
        self.sequence_number = getattr(event, "sequence_number", None) or self.sequence_number
        if event.type == "response.output_text.delta":
            self._texts.append(event.delta)


def _limited(settings: ModelSettings, call: MeteredCall) -> ModelSettings:
    # Compatible servers are asked for usage in streams only where this is said.
    include_usage = settings.include_usage is not False
    return replace(settings, max_tokens=call.hold.estimate.max_output_tokens, include_usage=include_usage)


def _text_of(event: Any) -> str:
    delta = getattr(event, "delta", None)
    return delta if isinstance(delta, str) else ""


def _answer_text(response: ModelResponse) -> str:
    texts = [getattr(part, "text", None) for item in response.output for part in getattr(item, "content", None) or ()]
    texts += [getattr(item, name, None) for item in response.output for name in ("name", "arguments")]
    return "".join(text for text in texts if isinstance(text, str))


def _usage_of(event: Any) -> Usage | None:
    return _usage(event.response) if event.type in _ENDS else None


def _usage(response: Any) -> Usage | None:
    usage = response.usage
    if usage is None:
        return None
    details = {name: getattr(usage, name).model_dump() for name in ("input_tokens_details", "output_tokens_details")}
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    output = [{"type": getattr(item, "type", None), "action": _action(item)} for item in response.output]
    return usage_or_none(counts | details, partial(usage_from_openai, output=output))


def _action(item: Any) -> dict[str, Any]:
    kind = getattr(getattr(item, "action", None), "type", None)
    return {"type": kind} if kind else {}


def _messages(instructions: str | None, input: str | list[Any], output_schema: Any) -> Iterator[Mapping[str, Any]]:
    if instructions:
        yield {"role": "system", "content": instructions}
    if output_schema is not None and not output_schema.is_plain_text():
        yield {"role": "system", "content": json.dumps(output_schema.json_schema())}
    if isinstance(input, str):
        yield {"role": "user", "content": input}
    else:
        yield from input


def _tool(tool: Any) -> dict[str, Any]:
    """Return a function, a handoff or a hosted tool as the model is told of it."""
    for name, description, schema in (
        ("name", "description", "params_json_schema"),
        ("tool_name", "tool_description", "input_json_schema"),
    ):
        if hasattr(tool, schema):
            function = {
                "name": getattr(tool, name),
                "description": getattr(tool, description),
                "parameters": getattr(tool, schema),
            }
            return {"type": "function", "function": function}
    return {"type": getattr(tool, "name", type(tool).__name__)}
