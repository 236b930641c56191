"""The Citus layout under Citus's own rules, and what the writer sends there. No Citus server is run here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from citus_rules import install_citus_rules

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.distributed.citus import Engine, apply_layout, citus_layout
from credits_plugin.distributed.citus_store import CitusStore
from credits_plugin.errors import BudgetExceeded, ConfigurationError, InsufficientCredits
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, RemoveBudget, StartRun
from credits_plugin.ledger.entries import (
    Code,
    ExpireLots,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import MODELS, AdminAction, BaseModel
from credits_plugin.moving.archiving.run import archive_transfers
from credits_plugin.moving.archiving.verify import verify_archives

new_id = IdMaker()


@pytest.fixture
def citus(fresh_postgresql_url: str) -> Iterator[Database]:
    """A migrated database with the layout applied under Citus's rules."""
    database = open_database(fresh_postgresql_url.replace("postgresql://", "citus://"))
    migrate(database)
    with database.primary.connection_context():
        install_citus_rules(database.primary)
        apply_layout(database.primary, Engine.CITUS)
    yield database
    database.close_thread()


def test_every_unique_key_includes_the_distribution_column_and_money_is_placed_by_account(citus: Database):
    query = (
        "SELECT c.relname, p.partkey, p.colocated, bool_and(k.attnum = ANY (i.indkey)) FROM pg_dist_partition p "
        "JOIN pg_class c ON c.oid = p.logicalrelid JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique "
        "LEFT JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = p.partkey GROUP BY 1, 2, 3"
    )
    placed = {row[0]: row[1:] for row in citus.primary.execute_sql(query).fetchall()}
    assert placed.keys() == {model._meta.table_name for model in MODELS}
    assert placed.pop("account") == ("id", "none", True)
    assert placed.pop("price_version") == (None, None, None)
    assert placed.pop("inbox_event") == ("event_id", "none", True)
    assert placed.pop("admin_action") == ("id", "none", True)
    assert placed.pop("stripe_cursor") == ("name", "none", True)
    assert set(placed.values()) == {("account_id", "account", True)}


def test_every_primary_key_of_an_accounts_table_begins_with_the_account(citus: Database):
    query = (
        "SELECT c.relname, a.attname, p.partkey FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid "
        "JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] WHERE p.partmethod = 'h'"
    )
    rows = citus.primary.execute_sql(query).fetchall()
    assert len(rows) == len(MODELS) - 1
    assert [row for row in rows if row[1] != row[2]] == []


def test_the_document_says_where_every_table_is_placed():
    lines = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text().splitlines()
    named = {name: line for line in lines if line.startswith("| ") for name in line.split(" | ")[0][2:].split(", ")}
    for table in citus_layout().tables:
        assert (f"`{table.column}`" if table.column else "on every node") in named[table.name].split(" | ")[1]


@pytest.mark.parametrize("table", [table.name for table in citus_layout().tables if table.group is not None])
def test_citus_would_refuse_each_table_with_the_keys_that_one_server_has(fresh_postgresql_url: str, table: str):
    database = open_database(fresh_postgresql_url)
    migrate(database)
    with database.primary.connection_context():
        install_citus_rules(database.primary)
        distribute = next(placed for placed in citus_layout().tables if placed.name == table).statements[-1]
        if table == "account":
            distribute = distribute.replace("'id'", "'created_at_ms'")
        if table == "archive_anchor":  # the account is its whole key already
            distribute = distribute.replace("'account_id'", "'transfer_id'")
        if table == "observation":  # its key begins with the account already
            distribute = distribute.replace("'account_id'", "'updated_at_ms'")
        with pytest.raises(peewee.PeeweeException, match="cannot create constraint"):
            database.primary.execute_sql(distribute.replace("=> 'account'", "=> 'none'"))


def test_a_second_run_changes_nothing_and_a_server_without_citus_is_refused(citus: Database, postgresql_url: str):
    with citus.primary.connection_context():
        assert apply_layout(citus.primary, Engine.CITUS) == []
    plain = open_database(postgresql_url)
    with plain.primary.connection_context(), pytest.raises(ConfigurationError, match="no Citus"):
        apply_layout(plain.primary, Engine.CITUS)


def test_a_table_that_nobody_placed_is_an_error_and_not_a_guess():
    class Homeless(BaseModel):
        account_id = peewee.BigIntegerField(null=True)

    with pytest.raises(ConfigurationError, match="homeless"):
        citus_layout([*MODELS, Homeless])


def test_an_operators_action_without_an_account_finds_its_place(citus: Database):
    row = {"id": new_id(), "at_ms": 1, "actor": "ops", "action": "x", "subject": "y", "account_id": None, "reason": "z"}
    AdminAction.insert(row).execute(citus.primary)
    citus.primary.close()


