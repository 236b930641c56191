"""A large ledger, made fast and true: chains with their hashes, balances and lots, as the writer would have left them.

The rows are made in Python and written with the bare driver: one ``executemany`` without a journal on SQLite, COPY on
PostgreSQL. The audit of a filled ledger is clean.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from random import Random
from typing import Any, Final

from ..database import Database, Dialect, migrate
from ..ledger.entries import Code, LotTerms, TransferValues, link_hash, pack_link
from ..ledger.ids import first_id_at, key_of_name, now_ms

PRICE_VERSION: Final = 1
_TRANSFERS_PER_ACCOUNT: Final = 10
_MOST_ACCOUNTS: Final = 1_000_000
_ACCOUNTS_PER_REGULAR: Final = 100
_TO_LONG: Final = 0.05
_TO_REGULARS: Final = 0.25
_GRANT: Final = 10**11
_USAGE: Final = int(Code.USAGE)
_ROWS_PER_COPY: Final = 4_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a ledger is, and how its transfers are spread.

    Account 0 has one transfer in twenty, so its chain grows with the ledger. One account in a hundred is a *regular*:
    together they have a quarter, about 250 transfers each at any size. All accounts share the rest.
    """

    transfers: int

    @property
    def accounts(self) -> int:
        """One for ten transfers, a million at most."""
        return min(max(self.transfers // _TRANSFERS_PER_ACCOUNT, 2), _MOST_ACCOUNTS)

    @property
    def regulars(self) -> int:
        """Accounts 1 to this one are regulars."""
        return max(self.accounts // _ACCOUNTS_PER_REGULAR, 1)

    def drawn(self, draw: float, opened: int) -> int:
        """Return the account, of those opened, that a random number from 0 to 1 falls to."""
        if draw < _TO_LONG:
            return 0
        if draw < _TO_LONG + _TO_REGULARS:
            return min(1 + int((draw - _TO_LONG) / _TO_REGULARS * self.regulars), opened - 1)
        return int((draw - _TO_LONG - _TO_REGULARS) / (1 - _TO_LONG - _TO_REGULARS) * opened)


def name_of(number: int) -> str:
    """Return the external id of the account with a number; a hundred share all but its last two digits."""
    return f"user-{number:07d}"


@dataclass(slots=True)
class Books:
    """Makes a ledger's transfers, a millisecond apart up to now, and keeps every chain's head by account number."""

    shape: Shape
    start_ms: int
    keys: list[int] = field(default_factory=list)
    first_ids: list[int] = field(default_factory=list)
    last_ids: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    balances: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def transfers(self) -> Iterator[TransferValues]:
        """Yield every transfer, oldest first. Each account opens with a grant; then usage of all is interleaved."""
        draw = Random(self.shape.transfers).random  # noqa: S311 - the same ledger in every run
        keys, last_ids, seqs, balances, hashes = self.keys, self.last_ids, self.seqs, self.balances, self.hashes
        opens_every = self.shape.transfers / self.shape.accounts
        for at_ms in range(self.start_ms, self.start_ms + self.shape.transfers):
            identifier = first_id_at(at_ms)
            if at_ms - self.start_ms >= len(keys) * opens_every:
                yield self._open_account(identifier, at_ms)
                continue
            number = self.shape.drawn(draw(), len(keys))
            amount = 200 + int(4_000 * draw())
            key, seq, previous_id, balance = keys[number], seqs[number] + 1, last_ids[number], balances[number] - amount
            head = (identifier, key, seq, previous_id, _USAGE, amount, balance, at_ms)
            measured = (PRICE_VERSION, amount, 100, 0, 250, 0)
            # link_hash without its call: of the ten million that are made here
            digest = blake2b(hashes[number] + pack_link(*head, *measured), digest_size=16).digest()
            last_ids[number], seqs[number], balances[number], hashes[number] = identifier, seq, balance, digest
            yield (*head, digest, *measured, None)

    def _open_account(self, identifier: int, at_ms: int) -> TransferValues:
        key = key_of_name(name_of(len(self.keys)))
        head = (identifier, key, 1, 0, int(Code.PROMOTION), _GRANT, _GRANT, at_ms)
        digest = link_hash(b"", pack_link(*head, 0, 0, 0, 0, 0, 0), None)
        self.keys.append(key)
        self.first_ids.append(identifier)
        self.last_ids.append(identifier)
        self.seqs.append(1)
        self.balances.append(_GRANT)
        self.hashes.append(digest)
        return (*head, digest, None, None, None, None, None, None, None)

    def lots(self) -> Iterator[tuple[Any, ...]]:
        """Yield every lot, oldest first; spend is not attributed yet, as settling leaves it."""
        for identifier, key in zip(self.first_ids, self.keys, strict=True):
            yield identifier, key, LotTerms().priority, None, _GRANT, _GRANT, 0, None

    def accounts(self) -> Iterator[tuple[Any, ...]]:
        """Yield every account's row, in the order of the keys."""
        for number in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            name = name_of(number)
            head = self.seqs[number], self.last_ids[number], self.hashes[number]
            yield (
                self.keys[number],
                name,
                self.balances[number],
                0,
                *head,
                None,
                self.start_ms,
                f"{name}@example.com",
                None,
                0,
            )


def fill(database: Database, shape: Shape) -> None:
    """Migrate an empty database and write a ledger of this shape into it. No other connection may be open."""
    migrate(database)
    books = Books(shape, now_ms() - shape.transfers)
    price = (PRICE_VERSION, "benchmark", "benchmark", "benchmark-1", "{}", books.start_ms)
    # Accounts last: their rows are what the chains come to.
    tables = {
        "price_version": iter([price]),
        "transfer": books.transfers(),
        "lot": books.lots(),
        "account": books.accounts(),
    }
    write = _fill_sqlite if database.dialect is Dialect.SQLITE else _fill_postgresql
    write(database, tables)


def _fill_sqlite(database: Database, tables: dict[str, Iterator[tuple[Any, ...]]]) -> None:
    with contextlib.closing(sqlite3.connect(str(database.path), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=off")
        connection.execute("PRAGMA synchronous=off")
        connection.execute("BEGIN")
        for table, rows in tables.items():
            columns = len(connection.execute(f"SELECT * FROM {table}").description)
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * columns)})", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=wal")


def _fill_postgresql(database: Database, tables: dict[str, Iterator[tuple[Any, ...]]]) -> None:
    import psycopg  # noqa: PLC0415 - an extra

    with contextlib.closing(psycopg.connect(database.primary.database, autocommit=True)) as connection:
        with connection.transaction():
            for table, rows in tables.items():
                # A table truncated in the same transaction takes frozen rows, so no vacuum writes them all once more.
                connection.execute(f"TRUNCATE {table}")
                with connection.cursor().copy(f"COPY {table} FROM STDIN (FREEZE)") as copy:
                    for block in _blocks(rows):
                        copy.write(block)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _blocks(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    rows = iter(rows)
    while block := list(islice(rows, _ROWS_PER_COPY)):
        yield "".join(map(_copied, block))


def _copied(row: tuple[Any, ...]) -> str:
    values = [r"\N" if value is None else rf"\\x{value.hex()}" if type(value) is bytes else value for value in row]
    return "\t".join(map(str, values)) + "\n"
