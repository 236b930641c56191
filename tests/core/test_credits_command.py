"""The command `credits`: one line on standard error and a clear exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from playhouse.migrations import Runner

from credits_plugin import __version__
from credits_plugin.database import MIGRATIONS, Database, migrate, open_database, sqlite_url
from credits_plugin.models import Account


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "credits_plugin", *arguments],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_help_name_every_command():
    assert __version__ in run("--version").stdout
    shown = run("--help").stdout
    commands = "demo sandbox migrate audit heads lots paid-by copy backup restore bench".split()
    assert [command for command in commands if f"\n    {command}" not in shown] == []


def test_migrate_makes_the_schema_and_audit_finds_it_clean(database_url: str):
    assert "applied 0001_initial" in run("migrate", DATABASE_URL=database_url).stdout
    assert "up to date" in run("migrate", "--database", database_url).stdout
    audited = run("audit", "--database", database_url)
    assert (audited.returncode, "clean" in audited.stdout) == (0, True)


def test_audit_exits_with_1_and_a_line_per_finding(database: Database, database_url: str):
    forged = {"id": 5, "external_id": "forged", "balance": 99, "created_at_ms": 0}
    Account.insert(forged).execute(database.primary)
    audited = run("audit", "--database", database_url)
    assert audited.returncode == 1
    assert "forged" in audited.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("audit",), {"DATABASE_URL": "sqlite:////nowhere/credits.db"}, "there is no database at /nowhere"),
        (("migrate",), {"DATABASE_URL": "sqlite:////nowhere/credits.db"}, "/nowhere"),
        (("migrate",), {"DATABASE_URL": "mysql://x"}, "DATABASE_URL must be"),
        (("migrate",), {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}, "cannot connect"),
        (("audit",), {"CREDITS_MARKUP_BPS": "lots"}, "CREDITS_MARKUP_BPS must be a number"),
        (("demo", "--port", "99999"), {}, "choose another"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_what_to_do(arguments, environment, said: str):
    assert_one_line(run(*arguments, **environment), said)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A folder with ``credits.db``, its ``backup.db``, and files that are none."""
    assert run("migrate", "--database", sqlite_url(tmp_path / "credits.db")).returncode == 0
    assert run("backup", str(tmp_path / "backup.db"), "--database", sqlite_url(tmp_path / "credits.db")).returncode == 0
    (tmp_path / "truncated.db").write_bytes((tmp_path / "backup.db").read_bytes()[:20_000])
    (tmp_path / "junk.db").write_bytes(b"junk" * 5_000)
    (tmp_path / "folder.db").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("backup /nowhere/bk.db", "/nowhere/bk.db.partial: unable to open"),
        ("backup /proc/bk.db", "can be written"),
        ("restore truncated.db", "whole SQLite database"),
        ("restore junk.db", "whole SQLite database"),
        ("restore folder.db", "whole SQLite database"),
        ("restore backup.db --database sqlite:////nowhere/credits.db", "can be written"),
        ("migrate --distributed citus", "lays out tables of PostgreSQL"),
        ("migrate --distributed citus --database sqlite:///new.db", "lays out tables of PostgreSQL"),
    ],
)
def test_what_a_database_or_a_disk_refuses_is_one_line_too(ledger: Path, command: str, said: str):
    before = sorted(path for path in ledger.iterdir() if not path.name.startswith("credits.db-"))
    done = run(*command.split(), cwd=ledger, DATABASE_URL="sqlite:///credits.db")
    assert_one_line(done, said)
    assert sorted(path for path in ledger.iterdir() if not path.name.startswith("credits.db-")) == before


def test_a_migration_that_meets_what_it_is_to_make_says_so(database_url: str):
    empty = open_database(database_url)
    with empty.primary.connection_context():
        empty.primary.execute_sql("CREATE TABLE elsewhere (number INTEGER)")
        empty.primary.execute_sql("CREATE INDEX inbox_event_received ON elsewhere (number)")
    assert_one_line(run("migrate", "--database", database_url), "run `credits migrate` again")


def test_a_database_that_lost_a_table_is_one_line(database: Database, database_url: str):
    database.primary.execute_sql("DROP TABLE lot")
    database.close_thread()
    assert_one_line(run("audit", "--database", database_url), "the database failed")


def assert_one_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_database_newer_than_the_code_is_refused(sqlite_url: str):
    database = open_database(sqlite_url)
    migrate(database)
    Runner(database.primary, str(MIGRATIONS)).History.create(name="9999_future")
    database.close_thread()
    done = run("audit", "--database", sqlite_url)
    assert (done.returncode, "upgrade credits-plugin" in done.stderr) == (2, True)


def test_a_host_without_keys_is_told_which_are_missing(tmp_path: Path):
    code = (
        "import pluggy; from credits_plugin import *; pm = pluggy.PluginManager(PROJECT_NAME); "
        "pm.add_hookspecs(CreditsSpecs); pm.load_setuptools_entrypoints('credits_plugin'); HookCaller(pm)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "CREDITS"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "ConfigurationError: STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET not set" in done.stderr


def test_the_sandbox_runs_alone_and_says_what_to_give_the_host(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [
        "sandbox",
        "--port",
        str(port),
        "--webhook-url",
        "http://127.0.0.1:9/hook",
        "--webhook-secret",
        "whsec_x",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "credits_plugin", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = [process.stdout.readline() for _ in range(6)]
    assert f"http://127.0.0.1:{port}" in lines[0]
    assert "STRIPE_WEBHOOK_SECRET=whsec_x\n" in "".join(lines)
    assert lines[5].endswith(f"http://127.0.0.1:{port}/sandbox\n")
    taken = run("sandbox", "--port", str(port))
    assert (taken.returncode, "Traceback" in taken.stderr) == (2, False)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_copy_backup_and_restore_say_what_they_proved(tmp_path: Path):
    first, second = f"sqlite:///{tmp_path / 'a.db'}", f"sqlite:///{tmp_path / 'b.db'}"
    run("migrate", "--database", first)
    copied = run("copy", "--from", first, "--to", second)
    assert (copied.returncode, "proven" in copied.stdout) == (0, True)
    assert "audited clean" in run("backup", str(tmp_path / "c.db"), "--database", second).stdout
    restored = run("restore", str(tmp_path / "c.db"), "--database", first)
    assert (restored.returncode, "credits reconcile --full --apply" in restored.stdout) == (0, True)
    assert run("backup", str(tmp_path / "c.db"), "--database", second).returncode == 2
