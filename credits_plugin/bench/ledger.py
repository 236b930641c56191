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
ACCOUNT_PREFIX: Final = "bench-"
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


@contextlib.contextmanager
def ledger_of(url: str, *, accounts: int = ACCOUNTS) -> Iterator[Database]:
    """Prepare a database, and audit it after use.

    Raises:
        AssertionError: the audit found something.
    """
    database = prepare(url, accounts=accounts)
    yield database
    require_clean(database)
    database.close_thread()


def prepare(url: str, *, accounts: int = ACCOUNTS) -> Database:
    """Migrate the database and give every account of the benchmark a fortune."""
    database = open_database(url)
    migrate(database)
    with writers(database, count=1) as (writer,):
        asyncio.run(grant_fortunes(writer, [account_name(number) for number in range(accounts)]))
    return database


def account_name(number: int) -> str:
    """Return the host's name of the benchmark's account."""
    return f"{ACCOUNT_PREFIX}{number}"


async def grant_fortunes(writer: LedgerWriter, names: Sequence[str]) -> None:
    """Give each account more than any benchmark can spend."""
    new_id = IdMaker()
    grants = (
        PostTransfer(account_key(name), name, new_id(), Code.PROMOTION, _FORTUNE, now_ms(), "benchmark")
        for name in names
    )
    await asyncio.gather(*map(writer.execute, grants))


def pairs_per_second(running: Sequence[LedgerWriter], load: Load) -> float:
    """Return how many holds were placed and settled per second, each acknowledged after its commit."""
    return asyncio.run(drive(running, load))


async def drive(running: Sequence[LedgerWriter], load: Load) -> float:
    """Do as ``pairs_per_second`` does, in the running event loop."""
    new_id = IdMaker()
    started = time.perf_counter()
    deadline = started + load.seconds
    counts = await asyncio.gather(
        *(
            _call(running[number % len(running)], account_name(number % load.accounts), deadline, new_id)
            for number in range(load.callers)
        )
    )
    return sum(counts) / (time.perf_counter() - started)


async def _call(writer: LedgerWriter, name: str, deadline: float, new_id: IdMaker) -> int:
    key, pairs = account_key(name), 0
    while time.perf_counter() < deadline:
        hold_id = await place_hold(writer, key, name, new_id)
        await settle_hold(writer, key, hold_id)
        pairs += 1
    return pairs


async def place_hold(writer: LedgerWriter, key: int, name: str, new_id: IdMaker) -> int:
    """Place the benchmark's hold and return its id."""
    now = now_ms()
    return (await writer.execute(PlaceHold(key, name, new_id(), 500, now, now + 600_000, 1, 1_000))).hold_id


async def settle_hold(writer: LedgerWriter, key: int, hold_id: int) -> None:
    """Settle it for what the benchmark's request costs."""
    await writer.execute(SettleHold(key, hold_id, 321, now_ms(), _USAGE))


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

    counts = await asyncio.gather(*(call(account_name(number % load.accounts)) for number in range(load.callers)))
    return sum(counts) / (time.perf_counter() - started)


def require_clean(database: Database) -> None:
    """Fail unless the books are clean: a benchmark of a broken ledger measures nothing.

    Raises:
        AssertionError: the audit found something.
    """
    report = audit(database)
    if not report.clean:
        raise AssertionError(report.findings[:5])
