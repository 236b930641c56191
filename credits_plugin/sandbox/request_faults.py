"""Requests that go wrong on purpose, before or after they had their effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from credits_plugin.sandbox.errors import IDEMPOTENCY, StripeError
from credits_plugin.sandbox.faults import RequestFault

Answer = Callable[[], Awaitable[web.Response]]

LOOK_AGAIN_S = 0.02
"""How soon it is noticed that a client with a time-out has given up."""


def _refusals() -> dict[RequestFault, StripeError]:
    return {
        RequestFault.RATE_LIMITED: StripeError(
            "Request rate limit exceeded. Learn more about rate limits here: https://stripe.com/docs/rate-limits.",
            status=429,
            code="rate_limit",
        ),
        RequestFault.LOCKED: StripeError(
            "This object cannot be accessed right now because another API request or Stripe process is currently "
            "accessing it. If you see this error intermittently, retry the request.",
            status=429,
            code="lock_timeout",
        ),
        RequestFault.CONFLICT: StripeError(
            "There is currently another in-progress request using this Idempotent Key (that probably means you "
            "submitted twice, and the other request is still going through). Please try again later.",
            status=409,
            kind=IDEMPOTENCY,
            code="idempotency_key_in_use",
        ),
        RequestFault.SERVER_ERROR: StripeError(
            "An unknown error occurred: the sandbox was asked for it.", status=500, kind="api_error"
        ),
    }


async def spoil(request: web.Request, fault: RequestFault, answer: Answer) -> web.StreamResponse:
    """Answer the request as the fault has it; raises the StripeError of those that are refused."""
    refusals = _refusals()
    if fault in refusals:
        raise refusals[fault]
    match fault:
        case RequestFault.HANG_UP:
            return _hang_up(request, web.Response())
        case RequestFault.TIMEOUT:
            await _until_gone(request)
            return web.Response()
        case RequestFault.ANSWER_LOST:
            return _hang_up(request, await answer())
        case RequestFault.ANSWER_STALLED:
            return await _stall(request, await answer())
        case _:
            await answer()
            raise refusals[RequestFault.SERVER_ERROR]


def _hang_up(request: web.Request, response: web.Response) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return response


async def _stall(request: web.Request, whole: web.Response) -> web.StreamResponse:
    body = (whole.text or "").encode()
    part = web.StreamResponse(status=whole.status, headers={"Content-Type": "application/json"})
    part.content_length = len(body)
    await part.prepare(request)
    await part.write(body[: len(body) // 2])
    await _until_gone(request)
    return part


async def _until_gone(request: web.Request) -> None:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - a transport tells nobody
        await asyncio.sleep(LOOK_AGAIN_S)
