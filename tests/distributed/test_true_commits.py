"""Nothing is acknowledged that did not commit, or that only one server would have: however the COMMIT goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import peewee
import psycopg
import pytest
from standby_pair import Pair, running_pair

from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.postgresql_store import PostgresqlStore
from credits_plugin.ledger.store import open_store
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")
new_id = IdMaker()


@pytest.fixture(params=["postgresql", "citus"])
def opened(request: pytest.FixtureRequest, fresh_postgresql_url: str) -> Iterator[Database]:
    """The layout itself does not matter here, the two stores do."""
    database = open_database(fresh_postgresql_url.replace("postgresql", request.param, 1))
    migrate(database)
    yield database
    database.close_thread()


def grant(amount: int) -> PostTransfer:
    return PostTransfer(KEY, "anna", new_id(), Code.PROMOTION, amount, now_ms())


def fail_and_go_on(connection: psycopg.Connection) -> None:
    """Abort the transaction and let nobody know; the pipeline's end makes statements after it run again."""
    with contextlib.suppress(psycopg.errors.DivisionByZero), connection.pipeline():
        connection.execute("SELECT 1 / 0")


def test_a_batch_whose_commit_is_answered_with_rollback_fails(opened: Database):
    store = open_store(opened)
    assert isinstance(store, PostgresqlStore)
    opened.primary.connect()
    with pytest.raises(peewee.OperationalError, match="answered with ROLLBACK"), store.batch():
        fail_and_go_on(opened.primary.connection())
    opened.primary.connect(reuse_if_open=True)
    with store.batch():
        assert store.read([KEY], []) == ([], [])


def test_a_transaction_whose_commit_is_answered_with_rollback_fails(opened: Database):
    opened.primary.connect()
    with pytest.raises(peewee.OperationalError, match="answered with ROLLBACK"), opened.primary.atomic():
        fail_and_go_on(opened.primary.connection())
    with opened.primary.atomic():
        opened.primary.execute_sql("SELECT 1")


async def test_a_batch_that_failed_unnoticed_is_run_again_and_written_once(opened: Database):
    writer = LedgerWriter(opened, new_id=new_id)
    flush, times = writer._store.flush, []

    def fail_first(book) -> None:
        flush(book)
        times.append(1)
        if len(times) == 1:
            fail_and_go_on(opened.primary.connection())

    writer._store.flush = fail_first
    writer.start()
    posted = await asyncio.gather(writer.execute(grant(5)), writer.execute(grant(6)))
    writer.close()
    assert (max(one.balance for one in posted), len(times)) == (11, 2)
    assert opened.primary.execute_sql("SELECT balance, seq FROM account").fetchall() == [(11, 2)]
    assert audit(opened).findings == []


@pytest.fixture
def pair() -> Iterator[Pair]:
    with running_pair() as running:
        yield running


async def test_a_commit_that_is_cancelled_while_it_waits_for_the_standby_is_not_acknowledged(pair: Pair):
    database = open_database(pair.url("primary"))
    migrate(database)
    pair.primary.wait_until("SELECT sync_state = 'quorum' FROM pg_stat_replication")
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    await writer.execute(grant(1_000))
    sender = pair.primary.stop_sending()
    now = now_ms()
    hold = asyncio.ensure_future(writer.execute(PlaceHold(KEY, "anna", new_id(), 10, now, now + 60_000, 1, 1)))
    work = asyncio.ensure_future(writer.work([KEY], lambda tx: tx.account(KEY).held))
    waits = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    for _ in range(3):
        await asyncio.to_thread(pair.primary.wait_until, f"SELECT count(*) = 1 {waits}")
        await asyncio.to_thread(pair.primary.wait_until, f"SELECT pg_cancel_backend(pid) {waits}")
    assert not hold.done()
    assert not work.done()
    os.kill(sender, signal.SIGCONT)
    assert (await hold).available == 990
    assert await work == 10
    writer.close()
    assert database.primary.execute_sql("SELECT held FROM account").fetchone() == (10,)
    assert audit(database).findings == []
    database.close_thread()