async def drive(writer: LedgerWriter, *, users: int = 12) -> None:
    """Every kind of command and every end of a hold, concurrently on several accounts."""

    async def one(number: int) -> None:
        user = f"user-{number}"
        key, now, run = account_key(user), now_ms(), f"run-{new_id()}"  # hosts share accounts here, not runs
        soon = LotTerms(expires_at_ms=now + 40)
        await writer.execute(PostTransfer(key, user, new_id(), Code.PROMOTION, 1_000, now, terms=soon))
        await writer.execute(PostTransfer(key, user, new_id(), Code.PROMOTION, 10_000, now))
        await writer.execute(StartRun(key, user, new_id(), run, 100, now))
        counted = PlaceHold(key, user, new_id(), 50, now, now + 60_000, 1, 7, run_id=run)
        await writer.execute(counted)
        await writer.execute(ExtendHold(key, counted.hold_id, 60, now, now + 60_000))
        with pytest.raises(BudgetExceeded):
            await writer.execute(counted._replace(hold_id=new_id()))
        await writer.execute(SettleHold(key, counted.hold_id, 60, now, Usage(input=1)))
        await writer.execute(RemoveBudget(key, BudgetKind.RUN, run, BudgetPeriod.NONE))
        for cost in range(5):
            request_id = f"request-{new_id()}" if cost % 2 else None
            place = PlaceHold(key, user, new_id(), 100, now_ms(), now_ms() + 60_000, 1, 7, request_id)
            placed = await writer.execute(place)
            if cost == 3:
                await writer.execute(ReleaseHold(key, placed.hold_id, now_ms()))
            else:
                await writer.execute(SettleHold(key, placed.hold_id, 10 * cost, now_ms(), Usage(input=1)))
        with pytest.raises(InsufficientCredits):
            await writer.execute(PlaceHold(key, user, new_id(), 10**9, now, now + 60_000, 1, 7))
        await asyncio.sleep(0.05)
        await writer.execute(ExpireLots(key, new_id(), now_ms()))
        await writer.execute(PostTransfer(key, user, new_id(), Code.ADJUSTMENT_OUT, 5, now_ms()))
        await writer.work(
            [key], lambda tx: tx.decide(PostTransfer(key, user, tx.new_id(), Code.PROMOTION, 3, tx.at_ms))
        )

    await asyncio.gather(*map(one, range(users)))


class Recorder:
    """A connection or cursor that notes what is sent, parameters left out."""

    def __init__(self, subject, statements: list[str]) -> None:
        self._subject, self._statements = subject, statements

    def execute(self, sql, *arguments):
        self._statements.append(str(sql))
        return self._subject.execute(sql, *arguments)

    def executemany(self, sql, *arguments, **options):
        self._statements.append(str(sql))
        return self._subject.executemany(sql, *arguments, **options)

    def cursor(self):
        return Recorder(self._subject.cursor(), self._statements)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._subject.close()

    def __getattr__(self, name):
        return getattr(self._subject, name)


ONE_ACCOUNT = re.compile(r"FROM account WHERE id = %s FOR UPDATE$")
THEIR_ROWS = re.compile(r"\b(account_id|(transfer|hold|lot|budget)\.account_id|account\.id) = ANY\(%s(::bigint\[\])?\)")
NEW_ROWS = re.compile(
    r"^INSERT INTO (transfer|hold|lot|budget|outbox_message|account) \((id, external_id|[^)]*\baccount_id\b)"
)


async def test_every_statement_of_the_writer_names_its_accounts(citus: Database, monkeypatch):
    statements: list[str] = []
    connection = property(lambda store: Recorder(store.database.primary.connection(), statements))
    monkeypatch.setattr(CitusStore, "_connection", connection)
    writer = LedgerWriter(citus, new_id=new_id)
    writer.start()
    await drive(writer)
    writer.close()

    kinds = {statement for statement in statements if not statement.startswith(("SET LOCAL ", "BEGIN", "COMMIT"))}
    verbs = {
        (match[1], match[2])
        for match in (
            re.search(r"^(\w+).*?\b(account|hold|transfer|lot|budget|outbox_message|archive_anchor)\b", s)
            for s in kinds
        )
    }
    hot = {("SELECT", "account"), ("UPDATE", "account"), ("INSERT", "hold"), ("DELETE", "hold"), ("INSERT", "transfer")}
    hot |= {("SELECT", "budget"), ("UPDATE", "budget"), ("INSERT", "budget"), ("DELETE", "budget"), ("UPDATE", "hold")}
    hot |= {("SELECT", "transfer"), ("SELECT", "lot"), ("SELECT", "archive_anchor")}
    assert hot <= verbs, "the scenario reached the hot statements"
    assert [s for s in kinds if not (ONE_ACCOUNT.search(s) or THEIR_ROWS.search(s) or NEW_ROWS.search(s))] == []
    assert [s for s in kinds if "FOR UPDATE" in s and not ONE_ACCOUNT.search(s)] == []
    assert audit(citus).findings == []


async def test_two_hosts_on_the_layout_keep_clean_books(citus: Database, fresh_postgresql_url: str):
    other = open_database(fresh_postgresql_url.replace("postgresql://", "citus://"))
    writers = [LedgerWriter(database, new_id=IdMaker()) for database in (citus, other)]
    for writer in writers:
        writer.start()
    await asyncio.gather(*(drive(writer, users=6) for writer in writers))
    for writer in writers:
        writer.close()
    report = audit(citus)
    assert (report.findings, report.accounts) == ([], 6)


async def test_an_archive_is_made_on_the_layout(citus: Database, tmp_path: Path):
    writer = LedgerWriter(citus, new_id=IdMaker())
    writer.start()
    await drive(writer, users=4)
    later = now_ms() + 30 * 86_400_000
    await writer.work((), lambda tx: tx.database.execute_sql("DELETE FROM hold"))  # as jobs do after two days
    writer.close()
    report = await asyncio.to_thread(archive_transfers, citus, tmp_path, before_ms=now_ms() + 1_000, at_ms=later)
    assert report.removed == report.rows > 20
    assert verify_archives([tmp_path], citus).clean
    assert audit(citus).findings == []
