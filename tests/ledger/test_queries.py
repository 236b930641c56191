"""The read side on real databases: pages equal what was written, at any depth, and stand on their indexes."""

from __future__ import annotations

import re
from uuid import uuid4

import psycopg
import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger import keysets, queries
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.work import Transaction
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Account, InboxEvent, PriceVersion, Transfer

NOW = 1_900_000_000_000
DAY = 86_400_000
new_id = IdMaker()


def grant(name: str, amount: int, **fields) -> PostTransfer:
    code = fields.pop("code", Code.PROMOTION)
    return PostTransfer(account_key(name), name, new_id(), code, amount, NOW, **fields)


def hold(name: str, amount: int, **fields) -> PlaceHold:
    return PlaceHold(account_key(name), name, new_id(), amount, NOW, NOW + 60_000, 1, 120, **fields)


def charge(writer: LedgerWriter, name: str, amount: int) -> None:
    placed = writer.execute_sync(hold(name, amount))
    writer.execute_sync(SettleHold(account_key(name), placed.hold_id, amount, NOW, Usage(input=100, output=20)))


def spend_many(writer: LedgerWriter, name: str, times: int) -> None:
    """Write ``times`` usage transfers of one microcredit, in one unit of work."""
    key = account_key(name)

    def run(tx: Transaction) -> None:
        for _ in range(times):
            placed = tx.decide(hold(name, 1))
            tx.decide(SettleHold(key, placed.hold_id, 1, NOW, Usage(input=7)))

    writer.work_sync([key], run)


@pytest.fixture
def priced(database: Database) -> None:
    row = {"id": 1, "digest": "d", "provider": "openai", "model": "gpt-x", "record": "{}", "created_at_ms": NOW}
    PriceVersion.insert(**row).execute(database.primary)


def plan(database: Database, sql: str, parameters: list) -> str:
    rows = database.reader.execute_sql("EXPLAIN QUERY PLAN " + sql.replace("%s", "?"), parameters).fetchall()
    return "\n".join(row[3] for row in rows)


def test_balance_of_an_account_and_of_one_that_never_was(writer: LedgerWriter, database: Database):
    writer.execute_sync(grant("anna", 1_000, terms=LotTerms(expires_at_ms=NOW + DAY)))
    writer.execute_sync(hold("anna", 300))
    balance = queries.account_balance(database.reader, account_key("anna"))
    assert (balance.external_id, balance.balance, balance.held, balance.available) == ("anna", 1_000, 300, 700)
    assert (balance.next_expiry_at_ms, balance.transfers, balance.email) == (NOW + DAY, 1, None)
    assert queries.account_balance(database.reader, account_key("nobody")) is None


@pytest.mark.usefixtures("priced")
def test_transfers_carry_sign_model_and_usage(writer: LedgerWriter, database: Database):
    writer.execute_sync(grant("anna", 1_000, code=Code.PURCHASE, reference="pi_1"))
    charge(writer, "anna", 40)
    usage, purchase = queries.account_transfers(database.reader, account_key("anna"))
    assert (usage.code, usage.amount, usage.balance_after, usage.model) == (Code.USAGE, -40, 960, "gpt-x")
    assert usage.usage == Usage(input=100, output=20)
    assert (purchase.code, purchase.amount, purchase.reference, purchase.usage) == (Code.PURCHASE, 1_000, "pi_1", None)


def test_pages_of_a_chain_at_every_depth_equal_the_chain(writer: LedgerWriter, database: Database):
    writer.execute_sync(grant("anna", 10_000))
    writer.execute_sync(grant("other", 10_000))
    spend_many(writer, "anna", 150)
    key = account_key("anna")
    newest_first = [line.seq for line in queries.account_transfers(database.reader, key, limit=500)]
    assert newest_first == list(range(151, 0, -1))
    for before in (1, 2, 31, 32, 33, 34, 65, 96, 128, 129, 150, 151, 152, 9_999):
        page = queries.account_transfers(database.reader, key, before_seq=before, limit=7)
        assert [line.seq for line in page] == [seq for seq in newest_first if seq < before][:7]
    assert queries.account_transfers(database.reader, account_key("nobody")) == []
    assert queries.account_transfers(database.reader, key, limit=0) == []


def page_statement(database: Database, *, before_seq: int | None) -> tuple[str, list[int]]:
    columns = "id account_id previous_id seq"
    walk, parameters = queries.chain_walk(
        database.reader, account_key("anna"), columns, before_seq=before_seq, limit=10
    )
    return f"{walk} SELECT * FROM chain WHERE seq <= %s ORDER BY seq DESC", parameters


