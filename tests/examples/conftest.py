"""A running example host on a SQLite database, in front of a provider that the test chooses."""

import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from credits_plugin import Settings
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.plugin import CreditsPlugin
from credits_plugin.sandbox.demo import PRICES, load_example
from credits_plugin.sandbox.model_server import ModelServer, ModelServerSettings
from credits_plugin.sandbox.visitor import Visitor

example = load_example()


class Host:
    """The example host, its service, and a visitor who is signed in as alice."""

    def __init__(self, app, url, visitor):
        self.app, self.url, self.visitor = app, url, visitor
        plugins = app[example.HOOKS]._plugin_manager.get_plugins()
        self.service = next(plugin.credits for plugin in plugins if isinstance(plugin, CreditsPlugin))

    async def grant(self, amount, *, user="alice"):
        command = PostTransfer(account_key(user), user, self.service.new_id(), Code.PROMOTION, amount, now_ms())
        await self.service.writer.execute(command)

    async def balance(self):
        body = (await self.visitor.get("/api/credits/balance")).body
        return body["balance"]["microcredits"], body["held"]["microcredits"]

    async def last_transaction(self):
        return (await self.visitor.get("/api/credits/transactions")).body["transactions"][0]


@pytest.fixture
async def run_host(tmp_path):
    """`await run_host(provider_url)` starts a host; all are stopped after the test."""
    async with AsyncExitStack() as stack:

        async def run(provider_url, **agent):
            return await stack.enter_async_context(_host(provider_url, tmp_path, **agent))

        yield run


@asynccontextmanager
async def _host(provider_url, folder, **agent):
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = Settings(database_url=f"sqlite:///{folder / 'credits.db'}", frontend_url=url, prices=PRICES)
    app = example.create_app(example.AgentSettings(provider_url=provider_url, **agent), settings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        async with Visitor(url) as visitor:
            await visitor.sign_in("alice", "demo")
            yield Host(app, url, visitor)
    finally:
        await runner.cleanup()


@pytest.fixture
async def host(run_host):
    """A host in front of the local model server."""
    async with ModelServer(ModelServerSettings(word_delay_s=0.005)) as model:
        yield await run_host(model.url)
