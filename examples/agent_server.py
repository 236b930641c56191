"""An agent host with prepaid credits: login, a streaming chat page, any OpenAI-compatible model. Start yours from it.

The credits plugin's share is marked with "credits:"; everything else is the host. See examples/README.md for the
environment. Replace the demo login with your own: the plugin only needs `resolve_account` to name who is signed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import json
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import asdict, dataclass, field
from string import Template
from typing import Any, Final

import aiohttp
import pluggy
from aiohttp import web
from aiohttp.typedefs import Handler

from credits_plugin import (
    PROJECT_NAME,
    AIRequest,
    CreditsSpecs,
    Hold,
    HookCaller,
    Outcome,
    OutcomeStatus,
    Refusal,
    Settings,
    Usage,
    hookimpl,
    load_settings,
)
from credits_plugin.bootstrap import Credits, build
from credits_plugin.plugin import CreditsPlugin
from credits_plugin.web import mount, refusal_response

COOKIE: Final = "agent_session"
SESSION_S: Final = 12 * 3600
LONGEST_MESSAGE: Final = 20_000
LONGEST_HISTORY: Final = 40
logger = logging.getLogger("agent_server")
SYSTEM_PROMPT: Final = "You are a helpful assistant. Answer briefly."


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What this host needs to know. Without a ``provider_url`` it starts a local stand-in for a model provider."""

    provider_url: str | None = None
    provider_key: str = field(default="", repr=False)
    model: str = "local-small"
    max_output_tokens: int = 1_024
    session_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    users: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(("alice", "bob", "carla"), "demo"))

    @property
    def limit_field(self) -> str:
        """How the provider calls the output limit: OpenAI's newer models know only the longer name, others the old."""
        return "max_completion_tokens" if "api.openai.com" in (self.provider_url or "") else "max_tokens"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Signed cookies: ``user.expiry.signature``. Nothing is stored on the server."""

    key: bytes

    def issue(self, user: str, *, now_s: int) -> str:
        """Return the cookie's value for a user who has signed in."""
        value = f"{user}.{now_s + SESSION_S}"
        return f"{value}.{self._sign(value)}"

    def user_of(self, request: web.Request) -> str | None:
        """Return who is signed in; None without a valid cookie."""
        value, _, signature = request.cookies.get(COOKIE, "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(value).encode()):
            return None
        user, _, expires = value.rpartition(".")
        return user if int(expires) > time.time() else None

    def _sign(self, value: str) -> str:
        return hmac.new(self.key, value.encode(), hashlib.sha256).hexdigest()


AGENT: Final = web.AppKey("agent", AgentSettings)
SESSIONS: Final = web.AppKey("sessions", Sessions)
PROVIDER: Final = web.AppKey("provider", aiohttp.ClientSession)
HOOKS: Final = web.AppKey("hooks", HookCaller)
SERVICE: Final = web.AppKey("service", Credits)


# credits: from here to the next mark is what a host adds, besides the three lines in `chat`.
class HostPlugin:
    """What the credits plugin asks the host, and tells it."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @hookimpl
    def resolve_account(self, http_request: web.Request) -> str | None:
        """Name the account of a request to the credits' pages; the session cookie alone decides."""
        return self._app[SESSIONS].user_of(http_request)

    @hookimpl
    def credits_ready(self, service: Credits) -> None:
        """Keep the service."""
        self._app[SERVICE] = service


def plug_in_credits(app: web.Application, settings: Settings | None) -> None:
    """Load the plugin: with ``settings`` built here, without them by entry point and configured by the environment."""
    plugin_manager = pluggy.PluginManager(PROJECT_NAME)
    plugin_manager.add_hookspecs(CreditsSpecs)
    plugin_manager.register(HostPlugin(app))
    if settings is None:
        plugin_manager.load_setuptools_entrypoints(PROJECT_NAME)
    else:
        plugin_manager.register(CreditsPlugin(build(settings)))
    app[HOOKS] = HookCaller(plugin_manager)
    mount(app, plugin_manager)
    app.cleanup_ctx.append(run_credits)


async def run_credits(app: web.Application) -> AsyncIterator[None]:
    """Run the plugin's background jobs (expiry of holds and credits) as long as the host."""
    await app[SERVICE].start()
    yield
    await app[SERVICE].close()


# credits: end of the plugin's share.


def create_app(agent: AgentSettings, settings: Settings | None) -> web.Application:
    """Build the host. ``settings`` are the credits'; None loads the plugin by entry point, from the environment."""
    app = web.Application(middlewares=[refuse_foreign_posts], client_max_size=1024**2)
    app[AGENT] = agent
    app[SESSIONS] = Sessions(agent.session_key)
    plug_in_credits(app, settings)
    app.cleanup_ctx.append(connect_provider)
    app.add_routes(
        [
            web.get("/", show_login),
            web.post("/login", log_in),
            web.post("/logout", log_out),
            web.get("/chat", show_chat),
            web.post("/api/chat", chat),
            web.get("/healthz", show_health),
            web.get("/static/{name}", serve_static),
        ]
    )
    return app


async def connect_provider(app: web.Application) -> AsyncIterator[None]:
    """Open the connection pool to the model provider; start the local stand-in if none is configured."""
    agent = app[AGENT]
    async with AsyncExitStack() as stack:
        url = agent.provider_url
        if url is None:
            from credits_plugin.sandbox.model_server import ModelServer  # noqa: PLC0415 - only where nothing else is set

            url = (await stack.enter_async_context(ModelServer())).url
        headers = {"Authorization": f"Bearer {agent.provider_key}"} if agent.provider_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        session = aiohttp.ClientSession(base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout)
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
    """Answer one message: hold, call the model, settle. Refused before anything of a stream is sent."""
    user = request.app[SESSIONS].user_of(request)
    if user is None:
        return problem(401, "unauthenticated", "Sign in first.")
    try:
        ai_request = parse_chat(await request.json(), user=user, agent=request.app[AGENT])
    except ValueError as error:
        return problem(400, "invalid_value", str(error))
    hooks = request.app[HOOKS]
    hold = await hooks.before_ai_request(ai_request)  # credits: 1. reserve what it can cost
    if isinstance(hold, Refusal):
        return refusal_response(hold)  # credits: 2. or say why not (402 with the purchase link)
    call = ProviderCall(request.app, ai_request, hold)
    events = EventStream(request, hold) if ai_request.stream else None
    failure: Exception | None = None
    try:
        await deliver(call, events)
    except (ProviderError, ConnectionError) as error:  # the model has failed, or the browser has gone
        failure = error
    finally:  # credits: 3. charge what it did cost, however it ended
        await asyncio.shield(hooks.after_ai_request(ai_request, hold, call.outcome))
    return await finish(call, hold, events=events, failure=failure)


async def deliver(call: ProviderCall, events: EventStream | None) -> None:
    """Run the call to its end, passing on each piece of a stream."""
    async with aclosing(call.deltas()) as deltas:
        async for delta in deltas:
            if events is not None:
                await events.send({"delta": delta})


async def finish(
    call: ProviderCall, hold: Hold, *, events: EventStream | None, failure: Exception | None
) -> web.StreamResponse:
    """Close the answer after the settlement, so that a client that sees its end sees its cost too."""
    if failure is not None and (events is None or not events.response.prepared):
        return problem(502, "provider_failed", str(failure))
    usage = asdict(call.usage) if call.usage else None
    if events is None:
        body = {"success": True, "reply": call.text, "usage": usage, "hold_id": str(hold.hold_id)}
        return web.json_response(body)
    with suppress(ConnectionError):
        await events.send({"done": True, "usage": usage, "error": str(failure) if failure else None})
        await events.response.write_eof()
    return events.response


class EventStream:
    """Server-sent events. Headers go out with the first one, so a failure before it is still an HTTP error."""

    def __init__(self, request: web.Request, hold: Hold) -> None:
        self._request = request
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Hold-Id": str(hold.hold_id)}
        self.response = web.StreamResponse(headers=headers)

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send one event; ConnectionError when the client has gone."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(f"data: {json.dumps(event)}\n\n".encode())


def parse_chat(body: Any, *, user: str, agent: AgentSettings) -> AIRequest:
    """Read ``{"message", "history"?, "model"?, "stream"?}``; the account comes from the session, never from here.

    Raises:
        ValueError: a field is missing or wrong; the message says which.
    """
    fields = body if isinstance(body, dict) else {}
    history, message, model = fields.get("history", []), fields.get("message"), fields.get("model", agent.model)
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
        max_output_tokens=agent.max_output_tokens,
        request_id=secrets.token_hex(12),
        stream=fields.get("stream") is True,
    )


