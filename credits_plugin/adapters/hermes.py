"""hermes-agent: a plugin that hermes loads by entry point where ``plugins.enabled`` in its config.yaml has ``credits``.

    from credits_plugin.adapters import hermes

    hermes.plugin.configure(service, identify_request=payer_of_token, identify_session=payer_of_chat)

Every model call of the agent's loop passes its execution middleware, in a worker thread: sub-agents, retries, fallback
models. A middleware that raises is left out by hermes, and the call made all the same, so a refusal is the answer's
text. The API server is ours where it is configured (:mod:`.hermes_api`): it knows the user's token, refuses with 402
before a stream's headers are sent, and counts what was streamed. Titles, compression and hermes' other auxiliary calls
pass no middleware: they are not metered (docs/hosts.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from agent.usage_pricing import normalize_usage
from aiohttp import web
from gateway.session_context import get_session_env
from hermes_constants import PARTIAL_STREAM_STUB_ID

from hookspecs import AIRequest, Refusal, Usage

from ..bootstrap import Credits
from ..metering import RequestRefused, SyncMeteredCall
from .base import Identify, Payer, request_of, usage_of_totals

logger = logging.getLogger(__name__)

GATE_FAILED: Final = Refusal("gate_failed", "The credit check failed. Try again in a moment.")
_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LIMITED_MODES: Final = ("chat_completions", "anthropic_messages")
_OWN_PROVIDERS: Final = ("", "auto", "custom", "local")  # hermes' words for a provider that no price list names

Call = Callable[[dict[str, Any]], Any]


class Session(NamedTuple):
    """Where a turn came from, as hermes' gateway has authenticated it; the command line has a platform alone."""

    platform: str
    user_id: str
    chat_id: str


class Turn:
    """One request to the API server: who pays, and what its client hears. Worker threads share it."""

    def __init__(self, payer: Payer) -> None:
        self.payer = payer
        self.agent: Any = None
        self.say: Callable[[str | None], None] | None = None
        self.call: SyncMeteredCall | None = None

    def is_heard(self, session_id: str | None) -> bool:
        """Whether the client hears the agent of this session: sub-agents have sessions, and no ears, of their own."""
        return self.say is not None and getattr(self.agent, "session_id", None) == session_id

    def hear(self, delta: str | None) -> None:
        """Pass a piece of the answer on to the client and count it; stop the agent when the credits are used up."""
        if delta and self.call is not None and not self.call.deliver(delta):
            self.agent.interrupt("the credits are used up")
        if self.say is not None:
            self.say(delta)


turn_under_way: Final[ContextVar[Turn | None]] = ContextVar("credits_hermes_turn", default=None)


@dataclass(frozen=True, slots=True)
class Door:
    """What the adapter was configured with."""

    service: Credits
    identify_request: Identify[web.Request]
    identify_session: Identify[Session]
    prepare_app: Callable[[web.Application], None]
    min_output_tokens: int | None


class CreditsPlugin:
    """Inert until it is configured; says once in the log if calls pass until then."""

    def __init__(self) -> None:
        self.door: Door | None = None
        self._is_told = False

    def configure(
        self,
        service: Credits,
        *,
        identify_request: Identify[web.Request] = lambda _request: None,
        identify_session: Identify[Session] = lambda _session: None,
        prepare_app: Callable[[web.Application], None] = lambda _app: None,
        min_output_tokens: int | None = None,
    ) -> None:
        """Meter from now on; call it before the gateway starts.

        ``identify_request`` names who pays for a request to the API server, by its token; ``identify_session`` for a
        turn from a chat platform or the command line. ``prepare_app`` gets the API server's application before it is
        frozen, to mount the credits' pages.
        """
        self.door = Door(service, identify_request, identify_session, prepare_app, min_output_tokens)

    def register(self, context: Any) -> None:
        """Be loaded by hermes, whose ``PluginContext`` this is."""
        context.register_middleware("llm_execution", self.execute)
        context.register_platform(
            name="api_server", label="API server", adapter_factory=self._make_api_server, check_fn=lambda: True
        )

    def execute(self, *, request: dict[str, Any], next_call: Call, **context: Any) -> Any:
        """Hold, make the call, settle; or answer with the refusal."""
        if self.door is None:
            self._tell_once()
            return next_call(request)
        turn = turn_under_way.get()
        try:
            with ExitStack() as settling:
                try:
                    call = settling.enter_context(self._metered(self.door, request, turn, context))
                except RequestRefused as refused:
                    return _answer(refused.refusal, turn, context)
                except Exception:  # hermes makes the call if its middleware raises, so whatever happens is a refusal
                    logger.exception("the credit check failed; refusing")
                    return _answer(GATE_FAILED, turn, context)
                return _made(call, _limited(request, call, context), next_call, turn, context)
        except _BrokenOffError as broken:
            return broken.response

    @staticmethod
    def _metered(
        door: Door, request: Mapping[str, Any], turn: Turn | None, context: Mapping[str, Any]
    ) -> SyncMeteredCall:
        payer = turn.payer if turn is not None else door.identify_session(_session())
        asked = _request(payer, request, context)
        return door.service.sync.metered(replace(asked, min_output_tokens=door.min_output_tokens))

    def _make_api_server(self, config: Any) -> Any:
        if self.door is None:
            from gateway.platforms.api_server import APIServerAdapter  # noqa: PLC0415 - a gateway's, not an agent's

            return APIServerAdapter(config)
        from .hermes_api import MeteredApiServer  # noqa: PLC0415 - as above

        return MeteredApiServer(config, self.door)

    def _tell_once(self) -> None:
        if not self._is_told:
            self._is_told = True
            logger.warning("credits are installed, but not configured: hermes' model calls are not metered")


