"""What a person changes in budgets leaves a trail: who, what, from what to what, with the change or not at all."""

from __future__ import annotations

import asyncio
import json

import peewee
import pytest

from credits_plugin.__main__ import main
from credits_plugin.bootstrap import Credits
from credits_plugin.errors import InvalidValue, NotFound
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_actions import Operator
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod
from credits_plugin.ledger.ids import account_key
from credits_plugin.models import AdminAction

CREDIT = 1_000_000
KEY = {"kind": BudgetKind.KEY, "name": "ci", "period": BudgetPeriod.DAY}


def dana(service: Credits, reason: str = "asked by mail") -> Operator:
    return Operator("dana", service.new_id(), reason)


def trail(service: Credits) -> list[tuple[str, str, dict | None, dict | None]]:
    """(action, subject, before, after) of every action, oldest first; all of them dana's on anna's account."""
    with service.database.primary.connection_context():
        rows = list(AdminAction.select().order_by(AdminAction.id).dicts().execute(service.database.primary))
    assert {(row["actor"], row["account_id"]) for row in rows} <= {("dana", account_key("anna"))}
    return [(row["action"], row["subject"], *(_parsed(row[name]) for name in ("before", "after"))) for row in rows]


def _parsed(text: str | None) -> dict | None:
    return None if text is None else json.loads(text)


def values(limit: int | None, status: str = "open") -> dict:
    return {"limit": None if limit is None else limit * CREDIT, "spent": 0, "held": 0, "status": status}


async def test_what_an_operator_sets_and_removes_is_written_down_with_what_was_there_before(service: Credits):
    budgets = service.budgets
    await budgets.set_limit("anna", 5 * CREDIT, **KEY, by=dana(service))
    await budgets.set_limit("anna", 9 * CREDIT, **KEY, by=dana(service))
    await budgets.remove("anna", **KEY, by=dana(service))
    whole = {"kind": BudgetKind.ACCOUNT, "period": BudgetPeriod.NONE}
    await budgets.set_limit("anna", CREDIT, **whole, by=dana(service))
    assert trail(service) == [
        ("set_budget", "budget key ci per day", None, values(5)),
        ("set_budget", "budget key ci per day", values(5), values(9)),
        ("remove_budget", "budget key ci per day", values(9), None),
        ("set_budget", "budget account in all", None, values(1)),
    ]
    assert audit(service.database).findings == []


async def test_pausing_and_resuming_a_run_by_hand_is_written_down(service: Credits):
    await service.start_run("anna", "r", 10)
    await service.budgets.pause_run("anna", "r", by=dana(service))
    await service.budgets.pause_run("anna", "r", by=dana(service))  # it is paused: nothing changes
    resumed = await service.budgets.resume_run("anna", "r", 5, by=dana(service))
    assert resumed.limit == 15 * CREDIT
    assert trail(service) == [
        ("pause_run", "run r", values(10), values(10, "paused")),
        ("resume_run", "run r", values(10, "paused"), values(15)),
    ]


async def test_a_run_that_is_not_bounded_stays_so_when_it_is_resumed_by_hand(service: Credits):
    await service.start_run("anna", "r")
    await service.budgets.pause_run("anna", "r")
    assert (await service.budgets.resume_run("anna", "r", by=dana(service))).limit is None
    assert trail(service) == [("resume_run", "run r", values(None, "paused"), values(None))]


async def test_a_change_that_is_repeated_with_its_id_is_made_once(service: Credits):
    await service.start_run("anna", "r", 10)
    by = dana(service)
    for _ in range(2):
        assert (await service.budgets.resume_run("anna", "r", 5, by=by)).limit == 15 * CREDIT
    await service.budgets.set_limit("anna", CREDIT, **KEY)
    by = dana(service)
    for _ in range(2):
        await service.budgets.remove("anna", **KEY, by=by)
    assert [action for action, *_ in trail(service)] == ["resume_run", "remove_budget"]


async def test_two_operators_who_give_a_run_more_at_once_both_do(service: Credits):
    await service.start_run("anna", "r", 10)
    await asyncio.gather(*(service.budgets.resume_run("anna", "r", 5, by=dana(service)) for _ in range(4)))
    assert (await service.run_report("anna", "r")).limit == 30 * CREDIT
    limits = [(before["limit"], after["limit"]) for _, _, before, after in trail(service)]
    assert sorted(limits) == [(CREDIT * limit, CREDIT * (limit + 5)) for limit in (10, 15, 20, 25)]


async def test_what_is_refused_leaves_no_trail(service: Credits):
    for refused in (
        service.budgets.remove("anna", **KEY, by=dana(service)),
        service.budgets.pause_run("anna", "r", by=dana(service)),
        service.budgets.resume_run("anna", "r", by=dana(service)),
    ):
        with pytest.raises(NotFound):
            await refused
    with pytest.raises(InvalidValue):
        await service.budgets.set_limit("anna", -1, **KEY, by=dana(service))
    assert trail(service) == []


async def test_an_id_of_another_change_is_refused(service: Credits):
    by = dana(service)
    await service.budgets.set_limit("anna", 5 * CREDIT, **KEY, by=by)
    with pytest.raises(InvalidValue, match="belongs to another change"):
        await service.budgets.set_limit("anna", CREDIT, kind=BudgetKind.MEMBER, name="m", period=KEY["period"], by=by)
    assert [view.limit for view in await service.budgets.of_account("anna")] == [5 * CREDIT]
    assert len(trail(service)) == 1


async def test_a_change_whose_trail_cannot_be_written_is_not_made(service: Credits):
    await service.budgets.set_limit("anna", 5 * CREDIT, **KEY)
    with pytest.raises(peewee.IntegrityError):
        await service.budgets.set_limit("anna", CREDIT, **KEY, by=Operator(None, service.new_id()))
    assert [view.limit for view in await service.budgets.of_account("anna")] == [5 * CREDIT]
    assert audit(service.database).findings == []


async def test_a_hosts_own_program_leaves_none(service: Credits):
    await service.budgets.set_limit("anna", CREDIT, **KEY)
    await service.start_run("anna", "r", 1)
    await service.pause_run("anna", "r")
    await service.resume_run("anna", "r", 1)
    await service.budgets.remove("anna", **KEY)
    assert trail(service) == []


def test_the_commands_leave_the_login_name_and_the_reason(
    database, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LOGNAME", "erin")
    for command in (
        "budgets set anna --limit 5 --per day --key ci --reason ticket-9",
        "budgets remove anna --per day --key ci",
    ):
        assert main([*command.split(), "--database", database_url]) == 0
    assert "removed" in capsys.readouterr().out
    rows = list(AdminAction.select().order_by(AdminAction.id).dicts().execute(database.primary))
    assert [(row["actor"], row["action"], row["reason"]) for row in rows] == [
        ("cli:erin", "set_budget", "ticket-9"),
        ("cli:erin", "remove_budget", ""),
    ]
