"""Assemble the sandbox: endpoints, pages, deliveries, clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from aiohttp import web

from credits_plugin.sandbox import SandboxSettings, dashboard, pages, payment_pages
from credits_plugin.sandbox.protocol import Protocol
from credits_plugin.sandbox.resources import DUE_WORK, ROUTES
from credits_plugin.sandbox.state import State

STATE: web.AppKey[State] = web.AppKey("sandbox_state", State)

MAX_BODY_BYTES = 1024 * 1024


def create_app(settings: SandboxSettings, *, clock: Callable[[], float] | None) -> web.Application:
    """The application; opens its data file and starts delivering when it starts."""
    state = State(settings, clock=clock, due_work=DUE_WORK)
    protocol = Protocol(state)
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[STATE] = state
    for route in (*ROUTES, *payment_pages.ROUTES):
        app.router.add_route(route.method, route.path, protocol.endpoint(route))
    app.router.add_route("*", "/v1/{tail:.*}", protocol.unrecognized)
    app.router.add_route("*", "/v2/{tail:.*}", protocol.unrecognized)
    app.add_routes([*pages.routes(state), *dashboard.routes(state)])
    app.cleanup_ctx.append(_lifetime)
    return app


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    state = app[STATE]
    state.store.open()
    await state.deliveries.start()
    clock = asyncio.get_running_loop().create_task(state.run_clock())
    yield
    clock.cancel()
    with suppress(asyncio.CancelledError):
        await clock
    await state.deliveries.close()
    state.store.close()
