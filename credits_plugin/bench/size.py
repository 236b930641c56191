"""Bytes on disk per transfer with its usage record, indexes included, on SQLite."""

from __future__ import annotations

from typing import Final

import peewee

from ..database import Database
from .environment import Bench
from .ledger import Load, ledger_of, pairs_per_second, writers
from .report import Bar, at_most, bar, not_measured

_NAME: Final = "SQLite: bytes per transfer, indexes included"
_GOAL: Final = at_most(120)


def measure_size(bench: Bench) -> list[Bar]:
    """Settle until there are enough transfers, and ask SQLite how large the table's and its indexes' pages are."""
    scale = bench.scale
    load = Load(scale.callers, scale.accounts, scale.seconds)
    with ledger_of(bench.sqlite(), accounts=scale.accounts) as database:
        with writers(database, count=1) as running:
            while (transfers := _count(database)) < scale.transfers:
                pairs_per_second(running, load)
        size = _bytes_of_transfers(database)
    if size is None:
        return [not_measured(_NAME, "B", _GOAL, why="this SQLite was built without dbstat")]
    return [bar(_NAME, size / transfers, "B", _GOAL), bar("SQLite: transfers that were weighed", transfers, "")]


def _count(database: Database) -> int:
    database.reader.connect(reuse_if_open=True)
    count: int = database.reader.execute_sql("SELECT count(*) FROM transfer").fetchone()[0]
    return count


def _bytes_of_transfers(database: Database) -> int | None:
    """Return the pages' size once all that was committed has reached the file; None where SQLite cannot tell."""
    database.primary.connect(reuse_if_open=True)
    database.primary.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    sql = "SELECT sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) WHERE tbl_name = 'transfer'"
    try:
        size: int = database.primary.execute_sql(sql).fetchone()[0]
    except peewee.OperationalError:
        return None
    return size
