"""Archiving old transfers: nothing is lost, doubled or changed, and what is left is still proven."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archive_ledger import (
    BEFORE,
    DAY_MS,
    LATER,
    SMALL,
    T0,
    Clerk,
    archive,
    archived_seqs,
    execute,
    fill,
    require_whole,
    rows_in,
    rows_of,
)

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import (
    ConfigurationError,
    DatabaseError,
    InvalidValue,
    LedgerError,
    MaybeArchived,
    NotFound,
    UnknownHold,
)
from credits_plugin.jobs import TOMBSTONE_DAYS
from credits_plugin.ledger import queries
from credits_plugin.ledger.attribution import lot_reports, paid_by
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.auditing.heads import export_heads, verify_heads
from credits_plugin.ledger.entries import OPEN_ENDED_MS, Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.moving.archiving.manifest import MANIFEST
from credits_plugin.moving.archiving.rows import FileFormat
from credits_plugin.moving.archiving.run import MIN_AGE_DAYS, Limits
from credits_plugin.moving.archiving.verify import verify_archives
from credits_plugin.moving.backup import back_up, restore
from credits_plugin.moving.copy import copy_database
from credits_plugin.web.history import history_page

ANNA, BUYER = account_key("anna"), account_key("buyer")
ARCHIVED = {ANNA: 70, account_key("odd"): 6, BUYER: 2, account_key("retry"): 3, account_key("slow"): 1}
"""What may leave: no head, nothing young, nothing whose hold is remembered, and nothing that follows those."""


@pytest.fixture
def filled(writer: LedgerWriter, database: Database) -> Database:
    fill(writer)
    return database


def test_a_hold_from_before_what_was_archived_is_explained_by_what_is_not_here_any_more(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    """Such as a freeze, which waits for months while another purchase is refunded."""
    clerk, key = Clerk(writer), account_key("frozen")
    clerk.run("frozen", clerk.post(Code.PURCHASE, 1_000, "pi_9", 78))
    writer.execute_sync(PlaceHold(key, "frozen", clerk.new_id(), 900, T0, OPEN_ENDED_MS, 0, 0))
    clerk.run("frozen", clerk.post(Code.REFUND, 1_000, "re_9", 78), clerk.post(Code.PROMOTION, 1))
    archive(database, tmp_path / "a")
    assert archived_seqs(database) == {key: 2}
    assert audit(database).findings == []


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_archive_and_database_together_have_every_transfer_as_it_was(
    filled: Database, tmp_path: Path, file_format: FileFormat
):
    original = rows_of(filled)
    balances = audit(filled).balance_total
    report = archive(filled, tmp_path / "a", file_format=file_format, limits=SMALL)
    require_whole(filled, tmp_path / "a", original)
    assert archived_seqs(filled) == ARCHIVED
    assert (report.rows, report.removed, report.parts) == (82, 82, 4)
    assert audit(filled).balance_total == balances

    proof = verify_archives([tmp_path / "a"], filled)
    assert proof.findings == []
    assert (proof.parts, proof.rows, proof.accounts, proof.anchors) == (4, 82, 5, 5)
    assert proof.digests == [report.digest]
    assert proof.closing == sum(
        row[0] for row in filled.primary.execute_sql("SELECT balance FROM archive_anchor").fetchall()
    )


def test_the_same_rows_make_the_same_bytes_and_a_second_run_changes_nothing(filled: Database, tmp_path: Path):
    report = archive(filled, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    again = archive(filled, tmp_path / "a")
    assert (again.rows, again.removed, again.digest) == (0, 0, report.digest)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_later_archives_join_whatever_their_format_and_folder(filled: Database, writer: LedgerWriter, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    archive(filled, one)
    later = Clerk(writer, at_ms=T0 + 2 * DAY_MS)
    later.run("anna", later.spend(40))
    later.run("single", later.spend(3, amount=1))
    original = rows_of(filled) | rows_in(one)
    archive(filled, one, before_ms=T0 + 3 * DAY_MS, file_format=FileFormat.PARQUET)
    require_whole(filled, one, original)
    assert verify_archives([one], filled).findings == []
    assert archived_seqs(filled)[ANNA] == 70 + 5 + 1 + 39

    last = Clerk(writer, at_ms=T0 + 4 * DAY_MS)
    last.run("anna", last.spend(2))
    archive(filled, two, before_ms=T0 + 5 * DAY_MS)
    assert verify_archives([one, two], filled).clean
    alone = verify_archives([two])
    assert alone.finding_count == len(rows_accounts(two))
    assert "name the folder with its earlier transfers" in alone.findings[0]
    assert "what was named here ends" in verify_archives([one], filled).findings[0]
    assert audit(filled).findings == []


def rows_accounts(folder: Path) -> set[int]:
    return {row[0] for row in rows_in(folder).values()}


async def test_hosts_go_on_while_an_archive_is_made(writer: LedgerWriter, database: Database, tmp_path: Path):
    await asyncio.to_thread(fill, writer)
    finished = asyncio.Event()
    new_id = IdMaker()

    async def work() -> int:
        pairs = 0
        while not finished.is_set() or pairs < 20:
            placed = await writer.execute(PlaceHold(ANNA, "anna", new_id(), 1, LATER, LATER + 60_000, 1, 7))
            await writer.execute(SettleHold(ANNA, placed.hold_id, 1, LATER, Usage(input=1)))
            pairs += 1
        return pairs

    original = rows_of(database)
    working = asyncio.create_task(work())
    await asyncio.to_thread(archive, database, tmp_path / "a", limits=Limits(10, 2, 20))
    finished.set()
    pairs = await working
    kept, gone = rows_of(database), rows_in(tmp_path / "a")
    assert (kept | gone).items() >= original.items()
    assert len(kept) + len(gone) == len(original) + pairs
    assert audit(database).findings == []
    assert verify_archives([tmp_path / "a"], database).clean
    assert archived_seqs(database) == ARCHIVED


def test_what_is_too_young_or_unreadable_as_a_date_is_refused(filled: Database, tmp_path: Path):
    assert MIN_AGE_DAYS > TOMBSTONE_DAYS
    with pytest.raises(InvalidValue, match="last 7 days stay"):
        archive(filled, tmp_path / "a", before_ms=LATER - MIN_AGE_DAYS * DAY_MS + 1)
    assert not (tmp_path / "a").exists()
    archive(filled, tmp_path / "a", before_ms=LATER - MIN_AGE_DAYS * DAY_MS)


def test_a_broken_chain_is_not_archived(filled: Database, tmp_path: Path):
    execute(filled, f"UPDATE transfer SET amount = amount + 1 WHERE account_id = {ANNA} AND seq = 40")
    before = rows_of(filled)
    with pytest.raises(InvalidValue, match=r"nothing of part-000001.csv.gz was removed.*number 40 .*credits audit"):
        archive(filled, tmp_path / "a")
    assert rows_of(filled) == before
    assert archived_seqs(filled) == {}
    execute(filled, f"UPDATE transfer SET amount = amount - 1 WHERE account_id = {ANNA} AND seq = 40")
    archive(filled, tmp_path / "a")
    require_whole(filled, tmp_path / "a", rows_of(filled) | rows_in(tmp_path / "a"))


def test_parquet_without_pyarrow_says_what_to_install(filled: Database, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"credits-plugin\[archive\]"):
        archive(filled, tmp_path / "a", file_format=FileFormat.PARQUET)
    assert archive(filled, tmp_path / "a").rows == 82


def test_a_folder_with_parts_that_its_manifest_does_not_know_is_left_alone(filled: Database, tmp_path: Path):
    archive(filled, tmp_path / "a", limits=SMALL)
    manifest = tmp_path / "a" / MANIFEST
    whole = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(InvalidValue, match="not in the manifest, which may be an older copy"):
        archive(filled, tmp_path / "a")
    manifest.write_bytes(whole)
    (tmp_path / "a" / "part-000002.csv.gz").unlink()
    with pytest.raises(InvalidValue, match="is missing: put it back"):
        archive(filled, tmp_path / "a")


def test_a_folder_of_another_ledger_removes_nothing(
    filled: Database, sqlite_url: str, fresh_postgresql_url: str, tmp_path: Path
):
    """Here a copy that went another way before it was archived."""
    other = open_database(fresh_postgresql_url if filled.path is not None else sqlite_url)
    copy_database(filled, other)
    writer = LedgerWriter(other, new_id=IdMaker())
    writer.start()
    clerk = Clerk(writer)
    clerk.run("odd", clerk.spend(2, amount=1))
    writer.close()
    extra = LedgerWriter(filled, new_id=IdMaker())
    extra.start()
    clerk = Clerk(extra)
    clerk.run("odd", clerk.spend(2, amount=1))
    extra.close()
    archive(filled, tmp_path / "a")
    before = rows_of(other)
    with pytest.raises(LedgerError, match="as they were archived"):
        archive(other, tmp_path / "a")
    assert before.items() >= rows_of(other).items()
    assert audit(other).findings == []
    assert account_key("odd") not in archived_seqs(other)
    other.close_thread()


def test_two_archives_of_one_ledger_at_once_keep_the_same_rows(filled: Database, tmp_path: Path):
    """A run that is killed once its parts stand, and another one, into another folder, that is not."""
    original = rows_of(filled)
    shutil.copytree(_written_only(filled, tmp_path / "a"), tmp_path / "b")
    archive(filled, tmp_path / "b")
    archive(filled, tmp_path / "a")
    for folder in (tmp_path / "a", tmp_path / "b"):
        require_whole(filled, folder, original)
        assert verify_archives([folder], filled).clean


def _written_only(database: Database, folder: Path, **options) -> Path:
    """Archive until just before the first row is removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("credits_plugin.moving.archiving.run._Run._remove", lambda self, part: None)
        archive(database, folder, **options)
    return folder


def test_an_interrupted_run_is_told_from_tampering_and_finished_by_the_next(filled: Database, tmp_path: Path):
    original = rows_of(filled)
    folder = _written_only(filled, tmp_path / "a")
    assert "archive again into the same folder" in verify_archives([folder], filled).findings[0]
    report = archive(filled, folder)
    assert (report.rows, report.removed) == (0, 82)
    require_whole(filled, folder, original)


def test_a_part_that_was_changed_after_it_was_written_removes_nothing(filled: Database, tmp_path: Path):
    folder = _written_only(filled, tmp_path / "a")
    before = rows_of(filled)
    part = folder / "part-000001.csv.gz"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(InvalidValue, match="is not what the manifest says"):
        archive(filled, folder)
    assert rows_of(filled) == before


def test_only_rows_that_are_what_was_archived_are_removed(filled: Database, tmp_path: Path):
    folder = _written_only(filled, tmp_path / "a")
    row = f"WHERE account_id = {ANNA} AND seq = 30"
    execute(filled, f"CREATE TABLE kept AS SELECT hash FROM transfer {row}")
    execute(filled, f"UPDATE transfer SET hash = (SELECT last_hash FROM account WHERE id = {BUYER}) {row}")
    with pytest.raises(LedgerError, match="as they were archived; this step removed nothing"):
        archive(filled, folder)
    assert ANNA not in archived_seqs(filled)
    assert sum(ANNA in row for row in rows_of(filled).values()) == 76
    execute(filled, f"UPDATE transfer SET hash = (SELECT hash FROM kept) {row}")
    execute(filled, "DROP TABLE kept")
    archive(filled, folder)
    assert audit(filled).findings == []


def test_a_file_that_does_not_follow_the_anchor_removes_nothing(filled: Database, writer: LedgerWriter, tmp_path: Path):
    archive(filled, tmp_path / "a")
    later = Clerk(writer, at_ms=T0 + 2 * DAY_MS)
    later.run("buyer", later.post(Code.PROMOTION, 400), later.spend(3))
    folder = _written_only(filled, tmp_path / "b", before_ms=T0 + 3 * DAY_MS)
    only = f"WHERE account_id = {BUYER}"
    before = {identifier for identifier, row in rows_of(filled).items() if BUYER in row}
    for change, back in (("balance + 1", "balance - 1"), ("balance - 1", "balance + 1")):
        execute(filled, f"UPDATE archive_anchor SET balance = {change} {only}")
        with pytest.raises(LedgerError, match=r"anchor, number 2, is not on that chain.*another ledger"):
            archive(filled, folder)
        execute(filled, f"UPDATE archive_anchor SET balance = {back} {only}")
        assert before <= rows_of(filled).keys()
    archive(filled, folder)
    assert archived_seqs(filled)[BUYER] == 6
    assert verify_archives([tmp_path / "a", folder], filled).clean


def test_what_is_left_is_audited_from_its_anchor_on(filled: Database, tmp_path: Path):
    archive(filled, tmp_path / "a")
    for tamper, undo, invariants in (
        ("transfer SET amount = amount + 1", "transfer SET amount = amount - 1", {2, 9}),
        ("archive_anchor SET balance = balance + 1", "archive_anchor SET balance = balance - 1", {2}),
        ("archive_anchor SET transfer_id = transfer_id + 1", "archive_anchor SET transfer_id = transfer_id - 1", {9}),
        ("archive_anchor SET seq = seq - 1", "archive_anchor SET seq = seq + 1", {9}),
    ):
        only = f"WHERE account_id = {BUYER}"
        execute(filled, f"UPDATE {tamper} {only}")
        assert {finding.invariant for finding in audit(filled).findings} >= invariants, tamper
        execute(filled, f"UPDATE {undo} {only}")
        assert audit(filled).findings == []
    execute(filled, f"DELETE FROM archive_anchor WHERE account_id = {BUYER}")
    assert not audit(filled).clean
    assert any(f"account {BUYER}" in finding for finding in verify_archives([tmp_path / "a"], filled).findings)


def test_exported_heads_and_balances_of_the_past_survive_an_archive(filled: Database, tmp_path: Path):
    export = export_heads(filled, tmp_path / "heads")
    archive(filled, tmp_path / "a")
    assert verify_heads(filled, export.path).clean
    past = audit(filled, as_of_ms=BEFORE)
    assert past.findings == []
    assert past.accounts + past.archived == 6


@pytest.mark.parametrize("archived", [False, True])
def test_pages_end_at_the_archives_edge(filled: Database, tmp_path: Path, archived: bool):
    """At every depth, though the sparse index has lost its beginning."""
    before = queries.account_transfers(filled.reader, ANNA, limit=500)
    sums = queries.chain_sums(filled.reader, ANNA)
    assert (sums.oldest_seq, sums.opening) == (1, 0)
    edge = 0
    if archived:
        archive(filled, tmp_path / "a")
        edge = 70
    kept = [line for line in before if line.seq > edge]
    assert queries.account_transfers(filled.reader, ANNA, limit=500) == kept
    for top in (1, 32, 64, 70, 71, 72, 75, 77, 9_999):
        page = queries.account_transfers(filled.reader, ANNA, before_seq=top, limit=3)
        assert page == [line for line in kept if line.seq < top][:3]
    assert queries.archived_transfers(filled.reader, ANNA) == edge
    assert queries.account_balance(filled.reader, ANNA).archived == edge
    assert {row.external_id: row.archived for row in queries.accounts_page(filled.reader)}["anna"] == edge
    sums = queries.chain_sums(filled.reader, ANNA)
    assert (sums.oldest_seq, sums.opening + sums.total) == (edge + 1, sums.closing)
    assert sums.opening == (kept[-1].balance_after - kept[-1].amount)
    assert queries.chain_sums(filled.reader, ANNA, after_seq=75).oldest_seq == 76

    newest = history_page(filled.reader, ANNA, before_seq=None)
    assert (newest.older, newest.archived) == (None if archived else 52, edge)
    below = history_page(filled.reader, ANNA, before_seq=edge + 1)
    assert (below.lines, below.older) == ([], None)


def test_lots_go_on_and_say_that_their_story_is_archived(filled: Database, tmp_path: Path):
    before = queries.account_lots(filled.reader, ANNA)
    last_id = queries.account_transfers(filled.reader, ANNA, limit=1)[0].id
    assert paid_by(filled.reader, ANNA, last_id).microcredits == 7
    archive(filled, tmp_path / "a")
    after = queries.account_lots(filled.reader, ANNA)
    assert [(lot.id, lot.remaining) for lot in after] == [(lot.id, lot.remaining) for lot in before]
    assert (before[0].code, after[0].code) == (Code.PROMOTION, None)
    for ask in (lambda: paid_by(filled.reader, ANNA, last_id), lambda: lot_reports(filled.reader, ANNA)):
        with pytest.raises(NotFound, match="first 70 transfers were archived"):
            ask()
    assert len(lot_reports(filled.reader, account_key("single"))) == 1


def test_a_settle_that_is_repeated_weeks_later_is_refused_and_never_charged_again(
    filled: Database, writer: LedgerWriter, tmp_path: Path
):
    hold_id = queries.account_transfers(filled.reader, ANNA, before_seq=40, limit=1)[0].id
    repeat = SettleHold(ANNA, hold_id, 7, LATER, Usage(input=3))
    assert writer.execute_sync(repeat).repeated
    archive(filled, tmp_path / "a")
    with pytest.raises(UnknownHold):
        writer.execute_sync(repeat)
    assert audit(filled).findings == []


def test_money_goes_back_after_the_grant_was_archived(filled: Database, writer: LedgerWriter, tmp_path: Path):
    clerk = Clerk(writer)
    clerk.run("late", clerk.post(Code.PURCHASE, 100, "pi_88", 88), clerk.spend(3, amount=10))
    archive(filled, tmp_path / "a")
    later = Clerk(writer, at_ms=LATER)
    later.run("late", later.post(Code.REFUND, 100, "pi_88", 88))
    assert queries.account_balance(filled.reader, account_key("late")).balance == -30
    assert audit(filled).findings == []
    execute(filled, "UPDATE payment SET microcredits = 101 WHERE id = 88")
    assert {finding.invariant for finding in audit(filled).findings} == {5, 6}  # the grant; what its refund calls for


