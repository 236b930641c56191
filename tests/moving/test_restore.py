"""Restores in place of what was lost: damaged databases, logs that were left, older schemas, and kills in between."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from playhouse.migrations import Runner
from test_backup import grant, new_id

from credits_plugin.__main__ import main
from credits_plugin.database import MIGRATIONS, migrate, open_database, require_current_schema, sqlite_url
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.moving.backup import back_up, restore

KILLED = Path(__file__).with_name("killed_restore.py")
IN_THE_BACKUP, AT_THE_CRASH = 100, 111


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """A folder with ``credits.db`` of a host that was killed, its log beside it, and an earlier ``backup.db``."""
    folder = tmp_path / "crashed"
    folder.mkdir()
    live = open_database(sqlite_url(tmp_path / "credits.db"))
    migrate(live)
    writer = LedgerWriter(live, new_id=new_id)
    writer.start()
    await writer.execute(grant(IN_THE_BACKUP))
    back_up(live, folder / "backup.db")
    await writer.execute(grant(AT_THE_CRASH - IN_THE_BACKUP))
    for log in ("", "-wal"):
        shutil.copy(f"{live.path}{log}", folder / f"credits.db{log}")
    writer.close()
    live.close_thread()
    return folder


def restore_in(folder: Path) -> Path | None:
    return restore(folder / "backup.db", open_database(sqlite_url(folder / "credits.db"))).replaced


def balance(path: Path) -> int:
    database = open_database(sqlite_url(path))
    require_current_schema(database)
    report = audit(database)
    database.close_thread()
    assert report.clean
    return report.balance_total


def damage(path: Path, *, start: int, end: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * (end - start))


HEADER, SCHEMA = (0, 100), (100, 4096)


@pytest.mark.parametrize("where", [HEADER, SCHEMA], ids=["header", "schema"])
def test_a_damaged_database_is_replaced_and_kept_with_its_log(crashed: Path, where: tuple[int, int]):
    path = crashed / "credits.db"
    (crashed / "credits.db-wal").unlink()
    damage(path, start=where[0], end=where[1])
    damaged = path.read_bytes()
    with pytest.raises((DatabaseError, sqlite3.DatabaseError)):
        balance(path)
    replaced = restore_in(crashed)
    assert balance(path) == IN_THE_BACKUP
    assert replaced.read_bytes() == damaged


def test_a_damaged_database_that_a_host_has_open_is_not_replaced(crashed: Path):
    path = crashed / "credits.db"
    code = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('SELECT count(*) FROM account').fetchone(); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdout.readline() == "open\n"
        (crashed / "credits.db-wal").unlink()  # or the header would be read from there
        damage(path, start=0, end=100)
        with pytest.raises(DatabaseError, match="in use"):
            restore_in(crashed)
        assert not list(crashed.glob("credits.db.re*"))
        host.stdin.close()
    assert restore_in(crashed)
    assert balance(path) == IN_THE_BACKUP


def test_the_log_of_a_database_that_is_gone_is_not_applied_to_the_restored_one(crashed: Path):
    (crashed / "credits.db").unlink()
    assert restore_in(crashed) is None
    assert balance(crashed / "credits.db") == IN_THE_BACKUP
    assert len(list(crashed.glob("credits.db.replaced-*-wal"))) == 1


def states_of_killed_restores(before: Path, work: Path) -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(KILLED), str(before), str(work)], capture_output=True, text=True, timeout=120, check=True
    )
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["died"] for one in states] == [True] * (len(states) - 1) + [False]
    assert len(states) > 10
    assert states[-1]["found"] == IN_THE_BACKUP
    return states


def test_a_restore_killed_at_any_step_leaves_the_old_database_or_the_new_one(crashed: Path, tmp_path: Path):
    states = states_of_killed_restores(crashed, tmp_path / "work")
    assert all(one["there"] for one in states)
    assert {one["found"] for one in states} == {AT_THE_CRASH, IN_THE_BACKUP}


def test_a_restore_killed_at_any_step_leaves_a_damaged_database_or_the_new_one(crashed: Path, tmp_path: Path):
    """Hosts refuse the damaged one, so none makes an empty ledger; its log is never applied to the new one."""
    damage(crashed / "credits.db", start=0, end=100)
    states = states_of_killed_restores(crashed, tmp_path / "work")
    assert all(one["there"] for one in states)
    assert {one["found"] for one in states} == {"refused", IN_THE_BACKUP}


def test_a_restore_that_is_repeated_after_a_kill_leaves_one_name_to_each_file(crashed: Path):
    """Under two names at once SQLite would keep two logs of one database."""
    path = crashed / "credits.db"
    (crashed / "credits.db.replaced-1").hardlink_to(path)
    replaced = restore_in(crashed)
    assert list(crashed.glob("credits.db.replaced-*")) == [replaced]
    assert balance(replaced) == AT_THE_CRASH


JOURNAL_MODE = slice(18, 20)
DELETE, WAL = b"\x01\x01", b"\x02\x02"
"""What the file's header says at bytes 18 and 19 (sqlite.org/fileformat2.html)."""


