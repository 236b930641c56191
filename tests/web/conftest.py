"""A whole product per test: sandbox, host with cookie logins, SQLite ledger."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from shopfront import WEBHOOK_SECRET, Shopfront, StartShopfront, plain_host
from stripe_schema import CheckedSandbox

from credits_plugin.bootstrap import Credits, build
from credits_plugin.sandbox import SandboxSettings
from credits_plugin.settings import Settings


@pytest_asyncio.fixture
async def start_shopfront(sqlite_url: str) -> AsyncIterator[StartShopfront]:
    """Start a host; keyword arguments change its settings. ``host`` builds the application around ours."""
    cleanups: list[Callable[[], Awaitable[Any]]] = []

    async def start(*, host: Callable[[Credits], web.Application] | None = None, **changes: Any) -> Shopfront:
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sandbox = CheckedSandbox(SandboxSettings(webhook_secret=WEBHOOK_SECRET, retry_base_s=0.05))
        await sandbox.start()
        cleanups.append(sandbox.close)
        settings = Settings(
            database_url=sqlite_url,
            frontend_url=url,
            stripe_secret_key="sk_test_sandbox",
            stripe_webhook_secrets=(WEBHOOK_SECRET,),
            stripe_api_base=sandbox.url,
        )
        credits = build(replace(settings, **changes))
        cleanups.append(credits.close)
        server = TestServer((host or plain_host)(credits), socket_factory=lambda *_: listener)
        await server.start_server()
        cleanups.append(server.close)
        shopfront = Shopfront(url, credits, sandbox)
        cleanups.append(lambda: asyncio.gather(*(session.close() for session in shopfront.sessions)))
        return shopfront

    yield start
    for cleanup in reversed(cleanups):
        await cleanup()


@pytest_asyncio.fixture
async def shopfront(start_shopfront: StartShopfront) -> Shopfront:
    """A host whose sandbox delivers no webhooks by itself: a test says when they arrive."""
    return await start_shopfront()
