"""Pages of an account's budgets and runs: in the order of their index, at once, however many runs there are."""

from __future__ import annotations

import pytest

from credits_plugin.database import Database
from credits_plugin.ledger import keysets
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, SetBudget
from credits_plugin.ledger.budget_queries import (
    BUDGET_ORDER,
    BudgetView,
    budget_count,
    budgets_named,
    budgets_page,
    find_budget,
)
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.keysets import key_window
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Budget

KEY = account_key("anna")
NOW = 1_774_000_800_000
RUNS = 25_000
CAPS = (
    (BudgetKind.MEMBER, "ben", BudgetPeriod.MONTH),
    (BudgetKind.ACCOUNT, "", BudgetPeriod.DAY),
    (BudgetKind.KEY, "run-100001", BudgetPeriod.DAY),
    (BudgetKind.ACCOUNT, "", BudgetPeriod.MONTH),
)


@pytest.fixture
def crowded(database: Database, writer: LedgerWriter) -> Database:
    """anna's caps among RUNS runs of hers and as many of somebody else's."""
    new_id = IdMaker(lambda: NOW)
    for kind, name, period in CAPS:
        writer.execute_sync(SetBudget(KEY, "anna", new_id(), kind, name, period, 5, NOW))
    sql = f"""
        WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < {2 * RUNS - 1})
        INSERT INTO budget (id, account_id, kind, name, period, "limit", spent, held, starts_at_ms, state, used_at_ms)
        SELECT n + 1, CASE WHEN n / 2 * 2 = n THEN {KEY} ELSE 5 END, 'run', 'run-' || (100000 + n / 2), 'none',
               NULL, 0, 0, {NOW}, 'open', {NOW} FROM number"""
    database.primary.execute_sql(sql)
    if database.path is None:
        database.primary.execute_sql("ANALYZE budget")
    return database


def run(number: int) -> str:
    return f"run-{100_000 + number}"


def places(views: list[BudgetView]) -> list[tuple[str, str, str]]:
    return [(str(view.kind), view.name, str(view.period)) for view in views]


def window(database: Database, **options: object) -> keysets.KeyWindow:
    mine = Budget.account_id == KEY
    return key_window(database.reader, BUDGET_ORDER, mine, ascending=True, **options)


def test_caps_come_before_runs_and_pages_follow_each_other(crowded: Database):
    first = budgets_page(crowded.reader, KEY, at_ms=NOW, limit=6)
    assert places(first) == [
        ("account", "", "day"),
        ("account", "", "month"),
        ("key", "run-100001", "day"),
        ("member", "ben", "month"),
        ("run", "run-100000", "none"),
        ("run", "run-100001", "none"),
    ]
    following = budgets_page(crowded.reader, KEY, at_ms=NOW, after=first[2].place, limit=2)
    assert places(following) == places(first[3:5])


def test_any_page_of_the_window_is_one_seek_away(crowded: Database):
    found = window(crowded, step=50)
    assert (found.rows, found.capped, len(found.keys)) == (keysets.COUNT_CAP, True, keysets.COUNT_CAP // 50)
    page = budgets_page(crowded.reader, KEY, at_ms=NOW, after=found.keys[100], limit=1)
    assert page[0].name == run(100 * 50 - len(CAPS))
    further = window(crowded, step=50, before=page[0].place)
    assert further.keys[1][1] == run(101 * 50 - len(CAPS))


def test_the_end_of_the_list_is_at_hand(crowded: Database):
    found = window(crowded, step=50, from_end=True)
    assert (found.rows, found.capped) == (keysets.COUNT_CAP, True)
    last = budgets_page(crowded.reader, KEY, at_ms=NOW, after=found.keys[-1], limit=60)
    assert (len(last), last[-1].name) == (50, run(RUNS - 1))


def test_a_name_is_found_among_keys_members_and_runs(crowded: Database):
    assert places(budgets_named(crowded.reader, KEY, "run-100001", at_ms=NOW)) == [
        ("key", "run-100001", "day"),
        ("run", "run-100001", "none"),
    ]
    assert [kind for kind, *_ in places(budgets_named(crowded.reader, KEY, "", at_ms=NOW))] == ["account"] * 2
    assert budget_count(crowded.reader, KEY) == len(CAPS)  # as the account's row says; the runs were not counted there
    assert budget_count(crowded.reader, 5) == 0


def test_every_statement_of_the_list_stands_on_the_index(crowded: Database, monkeypatch: pytest.MonkeyPatch):
    place = (BudgetKind.RUN, "run-100700", BudgetPeriod.NONE)
    asked: list[tuple[str, tuple]] = []
    reader, execute = crowded.reader, crowded.reader.execute_sql

    def noting(sql: str, params: tuple = (), *rest: object):
        asked.append((sql, tuple(params or ())))
        return execute(sql, params, *rest)

    monkeypatch.setattr(reader, "execute_sql", noting)
    budgets_page(reader, KEY, at_ms=NOW)
    budgets_page(reader, KEY, at_ms=NOW, after=place)
    window(crowded)
    window(crowded, before=place)
    window(crowded, from_end=True)
    budgets_named(reader, KEY, "run-100700", at_ms=NOW)
    find_budget(reader, KEY, place, at_ms=NOW)
    monkeypatch.undo()
    explain = "EXPLAIN QUERY PLAN " if crowded.path else "EXPLAIN "
    for sql, parameters in asked:
        plan = "\n".join(str(row[-1]) for row in execute(explain + sql, parameters).fetchall())
        assert "budget_key" in plan, plan
        assert "SCAN budget" not in plan, plan
        assert "Seq Scan" not in plan, plan
        if "row_number" not in sql and " IN " not in sql:  # a window's and four names' few rows may be sorted
            assert "TEMP B-TREE" not in plan, plan
            assert "Sort" not in plan, plan
