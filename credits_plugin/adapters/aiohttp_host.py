"""Any aiohttp host that nobody here wrote: mounts our routes, refuses before headers are sent, meters its handlers.

What such a host does to us, and what is done about it here:

* Routes cannot be added once its runner is set up: :func:`plug_in` comes before, and says so if it comes too late.
* Its application-wide authentication would answer Stripe's webhook with 401: its middlewares do not see the webhook.
* An error that is raised while an answer streams ends as an empty 200: :func:`gate_turns` and :func:`metered` refuse
  with a 402 before the handler is called.
* Its ``client_max_size`` does not matter: our routes read bodies with limits of their own.
* Without ``handler_cancellation=True`` (in ``run_app`` or ``AppRunner``) a handler goes on when its client has left,
  and is charged for what it goes on to do. With it, the call is cancelled, and charged as an aborted one.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Final, TypeAlias
from uuid import uuid4

import pluggy
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hookspecs import PROJECT_NAME, AIRequest, CreditsSpecs, HookCaller, Outcome, OutcomeStatus, Refusal, hookimpl

from ..bootstrap import Credits
from ..errors import ConfigurationError
from ..metering import MeteredCall, RequestRefused
from ..plugin import CreditsPlugin
from ..web import mount, refusal_response
from ..web.service import CREDITS
from .base import UNIDENTIFIED, Identify, Payer, request_of

LEAST_OUTPUT_TOKENS: Final = 256

MeteredHandler: TypeAlias = Callable[[web.Request, MeteredCall], Awaitable[web.StreamResponse]]
ReadRequest: TypeAlias = Callable[[web.Request, Payer | None], Awaitable[AIRequest]]
"""Reads a request into what it will ask of the model, by :func:`.base.request_of`, which refuses who is nobody."""

_payer: ContextVar[Payer | None] = ContextVar("credits_payer", default=None)


def current_payer(*_context: object) -> Payer | None:
    """Return who pays for the turn under way, as :func:`gate_turns` found; an ``identify`` for what the turn calls.

    Tasks that the turn starts inherit it; threads and what runs by itself (timers, schedules) have nobody who pays.
    """
    return _payer.get()


@contextmanager
def paying(payer: Payer) -> Iterator[None]:
    """Name who pays for what is called inside, for :func:`current_payer`; it is a run of its own, or the payer's."""
    token = _payer.set(replace(payer, run_id=payer.run_id or uuid4().hex))
    try:
        yield
    finally:
        _payer.reset(token)


async def refusal_of_turn(credits: Credits, payer: Payer, *, model: str, provider: str | None = None) -> Refusal | None:
    """Return why a turn must not begin, or None where a short answer of ``model`` to an empty prompt can be paid.

    Nothing is held afterwards: each call of the turn has a hold of its own, and may still be refused.
    """
    request = request_of(payer, model=model, provider=provider, messages=(), max_output_tokens=LEAST_OUTPUT_TOKENS)
    answer = await credits.admit(request)
    if isinstance(answer, Refusal):
        return answer
    await credits.settle(answer, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))
    return None


def plug_in(
    app: web.Application,
    credits: Credits,
    *,
    identify: Identify[web.Request],
    spare_pages: bool = False,
) -> None:
    """Mount the credits' API and pages, and keep the host's middlewares off the webhook; the service runs as the app.

    Call it last, after the host has added its middlewares and before its runner is set up. ``identify`` names whose
    pages a request sees. ``spare_pages`` keeps the host's middlewares off all our routes, for hosts that would ask a
    browser for an API key: ours ask ``identify`` themselves.

    Raises:
        ConfigurationError: the application is frozen or has the routes already, or a middleware is of the old style.
    """
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(_Pages(identify))
    manager.register(CreditsPlugin(credits))
    HookCaller(manager)
    mount(app, manager)
    webhook = f"{credits.settings.prefix}/webhook"
    app.middlewares[:] = [
        _sparing(middleware, webhook=webhook, all_of_ours=spare_pages) for middleware in app.middlewares
    ]


def gate_turns(
    app: web.Application,
    credits: Credits,
    *,
    identify: Identify[web.Request],
    model: str,
    paths: Collection[str],
    provider: str | None = None,
) -> None:
    """Refuse a POST to ``paths`` that nobody can pay before its handler sends anything, and name who pays inside it.

    The handler's own calls of the model are metered where they are made, with :func:`current_payer`. The host's
    authentication, where it comes as a middleware, must have been added before.
    """

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "POST" or request.path not in paths:
            return await handler(request)
        payer = identify(request)
        if payer is None:
            return refusal_response(UNIDENTIFIED)
        refusal = await refusal_of_turn(credits, payer, model=model, provider=provider)
        if refusal is not None:
            return refusal_response(refusal)
        with paying(payer):
            return await handler(request)

    app.middlewares.append(gate)


def metered(
    credits: Credits, *, identify: Identify[web.Request], read: ReadRequest
) -> Callable[[MeteredHandler], Handler]:
    """Make a handler of one provider call a metered one; it is given the call, and may stream.

    ``read`` makes the request; what it raises is the host's, but for ``RequestRefused``, which is answered like a
    refusal of the gate: 402, or 401 if nobody pays.
    """

    def decorate(handler: MeteredHandler) -> Handler:
        @functools.wraps(handler)
        async def gated(request: web.Request) -> web.StreamResponse:
            async with AsyncExitStack() as stack:
                try:
                    ai_request = await read(request, identify(request))
                    call = await stack.enter_async_context(credits.metered(ai_request))
                except RequestRefused as refused:
                    return refusal_response(refused.refusal)
                try:
                    return await handler(request, call)
                except ConnectionError:
                    if request.transport is None or request.transport.is_closing():
                        call.client_gone()
                    raise

        return gated

    return decorate


class _Pages:
    def __init__(self, identify: Identify[web.Request]) -> None:
        self._identify = identify

    @hookimpl
    def resolve_account(self, http_request: web.Request) -> str | None:
        """Name whose pages a request sees."""
        payer = self._identify(http_request)
        return payer.account_id if payer else None


def _sparing(middleware: Middleware, *, webhook: str, all_of_ours: bool) -> Middleware:
    """Return a middleware that does not see the webhook, or none of our routes, and is the given one elsewhere."""
    if getattr(middleware, "__middleware_version__", None) != 1:
        msg = f"{middleware!r} is of aiohttp's old style and cannot be kept off the webhook: mark it @web.middleware"
        raise ConfigurationError(msg)

    @web.middleware
    async def sparing(request: web.Request, handler: Handler) -> web.StreamResponse:
        # By the application that serves it, not by its path alone: the host may have routes below our prefix.
        is_ours = any(CREDITS in app for app in request.match_info.apps)
        if is_ours and (all_of_ours or request.path == webhook):
            return await handler(request)
        return await middleware(request, handler)

    return sparing
