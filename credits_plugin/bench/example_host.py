"""``python -m credits_plugin.bench.example_host KIND DATABASE_URL MODEL_URL [KEYS]``: an example as a benchmark's host.

KIND is ``gated`` (examples/agent_server.py), ``bare`` (the same without the plugin) or ``proxy``
(examples/metering_proxy.py, with its file of keys).
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Final, Self

from aiohttp import web

from hookspecs import AIRequest, Estimate, Hold, Usage

from ..sandbox.demo import load_example
from ..settings import Settings
from .gate import MODEL
from .host_process import serve_until_told

SESSION_KEY: Final = b"a key of hosts that live for a minute"


class FreeCall:
    """Stands where a metered call is, in a host without the plugin: lets everything pass, and charges nothing."""

    def __init__(self, request: AIRequest) -> None:
        self.request = request
        bound = Estimate(request.model, 0, request.max_output_tokens or 1, 0)
        self.hold = Hold(1, request.account_id, 0, bound, 1, 0)

    async def deliver(self, _text: str) -> bool:
        """Go on."""
        return True

    def report(self, usage: Usage) -> None:
        """Forget it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass


class FreeCredits:
    """Stands where the service is."""

    metered = FreeCall


def main(kind: str, database_url: str, model_url: str, keys_path: str = "") -> None:
    """Serve."""
    settings = Settings(database_url=database_url)
    if kind == "proxy":
        proxy = load_example("metering_proxy")
        where = proxy.ProxySettings(upstream_url=model_url, keys_path=keys_path)
        asyncio.run(serve_until_told(proxy.create_app(where, settings), handler_cancellation=True))
        return
    example = load_example()
    if kind == "bare":
        _unplug(example)
    agent = example.AgentSettings(provider_url=model_url, model=MODEL, session_key=SESSION_KEY)
    asyncio.run(serve_until_told(example.create_app(agent, settings)))


def _unplug(example: ModuleType) -> None:
    def plug_in_nothing(app: web.Application, _settings: Settings) -> None:
        app[example.CREDITS] = FreeCredits()

    vars(example)["plug_in_credits"] = plug_in_nothing


if __name__ == "__main__":
    main(*sys.argv[1:])
