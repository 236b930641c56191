"""A stand-in for Stripe on loopback: the official library talks to it, a buyer pays on its hosted page.

It speaks one API version (see `API_VERSION` in `objects.py`), refuses what it does not support in Stripe's own error
shape, and never reaches out to the internet. It is meant for the demo, development and tests; it takes no real money
and stores no card numbers.

This module imports nothing heavy: aiohttp is loaded when a sandbox is created.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiohttp import web

    from credits_plugin.sandbox.webhooks import Deliveries

__all__ = ["Sandbox", "SandboxSettings", "WebhookEndpoint", "create_sandbox"]


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where events are delivered, and the secret they are signed with (`whsec_…`)."""

    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Everything a sandbox needs to know; every field has a working default.

    `data_path` is a SQLite file that survives a restart (None keeps everything in memory). `retry_base_s` is the pause
    after the first failed delivery; it doubles with every attempt, up to `max_delivery_attempts` attempts.
    `latency_s` delays every API answer after the request was accepted, so that a key can be met in flight (409).
    """

    secret_key: str = "sk_test_sandbox"  # noqa: S105 - the well-known key of the sandbox, it protects nothing
    webhook_url: str | None = None
    webhook_secret: str = "whsec_sandbox"  # noqa: S105 - as above
    data_path: Path | None = None
    retry_base_s: float = 1.0
    merchant_name: str = "Credits Sandbox"
    more_webhooks: tuple[WebhookEndpoint, ...] = ()
    max_delivery_attempts: int = 8
    latency_s: float = 0.0

    def endpoints(self) -> tuple[WebhookEndpoint, ...]:
        """All webhook endpoints, the main one first; empty when none is configured."""
        main = (WebhookEndpoint(self.webhook_url, self.webhook_secret),) if self.webhook_url else ()
        return main + self.more_webhooks


def create_sandbox(settings: SandboxSettings, *, clock: Callable[[], float] | None = None) -> web.Application:
    """Build the sandbox as an aiohttp application; deliveries start and stop with it.

    `clock` returns seconds since the epoch and defaults to the system's. The application must be served at the root of
    its host, since Stripe's paths are absolute.
    """
    from credits_plugin.sandbox.app import create_app  # noqa: PLC0415 - aiohttp's server is heavy, load it when it runs

    return create_app(settings, clock=clock)


class Sandbox:
    """A running sandbox on 127.0.0.1: `async with Sandbox() as sandbox: … sandbox.url …`.

    Port 0 takes a free port. Closing cancels what is still being delivered; with a `data_path` those deliveries go on
    when the sandbox starts again.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, *, port: int = 0, clock: Callable[[], float] | None = None
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._port = port
        self._clock = clock
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The application that start() serves; tests override this to watch every answer."""
        return create_sandbox(self.settings, clock=self._clock)

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        from aiohttp import web  # noqa: PLC0415 - as in create_sandbox

        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def close(self) -> None:
        """Stop listening and delivering; safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Base address without a trailing slash, for `base_addresses={"api": sandbox.url}`."""
        host, port = self._running().addresses[0][:2]
        return f"http://{host}:{port}"

    def set_webhook(self, url: str, secret: str) -> None:
        """Deliver to this endpoint alone from now on; what is still pending goes there too."""
        self._deliveries().set_endpoints((WebhookEndpoint(url, secret),))

    async def drain(self) -> None:
        """Wait until every delivery has arrived or was given up, pauses between attempts included."""
        await self._deliveries().drain()

    async def deliver_pending(self) -> int:
        """Attempt every undelivered event once, now, also those given up; returns how many remain undelivered."""
        return await self._deliveries().deliver_now()

    def _deliveries(self) -> Deliveries:
        from credits_plugin.sandbox.app import deliveries_of  # noqa: PLC0415 - as in create_sandbox

        return deliveries_of(self._running().app)

    def _running(self) -> web.AppRunner:
        if self._runner is None:
            raise RuntimeError("The sandbox is not running: use `async with Sandbox()` or await start() first.")
        return self._runner

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
