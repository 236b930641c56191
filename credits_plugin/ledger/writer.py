"""The one door for money: a thread that gathers commands into batches, one database transaction each.

Callers wait for their own answer; the writer takes whatever queued up during the last commit, so nobody waits for a
timer. A command that the rules refuse fails alone; when the database fails, the batch is replayed command by command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final, TypeVar, overload

import peewee

from ..database import Database, FileLock, lock_path
from ..errors import CreditsError, DatabaseError, OutcomeUnknown, Overloaded
from .batches import Batch, Item, answer_callers
from .book import Book
from .budget_entries import BudgetCommand, Budgeted
from .checkpoints import Checkpointer
from .entries import (
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
from .ids import IdMaker
from .loading import load_book
from .rules import RULES
from .store import open_store
from .wal_file import WalFile
from .work import Transaction, Work
from .work_batches import BATCH_S, WorkBatches, WorkTooSlow, driver_errors

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
"""Commands per transaction. Larger batches gain nothing measurable and make the first caller wait."""
_RETRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.02
_MOST_WORKS: Final = 48
"""Units of work that a batch reads accounts and lots for: about as many as it has time for."""
_UNAVAILABLE: Final = (peewee.OperationalError, peewee.InterfaceError, DatabaseError)
"""Lost connections, locks and deadlocks: worth another try. Serialization failures arrive as OperationalError."""


class LedgerWriter:
    """One per process. ``start`` before use, ``close`` at the end; safe to call from any thread and event loop.

    ``run_budget``: the limit, in microcredits, that a run without one gets with its first hold; 0 gives none.

    Raises:
        Overloaded: more than ``queue_limit`` commands wait; nothing was written.
    """

    def __init__(
        self,
        database: Database,
        *,
        new_id: IdMaker,
        queue_limit: int = 20_000,
        max_batch: int = MAX_BATCH,
        run_budget: int = 0,
    ) -> None:
        self.database = database
        self._new_id = new_id
        self._queue_limit = queue_limit
        self._max_batch = max_batch
        self._run_budget = run_budget
        self._commands: deque[Item] = deque()
        self._works: deque[Item] = deque()
        self._book: Book | None = None
        self._is_unsynced = False
        self._wake = threading.Event()
        self._closing = False
        self.after_work: Callable[[tuple[int, ...]], None] | None = None
        """Told the declared accounts of each unit of work of this process after its commit, in its caller's thread."""
        self._thread = threading.Thread(target=self._run, name="credits-writer", daemon=True)
        self._store = open_store(database)
        self._work_batches = WorkBatches(self._store, new_id=new_id, new_book=self._new_book)
        self._checkpointer = Checkpointer(database.path) if database.path is not None else None
        self._wal = WalFile(database.path) if database.path is not None else None
        # SQLite's busy handler starves some of several processes; a lock around each batch gives all their turn.
        self._turn = FileLock(lock_path(database.path)) if database.path is not None else None

    def start(self) -> None:
        """Start the writer's thread."""
        self._thread.start()
        if self._checkpointer is not None:
            self._checkpointer.start()

    def close(self) -> None:
        """Write what is queued, then end the thread. Later commands are refused."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._checkpointer is not None:
            self._checkpointer.close()

    @overload
    def execute(self, command: PlaceHold) -> asyncio.Future[Placed]: ...
    @overload
    def execute(self, command: ExtendHold) -> asyncio.Future[Extended]: ...
    @overload
    def execute(self, command: SettleHold) -> asyncio.Future[Settled]: ...
    @overload
    def execute(self, command: ReleaseHold | ExpireHold) -> asyncio.Future[Released]: ...
    @overload
    def execute(self, command: BudgetCommand) -> asyncio.Future[Budgeted]: ...
    @overload
    def execute(self, command: PostTransfer | ExpireLots | RollOver) -> asyncio.Future[Posted]: ...
    def execute(self, command: Command) -> asyncio.Future[Any]:
        """Queue one command for the running event loop; its future is answered once its commit is on disk.

        Cancelling it does not undo the command: that is absent or complete, and the same ids converge.

        Raises:
            LedgerError: the rules refuse it.
            Overloaded: the queue is full.
            DatabaseError: the database failed and nothing was written.
            OutcomeUnknown: the database failed during the commit; repeat the same command.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._enqueue(self._commands, (command, future, loop))
        return future

    async def work(self, account_ids: Iterable[int], run: Callable[[Transaction], T]) -> T:
        """Run a wider unit of work on the declared accounts; returns its result once it is committed.

        It may run several times, when the database failed or another one was stopped and the batch is replayed. What it
        raises reaches the caller, after its savepoint was rolled back. It is stopped when two seconds are over while it
        runs SQL; nothing stops its Python, for which every hold waits.

        Raises:
            DatabaseError: it was stopped; nothing was written.
            OutcomeUnknown: the database failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        work = Work(tuple(account_ids), run)
        self._enqueue(self._works, (work, future, loop))
        result = await future
        self._tell(work)
        return result

    def execute_sync(self, command: Command) -> Any:
        """Do as ``execute`` does, for threads without an event loop."""
        future: Future[Any] = Future()
        self._enqueue(self._commands, (command, future, None))
        return future.result()

    def work_sync(self, account_ids: Iterable[int], run: Callable[[Transaction], T]) -> T:
        """Do as ``work`` does, for threads without an event loop."""
        future: Future[T] = Future()
        work = Work(tuple(account_ids), run)
        self._enqueue(self._works, (work, future, None))
        result = future.result()
        self._tell(work)
        return result

    def _tell(self, work: Work) -> None:
        if self.after_work is not None and work.account_ids:
            self.after_work(work.account_ids)

    def _enqueue(self, queue: deque[Item], item: Item) -> None:
        if self._closing or len(queue) >= self._queue_limit:
            state = "is closed" if self._closing else f"has {self._queue_limit} commands waiting"
            msg = f"the ledger's writer {state}; nothing was written, try again shortly"
            raise Overloaded(msg)
        queue.append(item)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        commands, works, wake = self._commands, self._works, self._wake
        while True:
            if not commands and not works:
                wake.clear()
                if not commands and not works and not self._closing:
                    wake.wait()
                if not commands and not works and self._closing:
                    break
            # Who waits for a hold never waits for the units of work that came before it: they commit afterwards.
            for queue in (commands, works):
                if queue:
                    answer_callers(self._process_next(queue))
        self.database.primary.close()
        for file in (self._turn, self._wal):
            if file is not None:
                file.close()

    def _process_next(self, queue: deque[Item]) -> Batch:
        """Run what has queued up when it is this process's turn, and leave what was not done."""
        with contextlib.ExitStack() as stack:
            failure = self._wal.failure if self._wal is not None else None
            try:
                stack.enter_context(self._turn or contextlib.nullcontext())
            except OSError as error:
                failure = DatabaseError(f"the lock beside the database cannot be taken: {error}; nothing was written")
            of_work = queue is self._works
            most = min(self._max_batch, _MOST_WORKS) if of_work else self._max_batch
            items = [queue.popleft() for _ in range(min(len(queue), most))]
            batch = Batch(items, of_work)
            if failure is None:
                self._process(batch)
            else:
                batch.start()
                batch.fail(failure)
        queue.extendleft(reversed(batch.items[batch.done :]))
        try:
            self._sync()  # while another process has its turn
        except DatabaseError as error:
            batch.fail(_unknown(error))
            self._is_unsynced = False
        return batch

    def _sync(self) -> None:
        """Put on disk what callers are about to hear."""
        if self._wal is not None and self._is_unsynced:
            self._wal.sync()
            self._is_unsynced = False

    def _process(self, batch: Batch) -> None:
        """Run the batch; units of work may be left for the next.

        A database that is away is asked again for a while; a culprit in the batch fails alone.
        """
        for attempt in range(_RETRIES):
            try:
                self._attempt(batch, careful=attempt > 0)
                return
            except WorkTooSlow as error:  # the others are run again, after the commands that came meanwhile
                logger.warning("a unit of work was %s", error)
                self._reconnect()
                batch.fail_one(error.index, error.answer)
                return
            except _UNAVAILABLE as error:
                logger.warning("the database failed (%s); a batch of %d is tried again", error, len(batch.items))
                failure: Exception = error
                self._reconnect()
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
            except Exception as error:  # noqa: BLE001 - whatever failed, every caller gets an answer
                logger.warning("a batch of %d failed (%s); its commands are run one by one", len(batch.items), error)
                if isinstance(error, peewee.IntegrityError):
                    self._new_id.draw_again()  # another host may make the same ids
                self._reconnect()  # psycopg believes statements prepared that an aborted pipeline never prepared
                self._run_one_by_one(batch)
                return
        batch.start()
        batch.fail(_unknown(failure))

    def _run_one_by_one(self, batch: Batch) -> None:
        """Run each item in a transaction of its own; of units of work no more than a batch has time for."""
        batch.start()
        until = time.monotonic() + BATCH_S
        for index, item in enumerate(batch.items):
            if index and batch.of_work and time.monotonic() > until:
                return
            if self._wal is not None and self._wal.failure is not None:
                break  # nothing more may be written, and the sync at the batch's end tells every caller
            alone = Batch([item], batch.of_work)
            self._run_alone(alone)
            batch.answers[index] = alone.answers[0]
            if alone.errors:
                batch.errors[index] = alone.errors[0]
            batch.done = index + 1
        batch.done = len(batch.items)

    def _run_alone(self, alone: Batch) -> None:
        """Run one item in a transaction of its own, careful of what an earlier try may have left."""
        for _ in range(2):  # another host may have written the same new row a moment ago; then it is there now
            try:
                self._attempt(alone, careful=True)
                return
            except WorkTooSlow as error:
                alone.fail(error.answer)
                self._reconnect()
                return
            except _UNAVAILABLE as error:
                alone.fail(_unknown(error))
            except peewee.IntegrityError as error:
                alone.fail(DatabaseError(f"the database refused the command: {error}"))
            except Exception as error:  # noqa: BLE001 - see _process
                alone.fail(DatabaseError(f"the command failed in the database: {error}"))
                self._reconnect()
                return
            self._reconnect()

    def _reconnect(self) -> None:
        """Close the connection, so that the next attempt opens one; what was committed there is synced before.

        SQLite removes the WAL with the file's last connection, and a sync by its name would find it gone.
        """
        self._book = None
        with contextlib.suppress(DatabaseError):  # final: whoever syncs next hears it again
            self._sync()
        with contextlib.suppress(peewee.PeeweeException):
            self.database.primary.close()

    def _attempt(self, batch: Batch, *, careful: bool) -> None:
        batch.start()
        known, self._book = self._book, None  # until the commit stands, what was known of the rows counts for nothing
        with contextlib.ExitStack() as stack:
            stack.enter_context(driver_errors)
            is_new = self.database.primary.connect(reuse_if_open=True)
            if self._checkpointer is not None:
                self._checkpointer.look_after(self.database.primary.connection(), is_new=is_new)
            if batch.of_work:
                self._work_batches.run(batch)
                return
            stack.enter_context(self._store.batch())
            if careful or not self._store.is_unchanged():
                known = None
            commands = [item[0] for item in batch.items]
            book = load_book(self._store, commands, known or self._new_book(), careful=careful)
            self._decide(batch, book)
            if not careful and batch.errors and self._refused_what_stands(batch):
                batch.start()
                book = load_book(self._store, commands, self._new_book(), careful=True)
                self._decide(batch, book)
            self._store.flush(book)
        self._is_unsynced = True
        self._book = book if book.is_small else None

    def _new_book(self) -> Book:
        return Book(run_budget=self._run_budget)

    def _decide(self, batch: Batch, book: Book) -> None:
        """Decide the commands in their order of arrival.

        Only refusals fail alone. Any other error may have left the book halfway, so the commands are run one by one.
        """
        answers = batch.answers
        for index, item in enumerate(batch.items):
            command = item[0]
            try:
                answers[index] = RULES[type(command)](book, command)
            except CreditsError as error:
                batch.errors[index] = error
        batch.done = len(batch.items)

    def _refused_what_stands(self, batch: Batch) -> bool:
        """Say whether a refused hold stands already: its repeat may lack just what the first one took."""
        commands = (batch.items[index][0] for index in batch.errors)
        ids = {command.hold_id for command in commands if isinstance(command, PlaceHold)}
        return bool(ids) and bool(self._store.holds(ids) or self._store.transfers(ids))


def _unknown(error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(f"the database failed ({error}); repeat the same command with the same ids, it converges")
