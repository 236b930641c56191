"""What usage has beyond its five columns is written with its transfer, and nothing else changes."""

from __future__ import annotations

import json

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.distributed import wire
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.charges import charges_page
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.usage_columns import join_usage, split_usage
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Transfer, UsageDetail

ANNA = account_key("anna")
FULL = Usage(100, 10, 5, 50, 7, 1_000, 20, 3, 400, 30, tool_calls={"web_search": 2})
new_id = IdMaker()


def placed(writer: LedgerWriter) -> int:
    now = now_ms()
    hold_id: int = writer.execute_sync(PlaceHold(ANNA, "anna", new_id(), 100, now, now + 60_000, 1, 7)).hold_id
    return hold_id


def settle(writer: LedgerWriter, usage: Usage, *, cost: int = 40) -> int:
    hold_id = placed(writer)
    writer.execute_sync(SettleHold(ANNA, hold_id, cost, now_ms(), usage))
    return hold_id


@pytest.fixture(autouse=True)
def credits(writer: LedgerWriter) -> None:
    writer.execute_sync(PostTransfer(ANNA, "anna", new_id(), Code.PROMOTION, 10_000, now_ms()))


def details(database: Database) -> list[tuple]:
    with database.reader.connection_context():
        return list(UsageDetail.select().tuples().execute(database.reader))


def test_special_tokens_are_counted_with_their_plain_kind_and_told_beside_it(database: Database, writer: LedgerWriter):
    hold_id = settle(writer, FULL)
    with database.reader.connection_context():
        row = Transfer.select().where(Transfer.id == hold_id).dicts().execute(database.reader)[0]
    kinds = ("input", "cache_read", "cache_write", "output", "reasoning")
    assert [row[kind] for kind in kinds] == [1_100, 30, 8, 480, 7]
    (transfer_id, account_id, detail) = details(database)[0]
    assert (transfer_id, account_id) == (hold_id, ANNA)
    assert json.loads(detail) == {
        "audio_input": 1_000, "audio_cache_read": 20, "cache_write_1h": 3, "audio_output": 400, "image_output": 30,
        "tool_calls": {"web_search": 2},
    }  # fmt: skip
    with database.reader.connection_context():
        assert charges_page(database.reader, ANNA, before_seq=None, limit=10).charges[0].usage == FULL
    assert audit(database).findings == []


def test_plain_usage_and_usage_that_costs_nothing_leave_no_detail(database: Database, writer: LedgerWriter):
    settle(writer, Usage(1, 2, 3, 4, 5))
    settle(writer, FULL, cost=0)
    assert details(database) == []


def test_details_are_written_once_by_the_batches_that_follow(
    database: Database, writer: LedgerWriter, caplog: pytest.LogCaptureFixture
):
    holds = [settle(writer, Usage(audio_input=n)) for n in range(1, 4)]
    assert sorted(details(database)) == [(hold, ANNA, f'{{"audio_input":{n}}}') for n, hold in enumerate(holds, 1)]
    assert caplog.records == []  # written twice, a batch would fail and be run again without it


def test_a_repeated_settle_writes_its_detail_once(database: Database, writer: LedgerWriter):
    hold_id = placed(writer)
    command = SettleHold(ANNA, hold_id, 5, now_ms(), Usage(audio_input=3))
    assert [writer.execute_sync(command).repeated for _ in range(2)] == [False, True]
    assert details(database) == [(hold_id, ANNA, '{"audio_input":3}')]


async def test_details_of_a_batch_are_those_of_its_own_transfers(database: Database, writer: LedgerWriter):
    import asyncio

    holds = [placed(writer) for _ in range(40)]
    usages = [Usage(input=n, audio_input=n % 3, tool_calls={"x": n} if n % 2 else {}) for n in range(40)]
    commands = [SettleHold(ANNA, hold, 1, now_ms(), usage) for hold, usage in zip(holds, usages, strict=True)]
    await asyncio.gather(*(writer.execute(command) for command in commands))
    with database.reader.connection_context():
        page = charges_page(database.reader, ANNA, before_seq=None, limit=100)
    assert {charge.id: charge.usage for charge in page.charges} == dict(zip(holds, usages, strict=True))


@pytest.mark.parametrize("usage", [FULL, Usage(5), Usage(tool_calls={"a": 1}), Usage(audio_output=2, image_output=3)])
def test_a_usage_that_was_split_is_joined_again_and_travels_between_hosts(usage: Usage):
    assert join_usage(*split_usage(usage)) == usage
    message = json.loads(json.dumps(wire.command_message(1, SettleHold(1, 2, 3, 4, usage))))
    assert wire.command_of(message) == SettleHold(1, 2, 3, 4, usage)


def test_plain_usage_travels_as_every_version_knows_it():
    assert wire.command_message(1, SettleHold(1, 2, 3, 4, Usage(1, 2, 3, 4, 5)))[-1] == [1, 2, 3, 4, 5]
