"""A database that goes away, a commit of unknown outcome, another host in between: callers get a true answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import psycopg
import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, Dialect, lock_path, migrate, open_database
from credits_plugin.errors import DatabaseError, OutcomeUnknown
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")
new_id = IdMaker()


def grant(amount: int, user: str = "anna") -> PostTransfer:
    return PostTransfer(account_key(user), user, new_id(), Code.PROMOTION, amount, now_ms())


def hold(amount: int) -> PlaceHold:
    return PlaceHold(KEY, "anna", new_id(), amount, now_ms(), now_ms() + 60_000, 1, 1)


def balance(database: Database) -> int:
    return database.primary.execute_sql("SELECT sum(balance) FROM account").fetchone()[0]


async def test_hosts_that_make_the_same_account_at_once_both_succeed(database: Database, database_url: str):
    others = [LedgerWriter(open_database(database_url), new_id=IdMaker()) for _ in range(4)]
    for writer in others:
        writer.start()
    for round_ in range(5):
        await asyncio.gather(*(writer.execute(grant(1, f"user-{round_}")) for writer in others for _ in range(3)))
    for writer in others:
        writer.close()
    assert balance(database) == 60
    assert audit(database).findings == []


async def test_connections_that_the_server_ends_are_made_anew(
    writer: LedgerWriter, database: Database, database_url: str
):
    if database.dialect is not Dialect.POSTGRESQL:
        pytest.skip("SQLite has no server that could end a connection")
    await writer.execute(grant(1_000))
    with psycopg.connect(database_url, autocommit=True) as admin:
        for _ in range(3):
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            assert (await writer.execute(grant(1))).balance > 1_000
    database.close_thread()
    assert balance(database) == 1_003


async def test_a_command_repeated_after_an_unknown_outcome_converges(
    writer: LedgerWriter, database: Database, monkeypatch
):
    """The commit happened, its answer was lost: every command of the batch is found done, and is not done again."""
    await writer.execute(grant(1_000))
    real = writer._store.batch
    lost = iter([True])

    class CommitWhoseAnswerIsLost:
        def __enter__(self):
            self.context = real()
            self.context.__enter__()

        def __exit__(self, *error):
            self.context.__exit__(*error)
            if error[0] is None and next(lost, False):
                raise sqlite3.OperationalError("connection lost after the commit")

    monkeypatch.setattr(writer._store, "batch", CommitWhoseAnswerIsLost)
    placed, posted = await asyncio.gather(writer.execute(hold(100)), writer.execute(grant(7)))
    lost = iter([True])
    settled = await writer.execute(SettleHold(KEY, placed.hold_id, 60, now_ms(), Usage(input=1)))
    assert (placed.repeated, posted.balance, settled.amount, settled.repeated) == (True, 1_007, 60, True)
    assert balance(database) == 947
    assert audit(database).findings == []


async def test_a_database_that_stays_away_is_an_unknown_outcome_and_the_writer_lives(
    writer: LedgerWriter, database: Database, monkeypatch
):
    await writer.execute(grant(1_000))
    real = writer._store.batch

    def away():
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer._store, "batch", away)
    monkeypatch.setattr("credits_plugin.ledger.writer._FIRST_PAUSE_S", 0.001)
    answers = await asyncio.gather(*(writer.execute(hold(1)) for _ in range(300)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {OutcomeUnknown}
    monkeypatch.setattr(writer._store, "batch", real)
    assert (await writer.execute(grant(1))).balance == 1_001


async def test_another_process_that_holds_the_sqlite_write_lock_is_waited_for(database: Database):
    if database.dialect is not Dialect.SQLITE:
        pytest.skip("PostgreSQL locks rows, not files")
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    other = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    assert (await writer.execute(grant(5))).balance == 5
    writer.close()
    other.close()


async def test_a_lock_that_cannot_be_taken_is_an_answer_and_the_writer_lives(sqlite_url: str):
    database = open_database(sqlite_url)
    migrate(database)
    lock = lock_path(database.path)
    lock.unlink()
    lock.mkdir()
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    with pytest.raises(DatabaseError, match="lock beside the database"):
        await writer.execute(grant(1_000))
    lock.rmdir()
    assert (await writer.execute(grant(1_000))).balance == 1_000
    writer.close()


NOT_TEXT = "\ud800"
"""What no database can store as a text."""


async def test_a_batch_whose_last_command_fails_in_the_database_stops_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    """The checkpointer has not opened the file yet, so that the writer's connection is its only one."""
    monkeypatch.setattr("credits_plugin.ledger.checkpoints._INTERVAL_S", 3_600)
    writer = LedgerWriter(database, new_id=new_id)
    commands = [grant(1_000), *(hold(1) for _ in range(20)), hold(1)._replace(run_id=NOT_TEXT)]
    waiting = [writer.execute(command) for command in commands]
    writer.start()
    *done, failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert not [answer for answer in done if isinstance(answer, Exception)]
    assert isinstance(failed, DatabaseError)
    assert (await writer.execute(hold(1))).available == 979
    writer.close()
    assert audit(database).findings == []
