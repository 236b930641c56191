"""What the examples of adapters share: a credits service with one user's credits, and a provider to call.

OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL name any OpenAI-compatible provider; without the first a local
stand-in answers, which says that it is one. DATABASE_URL and CREDITS_SETTINGS name a ledger whose users have bought
their credits; without the first there is one for this run, and the user is given some.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Final

from credits_plugin import Credits, Settings, build, load_settings
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.ledger.queries import account_transfers
from credits_plugin.money import credits_to_microcredits, format_credits
from credits_plugin.sandbox.model_server import DEFAULT_MODEL, ModelServer

PRICES: Final = {DEFAULT_MODEL: {"input": "2.50", "cache_read": "1.25", "output": "10.00"}}
GIFT_CREDITS: Final = 100


@dataclass(frozen=True, slots=True)
class Provider:
    """Which model to call, and where."""

    url: str
    key: str
    model: str


@asynccontextmanager
async def example_credits(user: str) -> AsyncGenerator[tuple[Credits, Provider], None]:
    """Open the ledger, find a provider, and print in the end what each of the user's model calls was charged."""
    async with AsyncExitStack() as stack:
        url = os.environ.get("OPENAI_BASE_URL") or (await stack.enter_async_context(ModelServer())).url
        key = os.environ.get("OPENAI_API_KEY", "none")
        kept = "DATABASE_URL" in os.environ
        folder = stack.enter_context(TemporaryDirectory())
        temporary = Settings(database_url=f"sqlite:///{folder}/credits.db", prices=PRICES)
        service = build(load_settings() if kept else temporary)
        await service.start()
        stack.push_async_callback(service.close)
        if not kept:
            await give(service, user)
        yield service, Provider(url, key, os.environ.get("OPENAI_MODEL", DEFAULT_MODEL))
        await print_charges(service, user)


async def give(service: Credits, user: str) -> None:
    """Give a user credits, as a promotion would."""
    gift = credits_to_microcredits(GIFT_CREDITS)
    await service.writer.execute(
        PostTransfer(account_key(user), user, service.new_id(), Code.PROMOTION, gift, now_ms())
    )


async def print_charges(service: Credits, user: str) -> None:
    """Print a user's usage, oldest first."""
    lines = await service.reads.run(lambda database: account_transfers(database, account_key(user)))
    for line in reversed(lines):
        if line.code is Code.USAGE and line.usage is not None:
            tokens = f"{line.usage.total_tokens} tokens of {line.model}"
            print(f"{user} was charged {format_credits(-line.amount)} credits for {tokens}")
