"""Queries whose SQL is made once say the same as Peewee's own, on both databases."""

from __future__ import annotations

from credits_plugin.database import Database
from credits_plugin.models import InboxEvent, OutboxMessage
from credits_plugin.prepared import Prepared


def message(identifier: int, kind: str) -> dict[str, object]:
    return {"id": identifier, "account_id": 7, "kind": kind, "payload": "{}", "next_attempt_at_ms": 1}


def test_each_execution_binds_its_own_values_among_the_constants(database: Database):
    insert = Prepared(
        lambda identifier, kind: OutboxMessage.insert(
            kind=kind, payload="constant", next_attempt_at_ms=1, id=identifier, account_id=7
        )
    )
    for number in range(3):
        assert insert.execute(database.primary, number, f"kind {number}").rowcount == 1
    rename = Prepared(lambda identifier, kind: OutboxMessage.update(kind=kind).where(OutboxMessage.id == identifier))
    assert rename.execute(database.primary, 1, "renamed").rowcount == 1  # in the SQL the second value comes first
    read = Prepared(lambda kind: OutboxMessage.select().where(OutboxMessage.kind == kind))
    assert [row["id"] for row in read.rows(database.primary, "renamed")] == [1]
    (row,) = read.rows(database.primary, "kind 2")
    assert row == {
        "id": 2,
        "account_id": 7,
        "kind": "kind 2",
        "payload": "constant",
        "attempts": 0,
        "next_attempt_at_ms": 1,
        "detail": None,
    }
    assert row == OutboxMessage.select().where(OutboxMessage.id == 2).dicts().execute(database.primary)[0]
    assert read.rows(database.primary, "kind 9") == []


def test_values_are_bound_and_never_become_sql(database: Database):
    OutboxMessage.insert(message(1, "safe")).execute(database.primary)
    read = Prepared(lambda kind: OutboxMessage.select().where(OutboxMessage.kind == kind))
    assert read.rows(database.primary, "safe' OR 1=1 --") == []


def test_rows_affected_tell_a_new_row_from_a_known_one(database: Database):
    insert = Prepared(lambda identifier: OutboxMessage.insert(message(identifier, "x")).on_conflict_ignore())
    assert [insert.execute(database.primary, 5).rowcount for _ in range(2)] == [1, 0]


def test_the_sql_is_made_once_for_each_kind_of_database(database: Database):
    made = []

    def build(event_id):
        made.append(event_id)
        return InboxEvent.select(InboxEvent.event_id).where(InboxEvent.event_id == event_id)

    read = Prepared(build)
    for name in ("evt_1", "evt_2"):
        assert read.rows(database.primary, name) == []
    assert len(made) == 1
