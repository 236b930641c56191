"""Connections: which database a URL names, the safe way to open it, read connections, and the migrations runner."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import peewee
from playhouse.cockroachdb import CockroachDatabase
from playhouse.migrations import Runner

from .distributed.cockroach import SCHEME, cockroach_database, migration_lock
from .distributed.true_commits import TrueCommits
from .errors import ConfigurationError, DatabaseError, DatabaseTooNew

T = TypeVar("T")

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x63726564697473  # "credits": the advisory lock that serialises migrations on PostgreSQL
_BUSY_TIMEOUT_S: Final = 15


class Dialect(StrEnum):
    """The SQL that a database speaks. CockroachDB and Citus speak PostgreSQL's."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True)
class Database:
    """One database, twice: ``primary`` may write, ``reader`` may not. Peewee gives each thread its own connection.

    ``place`` says where it is: a file's whole path, or servers, ports and name; no user and no password.
    ``on_citus``: its tables are, or are going to be, distributed by Citus.
    """

    dialect: Dialect
    name: str
    primary: peewee.Database
    reader: peewee.Database
    path: Path | None = None
    place: str = ""
    on_citus: bool = False

    def close_thread(self) -> None:
        """Close the calling thread's connections."""
        self.primary.close()
        self.reader.close()


def open_database(url: str) -> Database:
    """Describe the database that ``url`` names; connects to nothing yet.

    ``sqlite:///relative.db``, ``sqlite:////absolute.db`` (``%``, ``?`` and ``#`` in a name are written ``%25``, ``%3F``
    and ``%23``), ``postgresql://user:password@host:port/name`` (libpq's own form: several hosts and options are
    allowed), ``citus://…`` for a coordinator, or ``cockroachdb://…``.

    Raises:
        ConfigurationError: the URL is of no known form, names an in-memory database, or says more of a SQLite file than
            its path.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _open_sqlite(_sqlite_name(parts))
    if parts.scheme in {"postgresql", "postgres", "citus", SCHEME}:
        return _open_postgresql(url)
    msg = f"DATABASE_URL must be sqlite:///file.db or postgresql://user@host/name; got {parts.scheme or url!r}"
    raise ConfigurationError(msg)


def sqlite_url(path: Path) -> str:
    """Return the URL that names a SQLite file, whatever characters its path has."""
    return f"sqlite:///{quote(str(path.absolute()))}"


def _sqlite_name(parts: SplitResult) -> str:
    """Return the file's name; a part that would be dropped in silence is refused, for another file would be opened."""
    if parts.netloc:
        msg = (
            f"DATABASE_URL names the host {parts.netloc!r}, and SQLite has none: write three slashes before a relative "
            "path (sqlite:///data/x.db), four before an absolute one (sqlite:////data/x.db)"
        )
        raise ConfigurationError(msg)
    if parts.query or parts.fragment:
        msg = (
            f"DATABASE_URL has options after the file {parts.path.removeprefix('/')!r}, and SQLite takes none: leave "
            "out what follows ? or #; in a file's name write them as %3F and %23"
        )
        raise ConfigurationError(msg)
    return unquote(parts.path.removeprefix("/"))


def _open_sqlite(name: str) -> Database:
    if not name or name.startswith(":memory:"):
        msg = "DATABASE_URL names no file; an in-memory ledger would lose its money: write sqlite:///credits.db"
        raise ConfigurationError(msg)
    path = Path(name).resolve()
    pragmas = [("busy_timeout", _BUSY_TIMEOUT_S * 1000), ("synchronous", "full")]
    primary = _SafeSqlite(str(path), pragmas=[("journal_mode", "wal"), *pragmas], timeout=_BUSY_TIMEOUT_S)
    uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if is_immutable(path) else ''}"
    reader = peewee.SqliteDatabase(uri, pragmas=pragmas, uri=True, timeout=_BUSY_TIMEOUT_S)
    return Database(Dialect.SQLITE, path.name, primary, reader, path, str(path))


