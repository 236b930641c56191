"""Set-wise SQL for SQLite: padded IN lists and ``executemany``, which is faster there than JSON arrays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from ..database import Database
from .book import Book
from .budget_entries import BudgetKey, BudgetState
from .entries import AccountState, HoldState, LotState, TransferValues
from .store import (
    ACCOUNT_COLUMNS,
    BUDGET_COLUMNS,
    DETAIL_COLUMNS,
    HOLD_COLUMNS,
    LOT_COLUMNS,
    PUT_EVENT,
    TRANSFER_COLUMNS,
    budget_row,
    lot_row,
    new_account_row,
)

_PLAIN_HOLD: Final = 7
"""Columns of a hold without request, run and budgets: most of them, and those three are last."""
_HASH: Final = TRANSFER_COLUMNS.split(", ").index("hash")
_UPDATE_BUDGET: Final = (
    'UPDATE budget SET "limit" = ?, spent = ?, held = ?, starts_at_ms = ?, state = ?, used_at_ms = ? WHERE id = ?'
)
_STEPS_BETWEEN_LOOKS: Final = 20_000
"""Steps of SQLite's machine, about a millisecond, between two looks at the clock."""


def _insert(table: str, columns: str, count: int) -> str:
    """Return the statement that inserts the first ``count`` columns."""
    names = columns.split(", ")[:count]
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({','.join('?' * count)})"


_INSERT_HOLD: Final = _insert("hold", HOLD_COLUMNS, 10)
_INSERT_PLAIN_HOLD: Final = _insert("hold", HOLD_COLUMNS, _PLAIN_HOLD)
_INSERT_TRANSFER: Final = _insert("transfer", TRANSFER_COLUMNS, 16)
_INSERT_PLAIN_TRANSFER: Final = _insert("transfer", TRANSFER_COLUMNS, 15)


