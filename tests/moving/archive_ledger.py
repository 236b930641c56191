"""A small ledger with everything that an archive must take into account, and what must be true of it ever after."""

from __future__ import annotations

import gzip
from pathlib import Path

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.work import Transaction
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Payment, Refund, Transfer
from credits_plugin.moving.archiving.manifest import load_manifest
from credits_plugin.moving.archiving.parts import read_part
from credits_plugin.moving.archiving.rows import FileFormat
from credits_plugin.moving.archiving.run import ArchiveReport, Limits, archive_transfers

DAY_MS = 86_400_000
T0 = now_ms()
BEFORE = T0 + DAY_MS
"""Between what is old and what is young."""
LATER = T0 + 30 * DAY_MS
"""The time at which the tests archive."""
PRICE_MINOR = 500
REFERENCES = ('say "hi", twice', "two\nlines\r\nand, a comma", "''", '"', "ünï\u2028code", None, "plain")


class Clerk:
    """Writes commands at a time that a test chooses, many in one transaction."""

    def __init__(self, writer: LedgerWriter, *, at_ms: int = T0) -> None:
        self.writer, self.at_ms = writer, at_ms
        self.new_id = IdMaker(lambda: self.at_ms)

    def run(self, user: str, *steps) -> None:
        def work(tx: Transaction) -> None:
            for step in steps:
                step(tx, user)

        self.writer.work_sync([account_key(user)], work)

    def post(self, code: Code, amount: int, reference: str | None = None, payment_id: int | None = None):
        def step(tx: Transaction, user: str) -> None:
            transfer_id = self.new_id()
            tx.decide(
                PostTransfer(
                    account_key(user), user, transfer_id, code, amount, self.at_ms, reference, payment_id=payment_id
                )
            )
            if code is Code.PURCHASE:
                Payment.insert(_payment(user, payment_id, amount, transfer_id)).execute(tx.database)
            if code is Code.REFUND:
                Refund.insert(_refund(user, payment_id, transfer_id)).execute(tx.database)
                back = {Payment.clawed_back: Payment.clawed_back + amount, Payment.refunded_minor: PRICE_MINOR}
                Payment.update(back).where(Payment.id == payment_id).execute(tx.database)

        return step

    def spend(self, times: int = 1, *, amount: int = 7, request_id: str | None = None):
        def step(tx: Transaction, user: str) -> None:
            key = account_key(user)
            for _ in range(times):
                placed = tx.decide(
                    PlaceHold(key, user, self.new_id(), amount, self.at_ms, self.at_ms + 60_000, 1, 7, request_id)
                )
                usage = Usage(input=3, cache_read=2, output=5, reasoning=1)
                tx.decide(SettleHold(key, placed.hold_id, amount, self.at_ms, usage))

        return step


def fill(writer: LedgerWriter) -> None:
    """A long chain, odd references, a purchase refunded into debt, a hold remembered, a single link, nothing old."""
    old, young = Clerk(writer), Clerk(writer, at_ms=BEFORE + DAY_MS)
    old.run("anna", old.post(Code.PROMOTION, 10_000), old.spend(69))
    old.run("odd", *(old.post(Code.PROMOTION, 5, reference) for reference in REFERENCES))
    old.run(
        "buyer", old.post(Code.PURCHASE, 100, "pi_1", 77), old.spend(amount=60), old.post(Code.REFUND, 100, "pi_1", 77)
    )
    old.run("retry", old.post(Code.PROMOTION, 500), old.spend(2), old.spend(request_id="r-1"), old.spend(3))
    old.run("single", old.post(Code.PROMOTION, 9))
    old.run("slow", old.post(Code.PROMOTION, 50))
    late = Clerk(writer, at_ms=BEFORE)
    late.new_id = old.new_id
    late.run("slow", late.spend(2))  # holds of before, settled after
    young.run("new", young.post(Code.PROMOTION, 30), young.spend(2))
    young.run("anna", young.spend(5))
    old.run("anna", old.spend(1))  # of a host whose clock is behind: stays, for what is before it stays


def archive(database: Database, folder: Path, **options) -> ArchiveReport:
    options = {"before_ms": BEFORE, "at_ms": LATER, "file_format": FileFormat.CSV, **options}
    return archive_transfers(database, folder, **options)


SMALL = Limits(part_rows=25, step_rows=10, range_transfers=40)


def rows_of(database: Database) -> dict[int, tuple]:
    """Every transfer in the database, by id."""
    fields = sorted(field.name for field in Transfer._meta.sorted_fields)
    with database.primary.connection_context():
        rows = list(Transfer.select().dicts().execute(database.primary))
    return {row["id"]: tuple(bytes(row[f]) if f == "hash" else row[f] for f in fields) for row in rows}


def rows_in(folder: Path) -> dict[int, tuple]:
    """Every transfer in an archive, by id; none twice."""
    fields = sorted(field.name for field in Transfer._meta.sorted_fields)
    manifest = load_manifest(folder)
    rows = [row for part in manifest.parts for row in read_part(manifest.path(part))]
    found = {row.id: tuple(getattr(row, field) for field in fields) for row in rows}
    assert len(found) == len(rows), "a transfer is archived twice"
    return found


def require_whole(database: Database, folder: Path, original: dict[int, tuple]) -> None:
    """The archive and the database have every original row once, as it was, and the audit is clean."""
    here, there = rows_of(database), rows_in(folder)
    assert here.keys() & there.keys() == set()
    assert here | there == original
    assert audit(database).findings == []


def archived_seqs(database: Database) -> dict[int, int]:
    with database.primary.connection_context():
        return dict(database.primary.execute_sql("SELECT account_id, seq FROM archive_anchor").fetchall())


def rewrite_csv(path: Path, change) -> None:
    """Change a part's text and pack it again."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode(), mtime=0))


def execute(database: Database, sql: str) -> None:
    with database.primary.connection_context():
        database.primary.execute_sql(sql)


def _refund(user: str, payment_id: int | None, refund_id: int) -> dict:
    return {
        "id": refund_id,
        "payment_id": payment_id,
        "account_id": account_key(user),
        "status": "succeeded",
        "amount_minor": PRICE_MINOR,
        "currency": "usd",
        "reason": "requested_by_customer",
        "actor": "test",
        "idempotency_key": f"refund-{refund_id}",
        "created_at_ms": T0,
        "updated_at_ms": T0,
    }


def _payment(user: str, payment_id: int | None, amount: int, transfer_id: int) -> dict:
    return {
        "id": payment_id,
        "account_id": account_key(user),
        "status": "paid",
        "package_id": 1,
        "package_name": "Small",
        "microcredits": amount,
        "amount_minor": PRICE_MINOR,
        "currency": "usd",
        "livemode": 0,
        "idempotency_key": f"key-{payment_id}",
        "payment_intent_id": f"pi_{payment_id}",
        "grant_transfer_id": transfer_id,
        "created_at_ms": T0,
        "updated_at_ms": T0,
    }
