"""What the writer needs of a database: set-wise SQL, six statements a batch whatever its size.

Model-by-model ORM calls were measured to cost 95 % of the throughput here; everywhere else Peewee's models are used.
The two databases differ in how a set is passed: sqlite_store.py, postgresql_store.py.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from ..database import Database, Dialect
from .book import Book
from .budget_entries import BudgetKey, BudgetState
from .entries import AccountState, HoldState, LotState

ACCOUNT_COLUMNS: Final = "id, external_id, balance, held, seq, last_transfer_id, last_hash, next_expiry_at_ms, budgets"
HOLD_COLUMNS: Final = (
    "id, account_id, amount, state, expires_at_ms, price_version, input_tokens, request_id, run_id, budgets"
)
BUDGET_COLUMNS: Final = 'id, account_id, kind, name, period, "limit", spent, held, starts_at_ms, state, used_at_ms'
PUT_EVENT: Final = (
    "INSERT INTO outbox_message (id, account_id, kind, payload, attempts, next_attempt_at_ms) "
    "VALUES (%s, %s, %s, %s, 0, %s) "
    "ON CONFLICT DO NOTHING"
)
"""Adds an event to the outbox. One that is there under the same id says the same."""
LOT_COLUMNS: Final = "id, account_id, priority, expires_at_ms, amount, remaining, payment_id, expired"
DETAIL_COLUMNS: Final = "transfer_id, account_id, detail"
TRANSFER_COLUMNS: Final = (
    "id, account_id, seq, previous_id, code, amount, balance_after, at_ms, hash, "
    "price_version, input, cache_read, cache_write, output, reasoning, reference"
)


class Store(Protocol):
    """What the writer needs of a database. Used by the writer's thread alone."""

    database: Database

    def transaction(self) -> AbstractContextManager[Any]:
        """Open a transaction for units of work; commit at the end, roll back on an exception."""

    def batch(self) -> AbstractContextManager[Any]:
        """Open a transaction for commands alone: their writes may be sent together, and fail together, at its end."""

    def read(
        self, account_ids: Collection[int], hold_ids: Collection[int]
    ) -> tuple[list[AccountState], list[HoldState]]:
        """Lock accounts in sorted order and read them, then read holds."""

    def holds(self, ids: Collection[int]) -> list[HoldState]:
        """Read holds."""

    def requests(self, keys: Collection[tuple[int, str]]) -> list[HoldState]:
        """Read the holds that carry these (account id, request id)."""

    def lots(self, account_ids: Collection[int]) -> list[LotState]:
        """Read the accounts' lots that have credits left."""

    def budgets(self, keys: Collection[BudgetKey], ids: Collection[int]) -> list[BudgetState]:
        """Read the budgets that have one of these keys or ids, of the batch's accounts; some may come twice."""

    def transfers(self, ids: Collection[int]) -> list[tuple[int, int, int]]:
        """Read (id, account id, amount) of transfers that stand."""

    def anchors(self, account_ids: Collection[int]) -> list[tuple[int, int]]:
        """Read (account id, transfer id) of the last archived links of the accounts that have one."""

    def flush(self, book: Book) -> None:
        """Write what the book has gathered and clear it."""

    def is_unchanged(self) -> bool:
        """Say whether nobody but this connection has written since this was last asked; asked inside a transaction."""

    def time_limit(self, seconds: float) -> AbstractContextManager[None]:
        """Stop the statement that runs ``seconds`` from now, and later ones, with the driver's operational error.

        SQLite looks at the clock every millisecond or so of a statement's work, so a short one may still pass.
        """


def open_store(database: Database) -> Store:
    """Return the store for the database's dialect."""
    # Imported here, because both build on this module; whoever has no PostgreSQL needs no driver for it.
    if database.dialect is Dialect.SQLITE:
        from .sqlite_store import SqliteStore  # noqa: PLC0415 - see above

        return SqliteStore(database)
    if database.on_citus:
        from ..distributed.citus_store import CitusStore  # noqa: PLC0415 - see above

        return CitusStore(database)
    from .postgresql_store import PostgresqlStore  # noqa: PLC0415 - see above

    return PostgresqlStore(database)


def lot_row(lot: LotState) -> tuple[Any, ...]:
    """Return a new lot's row."""
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


def budget_row(budget: BudgetState) -> tuple[Any, ...]:
    """Return a budget's row."""
    return (
        budget.id,
        budget.account_id,
        budget.kind,
        budget.name,
        budget.period,
        budget.limit,
        budget.spent,
        budget.held,
        budget.starts_at_ms,
        budget.status,
        budget.used_at_ms,
    )


def new_account_row(book: Book, account_id: int) -> tuple[Any, ...]:
    """Return a new account's row, its time of creation last."""
    one = book.accounts[account_id]
    moved = (one.balance, one.held, one.seq, one.last_transfer_id, one.last_hash, one.next_expiry_at_ms, one.budgets)
    return (one.id, one.external_id, *moved, book.new_accounts[one.id])
