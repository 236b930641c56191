"""How commands reach the books: a database to read, or a service or shop of this process's own."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..bootstrap import Credits, build
from ..database import Reads, open_database, require_current_schema
from ..payments.shop import Shop
from ..settings import load_settings
from .options import database_url

T = TypeVar("T")


def read(options: argparse.Namespace, query: Callable[[Any], T]) -> T:
    """Run a query on the command's database, which must have this version's schema."""
    database = open_database(database_url(options))
    require_current_schema(database)
    reads = Reads(database, threads=1)
    try:
        return reads.run_sync(query)
    finally:
        reads.close()


def with_shop(options: argparse.Namespace, use: Callable[[Shop], Awaitable[T]]) -> T:
    """Run ``use`` on a shop of this process's own, without the background jobs of a host.

    Raises:
        ConfigurationError: Stripe's keys are not set.
    """
    load_settings().require_stripe()

    async def use_shop(service: Credits) -> T:
        assert service.shop is not None  # noqa: S101 - the keys are there, so the shop is
        return await use(service.shop)

    return with_service(options, use_shop)


def with_service(options: argparse.Namespace, use: Callable[[Credits], Awaitable[T]]) -> T:
    """Run ``use`` on a service of this process's own, without the background jobs of a host."""
    settings = load_settings()
    settings = replace(settings, database_url=options.database or settings.database_url)

    async def run() -> T:
        service = await asyncio.to_thread(build, settings)
        try:
            return await use(service)
        finally:
            await service.close()

    return asyncio.run(run())
