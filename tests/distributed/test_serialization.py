"""SQLSTATE 40001, CockroachDB's "try again": the writer does, a bounded number of times. And the suite at SERIALIZABLE.

No CockroachDB server is run here: Peewee's CockroachDB dialect speaks to a real PostgreSQL, which raises the errors.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from playhouse.cockroachdb import CockroachDatabase

from credits_plugin.database import Database, migrate, open_database
from credits_plugin.distributed.cockroach import migration_lock
from credits_plugin.errors import DatabaseError, OutcomeUnknown
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

ROOT = Path(__file__).parents[2]
KEY = account_key("anna")
new_id = IdMaker()


@pytest.fixture(params=["postgresql", "cockroachdb"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def distributed(fresh_postgresql_url: str, scheme: str, monkeypatch) -> Iterator[Database]:
    database = open_database(fresh_postgresql_url.replace("postgresql", scheme, 1))
    if scheme == "cockroachdb":
        with psycopg.connect(fresh_postgresql_url) as admin:
            admin.execute("CREATE DOMAIN bytes AS bytea")  # CockroachDB's name for it
        # Peewee asks for the version, and would take PostgreSQL's for that of a CockroachDB without savepoints.
        monkeypatch.setattr(
            CockroachDatabase, "_set_server_version", lambda self, _: setattr(self, "server_version", 250_200)
        )
    migrate(database)
    yield database
    database.close_thread()


@pytest.fixture
def running(distributed: Database) -> Iterator[LedgerWriter]:
    writer = LedgerWriter(distributed, new_id=IdMaker())
    writer.start()
    yield writer
    writer.close()


def fail_first(database: Database, times: int, *, on: str) -> None:
    """Make the first statements ``on`` a table fail; a sequence counts, for a rollback does not set it back."""
    database.primary.connection().execute(
        f"""
        CREATE SEQUENCE injected;
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF nextval('injected') <= {times} THEN
            RAISE 'restart transaction: injected' USING ERRCODE = '40001';
          END IF;
          RETURN NULL;
        END $$;
        CREATE TRIGGER conflict {on} FOR EACH STATEMENT EXECUTE FUNCTION conflict();
        """
    )


def hold(amount: int) -> PlaceHold:
    return PlaceHold(KEY, "anna", new_id(), amount, now_ms(), now_ms() + 60_000, 1, 1)


async def grant(writer: LedgerWriter, amount: int):
    return await writer.execute(PostTransfer(KEY, "anna", new_id(), Code.PROMOTION, amount, now_ms()))


def held(database: Database) -> int:
    return database.primary.execute_sql("SELECT held FROM account").fetchone()[0]


def injected(database: Database) -> int:
    return database.primary.execute_sql("SELECT last_value FROM injected").fetchone()[0]


def test_cockroachdb_is_opened_with_peewees_own_dialect(fresh_postgresql_url: str):
    database = open_database(fresh_postgresql_url.replace("postgresql", "cockroachdb", 1))
    assert isinstance(database.primary, CockroachDatabase)
    assert isinstance(database.reader, CockroachDatabase)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_batch_that_must_be_restarted_a_few_times_succeeds_once(
    running: LedgerWriter, distributed: Database, times: int
):
    await grant(running, 1_000)
    fail_first(distributed, times, on="BEFORE INSERT ON hold")
    answers = await asyncio.gather(*(running.execute(hold(10)) for _ in range(20)))
    assert {answer.repeated for answer in answers} == {False}
    assert held(distributed) == 200
    assert injected(distributed) > times
    assert audit(distributed).findings == []


async def test_a_conflict_at_the_commit_itself_is_restarted_too(running: LedgerWriter, distributed: Database):
    """CockroachDB raises most of its 40001 at COMMIT; a deferred trigger does so on PostgreSQL."""
    await grant(running, 1_000)
    distributed.primary.connection().execute(
        """
        CREATE SEQUENCE injected;
        CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF nextval('injected') <= 2 THEN RAISE 'injected at commit' USING ERRCODE = '40001'; END IF;
          RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON hold DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION conflict();
        """
    )
    placed = await running.execute(hold(10))
    assert (placed.repeated, held(distributed), injected(distributed)) == (False, 10, 3)


async def test_a_unit_of_work_that_must_be_restarted_leaves_one_trace(running: LedgerWriter, distributed: Database):
    await grant(running, 1_000)
    fail_first(distributed, 2, on="BEFORE INSERT ON lot")
    command = PostTransfer(KEY, "anna", new_id(), Code.PROMOTION, 5, now_ms())
    posted = await running.work([KEY], lambda tx: tx.decide(command))
    assert posted.balance == 1_005
    assert audit(distributed).findings == []


async def test_endless_conflicts_are_given_up_soon_and_the_writer_lives(running: LedgerWriter, distributed: Database):
    await grant(running, 1_000)
    fail_first(distributed, 1_000_000, on="BEFORE INSERT ON hold")
    begun = time.monotonic()
    answers = await asyncio.gather(*(running.execute(hold(10)) for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {OutcomeUnknown}
    assert time.monotonic() - begun < 10
    assert injected(distributed) <= 20, "tries are bounded"
    distributed.primary.execute_sql("DROP TRIGGER conflict ON hold")
    assert (await running.execute(hold(10))).available == 990
    assert audit(distributed).findings == []


def test_one_migrator_waits_for_another_without_advisory_locks(fresh_postgresql_url: str):
    first, second = (open_database(fresh_postgresql_url).primary for _ in range(2))
    with first.connection_context(), second.connection_context():
        with migration_lock(first), pytest.raises(DatabaseError, match="migrating"):  # noqa: SIM117 - it must be held first
            with migration_lock(second, wait_s=0.3):
                pass
        with migration_lock(second, wait_s=0.3):
            first.execute_sql("UPDATE migration_lock SET until = clock_timestamp()")  # it died long ago
            with migration_lock(first, wait_s=1):
                pass


def run_suite(*arguments: str, environment: dict[str, str]) -> None:
    """Run other tests of this project, on PostgreSQL alone, under other conditions."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "postgresql", "-p", "no:cacheprovider", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    inherited["CREDITS_TEST_LIVES"] = "10"  # of test_model.py's machine, which the suite itself runs thrice as long
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
    assert "100%" in done.stdout