def is_turn(turn: Any) -> bool:
    """Whether an entry of the history is one."""
    return isinstance(turn, dict) and turn.get("role") in ("user", "assistant") and isinstance(turn.get("content"), str)


class ProviderError(Exception):
    """The model provider refused, failed or broke off. The message is for the user; the log has the details."""


class ProviderCall:
    """One call to the model. ``outcome`` says at any moment how it stands, for the settlement."""

    def __init__(self, app: web.Application, request: AIRequest, hold: Hold) -> None:
        self._provider = app[PROVIDER]
        self._payload = {
            "model": request.model,
            "messages": list(request.messages),
            app[AGENT].limit_field: hold.estimate.max_output_tokens,  # the hold covers no more
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._status = OutcomeStatus.FAILED_BEFORE_SEND
        self.usage: Usage | None = None
        self.text = ""

    @property
    def outcome(self) -> Outcome:
        """How the call stands now."""
        return Outcome(self._status, usage=self.usage, streamed_text=self.text)

    async def deltas(self) -> AsyncGenerator[str, None]:
        """Yield the answer's text as it comes. Whoever stops before its end has aborted the call.

        Raises:
            ProviderError: it failed, before the first piece or after some.
        """
        self._status = OutcomeStatus.ABORTED
        try:
            async with self._provider.post("chat/completions", json=self._payload) as response:
                response.raise_for_status()
                async for chunk in read_chunks(response):
                    if chunk.get("usage"):
                        self.usage = Usage.from_openai(chunk["usage"])
                    if delta := delta_of(chunk):
                        self.text += delta
                        yield delta
            self._status = OutcomeStatus.COMPLETED
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            self._status = OutcomeStatus.FAILED_BEFORE_SEND if unsent else OutcomeStatus.FAILED_AFTER_SEND
            logger.warning("the model provider failed: %r", error)
            raise ProviderError("The model is not answering. Please try again.") from error


async def read_chunks(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of a Chat Completions stream; ValueError if it reports an error or ends without [DONE]."""
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if not isinstance(chunk, dict) or "error" in chunk:
            raise ValueError(data[:200])
        yield chunk
    raise ValueError("the stream ended early")


def delta_of(chunk: Mapping[str, Any]) -> str:
    """Return the text of a chunk, if any."""
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


async def show_health(_request: web.Request) -> web.Response:
    """Say that the host is up."""
    return web.json_response({"status": "ok"})


async def show_login(request: web.Request, *, failed: bool = False) -> web.Response:
    """Show the login form; who is signed in already goes on to the chat."""
    if request.app[SESSIONS].user_of(request) is not None:
        raise web.HTTPSeeOther("/chat")
    options = "".join(f"<option>{html.escape(user)}</option>" for user in request.app[AGENT].users)
    notice = '<p class="notice" role="alert">That password is not right.</p>' if failed else ""
    return page(LOGIN, status=401 if failed else 200, options=options, notice=notice)


async def log_in(request: web.Request) -> web.Response:
    """Check the password and set the session cookie."""
    form = await request.post()
    user, password = str(form.get("user", "")), str(form.get("password", ""))
    expected = request.app[AGENT].users.get(user)
    if expected is None or not hmac.compare_digest(password.encode(), expected.encode()):
        return await show_login(request, failed=True)
    response = web.HTTPSeeOther("/chat")
    cookie = request.app[SESSIONS].issue(user, now_s=int(time.time()))
    response.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="Lax", secure=request.secure)
    raise response


async def log_out(_request: web.Request) -> web.Response:
    """Remove the session cookie."""
    response = web.HTTPSeeOther("/")
    response.del_cookie(COOKIE)
    raise response


async def show_chat(request: web.Request) -> web.Response:
    """Show the chat page."""
    user = request.app[SESSIONS].user_of(request)
    if user is None:
        raise web.HTTPSeeOther("/")
    mounted = request.app[SERVICE].settings
    model = html.escape(request.app[AGENT].model)
    return page(CHAT, user=html.escape(user), model=model, api=mounted.prefix, pages=mounted.pages_prefix)


async def serve_static(request: web.Request) -> web.Response:
    """Serve the page's script and style."""
    match request.match_info["name"]:
        case "chat.js":
            return web.Response(text=SCRIPT, content_type="text/javascript")
        case "chat.css":
            return web.Response(text=STYLE, content_type="text/css")
        case _:
            raise web.HTTPNotFound


def page(template: Template, *, status: int = 200, **fields: str) -> web.Response:
    """Return a page; nothing runs or loads that is not served from here."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'"
    headers = {"Content-Security-Policy": f"{policy}; frame-ancestors 'none'", "Cache-Control": "no-store"}
    text = template.substitute(fields)
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
    )
    settings = None if get("AGENT_LOAD") == "entrypoint" else load_settings()
    web.run_app(create_app(agent, settings), host=get("AGENT_HOST", "127.0.0.1"), port=int(get("AGENT_PORT", "8080")))


HEAD: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Agent</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/static/chat.css"></head>"""

LOGIN: Final = Template(
    HEAD
    + """<body class="centered"><main class="card"><h1>Agent</h1>
<p class="quiet">A demo host with prepaid credits. Choose a user; the password is <b>demo</b>.</p>$notice
<form method="post" action="/login">
<label>User<select name="user">$options</select></label>
<label>Password<input type="password" name="password" autocomplete="current-password" required autofocus></label>
<button>Sign in</button></form></main></body></html>"""
)

CHAT: Final = Template(
    HEAD
    + """<body data-api="$api"><header><b class="brand">Agent</b><a class="balance" href="$pages" aria-live="polite">
<span id="balance">…</span> credits</a><a class="buy" href="$pages#buy">Buy credits</a>
<form method="post" action="/logout"><button class="plain" title="Sign out $user">$user · sign out</button></form></header>
<main id="log" aria-live="polite"><section id="welcome"><h1>What shall we talk about?</h1>
<p class="quiet">You are talking to <b>$model</b>. Each answer shows what it cost.</p><p class="ideas">
<button class="idea">Who are you?</button><button class="idea">Count: prepaid credits are never lost</button>
<button class="idea">Repeat 60 times: stop me in the middle,</button></p></section></main>
<form id="composer"><textarea id="message" rows="1" maxlength="20000" placeholder="Write a message" required
aria-label="Message" autofocus></textarea><button id="send">Send</button></form>
<script src="/static/chat.js"></script></body></html>"""
)

SCRIPT: Final = """"use strict";
const byId = (id) => document.getElementById(id);
const api = document.body.dataset.api;
const history = [];
let running = null;

const credits = (amount) => (amount.microcredits / 1e6).toLocaleString("en", { maximumFractionDigits: 4 });
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function add(parent, tag, className, text = "") {
  const element = parent.appendChild(document.createElement(tag));
  element.className = className;
  element.textContent = text;
  return element;
}

async function read(path) {
  const response = await fetch(api + path);
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}

async function showBalance() {
  byId("balance").textContent = credits((await read("/balance")).available);
}

// A charge has the id of its hold. After an abort the server settles a moment later.
async function showCost(bubble, holdId, attempts) {
  let line;
  for (let attempt = 0; attempt < attempts && !line; attempt += 1) {
    if (attempt) await pause(250);
    line = (await read("/transactions")).transactions.find((transaction) => transaction.id === holdId);
  }
  const tokens = line && Object.values(line.usage || {}).reduce((sum, count) => sum + count, 0);
  const text = line ? `${credits({ microcredits: -line.amount.microcredits })} credits · ${tokens} tokens` : "not charged";
  add(bubble, "p", "cost", text);
  await showBalance();
}

function showProblem(bubble, problem) {
  bubble.classList.add("problem");
  bubble.firstChild.textContent = problem.detail || "Something went wrong.";
  if (!problem.purchase_url) return;
  const link = add(bubble, "a", "buy", "Buy credits");
  link.href = problem.purchase_url;
}

async function readAnswer(response, answer) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events.map((text) => JSON.parse(text.slice(6)))) {
      if (event.delta) answer.textContent += event.delta;
      if (event.error) add(answer.parentElement, "p", "cost", event.error);
    }
    byId("log").lastChild.scrollIntoView({ block: "end" });
  }
}

async function ask(message) {
  byId("welcome")?.remove();
  add(byId("log"), "article", "mine", message);
  const bubble = add(byId("log"), "article", "theirs");
  const answer = add(bubble, "div", "text");
  running = new AbortController();
  byId("send").textContent = "Stop";
  let holdId = null, attempts = 1;
  try {
    const response = await fetch("/api/chat", {
      method: "POST", headers: { "Content-Type": "application/json" }, signal: running.signal,
      body: JSON.stringify({ message, history, stream: true }),
    });
    if (!response.ok) return showProblem(bubble, await response.json());
    holdId = response.headers.get("X-Hold-Id");
    await readAnswer(response, answer);
  } catch (error) {
    attempts = 12;
    if (error.name !== "AbortError") showProblem(bubble, { detail: "The connection was lost." });
  } finally {
    running = null;
    byId("send").textContent = "Send";
    history.push({ role: "user", content: message }, { role: "assistant", content: answer.textContent });
    if (holdId) await showCost(bubble, holdId, attempts);
    bubble.scrollIntoView({ block: "end" });
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const message = byId("message").value.trim();
  byId("message").value = "";
  if (message) ask(message);
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
document.querySelectorAll(".idea").forEach((idea) => idea.addEventListener("click", () => ask(idea.textContent)));
showBalance();
"""

STYLE: Final = """
:root { color-scheme: light dark; --page: #f6f7fb; --surface: #fff; --line: #dfe2ec; --text: #171a26; --quiet: #565d74;
  --accent: #4338ca; --on-accent: #fff; --tint: #eef0fe; --notice: #fff4d6; --notice-text: #6b4300; }
@media (prefers-color-scheme: dark) { :root { --page: #10121a; --surface: #191c27; --line: #2e3344; --text: #eceef6;
  --quiet: #a5acc2; --accent: #a5b0ff; --on-accent: #14162a; --tint: #23274a; --notice: #3a2f10; --notice-text: #ffdf94; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 1rem/1.5 system-ui, sans-serif;
  display: flex; flex-direction: column; height: 100dvh; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
.quiet { color: var(--quiet); margin: 0 0 1.2rem; }
header, main, #composer { width: 100%; max-width: 48rem; margin-inline: auto; padding-inline: 1rem; }
header { display: flex; align-items: center; gap: .9rem; padding-block: .7rem; flex-wrap: wrap; }
.brand { font-size: 1.1rem; margin-right: auto; }
.balance { color: inherit; text-decoration: none; font-variant-numeric: tabular-nums; background: var(--surface);
  border: 1px solid var(--line); border-radius: 2rem; padding: .3rem .9rem; }
#balance { font-weight: 700; }
button, .buy { font: inherit; font-weight: 600; cursor: pointer; background: var(--accent); color: var(--on-accent);
  border: 1px solid transparent; border-radius: .6rem; padding: .5rem 1.1rem; text-decoration: none; }
button.plain, .idea { background: none; color: var(--quiet); font-weight: 400; padding-inline: .3rem; }
#log { flex: 1; overflow-y: auto; display: flex; flex-direction: column; gap: .8rem; padding-block: 1rem; }
#welcome { margin: auto; text-align: center; }
.ideas { display: flex; flex-wrap: wrap; gap: .6rem; justify-content: center; margin: 0; }
.idea { border-color: var(--line); background: var(--surface); color: var(--text); padding: .45rem .9rem; }
article { max-width: 85%; padding: .7rem 1rem; border-radius: 1rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.mine { align-self: flex-end; background: var(--accent); color: var(--on-accent); border-bottom-right-radius: .25rem; }
.theirs { align-self: flex-start; background: var(--surface); border: 1px solid var(--line); border-bottom-left-radius: .25rem; }
.text:empty::before { content: "…"; color: var(--quiet); }
.cost { margin: .5rem 0 0; color: var(--quiet); font-size: .85rem; font-variant-numeric: tabular-nums; }
.problem, .notice { background: var(--notice); color: var(--notice-text); border-color: transparent; }
.problem .buy { display: inline-block; margin-top: .7rem; }
#composer { display: flex; gap: .6rem; padding-block: .6rem 1rem; }
textarea, input, select { font: inherit; color: inherit; background: var(--surface); border: 1px solid var(--line);
  border-radius: .6rem; padding: .6rem .8rem; width: 100%; }
textarea { flex: 1; resize: none; field-sizing: content; max-height: 9rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.centered { display: grid; place-items: center; }
.card { max-width: 24rem; background: var(--surface); border: 1px solid var(--line); border-radius: 1rem; padding: 1.8rem; }
.card form, .card label { display: grid; gap: .35rem; }
.card form { gap: 1rem; }
.notice { border-radius: .6rem; padding: .6rem .9rem; margin: 0 0 1rem; }
"""

if __name__ == "__main__":
    main()
