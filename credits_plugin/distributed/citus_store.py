"""The ledger's store on Citus: as PostgreSQL's, but every statement names the accounts, so that Citus prunes shards.

Citus locks rows (``FOR UPDATE``) of one shard a statement, so accounts are locked one by one, in sorted order, in one
pipeline (one round trip). Reads and deletes by id also name the batch's accounts, which the writer has always locked
before: rows of other accounts are never looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..database import Database
from ..ledger.budget_entries import BudgetKey, BudgetState
from ..ledger.entries import AccountState, HoldState
from ..ledger.postgresql_store import PostgresqlStore, array, marks
from ..ledger.store import ACCOUNT_COLUMNS, BUDGET_COLUMNS, HOLD_COLUMNS


class CitusStore(PostgresqlStore):
    """Used by the writer's thread alone, like every store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._batch: list[int] = []

    def read(
        self, account_ids: Collection[int], hold_ids: Collection[int]
    ) -> tuple[list[AccountState], list[HoldState]]:
        """Read and lock accounts in sorted order, and remember them as the batch's; then read holds of theirs."""
        return self._lock_accounts(sorted(account_ids)), self.holds(hold_ids)

    def _lock_accounts(self, account_ids: list[int]) -> list[AccountState]:
        self._batch = account_ids
        if not account_ids:
            return []
        sql = f"SELECT {ACCOUNT_COLUMNS} FROM account WHERE id = %s FOR UPDATE"
        found: list[AccountState] = []
        with self._connection.cursor() as cursor:
            cursor.executemany(sql, [(account_id,) for account_id in account_ids], returning=True)
            more = True
            while more:
                found += [AccountState(*row) for row in cursor.fetchall()]
                more = cursor.nextset()
        return found

    def holds(self, ids: Collection[int]) -> list[HoldState]:
        """Read holds of the batch's accounts."""
        sql = f"SELECT {HOLD_COLUMNS} FROM hold WHERE account_id = ANY(%s) AND id = ANY(%s)"
        return [HoldState._make(row) for row in self._connection.execute(sql, (self._batch, list(ids)))] if ids else []

    def requests(self, keys: Collection[tuple[int, str]]) -> list[HoldState]:
        """Read the holds that carry these (account id, request id)."""
        sql = (
            f"SELECT {HOLD_COLUMNS} FROM hold JOIN unnest(%s::bigint[], %s::text[]) AS wanted (a, r) "
            "ON account_id = wanted.a AND request_id = wanted.r WHERE account_id = ANY(%s)"
        )
        accounts, names = [key[0] for key in keys], [key[1] for key in keys]
        return [HoldState._make(row) for row in self._connection.execute(sql, (accounts, names, accounts))]

    def transfers(self, ids: Collection[int]) -> list[tuple[int, int, int]]:
        """Read (id, account id, amount) of the batch's accounts' transfers that stand."""
        sql = "SELECT id, account_id, amount FROM transfer WHERE account_id = ANY(%s) AND id = ANY(%s)"
        return list(self._connection.execute(sql, (self._batch, list(ids))))

    def budgets(self, keys: Collection[BudgetKey], ids: Collection[int]) -> list[BudgetState]:
        """Read budgets of the batch's accounts, by key or id."""
        execute, found = self._connection.execute, []
        if keys:
            owners, kinds, names = map(list, zip(*keys, strict=True))
            sql = (
                f"SELECT {BUDGET_COLUMNS} FROM budget JOIN unnest(%s::bigint[], %s::text[], %s::text[]) AS wanted "
                "(a, k, n) ON account_id = wanted.a AND kind = wanted.k AND name = wanted.n WHERE account_id = ANY(%s)"
            )
            found += execute(sql, (owners, list(map(str, kinds)), names, owners))
        if ids:
            sql = f"SELECT {BUDGET_COLUMNS} FROM budget WHERE account_id = ANY(%s) AND id = ANY(%s)"
            found += execute(sql, (self._batch, list(ids)))
        return [BudgetState(*row) for row in found]

    def _delete(self, table: str, ids: Sequence[int]) -> None:
        sql = f"DELETE FROM {table} WHERE account_id = ANY(%s) AND id = ANY(%s)"
        self._connection.execute(sql, (self._batch, list(ids)))

    def _update(self, table: str, columns: str, types: str, rows: Sequence[Sequence[Any]]) -> None:
        names, kinds = columns.split(), types.split()
        assignments = ", ".join(f"{name} = new.{name}" for name in names[1:])
        account = "id" if table == "account" else "account_id"
        sql = (
            f"UPDATE {table} SET {assignments} FROM unnest({marks(kinds)}) AS new ({', '.join(names)}) "
            f"WHERE {table}.id = new.id AND {table}.{account} = ANY(%s)"
        )
        values = list(map(array, kinds, zip(*rows, strict=True)))
        self._connection.execute(sql, [*values, self._batch])
