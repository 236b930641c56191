"""An OpenAI-compatible proxy with prepaid credits: a program in any language is metered by changing its base URL.

    python examples/metering_proxy.py add-key ACCOUNT     prints a new API key, once
    python examples/metering_proxy.py revoke-key KEY_ID   from now on nobody gets in with it
    python examples/metering_proxy.py                     serves /v1, the credits' pages and their webhook

The account is the key's, whatever a request says. examples/README.md says how to run it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import secrets
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import pluggy
from aiohttp import web
from aiohttp.typedefs import Handler

from credits_plugin import (
    AIRequest,
    Credits,
    CreditsPlugin,
    CreditsSpecs,
    HookCaller,
    RequestRefused,
    Settings,
    Usage,
    build,
    hookimpl,
    load_settings,
    mount,
)
from credits_plugin.adapters import Payer
from credits_plugin.adapters.openai_api import (
    DO_NOT_RETRY,
    ENDPOINTS,
    ApiError,
    StreamReader,
    read_object,
    request_id_of,
    request_of_body,
    text_of,
    upstream_body,
    usage_of,
)
from credits_plugin.errors import InvalidValue
from credits_plugin.metering import MeteredCall

MAX_BODY_BYTES: Final = 16 * 1024**2
PASSED_BACK: Final = ("Content-Type", "Retry-After", "X-Request-Id")

logger = logging.getLogger("metering_proxy")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What the proxy needs to know. Without an ``upstream_url`` it starts a local stand-in for a model provider.

    ``provider`` names the upstream in the price list (``openai``), ``limit_field`` its name for a chat's output limit.
    Where credits are short, answers are cut to what can be afforded, if that is ``least_output_tokens`` or more.
    ``hosted_tools`` are the upstream's own tools that Responses may use, at most ``most_tool_calls`` times in each.
    """

    upstream_url: str | None = None
    upstream_key: str = field(default="", repr=False)
    provider: str | None = None
    limit_field: str = "max_tokens"
    keys_path: str = "proxy_keys.db"
    least_output_tokens: int = 256
    hosted_tools: tuple[str, ...] = ()
    most_tool_calls: int = 5


class KeyTable:
    """The API keys, stored by their digests alone: 256 random bits need no salt and no slow hash."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS api_key (id TEXT PRIMARY KEY, account_id TEXT NOT NULL, "
            "digest BLOB NOT NULL UNIQUE, revoked INTEGER NOT NULL DEFAULT 0) STRICT"
        )

    def add(self, account_id: str) -> tuple[str, str]:
        """Make a key; returns its id, and the key itself, which is stored nowhere."""
        key_id, key = f"key_{secrets.token_hex(6)}", f"sk-credits-{secrets.token_urlsafe(32)}"
        sql = "INSERT INTO api_key (id, account_id, digest) VALUES (?, ?, ?)"
        self._database.execute(sql, (key_id, account_id, hashlib.sha256(key.encode()).digest()))
        return key_id, key

    def revoke(self, key_id: str) -> bool:
        """Make a key invalid; returns whether there was one."""
        return self._database.execute("UPDATE api_key SET revoked = 1 WHERE id = ?", (key_id,)).rowcount == 1

    def find(self, key: str) -> Payer | None:
        """Return who pays with this key; None if it is not valid."""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        sql = "SELECT account_id, id FROM api_key WHERE digest = ? AND NOT revoked"
        row = self._database.execute(sql, (digest,)).fetchone()
        return Payer(row[0], key_id=row[1]) if row else None


PROXY: Final = web.AppKey("proxy", ProxySettings)
KEYS: Final = web.AppKey("keys", KeyTable)
UPSTREAM: Final = web.AppKey("upstream", aiohttp.ClientSession)
CREDITS: Final = web.AppKey("credits", Credits)


class HostPlugin:
    """What the credits plugin asks this host: whose pages these are."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @hookimpl
    def resolve_account(self, http_request: web.Request) -> str | None:
        """Name the account of a request to the credits' pages and API; in a browser, the API key is the password."""
        scheme, _, key = http_request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                key = base64.b64decode(key).decode().partition(":")[2]
        payer = self._app[KEYS].find(key)
        return payer.account_id if payer else None


def create_app(proxy: ProxySettings, settings: Settings) -> web.Application:
    """Build the proxy; run it with ``handler_cancellation=True``, so that a client that leaves stops the upstream."""
    app = web.Application(middlewares=[answer_errors], client_max_size=MAX_BODY_BYTES)
    app[PROXY], app[KEYS] = proxy, KeyTable(proxy.keys_path)
    app[CREDITS] = build(settings)
    plugin_manager = pluggy.PluginManager("credits_plugin")
    plugin_manager.add_hookspecs(CreditsSpecs)
    plugin_manager.register(HostPlugin(app))
    plugin_manager.register(CreditsPlugin(app[CREDITS]))
    HookCaller(plugin_manager)
    mount(app, plugin_manager)
    app.cleanup_ctx.append(connect_upstream)
    for path in ENDPOINTS:
        app.router.add_post(path, relay)
    app.router.add_get("/v1/models", list_models)
    return app


