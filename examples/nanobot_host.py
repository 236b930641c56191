"""nanobot's API server with prepaid credits: ``python examples/nanobot_host.py "Hello"`` asks it once as a client.

Without words it serves until Ctrl-C. Which provider answers, and whose credits are used: see example_credits.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
from aiohttp import web
from example_credits import Provider, example_credits
from nanobot.agent.loop import AgentLoop
from nanobot.agent.tools.registry import ToolRegistry
from nanobot.api.server import create_app
from nanobot.config.schema import Config
from nanobot.providers.factory import make_provider

from credits_plugin import Credits
from credits_plugin.adapters import Payer
from credits_plugin.adapters.nanobot import MeteredProviders, plug_into_api

USERS: Final = {"adas-own-key": "ada"}
"""The API keys that this host has given out; keep yours as digests in a table."""


def payer_of(request: web.Request) -> Payer | None:
    """Name who pays: the owner of the API key, never what a message or its session says."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return Payer(USERS[key]) if key in USERS else None


def build_app(service: Credits, provider: Provider, workspace: Path) -> web.Application:
    """Build nanobot's application as its own ``nanobot serve`` does, with credits."""
    config = Config.model_validate(
        {
            "agents": {"defaults": {"model": provider.model, "provider": "custom", "workspace": str(workspace)}},
            "providers": {"custom": {"apiBase": provider.url, "apiKey": provider.key}},
        }
    )
    metered = MeteredProviders(service, min_output_tokens=64)  # credits: 1. meter each model call,
    loop = AgentLoop.from_config(
        config,
        tool_registry=ToolRegistry(),
        provider=metered.provider(make_provider(config)),
        preset_snapshot_loader=metered.presets(config),
    )
    app: web.Application = create_app(loop, model_name=provider.model)  # without nanobot's one key for all
    plug_into_api(app, service, identify=payer_of, model=provider.model)  # credits: 2. and refuse turns before headers
    return app


async def main(prompt: str) -> None:
    """Serve, and ask once if there is a prompt."""
    with TemporaryDirectory() as workspace:
        async with example_credits("ada") as (service, provider):
            runner = web.AppRunner(build_app(service, provider, Path(workspace)), handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "0"))).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
            if prompt:
                print(await ask(url, prompt))
            else:
                print(f"serving {url}", flush=True)
                await asyncio.Event().wait()
        await runner.cleanup()  # after the charges were printed: the service ends with the application


async def ask(url: str, prompt: str) -> str:
    """Ask as any OpenAI client would."""
    headers = {"Authorization": "Bearer adas-own-key"}
    body = {"messages": [{"role": "user", "content": prompt}]}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json=body) as response:
        answer = await response.json()
        return str(answer["choices"][0]["message"]["content"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(" ".join(sys.argv[1:])))