def can_write(path: Path) -> bool:
    """Whether this process may write the file, or into the folder."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def is_immutable(path: Path) -> bool:
    """Whether nobody is let write the file, so that SQLite may read it without the files that it would put beside it.

    With a WAL beside it, it is not whole; and whoever left that may be writing. That root could write it all the same
    does not count: :class:`_SafeSqlite` does not, for whoever reads the file so would never see it.
    """
    if not path.exists() or path.with_name(path.name + "-wal").exists():
        return False
    modes = path.stat().st_mode | path.parent.stat().st_mode
    return not modes & 0o222 or bool(os.statvfs(path).f_flag & os.ST_RDONLY)


class _SafeSqlite(peewee.SqliteDatabase):
    """Refuses a connection that could lose acknowledged commits: WAL with NORMAL was measured to, in a power cut."""

    def _connect(self) -> Any:
        if is_immutable(Path(self.database)):
            msg = f"nobody is let write {self.database}: give whoever runs hosts the right to write it and its folder"
            raise DatabaseError(msg)
        try:
            connection = super()._connect()  # type: ignore[misc]  # a driver hook that the stubs leave out
        except Exception as error:
            msg = f"cannot open {self.database}: {error}; check that its folder exists and can be written"
            raise DatabaseError(msg) from error
        with contextlib.ExitStack() as closing:
            closing.callback(connection.close)
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
            if mode != "wal" or synchronous != 2:
                msg = f"{self.database} runs with journal_mode={mode}, synchronous={synchronous}; it needs WAL and FULL"
                raise DatabaseError(msg)
            closing.pop_all()
        return connection


def _open_postgresql(url: str) -> Database:
    make = cockroach_database if url.startswith(f"{SCHEME}://") else _postgresql_database
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    reading = {"options": f"{query.get('options', '')} -c default_transaction_read_only=on".strip()}
    if query.get("target_session_attrs") == "read-write":
        reading["target_session_attrs"] = "primary"  # to libpq, a session of ours that may only read is not read-write
    name, on_citus = parts.path.removeprefix("/"), parts.scheme == "citus"
    servers = [parts.netloc.rpartition("@")[2], *(query.get(key, "") for key in ("host", "hostaddr", "port"))]
    place = f"{' '.join(filter(None, servers))}/{name}"
    return Database(Dialect.POSTGRESQL, name, make(url), make(url, **reading), place=place, on_citus=on_citus)


def _postgresql_database(url: str, **options: Any) -> peewee.Database:
    rest = url.partition("://")[2]
    return TrueCommits(f"postgresql://{rest}", prefer_psycopg3=True, **options)


class Reads:
    """A few threads with read-only connections, so that no query of a page or a screen ever waits for the writer."""

    def __init__(self, database: Database, *, threads: int = 2) -> None:
        self.database = database
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="credits-read")

    async def run(self, query: Callable[[peewee.Database], T]) -> T:
        """Run ``query(database)`` in a read thread; it returns plain values, never Peewee rows."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._query, query)

    def run_sync(self, query: Callable[[peewee.Database], T]) -> T:
        """Run ``query(database)`` and wait, for code without an event loop."""
        return self._pool.submit(self._query, query).result()

    def _query(self, query: Callable[[peewee.Database], T]) -> T:
        self.database.reader.connect(reuse_if_open=True)
        return query(self.database.reader)

    def close(self) -> None:
        """Close every read connection and end the threads."""
        barrier = threading.Barrier(self._threads)

        def close_own_connection() -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                barrier.wait(timeout=5)  # one task per thread, or a thread would close twice and another never
            self.database.reader.close()

        for _ in range(self._threads):
            self._pool.submit(close_own_connection)
        self._pool.shutdown()


class FileLock:
    """The advisory lock of ``path`` (made if missing), as a context; the system releases it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def __enter__(self) -> None:
        if self._handle is None:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        assert self._handle is not None  # noqa: S101 - entered before
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock's file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the advisory lock of ``path`` once."""
    lock = FileLock(path)
    try:
        with lock:
            yield
    finally:
        lock.close()


