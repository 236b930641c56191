"""Migrations that are killed converge; a newer schema is refused; hosts of the version before go on meanwhile."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import peewee
import psycopg
import pytest
from playhouse.migrations import Runner

from admin_tui.__main__ import main as admin
from credits_plugin import Usage
from credits_plugin.__main__ import main
from credits_plugin.bootstrap import build
from credits_plugin.database import MIGRATIONS, Database, migrate, open_database, require_current_schema
from credits_plugin.errors import DatabaseTooNew
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.settings import Settings

REPOSITORY = Path(__file__).parents[2]
new_id = IdMaker()

SEVERAL_STATEMENTS = """
def up(migrator, db):
    db.execute_sql("CREATE TABLE later (id BIGINT PRIMARY KEY, account_id BIGINT NOT NULL)")
    db.execute_sql("INSERT INTO later SELECT id, id FROM account")
    db.execute_sql("ALTER TABLE hold ADD COLUMN later_note TEXT")
    db.execute_sql("CREATE INDEX later_account ON later (account_id)")
"""

# Forks a child that migrates and dies before its nth statement, for n = 1, 2, … until one lives; from 1 again when a
# migration has been applied, so that each is killed at each of its own. Prints what each child left.
KILLED_AT_EVERY_STATEMENT = """
import json, os, signal, sys
from pathlib import Path
import peewee
from credits_plugin import database as module

module.MIGRATIONS = Path(sys.argv[2])

def state():
    database = module.open_database(sys.argv[1])
    with database.primary.connection_context():
        applied = list(module.Runner(database.primary, str(module.MIGRATIONS)).applied())
        tables = sorted(set(database.primary.get_tables()) - {"schema_migration", "sqlite_sequence"})
        columns = len(database.primary.get_columns("hold")) if "hold" in tables else 0
        return {"applied": sorted(applied), "tables": tables, "hold columns": columns}

def die_before(number):
    seen = 0
    for name in ("_execute_cursor", "commit"):
        def counted(self, *args, _real=getattr(peewee.Database, name), **kwargs):
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(self, *args, **kwargs)
        setattr(peewee.Database, name, counted)

