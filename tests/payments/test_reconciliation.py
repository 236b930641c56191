"""Reconciliation: after it our books are Stripe's list, whatever never arrived; what cannot be mended is listed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import aiohttp
import pytest

from credits_plugin.__main__ import main
from credits_plugin.errors import GatewayError, GatewayOutcomeUnknown
from credits_plugin.gateways import stripe_api
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.jobs import Jobs
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import now_ms
from credits_plugin.metering import PriceVersions
from credits_plugin.models import Payment, StripeCursor
from credits_plugin.payments import queries
from credits_plugin.payments.reconcile import reconcile
from credits_plugin.payments.reconciliation import FindingKind, Repair
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.reports import last_report
from credits_plugin.payments.states import DisputeStatus, PaymentStatus, RefundStatus

MICRO = 1_000_000
DAY_MS = 86_400_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""


async def run(till, **options):
    return await reconcile(till.shop, **{"at_ms": now_ms(), "pause_s": 0} | options)


def kinds(report):
    return sorted({result.finding.kind.value for result in report.results})


def found(report, kind):
    return [result for result in report.results if result.finding.kind is kind]


async def change_payment_row(till, payment_id, **values):
    query = Payment.update(**values).where(Payment.id == payment_id)
    await till.shop.writer.work([], lambda tx: query.execute(tx.database) and None)


@pytest.fixture
def deaf(sandbox):
    """No event is delivered, and none is even made."""
    sandbox.add_fault("never_created", times=1_000)


@pytest.fixture
async def charge_of(till):
    async def find(bought):
        return (await till.get(f"payment_intents/{bought.intent_id}"))["latest_charge"]

    return find


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("fault", ["drop", "never_created"])
async def test_after_it_the_books_are_stripes_list_whatever_never_arrived(till, sandbox, charge_of, database, fault):
    sandbox.add_fault(fault, times=1_000)
    anna, bob, carl, dora = [await till.buy(name) for name in ("anna", "bob", "carl", "dora")]
    waits = await till.order("eve")
    sandbox.refund(await charge_of(bob), amount=400)
    sandbox.dispute(await charge_of(carl))
    won = sandbox.dispute(await charge_of(dora))
    sandbox.close_dispute(won["id"], won=True)
    sandbox.expire_session(waits.session_id)
    await sandbox.drain()
    assert await till.shop.reads.run(queries.inbox_page) == []

    rehearsal = await run(till)
    assert len(found(rehearsal, FindingKind.PAID_NOT_GRANTED)) == 4
    assert {result.finding.cause for result in found(rehearsal, FindingKind.PAID_NOT_GRANTED)} == {
        "no event of it arrived"
    }
    assert FindingKind.EVENT_MISSED in kinds(rehearsal) or fault == "never_created"
    assert [await till.balance(name) for name in ("anna", "bob", "carl", "dora")] == [0] * 4
    assert StripeCursor.select().count(database.primary) == 0

    report = await run(till, apply=True)
    assert report.left == []
    assert report.repaired >= 4
    assert [await till.balance(name) // MICRO for name in ("anna", "bob", "carl", "dora")] == [1_000, 600, 0, 1_000]
    assert (await till.payment(waits.payment_id)).status is PaymentStatus.EXPIRED
    [dispute] = await till.shop.reads.run(lambda database: queries.disputes_of(database, dora.payment_id))
    assert (dispute.status, (await till.payment(anna.payment_id)).status) == (DisputeStatus.WON, PaymentStatus.PAID)
    assert audit(database).findings == []

    for full in (False, True):
        again = await run(till, full=full, apply=True)
        assert (again.results, again.left) == ([], [])
    sandbox.clear_faults()
    await sandbox.deliver_pending()
    assert await till.amounts() == [1_000 * MICRO]


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_paid_but_not_granted_tells_what_became_of_its_events(till, make_event, shop_through):
    class Away(StripeGateway):
        async def payment_intent(self, payment_intent_id):
            raise GatewayError("Stripe could not be reached", retryable=True)

        session_of_intent = payment_intent

    bought = await till.buy()
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    unpaid = await till.session(bought.session_id) | {"payment_status": "unpaid"}
    await till.deliver(make_event("checkout.session.completed", unpaid))
    with pytest.raises(GatewayError):
        await till.with_shop(shop_through(Away)).deliver(make_event("payment_intent.succeeded", intent))
    [result] = (await run(till)).results
    assert result.finding.cause == "it was paid after checkout.session.completed, and no later event arrived"
    assert (result.finding.repair, result.finding.payment_id) == (Repair.FULFIL, bought.payment_id)


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_a_session_whose_id_a_crash_kept_from_our_row_is_found_and_granted(till):
    bought = await till.buy()
    await change_payment_row(till, bought.payment_id, stripe_session_id=None, status="created")
    report = await run(till, apply=True)
    assert [result.finding.kind for result in report.results if result.repaired] == [FindingKind.PAID_NOT_GRANTED]
    assert (await till.payment(bought.payment_id)).session_id == bought.session_id
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_granted_but_not_paid_is_listed_and_left_to_an_operator(till):
    bought = await till.buy()
    await till.complete(bought)
    await change_payment_row(till, bought.payment_id, stripe_session_id="cs_test_of_nobody", payment_intent_id="pi_x")
    assert found(await run(till), FindingKind.GRANTED_NOT_PAID) == []  # it asks about what is under way alone
    report = await run(till, full=True, apply=True)
    [result] = found(report, FindingKind.GRANTED_NOT_PAID)
    assert (result.finding.repair, result.is_left) == (Repair.BY_HAND, True)
    assert "Stripe has no cs_test_of_nobody" in result.finding.cause
    assert await till.balance() == 1_000 * MICRO
    again = await run(till, apply=True)
    assert found(again, FindingKind.GRANTED_NOT_PAID) == [result]  # until it is settled

    await change_payment_row(
        till, bought.payment_id, stripe_session_id=bought.session_id, payment_intent_id=bought.intent_id
    )
    assert (await run(till, apply=True)).left == []


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_an_amount_that_differs_is_never_granted_nor_mended(till):
    bought, paid = await till.buy(), await till.buy("bob")
    await till.complete(paid)
    await change_payment_row(till, bought.payment_id, amount_minor=2_000)
    await change_payment_row(till, paid.payment_id, paid_minor=900)
    report = await run(till, apply=True)
    by_subject = {result.finding.subject: result.finding for result in report.left}
    assert by_subject[bought.session_id].kind is FindingKind.AMOUNT_DIFFERS
    assert "the price of session" in by_subject[bought.session_id].cause
    assert "received 1000 usd, granted were 900 usd" in by_subject[paid.intent_id].cause
    assert (await till.balance(), await till.balance("bob")) == (0, 1_000 * MICRO)


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_what_is_not_ours_is_named_and_counts_as_no_difference(till):
    bought = await till.buy()
    await till.refund(bought, 100)
    await change_payment_row(till, bought.payment_id, stripe_session_id="cs_test_other", amount_minor=999)
    await till.shop.writer.work([], lambda tx: Payment.delete().execute(tx.database) and None)
    report = await run(till)
    subjects = {result.finding.subject.partition("_")[0] for result in found(report, FindingKind.NOT_OURS)}
    assert subjects == {"cs", "re"}
    [claims] = report.left  # it says that it is our payment's
    assert claims.finding.subject == bought.session_id


@ON_SQLITE
@pytest.mark.usefixtures("deaf")
async def test_a_refund_that_failed_at_the_bank_gives_its_credits_back(till, sandbox, charge_of):
    bought = await till.buy()
    refund = sandbox.refund(await charge_of(bought), amount=400)
    await run(till, apply=True)
    assert await till.balance() == 600 * MICRO
    sandbox.fail_refund(refund["id"])
    [result] = (await run(till, full=True, apply=True)).results
    assert (result.finding.cause, result.repaired) == ("failed at Stripe, succeeded here", True)
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
@pytest.mark.parametrize("happened", [True, False])
async def test_a_refund_of_ours_without_an_answer_is_looked_up_and_never_sent_again(
    till, sandbox, happened, shop_through
):
    bought = await till.buy()
    await till.complete(bought)
    sandbox.add_fault("never_created", times=1_000)
    sandbox.add_fault("answer_lost" if happened else "hang_up", match="POST /v1/refunds", times=3)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_payment(
            till.shop,
            payment_id=bought.payment_id,
            amount_minor=400,
            reason="requested_by_customer",
            note="",
            actor="operator:olga",
            idempotency_key="refund-key-1",
        )
    sandbox.clear_faults()
    report = await run(till, apply=True, at_ms=now_ms() + 3_600_000)
    [row] = await till.shop.reads.run(lambda database: queries.refunds_of(database, bought.payment_id))
    assert len((await till.get("refunds"))["data"]) == happened
    if happened:
        assert (row.status, report.left) == (RefundStatus.SUCCEEDED, [])
        assert await till.balance() == 600 * MICRO
    else:
        [left] = report.left
        assert (left.finding.kind, row.status) == (FindingKind.REFUND_NOT_SENT, RefundStatus.REQUESTED)


@ON_SQLITE
async def test_refunds_and_disputes_that_stripe_does_not_know_are_listed(till, sandbox, make_event):
    bought = await till.buy()
    await till.complete(bought)
    refund = await till.refund(bought, 100)
    await till.deliver(make_event("refund.created", refund | {"id": "re_forged"}))
    report = await run(till, full=True)
    assert "re_forged" in {result.finding.subject for result in found(report, FindingKind.STATE_DIFFERS)}


@ON_SQLITE
async def test_the_next_run_reads_what_is_new_and_a_broken_one_begins_again(till, shop_through, monkeypatch, database):
    class BreaksOff(StripeGateway):
        async def objects_page(self, listing, *, before_id=None, **query):
            if before_id is not None:
                raise GatewayError("Stripe refused", retryable=False)
            return await super().objects_page(listing, before_id=before_id, **query)

    monkeypatch.setattr(stripe_api, "_PAGE", 2)
    for _ in range(3):
        await till.buy()
    with pytest.raises(GatewayError):
        await run(till.with_shop(shop_through(BreaksOff)), apply=True)
    assert StripeCursor.select().count(database.primary) == 0
    first = await run(till, apply=True, at_ms=now_ms() + DAY_MS)
    assert first.compared["checkout_sessions"] == 3
    assert await till.amounts() == [1_000 * MICRO] * 3
    later = await run(till, apply=True, at_ms=now_ms() + DAY_MS)
    assert later.compared["checkout_sessions"] == 0
    assert (await run(till, full=True)).compared["checkout_sessions"] == 3


@ON_SQLITE
@pytest.mark.usefixtures("endpoint")
async def test_old_rows_that_should_have_moved_on_are_asked_about_one_by_one(till, sandbox, charge_of):
    """A slow payment that arrives, a page past its day, and a dispute that ends, all behind the lists' beginning."""
    slow, page, disputed = await till.order("eve"), await till.order("fred"), await till.buy("gina")
    form = {"method": "bank", "account": "000999999990", "name": "Eve", "email": "eve@example.com"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(slow.payment_url, data=form, allow_redirects=False) as answer,
    ):
        assert answer.status == 303
    dispute = sandbox.dispute(await charge_of(disputed))
    await sandbox.drain()
    assert (await till.payment(slow.payment_id)).status is PaymentStatus.PROCESSING
    assert (await run(till, apply=True, at_ms=now_ms() + DAY_MS)).left == []

    sandbox.add_fault("never_created", times=1_000)
    sandbox.complete_delayed_payment(slow.session_id)
    sandbox.expire_session(page.session_id)
    sandbox.close_dispute(dispute["id"], won=True)
    report = await run(till, apply=True, at_ms=now_ms() + 2 * DAY_MS)
    assert {result.finding.subject for result in report.results if result.repaired} == {
        slow.session_id,
        page.session_id,
        dispute["id"],
    }
    assert (report.left, report.compared["checkout_sessions"]) == ([], 2)
    assert [await till.balance(name) // MICRO for name in ("eve", "fred", "gina")] == [1_000, 0, 1_000]
    assert (await till.payment(page.payment_id)).status is PaymentStatus.EXPIRED


@ON_SQLITE
async def test_a_busy_stripe_is_asked_again(till, sandbox):
    await till.buy()
    sandbox.add_fault("rate_limited", match="GET /v1/*", times=3)
    assert (await run(till, apply=True)).left == []
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_the_last_report_is_kept_for_the_admin(till):
    bought = await till.buy()
    await change_payment_row(till, bought.payment_id, amount_minor=2_000)
    assert await till.shop.reads.run(last_report) is None
    report = await run(till, apply=True)
    kept = await till.shop.reads.run(last_report)
    assert (kept.at_ms, kept.left) == (report.at_ms, report.left)
    shown = await till.shop.reads.run(queries.last_reconciliation)
    assert (shown.at_ms, shown.repaired, shown.left) == (report.at_ms, report.repaired, 1)


@ON_SQLITE
async def test_the_job_grants_what_no_event_told_and_says_so(till, caplog):
    await till.buy()
    settings = replace(till.shop.settings, reconcile_interval_s=1)
    jobs = Jobs(
        settings,
        till.shop.writer,
        till.shop.reads,
        till.shop.new_id,
        PriceVersions(till.shop.writer, till.shop.reads),
        lambda: None,
        till.shop,
    )
    running = asyncio.create_task(jobs.run())
    async with asyncio.timeout(30):
        while "Reconciliation with Stripe:" not in caplog.text:
            await asyncio.sleep(0.02)
            assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await till.amounts() == [1_000 * MICRO]
    assert "Reconciliation with Stripe:" in caplog.text
    assert "0 left" in caplog.text


@ON_SQLITE
async def test_the_command_rehearses_applies_and_says_it_in_its_exit_code(
    till, database_url, sandbox, monkeypatch, capsys
):
    async def command(*options):
        code = await asyncio.to_thread(main, ["reconcile", "--database", database_url, *options])
        return code, capsys.readouterr().out

    monkeypatch.setenv("STRIPE_SECRET_KEY", till.shop.settings.stripe_secret_key)
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", "whsec_x")
    monkeypatch.setenv("CREDITS_STRIPE_API_BASE", sandbox.url)
    bought = await till.buy()
    code, said = await command()
    assert (code, await till.balance()) == (1, 0)
    assert f"paid_not_granted  {bought.session_id}, payment {bought.payment_id}: no event of it arrived" in said
    assert "nothing was changed; --apply mends" in said
    code, said = await command("--apply", "--json")
    report = json.loads(said)
    assert (code, report["left"], report["applied"]) == (0, 0, True)
    assert {finding["repaired"] for finding in report["findings"]} == {True}
    code, said = await command("--full")
    assert (code, "0 mended, 0 left" in said) == (0, True)
    monkeypatch.setenv("CREDITS_STRIPE_API_BASE", "http://127.0.0.1:9")
    monkeypatch.setattr("credits_plugin.payments.reconcile._TRIES", 1)
    assert (await command())[0] == 2