class SqliteStore:
    """SQLite: ``BEGIN IMMEDIATE`` takes the one write lock before anything is read."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._data_version = 0

    def transaction(self) -> AbstractContextManager[Any]:
        """See :class:`Store`; on disk when it ends."""
        return self._begin("FULL")

    def batch(self) -> AbstractContextManager[Any]:
        """See :class:`Store`; on disk after the next sync of the WAL (:mod:`.wal_file`)."""
        return self._begin("NORMAL")

    def _begin(self, synchronous: str) -> AbstractContextManager[Any]:
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        return self.database.primary.atomic("IMMEDIATE")

    def is_unchanged(self) -> bool:
        """See :class:`Store`; the file's data version moves with every commit but this connection's own."""
        before = self._data_version
        self._data_version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return before == self._data_version

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """See :class:`Store`."""
        connection, until = self._connection, time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)
        try:
            yield
        finally:
            connection.set_progress_handler(None, 0)

    def read(
        self, account_ids: Collection[int], hold_ids: Collection[int]
    ) -> tuple[list[AccountState], list[HoldState]]:
        """See :class:`Store`; the write lock covers every account."""
        accounts = self._select(ACCOUNT_COLUMNS, "account", "id", account_ids)
        return [AccountState(*row) for row in accounts], self.holds(hold_ids)

    def holds(self, ids: Collection[int]) -> list[HoldState]:
        """See :class:`Store`."""
        return [HoldState._make(row) for row in self._select(HOLD_COLUMNS, "hold", "id", ids)]

    def requests(self, keys: Collection[tuple[int, str]]) -> list[HoldState]:
        """See :class:`Store`."""
        sql = f"SELECT {HOLD_COLUMNS} FROM hold WHERE account_id = ? AND request_id = ?"
        found = (self._connection.execute(sql, key).fetchone() for key in keys)
        return [HoldState._make(row) for row in found if row is not None]

    def lots(self, account_ids: Collection[int]) -> list[LotState]:
        """See :class:`Store`."""
        return [LotState(*row) for row in self._select(LOT_COLUMNS, "lot", "remaining > 0 AND account_id", account_ids)]

    def budgets(self, keys: Collection[BudgetKey], ids: Collection[int]) -> list[BudgetState]:
        """See :class:`Store`."""
        execute = self._connection.execute
        sql = f"SELECT {BUDGET_COLUMNS} FROM budget WHERE account_id = ? AND kind = ? AND name = ?"
        rows = [row for key in keys for row in execute(sql, key)]
        return [BudgetState(*row) for row in rows + self._select(BUDGET_COLUMNS, "budget", "id", ids)]

    def transfers(self, ids: Collection[int]) -> list[tuple[int, int, int]]:
        """See :class:`Store`."""
        return self._select("id, account_id, amount", "transfer", "id", ids)

    def anchors(self, account_ids: Collection[int]) -> list[tuple[int, int]]:
        """See :class:`Store`."""
        return self._select("account_id, transfer_id", "archive_anchor", "account_id", account_ids)

    def flush(self, book: Book) -> None:
        """See :class:`Store`."""
        execute = self._connection.executemany
        if book.new_accounts:
            rows = [new_account_row(book, account_id) for account_id in book.new_accounts]
            execute(f"INSERT INTO account ({ACCOUNT_COLUMNS}, created_at_ms) VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
        self._write_holds(book)
        if book.new_transfers:
            self._insert_transfers(book.new_transfers)
        if book.new_details:
            execute(_insert("usage_detail", DETAIL_COLUMNS, 3), book.new_details)
        self._update_accounts(book)
        if book.new_lots:
            lots = [lot_row(lot) for lot in book.new_lots.values()]
            execute(f"INSERT INTO lot ({LOT_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", lots)
        if book.changed_lots:
            left = [(lot.remaining, lot.expired, lot.id) for lot in book.changed_lots.values()]
            execute("UPDATE lot SET remaining = ?, expired = ? WHERE id = ?", left)
        if book.changed_budgets or book.moved_budgets:
            self._write_budgets(book)
        if book.new_events:
            execute(PUT_EVENT.replace("%s", "?"), book.new_events)
        book.clear_writes()

    def _write_holds(self, book: Book) -> None:
        execute = self._connection.executemany
        if book.new_holds:
            self._insert_holds(book.new_holds.values())
        if book.extended_holds:
            extended = [(one.amount, one.expires_at_ms, one.budgets, one.id) for one in book.extended_holds.values()]
            execute("UPDATE hold SET amount = ?, expires_at_ms = ?, budgets = ? WHERE id = ?", extended)
        if book.deleted_holds:
            execute("DELETE FROM hold WHERE id = ?", [(hold_id,) for hold_id in book.deleted_holds])
        if book.ended_holds:
            ended = [(hold.status, hold.id) for hold in book.ended_holds.values()]
            execute("UPDATE hold SET state = ? WHERE id = ?", ended)

    def _write_budgets(self, book: Book) -> None:
        """Write what has changed; a budget that was removed may have a successor under the same key."""
        execute, accounts = self._connection.executemany, book.accounts
        execute("DELETE FROM budget WHERE id = ?", [(budget_id,) for budget_id in book.removed_budgets])
        new = [budget_row(budget) for budget in book.new_budgets.values()]
        execute(f"INSERT INTO budget ({BUDGET_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", new)
        changed = map(book.budgets_by_id.__getitem__, book.changed_budgets - book.new_budgets.keys())
        execute(
            _UPDATE_BUDGET,
            [(one.limit, one.spent, one.held, one.starts_at_ms, one.status, one.used_at_ms, one.id) for one in changed],
        )
        moved = [(accounts[key].budgets, key) for key in book.moved_budgets - book.new_accounts.keys()]
        execute("UPDATE account SET budgets = ? WHERE id = ?", moved)

    def _update_accounts(self, book: Book) -> None:
        execute, accounts, new = self._connection.executemany, book.accounts, book.new_accounts.keys()
        if changed := book.changed_accounts - new:
            execute(
                "UPDATE account SET balance = ?, held = ?, seq = ?, last_transfer_id = ?, last_hash = ? WHERE id = ?",
                [
                    (one.balance, one.held, one.seq, one.last_transfer_id, bytearray(one.last_hash), one.id)
                    for one in map(accounts.__getitem__, changed)
                ],
            )
        if held := book.changed_holders - book.changed_accounts - new:
            execute("UPDATE account SET held = ? WHERE id = ?", [(accounts[key].held, key) for key in held])
        if moved := book.moved_expiries - new:
            expiries = [(accounts[key].next_expiry_at_ms, key) for key in moved]
            execute("UPDATE account SET next_expiry_at_ms = ? WHERE id = ?", expiries)

    # The driver looks for an adapter of all that is not exactly int, str, float or bytearray, None and bytes included,
    # and takes a slow way with tuples of a class: a hold was measured at 1.8 microseconds like that, at 0.7 like this.
    # To ask for its fields by number takes two thirds of the time that their names take.

    def _insert_holds(self, holds: Collection[HoldState]) -> None:
        plain = [hold[:_PLAIN_HOLD] for hold in holds if hold[7] is None and hold[8] is None and hold[9] is None]
        self._connection.executemany(_INSERT_PLAIN_HOLD, plain)
        if len(plain) < len(holds):
            named = [tuple(hold) for hold in holds if hold[_PLAIN_HOLD:] != (None, None, None)]
            self._connection.executemany(_INSERT_HOLD, named)

    def _insert_transfers(self, transfers: list[TransferValues]) -> None:
        plain = [
            (*row[:_HASH], bytearray(row[_HASH]), *row[_HASH + 1 : -1])
            for row in transfers
            if row[-1] is None and row[-2] is not None
        ]
        self._connection.executemany(_INSERT_PLAIN_TRANSFER, plain)
        if len(plain) < len(transfers):
            others = [row for row in transfers if row[-1] is not None or row[-2] is None]
            self._connection.executemany(_INSERT_TRANSFER, others)

    def _select(self, columns: str, table: str, where: str, ids: Iterable[int]) -> list[Any]:
        """Read rows by id; lists are padded to powers of two, so that SQLite's statement cache knows them."""
        wanted = list(ids)
        if not wanted:
            return []
        size = 1 << (len(wanted) - 1).bit_length()
        wanted += [0] * (size - len(wanted))
        sql = f"SELECT {columns} FROM {table} WHERE {where} IN ({','.join('?' * size)})"
        rows: list[Any] = self._connection.execute(sql, wanted).fetchall()
        return rows

    @property
    def _connection(self) -> Any:
        return self.database.primary.connection()
