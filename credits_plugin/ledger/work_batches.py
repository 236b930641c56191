"""Runs a batch's units of work in one transaction, for no longer than holds may wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import peewee

from ..errors import DatabaseError
from .batches import Batch
from .book import Book
from .entries import Answer, Command
from .ids import IdMaker
from .loading import load_book, load_for
from .rules import decide
from .store import Store
from .work import Transaction, Work, savepoint

BATCH_S: Final = 0.01
"""How long units of work may go on in one batch, once one has begun; the others wait for the next batch."""
_LIMIT_S: Final = 2.0
"""How long one unit of work may take in the database before it is stopped: holds that came after it wait so long."""
# Set-wise SQL raises the driver's own errors; this is what Peewee turns its queries' errors into its own with.
driver_errors: Final = peewee.__exception_wrapper__  # type: ignore[attr-defined]  # the stubs leave it out


class WorkTooSlow(Exception):
    """A unit of work was stopped and nothing of its batch was written: its place there, and its caller's answer.

    No CreditsError, for Peewee takes what is derived from a ``DatabaseError`` for the driver's.
    """

    def __init__(self, index: int, error: Exception) -> None:
        self.index = index
        self.answer = DatabaseError(
            f"stopped after {_LIMIT_S:g} s, because holds wait for units of work; nothing was written ({error})"
        )
        super().__init__(self.answer.message)


class WorkBatches:
    """Used by the writer's thread alone, on the connection of ``store``."""

    def __init__(self, store: Store, *, new_id: IdMaker, new_book: Callable[[], Book]) -> None:
        self._store = store
        self._new_id = new_id
        self._new_book = new_book
        self._stopped: WorkTooSlow | None = None

    def run(self, batch: Batch) -> None:
        """Run units of work for as long as a batch may take, at least one, and commit them.

        Raises:
            WorkTooSlow: one took too long.
            peewee.OperationalError, peewee.InterfaceError: the database failed; the batch may be run again.
        """
        self._stopped = None
        try:
            with self._store.transaction():
                self._run_some(batch)
        except Exception as error:
            if self._stopped is not None:  # and SQLite, which has rolled back already, refuses to do it again
                raise self._stopped from error
            raise

    def _run_some(self, batch: Batch) -> None:
        book, stands = self._new_book(), False
        until = time.monotonic() + BATCH_S
        for index in range(len(batch.items)):
            if index and time.monotonic() > until:
                break
            if not stands:  # at first, and anew after one that raised
                works = [item[0] for item in batch.items[index:]]
                book = load_book(self._store, works, self._new_book(), careful=False)
            stands = self._run_one(batch, index, book)
            batch.done = index + 1

    def _run_one(self, batch: Batch, index: int, book: Book) -> bool:
        """Run a unit of work under its savepoint; returns whether it stands."""
        work: Work = batch.items[index][0]
        database, started = self._store.database.primary, time.monotonic()
        try:
            with driver_errors, savepoint(database), self._store.time_limit(_LIMIT_S):
                apply = partial(self._apply, book)
                transaction = Transaction(database, book, work.account_ids, new_id=self._new_id, apply=apply)
                batch.answers[index] = work.run(transaction)
        except (peewee.OperationalError, peewee.InterfaceError) as error:
            if time.monotonic() - started > _LIMIT_S:
                self._stopped = WorkTooSlow(index, error)
            raise  # the connection's state is unknown
        except Exception as error:  # noqa: BLE001 - a unit of work fails alone, with whatever it raises
            batch.errors[index] = error
            return False
        return True

    def _apply(self, book: Book, command: Command) -> Any:
        """Decide one command of a unit of work and write its rows at once, for the SQL that follows."""
        load_for(self._store, book, command)
        answer: Answer = decide(book, command)
        self._store.flush(book)
        return answer