def test_a_deep_page_stands_on_the_sparse_index(database: Database, writer: LedgerWriter):
    if database.path is None:
        pytest.skip("PostgreSQL plans small tables as scans; the statement is the same")
    writer.execute_sync(grant("anna", 10_000))
    spend_many(writer, "anna", 200)
    sql, parameters = page_statement(database, before_seq=60)
    assert parameters[1] == 64
    explained = plan(database, sql, parameters)
    assert "SEARCH link USING INDEX transfer_chain (account_id=? AND seq=?)" in explained
    assert "SEARCH link USING INTEGER PRIMARY KEY (rowid=?)" in explained
    assert "SCAN link" not in explained
    newest, parameters = page_statement(database, before_seq=None)
    assert "transfer_chain" not in plan(database, newest, parameters)
    assert "SCAN link" not in plan(database, newest, parameters)


def test_postgresql_can_use_the_sparse_index_for_the_same_statement(database: Database, writer: LedgerWriter):
    if database.path is not None:
        pytest.skip("SQLite has its own test")
    writer.execute_sync(grant("anna", 10_000))
    spend_many(writer, "anna", 100)
    sql, parameters = page_statement(database, before_seq=60)
    database.reader.execute_sql("SET enable_seqscan = off")
    explained = "\n".join(row[0] for row in database.reader.execute_sql("EXPLAIN " + sql, parameters).fetchall())
    assert "Index Scan using transfer_chain on transfer" in explained


def test_sums_by_code_explain_the_balance_and_continue_where_they_ended(writer: LedgerWriter, database: Database):
    key = account_key("anna")
    assert queries.chain_sums(database.reader, key) is None
    writer.execute_sync(grant("anna", 10_000, code=Code.PURCHASE))
    spend_many(writer, "anna", 50)
    first = queries.chain_sums(database.reader, key)
    assert (first.oldest_seq, first.newest_seq, first.opening, first.closing) == (1, 51, 0, 9_950)
    assert first.by_code == {Code.PURCHASE: (1, 10_000), Code.USAGE: (50, -50)}
    writer.execute_sync(grant("anna", 100, code=Code.REFUND, reference="re_1"))
    later = queries.chain_sums(database.reader, key, after_seq=first.newest_seq)
    assert (later.opening, later.total, later.closing) == (9_950, -100, 9_850)
    assert queries.chain_sums(database.reader, key, after_seq=later.newest_seq) is None
    newest = queries.chain_sums(database.reader, key, limit=10)
    assert (newest.oldest_seq, newest.opening + newest.total) == (43, newest.closing)


@pytest.mark.usefixtures("priced")
def test_open_holds_of_one_account_and_of_all(writer: LedgerWriter, database: Database):
    for name in ("anna", "ben"):
        writer.execute_sync(grant(name, 1_000))
        writer.execute_sync(hold(name, 10, request_id=f"req-{name}", run_id="run-1"))
    charge(writer, "anna", 5)
    (held,) = queries.open_holds(database.reader, account_key("anna"))
    assert (held.external_id, held.amount, held.request_id, held.run_id) == ("anna", 10, "req-anna", "run-1")
    assert (held.model, held.input_tokens, held.expires_at_ms) == ("gpt-x", 120, NOW + 60_000)
    assert [one.external_id for one in queries.open_holds(database.reader)] == ["ben", "anna"]


def test_lots_show_what_is_left_after_spend_that_is_not_attributed_yet(writer: LedgerWriter, database: Database):
    writer.execute_sync(grant("anna", 100, code=Code.PURCHASE, reference="pi_1", payment_id=77))
    writer.execute_sync(grant("anna", 50, terms=LotTerms(priority=10, expires_at_ms=NOW + DAY)))
    charge(writer, "anna", 70)
    (left,) = queries.account_lots(database.reader, account_key("anna"))
    assert (left.code, left.amount, left.remaining, left.payment_id) == (Code.PURCHASE, 100, 80, 77)
    assert left.reference == "pi_1"
    assert queries.account_lots(database.reader, account_key("nobody")) == []


