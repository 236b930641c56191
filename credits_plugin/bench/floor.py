"""The floor: the same pairs by hand-written set-wise SQL on the bare driver, with group commit and nothing else.

Same schema, same durability, same hash chain, same callers. No rules but the balance check, no lots, no expiry, no
request ids, no units of work, no retries: what the general writer may cost is the distance to this.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import struct
import threading
from collections import deque
from typing import Any, Final, Protocol

from ..database import Database, Dialect
from ..ledger.writer import MAX_BATCH

_HOLD: Final = "id, account_id, amount, state, expires_at_ms, price_version, input_tokens"
_PACK: Final = struct.Struct(">14q").pack
_Item = tuple[bool, int, int, int, int, "asyncio.Future[bool]"]


class Driver(Protocol):
    """A bare connection with the six statements of a batch."""

    def begin(self) -> None:
        """Open the transaction."""

    def accounts(self, ids: list[int]) -> list[Any]:
        """Read and lock accounts."""

    def holds(self, ids: list[int]) -> list[Any]:
        """Read holds."""

    def write(self, holds: list[Any], ended: list[int], transfers: list[Any], accounts: list[Any]) -> None:
        """Write the batch and commit it."""

    def close(self) -> None:
        """Close the connection."""


class SqliteDriver:
    """The sqlite3 module, as the ledger's writer opens it."""

    def __init__(self, database: Database) -> None:
        self._connection = sqlite3.connect(str(database.path), isolation_level=None, timeout=15)
        self._connection.executescript(
            "PRAGMA journal_mode=wal; PRAGMA synchronous=full; PRAGMA wal_autocheckpoint=4000"
        )

    def begin(self) -> None:
        """See :class:`Driver`."""
        self._connection.execute("BEGIN IMMEDIATE")

    def accounts(self, ids: list[int]) -> list[Any]:
        """See :class:`Driver`."""
        return self._select("SELECT id, balance, held, seq, last_transfer_id, last_hash FROM account WHERE id IN", ids)

    def holds(self, ids: list[int]) -> list[Any]:
        """See :class:`Driver`."""
        return self._select("SELECT id, amount, price_version FROM hold WHERE id IN", ids)

    def write(self, holds: list[Any], ended: list[int], transfers: list[Any], accounts: list[Any]) -> None:
        """See :class:`Driver`."""
        execute = self._connection.executemany
        execute(f"INSERT INTO hold ({_HOLD}) VALUES (?,?,?,1,?,1,1000)", holds)
        execute("DELETE FROM hold WHERE id = ?", [(one,) for one in ended])
        execute("INSERT INTO transfer VALUES (?,?,?,?,2,?,?,?,?,1,900,100,0,250,0,NULL)", transfers)
        execute(
            "UPDATE account SET balance=?, held=?, seq=?, last_transfer_id=?, last_hash=? WHERE id=?",
            [(*row[1:], row[0]) for row in accounts],
        )
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """See :class:`Driver`."""
        self._connection.close()

    def _select(self, sql: str, ids: list[int]) -> list[Any]:
        if not ids:
            return []
        size = 1 << (len(ids) - 1).bit_length()
        marks = ",".join("?" * size)
        return self._connection.execute(f"{sql} ({marks})", ids + [0] * (size - len(ids))).fetchall()


