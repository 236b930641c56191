"""The commands that read, for an auditor who may not write: read-only files, a role that may only select."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from credits_plugin import Settings, Usage, build
from credits_plugin.__main__ import main
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.auditing.heads import export_heads
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

NOBODY = 65_534
new_id = IdMaker()


def fill(database: Database) -> None:
    migrate(database)
    writer, key, now = LedgerWriter(database, new_id=new_id), account_key("anna"), now_ms()
    writer.start()
    writer.execute_sync(PostTransfer(key, "anna", new_id(), Code.PROMOTION, 500, now))
    placed = writer.execute_sync(PlaceHold(key, "anna", new_id(), 9, now, now + 60_000, 1, 7, "r"))
    writer.execute_sync(SettleHold(key, placed.hold_id, 9, now, Usage(input=9)))
    writer.close()
    database.close_thread()


@pytest.fixture
def evidence() -> Iterator[Path]:
    """A folder that anybody may look into, with a ledger and its heads. As root, the test becomes nobody meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="credits-evidence-"))
    database = open_database(f"sqlite:///{folder / 'credits.db'}")
    fill(database)
    export_heads(database, folder / "heads")
    for path in folder.glob("credits.db?*"):
        path.unlink()  # the lock, and what the reader left
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def nobody(evidence: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Run what follows without root's right to write everywhere."""
    run(evidence, capsys)  # imports everything while it can be read
    for path in evidence.glob("credits.db?*"):
        path.unlink()
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield
    if root:
        os.seteuid(0)


def run(evidence: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[int, str]]:
    url = f"sqlite:///{evidence / 'credits.db'}"
    commands = {
        "audit": ["audit", "--database", url],
        "heads": ["heads", "verify", str(evidence / "heads"), "--database", url],
        "lots": ["lots", "anna", "--database", url],
        "paid-by": ["paid-by", "anna", "r", "--database", url],
    }
    answers = {}
    for name, arguments in commands.items():
        code = main(arguments)
        told = capsys.readouterr()
        answers[name] = (code, told.out + told.err)
    return answers


@pytest.mark.usefixtures("nobody")
def test_a_ledger_that_nobody_can_write_is_read_as_it_is(evidence: Path, capsys: pytest.CaptureFixture[str]):
    protect(evidence, file=0o444, folder=0o555)
    answers = run(evidence, capsys)
    assert {name: code for name, (code, _) in answers.items()} == dict.fromkeys(answers, 0), answers
    assert answers["audit"][1].endswith("clean\n")
    assert sorted(path.name for path in evidence.iterdir()) == ["credits.db", "heads"]


def test_a_ledger_that_nobody_is_let_write_takes_no_writer_not_even_roots(evidence: Path):
    """Whoever reads it as it is, the host's own readers too, would never see what root wrote."""
    protect(evidence, file=0o444, folder=0o555)
    with pytest.raises(DatabaseError, match="nobody is let write"):
        build(Settings(database_url=f"sqlite:///{evidence / 'credits.db'}"))


@pytest.mark.usefixtures("nobody")
def test_a_ledger_that_may_only_be_read_is_copied(evidence: Path, capsys: pytest.CaptureFixture[str]):
    protect(evidence, file=0o444, folder=0o555)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/copy.db"
        assert main(["copy", "--from", f"sqlite:///{evidence / 'credits.db'}", "--to", url]) == 0
        told = capsys.readouterr().out
        assert "no host waited" in told
        assert audit(open_database(url)).transfers == 2


def test_a_role_that_may_only_select_audits_and_copies(
    fresh_postgresql_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fill(open_database(fresh_postgresql_url))
    role = f"auditor_{uuid4().hex}"
    with psycopg.connect(fresh_postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'look'")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    parts = urlsplit(fresh_postgresql_url)
    url = parts._replace(netloc=f"{role}:look@{parts.netloc.rpartition('@')[2]}").geturl()
    heads = tmp_path / "heads"
    for command in (
        ["audit", "--database", url],
        ["heads", "export", str(heads), "--database", url],
        ["heads", "verify", str(heads), "--database", url],
        ["lots", "anna", "--database", url],
        ["copy", "--from", url, "--to", f"sqlite:///{tmp_path / 'copy.db'}"],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert "no host waited" in capsys.readouterr().out
    with psycopg.connect(fresh_postgresql_url, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


@pytest.mark.usefixtures("nobody")
def test_a_file_that_others_may_write_but_whose_folder_we_may_not_is_refused_in_one_line(
    evidence: Path, capsys: pytest.CaptureFixture[str]
):
    protect(evidence, file=0o644, folder=0o555)
    for code, told in run(evidence, capsys).values():
        assert (code, len(told.splitlines())) == (2, 1), told
        assert "copy it, and its -wal if there is one, to a folder of yours" in told


def protect(evidence: Path, *, file: int, folder: int) -> None:
    was = os.geteuid()
    os.seteuid(os.getuid())
    (evidence / "credits.db").chmod(file)
    evidence.chmod(folder)
    os.seteuid(was)
