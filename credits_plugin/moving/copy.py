"""``credits copy``: all tables from one database to an empty one, proven before it counts.

Writers of the source wait while it runs. The target is written in one transaction: all of it is there, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from uuid import uuid4

import peewee

from ..database import Database, Dialect, file_lock, lock_path, prepare_schema, require_current_schema
from ..errors import DatabaseError
from ..ledger.audit import audit
from ..ledger.entries import INCOMING
from ..models import MODELS

_PAGE: Final = 5_000
_INCOMING: Final = ", ".join(str(int(code)) for code in sorted(INCOMING))


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied. ``heads_digest`` covers every account's chain head, the same on both sides."""

    rows: dict[str, int]
    accounts: int
    heads_digest: str


def copy_database(source: Database, target: Database) -> CopyReport:
    """Copy every table, then prove the copy: row counts, balances recomputed from transfers, chain heads, an audit.

    Balances of accounts whose oldest transfers were archived are recomputed from the archived links on.

    Raises:
        DatabaseError: the source lacks this version's schema, the target is not empty, or the copy differs; the target
            is then as it was.
    """
    require_current_schema(source)
    prepare_schema(target)
    with _frozen(source) as reading, _connected(target) as writing:
        _require_empty(target)
        with target.primary.atomic():
            rows = {_name(model): _copy_table(reading, writing, source, target, model) for model in MODELS}
            report = _prove(source, target, rows)
            _continue_ids(target)
    findings = audit(target).findings
    if findings:
        msg = f"the copy was written, but its audit found: {findings[0].subject} {findings[0].message}"
        raise DatabaseError(msg)
    return report


@contextlib.contextmanager
def _frozen(source: Database) -> Iterator[Any]:
    """Yield a connection to a source that nobody can write while it is open."""
    with contextlib.ExitStack() as stack:
        if source.path is not None:
            stack.enter_context(file_lock(lock_path(source.path)))
        connection = stack.enter_context(_connected(source))
        if source.dialect is Dialect.SQLITE:
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            # Batches lock accounts before all else, so this waits for those that run and stops the next at their start.
            connection.execute("LOCK TABLE account IN EXCLUSIVE MODE")
            tables = ", ".join(f'"{_name(model)}"' for model in MODELS)
            connection.execute(f"LOCK TABLE {tables} IN SHARE MODE")
        stack.callback(connection.execute, "ROLLBACK")
        yield connection


@contextlib.contextmanager
def _connected(database: Database) -> Iterator[Any]:
    database.primary.connect(reuse_if_open=True)
    try:
        yield database.primary.connection()
    finally:
        database.primary.close()


def _require_empty(target: Database) -> None:
    for model in MODELS:
        if model.select().limit(1).tuples().execute(target.primary):
            msg = f"the target already has rows in {_name(model)}; copy into an empty database"
            raise DatabaseError(msg)


def _copy_table(reading: Any, writing: Any, source: Database, target: Database, model: type[peewee.Model]) -> int:
    table, columns = _name(model), [field.column_name for field in model._meta.sorted_fields]  # noqa: SLF001 - Peewee's documented name
    names = ", ".join(f'"{column}"' for column in columns)
    count = 0
    with contextlib.closing(_stream(reading, source, f'SELECT {names} FROM "{table}"')) as rows:
        if target.dialect is Dialect.POSTGRESQL:
            with writing.cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copying:
                for row in rows:
                    copying.write_row(row)
                    count += 1
            return count
        insert = f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})'
        while page := list(islice(rows, _PAGE)):
            writing.executemany(insert, page)
            count += len(page)
    return count


def _stream(reading: Any, source: Database, sql: str) -> Generator[Sequence[Any], None, None]:
    if source.dialect is Dialect.SQLITE:
        yield from reading.execute(sql)
        return
    with reading.cursor(name=f"copy_{uuid4().hex}") as cursor:  # on the server: memory stays bounded
        cursor.itersize = _PAGE
        cursor.execute(sql)
        yield from cursor


def _prove(source: Database, target: Database, rows: dict[str, int]) -> CopyReport:
    for model in MODELS:
        counts = [
            database.primary.execute_sql(f'SELECT count(*) FROM "{_name(model)}"') for database in (source, target)
        ]
        there, here = (cursor.fetchone()[0] for cursor in counts)
        if not there == here == rows[_name(model)]:
            msg = f"{_name(model)} has {there} rows in the source and {here} in the copy; nothing was kept"
            raise DatabaseError(msg)
    sums = (
        "SELECT a.external_id, a.balance, COALESCE(t.total, 0), COALESCE(g.balance, 0) FROM account a LEFT JOIN ("
        f"SELECT account_id, SUM(CASE WHEN code IN ({_INCOMING}) THEN amount ELSE -amount END) AS total FROM transfer "
        "GROUP BY account_id) t ON t.account_id = a.id LEFT JOIN archive_anchor g ON g.account_id = a.id "
        "WHERE a.balance <> COALESCE(t.total, 0) + COALESCE(g.balance, 0)"
    )
    wrong = target.primary.execute_sql(sums).fetchone()
    if wrong is not None:
        archived = f", its archived ones left {wrong[3]}" if wrong[3] else ""
        msg = f"account {wrong[0]} says balance {wrong[1]}, its copied transfers add up to {wrong[2]}{archived}"
        msg = f"{msg}; nothing was kept"
        raise DatabaseError(msg)
    (accounts, theirs), (_, ours) = _heads(source), _heads(target)
    if theirs != ours:
        msg = f"the chain heads differ: {theirs} in the source, {ours} in the copy; nothing was kept"
        raise DatabaseError(msg)
    return CopyReport(rows, accounts, ours)


def _heads(database: Database) -> tuple[int, str]:
    """Return the number of accounts and a digest over (id, seq, balance, last transfer, hash) of each, in id order.

    Behind them the same of the archived links that chains go on from, if there are any.
    """
    digest, count = hashlib.sha256(), 0
    sql = "SELECT id, seq, balance, held, last_transfer_id, last_hash FROM account ORDER BY id"
    for *numbers, last_hash in database.primary.execute_sql(sql):
        digest.update(f"{numbers}{bytes(last_hash).hex()}\n".encode())
        count += 1
    sql = "SELECT account_id, seq, balance, transfer_id, hash FROM archive_anchor ORDER BY account_id"
    for *numbers, last_hash in database.primary.execute_sql(sql):
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
