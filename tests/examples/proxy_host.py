"""A running metering proxy with an account and its key, for tests that are its clients."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

from aiohttp import web
from openai import AsyncOpenAI
from upstream import KEY

from credits_plugin import Settings, Usage
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.sandbox.demo import load_example

# 100 credits per USD: 100 and 200 microcredits a token, 10 for a cached one; markup 15 %.
PRICES = {
    "toy": {"input": "1", "output": "2", "cache_read": "0.1"},
    "searching": {"input": "1", "output": "2", "cache_read": "0.1", "tools": {"web_search": "0.01"}},
    "toy-embedding": {"input": "1", "output": "0"},
    "local-small": {"input": "2.50", "cache_read": "1.25", "output": "10.00"},
}
COST = 5_566  # (8 · 100 + 4 · 10 + 20 · 200) · 1.15
GRANT = 10_000_000


proxy = load_example("metering_proxy")


class Host:
    """The proxy, its service, and a key of the account `acme`, which has no credits yet."""

    def __init__(self, app, url):
        self.app, self.url = app, url
        self.service, self.keys = app[proxy.CREDITS], app[proxy.KEYS]
        self.key_id, self.key = self.keys.add("acme")

    def client(self, key=None, **options):
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **options)

    async def grant(self, amount=GRANT, account="acme"):
        command = PostTransfer(account_key(account), account, self.service.new_id(), Code.PROMOTION, amount, now_ms())
        await self.service.writer.execute(command)

    async def rows(self, sql):
        return await self.service.reads.run(lambda database: database.execute_sql(sql).fetchall())

    async def balance(self, account="acme"):
        """Return (balance, held)."""
        rows = await self.rows(f"SELECT balance, held FROM account WHERE id = {account_key(account)}")
        return rows[0] if rows else (0, 0)

    async def charges(self, account="acme"):
        """Return (amount, usage) of each charge, oldest first."""
        columns = "amount, input, cache_read, cache_write, output, reasoning"
        where = f"code = 2 AND account_id = {account_key(account)}"
        found = await self.rows(f"SELECT {columns} FROM transfer WHERE {where} ORDER BY seq")
        return [(amount, Usage(*counts)) for amount, *counts in found]


@asynccontextmanager
async def running_proxy(folder, upstream_url, *, database_url=None, handler_cancellation=True, **options):
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    database = database_url or f"sqlite:///{folder / 'credits.db'}"
    settings = Settings(database_url=database, frontend_url=url, prices=PRICES, default_max_output_tokens=1_000)
    where = proxy.ProxySettings(
        upstream_url=upstream_url, upstream_key=KEY, keys_path=str(folder / "keys.db"), **options
    )
    app = proxy.create_app(where, settings)
    runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=handler_cancellation)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield Host(app, url)
    finally:
        await runner.cleanup()