async def connect_upstream(app: web.Application) -> AsyncIterator[None]:
    """Open the connections to the upstream; start the local stand-in where none is configured."""
    proxy = app[PROXY]
    async with AsyncExitStack() as stack:
        url = proxy.upstream_url
        if url is None:
            from credits_plugin.sandbox.model_server import ModelServer  # noqa: PLC0415 - only where it is needed

            url = (await stack.enter_async_context(ModelServer())).url
        session = aiohttp.ClientSession(
            url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {proxy.upstream_key}"} if proxy.upstream_key else {},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300),
            connector=aiohttp.TCPConnector(limit=0),  # a call that waited for a connection would hold credits meanwhile
            cookie_jar=aiohttp.DummyCookieJar(),  # what the upstream sets for one client is not another's
        )
        app[UPSTREAM] = await stack.enter_async_context(session)
        yield


class UpstreamFailed(ApiError):
    """The upstream refused, failed or broke off: nothing is charged but the usage that it reported."""


BROKEN: Final = ApiError.of(500, "internal_error", "Something went wrong on our side.")


class ClientGone(Exception):
    """Nobody listens any more."""


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as OpenAI does; at the credits' pages, let a browser ask for the API key."""
    try:
        response = await handler(request)
        if response.status == 401 and request.path.startswith(request.app[CREDITS].settings.pages_prefix):
            response.headers["WWW-Authenticate"] = 'Basic realm="Your API key as the password", charset="UTF-8"'
        return response
    except ApiError as error:
        return answer_of(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        message = f"{error.reason}: {request.method} {request.path:.100}"
        return answer_of(ApiError.of(error.status, "not_served", message))
    except Exception:  # the border: a bug becomes a 500 without a traceback for strangers, and one in the log
        logger.exception("%s %.100s failed", request.method, request.path)
        return answer_of(BROKEN)


def answer_of(error: ApiError) -> web.Response:
    """Return an error as HTTP."""
    error.headers.setdefault("Content-Type", "application/json")
    return web.Response(status=error.status, body=error.body, headers=error.headers)


def require_payer(request: web.Request) -> Payer:
    """Return who pays for a request to /v1."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    # Never by a password: browsers send one on behalf of other sites, too.
    payer = request.app[KEYS].find(key.strip()) if scheme.lower() == "bearer" else None
    if payer is None:
        raise ApiError.of(401, "invalid_api_key", "Incorrect API key provided. Send it as a bearer token.")
    return payer


async def relay(request: web.Request) -> web.StreamResponse:
    """Meter a call: refuse what cannot be metered or paid, or answer what the upstream says."""
    payer, proxy = require_payer(request), request.app[PROXY]
    raw = await request.read()
    try:
        ai_request = request_of_body(
            request.path,
            body := read_object(raw),
            payer,
            provider=proxy.provider,
            request_id=request_id_of(request.headers, request.path, raw),
            min_output_tokens=proxy.least_output_tokens,
            hosted_tools=proxy.hosted_tools,
            most_tool_calls=proxy.most_tool_calls,
        )
    except ValueError as error:
        raise ApiError.of(400, "invalid_value", f"The body must be JSON: {error}.") from None
    except InvalidValue as error:
        raise ApiError.invalid(error) from None
    return await meter(request, body, ai_request)


async def meter(request: web.Request, body: Mapping[str, Any], ai_request: AIRequest) -> web.StreamResponse:
    """Hold credits, pass the call on, settle, and only then end the answer: who sees its end can see its cost."""
    answer, whole = Answer(request, body) if ai_request.stream else None, web.Response()
    try:
        async with request.app[CREDITS].metered(ai_request) as call:
            sent = upstream_body(
                request.path,
                body,
                max_output_tokens=call.hold.estimate.max_output_tokens,
                max_tool_calls=ai_request.max_tool_calls,
                limit_field=request.app[PROXY].limit_field,
            )
            async with ask_upstream(request, sent) as upstream:
                if answer is not None:
                    await answer.pass_on(upstream, call)
                else:
                    whole = await pass_on(upstream, call)
    except InvalidValue as error:
        raise ApiError.invalid(error) from None
    except RequestRefused as refused:
        raise ApiError.refusing(refused.refusal) from None
    except UpstreamFailed as failed:
        if answer is not None and answer.response.prepared:
            return await answer.end(b"data: " + failed.body + b"\n\n")
        if ai_request.request_id:
            failed.headers |= DO_NOT_RETRY  # its id is used up
        raise
    except ClientGone:
        return answer.response if answer is not None else whole
    except Exception:  # its headers are out: no other answer can be given, and a client must not wait for ever
        if answer is None or not answer.response.prepared:
            raise
        logger.exception("a stream broke off")
        return await answer.end(b"data: " + BROKEN.body + b"\n\n")
    return await answer.end() if answer is not None else whole


@asynccontextmanager
async def ask_upstream(
    request: web.Request, sent: Mapping[str, Any] | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send the call on and yield the answer, whose status is 200.

    Raises:
        UpstreamFailed: it did not answer so, or broke off.
    """
    session, path = request.app[UPSTREAM], request.path.removeprefix("/v1/")
    try:
        async with session.request(request.method, path, json=sent, allow_redirects=False) as upstream:
            if upstream.status != 200:
                raise await failure_of(upstream)
            yield upstream
    except UpstreamFailed as failed:
        if key := request.app[PROXY].upstream_key.encode():
            failed.body = failed.body.replace(key, b"(key)")
        raise
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        logger.warning("the upstream failed: %s", type(error).__name__)
        raise UpstreamFailed.of(502, "upstream_failed", "The upstream failed. Try again.") from error


async def failure_of(upstream: aiohttp.ClientResponse) -> UpstreamFailed:
    """Return the upstream's own error; one about our key, our bill or its address is nothing for the client."""
    if upstream.status in {401, 402, 403} or upstream.status < 400:
        logger.error("the upstream answers %d: see to the proxy's address, key and bill there", upstream.status)
        return UpstreamFailed.of(502, "upstream_refused", "The upstream does not serve this proxy.")
    return UpstreamFailed(upstream.status, await upstream.read(), passed_back(upstream))


def passed_back(upstream: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the upstream's headers that concern a client; its quotas, cookies and organisation do not."""
    return {name: upstream.headers[name] for name in PASSED_BACK if name in upstream.headers}


async def pass_on(upstream: aiohttp.ClientResponse, call: MeteredCall) -> web.Response:
    """Read a whole answer, note what it says of its usage, and return it as it came."""
    raw = await upstream.read()
    answer = read_object(raw)
    call.report(usage_of(answer) or Usage())  # a usage of nothing counts as none
    call.add_streamed_text(text_of(answer))
    return web.Response(body=raw, headers=passed_back(upstream))


class Answer:
    """A streamed answer to a client. Headers go out with its first piece: what fails before is still an HTTP error."""

    def __init__(self, request: web.Request, body: Mapping[str, Any]) -> None:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self.response = web.StreamResponse(headers=headers)
        self._request = request
        self._reader = StreamReader(request.path, body)

    async def pass_on(self, upstream: aiohttp.ClientResponse, call: MeteredCall) -> None:
        """Pass the events on as they come, until the upstream's last one, or until there are no credits for more.

        Raises:
            UpstreamFailed, ValueError: it reported an error; it broke off.
            ClientGone: nobody listens any more.
        """
        async for piece in upstream.content.iter_any():  # aiohttp's reader of lines refuses those of 128 KiB
            await self._send(await self._reader.read(piece, call), call)
            if failure := self._reader.failure:
                raise UpstreamFailed(502, failure)
            if self._reader.is_over:
                return
        raise ValueError("the stream ended early")

    async def end(self, last: bytes | None = None) -> web.StreamResponse:
        """End the answer with this event, or with the one that ends a good answer."""
        with suppress(ConnectionError):
            await self.response.write(self._reader.last_event() if last is None else last)
            await self.response.write_eof()
        return self.response

    async def _send(self, out: bytes, call: MeteredCall) -> None:
        try:
            if out:
                await self.response.prepare(self._request)  # only the first time does anything
                await self.response.write(out)
        except ConnectionError as error:
            call.client_gone()
            raise ClientGone from error


async def list_models(request: web.Request) -> web.Response:
    """Return the upstream's list of models."""
    require_payer(request)
    async with ask_upstream(request) as upstream:
        return web.Response(body=await upstream.read(), headers=passed_back(upstream))


def main() -> None:
    """Serve, or add or revoke a key."""
    logging.basicConfig(level=logging.INFO)
    get = os.environ.get
    url = get("UPSTREAM_URL") or None
    # OpenAI's newer models know only the longer name of the limit, many compatible servers only the other.
    limit_field = "max_completion_tokens" if "api.openai.com" in (url or "") else "max_tokens"
    proxy = ProxySettings(
        upstream_url=url,
        upstream_key=get("UPSTREAM_KEY", ""),
        provider=get("UPSTREAM_PROVIDER") or None,
        limit_field=get("UPSTREAM_LIMIT_FIELD", limit_field),
        keys_path=get("PROXY_KEYS", "proxy_keys.db"),
        least_output_tokens=int(get("PROXY_LEAST_OUTPUT_TOKENS", "256")),
        hosted_tools=tuple(get("PROXY_HOSTED_TOOLS", "").replace(",", " ").split()),
        most_tool_calls=int(get("PROXY_MOST_TOOL_CALLS", "5")),
    )
    match sys.argv[1:]:
        case ["add-key", account_id]:
            sys.stdout.write("{}\n{}\n".format(*KeyTable(proxy.keys_path).add(account_id)))
        case ["revoke-key", key_id]:
            sys.exit(0 if KeyTable(proxy.keys_path).revoke(key_id) else f"there is no key {key_id}")
        case []:
            app, host = create_app(proxy, load_settings()), get("PROXY_HOST", "127.0.0.1")
            web.run_app(app, host=host, port=int(get("PROXY_PORT", "8090")), handler_cancellation=True)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
