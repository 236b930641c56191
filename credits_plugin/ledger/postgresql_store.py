"""Set-wise SQL for PostgreSQL and what speaks its protocol: rows locked in sorted order, sets passed as arrays."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import psycopg

from ..database import Database
from .book import Book
from .budget_entries import BudgetKey, BudgetState
from .entries import AccountState, HoldState, LotState
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

_LOCK_ACCOUNTS: Final = f"SELECT {ACCOUNT_COLUMNS} FROM account WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE"
_READ_HOLDS: Final = f"SELECT {HOLD_COLUMNS} FROM hold WHERE id = ANY(%s::bigint[])"
_TOLD_EVERY_S: Final = 0.1
"""How much longer than its limit a unit of work may take, because the server was not told for each statement."""


class PostgresqlStore:
    """PostgreSQL and what speaks its protocol: rows locked in sorted order, sets passed as arrays."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._in_pipeline = False

    def transaction(self) -> AbstractContextManager[Any]:
        """See :class:`Store`."""
        return self.database.primary.atomic()

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """See :class:`Store`. Two round trips: up to what is read, and all writes with the COMMIT.

        A statement that fails takes the rest of the pipeline with it, the COMMIT included.
        """
        primary: Any = self.database.primary
        connection, self._in_pipeline = self._connection, True
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                yield
                committed = connection.execute("COMMIT")
            primary.require_committed(committed)
        except BaseException:
            primary.close()  # and so the server rolls back what is open
            raise
        finally:
            self._in_pipeline = False

    def is_unchanged(self) -> bool:
        """See :class:`Store`; another host may write at any time, and only the rows' locks tell."""
        return False

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """See :class:`Store`. Lifted at the end: a COMMIT that waits for a standby must never be cut short."""
        connection = self._connection
        usual = connection.cursor_factory
        connection.cursor_factory = _cursors_until(time.monotonic() + seconds, usual)
        try:
            yield
        finally:
            connection.cursor_factory = usual
        connection.execute("SET LOCAL statement_timeout = 0")

    def read(
        self, account_ids: Collection[int], hold_ids: Collection[int]
    ) -> tuple[list[AccountState], list[HoldState]]:
        """See :class:`Store`; sorted locks cannot deadlock with another host's."""
        execute = self._connection.execute
        accounts = execute(_LOCK_ACCOUNTS, (integers(sorted(account_ids)),)) if account_ids else ()
        holds = execute(_READ_HOLDS, (integers(hold_ids),)) if hold_ids else ()
        return [AccountState(*row) for row in accounts], [HoldState._make(row) for row in holds]

    def holds(self, ids: Collection[int]) -> list[HoldState]:
        """See :class:`Store`."""
        return self.read((), ids)[1]

    def requests(self, keys: Collection[tuple[int, str]]) -> list[HoldState]:
        """See :class:`Store`."""
        wanted = list(keys)
        if not wanted:
            return []
        sql = (
            f"SELECT {HOLD_COLUMNS} FROM hold JOIN unnest(%s::bigint[], %s::text[]) AS wanted (a, r) "
            "ON account_id = wanted.a AND request_id = wanted.r"
        )
        accounts, names = [key[0] for key in wanted], [key[1] for key in wanted]
        return [HoldState._make(row) for row in self._connection.execute(sql, (accounts, names)).fetchall()]

    def lots(self, account_ids: Collection[int]) -> list[LotState]:
        """See :class:`Store`."""
        sql = f"SELECT {LOT_COLUMNS} FROM lot WHERE remaining > 0 AND account_id = ANY(%s::bigint[])"
        return [LotState(*row) for row in self._connection.execute(sql, (integers(account_ids),))]

    def budgets(self, keys: Collection[BudgetKey], ids: Collection[int]) -> list[BudgetState]:
        """See :class:`Store`; one round trip, that batches without budgets do not make."""
        execute, rows = self._connection.execute, []
        if keys:
            owners, kinds, names = zip(*keys, strict=True)
            sql = (
                f"SELECT {BUDGET_COLUMNS} FROM budget JOIN unnest(%s::bigint[], %s::text[], %s::text[]) "
                "AS wanted (a, k, n) ON account_id = wanted.a AND kind = wanted.k AND name = wanted.n"
            )
            rows.append(execute(sql, (integers(owners), list(map(str, kinds)), list(names))))
        if ids:
            rows.append(execute(f"SELECT {BUDGET_COLUMNS} FROM budget WHERE id = ANY(%s::bigint[])", (integers(ids),)))
        return [BudgetState(*row) for cursor in rows for row in cursor]

    def transfers(self, ids: Collection[int]) -> list[tuple[int, int, int]]:
        """See :class:`Store`."""
        sql = "SELECT id, account_id, amount FROM transfer WHERE id = ANY(%s::bigint[])"
        return list(self._connection.execute(sql, (integers(ids),)))

    def anchors(self, account_ids: Collection[int]) -> list[tuple[int, int]]:
        """See :class:`Store`."""
        sql = "SELECT account_id, transfer_id FROM archive_anchor WHERE account_id = ANY(%s::bigint[])"
        return list(self._connection.execute(sql, (integers(account_ids),)))

    def flush(self, book: Book) -> None:
        """See :class:`Store`; the statements share one round trip."""
        with contextlib.nullcontext() if self._in_pipeline else self._connection.pipeline():
            self._write(book)
        book.clear_writes()

    def _write(self, book: Book) -> None:
        if book.new_accounts:
            rows = [new_account_row(book, account_id) for account_id in book.new_accounts]
            self._insert(
                "account",
                f"{ACCOUNT_COLUMNS}, created_at_ms",
                "bigint text bigint bigint bigint bigint bytea bigint int bigint",
                rows,
            )
        self._write_holds(book)
        if book.new_transfers:
            types = (
                "bigint bigint bigint bigint int bigint bigint bigint bytea int bigint bigint bigint bigint bigint text"
            )
            self._insert("transfer", TRANSFER_COLUMNS, types, book.new_transfers)
        if book.new_details:
            self._insert("usage_detail", DETAIL_COLUMNS, "bigint bigint text", book.new_details)
        if changed := (book.changed_accounts | book.changed_holders) - book.new_accounts.keys():
            self._update(
                "account",
                "id balance held seq last_transfer_id last_hash",
                "bigint bigint bigint bigint bigint bytea",
                [
                    (one.id, one.balance, one.held, one.seq, one.last_transfer_id, one.last_hash)
                    for one in map(book.accounts.__getitem__, changed)
                ],
            )
        if moved := book.moved_expiries - book.new_accounts.keys():
            expiries = [(account_id, book.accounts[account_id].next_expiry_at_ms) for account_id in moved]
            self._update("account", "id next_expiry_at_ms", "bigint bigint", expiries)
        self._write_lots(book)

    def _write_lots(self, book: Book) -> None:
        if book.new_lots:
            lots = [lot_row(lot) for lot in book.new_lots.values()]
            self._insert("lot", LOT_COLUMNS, "bigint bigint int bigint bigint bigint bigint bigint", lots)
        if book.changed_lots:
            left = [(lot.id, lot.remaining, lot.expired) for lot in book.changed_lots.values()]
            self._update("lot", "id remaining expired", "bigint bigint bigint", left)
        if book.changed_budgets or book.moved_budgets:
            self._write_budgets(book)
        for event in book.new_events:
            self._connection.execute(PUT_EVENT, event)

    def _write_holds(self, book: Book) -> None:
        if book.new_holds:
            self._insert(
                "hold",
                HOLD_COLUMNS,
                "bigint bigint bigint int bigint int bigint text text text",
                book.new_holds.values(),
            )
        if book.extended_holds:
            extended = [(one.id, one.amount, one.expires_at_ms, one.budgets) for one in book.extended_holds.values()]
            self._update("hold", "id amount expires_at_ms budgets", "bigint bigint bigint text", extended)
        if book.deleted_holds:
            self._delete("hold", book.deleted_holds)
        if book.ended_holds:
            ended = [(hold.id, hold.status) for hold in book.ended_holds.values()]
            self._update("hold", "id state", "bigint int", ended)

    def _write_budgets(self, book: Book) -> None:
        """Write what has changed; a budget that was removed may have a successor under the same key."""
        if book.removed_budgets:
            self._delete("budget", book.removed_budgets)
        if book.new_budgets:
            types = "bigint bigint text text text bigint bigint bigint bigint text bigint"
            self._insert("budget", BUDGET_COLUMNS, types, map(budget_row, book.new_budgets.values()))
        if changed := book.changed_budgets - book.new_budgets.keys():
            rows = map(book.budgets_by_id.__getitem__, changed)
            self._update(
                "budget",
                'id "limit" spent held starts_at_ms state used_at_ms',
                "bigint bigint bigint bigint bigint text bigint",
                [
                    (one.id, one.limit, one.spent, one.held, one.starts_at_ms, one.status, one.used_at_ms)
                    for one in rows
                ],
            )
        if moved := book.moved_budgets - book.new_accounts.keys():
            counts = [(account_id, book.accounts[account_id].budgets) for account_id in moved]
            self._update("account", "id budgets", "bigint int", counts)

    def _delete(self, table: str, ids: Sequence[int]) -> None:
        self._connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s::bigint[])", (integers(ids),))

    def _insert(self, table: str, columns: str, types: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows; columns that have no value in any of them are left out."""
        names, kinds, arrays = [], [], []
        for name, kind, column in zip(columns.split(", "), types.split(), zip(*rows, strict=True), strict=True):
            if column.count(None) < len(column):
                names.append(name)
                kinds.append(kind)
                arrays.append(array(kind, column))
        sql = f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM unnest({marks(kinds)})"
        self._connection.execute(sql, arrays)

    def _update(self, table: str, columns: str, types: str, rows: Sequence[Sequence[Any]]) -> None:
        names, kinds = columns.split(), types.split()
        assignments = ", ".join(f"{name} = new.{name}" for name in names[1:])
        sql = (
            f"UPDATE {table} SET {assignments} FROM unnest({marks(kinds)}) AS new ({', '.join(names)}) "
            f"WHERE {table}.id = new.id"
        )
        self._connection.execute(sql, list(map(array, kinds, zip(*rows, strict=True))))

    @property
    def _connection(self) -> Any:
        return self.database.primary.connection()


def _cursors_until(deadline_s: float, make: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes cursors, one a statement, until ``deadline_s``; what runs then is stopped by the server.

    The server counts anew for each statement, so it is told what is left, though not for every short one.
    """
    told_s = -math.inf

    def make_limited(connection: Any, **options: Any) -> Any:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s > deadline_s:
            raise psycopg.OperationalError("no time is left for its next statement")
        if now_s - told_s > _TOLD_EVERY_S:
            told_s, left_ms = now_s, math.ceil((deadline_s - now_s) * 1000) + 1
            make(connection).execute(f"SET LOCAL statement_timeout = {left_ms}")
        return make(connection, **options)

    return make_limited


# Array literals of our own: the driver makes them item by item in Python, which was measured at half a batch's time.


def marks(kinds: Iterable[str]) -> str:
    """Return the parameters of ``unnest`` for columns of these types."""
    return ", ".join(f"%s::{kind}[]" for kind in kinds)


def array(kind: str, column: Sequence[Any]) -> Any:
    """Return what PostgreSQL reads as an array of ``kind``; texts are left to the driver, which escapes them."""
    if kind == "text":
        return list(column)
    if kind == "bytea":
        return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in column]) + "}"
    return integers(column)


def integers(values: Collection[int | None]) -> str:
    """Return what PostgreSQL reads as an array of integers."""
    items = map(str, values) if None not in values else ["NULL" if value is None else str(value) for value in values]
    return "{" + ",".join(items) + "}"
