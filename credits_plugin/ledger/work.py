"""Units of work: functions that run inside the writer's batch, with SQL and the ledger's rules, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, overload

import peewee

from ..errors import LedgerError
from .book import Book
from .budget_entries import BudgetCommand, Budgeted
from .entries import (
    AccountState,
    Command,
    ExpireHold,
    ExpireLots,
    Extended,
    ExtendHold,
    Placed,
    PlaceHold,
    Posted,
    PostTransfer,
    Released,
    ReleaseHold,
    RollOver,
    Settled,
    SettleHold,
)
from .ids import IdMaker, now_ms


@dataclass(frozen=True, slots=True)
class Work:
    """A wider unit of work: its function runs under a savepoint in the batch and may use SQL and rules alone."""

    account_ids: tuple[int, ...]
    run: Callable[[Transaction], Any]


@contextlib.contextmanager
def savepoint(database: peewee.Database) -> Iterator[None]:
    """Undo what is done inside if it raises. Peewee's own has a new name each time, which no statement cache knows."""
    database.execute_sql("SAVEPOINT unit")
    try:
        yield
    except BaseException:
        database.execute_sql("ROLLBACK TO SAVEPOINT unit")
        database.execute_sql("RELEASE SAVEPOINT unit")
        raise
    database.execute_sql("RELEASE SAVEPOINT unit")


class Transaction:
    """What a unit of work gets: the batch's database connection and the ledger's rules on the declared accounts.

    Bind queries to ``database``, as in ``Payment.select().where(...).dicts().execute(tx.database)``.
    """

    def __init__(
        self,
        database: peewee.Database,
        book: Book,
        declared: Iterable[int],
        *,
        new_id: IdMaker,
        apply: Callable[[Command], Any],
    ) -> None:
        self._database = database
        self._book = book
        self._apply = apply
        self._declared = frozenset(declared)
        self.new_id = new_id
        self.at_ms = now_ms()

    @property
    def database(self) -> peewee.Database:
        """The database, inside the open transaction."""
        return self._database

    def account(self, account_id: int) -> AccountState | None:
        """Return the account's state as this transaction sees it, or None if it was never credited."""
        self._require_declared(account_id)
        return self._book.accounts.get(account_id)

    @overload
    def decide(self, command: PlaceHold) -> Placed: ...
    @overload
    def decide(self, command: ExtendHold) -> Extended: ...
    @overload
    def decide(self, command: SettleHold) -> Settled: ...
    @overload
    def decide(self, command: ReleaseHold | ExpireHold) -> Released: ...
    @overload
    def decide(self, command: BudgetCommand) -> Budgeted: ...
    @overload
    def decide(self, command: PostTransfer | ExpireLots | RollOver) -> Posted: ...
    def decide(self, command: Command) -> Any:
        """Apply a ledger command and write its rows.

        Raises:
            LedgerError: the rules refuse it; the unit of work may go on or let it propagate.
        """
        self._require_declared(command.account_id)
        return self._apply(command)

    def _require_declared(self, account_id: int) -> None:
        if account_id not in self._declared:
            msg = f"this unit of work did not declare account {account_id}, so its row is not locked"
            raise LedgerError(msg)