def migrate(database: Database) -> list[str]:
    """Bring the schema up to this version; returns the migrations that were applied. One process at a time.

    Raises:
        DatabaseTooNew: the database has migrations that this version does not know.
        DatabaseError: it cannot be opened or written, or has something that a migration is to make.
    """
    with _migration_lock(database):
        runner = Runner(database.primary, str(MIGRATIONS))
        _refuse_newer(runner)
        try:
            applied: list[str] = runner.up()
        except peewee.PeeweeException as error:
            msg = (
                f"database {database.name} could not be migrated: {error}; nothing of that migration was kept: "
                "put right what it met there, then run `credits migrate` again"
            )
            raise DatabaseError(msg) from error
    return applied


def prepare_schema(database: Database) -> None:
    """Migrate an empty or missing database; any other must be this version's already.

    Raises:
        DatabaseTooNew: migrated by a newer version.
        DatabaseError: behind this version; the message names the command to run.
    """
    missing = database.path is not None and not database.path.exists()
    if missing or not _status(database, database.primary).applied:
        migrate(database)
    else:
        require_current_schema(database)


def require_current_schema(database: Database) -> None:
    """Check that the database exists and that its schema is exactly this version's; reads only.

    Raises:
        DatabaseTooNew: migrated by a newer version.
        DatabaseError: missing, unreadable, or behind this version; the message says what to do.
    """
    _require_file(database)
    pending = _status(database, database.reader).pending
    if pending:
        missing = ", ".join(pending)
        msg = (
            f"database {database.name} lacks {missing}: back it up and run `credits migrate`; hosts that run may go on"
        )
        raise DatabaseError(msg)


def pending_migrations(database: Database) -> list[str]:
    """Return what a ledger's schema lacks of this version's: nothing where it is this version's. Changes nothing.

    Raises:
        DatabaseTooNew: migrated by a newer version.
        DatabaseError: there is no database, or no ledger in it.
    """
    _require_file(database)
    status = _status(database, database.reader)
    if not status.applied:
        msg = f"there is no ledger in {database.path or database.name}: name a database that `credits migrate` made"
        raise DatabaseError(msg)
    return status.pending


def _require_file(database: Database) -> None:
    if database.path is not None and not database.path.exists():
        msg = f"there is no database at {database.path}: check DATABASE_URL, or run `credits migrate` to make one"
        raise DatabaseError(msg)


@dataclass(frozen=True, slots=True)
class _Status:
    applied: list[str]
    pending: list[str]


def _status(database: Database, connected: peewee.Database) -> _Status:
    try:
        connected.connect(reuse_if_open=True)
        runner = Runner(connected, str(MIGRATIONS))
        _refuse_newer(runner)
        status = runner.status()
    except peewee.PeeweeException as error:
        msg = f"cannot read database {database.place}: {error}"
        if database.path is not None and not can_write(database.path.parent):
            msg += (
                "; while others may write it, SQLite needs files beside it, and its folder cannot be written: copy it, "
                "and its -wal if there is one, to a folder of yours, or take everybody's right to write both away"
            )
        raise DatabaseError(msg) from error
    finally:
        connected.close()
    return _Status(
        [migration.name for migration in status if migration.applied],
        [migration.name for migration in status if not migration.applied],
    )


@contextlib.contextmanager
def _migration_lock(database: Database) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if database.path is not None:
            stack.enter_context(file_lock(lock_path(database.path)))
        _connect_primary(database)
        stack.callback(database.primary.close)
        if isinstance(database.primary, CockroachDatabase):
            stack.enter_context(migration_lock(database.primary))
        elif database.dialect is Dialect.POSTGRESQL:
            database.primary.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        yield


def _connect_primary(database: Database) -> None:
    try:
        database.primary.connect(reuse_if_open=True)
    except peewee.PeeweeException as error:
        msg = f"cannot connect to database {database.name}: {error}"
        raise DatabaseError(msg) from error


def lock_path(path: Path) -> Path:
    """Return the lock file beside a SQLite database: whoever writes a batch holds it, so that all get their turn."""
    return path.with_name(path.name + ".lock")


def _refuse_newer(runner: Runner) -> None:
    newer = [migration.name for migration in runner.status() if migration.path is None]
    if newer:
        msg = f"the database was migrated by a newer version ({', '.join(newer)}): upgrade credits-plugin"
        raise DatabaseTooNew(msg)
