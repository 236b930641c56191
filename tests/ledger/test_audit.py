"""The audit finds what was changed behind the ledger's back, and nothing else."""

from __future__ import annotations

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

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
