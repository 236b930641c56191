"""A long audit goes by ranges of accounts, each a snapshot of its own, so that none pins the database for long."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

import peewee

from ..snapshots import Snapshot, snapshot

FIRST_KEY: Final = -(1 << 63)
LAST_KEY: Final = (1 << 63) - 1
TRANSFERS_PER_RANGE: Final = 1_000_000
"""About six seconds of snapshot on SQLite. Larger ledgers take larger ranges, for each costs a scan of the table."""
_MOST_RANGES: Final = 64


def account_ranges(
    database: peewee.Database, *, start: int = FIRST_KEY, transfers: int = TRANSFERS_PER_RANGE
) -> Generator[tuple[Snapshot, tuple[int, int]], None, None]:
    """Yield (snapshot, (first, last) account id) of consecutive ranges from ``start`` on; together they have no gap.

    A range has about ``transfers`` transfers, or a 64th of all if that is more; one account is never divided.
    """
    size = None
    while start <= LAST_KEY:
        with snapshot(database) as rows:
            size = size or max(transfers, _transfer_count(rows) // _MOST_RANGES)
            last = _last_of_range(rows, start, size)
            yield rows, (start, last)
        start = last + 1


def _transfer_count(rows: Snapshot) -> int:
    return int(rows.rows("SELECT COALESCE(SUM(seq), 0) FROM account")[0][0])


def _last_of_range(rows: Snapshot, start: int, size: int) -> int:
    count = 0
    for account_id, seq in rows.stream("SELECT id, seq FROM account WHERE id >= %s ORDER BY id", [start]):
        count += seq + 1
        if count >= size:
            return int(account_id)
    return LAST_KEY
