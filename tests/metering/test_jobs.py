"""What happens on its own: unknown usage, expiring credits, events to the host, forgetting ended holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pluggy
from metering_seed import PRICES, balance, give

from credits_plugin import (
    PROJECT_NAME,
    AIRequest,
    CreditsSpecs,
    HookCaller,
    Outcome,
    OutcomeStatus,
    Settings,
    Usage,
    hookimpl,
)
from credits_plugin.bootstrap import Credits, build
from credits_plugin.jobs import TOMBSTONE_DAYS, Jobs
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer
from credits_plugin.ledger.ids import IdMaker, account_key, first_id_at, now_ms
from credits_plugin.plugin import CreditsPlugin
from credits_plugin.settings import UnknownUsageRule

REQUEST = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=100)


def jobs_of(service: Credits) -> Jobs:
    return Jobs(
        service.settings, service.writer, service.reads, service.new_id, service.versions, lambda: service.hooks
    )


async def test_the_estimated_input_of_unknown_usage_is_charged_where_the_operator_says_so(database_url: str):
    settings = Settings(
        database_url=database_url, prices=PRICES, hold_ttl_s=1, unknown_usage=UnknownUsageRule.CHARGE_INPUT
    )
    service = build(settings)
    await give(service, "anna", 10_000_000)
    hold = await service.admit(REQUEST)
    await asyncio.sleep(1.05)
    assert await jobs_of(service).expire_holds() == 1
    charged = hold.estimate.input_tokens * 115
    assert balance(service, "anna") == (10_000_000 - charged, 0)
    assert (await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=9_999)))).repeated
    assert audit(service.database).clean
    await service.close()


async def test_the_sweep_finds_old_holds_behind_ended_ones(service: Credits):
    await give(service, "anna", 10_000_000)
    named = [await service.admit(replace(REQUEST, request_id=f"r{number}")) for number in range(5)]
    for hold in named[1:]:
        await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=1)))
    jobs = jobs_of(service)
    assert await jobs.expire_holds() == 0
    await asyncio.sleep(1.05)
    assert await jobs.expire_holds() == 1
    assert await jobs.expire_holds() == 0


async def test_the_sweep_looks_back_for_the_hold_of_a_host_whose_clock_is_behind(service: Credits):
    await give(service, "anna", 1_000)
    jobs, now = jobs_of(service), now_ms()
    assert await jobs.expire_holds() == 0
    late = PlaceHold(account_key("anna"), "anna", first_id_at(now - 7_200_000), 10, now - 7_200_000, now - 1, 0, 0)
    await service.writer.execute(late)
    assert await jobs.expire_holds() == 0
    jobs._looks_back_at_ms = now
    assert await jobs.expire_holds() == 1


async def test_credits_expire_without_a_request(service: Credits):
    await give(service, "anna", 500)
    terms = LotTerms(expires_at_ms=now_ms() + 20)
    command = PostTransfer(
        account_key("anna"), "anna", service.new_id(), Code.PROMOTION, 1_000, now_ms(), "gift", terms=terms
    )
    await service.writer.execute(command)
    await asyncio.sleep(0.05)
    assert await jobs_of(service).expire_lots() == 1
    assert balance(service, "anna") == (500, 0)
    assert await jobs_of(service).expire_lots() == 0
    assert audit(service.database).clean


async def test_ended_holds_are_forgotten_after_some_days_and_open_ones_never(service: Credits):
    await give(service, "anna", 10_000_000)
    long_ago = IdMaker(lambda: now_ms() - (TOMBSTONE_DAYS + 1) * 86_400_000)
    ended = replace(await service.admit(REQUEST), hold_id=long_ago())
    rows = "INSERT INTO hold (id, account_id, amount, state, expires_at_ms, price_version, input_tokens) VALUES"
    key = account_key("anna")
    await service.writer.work(
        (),
        lambda tx: tx.database.execute_sql(
            f"{rows} ({ended.hold_id}, {key}, 5, 3, 0, 1, 1), ({long_ago()}, {key}, 0, 1, 0, 1, 1)"
        ),
    )
    assert await jobs_of(service).purge_holds() == 1
    left = service.reads.run_sync(lambda db: db.execute_sql("SELECT count(*) FROM hold").fetchone())
    assert left == (2,)


async def test_a_low_balance_is_told_once_and_again_until_every_plugin_has_heard_it(service: Credits):
    class Listener:
        """Fails the first time."""

        def __init__(self):
            self.heard = []

        @hookimpl
        async def on_credit_event(self, event):
            self.heard.append(event)
            if len(self.heard) == 1:
                raise RuntimeError("not now")

    pm = pluggy.PluginManager(PROJECT_NAME)
    pm.add_hookspecs(CreditsSpecs)
    listener = Listener()
    pm.register(listener)
    pm.register(CreditsPlugin(service))
    HookCaller(pm)
    await give(service, "anna", 100_001_000)
    for _ in range(2):
        hold = await service.admit(REQUEST)
        await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=10)))
    await asyncio.sleep(0.05)
    jobs = jobs_of(service)
    assert await jobs.deliver_events() == 0
    await asyncio.sleep(1.1)
    assert await jobs.deliver_events() == 1
    assert await jobs.deliver_events() == 0
    assert [event.kind for event in listener.heard] == ["low_balance", "low_balance"]
    assert listener.heard[0].event_id == listener.heard[1].event_id
    assert listener.heard[0].account_id == "anna"