number, applied = 0, []
while True:
    number += 1
    child = os.fork()
    if not child:
        die_before(number)
        module.migrate(module.open_database(sys.argv[1]))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left = state()
    print(json.dumps({"died": os.WIFSIGNALED(status), **left}), flush=True)
    if left["applied"] != applied:
        number, applied = 0, left["applied"]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def test_a_migration_killed_at_every_statement_is_all_there_or_not_at_all(database_url: str, tmp_path: Path):
    """Also the first, on an empty database; each death is followed by another try on what it left."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    names = sorted(path.name for path in MIGRATIONS.glob("[0-9]*.py"))
    for name in names:
        (folder / name).write_text((MIGRATIONS / name).read_text())
    (folder / "9998_several.py").write_text(SEVERAL_STATEMENTS)
    arguments = [sys.executable, "-c", KILLED_AT_EVERY_STATEMENT, database_url, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)

    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["died"] for one in states] == [True] * (len(states) - 1) + [False]
    assert len(states) > 20
    wholes = {(len(one["applied"]), tuple(one["tables"]), one["hold columns"]) for one in states}
    assert sorted(whole[0] for whole in wholes) == list(range(len(names) + 2))  # nothing, then each migration whole
    assert ("later" in states[-1]["tables"], states[-1]["hold columns"]) == (True, 11)


def _has_begun(database_url: str) -> bool:
    """Whether a migration has come as far as its lock, or its connection."""
    if database_url.startswith("sqlite"):
        return Path(database_url.removeprefix("sqlite:///") + ".lock").exists()
    with psycopg.connect(database_url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return connection.execute(query).fetchone()[0] > 1


def test_credits_migrate_killed_as_a_process_is_finished_by_the_next(database_url: str):
    command = [sys.executable, "-m", "credits_plugin", "migrate", "--database", database_url]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and not _has_begun(database_url):
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    database = open_database(database_url)
    require_current_schema(database)
    assert audit(database).findings == []
    database.close_thread()


COMMANDS = (
    "migrate --database URL",
    "audit --database URL",
    "audit --as-of 2026-01-01T00:00:00Z --database URL",
    "heads export FILE --database URL",
    "heads verify FILE --database URL",
    "lots anna --database URL",
    "paid-by anna 5 --database URL",
    "copy --from URL --to OTHER",
    "copy --from OTHER --to URL",
)
ON_SQLITE_ALONE = ("backup FILE --database URL", "restore BACKUP --database OTHER")


def _from_the_future(database: Database) -> None:
    with database.primary.connection_context():
        Runner(database.primary, str(MIGRATIONS)).History.create(name="9999_from_the_future")


def test_a_newer_schema_is_refused_by_every_command(
    database: Database, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = f"sqlite:///{tmp_path / 'other.db'}"
    migrate(open_database(other))
    _from_the_future(database)
    database.close_thread()
    words = {"URL": database_url, "OTHER": other, "FILE": str(tmp_path / "file"), "BACKUP": str(database.path)}
    for command in COMMANDS + (ON_SQLITE_ALONE if database.path else ()):
        assert main([words.get(word, word) for word in command.split()]) == 2, command
        assert "upgrade credits-plugin" in capsys.readouterr().err, command
    assert audit(open_database(other)).accounts == 0


async def test_a_newer_schema_is_refused_by_a_host_and_by_the_admin(database: Database, database_url: str):
    _from_the_future(database)
    with pytest.raises(DatabaseTooNew, match="upgrade credits-plugin"):
        build(Settings(database_url=database_url))
    assert admin(["--database", database_url]) == 2


class Schema(NamedTuple):
    """By table: of each column its type, whether it may be null, whether it must be given; and the unique keys."""

    columns: dict[str, dict[str, tuple[str, bool, bool]]]
    unique_keys: dict[str, set[tuple[str, ...]]]


def schema_of(database: peewee.Database) -> Schema:
    with database.connection_context():
        tables = sorted(set(database.get_tables()) - {"schema_migration", "sqlite_sequence"})
        columns = {
            table: {
                column.name: (column.data_type, column.null, not column.null and column.default is None)
                for column in database.get_columns(table)
            }
            for table in tables
        }
        keys = {
            table: {tuple(index.columns) for index in database.get_indexes(table) if index.unique} for table in tables
        }
    return Schema(columns, keys)


def what_previous_code_misses(before: Schema, after: Schema) -> list[str]:
    """Return what could fail a statement that ran on the schema before."""
    missed = []
    for table, columns in before.columns.items():
        now = after.columns.get(table, {})
        missed += [f"{table}.{name} went or changed" for name, column in columns.items() if now.get(name) != column]
        missed += [f"{table}.{name} must be given" for name in now.keys() - columns.keys() if now[name][2]]
        keys = after.unique_keys.get(table, set()) - before.unique_keys[table]
        missed += [f"{table} has a new unique key {key}" for key in sorted(keys) if columns.keys() >= set(key)]
    return missed


def test_every_migration_only_adds_and_what_it_adds_may_be_left_out(database_url: str):
    """What hosts of any earlier version rely on; needs no history of the repository."""
    database = open_database(database_url).primary
    before = Schema({}, {})
    for name in sorted(path.stem for path in MIGRATIONS.glob("0*.py")):
        with database.connection_context():
            assert Runner(database, str(MIGRATIONS)).up(name) == [name]
        after = schema_of(database)
        assert what_previous_code_misses(before, after) == [], name
        before = after
    assert before.columns.keys() >= {"account", "transfer", "hold"}


@pytest.mark.parametrize(
    ("statement", "missed"),
    [
        ("DROP TABLE observation", "observation.model went"),
        ("ALTER TABLE lot RENAME COLUMN priority TO rank", "lot.priority went"),
        ("ALTER TABLE transfer ADD COLUMN note INTEGER NOT NULL", "transfer.note must be given"),
        ("CREATE UNIQUE INDEX one_lot ON lot (account_id)", "lot has a new unique key"),
    ],
)
def test_a_migration_that_did_more_would_be_found(fresh_postgresql_url: str, statement: str, missed: str):
    database = open_database(fresh_postgresql_url)
    migrate(database)
    before = schema_of(database.primary)
    with database.primary.connection_context():
        database.primary.execute_sql(statement)
    assert any(missed in one for one in what_previous_code_misses(before, schema_of(database.primary)))


PREVIOUS = "a991017"
"""The version before this one, as it landed; move it forward with each release."""

PREVIOUS_HOST = """
import asyncio, sys
import credits_plugin
from credits_plugin import Usage
from credits_plugin.database import open_database, prepare_schema
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

