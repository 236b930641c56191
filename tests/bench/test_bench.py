"""`credits bench`: every group runs and says what it should. How fast is never asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.citus_rules import install_citus_rules

from credits_plugin.bench import against_redis, command
from credits_plugin.bench.environment import Bench, Scale, bench_folder
from credits_plugin.bench.ledger import ledger_of
from credits_plugin.bench.report import at_least, at_most, bar, not_measured, table, write
from credits_plugin.bench.rounds import Rounds, interleave, quantile
from credits_plugin.database import migrate, open_database
from credits_plugin.distributed.citus import Engine, apply_layout
from credits_plugin.errors import DatabaseError, InvalidValue
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Account

TINY = Scale(
    rounds=1,
    seconds=0.03,
    callers=4,
    accounts=3,
    arrivals_per_second=300,
    open_loop_seconds=0.1,
    gate_requests=8,
    http_requests=8,
    deliveries=4,
    transfers=10,
    growth=(300, 900),
)
BARS = {  # as many as the group has of the bars that ARCHITECTURE.md and docs/benchmarks.md promise
    "throughput": 7,
    "redis": 1,
    "latency": 3,
    "processes": 3,
    "size": 1,
    "gate": 1,
    "host": 0,
    "proxy": 0,
    "loop": 1,
    "webhooks": 1,
    "memory": 1,
    "peers": 0,
    "growth": 5,
}
OFFLINE = [group for group in command.GROUPS if group.name != "peers"]  # those are installed first: test_peers.py


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One folder and one PostgreSQL server for all groups."""
    with bench_folder() as folder:
        made = Bench(TINY, folder)
        yield made
        made.close()


@pytest.mark.parametrize("group", OFFLINE, ids=lambda group: group.name)
def test_every_group_yields_its_bars(group: command.Group, bench: Bench):
    bars = group.measure(bench)
    names = [one.name for one in bars]
    assert len(set(names)) == len(names)
    assert sum(one.goal is not None for one in bars) == BARS[group.name]
    for one in bars:
        assert one.value is not None or one.note
        assert one.value is None or math.isfinite(one.value)
        if one.goal is not None and one.value is not None:
            assert one.holds == one.goal.holds(one.value)


def run_on(url: str, folder: Path, **options) -> int:
    return command.run(url=url, out=folder / "bench.json", arguments=[], scale=TINY, **options)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "citus"])
def test_the_table_is_made_on_any_database_url_and_its_books_are_clean(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "fresh_postgresql_url")
    if kind == "citus":
        url = url.replace("postgresql://", "citus://")
        migrate(database := open_database(url))
        with database.primary.connection_context():
            install_citus_rules(database.primary)
            apply_layout(database.primary, Engine.CITUS)
    for _ in range(2):  # what a benchmark left is in no benchmark's way
        assert run_on(url, tmp_path) == 0
    said = capsys.readouterr().out
    assert {line.partition(":")[0] for line in said.splitlines() if "pairs, " in line} == {"database"}
    assert "3 accounts named bench-0" in said
    report = audit(open_database(url))
    assert (report.findings, report.accounts) == ([], 3)
    assert f"{report.transfers:,} transfers" in said


def test_a_database_with_real_accounts_is_not_written_unless_that_is_wanted(writer: LedgerWriter, tmp_path: Path):
    database = writer.database
    writer.execute_sync(PostTransfer(account_key("anna"), "anna", IdMaker()(), Code.PROMOTION, 5, now_ms()))
    url = f"sqlite:///{database.path}" if database.path else database.primary.database
    with pytest.raises(InvalidValue, match=r"such as 'anna'.*--yes"):
        run_on(url, tmp_path)
    assert database.primary.execute_sql("SELECT external_id FROM account").fetchall() == [("anna",)]
    assert run_on(url, tmp_path, accept_accounts=True, only="latency") == 0
    assert audit(database).findings == []


def test_a_database_of_an_older_version_is_neither_measured_nor_migrated(sqlite_url: str, tmp_path: Path):
    database = open_database(sqlite_url)
    migrate(database)
    last = "(SELECT max(name) FROM schema_migration)"
    database.primary.execute_sql(f"DELETE FROM schema_migration WHERE name = {last}")
    database.close_thread()
    with pytest.raises(DatabaseError, match="credits migrate"):
        run_on(sqlite_url, tmp_path)


