"""Taking archived rows out of the database: in short steps through the ledger's one door, each all or nothing.

A step removes consecutive links of some accounts and moves their anchors to the last of them in one transaction. It
removes rows whose hash is the archived one, behind the anchor where the file says, and nothing else; so it may be
repeated, and a file of another history removes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import peewee

from ...errors import LedgerError
from ...ledger.auditing.starts import ChainStart
from ...ledger.keysets import select
from ...ledger.work import Transaction
from ...ledger.writer import LedgerWriter
from .rows import ArchivedRow, link_before, link_of

_STEP_ACCOUNTS: Final = 256
_ANCHOR: Final = "account_id, seq, transfer_id, hash, balance"
_MOVE: Final = (
    "ON CONFLICT (account_id) DO UPDATE SET seq = excluded.seq, transfer_id = excluded.transfer_id, "
    "hash = excluded.hash, balance = excluded.balance"
)


def remove_rows(writer: LedgerWriter, rows: Iterable[ArchivedRow], *, step_rows: int) -> int:
    """Remove a part's rows, those that are still there; returns how many they were.

    Raises:
        LedgerError: the database has another history than the file; the step was not done.
        OutcomeUnknown: the database failed; go on by archiving again.
    """
    return sum(writer.work_sync(step, partial(_remove, step=step)) for step in _steps(rows, step_rows))


def anchors_of(database: peewee.Database, account_ids: Collection[int]) -> dict[int, ChainStart]:
    """Return the anchors of these accounts, of those that have one."""
    marks = ", ".join(["%s"] * len(account_ids))
    found = select(database, f"SELECT {_ANCHOR} FROM archive_anchor WHERE account_id IN ({marks})", [*account_ids])
    return {row[0]: ChainStart(row[1], row[2], bytes(row[3]), row[4]) for row in found}


def _steps(rows: Iterable[ArchivedRow], step_rows: int) -> Iterator[dict[int, list[ArchivedRow]]]:
    step: dict[int, list[ArchivedRow]] = {}
    count, last = 0, None
    for row in rows:
        if count >= step_rows or (row.account_id not in step and len(step) >= _STEP_ACCOUNTS):
            yield step
            step, count = {}, 0
        if row.account_id not in step and last is not None and last.account_id == row.account_id:
            step[row.account_id] = [row._replace(previous_hash=last.hash)]
        else:
            step.setdefault(row.account_id, []).append(row)
        count, last = count + 1, row
    if step:
        yield step


def _remove(tx: Transaction, *, step: Mapping[int, Sequence[ArchivedRow]]) -> int:
    anchors = anchors_of(tx.database, step.keys())
    gone: list[ArchivedRow] = []
    moved: list[ArchivedRow] = []
    for account_id, rows in step.items():
        left = _behind_anchor(rows, anchors.get(account_id, ChainStart()))
        if left:
            _require_later_head(tx, left[-1])
            gone += left
            moved.append(left[-1])
    if gone:
        _delete(tx.database, gone)
        _move_anchors(tx.database, [(row.account_id, *link_of(row)) for row in moved])
    return len(gone)


def _behind_anchor(rows: Sequence[ArchivedRow], anchor: ChainStart) -> Sequence[ArchivedRow]:
    """Return the rows that follow the anchor, having seen that the anchor lies where the file says."""
    place = anchor.seq - rows[0].seq
    if place >= len(rows):
        return ()
    if anchor != (link_before(rows[0]) if place < 0 else link_of(rows[place])):
        first, last = rows[0].seq, rows[-1].seq
        msg = (
            f"account {rows[0].account_id}: the archive has numbers {first} to {last} of its chain, but the database's "
            f"anchor, number {anchor.seq}, is not on that chain: this folder belongs to another ledger, or to one that "
            "was restored; name another folder"
        )
        raise LedgerError(msg)
    return rows[place + 1 :]


def _require_later_head(tx: Transaction, row: ArchivedRow) -> None:
    account = tx.account(row.account_id)
    if account is None or account.seq <= row.seq:
        msg = (
            f"account {row.account_id}: the database's chain does not go on after number {row.seq}, so that stays; if "
            "it was restored from an older backup, name another folder"
        )
        raise LedgerError(msg)


def _delete(database: peewee.Database, rows: Sequence[ArchivedRow]) -> None:
    connection: Any = database.connection()
    if isinstance(database, peewee.SqliteDatabase):
        keys = [(row.id, row.account_id, row.hash) for row in rows]
        done = connection.executemany("DELETE FROM transfer WHERE id = ? AND account_id = ? AND hash = ?", keys)
    else:
        accounts = [row.account_id for row in rows]
        values = (accounts, [row.id for row in rows], [row.hash for row in rows], sorted(set(accounts)))
        done = connection.execute(
            "DELETE FROM transfer USING unnest(%s::bigint[], %s::bigint[], %s::bytea[]) AS gone (account_id, id, hash) "
            "WHERE transfer.account_id = gone.account_id AND transfer.id = gone.id AND transfer.hash = gone.hash "
            "AND transfer.account_id = ANY(%s)",
            values,
        )
    if done.rowcount != len(rows):
        msg = (
            f"of {len(rows)} archived transfers the database has {done.rowcount} as they were archived; this step "
            "removed nothing: run `credits audit`"
        )
        raise LedgerError(msg)


def _move_anchors(database: peewee.Database, anchors: Sequence[tuple[Any, ...]]) -> None:
    connection: Any = database.connection()
    if isinstance(database, peewee.SqliteDatabase):
        connection.executemany(f"INSERT INTO archive_anchor ({_ANCHOR}) VALUES (?, ?, ?, ?, ?) {_MOVE}", anchors)
    else:
        arrays = "unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[], %s::bigint[])"
        columns = [list(column) for column in zip(*anchors, strict=True)]
        connection.execute(f"INSERT INTO archive_anchor ({_ANCHOR}) SELECT * FROM {arrays} {_MOVE}", columns)