SERIALIZABLE = {"PGOPTIONS": "-c default_transaction_isolation=serializable"}


def test_the_ledgers_and_payments_own_tests_pass_at_serializable(postgresql_url: str):
    environment = SERIALIZABLE | {"CREDITS_TEST_POSTGRESQL": postgresql_url}
    with psycopg.connect(postgresql_url, options=SERIALIZABLE["PGOPTIONS"]) as connection:
        assert connection.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
    run_suite("tests/ledger", "tests/payments", environment=environment)


def test_the_ledgers_and_payments_own_tests_pass_on_the_citus_layout(postgresql_url: str):
    environment = {"CREDITS_TEST_POSTGRESQL": postgresql_url, "PYTHONPATH": str(Path(__file__).parent)}
    # What a changed row is found by does not depend on where it lies, and takes as long as the rest.
    unplaced = "tests/ledger/test_tampering.py"
    # There, a transfer's id is one of its account's: two accounts cannot collide in it, as these tests make them do.
    writers = "tests/ledger/test_writer.py"
    other = f"{writers}::test_a_failed_batch_is_replayed_and_only_the_culprit_fails[postgresql]"
    another = f"{writers}::test_a_transfer_id_of_another_account_is_refused_instead_of_answered[postgresql]"
    options = ("-p", "on_citus_layout", "--deselect", other, "--deselect", another, "--ignore", unplaced)
    run_suite(*options, "tests/ledger", "tests/payments", environment=environment)
