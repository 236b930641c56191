"""A file put in a SQLite database's place: a kill leaves the old database or the new one there, and no mixture.

SQLite finds a database's logs by its name alone, and would apply an old database's to any new file of that name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..database import file_lock, lock_path
from ..errors import DatabaseError
from ..ledger.ids import now_ms
from .durable import sync_path

LOGS: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by the endings of the names."""

_FIRST_LOCK_BYTE: Final = 0x40000000
_LOCK_BYTES: Final = 512
"""SQLite's lock-byte page: whoever has a database in WAL mode open holds a lock there (sqlite.org/fileformat2.html)."""


def put_in_place(arriving: Path, path: Path) -> Path | None:
    """Give ``arriving`` the name ``path``; returns where the file went that had it, with its logs, None without one.

    Both must be on one file system, and that must have hard links.

    Raises:
        DatabaseError: somebody has the database at ``path`` open.
    """
    replaced = path.with_name(f"{path.name}.replaced-{now_ms()}")
    with file_lock(lock_path(path)), _alone(path):
        existed = path.exists()
        if existed:
            _forget_unfinished(path)
            os.link(path, replaced)  # so that the name is never missing: a host would make an empty ledger there
        for log in LOGS:
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + log).rename(replaced.with_name(replaced.name + log))
        sync_path(path.parent)  # the logs are away, in a power cut too, before the new file comes
        arriving.rename(path)
        sync_path(path.parent)
    return replaced if existed else None


def _forget_unfinished(path: Path) -> None:
    """Remove the second name that a killed run left: under two names at once SQLite would keep two logs."""
    for earlier in path.parent.iterdir():
        if earlier.name.startswith(f"{path.name}.replaced-") and earlier.samefile(path):
            earlier.unlink()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep everybody else from the database, its log applied to it; one too damaged for that is left as it is."""
    if not path.exists():
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            _take_through_sqlite(held, path)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise _in_use(path, error) from error
            held.close()
            _take_through_its_locks(held, path)
        yield


def _take_through_sqlite(held: contextlib.ExitStack, path: Path) -> None:
    connection = held.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0.5)))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Leaving WAL needs the file for itself: it fails while any other connection is open.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("BEGIN EXCLUSIVE")


def _take_through_its_locks(held: contextlib.ExitStack, path: Path) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    held.callback(os.close, handle)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _FIRST_LOCK_BYTE)
    except BlockingIOError as error:
        raise _in_use(path, error) from error


def _in_use(path: Path, error: Exception) -> DatabaseError:
    return DatabaseError(f"{path} is in use ({error}): stop the hosts and close the admin UI, then restore")
