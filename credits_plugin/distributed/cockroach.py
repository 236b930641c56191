"""CockroachDB: Peewee's own dialect under our URL scheme, and a migration lock that works where advisory locks do not.

The ledger needs no retry loop of its own here: the writer already runs a batch that failed with SQLSTATE 40001 again, a
bounded number of times with back-off, and Peewee's ``run_transaction`` (which retries for ever, at once) is not used.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import peewee
from playhouse.cockroachdb import CockroachDatabase

from ..errors import DatabaseError
from .true_commits import TrueCommits

SCHEME: Final = "cockroachdb"
_LOCK_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS migration_lock "
    "(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, until TIMESTAMPTZ NOT NULL, CHECK (id = 1))"
)
_TAKE: Final = (
    "INSERT INTO migration_lock (id, owner, until) VALUES (1, %s, clock_timestamp() + %s * INTERVAL '1 second') "
    "ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, until = excluded.until "
    "WHERE migration_lock.until < clock_timestamp() RETURNING owner"
)
_LOCK_SECONDS: Final = 600
_PAUSE_S: Final = 0.25


class _Cockroach(TrueCommits, CockroachDatabase):  # type: ignore[misc]  # Peewee's extensions have no stubs
    """Peewee's dialect, with our COMMIT."""


def cockroach_database(url: str, **options: Any) -> peewee.Database:
    """Describe the CockroachDB database of ``cockroachdb://user@host:26257/name?…``; connects to nothing yet."""
    rest = url.partition("://")[2]
    return _Cockroach(f"postgresql://{rest}", prefer_psycopg3=True, **options)


@contextlib.contextmanager
def migration_lock(database: peewee.Database, *, wait_s: float = 60.0) -> Iterator[None]:
    """Hold the right to migrate: a row with an expiry, for CockroachDB's advisory locks are stubs that lock nothing.

    A migrator that died blocks others for at most ten minutes; the database's clock decides.

    Raises:
        DatabaseError: another migrator kept it for ``wait_s`` seconds.
    """
    owner = uuid4().hex
    database.execute_sql(_LOCK_TABLE)
    deadline = time.monotonic() + wait_s
    while database.execute_sql(_TAKE, (owner, _LOCK_SECONDS)).fetchone() is None:
        if time.monotonic() > deadline:
            msg = "another process is migrating this database; wait for it, then run `credits migrate` again"
            raise DatabaseError(msg)
        time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        database.execute_sql("DELETE FROM migration_lock WHERE id = 1 AND owner = %s", (owner,))
