"""An agent host with prepaid credits: login, a streaming chat page, any OpenAI-compatible model. Start yours from it.

The credits plugin's share is marked "credits:"; all else is the host. examples/README.md says how to run it. Replace
the demo login by your own: the plugin only asks, through `resolve_account`, who is signed in.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, Final

import aiohttp
import pluggy
from aiohttp import web
from aiohttp.typedefs import Handler

from credits_plugin import (
    AIRequest,
    Credits,
    CreditsSpecs,
    HookCaller,
    RequestRefused,
    Settings,
    Usage,
    hookimpl,
    load_settings,
    usage_from_openai,
)
from credits_plugin.bootstrap import build
from credits_plugin.metering import MeteredCall
from credits_plugin.plugin import CreditsPlugin
from credits_plugin.web import mount, refusal_response

USERS: Final = {"alice": "demo", "bob": "demo", "carla": "demo"}
PAGES: Final = Path(__file__).with_name("chat_page")
COOKIE: Final = "agent_session"
SESSION_S: Final = 12 * 3600
SYSTEM_PROMPT: Final = "You are a helpful assistant. Answer briefly."
MAX_OUTPUT_TOKENS: Final = 1_024
LONGEST_MESSAGE: Final = 20_000
LONGEST_HISTORY: Final = 40

logger = logging.getLogger("agent_server")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What this host needs to know. Without a ``provider_url`` it starts a local stand-in for a model provider."""

    provider_url: str | None = None
    provider_key: str = field(default="", repr=False)
    model: str = "local-small"
    session_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    park_s: float = 0.0  # how long a refused request waits for a purchase; off: it is answered at once


AGENT: Final = web.AppKey("agent", AgentSettings)
PROVIDER: Final = web.AppKey("provider", aiohttp.ClientSession)
HOOKS: Final = web.AppKey("hooks", HookCaller)
CREDITS: Final = web.AppKey("credits", Credits)
OUT_OF_CREDITS: Final = "Your credits have run out, so the answer ends here. Buy credits and ask again."


# credits: from here to the next mark is what a host adds, besides the lines marked below.
class HostPlugin:
    """What the credits plugin asks this host, and tells it."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @hookimpl
    def resolve_account(self, http_request: web.Request) -> str | None:
        """Name the account of a request to the credits' pages; the session cookie alone decides."""
        return user_of(http_request, self._app[AGENT].session_key)

    @hookimpl
    def credits_ready(self, service: Credits) -> None:
        """Keep the service, whichever way the plugin was loaded."""
        self._app[CREDITS] = service


def plug_in_credits(app: web.Application, settings: Settings | None) -> None:
    """Load the plugin: built here from ``settings``, or by entry point and then configured by the environment."""
    plugin_manager = pluggy.PluginManager("credits_plugin")
    plugin_manager.add_hookspecs(CreditsSpecs)
    plugin_manager.register(HostPlugin(app))
    if settings is None:
        plugin_manager.load_setuptools_entrypoints("credits_plugin")
    else:
        plugin_manager.register(CreditsPlugin(build(settings)))
    app[HOOKS] = HookCaller(plugin_manager)
    mount(app, plugin_manager)


# credits: end of the plugin's share.


def create_app(agent: AgentSettings, settings: Settings | None) -> web.Application:
    """Build the host. ``settings`` are the credits'; with None the plugin is loaded by entry point."""
    app = web.Application(middlewares=[refuse_foreign_posts], client_max_size=1024**2)
    app[AGENT] = agent
    plug_in_credits(app, settings)
    app.cleanup_ctx.append(connect_provider)
    app.router.add_get("/", show_login)
    app.router.add_post("/login", log_in)
    app.router.add_post("/logout", log_out)
    app.router.add_get("/chat", show_chat)
    app.router.add_post("/api/chat", chat)
    app.router.add_get("/healthz", show_health)
    app.router.add_static("/static", PAGES)
    return app


