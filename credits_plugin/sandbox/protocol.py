"""The way of one API request: key, form, idempotency, parameters, handler, expansion, headers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from credits_plugin.sandbox.call import Cause, Route
from credits_plugin.sandbox.errors import IDEMPOTENCY, StripeError, unrecognized_url
from credits_plugin.sandbox.expansion import expand
from credits_plugin.sandbox.faults import RequestFault, take_fault
from credits_plugin.sandbox.forms import decode_form
from credits_plugin.sandbox.objects import API_VERSION, new_id
from credits_plugin.sandbox.params import read_params
from credits_plugin.sandbox.request_faults import spoil
from credits_plugin.sandbox.state import State
from credits_plugin.sandbox.store import Json

logger = logging.getLogger(__name__)

KEY_LIFETIME_S = 24 * 3600
"""Stripe forgets idempotency keys after 24 hours at the earliest."""

AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that carries (or not) an idempotency key; the fingerprint covers its parameters."""

    request_id: str
    method: str
    path: str
    key: str | None
    form: Json

    @property
    def fingerprint(self) -> str:
        """Equal for equal parameters, whatever their order."""
        return hashlib.sha256(json.dumps(self.form, sort_keys=True).encode()).hexdigest()


class Protocol:
    """Serves routes the way Stripe's API does."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._in_flight: set[str] = set()

    def endpoint(self, route: Route) -> AiohttpHandler:
        """The aiohttp handler of a route."""

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve(request, route)

        return serve

    async def unrecognized(self, request: web.Request) -> web.StreamResponse:
        """The answer to every path and method that is no endpoint."""
        return await self._serve(request, None)

    async def _serve(self, request: web.Request, route: Route | None) -> web.StreamResponse:
        """Answer, and note it for the page."""
        response = await self._answer(request, route)
        self._state.note_request(request, response)
        return response

    async def _answer(self, request: web.Request, route: Route | None) -> web.StreamResponse:
        try:
            authenticate(request, self._state.settings.secret_key)
        except StripeError as error:
            # Recorded 401 answers of Stripe carry no Request-Id: nobody is known whose request it would be.
            return _response(error.body(None), error.status, {"WWW-Authenticate": 'Bearer realm="Stripe"'})
        request_id = new_id("req")
        headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
        try:
            attempt = await _read(request, request_id)
            if route is None:
                raise unrecognized_url(request.method, request.path)
            fault = self._fault_of(attempt)
            if fault is None:
                return await self._serve_once(request, route, attempt, headers)
            return await spoil(request, fault, lambda: self._serve_once(request, route, attempt, headers))
        except StripeError as error:
            return _response(error.body(request_id), error.status, headers)

    def _fault_of(self, attempt: Attempt) -> RequestFault | None:
        with self._state.store.transaction():
            rule = take_fault(self._state.store, "request", f"{attempt.method} {attempt.path}")
        return None if rule is None else RequestFault(rule["kind"])

    async def _serve_once(
        self, request: web.Request, route: Route, attempt: Attempt, headers: dict[str, str]
    ) -> web.Response:
        if attempt.key is None:
            await asyncio.sleep(self._state.settings.latency_s)
            return _response(*self._execute(request, route, attempt), headers)
        headers |= {"Idempotency-Key": attempt.key, "Original-Request": attempt.request_id}
        with self._exclusive(attempt):
            if (saved := self._saved(attempt)) is not None:
                headers |= {"Idempotent-Replayed": "true", "Original-Request": saved["request_id"]}
                return _response(saved["body"], saved["status"], headers)
            await asyncio.sleep(self._state.settings.latency_s)
            body, status = self._execute(request, route, attempt)
        if status == 200:
            headers["Stripe-Should-Retry"] = "false"
        return _response(body, status, headers)

    @contextmanager
    def _exclusive(self, attempt: Attempt) -> Iterator[None]:
        key = str(attempt.key)
        if key in self._in_flight:
            raise StripeError(
                "There is currently another in-progress request using this Idempotent Key (that probably means you "
                f"submitted twice, and the other request is still going through): {key}. Please try again later.",
                status=409,
                kind=IDEMPOTENCY,
                code="idempotency_key_in_use",
            )
        self._in_flight.add(key)
        try:
            yield
        finally:
            self._in_flight.discard(key)

    def _saved(self, attempt: Attempt) -> Json | None:
        saved = self._state.store.get("idempotency", str(attempt.key))
        if saved is None or saved["saved_at"] + KEY_LIFETIME_S <= self._state.now():
            return None
        hint = f"Try using a key other than '{attempt.key}' if you meant to execute a different request."
        if saved["path"] != attempt.path or saved["method"] != attempt.method:
            raise StripeError(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('{attempt.path}' vs '{saved['path']}'). {hint}",
                kind=IDEMPOTENCY,
            )
        if saved["fingerprint"] != attempt.fingerprint:
            raise StripeError(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"{hint}",
                kind=IDEMPOTENCY,
            )
        return saved

    def _execute(self, request: web.Request, route: Route, attempt: Attempt) -> tuple[Json, int]:
        """Run the handler; its answer is saved under the key, but a request refused before it ran is not."""
        params = read_params(attempt.form, route.spec)
        expansions: list[str] = params.pop("expand", [])
        self._state.run_due(base_url_of(request))
        call = self._state.call(
            base_url_of(request),
            cause=Cause(attempt.request_id, attempt.key),
            params=params,
            path=dict(request.match_info),
        )
        try:
            with self._state.store.transaction(keep_on=_keeps_changes):
                body = route.handler(call)
                if body.get("object") == "list":
                    body["url"] = request.path
                expand(self._state.store, body, expansions)
                self._save(attempt, body, 200)
            return body, 200
        except StripeError as error:
            body = error.body(attempt.request_id)
            with self._state.store.transaction():
                self._save(attempt, body, error.status)
            return body, error.status
        except Exception:  # the border of the process: a bug of a handler must reach the client as Stripe's 500
            logger.exception("The sandbox failed on %s %s", attempt.method, attempt.path)
            failure = StripeError("An unknown error occurred in the sandbox.", status=500, kind="api_error")
            return failure.body(attempt.request_id), failure.status

    def _save(self, attempt: Attempt, body: Json, status: int) -> None:
        if attempt.key is None:
            return
        now = self._state.now()
        for old in self._state.store.oldest_first("idempotency", lambda row: row["saved_at"] + KEY_LIFETIME_S <= now):
            self._state.store.drop("idempotency", old["id"])
        record = {
            "id": attempt.key,
            "method": attempt.method,
            "path": attempt.path,
            "fingerprint": attempt.fingerprint,
            "request_id": attempt.request_id,
            "status": status,
            "body": body,
            "saved_at": now,
        }
        self._state.store.put("idempotency", record)


def _keeps_changes(error: BaseException) -> bool:
    return isinstance(error, StripeError) and error.keeps_changes


def base_url_of(request: web.Request) -> str:
    """The address under which the client reaches the sandbox."""
    return f"{request.scheme}://{request.host}"


def authenticate(request: web.Request, secret_key: str) -> None:
    """Raises the 401 for any key but the sandbox's."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else _basic_user(scheme, credentials)
    if not key:
        raise StripeError(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See "
            "https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/.",
            status=401,
        )
    if not hmac.compare_digest(key.encode("utf-8", "surrogateescape"), secret_key.encode()):
        raise StripeError(f"Invalid API Key provided: {_masked(key)}", status=401)