def test_accounts_are_paged_by_id_and_found_by_id_or_mail_prefix(writer: LedgerWriter, database: Database):
    for name in ("ann%a", "anna", "annb", "ann_c", "zoe"):
        writer.execute_sync(grant(name, 10))
    Account.update(email="Annika@example.io").where(Account.external_id == "zoe").execute(database.primary)
    read = database.reader
    every = [one.external_id for one in queries.accounts_page(read)]
    assert sorted(every) == sorted(["ann%a", "anna", "annb", "ann_c", "zoe"])
    assert [one.external_id for one in queries.accounts_page(read, after=every[1], limit=2)] == every[2:4]
    assert {one.external_id for one in queries.accounts_page(read, prefix="ann")} == set(every)
    assert [one.external_id for one in queries.accounts_page(read, prefix="annika@")] == ["zoe"]
    assert [one.external_id for one in queries.accounts_page(read, prefix="ann%")] == ["ann%a"]
    assert [one.external_id for one in queries.accounts_page(read, prefix="ann_")] == ["ann_c"]


def test_whole_ledger_runs_newest_first_and_references_are_found(writer: LedgerWriter, database: Database):
    for number in range(5):
        writer.execute_sync(grant(f"user-{number}", 10, code=Code.PURCHASE, reference=f"pi_{number}"))
    page = queries.ledger_page(database.reader, limit=2)
    assert [line.external_id for line in page] == ["user-4", "user-3"]
    older = queries.ledger_page(database.reader, before_id=page[-1].transfer.id, limit=2)
    assert [line.external_id for line in older] == ["user-2", "user-1"]
    (found,) = queries.transfers_by_reference(database.reader, "pi_3")
    assert (found.external_id, found.transfer.amount) == ("user-3", 10)


def test_totals_separate_debt_from_what_is_outstanding(writer: LedgerWriter, database: Database):
    assert queries.ledger_totals(database.reader).accounts == 0
    writer.execute_sync(grant("anna", 1_000))
    writer.execute_sync(hold("anna", 200))
    writer.execute_sync(grant("ben", 30, code=Code.DISPUTE))
    assert queries.ledger_totals(database.reader) == queries.LedgerTotals(2, 1_000, 200, 30)


def test_windows_say_where_every_page_starts(writer: LedgerWriter, database: Database, monkeypatch: pytest.MonkeyPatch):
    read = database.reader
    assert keysets.ledger_window(read) == keysets.KeyWindow(0, False, (None,))
    assert keysets.ledger_window(read, from_end=True) == keysets.KeyWindow(0, False, (None,))
    for number in range(25):
        writer.execute_sync(grant(f"user-{number:02}", 10))
    every = [line.transfer.id for line in queries.ledger_page(read)]
    assert keysets.ledger_window(read, step=10) == keysets.KeyWindow(25, False, (None, every[9], every[19]))
    assert keysets.account_window(read, step=10).keys == (None, "user-09", "user-19")
    assert keysets.account_window(read, from_end=True, step=10).keys == (None, "user-09", "user-19")
    assert keysets.newer_count(read, [Transfer.id], than=every[3]) == 3
    assert keysets.account_window(read, prefix="user-1", step=4).keys == (None, "user-13", "user-17")
    monkeypatch.setattr(keysets, "COUNT_CAP", 20)
    assert keysets.ledger_window(read, step=10) == keysets.KeyWindow(20, True, (None, every[9]))
    assert keysets.ledger_window(read, before_id=every[9], step=10) == keysets.KeyWindow(
        15, False, (every[9], every[19])
    )
    last = keysets.ledger_window(read, from_end=True, step=10)
    assert last == keysets.KeyWindow(20, True, (every[4], every[14]))
    assert [line.transfer.id for line in queries.ledger_page(read, before_id=every[14], limit=10)] == every[15:]


def test_a_window_of_one_account_narrows_by_condition(writer: LedgerWriter, database: Database):
    writer.execute_sync(grant("anna", 10))
    writer.execute_sync(grant("ben", 10))
    window = keysets.key_window(database.reader, [Transfer.id], Transfer.account_id == account_key("ben"))
    assert (window.rows, window.keys) == (1, (None,))


def test_a_window_over_two_keys_runs_by_both(database: Database):
    for number in range(12):
        row = {
            "event_id": f"evt_{number:02}",
            "type": "x",
            "status": "ignored",
            "livemode": 0,
            "attempts": 1,
            "payload": "{}",
            "created_at_ms": NOW,
            "received_at_ms": NOW + number // 4,
        }
        InboxEvent.insert(row).execute(database.primary)
    keys = [InboxEvent.received_at_ms, InboxEvent.event_id]
    window = keysets.key_window(database.reader, keys, step=5)
    assert window.keys == (None, (NOW + 1, "evt_07"), (NOW, "evt_02"))
    below = keysets.key_window(database.reader, keys, before=(NOW + 1, "evt_07"), step=5)
    assert (below.rows, below.keys) == (7, ((NOW + 1, "evt_07"), (NOW, "evt_02")))
    assert keysets.key_window(database.reader, keys, from_end=True, step=5).keys == window.keys
    assert keysets.newer_count(database.reader, keys, than=(NOW + 1, "evt_07")) == 4


