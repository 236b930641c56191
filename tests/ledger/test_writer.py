"""The writer on real databases: what was acknowledged is there, refusals refuse alone, nothing is overdrawn."""

from __future__ import annotations

import asyncio
import time

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.errors import (
    DatabaseError,
    HoldEnded,
    InsufficientCredits,
    InvalidValue,
    LedgerError,
    Overloaded,
    RequestIdReused,
    UnknownHold,
)
from credits_plugin.ledger.entries import (
    Code,
    ExpireHold,
    ExpireLots,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.work import Transaction
from credits_plugin.ledger.writer import LedgerWriter

ANNA = "anna"
KEY = account_key(ANNA)
new_id = IdMaker()
USED = Usage(input=100, output=20)


def grant(amount: int, *, terms: LotTerms = LotTerms(), code: Code = Code.PROMOTION) -> PostTransfer:  # noqa: B008 - a frozen value
    return PostTransfer(KEY, ANNA, new_id(), code, amount, now_ms(), terms=terms)


def hold(amount: int, *, request_id: str | None = None, ttl_ms: int = 60_000) -> PlaceHold:
    now = now_ms()
    return PlaceHold(KEY, ANNA, new_id(), amount, now, now + ttl_ms, 1, 100, request_id)


def settle(hold_id: int, amount: int) -> SettleHold:
    return SettleHold(KEY, hold_id, amount, now_ms(), USED)


def account_row(database: Database) -> tuple[int, int, int]:
    """(balance, held, seq)"""
    return database.primary.execute_sql("SELECT balance, held, seq FROM account").fetchone()


async def test_a_hold_reserves_and_its_settle_charges_what_was_used(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    assert placed.available == 600
    assert account_row(database) == (1_000, 400, 1)

    settled = await writer.execute(settle(placed.hold_id, 250))

    assert settled.balance == 750
    assert account_row(database) == (750, 0, 2)
    row = database.primary.execute_sql(
        "SELECT id, code, amount, balance_after, input, output FROM transfer WHERE seq = 2"
    )
    assert row.fetchone() == (placed.hold_id, Code.USAGE, 250, 750, 100, 20)
    assert database.primary.execute_sql("SELECT count(*) FROM hold").fetchone() == (0,)


async def test_second_settle_of_a_hold_changes_nothing_and_says_so(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    await writer.execute(settle(placed.hold_id, 250))

    again = await writer.execute(settle(placed.hold_id, 300))

    assert (again.repeated, again.amount) == (True, 250)
    assert account_row(database) == (750, 0, 2)


async def test_settle_of_a_released_hold_is_refused(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    assert (await writer.execute(ReleaseHold(KEY, placed.hold_id, now_ms()))).changed
    with pytest.raises(HoldEnded):
        await writer.execute(settle(placed.hold_id, 250))
    assert account_row(database) == (1_000, 0, 1)


async def test_release_of_a_settled_hold_is_refused(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    await writer.execute(settle(placed.hold_id, 250))
    with pytest.raises(HoldEnded):
        await writer.execute(ReleaseHold(KEY, placed.hold_id, now_ms()))


async def test_an_unknown_hold_is_an_error(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    with pytest.raises(UnknownHold):
        await writer.execute(settle(new_id(), 1))


async def test_another_accounts_hold_is_as_unknown_as_a_missing_one(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    other = account_key("boris")
    await writer.execute(PostTransfer(other, "boris", new_id(), Code.PROMOTION, 5, now_ms()))
    with pytest.raises(UnknownHold):
        await writer.execute(SettleHold(other, placed.hold_id, 1, now_ms(), USED))
    with pytest.raises(UnknownHold):
        await writer.execute(ReleaseHold(other, placed.hold_id, now_ms()))


async def test_more_than_available_is_refused_with_the_figures(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    await writer.execute(hold(700))
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(hold(301))
    assert (refusal.value.needed, refusal.value.available) == (301, 300)


async def test_an_account_without_credits_is_refused(writer: LedgerWriter):
    with pytest.raises(InsufficientCredits):
        await writer.execute(hold(1))


async def test_the_same_request_id_is_the_same_hold(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    first = await writer.execute(hold(400, request_id="r1"))
    second = await writer.execute(hold(400, request_id="r1"))
    assert second.hold_id == first.hold_id
    assert second.repeated
    assert account_row(database)[1] == 400
    await writer.execute(settle(first.hold_id, 10))
    with pytest.raises(RequestIdReused):
        await writer.execute(hold(400, request_id="r1"))
    assert (await writer.execute(settle(first.hold_id, 10))).repeated


async def test_an_overrun_becomes_debt_and_blocks_the_next_hold(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    await writer.execute(settle(placed.hold_id, 1_500))
    assert account_row(database) == (-500, 0, 2)
    with pytest.raises(LedgerError, match="below zero"):
        await writer.execute(hold(0))
    await writer.execute(grant(600))
    assert database.primary.execute_sql("SELECT sum(remaining) FROM lot").fetchone()[0] == 100


async def test_a_settle_after_expiry_is_charged_exactly_once(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400, ttl_ms=-1))
    assert (await writer.execute(ExpireHold(KEY, placed.hold_id, now_ms()))).changed
    assert account_row(database)[1] == 0
    await writer.execute(settle(placed.hold_id, 250))
    assert (await writer.execute(settle(placed.hold_id, 250))).repeated
    assert account_row(database) == (750, 0, 2)


async def test_expired_credits_become_breakage_when_the_next_hold_comes(writer: LedgerWriter, database: Database):
    expiry = now_ms() - 1_000
    await writer.execute(grant(500, terms=LotTerms(expires_at_ms=expiry)))
    await writer.execute(grant(100))
    early = await writer.execute(hold(450)._replace(at_ms=expiry - 1))
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(hold(101))
    assert refusal.value.available == 0  # the hold keeps 450; 150 of the expired 500 were free and went
    assert account_row(database) == (450, 450, 3)
    await writer.execute(settle(early.hold_id, 50))
    await writer.execute(ExpireLots(KEY, new_id(), now_ms()))
    assert account_row(database)[0] == 100


async def test_two_hundred_concurrent_holds_on_credits_for_twenty_place_exactly_twenty(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(2_000))
    answers = await asyncio.gather(*(writer.execute(hold(100)) for _ in range(200)), return_exceptions=True)
    assert sum(not isinstance(answer, Exception) for answer in answers) == 20
    assert all(isinstance(answer, InsufficientCredits) for answer in answers if isinstance(answer, Exception))
    assert account_row(database) == (2_000, 2_000, 1)


async def test_a_unit_of_work_that_raises_leaves_nothing_and_its_neighbours_unharmed(
    writer: LedgerWriter, database: Database
):
    def failing(tx: Transaction) -> None:
        tx.decide(grant(77))
        raise RuntimeError("no")

    def granting(tx: Transaction) -> int:
        return tx.decide(grant(10)).balance

    results = await asyncio.gather(
        writer.execute(grant(1)),
        writer.work([KEY], failing),
        writer.work([KEY], granting),
        writer.execute(grant(100)),
        return_exceptions=True,
    )
    assert isinstance(results[1], RuntimeError)
    assert account_row(database) == (111, 0, 3)


async def test_a_unit_of_work_may_not_touch_an_account_that_it_did_not_declare(writer: LedgerWriter):
    with pytest.raises(LedgerError, match="declare"):
        await writer.work([], lambda tx: tx.decide(grant(1)))


async def test_a_failed_batch_is_replayed_and_only_the_culprit_fails(writer: LedgerWriter, database: Database):
    duplicate = grant(5)
    await writer.execute(duplicate)
    collides = PostTransfer(account_key("boris"), "boris", duplicate.transfer_id, Code.PROMOTION, 5, now_ms())
    answers = await asyncio.gather(
        writer.execute(grant(10)), writer.execute(collides), writer.execute(grant(20)), return_exceptions=True
    )
    assert isinstance(answers[1], Exception)
    assert account_row(database)[0] == 35


async def test_a_full_queue_refuses_instead_of_growing(database: Database):
    writer = LedgerWriter(database, new_id=new_id, queue_limit=16)
    waiting = [asyncio.ensure_future(writer.execute(grant(1))) for _ in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await writer.execute(grant(1))
    writer.start()
    await asyncio.gather(*waiting)
    assert account_row(database)[0] == 16
    writer.close()


async def test_a_hold_does_not_wait_for_every_slow_unit_of_work(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    finished: list[str] = []

    async def slow(number: int) -> None:
        await writer.work([], lambda tx: time.sleep(0.02))
        finished.append(f"work {number}")

    async def quick() -> None:
        await writer.execute(hold(1))
        finished.append("hold")

    await asyncio.gather(*(slow(number) for number in range(10)), quick())
    assert finished.index("hold") < 5
    assert len(finished) == 11


async def test_a_request_settled_for_nothing_gives_its_hold_back(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    await writer.execute(settle(placed.hold_id, 0))
    assert account_row(database) == (1_000, 0, 1)
    assert (await writer.execute(settle(placed.hold_id, 0))).repeated


async def test_what_another_connection_wrote_is_seen_by_the_next_hold(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    await writer.execute(hold(400))
    database.primary.execute_sql("UPDATE account SET balance = 500, held = 500")
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(hold(1))
    assert refusal.value.available == 0


async def test_a_token_count_beyond_63_bits_is_refused_and_leaves_everything_as_it_was(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(400))
    with pytest.raises(InvalidValue, match="63 bits"):
        await writer.execute(SettleHold(KEY, placed.hold_id, 250, now_ms(), Usage(input=2**64)))
    assert account_row(database) == (1_000, 400, 1)
    assert (await writer.execute(settle(placed.hold_id, 250))).balance == 750


async def test_a_transfer_id_of_another_account_is_refused_instead_of_answered(
    writer: LedgerWriter, database: Database
):
    first = grant(1_000)
    await writer.execute(first)
    boris = account_key("boris")
    await writer.execute(PostTransfer(boris, "boris", new_id(), Code.PROMOTION, 5, now_ms()))
    with pytest.raises(LedgerError, match="another account"):
        await writer.execute(PostTransfer(boris, "boris", first.transfer_id, Code.PROMOTION, 1_000, now_ms()))
    assert database.primary.execute_sql("SELECT sum(balance) FROM account").fetchone()[0] == 1_005


_ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.mark.parametrize(
    "statement",
    [
        f"{_ENDLESS} SELECT count(*) FROM n",
        # Stopped in the middle of this one, SQLite rolls the whole transaction back, savepoint and all.
        "INSERT INTO outbox_message (id, account_id, kind, payload, attempts, next_attempt_at_ms) "
        f"{_ENDLESS} SELECT i, 1, 'x', '{{}}', 0, 0 FROM n",
    ],
    ids=["a query", "an insert"],
)
async def test_a_unit_of_work_that_takes_too_long_is_stopped_and_the_others_stand(
    statement: str, writer: LedgerWriter, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("credits_plugin.ledger.work_batches._LIMIT_S", 0.2)

    def slow(tx: Transaction) -> None:
        tx.decide(grant(77))
        tx.database.execute_sql(statement)

    await writer.execute(grant(1_000))
    results = await asyncio.gather(
        writer.work([KEY], lambda tx: tx.decide(grant(10)).amount),
        writer.work([KEY], slow),
        writer.work([KEY], lambda tx: tx.decide(grant(5)).amount),
        writer.execute(hold(400)),
        return_exceptions=True,
    )
    assert (results[0], results[2], results[3].amount) == (10, 5, 400)
    assert isinstance(results[1], DatabaseError)
    assert "stopped after" in str(results[1])
    assert account_row(database) == (1_015, 400, 3)


async def test_a_hold_id_that_two_hosts_made_is_never_one_hold_for_two_requests(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(1_000))
    mine = hold(400)
    await writer.execute(mine)
    with pytest.raises(LedgerError, match="another request"):
        await writer.execute(hold(300)._replace(hold_id=mine.hold_id))
    assert account_row(database) == (1_000, 400, 1)


async def test_a_host_that_makes_anothers_ids_draws_other_bits_and_goes_on(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    taken = hold(100)
    await writer.execute(taken)
    maker = IdMaker()
    twin = LedgerWriter(database, new_id=maker)
    twin.start()
    try:
        node, before = maker._node, maker()
        with pytest.raises(LedgerError, match="another request"):
            await twin.execute(hold(200)._replace(hold_id=taken.hold_id))
        assert maker() > before
        assert maker._node != node
    finally:
        twin.close()


async def test_a_batch_reads_for_no_more_units_of_work_than_it_has_time_for(database: Database):
    late = LedgerWriter(database, new_id=new_id)
    read, asked = late._store.read, []
    late._store.read = lambda accounts, holds: (asked.append(len(accounts)), read(accounts, holds))[1]
    waiting = [asyncio.ensure_future(late.work([key], lambda tx: None)) for key in range(1, 201)]
    await asyncio.sleep(0)
    late.start()
    await asyncio.gather(*waiting)
    late.close()
    assert max(asked) < 50