async def connect_provider(app: web.Application) -> AsyncIterator[None]:
    """Open the connections to the model provider; start the local stand-in where none is configured."""
    agent = app[AGENT]
    async with AsyncExitStack() as stack:
        url = agent.provider_url
        if url is None:
            from credits_plugin.sandbox.model_server import ModelServer  # noqa: PLC0415 - only where it is needed

            url = (await stack.enter_async_context(ModelServer())).url
        headers = {"Authorization": f"Bearer {agent.provider_key}"} if agent.provider_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        session = aiohttp.ClientSession(url.rstrip("/") + "/", headers=headers, timeout=timeout)
        app[PROVIDER] = await stack.enter_async_context(session)
        yield


@web.middleware
async def refuse_foreign_posts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a POST that a browser sends from another site's page. Stripe and scripts send no Origin, and no cookie."""
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin is not None and origin.partition("://")[2] != request.host:
        return problem(403, "cross_site_request", "Send this from the site itself.")
    return await handler(request)


def problem(status: int, code: str, detail: str) -> web.Response:
    """Return an error as `application/problem+json`, like the credits' own."""
    body = {"status": status, "code": code, "detail": detail, "success": False}
    return web.json_response(body, status=status, content_type="application/problem+json")


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer one message; a refusal is sent before anything of a stream is."""
    user = user_of(request, request.app[AGENT].session_key)
    if user is None:
        return problem(401, "unauthenticated", "Sign in first.")
    try:
        ai_request = parse_chat(await request.json(), user=user, model=request.app[AGENT].model)
    except (ValueError, RecursionError, LookupError, web.RequestPayloadError) as error:  # or a charset nobody knows
        return problem(400, "invalid_value", str(error))
    return await answer_or_refuse(request, ai_request, park_s=request.app[AGENT].park_s)


async def answer_or_refuse(request: web.Request, ai_request: AIRequest, *, park_s: float) -> web.StreamResponse:
    """Answer, or say why not; where parking is on, a refused request waits for a purchase and is tried once more."""
    try:
        return await serve(request, ai_request)
    except RequestRefused as refused:
        refusal = refused.refusal
    if park_s and await request.app[CREDITS].wait_for_credits(refusal, timeout_s=park_s):
        return await answer_or_refuse(request, ai_request, park_s=0)
    return refusal_response(refusal)  # credits: 1. say why not: 402 with the purchase link, before anything of a stream


async def serve(request: web.Request, ai_request: AIRequest) -> web.StreamResponse:
    """Call the model, settle, and only then end the answer: whoever sees its end can see its cost.

    Raises:
        RequestRefused: nothing was sent, neither to the model nor to the browser.
    """
    answer = Answer(request, streams=ai_request.stream)
    failure: str | None = None
    try:
        # credits: 2. reserve what it can cost, or raise; at the block's end charge what it did cost, however it ended
        async with request.app[CREDITS].metered(ai_request) as call:
            answer.hold_id = str(call.hold.hold_id)
            if not await answer.relay(ProviderCall(request.app, call)):
                failure = OUT_OF_CREDITS
    except (ProviderError, ConnectionError) as error:  # the model has failed, or the browser has gone
        failure = str(error)
        if not answer.text:
            return problem(502, "provider_failed", failure)
    return await answer.end(failure)


class Answer:
    """What the browser gets: server-sent events, or one JSON object at the end."""

    def __init__(self, request: web.Request, *, streams: bool) -> None:
        self._request = request
        self._stream = web.StreamResponse() if streams else None
        self._provider: ProviderCall | None = None
        self.hold_id = ""
        self.text = ""

    async def relay(self, provider: ProviderCall) -> bool:
        """Hand the model's pieces on as they come; returns False where the credits end before the answer does."""
        self._provider = provider
        async with aclosing(provider.deltas()) as deltas:
            async for delta in deltas:
                self.text += delta
                more = await provider.call.deliver(delta)  # credits: 3. count it, and extend the hold
                await self._send(delta=delta)
                if not more:
                    return False
        return True

    async def end(self, failure: str | None) -> web.StreamResponse:
        """End the answer, saying what went wrong."""
        usage = self._provider.usage.to_json() if self._provider and self._provider.usage else None
        if self._stream is None and failure not in (None, OUT_OF_CREDITS):
            return problem(502, "provider_failed", str(failure))
        if self._stream is None:
            body = {"success": True, "reply": self.text, "usage": usage, "hold_id": self.hold_id, "notice": failure}
            return web.json_response(body)
        with suppress(ConnectionError):
            await self._send(done=True, usage=usage, error=failure)
        return self._stream

    async def _send(self, **event: Any) -> None:
        """Send an event. Headers go out with the first, so that what fails before it is still an HTTP error."""
        if self._stream is None:
            return
        if not self._stream.prepared:
            headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Hold-Id": self.hold_id}
            self._stream.headers.update(headers)
            await self._stream.prepare(self._request)
        await self._stream.write(f"data: {json.dumps(event)}\n\n".encode())


