"""``credits copy``: all tables from one database to an empty one, proven before it counts.

Writers of the source wait while it runs, unless we may only read it. The target is written in one transaction: all of
it is there, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from uuid import uuid4

import peewee

from ..database import (
    Database,
    Dialect,
    can_write,
    file_lock,
    is_immutable,
    lock_path,
    prepare_schema,
    require_current_schema,
)
from ..errors import DatabaseError
from ..ledger.audit import audit_uncommitted
from ..models import MODELS

_PAGE: Final = 5_000


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied. ``heads_digest`` covers every account's chain head, the same on both sides.

    ``writers_waited``: nothing was written to the source meanwhile. Where we may only read it, nobody can be made to.
    """

    rows: dict[str, int]
    accounts: int
    heads_digest: str
    writers_waited: bool


def copy_database(source: Database, target: Database) -> CopyReport:
    """Copy every table, then prove the copy before it counts: every row, the chains' heads, and a full audit of it.

    Balances of accounts whose oldest transfers were archived are recomputed from the archived links on.

    Raises:
        DatabaseError: the source lacks this version's schema, the target is not empty, or the copy differs; the target
            is then as it was.
    """
    require_current_schema(source)
    prepare_schema(target)
    opened = source.primary if _may_write(source) else source.reader
    with _frozen(source, opened) as reading, _connected(target.primary) as writing:
        _require_empty(target)
        with target.primary.atomic():
            copied = {_name(model): _copy_table(reading, writing, source, target, model) for model in MODELS}
            accounts, digest = _prove(opened, target, writing, copied)
            _continue_ids(target)
    rows = {name: passed.rows for name, passed in copied.items()}
    return CopyReport(rows, accounts, digest, writers_waited=opened is source.primary)


def _may_write(source: Database) -> bool:
    if source.path is not None:
        return can_write(source.path) and can_write(source.path.parent) and not is_immutable(source.path)
    may = "has_table_privilege('account', 'UPDATE') AND current_setting('transaction_read_only') = 'off'"
    with source.primary.connection_context():
        return bool(source.primary.execute_sql(f"SELECT {may}").fetchone()[0])


@contextlib.contextmanager
def _frozen(source: Database, opened: peewee.Database) -> Iterator[Any]:
    """Yield a connection to the source as it is at one moment; where we may write it, nobody can while it is open."""
    locks = opened is source.primary
    with contextlib.ExitStack() as stack:
        if source.path is not None and locks:
            stack.enter_context(file_lock(lock_path(source.path)))
        connection = stack.enter_context(_connected(opened))
        if source.dialect is Dialect.SQLITE:
            connection.execute("BEGIN IMMEDIATE" if locks else "BEGIN")
        else:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        if source.dialect is Dialect.POSTGRESQL and locks:
            # Batches lock accounts before all else, so this waits for those that run and stops the next at their start.
            connection.execute("LOCK TABLE account IN EXCLUSIVE MODE")
            tables = ", ".join(f'"{_name(model)}"' for model in MODELS)
            connection.execute(f"LOCK TABLE {tables} IN SHARE MODE")
        stack.callback(connection.execute, "ROLLBACK")
        yield connection


@contextlib.contextmanager
def _connected(database: peewee.Database) -> Iterator[Any]:
    database.connect(reuse_if_open=True)
    try:
        yield database.connection()
    finally:
        database.close()


def _require_empty(target: Database) -> None:
    for model in MODELS:
        if model.select().limit(1).tuples().execute(target.primary):
            msg = f"the target already has rows in {_name(model)}; copy into an empty database"
            raise DatabaseError(msg)


