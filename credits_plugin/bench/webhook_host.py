"""``python -m credits_plugin.bench.webhook_host DATABASE_URL STRIPE_URL SECRET``: one host that takes webhooks.

Prints its port, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

import pluggy
from aiohttp import web

from hookspecs import PROJECT_NAME, CreditsSpecs, HookCaller

from ..bootstrap import build
from ..plugin import CreditsPlugin
from ..settings import Settings
from ..web.app import mount
from .host_process import serve_until_told


async def main(database_url: str, stripe_url: str, secret: str) -> None:
    """Serve the real application."""
    settings = Settings(
        database_url=database_url,
        stripe_secret_key="sk_test_sandbox",  # noqa: S106 - the sandbox's well-known key
        stripe_webhook_secrets=(secret,),
        stripe_api_base=stripe_url,
    )
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(CreditsPlugin(build(settings)))
    HookCaller(manager)
    app = web.Application()
    mount(app, manager)
    await serve_until_told(app)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
