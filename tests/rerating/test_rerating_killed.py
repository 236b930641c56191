"""Reratings that die at any statement, and several at once: every difference is corrected exactly once."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from payments.lives import Death, make_mortal
from rerating_seed import Ledger, book, day

from credits_plugin import Usage
from credits_plugin.database import Reads, open_database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import IdMaker
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import AdminAction, ReratedUsage
from credits_plugin.pricing.patterns import Pattern
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.rerating import Posting, Scope, rerate

ONE, TWO = book("1"), book("2")
SCOPE = Scope(Pattern("m"), day(-3), day(1))
NAMES = ("anna", "boris", "carla")


def run(database_url: str, prices: PriceBook, *, dies_at: int | None = None) -> bool:
    """Rerate with connections of its own that die at the ``dies_at``-th statement; returns whether they did."""
    database, death = open_database(database_url), Death(dies_at)
    connections = make_mortal(database, death)
    new_id = IdMaker()
    reads, writer = Reads(database, threads=1), LedgerWriter(database, new_id=new_id)
    writer.start()
    try:
        posting = Posting(writer, new_id(), "tests", "killed")
        rerate(reads, prices, SCOPE, on_account=lambda *_: None, posting=posting)
    except Exception:
        if not death.came:
            raise
    finally:
        writer.close()
        reads.close()
        for connection in connections:
            with contextlib.suppress(Exception):
                connection.close()
    return death.came


def fill(ledger: Ledger) -> None:
    for number, name in enumerate(NAMES):
        ledger.give(name, 100_000)
        for tokens in range(number + 2):
            ledger.use(name, Usage(input=tokens + 1), ONE)


def facts(ledger: Ledger) -> list[Any]:
    """Balances, corrections and rows: all that must be the same however often a rerating died."""
    query = ReratedUsage.select(ReratedUsage.transfer_id, ReratedUsage.corrected).order_by(ReratedUsage.transfer_id)
    rows = ledger.reads.run_sync(lambda database: list(query.tuples().execute(database)))
    lines = [[(line.code, line.amount) for line in ledger.lines(name)] for name in NAMES]
    return [[ledger.balance(name) for name in NAMES], lines, rows]


def test_a_rerating_killed_at_every_statement_is_finished_by_the_next_exactly_once(ledger: Ledger, database_url: str):
    """The next one dies one statement later, so deaths meet every state that an earlier death can have left."""
    fill(ledger)
    deaths, dies_at = 0, 1
    while run(database_url, TWO, dies_at=dies_at):
        deaths, dies_at = deaths + 1, dies_at + 1
    assert deaths > 10
    assert [line.amount for name in NAMES for line in ledger.lines(name)] == [-300, -600, -1_000]
    assert [ledger.balance(name) for name in NAMES] == [100_000 - 600, 100_000 - 1_200, 100_000 - 2_000]
    assert audit(ledger.database).findings == []


@pytest.mark.parametrize("dies_at", range(1, 60, 2))
def test_one_death_anywhere_leaves_what_the_next_run_completes(sqlite_url: str, dies_at: int):
    """Each on a new database, so that the death meets a run that still has everything to do."""
    from credits_plugin.database import migrate

    database = open_database(sqlite_url)
    migrate(database)
    writer, reads = LedgerWriter(database, new_id=IdMaker()), Reads(database, threads=1)
    writer.start()
    ledger = Ledger(database, writer, reads)
    fill(ledger)
    run(sqlite_url, TWO, dies_at=dies_at)
    half = [sum(line.amount for line in ledger.lines(name)) for name in NAMES]
    assert all(amount in {0, whole} for amount, whole in zip(half, (-300, -600, -1_000), strict=True))
    run(sqlite_url, TWO)
    assert [ledger.balance(name) for name in NAMES] == [100_000 - 600, 100_000 - 1_200, 100_000 - 2_000]
    assert audit(database).findings == []
    writer.close()
    reads.close()


def test_several_reratings_at_once_correct_everything_once(ledger: Ledger, database_url: str):
    fill(ledger)
    threads = [threading.Thread(target=run, args=(database_url, TWO)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert facts(ledger)[:2] == [
        [100_000 - 600, 100_000 - 1_200, 100_000 - 2_000],
        [[(10, -300)], [(10, -600)], [(10, -1_000)]],
    ]


def test_requests_go_on_while_a_rerating_runs(ledger: Ledger, database_url: str):
    fill(ledger)
    stop = threading.Event()
    spent = []

    def spend() -> None:
        while not stop.is_set():
            spent.append(ledger.use("anna", Usage(input=1), TWO, at_ms=day(0)))

    host = threading.Thread(target=spend)
    host.start()
    run(database_url, TWO)
    stop.set()
    host.join()
    assert ledger.balance("anna") == 100_000 - 600 - sum(spent)
    assert audit(ledger.database).findings == []


def test_a_run_that_died_has_left_its_record_and_the_next_makes_its_own(ledger: Ledger, database_url: str):
    fill(ledger)
    dies_at = 1
    while not facts(ledger)[2]:
        run(database_url, TWO, dies_at=dies_at)
        dies_at += 1
    run(database_url, TWO)
    query = AdminAction.select(AdminAction.action, AdminAction.after).tuples()
    actions = ledger.reads.run_sync(lambda database: list(query.execute(database)))
    assert {action for action, _ in actions} == {"rerate"}
    assert actions[-1][1] is not None
