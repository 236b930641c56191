"""Units of work that take too long: each is stopped, holds wait for one at most, and no other one fails for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

import peewee
import pytest

from credits_plugin.database import Database
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.store import open_store
from credits_plugin.ledger.work import Transaction, savepoint
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")
new_id = IdMaker()
LIMIT_S = 0.15
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT count(*) FROM n"
ENDLESS = COUNTING.format(10**12)
SHORT = COUNTING.format(50_000)
NO_ACCOUNT = 2**70
"""What no database takes for an id: the batch that declares it fails as a whole, and is run one by one."""


@pytest.fixture
def idle(database: Database, monkeypatch: pytest.MonkeyPatch) -> LedgerWriter:
    """A writer that does not run yet, with a short limit for units of work."""
    monkeypatch.setattr("credits_plugin.ledger.work_batches._LIMIT_S", LIMIT_S)
    return LedgerWriter(database, new_id=new_id)


def grant(amount: int) -> PostTransfer:
    return PostTransfer(KEY, "anna", new_id(), Code.PROMOTION, amount, now_ms())


def hold(amount: int) -> PlaceHold:
    return PlaceHold(KEY, "anna", new_id(), amount, now_ms(), now_ms() + 60_000, 1, 1)


def granting(tx: Transaction) -> int:
    return tx.decide(grant(10)).amount


async def all_of(writer: LedgerWriter, *waiting: Awaitable[object]) -> list[object]:
    """Start the writer when all of them wait; returns what they answered or raised."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    await asyncio.sleep(0)
    writer.start()
    try:
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        writer.close()


@pytest.mark.parametrize("culprits", [[], [NO_ACCOUNT]], ids=["in a batch", "one by one"])
async def test_holds_come_between_slow_units_of_work_and_the_quick_ones_stand(
    culprits: list[int], idle: LedgerWriter, database: Database
):
    """A hold that comes while the first slow one runs is placed before the last of seven."""
    loop = asyncio.get_running_loop()
    answered: list[str] = []

    async def place() -> None:
        await idle.execute(hold(1))
        answered.append("hold")

    def slow(tx: Transaction) -> None:
        if not placing:
            placing.append(asyncio.run_coroutine_threadsafe(place(), loop))
        tx.decide(grant(77))
        tx.database.execute_sql(ENDLESS).fetchall()

    async def work_slowly(number: int) -> None:
        with pytest.raises(DatabaseError, match="stopped after"):
            await idle.work([KEY], slow)
        answered.append(f"slow {number} was stopped")

    placing: list[object] = []
    results = await all_of(
        idle,
        idle.execute(grant(1_000)),
        *(idle.work([account_id], granting) for account_id in culprits),
        idle.work([KEY], granting),
        *(work_slowly(number) for number in range(7)),
        *(idle.work([KEY], granting) for _ in range(3)),
    )
    assert [result for result in results if result == 10] == [10] * 4
    assert [text for text in answered if text != "hold"] == [f"slow {number} was stopped" for number in range(7)]
    assert answered.index("hold") < 7
    assert database.primary.execute_sql("SELECT balance, held FROM account").fetchone() == (1_040, 1)


async def test_a_unit_of_work_of_many_short_statements_is_stopped_too(idle: LedgerWriter, database: Database):
    def long(tx: Transaction) -> str:
        for _ in range(200):
            tx.database.execute_sql(SHORT).fetchall()
        return "all ran"

    results = await all_of(
        idle, idle.execute(grant(1_000)), idle.work([KEY], long), idle.work([KEY], granting), idle.execute(hold(1))
    )
    assert "stopped after" in str(results[1])
    assert results[2] == 10
    assert database.primary.execute_sql("SELECT balance, held FROM account").fetchone() == (1_010, 1)


@pytest.mark.parametrize("seconds", [60, 0], ids=["kept", "used up"])
def test_the_limit_of_a_unit_of_work_ends_with_it(seconds: int, database: Database):
    """Or a COMMIT that waits for a standby would be cut short, and nothing could be rolled back."""
    if database.path is not None:
        pytest.skip("SQLite has no such limit of its own")
    execute, store = database.primary.execute_sql, open_store(database)
    with store.transaction():
        with contextlib.suppress(peewee.OperationalError), savepoint(database.primary), store.time_limit(seconds):
            assert execute("SHOW statement_timeout").fetchone() != ("0",)
        assert execute("SHOW statement_timeout").fetchone() == ("0",)
