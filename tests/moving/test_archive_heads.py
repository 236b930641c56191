"""Exported heads that lie in archived transfers are proven by the archive's files, never by the database's own word."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from archive_ledger import BEFORE, DAY_MS, LATER, Clerk, archive, archived_seqs, execute

from credits_plugin.__main__ import main
from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.auditing.heads import export_heads
from credits_plugin.ledger.entries import INCOMING, Code, link_hash, pack_link
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.money import format_credits
from credits_plugin.moving.archiving.rows import FileFormat

ANNA, EDGE = account_key("anna"), account_key("edge")
FIRST = "part-000001.csv.gz"
APPROVAL = "every chain passes through its head"


class Auditor:
    """Who kept a file of heads, and asks by the command."""

    def __init__(self, database: Database, url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.database, self.url, self.capsys = database, url, capsys
        self.heads, self.archive = folder / "heads", folder / "archive"

    def export(self) -> None:
        export_heads(self.database, self.heads)

    def verify(self, *folders: Path) -> tuple[int, str]:
        named = ["--archive", *map(str, folders)] if folders else []
        code = main(["heads", "verify", str(self.heads), "--database", self.url, *named])
        return code, self.capsys.readouterr().out


@pytest.fixture
def auditor(
    database: Database, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: LedgerWriter
) -> Auditor:
    """Exported when anna had ten transfers, edge and still one each; then anna and edge went on."""
    asked = Auditor(database, database_url, tmp_path, capsys)
    old, young = Clerk(writer), Clerk(writer, at_ms=BEFORE + DAY_MS)
    old.run("anna", old.post(Code.PROMOTION, 10_000), old.spend(9))
    for user in ("edge", "still"):
        old.run(user, old.post(Code.PROMOTION, 9))
    export_heads(database, asked.heads)
    old.run("anna", old.spend(3))
    for user in ("anna", "edge"):
        young.run(user, young.post(Code.PROMOTION, 40), young.post(Code.PROMOTION, 2))
    return asked


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_heads_in_archived_transfers_are_proven_by_the_archive_and_not_without_it(
    auditor: Auditor, file_format: FileFormat
):
    assert auditor.verify()[0] == 0  # all are still here
    archive(auditor.database, auditor.archive, file_format=file_format)
    assert archived_seqs(auditor.database) == {ANNA: 13, EDGE: 1}

    code, told = auditor.verify()
    assert code == 2
    assert APPROVAL not in told
    assert "not proven: 2 heads lie in archived transfers; name the archive's folders with --archive" in told

    code, told = auditor.verify(auditor.archive)
    assert (code, told.splitlines()[-1]) == (0, APPROVAL)
    assert "2 heads lie in archived transfers, 2 of them were found there" in told


def test_a_head_that_the_archive_contradicts_is_found(auditor: Auditor):
    archive(auditor.database, auditor.archive)
    lines = auditor.heads.read_text().splitlines(keepends=True)
    digest = sha256()
    with auditor.heads.open("w") as file:
        for line in lines[:-1]:
            kept = f"{ANNA} 10 {'ab' * 16}\n" if line.startswith(f"{ANNA} ") else line
            digest.update(kept.encode())
            file.write(kept)
        file.write(f"sha256 {digest.hexdigest()}\n")
    code, told = auditor.verify(auditor.archive)
    assert (code, told.splitlines()[-1]) == (1, "1 accounts were rewritten")
    assert "invariant 9, account anna: transfer number 10 is not the one whose hash was exported" in told
    assert auditor.verify()[0] == 2  # without the archive nobody can tell


def test_an_archive_that_the_database_does_not_go_on_from_proves_nothing(auditor: Auditor):
    archive(auditor.database, auditor.archive)
    execute(auditor.database, f"UPDATE archive_anchor SET transfer_id = transfer_id + 1 WHERE account_id = {EDGE}")
    code, told = auditor.verify(auditor.archive)
    assert code == 1
    assert APPROVAL not in told
    (auditor.archive / FIRST).unlink()
    code, told = auditor.verify(auditor.archive)
    assert code == 1
    assert f"archive: {FIRST}: is missing" in told


def forge_anchor(database: Database, key: int, *, seq: int, balance: int) -> None:
    """Make an account's history up to ``seq`` an archived one that left ``balance``; make the rest fit, hashes too."""
    columns = "id, account_id, seq, previous_id, code, amount, balance_after, at_ms"
    query = f"SELECT {columns} FROM transfer WHERE account_id = {key} AND seq >= {seq} ORDER BY seq"
    (last_id, *_), *rest = database.primary.execute_sql(query).fetchall()
    [digest] = database.primary.execute_sql(f"SELECT hash FROM transfer WHERE id = {last_id}").fetchone()
    execute(database, f"DELETE FROM transfer WHERE account_id = {key} AND seq <= {seq}")
    last_hash, mark, left = bytes(digest), database.primary.param, balance
    values = (key, seq, last_id, last_hash, balance)
    database.primary.execute_sql(f"INSERT INTO archive_anchor VALUES ({', '.join([mark] * 5)})", values)
    for *numbers, _, at_ms in rest:
        left += numbers[-1] if numbers[-2] in INCOMING else -numbers[-1]
        last_hash = link_hash(last_hash, pack_link(*numbers, left, at_ms, *[0] * 6), None)
        update = f"UPDATE transfer SET balance_after = {mark}, hash = {mark} WHERE id = {mark}"
        database.primary.execute_sql(update, (left, last_hash, numbers[0]))
    update = f"UPDATE account SET balance = {mark}, last_hash = {mark} WHERE id = {mark}"
    database.primary.execute_sql(update, (left, last_hash, key))
    execute(database, f"UPDATE lot SET amount = {left}, remaining = {left} WHERE account_id = {key}")


def test_credits_made_with_a_forged_anchor_are_approved_by_nobody(auditor: Auditor):
    """At the exported head, whose hash is public, and behind it, where any hash will do."""
    made = 10**12
    forge_anchor(auditor.database, EDGE, seq=1, balance=made)
    forge_anchor(auditor.database, ANNA, seq=13, balance=made)
    assert audit(auditor.database).findings == []  # the chains are sound, and say where they begin

    assert main(["audit", "--database", auditor.url]) == 0
    told = auditor.capsys.readouterr().out
    assert "2 accounts begin after archived transfers" in told
    assert "2,000,000 credits" in told

    code, told = auditor.verify()
    assert code == 2
    assert APPROVAL not in told


def test_books_that_begin_after_archived_transfers_are_said_to(auditor: Auditor):
    archive(auditor.database, auditor.archive)
    assert main(["audit", "--database", auditor.url]) == 0
    told = auditor.capsys.readouterr().out
    report = audit(auditor.database)
    assert report.anchored == 2
    assert sum(report.books.values()) + report.balance_total == report.opening == 10_000 - 12 * 7 + 9
    assert f"2 accounts begin after archived transfers, which had left {format_credits(report.opening)} credits" in told
    assert audit(auditor.database, as_of_ms=LATER).anchored == 2
