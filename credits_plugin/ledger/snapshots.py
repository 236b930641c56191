"""One consistent view of a database for several reads, streamed: memory stays bounded, no writer waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import uuid4

import peewee

_ROWS_PER_FETCH: Final = 1_000


class Snapshot:
    """Streams rows as they were when the snapshot was opened; several streams may be open at once."""

    def __init__(self, database: peewee.Database, cursors: contextlib.ExitStack) -> None:
        self._connection = database.connection()
        self._cursors = cursors
        self._on_server = database.param == "%s"

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """Run SQL with ``%s`` for its parameters; rows are fetched as they are asked for."""
        if not self._on_server:
            return iter(self._connection.execute(sql.replace("%s", "?"), parameters))
        # PostgreSQL's client would otherwise hold the whole result.
        cursor = self._cursors.enter_context(self._connection.cursor(name=f"rows_{uuid4().hex}"))
        cursor.itersize = _ROWS_PER_FETCH
        cursor.execute(sql, parameters)
        return iter(cursor)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run SQL whose result is small."""
        return list(self._connection.execute(sql if self._on_server else sql.replace("%s", "?"), parameters).fetchall())


@contextlib.contextmanager
def snapshot(database: peewee.Database) -> Iterator[Snapshot]:
    """Open a snapshot on the calling thread's connection. A transaction that is open there serves as one, and stays."""
    database.connect(reuse_if_open=True)
    if database.in_transaction():
        with contextlib.ExitStack() as cursors:
            yield Snapshot(database, cursors)
        return
    on_server = database.param == "%s"
    database.connection().execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if on_server else "BEGIN")
    try:
        with contextlib.ExitStack() as cursors:
            yield Snapshot(database, cursors)
    finally:
        database.connection().execute("ROLLBACK")
