"""Backup while hosts write, restore with an audit before opening."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from itertools import count
from pathlib import Path

import pytest
from test_copy import fill

from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.moving.backup import back_up, restore

new_id = IdMaker()


@pytest.fixture
def live(sqlite_url: str) -> Database:
    opened = open_database(sqlite_url)
    migrate(opened)
    yield opened
    opened.close_thread()


def grant(amount: int) -> PostTransfer:
    return PostTransfer(account_key("busy"), "busy", new_id(), Code.PROMOTION, amount, now_ms())


async def test_a_backup_of_a_busy_database_is_clean_and_complete_up_to_its_start(live: Database, tmp_path: Path):
    writer = LedgerWriter(live, new_id=new_id)
    writer.start()
    await fill(writer, users=50)
    stop = asyncio.Event()

    async def go_on() -> None:
        while not stop.is_set():
            await asyncio.gather(*(writer.execute(grant(1)) for _ in range(20)))

    busy = asyncio.create_task(go_on())
    await asyncio.sleep(0.05)
    before = audit(live).transfers
    report = await asyncio.to_thread(back_up, live, tmp_path / "backup.db")
    stop.set()
    await busy
    writer.close()
    assert report.accounts == 51
    assert before <= report.transfers <= audit(live).transfers
    assert [path.name for path in tmp_path.glob("backup*")] == ["backup.db"]


def commit_without_end(path: Path, stop: threading.Event) -> None:
    """Commit as fast as SQLite can, without a sync: between any two steps of a copy."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=15)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for number in count(1):
            if stop.is_set():
                break
            connection.execute(f"PRAGMA user_version = {number}")


async def test_a_backup_of_a_large_database_ends_while_somebody_commits_all_the_time(live: Database, tmp_path: Path):
    """SQLite's own backup begins anew at each commit of others, unless it reads from one snapshot."""
    live.primary.execute_sql("CREATE TABLE padding (text)")
    live.primary.execute_sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) "
        "INSERT INTO padding SELECT zeroblob(3900) FROM n"
    )
    stop = threading.Event()
    busy = asyncio.create_task(asyncio.to_thread(commit_without_end, live.path, stop))
    backup = asyncio.create_task(asyncio.to_thread(back_up, live, tmp_path / "backup.db"))
    done, _ = await asyncio.wait([backup], timeout=20)
    stop.set()
    await busy
    await backup
    assert backup in done
    with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as copied:
        assert copied.execute("SELECT count(*) FROM padding").fetchone() == (25_000,)


async def test_a_restore_brings_the_books_back_and_keeps_what_it_replaced(live: Database, tmp_path: Path):
    writer = LedgerWriter(live, new_id=new_id)
    writer.start()
    await writer.execute(grant(100))
    back_up(live, tmp_path / "backup.db")
    await writer.execute(grant(11))
    with pytest.raises(DatabaseError, match="in use"):
        restore(tmp_path / "backup.db", live)
    assert audit(live).balance_total == 111
    writer.close()
    live.close_thread()
    replaced = restore(tmp_path / "backup.db", live).replaced
    assert audit(live).balance_total == 100
    assert audit(open_database(f"sqlite:///{replaced}")).balance_total == 111
    again = LedgerWriter(live, new_id=new_id)
    again.start()
    assert (await again.execute(grant(1))).balance == 101
    again.close()


async def test_a_backup_that_was_tampered_with_is_not_restored(live: Database, tmp_path: Path):
    writer = LedgerWriter(live, new_id=new_id)
    writer.start()
    await writer.execute(grant(100))
    writer.close()
    back_up(live, tmp_path / "backup.db")
    forged = open_database(f"sqlite:///{tmp_path / 'backup.db'}")
    forged.primary.execute_sql("UPDATE account SET balance = 1000000")
    forged.close_thread()
    with pytest.raises(DatabaseError, match="audit found"):
        restore(tmp_path / "backup.db", live)
    assert audit(live).balance_total == 100


def test_a_backup_may_have_any_name(live: Database, tmp_path: Path):
    path = tmp_path / "50%25 of #1?.db"
    assert back_up(live, path).path == path
    live.close_thread()
    assert restore(path, live).replaced


def test_a_backup_never_overwrites_and_a_missing_one_is_named(live: Database, tmp_path: Path):
    (tmp_path / "taken.db").write_text("x")
    with pytest.raises(DatabaseError, match="never overwritten"):
        back_up(live, tmp_path / "taken.db")
    with pytest.raises(DatabaseError, match="no backup at"):
        restore(tmp_path / "absent.db", live)