class _BrokenOffError(Exception):
    """The provider's stream broke off; hermes goes on with what came, and asks for the rest."""

    def __init__(self, response: Any) -> None:
        super().__init__("the provider's stream broke off")
        self.response = response


def _made(
    call: SyncMeteredCall, request: dict[str, Any], next_call: Call, turn: Turn | None, context: Mapping[str, Any]
) -> Any:
    """Make the call and report what it used.

    Raises:
        _BrokenOffError: its stream broke off.
    """
    is_heard = turn is not None and turn.is_heard(context.get("session_id"))
    if turn is not None and is_heard:
        turn.call = call
    try:
        response = next_call(request)
    except Exception as error:
        if isinstance(getattr(error, "original", error), InterruptedError):
            call.client_gone()
        raise
    if (usage := _usage_of(response, context)) is not None:
        call.report(usage)
    elif not is_heard:
        call.add_streamed_text(_text_of(response))
    if getattr(response, "id", None) == PARTIAL_STREAM_STUB_ID:
        raise _BrokenOffError(response)
    return response


def _session() -> Session:
    names = ("HERMES_SESSION_PLATFORM", "HERMES_SESSION_USER_ID", "HERMES_SESSION_CHAT_ID")
    return Session(*(get_session_env(name) or "" for name in names))


def _request(payer: Payer | None, request: Mapping[str, Any], context: Mapping[str, Any]) -> AIRequest:
    provider = str(context.get("provider") or "").lower()
    instructions = [request[name] for name in ("system", "instructions") if request.get(name)]
    return request_of(
        payer,
        model=request.get("model") or context.get("model") or "",
        provider=None if provider in _OWN_PROVIDERS else provider,
        messages=[{"role": "system", "content": text} for text in instructions] + list(_messages(request)),
        tools=request.get("tools") or (),
        max_output_tokens=next((request[name] for name in _LIMITS if request.get(name)), None),
        max_tool_calls=request.get("max_tool_calls"),
        cache_control=request.get("cache_control"),
        run_id=context.get("turn_id"),
        stream=True,
    )


def _messages(request: Mapping[str, Any]) -> Sequence[Any]:
    messages = request.get("messages") or request.get("input") or ()
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def _limited(request: dict[str, Any], call: SyncMeteredCall, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request with the limit that is held for, in the words of its protocol."""
    name = next((name for name in _LIMITS if request.get(name)), None)
    if name is None:
        if context.get("api_mode") not in _LIMITED_MODES:
            return request
        name = "max_completion_tokens" if "api.openai.com" in str(context.get("base_url")) else "max_tokens"
    return request | {name: call.hold.estimate.max_output_tokens}


def _usage_of(response: Any, context: Mapping[str, Any]) -> Usage | None:
    """Return the usage in whichever protocol it came, as hermes itself reads it."""
    raw = getattr(response, "usage", None)
    usage = normalize_usage(raw, provider=context.get("provider"), api_mode=context.get("api_mode"))
    return usage_of_totals(
        input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning=usage.reasoning_tokens,
    )


def _text_of(response: Any) -> str:
    choices = getattr(response, "choices", None)
    message = choices[0].message if choices else response
    texts = [getattr(message, name, None) for name in ("reasoning_content", "content", "output_text")]
    blocks = [block for text in texts if isinstance(text, list) for block in text]
    return "".join(
        text for text in [*texts, *(getattr(block, "text", None) for block in blocks)] if isinstance(text, str)
    )


def _answer(refusal: Refusal, turn: Turn | None, context: Mapping[str, Any]) -> SimpleNamespace:
    """Return a provider's answer that says why, and say it in the stream, which hermes would leave empty."""
    if turn is not None and turn.say is not None and turn.is_heard(context.get("session_id")):
        turn.say(refusal.text)
    answer = SimpleNamespace(id=f"refused-{refusal.code}", model=context.get("model"), usage=None)
    match context.get("api_mode"):
        case "anthropic_messages":
            answer.content = [SimpleNamespace(type="text", text=refusal.text)]
            answer.stop_reason = "end_turn"
        case "codex_responses":
            content = [SimpleNamespace(type="output_text", text=refusal.text)]
            answer.output = [SimpleNamespace(type="message", role="assistant", status="completed", content=content)]
            answer.status, answer.output_text = "completed", refusal.text
        case _:
            message = SimpleNamespace(role="assistant", content=refusal.text, tool_calls=None, reasoning_content=None)
            answer.choices = [SimpleNamespace(index=0, message=message, finish_reason="stop")]
    return answer


plugin: Final = CreditsPlugin()
"""What the entry point of the group ``hermes_agent.plugins`` loads."""