async def main():
    new_id, key = IdMaker(), account_key("anna")
    database = open_database(sys.argv[1])
    prepare_schema(database)
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    print(credits_plugin.__file__, flush=True)

    async def pair(number, turn):
        now = now_ms()
        request_id = f"{turn}-{number}" if number % 2 else None
        hold = PlaceHold(key, "anna", new_id(), 10, now, now + 60_000, 1, 1, request_id)
        placed = await writer.execute(hold)
        await writer.execute(SettleHold(key, placed.hold_id, 7, now, Usage(input=1)))

    for turn, _ in enumerate(sys.stdin):
        await writer.execute(PostTransfer(key, "anna", new_id(), Code.PROMOTION, 1_000, now_ms()))
        await asyncio.gather(*(pair(number, turn) for number in range(50)))
        print("written", flush=True)
    writer.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def previous_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's packages, from the repository's history."""
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", PREVIOUS, "credits_plugin", "hookspecs.py"],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        pytest.skip(
            f"this clone's history does not reach back to {PREVIOUS}: run `git fetch --unshallow` for this test"
        )
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


async def test_a_host_of_the_previous_version_goes_on_while_the_schema_is_migrated_and_a_new_host_joins(
    previous_version: Path, database_url: str
):
    """As in a rolling upgrade: it had looked at the schema when it started, and does not look again."""
    arguments = [sys.executable, "-c", PREVIOUS_HOST, database_url]
    old = subprocess.Popen(
        arguments,
        env=os.environ | {"PYTHONPATH": str(previous_version)},
        cwd=previous_version,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def let_it_write(*, wait: bool = True) -> None:
        old.stdin.write("go\n")
        old.stdin.flush()
        if wait:
            assert old.stdout.readline() == "written\n"

    assert Path(old.stdout.readline().strip()).is_relative_to(previous_version)
    let_it_write()

    database = open_database(database_url)
    newer = migrate(database)
    let_it_write()
    require_current_schema(database)
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    let_it_write(wait=False)
    key = account_key("anna")
    for _ in range(20):
        now = now_ms()
        placed = await writer.execute(PlaceHold(key, "anna", new_id(), 9, now, now + 60_000, 1, 1))
        await writer.execute(SettleHold(key, placed.hold_id, 4, now, Usage(input=1)))
    await writer.execute(PostTransfer(key, "anna", new_id(), Code.ADJUSTMENT_OUT, 5, now_ms()))
    assert old.communicate(timeout=30)[0] == "written\n"
    writer.close()

    report = audit(database)
    assert report.findings == []
    assert report.transfers == 3 * (1 + 50) + 20 + 1
    assert report.balance_total == 3 * (1_000 - 50 * 7) - 20 * 4 - 5
    again = subprocess.run(
        arguments,
        env=os.environ | {"PYTHONPATH": str(previous_version)},
        cwd=previous_version,
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ("DatabaseTooNew" in again.stderr) == bool(newer)  # one that starts now must be upgraded first
    database.close_thread()