class PostgresqlDriver:
    """psycopg without Peewee."""

    def __init__(self, database: Database) -> None:
        import psycopg  # noqa: PLC0415 - an extra

        self._connection = psycopg.connect(database.primary.database, autocommit=True)

    def begin(self) -> None:
        """See :class:`Driver`."""
        self._connection.execute("BEGIN")

    def accounts(self, ids: list[int]) -> list[Any]:
        """See :class:`Driver`."""
        sql = (
            "SELECT id, balance, held, seq, last_transfer_id, last_hash FROM account "
            "WHERE id = ANY(%s) ORDER BY id FOR UPDATE"
        )
        return self._connection.execute(sql, (sorted(ids),)).fetchall()

    def holds(self, ids: list[int]) -> list[Any]:
        """See :class:`Driver`."""
        if not ids:
            return []
        return self._connection.execute(
            "SELECT id, amount, price_version FROM hold WHERE id = ANY(%s)", (ids,)
        ).fetchall()

    def write(self, holds: list[Any], ended: list[int], transfers: list[Any], accounts: list[Any]) -> None:
        """See :class:`Driver`."""
        execute = self._connection.execute
        if holds:
            execute(
                f"INSERT INTO hold ({_HOLD}) SELECT i, a, m, 1, e, 1, 1000 "
                "FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS n (i, a, m, e)",
                [list(column) for column in zip(*holds, strict=True)],
            )
        if ended:
            execute("DELETE FROM hold WHERE id = ANY(%s)", (ended,))
            execute(
                "INSERT INTO transfer SELECT i, a, s, p, 2, m, b, t, h, 1, 900, 100, 0, 250, 0, NULL FROM unnest("
                "%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], "
                "%s::bytea[]) AS n (i, a, s, p, m, b, t, h)",
                [list(column) for column in zip(*transfers, strict=True)],
            )
        execute(
            "UPDATE account SET balance=b, held=h, seq=s, last_transfer_id=l, last_hash=x FROM unnest("
            "%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bytea[]) "
            "AS n (i, b, h, s, l, x) WHERE id = i",
            [list(column) for column in zip(*accounts, strict=True)],
        )
        execute("COMMIT")

    def close(self) -> None:
        """See :class:`Driver`."""
        self._connection.close()


class FloorWriter:
    """The shortest group commit that answers asyncio callers truly."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: deque[_Item] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(
        self,
        place: bool,
        account_id: int,
        hold_id: int,
        amount: int,
        at_ms: int,
    ) -> asyncio.Future[bool]:
        """Queue a hold (``place``) or a settle."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((place, account_id, hold_id, amount, at_ms, future))
        if not self._wake.is_set():
            self._wake.set()
        return future

    def close(self) -> None:
        """Write what is queued and stop."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        sqlite = self._database.dialect is Dialect.SQLITE
        driver: Driver = SqliteDriver(self._database) if sqlite else PostgresqlDriver(self._database)
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                if not self._queue and not self._closing:
                    self._wake.wait()
                continue
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            answers = _write_batch(driver, batch)
            batch[0][5].get_loop().call_soon_threadsafe(_resolve, answers)
        driver.close()


def _write_batch(driver: Driver, batch: list[_Item]) -> list[tuple[asyncio.Future[bool], bool]]:
    driver.begin()
    accounts = {row[0]: list(row) for row in driver.accounts(list({item[1] for item in batch}))}
    open_holds = {row[0]: row[1] for row in driver.holds([item[2] for item in batch if not item[0]])}
    placed: list[Any] = []
    ended: list[int] = []
    transfers: list[Any] = []
    answers = []
    for place, account_id, hold_id, amount, at_ms, future in batch:
        account = accounts[account_id]
        if place:
            affordable = account[1] - account[2] >= amount
            if affordable:
                account[2] += amount
                placed.append((hold_id, account_id, amount, at_ms + 600_000))
            answers.append((future, affordable))
            continue
        account[2] -= open_holds[hold_id]
        account[1] -= amount
        account[3] += 1
        content = _PACK(
            hold_id, account_id, account[3], account[4], 2, amount, account[1], at_ms, 1, 900, 100, 0, 250, 0
        )
        digest = hashlib.blake2b(account[5] + content, digest_size=16).digest()
        transfers.append((hold_id, account_id, account[3], account[4], amount, account[1], at_ms, digest))
        account[4], account[5] = hold_id, digest
        ended.append(hold_id)
        answers.append((future, True))
    driver.write(placed, ended, transfers, list(accounts.values()))
    return answers


def _resolve(answers: list[tuple[asyncio.Future[bool], bool]]) -> None:
    for future, answer in answers:
        if not future.done():
            future.set_result(answer)
