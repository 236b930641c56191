"""The contract between an agent host and the credits plugin: hook specs, value types and the caller for async hooks.

Nothing but the standard library and pluggy is imported here, so that a host can depend on the contract alone.
Import these names from ``credits_plugin``; this module is its source of truth.

pluggy itself is synchronous: a coroutine returned by an implementation would win a ``firstresult`` hook even if it
resolved to ``None``, and a wrapper would see it before it ran. The async hooks are therefore called through
:class:`HookCaller`, which awaits, stops at the first refusal and fails closed.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pluggy

if TYPE_CHECKING:
    from aiohttp import web

PROJECT_NAME: Final = "credits_plugin"
HOOKSPEC_VERSION: Final = 1
"""Raised when a hook or a field changes its meaning. Carried on every :class:`AIRequest`."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)

logger = logging.getLogger(__name__)
HostFacts: TypeAlias = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Measured tokens of one AI request. The counts are disjoint: together they are all tokens.

    ``input`` are prompt tokens that were neither read from nor written to the provider's cache; ``output`` are the
    visible completion tokens, without ``reasoning``. The last five kinds have prices of their own at some providers
    and cost what the plain kind does elsewhere; ``cache_write_1h`` was written to a cache that lasts an hour.
    ``tool_calls`` counts calls of tools that the provider runs and charges for, by name (``web_search``).
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_cache_read: int = 0
    cache_write_1h: int = 0
    audio_output: int = 0
    image_output: int = 0
    tool_calls: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        counts = _token_counts(self)
        numbers = (*counts, *self.tool_calls.values()) if self.tool_calls else counts
        # One look at all of them: a usage is made with every request.
        if list(map(type, numbers)).count(int) < len(numbers) or min(numbers) < 0:
            named = (*zip(USAGE_KINDS, counts, strict=True), *self.tool_calls.items())
            name, count = next((n, c) for n, c in named if type(c) is not int or c < 0)
            msg = f"usage.{name} must be a whole number of tokens or calls, 0 or more; got {count!r}"
            raise ValueError(msg)

    @property
    def total_tokens(self) -> int:
        """All tokens of the request."""
        return sum(_token_counts(self))

    def to_json(self) -> dict[str, Any]:
        """Return the five plain counts by name, and of the others what is not zero."""
        others = {kind: getattr(self, kind) for kind in SPECIAL_KINDS} | {"tool_calls": dict(self.tool_calls)}
        return {kind: getattr(self, kind) for kind in PLAIN_KINDS} | {kind: n for kind, n in others.items() if n}


_SPECIAL: Final = "audio_input audio_cache_read cache_write_1h audio_output image_output".split()
SPECIAL_KINDS: Final = dict(zip(_SPECIAL, "input cache_read cache_write output output".split(), strict=True))
"""Kinds of tokens that need no price and no column of their own, and the plain kind that they then count as."""
PLAIN_KINDS: Final = tuple("input cache_read cache_write output reasoning".split())
USAGE_KINDS: Final = (*PLAIN_KINDS, *SPECIAL_KINDS)
"""The names of :class:`Usage`'s token counts, in its order."""
_token_counts: Final = attrgetter(*USAGE_KINDS)


