"""The audit finds what was changed behind the ledger's back, and nothing else."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import InvalidValue
from credits_plugin.ledger.audit import AuditReport, audit
from credits_plugin.ledger.auditing.chains import ByAccount, walk
from credits_plugin.ledger.auditing.heads import export_heads, verify_heads
from credits_plugin.ledger.auditing.ranges import account_ranges
from credits_plugin.ledger.auditing.starts import ChainStart
from credits_plugin.ledger.entries import (
    Code,
    LotTerms,
    PlaceHold,
    PostTransfer,
    SettleHold,
    TransferRow,
    chain_hash,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.moving.backup import back_up

new_id = IdMaker()
USERS = ("anna", "boris", "carla")


async def fill(writer: LedgerWriter) -> None:
    """Three accounts with grants, settled requests and an open hold each."""
    for user in USERS:
        key, now = account_key(user), now_ms()
        for expires in (None, now + 100_000):
            terms = LotTerms(expires_at_ms=expires)
            await writer.execute(PostTransfer(key, user, new_id(), Code.PROMOTION, 5_000, now, "welcome", terms=terms))
        for cost in (10, 250, 3_000):
            placed = await writer.execute(PlaceHold(key, user, new_id(), cost + 5, now, now + 60_000, 1, 7))
            await writer.execute(SettleHold(key, placed.hold_id, cost, now, Usage(input=cost, output=1)))
        await writer.execute(PlaceHold(key, user, new_id(), 77, now, now + 60_000, 1, 7, "open-request"))


async def test_books_that_were_kept_by_the_writer_are_clean(writer: LedgerWriter, database: Database):
    await fill(writer)
    report = audit(database)
    assert report.findings == []
    assert (report.accounts, report.transfers, report.open_holds) == (3, 15, 3)
    assert report.balance_total == 3 * (10_000 - 3_260)


def test_an_empty_ledger_is_clean(database: Database):
    assert audit(database).clean


TAMPERING = {
    "a balance": ("UPDATE account SET balance = balance + 1", 2),
    "the held sum": ("UPDATE account SET held = held + 1", 3),
    "an amount": ("UPDATE transfer SET amount = amount + 1 WHERE seq = 4", 2),
    "the tokens of a request": ("UPDATE transfer SET input = input + 1 WHERE seq = 4", 9),
    "a reference": ("UPDATE transfer SET reference = 'gift' WHERE seq = 1", 9),
    "a time": ("UPDATE transfer SET at_ms = at_ms - 1 WHERE seq = 2", 9),
    "a hash": (
        "UPDATE transfer SET hash = previous.hash FROM transfer AS previous WHERE previous.id = transfer.previous_id",
        9,
    ),
    "a missing transfer": ("DELETE FROM transfer WHERE seq = 3", 9),
    "a missing newest transfer": ("DELETE FROM transfer WHERE seq = 5", 2),
    "an unknown code": ("UPDATE transfer SET code = 99 WHERE seq = 5", 1),
    "a missing hold": ("DELETE FROM hold", 3),
    "a missing lot": ("DELETE FROM lot", 4),
    "credits moved between lots": (
        "UPDATE lot SET remaining = remaining + CASE WHEN expires_at_ms IS NULL THEN -1000 ELSE 0 END",
        4,
    ),
    "credits that will never expire": ("UPDATE account SET next_expiry_at_ms = NULL", 4),
    "a lot whose time was moved": ("UPDATE lot SET expires_at_ms = expires_at_ms + 1", 4),
    "a hold of nobody": (
        "INSERT INTO hold (id, account_id, amount, state, expires_at_ms, price_version, input_tokens) "
        "VALUES (8, 5, 1, 1, 0, 1, 1)",
        3,
    ),
    "a renamed account": ("UPDATE account SET external_id = 'mallory' WHERE external_id = 'anna'", 2),
    "a missing account": ("DELETE FROM account WHERE external_id = 'carla'", 2),
    "a grant without a payment": ("UPDATE transfer SET code = 1 WHERE seq = 1", 5),
    "a reopened hold": (
        "INSERT INTO hold (id, account_id, amount, state, expires_at_ms, price_version, input_tokens) "
        "SELECT id, account_id, 1, 1, 0, 1, 1 FROM transfer WHERE code = 2",
        7,
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_the_audit_finds(what: str, writer: LedgerWriter, database: Database):
    await fill(writer)
    sql, invariant = TAMPERING[what]
    database.primary.execute_sql(sql)
    assert invariant in {finding.invariant for finding in audit(database).findings}


async def test_a_finding_says_whose_which_transfer_what_was_expected_and_what_was_found(
    writer: LedgerWriter, database: Database
):
    await fill(writer)
    anna = account_key("anna")
    database.primary.execute_sql(f"UPDATE transfer SET amount = 251 WHERE amount = 250 AND account_id = {anna}")
    query = f"SELECT id, balance_after, hash FROM transfer WHERE amount = 251 AND account_id = {anna}"
    transfer_id, balance, stored_hash = database.primary.execute_sql(query).fetchone()

    report = audit(database)

    assert report.finding_count == 2
    found = {finding.invariant: finding for finding in report.findings}
    assert {(finding.account_id, finding.transfer_id) for finding in report.findings} == {(anna, transfer_id)}
    assert (found[2].expected, found[2].found) == (balance - 1, balance)
    assert found[9].found == bytes(stored_hash).hex()


async def test_the_report_is_the_same_whatever_the_ranges(writer: LedgerWriter, database: Database):
    await fill(writer)
    with database.reader.connection_context():
        assert (
            len([bounds for _, bounds in account_ranges(database.reader, transfers=1)]) == 4
        )  # one more after the last
    assert audit(database, transfers_per_range=1) == audit(database)
    database.primary.execute_sql("DELETE FROM account WHERE external_id = 'boris'")
    assert audit(database, transfers_per_range=1).as_json() == audit(database).as_json()


async def test_a_stopped_audit_goes_on_where_it_was(writer: LedgerWriter, database: Database, tmp_path: Path):
    await fill(writer)
    database.primary.execute_sql("UPDATE transfer SET input = input + 1 WHERE seq = 4")
    whole, file = audit(database), tmp_path / "audit.json"

    reports = []
    while not reports or not reports[-1].complete:
        reports.append(audit(database, checkpoint=file, time_limit_s=0, transfers_per_range=1))
        assert file.exists() != reports[-1].complete

    assert [report.accounts for report in reports] == [1, 2, 3, 3]
    assert reports[-1] == whole
    assert [report.finding_count for report in reports] == [1, 2, 3, 3]


async def test_an_audit_from_an_account_on_leaves_out_those_before(writer: LedgerWriter, database: Database):
    await fill(writer)
    keys = sorted(map(account_key, USERS))
    assert audit(database, from_account=keys[1]).accounts == 2
    first = audit(database, time_limit_s=0, transfers_per_range=1)
    assert audit(database, from_account=first.next_account).accounts == 2


async def test_a_checkpoint_of_another_audit_is_refused(writer: LedgerWriter, database: Database, tmp_path: Path):
    await fill(writer)
    file = tmp_path / "audit.json"
    audit(database, checkpoint=file, time_limit_s=0, transfers_per_range=1)
    with pytest.raises(InvalidValue, match="another database or time"):
        audit(database, checkpoint=file, as_of_ms=5)
    with pytest.raises(InvalidValue, match="says where to go on"):
        audit(database, checkpoint=file, from_account=5)
    file.write_text("{}")
    with pytest.raises(InvalidValue, match="no checkpoint"):
        audit(database, checkpoint=file)


async def test_a_checkpoint_of_a_namesake_elsewhere_is_refused(
    writer: LedgerWriter, database: Database, database_url: str, tmp_path: Path, second_postgresql_url: str
):
    """The same file name in another folder, the same database name on another server."""
    await fill(writer)
    file, elsewhere = tmp_path / "audit.json", tmp_path / "elsewhere"
    audit(database, checkpoint=file, time_limit_s=0, transfers_per_range=1)
    elsewhere.mkdir()
    if database.path is not None:
        back_up(database, elsewhere / database.path.name)
        namesake = open_database(f"sqlite:///{elsewhere / database.path.name}")
    else:
        namesake = replace(open_database(second_postgresql_url), name=database.name)
        migrate(namesake)
    with pytest.raises(InvalidValue, match="another database or time"):
        audit(namesake, checkpoint=file)
    namesake.close_thread()


async def test_a_checkpoint_of_a_ledger_that_was_there_before_is_refused(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    await fill(writer)
    file = tmp_path / "audit.json"
    audit(database, checkpoint=file, time_limit_s=0, transfers_per_range=1)
    made_later = "UPDATE schema_migration SET applied = '2031-01-01 00:00:00'"
    database.primary.execute_sql(made_later)
    with pytest.raises(InvalidValue, match="another database or time"):
        audit(database, checkpoint=file)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:secret@one:5432,two:5433/shop?sslmode=disable", "one:5432,two:5433/shop"),
        ("postgresql://me@/shop?host=/run/postgresql&port=5433", "/run/postgresql 5433/shop"),
        ("cockroachdb://me:secret@node:26257/shop", "node:26257/shop"),
    ],
)
def test_a_database_says_where_it_is_but_not_who_asks(url: str, place: str):
    assert open_database(url).place == place


async def test_a_report_survives_json(writer: LedgerWriter, database: Database):
    await fill(writer)
    database.primary.execute_sql("UPDATE transfer SET input = input + 1 WHERE seq = 4")
    report = audit(database)
    values = json.loads(json.dumps(report.as_json()))
    assert AuditReport.from_json(values) == report
    assert (values["clean"], values["complete"], values["finding_count"]) == (False, True, 3)
    assert values["books"] == {
        "cash": 0,
        "usage_revenue": 9_780,
        "promotions": -30_000,
        "breakage": 0,
        "adjustments": 0,
        "rollover": 0,
    }
    assert sum(values["books"].values()) + values["balance_total"] == 0


async def test_balances_as_of_a_time_are_those_of_then(writer: LedgerWriter, database: Database):
    key, begun = account_key("anna"), now_ms() - 1_000_000
    history, balance = [], 0
    for number in range(1, 8):
        amount, incoming = 100 * number, number % 3
        if incoming:
            code, balance = Code.PROMOTION, balance + amount
        else:
            code, balance = Code.ADJUSTMENT_OUT, balance - amount
        await writer.execute(PostTransfer(key, "anna", new_id(), code, amount, begun + 10 * number))
        history.append((begun + 10 * number, number, balance))
    late = await writer.execute(PostTransfer(account_key("boris"), "boris", new_id(), Code.PROMOTION, 5, begun + 45))
    assert late.amount == 5
    for at_ms, seq, then in history:
        seen = []
        report = audit(database, as_of_ms=at_ms + 4, on_account=seen.append)
        assert report.findings == []
        anna = next(one for one in seen if one.external_id == "anna")
        assert (anna.account_id, anna.seq, anna.balance) == (key, seq, then)
        assert report.balance_total == then + (5 if at_ms + 4 >= begun + 45 else 0)
        assert sum(report.books.values()) + report.balance_total == 0
    assert audit(database, as_of_ms=begun).accounts == 0


async def test_the_past_is_checked_too(writer: LedgerWriter, database: Database):
    await fill(writer)
    database.primary.execute_sql("UPDATE transfer SET input = input + 1 WHERE seq = 4")
    assert {finding.invariant for finding in audit(database, as_of_ms=now_ms()).findings} == {9}
    assert audit(database, as_of_ms=now_ms() - 60_000).clean


async def test_hosts_go_on_while_an_audit_reads(writer: LedgerWriter, database: Database):
    await fill(writer)
    finished = asyncio.Event()

    async def work() -> int:
        key, pairs = account_key("anna"), 0
        while not finished.is_set() or pairs < 20:
            now = now_ms()
            placed = await writer.execute(PlaceHold(key, "anna", new_id(), 1, now, now + 60_000, 1, 7))
            await writer.execute(SettleHold(key, placed.hold_id, 1, now, Usage(input=1)))
            pairs += 1
        return pairs

    working = asyncio.create_task(work())
    reports = [await asyncio.to_thread(audit, database, transfers_per_range=1) for _ in range(5)]
    finished.set()
    pairs = await working
    assert [report.findings for report in reports] == [[]] * 5
    assert audit(database).transfers == 15 + pairs


def test_memory_does_not_grow_with_the_ledger(writer: LedgerWriter, database: Database):
    """The peak of Python's own memory, with more than twice the accounts and transfers."""
    peaks = []
    for begin, end in ((0, 2_000), (2_000, 4_500)):
        _grant(writer, begin, end)
        audit(database)  # what is loaded and cached once is no growth
        tracemalloc.start()
        report = audit(database, transfers_per_range=10_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.accounts == end
    assert peaks[1] < peaks[0] * 1.2, peaks


def _grant(writer: LedgerWriter, begin: int, end: int) -> None:
    names = [f"user-{number}" for number in range(begin, end)]
    grants = [PostTransfer(account_key(name), name, new_id(), Code.PROMOTION, 10, now_ms()) for name in names]

    async def all_at_once() -> None:
        await asyncio.gather(*(writer.execute(grant) for grant in grants))

    asyncio.run(all_at_once())


async def test_a_chain_may_start_after_an_archived_prefix(writer: LedgerWriter, database: Database):
    await fill(writer)
    key = account_key("anna")
    columns = ", ".join(TransferRow._fields)
    query = f"SELECT {columns} FROM transfer WHERE account_id = {key} ORDER BY seq"
    links = [TransferRow._make(row) for row in database.primary.execute_sql(query).fetchall()]
    rows = [
        (*link[:8], link[9] or 0, *(count or 0 for count in link[10:15]), bytes(link.hash), link[15]) for link in links
    ]
    anchor = ChainStart(links[1].seq, links[1].id, bytes(links[1].hash), links[1].balance_after)

    findings: list = []
    chain = walk(ByAccount(iter(rows[2:]), column=1), key, anchor, findings.append)
    assert findings == []
    assert (chain.seq, chain.transfers, chain.balance) == (5, 3, links[-1].balance_after)

    walk(ByAccount(iter(rows[3:]), column=1), key, anchor, findings.append)
    assert {finding.invariant for finding in findings} == {2, 9}


async def test_exported_heads_are_the_same_bytes_for_the_same_ledger(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    await fill(writer)
    first, second = (export_heads(database, tmp_path / name) for name in ("one", "two"))
    assert (first.accounts, first.transfers) == (3, 15)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest in first.path.read_text()
    assert "anna" not in first.path.read_text()
    with pytest.raises(InvalidValue, match="never overwritten"):
        export_heads(database, first.path)


async def test_a_ledger_that_went_on_still_passes_through_its_exported_heads(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    await fill(writer)
    export = export_heads(database, tmp_path / "heads")
    await fill(writer)
    await asyncio.to_thread(_grant, writer, 0, 5)  # accounts that came later
    report = verify_heads(database, export.path, transfers_per_range=1)
    assert (report.clean, report.accounts, report.transfers) == (True, 3, 30)
    assert report.digest == export.digest


def _rewrite(database: Database, user: str) -> None:
    """Raise an account's first grant by one and make everything after it fit, hashes too: what an insider could do."""
    key, last = account_key(user), b""
    query = f"SELECT {', '.join(TransferRow._fields)} FROM transfer WHERE account_id = {key} ORDER BY seq"
    mark = database.primary.param
    for row in map(TransferRow._make, database.primary.execute_sql(query).fetchall()):
        new = row._replace(amount=row.amount + (row.seq == 1), balance_after=row.balance_after + 1)
        fields = {name: getattr(new, name) for name in ("account_id", "seq", "previous_id", "code", "amount")}
        fields |= {name: getattr(new, name) for name in ("balance_after", "at_ms", "price_version", "reference")}
        last = chain_hash(last, transfer_id=new.id, usage=new.usage, **fields)
        update = f"UPDATE transfer SET amount = {mark}, balance_after = {mark}, hash = {mark} WHERE id = {mark}"
        database.primary.execute_sql(update, (new.amount, new.balance_after, last, new.id))
        if new.seq == 1:
            database.primary.execute_sql(f"UPDATE lot SET amount = amount + 1 WHERE id = {new.id}")
            later = f"UPDATE lot SET remaining = remaining + 1 WHERE id = {new.id}"
            database.primary.execute_sql(later)
    update = f"UPDATE account SET balance = balance + 1, last_hash = {mark} WHERE id = {key}"
    database.primary.execute_sql(update, (last,))


async def test_history_that_was_rewritten_with_care_passes_the_audit_but_not_its_exported_heads(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    await fill(writer)
    export = export_heads(database, tmp_path / "heads")
    _rewrite(database, "boris")
    assert audit(database).findings == []

    report = verify_heads(database, export.path)

    assert (report.clean, report.rewritten) == (False, [account_key("boris")])
    assert "history was rewritten" in report.findings[0].message


async def test_a_chain_that_was_cut_short_does_not_reach_its_exported_head(
    writer: LedgerWriter, database: Database, tmp_path: Path
):
    await fill(writer)
    export = export_heads(database, tmp_path / "heads")
    database.primary.execute_sql(f"DELETE FROM transfer WHERE seq > 4 AND account_id = {account_key('carla')}")
    database.primary.execute_sql(f"DELETE FROM transfer WHERE account_id = {account_key('anna')}")
    report = verify_heads(database, export.path)
    assert report.rewritten == sorted([account_key("anna"), account_key("carla")])
    assert {(finding.expected, finding.found) for finding in report.findings} == {(5, 4), (5, 0)}


async def test_exported_heads_that_were_changed_are_refused(writer: LedgerWriter, database: Database, tmp_path: Path):
    await fill(writer)
    export = export_heads(database, tmp_path / "heads")
    lines = export.path.read_text().splitlines(keepends=True)
    for changed in (lines[:1] + lines[2:], lines[:-1], lines + lines[-1:], ["other\n", *lines[1:]], []):
        export.path.write_text("".join(changed))
        with pytest.raises(InvalidValue, match="digest"):
            verify_heads(database, export.path)
