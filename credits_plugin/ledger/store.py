"""Set-wise SQL of the ledger: six statements a batch, whatever its size, through Peewee's own connection.

Model-by-model ORM calls were measured to cost 95 % of the throughput here; everywhere else Peewee's models are used.
The two databases differ in how a set is passed: SQLite takes padded IN lists and ``executemany`` (faster there than
JSON arrays), PostgreSQL takes arrays (``ANY``, ``unnest``), one statement each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from ..database import Database, Dialect
from .entries import AccountState, HoldState, LotState
from .rules import Book

_ACCOUNT: Final = "id, external_id, balance, held, seq, last_transfer_id, last_hash, next_expiry_at_ms"
_HOLD: Final = "id, account_id, amount, state, expires_at_ms, price_version, input_tokens, request_id, run_id"
_LOT: Final = "id, account_id, priority, expires_at_ms, amount, remaining, payment_id, expired"
_TRANSFER: Final = (
    "id, account_id, seq, previous_id, code, amount, balance_after, at_ms, hash, "
    "price_version, input, cache_read, cache_write, output, reasoning, reference"
)


class Store(Protocol):
    """What the writer needs of a database. Used by the writer's thread alone."""

    database: Database

    def transaction(self) -> AbstractContextManager[Any]:
        """Open the batch's transaction; commit at the end, roll back on an exception."""

    def accounts(self, ids: Iterable[int]) -> list[AccountState]:
        """Read and lock accounts, in sorted order."""

    def holds(self, ids: Iterable[int]) -> list[HoldState]:
        """Read holds."""

    def requests(self, keys: Iterable[tuple[int, str]]) -> list[HoldState]:
        """Read the holds that carry these (account id, request id)."""

    def lots(self, account_ids: Iterable[int]) -> list[LotState]:
        """Read the accounts' lots that have credits left."""

    def transfers(self, ids: Iterable[int]) -> list[tuple[int, int, int]]:
        """Read (id, account id, amount) of transfers that stand."""

    def anchors(self, account_ids: Iterable[int]) -> list[tuple[int, int]]:
        """Read (account id, transfer id) of the last archived links of the accounts that have one."""

    def flush(self, book: Book) -> None:
        """Write what the book has gathered and clear it."""


def open_store(database: Database) -> Store:
    """Return the store for the database's dialect."""
    if database.on_citus:
        from ..distributed.citus_store import CitusStore  # noqa: PLC0415 - it builds on this module

        return CitusStore(database)
    return SqliteStore(database) if database.dialect is Dialect.SQLITE else PostgresqlStore(database)


