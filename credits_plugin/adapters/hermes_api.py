"""hermes' API server with accounts: users' own tokens, 402 before a stream's headers, streams that are counted.

A user's token opens chat completions and the list of models, and nothing else of hermes' API, which is its operator's.
Sessions, memory scopes and idempotency keys that a user names are the user's own: whoever names another's gets an empty
one. hermes' tools run as the host's user whoever asks; what they may do is the operator's configuration.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from gateway.platforms.api_server import APIServerAdapter
from gateway.run import _resolve_gateway_model

from hookspecs import Outcome, OutcomeStatus, Refusal

from ..metering import RequestRefused
from ..web.problems import refusal_response
from .base import Payer, request_of
from .hermes import Door, Turn, turn_under_way

CHAT: Final = "/v1/chat/completions"
_OPEN_TO_USERS: Final = (("POST", CHAT), ("GET", "/v1/models"))
_NAMES_OF_CLIENTS: Final = ("X-Hermes-Session-Id", "X-Hermes-Session-Key", "Idempotency-Key")


class MeteredApiServer(APIServerAdapter):
    """The API server of a configured :class:`.hermes.CreditsPlugin`."""

    def __init__(self, config: Any, door: Door) -> None:
        super().__init__(config)
        self._door = door

    async def connect(self, *, is_reconnect: bool = False) -> bool:
        """Start the service's jobs and the server, whose worker threads know whose turn it is."""
        await self._door.service.start()
        asyncio.get_running_loop().set_default_executor(_ContextExecutor())
        return bool(await super().connect(is_reconnect=is_reconnect))

    def _http_route_table(self) -> list[tuple[Any, ...]]:
        # The one moment of connect() between the making of the application and its being frozen.
        if self._app is not None:
            self._app.middlewares.append(self._gate)
            self._door.prepare_app(self._app)
        routes: list[tuple[Any, ...]] = super()._http_route_table()
        return routes

    def _check_auth(self, request: web.Request) -> web.Response | None:
        if self._user_of(request) is not None:
            return None
        refused: web.Response | None = super()._check_auth(request)
        return refused

    def _user_of(self, request: web.Request) -> Payer | None:
        is_open = (request.method, request.path) in _OPEN_TO_USERS
        return self._door.identify_request(request) if is_open else None

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse before anything is sent what the user cannot pay, and have the rest metered as the user's turn."""
        payer = self._user_of(request)
        if payer is None or request.path != CHAT:
            return await handler(request)
        request = request.clone(headers=_owned(request.headers, payer))
        if (refusal := await self._refusal(payer, request)) is not None:
            return refusal_response(refusal)
        token = turn_under_way.set(Turn(payer))
        try:
            return await handler(request)
        finally:
            turn_under_way.reset(token)

    async def _refusal(self, payer: Payer, request: web.Request) -> Refusal | None:
        """Return why the message and one token more could not be paid; the agent's calls are held for one by one."""
        try:
            body = await request.json()
        except ValueError:  # hermes says what is wrong with it
            return None
        fields = body if isinstance(body, dict) else {}
        try:
            messages = fields.get("messages") or ()
            asked = request_of(payer, model=self._model_of(fields), messages=messages, max_output_tokens=1)
        except RequestRefused as refused:
            return refused.refusal
        answer = await self._door.service.admit(asked)
        if isinstance(answer, Refusal):
            return answer
        await self._door.service.settle(answer, Outcome(OutcomeStatus.FAILED_BEFORE_SEND))
        return None

    def _model_of(self, fields: dict[str, Any]) -> str:
        route = self._resolve_route(fields.get("model")) or {}
        return str(route.get("model") or _resolve_gateway_model())

    async def _run_agent(self, **options: Any) -> Any:
        turn = turn_under_way.get()
        if turn is not None and options.get("session_id"):
            options["session_id"] = _own(options["session_id"], turn.payer)
        return await super()._run_agent(**options)

    def _create_agent(self, **options: Any) -> Any:
        turn = turn_under_way.get()
        if turn is None:
            return super()._create_agent(**options)
        if (say := options.get("stream_delta_callback")) is not None:
            turn.say, options["stream_delta_callback"] = say, turn.hear
        turn.agent = super()._create_agent(**options)
        return turn.agent


class _ContextExecutor(ThreadPoolExecutor):
    """Worker threads that run in the context of whoever asks them: hermes' do not."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Run ``work`` in a copy of the caller's context."""
        return super().submit(contextvars.copy_context().run, work, *arguments, **options)


def _owned(headers: Any, payer: Payer) -> Any:
    """Return the headers with every name that a client chose made the payer's own."""
    owned = headers.copy()
    for name in _NAMES_OF_CLIENTS:
        if headers.get(name, "").strip():
            owned[name] = _own(headers[name].strip(), payer)
    return owned


def _own(name: str, payer: Payer) -> str:
    whose = repr((payer.account_id, payer.member_id)).encode(errors="surrogatepass")
    prefix = blake2b(whose, digest_size=8).hexdigest() + "-"
    return name if name.startswith(prefix) else prefix + name