def parse_chat(body: Any, *, user: str, model: str) -> AIRequest:
    """Read ``{"message", "history"?, "model"?, "stream"?}``. The account is the session's, never the body's.

    Raises:
        ValueError: a field is missing or wrong; the message says which.
    """
    fields = body if isinstance(body, dict) else {}
    history, message, model = fields.get("history", []), fields.get("message"), fields.get("model", model)
    if not isinstance(message, str) or not 0 < len(message.strip()) <= LONGEST_MESSAGE:
        msg = f"message must be a text of 1 to {LONGEST_MESSAGE:,} characters"
        raise ValueError(msg)
    if not isinstance(model, str) or not isinstance(history, list) or not all(map(is_turn, history)):
        msg = "model must be a name, and history a list of {role: user or assistant, content: text}"
        raise ValueError(msg)
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in history[-LONGEST_HISTORY:]]
    return AIRequest(
        account_id=user,
        model=model,
        messages=[{"role": "system", "content": SYSTEM_PROMPT}, *turns, {"role": "user", "content": message}],
        max_output_tokens=MAX_OUTPUT_TOKENS,
        request_id=secrets.token_hex(12),
        stream=fields.get("stream") is True,
        can_extend=True,  # credits: `deliver` is told every piece, so the hold may begin with what answers usually need
    )


def is_turn(turn: Any) -> bool:
    """Whether an entry of the history is one."""
    return isinstance(turn, dict) and turn.get("role") in ("user", "assistant") and isinstance(turn.get("content"), str)


class ProviderError(Exception):
    """The model provider refused, failed or broke off. The message is for the user; the log has the details."""