def test_a_broken_ledger_is_no_benchmark(sqlite_url: str):
    with pytest.raises(AssertionError, match="balance"), ledger_of(sqlite_url, accounts=1) as database:
        Account.update(balance=5).execute(database.primary)


def test_a_goal_holds_on_its_own_side_and_on_the_line():
    assert [at_least(0.85).holds(value) for value in (0.84, 0.85, 2)] == [False, True, True]
    assert [at_most(8).holds(value) for value in (7, 8, 8.1)] == [True, True, False]
    assert bar("x", 0.84996, "x", at_least(0.85)).holds  # as it is shown
    assert bar("x", 1, "x").holds


def test_what_was_not_measured_does_not_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    (one,) = against_redis.measure_redis(None)
    assert (one.value, one.holds) == (None, False)
    assert "not measured: no redis-server on PATH" in table([one])


def test_the_file_has_one_entry_per_bar_and_figures_without_a_goal_follow(tmp_path: Path):
    path = tmp_path / "build" / "bench.json"
    missed = not_measured("c", "x", at_least(2), why="no server")
    write([bar("context", 3.14159, "/s"), bar("a", 9.5, "x", at_most(8)), missed], path)
    assert json.loads(path.read_text()) == [
        {"name": "a", "value": 9.5, "unit": "x", "goal": 8, "holds": False},
        {"name": "c", "value": None, "unit": "x", "goal": 2, "holds": False},
        {"name": "context", "value": 3.142, "unit": "/s", "goal": None, "holds": True},
    ]


def test_the_table_says_which_goals_are_missed():
    lines = table([bar("fast", 2, "x", at_least(1)), bar("slow", 9.5, "ms", at_most(8)), bar("seen", 1, "/s")])
    assert [line.split()[-1] for line in lines.splitlines()[1:]] == ["holds", "MISSED", "/s"]
    assert "≤ 8" in lines


def test_ratios_are_taken_within_a_round():
    values = iter([10, 5, 30, 10, 100, 100])  # the machine became faster from round to round
    rounds = interleave(3, lambda: {"ours": next(values)}, lambda: {"theirs": next(values)})
    assert rounds == Rounds({"ours": [10, 30, 100], "theirs": [5, 10, 100]})
    assert (rounds.ratio("ours", to="theirs"), rounds.median("ours")) == (2, 30)


def test_a_quantile_is_one_of_the_values():
    assert [quantile(range(1, 101), share) for share in (0, 0.5, 0.99, 1)] == [1, 51, 100, 100]


def test_groups_are_chosen_by_name():
    chosen = command.choose_groups("size, gate", url=None)
    assert [group.name for group in chosen] == ["size", "gate"]
    with pytest.raises(InvalidValue, match="no group speed; there are throughput"):
        command.choose_groups("size,speed", url=None)
    with pytest.raises(InvalidValue, match="memory that runs on any database"):
        command.choose_groups("memory", url="postgresql://somewhere/bench")


def test_only_the_named_groups_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CREDITS_BENCH_FSYNC", "the disk's own fsync")  # else this very process would start anew
    path = tmp_path / "bench.json"
    assert command.run(url=None, out=path, arguments=[], only="size", scale=TINY) == 0
    entry, _ = json.loads(path.read_text())
    assert entry.keys() == {"name", "value", "unit", "goal", "holds"}
    assert entry["name"] in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CREDITS_BENCH_FSYNC", "the disk's own fsync")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "bench.json", tmp_path):
        with pytest.raises(OSError, match=r"exists|directory"):
            command.run(url=None, out=out, arguments=[], only="size", scale=TINY)
    assert capsys.readouterr().out == ""


def test_the_help_names_the_groups_that_run_on_any_database():
    said = " ".join(credits("--help").stdout.partition("  --url URL")[2].partition("--yes")[0].split())
    named = [group.name for group in command.GROUPS if group.name in said.split()]
    assert named == [group.name for group in command.GROUPS if group.on_any_url]


def credits(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "credits_plugin", "bench", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_lists_its_groups_and_refuses_others():
    assert [line.split()[0] for line in credits("--list").stdout.splitlines()] == list(BARS)
    refused = credits("--only", "speed")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "there is no group speed" in refused.stderr
