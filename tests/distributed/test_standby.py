"""Promotion of a synchronous standby under load: what was acknowledged is there, once, and the writer goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from standby_pair import Pair, running_pair

from credits_plugin import Usage
from credits_plugin.database import Reads, migrate, open_database
from credits_plugin.errors import OutcomeUnknown
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

CALLERS = 40
USERS = [f"user-{number}" for number in range(8)]
new_id = IdMaker()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with running_pair() as running:
        yield running


@dataclass(slots=True)
class Acknowledged:
    """What callers were told. A hold is open until its settle was sent, so those in between may be either."""

    placed: dict[int, int] = field(default_factory=dict)
    settling: set[int] = field(default_factory=set)
    settled: dict[int, int] = field(default_factory=dict)
    granted: dict[int, int] = field(default_factory=dict)
    unknown: int = 0


async def insist(writer: LedgerWriter, command, acknowledged: Acknowledged):
    """Repeat the same command while its outcome is unknown, as the error asks for."""
    while True:
        try:
            return await writer.execute(command)
        except OutcomeUnknown:
            acknowledged.unknown += 1


async def call(writer: LedgerWriter, number: int, acknowledged: Acknowledged, stop: asyncio.Event) -> None:
    user = USERS[number % len(USERS)]
    key = account_key(user)
    count = 0
    while not stop.is_set():
        count += 1
        now = now_ms()
        if count % 5 == 0:
            grant = PostTransfer(key, user, new_id(), Code.PROMOTION, 7, now)
            await insist(writer, grant, acknowledged)
            acknowledged.granted[grant.transfer_id] = 7
        placed = await insist(writer, PlaceHold(key, user, new_id(), 20, now, now + 600_000, 1, 1), acknowledged)
        acknowledged.placed[placed.hold_id] = 20
        if count % 7 == 0:
            continue  # left open
        acknowledged.settling.add(placed.hold_id)
        cost = 1 + count % 20
        settle = SettleHold(key, placed.hold_id, cost, now_ms(), Usage(input=cost))
        answer = await insist(writer, settle, acknowledged)
        assert answer.amount == cost
        acknowledged.settled[placed.hold_id] = cost


@pytest.mark.parametrize("attributes", ["primary", "read-write"])
async def test_promotion_of_the_standby_under_load_loses_nothing_that_was_acknowledged(pair: Pair, attributes: str):
    database = open_database(pair.url(attributes))
    migrate(database)
    pair.primary.wait_until("SELECT sync_state = 'quorum' FROM pg_stat_replication")
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    acknowledged, stop = Acknowledged(), asyncio.Event()
    for user in USERS:
        start = PostTransfer(account_key(user), user, new_id(), Code.PROMOTION, 10**9, now_ms())
        await writer.execute(start)
        acknowledged.granted[start.transfer_id] = 10**9
    callers = [asyncio.create_task(call(writer, number, acknowledged, stop)) for number in range(CALLERS)]
    await asyncio.sleep(1.0)

    pair.primary.stop_sending()
    await asyncio.sleep(0.2)
    pair.primary.kill()
    before = len(acknowledged.settled)
    await asyncio.to_thread(pair.standby.promote)
    await asyncio.sleep(1.0)
    stop.set()
    await asyncio.gather(*callers)
    writer.close()

    assert before > 100
    assert len(acknowledged.settled) > before + 100, "the writer goes on by itself"
    rows = database.primary.execute_sql("SELECT id, code, amount FROM transfer").fetchall()
    assert len(rows) == len({row[0] for row in rows})
    settled = {row[0]: row[2] for row in rows if row[1] == Code.USAGE}
    granted = {row[0]: row[2] for row in rows if row[1] == Code.PROMOTION}
    holds = {row[0] for row in database.primary.execute_sql("SELECT id FROM hold").fetchall()}
    assert settled == acknowledged.settled
    assert granted == acknowledged.granted
    assert holds == acknowledged.placed.keys() - acknowledged.settling
    reads = Reads(database)
    assert await reads.run(lambda reader: reader.execute_sql("SELECT count(*) FROM hold").fetchone()) == (len(holds),)
    reads.close()
    assert audit(database).findings == []
    database.close_thread()
