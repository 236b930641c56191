"""nanobot: its providers are metered where each physical call is made, and its API server refuses before its headers.

Its hooks are not used: what they raise while an answer streams ends as an empty 200, they cannot limit a call's output,
and they see neither retries nor the calls that compact and remember conversations. All of these go through the
provider, and nanobot's own retries through the methods that are replaced here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from aiohttp import web
from nanobot.agent import model_presets
from nanobot.config.schema import Config
from nanobot.providers.base import LLMProvider, LLMResponse, LLMUsage
from nanobot.providers.fallback_provider import FallbackProvider

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..metering import MeteredCall, RequestRefused
from .aiohttp_host import current_payer, gate_turns, plug_in
from .base import Identify, out_of_credits, request_of, usage_of_totals

TURNS: Final = ("/v1/chat/completions",)
_PLAIN: Final = ("chat", "chat_with_context")
_STREAMED: Final = ("chat_stream", "chat_stream_with_context")

Call = Callable[..., Awaitable[LLMResponse]]
Delta = Callable[[str], Awaitable[None]]


def plug_into_api(app: web.Application, credits: Credits, *, identify: Identify[web.Request], model: str) -> None:
    """Plug into what nanobot's ``create_app`` returned: turns that nobody can pay are refused before their headers.

    nanobot has one API key for all, so give ``create_app`` none and let ``identify`` tell users by keys of their own.
    The credits' pages ask ``identify`` as well. Sessions are named by clients: run one nanobot for each tenant.
    """
    gate_turns(app, credits, identify=identify, model=model, paths=TURNS)
    plug_in(app, credits, identify=identify)


class MeteredProviders:
    """Meters the providers of an ``AgentLoop``: pass both to ``AgentLoop.from_config``.

    ``provider=metered.provider(make_provider(config)), preset_snapshot_loader=metered.presets(config)``. ``identify``
    is asked at each call; the default is whoever pays for the turn of the API server, and nobody for what nanobot does
    by itself (schedules, heartbeats), which is then refused.
    """

    def __init__(
        self,
        credits: Credits,
        *,
        identify: Identify[LLMProvider] = current_payer,
        min_output_tokens: int | None = None,
    ) -> None:
        self._credits = credits
        self._identify = identify
        self._min_output_tokens = min_output_tokens

    def provider(self, provider: LLMProvider) -> LLMProvider:
        """Meter a provider in place, and return it; of one with fallbacks, each that it asks."""
        if isinstance(provider, FallbackProvider):
            make = provider._provider_factory  # noqa: SLF001 - the only place where its fallbacks are made
            provider._provider_factory = lambda preset: self.provider(make(preset))  # noqa: SLF001 - see above
            self.provider(provider._primary)  # noqa: SLF001 - see above
            return provider
        for names, stream in ((_PLAIN, False), (_STREAMED, True)):
            for name in names:
                setattr(provider, name, self._metered(provider, getattr(provider, name), stream=stream))
        return provider

    def presets(self, config: Config) -> model_presets.PresetSnapshotLoader:
        """Return what makes the providers of the model presets, metered."""
        load = model_presets.make_preset_snapshot_loader(config, None)

        def load_metered(name: str) -> Any:
            snapshot = load(name)
            return replace(snapshot, provider=self.provider(snapshot.provider))

        return load_metered

    def _metered(self, provider: LLMProvider, call_model: Call, *, stream: bool) -> Call:
        async def metered(**arguments: Any) -> LLMResponse:
            try:
                request = self._request(provider, arguments, stream=stream)
                async with self._credits.metered(request) as call:
                    return await self._answer(call, call_model, arguments, stream=stream)
            except RequestRefused as refused:
                return await _refuse(refused.refusal, arguments)
            except _Failed as failed:
                return failed.response

        return metered

    def _request(self, provider: LLMProvider, arguments: Mapping[str, Any], *, stream: bool) -> AIRequest:
        return request_of(
            self._identify(provider),
            model=arguments.get("model") or provider.get_default_model(),
            messages=arguments["messages"],
            tools=arguments.get("tools") or (),
            max_output_tokens=arguments.get("max_tokens"),
            min_output_tokens=self._min_output_tokens,
            stream=stream,
        )

    async def _answer(
        self, call: MeteredCall, call_model: Call, arguments: dict[str, Any], *, stream: bool
    ) -> LLMResponse:
        said: list[str] = []
        limited = {**arguments, "max_tokens": call.hold.estimate.max_output_tokens}
        if stream:
            limited["on_content_delta"] = _counted(call, arguments.get("on_content_delta"), said)
            limited["on_thinking_delta"] = _counted(call, arguments.get("on_thinking_delta"), [])
        try:
            response = await call_model(**limited)
        except _OutOfCredits:
            if not any(said):
                return await _refuse(out_of_credits(self._credits).refusal, arguments)
            return LLMResponse(content="".join(said), finish_reason="stop")
        if usage := usage_of(response.usage):
            call.report(usage)
        if response.finish_reason == "error":
            raise _Failed(response)
        call.add_streamed_text(_calls_of(response) if stream else _text_of(response))
        return response


class _Failed(Exception):
    """The provider failed, which nanobot tells by a response."""

    def __init__(self, response: LLMResponse) -> None:
        super().__init__(response.error_kind)
        self.response = response


class _OutOfCredits(BaseException):
    """Ends a stream from within its callbacks; providers turn other exceptions into responses."""


def _counted(call: MeteredCall, tell: Delta | None, said: list[str]) -> Delta:
    async def counted(delta: str) -> None:
        goes_on = not delta or await call.deliver(delta)
        said.append(delta)
        if tell is not None:
            await tell(delta)
        if not goes_on:
            raise _OutOfCredits

    return counted


async def _refuse(refusal: Refusal, arguments: Mapping[str, Any]) -> LLMResponse:
    """Answer in the model's place; a stream must say something, or its client gets an empty answer."""
    tell: Delta | None = arguments.get("on_content_delta")
    if tell is not None:
        await tell(refusal.text)
    return LLMResponse(content=refusal.text, finish_reason="stop")


def usage_of(usage: LLMUsage | None) -> Usage | None:
    """Translate the usage of one call; None where nanobot estimated it itself. Hidden tokens count as reasoning."""
    if usage is None or not usage.reported_tokens:
        return None
    hidden = usage.total_tokens - usage.input_tokens - usage.output_tokens
    return usage_of_totals(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens + hidden,
        cache_read=usage.cache_read_tokens or 0,
        cache_write=usage.cache_write_tokens or 0,
        reasoning=hidden,
    )


def _text_of(response: LLMResponse) -> str:
    return (response.content or "") + (response.reasoning_content or "") + _calls_of(response)


def _calls_of(response: LLMResponse) -> str:
    """Return the calls of tools as text: nanobot's callbacks tell of them in other shapes, or not at all."""
    return "".join(f"{call.name}{call.arguments}" for call in response.tool_calls)