@dataclass(frozen=True, slots=True)
class AIRequest:
    """One provider call that is about to be made. The unit is one call, not one conversation.

    ``account_id`` is the host's own name for the payer and must come from the host's authentication, never from the
    client's body. ``messages`` are in the OpenAI chat format. ``request_id`` makes a retry converge: the same id on
    the same account is the same hold; without one every request is new. Calls of one agent run share ``run_id``.

    ``key_id`` and ``member_id`` name the API key and, where the account is a team, the person that the request is made
    with; both come from the host's authentication too, and may have caps of their own. Where less is available than the
    request may cost, its output is cut to what can be afforded, if that is ``min_output_tokens`` or more; None refuses.
    ``can_extend`` promises that the caller extends the hold while it streams, so that it may begin with a smaller one.

    ``max_tool_calls`` is the limit, sent to the provider, of the calls that it makes of its own tools, all together
    (OpenAI's Responses API); a tool's own ``max_uses`` (Anthropic) is read from ``tools``. ``cache_control`` is that of
    the request as a whole, where it has one beside those of its parts.
    """

    account_id: str
    model: str
    messages: Sequence[Mapping[str, Any]] = ()
    provider: str | None = None
    max_output_tokens: int | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    request_id: str | None = None
    run_id: str | None = None
    key_id: str | None = None
    member_id: str | None = None
    min_output_tokens: int | None = None
    stream: bool = False
    can_extend: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    hookspec_version: int = HOOKSPEC_VERSION
    max_tool_calls: int | None = None
    cache_control: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bound of what a request can cost. ``cost_microcredits`` includes the markup.

    ``audio_input_tokens`` of the ``input_tokens`` are audio. ``is_exact``: the prompt is nothing but texts, all counted
    with the model's own vocabulary; only the few tokens that the provider adds around them are bounded.
    ``tool_calls`` are the calls of tools that the provider runs whose fees are in the cost, by the names of
    :class:`Usage`: a bound where the request limits them, else what is expected. ``is_cached_1h``: the request asks for
    an hour's cache, so every prompt token is priced as if it were written there, where that is dearest.
    """

    model: str
    input_tokens: int
    max_output_tokens: int
    cost_microcredits: int
    audio_input_tokens: int = 0
    is_exact: bool = False
    tool_calls: Mapping[str, int] = field(default_factory=dict, hash=False)
    is_cached_1h: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits reserved for one AI request. Pass it back, unchanged, to ``after_ai_request``.

    ``is_repeated``: an earlier request of the same id has it already, and may still be under way. Both are charged once
    together, so whoever calls the provider for each of them gives one away; ``credits.metered`` refuses the second.
    """

    hold_id: int
    account_id: str
    amount_microcredits: int
    estimate: Estimate
    price_version: int
    expires_at_ms: int
    request_id: str | None = None
    run_id: str | None = None
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class SpentBudget:
    """The cap that refuses a request: what an account, member, key or run may spend in a day, a month, or in all.

    ``ends_at_ms`` is when it starts anew, None for never; a paused run goes on once it is resumed.
    """

    kind: str
    name: str
    period: str
    limit_microcredits: int | None = None
    ends_at_ms: int | None = None
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request must not be sent. A value, never an exception: several hosts swallow exceptions and serve anyway.

    ``code`` is stable (``insufficient_credits``, ``account_in_debt``, ``unknown_model``, ``gate_failed``, …);
    ``message`` is for a person. Amounts are microcredits. Answer it with HTTP 402 and the ``purchase_url``; a host that
    answers in a chat sends :attr:`text`. ``retry_token`` lets the payer wait until the request can be afforded.
    ``budget`` is the cap that refused, where it was not the balance.
    """

    code: str
    message: str
    needed_microcredits: int = 0
    available_microcredits: int = 0
    purchase_url: str | None = None
    retry_token: str | None = None
    budget: SpentBudget | None = None

    @property
    def text(self) -> str:
        """What an agent says in a chat instead of an answer: the message, and where credits are bought."""
        return f"{self.message} {self.purchase_url}" if self.purchase_url else self.message


class OutcomeStatus(StrEnum):
    """How a provider call ended."""

    COMPLETED = "completed"
    FAILED_BEFORE_SEND = "failed_before_send"
    FAILED_AFTER_SEND = "failed_after_send"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to the request. ``usage`` is the provider's own figure, or None where it gave none.

    ``streamed_text`` is what reached the host of an aborted stream; it is counted when there is no usage.
    """

    status: OutcomeStatus
    usage: Usage | None = None
    streamed_text: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CreditEvent:
    """Something that was committed; delivered at least once, always with its ``event_id``. ``data`` is JSON-able."""

    event_id: int
    kind: str
    account_id: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RefundProposal:
    """A refund that an operator asks for. Where less of its credits is unspent than it takes, it leaves a debt."""

    account_id: str
    payment_id: str
    amount_minor: int
    currency: str
    microcredits: int
    unspent_microcredits: int
    reason: str
    actor: str


