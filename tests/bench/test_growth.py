"""The growth group's machinery on tiny ledgers: what is filled is true, and what is measured becomes bars."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from credits_plugin.bench.core_time import core_timer
from credits_plugin.bench.environment import Bench, Scale
from credits_plugin.bench.fill import Shape, fill, name_of
from credits_plugin.bench.growth import Growth, growth_bars, growth_table, measure_growth
from credits_plugin.bench.ledger import place_hold, settle_hold
from credits_plugin.database import migrate, open_database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.queries import account_balance, account_transfers, accounts_page, ledger_page
from credits_plugin.ledger.writer import LedgerWriter

SHAPE = Shape(2_000)


def test_the_books_of_a_filled_ledger_are_clean_and_the_writer_goes_on_from_them(database_url: str) -> None:
    database = open_database(database_url)
    fill(database, SHAPE)
    report = audit(database)
    assert (report.findings, report.transfers, report.accounts, report.lots) == ([], 2_000, 200, 200)

    async def settle_one() -> None:
        key = account_key(name_of(7))
        await settle_hold(writer, key, await place_hold(writer, key, name_of(7), new_id))

    new_id = IdMaker()
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    asyncio.run(settle_one())
    writer.close()
    after = audit(database)
    assert (after.findings, after.transfers, after.open_holds) == ([], 2_001, 0)
    database.close_thread()


def test_a_filled_ledger_reads_as_the_admin_reads_it(database_url: str) -> None:
    database = open_database(database_url)
    fill(database, SHAPE)
    with database.reader.connection_context():
        longest = account_balance(database.reader, account_key(name_of(0)))
        newest = account_transfers(database.reader, account_key(name_of(0)))
        ledger = ledger_page(database.reader)
        found = [line.external_id for line in accounts_page(database.reader, prefix="user-00001", limit=200)]
        by_mail = accounts_page(database.reader, prefix="USER-0000042@", limit=200)
    assert longest is not None
    assert longest.transfers > 50
    assert [line.seq for line in newest] == list(range(longest.transfers, longest.transfers - 50, -1))
    assert newest[0].balance_after == longest.balance
    assert len(ledger) == 50
    assert ledger[0].transfer.model == "benchmark-1"
    assert found == [name_of(number) for number in range(100, 200)]
    assert [line.external_id for line in by_mail] == [name_of(42)]


def test_a_regular_has_as_long_a_chain_in_a_large_ledger_as_in_a_small_one() -> None:
    lengths = []
    for shape in (Shape(20_000), Shape(80_000)):
        drawn = Counter(shape.drawn(place / shape.transfers, opened=shape.accounts) for place in range(shape.transfers))
        lengths.append(drawn[shape.regulars // 2])
        assert abs(drawn[0] - shape.transfers / 20) < 20
        assert set(drawn) == set(range(shape.accounts))
    assert all(250 <= length <= 265 for length in lengths), lengths


def test_growth_has_a_bar_for_each_goal_on_both_databases(
    tmp_path: Path, postgresql_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = Scale(rounds=1, seconds=0.05, callers=8, growth=(500, 2_000))
    bars = measure_growth(Bench(scale, tmp_path, _server=postgresql_url))
    assert [(one.name.split(",")[0], one.goal is None) for one in bars] == [
        *[("SQLite", False)] * 3,
        ("SQLite", True),
        *[("PostgreSQL", False)] * 2,
        *[("PostgreSQL", True)] * 2,
    ]
    assert all(one.value is not None and one.value > 0 for one in bars)
    printed = capsys.readouterr().out
    assert "SQLite, by transfers in the ledger" in printed
    assert "PostgreSQL, by transfers in the ledger" in printed
    assert not list(tmp_path.glob("*.db")), "a filled file is removed with its table printed"


@pytest.mark.parametrize("broken", [1, 2])
def test_growth_ends_with_an_audit_of_every_size(broken: int, tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / f'bench-{broken}.db'}")
    migrate(database)
    database.primary.execute_sql("INSERT INTO lot VALUES (1, 5, 100, NULL, 9, 9, 0, NULL)")  # of nobody
    database.close_thread()
    scale = Scale(rounds=1, seconds=0.05, callers=8, growth=(500, 2_000))
    with pytest.raises(AssertionError, match="has lots but no account row"):
        measure_growth(Bench(scale, tmp_path, _server=""))


def test_the_slowest_page_decides_and_the_account_window_is_no_page() -> None:
    pages = dict.fromkeys(
        (
            "balance",
            "newest page, longest account",
            "newest page, account of 250",
            "random page, longest account",
            "random page, account of 250",
            "newest page, whole ledger",
            "random page, whole ledger",
            "account search, page of 100 found",
            "account search, page of all found",
        ),
        (300.0, 400.0),
    )
    flat, spread = "pairs/s, a thousand neighbours", "pairs/s, all accounts"
    reads = pages | {"account search, where its pages start": (900.0, 5_000.0)}
    small = Growth(10_000, {flat: 20_000.0, spread: 19_000.0}, 85.0, reads)
    large = replace(small, transfers=10_000_000, bytes_per_transfer=130.0)
    slow = replace(large, reads={**large.reads, "random page, account of 250": (500.0, 1_200.0)})

    def holding(name: str, growth: Growth, ratio: float) -> list[tuple[float | None, bool]]:
        bars = growth_bars(name, [small, growth], ratios={flat: ratio, spread: 0.5})
        return [(one.value, one.holds) for one in bars]

    assert holding("SQLite", large, 0.85) == [(0.85, False), (0.4, True), (130.0, False), (0.5, True)]
    assert holding("SQLite", slow, 0.95) == [(0.95, True), (1.2, False), (130.0, False), (0.5, True)]
    assert holding("PostgreSQL", slow, 0.95)[2] == (130.0, True)
    lines = growth_table([small, large]).splitlines()
    assert lines[0].split() == ["10,000", "10,000,000"]
    assert [line.split()[-2:] for line in lines[1:3]] == [["20,000", "20,000"], ["19,000", "19,000"]]


def test_the_core_timer_runs_each_call_once_and_passes_over_a_server_that_has_gone() -> None:
    calls: list[int] = []
    with core_timer(servers=[2**22 + 1]) as timed_us:
        taken = [timed_us(lambda: calls.append(sum(range(10_000)))) for _ in range(3)]
    assert len(calls) == 3
    assert all(one > 0 for one in taken)
