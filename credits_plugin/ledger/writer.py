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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, overload

import peewee

from ..database import Database, FileLock, lock_path
from ..errors import DatabaseError, OutcomeUnknown, Overloaded
from .checkpoints import Checkpointer
from .entries import (
    Answer,
    Command,
    ExpireHold,
    ExpireLots,
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
from .loading import Needs, load_book, load_holds
from .rules import Book, decide
from .store import open_store
from .work import Transaction, Work

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_BATCH: Final = 512
"""Commands per transaction. Larger batches gain nothing measurable and make the first caller wait."""
_RETRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.02
_WORK_BUDGET_S: Final = 0.01
"""How long units of work may go on in one batch, once one has begun; the others wait for the next batch."""
# Set-wise SQL raises the driver's own errors; this is what Peewee turns its queries' errors into its own with.
_driver_errors: Final = peewee.__exception_wrapper__  # type: ignore[attr-defined]  # the stubs leave it out
_UNAVAILABLE: Final = (peewee.OperationalError, peewee.InterfaceError, DatabaseError)
"""Lost connections, locks and deadlocks: worth another try. Serialization failures arrive as OperationalError."""


@dataclass(slots=True)
class _Item:
    command: Command | Work
    loop: asyncio.AbstractEventLoop | None
    future: Any  # asyncio.Future or concurrent.futures.Future: both have done, set_result and set_exception
    answer: Any = None
    error: BaseException | None = None


class LedgerWriter:
    """One per process. ``start`` before use, ``close`` at the end; safe to call from any thread and event loop.

    Raises:
        Overloaded: more than ``queue_limit`` commands wait; nothing was written.
    """

    def __init__(
        self, database: Database, *, new_id: IdMaker, queue_limit: int = 20_000, max_batch: int = MAX_BATCH
    ) -> None:
        self.database = database
        self._new_id = new_id
        self._queue_limit = queue_limit
        self._max_batch = max_batch
        self._queue: deque[_Item] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="credits-writer", daemon=True)
        self._store = open_store(database)
        self._checkpointer = Checkpointer(database.path) if database.path is not None else None
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
    def execute(self, command: SettleHold) -> asyncio.Future[Settled]: ...
    @overload
    def execute(self, command: ReleaseHold | ExpireHold) -> asyncio.Future[Released]: ...
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
        return self._submit(command)

    async def work(self, account_ids: Iterable[int], run: Callable[[Transaction], T]) -> T:
        """Run a wider unit of work on the declared accounts; returns its result once it is committed.

        It may run twice, when the database failed and the batch is replayed. What it raises reaches the caller, after
        its savepoint was rolled back.
        """
        result: T = await self._submit(Work(tuple(account_ids), run))
        return result

    def execute_sync(self, command: Command) -> Any:
        """Do as ``execute`` does, for threads without an event loop."""
        return self._submit_sync(command)

    def work_sync(self, account_ids: Iterable[int], run: Callable[[Transaction], T]) -> T:
        """Do as ``work`` does, for threads without an event loop."""
        result: T = self._submit_sync(Work(tuple(account_ids), run))
        return result

    def _submit(self, command: Command | Work) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._enqueue(_Item(command, loop, future))
        return future

    def _submit_sync(self, command: Command | Work) -> Any:
        future: Future[Any] = Future()
        self._enqueue(_Item(command, None, future))
        return future.result()

    def _enqueue(self, item: _Item) -> None:
        if self._closing or len(self._queue) >= self._queue_limit:
            state = "is closed" if self._closing else f"has {self._queue_limit} commands waiting"
            msg = f"the ledger's writer {state}; nothing was written, try again shortly"
            raise Overloaded(msg)
        self._queue.append(item)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        queue, wake = self._queue, self._wake
        while True:
            if not queue:
                wake.clear()
                if not queue and not self._closing:
                    wake.wait()
                if not queue and self._closing:
                    break
            batch = [queue.popleft() for _ in range(min(len(queue), self._max_batch))]
            batch.sort(key=_is_work)  # stable: the quick commands first, each kind in its order of arrival
            done = self._process(batch)
            queue.extendleft(reversed(batch[done:]))
            _answer(batch[:done])
        self.database.primary.close()
        if self._turn is not None:
            self._turn.close()

    def _process(self, batch: list[_Item]) -> int:
        """Run the batch and return how many of its items are done; units of work may be left for the next.

        A database that is away is asked again for a while; a culprit in the batch fails alone.
        """
        for attempt in range(_RETRIES):
            try:
                return self._attempt(batch, careful=attempt > 0)
            except _UNAVAILABLE as error:
                logger.warning("the database failed (%s); a batch of %d is tried again", error, len(batch))
                failure: Exception = error
                self._reconnect()
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
            except Exception as error:  # noqa: BLE001 - whatever failed, every caller gets an answer
                logger.warning("a batch of %d failed (%s); its commands are run one by one", len(batch), error)
                self._reconnect()  # psycopg believes statements prepared that an aborted pipeline never prepared
                for item in batch:
                    self._run_alone(item)
                return len(batch)
        for item in batch:
            item.answer, item.error = None, _unknown(failure)
        return len(batch)

    def _run_alone(self, item: _Item) -> None:
        """Run one command in a transaction of its own, careful of what an earlier try may have left."""
        for _ in range(2):  # another host may have written the same new row a moment ago; then it is there now
            try:
                self._attempt([item], careful=True)
                return
            except _UNAVAILABLE as error:
                self._reconnect()
                item.error = _unknown(error)
            except peewee.IntegrityError as error:
                self._reconnect()
                item.error = DatabaseError(f"the database refused the command: {error}")
            except Exception as error:  # noqa: BLE001 - see _process
                self._reconnect()
                item.error = DatabaseError(f"the command failed in the database: {error}")
                return

    def _reconnect(self) -> None:
        with contextlib.suppress(peewee.PeeweeException):
            self.database.primary.close()

    def _attempt(self, batch: Sequence[_Item], *, careful: bool) -> int:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_driver_errors)
            is_new = self.database.primary.connect(reuse_if_open=True)
            if self._turn is not None:
                stack.enter_context(self._turn)
                self._keep_wal_short(is_new=is_new)
            stack.enter_context(self._store.transaction())
            book = load_book(self._store, [item.command for item in batch], careful=careful)
            work_until = 0.0
            done = len(batch)
            for index, item in enumerate(batch):
                item.answer = item.error = None
                command = item.command
                if isinstance(command, Work):
                    now = time.monotonic()
                    work_until = work_until or now + _WORK_BUDGET_S
                    if now > work_until:  # whoever waits for a hold does not wait for all of them
                        done = index
                        break
                    book = self._run_work(item, command, book, batch[index:])
                    continue
                try:
                    item.answer = decide(book, command)
                except Exception as error:  # noqa: BLE001 - a command that raises fails alone
                    item.error = error
            self._store.flush(book)
        return done

    def _apply(self, book: Book, command: Command) -> Answer:
        """Decide one command of a unit of work and write its rows at once, for the SQL that follows."""
        needs = Needs()
        needs.add(command, careful=False)
        needs.transfers.clear()  # a unit of work makes new ids: its transfers are not there yet
        load_holds(self._store, book, needs)
        answer = decide(book, command)
        self._store.flush(book)
        return answer

    def _keep_wal_short(self, *, is_new: bool) -> None:
        """Leave checkpoints to their thread, but for a WAL that has grown long."""
        assert self._checkpointer is not None  # noqa: S101 - a SQLite database has one
        connection = self.database.primary.connection()
        if is_new:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._checkpointer.relieve(connection)

    def _run_work(self, item: _Item, work: Work, book: Book, rest: Sequence[_Item]) -> Book:
        """Run a unit of work under its savepoint; if it raised, go on with a book read anew."""
        self._store.flush(book)
        try:
            with _driver_errors, self.database.primary.savepoint():
                transaction = Transaction(
                    self.database.primary,
                    book,
                    work.account_ids,
                    new_id=self._new_id,
                    apply=partial(self._apply, book),
                )
                item.answer = work.run(transaction)
                self._store.flush(book)
        except (peewee.OperationalError, peewee.InterfaceError):
            raise  # the connection's state is unknown: the batch is run again
        except Exception as error:  # noqa: BLE001 - a unit of work fails alone, with whatever it raises
            item.error = error
            return load_book(self._store, [other.command for other in rest], careful=False)
        return book


def _is_work(item: _Item) -> bool:
    return isinstance(item.command, Work)


def _unknown(error: Exception) -> OutcomeUnknown:
    return OutcomeUnknown(f"the database failed ({error}); repeat the same command with the same ids, it converges")


def _answer(batch: Sequence[_Item]) -> None:
    """Answer every caller: one call into each event loop, whatever the number of its callers."""
    loops = {item.loop for item in batch}
    for loop in loops:
        items = batch if len(loops) == 1 else [item for item in batch if item.loop is loop]
        if loop is None:
            _resolve(items)
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_resolve, items)


def _resolve(items: Sequence[_Item]) -> None:
    for item in items:
        if item.future.done():
            continue
        if item.error is not None:
            item.future.set_exception(item.error)
        else:
            item.future.set_result(item.answer)
