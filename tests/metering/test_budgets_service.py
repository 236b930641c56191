"""Caps and runs as a host uses them, and the commands beside it; the ledger's own rules are in tests/ledger."""

from __future__ import annotations

import asyncio

import pluggy
import pytest
from metering_seed import PRICES, give

from credits_plugin import PROJECT_NAME, AIRequest, CreditsSpecs, Hold, HookCaller, Refusal, Settings, hookimpl
from credits_plugin.__main__ import main
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import InvalidValue, NotFound
from credits_plugin.jobs import Jobs
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from credits_plugin.ledger.entries import PlaceHold, SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.plugin import CreditsPlugin
from hookspecs import Usage

KEY = account_key("anna")
CREDIT = 1_000_000


def call(service: Credits, credits: int, run_id: str = "r", *, at_ms: int | None = None) -> PlaceHold:
    now = now_ms() if at_ms is None else at_ms
    asked = (service.new_id(), credits * CREDIT, now, now + 60_000, 1, 1)
    return PlaceHold(KEY, "anna", *asked, run_id=run_id)


def jobs_of(service: Credits) -> Jobs:
    return Jobs(
        service.settings, service.writer, service.reads, service.new_id, service.versions, lambda: service.hooks
    )


def update(service: Credits, change: str) -> None:
    with service.database.primary.connection_context():
        service.database.primary.execute_sql(f"UPDATE budget SET {change}")


async def test_a_run_is_started_reported_paused_and_resumed_with_more(service: Credits):
    await give(service, "anna", 1_000 * CREDIT)
    started = await service.start_run("anna", "r", 10)
    assert (started.limit, started.left, started.status) == (10 * CREDIT, 10 * CREDIT, BudgetStatus.OPEN)
    assert (await service.start_run("anna", "r", 99)).limit == 10 * CREDIT
    placed = await service.writer.execute(call(service, 4))
    await service.writer.execute(SettleHold(KEY, placed.hold_id, 3 * CREDIT, now_ms(), Usage(input=1)))
    await service.writer.execute(call(service, 2))
    report = await service.run_report("anna", "r")
    assert (report.spent, report.held, report.left) == (3 * CREDIT, 2 * CREDIT, 5 * CREDIT)
    assert (await service.pause_run("anna", "r")).status is BudgetStatus.PAUSED
    resumed = await service.resume_run("anna", "r", 5)
    assert (resumed.status, resumed.limit, resumed.left) == (BudgetStatus.OPEN, 15 * CREDIT, 10 * CREDIT)
    assert [run.name for run in await service.budgets.runs("anna")] == ["r"]
    assert audit(service.database).findings == []


async def test_a_run_that_nobody_started_is_not_found_and_nonsense_is_refused(service: Credits):
    for asked in (service.run_report("anna", "r"), service.pause_run("anna", "r"), service.resume_run("anna", "r", 1)):
        with pytest.raises(NotFound):
            await asked
    for name, credits in (("", 1), ("a\nb", 1), ("x" * 256, 1), ("r", -1), ("r", True), ("r", 2**62)):
        with pytest.raises(InvalidValue):
            await service.start_run("anna", name, credits)


async def test_a_cap_refuses_a_request_by_value_and_the_next_period_begins_with_nothing(service: Credits):
    await give(service, "anna", 1_000 * CREDIT)
    request = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=100)
    assert isinstance(await service.admit(request), Hold)
    await service.budgets.set_limit("anna", 1, kind=BudgetKind.ACCOUNT, period=BudgetPeriod.DAY)
    refusal = await service.admit(request)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "budget_exceeded"
    await service.budgets.remove("anna", kind=BudgetKind.ACCOUNT, period=BudgetPeriod.DAY)
    assert isinstance(await service.admit(request), Hold)
    assert await service.budgets.of_account("anna") == []