class CreditsSpecs:
    """The hooks. ``pm.add_hookspecs(CreditsSpecs)`` makes a host's plugin manager know them."""

    @hookspec(firstresult=True)
    def resolve_account(self, http_request: web.Request) -> Awaitable[str | None] | str | None:
        """Name the account that a request to the mounted routes belongs to; None from every plugin means 401."""

    @hookspec
    def before_ai_request(self, request: AIRequest) -> Awaitable[Hold | Refusal | None] | Hold | Refusal | None:
        """Place a hold for a provider call or refuse it; None has no opinion. Runs before each provider call."""

    @hookspec
    def after_ai_request(self, request: AIRequest, hold: Hold, outcome: Outcome) -> Awaitable[None] | None:
        """Settle or release a hold. Runs exactly once for every hold, whatever happened to the call."""

    @hookspec(firstresult=True)
    def estimate_ai_request(self, request: AIRequest) -> Awaitable[Estimate | None] | Estimate | None:
        """Override the built-in estimate of a request; None leaves it to the next plugin, then to the built-in."""

    @hookspec(firstresult=True)
    def refund_policy(self, proposal: RefundProposal) -> Awaitable[str | None] | str | None:
        """Say why a refund must not be made; None from every plugin allows it. Asked before money moves."""

    @hookspec(firstresult=True)
    def dispute_evidence(self, account_id: str, payment_id: str) -> Awaitable[HostFacts] | HostFacts:
        """Return what the host knows of a disputed buyer (sign-ins, addresses, e-mails), JSON-able, for the bank."""

    @hookspec
    def provide_web_app(self) -> web.Application | None:
        """Return an aiohttp sub-application to mount; called once, before the host freezes its application."""

    @hookspec(historic=True)
    def host_ready(self, hooks: HookCaller) -> None:
        """Learn the host's :class:`HookCaller`, for plugins that call hooks themselves; later ones are told too."""

    @hookspec(historic=True)
    def credits_ready(self, service: Any) -> None:
        """Learn that the plugin is up; ``service`` is its ``Credits``. Plugins registered later are told too."""

    @hookspec
    def on_credit_event(self, event: CreditEvent) -> Awaitable[None] | None:
        """Hear of a committed event (purchased, refunded, low balance, …); at least once, after the commit."""


ASYNC_HOOKS: Final = tuple(
    "resolve_account before_ai_request after_ai_request estimate_ai_request "
    "refund_policy dispute_evidence on_credit_event".split()
)
"""Hooks whose implementations may be ``async def``; call them through :class:`HookCaller`, never directly."""


class HookContractError(RuntimeError):
    """The host's plugins cannot be called safely: no gate is registered, or a wrapper sits on an async hook."""


