"""bub: meters every attempt of its built-in agent at a provider. Its framework loads :data:`plugin` by entry point.

    from credits_plugin.adapters import bub

    bub.plugin.configure(service, identify=lambda turn: Payer(account_of(turn.message)))

bub serves a call whose hook has failed, and skips ``after_llm_call`` where a stream is abandoned. So the hooks only
name who pays, and the provider's client is metered, which sees everything: fallback models, sub-agents, the end of each
stream. A refusal is the answer's text.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import pluggy
from any_llm.types.completion import ChatCompletion
from bub.hooks.interception import LlmCallDecision

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..metering import MeteredCall, RequestRefused
from ..pricing.usage import usage_from_openai
from .base import UNIDENTIFIED, Identify, Payer, guarded_stream, request_of, usage_or_none

logger = logging.getLogger(__name__)
hookimpl = pluggy.HookimplMarker("bub")

NOT_METERED: Final = Refusal("not_metered", "This agent's model calls cannot be metered; only bub's own agent's can.")
_PAYER: Final = "_credits_payer"
_LIMITS: Final = ("max_completion_tokens", "max_tokens")

Complete = Callable[..., Awaitable[Any]]


class Turn(NamedTuple):
    """What bub knows of a turn before it runs: the inbound message, as its channel made it, and the session's id."""

    message: Any
    session_id: str


@dataclass(frozen=True, slots=True)
class _Door:
    service: Credits
    identify: Identify[Turn]
    min_output_tokens: int | None


class CreditsPlugin:
    """Inert until it is configured; says once in the log if calls pass until then."""

    def __init__(self) -> None:
        self._door: _Door | None = None
        self._is_told = False

    def configure(self, service: Credits, identify: Identify[Turn], *, min_output_tokens: int | None = None) -> None:
        """Meter from now on; ``identify`` names who pays for a turn, and for the sub-agents that it starts."""
        self._door = _Door(service, identify, min_output_tokens)

    @hookimpl
    def load_state(self, message: Any, session_id: str) -> dict[str, Any]:
        """Ask who pays for the turn, and name the turn as a run."""
        if self._door is None:
            return {}
        payer = self._door.identify(Turn(message, session_id))
        return {_PAYER: _with_run(payer) if payer is not None else None}

    @hookimpl(trylast=True)
    def before_llm_call(self, state: Mapping[str, Any]) -> LlmCallDecision | None:
        """Have the call's attempts metered, or refuse what cannot be."""
        if self._door is None:
            self._tell_once()
            return None
        runner: Any = getattr(state.get("_runtime_agent"), "model_runner", None)
        if not hasattr(runner, "iter_llm_clients"):
            return LlmCallDecision.finish(NOT_METERED.text)
        if not isinstance(runner.iter_llm_clients, MeteredClients):
            runner.iter_llm_clients = MeteredClients(runner.iter_llm_clients)
        payer = state.get(_PAYER)
        if payer is None:
            return LlmCallDecision.finish(UNIDENTIFIED.text)
        _asked.set(_Asked(self._door, payer))
        return None

    def _tell_once(self) -> None:
        if not self._is_told:
            self._is_told = True
            logger.warning("credits are installed, but not configured: bub's model calls are not metered")


class _Asked(NamedTuple):
    door: _Door
    payer: Payer


_asked: Final[ContextVar[_Asked | None]] = ContextVar("credits_bub_asked", default=None)
"""Who pays for the next model call of this task; taken once. bub's runner passes nothing of a hook to its client."""


class MeteredClients:
    """In the place of a runner's ``iter_llm_clients``: the same clients, each attempt of them metered."""

    def __init__(self, original: Callable[[str], Iterator[tuple[Any, Any]]]) -> None:
        self._original = original

    def __call__(self, model: str) -> Iterator[tuple[Any, Any]]:
        """Yield each candidate with its client.

        Raises:
            RequestRefused: no hook was asked before this call, so nobody is named who pays.
        """
        asked = _asked.get()
        _asked.set(None)
        if asked is None:
            raise RequestRefused(UNIDENTIFIED)
        for candidate, client in self._original(model):
            client.acompletion = partial(_complete, asked, candidate, client.acompletion)
            yield candidate, client


async def _complete(asked: _Asked, candidate: Any, complete: Complete, **arguments: Any) -> Any:
    """Hold, ask the provider, settle, at the end of the stream if it is one; or answer with the refusal."""
    async with AsyncExitStack() as stack:
        try:
            request = _request(asked, candidate, arguments)
            call = await stack.enter_async_context(asked.door.service.metered(request))
        except RequestRefused as refused:
            return _answer(refused.refusal, candidate.model_id)
        answer = await complete(**_limited(arguments, call))
        if isinstance(answer, AsyncIterator):
            stream = _stream(call, answer, stack.pop_all())
            await anext(stream)
            return stream
        _report(call, answer)
        return answer


def _request(asked: _Asked, candidate: Any, arguments: Mapping[str, Any]) -> AIRequest:
    return request_of(
        asked.payer,
        model=candidate.model_id,
        provider=candidate.provider.value,
        messages=arguments["messages"],
        tools=arguments.get("tools") or (),
        max_output_tokens=next((arguments[name] for name in _LIMITS if arguments.get(name)), None),
        min_output_tokens=asked.door.min_output_tokens,
        stream=bool(arguments.get("stream")),
    )


async def _stream(call: MeteredCall, chunks: AsyncIterator[Any], settling: AsyncExitStack) -> AsyncGenerator[Any, None]:
    async with settling, aclosing(guarded_stream(call, chunks, text_of=_text_of, usage_of=_usage_of)) as pieces:
        # Begun before anyone has it: closing a generator that has not begun, or dropping it, runs nothing of it.
        yield None
        async for piece in pieces:
            yield piece


def _limited(arguments: Mapping[str, Any], call: MeteredCall) -> dict[str, Any]:
    chosen = next((name for name in _LIMITS if arguments.get(name)), "max_tokens")
    others = {name: value for name, value in arguments.items() if name not in _LIMITS}
    return {**others, chosen: call.hold.estimate.max_output_tokens}


def _report(call: MeteredCall, answer: Any) -> None:
    if (usage := _usage_of(answer)) is not None:
        call.report(usage)
    call.add_streamed_text("".join(_texts(answer.choices[0].message)))


def _usage_of(answer: Any) -> Usage | None:
    usage = answer.usage
    return usage_or_none(usage.model_dump(exclude_none=True) if usage else None, usage_from_openai)


def _text_of(chunk: Any) -> str:
    return "".join(text for choice in chunk.choices for text in _texts(choice.delta))


def _texts(message: Any) -> Iterator[str]:
    """Yield what a message or a piece of one is charged for: its text, its reasoning, its tool calls."""
    reasoning = getattr(message, "reasoning", None)
    yield getattr(reasoning, "content", None) or ""
    yield message.content or ""
    for tool_call in message.tool_calls or ():
        function = getattr(tool_call, "function", None)
        yield getattr(function, "name", None) or ""
        yield getattr(function, "arguments", None) or ""


def _answer(refusal: Refusal, model: str) -> ChatCompletion:
    message = {"role": "assistant", "content": refusal.text}
    return ChatCompletion.model_validate(
        {
            "id": f"refused-{secrets.token_hex(8)}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
    )


def _with_run(payer: Payer) -> Payer:
    run_id = payer.run_id or f"bub-{secrets.token_hex(8)}"
    return Payer(payer.account_id, key_id=payer.key_id, member_id=payer.member_id, run_id=run_id)


plugin: Final = CreditsPlugin()
"""What the entry point of the group ``bub`` loads."""
