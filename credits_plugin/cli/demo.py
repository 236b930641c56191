"""``credits demo`` and ``credits sandbox``: the product, or Stripe's stand-in alone, on this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add both commands."""
    demo = commands.add_parser(
        "demo", help="the whole product on this machine: sandbox, agent host, chat and credit pages"
    )
    demo.add_argument("--port", type=int, default=8080, help="of the agent host (default 8080)")
    demo.add_argument("--data", type=Path, default=Path(".demo"), help="folder that survives a restart (default .demo)")
    demo.add_argument("--check", action="store_true", help="play the whole journey unattended and compare every figure")
    demo.set_defaults(run=_demo)

    sandbox = commands.add_parser("sandbox", help="a Stripe stand-in on loopback, for developing without an account")
    sandbox.add_argument("--port", type=int, default=12111)
    sandbox.add_argument(
        "--webhook-url", help="where events are delivered, such as http://127.0.0.1:8080/api/credits/webhook"
    )
    sandbox.add_argument("--webhook-secret", default="whsec_sandbox")
    sandbox.add_argument("--data", type=Path, help="file that keeps its state; without it all is forgotten at the end")
    sandbox.set_defaults(run=_sandbox)


def _demo(options: argparse.Namespace) -> int:
    if options.check:
        from ..sandbox.demo_check import check_demo  # noqa: PLC0415 - the sandbox is for this command alone

        return asyncio.run(check_demo())
    from ..sandbox.demo import run_demo  # noqa: PLC0415 - see above

    return _serve(run_demo(port=options.port, data=options.data))


def _sandbox(options: argparse.Namespace) -> int:
    return _serve(_run_sandbox(options))


async def _run_sandbox(options: argparse.Namespace) -> None:
    from ..sandbox import Sandbox, SandboxSettings  # noqa: PLC0415 - the sandbox is for this command alone

    settings = SandboxSettings(
        webhook_url=options.webhook_url, webhook_secret=options.webhook_secret, data_path=options.data
    )
    async with Sandbox(settings, port=options.port) as sandbox:
        print(f"Stripe sandbox on {sandbox.url}; give your host:")
        print(f"  CREDITS_STRIPE_API_BASE={sandbox.url}")
        print(f"  STRIPE_SECRET_KEY={settings.secret_key}")
        print(f"  STRIPE_WEBHOOK_SECRET={settings.webhook_secret}")
        print(f"Events go to {options.webhook_url or 'nowhere: name --webhook-url'}. Ctrl-C stops it.")
        print(f"What happened, and what a bank could do next: {sandbox.url}/sandbox", flush=True)
        await asyncio.Event().wait()


def _serve(server: Coroutine[Any, Any, None]) -> int:
    """Run until Ctrl-C or SIGTERM; both end it cleanly."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are inside it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await server

    asyncio.run(run())
    return 0
