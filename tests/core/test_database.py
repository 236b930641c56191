"""Opening and migrating databases: only safe ones, only this version's, one migration at a time."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from playhouse.migrations import Runner

from credits_plugin.database import (
    MIGRATIONS,
    Database,
    Dialect,
    Reads,
    migrate,
    open_database,
    prepare_schema,
    require_current_schema,
    sqlite_url,
)
from credits_plugin.errors import ConfigurationError, DatabaseError, DatabaseTooNew
from credits_plugin.models import MODELS


@pytest.mark.parametrize("url", ["mysql://x/y", "credits.db", "sqlite://", "sqlite:///:memory:", ""])
def test_a_url_that_names_no_usable_database_is_refused(url: str):
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        open_database(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://data/x.db", r"sqlite:///data/x\.db"),
        ("sqlite://:memory:", "host ':memory:'"),
        ("sqlite:///x.db?mode=ro", "takes none"),
        ("sqlite:///x#1.db", "%23"),
    ],
)
def test_what_sqlite_would_not_see_of_a_url_is_refused_rather_than_another_file_opened(url: str, said: str):
    with pytest.raises(ConfigurationError, match=said):
        open_database(url)


def test_a_file_of_any_name_has_a_url(tmp_path: Path):
    path = tmp_path / "50% of #1?.db"
    assert open_database(sqlite_url(path)).path == path


def test_sqlite_runs_with_a_wal_that_is_synced_at_every_commit(sqlite_url: str):
    database = open_database(sqlite_url)
    migrate(database)
    connection = database.primary
    assert connection.execute_sql("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute_sql("PRAGMA synchronous").fetchone() == (2,)
    database.close_thread()


def test_a_sqlite_file_that_cannot_be_a_wal_is_refused(tmp_path: Path):
    path = tmp_path / "credits.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")  # nobody can switch the journal mode now
    database = open_database(f"sqlite:///{path}")
    database.primary.init(str(path), timeout=0.1, pragmas=[("busy_timeout", 100)])
    with pytest.raises(DatabaseError):
        migrate(database)
    holder.close()


def test_a_missing_database_is_named_and_not_created(tmp_path: Path):
    database = open_database(f"sqlite:///{tmp_path / 'absent.db'}")
    with pytest.raises(DatabaseError, match="there is no database at"):
        require_current_schema(database)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_prepared_and_a_prepared_one_left_alone(database_url: str):
    database = open_database(database_url)
    prepare_schema(database)
    require_current_schema(database)
    prepare_schema(database)
    assert migrate(database) == []
    database.close_thread()


def test_a_database_of_a_newer_version_is_refused(database: Database):
    runner = Runner(database.primary, str(MIGRATIONS))
    runner.History.create(name="9999_from_the_future")
    for use in (prepare_schema, require_current_schema, migrate):
        with pytest.raises(DatabaseTooNew, match="upgrade credits-plugin"):
            use(database)


def test_a_database_that_lacks_a_migration_names_the_command(database: Database, monkeypatch, tmp_path: Path):
    for path in MIGRATIONS.glob("0*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "0099_next.py").write_text("def up(migrator, db): pass\n")
    monkeypatch.setattr("credits_plugin.database.MIGRATIONS", tmp_path)
    with pytest.raises(DatabaseError, match=r"lacks 0099_next.*credits migrate"):
        require_current_schema(database)


def test_processes_that_migrate_at_once_take_turns(database_url: str):
    code = f"from credits_plugin.database import *; print(migrate(open_database({database_url!r})))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = sorted(process.communicate(timeout=30)[0].strip() for process in processes)
    known = sorted(path.stem for path in MIGRATIONS.glob("0*.py"))
    assert sorted(answers) == sorted([str(known), "[]", "[]"])


def test_the_migrations_make_exactly_what_the_models_describe(database: Database):
    """A column or an index that is in one but not in the other is found here."""
    migrated = _describe(database)
    tables = list(migrated["columns"])
    for table in tables:
        database.primary.execute_sql(f'DROP TABLE "{table}"')
    strict = database.dialect is Dialect.SQLITE
    for model in MODELS:
        model._meta.strict_tables = strict
    with database.primary.bind_ctx(MODELS):
        database.primary.create_tables(MODELS)
    assert _describe(database) == migrated


def _describe(database: Database) -> dict:
    names = sorted(model._meta.table_name for model in MODELS)
    columns = {
        name: [(c.name, c.data_type, c.null, c.primary_key) for c in database.primary.get_columns(name)]
        for name in names
    }
    indexes = {
        name: sorted(
            (i.name, tuple(i.columns), i.unique, i.sql)
            for i in database.primary.get_indexes(name)
            if not i.name.startswith("account_search_")  # they differ by dialect, and only the migration has them
        )
        for name in names
    }
    return {"columns": columns, "indexes": indexes}


async def test_reads_run_on_connections_that_cannot_write(database: Database):
    reads = Reads(database)
    assert await reads.run(lambda db: db.execute_sql("SELECT count(*) FROM account").fetchone()) == (0,)
    with pytest.raises(Exception, match=r"readonly|read-only"):
        await reads.run(lambda db: db.execute_sql("DELETE FROM account"))
    reads.close()