class SqliteStore:
    """SQLite: ``BEGIN IMMEDIATE`` takes the one write lock before anything is read."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def transaction(self) -> AbstractContextManager[Any]:
        """See :class:`Store`."""
        return self.database.primary.atomic("IMMEDIATE")

    def accounts(self, ids: Iterable[int]) -> list[AccountState]:
        """See :class:`Store`; the write lock covers every account."""
        return [AccountState(*row) for row in self._select(_ACCOUNT, "account", "id", ids)]

    def holds(self, ids: Iterable[int]) -> list[HoldState]:
        """See :class:`Store`."""
        return [HoldState._make(row) for row in self._select(_HOLD, "hold", "id", ids)]

    def requests(self, keys: Iterable[tuple[int, str]]) -> list[HoldState]:
        """See :class:`Store`."""
        sql = f"SELECT {_HOLD} FROM hold WHERE account_id = ? AND request_id = ?"
        found = (self._connection.execute(sql, key).fetchone() for key in keys)
        return [HoldState._make(row) for row in found if row is not None]

    def lots(self, account_ids: Iterable[int]) -> list[LotState]:
        """See :class:`Store`."""
        return [LotState(*row) for row in self._select(_LOT, "lot", "remaining > 0 AND account_id", account_ids)]

    def transfers(self, ids: Iterable[int]) -> list[tuple[int, int, int]]:
        """See :class:`Store`."""
        return self._select("id, account_id, amount", "transfer", "id", ids)

    def anchors(self, account_ids: Iterable[int]) -> list[tuple[int, int]]:
        """See :class:`Store`."""
        return self._select("account_id, transfer_id", "archive_anchor", "account_id", account_ids)

    def flush(self, book: Book) -> None:
        """See :class:`Store`."""
        execute = self._connection.executemany
        if book.new_accounts:
            rows = [_new_account_row(book, account_id) for account_id in book.new_accounts]
            execute(f"INSERT INTO account ({_ACCOUNT}, created_at_ms) VALUES (?,?,?,?,?,?,?,?,?)", rows)
        if book.new_holds:
            execute(f"INSERT INTO hold ({_HOLD}) VALUES (?,?,?,?,?,?,?,?,?)", book.new_holds.values())
        if book.deleted_holds:
            execute("DELETE FROM hold WHERE id = ?", [(hold_id,) for hold_id in book.deleted_holds])
        if book.ended_holds:
            ended = [(hold.status, hold.id) for hold in book.ended_holds.values()]
            execute("UPDATE hold SET state = ? WHERE id = ?", ended)
        if book.new_transfers:
            marks = "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?"
            execute(f"INSERT INTO transfer ({_TRANSFER}) VALUES ({marks})", book.new_transfers)
        if changed := book.changed_accounts - book.new_accounts.keys():
            execute(
                "UPDATE account SET balance = ?, held = ?, seq = ?, last_transfer_id = ?, last_hash = ? WHERE id = ?",
                [_changed_account_row(book.accounts[account_id]) for account_id in changed],
            )
        if moved := book.moved_expiries - book.new_accounts.keys():
            expiries = [(book.accounts[account_id].next_expiry_at_ms, account_id) for account_id in moved]
            execute("UPDATE account SET next_expiry_at_ms = ? WHERE id = ?", expiries)
        if book.new_lots:
            lots = [_lot_row(lot) for lot in book.new_lots.values()]
            execute(f"INSERT INTO lot ({_LOT}) VALUES (?,?,?,?,?,?,?,?)", lots)
        if book.changed_lots:
            left = [(lot.remaining, lot.expired, lot.id) for lot in book.changed_lots.values()]
            execute("UPDATE lot SET remaining = ?, expired = ? WHERE id = ?", left)
        book.clear_writes()

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


class PostgresqlStore:
    """PostgreSQL and what speaks its protocol: rows locked in sorted order, sets passed as arrays."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def transaction(self) -> AbstractContextManager[Any]:
        """See :class:`Store`."""
        return self.database.primary.atomic()

    def accounts(self, ids: Iterable[int]) -> list[AccountState]:
        """See :class:`Store`; sorted locks cannot deadlock with another host's."""
        sql = f"SELECT {_ACCOUNT} FROM account WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
        return [AccountState(*row) for row in self._select(sql, sorted(ids))]

    def holds(self, ids: Iterable[int]) -> list[HoldState]:
        """See :class:`Store`."""
        return [HoldState._make(row) for row in self._select(f"SELECT {_HOLD} FROM hold WHERE id = ANY(%s)", list(ids))]

    def requests(self, keys: Iterable[tuple[int, str]]) -> list[HoldState]:
        """See :class:`Store`."""
        wanted = list(keys)
        if not wanted:
            return []
        sql = (
            f"SELECT {_HOLD} FROM hold JOIN unnest(%s::bigint[], %s::text[]) AS wanted (a, r) "
            "ON account_id = wanted.a AND request_id = wanted.r"
        )
        accounts, names = [key[0] for key in wanted], [key[1] for key in wanted]
        return [HoldState._make(row) for row in self._connection.execute(sql, (accounts, names)).fetchall()]

    def lots(self, account_ids: Iterable[int]) -> list[LotState]:
        """See :class:`Store`."""
        sql = f"SELECT {_LOT} FROM lot WHERE remaining > 0 AND account_id = ANY(%s)"
        return [LotState(*row) for row in self._select(sql, list(account_ids))]

    def transfers(self, ids: Iterable[int]) -> list[tuple[int, int, int]]:
        """See :class:`Store`."""
        return self._select("SELECT id, account_id, amount FROM transfer WHERE id = ANY(%s)", list(ids))

    def anchors(self, account_ids: Iterable[int]) -> list[tuple[int, int]]:
        """See :class:`Store`."""
        sql = "SELECT account_id, transfer_id FROM archive_anchor WHERE account_id = ANY(%s)"
        return self._select(sql, list(account_ids))

    def flush(self, book: Book) -> None:
        """See :class:`Store`; the statements share one round trip."""
        with self._connection.pipeline():
            self._write(book)
        book.clear_writes()

    def _write(self, book: Book) -> None:
        if book.new_accounts:
            rows = [_new_account_row(book, account_id) for account_id in book.new_accounts]
            self._insert(
                "account",
                f"{_ACCOUNT}, created_at_ms",
                "bigint text bigint bigint bigint bigint bytea bigint bigint",
                rows,
            )
        if book.new_holds:
            types = "bigint bigint bigint int bigint int bigint text text"
            self._insert("hold", _HOLD, types, book.new_holds.values())
        if book.deleted_holds:
            self._connection.execute("DELETE FROM hold WHERE id = ANY(%s)", (book.deleted_holds,))
        if book.ended_holds:
            ended = [(hold.id, hold.status) for hold in book.ended_holds.values()]
            self._update("hold", "id state", "bigint int", ended)
        if book.new_transfers:
            types = (
                "bigint bigint bigint bigint int bigint bigint bigint bytea int bigint bigint bigint bigint bigint text"
            )
            self._insert("transfer", _TRANSFER, types, book.new_transfers)
        if changed := book.changed_accounts - book.new_accounts.keys():
            self._update(
                "account",
                "id balance held seq last_transfer_id last_hash",
                "bigint bigint bigint bigint bigint bytea",
                [_changed_account_row(book.accounts[account_id], id_first=True) for account_id in changed],
            )
        if moved := book.moved_expiries - book.new_accounts.keys():
            expiries = [(account_id, book.accounts[account_id].next_expiry_at_ms) for account_id in moved]
            self._update("account", "id next_expiry_at_ms", "bigint bigint", expiries)
        if book.new_lots:
            lots = [_lot_row(lot) for lot in book.new_lots.values()]
            self._insert("lot", _LOT, "bigint bigint int bigint bigint bigint bigint bigint", lots)
        if book.changed_lots:
            left = [(lot.id, lot.remaining, lot.expired) for lot in book.changed_lots.values()]
            self._update("lot", "id remaining expired", "bigint bigint bigint", left)

    def _insert(self, table: str, columns: str, types: str, rows: Iterable[Sequence[Any]]) -> None:
        sql = f"INSERT INTO {table} ({columns}) SELECT * FROM unnest({_arrays(types)})"
        self._connection.execute(sql, [list(column) for column in zip(*rows, strict=True)])

    def _update(self, table: str, columns: str, types: str, rows: Sequence[Sequence[Any]]) -> None:
        names = columns.split()
        assignments = ", ".join(f"{name} = new.{name}" for name in names[1:])
        sql = (
            f"UPDATE {table} SET {assignments} FROM unnest({_arrays(types)}) AS new ({', '.join(names)}) "
            f"WHERE {table}.id = new.id"
        )
        self._connection.execute(sql, [list(column) for column in zip(*rows, strict=True)])

    def _select(self, sql: str, ids: list[int]) -> list[Any]:
        rows: list[Any] = self._connection.execute(sql, (ids,)).fetchall() if ids else []
        return rows

    @property
    def _connection(self) -> Any:
        return self.database.primary.connection()


def _arrays(types: str) -> str:
    return ", ".join(f"%s::{name}[]" for name in types.split())


def _lot_row(lot: LotState) -> tuple[Any, ...]:
    return (
        lot.id,
        lot.account_id,
        lot.priority,
        lot.expires_at_ms,
        lot.amount,
        lot.remaining,
        lot.payment_id,
        lot.expired,
    )


def _new_account_row(book: Book, account_id: int) -> tuple[Any, ...]:
    account = book.accounts[account_id]
    changed = _changed_account_row(account)[:-1]
    return (account_id, account.external_id, *changed, account.next_expiry_at_ms, book.new_accounts[account_id])


def _changed_account_row(account: AccountState, *, id_first: bool = False) -> tuple[Any, ...]:
    values = (account.balance, account.held, account.seq, account.last_transfer_id, account.last_hash)
    return (account.id, *values) if id_first else (*values, account.id)
