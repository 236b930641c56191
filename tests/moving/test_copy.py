"""Copying a ledger to another database: every direction, proven, all or nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, Dialect, migrate, open_database
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import StartRun
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import PriceVersion
from credits_plugin.moving.copy import copy_database

new_id = IdMaker()


async def fill(writer: LedgerWriter, *, users: int = 20) -> None:
    async def one(user: str) -> None:
        key, now = account_key(user), now_ms()
        await writer.execute(PostTransfer(key, user, new_id(), Code.PROMOTION, 10_000, now, "welcome"))
        for cost in (1, 20, 300):
            placed = await writer.execute(
                PlaceHold(key, user, new_id(), 500, now, now + 60_000, 1, 7, f"{user}-{cost}")
            )
            await writer.execute(SettleHold(key, placed.hold_id, cost, now, Usage(input=cost)))
        await writer.execute(StartRun(key, user, new_id(), "r", 900, now))
        await writer.execute(PlaceHold(key, user, new_id(), 5, now, now + 60_000, 1, 7, run_id="r"))

    await asyncio.gather(*(one(f"user-{number}") for number in range(users)))
    price = {"digest": "d", "provider": "p", "model": "m", "record": "{}", "created_at_ms": 0}
    await writer.work((), lambda tx: PriceVersion.insert(price).execute(tx.database))


@pytest.fixture(params=["to sqlite", "to postgresql"])
def target_url(request: pytest.FixtureRequest, tmp_path) -> str:
    to_sqlite = request.param == "to sqlite"
    return f"sqlite:///{tmp_path / 'target.db'}" if to_sqlite else request.getfixturevalue("second_postgresql_url")


@pytest.fixture
def target(target_url: str) -> Database:
    opened = open_database(target_url)
    yield opened
    opened.close_thread()


async def test_a_copy_has_every_row_and_goes_on_where_the_source_was(
    writer: LedgerWriter, database: Database, target: Database
):
    await fill(writer)
    writer.close()
    report = copy_database(database, target)
    assert (report.accounts, report.rows["transfer"], report.rows["hold"]) == (20, 80, 80)
    assert report.rows["budget"] == 20
    assert audit(target).clean
    assert (audit(target).balance_total, audit(target).open_holds) == (20 * (10_000 - 321), 20)
    further = LedgerWriter(target, new_id=new_id)
    further.start()
    key = account_key("user-3")
    assert (await further.execute(PostTransfer(key, "user-3", new_id(), Code.PROMOTION, 1, now_ms()))).balance == 9_680
    price = {"digest": "e", "provider": "p", "model": "m", "record": "{}", "created_at_ms": 0}
    await further.work((), lambda tx: PriceVersion.insert(price).execute(tx.database))
    further.close()
    assert audit(target).clean


async def test_a_target_with_rows_is_refused_and_left_alone(writer: LedgerWriter, database: Database, target: Database):
    await fill(writer, users=1)
    writer.close()
    migrate(target)
    other = LedgerWriter(target, new_id=new_id)
    other.start()
    await other.execute(PostTransfer(account_key("old"), "old", new_id(), Code.PROMOTION, 5, now_ms()))
    other.close()
    with pytest.raises(DatabaseError, match="empty database"):
        copy_database(database, target)
    assert (audit(target).accounts, audit(target).balance_total) == (1, 5)


async def test_a_copy_whose_books_do_not_add_up_is_not_kept(writer: LedgerWriter, database: Database, target: Database):
    await fill(writer, users=2)
    writer.close()
    database.primary.execute_sql("UPDATE account SET balance = balance + 1 WHERE external_id = 'user-1'")
    with pytest.raises(DatabaseError, match=r"account user-1 balance .* nothing was kept"):
        copy_database(database, target)
    assert (audit(target).accounts, audit(target).transfers) == (0, 0)


async def test_hosts_that_write_meanwhile_wait_and_nothing_of_theirs_is_half_copied(
    writer: LedgerWriter, database: Database, target: Database
):
    await fill(writer, users=5)
    stop = asyncio.Event()

    async def go_on() -> int:
        grants = 0
        while not stop.is_set():
            await writer.execute(PostTransfer(account_key("busy"), "busy", new_id(), Code.PROMOTION, 1, now_ms()))
            grants += 1
        return grants

    busy = asyncio.create_task(go_on())
    await asyncio.sleep(0.05)
    report = await asyncio.to_thread(copy_database, database, target)
    stop.set()
    grants = await busy
    copied = audit(target)
    assert copied.clean
    assert report.rows["transfer"] == copied.transfers <= 20 + grants
    assert audit(database).transfers == 20 + grants


CORRUPTING = {
    Dialect.SQLITE: ["CREATE TRIGGER spoil AFTER INSERT ON hold BEGIN UPDATE hold SET run_id = 'x'; END"],
    Dialect.POSTGRESQL: [
        "CREATE FUNCTION spoil() RETURNS trigger AS $$ BEGIN NEW.run_id := 'x'; RETURN NEW; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER spoil BEFORE INSERT ON hold FOR EACH ROW EXECUTE FUNCTION spoil()",
    ],
}


async def test_a_copy_that_differs_in_a_field_that_no_invariant_covers_is_not_kept(
    writer: LedgerWriter, database: Database, target: Database
):
    await fill(writer, users=2)
    writer.close()
    migrate(target)
    for statement in CORRUPTING[target.dialect]:
        target.primary.execute_sql(statement)
    target.close_thread()
    with pytest.raises(DatabaseError, match=r"hold: 8 rows .* nothing was kept"):
        copy_database(database, target)
    assert (audit(target).accounts, audit(target).transfers) == (0, 0)


async def test_balances_and_heads_are_the_same_on_both_sides(
    writer: LedgerWriter, database: Database, target: Database
):
    await fill(writer, users=3)
    writer.close()
    copy_database(database, target)
    columns = "id, external_id, balance, held, seq, last_transfer_id, last_hash"
    sides = []
    for side in (database, target):
        with side.primary.connection_context():
            rows = side.primary.execute_sql(f"SELECT {columns} FROM account ORDER BY id").fetchall()
            sides.append([(*row[:-1], bytes(row[-1])) for row in rows])
    assert sides[0] == sides[1]
    assert len(sides[0]) == 3


KILLED = """
import sys, time
from credits_plugin.database import open_database
from credits_plugin.moving import copy

def stop_here(*_):
    print("written, not proven", flush=True)
    time.sleep(600)

copy._prove = stop_here
copy.copy_database(open_database(sys.argv[1]), open_database(sys.argv[2]))
"""


async def test_a_copy_that_was_killed_halfway_leaves_an_empty_target_and_a_second_try_succeeds(
    writer: LedgerWriter, database: Database, database_url: str, target: Database, target_url: str
):
    await fill(writer, users=3)
    writer.close()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, database_url, target_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "written, not proven\n"
    process.kill()
    process.communicate()
    assert (audit(target).accounts, audit(target).transfers) == (0, 0)
    assert copy_database(database, target).accounts == 3
