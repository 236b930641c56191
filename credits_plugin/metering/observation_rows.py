"""Histograms in the database: added up over all hosts, kept short, read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import peewee
from peewee import EXCLUDED, fn

from ..ledger.work import Transaction
from ..models import Observation
from .observations import ALL_ACCOUNTS, Key, Kind, Seen

MOST_ROWS: Final = 500
"""Buckets that one unit of work stores, and accounts that one read brings."""
_KEPT_DAYS: Final = 90
_DAY_MS: Final = 86_400_000
_MOST_OF_AN_ACCOUNT: Final = 1_000
_MOST_OF_ALL: Final = 100_000
_COLUMNS: Final = Observation._meta.sorted_fields  # noqa: SLF001 - Peewee's documented name
_KEY: Final = (Observation.account_id, Observation.kind, Observation.model)


def store(tx: Transaction, seen: Sequence[Seen]) -> None:
    """Add what was seen to what is stored, and forget what no account has added to for 90 days.

    Rows are written in the order of ``seen``, the same for all hosts if it is sorted. Old sizes count less: a histogram
    of sizes that is full is halved.
    """
    if seen:
        rows = [(*one, tx.at_ms) for one in seen]
        added = {
            Observation.count: Observation.count + EXCLUDED.count,
            Observation.updated_at_ms: EXCLUDED.updated_at_ms,
        }
        query = Observation.insert_many(rows, _COLUMNS).on_conflict(
            conflict_target=[*_KEY, Observation.bucket], update=added
        )
        query.execute(tx.database)
        _halve_full(tx.database, {one[:3] for one in seen if one.kind == Kind.OUTPUT})
    old = (Observation.updated_at_ms < tx.at_ms - _KEPT_DAYS * _DAY_MS) & (Observation.account_id != ALL_ACCOUNTS)
    Observation.delete().where(old).execute(tx.database)


def load(database: peewee.Database, account_ids: Iterable[int]) -> list[Seen]:
    """Return all histograms over all accounts, and those of the given accounts."""
    mine = Observation.account_id.in_([ALL_ACCOUNTS, *account_ids])
    query = Observation.select(*_KEY, Observation.bucket, Observation.count).where(mine)
    return [Seen(*row) for row in query.tuples().execute(database)]


def _halve_full(database: peewee.Database, keys: Iterable[Key]) -> None:
    for key in sorted(keys):
        whole = _rows_of(key)
        most = _MOST_OF_ALL if key[0] == ALL_ACCOUNTS else _MOST_OF_AN_ACCOUNT
        total = Observation.select(fn.SUM(Observation.count)).where(whole).tuples().execute(database)[0][0]
        if total > most:
            Observation.update({Observation.count: Observation.count / 2}).where(whole).execute(database)
            Observation.delete().where(whole & (Observation.count == 0)).execute(database)


def _rows_of(key: Key) -> peewee.Expression:
    account_id, kind, model = key
    return (Observation.account_id == account_id) & (Observation.kind == kind) & (Observation.model == model)
