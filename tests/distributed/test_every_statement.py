"""A failure at each statement that the writer sends, in turn: tried again, written once, told truly.

The error is the server's own: a statement that raises it is sent just before the chosen one, in the same pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, RemoveBudget, SetBudget, StartRun
from credits_plugin.ledger.entries import (
    Code,
    ExpireLots,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    RollOver,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.postgresql_store import PostgresqlStore
from credits_plugin.ledger.writer import LedgerWriter

FAILURES = {
    "serialization": "DO $$ BEGIN RAISE 'restart transaction: injected' USING ERRCODE = '40001'; END $$",
    "deadlock": "DO $$ BEGIN RAISE 'deadlock: injected' USING ERRCODE = '40P01'; END $$",
    "killed": "SELECT pg_terminate_backend(pg_backend_pid())",
}
new_id = IdMaker()


class Faulty:
    """A connection or cursor that sends what fails before the statement of one number."""

    def __init__(self, subject, plan: Plan) -> None:
        self._subject, self._plan = subject, plan

    def execute(self, *arguments):
        self._plan.step(self._subject)
        return self._subject.execute(*arguments)

    def executemany(self, *arguments, **options):
        self._plan.step(self._subject)
        return self._subject.executemany(*arguments, **options)

    def cursor(self):
        return Faulty(self._subject.cursor(), self._plan)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._subject.close()

    def __getattr__(self, name):
        return getattr(self._subject, name)


class Plan:
    """``at``: the number of the statement that fails, once."""

    def __init__(self) -> None:
        self.sent, self.at, self.what = 0, -1, ""

    def step(self, subject) -> None:
        self.sent += 1
        if self.sent == self.at:
            subject.execute(self.what)


@pytest.fixture(params=["postgresql", "citus"])
def opened(request: pytest.FixtureRequest, fresh_postgresql_url: str) -> Iterator[Database]:
    database = open_database(fresh_postgresql_url.replace("postgresql", request.param, 1))
    migrate(database)
    yield database
    database.close_thread()


async def live(writer: LedgerWriter, user: str) -> list:
    """One account's life through every kind of batch; returns what its owner was told."""
    key, now = account_key(user), now_ms()
    later = now + 3_600_000

    def hold(amount: int, request_id: str | None = None) -> PlaceHold:
        return PlaceHold(key, user, new_id(), amount, now, later, 1, 1, request_id)

    def grant(amount: int, expires_at_ms: int | None = None) -> PostTransfer:
        return PostTransfer(key, user, new_id(), Code.PROMOTION, amount, now, terms=LotTerms(0, expires_at_ms))

    def budget(limit: int, kind: BudgetKind, name: str) -> SetBudget:
        return SetBudget(key, user, new_id(), kind, name, BudgetPeriod.NONE, limit, now)

    soon, due = grant(500, later), grant(40, now)
    told = [await writer.execute(soon), await writer.execute(due)]
    told.append(await writer.execute(RollOver(key, soon.transfer_id, new_id(), now, later + 1, 200)))
    told.append(await writer.execute(ExpireLots(key, new_id(), now)))
    placed = await asyncio.gather(*(writer.execute(hold(10, name)) for name in (None, None, "a", "b")))
    told += [one.available for one in placed]
    plain, freed, named, nothing = (one.hold_id for one in placed)
    told.append((await writer.execute(ExtendHold(key, plain, 15, now, later + 1))).available)
    told.append(await writer.execute(SettleHold(key, plain, 7, now, Usage(input=7))))
    told.append((await writer.execute(ReleaseHold(key, freed, now))).changed)
    told.append((await writer.execute(SettleHold(key, named, 5, now, Usage(input=5)))).balance)
    told.append((await writer.execute(SettleHold(key, nothing, 0, now, Usage()))).balance)
    told.append(await writer.execute(PostTransfer(key, user, new_id(), Code.ADJUSTMENT_OUT, 3, now)))
    told.append((await writer.execute(budget(100, BudgetKind.ACCOUNT, "")))[1:])
    told.append((await writer.execute(budget(30, BudgetKind.KEY, "k")))[1:])
    told.append((await writer.execute(StartRun(key, user, new_id(), "r", 20, now)))[1:])
    counted = hold(10)._replace(key_id="k", run_id="r")
    told.append((await writer.execute(counted)).available)
    told.append((await writer.execute(ExtendHold(key, counted.hold_id, 15, now, later))).available)
    refused = (await asyncio.gather(writer.execute(counted._replace(hold_id=new_id())), return_exceptions=True))[0]
    told.append((type(refused), refused.needed, refused.available))
    told.append((await writer.execute(SettleHold(key, counted.hold_id, 12, now, Usage(input=1)))).balance)
    told.append((await writer.execute(RemoveBudget(key, BudgetKind.KEY, "k", BudgetPeriod.NONE)))[1:])
    work = PostTransfer(key, user, new_id(), Code.PROMOTION, 9, now)
    told.append(await writer.work([key], lambda tx: tx.decide(work)))
    return [one._replace(hold_id=0) if hasattr(one, "hold_id") else one for one in told]


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_at_any_statement_leaves_answers_and_books_as_they_would_be_without(
    failure: str, opened: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("credits_plugin.ledger.writer._FIRST_PAUSE_S", 0.001)
    plan = Plan()
    plan.what = FAILURES[failure]
    monkeypatch.setattr(
        PostgresqlStore, "_connection", property(lambda store: Faulty(store.database.primary.connection(), plan))
    )
    writer = LedgerWriter(opened, new_id=new_id)
    writer.start()
    wanted = await live(writer, "undisturbed")
    statements = plan.sent
    assert statements > 40
    for number in range(1, statements + 1):
        plan.sent, plan.at = 0, number
        assert await live(writer, f"user-{number}") == wanted, f"statement {number}"
        assert plan.sent > statements, "it failed, and more was sent"
    writer.close()
    rows = opened.primary.execute_sql("SELECT balance, held, seq, budgets FROM account").fetchall()
    assert (len(rows), len(set(rows))) == (statements + 1, 1)
    spent = opened.primary.execute_sql("SELECT kind, spent, held, state FROM budget").fetchall()
    assert len(spent) == 2 * (statements + 1)
    assert set(spent) == {("account", 12, 0, "open"), ("run", 12, 0, "paused")}
    assert opened.primary.execute_sql("SELECT count(*) FROM outbox_message").fetchone() == (statements + 1,)
    assert audit(opened).findings == []