def test_a_prefix_reads_no_more_rows_than_it_returns(writer: LedgerWriter, database: Database):
    for number in range(30):
        writer.execute_sync(grant(f"user-{number:02}", 10))
    page = queries.accounts_page(database.reader, prefix="user-", after="user-09", limit=3)
    assert [one.external_id for one in page] == ["user-10", "user-11", "user-12"]
    if database.path is not None:
        sql, parameters = keysets.listed_accounts(database.reader, "*", prefix="user-", after="user-09", limit=3)
        explained = plan(database, sql, parameters)
        assert "USING INDEX account_external_id (external_id>? AND external_id<?)" in explained


def test_a_search_reads_its_indexes_in_their_order_whatever_the_planner_believes(
    writer: LedgerWriter, database: Database
):
    writer.execute_sync(grant("anna", 10))
    sql, parameters = keysets.listed_accounts(database.reader, "*", prefix="an", after="ana", limit=50)
    if database.path is None:
        with database.reader.connection_context():
            # A plan that must sort the ids it found, or walks all ids, costs too much here; the index's own order wins.
            for kind in ("seqscan", "sort", "bitmapscan"):
                database.reader.execute_sql(f"SET enable_{kind} = off")
            rows = database.reader.execute_sql(f"EXPLAIN {sql}", parameters).fetchall()
        explained = "\n".join(row[0] for row in rows)
        assert "account_search_id" in explained
        assert "account_search_email" in explained
        assert "account_external_id" not in explained
        assert re.search(r"Index Cond: .*external_id ~>=~ .*external_id ~<~ ", explained)
        assert re.search(r"Index Cond: .*lower\(email\) ~>=~ .*lower\(email\) ~<~ ", explained)
    else:
        explained = plan(database, sql, parameters)
        assert "USING INDEX account_external_id (external_id>? AND external_id<?)" in explained
        assert "USING INDEX account_search_email" in explained


def test_a_search_works_in_a_database_whose_bytes_have_another_order(postgresql_url: str):
    """Beyond its last letter, ÿ, LATIN1 has no bound to name."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgresql_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        base, _, query = postgresql_url.partition("?")
        latin = open_database(f"{base.rpartition('/')[0]}/{name}?{query}")
        migrate(latin)
        row = {"external_id": "zoÿa", "id": account_key("zoÿa"), "created_at_ms": NOW}
        with latin.primary.connection_context():
            Account.insert(row).execute(latin.primary)
        with latin.reader.connection_context():
            assert [one.external_id for one in queries.accounts_page(latin.reader, prefix="zoÿ")] == ["zoÿa"]
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_search_finds_the_first_mail_addresses_of_its_prefix_on_every_page(
    writer: LedgerWriter, database: Database, monkeypatch: pytest.MonkeyPatch
):
    for name, mail in (("dora", "s1@x"), ("carl", "s2@x"), ("ben", "s3@x"), ("anna", "s4@x")):
        writer.execute_sync(grant(name, 10))
        Account.update(email=mail).where(Account.external_id == name).execute(database.primary)
    read = database.reader

    def found(**page) -> list[str]:
        return [one.external_id for one in queries.accounts_page(read, prefix="S", **page)]

    assert found() == ["anna", "ben", "carl", "dora"]
    monkeypatch.setattr(keysets, "MOST_MAILS_FOUND", 3)
    assert found() == ["ben", "carl", "dora"]
    assert found(after="ben") == ["carl", "dora"]
    assert keysets.account_window(read, prefix="S", step=1).keys == (None, "ben", "carl")
    assert keysets.account_window(read, prefix="S", from_end=True, step=1).keys == (None, "ben", "carl")


@pytest.mark.parametrize(
    ("prefix", "following"), [("a", "b"), ("a\ud7ff", "a\ue000"), ("\U0010ffff", "\U0010ffff" * 2)]
)
def test_the_string_after_a_prefix_is_one_that_can_be_stored(prefix: str, following: str):
    assert keysets._after_prefix(prefix) == following