async def test_yesterdays_spending_is_not_todays_before_anything_was_counted_today(service: Credits):
    await give(service, "anna", 1_000 * CREDIT)
    yesterday = now_ms() - 86_400_000
    await service.budgets.set_limit("anna", 9 * CREDIT, kind=BudgetKind.ACCOUNT, period=BudgetPeriod.DAY)
    update(service, "starts_at_ms = starts_at_ms - 86400000, spent = 5")
    [view] = await service.budgets.of_account("anna")
    assert (view.spent, view.starts_at_ms > yesterday) == (0, True)
    assert view.ends_at_ms == view.starts_at_ms + 86_400_000


async def test_a_run_budget_of_the_settings_is_given_to_new_runs(database_url: str):
    service = build(Settings(database_url=database_url, prices=PRICES, run_budget_credits=7))
    await give(service, "anna", 1_000 * CREDIT)
    await service.writer.execute(call(service, 5))
    assert (await service.run_report("anna", "r")).left == 2 * CREDIT
    await service.close()


async def test_old_runs_are_forgotten_and_open_or_used_ones_are_not(service: Credits):
    await give(service, "anna", 1_000 * CREDIT)
    long_ago = now_ms() - 40 * 86_400_000
    for name in ("idle", "open", "used"):
        await service.start_run("anna", name, 100)
    update(service, f"used_at_ms = {long_ago}")
    await service.writer.execute(call(service, 1, "open", at_ms=long_ago))
    placed = await service.writer.execute(call(service, 1, "used"))
    await service.writer.execute(SettleHold(KEY, placed.hold_id, 1, now_ms(), Usage(input=1)))
    assert await jobs_of(service).purge_runs() == 1
    assert {run.name for run in await service.budgets.runs("anna")} == {"open", "used"}
    assert audit(service.database).findings == []


async def test_the_host_hears_once_that_a_run_was_paused(service: Credits):
    heard = []

    class Host:
        @hookimpl
        def on_credit_event(self, event):
            heard.append(event)

    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(CreditsPlugin(service))
    manager.register(Host())
    HookCaller(manager)
    await give(service, "anna", 1_000 * CREDIT)
    await service.start_run("anna", "r", 1)
    for _ in range(2):
        with pytest.raises(Exception, match="run 'r'"):
            await service.writer.execute(call(service, 2))
    await jobs_of(service).deliver_events()
    [event] = heard
    assert (event.kind, event.account_id, event.data["run_id"]) == ("run_paused", "anna", "r")
    assert (event.data["reason"], event.data["limit_microcredits"]) == ("budget", CREDIT)


def test_the_commands_set_show_and_remove_budgets(database, database_url: str, capsys: pytest.CaptureFixture[str]):
    def credits(command: str) -> tuple[int, str]:
        code = main([*command.split(), "--database", database_url])
        told = capsys.readouterr()
        return code, told.out + told.err

    assert credits("budgets set anna --limit 1,000") == (0, credits("budgets list anna")[1])
    assert "spent 0 of 1,000  until" in credits("budgets list anna")[1]
    assert "key k  per day  spent 0 of 0.5" in credits("budgets set anna --limit 0.5 --per day --key k")[1]
    assert len(credits("budgets list anna")[1].splitlines()) == 2
    assert credits("budgets remove anna --per day --key k") == (0, "removed\n")
    assert credits("budgets remove anna --per day --key k")[0] == 2
    assert credits("budgets set anna --limit much")[0] == 2
    assert credits("runs show anna r") == (1, "account anna has no run r with a budget\n")
    assert "start it before" in credits("runs pause anna r")[1]
    assert credits("runs list anna") == (0, "")


async def test_the_commands_pause_and_resume_runs(
    service: Credits, database_url: str, capsys: pytest.CaptureFixture[str]
):
    await service.start_run("anna", "r", 5)
    for command, shown in (
        ("runs pause anna r", "r  paused  spent 0 of 5"),
        ("runs resume anna r --add 2", "r  open  spent 0 of 7"),
        ("runs list anna", "r  open  spent 0 of 7"),
        ("runs show anna r", "left: 7"),
    ):
        assert await asyncio.to_thread(main, [*command.split(), "--database", database_url]) == 0
        assert shown in capsys.readouterr().out, command
