"""A power cut in the worst case: only what was synced is there, and all that was acknowledged must be."""

import asyncio
import contextlib
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from credits_plugin.bench.ledger import prepare, require_clean
from credits_plugin.database import file_lock, lock_path, migrate, open_database
from credits_plugin.errors import DatabaseError, OutcomeUnknown
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

HERE = Path(__file__).parent
HOSTS = 2
ENOUGH = 1_500


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """The library that keeps what is synced."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to build the shim with")
    library = tmp_path_factory.mktemp("shim") / "power_cut.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "power_cut.c"], check=True)
    return library


@pytest.fixture
def cut(shim, tmp_path):
    """Two hosts on one file, killed: (folder of what was synced, live folder, what was acknowledged)."""
    live, kept = tmp_path / "live", tmp_path / "kept"
    live.mkdir()
    kept.mkdir()
    url = f"sqlite:///{live / 'credits.db'}"
    prepare(url).close_thread()
    for file in live.iterdir():
        shutil.copy(file, kept)
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "POWER_CUT_OF": f"{live}/credits.db",
        "POWER_CUT_KEEPS": str(kept),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, HERE / "power_cut_host.py", url]
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
            for _ in range(HOSTS)
        ]
        acknowledged = [host.stdout.readline().split() for _ in range(ENOUGH) for host in hosts]
        for host in hosts:
            host.kill()
    return kept, live, acknowledged


def look(folder):
    """(open holds, settled ids) of the database in a folder, after its audit."""
    with contextlib.closing(sqlite3.connect(folder / "credits.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        held = {row[0] for row in connection.execute("SELECT id FROM hold WHERE state = 1")}
        settled = {row[0] for row in connection.execute("SELECT id FROM transfer WHERE code = 2")}
    database = open_database(f"sqlite:///{folder / 'credits.db'}")
    require_clean(database)
    database.close_thread()
    return held, settled


def require_all(folder, acknowledged):
    held, settled = look(folder)
    assert {int(hold_id) for what, hold_id in acknowledged if what == b"settled"} <= settled
    assert {int(hold_id) for what, hold_id in acknowledged if what == b"held"} <= held | settled


def test_what_was_acknowledged_survives_a_power_cut(cut):
    kept, _, acknowledged = cut
    assert len(acknowledged) == HOSTS * ENOUGH
    require_all(kept, acknowledged)


def test_it_survives_also_where_a_part_of_what_was_not_synced_is_there(cut, tmp_path):
    kept, live, acknowledged = cut
    synced, written = (folder.joinpath("credits.db-wal").read_bytes() for folder in (kept, live))
    dice = random.Random(1)
    for number in range(5):
        folder = tmp_path / f"part-{number}"
        shutil.copytree(kept, folder)
        end = dice.randrange(len(synced), max(len(written), len(synced)) + 1)
        hole = dice.randrange(len(synced), end + 1)
        tail = bytearray(written[len(synced) : end])
        tail[hole - len(synced) : hole - len(synced) + 512] = bytes(len(tail[hole - len(synced) :][:512]))
        (folder / "credits.db-wal").write_bytes(synced + tail)
        require_all(folder, acknowledged)


async def test_after_a_sync_that_failed_nothing_is_acknowledged_any_more(sqlite_url, tmp_path):
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker())
    writer.start()
    await writer.execute(promotion(1))
    wal = tmp_path / "credits.db-wal"
    aside = wal.rename(tmp_path / "aside")  # the log that SQLite writes to can no longer be synced by its name
    with pytest.raises(OutcomeUnknown, match="check the disk"):
        await writer.execute(promotion(2))
    aside.rename(wal)
    with pytest.raises(DatabaseError, match="start this host again"):
        await writer.execute(promotion(3))
    with pytest.raises(DatabaseError, match="start this host again"):
        await writer.work((), lambda tx: None)
    writer.close()
    again = LedgerWriter(open_database(sqlite_url), new_id=IdMaker())
    again.start()
    assert (await again.execute(promotion(2))).balance == 2  # it had been written, and its repetition converges
    again.close()
    database.close_thread()


async def test_a_sync_that_fails_in_the_middle_of_a_batch_is_as_final(sqlite_url, monkeypatch):
    """A command that fails in the database has the connection closed, and what came before it synced."""
    database = open_database(sqlite_url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker())
    writer.start()
    await writer.execute(promotion(1))
    results = iter([OSError(errno.EIO, "the disk is broken")])

    def fail_once(handle):
        for error in results:
            raise error

    monkeypatch.setattr("os.fdatasync", fail_once)
    with file_lock(lock_path(database.path)):  # so that all three are one batch
        waiting = [writer.execute(command) for command in (promotion(2), promotion(3, "\ud800"), promotion(4))]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [OutcomeUnknown] * 3
    with pytest.raises(DatabaseError, match="start this host again"):
        await writer.execute(promotion(5))
    writer.close()
    assert database.primary.execute_sql("SELECT balance FROM account").fetchone() == (2,)
    database.close_thread()


def promotion(transfer_id, reference=None):
    return PostTransfer(account_key("anna"), "anna", transfer_id, Code.PROMOTION, 1, now_ms(), reference)
