"""Where the sandbox keeps its objects: in memory, and in a SQLite file when it has to survive a restart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Change = tuple[str, str]
"""Kind and id of a row that a transaction has written or dropped."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sandbox_rows (
    kind TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, id)
) STRICT
"""


class Store:
    """Rows of JSON by kind and id, in the order of their creation.

    What is read is a copy: a change counts only after `put`. Everything runs in the event loop's thread without
    awaiting, so a transaction is alone by construction.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._rows: dict[str, dict[str, Json]] = {}
        self._seqs: dict[Change, int] = {}
        self._undo: dict[Change, Json | None] | None = None
        self._last_seq = 0
        self._listeners: list[Callable[[list[Change]], None]] = []
        self._path = path
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Read the file, if there is one; raises sqlite3.DatabaseError when it is something else."""
        if self._path is None:
            return
        self._database = _connect(self._path)
        for kind, row_id, seq, body in self._database.execute(
            "SELECT kind, id, seq, body FROM sandbox_rows ORDER BY seq"
        ):
            self._rows.setdefault(kind, {})[row_id] = json.loads(body)
            self._seqs[kind, row_id] = self._last_seq = seq

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def on_commit(self, listener: Callable[[list[Change]], None]) -> None:
        """Call `listener` with the changed rows after each commit."""
        self._listeners.append(listener)

    def get(self, kind: str, row_id: str) -> Json | None:
        """A copy of the row, or None."""
        row = self._rows.get(kind, {}).get(row_id)
        return deepcopy(row)

    def ids_newest_first(self, kind: str) -> list[str]:
        """The ids of all rows of a kind, latest first."""
        return list(reversed(self._rows.get(kind, {})))

    @property
    def last_seq(self) -> int:
        """The number of the row that was added last."""
        return self._last_seq

    def seq_of(self, kind: str, row_id: str) -> int:
        """The number of a row, in the order of creation over all kinds."""
        return self._seqs[kind, row_id]

    def newest_first(self, kind: str, where: Callable[[Json], bool] = lambda _: True) -> Iterator[Json]:
        """Copies of the rows that satisfy `where` (which must not change them), latest first."""
        for row in reversed(list(self._rows.get(kind, {}).values())):
            if where(row):
                yield deepcopy(row)

    def oldest_first(self, kind: str, where: Callable[[Json], bool] = lambda _: True) -> Iterator[Json]:
        """Copies of the rows that satisfy `where` (which must not change them), earliest first."""
        for row in list(self._rows.get(kind, {}).values()):
            if where(row):
                yield deepcopy(row)

    def put(self, kind: str, row: Json, *, row_id: str | None = None) -> None:
        """Add or replace a row; its id is `row["id"]` unless given."""
        key = (kind, row_id or row["id"])
        self._remember(key)
        if key not in self._seqs:
            self._last_seq += 1
            self._seqs[key] = self._last_seq
        self._rows.setdefault(kind, {})[key[1]] = deepcopy(row)

    def drop(self, kind: str, row_id: str) -> None:
        """Remove a row that may be there."""
        self._remember((kind, row_id))
        self._rows.get(kind, {}).pop(row_id, None)

    def _remember(self, key: Change) -> None:
        if self._undo is None:
            raise RuntimeError("The sandbox's store is changed inside of transaction() only.")
        self._undo.setdefault(key, self._rows.get(key[0], {}).get(key[1]))

    @contextmanager
    def transaction(self, *, keep_on: Callable[[BaseException], bool] = lambda _: False) -> Iterator[None]:
        """All changes inside, or none; an exception undoes them unless `keep_on(exception)`. It does not nest."""
        if self._undo is not None:
            raise RuntimeError("The sandbox's transactions do not nest.")
        self._undo = {}
        try:
            yield
        except BaseException as error:
            if keep_on(error):
                self._commit()
            else:
                self._roll_back()
            raise
        self._commit()

    def _roll_back(self) -> None:
        undo, self._undo = self._undo or {}, None
        for (kind, row_id), row in undo.items():
            if row is None:
                self._rows.get(kind, {}).pop(row_id, None)
                self._seqs.pop((kind, row_id), None)
            else:
                self._rows.setdefault(kind, {})[row_id] = row

    def _commit(self) -> None:
        changes = list(self._undo or {})
        self._undo = None
        if changes and self._database is not None:
            self._write(self._database, changes)
        for kind, row_id in changes:
            if row_id not in self._rows.get(kind, {}):
                self._seqs.pop((kind, row_id), None)
        for listener in self._listeners if changes else ():
            listener(changes)

    def _write(self, database: sqlite3.Connection, changes: list[Change]) -> None:
        database.execute("BEGIN IMMEDIATE")
        for kind, row_id in changes:
            row = self._rows.get(kind, {}).get(row_id)
            if row is None:
                database.execute("DELETE FROM sandbox_rows WHERE kind = ? AND id = ?", (kind, row_id))
            else:
                values = (kind, row_id, self._seqs[kind, row_id], json.dumps(row))
                database.execute("INSERT OR REPLACE INTO sandbox_rows VALUES (?, ?, ?, ?)", values)
        database.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    # NORMAL survives a killed process, which is what a demo meets; a power cut may cost its last seconds.
    database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA};")
    return database
