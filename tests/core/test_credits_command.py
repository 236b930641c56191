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
from credits_plugin.database import MIGRATIONS, Database, migrate, open_database
from credits_plugin.models import Account


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "credits_plugin", *arguments],
        env=os.environ | environment,
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
    done = run(*arguments, **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


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
