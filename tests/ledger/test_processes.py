"""Several processes on one database, and one that dies: nothing is overdrawn, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")

HOLDS = textwrap.dedent("""
    import asyncio, sys
    from credits_plugin.database import open_database
    from credits_plugin.errors import InsufficientCredits
    from credits_plugin.ledger.entries import PlaceHold
    from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
    from credits_plugin.ledger.writer import LedgerWriter

    async def main():
        new_id = IdMaker()
        writer = LedgerWriter(open_database(sys.argv[1]), new_id=new_id)
        writer.start()
        now = now_ms()
        commands = [PlaceHold(account_key("anna"), "anna", new_id(), 100, now, now + 60_000, 1, 1) for _ in range(100)]
        print("ready", flush=True)
        sys.stdin.readline()
        answers = await asyncio.gather(*map(writer.execute, commands), return_exceptions=True)
        assert all(isinstance(a, InsufficientCredits) for a in answers if isinstance(a, Exception)), answers
        print(sum(not isinstance(answer, Exception) for answer in answers), flush=True)
        writer.close()

    asyncio.run(main())
""")


async def test_two_processes_together_place_exactly_what_the_account_affords(
    writer: LedgerWriter, database: Database, database_url: str
):
    await writer.execute(PostTransfer(KEY, "anna", IdMaker()(), Code.PROMOTION, 2_000, now_ms()))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    placed = [int(process.communicate(timeout=30)[0]) for process in processes]
    assert sum(placed) == 20
    assert audit(database).clean


async def test_two_processes_together_place_exactly_what_a_runs_budget_affords(
    writer: LedgerWriter, database: Database, database_url: str
):
    """The run has no row before: whichever process comes first makes it, from the setting that both have."""
    await writer.execute(PostTransfer(KEY, "anna", IdMaker()(), Code.PROMOTION, 10**9, now_ms()))
    in_a_run = HOLDS.replace("new_id=new_id)", "new_id=new_id, run_budget=2_000)", 1)
    in_a_run = in_a_run.replace("60_000, 1, 1)", '60_000, 1, 1, run_id="r")').replace(
        "InsufficientCredits", "BudgetExceeded"
    )
    assert in_a_run.count("BudgetExceeded") == 2
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", in_a_run, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sum(int(process.communicate(timeout=30)[0]) for process in processes) == 20
    rows = database.primary.execute_sql('SELECT name, "limit", spent, held, state FROM budget').fetchall()
    assert rows == [("r", 2_000, 0, 2_000, "paused")]
    assert database.primary.execute_sql("SELECT count(*) FROM outbox_message").fetchone() == (1,)
    assert audit(database).clean


KILLED = textwrap.dedent("""
    import asyncio, sys
    from credits_plugin import AIRequest, Hold, load_settings
    from credits_plugin.bootstrap import build

    async def main():
        credits = build(load_settings({"DATABASE_URL": sys.argv[1], "CREDITS_HOLD_TTL_S": "1"}))
        request = AIRequest("anna", "gpt-4o", [{"role": "user", "content": "hello"}], max_output_tokens=50)
        for _ in range(1_000_000):
            hold = await credits.admit(request)
            assert isinstance(hold, Hold), hold
            print(hold.hold_id, flush=True)

    asyncio.run(main())
""")


async def test_a_host_killed_between_hold_and_settle_leaves_clean_books_and_the_holds_expire(
    database: Database, database_url: str
):
    from credits_plugin import Settings
    from credits_plugin.bootstrap import build

    credits = build(Settings(database_url=database_url))
    await credits.writer.execute(PostTransfer(KEY, "anna", credits.new_id(), Code.PROMOTION, 10**12, now_ms()))
    process = subprocess.Popen([sys.executable, "-c", KILLED, database_url], stdout=subprocess.PIPE, text=True)
    acknowledged = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]

    report = audit(database)
    assert report.findings == []
    assert report.open_holds >= len(acknowledged)
    placed = {row[0] for row in database.primary.execute_sql("SELECT id FROM hold WHERE state = 1").fetchall()}
    assert placed >= set(acknowledged)

    await credits.start()
    deadline = time.monotonic() + 15
    while audit(database).open_holds and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    report = audit(database)
    assert (report.open_holds, report.findings) == (0, [])
    assert database.primary.execute_sql("SELECT held, balance FROM account").fetchone() == (0, 10**12)
    await credits.close()


@pytest.mark.parametrize("seed", range(3))
async def test_a_writer_killed_in_mid_batch_is_absent_or_complete(
    database: Database, database_url: str, writer: LedgerWriter, seed: int
):
    await writer.execute(PostTransfer(KEY, "anna", IdMaker()(), Code.PROMOTION, 10_000, now_ms()))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    await asyncio.sleep(0.002 * seed)
    process.kill()
    process.communicate()
    assert audit(database).findings == []
    answer = await writer.execute(PostTransfer(KEY, "anna", IdMaker()(), Code.PROMOTION, 1, now_ms()))
    assert answer.balance == 10_001
