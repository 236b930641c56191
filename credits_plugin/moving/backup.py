"""Backup of a live SQLite database and restore from it. PostgreSQL has its own tools; docs/moving.md names them."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from ..database import Database, file_lock, lock_path, open_database, require_current_schema, sqlite_url
from ..errors import DatabaseError
from ..ledger.audit import audit
from ..ledger.ids import now_ms
from .durable import sync_path


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A file whose books were found clean."""

    path: Path
    accounts: int
    transfers: int


def back_up(database: Database, path: Path) -> BackupReport:
    """Copy a live SQLite database to ``path`` while hosts write; audited before it takes that name.

    Raises:
        DatabaseError: not SQLite, the file exists, or the copy is not clean.
    """
    if database.path is None:
        msg = "this is a PostgreSQL database: back it up with pg_basebackup or pg_dump, then run `credits audit`"
        raise DatabaseError(msg)
    if path.exists():
        msg = f"{path} exists; name a new file, backups are never overwritten"
        raise DatabaseError(msg)
    require_current_schema(database)
    partial = path.with_name(path.name + ".partial")
    try:
        _copy_pages(database.path, partial)
        report = _require_clean(partial)
        sync_path(partial)
        partial.rename(path)
        sync_path(path.parent)
    finally:
        _remove(partial)
    return BackupReport(path, report.accounts, report.transfers)


def restore(backup: Path, database: Database) -> Path | None:
    """Put a clean backup in the database's place; returns where the replaced file went, or None if there was none.

    Stop the hosts first. What was paid after the backup is not in it: reconcile with Stripe before opening.

    Raises:
        DatabaseError: the backup is missing, not clean or of another version, or a host has the database open.
    """
    if database.path is None:
        msg = "this is a PostgreSQL database: restore it with its own tools, then run `credits audit`"
        raise DatabaseError(msg)
    if not backup.exists():
        msg = f"there is no backup at {backup}"
        raise DatabaseError(msg)
    arriving = database.path.with_name(f"{database.path.name}.restored-{now_ms()}")
    try:
        _copy_pages(backup, arriving)
        _require_clean(arriving)
        sync_path(arriving)
        with file_lock(lock_path(database.path)):
            replaced = _set_aside(database.path)
            arriving.rename(database.path)
        sync_path(database.path.parent)
    finally:
        _remove(arriving)
    return replaced


def _copy_pages(source: Path, target: Path) -> None:
    """Copy through SQLite's own backup, from one snapshot: it waits for no writer, and no writer for it."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=15)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        # Without a snapshot that stays, the copy begins anew whenever somebody commits, and waits for locks for ever.
        reading.execute("BEGIN")
        reading.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE")


def _require_clean(path: Path) -> BackupReport:
    copied = open_database(sqlite_url(path))
    require_current_schema(copied)
    report = audit(copied)
    copied.close_thread()
    if not report.clean:
        finding = report.findings[0]
        msg = f"the copy's audit found {report.finding_count} faults, first: {finding.subject} {finding.message}"
        raise DatabaseError(msg)
    return BackupReport(path, report.accounts, report.transfers)


def _set_aside(path: Path) -> Path | None:
    """Move the database away with its WAL applied; refuses while somebody has it open."""
    if not path.exists():
        return None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0.5)) as connection:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            # Leaving WAL needs the file for itself: it fails while any other connection is open.
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            msg = f"{path} is in use ({error}): stop the hosts and close the admin UI, then restore"
            raise DatabaseError(msg) from error
    replaced = path.with_name(f"{path.name}.replaced-{now_ms()}")
    path.rename(replaced)
    return replaced


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