def _basic_user(scheme: str, credentials: str) -> str:
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _masked(key: str) -> str:
    """Stripe repeats a key's first letters and last four only."""
    start = re.match(r"(?:sk|pk|rk)_(?:test|live)_", key)
    head = start[0] if start else ""
    rest = key[len(head) :]
    return f"{head}{'*' * max(len(rest) - 4, 4)}{rest[-4:] if len(rest) > 8 else ''}"


async def _read(request: web.Request, request_id: str) -> Attempt:
    version = request.headers.get("Stripe-Version")
    if version is not None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?", version):
        raise StripeError(f"Invalid Stripe API version: {version}")
    body = await request.read() if request.method == "POST" else request.rel_url.raw_query_string.encode()
    if request.method == "POST" and body and request.content_type != "application/x-www-form-urlencoded":
        raise StripeError(
            "Invalid request (check that your POST content type is application/x-www-form-urlencoded). If you have any "
            "questions, we can help at https://support.stripe.com/."
        )
    key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
    if key is not None and not 1 <= len(key) <= 255:
        raise StripeError("Idempotency keys must have between 1 and 255 characters.", kind=IDEMPOTENCY)
    return Attempt(request_id, request.method, request.path, key, decode_form(body))


def _response(body: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        text=json.dumps(body, indent=2), status=status, content_type="application/json", headers=headers
    )
