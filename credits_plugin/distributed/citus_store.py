"""The ledger's store on Citus: as PostgreSQL's, but every statement names the accounts, so that Citus prunes shards.

Citus locks rows (``FOR UPDATE``) of one shard a statement, so accounts are locked one by one, in sorted order, in one
pipeline (one round trip). Reads and deletes by id also name the batch's accounts, which the writer has always locked
before: rows of other accounts are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..database import Database
from ..ledger.book import Book
from ..ledger.entries import AccountState, HoldState
from ..ledger.store import _ACCOUNT, _HOLD, PostgresqlStore, _arrays


class CitusStore(PostgresqlStore):
    """Used by the writer's thread alone, like every store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._batch: list[int] = []

    def accounts(self, ids: Iterable[int]) -> list[AccountState]:
        """Read and lock accounts in sorted order, and remember them as the batch's."""
        self._batch = sorted(ids)
        if not self._batch:
            return []
        sql = f"SELECT {_ACCOUNT} FROM account WHERE id = %s FOR UPDATE"
        found: list[AccountState] = []
        with self._connection.cursor() as cursor:
            cursor.executemany(sql, [(account_id,) for account_id in self._batch], returning=True)
            more = True
            while more:
                found += [AccountState(*row) for row in cursor.fetchall()]
                more = cursor.nextset()
        return found

    def holds(self, ids: Iterable[int]) -> list[HoldState]:
        """Read holds of the batch's accounts."""
        sql = f"SELECT {_HOLD} FROM hold WHERE account_id = ANY(%s) AND id = ANY(%s)"
        return [HoldState._make(row) for row in self._connection.execute(sql, (self._batch, list(ids))).fetchall()]

    def requests(self, keys: Iterable[tuple[int, str]]) -> list[HoldState]:
        """Read the holds that carry these (account id, request id)."""
        wanted = list(keys)
        sql = (
            f"SELECT {_HOLD} FROM hold JOIN unnest(%s::bigint[], %s::text[]) AS wanted (a, r) "
            "ON account_id = wanted.a AND request_id = wanted.r WHERE account_id = ANY(%s)"
        )
        accounts, names = [key[0] for key in wanted], [key[1] for key in wanted]
        rows = self._connection.execute(sql, (accounts, names, accounts)).fetchall()
        return [HoldState._make(row) for row in rows]

    def transfers(self, ids: Iterable[int]) -> list[tuple[int, int, int]]:
        """Read (id, account id, amount) of the batch's accounts' transfers that stand."""
        sql = "SELECT id, account_id, amount FROM transfer WHERE account_id = ANY(%s) AND id = ANY(%s)"
        rows: list[tuple[int, int, int]] = self._connection.execute(sql, (self._batch, list(ids))).fetchall()
        return rows

    def flush(self, book: Book) -> None:
        """Write what the book has gathered and clear it."""
        if book.deleted_holds:
            sql = "DELETE FROM hold WHERE account_id = ANY(%s) AND id = ANY(%s)"
            self._connection.execute(sql, (self._batch, book.deleted_holds))
            book.deleted_holds.clear()
        super().flush(book)

    def _update(self, table: str, columns: str, types: str, rows: Sequence[Sequence[Any]]) -> None:
        names = columns.split()
        assignments = ", ".join(f"{name} = new.{name}" for name in names[1:])
        account = "id" if table == "account" else "account_id"
        sql = (
            f"UPDATE {table} SET {assignments} FROM unnest({_arrays(types)}) AS new ({', '.join(names)}) "
            f"WHERE {table}.id = new.id AND {table}.{account} = ANY(%s)"
        )
        values = [list(column) for column in zip(*rows, strict=True)]
        self._connection.execute(sql, [*values, self._batch])