class _Sum:
    """How many rows passed, and a sum of their digests that does not depend on their order."""

    def __init__(self) -> None:
        self.rows = 0
        self.digest = 0

    def over(self, rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """Pass the rows on and add them up."""
        for row in rows:
            self.rows += 1
            digest = hashlib.blake2b(repr(tuple(row)).encode(), digest_size=16).digest()
            self.digest = (self.digest + int.from_bytes(digest)) % (1 << 128)
            yield row


def _copy_table(reading: Any, writing: Any, source: Database, target: Database, model: type[peewee.Model]) -> _Sum:
    table, names, passed = _name(model), _columns(model), _Sum()
    with contextlib.closing(_stream(reading, source, f'SELECT {names} FROM "{table}"')) as stream:
        rows = passed.over(stream)
        if target.dialect is Dialect.POSTGRESQL:
            with writing.cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copying:
                for row in rows:
                    copying.write_row(row)
            return passed
        insert = f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * (names.count(",") + 1))})'
        while page := list(islice(rows, _PAGE)):
            writing.executemany(insert, page)
    return passed


def _columns(model: type[peewee.Model]) -> str:
    return ", ".join(f'"{field.column_name}"' for field in model._meta.sorted_fields)  # noqa: SLF001 - Peewee's documented name


def _stream(reading: Any, source: Database, sql: str) -> Generator[Sequence[Any], None, None]:
    if source.dialect is Dialect.SQLITE:
        yield from reading.execute(sql)
        return
    with reading.cursor(name=f"copy_{uuid4().hex}") as cursor:  # on the server: memory stays bounded
        cursor.itersize = _PAGE
        cursor.execute(sql)
        yield from cursor


def _prove(source: peewee.Database, target: Database, writing: Any, copied: dict[str, _Sum]) -> tuple[int, str]:
    """Read the copy again, before it is committed: its rows, its heads, and every invariant, balances recomputed."""
    for model in MODELS:
        name, here = _name(model), _Sum()
        with contextlib.closing(_stream(writing, target, f'SELECT {_columns(model)} FROM "{name}"')) as stream:
            for _ in here.over(stream):
                pass
        there = copied[name]
        if (here.rows, here.digest) != (there.rows, there.digest):
            msg = f"{name}: {there.rows} rows were read and {here.rows} written, not all the same; nothing was kept"
            raise DatabaseError(msg)
    (accounts, theirs), (_, ours) = _heads(source), _heads(target.primary)
    if theirs != ours:
        msg = f"the chain heads differ: {theirs} in the source, {ours} in the copy; nothing was kept"
        raise DatabaseError(msg)
    findings = audit_uncommitted(target).findings
    if findings:
        msg = f"the copy's audit found: {findings[0].subject} {findings[0].message}; nothing was kept"
        raise DatabaseError(msg)
    return accounts, ours


def _heads(database: peewee.Database) -> tuple[int, str]:
    """Return the number of accounts and a digest over (id, seq, balance, last transfer, hash) of each, in id order.

    Behind them the same of the archived links that chains go on from, if there are any.
    """
    digest, count = hashlib.sha256(), 0
    sql = "SELECT id, seq, balance, held, last_transfer_id, last_hash FROM account ORDER BY id"
    for *numbers, last_hash in database.execute_sql(sql):
        digest.update(f"{numbers}{bytes(last_hash).hex()}\n".encode())
        count += 1
    sql = "SELECT account_id, seq, balance, transfer_id, hash FROM archive_anchor ORDER BY account_id"
    for *numbers, last_hash in database.execute_sql(sql):
        digest.update(f"{numbers}{bytes(last_hash).hex()}\n".encode())
    return count, digest.hexdigest()


def _continue_ids(target: Database) -> None:
    """PostgreSQL's sequence knows nothing of copied rows; the next price version must not collide with one."""
    if target.dialect is Dialect.POSTGRESQL:
        target.primary.execute_sql(
            "SELECT setval(pg_get_serial_sequence('price_version', 'id'), COALESCE(MAX(id), 0) + 1, false) "
            "FROM price_version"
        )


def _name(model: type[peewee.Model]) -> str:
    name: str = model._meta.table_name  # noqa: SLF001 - Peewee's documented name
    return name
