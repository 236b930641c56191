"""Hold and settle pairs per second: the writer against the same work with one transaction per command."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hookspecs import Usage

from ..database import Database, migrate, open_database
from ..ledger.audit import audit
from ..ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from ..ledger.ids import IdMaker, account_key, now_ms
from ..ledger.writer import MAX_BATCH, LedgerWriter
from .floor import FloorWriter

CALLERS: Final = 256
ACCOUNTS: Final = 1_000
_FORTUNE: Final = 10**15
_USAGE: Final = Usage(input=900, cache_read=100, output=250)


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: ``callers`` tasks, each placing and settling one hold after another, spread over accounts."""

    callers: int
    accounts: int
    seconds: float


@contextlib.contextmanager
def writers(database: Database, *, count: int, max_batch: int = MAX_BATCH) -> Iterator[list[LedgerWriter]]:
    """Run ``count`` writers on one database, each with its own connection."""
    running = [LedgerWriter(database, new_id=IdMaker(), max_batch=max_batch) for _ in range(count)]
    for writer in running:
        writer.start()
    try:
        yield running
    finally:
        for writer in running:
            writer.close()


def prepare(url: str) -> Database:
    """Migrate the database and give every account of the benchmark a fortune."""
    database = open_database(url)
    migrate(database)
    with writers(database, count=1) as (writer,):
        asyncio.run(_grant_fortunes(writer))
    return database


async def _grant_fortunes(writer: LedgerWriter) -> None:
    new_id = IdMaker()
    names = [f"bench-{number}" for number in range(ACCOUNTS)]
    grants = (
        PostTransfer(account_key(name), name, new_id(), Code.PROMOTION, _FORTUNE, now_ms(), "benchmark")
        for name in names
    )
    await asyncio.gather(*map(writer.execute, grants))


def pairs_per_second(running: Sequence[LedgerWriter], load: Load) -> float:
    """Return how many holds were placed and settled per second, each acknowledged after its commit."""
    return asyncio.run(_drive(running, load))


async def _drive(running: Sequence[LedgerWriter], load: Load) -> float:
    new_id = IdMaker()
    started = time.perf_counter()
    deadline = started + load.seconds
    counts = await asyncio.gather(
        *(
            _call(running[number % len(running)], f"bench-{number % load.accounts}", deadline, new_id)
            for number in range(load.callers)
        )
    )
    return sum(counts) / (time.perf_counter() - started)


async def _call(writer: LedgerWriter, name: str, deadline: float, new_id: IdMaker) -> int:
    key, pairs = account_key(name), 0
    while time.perf_counter() < deadline:
        now = now_ms()
        placed = await writer.execute(PlaceHold(key, name, new_id(), 500, now, now + 600_000, 1, 1_000))
        await writer.execute(SettleHold(key, placed.hold_id, 321, now, _USAGE))
        pairs += 1
    return pairs


def floor_pairs_per_second(floor: FloorWriter, load: Load) -> float:
    """Return the same figure for the hand-written floor."""
    return asyncio.run(_drive_floor(floor, load))


async def _drive_floor(floor: FloorWriter, load: Load) -> float:
    new_id = IdMaker()
    started = time.perf_counter()
    deadline = started + load.seconds

    async def call(name: str) -> int:
        key, pairs = account_key(name), 0
        while time.perf_counter() < deadline:
            now, hold_id = now_ms(), new_id()
            if not await floor.submit(True, key, hold_id, 500, now):
                raise AssertionError(name)
            await floor.submit(False, key, hold_id, 321, now)
            pairs += 1
        return pairs

    counts = await asyncio.gather(*(call(f"bench-{number % load.accounts}") for number in range(load.callers)))
    return sum(counts) / (time.perf_counter() - started)


def require_clean(database: Database) -> None:
    """Fail unless the books are clean: a benchmark of a broken ledger measures nothing.

    Raises:
        AssertionError: the audit found something.
    """
    report = audit(database)
    if not report.clean:
        raise AssertionError(report.findings[:5])