class HookCaller:
    """Calls the async hooks of a host's plugin manager and fails closed.

    Raises:
        HookContractError: no plugin implements ``before_ai_request`` (a host without a gate would serve for free),
            or an async hook has a wrapper (it would see coroutines that nobody awaited).
    """

    def __init__(self, plugin_manager: pluggy.PluginManager) -> None:
        self._plugin_manager = plugin_manager
        self._check_contract()
        plugin_manager.hook.host_ready.call_historic(kwargs={"hooks": self})

    def credits_ready(self, service: Any) -> None:
        """Tell every plugin, also those registered later, that the service is up."""
        self._plugin_manager.hook.credits_ready.call_historic(kwargs={"service": service})

    async def before_ai_request(self, request: AIRequest) -> Hold | Refusal:
        """Ask every gate in turn: the first refusal ends it, a failing gate refuses, and exactly one hold is needed.

        Holds that were placed before a later gate refused, or before the caller was cancelled, are given back through
        ``after_ai_request``.
        """
        self._check_contract()
        hold: Hold | None = None
        for implementation in self._implementations("before_ai_request"):
            try:
                answer = await self._ask_gate(implementation, request)
            except asyncio.CancelledError:
                await asyncio.shield(asyncio.ensure_future(self._give_back(request, hold)))
                raise
            if isinstance(answer, Refusal) or (answer is not None and hold is not None):
                await self._give_back(request, hold)
                if isinstance(answer, Hold):
                    await self._give_back(request, answer)
                    return _gate_failed("two plugins placed a hold on one request; keep one of them")
                return answer
            hold = answer or hold
        return hold or _gate_failed("no plugin placed a hold")

    async def after_ai_request(self, request: AIRequest, hold: Hold, outcome: Outcome) -> None:
        """Run every after-hook, even when one of them raises; failures are logged, the answer is never lost.

        Where the caller is cancelled, the hook that it waits for is too; those after it run to their end all the same.
        """
        arguments = {"request": request, "hold": hold, "outcome": outcome}
        await self._run_each(self._implementations("after_ai_request"), arguments)

    async def estimate_ai_request(self, request: AIRequest) -> Estimate | None:
        """Return the first estimate that a plugin gives, or None. An exception propagates: no guess replaces it."""
        answer: Estimate | None = await self._first("estimate_ai_request", {"request": request})
        return answer

    async def resolve_account(self, http_request: web.Request) -> str | None:
        """Return the first account that a plugin names, or None. An exception propagates to a 500, never to access."""
        answer: str | None = await self._first("resolve_account", {"http_request": http_request})
        return answer

    async def refund_policy(self, proposal: RefundProposal) -> str | None:
        """Return why the refund must not be made, or None. A policy that raises or answers nonsense refuses."""
        failed = "the refund policy failed; see the log"
        answer = await self._first_or(failed, "refund_policy", {"proposal": proposal})
        return answer if answer is None or isinstance(answer, str) else failed

    async def dispute_evidence(self, account_id: str, payment_id: str) -> Mapping[str, Any]:
        """Return what the first plugin knows of the buyer; a failure is logged, and the file is made without it."""
        failed = {"missing": "the host's dispute_evidence hook failed; see its log"}
        who = {"account_id": account_id, "payment_id": payment_id}
        return await self._first_or(failed, "dispute_evidence", who) or {}

    async def on_credit_event(self, event: CreditEvent) -> None:
        """Tell every plugin.

        Raises:
            ExceptionGroup: at least one plugin failed; all were told, and the event should be delivered again.
        """
        failures: list[Exception] = []
        for implementation in self._implementations("on_credit_event"):
            try:
                await _awaited(_call(implementation, {"event": event}))
            except Exception as failure:  # noqa: BLE001 - a foreign plugin may raise anything; all are told first
                failures.append(failure)
        if failures:
            raise ExceptionGroup(f"on_credit_event failed for event {event.event_id} ({event.kind})", failures)

    async def _ask_gate(self, implementation: pluggy.HookImpl, request: AIRequest) -> Hold | Refusal | None:
        try:
            answer = await _awaited(_call(implementation, {"request": request}))
        except Exception:  # whatever a gate raises, the request must not pass
            logger.exception("before_ai_request of plugin %s failed; refusing", implementation.plugin_name)
            return _gate_failed("the credit check failed; try again shortly")
        if answer is None or isinstance(answer, Hold | Refusal):
            return answer
        logger.error("before_ai_request of plugin %s returned %r", implementation.plugin_name, type(answer))
        return _gate_failed("a credit check returned neither a hold nor a refusal")

    async def _run_each(self, implementations: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
        for index, implementation in enumerate(implementations):
            try:
                await _awaited(_call(implementation, arguments))
            except asyncio.CancelledError:
                rest = self._run_each(implementations[index + 1 :], arguments)
                await asyncio.shield(asyncio.ensure_future(rest))
                raise
            except Exception:  # a foreign plugin may raise anything, and the others must still run
                logger.exception("after_ai_request of plugin %s failed", implementation.plugin_name)

    async def _give_back(self, request: AIRequest, hold: Hold | None) -> None:
        if hold is not None:
            await self.after_ai_request(request, hold, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))

    async def _first(self, hook: str, arguments: Mapping[str, Any]) -> Any:
        for implementation in self._implementations(hook):
            answer = await _awaited(_call(implementation, arguments))
            if answer is not None:
                return answer
        return None

    async def _first_or(self, failed: Any, hook: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return await self._first(hook, arguments)
        except Exception:  # a foreign plugin may raise anything
            logger.exception("%s failed", hook)
            return failed

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        caller: pluggy.HookCaller = getattr(self._plugin_manager.hook, hook)
        return caller.get_hookimpls()[::-1]  # pluggy calls the last registered first

    def _check_contract(self) -> None:
        if not hasattr(self._plugin_manager.hook, "before_ai_request"):
            msg = "the plugin manager does not know the credits hooks: call pm.add_hookspecs(CreditsSpecs)"
            raise HookContractError(msg)
        if not self._implementations("before_ai_request"):
            msg = "no plugin implements before_ai_request, so requests would be served for free: register CreditsPlugin"
            raise HookContractError(msg)
        for hook in ASYNC_HOOKS:
            for implementation in self._implementations(hook):
                if implementation.hookwrapper or implementation.wrapper:
                    msg = f"plugin {implementation.plugin_name} wraps {hook}; wrappers on async hooks are not supported"
                    raise HookContractError(msg)


def _gate_failed(message: str) -> Refusal:
    return Refusal(code="gate_failed", message=message)


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    return implementation.function(*(arguments[name] for name in implementation.argnames))


async def _awaited(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer
