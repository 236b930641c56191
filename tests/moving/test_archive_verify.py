"""What `credits archive verify` finds: every kind of change to the files, and to the database that goes on there."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_ledger import BEFORE, LATER, SMALL, archive, execute, fill, rewrite_csv

from credits_plugin.__main__ import main
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import InvalidValue
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.moving.archiving.manifest import MANIFEST, Manifest, load_manifest
from credits_plugin.moving.archiving.parts import file_sha256, read_part, write_part
from credits_plugin.moving.archiving.rows import FileFormat
from credits_plugin.moving.archiving.verify import verify_archives

FIRST, SECOND = "part-000001.csv.gz", "part-000002.csv.gz"


@pytest.fixture
def archived(sqlite_url: str, tmp_path: Path) -> tuple[Database, Path]:
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker())
    writer.start()
    fill(writer)
    writer.close()
    archive(database, tmp_path / "a", limits=SMALL)
    yield database, tmp_path / "a"
    database.close_thread()


def forge(folder: Path, name: str, change: Callable[[str], str]) -> None:
    """Change a part as somebody would who also makes the manifest fit: its hashes and digests, not the chains."""
    rewrite_csv(folder / name, change)
    manifest = load_manifest(folder)
    path = folder / name
    parts = [
        dataclasses.replace(part, sha256=file_sha256(path), size_bytes=path.stat().st_size)
        if part.file == name
        else part
        for part in manifest.parts
    ]
    Manifest(folder, parts).save()


def first_line(text: str, place: int, value: Callable[[str], str]) -> str:
    """Change one field of a part's first transfer."""
    header, line, rest = text.split("\n", 2)
    fields = line.split(",")
    fields[place] = value(fields[place])
    return "\n".join((header, ",".join(fields), rest))


def plus_one(field: str) -> str:
    return str(int(field or 0) + 1)


def test_a_file_that_was_changed_cut_or_taken_away_is_found(archived: tuple[Database, Path]):
    _, folder = archived
    part = folder / SECOND
    whole = part.read_bytes()
    middle = len(whole) // 2
    for changed in (whole[:-1], whole + b"\0", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        part.write_bytes(changed)
        assert f"{SECOND}: was changed" in verify_archives([folder]).findings[0]
    part.unlink()
    assert verify_archives([folder]).findings[0] == f"{SECOND}: is missing"
    part.write_bytes(whole)
    shutil.copy(part, folder / "part-000009.csv.gz")
    assert "part-000009.csv.gz: is not in the manifest" in verify_archives([folder]).findings[0]
    (folder / "part-000009.csv.gz").unlink()
    assert verify_archives([folder]).clean


def test_a_manifest_that_was_changed_is_refused(archived: tuple[Database, Path]):
    _, folder = archived
    path = folder / MANIFEST
    whole = json.loads(path.read_text())
    first = whole["parts"][0]
    for changed in (
        {**whole, "digest": "0" * 64},
        {**whole, "format": "another"},
        {**whole, "parts": whole["parts"][1:]},
        {**whole, "parts": whole["parts"][:-1]},
        {**whole, "parts": [whole["parts"][1], first, *whole["parts"][2:]]},
        {**whole, "parts": [{**first, "rows": first["rows"] + 1}, *whole["parts"][1:]]},
        {**whole, "parts": [{**first, "sha256": "0" * 64}, *whole["parts"][1:]]},
        {"parts": None},
        [],
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(InvalidValue, match="is not the manifest of an archive as it was written"):
            verify_archives([folder])
    path.write_text("not JSON")
    with pytest.raises(InvalidValue, match="as it was written"):
        verify_archives([folder])
    path.unlink()
    with pytest.raises(InvalidValue, match=r"no manifest\.json"):
        verify_archives([folder])


@pytest.mark.parametrize("place", range(14))
def test_a_number_that_was_changed_together_with_all_digests_is_still_not_what_the_chain_says(
    archived: tuple[Database, Path], place: int
):
    _, folder = archived
    forge(folder, FIRST, lambda text: first_line(text, place, plus_one))
    findings = verify_archives([folder]).findings
    assert findings[0].startswith(FIRST), findings


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("two\nlines", "two\nLines"),
        lambda text: text.replace('"ünï\u2028code"', ""),
        lambda text: text.replace('"say ""hi"", twice"', '"say ""hi"", twice'),
        lambda text: text.replace("account_id,", "account,", 1),
        lambda text: first_line(text, 14, lambda digest: digest[::-1]),
        lambda text: first_line(text, 14, lambda digest: digest[:-1]),
        lambda text: first_line(text, 0, lambda _: "x"),
        lambda text: first_line(text, 15, lambda _: "00" * 16),
        lambda text: "\n".join([text.split("\n")[0], *text.split("\n")[2:]]),
        lambda text: "\n".join(text.split("\n")[:-2]) + "\n",
        lambda text: text + text.split("\n")[-2] + "\n",
        lambda text: text + "1,2,3\n",
        lambda text: text[:-3],
    ],
    ids="reference unquoted quote header hash half-hash text start without-first without-last twice short cut".split(),
)
def test_a_part_that_was_rewritten_together_with_all_digests_is_found(
    archived: tuple[Database, Path], change: Callable[[str], str]
):
    database, folder = archived
    odd = account_key("odd")
    names = [part.file for part in load_manifest(folder).parts]
    part = next(name for name in names if any(row.account_id == odd for row in read_part(folder / name)))
    before = (folder / part).read_bytes()
    assert change(gzip.decompress(before).decode()) != gzip.decompress(before).decode()
    forge(folder, part, change)
    assert not verify_archives([folder], database).clean


def test_sums_that_were_forged_are_found(archived: tuple[Database, Path]):
    _, folder = archived
    manifest = load_manifest(folder)
    for field, value in (("rows", 1), ("closing", 1), ("opening", 1), ("accounts", 9), ("last_account", 1)):
        sums = dataclasses.replace(manifest.parts[0].sums, **{field: value})
        Manifest(folder, [dataclasses.replace(manifest.parts[0], sums=sums), *manifest.parts[1:]]).save()
        assert verify_archives([folder]).findings == [f"{FIRST}: its counts and sums are not the manifest's"]
    manifest.parts[0].sums.amounts[2] += 1
    manifest.save()
    assert verify_archives([folder]).findings == [f"{FIRST}: its counts and sums are not the manifest's"]


def test_a_part_left_out_or_put_elsewhere_breaks_the_joins(archived: tuple[Database, Path]):
    database, folder = archived
    manifest = load_manifest(folder)
    digest = manifest.digest
    Manifest(folder, [manifest.parts[0], *manifest.parts[2:]]).save()
    (folder / SECOND).rename(folder / "set-aside")
    proof = verify_archives([folder], database)
    assert not proof.clean
    assert proof.digests != [digest]
    (folder / "set-aside").rename(folder / SECOND)
    Manifest(folder, [*manifest.parts, manifest.parts[0]]).save()
    assert "which is not the end of the part before" in verify_archives([folder], database).findings[0]


def test_a_database_that_does_not_go_on_from_the_archive_is_found(archived: tuple[Database, Path]):
    database, folder = archived
    key = account_key("odd")
    for column in ("balance = balance + 1", "transfer_id = 1", "hash = x'00'", "seq = seq + 1", "seq = seq - 1"):
        execute(database, f"CREATE TABLE kept AS SELECT * FROM archive_anchor WHERE account_id = {key}")
        execute(database, f"UPDATE archive_anchor SET {column} WHERE account_id = {key}")
        proof = verify_archives([folder], database)
        assert [finding.partition(":")[0] for finding in proof.findings] == [f"account {key}"], column
        execute(database, f"DELETE FROM archive_anchor WHERE account_id = {key}")
        execute(database, "INSERT INTO archive_anchor SELECT * FROM kept")
        execute(database, "DROP TABLE kept")
    assert verify_archives([folder], database).clean
    execute(database, "INSERT INTO archive_anchor VALUES (5, 1, 1, x'00', 1)")
    assert verify_archives([folder], database).finding_count == 1


def test_both_formats_give_back_what_was_written(archived: tuple[Database, Path], tmp_path: Path):
    _, folder = archived
    for part in load_manifest(folder).parts:
        rows = list(read_part(folder / part.file))
        path = tmp_path / "again.parquet"
        write_part(path, FileFormat.PARQUET, rows)
        assert list(read_part(path)) == rows


def test_a_parquet_file_with_other_columns_is_refused(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "part.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"account_id": [1]}), path)
    with pytest.raises(InvalidValue, match="columns are not an archive's"):
        list(read_part(path))
    path.write_bytes(b"PAR1")
    with pytest.raises(InvalidValue, match="cannot be read"):
        list(read_part(path))


def test_the_command_archives_verifies_and_tells_by_its_exit_code(
    sqlite_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker(lambda: now_ms() - (LATER - BEFORE)))
    writer.start()
    fill(writer)
    writer.close()
    database.close_thread()
    folder = str(tmp_path / "a")
    assert main(["archive", "--database", sqlite_url, "--before", "2025-01-01", "--to", folder]) == 0
    assert "nothing was archived yet" in capsys.readouterr().out
    assert main(["archive", "verify", folder]) == 2
    assert "has no manifest.json" in capsys.readouterr().err
    archive(database, Path(folder))
    assert main(["archive", "verify", folder, "--database", sqlite_url]) == 0
    shown = capsys.readouterr().out
    assert "verified 82 transfers of 5 accounts in 1 files" in shown
    assert "compared the anchors of 5 accounts" in shown
    assert shown.endswith("clean\n")
    assert main(["audit", "--database", sqlite_url]) == 0
    (Path(folder) / FIRST).unlink()
    assert main(["archive", "verify", folder]) == 1
    assert f"{FIRST}: is missing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--before", "2025-01-01"], "needs --before DATE and --to DIR"),
        (["--to", "a"], "needs --before DATE and --to DIR"),
        (["--before", "yesterday", "--to", "a"], "must be a date such as"),
        (["--before", "0001-01-01T00:00+14:00", "--to", "a"], "must be a date such as"),
        (["--before", "2999-01-01", "--to", "a"], "name an earlier date"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], problem: str, sqlite_url: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    migrate(open_database(sqlite_url))
    assert main(["archive", "--database", sqlite_url, *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