class ProviderCall:
    """One call to the model, metered by ``call``."""

    def __init__(self, app: web.Application, call: MeteredCall) -> None:
        self._provider = app[PROVIDER]
        # OpenAI's newer models know only the longer name of the limit, many compatible servers only the other.
        limit = "max_completion_tokens" if "api.openai.com" in (app[AGENT].provider_url or "") else "max_tokens"
        self._payload = {
            "model": call.request.model,
            "messages": list(call.request.messages),
            limit: call.hold.estimate.max_output_tokens,  # credits: no more is held for, or can be
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self.call = call
        self.usage: Usage | None = None

    async def deltas(self) -> AsyncGenerator[str, None]:
        """Yield the answer's text as it comes. Whoever stops before its end has aborted the call.

        Raises:
            ProviderError: it failed, before the first piece or after some.
        """
        try:
            async with self._provider.post("chat/completions", json=self._payload) as response:
                response.raise_for_status()
                async for chunk in read_chunks(response):
                    if chunk.get("usage"):
                        self.usage = usage_from_openai(chunk["usage"])
                        self.call.report(self.usage)  # credits: 4. what the provider counts is charged
                    choices = chunk.get("choices") or [{}]
                    if delta := (choices[0].get("delta") or {}).get("content"):
                        yield delta
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                self.call.not_sent()
            logger.warning("the model provider failed: %r", error)
            raise ProviderError("The model is not answering. Please try again.") from error


async def read_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a Chat Completions stream; ValueError if it reports an error or ends without [DONE]."""
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        if line.startswith(b"data:"):
            chunk = json.loads(data)
            if not isinstance(chunk, dict) or chunk.get("error"):
                raise ValueError(data[:200])
            yield chunk
    raise ValueError("the stream ended early")


def sign(value: str, key: bytes) -> str:
    """Return the signature of a cookie's value."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()


def user_of(request: web.Request, key: bytes) -> str | None:
    """Return who is signed in, by the cookie ``user.expiry.signature``; None without a valid one."""
    cookie = request.cookies.get(COOKIE, "")
    value, _, signature = cookie.rpartition(".")
    if not cookie.isascii() or not hmac.compare_digest(signature, sign(value, key)):
        return None
    user, _, expires = value.rpartition(".")
    return user if int(expires) > time.time() else None


async def show_login(request: web.Request, *, failed: bool = False) -> web.Response:
    """Show the login form; who is signed in already goes on to the chat."""
    if user_of(request, request.app[AGENT].session_key) is not None:
        raise web.HTTPSeeOther("/chat")
    notice = '<p class="notice" role="alert">That password is not right.</p>' if failed else ""
    options = "".join(f"<option>{html.escape(user)}</option>" for user in USERS)
    return page("login.html", status=401 if failed else 200, options=options, notice=notice)


async def log_in(request: web.Request) -> web.Response:
    """Check the password and set the session cookie."""
    form = await request.post()
    user, password = str(form.get("user", "")), str(form.get("password", ""))
    if user not in USERS or not hmac.compare_digest(password.encode(), USERS[user].encode()):
        return await show_login(request, failed=True)
    value = f"{user}.{int(time.time()) + SESSION_S}"
    cookie = f"{value}.{sign(value, request.app[AGENT].session_key)}"
    response = web.HTTPSeeOther("/chat")
    response.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="Lax", secure=request.secure)
    raise response


async def log_out(_request: web.Request) -> web.Response:
    """Remove the session cookie."""
    response = web.HTTPSeeOther("/")
    response.del_cookie(COOKIE)
    raise response


async def show_chat(request: web.Request) -> web.Response:
    """Show the chat page."""
    user = user_of(request, request.app[AGENT].session_key)
    if user is None:
        raise web.HTTPSeeOther("/")
    return page("chat.html", user=html.escape(user), model=html.escape(request.app[AGENT].model))


async def show_health(_request: web.Request) -> web.Response:
    """Say that the host is up."""
    return web.json_response({"status": "ok"})


def page(name: str, *, status: int = 200, **fields: str) -> web.Response:
    """Return a page with its fields filled in; nothing runs or loads that is not served from here."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
    policy += "; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    text = Template((PAGES / name).read_text(encoding="utf-8")).substitute(fields)
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def main() -> None:
    """Run the host, as examples/README.md describes."""
    logging.basicConfig(level=logging.INFO)
    get = os.environ.get
    agent = AgentSettings(
        provider_url=get("OPENAI_BASE_URL") or None,
        provider_key=get("OPENAI_API_KEY", ""),
        model=get("OPENAI_MODEL", "local-small"),
        session_key=get("AGENT_SESSION_KEY", "").encode() or secrets.token_bytes(32),
        park_s=float(get("AGENT_PARK_S", "0")),
    )
    settings = None if get("AGENT_LOAD") == "entrypoint" else load_settings()
    web.run_app(create_app(agent, settings), host=get("AGENT_HOST", "127.0.0.1"), port=int(get("AGENT_PORT", "8080")))


if __name__ == "__main__":
    main()