def test_a_backup_and_a_restored_database_need_no_other_file_beside_them(crashed: Path):
    before = {path.name for path in crashed.iterdir()} - {"credits.db-wal"}
    assert (crashed / "backup.db").read_bytes()[JOURNAL_MODE] == DELETE
    replaced = restore_in(crashed)
    assert (crashed / "credits.db").read_bytes()[JOURNAL_MODE] == DELETE
    assert {path.name for path in crashed.iterdir()} == before | {replaced.name, "credits.db.lock"}


def test_a_backup_in_wal_mode_is_read_without_making_a_file_beside_it(crashed: Path):
    """Earlier versions left backups so; on media that are read only no log can be made."""
    folder = crashed / "media"
    folder.mkdir()
    shutil.move(crashed / "backup.db", folder / "backup.db")
    with contextlib.closing(sqlite3.connect(folder / "backup.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert (folder / "backup.db").read_bytes()[JOURNAL_MODE] == WAL
    restore(folder / "backup.db", open_database(sqlite_url(crashed / "credits.db")))
    assert [path.name for path in folder.iterdir()] == ["backup.db"]
    assert balance(crashed / "credits.db") == IN_THE_BACKUP


@pytest.fixture
def upgraded(crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder under a version with one migration more."""
    newer = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "9998_next.py").write_text(
        "def up(migrator, db):\n    db.execute_sql('CREATE TABLE next (id BIGINT PRIMARY KEY)')\n"
    )
    monkeypatch.setattr("credits_plugin.database.MIGRATIONS", newer)
    return crashed


def tables(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def test_what_a_new_version_says_to_do_before_a_migration_can_be_done(
    upgraded: Path, capsys: pytest.CaptureFixture[str]
):
    """An older schema is backed up as it is, and put back as it was, under the new version's code."""
    path, taken = upgraded / "credits.db", upgraded / "before the migration.db"
    url = ["--database", sqlite_url(path)]
    assert main(["audit", *url]) == 2
    assert "back it up and run `credits migrate`" in capsys.readouterr().err
    assert main(["backup", str(taken), *url]) == 0
    assert "lacks 9998_next" in capsys.readouterr().out
    assert main(["migrate", *url]) == 0
    assert "next" in tables(path)

    assert main(["restore", str(taken), *url]) == 0
    assert "`credits migrate`" in capsys.readouterr().out
    assert "next" not in tables(path)
    assert main(["migrate", *url]) == 0
    assert balance(path) == AT_THE_CRASH
    assert not [path.name for path in upgraded.iterdir() if "migrated" in path.name or "partial" in path.name]


@pytest.mark.parametrize("last", sorted(path.stem for path in MIGRATIONS.glob("0*.py"))[:-1])
def test_a_ledger_of_any_earlier_schema_is_backed_up_and_restored_with_it(crashed: Path, last: str):
    old = open_database(sqlite_url(crashed / "old.db"))
    with old.primary.connection_context():
        Runner(old.primary, str(MIGRATIONS)).up(last)
    report = back_up(old, crashed / "old backup.db")
    restored = restore(crashed / "old backup.db", open_database(sqlite_url(crashed / "credits.db")))
    assert report.lacking == restored.lacking != ()
    assert tables(crashed / "credits.db") == tables(crashed / "old.db")


def test_an_older_backup_that_was_tampered_with_is_not_restored(upgraded: Path):
    with contextlib.closing(sqlite3.connect(upgraded / "backup.db", isolation_level=None)) as forged:
        forged.execute("UPDATE account SET balance = 1000000")
    with pytest.raises(DatabaseError, match="audit found"):
        restore_in(upgraded)


def test_a_database_without_a_ledger_is_neither_backed_up_nor_restored(crashed: Path):
    (crashed / "empty.db").touch()
    empty = open_database(sqlite_url(crashed / "empty.db"))
    with pytest.raises(DatabaseError, match="no ledger in"):
        back_up(empty, crashed / "of empty.db")
    with pytest.raises(DatabaseError, match="no ledger in"):
        restore(crashed / "empty.db", open_database(sqlite_url(crashed / "credits.db")))
    assert balance(crashed / "credits.db") == AT_THE_CRASH
