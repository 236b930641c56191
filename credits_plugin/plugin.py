"""The plugin: hook implementations of a few lines each, on top of the service."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from aiohttp import web

from hookspecs import AIRequest, Hold, HookCaller, Outcome, Refusal, hookimpl

from .bootstrap import Credits, build
from .errors import ConfigurationError
from .settings import load_settings
from .web.app import create_app

logger = logging.getLogger(__name__)


class CreditsPlugin:
    """Register it with the host's plugin manager, or let the manager load the entry point group ``credits_plugin``.

    Without ``credits`` it stays inert until the host's :class:`HookCaller` is made, and is then built from the
    environment.

    Raises:
        ConfigurationError: when the host becomes ready and the environment lacks what is needed.
    """

    def __init__(self, credits: Credits | None = None) -> None:
        self._credits = credits
        self._hooks: HookCaller | None = None

    @property
    def credits(self) -> Credits:
        """The service, for the host's own code.

        Raises:
            ConfigurationError: the plugin was loaded by entry point and no HookCaller was made yet.
        """
        if self._credits is None:
            msg = "the credits plugin is not up yet: make HookCaller(plugin_manager) before serving requests"
            raise ConfigurationError(msg)
        return self._credits

    @hookimpl
    def host_ready(self, hooks: HookCaller) -> None:
        """Build the service if it was loaded by entry point, load the price data, and tell the other plugins of it."""
        if self._credits is None:
            settings = load_settings()
            settings.require_stripe()
            self._credits = build(settings)
        # While nobody waits yet; loaded in a thread later, it would leave a megabyte more of memory behind.
        self._credits.price_book.warm_up()
        self._credits.hooks = hooks
        hooks.credits_ready(self._credits)

    @hookimpl
    async def before_ai_request(self, request: AIRequest) -> Hold | Refusal:
        """Place a hold or refuse."""
        return await self.credits.admit(request)

    @hookimpl
    async def after_ai_request(self, hold: Hold, outcome: Outcome) -> None:
        """Settle or release."""
        await self.credits.settle(hold, outcome)

    @hookimpl
    def provide_web_app(self) -> web.Application:
        """Return the API's sub-application, with the pages' one on it for ``mount``; the service runs as long."""
        app = create_app(self.credits, self._resolve_account)
        app.cleanup_ctx.append(self._run_service)
        return app

    async def _run_service(self, _app: web.Application) -> AsyncIterator[None]:
        await self.credits.start()
        yield
        await self.credits.close()

    async def _resolve_account(self, http_request: web.Request) -> str | None:
        if self.credits.hooks is None:
            msg = "nobody can be identified: make HookCaller(plugin_manager) before serving requests"
            raise ConfigurationError(msg)
        return await self.credits.hooks.resolve_account(http_request)


environment_plugin = CreditsPlugin()
"""What the entry point loads: configured by the environment, inert until the host is ready."""
