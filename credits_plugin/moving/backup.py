"""Backup of a live SQLite database and restore from it. PostgreSQL has its own tools; docs/moving.md names them."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import peewee

from ..database import Database, migrate, open_database, pending_migrations, sqlite_url
from ..errors import DatabaseError
from ..ledger.audit import AuditReport, audit
from ..ledger.ids import now_ms
from .durable import sync_path
from .replacing import LOGS, put_in_place


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A file whose books were found clean. ``lacking``: the migrations between its schema and this version's."""

    path: Path
    accounts: int
    transfers: int
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """``replaced``: where the file went that was there before. ``lacking``: as of the backup, whose schema it keeps."""

    replaced: Path | None
    lacking: tuple[str, ...]


def back_up(database: Database, path: Path) -> BackupReport:
    """Copy a live SQLite database to ``path`` while hosts write; audited before it takes that name.

    An older version's schema is kept as it is, so that a migration can be gone back on.

    Raises:
        DatabaseError: not SQLite, of a newer version, the file exists or cannot be written, or the copy is not clean.
    """
    if database.path is None:
        msg = "this is a PostgreSQL database: back it up with pg_basebackup or pg_dump, then run `credits audit`"
        raise DatabaseError(msg)
    if path.exists():
        msg = f"{path} exists; name a new file, backups are never overwritten"
        raise DatabaseError(msg)
    pending_migrations(database)
    partial = path.with_name(path.name + ".partial")
    try:
        _copy_pages(_uri(database.path), partial)
        report = _require_clean(partial)
        sync_path(partial)
        partial.rename(path)
        sync_path(path.parent)
    finally:
        _remove(partial)
    return replace(report, path=path)


def restore(backup: Path, database: Database) -> RestoreReport:
    """Put a clean backup in the database's place, with the schema that it has; what was there is kept beside it.

    Stop the hosts first. What was paid after the backup is not in it: reconcile with Stripe before opening.

    Raises:
        DatabaseError: the backup is missing, not clean or of a newer version, or a host has the database open.
    """
    if database.path is None:
        msg = "this is a PostgreSQL database: restore it with its own tools, then run `credits audit`"
        raise DatabaseError(msg)
    if not backup.exists():
        msg = f"there is no backup at {backup}"
        raise DatabaseError(msg)
    arriving = database.path.with_name(f"{database.path.name}.restored-{now_ms()}")
    try:
        _copy_pages(_uri_at_rest(backup), arriving)
        report = _require_clean(arriving)
        sync_path(arriving)
        replaced = put_in_place(arriving, database.path)
    finally:
        _remove(arriving)
    return RestoreReport(replaced, report.lacking)


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def _uri_at_rest(path: Path) -> str:
    """Of a file that nobody writes: without a log beside it nothing is made there, so that read-only media will do."""
    has_log = any(path.with_name(path.name + log).exists() for log in LOGS)
    return _uri(path) if has_log else f"{_uri(path)}&immutable=1"


def _copy_pages(source_uri: str, target: Path) -> None:
    """Copy through SQLite's own backup, from one snapshot: it waits for no writer, and no writer for it."""
    try:
        with (
            contextlib.closing(sqlite3.connect(source_uri, uri=True, timeout=15)) as reading,
            contextlib.closing(sqlite3.connect(target)) as writing,
        ):
            # Without a snapshot the copy begins anew whenever somebody commits, and waits for locks for ever.
            reading.execute("BEGIN")
            reading.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            reading.backup(writing)
    except sqlite3.Error as error:
        msg = (
            f"cannot copy {source_uri} to {target}: {error}; check that the first is a whole SQLite database, and that "
            "the folder of the second exists, can be written and has room"
        )
        raise DatabaseError(msg) from error


def _require_clean(path: Path) -> BackupReport:
    """Audit a copy; one of an older schema by a copy of its own, migrated, for the audit reads this version's."""
    copied = open_database(sqlite_url(path))
    try:
        lacking = tuple(pending_migrations(copied))
        report = _audit_migrated(path) if lacking else audit(copied)
        copied.close_thread()
        _end_wal(path)
    except (peewee.PeeweeException, sqlite3.Error) as error:
        msg = f"the copy cannot be audited, so what was copied is damaged: {error}"
        raise DatabaseError(msg) from error
    finally:
        copied.close_thread()
    if not report.clean:
        finding = report.findings[0]
        msg = f"the copy's audit found {report.finding_count} faults, first: {finding.subject} {finding.message}"
        raise DatabaseError(msg)
    return BackupReport(path, report.accounts, report.transfers, lacking)


def _audit_migrated(path: Path) -> AuditReport:
    scratch = path.with_name(path.name + ".migrated")
    migrated = open_database(sqlite_url(scratch))
    try:
        _copy_pages(_uri(path), scratch)
        migrate(migrated)
        return audit(migrated)
    finally:
        migrated.close_thread()
        _remove(scratch)


def _end_wal(path: Path) -> None:
    """Leave one file that can be read without making others beside it; opening it for the audit had given it a WAL."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def _remove(path: Path) -> None:
    for suffix in ("", *LOGS, ".lock"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
