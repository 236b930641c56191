"""SQLite's log: it grows while somebody reads from a snapshot, nobody waits for that, and it shrinks again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger import checkpoints
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")
new_id = IdMaker()
LONGEST = 128 * 1024
UNBEARABLE_S = 10
"""Less than SQLite's busy timeout, which is what a hold waited for."""


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = open_database(sqlite_url)
    migrate(opened)
    yield opened
    opened.close_thread()


@pytest.fixture
async def writer(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerWriter]:
    """A writer with a thousand credits, that looks at its log before every batch."""
    monkeypatch.setattr(checkpoints, "_LONGEST_WAL_BYTES", LONGEST)
    monkeypatch.setattr(checkpoints, "_LOOK_EVERY", 1)
    monkeypatch.setattr(checkpoints, "_INTERVAL_S", 0.01)
    running = LedgerWriter(database, new_id=new_id)
    running.start()
    await running.execute(PostTransfer(KEY, "anna", new_id(), Code.PROMOTION, 1_000, now_ms()))
    yield running
    running.close()


@contextlib.contextmanager
def reading(database: Database) -> Iterator[None]:
    """Read from one snapshot meanwhile, as an audit does."""
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM account").fetchone()
        yield
        reader.execute("ROLLBACK")


def log_bytes(database: Database) -> int:
    return database.path.with_name(database.path.name + "-wal").stat().st_size


async def place(writer: LedgerWriter) -> None:
    now = now_ms()
    await asyncio.wait_for(writer.execute(PlaceHold(KEY, "anna", new_id(), 1, now, now + 60_000, 1, 1)), UNBEARABLE_S)


@pytest.mark.parametrize("whole_passes", [0, checkpoints._WHOLE_PASSES], ids=["always tried", "tried as usual"])
async def test_no_hold_waits_for_a_reader_though_the_log_is_too_long(
    whole_passes: int, writer: LedgerWriter, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoints, "_WHOLE_PASSES", whole_passes)
    with reading(database):
        while log_bytes(database) <= 2 * LONGEST:
            await place(writer)
        await place(writer)


async def test_a_log_that_grew_while_somebody_read_is_cut_back_afterwards(writer: LedgerWriter, database: Database):
    with reading(database):
        while log_bytes(database) <= 4 * LONGEST:
            await place(writer)
    async with asyncio.timeout(UNBEARABLE_S):
        while log_bytes(database) > LONGEST:
            await place(writer)


async def test_what_a_reader_kept_back_is_copied_by_the_thread_before_a_batch_restarts_the_log(
    writer: LedgerWriter, database: Database
):
    def restarts() -> int:
        return sum("RESTART" in statement for statement in statements)

    statements: list[str] = []
    await writer.work([], lambda tx: tx.database.connection().set_trace_callback(statements.append))
    async with asyncio.timeout(UNBEARABLE_S):
        with reading(database):
            while log_bytes(database) <= 2 * LONGEST or writer._checkpointer._whole_passes:
                await place(writer)
            tried = restarts()
            for _ in range(10):
                await place(writer)
            assert restarts() == tried
        while restarts() == tried:
            await place(writer)