def test_a_copy_carries_the_anchors_and_proves_balances_with_them(
    filled: Database, sqlite_url: str, second_postgresql_url: str, tmp_path: Path
):
    archive(filled, tmp_path / "a")
    execute(filled, f"UPDATE archive_anchor SET balance = balance + 1 WHERE account_id = {BUYER}")
    target = open_database(second_postgresql_url if filled.path is not None else f"sqlite:///{tmp_path / 'copy.db'}")
    with pytest.raises(DatabaseError, match="the sum of its chain is -59; nothing was kept"):
        copy_database(filled, target)
    execute(filled, f"UPDATE archive_anchor SET balance = balance - 1 WHERE account_id = {BUYER}")
    report = copy_database(filled, target)
    assert report.rows["archive_anchor"] == 5
    assert verify_archives([tmp_path / "a"], target).clean
    assert archived_seqs(target) == ARCHIVED
    assert archive(target, tmp_path / "a").rows == 0
    target.close_thread()


def test_an_archive_goes_on_after_an_older_backup_was_restored(sqlite_url: str, tmp_path: Path):
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker())
    writer.start()
    fill(writer)
    original = rows_of(database)
    back_up(database, tmp_path / "before.db")
    archive(database, tmp_path / "a", limits=SMALL)
    writer.close()
    database.close_thread()
    restore(tmp_path / "before.db", database)
    assert archived_seqs(database) == {}
    assert archive(database, tmp_path / "a", limits=SMALL).rows == 0
    require_whole(database, tmp_path / "a", original)
    back_up(database, tmp_path / "after.db")
    assert verify_archives([tmp_path / "a"], open_database(f"sqlite:///{tmp_path / 'after.db'}")).clean
    database.close_thread()


def test_a_restored_database_keeps_a_head_that_was_archived_from_a_longer_chain(sqlite_url: str, tmp_path: Path):
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker())
    writer.start()
    clerk = Clerk(writer)
    clerk.run("anna", clerk.post(Code.PROMOTION, 100), clerk.spend(3))
    back_up(database, tmp_path / "before.db")
    clerk.run("anna", clerk.spend(4))
    archive(database, tmp_path / "a")
    writer.close()
    database.close_thread()
    restore(tmp_path / "before.db", database)
    with pytest.raises(LedgerError, match="does not go on after number 7, so that stays"):
        archive(database, tmp_path / "a")
    assert len(rows_of(database)) == 4
    assert audit(database).findings == []
    database.close_thread()


def test_a_grant_repeated_with_an_archived_id_is_refused_and_a_new_one_made(
    filled: Database, writer: LedgerWriter, tmp_path: Path
):
    first = queries.account_transfers(filled.reader, ANNA, before_seq=2)[0]
    repeated = PostTransfer(ANNA, "anna", first.id, Code.PROMOTION, 10_000, LATER)
    balance = writer.execute_sync(repeated).balance
    archive(filled, tmp_path / "a")
    with pytest.raises(MaybeArchived, match="as old as archived ones of its account"):
        writer.execute_sync(repeated)
    assert queries.account_balance(filled.reader, ANNA).balance == balance
    new = PostTransfer(ANNA, "anna", IdMaker(lambda: LATER)(), Code.PROMOTION, 1, LATER)
    assert writer.execute_sync(new).balance == writer.execute_sync(new).balance == balance + 1
    other = PostTransfer(account_key("new"), "new", IdMaker()(), Code.PROMOTION, 1, LATER)
    assert writer.execute_sync(other).amount == 1
    assert audit(filled).findings == []


@pytest.mark.parametrize("file_format", list(FileFormat))
def test_a_run_killed_anywhere_is_finished_by_the_next(
    writer: LedgerWriter, database: Database, database_url: str, tmp_path: Path, file_format: FileFormat
):
    """At every writing statement, commit, write, sync and rename."""
    if database.path is None and file_format is FileFormat.PARQUET:
        pytest.skip("the same statements as for CSV")
    clerk = Clerk(writer)
    clerk.run("anna", clerk.post(Code.PROMOTION, 100), clerk.spend(8))
    clerk.run("ben", clerk.post(Code.PROMOTION, 100), clerk.spend(2))
    writer.close()
    database.close_thread()
    script = Path(__file__).with_name("killed_archive.py")
    command = [sys.executable, str(script), database_url, str(tmp_path), file_format]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 30
